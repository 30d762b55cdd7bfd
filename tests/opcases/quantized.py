"""A row in standard QDQ form, on the grids that a quantizer for TFLite and ONNX Runtime would choose."""
from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeq.graph import initializer
from edgeq.ops import MULTIPLY_ACCUMULATE
from edgeq.scheme import PerChannel, PerTensor, QuantParams, QuantType
from edgeq.scheme import quantize as to_grid
from edgeq.targets import Fixed, Same
from edgeq_converters.tflite.target import TFLITE

from .case import Case
from .model import Arrays, build, inferred, run_onnxruntime, sample

Grids = dict[str, QuantParams]

# Data in and out on one grid: as the planner wants it for LiteRT, and five ops that it has no row for.
SAME_GRID: Final = frozenset({
    *(op for op, row in TFLITE.rows.items() if isinstance(row.constraint, Same)),
    "ReverseSequence", "ScatterElements", "ScatterND", "TopK", "Trilu",
})
# Output grids that integer kernels fix themselves.
FIXED_GRID: Final[Mapping[str, Fixed]] = {
    op: row.constraint for op, row in TFLITE.rows.items() if isinstance(row.constraint, Fixed)}
WIDE_FIXED_GRID: Final[Mapping[str, Fixed]] = {
    op: row.constraint for op, row in TFLITE.wide.items() if isinstance(row.constraint, Fixed)}
_ALL: Final = tuple(range(8))
# Constant inputs that are data, by position; every other constant (statistics, bounds, recurrent weights) stays float.
CONSTANT_DATA: Final[Mapping[str, tuple[int, ...]]] = {
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Min", "Max", "Sum", "Mean", "Concat", "Greater", "Less"), _ALL),
    "Where": (1, 2), "PRelu": (1,), "MatMul": (0,), "Einsum": (1,),
}
# The input that holds weights, where it is constant; the rows of an embedding are such.
WEIGHT_INPUT: Final[Mapping[str, int]] = {**dict.fromkeys(MULTIPLY_ACCUMULATE, 1), "Gather": 0}
_FOREIGN: Final = QuantType(8, signed=True, symmetric=False)
_ACTIVATION: Final = QuantType(8, signed=False, symmetric=False)
_SYMMETRIC: Final = QuantType(8)
_WIDE: Final = QuantType(16)


def has_weights(case: Case) -> bool:
    """True when an input is a constant weight of a convolution or matrix product, or the table of an embedding."""
    return case.op in WEIGHT_INPUT and getattr(case.inputs[WEIGHT_INPUT[case.op]], "constant", False)


def quantize(case: Case, *, bits: int = 8, foreign: bool = False, symmetric: bool = False,
             wide: bool = False) -> tuple[ir.Model, dict[str, float]]:
    """The row with every float input and output on a grid -> (QDQ model, the step of each float output's grid).

    Activations are uint8, asymmetric, from the extremes of the float run; weights are ``bits`` wide, symmetric, narrow,
    per output channel; a bias is int32 on the product grid. Nothing lies between a row and its tail.
    foreign: as a quantizer that knows no engine would do it: int8 activations, no grid shared or fixed, every output
    at least 1.5 times as wide as it need be. symmetric: as TensorRT wants activations, int8 around 0. wide: int16
    around 0, as LiteRT has it.
    """
    model = build(case)
    feeds = sample(case)
    results = run_onnxruntime(model, feeds)
    constants = _constant_data(model, case)
    grids = _grids(case, {**feeds, **constants}, results, foreign, symmetric, wide)
    graph = model.graph
    for name in [value.name for value in graph.inputs if value.name in grids]:
        _round_input(graph, str(name), grids[str(name)])
    for name, data in constants.items():
        _store(graph, name, to_grid(data, grids[name]), grids[name])
    _store_weights(graph, case, bits, grids)
    for name in [name for name in results if name in grids]:
        _round_output(graph, name, grids[name])
    return inferred(model), {name: float(grids[name].scale) for name in results if name in grids}


def quantize4(case: Case) -> tuple[ir.Model, dict[str, float]]:
    """As `quantize`, with INT4 weights."""
    return quantize(case, bits=4)


def quantize_weights(case: Case, *, bits: int = 4) -> ir.Model:
    """The row with integer weights and nothing else."""
    model = build(case)
    _store_weights(model.graph, case, bits, {})
    return inferred(model)


