"""Padding: from auto_pad to numbers, and from a Pad node into the Conv or pooling after it."""
from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from edgeq.graph import attribute, constant, dims, static
from edgeq.ops import POSITIVE, WINDOWED
from edgeq.passes.rewrite import nodes_of, producer, scalar


def explicit_padding(model: ir.Model) -> int:
    """auto_pad becomes pads, in numbers -> how many nodes.

        Conv(auto_pad=SAME_UPPER, kernel 3, stride 2) of 8x8     =>     Conv(pads=[0, 0, 1, 1])

    total = (ceil(size / stride) - 1) * stride + dilated kernel - size, the odd one at the end (SAME_UPPER) or the start
    (https://onnx.ai/onnx/operators/onnx__Conv.html). A ConvTranspose gets the pads that its output shape implies.
    """
    return sum(_make_explicit(node) for node in nodes_of(model, *WINDOWED))


def _make_explicit(node: ir.Node) -> bool:
    mode, data = attribute(node, "auto_pad", "NOTSET"), dims(node.inputs[0])
    kernel = _kernel(node)
    if mode == "NOTSET" or data is None or kernel is None or "output_shape" in node.attributes:
        return False
    spatial = len(kernel)
    strides = attribute(node, "strides", (1,) * spatial)
    extents = [(k - 1) * d + 1 for k, d in zip(kernel, attribute(node, "dilations", (1,) * spatial), strict=True)]
    totals = [0] * spatial
    if mode != "VALID":
        if node.op_type == "ConvTranspose":
            extra = attribute(node, "output_padding", (0,) * spatial)
            totals = [extent + o - s for extent, o, s in zip(extents, extra, strides, strict=True)]
            if min(totals) < 0:
                return False  # the output is larger than its pads can say
        else:
            sizes = [size if isinstance(size, int) else s if s == 1 else None  # one step: the same for every size
                     for size, s in zip(data[2:], strides, strict=True)]
            if None in sizes:
                return False
            totals = [max((math.ceil(size / s) - 1) * s + extent - size, 0)
                      for size, s, extent in zip(sizes, strides, extents, strict=True) if size is not None]
    small, large = [t // 2 for t in totals], [t - t // 2 for t in totals]
    begin, end = (large, small) if mode == "SAME_LOWER" else (small, large)
    del node.attributes["auto_pad"]
    node.attributes["pads"] = ir.AttrInt64s("pads", [*begin, *end])
    return True


def _kernel(node: ir.Node) -> tuple[int, ...] | None:
    given = attribute(node, "kernel_shape")
    if given is not None:
        return tuple(given)
    weight = static(node.inputs[1]) if len(node.inputs) > 1 else None
    return None if weight is None else weight[2:]


def fold_padding(model: ir.Model) -> int:
    """A Pad with zeros, of the spatial axes, moves into the Conv, AveragePool or MaxPool that reads it -> how many.

        x -> Pad([0,0,1,1, 0,0,1,1]) -> Conv(pads=0) -> y     =>     x -> Conv(pads=[1,1,1,1]) -> y

    AveragePool counts the zeros (count_include_pad=1), and must not have uncounted padding of its own. MaxPool never
    sees its padding, so that zeros may go only where nothing is below them, and minus infinity always.
    """
    return sum(_fold_into(node) for node in nodes_of(model, "Conv", "AveragePool", "MaxPool"))


def _fold_into(node: ir.Node) -> bool:
    pad = producer(node.inputs[0], "Pad")
    if pad is None or attribute(node, "auto_pad", "NOTSET") != "NOTSET":
        return False
    spatial, fill = _spatial_pads(pad), _fill(pad)
    if spatial is None or fill is None or not _legal(node, pad, fill, spatial):
        return False
    own = list(attribute(node, "pads", [0] * len(spatial)))
    node.attributes["pads"] = ir.AttrInt64s("pads", [a + b for a, b in zip(own, spatial, strict=True)])
    if node.op_type == "AveragePool":
        node.attributes["count_include_pad"] = ir.AttrInt64("count_include_pad", 1)
    node.replace_input_with(0, pad.inputs[0])
    return True


def _spatial_pads(pad: ir.Node) -> list[int] | None:
    """[begin.., end..] of the axes from 2 on; None where other axes are padded, or something is cropped."""
    pads, shape = constant(pad.inputs[1]), dims(pad.inputs[0])
    if pads is None or shape is None or attribute(pad, "mode", "constant") != "constant":
        return None
    axes = constant(pad.inputs[3]) if len(pad.inputs) > 3 and pad.inputs[3] is not None else np.arange(len(shape))
    if axes is None or len(shape) < 3:
        return None
    full = np.zeros((2, len(shape)), np.int64)
    full[:, axes % len(shape)] = pads.reshape(2, -1)
    return None if full[:, :2].any() or (full < 0).any() else [int(p) for p in full[:, 2:].reshape(-1)]


def _fill(pad: ir.Node) -> float | None:
    value = pad.inputs[2] if len(pad.inputs) > 2 else None
    return 0.0 if value is None else scalar(value)


def _legal(node: ir.Node, pad: ir.Node, fill: float, spatial: list[int]) -> bool:
    if node.op_type == "Conv":
        return fill == 0
    # Engines refuse a pooling window that lies in the padding altogether.
    own, kernel = list(attribute(node, "pads", [0] * len(spatial))), attribute(node, "kernel_shape")
    fits = all(a + b < k for a, b, k in zip(own, spatial, [*kernel, *kernel], strict=True))
    if not fits or attribute(node, "ceil_mode", 0):
        return False
    if node.op_type == "AveragePool":
        return fill == 0 and (not any(own) or attribute(node, "count_include_pad", 0) == 1)
    lowest = fill <= float(np.finfo(np.float32).min)
    return len(node.outputs) == 1 and (lowest or (fill == 0 and _not_negative(pad.inputs[0])))


def _not_negative(value: ir.Value | None) -> bool:
    if producer(value, *POSITIVE) is not None:
        return True
    clip = producer(value, "Clip")
    low = scalar(clip.inputs[1]) if clip is not None and len(clip.inputs) > 1 else None
    return low is not None and low >= 0
