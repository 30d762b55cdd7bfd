"""Every row of the table on every backend, in float and in integers, run by the engine it was written for."""
from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from opcases import (
    CASES,
    Arrays,
    Case,
    build,
    has_weights,
    quantize,
    quantize4,
    quantize_weights,
    run_onnxruntime,
    sample,
)
from opcases.engines import BACKENDS, TABLES, handlers, run
from opcases.limits import FAILS, REFUSED

from edgeq.errors import UnsupportedModel
from edgeq.graph import OPSET

# Float results: relative to the largest number of the output. A Core ML program computes in float16, whose step is 1e-3
# of a number; rounding is half a step, and sums of a few dozen such numbers lose up to two more.
TOLERANCE: Final = {"onnxruntime": 1e-5, "tflite": 1e-5, "coreml": 2e-3, "coreai": 1e-5}
# Integer results: relative to the numbers. Core ML stores scales and outputs, and divides by a scale, in float16: an
# input near the middle between two grid points may fall to the other one, which ends where a slightly larger or smaller
# input ends. Elsewhere there is nothing on top of the steps.
GRID_ROUNDING: Final = {"onnxruntime": 0.0, "tflite": 0.0, "coreml": 2.0**-10, "coreai": 0.0}

# Core AI compiles every row as it is loaded, a minute for the table.
SLOW: Final = frozenset({"coreai"})


def rows(form: str, cases: tuple[Case, ...] = CASES) -> list[Any]:
    """backend x row, with the strict xfails of the table."""
    parameters = []
    for backend in BACKENDS:
        for case in cases:
            reason = FAILS.get((backend, f"{case.id}/{form}"))
            marks: list[Any] = [pytest.mark.xfail(reason=reason, strict=True)] if reason else []
            if backend in SLOW:
                marks.append(pytest.mark.full)
            parameters.append(pytest.param(backend, case, id=f"{backend}-{case.id}", marks=marks))
    return parameters


def convert_and_compare(
    backend: str, case: Case, form: str, model: ir.Model, steps: dict[str, float], folder: Path,
) -> None:
    """Outputs against the unfused reference: in steps of their grid if they have one, else relative to the largest."""
    feeds = sample(case)
    refusal = REFUSED.get((backend, case.id)) or REFUSED.get((backend, f"{case.id}/{form}"))
    if refusal:
        with pytest.raises(UnsupportedModel, match=re.escape(refusal)):
            run(backend, model, feeds, folder)
        assert not list(folder.iterdir()), "a refusal leaves nothing behind"
        return
    found = run(backend, model, feeds, folder)
    expected = run_onnxruntime(model, feeds)
    rounding = GRID_ROUNDING[backend]
    factors = (1 - rounding, 1 + rounding) if rounding else ()
    nearby = [run_onnxruntime(model, scaled(feeds, factor)) for factor in factors]
    for name, array in expected.items():
        assert found[name].shape == array.shape, name
        if name in steps:
            bound = (case.steps + 0.01) * steps[name] + rounding * largest(array)
            compare(found[name], [array, *(other[name] for other in nearby)], bound, name)
        else:
            compare(found[name], [array], TOLERANCE[backend] * largest(array), name)


def scaled(feeds: Arrays, factor: float) -> Arrays:
    return {name: np.asarray(array * np.float32(factor)) if array.dtype == np.float32 else array
            for name, array in feeds.items()}


def largest(array: NDArray[Any]) -> float:
    return float(np.abs(array).max(initial=1e-3))


def compare(found: NDArray[Any], expected: list[NDArray[Any]], bound: float, name: str = "") -> None:
    """Elementwise within the bound of what lies between the smallest and the largest expected; integers equal."""
    if expected[0].dtype.kind != "f":
        np.testing.assert_array_equal(found.astype(expected[0].dtype), expected[0], err_msg=name)
        return
    nearest = np.clip(found.astype(np.float32), np.min(expected, axis=0), np.max(expected, axis=0))
    np.testing.assert_allclose(found.astype(np.float32), nearest, rtol=0, atol=bound, err_msg=name)


@pytest.mark.parametrize(("backend", "case"), rows("float"))
def test_float(backend: str, case: Case, tmp_path: Path) -> None:
    convert_and_compare(backend, case, "float", build(case), {}, tmp_path)


@pytest.mark.parametrize(("backend", "case"), rows("int8"))
def test_int8(backend: str, case: Case, tmp_path: Path) -> None:
    model, steps = quantize(case)
    convert_and_compare(backend, case, "int8", model, steps, tmp_path)


