"""What the programs for several sizes become in one file, and what is refused because of a size."""
from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx_ir as ir
import pytest
from converters.tflite_files import kernels
from free_nets import encoder, proto

import edgeq_runtime
from edgeq import convert
from edgeq.errors import UnsupportedModel
from edgeq.inference.reference import run_onnx

TARGETS = ("onnxruntime", "tflite", "coreml")
SPLIT: Final = "s = Shape (x)  n = Gather (s, i0)  t = Gather (s, i1)  n1 = Unsqueeze (n, v0)  t1 = Unsqueeze (t, v0)"
SIZES: Final = {"i0": np.array(0), "i1": np.array(1), "v0": np.array([0]), "one": np.array([1]), "far": np.array([999])}


def text(steps: str, batch: str = "N") -> str:
    return f"g (float[{batch},T,6] x) => (float[] y) {{ {SPLIT} {steps} }}"


def build(steps: str, target: str, tmp_path: Path, *, x: tuple[Any, ...], **weights: Any) -> Path:
    return convert(proto(text(steps, str(x[0]) if isinstance(x[0], int) else "N"), **weights, **SIZES), target=target,
                   bits=32, inputs={"x": x}, verify=False, output=tmp_path / "b").path


# The steps, their constants, and the kernels that a TFLite file must have for them.
FORMS: Final = (
    ("c = Concat <axis = 0> (n1, h)  y = Reshape (x, c)", {"h": np.array([-1, 2])}, ["SHAPE", "RESHAPE"]),
    ("a = Slice (x, one, far, one)  y = Neg (a)", {}, ["SLICE", "NEG"]),
    ("a = Slice (x, v0, far, one, two)  y = Neg (a)", {"two": np.array([2])}, ["STRIDED_SLICE", "NEG"]),
    ("p = Slice (table, v0, t1, v0)  y = Add (x, p)", {"table": np.arange(72, dtype=np.float32).reshape(12, 6)},
     ["SHAPE", "SLICE", "ADD"]),
    ("c = Concat <axis = 0> (n1, t1, one)  z = ConstantOfShape (c)  y = Concat <axis = 2> (x, z)", {},
     ["SHAPE", "BROADCAST_TO", "CONCATENATION"]),
    ("c = Concat <axis = 0> (n1, t1, six)  e = Expand (w, c)  y = Mul (x, e)",
     {"six": np.array([6]), "w": np.arange(6, dtype=np.float32)}, ["SHAPE", "MUL"]),
    ("f = Flatten (x)  g = Transpose (f)  y = Neg (g)", {}, ["TRANSPOSE", "NEG"]),
    ("c = Concat <axis = 0> (n1, t1, h)  r = Reshape (x, c)  q = Transpose <perm = [0, 2, 1, 3, 5, 4]> (r)"
     "  k = Softmax <axis = 2> (q)  y = Reshape (k, m)", {"h": np.array([2, 1, 3, 1]), "m": np.array([0, 2, -1])},
     ["RESHAPE", "TRANSPOSE", "SOFTMAX"]),
    ("a = Tile (x, r)  y = Neg (a)", {"r": np.array([1, 2, 1])}, ["TILE", "NEG"]),
    ("a = Pad (x, r)  y = Neg (a)", {"r": np.array([0, 2, 0, 0, 1, 3])}, ["PAD", "NEG"]),
    ("a = ReduceMean (x, one)  b = Sub (x, a)  y = Softmax <axis = 1> (b)", {}, ["MEAN", "SUB", "SOFTMAX"]),
    ("l = Range (i0, t, i1)  p = Gather (table, l)  y = Add (x, p)",
     {"table": np.arange(72, dtype=np.float32).reshape(12, 6)}, ["SLICE", "ADD"]),
)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form[0][:40])
def test_one_file_for_all_sizes(form: tuple[str, dict[str, Any], list[str]], target: str, tmp_path: Path) -> None:
    steps, weights, wanted = form
    bundle = build(steps, target, tmp_path, x=("1..4", "3..12", 6), **weights)
    if target == "tflite":
        found = kernels((bundle / "model.tflite").read_bytes())
        assert [kernel for kernel in wanted if kernel not in found] == []
    feeds = [{"x": np.random.default_rng(n).normal(size=(n, t, 6)).astype(np.float32)}
             for n, t in ((1, 3), (4, 12), (3, 5), (1, 12), (2, 4))]
    reference = run_onnx(ir.from_proto(proto(text(steps), **weights, **SIZES)), feeds)
    with edgeq_runtime.load(bundle) as model:
        for feed, want in zip(feeds, reference, strict=True):
            np.testing.assert_allclose(model.run(feed)["y"], want["y"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("target", ["tflite", "coreml"])
@pytest.mark.parametrize(("steps", "reason"), [
    ("f = Cast <to = 1> (t)  y = Div (x, f)", "Div .*it holds other numbers for another size"),
    ("q = Mul (t, t)  q1 = Unsqueeze (q, v0)  c = Concat <axis = 0> (q1, one, one)  y = Expand (x, c)",
     "Expand .*it holds a number that follows from no size alone"),
])
def test_what_needs_the_size_is_refused(steps: str, reason: str, target: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match=reason + r", so it needs 'T' at conversion \(give a number for it with"):
        build(steps, target, tmp_path, x=(1, "3..12", 6))
    assert not (tmp_path / "b").exists()


def test_a_table_needs_an_end(tmp_path: Path) -> None:
    table = np.arange(600, dtype=np.float32).reshape(100, 6)
    with pytest.raises(UnsupportedModel, match="a table whose length has no limit"):
        build("p = Slice (table, v0, t1, v0)  y = Add (x, p)", "tflite", tmp_path, x=(1, "3..", 6), table=table)


def test_core_ml_needs_an_upper_limit(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match=r"input 'x': 'T' has no upper limit; .*such as 1\.\.128"):
        build("y = Neg (x)", "coreml", tmp_path, x=(1, "T", 6))


@pytest.mark.parametrize(("shape", "expected"), [
    ((1, "2..32"), [(1, 1), (2, 32)]),
    (("1..3", "2/8/32"), [(1, 3), (2, 32)]),
    ((1, "2/8/32"), {(1, 2), (1, 8), (1, 32)}),
    (("N=1/2", "2/32"), {(1, 2), (1, 32), (2, 2), (2, 32)}),
])
def test_the_package_declares_the_limits(shape: tuple[Any, ...], expected: Any, tmp_path: Path) -> None:
    """Ranges and enumerated shapes as Core ML has them; Apple's own reader infers every type of the program again."""
    ct = pytest.importorskip("coremltools")
    from coremltools.converters.mil.frontend.milproto.load import load

    bundle = convert(encoder(), target="coreml", bits=8, inputs={"tokens": shape}, output=tmp_path / "b").path
    package = bundle / "model.mlpackage"
    spec = ct.utils.load_spec(str(package))
    array = spec.description.input[0].type.multiArrayType
    if isinstance(expected, list):
        assert [(size.lowerBound, size.upperBound) for size in array.shapeRange.sizeRanges] == expected
    else:
        assert {tuple(shape.shape) for shape in array.enumeratedShapes.shapes} == expected
    weights = str(package / "Data/com.apple.CoreML/weights")
    program = load(spec, specification_version=spec.specificationVersion, file_weights_dir=weights)
    assert program.functions["main"].outputs[0].shape[-1] == 16
