"""A bundle's model as C++ source, for devices without files: NAME.h and NAME.cc."""
from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from edgeq.backend import backend_named
from edgeq.bundle.folder import open_bundle
from edgeq.errors import UsageError
from edgeq_runtime.manifest import Manifest, TensorSpec

_BYTES_A_LINE: Final = 16
_SOURCE: Final = '''// Written by edgeq {edgeq} from the bundle '{name}'.
#include "{header}"

alignas(16) const unsigned char {symbol}[{symbol}_size] = {{
{bytes}
}};
'''
_HEADER: Final = '''// Written by edgeq {edgeq} from the bundle '{name}'.
{tensors}
#pragma once
#include <cstddef>

constexpr std::size_t {symbol}_size = {size};
{arena}extern const unsigned char {symbol}[{symbol}_size];
'''


def write_c_array(bundle: Path, output: Path | None = None, *, force: bool = False) -> tuple[Path, Path]:
    """The one file of a bundle's model as an array -> (NAME.h, NAME.cc). The size of the arena is told where the
    conversion measured it (--device mcu).

    output: NAME, with or without an ending; by default the model's name, in the current folder.

    Raises:
        BundleError: the bundle is damaged. UsageError: its engine reads no array, or a file exists and not `force`.
    """
    found = open_bundle(bundle)
    manifest, entry = found.manifest, bundle / found.manifest.entry
    if not backend_named(manifest.target).in_place:
        raise UsageError(f"--c-array is for a model that its engine reads where it lies in memory; {manifest.entry} is "
                         "none")
    stem = output.with_suffix("") if output is not None else Path(manifest.name)
    paths = stem.with_name(f"{stem.name}.h"), stem.with_name(f"{stem.name}.cc")
    there = [str(path) for path in paths if path.exists()]
    if there and not force:
        raise UsageError(f"{there[0]} exists; replace it with --force, or choose another name with -o")
    data = entry.read_bytes()
    arena = found.report.get("device", {}).get("arena_bytes")
    words: dict[str, Any] = {
        "symbol": _symbol(stem.name), "header": paths[0].name, "size": len(data), "name": manifest.name,
        "edgeq": manifest.edgeq_version, "bytes": "\n".join(_lines(data)), "tensors": "\n".join(_tensors(manifest)),
        "arena": "" if arena is None else f"constexpr std::size_t {_symbol(stem.name)}_arena_size = {arena};\n"}
    for path, text in zip(paths, (_HEADER, _SOURCE), strict=True):
        path.write_text(text.format(**words), encoding="utf-8")
    return paths


def _symbol(name: str) -> str:
    """What C++ can call it."""
    found = re.sub(r"\W", "_", name, flags=re.ASCII)
    return found if not found[:1].isdigit() else f"model_{found}"


def _lines(data: bytes) -> Iterator[str]:
    for start in range(0, len(data), _BYTES_A_LINE):
        yield "    " + " ".join(f"0x{byte:02x}," for byte in data[start:start + _BYTES_A_LINE])


def _tensors(manifest: Manifest) -> Iterator[str]:
    """Comments: what goes in and comes out, in the order of the file."""
    for word, specs in (("input", manifest.inputs), ("output", manifest.outputs)):
        for spec in specs:
            yield f"// {word} {_harmless(spec.name)}: {spec.dtype} {list(spec.shape)}{_grid(spec)}"


def _grid(spec: TensorSpec) -> str:
    return "" if spec.scale is None else f", real = {spec.scale!r} * (stored - {spec.zero_point})"


def _harmless(name: str) -> str:
    """A name that ends no line: a backslash would go on with the next."""
    return name.encode("unicode_escape").decode().replace("\\", "/")
