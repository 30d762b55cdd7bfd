"""Core ML ends at rank 5: operators on more axes, each against onnxruntime, in float32."""
from __future__ import annotations

from itertools import pairwise, permutations
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from opcases import run_onnxruntime
from small_graphs import network, normal

import edgeq_runtime
from edgeq import convert
from edgeq.backend import EmitOptions
from edgeq.errors import UnsupportedModel
from edgeq.verification.mlpackage import open_package
from edgeq_converters.coreml import emit
from edgeq_converters.coreml.axes import permutations as steps_of
from edgeq_converters.coreml.backend import write_package

SHAPE: Final = (2, 3, 2, 1, 4, 3)
X: Final = "float[2,3,2,1,4,3] x"


def ints(*numbers: int) -> NDArray[np.int64]:
    return np.array(numbers, np.int64)


# What is computed from x of six axes (and z, where a row names one) -> y, and constants.
ROWS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "sigmoid": ("y = Sigmoid (x)", {}),
    "clip": ("y = Clip (x, low, high)", {"low": np.float32(-0.5), "high": np.float32(1)}),
    "cast": ("a = Cast <to = 6> (x)  y = Cast <to = 1> (a)", {}),
    "add a row": ("y = Add (x, w)", {"w": normal(4, 3, seed=1)}),
    "broadcast both ways": ("y = Mul (x, w)", {"w": normal(1, 3, 1, 5, 1, 3, seed=1)}),
    "more runs than axes": ("a = ReduceMean (x, i)  b = Add (a, w)  y = Mul (b, x)",
                            {"i": ints(1, 4), "w": normal(1, 3, 1, 2, 4, 1, seed=1)}),
    "every second axis": ("a = Add (v, w)  y = Add (a, x)", {
        "v": normal(5, 1, 3, 1, 2, 1, 3, seed=1), "w": normal(1, 2, 1, 2, 1, 4, 1, seed=2)}),
    "where": ("c = Greater (x, w)  y = Where (c, x, w)", {"w": normal(2, 1, 2, 1, 4, 1, seed=1)}),
    "pow": ("y = Pow (x, two)", {"two": np.float32(2)}),
    "softmax last": ("y = Softmax (x)", {}),
    "softmax middle": ("y = Softmax <axis = 2> (x)", {}),
    "cumsum": ("y = CumSum (x, a)", {"a": np.int64(1)}),
    "argmax": ("a = ArgMax <axis = 1, keepdims = 0> (x)  y = Cast <to = 1> (a)", {}),
    "top": ("y, i = TopK <axis = 4> (x, k)", {"k": ints(2)}),
    "reduce outer and inner": ("y = ReduceMean <keepdims = 0> (x, i)", {"i": ints(0, 5)}),
    "reduce one in two": ("a = Expand (x, e)  y = ReduceL2 (a, i)", {"i": ints(0, 2, 4), "e": ints(2, 3, 2, 2, 4, 3)}),
    "reduce an axis of one": ("y = ReduceSumSquare <keepdims = 0> (x, i)", {"i": ints(3)}),
    "reduce all": ("y = ReduceMax <keepdims = 0> (x)", {}),
    "split": ("a, b = Split <axis = 4, num_outputs = 2> (x)  y = Sub (b, a)", {}),
    "split unevenly": ("a, b = Split <axis = 1> (x, l)  y = Concat <axis = 1> (b, x, a)", {"l": ints(1, 2)}),
    "concat": ("y = Concat <axis = -2> (x, w, x)", {"w": normal(2, 3, 2, 1, 1, 3, seed=1)}),
    "slice": ("y = Slice (x, f, t, a, s)", {"f": ints(-1, 1), "t": ints(-99, 3), "a": ints(1, -2), "s": ints(-2, 1)}),
    "pad": ("y = Pad (x, p)", {"p": ints(0, 1, 0, 0, 0, 0, 0, 0, 2, 0, 1, 0)}),
    "pad by reflection": ('y = Pad <mode = "reflect"> (x, p, , a)', {"p": ints(1, 2, 0, 3), "a": ints(1, 4)}),
    "tile": ("y = Tile (x, r)", {"r": ints(1, 2, 1, 3, 1, 2)}),
    "expand": ("a = ReduceSum (x, i)  y = Expand (a, e)", {"i": ints(0, 2, 4), "e": ints(2, 3, 2, 5, 4, 3)}),
    "unbind": ("a = Gather <axis = 4> (x, i)  y = Relu (a)", {"i": np.int64(-2)}),
    "gather a table": ("y = Gather <axis = 1> (x, i)", {"i": np.array([[2, 0], [1, 1]])}),
    "gather elements": ("y = GatherElements <axis = 4> (x, i)", {
        "i": np.random.default_rng(0).integers(0, 4, (2, 3, 2, 1, 2, 3))}),
    "gather nd": ("y = GatherND (x, i)", {"i": np.array([[1, 2], [0, 1], [1, 0]])}),
    "gather nd in batches": ("y = GatherND <batch_dims = 1> (x, i)", {"i": np.array([[[2, 1]], [[0, 1]]])}),
    "scatter nd": ("y = ScatterND (x, i, u)", {"i": np.array([[1, 2], [0, 1]]), "u": normal(2, 2, 1, 4, 3, seed=1)}),
    "scatter elements": ("y = ScatterElements <axis = 1> (x, i, u)", {
        "i": np.full((2, 1, 2, 1, 4, 3), 2), "u": normal(2, 1, 2, 1, 4, 3, seed=1)}),
    "layer norm": ("y = LayerNormalization <axis = 4> (x, g, b)", {
        "g": normal(4, 3, seed=1), "b": normal(4, 3, seed=2)}),
    "linear": ("a = MatMul (x, w)  y = Add (a, b)", {"w": normal(3, 5, seed=1), "b": normal(5, seed=2)}),
    "matrices": ("y = MatMul (x, w)", {"w": normal(1, 3, 1, 2, 3, 5, seed=1)}),
    "matrices of alternating batches": ("y = MatMul (x, w)", {"w": normal(5, 1, 3, 1, 3, 3, 2, seed=1)}),
    "row times matrices": ("y = MatMul (v, x)", {"v": normal(4, seed=1)}),
    "matrices times column": ("y = MatMul (x, v)", {"v": normal(3, seed=1)}),
    "lower triangle": ("y = Trilu <upper = 0> (x)", {}),
    "pixel shuffle by hand": ("a = Transpose <perm = [0, 4, 2, 5, 1, 3]> (x)  y = Reshape (a, t)", {
        "t": ints(2, 4, 2, 9)}),
    "einsum": ('y = Einsum <equation = "abcdef,gf->gfedcba"> (x, w)', {"w": normal(2, 3, seed=1)}),
    "seven axes there and back": ("a = Reshape (x, t)  b = Transpose <perm = [6, 0, 5, 1, 4, 2, 3]> (a)  c = Relu (b)"
                                  "  d = Transpose <perm = [1, 3, 5, 6, 4, 2, 0]> (c)  y = Reshape (d, u)",
                                  {"t": ints(2, 3, 2, 1, 2, 2, 3), "u": ints(2, 6, 4, 3)}),
}


