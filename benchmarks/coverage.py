"""Coverage: how many of the ONNX project's own node tests each target converts and computes right.

    python benchmarks/coverage.py [--target tflite]... [--only REGEX] [--part N] [--jobs 2] [--ops] [--refused]
                                  [--json FILE]

The rule: the 1404 node tests of onnx.backend.test that are no expansions of functions, all of them the denominator but
the three of `OTHERWISE_DEPLOYED`.
Every input but the first is frozen to an initializer, except for ops whose inputs are all data; shapes are those of the
test's data. A case is converted at 32 bits with default options, run through edgeq_runtime (Core ML by the
interpreter), and matches at rtol 1e-3, atol 1e-4. Each case has a process of its own: a crash or 120 seconds are a
failure. SILENT counts the files that were written although they are wrong or do not run.
"""
from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import re
import sys
import tempfile
import traceback
import warnings
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import onnx
from onnx import numpy_helper

TARGETS: Final = ("onnxruntime", "tflite", "coreml", "coreai")
SECONDS: Final = 120
RTOL, ATOL = 1e-3, 1e-4
SILENT: Final = ("wrong", "unrunnable", "crash")
Status = Literal["match", "refused", "wrong", "unrunnable", "crash", "error"]

# Ops whose inputs are all data: nothing of theirs is frozen.
ALL_DATA: Final = frozenset({
    "Add", "And", "Attention", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Concat", "Div", "Einsum", "Equal",
    "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "MatMul", "MatMulInteger", "Max", "Mean", "Min", "Mod", "Mul",
    "Or", "PRelu", "Pow", "Sub", "Sum", "Where", "Xor",
})
# What onnxruntime, which people deploy, and torch compute otherwise than ONNX's reference evaluator, whose numbers
# these tests hold: Resize with align_corners takes the corner of the whole size, MaxUnpool counts in the given shape.
OTHERWISE_DEPLOYED: Final = frozenset({
    "test_maxunpool_export_with_output_shape", "test_resize_downsample_scales_cubic_align_corners",
    "test_resize_downsample_scales_linear_align_corners",
})
# What to import before the processes fork, so that a case does not pay for it.
PRELOADED: Final = {"onnxruntime": ("onnxruntime",), "tflite": ("ai_edge_litert.interpreter",),
                    "coreml": ("coremltools", "edgeq.verification.mlpackage"),
                    "coreai": ("coreai.authoring",)}


@dataclass(frozen=True)
class Case:
    """A node test: its model, and the arrays of its first data set."""

    name: str
    op: str
    model: onnx.ModelProto
    inputs: list[Any]
    outputs: list[Any]


@dataclass(frozen=True)
class Outcome:
    case: str
    op: str
    status: Status
    reason: str = ""


def cases() -> list[Case]:
    """The node tests that are no expansions, by name."""
    from onnx.backend.test.loader import load_model_tests

    found = []
    with warnings.catch_warnings(action="ignore"):  # the tests compute their own overflows and divisions by zero
        tests = load_model_tests(kind="node")
    for test in tests:
        if "_expanded" not in test.name and test.name not in OTHERWISE_DEPLOYED:
            inputs, outputs = test.data_sets[0]
            found.append(Case(test.name, _main_op(test.model), test.model, list(inputs), list(outputs)))
    return sorted(found, key=lambda case: case.name)


def _main_op(model: onnx.ModelProto) -> str:
    return next((node.op_type for node in model.graph.node if node.op_type != "Constant"), "Constant")


def array(data: Any) -> Any:
    """An array of a test's data; sequences and optionals raise ValueError, since no bundle takes them."""
    if isinstance(data, onnx.TensorProto):
        return numpy_helper.to_array(data)
    if data is None or isinstance(data, list):
        raise ValueError("an input or output is a sequence or an optional, not a tensor")
    return np.asarray(data)


