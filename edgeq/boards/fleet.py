"""Several boards at once: each in a thread, because all that this machine does is wait."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any, TypeAlias

from edgeq.boards.board import Board
from edgeq.boards.facts import Facts
from edgeq.boards.runner import Found, Job, ask, probe, run_on_board
from edgeq.errors import BoardError

Watch: TypeAlias = Callable[[str, str], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a job on one board: found, or why nothing could be found."""

    board: Board
    emulated: bool
    found: Found | BoardError

    @property
    def ok(self) -> bool:
        return isinstance(self.found, Found) and self.found.ok

    def to_json(self) -> dict[str, Any]:
        head = {"board": self.board.name, "address": self.board.address, "emulated": self.emulated}
        return head | ({"ok": False, "error": str(self.found)} if isinstance(self.found, BoardError)
                       else self.found.to_json())


def run_on_boards(boards: Sequence[Board], job: Job, watch: Watch = lambda board, what: None) -> list[Outcome]:
    """Do one job on every board. watch: told the name of a board and what happens there now.

    Raises:
        BundleError, UsageError: the job itself is wrong.
    """
    with ThreadPoolExecutor(len(boards)) as pool:
        return list(pool.map(lambda board: _run(board, job, lambda what: watch(board.name, what)), boards))


def _run(board: Board, job: Job, say: Callable[[str], None]) -> Outcome:
    emulated = board.address.startswith("emulated:")
    try:
        say("connecting" if not emulated else "starting")
        with closing(board.connect()) as transport:
            outcome = Outcome(board, emulated, run_on_board(transport, job, say))
    except BoardError as error:
        outcome = Outcome(board, emulated, error)
    say("done" if outcome.ok else "failed")
    return outcome


def facts_of(board: Board) -> Facts:
    """What a board is; see runner.probe."""
    with closing(board.connect()) as transport:
        return probe(transport)


def clean(board: Board) -> str:
    """Remove everything that edgeq has put on a board -> the folder that is gone."""
    with closing(board.connect()) as transport:
        root = probe(transport).root
        ask(transport, {"command": "discard", "paths": [root]})
        return root