def model_of(text: str, weights: dict[str, Any]) -> ir.Model:
    return network(f"g ({X}) => (float[] y) {{ {text} }}", **weights)


def converted(model: ir.Model, folder: Path, feeds: dict[str, Any], precision: Any) -> NDArray[Any]:
    """y, in the shape that it has in the package."""
    write_package(model, folder / "a.mlpackage", EmitOptions(), precision)
    program = open_package(folder / "a.mlpackage", precision=precision)
    shapes = {spec.name: spec.shape for spec in program.inputs}
    return program.run({name: data.reshape(shapes[name]) for name, data in feeds.items()})["y"]


@pytest.mark.parametrize("row", ROWS)
def test_operators(row: str, tmp_path: Path) -> None:
    model, feeds = model_of(*ROWS[row]), {"x": normal(*SHAPE)}
    expected = run_onnxruntime(model, feeds)["y"]
    found = converted(model, tmp_path, feeds, "float32")
    np.testing.assert_allclose(found.reshape(expected.shape), expected, rtol=0, atol=2e-6 * np.abs(expected).max())


def test_any_order_of_axes() -> None:
    """In as many Transposes as there are blocks that stay together, at most."""
    data = np.arange(2 * 3 * 4 * 5 * 6 * 7).reshape(2, 3, 4, 5, 6, 7)
    for perm in permutations(range(6)):
        moved = data
        steps = steps_of(data.shape, perm, 5)
        for step in steps:
            assert len(step.shape) <= 5
            moved = moved.reshape(step.shape).transpose(step.perm)
        np.testing.assert_array_equal(moved.ravel(), data.transpose(perm).ravel())
        blocks = 1 + sum(after != before + 1 for before, after in pairwise(perm))
        assert len(steps) <= (blocks > 1 if blocks <= 5 else blocks - 1)