def frozen(case: Case) -> tuple[onnx.ModelProto, dict[str, Any], list[Any]]:
    """The model with constants in place of parameters -> (model, the inputs left, the expected outputs)."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    graph = model.graph
    arrays = {value.name: array(data) for value, data in zip(graph.input, case.inputs, strict=True)}
    kept = list(graph.input) if case.op in ALL_DATA else list(graph.input)[:1]
    names = {value.name for value in kept}
    graph.initializer.extend(numpy_helper.from_array(data, name) for name, data in arrays.items() if name not in names)
    del graph.input[:]
    graph.input.extend(kept)
    for value in graph.input:
        optional = value.type.HasField("optional_type")
        shape = (value.type.optional_type.elem_type if optional else value.type).tensor_type.shape
        shape.Clear()
        for size in arrays[value.name].shape:
            shape.dim.add().dim_value = size
    return model, {name: arrays[name] for name in names}, [array(data) for data in case.outputs]


def attempt(case: Case, target: str) -> Outcome:
    """Convert, run and compare one case in this process."""
    import edgeq_runtime
    from edgeq import convert
    from edgeq.errors import EdgeqError

    outcome = partial(Outcome, case.name, case.op)
    with tempfile.TemporaryDirectory() as folder:
        try:
            model, inputs, expected = frozen(case)
            bundle = convert(model, target=target, bits=32, output=Path(folder) / "case")
        except (EdgeqError, ValueError) as error:
            known = isinstance(error, EdgeqError) or "not a tensor" in str(error)
            return outcome("refused" if known else "error", str(error))
        try:
            with edgeq_runtime.load(bundle.path) as opened:
                got = list(opened.run(inputs).values())
        except Exception as error:
            return outcome("unrunnable", f"{type(error).__name__}: {error}")
    for index, (e, g) in enumerate(zip(expected, got, strict=True)):
        if e.shape != g.shape:
            return outcome("wrong", f"output {index} has the shape {g.shape}, expected {e.shape}")
        if not _close(e, g):
            return outcome("wrong", f"output {index} differs")
    return outcome("match")


def _close(expected: Any, got: Any) -> bool:
    if expected.dtype.kind in "OSU":
        return bool(np.array_equal(expected, got))
    return bool(np.allclose(got.astype(np.float64), expected.astype(np.float64), RTOL, ATOL, equal_nan=True))


def _worker(case: Case, target: str, pipe: Connection) -> None:
    with open(os.devnull, "w") as null, contextlib.redirect_stdout(null), contextlib.redirect_stderr(null):
        os.dup2(null.fileno(), 1)
        os.dup2(null.fileno(), 2)
        try:
            outcome = attempt(case, target)
        except Exception:
            outcome = Outcome(case.name, case.op, "error", traceback.format_exc()[-600:])
        pipe.send(outcome)


def isolated(case: Case, target: str) -> Outcome:
    """`attempt` in a forked process."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_worker, args=(case, target, theirs))
    process.start()
    theirs.close()
    try:
        if ours.poll(SECONDS):
            return ours.recv()
        return Outcome(case.name, case.op, "crash", f"no answer in {SECONDS} seconds")
    except EOFError:
        process.join()
        return Outcome(case.name, case.op, "crash", f"the process died with exit code {process.exitcode}")
    finally:
        process.kill()
        process.join()


def measure(target: str, chosen: list[Case], jobs: int) -> Iterator[Outcome]:
    """The outcome of every case, in order."""
    with open(os.devnull, "w") as null, contextlib.redirect_stderr(null):
        for module in ("edgeq.conversion.pipeline", "edgeq_runtime", f"edgeq_converters.{target}", *PRELOADED[target]):
            import_module(module)
    with ThreadPoolExecutor(jobs) as pool:
        yield from pool.map(partial(isolated, target=target), chosen)


def summary(target: str, outcomes: list[Outcome]) -> str:
    counts = Counter(outcome.status for outcome in outcomes)
    silent = sum(counts[status] for status in SILENT)
    return (f"{target}: COVERAGE {counts['match']} of {len(outcomes)} ({counts['match'] / len(outcomes):.1%}), "
            f"SILENT {silent}; " + ", ".join(f"{status} {count}" for status, count in sorted(counts.items())))


def by_op(outcomes: list[Outcome]) -> str:
    table: dict[str, Counter[str]] = defaultdict(Counter)
    for outcome in outcomes:
        table[outcome.op][outcome.status] += 1
    lines = [f"{op:28} {counts['match']:4} of {sum(counts.values()):4}   "
             + " ".join(f"{status}={count}" for status, count in sorted(counts.items()) if status != "match")
             for op, counts in sorted(table.items())]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", action="append", choices=TARGETS)
    parser.add_argument("--only", default="", help="a regular expression on the names of the cases")
    parser.add_argument("--part", type=int, default=1, help="every Nth case or so, the same ones each time")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--ops", action="store_true", help="a line per op")
    parser.add_argument("--refused", action="store_true", help="the reason of everything that is no match")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    chosen = [case for case in cases() if re.search(options.only, case.name)
              and zlib.crc32(case.name.encode()) % options.part == 0]
    document = {}
    for target in options.target or TARGETS:
        outcomes = list(measure(target, chosen, options.jobs))
        print(summary(target, outcomes))
        if options.ops:
            print(by_op(outcomes))
        for outcome in outcomes:
            if outcome.status in (*SILENT, "error") or (options.refused and outcome.status == "refused"):
                print(f"  {outcome.status:10} {outcome.case}: {outcome.reason}", file=sys.stdout)
        document[target] = [asdict(outcome) for outcome in outcomes]
    if options.json is not None:
        options.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
