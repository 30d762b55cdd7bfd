"""TFLite files: layouts, foreign grids, 4-bit weights, streamed weights, names; run on all three sets of kernels."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from opcases import BY_ID, CASES, build, quantize, run_onnxruntime, sample
from opcases.case import case, const, x
from small_graphs import network, normal, residual
from zoo_models import needs_zoo, zoo

from edgeq.backend import EmitOptions
from edgeq.errors import MissingExtra, UnsupportedModel
from edgeq.ops import LIMITING, MOVING
from edgeq.passes import canonicalize
from edgeq.quant.calibrate import CALIBRATORS, calibrate
from edgeq.quant.plan import make_plan
from edgeq.quant.qdq import without_rounding
from edgeq.quant.quantize import quantize as quantize_model
from edgeq.scheme import PRESETS
from edgeq.targets import Same
from edgeq_converters.prepare import lower_form
from edgeq_converters.tflite import emit, flatbuffer
from edgeq_converters.tflite.backend import lower
from edgeq_converters.tflite.inference import result_shape
from edgeq_converters.tflite.target import TFLITE
from edgeq_converters.tflite.validate import read_graph, validate

from .tflite_files import RESOLVERS, emitted, kernels, off, parsed, run

CONV = "Conv <pads = [1,1,1,1]>"
# Network, and how many TRANSPOSEs it may have with ONNX layout outside: one in, one out where the result has pixels.
LAYOUTS = {
    "pixels in and out": (
        f"(float[1,3,9,7] x) => (float[1,4,9,7] y) {{ a = {CONV} (x, w) r = Relu (a) y = {CONV} (r, v) }}", 2),
    "residual": (f"(float[1,3,9,7] x) => (float[1,4,9,7] y) {{ a = {CONV} (x, w) c = {CONV} (a, v) y = Add (a, c) }}",
                 2),
    "concat, slice by channel": (
        f"(float[1,3,9,7] x) => (float[1,4,9,7] y) {{ a = {CONV} (x, w) c = Concat <axis = 1> (a, a) "
        "s = Slice (c, two, six, one) y = Conv (s, u) }", 2),
    "spatial axes merged and split": (
        f"(float[1,3,9,7] x) => (float[1,4,9,7] y) {{ a = {CONV} (x, w) m = Reshape (a, merged) "
        f"t = Tanh (m) s = Reshape (t, split) y = {CONV} (s, v) }}", 2),
    "flattened into weights": (
        f"(float[1,3,9,7] x) => (float[1,5] y) {{ a = {CONV} (x, w) f = Flatten (a) y = Gemm (f, g) }}", 1),
    "opposite transposes": (
        f"(float[1,3,9,7] x) => (float[1,4,9,7] y) {{ a = {CONV} (x, w) t = Transpose <perm = [0,2,3,1]> (a) "
        f"s = Softmax (t) b = Transpose <perm = [0,3,1,2]> (s) y = {CONV} (b, v) }}", 2),
    "channel shuffle": (
        f"(float[1,3,9,7] x) => (float[1,4,9,7] y) {{ a = {CONV} (x, w) m = Reshape (a, groups) "
        f"t = Transpose <perm = [0,2,1,3,4]> (m) s = Reshape (t, split) y = {CONV} (s, v) }}", 3),
    "normalized groups": (
        f"(float[1,3,9,7] x) => (float[1,4,9,7] y) <float[1,4,9,7] n> {{ a = {CONV} (x, w) "
        f"n = GroupNormalization <num_groups = 2> (a, gain, shift) y = {CONV} (n, v) }}", 2),
    "one channel": ("(float[1,1,9,7] x) => (float[1,1,9,7] y) { y = Conv <pads = [1,1,1,1]> (x, o) }", 0),
}


def test_heads_are_merged_in_the_order_that_the_product_reads() -> None:
    """One TRANSPOSE into the heads, one out of them, none between the merged heads and the product behind."""
    model = network("""g (float[1,17,32] x) => (float[1,17,20] y) {
        a = Reshape (x, split) b = Transpose <perm = [0,2,1,3]> (a) c = MatMul (b, v)
        d = Transpose <perm = [0,2,1,3]> (c) e = Reshape (d, merged) f = Relu (e) y = MatMul (f, w) }""",
                    split=np.array([1, 17, 4, 8]), merged=np.array([1, 17, 32]), v=normal(1, 4, 8, 8), w=normal(32, 20))
    content, _ = emitted(model)
    assert kernels(content)["TRANSPOSE"] == 2
    feeds = {"x": normal(1, 17, 32, seed=3)}
    assert off(run(content, feeds)["y"], run_onnxruntime(model, feeds)["y"]) < 1e-5


def layout_network(text: str) -> ir.Model:
    return network("g " + text, w=normal(4, 3, 3, 3), v=normal(4, 4, 3, 3), u=normal(4, 4, 1, 1), g=normal(252, 5),
                   o=normal(1, 1, 3, 3), gain=normal(4, seed=5), shift=normal(4, seed=6),
                   two=np.array([2]), six=np.array([6]), one=np.array([1]), merged=np.array([1, 4, 63]),
                   split=np.array([1, 4, 9, 7]), groups=np.array([1, 2, 2, 9, 7]))


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("resolver", RESOLVERS)
def test_layout(name: str, resolver: str) -> None:
    text, most = LAYOUTS[name]
    model = layout_network(text)
    feeds = {"x": normal(*(1, 1, 9, 7) if name == "one channel" else (1, 3, 9, 7), seed=9)}
    content, _ = emitted(model)
    assert kernels(content)["TRANSPOSE"] <= most
    assert off(run(content, feeds, resolver)["y"], run_onnxruntime(model, feeds)["y"]) < 1e-5


def test_residual_network_has_no_needless_kernel() -> None:
    """Relu is fused everywhere, the flattening is a RESHAPE, and only the input is transposed."""
    model = residual()
    found = kernels(emitted(model)[0])
    assert found == {"TRANSPOSE": 1, "CONV_2D": 2, "ADD": 1, "MEAN": 1, "RESHAPE": 1, "FULLY_CONNECTED": 1,
                     "SOFTMAX": 1}
    feeds = {"x": normal(1, 3, 9, 7, seed=5)}
    assert off(run(emitted(model)[0], feeds)["y"], run_onnxruntime(model, feeds)["y"]) < 1e-5


# A form of every op that the planner puts on integers, and of some of them a second one.
INTEGER = {row.op: row for row in reversed(CASES) if row.op in TFLITE.rows and not row.tail}
INTEGER |= {id: BY_ID[id] for id in ("conv-pads", "conv-depthwise", "reduce-mean-all-dropped", "gather-nd-batched",
                                     "hard-sigmoid-inside", "exp-wide", "neg-one-sided")}


@pytest.mark.parametrize("name", INTEGER)
@pytest.mark.parametrize("foreign", [False, True], ids=["own", "foreign"])
def test_what_the_planner_puts_on_integers_has_a_kernel(name: str, foreign: bool) -> None:
    """Whatever grids come in, the op stays on integers and is right; on those that the planner gives, the kernel writes
    its result as it is, and nothing is rounded twice.
    """
    row = INTEGER[name]
    model, steps = quantize(row, foreign=foreign)
    content, artifact = emitted(model)
    assert not artifact.float_nodes
    assert kernels(content)["DEQUANTIZE"] == len(model.graph.outputs)
    if not foreign and row.op not in LIMITING:  # a limit in front of which nothing computes is a change of grids
        rounded = [value for value in model.graph.inputs if value.dtype == ir.DataType.FLOAT]
        assert kernels(content)["QUANTIZE"] == len(rounded)
    for resolver in RESOLVERS if row.op != "Elu" else RESOLVERS[:2]:  # the reference kernels have no ELU
        found = run(content, sample(row), resolver)
        for output, expected in run_onnxruntime(model, sample(row)).items():
            assert np.abs(found[output] - expected).max() <= 1.01 * row.steps * steps[output]


@pytest.mark.parametrize("name", [name for name, row in INTEGER.items() if row.op in TFLITE.wide])
def test_what_the_planner_puts_on_16_bits_has_a_kernel(name: str) -> None:
    """Its numbers are 1/256 of those of 8 bits as far from onnxruntime's."""
    row = INTEGER[name]
    model, steps = quantize(row, wide=True)
    content, artifact = emitted(model)
    assert not artifact.float_nodes
    assert kernels(content)["DEQUANTIZE"] == len(model.graph.outputs)
    allowed = {"Exp": 42, "Tanh": 2}.get(row.op, 1)  # of these two the kernel interpolates in a table
    for resolver in RESOLVERS:
        found = run(content, sample(row), resolver)
        for output, expected in run_onnxruntime(model, sample(row)).items():
            assert np.abs(found[output] - expected).max() <= 1.01 * allowed * steps[output]


