"""The references of every check: a graph run by onnxruntime, each op on its own."""
from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeAlias

import onnx_ir as ir
from numpy.typing import NDArray

from edgeq.errors import ModelError
from edgeq.external_weights import is_large
from edgeq.inference.partition import parts_of

Arrays: TypeAlias = Mapping[str, NDArray[Any]]

PART: Final = 2**25  # weights of a large graph that are in memory at once: 128 MB, where they are float32


def run_onnx(model: ir.Model, feeds: Iterable[Arrays], *, fused: bool = False) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield the outputs of `model` for every feed; as `opened`, or in parts where its weights are large."""
    if is_large(model):
        yield from run_parts(model, feeds, PART, fused=fused)
        return
    with opened(model, fused=fused) as predict:
        for feed in feeds:
            yield predict(feed)


def run_parts(model: ir.Model, feeds: Iterable[Arrays], most: int, *, fused: bool = False,
              session_options: Mapping[str, Any] = {}) -> list[dict[str, NDArray[Any]]]:
    """The same with at most so many weights in memory at once, but with the inner values of all feeds."""
    # An arena keeps what one operator has dequantized, and a kernel that packs its weights holds them twice.
    session_options = {"session.disable_prepacking": "0" if fused else "1", **session_options}
    known = [dict(feed) for feed in feeds]
    for part in parts_of(model, most):
        names = [value.name or "" for value in part.model.graph.inputs]
        for value in part.model.graph.inputs:
            _declare(value, [values[value.name or ""] for values in known])
        with opened(part.model, fused=fused, session_options=session_options, arena=False) as predict:
            for values in known:
                values.update(predict({name: values[name] for name in names}))
                for name in part.dead:
                    del values[name]
    return [{value.name or "": values[value.name or ""] for value in model.graph.outputs} for values in known]


def _declare(value: ir.Value, arrays: Sequence[NDArray[Any]]) -> None:
    """Give a value that the model tells nothing of the type of what it holds; sizes that differ stay free."""
    if value.type is None:
        value.type = ir.TensorType(ir.DataType.from_numpy(arrays[0].dtype))
        value.shape = ir.Shape([sizes[0] if len(set(sizes)) == 1 else None
                                for sizes in zip(*(array.shape for array in arrays), strict=True)])


@contextmanager
def opened(model: ir.Model, *, fused: bool = False, session_options: Mapping[str, Any] = {}, arena: bool = True,
           ) -> Iterator[Callable[[Arrays], dict[str, NDArray[Any]]]]:
    """A function feed -> outputs of `model`, in the model's order.

    Unfused, a QDQ graph computes exactly what it says: float ops between roundings to the grids. Fused, onnxruntime
    replaces them by integer kernels, which round once more or less here and there.

    Raises:
        ModelError: onnxruntime refuses the model, because of an op of a domain that it does not know, say, or fails
            on a feed.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = arena
    if not fused:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    for key, text in session_options.items():
        options.add_session_config_entry(key, str(text))
    with tempfile.TemporaryDirectory(prefix="edgeq-") as folder:
        path = Path(folder) / "model.onnx"
        ir.save(model, path, external_data="model.onnx.data")
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions share no base class
            raise _refused("load", error) from error
        names = [output.name for output in session.get_outputs()]

        def predict(feed: Arrays) -> dict[str, NDArray[Any]]:
            try:
                outputs = session.run(names, dict(feed))
            except Exception as error:
                raise _refused("run", error) from error
            return dict(zip(names, outputs, strict=True))

        yield predict


def _refused(what: str, error: Exception) -> ModelError:
    """onnxruntime's own reason, which names the node."""
    return ModelError(f"onnxruntime, the reference of every check, cannot {what} the model: {error}")
