"""The table that every file of the vocabulary adds to: MIL op -> what it is in Core AI's operators."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

Word = Callable[..., Any]  # (builder, *, MIL's arguments by name) -> Var, or a tuple of them
WORDS: Final[dict[str, Word]] = {}


def word(*names: str) -> Callable[[Word], Word]:
    """Register what one or several ops of MIL are here."""

    def register(made: Word) -> Word:
        for name in names:
            if name in WORDS:
                raise ValueError(f"{name} is here twice")
            WORDS[name] = made
        return made

    return register