def test_the_planner_and_the_lowering_know_the_same_ops() -> None:
    assert INTEGER.keys() >= TFLITE.rows.keys() - {"Dropout"}, "an op that no row of the table shows"
    assert {op for op, row in TFLITE.rows.items() if isinstance(row.constraint, Same)} > MOVING


def test_a_chain_between_two_convolutions_is_all_integers() -> None:
    model = network("""g (float[1,3,9,7] x) => (float[1,4,9,7] y) {
        a = Conv <pads = [1,1,1,1]> (x, w) b = Neg (a) c = Abs (b) d = Exp (c) e = ReduceMean (d, axes)
        f = ReduceMax (d, axes) g = HardSigmoid (b) h = Sum (d, e, f, g) y = Conv <pads = [1,1,1,1]> (h, v) }""",
                    w=0.1 * normal(4, 3, 3, 3), v=normal(4, 4, 3, 3), axes=np.array([1]))
    canonicalize(model)
    feeds = [{"x": normal(1, 3, 9, 7, seed=seed)} for seed in range(4)]
    plan = make_plan(model, [TFLITE], PRESETS["w8a8"])
    graph = quantize_model(model, plan, calibrate(model, plan.sources, feeds), CALIBRATORS["minmax"])
    content, artifact = emitted(graph)
    assert not artifact.float_nodes
    assert kernels(content)["DEQUANTIZE"] == 1
    assert off(run(content, feeds[0])["y"], run_onnxruntime(model, feeds[0])["y"]) < 0.03


