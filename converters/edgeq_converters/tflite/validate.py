"""Is the file legal? LiteRT does not ask: most of what is checked here runs there without an error, and gives wrong
numbers.

Works on the schema's own objects, as they were written, so that it sees the mistakes of the writer too.
"""
from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from edgeq.errors import EdgeqError
from edgeq.pack import unpack4
from edgeq.scheme import PerChannel, PerTensor, QuantParams, QuantType
from edgeq_converters.tflite.flatbuffer import SCHEMA_TYPES
from edgeq_converters.tflite.inference import result_shape
from edgeq_converters.tflite.kernels import (
    FIXED_GRIDS,
    FLOAT32,
    INT4,
    INT8,
    INT16,
    KERNELS,
    WEIGHTS,
    Grids,
    dtype_name,
    version,
    weights_row,
)
from edgeq_converters.tflite.program import Operator, Tensor

BIAS_RTOL: Final = 1e-5  # kernels use input scale * weight scale, whatever the bias says
WEIGHTED: Final = frozenset(row.kernel for row in WEIGHTS)
BITS: Final = {"int4": 4, "int8": 8, "uint8": 8, "int16": 16, "int32": 32, "int64": 64}
LIMITS: Final = {4: 7, 8: 127}  # the largest magnitude of a symmetric weight
# Kernels whose result has a type of its own.
RETYPING: Final = frozenset(("CAST", "BITCAST", "QUANTIZE", "DEQUANTIZE", "EQUAL", "NOT_EQUAL", "LESS", "LESS_EQUAL",
                             "GREATER", "GREATER_EQUAL", "ARG_MAX", "ARG_MIN", "SHAPE"))


class InvalidFile(EdgeqError):
    """A .tflite file that LiteRT would misread: a bug in edgeq."""


def validate(model: Any) -> None:
    """model: a ModelT, as written or as read back.

    Raises:
        InvalidFile: with every rule that the file breaks.
    """
    tensors, operators, versions = read_graph(model)
    graph, resizable = model.subgraphs[0], any(tensor.free for tensor in tensors)
    problems = [f"{names(tensor)}: {text}" for tensor in tensors for text in tensor_problems(tensor)]
    problems += list(order_problems(graph, tensors))
    for operator, number in zip(operators, versions, strict=True):
        try:
            found = list(operator_problems(operator, number, resizable=resizable))
        except (ValueError, KeyError, IndexError) as error:
            found = [f"{error}"]
        problems += [f"{operator.kernel} -> {names(operator.outputs[0])}: {text}" for text in found]
    if problems:
        raise InvalidFile("a bug in edgeq: the TFLite file is not legal:\n" + "\n".join(f"  - {p}" for p in problems))


def names(tensor: Tensor) -> str:
    return f"'{tensor.name}'"


