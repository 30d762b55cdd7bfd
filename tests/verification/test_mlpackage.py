"""The interpreter against packages that Apple's own converter wrote from torch modules, plain and compressed."""

from __future__ import annotations

import gc
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("coremltools", reason="writes the packages: pip install 'edgeq[coreml]'")
pytest.importorskip("torch", reason="the reference: pip install 'edgeq[torch]'")

from verification.mlpackage_edits import edit_model, find_ops, wrong_byte
from verification.mlpackage_modules import (
    CASES,
    COMPRESSIBLE,
    SCHEMES,
    SCHEMES_IOS16,
    Case,
    build,
    convert,
    expected,
    feeds,
    save,
)
from zoo_models import needs_zoo, zoo

from edgeq.errors import BundleError, InputError, UnsupportedModel, VerificationError
from edgeq.verification.mlpackage import Program, open_package

pytestmark = [
    # torch's tracer is deprecated and warns of every shape it fixes; Apple's converter has no other entry.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
    # Apple's converter names the outputs itself, and its palettizer warns in its own arithmetic.
    pytest.mark.filterwarnings("ignore::UserWarning:coremltools"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning:coremltools"),
    # An MLModel leaves its temporary folder to the garbage collector.
    pytest.mark.filterwarnings("ignore:Implicitly cleaning up:ResourceWarning"),
]

# Largest error relative to the largest output. float32: both sides sum in their own order (8e-7 in bilinear grids,
# whose places torch computes in float32). float16: its spacing is 2**-11 relative, and errors of a few ops add up.
TOLERANCE = {"float32": 1e-6, "float16": 1.5e-3}


@pytest.fixture(scope="module", autouse=True)
def _collect() -> Iterator[None]:
    """The models' folders are cleaned up here, where the warning about it is ignored, not in someone else's test."""
    yield
    gc.collect()


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """(name of a case, precision) -> its package, converted once."""
    folder = tmp_path_factory.mktemp("packages")
    cases = {case.name: case for case in (*CASES, COMPRESSIBLE)}

    def make(name: str, precision: str) -> Path:
        path = folder / f"{name}.{precision}.mlpackage"
        return path if path.exists() else save(convert(*build(cases[name]), precision), path)

    return make


def relative_error(outputs: dict[str, Any], wanted: tuple[Any, ...]) -> float:
    """The largest error, relative to the largest value of that output."""
    assert [output.shape for output in outputs.values()] == [value.shape for value in wanted]
    return max(
        float(np.abs(output.astype(np.float64) - value).max() / max(np.abs(value).max(), 1e-30))
        for output, value in zip(outputs.values(), wanted, strict=True)
    )


@pytest.mark.parametrize("precision", list(TOLERANCE))
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_computes_what_torch_computes(case: Case, precision: str, package: Callable[[str, str], Path]) -> None:
    module, inputs = build(case)
    outputs = open_package(package(case.name, precision)).run(feeds(inputs))
    assert relative_error(outputs, expected(module, inputs)) <= TOLERANCE[precision]


def test_float16_is_rounded_after_each_op(package: Callable[[str, str], Path]) -> None:
    """Without the rounding, a float16 program is closer to torch; with it, every value is a float16."""
    path = package("attention", "float16")
    module, inputs = build(next(case for case in CASES if case.name == "attention"))
    wanted = expected(module, inputs)
    rounded = relative_error(open_package(path).run(feeds(inputs)), wanted)
    unrounded = relative_error(open_package(path, precision="float32").run(feeds(inputs)), wanted)
    assert unrounded < rounded / 1.2
    name = open_package(path).value_names[-3]
    value = open_package(path).run(feeds(inputs), keep=[name])[name]
    assert value.size
    assert np.array_equal(value, value.astype(np.float16).astype(np.float32))


def _weights(program: Program) -> dict[tuple[str, str], Any]:
    return {key: array for key, array in program.constants.items() if key[1] in ("weight", "bias")}


# One row for each way of storing; the others differ in a width or a block, and run with the tests that take minutes.
QUICK = {("iOS18", "int4 block 32"), ("iOS18", "uint8 asymmetric"), ("iOS18", "palette 4 bit, group 16"),
         ("iOS18", "palette 4 bit, vectors of 2"), ("iOS18", "palette 4 bit, int8 table"),
         ("iOS18", "pruned 50 %, int8"), ("iOS16", "uint8 asymmetric"), ("iOS16", "palette 6 bit"),
         ("iOS16", "pruned 50 %")}
ROWS = [pytest.param(*row, marks=[] if row in QUICK else pytest.mark.full) for row in [
    *(("iOS18", name) for name in SCHEMES), *(("iOS16", name) for name in SCHEMES_IOS16)]]


@pytest.mark.parametrize(("target", "name"), ROWS)
def test_compressed_weights_are_bit_exact(target: str, name: str, tmp_path: Path) -> None:
    """Against coremltools' own decompress_weights: every weight equal, hence the outputs too."""
    from coremltools.optimize.coreml import decompress_weights

    module, inputs = build(COMPRESSIBLE)
    scheme = (SCHEMES if target == "iOS18" else SCHEMES_IOS16)[name]
    compressed = scheme(convert(module, inputs, "float16", target))
    small = open_package(save(compressed, tmp_path / "small.mlpackage"))
    dense = open_package(save(decompress_weights(compressed), tmp_path / "dense.mlpackage"))
    ours, theirs = _weights(small), _weights(dense)
    assert ours.keys() == theirs.keys()
    assert sum(array.size for array in ours.values()) == 26848
    assert {key: int((ours[key] != theirs[key]).sum()) for key in ours} == dict.fromkeys(ours, 0)
    assert _size(tmp_path / "small.mlpackage") < 0.7 * _size(tmp_path / "dense.mlpackage")
    for left, right in zip(small.run(feeds(inputs)).values(), dense.run(feeds(inputs)).values(), strict=True):
        assert np.array_equal(left, right)


def _size(package: Path) -> int:
    return (package / "Data/com.apple.CoreML/weights/weight.bin").stat().st_size


def test_a_changed_byte_of_a_weight_is_seen(package: Callable[[str, str], Path], tmp_path: Path) -> None:
    module, inputs = build(COMPRESSIBLE)
    broken = wrong_byte(package(COMPRESSIBLE.name, "float32"), tmp_path / "broken.mlpackage", offset=64 + 64 + 3)
    outputs = open_package(broken).run(feeds(inputs))
    assert not relative_error(outputs, expected(module, inputs)) <= TOLERANCE["float32"]


def test_a_wrong_epsilon_is_seen(package: Callable[[str, str], Path], tmp_path: Path) -> None:
    """1e-5 to 1e-4 in one layer norm."""
    case = next(case for case in CASES if case.name == "embedding")
    module, inputs = build(case)

    def change(program: Any) -> None:
        (norm,) = find_ops(program, "layer_norm")
        name = norm.inputs["epsilon"].arguments[0].name
        constant = next(op for op in find_ops(program, "const") if op.outputs[0].name == name)
        assert list(constant.attributes["val"].immediateValue.tensor.floats.values) == [pytest.approx(1e-5)]
        constant.attributes["val"].immediateValue.tensor.floats.values[0] = 1e-4

    broken = edit_model(package(case.name, "float32"), tmp_path / "broken.mlpackage", change)
    error = relative_error(open_package(broken).run(feeds(inputs)), expected(module, inputs))
    assert error > 3 * TOLERANCE["float32"]


def test_a_shape_that_is_not_the_declared_one_names_the_op(package: Callable[[str, str], Path], tmp_path: Path) -> None:
    def change(program: Any) -> None:
        find_ops(program, "matmul")[0].outputs[0].type.tensorType.dimensions[-1].constant.size += 1

    broken = edit_model(package("algebra", "float32"), tmp_path / "broken.mlpackage", change)
    _, inputs = build(next(case for case in CASES if case.name == "algebra"))
    with pytest.raises(VerificationError, match=r"matmul '.*' has shape \[.*\], but the program declares float32\["):
        open_package(broken).run(feeds(inputs))


def test_everything_that_cannot_run_is_named_at_once(package: Callable[[str, str], Path], tmp_path: Path) -> None:
    def change(program: Any) -> None:
        find_ops(program, "tanh")[0].type = "random_normal"
        find_ops(program, "relu")[0].type = "fly"
        linear = find_ops(program, "linear")[0]
        linear.inputs["gravity"].CopyFrom(linear.inputs["bias"])

    path = edit_model(package(COMPRESSIBLE.name, "float32"), tmp_path / "strange.mlpackage", change)
    with pytest.raises(UnsupportedModel) as refusal:
        open_package(path)
    text = str(refusal.value)
    assert "3 nodes" in text
    for words in ("random_normal", "fly", "no such operator", "the input gravity is not known here"):
        assert words in text
    program = open_package(path, allow_unsupported=True)
    assert sorted(problem.split(":")[0] for problem in program.unsupported) == ["fly", "linear", "random_normal"]
    with pytest.raises(UnsupportedModel):
        program.run(feeds(build(COMPRESSIBLE)[1]))


def test_apples_reciprocal_is_computed_as_written(tmp_path: Path) -> None:
    """coremltools 9.0 turns 1 / x into `inverse` with epsilon 1e-4: the interpreter shows what the program says."""
    import torch
    from verification.mlpackage_modules import Function

    x = torch.tensor([[0.01, 0.5, 2.0]])
    path = save(convert(Function(torch.reciprocal), (x,), "float32"), tmp_path / "reciprocal.mlpackage")
    (result,) = open_package(path).run(feeds((x,))).values()
    np.testing.assert_allclose(result, 1 / (x.numpy() + np.float32(1e-4)), rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda feed: {}, r"takes \['input_0'\], but was given \[\]"),
        (lambda feed: {"input_0": feed["input_0"][:, 1:]}, r"'input_0' has the shape \(1, 31, 9, 7\)"),
        (lambda feed: {"input_0": feed["input_0"].astype(str)}, "'input_0' is <U"),
    ],
)
def test_a_wrong_input_is_refused(change: Any, message: str, package: Callable[[str, str], Path]) -> None:
    program = open_package(package(COMPRESSIBLE.name, "float32"))
    with pytest.raises(InputError, match=message):
        program.run(change(feeds(build(COMPRESSIBLE)[1])))
    with pytest.raises(InputError, match="no such value in the program: nothing"):
        program.run(feeds(build(COMPRESSIBLE)[1]), keep=["nothing"])


