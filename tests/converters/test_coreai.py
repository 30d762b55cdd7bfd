"""The Core AI backend beyond the shared table: what is in the file, what is refused, and Apple's runtime in a child.

Runs where coreai-core is installed (`pip install 'edgeq[coreai]'`).
"""
from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from opcases import CASES, build, run_onnxruntime, sample
from small_graphs import feeds, network, normal, residual, with_weights

import edgeq_runtime
from edgeq import convert
from edgeq.backend import About, EmitOptions, backend_named
from edgeq.errors import UnsupportedModel
from edgeq.metrics import sqnr
from edgeq.verification.layers import compare_layers
from edgeq.verification.mlpackage import open_package
from edgeq_converters.coreai import emit
from edgeq_converters.coreml.backend import write_package
from edgeq_runtime.engines.coreai import Child, check_format
from edgeq_runtime.errors import EngineError

pytest.importorskip("coreai", reason="coreai-core is not installed")
FLOAT32 = EmitOptions(precision="float32")


@pytest.fixture(scope="module")
def child() -> Iterator[Any]:
    process = Child()
    yield process
    process.close()


def text(entry: Path) -> str:
    """The written program, as the package prints it."""
    from coreai.authoring import AIModelAsset

    return str(AIModelAsset.load(entry).program)


def exact(model: ir.Model, folder: Path, child: Any, **given: NDArray[Any]) -> str:
    """Write in float32 and compare with onnxruntime; rounding aside, nothing may differ -> the program."""
    artifact = emit(model, folder, FLOAT32)
    child.open(folder / artifact.entry)
    found = child.run(given)
    for name, expected in run_onnxruntime(model, given).items():
        assert found[name].dtype == expected.dtype
        np.testing.assert_allclose(found[name], expected, rtol=0, atol=2e-6 * float(np.abs(expected).max()))
    return text(folder / artifact.entry)


@pytest.mark.parametrize("kind", ["Conv", "MatMul", "Gather"])
@pytest.mark.parametrize(("bits", "granularity"), [(8, "tensor"), (8, "channel"), (4, "channel"), (4, "block"),
                                                   (8, "block")])
def test_weights_stay_integers(kind: str, bits: int, granularity: str, tmp_path: Path, child: Any) -> None:
    if kind == "Conv" and granularity == "block":
        pytest.skip("ONNX's blocks of a convolution's weights do not divide 16 channels")
    model, x = with_weights(kind, bits, granularity)
    program = exact(model, tmp_path, child, **{"i" if kind == "Gather" else "x": x})
    assert program.count("coreai.blockwise_shift_scale") == 1
    sizes = {"Conv": "6x16x2x5", "MatMul": "6x160", "Gather": "6x160"}[kind]
    assert f"tensor<{sizes}xsi{bits}>" in program or f"tensor<160x6xsi{bits}>" in program


def test_two_integers_of_four_bits_share_a_byte(tmp_path: Path) -> None:
    sizes = []
    for bits in (8, 4):
        folder = tmp_path / str(bits)
        folder.mkdir()
        emit(with_weights("MatMul", bits, "channel")[0], folder, FLOAT32)
        sizes.append(sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()))
    assert sizes[0] - sizes[1] > 0.9 * 480  # less what the two say of their types


def test_sixteen_numbers_a_channel_are_four_bits(tmp_path: Path, child: Any) -> None:
    """A weight of 8 bits in standard ONNX whose channels have few numbers loses nothing."""
    codes = np.random.default_rng(0).choice([-127, -90, -40, -3, 0, 2, 11, 55, 127], (160, 6)).astype(np.int8)
    model = network("""g (float[3,160] x) => (float[3,6] y) {
        w = DequantizeLinear <axis = 1> (q, s)  y = MatMul (x, w) }""",
                    q=codes, s=np.linspace(0.01, 0.1, 6).astype(np.float32))
    program = exact(model, tmp_path, child, x=normal(3, 160))
    assert "coreai.lut_to_dense" in program
    assert "tensor<6x160xui4>" in program


def test_four_bits_are_not_what_the_package_makes_of_ml_dtypes() -> None:
    """Why the dialect's file packs them itself: an int4 array that the package is given comes out as other numbers."""
    from coreai.authoring import Module, int4
    from coreai.authoring.constant import constant

    with Module.create():
        value = constant(np.array([1, -2, 3, 4], ml_dtypes.int4), dtype=int4)
        assert "dense<[1, -2, 3, 4]>" not in str(value)


