"""The references of every check: a graph run by onnxruntime, each op on its own."""
from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import onnx_ir as ir
from numpy.typing import NDArray

from edgeq.errors import ModelError
from edgeq.external_weights import is_large
from edgeq.inference.partition import Part, parts_of
from edgeq.inference.session import Arrays, open_session
from edgeq.state import fed_back

__all__ = ["PART", "Arrays", "predictor", "run_onnx", "run_parts"]

PART: Final = 2**25  # weights of a large graph that are in memory at once: 128 MB, where they are float32


def run_onnx(model: ir.Model, feeds: Iterable[Arrays], *, fused: bool = False) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield the outputs of `model` for every feed; as `predictor`, or in parts where its weights are large."""
    if is_large(model):
        yield from run_parts(model, feeds, PART, fused=fused)
        return
    predict = predictor(model, fused=fused)
    for feed in feeds:
        yield predict(feed)


def predictor(model: ir.Model | Path | bytes, *, fused: bool = False, arena: bool = True,
              entries: Mapping[str, Any] = MappingProxyType({})) -> Callable[[Arrays], dict[str, NDArray[Any]]]:
    """A function feed -> outputs of `model`, in the model's order; of a streaming model for one stream of feeds, see
    `fed_back`. Arguments are those of `open_session`.

    Raises:
        ModelError: onnxruntime refuses the model, or fails on a feed.
    """
    session = open_session(model, fused=fused, arena=arena, entries=entries)
    names = [output.name for output in session.get_outputs()]

    def predict(feed: Arrays) -> dict[str, NDArray[Any]]:
        try:
            outputs = session.run(names, dict(feed))
        except Exception as error:  # its exceptions share no base class; they name the node
            raise ModelError(f"onnxruntime, the reference of every check, cannot run the model: {error}") from error
        return dict(zip(names, outputs, strict=True))

    return fed_back(predict, model) if isinstance(model, ir.Model) else predict


def run_parts(model: ir.Model, feeds: Iterable[Arrays], most: int, *, fused: bool = False,
              session_options: Mapping[str, Any] = MappingProxyType({})) -> list[dict[str, NDArray[Any]]]:
    """The same with at most so many weights in memory at once, but with the inner values of all feeds."""
    # An arena keeps what one operator has dequantized, and a kernel that packs its weights holds them twice.
    entries = {"session.disable_prepacking": "0" if fused else "1", **session_options}
    known = [dict(feed) for feed in feeds]
    for part in parts_of(model, most):
        for value in part.model.graph.inputs:
            _declare(value, [values[value.name or ""] for values in known])
        _run_part(part, known, fused, entries)
    return [{value.name or "": values[value.name or ""] for value in model.graph.outputs} for values in known]


def _run_part(part: Part, known: list[dict[str, NDArray[Any]]], fused: bool, entries: Mapping[str, Any]) -> None:
    """Add to what is known of each feed what this part makes of it, and drop what nobody reads any more."""
    predict = predictor(part.model, fused=fused, arena=False, entries=entries)
    names = [value.name or "" for value in part.model.graph.inputs]
    for values in known:
        values.update(predict({name: values[name] for name in names}))
        for name in part.dead:
            del values[name]


def _declare(value: ir.Value, arrays: Sequence[NDArray[Any]]) -> None:
    """Give a value that the model tells nothing of the type of what it holds; sizes that differ stay free."""
    if value.type is None:
        value.type = ir.TensorType(ir.DataType.from_numpy(arrays[0].dtype))
        value.shape = ir.Shape([sizes[0] if len(set(sizes)) == 1 else None
                                for sizes in zip(*(array.shape for array in arrays), strict=True)])