def test_an_integer_that_does_not_fit_is_refused(package: Callable[[str, str], Path]) -> None:
    program = open_package(package("embedding", "float32"))
    with pytest.raises(InputError, match="'input_0' has values that int32 cannot hold"):
        program.run({"input_0": np.full((3, 7), 2**40)})


def _cut(name: str, keep: int) -> Callable[[Path], None]:
    def damage(package: Path) -> None:
        path = package / name
        path.write_bytes(path.read_bytes()[:keep])

    return damage


def _point_outside(package: Path) -> None:
    manifest = package / "Manifest.json"
    content = json.loads(manifest.read_text())
    content["itemInfoEntries"][content["rootModelIdentifier"]]["path"] = "../../elsewhere.mlmodel"
    manifest.write_text(json.dumps(content))


_MODEL = "Data/com.apple.CoreML/model.mlmodel"
_WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_cut("Manifest.json", 40), "Manifest.json"),
        (_cut(_MODEL, 500), "not a readable Core ML model"),
        (_cut(_MODEL, 0), "damaged model"),
        (_cut(_WEIGHTS, 30000), r"weight.bin at \d+"),
        (_cut(_WEIGHTS, 2), "not a weight file"),
        (_point_outside, "leaves the package"),
        (lambda package: (package / _WEIGHTS).unlink(), "weight.bin: cannot be read"),
    ],
)
def test_damaged_files_are_refused(
    damage: Any, message: str, package: Callable[[str, str], Path], tmp_path: Path
) -> None:
    path = tmp_path / "damaged.mlpackage"
    shutil.copytree(package(COMPRESSIBLE.name, "float32"), path)
    damage(path)
    with pytest.raises(BundleError, match=message):
        open_package(path)


