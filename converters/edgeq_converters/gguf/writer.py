"""A .gguf file, by the gguf package."""
from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import MissingExtra
from edgeq.quant.decoder import StoredMatrix
from edgeq.quant.formats import FORMATS
from edgeq_converters.gguf.tensors import Tensor

_FLOAT_TYPES = {"F32": 0, "F16": 1, "BF16": 30}


def write(path: Path, metadata: Mapping[str, Any], tokenizer: Mapping[str, Any],
          tensors: Callable[[], Iterable[Tensor]]) -> None:
    """Write a file. tokenizer: `tokenizer.ggml.*` keys without their beginning. tensors: asked for twice, so that none
    is held while the file is written.

    Raises:
        MissingExtra: the package gguf is not installed.
    """
    try:
        import gguf
    except ImportError:
        raise MissingExtra("GGUF", "decoder") from None
    writer = gguf.GGUFWriter(path, str(metadata["general.architecture"]))
    for key, value in metadata.items():
        if key != "general.architecture":
            _add(writer, key, value)
    for key, value in tokenizer.items():
        _add(writer, key if key.startswith("tokenizer.") else f"tokenizer.ggml.{key}", value)
    for name, tensor in tensors():
        data, kind = _data(tensor)
        writer.add_tensor_info(name, data.shape, data.dtype, data.nbytes, gguf.GGMLQuantizationType(kind))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for _, tensor in tensors():
        writer.write_tensor_data(_data(tensor)[0])
    writer.close()


def _data(tensor: StoredMatrix | NDArray[np.float32]) -> tuple[NDArray[Any], int]:
    """The numbers as they lie in the file, and their type there."""
    if not isinstance(tensor, StoredMatrix):
        return np.ascontiguousarray(tensor, np.float32), _FLOAT_TYPES["F32"]
    if tensor.type in FORMATS:
        return tensor.data, FORMATS[tensor.type].type
    kinds = {"F32": np.float32, "F16": np.float16, "BF16": np.uint8}
    return tensor.data.view(kinds[tensor.type]), _FLOAT_TYPES[tensor.type]


def _add(writer: Any, key: str, value: Any) -> None:
    match value:
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case str():
            writer.add_string(key, value)
        case _:
            writer.add_array(key, list(value))
