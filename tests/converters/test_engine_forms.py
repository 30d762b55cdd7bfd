"""Whole conversions of forms of which each was once refused or wrong, against what onnxruntime makes of the source."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from passes.graphs import build, noise, session

import edgeq_runtime
from edgeq import convert
from edgeq.verification.compare import compare


@dataclass(frozen=True, slots=True)
class Form:
    """text, constants: the model. least_db: by output; None where the data decide how many rows it has. targets, bits:
    each of them. calibrator: "auto" where the choice of ranges is what once failed."""

    text: str
    constants: Mapping[str, Any]
    least_db: tuple[float | None, ...]
    targets: Sequence[str] = ("onnxruntime", "tflite", "coreml")
    bits: Sequence[int] = (8,)
    calibrator: str = "minmax"


_HEAD: Final = "a = Conv <pads = [1, 1, 1, 1]> (x, w, b)  r = Relu(a)"
_CONSTANTS: Final = {"w": 0.3 * noise(8, 3, 3, 3), "b": noise(8), "v": 0.2 * noise(4, 8, 3, 3, seed=1)}
FORMS: Final[Mapping[str, Form]] = {
    "as many rows as the data say": Form(
        f"""g (float[1,3,8,6] x) => (float[n] y, float[1,4,1,1] z) {{ {_HEAD}  c = Conv(r, v)  m = Greater(c, half)
            i = NonZero(m)  t = Transpose(i)  y = GatherND(c, t)  z = GlobalAveragePool(c) }}""",
        {**_CONSTANTS, "half": np.float32(0.5)}, (None, 20), ("onnxruntime",), (8, 4),
        "auto"),
    "a layer behind them": Form(
        f"""g (float[1,3,8,6] x) => (float[n,5] y) {{ {_HEAD}  c = Conv(r, v)  m = Greater(c, half)  i = NonZero(m)
            t = Transpose(i)  p = GatherND(c, t)  q = Unsqueeze(p, one)  y = MatMul(q, u) }}""",
        {**_CONSTANTS, "half": np.float32(0.5), "one": np.array([1]), "u": noise(1, 5)}, (None,), ("onnxruntime",),
        (4,)),
    "a transposed convolution in groups": Form(
        f"""g (float[1,3,8,6] x) => (float[1,4,14,10] y) {{ {_HEAD}
            d = ConvTranspose <group = 4, strides = [2, 2]> (r, u, k)  e = Relu(d)  y = Conv(e, v) }}""",
        {**_CONSTANTS, "u": noise(8, 2, 2, 2, seed=3), "k": noise(8, seed=4)}, (30,), ("tflite",)),
    "a stack of constant matrices in front of float": Form(
        "g (float[1,4,6,8] x) => (float[1,4,6,5] y) { a = MatMul(x, u)  y = Softmax(a) }", {"u": 0.4 * noise(4, 8, 5)},
        (35,), ("onnxruntime", "tflite")),
    "indices beside the data": Form(
        f"""g (float[1,3,8,6] x) => (float[1,4,2,1] y, float[1,8,4,3] z) {{ {_HEAD}
            p, i = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r)  y = Conv(p, v)  z = Cast <to = 1> (i) }}""",
        _CONSTANTS, (30, 20)),
    "a class that never wins": Form(
        f"g (float[1,3,8,6] x) => (float[1,4,6,4] y) {{ {_HEAD}  y = Conv(r, u, k) }}",
        {**_CONSTANTS, "u": 0.2 * noise(4, 8, 3, 3) * np.float32([1, 1e-5, 1, 1]).reshape(4, 1, 1, 1),
         "k": np.float32([0, -13, 0, 0])}, (30,), ("onnxruntime", "tflite")),
    "a pad of a number outside its input's range": Form(
        f"g (float[1,3,8,6] x) => (float[1,4,9,7] y) {{ {_HEAD}  p = Pad(r, pads, five)  y = Conv(p, v) }}",
        {**_CONSTANTS, "pads": np.array([0, 0, 1, 2, 0, 0, 2, 1]), "five": np.float32(-5)}, (30,), ("tflite",)),
}


@pytest.mark.parametrize(("target", "bits", "name"), [
    pytest.param(target, bits, name, id=f"{name}-{target}-{bits}") for name, form in FORMS.items()
    for target in form.targets for bits in form.bits])
def test_forms(target: str, bits: int, name: str, tmp_path: Path) -> None:
    form = FORMS[name]
    given = build(form.text, form.constants)
    reference = session(given)
    feeds = [{value.name: noise(*value.shape, seed=seed) for value in reference.get_inputs()} for seed in range(6)]
    bundle = convert(given, target=target, bits=bits, output=tmp_path / "b",
                     calibration=feeds if bits < 16 else None, calibrator=form.calibrator)
    names = [value.name for value in reference.get_outputs()]
    expected = [dict(zip(names, reference.run(None, feed), strict=True)) for feed in feeds]
    with edgeq_runtime.load(bundle.path) as model:
        found = [model.run(feed) for feed in feeds]
    for least, difference in zip(form.least_db, compare(expected, found), strict=True):
        assert least is None or difference.sqnr_db > least


@pytest.mark.parametrize(("found", "noise"), [
    ([[0, 1], [5, 5.5]], 4.25), ([[5, 5.5], [0, 1], [2, 0]], 84.25), ([[5, 5.5], [0, 1], [9, 1], [2, 0]], 82.25)],
    ids=["one is missing", "another order", "one is new"])
def test_rows_are_matched_where_their_number_differs(found: list[list[float]], noise: float) -> None:
    """A row that is left over counts with its power; with equal counts rows stand where they stand."""
    expected = np.array([[0, 1], [2, 0], [5, 5]], np.float32)
    (difference,) = compare([{"y": expected}], [{"y": np.array(found, np.float32)}])
    assert difference.noise == pytest.approx(noise)
