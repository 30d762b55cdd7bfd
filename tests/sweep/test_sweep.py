"""Sweeps on a real Dask scheduler and workers, processes of their own on the loopback."""
from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from click.testing import CliRunner
from small_graphs import network, normal

from edgeq.cli import main
from edgeq.errors import UsageError
from edgeq.report.sweep import pareto
from edgeq.sweeps.cluster import run_cells
from edgeq.sweeps.grid import read_grid
from edgeq.sweeps.work import run_cell

pytest.importorskip("distributed")

SWEEP = """
[common]
calibration = "samples.npy"
[model.one]
path = "one.onnx"
[model.two]
path = "two.onnx"
weights = "per-tensor"
[grid]
target = ["onnxruntime"]
bits = [8, 4]
method = ["nearest", "gptq"]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("sweep")
    np.save(place / "samples.npy", normal(12, 6))
    for name, width in (("one", 24), ("two", 40)):
        text = "net (float[1, 6] x) => (float[1, 5] y) { h = Gemm(x, a, b) r = Relu(h) y = MatMul(r, c) }"
        ir.save(network(text, a=normal(6, width), b=normal(width, seed=1), c=normal(width, 5, seed=2)),
                place / f"{name}.onnx")
    (place / "sweep.toml").write_text(SWEEP)
    return place


@pytest.fixture(scope="module")
def expected(folder: Path) -> list[dict[str, object]]:
    """What this process alone finds."""
    return [run_cell(cell) for cell in read_grid(folder / "sweep.toml")]


@contextmanager
def process(*command: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    started = subprocess.Popen([sys.executable, *command], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
                               env={**os.environ, "OMP_NUM_THREADS": "1", **environment})
    try:
        yield started
    finally:
        started.kill()
        started.wait()
        assert started.stderr is not None
        started.stderr.close()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def scheduler() -> Iterator[str]:
    port = free_port()
    with process("-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"):
        yield f"tcp://127.0.0.1:{port}"


def worker(address: str, **environment: str) -> object:
    return process("-m", "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-dashboard", "--no-nanny",
                   **environment)


def test_a_killed_worker_costs_its_tasks_only(folder: Path, expected: list[dict[str, object]]) -> None:
    with scheduler() as address, worker(address) as first, worker(address):  # type: ignore[attr-defined]
        def kill(count: int) -> None:
            if count == 2:
                first.send_signal(signal.SIGKILL)

        found = run_cells(read_grid(folder / "sweep.toml"), address, 0, kill)
        assert first.wait(timeout=10) == -signal.SIGKILL
    assert found == expected


def test_a_worker_of_another_version_is_refused(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "edgeq_runtime"
    other.mkdir()
    (other / "__init__.py").write_text('__version__ = "0.0.1"\n')
    with scheduler() as address, worker(address, PYTHONPATH=str(tmp_path)), pytest.raises(  # type: ignore[attr-defined]
            UsageError, match=r"another edgeq than this one.*tcp://127.0.0.1:\d+ has 0\.0\.1"):
        run_cells(read_grid(folder / "sweep.toml"), address, 0, lambda count: None)


def test_local_workers_find_the_same_and_a_page_shows_it(folder: Path, tmp_path: Path,
                                                         expected: list[dict[str, object]]) -> None:
    said = CliRunner().invoke(main, ["sweep", str(folder / "sweep.toml"), "--workers", "2", "-o", str(tmp_path / "o"),
                                     "--json"])
    assert said.exit_code == 0, said.output
    rows = json.loads(said.stdout)
    assert [{key: value for key, value in row.items() if key != "best"} for row in rows] == expected
    assert rows == json.loads((tmp_path / "o/sweep.json").read_text())
    page = (tmp_path / "o/sweep.html").read_text()
    assert page.count("<svg") == 2
    assert page.count("<circle") == len(rows) == 8


def test_a_refused_cell_is_a_row(folder: Path) -> None:
    text = SWEEP.replace('method = ["nearest", "gptq"]', 'method = ["nearest", "wild"]')
    (folder / "refused.toml").write_text(text)
    rows = [run_cell(cell) for cell in read_grid(folder / "refused.toml")[:2]]
    assert "error" not in rows[0]
    assert "there is no 'wild'" in str(rows[1]["error"])


@pytest.mark.parametrize(("text", "said"), [
    (SWEEP.replace("[common]", "[comon]"), "'comon' means nothing in a sweep; did you mean common?"),
    (SWEEP.replace("calibration", "calibratio"), "[common] 'calibratio' means nothing in a sweep; did you mean"),
    (SWEEP.replace("bits = [8, 4]", "bits = 8"), "[grid] bits: give a list of values"),
    ("[grid]\nbits = [8]", "name at least one model"),
    ("[grid", "sweep.toml: "),
    (SWEEP.replace('path = "one.onnx"', ""), "name at least one model"),
], ids=["table", "word", "list", "no-model", "no-toml", "no-path"])
def test_a_bad_file_is_one_message(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "sweep.toml").write_text(text)
    result = CliRunner().invoke(main, ["sweep", str(tmp_path / "sweep.toml")])
    assert result.exit_code == 2
    assert said in result.stderr
    assert re.fullmatch(r"error: .*\n", result.stderr)


def test_no_scheduler_is_one_message(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeq.sweeps.cluster.PATIENCE", 0.3)
    begun = time.monotonic()
    with pytest.raises(UsageError, match=r"--scheduler tcp://127.0.0.1:\d+: .*start it with `dask scheduler`"):
        run_cells(read_grid(folder / "sweep.toml"), f"tcp://127.0.0.1:{free_port()}", 0, lambda count: None)
    assert time.monotonic() - begun < 20


def test_the_best_are_those_that_nothing_beats() -> None:
    def row(number: int, size: int, db: float, model: str = "a") -> dict[str, object]:
        return {"number": number, "model": model, "bytes": size, "sqnr_db": db}

    assert pareto([row(0, 10, 30), row(1, 5, 20), row(2, 6, 19), row(3, 9, 30), row(4, 99, 1, "b")]) == {1, 3, 4}
