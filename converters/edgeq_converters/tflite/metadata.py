"""What MediaPipe and Android Studio read of a .tflite file: normalization, labels, names; by the metadata's schema.

https://github.com/google-ai-edge/mediapipe/blob/main/mediapipe/tasks/metadata/metadata_schema.fbs
"""
from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

from edgeq.backend import EmitOptions, Normalization

ENTRY: Final = "TFLITE_METADATA"
IDENTIFIER: Final = b"M001"
LABELS: Final = "labels.txt"
_AXIS_LABELS: Final = 2  # AssociatedFileType
_COLOURS: Final = {"RGB": 1, "GRAY": 2}  # ColorSpaceType
_IMAGE: Final = 2  # of the union ContentProperties
_NORMALIZATION: Final = 1  # of the union ProcessUnitOptions
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)  # a zip file's first date: equal files have equal bytes


@dataclass(frozen=True, slots=True)
class Byte:
    """A number of one byte, where the schema has an enumeration."""

    number: int


# Number of a field in its table (a union has two: which, and what) -> its value.
Table: TypeAlias = Mapping[int, "str | Byte | tuple[float, ...] | Table | Sequence[Table]"]


def metadata(inputs: Iterable[str], outputs: Iterable[str], options: EmitOptions) -> bytes:
    """The flatbuffer, or nothing where there is nothing to say. inputs, outputs: names in the file's order."""
    import flatbuffers

    about = options.about
    if about == type(about)() and not options.normalized:
        return b""
    graph: Table = {2: [_input(name, options.normalized.get(name)) for name in inputs],
                    3: [_output(name, name == about.scores) for name in outputs]}
    builder = flatbuffers.Builder(1024)
    model: Table = {1: about.description, 2: about.version, 3: [graph], 4: about.author, 5: about.licence, 7: "1.0.0"}
    builder.Finish(_write(builder, model), IDENTIFIER)
    return bytes(builder.Output())


def add_labels(path: Path, options: EmitOptions) -> None:
    """The files that metadata name lie behind the model, as in a zip archive."""
    if options.about.scores:
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(zipfile.ZipInfo(LABELS, _EPOCH), "\n".join(options.about.labels))


def _input(name: str, given: Normalization | None) -> Table:
    if given is None:
        return {0: name}
    if given.order not in _COLOURS:  # as an image it would be filled in another order, silently
        return {0: name, 1: f"an image with its channels in the order {given.order}"}
    image: Table = {0: Byte(_COLOURS[given.order])}
    options: Table = {0: given.mean, 1: given.std}
    return {0: name, 1: "an image: (pixel - mean) / std of pixels from 0 to 255", 3: {0: Byte(_IMAGE), 1: image},
            4: [{0: Byte(_NORMALIZATION), 1: options}]}


def _output(name: str, labelled: bool) -> Table:
    return {0: name, 1: "a score for each label", 6: [{0: LABELS, 2: Byte(_AXIS_LABELS)}]} if labelled else {0: name}


def _write(builder: Any, table: Table) -> int:
    """What a table refers to is written before it."""
    offsets = {slot: _refer(builder, value) for slot, value in table.items() if not isinstance(value, Byte)}
    builder.StartObject(max(table) + 1)
    for slot, value in table.items():
        if isinstance(value, Byte):
            builder.PrependInt8Slot(slot, value.number, 0)
        elif value:
            builder.PrependUOffsetTRelativeSlot(slot, offsets[slot], 0)
    return int(builder.EndObject())


def _refer(builder: Any, value: Any) -> int:
    if isinstance(value, str):
        return int(builder.CreateString(value))
    if isinstance(value, Mapping):
        return _write(builder, value)
    floats = isinstance(value, tuple)
    items = value if floats else [_write(builder, item) for item in value]
    builder.StartVector(4, len(items), 4)
    for item in reversed(items):
        (builder.PrependFloat32 if floats else builder.PrependUOffsetTRelative)(item)
    return int(builder.EndVector())
