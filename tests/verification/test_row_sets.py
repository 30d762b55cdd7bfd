"""Rows that a TopK or a NonMaxSuppression has put in order are compared as sets; all others in place."""
from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from opcases import run_onnxruntime
from small_graphs import network, normal

from edgeq.verification.compare import compare
from edgeq.verification.row_sets import in_one_order, row_sets

QUERIES = """g (float[1,50,6] x) => (float[1,7,3] scores, float[1,7,4] boxes) {
    s = MatMul (x, w)
    best = ReduceMax <keepdims = 0> (s, last)
    top, index = TopK <axis = 1> (best, seven)
    column = Unsqueeze (index, last)
    wide = Expand (column, six)
    q = GatherElements <axis = 1> (x, wide)
    k = Transpose <perm = [0,2,1]> (q)
    a = MatMul (q, k)
    p = Softmax (a)
    v = MatMul (p, q)
    h = Add (q, v)
    n = LayerNormalization <axis = -1> (h, ones)
    scores = MatMul (n, w)
    boxes = MatMul (n, b)
}"""
CASES: dict[str, tuple[str, list[dict[str, int]]]] = {
    "queries of a detector": (QUERIES, [{"scores": 1, "boxes": 1}]),
    "the best of a table": ("""g (float[40] x) => (float[7] y, int64[7] i, float[7,4] z) {
        y, i = TopK (x, seven)
        z = Gather (table, i)
    }""", [{"y": 0, "i": 0, "z": 0}]),
    "boxes that were not suppressed": ("""g (float[1,9,4] x, float[1,2,9] s) => (int64[n,3] y, float[n,4] z) {
        y = NonMaxSuppression (x, s, seven)
        c = Gather <axis = 1> (y, two)
        f = Squeeze (x, zero)
        z = GatherND (f, c)
    }""", [{"y": 0, "z": 0}]),
    "two choices": ("""g (float[40] x, float[40] u) => (float[7] y, float[7] z) {
        y, i = TopK (x, seven)
        z, k = TopK (u, seven)
    }""", [{"y": 0}, {"z": 0}]),
    "a sum over what was chosen": ("""g (float[40] x) => (float[4] y) {
        v, i = TopK (x, seven)
        t = Gather (table, i)
        y = ReduceSum <keepdims = 0> (t, zero)
    }""", []),
    "scores of as many classes as were chosen": ("""g (float[1,50,6] x) => (float[1,7] y) {
        s = ReduceMax <keepdims = 0> (x, last)
        v, i = TopK <axis = 1> (s, seven)
        y = MatMul (v, square)
    }""", []),
    "what went back to its place": ("""g (float[40] x) => (float[40] y) {
        v, i = TopK (x, seven)
        y = ScatterElements (x, i, v)
    }""", []),
}


def build(case: str) -> ir.Model:
    return network(CASES[case][0], w=normal(6, 3, seed=1), b=normal(6, 4, seed=2), table=normal(40, 4, seed=3),
                   square=normal(7, 7, seed=4), ones=np.ones(6, np.float32), last=np.array([-1]), two=np.array([2]),
                   zero=np.array([0]), seven=np.array([7]), six=np.array([1, 7, 6]))


@pytest.mark.parametrize("case", CASES)
def test_which_outputs_have_no_order(case: str) -> None:
    assert [dict(found.axes) for found in row_sets(build(case).graph)] == CASES[case][1]


def swapped(outputs: dict[str, NDArray[Any]], order: list[int]) -> dict[str, NDArray[Any]]:
    return {name: array[:, order] for name, array in outputs.items()}


def test_queries_in_another_order_are_the_same_model_and_mixed_rows_are_not() -> None:
    model = build("queries of a detector")
    sets, outputs = row_sets(model.graph), run_onnxruntime(model, {"x": normal(1, 50, 6)})
    again = swapped(outputs, [1, 0, 2, 4, 5, 3, 6])
    assert all(found.sqnr_db < 10 for found in compare([outputs], [again]))
    assert all(found.sqnr_db >= 200 for found in compare([outputs], [again], sets)), "both outputs move together"
    torn = {**again, "boxes": outputs["boxes"][:, ::-1]}
    assert min(found.sqnr_db for found in compare([outputs], [torn], sets)) < 10, "a box with another's scores"


def test_a_row_that_is_missing_costs_itself_alone() -> None:
    rows = np.arange(1, 6, dtype=np.float32)[:, None] * np.ones(4, np.float32)
    sets = row_sets(build("boxes that were not suppressed").graph)
    full = {"y": np.arange(15).reshape(5, 3), "z": rows}
    less = {name: array[[0, 1, 3, 4]] for name, array in full.items()}
    _, (second,) = in_one_order([full], [less], sets)
    assert np.array_equal(second["z"], rows * np.array([1, 1, 0, 1, 1], np.float32)[:, None])
    found = {line.output: line for line in compare([full], [less], sets)}
    assert found["z"].noise == pytest.approx(4 * 9)
    found = {line.output: line for line in compare([less], [full], sets)}
    assert found["z"].noise == pytest.approx(4 * 9)
