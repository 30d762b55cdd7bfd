"""Small graphs for ONNX Runtime: which kernels run (counted in its optimized graph), and what they compute."""
from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from numpy.typing import NDArray
from small_graphs import network, normal

from edgeq.backend import Artifact, EmitOptions
from edgeq.errors import UnsupportedModel
from edgeq_converters.onnxfile import DATA, MODEL
from edgeq_converters.onnxruntime import emit
from edgeq_runtime.engines.versions import matches

Arrays = dict[str, NDArray[Any]]
OUT = .05  # the scale of `y` where it lies on a grid


def ints(dtype: Any, *shape: int, seed: int = 0) -> NDArray[Any]:
    """Integers over the narrow range of a type (the whole range of an unsigned one)."""
    high = 7 if dtype in (ml_dtypes.int4, ml_dtypes.uint4) else 127
    low = 0 if np.dtype(dtype).name.startswith("u") else -high
    return np.random.default_rng(seed).integers(low, high + 1, shape).astype(dtype)


def scales(*shape: int, seed: int = 9, peak: float = .02) -> NDArray[np.float32]:
    return np.random.default_rng(seed).uniform(peak / 4, peak, shape).astype(np.float32)


def session(path: Path, artifact: Artifact | None, folder: Path, *, fused: bool = True, **configuration: str) -> Any:
    """configuration: session entries by their last word, in place of the artifact's own."""
    entries = {f"session.{key}": value for key, value in configuration.items()}
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    if fused:
        options.optimized_model_filepath = str(folder / "optimized.onnx")
    else:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    for key, value in ((artifact.options if artifact else {}).get("session_options", {}) | entries).items():
        options.add_session_config_entry(key, value)
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def reference(model: ir.Model, feeds: Arrays, folder: Path) -> NDArray[Any]:
    """The model as it was given, op by op."""
    ir.save(model, folder / "reference.onnx")
    found: NDArray[Any] = session(folder / "reference.onnx", None, folder, fused=False).run(None, feeds)[0]
    return found


def kernels(folder: Path) -> Counter[str]:
    """The ops of the last fused session, without the Transposes to and from the kernels' channels-last layout."""
    nodes = onnx.load(folder / "optimized.onnx").graph.node
    return Counter(node.op_type for node in nodes if node.op_type != "Transpose")


def convert(model: ir.Model, feeds: Arrays, folder: Path) -> tuple[NDArray[Any], Counter[str], Artifact]:
    """What the artifact computes, in which kernels; rewriting alone must not change a bit."""
    bundle = folder / "bundle"
    bundle.mkdir()
    artifact = emit(model, bundle, EmitOptions())
    unfused = session(bundle / MODEL, artifact, folder, fused=False).run(None, feeds)[0]
    np.testing.assert_allclose(unfused, reference(model, feeds, folder), rtol=0, atol=1e-5 * np.abs(unfused).max())
    return session(bundle / MODEL, artifact, folder).run(None, feeds)[0], kernels(folder), artifact


