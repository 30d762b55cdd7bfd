"""Resize and sampling."""
from __future__ import annotations

from typing import Final

from .case import Case, Tensor, case, given, x


def _scales(*factors: float) -> Tensor:
    return given([1.0, 1.0, *factors], "float32")


CASES: Final[tuple[Case, ...]] = (
    case("resize-nearest-asymmetric-floor", "Resize", x(1, 3, 4, 5), None, _scales(2, 3), mode="nearest",
         coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
    case("resize-nearest-default", "Resize", x(1, 3, 4, 5), None, _scales(2, 3), mode="nearest"),
    case("resize-nearest-sizes", "Resize", x(1, 3, 4, 5), None, None, given([1, 3, 6, 7]), mode="nearest",
         coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
    case("resize-nearest-down", "Resize", x(1, 3, 8, 6), None, _scales(0.5, 0.5), mode="nearest",
         coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
    case("resize-nearest-ceil", "Resize", x(1, 3, 4, 5), None, _scales(2, 2), mode="nearest", nearest_mode="ceil"),
    case("resize-linear-half-pixel", "Resize", x(1, 3, 4, 5), None, _scales(2, 3), mode="linear"),
    case("resize-linear-align-corners", "Resize", x(1, 3, 4, 5), None, None, given([1, 3, 7, 9]), mode="linear",
         coordinate_transformation_mode="align_corners"),
    # Scales that give no whole size: the corner is that of the rounded size, whatever ONNX's reference evaluator says.
    *(case(f"resize-{mode}-uneven-corners", "Resize", x(1, 3, 5, 7), None, _scales(0.7, 1.5), mode=mode,
           coordinate_transformation_mode="align_corners") for mode in ("linear", "cubic", "nearest")),
    case("resize-linear-asymmetric", "Resize", x(1, 3, 4, 5), None, _scales(2, 2), mode="linear",
         coordinate_transformation_mode="asymmetric"),
    case("resize-linear-pytorch-half-pixel", "Resize", x(1, 3, 4, 5), None, None, given([1, 3, 7, 9]), mode="linear",
         coordinate_transformation_mode="pytorch_half_pixel"),
    case("resize-linear-down", "Resize", x(1, 3, 8, 6), None, _scales(0.5, 0.5), mode="linear"),
    case("resize-linear-1d", "Resize", x(1, 3, 5), None, given([1.0, 1.0, 2.0], "float32"), mode="linear"),
    case("resize-cubic", "Resize", x(1, 3, 4, 5), None, _scales(2, 2), mode="cubic"),
    case("affine-grid", "AffineGrid", x(1, 2, 3), given([1, 1, 4, 5])),
    case("grid-sample", "GridSample", x(1, 3, 4, 5), x(1, 6, 7, 2, low=-1, high=1)),
)
