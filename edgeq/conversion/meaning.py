"""Whether the outputs are what --postprocess and --labels say they are."""
from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import onnx_ir as ir
from numpy.typing import NDArray

from edgeq.conversion.metadata import input_specs, specs
from edgeq.errors import InputError, ModelError, UsageError, all_of
from edgeq.external_weights import is_large
from edgeq.inference.reference import run_onnx
from edgeq.quant.feeds import Feed
from edgeq.verification.inputs import generated_feeds
from edgeq_runtime.dimensions import Dimension
from edgeq_runtime.manifest import TensorSpec
from edgeq_runtime.postprocess import Classify, Detect

_BOX: Final = 4  # numbers
_POINT: Final = 3  # a keypoint's x, y and score
_SURE: Final = 1.001  # the highest score there is, and what float arithmetic adds to it
After: TypeAlias = Classify | Detect | None


def check_meaning(network: ir.Model, after: After, labels: Sequence[str]) -> None:
    """Refuse, by the shapes alone, labels that no output has scores for and a postprocessing that does not fit."""
    if after is None and not labels:
        return
    outputs = {spec.name: spec for spec in specs(network.graph.outputs)}
    unknown = [name for name in (after.outputs if after else ()) if name not in outputs]
    if unknown:
        raise UsageError(f"--postprocess: no output '{unknown[0]}'; the model gives {', '.join(outputs)}")
    if isinstance(after, Detect):
        wrong = [f"--postprocess: {found}" for found in _of_tables(after, outputs, len(labels))]
        if wrong:
            raise all_of([UsageError(found) for found in wrong])
    elif labels:
        _check_scores_for(labels, [outputs[name] for name in after.outputs] if after and after.outputs else
                          outputs.values())


def _check_scores_for(labels: Sequence[str], outputs: Iterable[TensorSpec]) -> None:
    sizes = {spec.name: math.prod(d for d in spec.shape if isinstance(d, int)) for spec in outputs}
    if len(labels) not in sizes.values():
        found = ", ".join(f"'{name}' has {size} values" for name, size in sizes.items())
        raise UsageError(f"--labels: {len(labels)} names, but output {found}; give one name a line for each score")


def _of_tables(after: Detect, outputs: Mapping[str, TensorSpec], labels: int) -> Iterator[str]:
    """What is wrong with the tables that boxes and scores are read from."""
    names = list(dict.fromkeys(after.outputs)) if after.boxes else [next(iter(outputs))]
    shown = [f"output '{name}' [{','.join(map(str, outputs[name].shape))}]" for name in names]
    tables = [_table(after, outputs[name].shape) for name in names]
    bad = [said for said, table in zip(shown, tables, strict=True) if table is None]
    yield from (f"{said} is no table of one image: [1, candidates, numbers] or [candidates, numbers]" for said in bad)
    if bad:
        return
    boxes, scores = (table for table in (tables[0], tables[-1]) if table is not None)
    if after.scores and boxes.columns not in (None, _BOX):
        yield f"{shown[0]} has {boxes.columns} numbers for each candidate, a box has {_BOX}{_on_its_side(after, boxes)}"
    if None not in (boxes.candidates, scores.candidates) and boxes.candidates != scores.candidates:
        yield f"{shown[0]} has {boxes.candidates} candidates, {shown[-1]} has {scores.candidates}"
    if after.anchors and boxes.candidates not in (None, len(after.anchors)):
        yield f"{shown[0]} has {boxes.candidates} candidates for {len(after.anchors)} anchors"
    if scores.columns is None:
        return
    hint = _on_its_side(after, scores)
    points = _POINT * after.keypoints
    wanted = _BOX + (2 if after.end_to_end else after.objectness + after.classes) + points
    if (after.end_to_end or (after.keypoints and after.classes)) and scores.columns != wanted:
        yield (f"{shown[-1]} has {scores.columns} numbers for each candidate, where {wanted} are expected: a box, "
               f"{'a score and a class' if after.end_to_end else f'{after.classes} classes'}, "
               f"{after.keypoints} keypoints{hint}")
    if not after.end_to_end:
        behind = scores.columns - (0 if after.scores else _BOX) - after.objectness - points
        yield from _of_classes(after, shown[-1], behind, labels, hint)


def _of_classes(after: Detect, output: str, columns: int, labels: int, hint: str) -> Iterator[str]:
    """columns: those that may be scores of classes, background included."""
    behind = "" if after.scores else " behind the box" + " and the objectness" * after.objectness
    classes = after.classes or columns
    if columns < max(1 + after.background, after.classes):
        wanted = f"{after.classes} classes" if after.classes else "scores of classes"
        yield f"{output} has {max(columns, 0)} columns{behind}, where {wanted} are expected{hint}"
    elif labels and labels != classes:
        yield (f"{output} has {classes} columns{behind} for {labels} labels: give one name a line for each class, or "
               f'say "classes": {labels} where the other columns are none (keypoints, coefficients of masks){hint}')


@dataclass(frozen=True, slots=True)
class _Table:
    """Sizes, None where they are free."""

    candidates: int | None
    columns: int | None


def _table(after: Detect, shape: Sequence[Dimension]) -> _Table | None:
    sizes = [size if isinstance(size, int) else None for size in shape]
    if len(sizes) == 3 and sizes[0] in (1, None):
        sizes = sizes[1:]
    if len(sizes) != 2:
        return None
    return _Table(*(sizes[::-1] if after.transposed else sizes))


def _on_its_side(after: Detect, table: _Table) -> str:
    """What helps where the axes seem to be swapped: candidates are many, numbers few."""
    if table.candidates is None or table.columns is None or table.candidates >= table.columns:
        return ""
    axis, word = ("the rows", "false") if after.transposed else ("the last axis", "true")
    return f'; or say "transposed": {word}, if candidates are {axis}'


def check_scores(network: ir.Model, after: After, samples: Iterable[Feed] | None) -> None:
    """Refuse a --postprocess whose scores the float model shows to be none: a first sample, or noise, is run.

    Raises:
        UsageError: as `check_outputs`.
    """
    if not isinstance(after, Detect) or is_large(network):
        return
    feed = next(iter(generated_feeds(input_specs(network)) if samples is None else samples))
    with suppress(ModelError):  # noise that a model does not take
        check_outputs(after, next(iter(run_onnx(network, [feed]))))


def check_outputs(after: Detect, outputs: Mapping[str, NDArray[Any]]) -> None:
    """outputs: of one sample.

    Raises:
        UsageError: the postprocessing does not run on them, or a "score" is larger than 1.
    """
    try:
        after(outputs)
        scores = after.class_scores(outputs)
    except InputError as error:
        raise UsageError(f"--postprocess: {error}") from None
    highest = scores.max(axis=0, initial=0.0)
    if after.min_score < 1 and scores.size and highest.max() > _SURE:
        column = int(highest.argmax()) + after.background
        raise UsageError(
            f"--postprocess: class {column} scores {highest.max():.5g}, and a score is at most 1. Say what the columns "
            'are: "sigmoid": true for logits, "classes": N where only the first N are classes and the others keypoints '
            "or coefficients of masks")
