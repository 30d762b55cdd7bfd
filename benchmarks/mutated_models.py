"""Broken models thrown at `edgeq inspect` and `edgeq convert`: what becomes of them?

    python benchmarks/mutated_models.py [--cases 10000] [--seed 1] [--first N] [--only N] [--workers N] [--json FILE]

Case k of a seed is always the same: a small model (hostile/models.py), one to three mutations (hostile/protos.py), a
target and a number of bits by chance. A case is good when it is converted, verification included, or refused by an
error of edgeq. Each has 60 seconds and 4 GB. An audit hook watches that no file of the host is opened and nothing run.
"""
from __future__ import annotations

import argparse
import json
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "benchmarks")]

from hostile import models, pool, protos  # noqa: E402

TARGETS = ("onnxruntime", "tflite", "coreml", "tensorrt")
SOURCES = models.sources()


def attempt(path: Path, target: str, bits: int) -> str:
    """Inspect and convert one mutated model."""
    from edgeq import convert, inspect
    from edgeq.errors import EdgeqError

    warnings.simplefilter("ignore")
    with suppress(EdgeqError):
        inspect(str(path))
    convert(path, target=target, bits=bits, output=path.parent / "out.edgeq")
    return "converted"


def write(seed: int, number: int, folder: Path) -> tuple[Path, str, int]:
    """The file of a case, its target and bits. Beside it lie weights, and a link to a file of the host."""
    rng = np.random.default_rng((seed, number))
    _, source = SOURCES[int(rng.integers(len(SOURCES)))]
    path = folder / "net.onnx"
    path.write_bytes(protos.mutated(source, rng))
    (folder / "w.bin").write_bytes(rng.bytes(4096))
    (folder / "link").symlink_to("../secret")
    return path, TARGETS[int(rng.integers(len(TARGETS)))], int(rng.choice([4, 8, 16, 32]))


class Attempt:
    """`attempt` under one seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __call__(self, number: int, folder: Path) -> Callable[[], str]:
        return partial(attempt, *write(self.seed, number, folder))


def preload() -> None:
    """Whatever a conversion imports, so that each worker is a copy of a process that has it."""
    import onnxruntime  # noqa: F401

    import edgeq_converters.coreml
    import edgeq_converters.onnxruntime
    import edgeq_converters.tensorrt
    import edgeq_converters.tflite  # noqa: F401


def table(outcomes: Iterable[pool.Outcome], total: int) -> list[pool.Outcome]:
    """Print what became of the cases -> the bad ones."""
    kinds: Counter[str] = Counter()
    bad, slowest, opened, ran = [], 0.0, 0, 0
    for done, outcome in enumerate(outcomes, start=1):
        kinds[outcome.kind] += 1
        slowest = max(slowest, outcome.seconds)
        opened, ran = opened + bool(outcome.opened), ran + bool(outcome.ran)
        if outcome.bad:
            bad.append(outcome)
        if done % 500 == 0:
            print(f"{done} of {total}: {dict(kinds)}", file=sys.stderr, flush=True)
    print("| outcome | cases |\n|---|---|")
    for kind in ("converted", "refused", "foreign exception", "crash", "too long"):
        print(f"| {kind} | {kinds[kind]} |")
    print(f"| files of the host read | {opened} |\n| code run | {ran} |\n\nslowest case: {slowest:.1f} s")
    return bad


def options(documentation: str | None, cases: int) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=documentation, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=cases)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--only", type=int, metavar="N", help="try one case in this process, with its traceback")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the bad cases here, too")
    return parser.parse_args()


def alone(attempt: pool.Try, number: int) -> int:
    with tempfile.TemporaryDirectory() as text:
        (Path(text) / "case").mkdir()
        print(attempt(number, Path(text) / "case")())
    return 0


def report(attempt: pool.Try, given: argparse.Namespace) -> int:
    if given.only is not None:
        return alone(attempt, given.only)
    numbers = range(given.first, given.first + given.cases)
    bad = table(pool.run(attempt, numbers, given.workers), given.cases)
    for outcome in sorted(bad, key=lambda outcome: outcome.detail):
        print(f"case {outcome.number}: {outcome.kind} {outcome.detail} {outcome.opened or ''} {outcome.ran or ''}")
    if given.json:
        given.json.write_text(json.dumps([asdict(outcome) for outcome in bad], indent=2) + "\n")
    return 1 if bad else 0


def main() -> int:
    given = options(__doc__, 10_000)
    preload()
    return report(Attempt(given.seed), given)


if __name__ == "__main__":
    sys.exit(main())
