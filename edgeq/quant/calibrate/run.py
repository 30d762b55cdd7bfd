"""One streaming pass of onnxruntime over the float model, with the planned values as further outputs."""
from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

import onnx_ir as ir
from numpy.typing import NDArray

from edgeq.errors import CalibrationError, ModelError
from edgeq.inference.session import Arrays, exposing, open_session
from edgeq.quant.calibrate.statistics import Statistics, TensorStatistics

_AT_ONCE: Final = 2  # samples: inference of both, on half the threads each, keeps one thread of histograms busy


def calibrate(model: ir.Model, values: Collection[str], samples: Iterable[Arrays], *,
              progress: Callable[[int], None] | None = None, threads: int | None = None,
              resume: Statistics | None = None) -> Statistics:
    """Run the float ``model`` over ``samples`` and gather the statistics of ``values``.

    Memory does not depend on the number of samples: each one's tensors go into the histograms and are dropped, while
    onnxruntime already runs the next. The result does not depend on ``threads``. ``model`` stays as it is.

    Args:
        model: a float model with static or dynamic shapes.
        values: names of float values of its main graph, graph inputs included.
        samples: feeds with a batch axis, input name -> array.
        progress: called with the number of samples done, after each.
        threads: number of threads for inference; None takes every core that this process may use.
        resume: statistics of the samples before these; the result is of both, as if they had come in one call.

    Raises:
        CalibrationError: no samples, one that onnxruntime refuses, or one that makes a value NaN or infinite; names the
            sample, counted from 0, and the value.
        ModelError: a value is not in the main graph, or onnxruntime cannot load the model.
    """
    inputs = {value.name for value in model.graph.inputs}
    outputs = [name for name in dict.fromkeys(values) if name not in inputs]
    before = resume if resume is not None else Statistics({}, 0)
    tensors = {name: before.get(name, TensorStatistics.empty()) for name in dict.fromkeys(values)}
    count = before.samples
    history = [before] if before.samples else []
    _check_computed(model, outputs)
    session = open_session(exposing(model, outputs), fused=True, threads=max((threads or _cores()) // _AT_ONCE, 1))
    for arrays in _computed(session, outputs, samples, count):
        for name, known in tensors.items():
            tensors[name] = _added(known, arrays[name], name, count)
        count += 1
        if count.bit_count() == 1:  # 1, 2, 4, ...: one of them is a half to a quarter of whatever the end will be
            history = [*history[-1:], Statistics(tensors, count)]
        if progress is not None:
            progress(count)
    if not count:
        raise CalibrationError("there are no calibration samples; give at least one")
    return Statistics(tensors, count, next((old for old in reversed(history) if old.samples <= count // 2),
                                         before.earlier))


def _added(before: TensorStatistics, data: NDArray[Any], name: str, number: int) -> TensorStatistics:
    try:
        return before.add(data, turn=number)
    except CalibrationError as error:
        raise CalibrationError(f"sample {number} gives {error} in the value '{name}'; check the scale of this sample, "
                               "and the model's weights") from None


def _check_computed(model: ir.Model, names: Iterable[str]) -> None:
    known = {value.name for node in model.graph for value in node.outputs}
    missing = [name for name in names if name not in known]
    if missing:
        raise ModelError(f"the model's main graph computes no value named {', '.join(map(repr, missing))}")


def _computed(session: Any, outputs: list[str], samples: Iterable[Arrays], first: int,
              ) -> Iterator[dict[str, NDArray[Any]]]:
    """Inputs and computed values of each sample, in order; the next ones are computed meanwhile.

    onnxruntime releases Python's lock while it runs, so that inference and the caller's work overlap.
    """
    names = outputs or [session.get_outputs()[0].name]

    def run(number: int, feed: Arrays) -> dict[str, NDArray[Any]]:
        try:
            return {**feed, **dict(zip(names, session.run(names, dict(feed)), strict=True))}
        except Exception as error:
            raise CalibrationError(f"onnxruntime refuses sample {number}: {error}") from error

    with ThreadPoolExecutor(_AT_ONCE, "edgeq-calibrate") as pool:
        numbered = enumerate(samples, first)
        running: deque[Future[dict[str, NDArray[Any]]]] = deque()
        while True:
            running.extend(pool.submit(run, *item) for item in itertools.islice(numbered, _AT_ONCE + 1 - len(running)))
            if not running:
                return
            yield running.popleft().result()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
