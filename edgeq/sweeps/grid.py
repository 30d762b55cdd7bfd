"""What a sweep file asks for: its cells, in an order that follows from the file alone.

    [common]                        # words of `edgeq convert`, for every cell
    calibration = "samples.npz"

    [model.resnet]                  # path, and words for this model
    path = "resnet.onnx"

    [grid]                          # words with several values: every combination of them is a cell
    target = ["onnxruntime", "tflite"]
    bits = [8, 4]
    method = ["auto", "nearest"]
"""
from __future__ import annotations

import difflib
import itertools
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from edgeq.conversion.options import Options
from edgeq.errors import UsageError

# Words that say where something is written, or that a sweep decides.
_OWN: Final = frozenset({"keep_qdq", "gguf_file", "calibration_cache", "resume", "force", "dry_run", "progress"})
WORDS: Final = frozenset({"target", *(field.name for field in fields(Options))} - _OWN)
_PATHS: Final = ("calibration", "eval", "recover", "preprocess", "postprocess", "labels", "about")


@dataclass(frozen=True, slots=True)
class Cell:
    """One conversion. varied: the words of the grid among `words`, as the table shows them."""

    number: int
    model: str
    path: str
    words: Mapping[str, Any]
    varied: Mapping[str, Any]


def read_grid(path: str | Path) -> tuple[Cell, ...]:
    """Raises UsageError: the file cannot be read, has a key that means nothing, or asks for nothing."""
    path = Path(path)
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path}: {error}") from None
    _check(path, "", found, frozenset({"common", "model", "grid"}))
    common, models, grid = (found.get(name, {}) for name in ("common", "model", "grid"))
    if not isinstance(models, dict) or not all(isinstance(model, dict) and "path" in model
                                               for model in models.values()) or not models:
        raise UsageError(f"{path}: name at least one model: [model.NAME] with path = \"net.onnx\"")
    for name, table, known in (("common", common, WORDS), ("grid", grid, WORDS),
                               *((f"model.{name}", table, WORDS | {"path"}) for name, table in models.items())):
        _check(path, name, table, known)
    for word, values in grid.items():
        if not isinstance(values, list) or not values:
            raise UsageError(f"{path}: [grid] {word}: give a list of values, such as [8, 4]")
    return tuple(_cells(path.parent, common, models, grid))


def _check(path: Path, table: str, found: Any, known: frozenset[str]) -> None:
    where = f"[{table}] " if table else ""
    if not isinstance(found, dict):
        raise UsageError(f"{path}: {where}is no table")
    for key in found.keys() - known:
        near = difflib.get_close_matches(key, known, 1)
        hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(sorted(known))}"
        raise UsageError(f"{path}: {where}'{key}' means nothing in a sweep{hint}")


def _cells(folder: Path, common: Mapping[str, Any], models: Mapping[str, Mapping[str, Any]],
           grid: Mapping[str, list[Any]]) -> Iterator[Cell]:
    number = itertools.count()
    for name, model in models.items():
        own = {word: value for word, value in model.items() if word != "path"}
        for values in itertools.product(*grid.values()):
            varied = dict(zip(grid, values, strict=True))
            words = {**common, **own, **varied}
            placed = {word: _placed(folder, value) if word in _PATHS else value for word, value in words.items()}
            yield Cell(next(number), name, _placed(folder, model["path"]), placed, varied)


def _placed(folder: Path, value: Any) -> Any:
    """A path of a file that is there, beside the sweep file; a name or module:function as it is."""
    there = folder / value if isinstance(value, str) and value else None
    return str(there.resolve()) if there is not None and there.exists() else value
