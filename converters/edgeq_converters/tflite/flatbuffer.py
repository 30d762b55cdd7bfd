"""A Program becomes the bytes of a .tflite file."""
from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgeq.pack import pack4
from edgeq.scheme import PerChannel
from edgeq_converters.tflite.kernels import INT4, KERNELS, version
from edgeq_converters.tflite.metadata import ENTRY as METADATA
from edgeq_converters.tflite.program import Operator, Program, Tensor

SIGNATURE: Final = "serving_default"
ALIGNMENT: Final = 16
# from this much constant data on, it is streamed behind the flatbuffer (limit there: 2 GB)
EXTERNAL_BYTES: Final = 64_000_000
SMALL_BUFFER: Final = 65_536  # smaller buffers stay inside the flatbuffer
CODES_OF_ONE_BYTE: Final = 127  # later builtins live in the wider field; the old one then holds this number

SCHEMA_TYPES: Final = {
    "float32": "FLOAT32", "float16": "FLOAT16", "float64": "FLOAT64", "int4": "INT4", "int8": "INT8", "uint8": "UINT8",
    "int16": "INT16", "uint16": "UINT16", "int32": "INT32", "uint32": "UINT32", "int64": "INT64", "uint64": "UINT64",
    "bool": "BOOL",
}
PLAIN_TYPES: Final = SCHEMA_TYPES.keys() - {"int4"}  # those of values; 4-bit tensors are weights only


def write(program: Program, path: Path, external_bytes: int = EXTERNAL_BYTES, *, said: bytes = b"") -> Any:
    """Write the file -> the schema's ModelT, for the validator. said: its metadata."""
    return write_several({SIGNATURE: program}, path, external_bytes, said=said)


def write_several(programs: Mapping[str, Program], path: Path, external_bytes: int = EXTERNAL_BYTES, *,
                  said: bytes = b"") -> Any:
    """The same for programs by signature, each a subgraph; equal constants of all of them are stored once."""
    model, contents = to_model(programs, said)
    streamed = _streamed(contents, external_bytes)
    for index, content in enumerate(contents):
        if index not in streamed:
            model.buffers[index + 1].data = content
    # The offsets are part of the head, whose length does not depend on them once they are not zero.
    for index in streamed:
        model.buffers[index + 1].offset = model.buffers[index + 1].size = 1
    offset = _aligned(len(_pack(model))) if streamed else 0
    for index in streamed:
        buffer = model.buffers[index + 1]
        buffer.offset, buffer.size = offset, contents[index].nbytes
        offset = _aligned(offset + contents[index].nbytes)
    with path.open("wb") as file:
        file.write(_pack(model))
        for index in streamed:
            file.seek(model.buffers[index + 1].offset)
            contents[index].tofile(file)
    return model


def _aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT


def _streamed(contents: list[NDArray[np.uint8]], external_bytes: int) -> list[int]:
    if sum(content.nbytes for content in contents) < external_bytes:
        return []
    return [index for index, content in enumerate(contents) if content.nbytes >= SMALL_BUFFER]


def _pack(model: Any) -> Any:
    import flatbuffers

    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(model.Pack(builder), b"TFL3")
    return builder.Output()


def to_model(programs: Mapping[str, Program], said: bytes = b"") -> tuple[Any, list[NDArray[np.uint8]]]:
    """-> (ModelT whose buffers are still empty, content of buffer 1, 2, ..: buffer 0 is empty by the schema's rule)."""
    from ai_edge_litert import schema_py_generated as schema

    model, contents, codes = schema.ModelT(), list[NDArray[np.uint8]](), dict[tuple[str, int], int]()
    model.version, model.description, model.subgraphs, model.signatureDefs = 3, b"edgeq", [], []
    digests: dict[bytes, int] = {}
    for number, (key, program) in enumerate(programs.items()):
        tensors = program.tensors()
        index = {id(tensor): place for place, tensor in enumerate(tensors)}
        graph = schema.SubGraphT()
        graph.name = key.encode() if number else b"main"
        graph.tensors = [_tensor(schema, tensor, contents, digests) for tensor in tensors]
        graph.inputs = [index[id(tensor)] for tensor in program.inputs.values()]
        graph.outputs = [index[id(tensor)] for tensor in program.outputs.values()]
        graph.operators = [_operator(schema, operator, index, codes) for operator in program.operators]
        model.subgraphs.append(graph)
        model.signatureDefs.append(_signature(schema, key, number, program, index))
    if said:
        contents.append(np.frombuffer(said, np.uint8))
        entry = schema.MetadataT()
        entry.name, entry.buffer = METADATA.encode(), len(contents)
        model.metadata = [entry]
    model.buffers = [schema.BufferT() for _ in range(len(contents) + 1)]
    model.operatorCodes = [_code(schema, kernel, number) for kernel, number in codes]
    return model, contents


