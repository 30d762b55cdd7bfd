"""One streaming pass of onnxruntime over the float model, with the planned values as further outputs."""
from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias

import onnx_ir as ir
from numpy.typing import NDArray

from edgeq.errors import CalibrationError, ModelError
from edgeq.quant.calibrate.statistics import Statistics, TensorStatistics

Feed: TypeAlias = Mapping[str, NDArray[Any]]


def calibrate(model: ir.Model, values: Collection[str], samples: Iterable[Feed], *,
              progress: Callable[[int], None] | None = None, threads: int | None = None) -> Statistics:
    """Run the float ``model`` over ``samples`` and gather the statistics of ``values``.

    Memory does not depend on the number of samples: each one's tensors go into the histograms and are dropped, while a
    second thread already runs the next sample. ``model`` stays as it is.

    Args:
        model: a float model with static or dynamic shapes.
        values: names of float values of its main graph, graph inputs included.
        samples: feeds with a batch axis, input name -> array.
        progress: called with the number of samples done, after each.
        threads: of onnxruntime; None leaves the choice to it.

    Raises:
        CalibrationError: no samples, or a value became NaN or infinite; names the value and the sample.
        ModelError: a value is not in the main graph, or onnxruntime cannot run the model.
    """
    inputs = {value.name for value in model.graph.inputs}
    outputs = [name for name in dict.fromkeys(values) if name not in inputs]
    tensors = {name: TensorStatistics.empty() for name in dict.fromkeys(values)}
    done = 0
    with tempfile.TemporaryDirectory(prefix="edgeq-") as folder:
        session = _session(_expose(model, outputs, Path(folder)), threads)
        for done, (feed, computed) in enumerate(_ahead(session, outputs, samples), 1):
            for name, before in tensors.items():
                tensors[name] = _added(before, name, feed[name] if name in inputs else computed[name], done)
            if progress is not None:
                progress(done)
    if not done:
        raise CalibrationError("there are no calibration samples; give at least one")
    return Statistics(tensors, done)


def _added(before: TensorStatistics, name: str, data: NDArray[Any], sample: int) -> TensorStatistics:
    try:
        return before.add(data)
    except CalibrationError as error:
        raise CalibrationError(f"{error} in value '{name}' at sample {sample}; look at this sample's scale, or check "
                               "the model's weights") from None


def _expose(model: ir.Model, names: list[str], folder: Path) -> Path:
    """Write ``model`` with the values ``names`` as outputs. Weights go to a file, so that 2 GB are no limit."""
    import onnx

    path = folder / "model.onnx"
    ir.save(model, path, external_data="model.data")
    proto = onnx.load(path, load_external_data=False)
    known = {value.name: value for node in model.graph for value in node.outputs}
    missing = [name for name in names if name not in known]
    if missing:
        raise ModelError(f"the model computes no value named {', '.join(map(repr, missing))}")
    already = {output.name for output in proto.graph.output}
    for name in names:
        if name not in already:
            dtype = known[name].dtype or ir.DataType.FLOAT
            proto.graph.output.append(onnx.helper.make_tensor_value_info(name, int(dtype), None))
    onnx.save(proto, path)
    return path


def _session(path: Path, threads: int | None) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or 0
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ModelError(f"onnxruntime cannot load the float model: {error}") from error


def _ahead(session: Any, outputs: list[str], samples: Iterable[Feed]) -> Iterator[tuple[Feed, dict[str, NDArray[Any]]]]:
    """(feed, computed values) of each sample, while the next one is already being computed in another thread.

    onnxruntime releases Python's lock while it runs, so reading samples, inference and histograms overlap.
    """
    names = outputs or [session.get_outputs()[0].name]

    def run(feed: Feed) -> tuple[Feed, dict[str, NDArray[Any]]]:
        return feed, dict(zip(names, session.run(names, dict(feed)), strict=True))

    with ThreadPoolExecutor(1, "edgeq-calibrate") as pool:
        feeds = iter(samples)
        waiting = [pool.submit(run, feed) for feed in itertools.islice(feeds, 1)]
        while waiting:
            result = waiting.pop().result()
            waiting = [pool.submit(run, feed) for feed in itertools.islice(feeds, 1)]
            yield result
            del result