def test_sixteen_bits_hold_biases_that_no_32_bits_hold() -> None:
    """Channels of hardly any weights beside biases, and small numbers that are concatenated with large ones and without
    them: rounding costs nothing.
    """
    weight, bias = normal(4, 3, 3, 3), np.array([3, -40, 0.5, 2], np.float32)
    weight[1] *= 1e-7
    weight[2] *= 1e-12
    model = network("""g (float[1,3,9,7] x) => (float[1,4,7,5] y, float[1,4,7,5] z) {
        a = Conv <pads = [1,1,1,1]> (x, w, b) c = Relu (a) d = Conv <pads = [1,1,1,1]> (x, u)
        e = Concat <axis = 1> (d, d) f = Concat <axis = 1> (c, d) y = Conv (e, v) z = Conv (f, v) }""",
                    w=weight, b=bias, u=1e-3 * normal(4, 3, 3, 3, seed=1), v=normal(4, 8, 3, 3, seed=2))
    canonicalize(model)
    feeds = [{"x": normal(1, 3, 9, 7, seed=seed)} for seed in range(4)]
    plan = make_plan(model, [TFLITE], PRESETS["w8a16"])
    graph = quantize_model(model, plan, calibrate(model, plan.sources, feeds), CALIBRATORS["minmax"])
    content, artifact = emitted(graph)
    assert not artifact.float_nodes
    found = run(content, feeds[0])
    for name, expected in run_onnxruntime(without_rounding(graph), feeds[0]).items():
        assert off(found[name], expected) < 1e-3


ROWS4 = {
    "1x1": (case("c", "Conv", x(1, 33, 5, 4), const(7, 33, 1, 1), const(7)), "FULLY_CONNECTED"),
    "3x3": (case("c", "Conv", x(1, 33, 5, 4), const(7, 33, 3, 3), const(7)), "CONV_2D"),
    "gemm": (case("c", "Gemm", x(2, 33), const(33, 17), const(17)), "FULLY_CONNECTED"),
}