def _signature(schema: Any, key: str, number: int, program: Program, index: Mapping[int, int]) -> Any:
    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = key.encode(), number
    signature.inputs = [_named(schema, name, index[id(tensor)]) for name, tensor in program.inputs.items()]
    signature.outputs = [_named(schema, name, index[id(tensor)]) for name, tensor in program.outputs.items()]
    return signature


def _named(schema: Any, name: str, tensor: int) -> Any:
    entry = schema.TensorMapT()
    entry.name, entry.tensorIndex = name.encode(), tensor
    return entry


def _code(schema: Any, kernel: str, number: int) -> Any:
    code = schema.OperatorCodeT()
    code.builtinCode = getattr(schema.BuiltinOperator, kernel)
    code.deprecatedBuiltinCode = min(code.builtinCode, CODES_OF_ONE_BYTE)
    code.version = number
    return code


def _tensor(schema: Any, tensor: Tensor, contents: list[NDArray[np.uint8]], digests: dict[bytes, int]) -> Any:
    """digests: content -> its buffer, so that tied weights are stored once."""
    result = schema.TensorT()
    result.name, result.shape, result.hasRank = tensor.name.encode(), list(tensor.shape), True
    result.isVariable = tensor.variable
    if tensor.free:
        result.shapeSignature = [-1 if axis in tensor.free else size for axis, size in enumerate(tensor.shape)]
    result.type = getattr(schema.TensorType, SCHEMA_TYPES[tensor.dtype.name])
    if tensor.data is not None:
        content = _content(tensor)
        digest = blake2b(content.data, digest_size=16).digest()
        if digest not in digests:
            contents.append(content)
            digests[digest] = len(contents)
        result.buffer = digests[digest]
    if tensor.grid is not None:
        result.quantization = quantization = schema.QuantizationParametersT()
        quantization.scale = np.atleast_1d(tensor.grid.scale).astype(np.float32)
        quantization.zeroPoint = np.atleast_1d(tensor.grid.zero_point).astype(np.int64)
        granularity = tensor.grid.type.granularity
        quantization.quantizedDimension = granularity.axis if isinstance(granularity, PerChannel) else 0
    return result


def _content(tensor: Tensor) -> NDArray[np.uint8]:
    """Always an array: the schema's object API takes a second and more per megabyte of bytes or list."""
    assert tensor.data is not None
    if tensor.dtype == INT4:
        return pack4(tensor.data)
    return np.ascontiguousarray(tensor.data, tensor.dtype).reshape(-1).view(np.uint8)


def _operator(schema: Any, operator: Operator, index: dict[int, int], codes: dict[tuple[str, int], int]) -> Any:
    result = schema.OperatorT()
    result.opcodeIndex = codes.setdefault((operator.kernel, version(operator)), len(codes))
    result.inputs = [-1 if tensor is None else index[id(tensor)] for tensor in operator.inputs]
    result.outputs = [index[id(tensor)] for tensor in operator.outputs]
    table = KERNELS[operator.kernel].options
    if table is not None:
        result.builtinOptionsType = getattr(schema.BuiltinOptions, table)
        result.builtinOptions = options = getattr(schema, f"{table}T")()
        for name, value in operator.options.items():
            if not hasattr(options, name):
                raise AttributeError(f"{table} has no field {name}")
            setattr(options, name, value)
    return result
