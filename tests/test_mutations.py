"""A sample of benchmarks/mutated_models.py and mutated_bundles.py: broken input ends in a refusal of ours."""
from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from edgeq.errors import EdgeqError
from edgeq.frontends import load_model
from edgeq.passes import canonicalize

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def test_hundreds_of_broken_models_are_refused_or_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here as far as the passes; the benchmark converts and verifies them too, in processes with limits."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    from hostile import models, protos

    sources, found = models.sources()[:40], Counter[str]()
    for number in range(400):
        rng = np.random.default_rng((11, number))
        path = tmp_path / "net.onnx"
        path.write_bytes(protos.mutated(sources[number % len(sources)][1], rng))
        try:
            canonicalize(load_model(path))
            found["read"] += 1
        except EdgeqError:
            found["refused"] += 1
    assert found["read"] > 50, "hardly anything came through the door"
    assert found["refused"] > 150, "the mutations hardly break anything"


@pytest.mark.full
@pytest.mark.parametrize(("name", "cases"), [("mutated_models", 300), ("mutated_bundles", 300)])
def test_broken_input_in_processes_with_limits(name: str, cases: int) -> None:
    program = [sys.executable, str(BENCHMARKS / f"{name}.py"), "--cases", str(cases), "--seed", "7"]
    done = subprocess.run(program, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