@pytest.mark.parametrize(("backend", "case"), [row for row in rows("foreign") if row.values[0] != "coreml"])
def test_foreign_grids(backend: str, case: Case, tmp_path: Path) -> None:
    """Grids of a quantizer that knows no engine. Core ML quantizes and dequantizes in place: no rule to break."""
    model, steps = quantize(case, foreign=True)
    convert_and_compare(backend, case, "foreign", model, steps, tmp_path)


WEIGHTED: Final = tuple(case for case in CASES if has_weights(case))


@pytest.mark.parametrize(("backend", "case"), rows("int4", WEIGHTED))
def test_int4_weights_int8_activations(backend: str, case: Case, tmp_path: Path) -> None:
    model, steps = quantize4(case)
    convert_and_compare(backend, case, "int4", model, steps, tmp_path)


@pytest.mark.parametrize(("backend", "case"), rows("weights", WEIGHTED))
def test_int4_weights_float_activations(backend: str, case: Case, tmp_path: Path) -> None:
    convert_and_compare(backend, case, "weights", quantize_weights(case), {}, tmp_path)


@pytest.mark.parametrize("backend", TABLES)
def test_signatures_agree_with_the_onnx_schema(backend: str) -> None:
    """Every keyword of a handler is an attribute of the op, with the schema's default."""
    table = handlers(backend)
    served: dict[Any, list[str]] = {}
    for op_type, handler in table.items():
        if onnx_op(op_type):
            served.setdefault(handler, []).append(op_type)
    assert [text for handler, op_types in served.items() for text in disagreements(op_types, handler)] == []


def onnx_op(op_type: str) -> bool:
    """False for the ops of edgeq's folded graph, which ONNX does not know."""
    return onnx.defs.has(op_type, OPSET, "")


def disagreements(op_types: list[str], handler: Any) -> list[str]:
    """What a handler's keywords say otherwise than the schemas of its ops; absent may be written as None, 0 or ()."""
    attributes = {}
    for op_type in op_types:
        attributes.update(onnx.defs.get_schema(op_type, OPSET).attributes)
    wrong = []
    for parameter in inspect.signature(handler).parameters.values():
        if parameter.kind is not parameter.KEYWORD_ONLY:
            continue
        if parameter.name not in attributes:
            wrong.append(f"{op_types} have no attribute {parameter.name}")
            continue
        attribute = attributes[parameter.name]
        if parameter.default is parameter.empty:
            continue
        if attribute.required:
            wrong.append(f"{op_types}: {parameter.name} is required")
        elif not same(parameter.default, attribute):
            wrong.append(f"{op_types}: {parameter.name} does not default to {parameter.default} in ONNX")
    return wrong


def same(given: Any, attribute: onnx.defs.OpSchema.Attribute) -> bool:
    default = onnx.helper.get_attribute_value(attribute.default_value) if attribute.default_value.name else None
    if default is None:
        return not given
    if isinstance(default, float):
        return bool(given == pytest.approx(default))
    if isinstance(default, list):
        return list(given or ()) == default
    return bool(given == (default.decode() if isinstance(default, bytes) else default))


@pytest.mark.parametrize("backend", TABLES)
def test_every_handler_has_a_row(backend: str) -> None:
    """edgeq's own ops come from the rows with a tail."""
    covered = {case.op for case in CASES} | {step.op for case in CASES for step in case.tail}
    assert {op for op in handlers(backend) if onnx_op(op)} <= covered


def test_every_limit_names_a_row() -> None:
    ids = {case.id for case in CASES}
    assert {row.partition("/")[0] for _, row in (*REFUSED, *FAILS)} <= ids
    assert {backend for backend, _ in (*REFUSED, *FAILS)} <= {*TOLERANCE, "tensorrt"}  # whose tests are its own


def test_a_wrong_default_would_be_noticed() -> None:
    def leaky_relu(builder: Any, value: Any, *, alpha: float = 0.1, slope: float = 1.0) -> None: ...

    assert disagreements(["LeakyRelu"], leaky_relu) == [
        "['LeakyRelu']: alpha does not default to 0.1 in ONNX", "['LeakyRelu'] have no attribute slope"]

    def cast(builder: Any, value: Any, *, to: int = 1) -> None: ...

    assert disagreements(["Cast"], cast) == ["['Cast']: to is required"]


@pytest.mark.parametrize(("off", "accepted"), [(0.0, True), (1.0, True), (2.0, False)])
def test_a_step_too_many_would_be_noticed(off: float, accepted: bool) -> None:
    expected = np.arange(5, dtype=np.float32) * np.float32(0.1)
    found = expected + np.float32(0.1 * off)
    if accepted:
        compare(found, [expected], 0.1 * 1.01)
    else:
        with pytest.raises(AssertionError):
            compare(found, [expected], 0.1 * 1.01)
