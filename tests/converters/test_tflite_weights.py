"""Weights stored small: half precision behind a Cast, and integers inside recurrent layers."""
from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from opcases import BY_ID, build, quantize_weights, run_onnxruntime, sample
from small_graphs import network, normal

from edgeq.graph import constant, initializer
from edgeq.quant.float16 import store_half

from .tflite_files import RESOLVERS, emitted, kernels, off, parsed, run

HALF = {
    "conv": "(float[1,8,9,7] x) => (float[1,16,7,5] y) { y = Conv (x, w) }",
    "transposed conv": "(float[1,16,9,7] x) => (float[1,8,11,9] y) { y = ConvTranspose (x, w) }",
    "grouped transposed conv": "(float[1,16,9,7] x) => (float[1,16,11,9] y) { y = ConvTranspose <group = 2> (x, w) }",
    "product": "(float[4,40] x) => (float[4,30] y) { y = Gemm <alpha = 0.3> (x, g) }",
}


def buffer_bytes(content: bytes) -> int:
    return sum(len(buffer.data) for buffer in parsed(content).buffers if buffer.data is not None)


@pytest.mark.parametrize("name", HALF)
@pytest.mark.parametrize("resolver", RESOLVERS)
def test_half_precision_weights_are_stored_as_such(name: str, resolver: str) -> None:
    model = network("g " + HALF[name], w=normal(16, 8, 3, 3), g=normal(40, 30))
    small = store_half(model)
    content, _ = emitted(small)
    feeds = {"x": normal(*(int(d) for d in model.graph.inputs[0].shape.numpy()), seed=4)}  # type: ignore[union-attr]
    assert off(run(content, feeds, resolver)["y"], run_onnxruntime(small, feeds)["y"]) < 1e-5
    if name != "product":  # alpha is multiplied into those
        assert buffer_bytes(content) < 0.6 * buffer_bytes(emitted(model)[0])


def with_integer_weights(model: ir.Model, bits: int, granularity: str) -> ir.Model:
    """The recurrent node's W and R [D, G*H, K] as integers behind DequantizeLinear.

    A direction's rows differ by factors of up to a hundred, so that a scale in the wrong place shows.
    """
    model = model.clone()
    graph = model.graph
    node = next(node for node in graph if node.op_type in ("LSTM", "GRU", "RNN"))
    for index in (1, 2):
        value = node.inputs[index]
        data = constant(value)
        assert data is not None
        spread = 10 ** np.linspace(-1, 1, data.shape[0] * data.shape[1]).reshape(data.shape[:2])[..., None]
        data = data * spread / 4
        axes, attributes = GRANULARITIES[granularity]
        if granularity == "block":
            attributes = attributes | {"block_size": data.shape[2]}
        high = 2 ** (bits - 1) - 1
        scale = np.abs(data).max(axes, keepdims=True).astype(np.float32) / high
        stored = np.rint(data / scale).astype(np.int8)
        if granularity != "block":
            scale = scale.reshape(-1) if granularity != "tensor" else scale.reshape(())
        kind = ir.DataType.INT8 if bits == 8 else ir.DataType.INT4
        inputs = [initializer(graph, f"q{index}", ir.tensor(stored, kind, name=f"q{index}")),
                  initializer(graph, f"s{index}", scale)]
        made = ir.node("DequantizeLinear", inputs, attributes)
        made.outputs[0].name, made.outputs[0].shape, made.outputs[0].type = f"dq{index}", value.shape, value.type
        graph.insert_before(node, made)
        node.replace_input_with(index, made.outputs[0])
    return model


GRANULARITIES: dict[str, tuple[Any, dict[str, int]]] = {
    "tensor": ((0, 1, 2), {}), "row": ((0, 2), {"axis": 1}), "direction": ((1, 2), {"axis": 0}),
    "block": (2, {"axis": 2}),
}
# Large enough that a constant is worth storing small: hidden 20, features 30.
SHAPES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def recurrent(op: str, **attributes: Any) -> ir.Model:
    gates, hidden = SHAPES[op], 20
    extra = "".join(f", {name} = {value}" for name, value in attributes.items())
    return network(f"""g (float[4,2,30] x) => (float[4,2,2,{hidden}] y) {{
        y = {op} <hidden_size = {hidden}, direction = "bidirectional"{extra}> (x, w, r, b) }}""",
                   w=normal(2, gates * hidden, 30) / 5, r=normal(2, gates * hidden, hidden, seed=1) / 5,
                   b=normal(2, 2 * gates * hidden, seed=2))


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("op", SHAPES)
def test_integers_inside_recurrent_layers(op: str, bits: int, granularity: str) -> None:
    """The same numbers as the graph's, and a file that holds the integers: once, whatever the number of steps."""
    model = with_integer_weights(recurrent(op), bits, granularity)
    content, _ = emitted(model)
    feeds = {"x": normal(4, 2, 30, seed=7)}
    expected = run_onnxruntime(model, feeds)["y"]
    for resolver in RESOLVERS:
        assert off(run(content, feeds, resolver)["y"], expected) < 1e-5
    elements = 2 * SHAPES[op] * 20 * 50
    biases = 2 * 4 * 2 * SHAPES[op] * 20
    assert buffer_bytes(content) < elements * bits / 8 + biases + 1500
    stored = 2 * (3 if op == "GRU" else 2)
    assert kernels(content)["DEQUANTIZE"] == stored


def test_integers_in_a_row_of_the_table() -> None:
    """Small weights, for which float is no loss: still the graph's numbers, states included."""
    row = BY_ID["lstm-states"]
    model = with_integer_weights(build(row), 8, "row")
    found, expected = run(emitted(model)[0], sample(row)), run_onnxruntime(model, sample(row))
    assert set(found) == {"y", "y_h", "y_c"}
    for name, array in expected.items():
        assert off(found[name], array) < 1e-5


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("resolver", RESOLVERS)
def test_an_embedding_looks_up_integers_and_their_scales(resolver: str, bits: int) -> None:
    """Every kernel of it exists in tflite-runtime 2.14 too, and none holds the table in float."""
    row = BY_ID["gather-embedding-packed"]
    model = quantize_weights(row, bits=bits)
    content, artifact = emitted(model)
    found = kernels(content)
    assert (found["GATHER"], found["CAST"], found["MUL"], found["DEQUANTIZE"]) == (2, 1, 1, 0)
    assert artifact.options["tflite_runtime"] == ">=2.14"
    np.testing.assert_array_equal(run(content, sample(row), resolver)["y"], run_onnxruntime(model, sample(row))["y"])


def test_an_embedding_on_the_grid_of_its_result_is_one_kernel() -> None:
    model = network("""g (int64[2,3] ids) => (float[2,3,9] y) {
        t = DequantizeLinear (q, s, z)  e = Gather (t, ids)
        a = QuantizeLinear (e, s, z)  y = DequantizeLinear (a, s, z) }""", s=np.float32(.02), z=np.uint8(131),
        q=np.random.default_rng(0).integers(0, 256, (40, 9)).astype(np.uint8))
    content, _ = emitted(model)
    ids = {"ids": np.array([[0, 39, 7], [5, 7, 1]])}
    assert (kernels(content)["GATHER"], kernels(content)["DEQUANTIZE"], kernels(content)["QUANTIZE"]) == (1, 1, 0)
    np.testing.assert_array_equal(run(content, ids)["y"], run_onnxruntime(model, ids)["y"])
