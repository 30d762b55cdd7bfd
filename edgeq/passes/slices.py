"""Axes of Slice and Pad counted from the front."""
from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeq.graph import constant, dims
from edgeq.ops import REDUCING
from edgeq.passes.rewrite import constant_like, nodes_of


def positive_axes(model: ir.Model) -> int:
    """Negative axes of Slice, Pad, Squeeze, Unsqueeze and the reductions become positive -> how many.

        x[1,3,8,8] -> Slice(starts 0, ends 4, axes -1) -> y     =>     x -> Slice(starts 0, ends 4, axes 3) -> y
    """
    return sum(_rewrite(node, index, rank_of) for ops, index, rank_of in _AXES_INPUT for node in nodes_of(model, *ops))


_AXES_INPUT = (
    (("Slice", "Pad"), 3, "inputs"),
    (("Squeeze", *REDUCING), 1, "inputs"),
    (("Unsqueeze",), 1, "outputs"),
)


def _rewrite(node: ir.Node, index: int, rank_of: str) -> bool:
    axes = constant(node.inputs[index]) if len(node.inputs) > index else None
    shape = dims((node.inputs if rank_of == "inputs" else node.outputs)[0])
    if axes is None or shape is None or not (axes < 0).any():
        return False
    # Not "axes" alone: torch calls values "squeeze", and GatherSliceToSplitFusion stops at a constant "squeeze_axes",
    # https://github.com/microsoft/onnxruntime/blob/main/onnxruntime/core/optimizer/gather_fusion.cc
    front = constant_like(node, "axes_from_front", np.where(axes < 0, axes + len(shape), axes))
    node.replace_input_with(index, front)
    return True
