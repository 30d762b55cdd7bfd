"""Tasks on Dask: local processes with one core each, or the workers of a scheduler that is there already."""
from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Final

from edgeq.errors import EdgeqError, MissingExtra, UsageError
from edgeq.sweeps.grid import Cell
from edgeq.sweeps.work import run_cell
from edgeq_runtime import __version__

PATIENCE: Final = 10  # seconds for a scheduler to answer, and for the first of its workers to come
RETRIES: Final = 5  # of a task whose worker was lost


def run_cells(cells: Sequence[Cell], scheduler: str | None, workers: int,
              done: Callable[[int], None]) -> list[dict[str, Any]]:
    """The row of each cell, in the order of the cells. workers: local processes, where there is no scheduler.

    A row is fetched as soon as it is there. So a worker that is lost takes with it the cells that it was at, and these
    are given to others.

    Raises:
        MissingExtra: Dask is not installed. UsageError: no scheduler answers, it has no workers, or these have another
            edgeq. EdgeqError: cells that no worker survived.
    """
    with _client(scheduler, workers) as client:
        from distributed import as_completed

        futures = client.map(partial(_task, is_local=scheduler is None), cells, pure=False,
                             key=[f"cell-{cell.number}" for cell in cells])
        rows: dict[int, dict[str, Any]] = {}
        for future in as_completed(futures):
            row = _row(future)
            rows[row["number"]] = row
            future.release()
            done(len(rows))
    return [rows[cell.number] for cell in cells]


def _task(cell: Cell, is_local: bool) -> dict[str, Any]:
    if is_local and hasattr(os, "sched_setaffinity"):
        from distributed import get_worker

        # Of this thread and those that it starts. One core, however many workers: so all round alike.
        cores = sorted(os.sched_getaffinity(os.getpid()))
        os.sched_setaffinity(0, {cores[int(get_worker().name) % len(cores)]})
    return run_cell(cell)


def _row(future: Any) -> dict[str, Any]:
    from distributed import KilledWorker

    try:
        found: dict[str, Any] = future.result()
    except KilledWorker as error:
        raise EdgeqError(f"{future.key}: {RETRIES} workers ended while they were at it, for want of memory perhaps: "
                         f"{error}") from None
    return found


@contextmanager
def _client(scheduler: str | None, workers: int) -> Iterator[Any]:
    try:
        import dask
        from distributed import Client, LocalCluster
    except ModuleNotFoundError as error:
        if error.name not in ("dask", "distributed"):
            raise
        raise MissingExtra("edgeq sweep", "sweep") from None
    with ExitStack() as stack:
        stack.enter_context(dask.config.set({"distributed.scheduler.allowed-failures": RETRIES}))
        if scheduler is None:
            cluster = stack.enter_context(LocalCluster(
                n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=40))
            yield stack.enter_context(Client(cluster))
            return
        try:
            client = stack.enter_context(Client(scheduler, timeout=PATIENCE))
            client.wait_for_workers(1, timeout=PATIENCE)
        except (OSError, ValueError) as error:  # a TimeoutError where there are no workers
            raise UsageError(f"--scheduler {scheduler}: {error}; start it with `dask scheduler`, and workers with "
                             "`dask worker ADDRESS`") from None
        _check_versions(client)
        yield client


def _check_versions(client: Any) -> None:
    def version() -> str:  # inside, so that it travels as code: a worker may lack this module
        try:
            from edgeq_runtime import __version__ as found
        except ImportError:
            return ""
        return found

    found = client.run(version)
    wrong = {worker: version for worker, version in found.items() if version != __version__}
    if wrong:
        told = ", ".join(f"{worker} has {version or 'no edgeq'}" for worker, version in wrong.items())
        raise UsageError(f"workers with another edgeq than this one, {__version__}: {told}; results would depend on "
                         "who ran what: install the same on all")
