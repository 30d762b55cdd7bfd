"""Pools, local and global."""
from __future__ import annotations

from typing import Final

from .case import Case, case, x

CASES: Final[tuple[Case, ...]] = (
    case("max-pool", "MaxPool", x(1, 3, 7, 6), kernel_shape=[2, 3], strides=[2, 1]),
    case("max-pool-even", "MaxPool", x(1, 3, 8, 6), kernel_shape=[2, 2], strides=[2, 2]),
    case("max-pool-no-strides", "MaxPool", x(1, 3, 7, 6), kernel_shape=[3, 2]),
    case("max-pool-pads", "MaxPool", x(1, 3, 7, 6), kernel_shape=[4, 3], strides=[1, 2], pads=[1, 0, 2, 1]),
    case("max-pool-symmetric-pads", "MaxPool", x(1, 3, 8, 6), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    case("max-pool-ceil", "MaxPool", x(1, 3, 8, 7), kernel_shape=[3, 2], strides=[2, 3], ceil_mode=1),
    case("max-pool-ceil-pads", "MaxPool", x(1, 3, 9, 7), kernel_shape=[3, 3], strides=[3, 2], pads=[1, 0, 1, 1],
         ceil_mode=1),
    case("max-pool-ceil-exact", "MaxPool", x(1, 3, 7, 5), kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    # Rounding up gives a third window across, which would lie in nothing but padding: it is left out.
    case("max-pool-ceil-dropped", "MaxPool", x(1, 3, 8, 6), kernel_shape=[3, 2], strides=[2, 3], ceil_mode=1),
    case("max-pool-dilated", "MaxPool", x(1, 3, 9, 7), kernel_shape=[3, 2], dilations=[2, 3]),
    case("max-pool-same-upper", "MaxPool", x(1, 3, 8, 7), kernel_shape=[3, 2], strides=[2, 2], auto_pad="SAME_UPPER"),
    case("max-pool-1d", "MaxPool", x(2, 3, 11), kernel_shape=[4], strides=[3], pads=[1, 2]),
    case("max-pool-3d", "MaxPool", x(1, 2, 5, 6, 4), kernel_shape=[2, 3, 1], strides=[1, 2, 1]),
    case("max-pool-negative", "MaxPool", x(1, 3, 7, 6, low=-5, high=-1), kernel_shape=[3, 3], strides=[2, 2],
         pads=[1, 1, 1, 1]),
    case("average-pool", "AveragePool", x(1, 3, 7, 6), kernel_shape=[2, 3], strides=[2, 1]),
    case("average-pool-even", "AveragePool", x(1, 3, 8, 6), kernel_shape=[2, 2], strides=[2, 2]),
    case("average-pool-pads", "AveragePool", x(1, 3, 7, 6), kernel_shape=[3, 3], strides=[2, 1], pads=[1, 1, 1, 1]),
    case("average-pool-uneven-pads", "AveragePool", x(1, 3, 7, 6), kernel_shape=[4, 3], strides=[1, 2],
         pads=[1, 0, 2, 1]),
    case("average-pool-include-pad", "AveragePool", x(1, 3, 7, 6), kernel_shape=[3, 4], strides=[2, 1],
         pads=[1, 2, 0, 1],
         count_include_pad=1),
    case("average-pool-ceil", "AveragePool", x(1, 3, 8, 7), kernel_shape=[3, 2], strides=[2, 3], ceil_mode=1),
    case("average-pool-ceil-pads", "AveragePool", x(1, 3, 9, 7), kernel_shape=[3, 3], strides=[3, 2], pads=[1, 0, 1, 1],
         ceil_mode=1),
    case("average-pool-same-upper", "AveragePool", x(1, 3, 8, 7), kernel_shape=[3, 2], strides=[2, 2],
         auto_pad="SAME_UPPER"),
    case("average-pool-1d", "AveragePool", x(2, 3, 11), kernel_shape=[4], strides=[3]),
    case("average-pool-3d", "AveragePool", x(1, 2, 5, 6, 4), kernel_shape=[2, 3, 1], strides=[1, 2, 1]),
    case("lp-pool", "LpPool", x(1, 3, 7, 6), kernel_shape=[2, 3], strides=[2, 1], p=2),
    case("global-lp-pool", "GlobalLpPool", x(2, 3, 7, 6)),
    case("global-average-pool", "GlobalAveragePool", x(2, 3, 7, 6)),
    case("global-average-pool-1d", "GlobalAveragePool", x(2, 3, 11)),
    case("global-average-pool-3d", "GlobalAveragePool", x(1, 3, 4, 5, 2)),
    case("global-max-pool", "GlobalMaxPool", x(2, 3, 7, 6)),
    case("global-max-pool-1d", "GlobalMaxPool", x(2, 3, 11)),
)
