"""A Relu or Clip whose limits the grid behind it does not have, on integers."""
from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeq.graph import initializer, label
from edgeq.quant.qdq import grid_of
from edgeq.scheme import quantize
from edgeq_converters.onnxruntime.fusion import ROWS, is_absorbed, is_static, limits_of
from edgeq_converters.onnxruntime.matmul import only_quantize


def limit_integers(graph: ir.Graph) -> None:
    """Round first and limit the integers: rounding never changes an order, so every bit stays.

        Conv -> Relu -> Q -> DQ, on a symmetric grid     =>     Conv -> Q -> Clip(zero point, 255) -> DQ

    Quantizers for NVIDIA's engines round so. ONNX Runtime takes a Relu into the integer Conv where the grid starts at
    0 alone, and else computes both in float; its Clip has a kernel for bytes:
    https://github.com/microsoft/onnxruntime/blob/main/onnxruntime/core/providers/cpu/math/clip.cc
    """
    for node in [node for node in graph if node.op_type in ("Relu", "Clip") and node.domain == ""]:
        source = node.inputs[0].producer() if node.inputs[0] is not None else None
        rounding = only_quantize(node.outputs[0])
        if source is None or rounding is None or source.op_type not in ROWS or not is_static(source):
            continue
        if is_absorbed(node) or len(source.outputs[0].uses()) != 1 or source.outputs[0].is_graph_output():
            continue
        _limit_behind(graph, node, rounding)


def _limit_behind(graph: ir.Graph, node: ir.Node, rounding: ir.Node) -> None:
    grid, bounds, stored = grid_of(rounding), limits_of(node), rounding.outputs[0]
    if grid is None or grid.scale.ndim or grid.type.bits != 8 or any(np.isnan(bounds)) or bounds[0] > bounds[1]:
        return
    kind = np.int8 if grid.type.signed else np.uint8
    ends = quantize(np.clip(np.array(bounds), *grid.real_range()).astype(np.float32), grid).astype(kind)
    limits = [initializer(graph, f"{label(node)}_{name}", np.asarray(end)) for name, end in
              zip(("lowest", "highest"), ends, strict=True)]
    readers = list(stored.uses())
    clip = ir.node("Clip", [stored, *limits], name=f"{label(node)}_integers")
    made = clip.outputs[0]
    made.name, made.shape, made.type = f"{stored.name}_limited", stored.shape, stored.type
    graph.insert_after(rounding, clip)
    for use in readers:
        use.node.replace_input_with(use.idx, clip.outputs[0])
    rounding.replace_input_with(0, node.inputs[0])
    graph.remove(node, safe=True)
