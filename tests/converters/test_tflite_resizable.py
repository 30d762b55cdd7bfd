"""What the TFLite programs for several sizes become in one file, and what is refused because of a size."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from converters.tflite_files import kernels as kernels_of
from free_nets import proto

import edgeq_runtime
from edgeq.errors import UnsupportedModel
from edgeq.pipeline import convert
from edgeq.verify.reference import run_onnx


def build(text: str, tmp_path: Path, *, x: tuple[Any, ...], **weights: Any) -> Path:
    return convert(proto(text, **weights), target="tflite", bits=32, inputs={"x": x}, output=tmp_path / "b").path


SPLIT = "s = Shape (x)  n = Gather (s, i0)  t = Gather (s, i1)  n1 = Unsqueeze (n, v0)  t1 = Unsqueeze (t, v0)"
SIZES = {"i0": np.array(0), "i1": np.array(1), "v0": np.array([0])}


@pytest.mark.parametrize(("text", "weights", "kernels"), [
    ("c = Concat <axis = 0> (n1, h)  y = Reshape (x, c)", {"h": np.array([-1, 2])}, ["SHAPE", "RESHAPE"]),
    ("a = Slice (x, one, far, one)  y = Neg (a)", {"one": np.array([1]), "far": np.array([999])}, ["SLICE", "NEG"]),
    ("a = Slice (x, v0, far, one, two)  y = Neg (a)",
     {"one": np.array([1]), "far": np.array([999]), "two": np.array([2])}, ["STRIDED_SLICE", "NEG"]),
    ("p = Slice (table, v0, t1, v0)  y = Add (x, p)", {"table": np.arange(72, dtype=np.float32).reshape(12, 6)},
     ["SHAPE", "SLICE", "ADD"]),
    ("c = Concat <axis = 0> (n1, t1, one)  z = ConstantOfShape (c)  y = Concat <axis = 2> (x, z)",
     {"one": np.array([1])}, ["SHAPE", "BROADCAST_TO", "CONCATENATION"]),
    ("c = Concat <axis = 0> (n1, t1, six)  e = Expand (w, c)  y = Mul (x, e)",
     {"six": np.array([6]), "w": np.arange(6, dtype=np.float32)}, ["SHAPE", "MUL"]),
    ("f = Flatten (x)  g = Transpose (f)  y = Neg (g)", {}, ["TRANSPOSE", "NEG"]),
    ("a = Tile (x, r)  y = Neg (a)", {"r": np.array([1, 2, 1])}, ["TILE", "NEG"]),
    ("a = Pad (x, r)  y = Neg (a)", {"r": np.array([0, 2, 0, 0, 1, 3])}, ["PAD", "NEG"]),
])
def test_one_file_for_all_sizes(text: str, weights: dict[str, Any], kernels: list[str], tmp_path: Path) -> None:
    import onnx_ir as ir

    text = f"g (float[N,T,6] x) => (float[] y) {{ {SPLIT} {text} }}"
    bundle = build(text, tmp_path, x=("1..4", "3..12", 6), **weights, **SIZES)
    found = kernels_of((bundle / "model.tflite").read_bytes())
    assert [kernel for kernel in kernels if kernel not in found] == []
    feeds = [{"x": np.random.default_rng(n).normal(size=(n, t, 6)).astype(np.float32)}
             for n, t in ((1, 3), (4, 12), (3, 5), (1, 12), (2, 4))]
    with edgeq_runtime.load(bundle) as model:
        for feed, want in zip(feeds, run_onnx(ir.from_proto(proto(text, **weights, **SIZES)), feeds), strict=True):
            np.testing.assert_allclose(model.run(feed)["y"], want["y"], rtol=1e-6)


@pytest.mark.parametrize(("text", "weights", "reason"), [
    ("f = Cast <to = 1> (t)  y = Div (x, f)", {}, "Div .*it holds other numbers for another size"),
    ("q = Mul (t, t)  q1 = Unsqueeze (q, v0)  l = Range (i0, q, i1)  g = Cast <to = 1> (l)  y = Reshape (g, minus)",
     {"minus": np.array([-1])}, "it holds"),
])
def test_what_needs_the_size_is_refused(text: str, weights: dict[str, Any], reason: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match=reason + r".*so it needs 'T' at conversion \(give a number for it"):
        build(f"g (float[1,T,6] x) => (float[] y) {{ {SPLIT} {text} }}", tmp_path, x=(1, "3..12", 6), **weights,
              **SIZES)
    assert not (tmp_path / "b").exists()


def test_a_table_needs_an_end(tmp_path: Path) -> None:
    text = f"g (float[1,T,6] x) => (float[] y) {{ {SPLIT} p = Slice (table, v0, t1, v0)  y = Add (x, p) }}"
    table = np.arange(600, dtype=np.float32).reshape(100, 6)
    with pytest.raises(UnsupportedModel, match="a table whose length has no limit"):
        build(text, tmp_path, x=(1, "3..", 6), table=table, **SIZES)
