"""Constant weights and biases in the form a kernel takes."""
from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeq.scheme import PerBlock, PerChannel, PerTensor, QuantParams, QuantType, dequantize
from edgeq_converters.optable import CannotLower
from edgeq_converters.tflite.builder import SMALL_CONSTANT, Builder, NeedsFloat
from edgeq_converters.tflite.kernels import INT4, INT8, per_channel, weights_row
from edgeq_converters.tflite.layout import Layout
from edgeq_converters.tflite.program import Tensor, Value

INT4_RANGE = (-7, 7)  # LiteRT's hybrid FULLY_CONNECTED misreads -8, measured on 2.3
PRODUCT_RTOL = 1e-5  # kernels take the bias to lie on input scale * weight scale, whatever the file says


@dataclass(frozen=True, slots=True)
class Filter:
    """What a kernel's weight tensor needs to know. out: ONNX axis of the output channels.

    perm: the kernel's axis order, as axes of the ONNX weight. stored: the kernel's shape where it differs from the
    permuted one. packed: 4-bit integers may be stored two to a byte.
    """

    kernel: str
    out: int
    perm: Layout
    stored: tuple[int, ...] | None = None
    packed: bool = True


def weight_tensor(b: Builder, x: Value, w: Value, form: Filter) -> Tensor:
    """The weight tensor of a kernel that reads `x`: integers where the combination is legal, else float.

    Raises:
        NeedsFloat: in integer mode, weights that no int8 kernel takes.
        CannotLower: weights that are computed.
    """
    if w.data is None:
        raise CannotLower("its weights are computed at run time")
    if b.integer:
        kind = "q8" if x.grid is None else f"q{x.grid.type.bits}"
        made = _integers(b, w, form) if w.grid is not None else None
        if made is None:
            raise NeedsFloat("its weights are not on a symmetric grid per output channel")
        if made.dtype == INT4 and (not form.packed or weights_row(form.kernel, kind, made) is None):
            made.dtype = INT8  # the same integers, a byte each
        if _beyond_the_kernels(made):
            raise NeedsFloat("its weights reach -128, which int8 kernels exclude")
        if weights_row(form.kernel, kind, made) is None:
            raise NeedsFloat(f"{form.kernel} has no kernel for its weights")
        return made
    if b.dynamic and w.grid is not None and x.grid is None:
        made = _integers(b, w, form)
        if made is not None and not _beyond_the_kernels(made) and weights_row(form.kernel, "f32", made) is not None:
            return made
    return real_weights(b, w, form)


def _integers(b: Builder, w: Value, form: Filter) -> Tensor | None:
    """The stored integers in the kernel's order, one scale per output channel; None where the grid does not allow
    it."""
    assert w.data is not None
    assert w.grid is not None
    kind = w.grid.type
    by_channel = isinstance(kind.granularity, PerChannel) and kind.granularity.axis % w.rank == form.out
    if w.grid.zero_point.any() or kind.bits not in (4, 8) or not (by_channel
                                                                  or isinstance(kind.granularity, PerTensor)):
        return None
    data = w.data.transpose(form.perm)
    if form.stored is not None:
        data = data.reshape(form.stored)
    axis = 3 if form.kernel == "DEPTHWISE_CONV_2D" else 0  # where each kernel keeps its output channels
    scale = np.broadcast_to(w.grid.scale, (w.shape[form.out],)).astype(np.float32)
    params = QuantParams(replace(kind, granularity=PerChannel(axis)), scale.copy(), np.zeros(scale.shape, np.int32))
    narrow = kind.bits == 4 and data.size and int(data.min()) >= INT4_RANGE[0]
    return b.constant(data.astype(np.int8), params, INT4 if narrow else INT8, w.name)


def _beyond_the_kernels(weights: Tensor) -> bool:
    """https://ai.google.dev/edge/litert/conversion/tensorflow/quantization/quantization_spec: [-127, 127]."""
    return weights.data is not None and weights.data.size > 0 and int(weights.data.min()) == -128


def real_weights(b: Builder, w: Value, form: Filter) -> Tensor:
    """Float weights. Large integer ones stay integers in the file, behind one DEQUANTIZE for all that read them."""
    if w.grid is not None and w.size > SMALL_CONSTANT and not isinstance(w.grid.type.granularity, PerBlock):
        made = _integers(b, w, form) if form.stored is not None or form.perm not in w.reals else None
        if made is not None:
            real = b.convert(made, None)
            if form.stored is not None:
                return real
            w.reals[form.perm] = real
    tensor = b.read(w, form.perm, integer=False)
    return tensor if form.stored is None else b.reshape(tensor, form.stored)


def bias_tensor(b: Builder, x: Tensor, w: Tensor, bias: Value | None, count: int, factor: float = 1.0) -> Tensor:
    """bias [count] (or None: zeros) for `x` and `w` as the kernel sees them: float, or int32 on the product of their
    grids; int64, and sums of as many bits, where `x` has 16.

    Raises:
        NeedsFloat: a computed bias, or one that overflows int32 there.
    """
    if bias is not None and bias.data is None:
        reason = "its bias is computed at run time"
        raise NeedsFloat(reason) if b.integer else CannotLower(reason)
    if x.grid is None or w.grid is None:
        return b.constant(np.zeros(count, np.float32) if bias is None else (real_numbers(bias) * factor).ravel())
    scale = np.atleast_1d(x.grid.scale * w.grid.scale).astype(np.float32)
    stored = np.zeros(count, np.int64)
    if bias is not None:
        stored = _stored_bias(bias, scale, factor)
    bits = 64 if x.grid.type.bits == 16 else 32
    if bits == 32 and _overflows(stored, w):
        raise NeedsFloat("its bias and products overflow int32 on the product of the grids")
    granularity = PerChannel(0) if per_channel(w) else PerTensor()
    params = QuantParams(QuantType(bits, granularity=granularity), scale if per_channel(w) else scale.reshape(()),
                         np.zeros(scale.shape if per_channel(w) else (), np.int32))
    return b.constant(stored.astype(f"int{bits}"), params, name="bias" if bias is None else bias.name)


def _overflows(bias: NDArray[np.int64], w: Tensor) -> bool:
    """Whether int32 lacks room for the bias, or a large one leaves none for the products: 255 steps of the input times
    every weight. Kernels wrap there."""
    most, largest = np.iinfo(np.int32).max, int(np.abs(bias).max(initial=0))
    if largest <= most // 2 or largest > most or w.data is None:
        return largest > most
    axis = w.grid.type.granularity.axis if w.grid and isinstance(w.grid.type.granularity, PerChannel) else 0
    products = np.abs(w.data.astype(np.int64)).sum(tuple(a for a in range(w.rank) if a != axis))
    return bool((np.abs(bias) + 255 * products > most).any())


def _stored_bias(bias: Value, scale: NDArray[np.float32], factor: float) -> NDArray[np.int64]:
    """The integers as they came where they already lie on the product grid, else rounded anew."""
    assert bias.data is not None
    grid = bias.grid
    if factor == 1 and grid is not None and grid.type.bits == 32 and not grid.zero_point.any() and np.allclose(
            np.broadcast_to(grid.scale, bias.shape), np.broadcast_to(scale, bias.shape), rtol=PRODUCT_RTOL, atol=0):
        return bias.data.astype(np.int64).ravel()
    return np.asarray(np.rint(real_numbers(bias).astype(np.float64).ravel() * factor / scale), np.int64)


def real_numbers(value: Value) -> NDArray[Any]:
    """A constant's real numbers."""
    assert value.data is not None
    return value.data if value.grid is None else dequantize(value.data, value.grid)

