"""The table of operator facts, against onnx's own schemas and against what onnxruntime makes of the op cases."""
from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from opcases import CASES, Arrays, Case, build, run_onnxruntime, sample

from edgeq.graph import OPSET
from edgeq.ops import OPS, RANDOM, REDUCING, WINDOWED, Axes, Numbers, data_inputs, facts, operands

SCHEMAS = {op: onnx.defs.get_schema(op, OPSET, "") for op in {schema.name for schema in onnx.defs.get_all_schemas()}
           if onnx.defs.has(op, OPSET, "")}


def test_the_table_agrees_with_the_schemas() -> None:
    assert OPS.keys() <= SCHEMAS.keys()
    seeded = {op for op, schema in SCHEMAS.items() if "seed" in schema.attributes}
    assert seeded - {"Dropout"} == RANDOM  # which draws nothing at inference
    windows = {op for op, schema in SCHEMAS.items() if "auto_pad" in schema.attributes}
    assert windows - {"QLinearConv"} == WINDOWED  # QOperator graphs become QDQ ones before anything asks
    axes = {op for op, schema in SCHEMAS.items() if [given.name for given in schema.inputs] == ["data", "axes"]}
    assert {op for op in axes if "keepdims" in SCHEMAS[op].attributes} == REDUCING
    for op in OPS.keys() - RANDOM:
        assert max(operands(op, 99 if facts(op).data is not None else 1)) < SCHEMAS[op].max_input, op


def numbers(arrays: Arrays) -> NDArray[np.float32]:
    return np.concatenate([array.ravel() for array in arrays.values()])


def taken(data: NDArray[np.float32], result: NDArray[np.float32]) -> bool:
    return bool(np.isin(result, np.append(data, 0)).all())


KEPT: dict[Numbers, Callable[[NDArray[np.float32], NDArray[np.float32]], bool]] = {
    Numbers.EXTREME: taken, Numbers.SELECTED: taken,
    Numbers.PERMUTED: lambda data, result: np.array_equal(np.sort(data), np.sort(result)),
    Numbers.RESHAPED: np.array_equal, Numbers.UNCHANGED: np.array_equal,
}


def shown(case: Case) -> bool:
    """Whether a row shows its op alone, on data of floats, and the table claims something of its numbers."""
    row, floats = facts(case.op), [getattr(given, "dtype", "") == "float32" for given in case.inputs]
    claims = row.numbers is not Numbers.COMPUTED or row.axes is Axes.KEPT or row.positive
    return claims and not case.tail and all(floats[index] for index in data_inputs(case.op, len(case.inputs)))


@pytest.mark.parametrize("case", [case for case in CASES if shown(case)], ids=lambda case: case.id)
def test_numbers_are_what_the_table_says(case: Case) -> None:
    row, model, feeds = facts(case.op), build(case), sample(case)
    results = run_onnxruntime(model, feeds)
    held = {str(name): value.const_value.numpy() for name, value in model.graph.initializers.items()
            if value.const_value is not None}
    names = [f"{kind}{index}" for index in data_inputs(case.op, len(case.inputs)) for kind in "xc"]
    data = {name: (feeds | held)[name] for name in names if name in feeds | held}
    others = [array.ravel() for name, array in held.items() if name not in data and array.dtype == np.float32]
    if row.numbers in KEPT:
        selected = row.numbers is Numbers.SELECTED  # which may lie beside a constant
        assert KEPT[row.numbers](np.concatenate([numbers(data), *(others if selected else [])]), numbers(results))
    if row.numbers is Numbers.HOMOGENEOUS and not held.keys() & data.keys():
        doubled = run_onnxruntime(model, {name: 2 * array for name, array in feeds.items()})
        np.testing.assert_allclose(numbers(doubled), 2 * numbers(results), rtol=1e-5, atol=1e-5)
    if row.axes is Axes.KEPT:
        assert {array.ndim for array in results.values()} == {max(array.ndim for array in data.values())}
    if row.positive:
        assert numbers(results).min() >= 0
