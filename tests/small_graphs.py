"""Small networks with uneven sizes, written as ONNX text, for tests of the planner and the quantizer."""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from edgeq.quant.feeds import InputSpec
from edgeq.quant.samples import Samples, open_samples

BITS = {4: (ml_dtypes.int4, 7), 8: (np.int8, 127)}  # type and largest number of a weight


def network(text: str, **weights: NDArray[Any]) -> ir.Model:
    """A model of opset 21 from the text of its graph; `weights` become initializers, shapes are inferred."""
    header = '<ir_version: 10, opset_import: ["" : 21]>\n'
    model = onnx.parser.parse_model(header + text)
    model.graph.initializer.extend(onnx.numpy_helper.from_array(data, name) for name, data in weights.items())
    model = ir.from_proto(onnx.shape_inference.infer_shapes(model, strict_mode=True))
    for number, node in enumerate(model.graph):
        node.name = node.name or f"{node.op_type}_{number}"
    return model


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> NDArray[np.float32]:
    return (scale * np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


def feeds(shape: tuple[int, ...], count: int = 4, name: str = "x") -> list[Mapping[str, NDArray[np.float32]]]:
    return [{name: normal(*shape, seed=100 + k)} for k in range(count)]


def samples_of(data: list[Any]) -> Samples:
    """Feeds with one input, as a calibration takes them."""
    return open_samples(data, {name: InputSpec(array.dtype, array.shape) for name, array in data[0].items()})


def residual() -> ir.Model:
    """x [1,3,9,7] -> conv, relu -> conv -> add -> relu -> pool -> gemm -> softmax [1,5]."""
    return network("""
        g (float[1,3,9,7] x) => (float[1,5] y) {
            a = Conv <pads = [1,1,1,1]> (x, w1, b1)
            r = Relu (a)
            c = Conv <pads = [1,1,1,1]> (r, w2, b2)
            s = Add (c, r)
            t = Relu (s)
            p = GlobalAveragePool (t)
            f = Flatten (p)
            z = Gemm <transB = 1> (f, w3, b3)
            y = Softmax (z)
        }""", w1=normal(4, 3, 3, 3, seed=1), b1=normal(4, seed=2), w2=normal(4, 4, 3, 3, seed=3, scale=0.3),
        b2=normal(4, seed=4), w3=normal(5, 4, seed=5), b3=normal(5, seed=6))


def with_weights(kind: str, bits: int, granularity: str, zero_point: int = 0) -> tuple[ir.Model, NDArray[np.float32]]:
    """A layer whose constant weight is a DequantizeLinear, and its input. 160 weights a channel, 6 channels."""
    shape, axis = {"Conv": ((6, 16, 2, 5), 0), "MatMul": ((160, 6), 1), "Gather": ((6, 160), 0)}[kind]
    rng = np.random.default_rng(bits)
    dtype, high = BITS[bits]
    q = rng.integers(-high, high + 1, shape).astype(dtype)
    if granularity == "tensor":
        scale: NDArray[Any] = np.array(0.02, np.float32)
    elif granularity == "channel":
        scale = rng.uniform(0.001, 0.1, shape[axis]).astype(np.float32)
    else:
        shape_of_scale = list(shape)
        shape_of_scale[1 - axis] //= 32
        scale = rng.uniform(0.001, 0.1, shape_of_scale).astype(np.float32)
    z = np.full(scale.shape, zero_point).astype(dtype)
    block = ", block_size = 32" if granularity == "block" else ""
    attribute = f"axis = {1 - axis if block else axis}{block}"
    layer, inputs, output, x = {
        "Conv": ("Conv <pads = [1, 0, 2, 1]> (x, w)", "float[1,16,9,7] x", "float[1,6,11,4] y", normal(1, 16, 9, 7)),
        "MatMul": ("MatMul (x, w)", "float[3,160] x", "float[3,6] y", normal(3, 160)),
        "Gather": ("Gather <axis = 0> (w, i)", "int64[4] i", "float[4,160] y", np.array([5, 0, -1, 2])),
    }[kind]
    text = f"g ({inputs}) => ({output}) {{ w = DequantizeLinear <{attribute}> (q, s, z)  y = {layer} }}"
    return network(text, q=q, s=scale, z=z), x