@pytest.mark.parametrize(("bits", "least"), [(32, 120), (16, 55), (8, 25)])
def test_a_bundle_is_run_by_apples_runtime(bits: int, least: float, tmp_path: Path) -> None:
    """Through the pipeline: verified on the way, opened by the runtime, near float, self-test and all."""
    samples = feeds((1, 3, 9, 7), 24)
    bundle = convert(residual(), target="coreai", bits=bits, calibration=samples if bits == 8 else None,
                     output=tmp_path / "b")
    x = normal(1, 3, 9, 7, seed=7)
    with edgeq_runtime.load(bundle.path) as opened:
        assert (opened.engine, opened.accelerator) == ("Core AI 1.0.0b3", "CPU")
        assert opened.self_test().ok
        found = opened.run({"x": x})["y"]
    expected = run_onnxruntime(residual(), {"x": x})["y"]
    assert sqnr(expected, found) > least


def test_layers_are_those_of_the_graph(tmp_path: Path) -> None:
    """What the runtime holds inside, integers where there is a grid; and a scale that is off by a tenth is seen."""
    samples = feeds((1, 3, 9, 7), 24)
    bundle = convert(residual(), target="coreai", calibration=samples, output=tmp_path / "b").path
    layers = compare_layers(bundle, residual(), samples[:2]).layers
    seen = {layer.value: layer for layer in layers}
    assert {"r", "t", "y"} <= seen.keys()
    assert min(layer.sqnr_db for layer in layers) > 20
    assert seen["t"].range_used is not None


