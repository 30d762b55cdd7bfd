"""The validator accepts what we write and names each bug that is planted in it; most of them LiteRT runs without a
word."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from opcases import quantize
from opcases.case import case, const, x

from edgeq_converters.prepare import lower_form
from edgeq_converters.tflite import flatbuffer
from edgeq_converters.tflite.backend import lower
from edgeq_converters.tflite.validate import InvalidFile, validate

ROWS = {row.id: row for row in (
    case("conv", "Conv", x(1, 3, 9, 7), const(4, 3, 3, 3), const(4), pads=[1, 1, 1, 1]),
    case("conv4", "Conv", x(1, 3, 9, 7), const(4, 3, 3, 3), const(4), pads=[1, 1, 1, 1]),
    case("depthwise", "Conv", x(1, 4, 9, 7), const(4, 1, 3, 3), const(4), group=4),
    case("concat", "Concat", x(1, 3, 4), x(1, 2, 4), axis=1),
    case("softmax", "Softmax", x(2, 7)),
    case("neg", "Neg", x(2, 7)),
)}


def model_of(id: str) -> Any:
    model, _ = quantize(ROWS[id], bits=4 if id.endswith("4") else 8)
    program, _ = lower(lower_form(model))
    made, contents = flatbuffer.to_model({flatbuffer.SIGNATURE: program})
    for buffer, content in zip(made.buffers[1:], contents, strict=True):
        buffer.data = content.copy()
    return made


def operator(model: Any, number: int = 0, *, weighted: bool = False) -> Any:
    """An operator; weighted: the first with three inputs."""
    graph = model.subgraphs[0]
    return next(op for op in graph.operators if len(op.inputs) == 3) if weighted else graph.operators[number]


def tensor(model: Any, op: Any, index: int) -> Any:
    return model.subgraphs[0].tensors[op.inputs[index]]


def wrong_version(model: Any) -> None:
    model.operatorCodes[operator(model, weighted=True).opcodeIndex].version = 1


def bias_off_the_product(model: Any) -> None:
    tensor(model, operator(model, weighted=True), 2).quantization.scale *= np.float32(2)


def weight_zero_point(model: Any) -> None:
    tensor(model, operator(model, weighted=True), 1).quantization.zeroPoint[0] = 3


def wrong_axis(model: Any) -> None:
    tensor(model, operator(model, weighted=True), 1).quantization.quantizedDimension ^= 3


def weight_beyond_the_narrow_range(model: Any) -> None:
    model.buffers[tensor(model, operator(model, weighted=True), 1).buffer].data[0] = 0x80


def four_bit_weight_beyond(model: Any) -> None:
    model.buffers[tensor(model, operator(model, weighted=True), 1).buffer].data[0] = 0x08


def too_few_bytes(model: Any) -> None:
    buffer = model.buffers[tensor(model, operator(model, weighted=True), 1).buffer]
    buffer.data = buffer.data[:-1]


def float_bias(model: Any) -> None:
    tensor(model, operator(model, weighted=True), 2).type = 0
    tensor(model, operator(model, weighted=True), 2).quantization = None


def wrong_result_shape(model: Any) -> None:
    op = operator(model, weighted=True)
    model.subgraphs[0].tensors[op.outputs[0]].shape[1] += 1


def other_stride(model: Any) -> None:
    operator(model, weighted=True).builtinOptions.strideW = 2


def read_before_written(model: Any) -> None:
    model.subgraphs[0].operators.reverse()


def last_integer(model: Any) -> Any:
    """The integer tensor that the DEQUANTIZE at the end reads."""
    return tensor(model, model.subgraphs[0].operators[-1], 0)


def result_grid(model: Any) -> None:
    last_integer(model).quantization.scale = np.float32([0.125])


def no_grid(model: Any) -> None:
    last_integer(model).quantization = None


def negative_scale(model: Any) -> None:
    last_integer(model).quantization.scale = -last_integer(model).quantization.scale


def wrong_type(model: Any) -> None:
    last_integer(model).type = 0


PLANTED: list[tuple[str, Callable[[Any], None], str]] = [
    ("conv", wrong_version, "version 1 instead of 3"),
    ("conv", bias_off_the_product, "input scale \\* weight scale"),
    ("conv", weight_zero_point, "zero point"),
    ("conv", wrong_axis, "scales along axis 3"),
    ("depthwise", wrong_axis, "scales along axis 0"),
    ("conv", weight_beyond_the_narrow_range, "weights beyond 127"),
    ("conv4", four_bit_weight_beyond, "weights beyond 7"),
    ("conv4", too_few_bytes, "bytes"),
    ("conv", float_bias, "bias of float32"),
    ("conv", wrong_result_shape, "where the kernel computes"),
    ("conv", other_stride, "where the kernel computes"),
    ("conv", read_before_written, "read before it is written"),
    ("concat", result_grid, "does not rescale"),
    ("softmax", result_grid, "not on the one grid"),
    ("conv", no_grid, "without a grid"),
    ("conv", negative_scale, "not a positive number"),
    ("concat", wrong_type, "writes float32 from int8"),
]


@pytest.mark.parametrize("id", ROWS)
def test_what_we_write_is_legal(id: str) -> None:
    validate(model_of(id))


@pytest.mark.parametrize(("id", "plant", "message"), PLANTED,
                         ids=[f"{id}-{plant.__name__}" for id, plant, _ in PLANTED])
def test_planted(id: str, plant: Callable[[Any], None], message: str) -> None:
    model = model_of(id)
    plant(model)
    with pytest.raises(InvalidFile, match=message):
        validate(model)
