"""Quantization arithmetic against onnx's own reference of QuantizeLinear and DequantizeLinear."""
from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from edgeq.scheme import (
    PRESETS,
    Granularity,
    PerBlock,
    PerChannel,
    PerTensor,
    QuantParams,
    QuantType,
    broadcast,
    dequantize,
    quantize,
)

REAL = np.random.default_rng(0).normal(size=(4, 6, 5)).astype(np.float32) * 3
NAMES = {(8, True): "INT8", (8, False): "UINT8", (16, True): "INT16", (16, False): "UINT16", (4, True): "INT4",
         (4, False): "UINT4"}


def params(bits: int, signed: bool, granularity: Granularity, shape: tuple[int, ...]) -> QuantParams:
    """Scales and zero points that differ everywhere. Not symmetric, so that the whole range of the type is used."""
    rng = np.random.default_rng(1)
    type = QuantType(bits, signed, symmetric=False, granularity=granularity)
    low, high = type.range
    scale = rng.uniform(6.0, 9.0, shape).astype(np.float32) / (high - low)
    zero_point = rng.integers(low // 2, high // 2, shape)
    return QuantParams(type, np.asarray(scale, np.float32), np.asarray(zero_point, np.int32))


def reference(op: str, data: NDArray[Any], grid: QuantParams, input_type: int) -> NDArray[Any]:
    """onnx.reference computes one Q or DQ node."""
    stored = getattr(onnx.TensorProto, NAMES[grid.type.bits, grid.type.signed])
    axis = getattr(grid.type.granularity, "axis", 1)
    size = getattr(grid.type.granularity, "size", 0)
    node = onnx.helper.make_node(op, ["x", "s", "z"], ["y"], axis=axis, block_size=size)
    output = stored if op == "QuantizeLinear" else onnx.TensorProto.FLOAT
    constants = [onnx.numpy_helper.from_array(grid.scale, "s"),
                 onnx.helper.make_tensor("z", stored, grid.zero_point.shape, grid.zero_point.ravel().tolist())]
    graph = onnx.helper.make_graph(
        [node], "g", [onnx.helper.make_tensor_value_info("x", input_type, data.shape)],
        [onnx.helper.make_tensor_value_info("y", output, data.shape)], constants)
    model = onnx.helper.make_model(graph, ir_version=10, opset_imports=[onnx.helper.make_opsetid("", 21)])
    outputs: list[Any] = list(ReferenceEvaluator(model).run(None, {"x": data}))
    return np.asarray(outputs[0])


@pytest.mark.parametrize(("granularity", "shape"), [
    (PerTensor(), ()), (PerChannel(0), (4,)), (PerChannel(1), (6,)), (PerChannel(-1), (5,)),
    (PerBlock(2, 0), (2, 6, 5)), (PerBlock(3, 1), (4, 2, 5)), (PerBlock(2, -1), (4, 6, 3))], ids=str)
@pytest.mark.parametrize(("bits", "signed"), NAMES)
def test_as_onnx_computes_it(bits: int, signed: bool, granularity: Granularity, shape: tuple[int, ...]) -> None:
    grid = params(bits, signed, granularity, shape)
    integers = quantize(REAL, grid)
    onnx_integers = reference("QuantizeLinear", REAL, grid, onnx.TensorProto.FLOAT)
    np.testing.assert_array_equal(integers, onnx_integers.astype(np.int32))
    stored = getattr(onnx.TensorProto, NAMES[bits, signed])
    onnx_reals = reference("DequantizeLinear", onnx_integers, grid, stored)
    np.testing.assert_array_equal(dequantize(integers, grid), onnx_reals)


def test_ties_go_to_even() -> None:
    grid = QuantParams(QuantType(8), np.asarray(1.0, np.float32), np.asarray(0, np.int32))
    assert quantize(np.array([0.5, 1.5, 2.5, -0.5, -1.5], np.float32), grid).tolist() == [0, 2, 2, 0, -2]


@pytest.mark.parametrize(("type", "expected"), [
    (QuantType(8), (-127, 127)), (QuantType(4), (-7, 7)), (QuantType(8, symmetric=False), (-128, 127)),
    (QuantType(8, signed=False, symmetric=False), (0, 255)), (QuantType(16), (-32767, 32767))])
def test_ranges(type: QuantType, expected: tuple[int, int]) -> None:
    assert type.range == expected


def test_the_signed_view_means_the_same_numbers() -> None:
    grid = params(8, False, PerTensor(), ())
    signed = grid.as_signed()
    assert signed.type.range == (-128, 127)
    assert grid.real_range() == signed.real_range()
    assert grid.same_grid(signed)
    assert signed.same_grid(grid)
    np.testing.assert_array_equal(dequantize(quantize(REAL, grid), grid), dequantize(quantize(REAL, signed), signed))


def test_grids_that_differ_are_not_the_same() -> None:
    grid = params(8, True, PerTensor(), ())
    assert not grid.same_grid(None)
    assert not grid.same_grid(dataclasses.replace(grid, scale=grid.scale * np.float32(1.001)))
    assert not grid.same_grid(dataclasses.replace(grid, zero_point=grid.zero_point + 1))
    assert not grid.same_grid(params(16, True, PerTensor(), ()))


def test_a_ragged_last_block() -> None:
    scale = np.arange(1, 4, dtype=np.float32)[:, None]
    spread = broadcast(scale, PerBlock(2, 0), (5, 1))
    assert spread.ravel().tolist() == [1, 1, 2, 2, 3]


def test_a_block_has_a_size() -> None:
    with pytest.raises(ValueError, match="positive"):
        PerBlock(0)


def test_presets_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        PRESETS["w8"] = PRESETS["w4"]  # type: ignore[index]
    with pytest.raises(dataclasses.FrozenInstanceError):
        PRESETS["w8"].weight = None  # type: ignore[misc]