def _constant_data(model: ir.Model, case: Case) -> Arrays:
    """Name -> contents of the constants that get a grid as data do."""
    first = next(iter(model.graph))
    chosen = {}
    for position in CONSTANT_DATA.get(case.op, ()):
        value = first.inputs[position] if position < len(first.inputs) else None
        if value is not None and value.const_value is not None and value.dtype == ir.DataType.FLOAT:
            chosen[str(value.name)] = value.const_value.numpy()
    return chosen


def _grids(case: Case, data: Arrays, results: Arrays, foreign: bool, symmetric: bool,
           wide: bool) -> Grids:
    """A grid for every float array."""
    data = {name: array for name, array in data.items() if array.dtype == np.float32}
    results = {name: array for name, array in results.items() if array.dtype == np.float32}
    if not data and not results:
        return {}
    if symmetric:
        return {name: _grid([array], _SYMMETRIC) for name, array in (data | results).items()}
    if foreign:
        return {**{name: _grid([array], _FOREIGN) for name, array in data.items()},
                **{name: _grid([1.5 * array, *_reach(case, data)], _FOREIGN) for name, array in results.items()}}
    kind, rules = (_WIDE, WIDE_FIXED_GRID) if wide else (_ACTIVATION, FIXED_GRID)
    if case.op in SAME_GRID and not case.tail:
        return dict.fromkeys([*data, *results], _grid([*data.values(), *results.values()], kind))
    grids = {name: _grid([array], kind) for name, array in (data | results).items()}
    if case.op in rules and not case.tail:
        fixed = rules[case.op]
        grids.update(dict.fromkeys(results, QuantParams(
            kind, np.asarray(fixed.scale, np.float32), np.asarray(fixed.zero_point, np.int32))))
    return grids


def _reach(case: Case, data: Arrays) -> list[NDArray[Any]]:
    """What makes a foreign output grid coarser than the grid on which an integer kernel must round first."""
    if case.op in SAME_GRID:
        return [1.5 * array for array in data.values()]
    if case.op in FIXED_GRID:
        return [np.array([0, 1.5 * 256 * FIXED_GRID[case.op].scale], np.float32)]
    return []


def _grid(arrays: Iterable[NDArray[Any]], type: QuantType) -> QuantParams:
    """The grid from the smallest to the largest number of all arrays, zero included."""
    joined = np.concatenate([array.ravel() for array in arrays])
    low, high = min(float(joined.min()), 0.0), max(float(joined.max()), 0.0)
    first, last = type.range
    if type.symmetric:
        low, high = min(low, -high), max(high, -low)
    scale = np.float32((high - low) / (last - first) or 1.0)
    zero_point = np.clip(np.rint(first - low / scale), first, last)
    return QuantParams(type, np.asarray(scale, np.float32), np.asarray(zero_point, np.int32))


def _weight_grid(data: NDArray[Any], bits: int, axis: int | None) -> QuantParams:
    """Symmetric, one scale per index of ``axis``, or a single one."""
    granularity = PerTensor() if axis is None else PerChannel(axis)
    type = QuantType(bits, granularity=granularity)
    others = tuple(i for i in range(data.ndim) if i != axis) if axis is not None else None
    scale = np.asarray(np.abs(data).max(axis=others) / type.range[1], np.float32)
    return QuantParams(type, scale, np.zeros(scale.shape, np.int32))


def _output_axis(case: Case, rank: int) -> int | None:
    """The weight axis that counts output channels, or rows, or None where one scale must do for all."""
    match case.op:
        case "Conv" | "Gather":
            return 0
        case "ConvTranspose":  # with groups the axis holds the channels of one group only
            return 1 if case.attributes.get("group", 1) == 1 else None
        case "Gemm":
            return 0 if case.attributes.get("transB") else 1
    return 1 if rank == 2 else None


