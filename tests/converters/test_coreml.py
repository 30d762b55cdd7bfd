"""The Core ML backend beyond the shared table: what is in the file, per OS version, and what is refused."""
from __future__ import annotations

import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from opcases import run_onnxruntime
from small_graphs import network, normal, with_weights
from zoo_models import MODELS, needs_zoo, zoo

from edgeq.backend import Artifact, EmitOptions
from edgeq.errors import MissingExtra, UnsupportedModel, UsageError, VerificationError
from edgeq.verification.mlpackage import open_package
from edgeq_converters.coreml import emit
from edgeq_converters.coreml.backend import write_package
from edgeq_converters.coreml.package import blobs

FLOAT16, FLOAT32, UINT8, INT8, INT4, UINT4 = 1, 2, 3, 4, 8, 11  # type codes of weight.bin


def ops(package: Path) -> Counter[str]:
    """How often each MIL op occurs, constants aside; read from the written file."""
    from coremltools.models.utils import load_spec

    (function,) = load_spec(str(package)).mlProgram.functions.values()
    (block,) = function.block_specializations.values()
    return Counter(op.type for op in block.operations if op.type != "const")


def run(package: Path, artifact: Artifact, feeds: dict[str, NDArray[Any]], precision: str) -> dict[str, NDArray[Any]]:
    program = open_package(package, precision=precision)
    return program.run({artifact.names.get(name, name): data for name, data in feeds.items()})


def exact(model: ir.Model, folder: Path, options: EmitOptions, **feeds: NDArray[Any]) -> Path:
    """Write in float32 and compare with onnxruntime; rounding aside, nothing may differ -> the package."""
    package = folder / "exact.mlpackage"
    artifact = write_package(model, package, options, "float32")
    found = run(package, artifact, feeds, "float32")
    for name, expected in run_onnxruntime(model, feeds).items():
        bound = 2e-6 * float(np.abs(expected).max())
        np.testing.assert_allclose(found[artifact.names.get(name, name)], expected, rtol=0, atol=bound)
    return package


# min_os, bits, granularity -> ops that hold the weight, the type code of its blob, factors after the layer
STORED = [
    (18, 8, "tensor", "constexpr_blockwise_shift_scale", INT8, 0),
    (18, 8, "channel", "constexpr_blockwise_shift_scale", INT8, 0),
    (17, 8, "channel", "constexpr_affine_dequantize", INT8, 0),
    (16, 8, "tensor", "constexpr_affine_dequantize", INT8, 0),
    (18, 4, "tensor", "constexpr_lut_to_dense", UINT4, 0),
    (18, 4, "channel", "constexpr_lut_to_dense", UINT4, 0),
    (17, 4, "channel", "constexpr_lut_to_dense", UINT8, 1),
    (16, 4, "channel", "constexpr_lut_to_dense", UINT8, 1),
    (16, 4, "tensor", "constexpr_lut_to_dense", UINT8, 0),
]


