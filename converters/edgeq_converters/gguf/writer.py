"""A .gguf file, by the gguf package."""
from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgeq.errors import MissingExtra
from edgeq.quant.decoder import StoredMatrix
from edgeq.quant.formats import FORMATS
from edgeq_converters.gguf.tensors import Tensor

_FLOAT_TYPES = {"F32": 0, "F16": 1, "BF16": 30}


def write(path: Path, metadata: Mapping[str, Any], tokenizer: Mapping[str, Any], tensors: Iterable[Tensor]) -> None:
    """Write a file. tokenizer: `tokenizer.ggml.*` keys without their beginning.

    Raises:
        MissingExtra: the package gguf is not installed.
    """
    try:
        import gguf
    except ImportError:
        raise MissingExtra("GGUF", "gguf") from None
    writer = gguf.GGUFWriter(path, str(metadata["general.architecture"]))
    for key, value in metadata.items():
        if key != "general.architecture":
            _add(writer, key, value)
    for key, value in tokenizer.items():
        _add(writer, key if key.startswith("tokenizer.") else f"tokenizer.ggml.{key}", value)
    for name, tensor in tensors:
        if isinstance(tensor, StoredMatrix):
            number = FORMATS[tensor.type].type if tensor.type in FORMATS else _FLOAT_TYPES[tensor.type]
            kind = gguf.GGMLQuantizationType(number)
            data = tensor.data if tensor.type in FORMATS else tensor.data.view(
                {"F32": np.float32, "F16": np.float16, "BF16": np.uint8}[tensor.type])
            writer.add_tensor(name, data, raw_dtype=kind)
        else:
            writer.add_tensor(name, np.ascontiguousarray(tensor, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


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
