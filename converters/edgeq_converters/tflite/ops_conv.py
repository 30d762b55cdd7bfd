"""Convolutions: channels last, filters [O, kh, kw, I]."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeq.scheme import PerChannel, broadcast
from edgeq_converters.optable import CannotLower
from edgeq_converters.tflite.builder import Builder, NeedsFloat
from edgeq_converters.tflite.layout import channels_last
from edgeq_converters.tflite.ops_shape import padded, pieces
from edgeq_converters.tflite.ops_shape import window as slice_window
from edgeq_converters.tflite.program import Tensor, Value
from edgeq_converters.tflite.table import op
from edgeq_converters.tflite.weights import Filter, bias_tensor, weight_tensor
from edgeq_converters.tflite.windows import VALID, Window, two_dimensional, window


@op("Conv")
def conv(b: Builder, x: Value, w: Value, bias: Value | None = None, *, kernel_shape: Sequence[int] | None = None,
         strides: Sequence[int] | None = None, pads: Sequence[int] | None = None,
         dilations: Sequence[int] | None = None, group: int = 1,
         auto_pad: str = "NOTSET") -> Value:
    """x [N,C,spatial..], w [O,C/group,k..] -> CONV_2D, DEPTHWISE_CONV_2D, FULLY_CONNECTED (4-bit, 1x1) or CONV_3D."""
    over = window(x.shape[2:], b.shape[2:], w.shape[2:], strides, pads, dilations, auto_pad, resizable=b.resizable)
    layout = channels_last(x.rank)
    if x.rank == 5:
        return b.result(_conv3d(b, x, w, bias, over, group), layout)
    if x.rank not in (3, 4):
        raise CannotLower(f"convolution over {x.rank - 2} axes")
    if _is_linear(b, w, over, group):
        return b.result(_linear(b, x, w, bias), layout)
    flat = _as_2d(w)
    depthwise = group > 1 and group == x.shape[1]

    def run(b: Builder, tensor: Tensor, over: Window) -> Tensor:
        return _depthwise(b, x, tensor, flat, bias, over) if depthwise else _conv2d(b, x, tensor, flat, bias, over,
                                                                                    group)

    return b.result(two_dimensional(b, b.read(x, layout), over, run, x.shape[1]), layout)


def _as_2d(w: Value) -> Value:
    """A filter over one axis [O, I, k] as one over [O, I, 1, k]."""
    if w.rank == 4 or w.data is None:
        return w
    wide = (*w.shape[:2], 1, w.shape[2])
    return replace(w, shape=wide, data=w.data.reshape(wide), tensors={}, reals={})


def _is_linear(b: Builder, w: Value, over: Window, group: int) -> bool:
    """4-bit CONV_2D runs on a scalar kernel; the same product as FULLY_CONNECTED is delegated and three times
    faster."""
    plain = group == 1 and set(over.kernel) | set(over.strides) == {1} and not any(map(sum, over.pads))
    return plain and w.grid is not None and w.grid.type.bits == 4


def _linear(b: Builder, x: Value, w: Value, bias: Value | None) -> Tensor:
    tensor = b.read(x, channels_last(x.rank))
    o, c = w.shape[:2]
    form = Filter("FULLY_CONNECTED", 0, tuple(range(w.rank)), (o, c))
    weight = weight_tensor(b, x, w, form)
    return b.call("FULLY_CONNECTED", [tensor, weight, bias_tensor(b, tensor, weight, bias, o)], (*tensor.shape[:-1], o),
                  keepNumDims=True, asymmetricQuantizeInputs=_hybrid(tensor, weight))


def _hybrid(x: Tensor, w: Tensor) -> bool:
    return x.grid is None and w.grid is not None


def _padded(b: Builder, tensor: Tensor, over: Window) -> tuple[Tensor, Window, int]:
    """The input with a PAD in front where neither SAME nor VALID says the same."""
    if over.padding is not None:
        return tensor, over, over.padding
    return padded(b, tensor, [(0, 0), *over.pads, (0, 0)]), over.without_pads(), VALID


def _conv2d(b: Builder, x: Value, tensor: Tensor, w: Value, bias: Value | None, over: Window, group: int) -> Tensor:
    tensor, over, padding = _padded(b, tensor, over)
    o = w.shape[0]
    weight = weight_tensor(b, x, w, Filter("CONV_2D", 0, (0, 2, 3, 1), packed=group == 1))
    inputs = [tensor, weight, bias_tensor(b, tensor, weight, bias, o)]
    options: dict[str, Any] = {"padding": padding, "strideH": over.strides[0], "strideW": over.strides[1],
               "dilationHFactor": over.dilations[0], "dilationWFactor": over.dilations[1]}
    if group > 1 and _hybrid(tensor, weight):
        raise CannotLower("grouped convolution with integer weights on float activations",
                          "quantize the activations too")
    return b.call("CONV_2D", inputs, (tensor.shape[0], *over.out, o), **options)


def _depthwise(b: Builder, x: Value, tensor: Tensor, w: Value, bias: Value | None, over: Window) -> Tensor:
    tensor, over, padding = _padded(b, tensor, over)
    o, channels = w.shape[0], tensor.shape[-1]
    form = Filter("DEPTHWISE_CONV_2D", 0, (1, 2, 3, 0))
    weight = weight_tensor(b, x, w, form)
    inputs = [tensor, weight, bias_tensor(b, tensor, weight, bias, o)]
    return b.call("DEPTHWISE_CONV_2D", inputs, (tensor.shape[0], *over.out, o), padding=padding,
                  strideH=over.strides[0],
                  strideW=over.strides[1], dilationHFactor=over.dilations[0], dilationWFactor=over.dilations[1],
                  depthMultiplier=o // channels)


def _conv3d(b: Builder, x: Value, w: Value, bias: Value | None, over: Window, group: int) -> Tensor:
    """x [N,D,H,W,C], filter [kd,kh,kw,I,O]; float only."""
    if b.integer:
        raise NeedsFloat("CONV_3D has no int8 kernel")
    tensor = b.read(x, channels_last(5))
    if over.padding is None:
        tensor, over = padded(b, tensor, [(0, 0), *over.pads, (0, 0)]), over.without_pads()
    o, per_group, k = w.shape[0], w.shape[1], w.shape[2:]
    weight = b.read(w, (2, 3, 4, 1, 0), integer=False)
    real = bias_tensor(b, tensor, weight, bias, o)
    options: dict[str, Any] = {"padding": VALID if over.padding is None else over.padding}
    for name, stride, dilation in zip("DHW", over.strides, over.dilations, strict=True):
        options |= {f"stride{name}": stride, f"dilation{name}Factor": dilation}
    if group == 1:
        return b.call("CONV_3D", [tensor, weight, real], (tensor.shape[0], *over.out, o), **options)
    made = []
    for index, part in enumerate(pieces(b, tensor, 4, [per_group] * group)):
        outs = slice(index * o // group, (index + 1) * o // group)
        assert real.data is not None
        filters = b.constant(b.array(w, "weights")[outs].transpose(2, 3, 4, 1, 0))
        made.append(b.call("CONV_3D", [part, filters, b.constant(real.data[outs])],
                           (tensor.shape[0], *over.out, o // group), **options))
    assert len(k) == 3
    return b.call("CONCATENATION", made, (tensor.shape[0], *over.out, o), axis=4)


@op("ConvTranspose")
def conv_transpose(b: Builder, x: Value, w: Value, bias: Value | None = None, *,
                   kernel_shape: Sequence[int] | None = None,
                   strides: Sequence[int] | None = None, pads: Sequence[int] | None = None,
                   dilations: Sequence[int] | None = None, group: int = 1,
                   output_padding: Sequence[int] | None = None, output_shape: Sequence[int] | None = None,
                   auto_pad: str = "NOTSET") -> Value:
    """x [N,C,H,W], w [C,O/group,kh,kw] -> TRANSPOSE_CONV, filter [O,kh,kw,C], with VALID padding and a SLICE."""
    if x.rank not in (3, 4) or w.data is None:
        raise CannotLower("transposed convolution over three axes, or with computed weights")
    layout, count = channels_last(x.rank), x.rank - 2
    stride = tuple(strides or (1,) * count)
    dilation = tuple(dilations or (1,) * count)
    w = _as_2d(_dilated(b, w, dilation))
    kernel = tuple(w.shape[2:])
    if count == 1:
        stride, tensor = (1, *stride), b.reshape(b.read(x, layout), (x.shape[0], 1, x.shape[2], x.shape[1]))
    else:
        tensor = b.read(x, layout)
    outs, size = (1, *b.shape[2:])[-2:], tensor.shape[1:3]
    w = _reaching(w, size, outs, stride, (pads or ()) if auto_pad == "NOTSET" else (), count)
    kernel = tuple(w.shape[2:])
    before = _first_kept(pads or (), auto_pad, bool(output_shape), size, outs, stride, kernel, count)
    o = w.shape[1]
    made = []
    for index, part in enumerate(pieces(b, tensor, 3, [x.shape[1] // group] * group)):
        made.append(_transposed(b, x, part, _group_of(w, index, group), _bias_of(bias, index, group), stride, kernel))
    full = made[0] if group == 1 else b.call("CONCATENATION", made, (*made[0].shape[:3], o * group), axis=3)
    full = _fitted(b, full, before, outs)
    return b.result(b.reshape(full, (full.shape[0], *outs[-count:], full.shape[3])), layout)


def _reaching(w: Value, size: Sequence[int], outs: Sequence[int], stride: Sequence[int], pads: Sequence[int],
              count: int) -> Value:
    """output_padding may reach behind the last window, where only the bias is: zeros behind the filter make room."""
    assert w.data is not None
    before = [0] * (2 - count) + list(pads[:count] or (0,) * count)
    more = [max(0, before[a] + outs[a] - ((size[a] - 1) * stride[a] + w.shape[a + 2])) for a in range(2)]
    if not any(more):
        return w
    data = _zeros(w, (*w.shape[:2], w.shape[2] + more[0], w.shape[3] + more[1]))
    data[:, :, :w.shape[2], :w.shape[3]] = w.data
    return replace(w, shape=data.shape, data=data, tensors={}, reals={})


def _zeros(w: Value, shape: tuple[int, ...]) -> NDArray[Any]:
    """A filter of this shape, on the grid of `w`, that holds nothing."""
    assert w.data is not None
    zero = 0 if w.grid is None else broadcast(w.grid.zero_point, w.grid.type.granularity, shape)
    return np.broadcast_to(np.asarray(zero, w.data.dtype), shape).copy()


def _first_kept(pads: Sequence[int], auto_pad: str, fixed: bool, size: Sequence[int], outs: Sequence[int],
                stride: Sequence[int], kernel: Sequence[int], count: int) -> tuple[int, int]:
    """Where the result starts inside the full one (ONNX ConvTranspose: total padding and how it is split)."""
    before = []
    for axis in range(2):
        own = axis - (2 - count)
        total = max(stride[axis] * (size[axis] - 1) + kernel[axis] - outs[axis], 0)
        if own < 0:
            before.append(0)
        elif auto_pad == "SAME_UPPER":
            before.append(total // 2)
        elif auto_pad == "SAME_LOWER" or fixed:
            before.append(total - total // 2)
        else:
            before.append(int(pads[own]) if pads and auto_pad == "NOTSET" else 0)
    return before[0], before[1]


def _dilated(b: Builder, w: Value, dilations: Sequence[int]) -> Value:
    """TRANSPOSE_CONV knows no dilation: spread the filter with zeros."""
    if set(dilations) == {1}:
        return w
    assert w.data is not None
    shape = (*w.shape[:2], *((k - 1) * d + 1 for k, d in zip(w.shape[2:], dilations, strict=True)))
    data = _zeros(w, shape)
    data[(slice(None), slice(None), *(slice(None, None, d) for d in dilations))] = w.data
    return replace(w, shape=shape, data=data, tensors={}, reals={})


def _group_of(w: Value, index: int, group: int) -> Value:
    """The rows of one group of a [C, O/group, ..] filter."""
    if group == 1:
        return w
    assert w.data is not None
    rows, grid = w.shape[0] // group, w.grid
    part = slice(index * rows, (index + 1) * rows)
    if grid is not None and isinstance(grid.type.granularity, PerChannel) and grid.type.granularity.axis % w.rank == 0:
        grid = replace(grid, scale=grid.scale[part], zero_point=grid.zero_point[part])
    return replace(w, shape=(rows, *w.shape[1:]), grid=grid, data=w.data[part], tensors={}, reals={})


def _bias_of(bias: Value | None, index: int, group: int) -> Value | None:
    """The numbers of one group of a bias [O]; a computed one is refused by `bias_tensor`."""
    if bias is None or bias.data is None or group == 1:
        return bias
    count, grid = bias.shape[0] // group, bias.grid
    part = slice(index * count, (index + 1) * count)
    if grid is not None and grid.scale.size > 1:
        grid = replace(grid, scale=grid.scale[part], zero_point=grid.zero_point[part])
    return replace(bias, shape=(count,), grid=grid, data=bias.data[part], tensors={}, reals={})


def _transposed(b: Builder, x: Value, tensor: Tensor, w: Value, bias: Value | None, stride: Sequence[int],
                kernel: Sequence[int]) -> Tensor:
    weight = weight_tensor(b, x, w, Filter("TRANSPOSE_CONV", 1, (1, 2, 3, 0)))
    n, h, width, _ = tensor.shape
    out = (n, (h - 1) * stride[0] + kernel[0], (width - 1) * stride[1] + kernel[1], w.shape[1])
    bias_in = bias_tensor(b, tensor, weight, bias, w.shape[1])
    return b.call("TRANSPOSE_CONV", [b.ints(out), weight, tensor, bias_in], out, padding=VALID, strideH=stride[0],
                  strideW=stride[1])


def _fitted(b: Builder, full: Tensor, before: tuple[int, int], outs: Sequence[int]) -> Tensor:
    """Cut the pads away."""
    return slice_window(b, full, {axis + 1: (before[axis], outs[axis]) for axis in range(2)})