@pytest.mark.parametrize("kind", ["Conv", "MatMul", "Gather"])
@pytest.mark.parametrize(("min_os", "bits", "granularity", "holder", "code", "factors"), STORED)
def test_weights_stay_integers(kind: str, min_os: int, bits: int, granularity: str, holder: str, code: int,
                               factors: int, tmp_path: Path) -> None:
    model, x = with_weights(kind, bits, granularity)
    package = exact(model, tmp_path, EmitOptions(min_os=min_os), **{"i" if kind == "Gather" else "x": x})
    found = ops(package)
    assert found[holder] == 1
    assert found["mul"] == factors
    assert (code, 960 * bits // 8) in blobs(package)


@pytest.mark.parametrize("min_os", [16, 18])
@pytest.mark.parametrize("bits", [4, 8])
def test_a_zero_point_of_the_tensor_is_part_of_the_weight(min_os: int, bits: int, tmp_path: Path) -> None:
    model, x = with_weights("Conv", bits, "tensor", zero_point=3)
    exact(model, tmp_path, EmitOptions(min_os=min_os), x=x)


@pytest.mark.parametrize("bits", [4, 8])
def test_blocks_only_on_the_gpu(bits: int, tmp_path: Path) -> None:
    model, x = with_weights("MatMul", bits, "block")
    with pytest.raises(UnsupportedModel, match=r"Neural Engine.*--weights per-channel, or --compute gpu"):
        emit(model, tmp_path, EmitOptions())
    with pytest.raises(UnsupportedModel, match="need iOS 18"):
        emit(model, tmp_path, EmitOptions(min_os=17, compute="gpu"))
    assert not list(tmp_path.iterdir())
    package = exact(model, tmp_path, EmitOptions(compute="gpu"), x=x)
    assert ({4: INT4, 8: INT8}[bits], 960 * bits // 8) in blobs(package)


def test_short_channels_share_a_table(tmp_path: Path) -> None:
    """A depthwise kernel has 9 weights a channel: a table of 16 entries for each would be larger than floats."""
    q, s = np.random.default_rng(0).integers(-7, 8, (24, 1, 3, 3)), np.linspace(0.01, 0.2, 24, dtype=np.float32)
    model = network("""g (float[1,24,9,7] x) => (float[1,24,7,5] y) {
        w = DequantizeLinear <axis = 0> (q, s)  y = Conv <group = 24> (x, w, b) }""",
        q=q.astype(ml_dtypes.int4), s=s, b=normal(24))
    package = exact(model, tmp_path, EmitOptions(), x=normal(1, 24, 9, 7))
    assert (UINT4, 108) in blobs(package)
    assert sum(size for _, size in blobs(package)) < 400


def test_weights_written_at_8_bits_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """numpy drops coremltools' 4-bit types easily, and coremltools then stores bytes without a word."""
    from edgeq_converters.coreml import weights

    right = weights._typed
    monkeypatch.setattr(weights, "_typed", lambda data, name: right(data, "int8"))
    model, _ = with_weights("MatMul", 4, "block")
    with pytest.raises(VerificationError, match="480 bytes of 4-bit weights expected"):
        emit(model, tmp_path, EmitOptions(compute="gpu"))


# ---------------------------------------------------------------------- activations
def on_a_grid(zero_point: int) -> ir.Model:
    """A convolution whose output grid is the ReLU: quantizers drop the node."""
    return network("""g (float[1,3,8,6] x) => (float[1,4,6,4] y) {
        xq = QuantizeLinear (x, sx, zx)  xd = DequantizeLinear (xq, sx, zx)
        c = Conv (xd, w)
        q = QuantizeLinear (c, sy, zy)  d = DequantizeLinear (q, sy, zy)
        y = Neg (d)
    }""", sx=np.float32(0.03), zx=np.uint8(121), sy=np.float32(0.02), zy=np.uint8(zero_point), w=normal(4, 3, 3, 3))


@pytest.mark.parametrize("zero_point", [0, 128, 77])
def test_grids_are_quantize_and_dequantize(zero_point: int, tmp_path: Path) -> None:
    package = exact(on_a_grid(zero_point), tmp_path, EmitOptions(min_os=17), x=normal(1, 3, 8, 6))
    assert (ops(package)["quantize"], ops(package)["dequantize"]) == (2, 2)


def test_without_quantize_the_range_still_holds(tmp_path: Path) -> None:
    model, x = on_a_grid(0), normal(1, 3, 8, 6)
    artifact = emit(model, tmp_path, EmitOptions(min_os=16))
    package = tmp_path / artifact.entry
    assert ops(package)["quantize"] == 0
    found = run(package, artifact, {"x": x}, "float16")["y"]
    (expected,) = run_onnxruntime(model, {"x": x}).values()
    assert found.max() == 0.0  # the ReLU that only the grid performs
    np.testing.assert_allclose(found, expected, atol=0.2)  # input steps of 0.03 over 27 products


def test_quantized_inputs_and_outputs_are_exact_in_float16(tmp_path: Path) -> None:
    """Neither the input nor the output passes through float16 on its way to or from its grid."""
    model = network("""g (float[1,999] x) => (float[1,999] y) {
        q = QuantizeLinear (x, s, z)  y = DequantizeLinear (q, s, z) }""", s=np.float32(0.0123), z=np.uint8(131))
    x = normal(1, 999)
    artifact = emit(model, tmp_path, EmitOptions())
    found = run(tmp_path / artifact.entry, artifact, {"x": x}, "float16")["y"]
    np.testing.assert_array_equal(found, run_onnxruntime(model, {"x": x})["y"])


# ---------------------------------------------------------------------- the interface
def test_names_and_types_of_the_interface(tmp_path: Path) -> None:
    model = network("""g (float[2,3] state, int64[2] at, bool[2,3] m) => (float[2,3] y, int64[2] n, bool[2,3] p) {
        a = Relu (state)  y = Where (m, a, state)  n = Add (at, at)  p = Not (m) }""")
    model.graph.inputs[1].name, model.graph.outputs[0].name = "0/at:0", "y.out"
    artifact = emit(model, tmp_path, EmitOptions(compute="all"))
    assert dict(artifact.names) == {"state": "state_", "0/at:0": "v0_at_0", "y.out": "y_out"}
    assert artifact.options == {"compute_units": "all", "min_os": 18}
    program = open_package(tmp_path / artifact.entry)
    assert [(spec.name, spec.dtype) for spec in (*program.inputs, *program.outputs)] == [
        ("state_", "float32"), ("v0_at_0", "int32"), ("m", "int32"),
        ("y_out", "float32"), ("n", "int32"), ("p", "int32")]
    found = program.run({"state_": np.full((2, 3), -1, np.float32), "v0_at_0": np.array([3, -4]),
                         "m": np.array([[1, 0, 1], [0, 0, 1]])})
    np.testing.assert_array_equal(found["y_out"], [[0, -1, 0], [-1, -1, 0]])
    np.testing.assert_array_equal(found["n"], [6, -8])
    np.testing.assert_array_equal(found["p"], [[0, 1, 0], [1, 1, 0]])


def test_outputs_that_are_inputs_constants_or_the_same(tmp_path: Path) -> None:
    model = network("""g (float[2,3] x) => (float[2,3] a, float[2,3] b, float[2,3] c, float[2] d) {
        a = Identity (x)  b = Relu (x)  c = Identity (b)  d = Identity (k) }""", k=normal(2))
    x = normal(2, 3)
    artifact = emit(model, tmp_path, EmitOptions())
    found = run(tmp_path / artifact.entry, artifact, {"x": x}, "float16")
    for name, expected in run_onnxruntime(model, {"x": x}).items():
        np.testing.assert_allclose(found[name], expected, atol=2e-3)


@pytest.mark.parametrize("min_os", [15, 19])
def test_other_systems(min_os: int, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="iOS 16, 17, 18 or 26"):
        emit(on_a_grid(0), tmp_path, EmitOptions(min_os=min_os))


def test_every_node_that_fails_is_named(tmp_path: Path) -> None:
    model = network("""g (float[2,3] x, int32[2,3] i) => (float[2,3] y) {
        a = Bernoulli (x)  b = Relu (a)  c = RandomUniformLike <dtype = 1> (i)  d = Neg (c)  y = Add (b, d) }""")
    with pytest.raises(UnsupportedModel) as caught:
        emit(model, tmp_path, EmitOptions())
    assert [problem.op for problem in caught.value.problems] == ["Bernoulli", "RandomUniformLike"]
    assert not list(tmp_path.iterdir())


def test_an_input_that_core_ml_cannot_take(tmp_path: Path) -> None:
    model = network("g (float[0,2,3] x, complex64[3] n) => (float[2,3] y) { y = ReduceSum <keepdims = 0> (x, a) }",
                    a=np.array([0]))
    with pytest.raises(UnsupportedModel, match=r"(?s)'x': an empty tensor.*'n': Core ML has no COMPLEX64 tensors"):
        emit(model, tmp_path, EmitOptions())


def test_a_body_that_fails_names_its_nodes(tmp_path: Path) -> None:
    model = network("""g (float[2,3] x, bool c) => (float[2,3] y) {
        y = If (c) <then_branch = t () => (float[2,3] u) { u = Bernoulli (x) },
                    else_branch = e () => (float[2,3] v) { v = Relu (x) }> }""")
    with pytest.raises(UnsupportedModel, match="in its body: Bernoulli"):
        emit(model, tmp_path, EmitOptions())


def test_without_coremltools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "coremltools", None)
    with pytest.raises(MissingExtra, match=r"edgeq\[coreml\]"):
        emit(on_a_grid(0), tmp_path, EmitOptions())


def test_importing_the_backend_imports_no_coremltools() -> None:
    import subprocess

    code = "import sys, edgeq_converters.coreml, edgeq_converters.coreml.table; print('coremltools' in sys.modules)"
    environment = {"PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == "False"


def test_conversion_is_silent_and_repeatable(tmp_path: Path, capfd: pytest.CaptureFixture[str],
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever was converted before: coremltools numbers what a handler does not name."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    written = []
    for name in ("temporary", "first", "second"):
        (tmp_path / name).mkdir()
    for name in ("first", "second", "second"):
        emit(network("g (float[1,3,8,6] x) => (float[1,3,2,1] y) { c = Conv (x, w)  y = AveragePool <kernel_shape = "
                     "[3, 2]> (c) }", w=normal(3, 3, 5, 5)), tmp_path / name, EmitOptions())
        written.append({path.name: path.read_bytes() for path in (tmp_path / name).rglob("*") if path.is_file()})
    assert written[0].keys() == {"model.mlmodel", "weight.bin", "Manifest.json"}
    assert written[0] == written[1] == written[2]
    assert not list((tmp_path / "temporary").iterdir())
    assert capfd.readouterr() == ("", "")


# ---------------------------------------------------------------------- what float16 and MIL would get wrong
def test_several_threads_at_once(tmp_path: Path) -> None:
    """coremltools keeps the block in the making in one list for all threads."""
    layers = " ".join(f"a{n + 1} = Conv <pads = [1, 1, 1, 1]> (a{n}, w)" for n in range(12))
    model = network(f"g (float[1,2,5,4] a0) => (float[1,2,5,4] y) {{ {layers}  y = Relu (a12) }}",
                    w=normal(2, 2, 3, 3) / 4)
    alone = tmp_path / "alone.mlpackage"
    write_package(model, alone, EmitOptions())
    packages = [tmp_path / f"{number}.mlpackage" for number in range(4)]
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(write_package, model, package, EmitOptions()) for package in packages]:
            done.result()
    for package in packages:
        assert all((package / file).read_bytes() == (alone / file).read_bytes() for file in (
            "Data/com.apple.CoreML/model.mlmodel", "Data/com.apple.CoreML/weights/weight.bin"))


def test_masks_do_not_become_nan(tmp_path: Path) -> None:
    """-3.4e38 is beyond float16; as -inf, two of them under a softmax are NaN."""
    lowest = np.finfo(np.float32).min
    mask = np.array([[0, lowest, lowest, 0], [lowest] * 4], np.float32)
    model = network("g (float[2,4] x) => (float[2,4] y) { a = Add (x, m)  b = Add (a, m)  y = Softmax (b) }", m=mask)
    x = normal(2, 4)
    artifact = emit(model, tmp_path, EmitOptions())
    found = run(tmp_path / artifact.entry, artifact, {"x": x}, "float16")["y"]
    np.testing.assert_allclose(found[0], run_onnxruntime(model, {"x": x})["y"][0], atol=2e-3)
    assert np.isfinite(found).all()


@pytest.mark.parametrize("flag", [True, False])
def test_a_condition_at_run_time(flag: bool, tmp_path: Path) -> None:
    model = network("""g (float[2,3] x, bool c) => (float[2,3] y) {
        y = If (c) <then_branch = t () => (float[2,3] u) { u = Relu (x) },
                    else_branch = e () => (float[2,3] v) { v = Add (x, k) }> }""", k=normal(2, 3))
    artifact = emit(model, tmp_path, EmitOptions())
    x = normal(2, 3)
    found = run(tmp_path / artifact.entry, artifact, {"x": x, "c": np.array([flag])}, "float16")["y"]
    expected = run_onnxruntime(model, {"x": x, "c": np.array(flag)})["y"]
    np.testing.assert_allclose(found, expected, atol=2e-3)


# ---------------------------------------------------------------------- precision
def test_what_leads_to_the_logarithm_of_a_power_is_float32(tmp_path: Path) -> None:
    """Squares below 6e-8 are 0 in float16, and log(1e-10) is 100 dB from where they are."""
    model = network("""g (float[1,1,400] x) => (float[1,4,393] y) {
        f = Conv (x, w)  p = Mul (f, f)  a = Add (p, e)  y = Log (a) }""", w=normal(4, 1, 8), e=np.float32(1e-10))
    x = normal(1, 1, 400, scale=1e-4)
    artifact = emit(model, tmp_path, EmitOptions())
    found = run(tmp_path / artifact.entry, artifact, {"x": x}, "float16")["y"]
    expected = run_onnxruntime(model, {"x": x})["y"]
    assert np.abs(found - expected).max() < 0.02  # of 8: a step of float16 there
    assert expected.min() > -23.1


def test_other_squares_stay_in_float16(tmp_path: Path) -> None:
    model = network("""g (float[1,4,40] x) => (float[1,4,40] y) {
        f = Mul (x, x)  r = Relu (f)  s = Sigmoid (r)  a = Add (s, e)  y = Log (a) }""", e=np.float32(1e-3))
    artifact = emit(model, tmp_path, EmitOptions())
    program = open_package(tmp_path / artifact.entry)
    kinds = {step.op: step.outputs[0].type.element.name for step in program.steps if step.outputs[0].type is not None}
    assert {kinds[name] for name in ("square", "mul", "log", "add") if name in kinds} == {"float16"}


@pytest.mark.parametrize(("scores", "kind"), [(300, "float32"), (5000, "float16")])
def test_the_mean_of_a_few_scores_is_float32(scores: int, kind: str, tmp_path: Path) -> None:
    """What float16 rounds off a mean is more than what 8 bits cost it; thousands of scores stay where they are fast."""
    model = network(f"""g (float[1,8,{scores}] x) => (float[1,1] y) {{
        a = Conv (x, w)  s = Sigmoid (a)  y = ReduceMean <keepdims = 0> (s, last) }}""", w=normal(1, 8, 1, scale=0.2),
        last=np.array([2]))
    x = normal(1, 8, scores)
    artifact = emit(model, tmp_path, EmitOptions())
    kinds = {step.op: step.outputs[0].type.element.name for step in open_package(tmp_path / artifact.entry).steps
             if step.outputs[0].type is not None}
    assert (kinds["conv"], kinds["sigmoid"], kinds["reduce_mean"]) == ("float16", kind, kind)
    error = np.abs(run(tmp_path / artifact.entry, artifact, {"x": x}, "float16")["y"]
                   - run_onnxruntime(model, {"x": x})["y"]).max()
    assert error < (2e-5 if kind == "float32" else 2e-3)


@pytest.mark.parametrize("precision", ["float16", "float32"])
def test_integers_that_the_graph_makes_itself(precision: Any, tmp_path: Path) -> None:
    """On a grid that it computes; float16 would move numbers to the neighbours on that grid."""
    model = network("""g (float[2,60] x) => (uint8[2,60] q, uint8 z, int32[2,4] n) {
        q, s, z = DynamicQuantizeLinear (x)  n = MatMulInteger (q, w, z) }""",
        w=np.random.default_rng(0).integers(0, 255, (60, 4)).astype(np.uint8))
    x = normal(2, 60, scale=3)
    package = tmp_path / "model.mlpackage"
    artifact = write_package(model, package, EmitOptions(), precision)
    found = run(package, artifact, {"x": x}, precision)
    for name, expected in run_onnxruntime(model, {"x": x}).items():
        np.testing.assert_array_equal(found[name].reshape(expected.shape), expected, err_msg=name)


@pytest.mark.parametrize(("kind", "saturate"), [("BFLOAT16", 1), *(
    (kind, saturate) for kind in ("FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ")
    for saturate in (0, 1))])
def test_numbers_rounded_to_small_floats(kind: str, saturate: int, tmp_path: Path) -> None:
    """Every number of the type, the ones half way to the next, and those beyond the largest."""
    to = int(ir.DataType[kind])
    model = network(f"""g (float[1,3000] x) => (float[1,3000] y) {{
        a = Cast <to = {to}, saturate = {saturate}> (x)  y = Cast <to = 1> (a) }}""")
    dtype = ir.DataType[kind].numpy()
    bits = np.arange(256, dtype=np.uint8).view(dtype) if dtype.itemsize == 1 else np.array([1.0], dtype)
    points = bits.astype(np.float32)
    points = np.sort(points[np.isfinite(points)])
    half = (points[1:] + points[:-1]) / 2
    other = normal(1, 3000 - len(points) - len(half) - 4, scale=50).ravel()
    x = np.concatenate([points, half, other, [1e6, -1e6, 6e4, -464.0]]).astype(np.float32).reshape(1, 3000)
    package = tmp_path / "model.mlpackage"
    artifact = write_package(model, package, EmitOptions(), "float32")
    found = run(package, artifact, {"x": x}, "float32")["y"]
    expected = run_onnxruntime(model, {"x": x})["y"]
    np.testing.assert_array_equal(found, expected)


def test_half_precision_weights_are_stored_so(tmp_path: Path) -> None:
    """What `--bits 16` makes of weights: Cast(float16 constant)."""
    model = network("""g (float[1,16,9,7] x) => (float[1,6,8,3] y) { f = Cast <to = 1> (w)  y = Conv (x, f) }""",
                    w=normal(6, 16, 2, 5).astype(np.float16))
    exact(model, tmp_path, EmitOptions(), x=normal(1, 16, 9, 7))
    artifact = emit(model, tmp_path, EmitOptions())
    assert blobs(tmp_path / artifact.entry) == [(FLOAT16, 1920)]


def test_one_number_chosen_everywhere_is_stored_once(tmp_path: Path) -> None:
    model = network("g (float[8,999] x, bool[8,999] c) => (float[8,999] y) { y = Where (c, k, x) }", k=np.float32(3.5))
    artifact = emit(model, tmp_path, EmitOptions())
    assert blobs(tmp_path / artifact.entry) == []
    c, x = normal(8, 999) > 0, normal(8, 999, seed=1).astype(np.float16).astype(np.float32)
    found = run(tmp_path / artifact.entry, artifact, {"x": x, "c": c.astype(np.int32)}, "float16")["y"]
    np.testing.assert_array_equal(found, np.where(c, np.float32(3.5), x))


# ---------------------------------------------------------------------- real models
@needs_zoo
@pytest.mark.parametrize("item", MODELS)
def test_real_models_in_float32(item: str, tmp_path: Path) -> None:
    """The float32 program is the lowering without float16: it must agree with onnxruntime to its rounding."""
    from edgeq.frontends import load_model

    feeds = next(iter(zoo().feeds(item, "calib", 1)))
    model = load_model(zoo().model(item), inputs={name: data.shape for name, data in feeds.items()})
    package = tmp_path / "model.mlpackage"
    artifact = write_package(model, package, EmitOptions(), "float32")
    found = run(package, artifact, {name: np.atleast_1d(data) for name, data in feeds.items()}, "float32")
    for name, expected in run_onnxruntime(model, feeds).items():
        bound = 3e-5 * max(1.0, float(np.abs(expected).max()))
        np.testing.assert_allclose(found[artifact.names.get(name, name)], expected, rtol=0, atol=bound)
