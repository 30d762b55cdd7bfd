"""What --measure decides by: graphs as the backends write them, timed by their own engines, here or on a board."""
from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import onnx_ir as ir

import edgeq_runtime
from edgeq import policy
from edgeq.backend import backend_named
from edgeq.bundle.folder import sha256, write_manifest
from edgeq.conversion.interface import public
from edgeq.conversion.metadata import Metadata
from edgeq.conversion.quantization import QuantizedNetwork, is_quantized
from edgeq.conversion.request import Interface, Request
from edgeq.errors import BoardError
from edgeq.inference.session import Arrays
from edgeq.mixed_precision.result import Clock, Clocked
from edgeq.quant.samples import Samples
from edgeq.report.doctor import processor
from edgeq.verification.interface import as_taken
from edgeq_runtime.manifest import FILE_NAME
from edgeq_runtime.selftest import FILE_NAME as SELFTEST_NAME
from edgeq_runtime.selftest import Case, Tolerance, example, write_selftest

Found = tuple[list[float], Clocked]


def clock_of(request: Request, samples: Samples | None) -> Clock | None:
    """What takes times on one of the samples; None where they are predicted.

    The clock raises EngineError and BoardError: a graph cannot be run.
    """
    if not request.options.measure or samples is None:
        return None
    return partial(_clocked, request, samples.chosen(1)[0])


def _clocked(request: Request, feed: Arrays, graphs: Sequence[ir.Model]) -> dict[str, Found]:
    board, found = request.options.board, dict[str, Found]()
    for target in request.target_names:
        request.progress(f"timing {target}")
        with TemporaryDirectory(prefix="edgeq-") as folder:
            bundles = [Path(folder, str(number)) for number in range(len(graphs))]
            threads = max(_write(*each, target, request, feed) for each in zip(bundles, graphs, strict=True))
            found[target] = _here(bundles, threads) if board is None else _there(bundles, threads, board)
    return found


def _write(folder: Path, graph: ir.Model, target: str, request: Request, feed: Arrays) -> int:
    """A bundle that can be run on this sample -> the threads that it is for, one where the device says nothing."""
    folder.mkdir()
    if not is_quantized(graph):
        request = replace(request, io=Interface())
    made = public(graph, request, target)
    artifact = backend_named(target).emit(made.graph, folder, made.options)
    manifest = Metadata("model", request, QuantizedNetwork(graph, graph, None), None).manifest(target, artifact, made)
    write_selftest(folder / SELFTEST_NAME, [Case(as_taken(manifest, feed), {})], Tolerance("only timed"))
    write_manifest(folder, manifest)
    return int(manifest.options.get("threads", 1))


def _here(bundles: Sequence[Path], threads: int) -> Found:
    with ExitStack() as opened:
        models = [opened.enter_context(edgeq_runtime.load(path, threads=threads, watch=False)) for path in bundles]
        times, runs = least([partial(model.run, example(model)) for model in models], policy.CLOCK_ROUNDS.value)
        return [1e3 * time for time in times], Clocked(
            models[0].engine, f"{platform.machine()}, {processor()['name']}", threads, runs)


def least(runs: Sequence[Callable[[], Any]], rounds: int) -> tuple[list[float], int]:
    """-> (seconds of each, the least that was seen in rounds that all take part in; of how many runs at least)."""
    best, counts = [float("inf")] * len(runs), [0] * len(runs)
    for _ in range(rounds):
        for number, run in enumerate(runs):
            until, least_count = perf_counter() + policy.CLOCK_TURN_SECONDS.value, counts[number] + 2
            while counts[number] < least_count or perf_counter() < until:
                started = perf_counter()
                run()
                best[number] = min(best[number], perf_counter() - started)
                counts[number] += 1
    return best, min(counts)


def _there(bundles: Sequence[Path], threads: int, address: str) -> Found:
    """On a board every turn is a process of its own, whose median counts."""
    from edgeq.boards.registry import find_board
    from edgeq.boards.runner import Job, ask, run_on_board

    board, best, runs = find_board(address), [float("inf")] * len(bundles), policy.CLOCK_BOARD_RUNS.value
    with closing(board.connect()) as transport:
        for _ in range(policy.CLOCK_BOARD_ROUNDS.value):
            for number, bundle in enumerate(bundles):
                found = run_on_board(transport, Job(bundle, self_test=False, runs=runs, warmup=2, threads=threads))
                if found.benchmark is None:
                    raise BoardError(f"{board.name}: {found.error}")
                best[number] = min(best[number], found.benchmark["p50_ms"])
        stored = [f"{found.facts.root}/store/{sha256(bundle / FILE_NAME)}" for bundle in bundles]
        ask(transport, {"command": "discard", "paths": stored})
    imitated = ", imitated: a real one may rank times otherwise" if board.address.startswith("emulated:") else ""
    return best, Clocked(found.engine, f"{board.name}, {found.facts.core}{imitated}", threads,
                         runs * policy.CLOCK_BOARD_ROUNDS.value)
