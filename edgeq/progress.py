"""How a long step tells what it is doing, to whoever watches."""
from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Told what is going on, how many samples of it are done, and of how many where that is known."""

    def __call__(self, what: str, done: int = 0, total: int | None = None) -> None: ...


def silent(what: str, done: int = 0, total: int | None = None) -> None:
    """The `Progress` that nobody watches."""
