"""Fourier transforms, columns to images, regions of interest, determinants."""
from __future__ import annotations

from typing import Final

from .case import Case, Tensor, case, const, given, x

_REGIONS: Final = given([[0.5, 0.25, 4.5, 3.75], [1.0, 1.5, 6.0, 5.0], [2.0, 0.0, 2.5, 8.0]], "float32")

CASES: Final[tuple[Case, ...]] = (
    case("dft", "DFT", x(2, 7, 5, 1), None, given(1)),
    case("dft-complex-inverse", "DFT", x(2, 7, 5, 2), None, given(2), inverse=1),
    case("dft-onesided-longer", "DFT", x(2, 7, 5, 1), given(8), given(1), onesided=1),
    case("dft-onesided-shorter", "DFT", x(2, 7, 5, 1), given(5), given(1), onesided=1),
    case("stft", "STFT", x(2, 31, 1), given(5), const(9, low=0.1, high=1.0), given(9), onesided=1),
    case("stft-both-sides", "STFT", x(2, 31, 1), given(5), None, given(8), onesided=0),
    case("col2im", "Col2Im", x(2, 18, 16), given([5, 6]), given([2, 3])),
    case("col2im-all", "Col2Im", x(1, 12, 12), given([5, 6]), given([2, 3]), pads=[1, 0, 2, 1], strides=[2, 1],
         dilations=[1, 2]),
    case("max-unpool", "MaxUnpool", x(1, 1, 2, 3), given([[[[1, 2, 5], [12, 15, 16]]]]), kernel_shape=[2, 2],
         strides=[2, 2]),
    case("max-unpool-larger", "MaxUnpool", x(1, 1, 2, 3), given([[[[0, 3, 5], [12, 20, 23]]]]), given([1, 1, 5, 8]),
         kernel_shape=[2, 2], strides=[2, 2]),
    case("max-unpool-dynamic", "MaxUnpool", x(1, 2, 2, 3), Tensor((1, 2, 2, 3), "int64", values=[
         [1, 2, 5, 12, 15, 16], [25, 26, 47, 36, 38, 41]]), kernel_shape=[2, 2], strides=[2, 2]),
    case("roi-align", "RoiAlign", x(2, 3, 9, 7), _REGIONS, given([0, 1, 1]), output_height=2, output_width=3,
         sampling_ratio=2, spatial_scale=0.75),
    case("roi-align-corners", "RoiAlign", x(2, 3, 9, 7), _REGIONS, given([1, 0, 1]), output_height=3, output_width=2,
         coordinate_transformation_mode="output_half_pixel"),
    case("det-2", "Det", x(3, 2, 2)),
    case("det-3", "Det", x(2, 4, 3, 3)),
)
