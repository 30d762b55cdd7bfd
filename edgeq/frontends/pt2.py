"""What a .pt2 archive holds, judged by its list of files before torch sees it: torch runs the code of every pickle.

An archive of torch.export.save keeps weights and graph as numbers and JSON (torch/export/pt2_archive). Its sample
inputs are a pickle always; a conversion needs none, so torch gets the archive without them.
"""
from __future__ import annotations

import io
import json
import pickletools
import re
import shutil
import zipfile
from pathlib import Path
from typing import Final

from edgeq.errors import ModelError

_SAMPLES: Final = re.compile(r"data/sample_inputs/[^/]+\.pt")
_CONFIG: Final = re.compile(r"data/(weights|constants)/[^/]+\.json")
_PLAIN: Final = re.compile(  # numbers, text and JSON; custom_obj_* and opaque_obj_* of data/constants are pickles
    r"data/weights/weight_\d+|data/constants/tensor_\d+|models/[^/]+\.json|extra/[^/]+|archive_format|archive_version|"
    r"version|byteorder|\.data/(version|serialization_id)|\.format_version")
# What a pickled tensor names, and nothing that could be called with other effects.
_TENSORS: Final = re.compile(
    r"torch\._utils _rebuild_(tensor_v2|parameter)|torch \w+Storage|torch\.storage \w+Storage|"
    r"collections OrderedDict|torch (device|Size|float\d+|bfloat16|u?int\d+|bool)|torch\.serialization _get_layout")


def copy_without_pickles(path: Path, target: Path) -> None:
    """Write an archive anew without its sample inputs, so that nothing is left that could run.

    Raises:
        ModelError: it is no archive, or holds pickled weights or objects, sample inputs that are more than tensors, or
            files that torch.export.save does not write.
    """
    try:
        with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as made:
            _copy(path, source, made)
    except (zipfile.BadZipFile, OSError, NotImplementedError, EOFError, RuntimeError) as error:
        raise ModelError(f"{path} is not a torch.export file: {error}") from None


def _copy(path: Path, source: zipfile.ZipFile, made: zipfile.ZipFile) -> None:
    seen: set[str] = set()
    for info in source.infolist():
        name = info.filename.partition("/")[2]
        if info.filename in seen or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ModelError(f"{path} is not a torch.export file: '{info.filename}' is there twice, or compressed")
        seen.add(info.filename)
        if _SAMPLES.fullmatch(name):
            if _runs_code(source.read(info)):
                raise _untrusted(path, f"the sample inputs '{info.filename}' hold more than tensors")
            made.writestr(info.filename, b"")  # torch asks for the file, and takes an empty one for no samples
            continue
        if _CONFIG.fullmatch(name) and (pickled := _pickled(source.read(info))):
            raise _untrusted(path, f"'{pickled}' is pickled")
        if not (_CONFIG.fullmatch(name) or _PLAIN.fullmatch(name)):
            raise _untrusted(path, f"it holds '{info.filename}', which may be a pickle or a program")
        with source.open(info) as data, made.open(info.filename, "w", force_zip64=True) as copy:
            shutil.copyfileobj(data, copy, 1 << 20)


def _pickled(config: bytes) -> str:
    """The first entry that a configuration of weights or constants calls a pickle, or ''."""
    try:
        entries = json.loads(config)["config"]
        return next((str(name) for name, entry in entries.items() if entry.get("use_pickle", True)), "")
    except (ValueError, LookupError, AttributeError, TypeError, RecursionError):
        return "its configuration"


def _runs_code(data: bytes) -> bool:
    """Whether a file of torch.save names anything but tensors. A name that is built on the way counts as one."""
    if not data:
        return False
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            pickles = [archive.read(info) for info in archive.infolist() if info.filename.endswith(".pkl")]
        return len(pickles) != 1 or any(
            opcode.name in ("STACK_GLOBAL", "INST", "OBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4")
            or (opcode.name == "GLOBAL" and not _TENSORS.fullmatch(str(argument)))
            for opcode, argument, _ in pickletools.genops(pickles[0]))
    except Exception:  # zipfile, zlib and pickletools each raise their own: whatever it is, it is no tensor
        return True


def _untrusted(path: Path, reason: str) -> ModelError:
    return ModelError(f"{path}: {reason}, and torch would run what is in it; save the program without it, or "
                      "convert it with --trust (trust=True) if you know where it comes from")
