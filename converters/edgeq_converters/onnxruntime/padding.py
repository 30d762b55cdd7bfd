"""A Pad that ONNX Runtime would move into a MaxPool, where zeros become minus infinity."""
from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeq.graph import initializer, label


def keep_zeros_before_max_pool(graph: ir.Graph) -> None:
    """Give such a Pad its axes as an input, all of them: the same Pad, but one that PadFusion leaves alone.

        x -> Pad(zeros) -> MaxPool     =>     x -> Pad(zeros, axes=[0,1,2,3]) -> MaxPool

    The fusion adds the pads to those of the MaxPool, which pads with nothing:
    https://github.com/microsoft/onnxruntime/blob/main/onnxruntime/core/optimizer/pad_fusion.cc
    """
    for node in list(graph):
        pad = node.inputs[0].producer() if node.op_type == "MaxPool" and node.inputs[0] is not None else None
        if pad is None or pad.op_type != "Pad" or len(pad.inputs) > 3 or pad.outputs[0].shape is None:
            continue
        axes = initializer(graph, f"{label(pad)}_axes", np.arange(len(pad.outputs[0].shape), dtype=np.int64))
        pad.resize_inputs(4)
        pad.replace_input_with(3, axes)
