"""The names that the user has given to boards: one small file in the user's configuration folder."""
from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from edgeq.boards.addresses import FORMS, parse_address
from edgeq.boards.board import Board
from edgeq.boards.profiles import EMULATED
from edgeq.errors import BoardError, UsageError


def registry_file() -> Path:
    """`~/.config/edgeq/boards.json`, or where this system keeps such files."""
    return Path(click.get_app_dir("edgeq")) / "boards.json"


def read_boards() -> dict[str, Board]:
    """Board by name.

    Raises:
        BoardError: the file is damaged.
    """
    file = registry_file()
    try:
        return {name: Board(name, **fields) for name, fields in json.loads(file.read_text(encoding="utf-8")).items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise BoardError(f"{file} cannot be read: {error}; mend or remove it") from None


def _write_boards(boards: Mapping[str, Board]) -> None:
    file = registry_file()
    entries = {name: {key: value for key, value in asdict(board).items() if key != "name"}
               for name, board in sorted(boards.items())}
    draft = file.with_suffix(".draft")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")
        draft.replace(file)
    except OSError as error:
        raise BoardError(f"{file} cannot be written: {error.strerror}") from error


def find_board(name: str) -> Board:
    """A board by the name that the user gave it, or by its address.

    Raises:
        UsageError: neither.
    """
    boards = read_boards()
    if name in boards:
        return boards[name]
    if ":" in name:
        parse_address(name)
        return Board(name, name)
    known = f"there are {', '.join(boards)}" if boards else "none was added yet"
    raise UsageError(f"there is no board '{name}' ({known}): edgeq board add {name} ADDRESS, where ADDRESS is {FORMS}")


def add_board(name: str, address: str, python: str) -> Board:
    """Raises UsageError: a name that is taken or could be an address, or no address."""
    boards = read_boards()
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise UsageError(f"'{name}' is no name for a board: use letters, digits, dots, dashes and underscores")
    if name in boards:
        raise UsageError(f"the board '{name}' is {boards[name].address}: edgeq board remove {name} first")
    parse_address(address)
    board = Board(name, address, python)
    _write_boards({**boards, name: board})
    return board


def remove_board(name: str) -> None:
    """Raises UsageError: there is none of that name."""
    boards = read_boards()
    if name not in boards:
        raise UsageError(f"there is no board '{name}'; there are {', '.join(boards) or 'none'}")
    _write_boards({key: board for key, board in boards.items() if key != name})


def all_boards() -> list[dict[str, Any]]:
    """The user's boards, then those that need no hardware, as plain data."""
    rows = [{"board": board.name, "address": board.address, "note": ""} for board in read_boards().values()]
    return rows + [{"board": f"emulated:{name}", "address": f"{row.cpu}, Debian {row.release} {row.architecture}",
                    "note": row.stands_for} for name, row in EMULATED.items()]