def check_matmul_nbits(model: ir.Model, found: NDArray[Any], artifact: Artifact, feeds: Arrays, folder: Path) -> None:
    """Exact where the kernel multiplies floats (level 1); as shipped it rounds activations to 8 bits a block."""
    expected = reference(model, feeds, folder)
    exact = session(folder / "bundle" / MODEL, artifact, folder, qdq_matmulnbits_accuracy_level="1").run(None, feeds)[0]
    np.testing.assert_allclose(exact, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    noise = float(np.square(found - expected).sum() / np.square(expected).sum())
    assert 10 * np.log10(1 / noise) > 38  # uniform rounding of normal numbers to 8 bits of each block: 40 dB


def kernels_as_given(model: ir.Model, folder: Path) -> Counter[str]:
    """What ONNX Runtime makes of the graph without the rewrite: the trap that the rewrite is there for."""
    ir.save(model, folder / "given.onnx")
    session(folder / "given.onnx", None, folder)
    return kernels(folder)


CONV = """g (float[1,3,9,7] x) => (float[1,5,5,3] y) {
    xq = QuantizeLinear (x, xs, xz)
    xd = DequantizeLinear (xq, xs, xz)
    wd = DequantizeLinear <axis = 0> (w, ws)
    bd = DequantizeLinear <axis = 0> (b, bs)
    c = Conv <pads = [1,0,1,0], strides = [2,2]> (xd, wd, bd)
    yq = QuantizeLinear (c, ys, yz)
    y = DequantizeLinear (yq, ys, yz)
}"""


def conv(weight: NDArray[Any], activation: Any = np.uint8) -> ir.Model:
    ws = scales(5)
    zero = 120 if activation == np.uint8 else -8
    zero_point = np.asarray(zero, activation)
    return network(CONV, w=weight, ws=ws, b=np.arange(-2, 3, dtype=np.int32) * 100, bs=np.float32(.03) * ws,
                   xs=np.float32(.03), xz=zero_point, ys=np.float32(OUT), yz=zero_point)


X = normal(1, 3, 9, 7, seed=1)
HARD_SWISH = """g (float[1,3,9,7] x) => (float[1,3,9,7] y) {
    xq = QuantizeLinear (x, xs, z) xd = DequantizeLinear (xq, xs, z) h = HardSwish (xd)
    yq = QuantizeLinear (h, ys, k) y = DequantizeLinear (yq, ys, k)
}"""


@pytest.mark.parametrize(("kind", "zero"), [(np.uint8, 120), (np.int8, -8)])
def test_hard_swish_runs_on_integers(tmp_path: Path, kind: Any, zero: int) -> None:
    """Where the clip is flat, where it is not, and where it is cut on either side."""
    model = network(HARD_SWISH, xs=np.float32(.05), z=kind(zero), ys=np.float32(.03), k=kind(zero - 100))
    feeds = {"x": np.linspace(-8, 8, X.size, dtype=np.float32).reshape(X.shape)}
    assert "HardSigmoid" in kernels_as_given(model, tmp_path)  # what ONNX Runtime makes of HardSwish
    emit(model, tmp_path, EmitOptions())
    found = session(tmp_path / MODEL, None, tmp_path).run(None, feeds)[0]
    assert kernels(tmp_path) == {"QuantizeLinear": 1, "QLinearAdd": 1, "QLinearMul": 1, "DequantizeLinear": 1}
    np.testing.assert_allclose(found, reference(model, feeds, tmp_path), rtol=0, atol=1.01 * .03)


@pytest.mark.parametrize("activation", [np.uint8, np.int8])
def test_int8_conv_is_one_kernel(tmp_path: Path, activation: Any) -> None:
    model = conv(ints(np.int8, 5, 3, 3, 3), activation)
    found, ops, artifact = convert(model, {"x": X}, tmp_path)
    assert ops == {"QuantizeLinear": 1, "QLinearConv": 1, "DequantizeLinear": 1}
    np.testing.assert_allclose(found, reference(model, {"x": X}, tmp_path), rtol=0, atol=1.01 * OUT)
    assert artifact == Artifact(MODEL, "onnxruntime", ">=1.18")
    stored = {value.dtype for node in ir.load(tmp_path / "bundle" / MODEL).graph
              if node.op_type == "QuantizeLinear" for value in node.inputs[2:] if value}
    assert stored == {ir.DataType.UINT8}


def test_int4_conv_runs_in_int8_and_is_stored_in_4_bits(tmp_path: Path) -> None:
    model = conv(ints(ml_dtypes.int4, 5, 3, 3, 3))
    assert "QLinearConv" not in kernels_as_given(model, tmp_path)
    found, ops, artifact = convert(model, {"x": X}, tmp_path)
    assert ops == {"QuantizeLinear": 1, "QLinearConv": 1, "DequantizeLinear": 1}
    np.testing.assert_allclose(found, reference(model, {"x": X}, tmp_path), rtol=0, atol=1.01 * OUT)
    assert artifact.engine_version == ">=1.23"
    weight = onnx.load(tmp_path / "bundle" / MODEL).graph.initializer[0]
    assert (weight.data_type, len(weight.raw_data)) == (onnx.TensorProto.INT4, (5 * 3 * 3 * 3 + 1) // 2)


def test_uint8_weights_become_int8(tmp_path: Path) -> None:
    model = conv(ints(np.uint8, 5, 3, 3, 3))
    found, ops, _ = convert(model, {"x": X}, tmp_path)
    assert ops["QLinearConv"] == 1
    np.testing.assert_allclose(found, reference(model, {"x": X}, tmp_path), rtol=0, atol=1.01 * OUT)
    written = onnx.load(tmp_path / "bundle" / MODEL).graph.initializer
    assert not any(tensor.data_type == onnx.TensorProto.UINT8 and tensor.dims for tensor in written)


KEPT = """g (float[1,3,9,7] x) => (float[1,5,7,5] y) {
    xq = QuantizeLinear (x, xs, xz)
    xd = DequantizeLinear (xq, xs, xz)
    c = Conv (xd, w, b)
    r = Relu (c)
    yq = QuantizeLinear (r, ys, yz)
    y = DequantizeLinear (yq, ys, yz)
}"""


@pytest.mark.parametrize("text", [
    KEPT, KEPT.replace("(xd, w, b)", "(xd, w)"),
    KEPT.replace("Relu (c)", "MaxPool <kernel_shape = [2,2]> (c)").replace("[1,5,7,5]", "[1,5,6,4]"),
], ids=["Relu", "no bias", "MaxPool"])
def test_a_conv_that_was_kept_float_is_not_quantized_by_the_engine(tmp_path: Path, text: str) -> None:
    weight = normal(5, 3, 3, 3, seed=2) * np.float32([1, .01, 1, 1, 1]).reshape(5, 1, 1, 1)
    constants = {"w": weight, "xs": np.float32(.03), "xz": np.uint8(120), "ys": np.float32(OUT / 50), "yz": np.uint8(0)}
    if "b" in text.split("Conv")[1].split(")")[0]:
        constants["b"] = np.float32([0, .3, -.2, 1e-9, -7])
    model = network(text, **constants)
    assert kernels_as_given(model, tmp_path)["QLinearConv"] == 1
    found, ops, artifact = convert(model, {"x": X}, tmp_path)
    assert ops["FusedConv"] + ops["Conv"] == 1
    assert ops["DequantizeLinear"] == 2  # of x and y: blocked kernels take no bias that is computed
    assert [node.op for node in artifact.float_nodes] == ["Conv"]
    np.testing.assert_allclose(found, reference(model, {"x": X}, tmp_path), rtol=0, atol=1.01 * OUT / 50)


MATMUL = """g (float[2,3,64] x) => (float[2,3,24] y) {
    wd = DequantizeLinear <axis = AXIS BLOCK> (w, ws)
    y = MatMul (x, wd)
}"""
ROWS = normal(2, 3, 64, seed=3)


@pytest.mark.parametrize(("axis", "block", "shape", "version"), [
    (0, ", block_size = 16", (4, 24), ">=1.19"),
    (0, ", block_size = 32", (2, 24), ">=1.19"),
    (1, "", (24,), ">=1.25"),
])
def test_int4_weights_alone_become_matmul_nbits(tmp_path: Path, axis: int, block: str, shape: tuple[int, ...],
                                                version: str) -> None:
    text = MATMUL.replace("AXIS", str(axis)).replace("BLOCK", block)
    model = network(text, w=ints(ml_dtypes.int4, 64, 24), ws=scales(*shape))
    found, ops, artifact = convert(model, {"x": ROWS}, tmp_path)
    assert ops == {"MatMulNBits": 1}
    check_matmul_nbits(model, found, artifact, {"x": ROWS}, tmp_path)
    assert artifact.engine_version == version
    assert not artifact.float_nodes


@pytest.mark.parametrize(("axis", "block", "shape"), [(1, ", block_size = 32", (24, 2)), (0, "", (24,))])
def test_a_transposed_gemm_is_turned_for_matmul_nbits(tmp_path: Path, axis: int, block: str,
                                                      shape: tuple[int, ...]) -> None:
    text = """g (float[3,64] x) => (float[3,24] y) {
        wd = DequantizeLinear <axis = AXIS BLOCK> (w, ws)
        y = Gemm <transB = 1> (x, wd, b)
    }""".replace("AXIS", str(axis)).replace("BLOCK", block)
    model = network(text, w=ints(ml_dtypes.int4, 24, 64), ws=scales(*shape), b=normal(24, seed=5))
    assert "MatMulNBits" not in kernels_as_given(model, tmp_path)
    found, ops, artifact = convert(model, {"x": ROWS[0]}, tmp_path)
    assert ops == {"MatMulNBits": 1}
    check_matmul_nbits(model, found, artifact, {"x": ROWS[0]}, tmp_path)


@pytest.mark.parametrize("dtype", [np.int8, ml_dtypes.int4])
@pytest.mark.parametrize("quantized", [True, False])
def test_biased_matmul_is_one_gemm(tmp_path: Path, dtype: Any, quantized: bool) -> None:
    tail = "yq = QuantizeLinear (s, ys, yz) y = DequantizeLinear (yq, ys, yz)" if quantized else "y = Gelu (s)"
    ws = scales(24)
    grid = {"ys": np.float32(OUT), "yz": np.uint8(99)} if quantized else {}
    model = network("""g (float[2,3,64] x) => (float[2,3,24] y) {
        xq = QuantizeLinear (x, xs, xz)
        xd = DequantizeLinear (xq, xs, xz)
        wd = DequantizeLinear <axis = 1> (w, ws)
        bd = DequantizeLinear <axis = 0> (b, bs)
        m = MatMul (xd, wd)
        s = Add (bd, m)
        TAIL
    }""".replace("TAIL", tail), w=ints(dtype, 64, 24), ws=ws, b=np.arange(24, dtype=np.int32) * 50,
        bs=ws * np.float32(.03), xs=np.float32(.03), xz=np.uint8(120), **grid)
    assert "QGemm" not in kernels_as_given(model, tmp_path)
    found, ops, artifact = convert(model, {"x": ROWS}, tmp_path)
    assert ops["QGemm"] == 1
    assert ops["MatMul"] + ops["Gemm"] == 0
    assert not artifact.float_nodes
    expected = reference(model, {"x": ROWS}, tmp_path)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1.01 * OUT if quantized else 1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(("dtype", "version"), [(np.int8, ">=1.20"), (ml_dtypes.int4, ">=1.23")])
def test_matmul_without_bias_is_one_kernel(tmp_path: Path, dtype: Any, version: str) -> None:
    """onnxruntime 1.18 and 1.19 refuse to load it: "Failed to find kernel for QLinearMatMul(21)"."""
    model = network("""g (float[2,3,64] x) => (float[2,3,24] y) {
        xq = QuantizeLinear (x, xs, xz)
        xd = DequantizeLinear (xq, xs, xz)
        wd = DequantizeLinear <axis = 1> (w, ws)
        m = MatMul (xd, wd)
        yq = QuantizeLinear (m, ys, yz)
        y = DequantizeLinear (yq, ys, yz)
    }""", w=ints(dtype, 64, 24), ws=scales(24), xs=np.float32(.03), xz=np.uint8(120), ys=np.float32(OUT),
        yz=np.uint8(99))
    found, ops, artifact = convert(model, {"x": ROWS}, tmp_path)
    assert ops == {"QuantizeLinear": 1, "QLinearMatMul": 1, "DequantizeLinear": 1}
    assert artifact.engine_version == version
    np.testing.assert_allclose(found, reference(model, {"x": ROWS}, tmp_path), rtol=0, atol=1.01 * OUT)


@pytest.mark.parametrize("dtype", [np.int8, ml_dtypes.int4])
def test_weights_of_a_float_op_fold_at_load(tmp_path: Path, dtype: Any) -> None:
    model = network("""g (float[1,3,9,7] x) => (float[1,5,19,15] y) {
        wd = DequantizeLinear <axis = 1> (w, ws)
        y = ConvTranspose <strides = [2,2]> (x, wd)
    }""", w=ints(dtype, 3, 5, 3, 3), ws=scales(5))
    assert kernels_as_given(model, tmp_path)["DequantizeLinear"] == 1
    found, ops, _ = convert(model, {"x": X}, tmp_path)
    assert ops == {"ConvTranspose": 1}
    expected = reference(model, {"x": X}, tmp_path)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("dtype", [np.int8, ml_dtypes.int4])
@pytest.mark.parametrize("by_row", [True, False])
def test_an_embedding_is_looked_up_before_it_is_scaled(tmp_path: Path, dtype: Any, by_row: bool) -> None:
    text = """g (int64[2,3] x) => (float[2,3,16] y) {
        td = DequantizeLinear <axis = 0> (t, ts)
        y = Gather (td, x)
    }"""
    model = network(text, t=ints(dtype, 40, 16), ts=scales(40) if by_row else np.float32(.02))
    feeds = {"x": np.array([[0, 39, 7], [7, 1, -1]])}
    found, ops, _ = convert(model, feeds, tmp_path)
    assert "DequantizeLinear" not in ops
    np.testing.assert_array_equal(found, reference(model, feeds, tmp_path))


def test_an_embedding_on_the_grid_of_its_result_stays_in_integers(tmp_path: Path) -> None:
    model = network("""g (int64[2,3] x) => (float[2,3,16] y) {
        td = DequantizeLinear (t, s, z)
        e = Gather (td, x)
        q = QuantizeLinear (e, s, z)
        y = DequantizeLinear (q, s, z)
    }""", t=ints(np.uint8, 40, 16), s=np.float32(.02), z=np.uint8(131))
    feeds = {"x": np.array([[0, 39, 7], [7, 1, -1]])}
    found, ops, _ = convert(model, feeds, tmp_path)
    assert ops == {"Gather": 1, "DequantizeLinear": 1}
    np.testing.assert_array_equal(found, reference(model, feeds, tmp_path))


@pytest.mark.parametrize("static", [True, False])
def test_a_table_that_is_a_weight_too_is_stored_once(tmp_path: Path, static: bool) -> None:
    table = ints(np.int8, 40, 16)
    model = network("""g (int64[2,3] x) => (float[2,3,40] y) {
        td = DequantizeLinear <axis = 0> (t, ts)
        e = Gather (td, x)
        q = QuantizeLinear (e, s, z)
        d = DequantizeLinear (q, s, z)
        wd = DequantizeLinear <axis = 1> (w, ts)
        y = MatMul (ACTIVATION, wd)
    }""".replace("ACTIVATION", "d" if static else "e"), t=table, w=table.T.copy(), ts=scales(40), s=np.float32(.02),
        z=np.uint8(128))
    feeds = {"x": np.array([[0, 39, 7], [7, 1, -1]])}
    found, ops, _ = convert(model, feeds, tmp_path)
    assert "Transpose" not in ops, "it folds when the session loads"
    assert ("MatMul" in ops) != static
    expected = reference(model, feeds, tmp_path)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    stored = [tensor for tensor in onnx.load(tmp_path / "bundle" / MODEL).graph.initializer if len(tensor.dims) == 2]
    assert [list(tensor.dims) for tensor in stored if tensor.data_type == onnx.TensorProto.INT8] == [[40, 16]]


@pytest.mark.parametrize("op", ["MatMul (xd, wd)", "Gemm (xd, wd)"])
@pytest.mark.parametrize("dtype", [np.int8, ml_dtypes.int4])
def test_blocks_and_static_activations_never_meet_in_a_kernel(tmp_path: Path, op: str, dtype: Any) -> None:
    model = network("""g (float[3,64] x) => (float[3,24] y) {
        xq = QuantizeLinear (x, xs, xz)
        xd = DequantizeLinear (xq, xs, xz)
        wd = DequantizeLinear <axis = 0, block_size = 32> (w, ws)
        m = OP
        yq = QuantizeLinear (m, ys, yz)
        y = DequantizeLinear (yq, ys, yz)
    }""".replace("OP", op), w=ints(dtype, 64, 24), ws=scales(2, 24), xs=np.float32(.03), xz=np.uint8(120),
        ys=np.float32(OUT), yz=np.uint8(99))
    found, _, artifact = convert(model, {"x": ROWS[0]}, tmp_path)
    np.testing.assert_allclose(found, reference(model, {"x": ROWS[0]}, tmp_path), rtol=0, atol=1.01 * OUT)
    assert [node.reason for node in artifact.float_nodes] == ["integer kernels know no blocks"]


def test_signed_activations_of_a_residual_network_fuse(tmp_path: Path) -> None:
    """The engine's own shift to uint8 stops at a value with two readers, and at a constant operand."""
    ws, grid = scales(3), {"s": np.float32(.04), "z": np.int8(-5)}
    model = network("""g (float[1,3,9,7] x) => (float[1,3,9,7] y) {
        xq = QuantizeLinear (x, s, z)
        xa = DequantizeLinear (xq, s, z)
        wd = DequantizeLinear <axis = 0> (w, ws)
        c = Conv <pads = [1,1,1,1]> (xa, wd)
        cq = QuantizeLinear (c, s, z)
        cd = DequantizeLinear (cq, s, z)
        a = Add (cd, xa)
        aq = QuantizeLinear (a, s, z)
        ad = DequantizeLinear (aq, s, z)
        kd = DequantizeLinear (k, s, z)
        m = Mul (ad, kd)
        mq = QuantizeLinear (m, s, z)
        y = DequantizeLinear (mq, s, z)
    }""", w=ints(np.int8, 3, 3, 3, 3), ws=ws, k=ints(np.int8, 3, 1, 1), **grid)
    found, ops, artifact = convert(model, {"x": X}, tmp_path)
    assert ops == {"QuantizeLinear": 1, "QLinearConv": 1, "QLinearAdd": 1, "QLinearMul": 1, "DequantizeLinear": 1}
    assert not artifact.float_nodes
    # One step from the convolution, carried through Add, and rounded and scaled (at most 5) by Mul.
    np.testing.assert_allclose(found, reference(model, {"x": X}, tmp_path), rtol=0, atol=7 * .04)


def test_zeros_before_a_max_pool_stay_zeros(tmp_path: Path) -> None:
    """All values are below zero, so every window at the edge has the padding for its maximum."""
    model = network("""g (float[1,3,9,7] x) => (float[1,3,4,4] y) {
        a = Exp (x)
        n = Neg (a)
        p = Pad (n, pads)
        y = MaxPool <kernel_shape = [3,2], strides = [2,2], pads = [0,0,0,0]> (p)
    }""", pads=np.array([0, 0, 1, 1, 0, 0, 0, 1]))
    moved = "Pad" not in kernels_as_given(model, tmp_path)
    assert moved == matches(onnxruntime.__version__, "<1.32")  # it left such a Pad alone since; devices have older ones
    found, ops, _ = convert(model, {"x": X}, tmp_path)
    assert ops["Pad"] == 1
    np.testing.assert_array_equal(found, reference(model, {"x": X}, tmp_path))


def test_the_given_model_is_not_changed(tmp_path: Path) -> None:
    model = conv(ints(ml_dtypes.int4, 5, 3, 3, 3), np.int8)
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    emit(model, tmp_path, EmitOptions())
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_what_the_engine_does_not_need_is_left_out(tmp_path: Path) -> None:
    model = network(CONV.replace("(b, bs)", "(b, bs, bz)"), w=ints(np.int8, 5, 3, 3, 3), ws=scales(5),
                    bs=scales(5, seed=8), b=np.arange(5, dtype=np.int32), bz=np.zeros(5, np.int32), xs=np.float32(.03),
                    xz=np.uint8(120), ys=np.float32(.03), yz=np.uint8(120))
    for node in model.graph:
        node.name = f"{node.outputs[0].name}_{node.op_type}"
    as_given = kernels_as_given(model, tmp_path)
    found, ops, _ = convert(model, {"x": X}, tmp_path)
    assert ops == as_given
    np.testing.assert_array_equal(found, session(tmp_path / "given.onnx", None, tmp_path).run(None, {"x": X})[0])
    graph = onnx.load(tmp_path / "bundle" / MODEL).graph
    assert not graph.value_info
    assert [node.name for node in graph.node if node.name] == ["c_Conv"]  # for messages of the engine
    assert [list(node.input) for node in graph.node if node.input[0] == "b"] == [["b", "bs"]]
    assert {constant.name for constant in graph.initializer} == {"w", "ws", "wd_zero_point", "b", "bs", "xs", "xz"}


MASKED = "g (float[2,40,41] x) => (float[2,40,41] y) { y = Add (x, mask) }"


@pytest.mark.parametrize("number", [-10000, -np.inf, np.finfo(np.float32).min, 1])
@pytest.mark.parametrize(("cut", "diagonal"), [(np.triu, 0), (np.triu, 1), (np.tril, 0), (np.tril, -1)])
@pytest.mark.parametrize("shape", [(40, 41), (2, 40, 41)])
def test_a_causal_mask_is_computed_at_load(tmp_path: Path, shape: tuple[int, ...], cut: Any, diagonal: int,
                                           number: float) -> None:
    mask = cut(np.full(shape, number, np.float32), diagonal)
    x = np.full((2, 40, 41), -0., np.float32)  # keeps the sign of a zero
    emit(network(MASKED, mask=mask), tmp_path, EmitOptions())
    found = session(tmp_path / MODEL, None, tmp_path).run(None, {"x": x})[0]
    assert found.tobytes() == np.asarray(x + mask).tobytes()
    assert kernels(tmp_path) == {"Add": 1}
    assert (tmp_path / MODEL).stat().st_size < 512


@pytest.mark.parametrize(("place", "number"), [((1, 3, 2), 1), ((0, 39, 0), -0.), ((1, 20, 19), 1e-30), ((0, 0, 7), 2)])
def test_what_is_almost_a_mask_is_stored(tmp_path: Path, place: tuple[int, ...], number: float) -> None:
    mask = np.triu(np.full((2, 40, 41), -10000, np.float32), 1)
    mask[place] = number
    emit(network(MASKED, mask=mask), tmp_path, EmitOptions())
    stored, = ir.load(tmp_path / MODEL).graph.initializers.values()
    assert stored.const_value.tobytes() == mask.tobytes()


@pytest.mark.parametrize("batch", [2, "N"])
def test_outputs_keep_their_shapes(tmp_path: Path, batch: int | str) -> None:
    model = network(f"g (float[{batch},3] x) => (float[{batch},3] y, float[{batch},3] z) {{ y = Relu (x) a = Neg (y) "
                    "z = Relu (a) }")
    emit(model, tmp_path, EmitOptions())
    written = session(tmp_path / MODEL, None, tmp_path, fused=False)
    assert [(value.name, value.type, value.shape) for value in written.get_outputs()] == [
        (name, "tensor(float)", [batch, 3]) for name in "yz"]


def test_large_weights_have_a_file_of_their_own(tmp_path: Path) -> None:
    text = MATMUL.replace("AXIS", "0").replace("BLOCK", ", block_size = 32").replace("64", "2048").replace("24", "1024")
    model = network(text, w=ints(ml_dtypes.int4, 2048, 1024), ws=scales(64, 1024))
    rows = normal(2, 3, 2048)
    found, _, artifact = convert(model, {"x": rows}, tmp_path)
    files = {path.name: path.stat().st_size for path in (tmp_path / "bundle").iterdir()}
    assert set(files) == {MODEL, DATA}
    assert files[MODEL] < 4096
    assert 1 <= files[DATA] / (2048 * 1024 / 2 + 64 * 1024 * 4) < 1.01
    check_matmul_nbits(model, found, artifact, {"x": rows}, tmp_path)


def test_is_opset_21_and_ir_10(tmp_path: Path) -> None:
    emit(conv(ints(np.int8, 5, 3, 3, 3)), tmp_path, EmitOptions())
    written = onnx.load(tmp_path / MODEL)
    assert written.ir_version == 10
    assert [(opset.domain, opset.version) for opset in written.opset_import] == [("", 21)]
    onnx.checker.check_model(written, full_check=True)


def test_refuses_every_node_of_a_foreign_domain(tmp_path: Path) -> None:
    model = network("""g (float[2] x) => (float[2] y) { a = Relu (x) y = Relu (a) }""")
    for node in model.graph:
        node.domain = "acme"
    with pytest.raises(UnsupportedModel, match="2 nodes cannot run on onnxruntime") as caught:
        emit(model, tmp_path, EmitOptions())
    assert "no domain 'acme'" in str(caught.value)
    assert not list(tmp_path.iterdir())
