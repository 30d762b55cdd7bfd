"""Reshaping, moving, joining and splitting; casts."""
from __future__ import annotations

from typing import Final

import onnx

from .case import Case, case, const, given, x

_TYPES: Final = onnx.TensorProto

CASES: Final[tuple[Case, ...]] = (
    case("reshape", "Reshape", x(2, 3, 5, 4), given([2, 15, 4])),
    case("reshape-inferred", "Reshape", x(2, 3, 5, 4), given([0, -1, 2])),
    case("reshape-spatial", "Reshape", x(2, 3, 5, 4), given([2, 3, 20])),
    case("reshape-split-channels", "Reshape", x(1, 6, 5, 4), given([1, 2, 3, 5, 4])),
    case("flatten", "Flatten", x(2, 3, 5, 4)),
    case("flatten-axis-2", "Flatten", x(2, 3, 5, 4), axis=2),
    case("flatten-axis-0", "Flatten", x(2, 3, 5), axis=0),
    case("flatten-negative", "Flatten", x(2, 3, 5, 4), axis=-1),
    case("squeeze", "Squeeze", x(1, 3, 1, 4), given([0, 2])),
    case("squeeze-negative", "Squeeze", x(2, 3, 4, 1), given([-1])),
    case("squeeze-all", "Squeeze", x(1, 3, 1, 4)),
    case("unsqueeze", "Unsqueeze", x(3, 4), given([0, 2])),
    case("unsqueeze-negative", "Unsqueeze", x(3, 4), given([-1])),
    case("transpose", "Transpose", x(2, 3, 5, 4), perm=[0, 2, 3, 1]),
    case("transpose-from-last", "Transpose", x(2, 5, 4, 3), perm=[0, 3, 1, 2]),
    case("transpose-2d", "Transpose", x(3, 5)),
    case("transpose-5d", "Transpose", x(1, 2, 3, 5, 4), perm=[0, 2, 1, 4, 3]),
    case("transpose-6d", "Transpose", x(1, 2, 3, 2, 5, 4), perm=[0, 1, 4, 2, 5, 3]),
    case("expand", "Expand", x(3, 1), given([2, 3, 4])),
    case("expand-smaller", "Expand", x(2, 3, 4), given([3, 1])),
    case("tile", "Tile", x(2, 3, 4), given([2, 1, 3])),
    case("concat", "Concat", x(1, 3, 5, 4), x(1, 2, 5, 4), axis=1),
    case("concat-negative", "Concat", x(2, 3, 4), x(2, 3, 2), x(2, 3, 1), axis=-1),
    case("concat-constant", "Concat", const(1, 1, 5, 4), x(1, 3, 5, 4), axis=1),
    case("concat-spatial", "Concat", x(1, 3, 5, 4), x(1, 3, 2, 4), axis=2),
    case("split", "Split", x(1, 6, 5, 4), outputs=("y", "y1", "y2"), axis=1, num_outputs=3),
    case("split-sizes", "Split", x(2, 7, 4), given([2, 4, 1]), outputs=("y", "y1", "y2"), axis=1),
    case("split-uneven", "Split", x(2, 7), outputs=("y", "y1", "y2"), axis=-1, num_outputs=3),
    case("depth-to-space", "DepthToSpace", x(1, 12, 3, 4), blocksize=2),
    case("depth-to-space-crd", "DepthToSpace", x(1, 12, 3, 4), blocksize=2, mode="CRD"),
    case("depth-to-space-crd-one", "DepthToSpace", x(1, 9, 3, 4), blocksize=3, mode="CRD"),
    case("space-to-depth", "SpaceToDepth", x(1, 3, 4, 6), blocksize=2),
    case("cast-to-int", "Cast", x(2, 7, low=-4, high=4, lattice=0.125), to=_TYPES.INT32),
    case("cast-to-int64", "Cast", x(2, 7, low=-4, high=4, lattice=0.125), to=_TYPES.INT64),
    case("cast-to-bool", "Cast", x(2, 7, lattice=1.0), to=_TYPES.BOOL),
    case("cast-from-int", "Cast", x(2, 7, dtype="int32", low=-9, high=9), to=_TYPES.FLOAT),
    case("cast-from-int64", "Cast", x(2, 7, dtype="int64", low=-9, high=9), to=_TYPES.FLOAT),
    case("cast-from-bool", "Cast", x(2, 7, dtype="bool"), to=_TYPES.FLOAT),
    case("cast-half-and-back", "Cast", x(2, 7, lattice=0.125), to=_TYPES.FLOAT16),
    case("dropout", "Dropout", x(2, 3, 5)),
    case("reverse-sequence", "ReverseSequence", x(5, 3, 2), given([4, 2, 5]), time_axis=0, batch_axis=1),
)
