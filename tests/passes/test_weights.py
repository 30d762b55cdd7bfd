"""BatchNormalization, and constants that multiply or add, into weights."""
from __future__ import annotations

import numpy as np
import pytest
from passes.graphs import Row, check, noise

X = "g (float[2,4,6,5] x) => (float[] y)"
M = "g (float[2,4] x) => (float[] y)"


def statistics(channels: int) -> dict[str, np.ndarray]:
    return {"s": noise(channels, seed=1), "t": noise(channels, seed=2), "m": noise(channels, seed=3),
            "v": np.abs(noise(channels, seed=4)) + np.float32(0.1)}


CONV = {"w": noise(6, 4, 3, 2), "b": noise(6)}
NORM = " y = BatchNormalization <epsilon = 0.01> (c, s, t, m, v) }"
channel = {"k": noise(6, 1, 1)}

FOLDED = [
    Row("Conv without bias", X + "{ c = Conv(x, w)" + NORM, ["Conv"], {**CONV, **statistics(6)}),
    Row("Conv with bias", X + "{ c = Conv(x, w, b)" + NORM, ["Conv"], {**CONV, **statistics(6)}),
    Row("grouped Conv", X + "{ c = Conv <group = 2> (x, w, b)" + NORM, ["Conv"],
        {"w": noise(6, 2, 3, 2), "b": noise(6), **statistics(6)}),
    Row("ConvTranspose", X + "{ c = ConvTranspose(x, w, b)" + NORM, ["ConvTranspose"],
        {"w": noise(4, 6, 3, 2), "b": noise(6), **statistics(6)}),
    Row("grouped ConvTranspose", X + "{ c = ConvTranspose <group = 2> (x, w)" + NORM, ["ConvTranspose"],
        {"w": noise(4, 3, 3, 2), **statistics(6)}),
    Row("Gemm", M + "{ c = Gemm(x, w, b)" + NORM, ["Gemm"], {"w": noise(4, 6), "b": noise(6), **statistics(6)}),
    Row("Gemm transposed", M + "{ c = Gemm <transB = 1> (x, w)" + NORM, ["Gemm"], {"w": noise(6, 4), **statistics(6)}),
    Row("Conv, norm, Add", X + "{ c = Conv(x, w) n = BatchNormalization(c, s, t, m, v) y = Add(n, k) }", ["Conv"],
        {**CONV, **channel, **statistics(6)}),
    *(Row(f"Conv {op} constant", X + f"{{ c = Conv(x, w, b) y = {op}(c, k) }}", ["Conv"], {**CONV, **channel})
      for op in ("Add", "Sub", "Mul", "Div")),
    *(Row(f"constant {op} Conv", X + f"{{ c = Conv(x, w, b) y = {op}(k, c) }}", ["Conv"], {**CONV, **channel})
      for op in ("Add", "Sub", "Mul")),
    Row("Conv times a number", X + "{ c = Conv(x, w) y = Mul(c, k) }", ["Conv"], {**CONV, "k": 2.5}),
    Row("Gemm plus a row", M + "{ c = Gemm(x, w) y = Add(c, k) }", ["Gemm"], {"w": noise(4, 6), "k": noise(6)}),
]

KEPT = [
    Row("read by others too", X + "{ c = Conv(x, w) n = BatchNormalization(c, s, t, m, v) y = Add(n, c) }",
        ["Conv", "Conv", "Add"], {**CONV, **statistics(6)}),
    Row("seen by callers", "g (float[2,4,6,5] x) => (float[] y, float[] c) { c = Conv(x, w)" + NORM,
        ["Conv", "Conv"], {**CONV, **statistics(6)}),
    Row("weights from outside", "g (float[2,4,6,5] x, float[6,4,3,2] w) => (float[] y) { c = Conv(x, w)" + NORM,
        ["Conv", "Conv"], statistics(6)),
    Row("after something else", X + "{ c = Relu(x)" + NORM, ["Relu", "Conv"], statistics(4)),
    Row("of a sound", "g (float[2,4,9] x) => (float[] y) { y = BatchNormalization(x, s, t, m, v) }", ["Conv"],
        statistics(4)),
    Row("of a clip", "g (float[2,4,2,3,5] x) => (float[] y) { y = BatchNormalization(x, s, t, m, v) }",
        ["BatchNormalization"], statistics(4)),
    Row("Gemm with alpha", M + "{ c = Gemm <alpha = 0.5> (x, w, b)" + NORM, ["Gemm", "BatchNormalization"],
        {"w": noise(4, 6), "b": noise(6), **statistics(6)}),
    Row("a constant over pixels", X + "{ c = Conv(x, w) y = Add(c, k) }", ["Conv", "Add"], {**CONV, "k": noise(4, 4)}),
    Row("a constant over the width", X + "{ c = Conv(x, w) y = Mul(c, k) }", ["Conv", "Mul"], {**CONV, "k": noise(4)}),
    Row("a constant that adds axes", M + "{ c = Gemm(x, w) y = Add(c, k) }", ["Gemm", "Add"],
        {"w": noise(4, 6), "k": noise(3, 1, 6)}),
    Row("a constant that broadcasts the batch", "g (float[1,4] x) => (float[] y) { c = Gemm(x, w) y = Add(c, k) }",
        ["Gemm", "Add"], {"w": noise(4, 6), "k": noise(3, 1)}),
    Row("constant over Conv", X + "{ c = Conv(x, w, b) y = Div(k, c) }", ["Conv", "Div"], {**CONV, **channel}),
    Row("Gemm with a matrix as bias", M + "{ c = Gemm(x, w, b) y = Mul(c, k) }", ["Gemm", "Mul"],
        {"w": noise(4, 6), "b": noise(2, 6), "k": 2.0}),
]


@pytest.mark.parametrize("row", FOLDED, ids=str)
def test_folded(row: Row) -> None:
    check(row)


@pytest.mark.parametrize("row", KEPT, ids=str)
def test_kept(row: Row) -> None:
    check(row)


def test_shared_weights_stay_as_they_were_for_the_other_reader() -> None:
    row = Row("shared", X + "{ a = Conv(x, w) n = BatchNormalization(a, s, t, m, v) o = Conv(x, w) y = Add(n, o) }",
              ["Conv", "Conv", "Add"], {**CONV, **statistics(6)})
    check(row)
