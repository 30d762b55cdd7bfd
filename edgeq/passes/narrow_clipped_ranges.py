"""Grids of fewer bits than their integers have, as Brevitas exports them: a Clip between Q and DQ."""
from __future__ import annotations

from typing import Final

import ml_dtypes
import numpy as np
import onnx_ir as ir

from edgeq.graph import constant, only_reader
from edgeq.passes.rewrite import constant_like, nodes_of, producer

INT4: Final = (-8, 7)


def narrow_grids(model: ir.Model) -> int:
    """Weights that are clipped to 4 bits are stored in 4; activations are clipped before they are rounded, to the reals
    that round to the bounds -> how many Clips.

        w int8 -> Clip(-7, 7) -> DQ(s, 0)     =>     w int4 -> DQ(s, 0)
        x -> Q(s, z) -> Clip(0, 15) -> DQ     =>     x -> Clip(s * (0 - z), s * (15 - z)) -> Q(s, z) -> DQ
    """
    return sum(_narrow_weights(node) or _clip_before(node) for node in nodes_of(model, "Clip"))


def _bounds(clip: ir.Node) -> tuple[int, int] | None:
    """The integers between which a Clip leaves what an only DequantizeLinear reads."""
    readers = [use.node for use in clip.outputs[0].uses()]
    kind = clip.outputs[0].dtype
    if kind not in (ir.DataType.INT8, ir.DataType.UINT8) or clip.outputs[0].is_graph_output() or not readers or any(
            reader.op_type != "DequantizeLinear" for reader in readers):
        return None
    limits = np.iinfo(kind.numpy())
    found = [default if value is None else constant(value) for value, default in zip(
        (*clip.inputs[1:], None, None)[:2], (np.array(limits.min), np.array(limits.max)), strict=True)]
    if any(bound is None or bound.size != 1 for bound in found):
        return None
    low, high = (int(bound.reshape(())) for bound in found if bound is not None)
    return low, high


def _narrow_weights(clip: ir.Node) -> bool:
    bounds, data = _bounds(clip), constant(clip.inputs[0])
    if bounds is None or data is None:
        return False
    readers = [use.node for use in clip.outputs[0].uses()]
    zeros = [constant(reader.inputs[2]) for reader in readers if len(reader.inputs) > 2]
    four_bits = data.dtype == np.int8 and bounds[0] >= INT4[0] and bounds[1] <= INT4[1] and not any(
        zero is None or zero.any() for zero in zeros)
    stored = np.clip(data, *bounds)
    narrow = constant_like(clip, "clipped", stored.astype(ml_dtypes.int4) if four_bits else stored)
    for reader in readers:
        reader.replace_input_with(0, narrow)
        if four_bits:  # the zero point is 0 and would have to be of the same type
            reader.resize_inputs(2)
    _remove(clip)
    return True


def _clip_before(clip: ir.Node) -> bool:
    bounds, quantize = _bounds(clip), producer(clip.inputs[0], "QuantizeLinear")
    scale, zero = (constant(value) for value in (*quantize.inputs[1:], None)[:2]) if quantize else (None, None)
    alone = only_reader(clip.inputs[0]) is clip
    if bounds is None or quantize is None or not alone or scale is None or scale.size != 1:
        return False
    if len(quantize.inputs) > 2 and zero is None:
        return False
    middle = 0 if zero is None else int(zero.reshape(()))
    limits = [np.asarray((bound - middle) * scale.reshape(()), scale.dtype) for bound in bounds]
    ends = [constant_like(clip, name, limit) for name, limit in zip(("low", "high"), limits, strict=True)]
    real, graph = quantize.inputs[0], quantize.graph
    assert real is not None
    assert graph is not None
    before = ir.node("Clip", [real, *ends], name=f"{clip.name}_before")
    made = before.outputs[0]
    made.name, made.shape, made.type = f"{clip.outputs[0].name}_clipped", real.shape, real.type
    graph.insert_before(quantize, before)
    quantize.replace_input_with(0, made)
    clip.outputs[0].replace_all_uses_with(quantize.outputs[0])
    _remove(clip)
    return True


def _remove(node: ir.Node) -> None:
    assert node.graph is not None
    node.graph.remove(node, safe=True)