def test_grids_on_six_axes(tmp_path: Path) -> None:
    """Where a quantizer has put them between Reshape and Transpose, as in PixelUnshuffle; a second one narrows."""
    model = network("""g (float[2,4,6,4] x) => (float[2,16,3,2] y) {
        r = Reshape (x, t)  q = QuantizeLinear (r, s, z)  d = DequantizeLinear (q, s, z)
        a = Transpose <perm = [0, 1, 3, 5, 2, 4]> (d)  e = QuantizeLinear (a, s, z)  f = DequantizeLinear (e, s, z)
        g = Relu (f)  h = QuantizeLinear (g, p, n)  i = DequantizeLinear (h, p, n)  y = Reshape (i, u) }""",
        t=ints(2, 4, 3, 2, 2, 2), u=ints(2, 16, 3, 2), s=np.float32(1 / 64), z=np.uint8(128),
        p=np.float32(1 / 128), n=np.uint8(0))
    feeds = {"x": normal(2, 4, 6, 4)}
    np.testing.assert_array_equal(converted(model, tmp_path, feeds, "float16"), run_onnxruntime(model, feeds)["y"])


def test_what_has_no_rule_is_named(tmp_path: Path) -> None:
    model = network(f"g ({X}, int64[2,2,1,1,4,3] i) => (float[] y) {{ y = GatherElements <axis = 4> (x, i) }}")
    with pytest.raises(UnsupportedModel, match=r"GatherElements 'GatherElements_0': rank 6 with indices for a part"):
        emit(model, tmp_path, EmitOptions())


def test_a_free_interface_of_six_axes_is_refused(tmp_path: Path) -> None:
    model = network("g (float[n,3,2,1,4,3] x) => (float[n,3,2,1,4,3] y) { y = Relu (x) }")
    with pytest.raises(UnsupportedModel, match="input 'x': rank 6 with free sizes"):
        convert(model, target="coreml", bits=16, inputs={"x": ("1..4", 3, 2, 1, 4, 3)}, output=tmp_path / "b")


def test_a_bundle_takes_and_gives_six_axes(tmp_path: Path) -> None:
    bundle = convert(model_of(*ROWS["softmax middle"]), target="coreml", bits=32, output=tmp_path / "b")
    (note, other) = bundle.report["notes"]
    assert (note["node"], other["node"], "[6, 2, 1, 4, 3] in the package" in note["reason"]) == ("x", "y", True)
    with edgeq_runtime.load(bundle.path) as model:
        assert model.run({"x": normal(*SHAPE)})["y"].shape == SHAPE