def read_graph(model: Any) -> tuple[list[Tensor], list[Operator], list[int]]:
    """The first subgraph in this package's own terms -> tensors, operators, their versions in the file.

    Constants that are streamed behind the flatbuffer have no data here.
    """
    from ai_edge_litert import schema_py_generated as schema

    graph = model.subgraphs[0]
    types = {getattr(schema.TensorType, theirs): ours for ours, theirs in SCHEMA_TYPES.items()}
    kernels = {value: key for key, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    tensors = [_tensor(tensor, types[tensor.type], model.buffers[tensor.buffer]) for tensor in graph.tensors]
    operators, versions = [], []
    for operator in graph.operators:
        code = model.operatorCodes[operator.opcodeIndex]
        options = dict(vars(operator.builtinOptions)) if operator.builtinOptions is not None else {}
        operators.append(Operator(kernels[code.builtinCode], [None if i < 0 else tensors[i] for i in operator.inputs],
                                  [tensors[i] for i in operator.outputs], options))
        versions.append(int(code.version))
    return tensors, operators, versions


def _tensor(tensor: Any, dtype: str, buffer: Any) -> Tensor:
    kind = INT4 if dtype == "int4" else np.dtype(dtype)
    shape = tuple(int(size) for size in (tensor.shape if tensor.shape is not None else ()))
    name = tensor.name.decode() if isinstance(tensor.name, bytes) else str(tensor.name)
    signature = tensor.shapeSignature if tensor.shapeSignature is not None else ()
    free = tuple(axis for axis, size in enumerate(signature) if size == -1)
    return Tensor(name, shape, kind, _grid(tensor.quantization, dtype), _data(buffer, kind, shape, name), free,
                  bool(tensor.isVariable))


def _data(buffer: Any, dtype: np.dtype[Any], shape: tuple[int, ...], name: str) -> Any:
    if buffer.data is None:
        return None
    raw = np.asarray(buffer.data, np.uint8)
    count = int(np.prod(shape, dtype=np.int64))
    expected = -(-count // 2) if dtype == INT4 else count * dtype.itemsize
    if raw.size != expected:
        raise InvalidFile(f"a bug in edgeq: '{name}' holds {raw.size} bytes, its shape asks for {expected}")
    return unpack4(raw, shape) if dtype == INT4 else raw.view(dtype).reshape(shape)


def _grid(quantization: Any, dtype: str) -> QuantParams | None:
    if quantization is None or quantization.scale is None or not len(quantization.scale):
        return None
    scale, zero_point = np.asarray(quantization.scale, np.float32), np.asarray(quantization.zeroPoint, np.int32)
    by_channel = scale.size > 1 or quantization.quantizedDimension > 0
    granularity = PerChannel(int(quantization.quantizedDimension)) if by_channel else PerTensor()
    kind = QuantType(BITS.get(dtype, 8), symmetric=False, granularity=granularity)
    return QuantParams(kind, scale if by_channel else scale.reshape(()),
                       zero_point if by_channel else zero_point.reshape(()))


def tensor_problems(tensor: Tensor) -> Iterator[str]:
    grid = tensor.grid
    if grid is None:
        return
    if tensor.dtype == FLOAT32:
        yield "a float tensor carries a grid"
    if not np.isfinite(grid.scale).all() or (np.asarray(grid.scale) <= 0).any():
        yield "its scale is not a positive number"
    if isinstance(grid.type.granularity, PerChannel):
        axis = grid.type.granularity.axis
        if axis >= tensor.rank or grid.scale.shape != (tensor.shape[axis],):
            yield f"{grid.scale.size} scales along axis {axis} of {tensor.shape}"
    if tensor.dtype == INT16 and np.any(grid.zero_point):
        yield "its zero point is not 0, as the int16 kernels have it"
    if tensor.dtype == INT8 and (np.abs(np.asarray(grid.zero_point)) > 128).any():
        yield "its zero point lies outside of int8"


def order_problems(graph: Any, tensors: list[Tensor]) -> Iterator[str]:
    """Every tensor is written once, and before it is read."""
    known = {int(index) for index in graph.inputs}
    for operator in graph.operators:
        for index in operator.inputs:
            if index >= 0 and index not in known and graph.tensors[index].buffer == 0 and not tensors[index].variable:
                yield f"{names(tensors[index])} is read before it is written"
        for index in operator.outputs:
            if index in known or graph.tensors[index].buffer:
                yield f"{names(tensors[index])} is written twice, or is constant"
            known.add(int(index))
    for index in graph.outputs:
        if index not in known:
            yield f"the output {names(tensors[index])} is never written"


def operator_problems(operator: Operator, number: int, *, resizable: bool = False) -> Iterator[str]:
    """The rules of kernels.py for one operator. resizable: its shapes are those of one run among others."""
    row = KERNELS.get(operator.kernel)
    if row is None:
        yield "no such kernel in the table"
        return
    if number != version(operator):
        yield f"version {number} instead of {version(operator)}"
    positions = range(len(operator.inputs)) if row.data is None else row.data
    data = [tensor for p in positions if (tensor := operator.inputs[p]) is not None]
    kinds = {dtype_name(tensor) for tensor in data}
    if not kinds <= row.dtypes:
        yield f"takes {sorted(row.dtypes)}, not {sorted(kinds)}"
    if len({tensor.dtype for tensor in data}) > 1:
        yield f"operands of different types {sorted(kinds)}"
    if operator.kernel not in RETYPING and any(o.dtype != data[0].dtype for o in operator.outputs[:1]):
        yield f"writes {operator.outputs[0].dtype} from {data[0].dtype}"
    yield from _grid_problems(operator, data)
    if operator.kernel in WEIGHTED:
        yield from _weight_problems(operator, data[0])
    expected = None if resizable else result_shape(operator)
    if expected is not None and expected != operator.outputs[0].shape:
        yield f"writes {operator.outputs[0].shape} where the kernel computes {expected}"


def _grid_problems(operator: Operator, data: list[Tensor]) -> Iterator[str]:
    out, rule = operator.outputs[0], KERNELS[operator.kernel].grids
    on_integers = dtype_name(data[0]) in ("q8", "q16")
    if operator.kernel not in ("DEQUANTIZE",) and on_integers and out.dtype in (INT8, INT16) and out.grid is None:
        yield "integers go in, integers without a grid come out"
    if out.grid is not None and not on_integers and operator.kernel != "QUANTIZE":
        yield "a grid on the result of a kernel that runs on other numbers"
    if not on_integers:
        return
    if any(tensor.grid is None for tensor in data):
        yield "only some of its integers carry a grid"
    elif rule is Grids.SAME and not all(tensor.grid.same_grid(other.grid)  # type: ignore[union-attr]
                                        for tensor in data for other in operator.outputs[:1]
                                        if other.dtype in (INT8, INT16)):
        yield "its grids differ, and this kernel does not rescale"
    elif rule is Grids.FIXED and not FIXED_GRIDS[operator.kernel, BITS[data[0].dtype.name]].same_grid(out.grid):
        yield "its result is not on the one grid of this kernel"


def _weight_problems(operator: Operator, x: Tensor) -> Iterator[str]:
    weight = operator.inputs[1]
    assert weight is not None
    bias = operator.inputs[-1] if len(operator.inputs) > (3 if operator.kernel == "TRANSPOSE_CONV" else 2) else None
    if weight.dtype == FLOAT32:
        if dtype_name(x) != "f32":
            yield "float weights on integers"
        if bias is not None and bias.dtype != FLOAT32:
            yield f"a bias of {bias.dtype} beside float weights"
        return
    if weights_row(operator.kernel, dtype_name(x), weight) is None:
        yield f"{dtype_name(weight)} weights on {dtype_name(x)} activations are no legal combination"
    if weight.grid is None:
        yield "integer weights without a grid"
        return
    axis = 3 if operator.kernel == "DEPTHWISE_CONV_2D" else 0
    granularity = weight.grid.type.granularity
    if isinstance(granularity, PerChannel) and granularity.axis != axis:
        yield f"scales along axis {granularity.axis} of the weights; the kernel reads axis {axis}"
    if np.any(weight.grid.zero_point):
        yield "weights with a zero point"
    limit = LIMITS[4 if weight.dtype == INT4 else 8]
    if weight.data is not None and weight.data.size and int(np.abs(weight.data.astype(np.int16)).max()) > limit:
        yield f"weights beyond {limit}"
    yield from _bias_problems(x, weight, bias)


def _bias_problems(x: Tensor, weight: Tensor, bias: Tensor | None) -> Iterator[str]:
    if bias is None:
        return
    if x.grid is None:
        if bias.dtype != FLOAT32:
            yield f"a bias of {bias.dtype} on float activations"
        return
    assert weight.grid is not None
    if bias.dtype != (np.int64 if x.dtype == INT16 else np.int32) or bias.grid is None:
        yield f"a bias of {bias.dtype} on integers"
        return
    product = np.atleast_1d(x.grid.scale * weight.grid.scale)
    if np.atleast_1d(bias.grid.scale).shape != product.shape or not np.allclose(bias.grid.scale, product,
                                                                                rtol=BIAS_RTOL, atol=0):
        yield "its bias does not lie on input scale * weight scale"
    if np.any(bias.grid.zero_point):
        yield "a bias with a zero point"
