"""Spectrogram front ends stay float; norms, and what a logarithm has narrowed, do not."""
from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from opcases import run_onnxruntime
from small_graphs import network, normal

from edgeq.backend import graph_backends
from edgeq.conversion.metadata import input_specs
from edgeq.quant.calibrate import CALIBRATORS, calibrate
from edgeq.quant.plan import make_plan
from edgeq.quant.plan.spectral import spectral_layers
from edgeq.quant.quantize import quantize
from edgeq.quant.samples import open_samples
from edgeq.scheme import PRESETS

POWER = """
    f = Conv <strides = [8]> (x, basis)
    re, im = Split <axis = 1, num_outputs = 2> (f)
    a = Mul (re, re)
    b = Mul (im, im)
    p = Add (a, b)"""
NETWORK = "q = Conv (m, w1)  r = Relu (q)  y = Conv (r, w2)"
CASES = {
    "magnitude": (f"{POWER} m = Sqrt (p) {NETWORK}", {"f", "q"}),
    "logarithm": (f"{POWER} o = Add (p, tiny)  m = Log (o) {NETWORK}", {"f"}),
    "logarithm of the magnitude": (f"{POWER} s = Sqrt (p)  o = Add (s, tiny)  m = Log (o) {NETWORK}", {"f"}),
    "filter bank": (f"""{POWER} t = Transpose <perm = [0,2,1]> (p)
        e = MatMul (t, bank)
        c = Max (e, tiny)
        l = Log (c)
        m = Transpose <perm = [0,2,1]> (l) {NETWORK}""", {"f", "e"}),
    **{f"filter bank, bounded to {high} and divided": (f"""{POWER} t = Transpose <perm = [0,2,1]> (p)
        e = MatMul (t, bank)
        d = Div (e, peak)
        c = Clip (d, tiny, {high})
        l = Log (c)
        m = Transpose <perm = [0,2,1]> (l) {NETWORK}""", found) for high, found in {
            "endless": {"f", "e"}, "largest": {"f", "e"}, "one_half": set()}.items()},
    "compressed by a power": (f"{POWER} m = Pow (p, third) {NETWORK}", {"f", "q"}),
    "norm of the parts": (f"""f = Conv <strides = [8]> (x, basis)
        u = Reshape (f, parts)
        m = ReduceL2 <keepdims = 0> (u, one) {NETWORK}""", {"f", "q"}),
    "half the rate, then filters": (f"""h = Conv <strides = [2]> (x, half)
        f = Conv <strides = [8]> (h, basis)
        u = Reshape (f, parts)
        a = Pow (u, two)
        p = ReduceSum <keepdims = 0> (a, one)
        m = Sqrt (p) {NETWORK}""", {"h", "f", "q"}),
    "division by the root of a mean square": ("""m = Conv <strides = [8]> (x, basis)
        a = Mul (m, m)
        v = ReduceMean <keepdims = 1> (a, one)
        s = Sqrt (v)
        n = Div (m, s)
        y = Conv (n, w3)""", set()),
    "division by the norm": ("""m = Conv <strides = [8]> (x, basis)
        v = ReduceL2 <keepdims = 1> (m, one)
        n = Div (m, v)
        y = Conv (n, w3)""", set()),
    "division by the root of a sum of squares": ("""m = Conv <strides = [8]> (x, basis)
        a = Mul (m, m)
        v = ReduceSum <keepdims = 1> (a, one)
        s = Sqrt (v)
        n = Div (m, s)
        y = Conv (n, w3)""", set()),
    "logarithm of an answer": ("h = Conv (x, half)  q = Conv (h, half)  s = Sigmoid (q)  y = Log (s)", set()),
}


def build(body: str) -> ir.Model:
    """x [1,1,128] -> y; `basis` holds six frequencies' cosines, then their sines, of 16 samples."""
    angle = 2 * np.pi / 16 * np.arange(1, 7)[:, None] * np.arange(16)
    basis = np.concatenate([np.cos(angle), np.sin(angle)])[:, None].astype(np.float32)
    return network(f"g (float[1,1,128] x) => (float[1,c,n] y) {{ {body} }}", basis=basis,
                   half=np.full((1, 1, 2), .5, np.float32), w1=normal(5, 6, 3) / 4, w2=normal(3, 5, 1) / 2,
                   w3=normal(3, 12, 1), bank=np.abs(normal(6, 6)), tiny=np.array(1e-6, np.float32),
                   endless=np.array(np.inf, np.float32), largest=np.finfo(np.float32).max, peak=np.array(8, np.float32),
                   one_half=np.array(.5, np.float32), third=np.array(.3, np.float32),
                   one=np.array([1], np.int64), two=np.array(2, np.float32), parts=np.array([1, 2, 6, -1], np.int64))


@pytest.mark.parametrize("case", CASES)
def test_what_computes_and_reads_a_spectrum(case: str) -> None:
    body, expected = CASES[case]
    assert {node.outputs[0].name for node in spectral_layers(build(body).graph)} == expected


def test_a_sum_of_unknown_size_is_no_magnitude() -> None:
    model = network("""g (float[1,1,128] x) => (float[n] y) {
        f = Conv (x, half)
        i = NonZero (f)
        g = Cast <to = 1> (i)
        a = Mul (g, g)
        p = ReduceSum <keepdims = 0> (a, one)
        y = Sqrt (p)
    }""", half=np.ones((1, 1, 2), np.float32), one=np.array([1]))
    assert spectral_layers(model.graph) == set()


def noise(seed: int, loudness: float) -> dict[str, NDArray[Any]]:
    return {"x": loudness * normal(1, 1, 128, seed=seed)}


def test_a_quiet_sample_is_heard_beside_loud_ones() -> None:
    """On the grid of the loud ones it has three steps, and its logarithm nothing that resembles it."""
    model = build(CASES["filter bank"][0])
    plan = make_plan(model, [backend.target for backend in graph_backends()], PRESETS["w8a8"])
    assert {"m", "r"} <= set(plan.groups), "what follows the logarithm is on grids"
    samples = open_samples([noise(k, 1.0 if k % 2 else .01) for k in range(8)], input_specs(model))
    made = quantize(model, plan, calibrate(model, plan.sources, samples), CALIBRATORS["mse"])
    quiet = noise(50, .01)
    expected, found = run_onnxruntime(model, quiet)["y"], run_onnxruntime(made, quiet)["y"]
    assert 10 * np.log10(np.square(expected).sum() / np.square(found - expected).sum()) > 25
