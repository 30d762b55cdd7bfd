"""The references of every check: a graph run by onnxruntime, each op on its own."""
from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import onnx_ir as ir
from numpy.typing import NDArray

from edgeq.errors import ModelError

Arrays: TypeAlias = Mapping[str, NDArray[Any]]


def run_onnx(model: ir.Model, feeds: Iterable[Arrays], *, fused: bool = False) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield the outputs of `model` for every feed; as `opened`."""
    with opened(model, fused=fused) as predict:
        for feed in feeds:
            yield predict(feed)


@contextmanager
def opened(model: ir.Model, *, fused: bool = False) -> Iterator[Callable[[Arrays], dict[str, NDArray[Any]]]]:
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
    if not fused:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
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