@pytest.mark.parametrize("name", ROWS4)
@pytest.mark.parametrize("resolver", RESOLVERS)
def test_four_bits_are_packed(name: str, resolver: str) -> None:
    """An odd number of rows and columns: rows are not aligned to bytes."""
    row, kernel = ROWS4[name]
    model, steps = quantize(row, bits=4)
    content, _ = emitted(model)
    assert kernels(content)[kernel] == 1
    packed = -(-row.inputs[1].draw(row.rng("w")).size // 2)  # type: ignore[union-attr]
    assert packed in {len(b.data) for b in parsed(content).buffers if b.data is not None}
    found, expected = run(content, sample(row), resolver)["y"], run_onnxruntime(model, sample(row))["y"]
    assert np.abs(found - expected).max() <= 1.01 * steps["y"]


def test_the_lowest_4_bit_integer_is_stored_in_a_byte() -> None:
    """LiteRT's hybrid kernel misreads -8."""
    row, _ = ROWS4["gemm"]
    model, _ = quantize(row, bits=4)
    weight = next(v for v in model.graph.initializers.values() if v.dtype == ir.DataType.INT4)
    data = weight.const_value.numpy().copy()  # type: ignore[union-attr]
    data[0, 0] = -8
    weight.const_value = ir.tensor(data, name=weight.name)
    program, _ = lower(lower_form(model))
    assert all(tensor.dtype.name != "int4" for tensor in program.tensors())


def test_large_constants_are_streamed(tmp_path: Path) -> None:
    """The same numbers whether the weights lie inside the flatbuffer or behind it."""
    model = network("g (float[2,300] x) => (float[2,400] y) { y = MatMul (x, w) }", w=normal(300, 400))
    program, _ = lower(lower_form(model))
    feeds = {"x": normal(2, 300, seed=3)}
    for limit, name in ((10**9, "inside"), (1, "behind")):
        flatbuffer.write(program, tmp_path / name, external_bytes=limit)
    inside, behind = (tmp_path / name for name in ("inside", "behind"))
    assert [buffer.size for buffer in parsed(behind.read_bytes()).buffers].count(300 * 400 * 4) == 1
    assert not any(buffer.size > 1 for buffer in parsed(inside.read_bytes()).buffers)
    for path in (inside, behind):
        assert off(run(path.read_bytes(), feeds)["y"], run_onnxruntime(model, feeds)["y"]) < 1e-5


def test_all_failing_nodes_at_once_and_nothing_left(tmp_path: Path) -> None:
    model = network("""g (float[2,3,4,5] x) => (float[2,3,4,5] y, int64[4,n] z) {
        a = Bernoulli (x) c = RandomNormalLike (a) b = Bernoulli (a) y = Relu (b) z = NonZero (x) }""")
    with pytest.raises(UnsupportedModel) as caught:
        emit(model, tmp_path, EmitOptions())
    assert {problem.op for problem in caught.value.problems} == {"Bernoulli", "RandomNormalLike", "NonZero"}
    assert not list(tmp_path.iterdir())


def test_missing_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeq_converters.tflite.backend.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"edgeq\[tflite\]"):
        emit(residual(), tmp_path, EmitOptions())


def test_weight_only_may_be_left_to_the_kernel() -> None:
    """dynamic: FULLY_CONNECTED takes float rows and integer weights; without it the graph's numbers, to the last
    digits."""
    row, _ = ROWS4["gemm"]
    from opcases import quantize_weights

    model = quantize_weights(row, bits=8)
    for dynamic, dequantized, tolerance in ((True, 0, 2e-2), (False, 1, 1e-5)):
        program, _ = lower(lower_form(model), dynamic=dynamic)
        assert sum(op.kernel == "DEQUANTIZE" for op in program.operators) == dequantized
        model_t, contents = flatbuffer.to_model({flatbuffer.SIGNATURE: program})
        for buffer, content in zip(model_t.buffers[1:], contents, strict=True):
            buffer.data = content
        validate(model_t)
        content = bytes(flatbuffer._pack(model_t))
        assert off(run(content, sample(row))["y"], run_onnxruntime(model, sample(row))["y"]) < tolerance


def test_shape_rules_agree_with_the_runtime() -> None:
    """The validator's shapes against those that LiteRT itself allocates, for every row of the table."""
    from opcases import CASES

    from .tflite_files import interpreter

    for row in CASES:
        try:
            content, _ = emitted(build(row))
        except UnsupportedModel:
            continue
        details = {d["index"]: tuple(d["shape"]) for d in interpreter(content, RESOLVERS[1]).get_tensor_details()}
        tensors, operators, _ = read_graph(parsed(content))
        index = {id(tensor): number for number, tensor in enumerate(tensors)}
        for operator in operators:
            expected = result_shape(operator)
            found = details[index[id(operator.outputs[0])]]
            assert expected is None or found == expected, (row.id, operator.kernel)


@needs_zoo
@pytest.mark.parametrize("item", ["imagenet_squeezenet11", "coco_fastestdet", "silero_vad_16k", "g2pm_bilstm"])
def test_real_model(item: str) -> None:
    from edgeq.frontends import load_model
    from edgeq.passes import canonicalize

    feeds = next(iter(zoo().feeds(item, "eval", 1)))
    model = load_model(zoo().model(item), inputs={name: array.shape for name, array in feeds.items()})
    canonicalize(model)
    used = {value.name for value in model.graph.inputs}
    feeds = {name: array for name, array in feeds.items() if name in used}
    from .tflite_files import interpreter

    made = interpreter(emitted(model)[0])
    for details in made.get_input_details():
        made.set_tensor(details["index"], feeds[details["name"]].astype(details["dtype"]))
    made.invoke()
    expected = run_onnxruntime(model, feeds)
    for details in made.get_output_details():
        assert off(made.get_tensor(details["index"]), expected[details["name"]]) < 2e-5
