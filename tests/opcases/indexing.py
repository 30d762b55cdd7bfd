"""Slicing, gathering, scattering, padding."""
from __future__ import annotations

from typing import Final

from .case import Case, case, const, given, x

CASES: Final[tuple[Case, ...]] = (
    case("slice", "Slice", x(2, 3, 7, 6), given([1, 2]), given([6, 5]), given([2, 3])),
    case("slice-channels", "Slice", x(1, 6, 4, 5), given([2]), given([5]), given([1])),
    case("slice-no-axes", "Slice", x(3, 7), given([1, 2]), given([3, 6])),
    case("slice-negative", "Slice", x(2, 7, 6), given([-5]), given([-1]), given([-2])),
    case("slice-step", "Slice", x(1, 3, 9, 6), given([1, 0]), given([9, 2147483647]), given([2, 3]), given([3, 2])),
    case("slice-backwards", "Slice", x(2, 7, 6), given([-1]), given([-(2**63) + 1]), given([1]), given([-1])),
    case("slice-backwards-step", "Slice", x(2, 9), given([7]), given([0]), given([1]), given([-3])),
    case("gather", "Gather", x(5, 4), given([3, 0, 4])),
    case("gather-matrix", "Gather", x(5, 4), given([[3, 0], [1, 4], [2, 2]])),
    case("gather-axis-negative", "Gather", x(2, 3, 5), given([4, -2]), axis=-1),
    case("gather-scalar", "Gather", x(2, 3, 5), given(2), axis=1),
    case("gather-channel", "Gather", x(1, 4, 3, 5), given([2, 0, 3]), axis=1),
    case("gather-embedding", "Gather", const(9, 5), x(2, 3, dtype="int64", high=9)),
    case("gather-embedding-packed", "Gather", const(40, 9), x(3, 2, dtype="int64", low=-40, high=40)),
    case("gather-embedding-matrices", "Gather", const(30, 3, 5), x(4, dtype="int64", high=30)),
    case("gather-dynamic", "Gather", x(2, 6, 3), x(4, dtype="int64", high=6), axis=1),
    case("gather-elements", "GatherElements", x(3, 5), given([[4, 0], [1, 1], [-1, 3]]), axis=1),
    case("gather-elements-axis-0", "GatherElements", x(3, 4), given([[2, 0, 1, -3]]), axis=0),
    case("gather-elements-dynamic", "GatherElements", x(3, 5, 4), x(2, 5, 3, dtype="int64", high=5), axis=1),
    case("gather-nd", "GatherND", x(3, 4, 5), given([[2, 1], [0, -1]])),
    case("gather-nd-batched", "GatherND", x(2, 4, 5), given([[1], [3]]), batch_dims=1),
    case("scatter-nd", "ScatterND", x(6, 3), given([[4], [1]]), x(2, 3)),
    case("scatter-nd-add", "ScatterND", x(6, 3), given([[4], [4]]), x(2, 3), reduction="add"),
    case("scatter-elements", "ScatterElements", x(3, 5), given([[4, 0], [1, 2]]), x(2, 2), axis=1),
    case("one-hot", "OneHot", x(4, dtype="int64", high=6), given(6), given([0.0, 1.0], "float32")),
    case("one-hot-axis", "OneHot", x(3, 2, dtype="int64", high=5), given(5), given([-1.0, 2.0], "float32"), axis=1),
    case("trilu", "Trilu", x(2, 4, 5)),
    case("trilu-lower-diagonal", "Trilu", x(2, 4, 5), given(-1), upper=0),
    case("pad", "Pad", x(1, 3, 5, 4), given([0, 0, 1, 2, 0, 0, 3, 0])),
    case("pad-value", "Pad", x(1, 3, 5, 4), given([0, 0, 1, 2, 0, 0, 3, 0]), given(-1.5, "float32")),
    case("pad-axes", "Pad", x(1, 3, 5, 4), given([1, 2, 0, 3]), None, given([3, 1])),
    case("pad-channels", "Pad", x(1, 3, 5, 4), given([0, 1, 0, 0, 0, 2, 0, 0])),
    case("pad-crop", "Pad", x(1, 3, 5, 4), given([0, 0, -1, 0, 0, 0, 2, -1])),
    case("pad-reflect", "Pad", x(1, 3, 5, 4), given([0, 0, 1, 2, 0, 0, 3, 0]), mode="reflect"),
    case("pad-edge", "Pad", x(1, 3, 5, 4), given([0, 0, 1, 2, 0, 0, 3, 0]), mode="edge"),
    case("pad-wrap", "Pad", x(1, 3, 5, 4), given([0, 0, 1, 2, 0, 0, 3, 0]), mode="wrap"),
    case("center-crop-pad", "CenterCropPad", x(3, 7, 4), given([4, 7]), axes=[1, 2]),
    case("pad-2d", "Pad", x(3, 5), given([1, 0, 2, 3])),
)