def _store_weights(graph: ir.Graph, case: Case, bits: int, grids: Grids) -> None:
    """Integer weights; the bias too where the grid of the data input is known."""
    if not has_weights(case):
        return
    first = next(node for node in graph if node.op_type == case.op)
    weight = first.inputs[WEIGHT_INPUT[case.op]]
    assert weight is not None
    assert weight.const_value is not None
    data = weight.const_value.numpy()
    grid = _weight_grid(data, bits, _output_axis(case, data.ndim))
    _store(graph, str(weight.name), to_grid(data, grid), grid)
    bias = _bias(graph, case, first)
    if bias is None or "x0" not in grids:
        return
    assert bias.const_value is not None
    numbers = bias.const_value.numpy()
    scale = np.asarray(grids["x0"].scale * grid.scale, np.float32)
    axis = PerChannel(numbers.ndim - 1) if scale.ndim else PerTensor()
    stored = QuantParams(QuantType(32, granularity=axis), scale, np.zeros(scale.shape, np.int32))
    _store(graph, str(bias.name), np.rint(numbers / scale).astype(np.int32), stored)


def _bias(graph: ir.Graph, case: Case, first: ir.Node) -> ir.Value | None:
    """The constant [N] or [1,N] that is added to the product as it is."""
    bias = first.inputs[2] if len(first.inputs) > 2 else None
    if case.op == "Gemm" and (case.attributes.get("alpha", 1) != 1 or case.attributes.get("beta", 1) != 1):
        return None
    if case.op == "MatMul" and case.tail and case.tail[0].op == "Add":
        bias = next(node for node in graph if node.op_type == "Add").inputs[1]
    if bias is None or bias.const_value is None or bias.shape is None or len(bias.shape) == 0:
        return None
    channels = first.outputs[0].shape
    assert channels is not None
    count = channels[-1 if case.op in ("Gemm", "MatMul") else 1]
    return bias if tuple(bias.shape) in ((count,), (1, count)) else None


def _round_input(graph: ir.Graph, name: str, grid: QuantParams) -> None:
    """x -> op     =>     x -> Q -> DQ -> op."""
    value = next(value for value in graph.inputs if value.name == name)
    readers = list(value.uses())
    pair = _pair(graph, value, name, grid)
    graph.insert_before(graph[0], pair)
    for use in readers:
        use.node.replace_input_with(use.idx, pair[1].outputs[0])


def _round_output(graph: ir.Graph, name: str, grid: QuantParams) -> None:
    """op -> y     =>     op -> y_real -> Q -> DQ -> y."""
    index = next(i for i, value in enumerate(graph.outputs) if value.name == name)
    value = graph.outputs[index]
    value.name = f"{name}_real"
    pair = _pair(graph, value, name, grid)
    pair[1].outputs[0].name = name
    pair[1].outputs[0].type = value.type
    graph.extend(pair)
    graph.outputs[index] = pair[1].outputs[0]


def _pair(graph: ir.Graph, value: ir.Value, name: str, grid: QuantParams) -> list[ir.Node]:
    operands = _operands(graph, name, grid)
    quantize_node = ir.node("QuantizeLinear", [value, *operands], name=f"{name}_quantize")
    quantize_node.outputs[0].name = f"{name}_stored"
    dequantize_node = ir.node("DequantizeLinear", [quantize_node.outputs[0], *operands], name=f"{name}_dequantize")
    dequantize_node.outputs[0].name = f"{name}_on_grid"
    return [quantize_node, dequantize_node]


def _store(graph: ir.Graph, name: str, integers: NDArray[Any], grid: QuantParams) -> None:
    """Float initializer -> op     =>     integer initializer -> DQ -> op."""
    old = graph.initializers[name]
    readers = list(old.uses())
    stored = initializer(graph, f"{name}_stored", np.asarray(integers, _dtype(grid.type)))
    attributes = {"axis": grid.type.granularity.axis} if isinstance(grid.type.granularity, PerChannel) else {}
    node = ir.node("DequantizeLinear", [stored, *_operands(graph, name, grid)], attributes, name=f"{name}_dequantize")
    node.outputs[0].name = f"{name}_on_grid"
    graph.insert_before(graph[0], node)
    for use in readers:
        use.node.replace_input_with(use.idx, node.outputs[0])
    graph.initializers.pop(name)


def _operands(graph: ir.Graph, name: str, grid: QuantParams) -> list[ir.Value]:
    return [initializer(graph, f"{name}_scale", grid.scale),
            initializer(graph, f"{name}_zero_point", grid.zero_point.astype(_dtype(grid.type)))]


def _dtype(type: QuantType) -> np.dtype[np.generic]:
    name = f"{'' if type.signed else 'u'}int{type.bits}"
    return np.dtype(ml_dtypes.int4 if name == "int4" else name)