def test_a_missing_package_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"nothing\.mlpackage is not a readable"):
        open_package(tmp_path / "nothing.mlpackage")


def test_neither_coremltools_nor_torch_is_imported(package: Callable[[str, str], Path]) -> None:
    """The schema is loaded without the package around it, which costs seconds."""
    code = (
        "import sys; from pathlib import Path; from edgeq.verification.mlpackage import open_package\n"
        f"open_package(Path({str(package(COMPRESSIBLE.name, 'float16'))!r}))\n"
        "print([name for name in ('coremltools', 'torch', 'onnx', 'onnxruntime') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_a_state_is_kept_between_runs(tmp_path: Path) -> None:
    """A running sum in a state, against numpy; a run without a state starts anew."""
    import coremltools as ct
    from coremltools.converters.mil import Builder
    from coremltools.converters.mil.mil import types

    @Builder.program(
        input_specs=[Builder.TensorSpec((2, 3), dtype=types.fp16), Builder.StateTensorSpec((2, 3), dtype=types.fp16)],
        opset_version=ct.target.iOS18,
    )
    def running(x: Any, total: Any) -> Any:
        return Builder.mul(
            x=Builder.coreml_update_state(state=total, value=Builder.add(x=x, y=Builder.read_state(input=total))),
            y=np.float16(2),
        )

    model = ct.convert(
        running,
        source="milinternal",
        convert_to="mlprogram",
        minimum_deployment_target=ct.target.iOS18,
        skip_model_load=True,
    )
    program = open_package(save(model, tmp_path / "state.mlpackage"))
    x = np.arange(6, dtype=np.float16).reshape(2, 3)
    state = program.make_state()
    results = [next(iter(program.run({"x": x}, state).values())) for _ in range(3)]
    for count, result in enumerate(results, 1):
        assert result.dtype == np.float16
        np.testing.assert_array_equal(result, 2 * count * x)
    np.testing.assert_array_equal(next(iter(program.run({"x": x}).values())), 2 * x)


def test_a_dimension_of_any_size(tmp_path: Path) -> None:
    """A program whose height is known at run time only."""
    import coremltools as ct
    import torch

    torch.manual_seed(1)
    module = torch.nn.Sequential(torch.nn.Conv2d(2, 4, 3, 2), torch.nn.Flatten(2), torch.nn.Softmax(-1)).eval()
    traced = torch.jit.trace(module, torch.zeros(1, 2, 9, 7))
    shape = ct.Shape((1, 2, ct.RangeDim(5, 40, 9), 7))
    model = ct.convert(
        traced,
        inputs=[ct.TensorType("x", shape=shape)],
        minimum_deployment_target=ct.target.iOS18,
        compute_precision=ct.precision.FLOAT32,
        skip_model_load=True,
    )
    program = open_package(save(model, tmp_path / "flexible.mlpackage"))
    assert program.inputs[0].shape == (1, 2, None, 7)
    for height in (5, 12, 31):
        x = torch.randn(1, 2, height, 7)
        assert relative_error(program.run({"x": x.numpy()}), expected(module, (x,))) <= TOLERANCE["float32"]


@needs_zoo
def test_a_released_apple_package_equals_its_onnx_twin() -> None:
    """Spotify's basic-pitch, which its authors converted from TensorFlow with coremltools 7, against onnxruntime."""
    import onnxruntime

    folder = Path(zoo().root) / "basic_pitch"
    program = open_package(folder / "nmp.mlpackage")
    samples = np.load(folder / "data.npz")["x"][:2]
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    by_name = {output.name: number for number, output in enumerate(session.get_outputs())}
    for sample in samples:
        feed = sample[None].astype(np.float32)
        theirs = session.run(None, {session.get_inputs()[0].name: feed})
        ours = program.run({"input_2": feed})
        for number, name in enumerate(("Identity", "Identity_1", "Identity_2")):
            want = theirs[by_name[f"StatefulPartitionedCall:{number}"]]
            np.testing.assert_allclose(ours[name], want, rtol=0, atol=1e-5)  # outputs of a sigmoid after 32 layers
