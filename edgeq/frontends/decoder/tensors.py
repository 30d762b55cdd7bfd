"""Tensors of a checkpoint folder, read one at a time: safetensors in one file or in shards."""
from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from edgeq.errors import ModelError
from edgeq.quant.codes import Codes

_INDEX: Final = "model.safetensors.index.json"
_SINGLE: Final = "model.safetensors"
_MOST_HEADER: Final = 100_000_000  # bytes, the format's own limit
# https://huggingface.co/docs/safetensors: the types that a float network's tensors may have.
_TYPES: Final[Mapping[str, Any]] = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16,
                                    "F64": np.float64}
# Those of quantized ones, too.
_ALL_TYPES: Final[Mapping[str, Any]] = {**_TYPES, "I8": np.int8, "U8": np.uint8, "I32": np.int32, "U32": np.uint32,
                                        "I64": np.int64, "BOOL": np.bool_}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor lies: file, first byte, type, shape."""

    file: Path
    start: int
    type: str
    shape: tuple[int, ...]


class Tensors(Mapping[str, NDArray[np.float32]]):
    """Name -> float32 array, read from the disk when it is asked for and held by nobody.

    Raises:
        ModelError: a shard is missing, cut short or damaged; a tensor has a type that is no float, or holds NaN.
    """

    def __init__(self, places: Mapping[str, Place]):
        self.places = dict(places)

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        place = self.places[name]
        if place.type not in _TYPES:
            raise ModelError(f"tensor '{name}' has type {place.type}; a float checkpoint has {', '.join(_TYPES)}")
        found = self.stored(name).astype(np.float32)
        if not np.isfinite(found).all():
            raise ModelError(f"tensor '{name}' of {place.file.name} holds NaN or infinite numbers")
        return found

    def stored(self, name: str) -> NDArray[Any]:
        """In the type that the file has."""
        place = self.places[name]
        kind = _ALL_TYPES.get(place.type)
        if kind is None:
            raise ModelError(f"tensor '{name}' has type {place.type}, which edgeq does not read")
        with place.file.open("rb") as file:
            file.seek(place.start)
            return np.fromfile(file, np.dtype(kind), int(np.prod(place.shape, dtype=np.int64))).reshape(place.shape)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.places[name].shape

    def codes(self, name: str) -> Codes | None:
        """None: they are floats. See `quantized.QuantizedTensors`."""
        return None

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)


def open_tensors(folder: Path) -> Tensors:
    """The tensors of a checkpoint folder, checked against the files' sizes before any is read."""
    index = folder / _INDEX
    if index.is_file():
        try:
            names = json.loads(index.read_text())["weight_map"]
            shards = sorted({str(shard) for shard in names.values()})
        except (ValueError, KeyError, AttributeError) as error:
            raise ModelError(f"{index} is damaged: {error}") from None
    elif (folder / _SINGLE).is_file():
        shards = [_SINGLE]
    else:
        raise ModelError(_nothing_to_read(folder))
    found: dict[str, Place] = {}
    for shard in shards:
        if Path(shard).name != shard:
            raise ModelError(f"{index} names a shard outside of its folder: {shard}")
        found.update(places(folder / shard))
    if index.is_file() and not set(names) <= set(found):
        raise ModelError(f"{index} names tensors that no shard has: {', '.join(sorted(set(names) - set(found))[:3])}")
    return Tensors(found)


def _nothing_to_read(folder: Path) -> str:
    pickles = sorted(path.name for path in folder.glob("*.bin")) + sorted(path.name for path in folder.glob("*.pt*"))
    if pickles:
        return (f"{folder} holds {pickles[0]}, a pickle, which runs code when it is opened; save it as safetensors: "
                "model.save_pretrained(folder, safe_serialization=True)")
    return f"{folder} holds no {_SINGLE} and no {_INDEX}"


def metadata(file: Path) -> dict[str, str]:
    """What a file says beside its tensors."""
    found: dict[str, str] = _header(file)[0].get("__metadata__", {})
    return found


def places(file: Path) -> dict[str, Place]:
    """Of one file, from its header."""
    header, length, size = _header(file)
    found = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        try:
            kind, shape = str(entry["dtype"]), tuple(int(d) for d in entry["shape"])
            first, last = (int(offset) for offset in entry["data_offsets"])
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"{file}: the entry of '{name}' is damaged: {error}") from None
        if not 0 <= first <= last <= size - 8 - length:
            raise ModelError(f"{file} is cut short: it ends before tensor '{name}'")
        width = np.dtype(_ALL_TYPES[kind]).itemsize if kind in _ALL_TYPES else None
        if width is not None and last - first != width * int(np.prod(shape, dtype=np.int64)):
            raise ModelError(f"{file}: tensor '{name}' has {last - first} bytes, which do not fit its shape {shape}")
        found[name] = Place(file, 8 + length + first, kind, shape)
    return found


def _header(file: Path) -> tuple[dict[str, Any], int, int]:
    """8 bytes of length, JSON, then the tensors. -> (the JSON, its bytes, the file's)"""
    if not file.is_file():
        raise ModelError(f"a shard is missing: {file}")
    size = file.stat().st_size
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if size < 8 or length > min(size - 8, _MOST_HEADER):
            raise ModelError(f"{file} is cut short or no safetensors file: its header should have {length} bytes")
        try:
            header = json.loads(opened.read(length))
        except ValueError as error:
            raise ModelError(f"{file}: its header is damaged: {error}") from None
    return header, length, size