def test_every_refusal_is_said_at_once(tmp_path: Path) -> None:
    model = network("""g (float[1,4] x, float[1,8,8] z) => (float[1,4] y, float[1,8,5,2] d) {
        a = Multinomial <sample_size = 4> (x)  y = Cast <to = 1> (a)
        t = Unsqueeze (z, axes)  d = DFT <onesided = 1> (t, , axis) }""",
                    axes=np.array([3]), axis=np.array(2))
    with pytest.raises(UnsupportedModel) as refused:
        emit(model, tmp_path, FLOAT32)
    for name in ("Multinomial", "DFT"):
        assert name in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_if_is_written_for_fixed_sizes_alone(tmp_path: Path) -> None:
    model = network("""g (float[N,4] x, bool c) => (float[N,4] y) { y = If (c) <
        then_branch = t () => (float[N,4] p) { p = Relu (x) },
        else_branch = e () => (float[N,4] q) { q = Neg (x) }> }""")
    with pytest.raises(UnsupportedModel, match="bodies of If are written for fixed sizes, so it needs 'N'"):
        convert(model, target="coreai", bits=32, inputs={"x": ("1..8", 4)}, output=tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_an_if_between_constants(tmp_path: Path) -> None:
    """The package's compiler cannot finish its own form of it."""
    model = network("""g (bool c) => (float[2] y) { y = If (c) <
        then_branch = t () => (float[2] p) { p = Constant <value = float[2] {1.0, 2.0}> () },
        else_branch = e () => (float[2] q) { q = Constant <value = float[2] {3.0, 4.0}> () }> }""")
    bundle = convert(model, target="coreai", bits=32, output=tmp_path / "b")
    with edgeq_runtime.load(bundle.path) as opened:
        for chosen, expected in ((True, [1, 2]), (False, [3, 4])):
            assert list(opened.run({"c": np.array(chosen)})["y"]) == expected


def test_the_file_says_what_it_is(tmp_path: Path) -> None:
    """As Apple's package reads it."""
    from coreai.authoring import AIModelAsset

    about = About("Ada", "MIT", "two kinds", "1.2", labels=("cat", "Übel"))
    artifact = emit(network("g (float[1,4] x) => (float[1,4] y) { y = Relu (x) }"), tmp_path,
                    EmitOptions(precision="float32", about=about))
    said = AIModelAsset.load(tmp_path / artifact.entry).metadata
    assert (said.author, said.license, said.model_description) == ("Ada", "MIT", "two kinds")
    custom = json.loads((tmp_path / artifact.entry / "metadata.json").read_text())["creatorDefinedMetadata"]
    assert custom == {"version": "1.2", "labels": ["cat", "Übel"]}


def test_equal_models_are_equal_bytes(tmp_path: Path) -> None:
    written = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        emit(with_weights("Conv", 8, "channel")[0], tmp_path / name, FLOAT32)
        written.append([file.read_bytes() for file in sorted((tmp_path / name).rglob("*")) if file.is_file()])
    assert written[0] == written[1]


@pytest.mark.parametrize(("op", "expected"), [("ReduceSum", 0), ("ReduceProd", 1), ("ReduceMax", -np.inf),
                                              ("ReduceLogSum", -np.inf)])
def test_reductions_of_nothing(op: str, expected: float, tmp_path: Path, child: Any) -> None:
    """The runtime leaves such results unwritten, so they are written here."""
    emit(network(f"g (float[2,0,3] x) => (float[2,1,3] y) {{ y = {op} (x, axes) }}", axes=np.array([1])), tmp_path,
         FLOAT32)
    child.open(tmp_path / "model.aimodel")
    np.testing.assert_array_equal(child.run({"x": np.zeros((2, 0, 3), np.float32)})["y"], np.full((2, 1, 3), expected))


@pytest.mark.full
@pytest.mark.parametrize("part", range(4))
def test_the_core_ml_interpreter_computes_what_apples_runtime_does(part: int, tmp_path: Path, child: Any) -> None:
    """Both from the same handlers, over every row of the table that both take, in float32."""
    pytest.importorskip("coremltools")
    compared = 0
    for case in CASES[part::4]:
        folder = tmp_path / case.id
        folder.mkdir()
        model, given = build(case), sample(case)
        try:
            artifact = write_package(model, folder / "a.mlpackage", EmitOptions(), "float32")
            apple = emit(model, folder, FLOAT32)
        except UnsupportedModel:
            continue
        program = open_package(folder / artifact.entry, precision="float32")
        shapes = {spec.name: spec.shape for spec in program.inputs}
        names = {name: artifact.names.get(name, name) for name in given}
        ours = program.run({names[name]: data.reshape(shapes[names[name]]) for name, data in given.items()})
        child.open(folder / apple.entry)
        for name, right in child.run(given).items():
            found = np.asarray(ours[artifact.names.get(name, name)]).reshape(right.shape)
            bound = 1e-5 * float(np.abs(right[np.isfinite(right)]).max(initial=1e-3))
            np.testing.assert_allclose(found.astype(np.float64), right.astype(np.float64), rtol=0, atol=bound,
                                       err_msg=case.id)
        compared += 1
    assert compared > 100


# ---------------------------------------------------------------------- the engine
def test_a_process_that_ends_is_an_error_of_ours(tmp_path: Path) -> None:
    """Core AI divides integers by zero with an illegal instruction: the caller lives."""
    model = network("g (int32[3] x) => (int32[3] y) { y = Div (one, x) }", one=np.ones(3, np.int32))
    emit(model, tmp_path, FLOAT32)
    mine = Child()
    mine.open(tmp_path / "model.aimodel")
    assert list(mine.run({"x": np.array([1, 2, -1], np.int32)})["y"]) == [1, 0, -1]
    with pytest.raises(EngineError, match="Core AI cannot run the model: its process ended, SIG"):
        mine.run({"x": np.array([1, 0, 2], np.int32)})
    mine.close()


@pytest.mark.parametrize(("version", "message"), [("1.0", "its format is 1.0"), ("3.1", "its format is 3.1")])
def test_another_format_is_refused(version: str, message: str, tmp_path: Path) -> None:
    emit(with_weights("MatMul", 8, "tensor")[0], tmp_path, FLOAT32)
    file = tmp_path / "model.aimodel/metadata.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "assetVersion": version}))
    with pytest.raises(EngineError, match=message):
        check_format(tmp_path / "model.aimodel")


def test_numbers_of_every_type_go_in_and_out(tmp_path: Path, child: Any) -> None:
    """As ONNX has them: nothing is narrowed at the interface."""
    given: Mapping[str, NDArray[Any]] = {
        "a": np.array([2**40, -5]), "b": np.array([200, 3], np.uint8), "c": np.array([True, False]),
        "d": np.array([0.5, -2], np.float16)}
    model = network("""g (int64[2] a, uint8[2] b, bool[2] c, float16[2] d) =>
        (int64[2] p, uint8[2] q, bool[2] r, float16[2] s) {
        p = Add (a, a)  q = Add (b, b)  r = Not (c)  s = Add (d, d) }""")
    exact(model, tmp_path, child, **given)


def test_it_is_offered_with_its_systems() -> None:
    backend = backend_named("coreai")
    assert backend.systems == (27,)
    assert not set(backend.systems) & set(backend_named("coreml").systems)
