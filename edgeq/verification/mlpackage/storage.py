"""The files of an .mlpackage: Manifest.json, model.mlmodel, and the constants in weight.bin.

weight.bin (mlmodel/src/MILBlob/Blob/StorageFormat.hpp of apple/coremltools): a header of 64 bytes (u32 count, u32
version 2), then blobs, each aligned to 64 bytes and led by 64 bytes of metadata: u32 0xDEADBEEF, u32 type, u64 bytes,
u64 offset of the data, u64 bits of padding at its end. A program refers to a blob by the offset of its metadata. All
integers little-endian.
"""
from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

from edgeq.errors import BundleError
from edgeq.verification.mlpackage.types import Array, TensorType, unpack_bits

_HEADER = struct.Struct("<II")
_METADATA = struct.Struct("<IIQQQ")
_SENTINEL = 0xDEADBEEF
_VERSION = 2
_MODEL_PATH = "@model_path/"


def find_model(package: Path) -> Path:
    """The path of the protobuf that the package's manifest names as its root.

    Raises:
        BundleError: no package, a manifest that cannot be read, or a path that leaves the package.
    """
    manifest = package / "Manifest.json"
    try:
        content = json.loads(manifest.read_text(encoding="utf-8"))
        root = content["itemInfoEntries"][content["rootModelIdentifier"]]["path"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{package} is not a readable .mlpackage: {manifest.name}: {error}") from error
    return _inside(package, package / "Data" / root)


def _inside(package: Path, path: Path) -> Path:
    if not path.resolve().is_relative_to(package.resolve()):
        raise BundleError(f"{package}: the path {path} leaves the package")
    return path


class BlobFile:
    """One file of constants. Values are copied out, so the file may be replaced afterwards."""

    def __init__(self, path: Path):
        self.path = path
        try:
            self._data: Array = np.memmap(path, np.uint8, mode="r")
        except (OSError, ValueError) as error:
            raise BundleError(f"{path}: cannot be read: {error}") from error
        if self._data.size < _HEADER.size or _HEADER.unpack_from(self._data.data)[1] != _VERSION:
            raise BundleError(f"{path}: not a weight file of version {_VERSION}")

    def read(self, offset: int, type: TensorType) -> Array:
        """The blob whose metadata is at ``offset`` -> array of ``type``'s shape in its carrier type.

        Raises:
            BundleError: there is no such blob, or its type or size is not what the program declares.
        """
        element, shape = type.element, _static(type)
        where = f"{self.path.name} at {offset}"
        if offset + _METADATA.size > self._data.size:
            raise BundleError(f"{where}: beyond the end of the file ({self._data.size} bytes)")
        sentinel, code, size, start, _ = _METADATA.unpack_from(self._data.data, offset)
        if sentinel != _SENTINEL:
            raise BundleError(f"{where}: no blob starts here (found {sentinel:#x})")
        count = int(np.prod(shape, dtype=np.int64))
        expected = -(-count * element.bits // 8)
        if code != element.blob_code or size != expected or start + size > self._data.size:
            raise BundleError(f"{where}: a blob of type {code} and {size} bytes, where the program declares {type} "
                              f"(type {element.blob_code}, {expected} bytes)")
        return from_bytes(self._data[start:start + size], type)


def from_bytes(raw: Array, type: TensorType) -> Array:
    """raw uint8 [bytes] -> array of ``type``'s shape in its carrier type (a copy)."""
    element, shape = type.element, _static(type)
    count = int(np.prod(shape, dtype=np.int64))
    if element.packed:
        return unpack_bits(np.asarray(raw), count, element.bits, element.signed).reshape(shape)
    values: Array = np.frombuffer(raw.tobytes(), element.stored, count)
    return values.astype(element.carrier).reshape(shape)


def _static(type: TensorType) -> tuple[int, ...]:
    if None in type.shape:
        raise BundleError(f"a constant of unknown shape: {type}")
    return tuple(size for size in type.shape if size is not None)


class BlobFiles:
    """The blob files of one package, opened when first named."""

    def __init__(self, package: Path, model: Path):
        self._package, self._folder = package, model.parent
        self._files: dict[str, BlobFile] = {}

    def read(self, file_name: str, offset: int, type: TensorType) -> Array:
        """The blob at ``offset`` of the file that the program calls ``file_name``, '@model_path/weights/weight.bin'."""
        if file_name not in self._files:
            path = _inside(self._package, self._folder / file_name.removeprefix(_MODEL_PATH))
            self._files[file_name] = BlobFile(path)
        return self._files[file_name].read(offset, type)


def read_protobuf(model: Path, message: Any) -> Any:
    """Parse ``model`` into ``message``."""
    from google.protobuf.message import DecodeError

    try:
        message.ParseFromString(model.read_bytes())
    except (OSError, DecodeError) as error:
        raise BundleError(f"{model}: not a readable Core ML model: {error}") from error
    return message
