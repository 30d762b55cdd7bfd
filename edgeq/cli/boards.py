"""Commands on boards: real ones over ssh or adb, and emulated ones."""
from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from edgeq.cli.shared import BAD_INPUT, board_option, common, job_options, job_words, print_result, say


@click.group()
def board() -> None:
    """Boards that bundles are tested on."""


@board.command()
@click.argument("name")
@click.argument("address")
@click.option("--python", default="python3", show_default=True, help="The board's Python, 3.10 or newer.")
@common
def add(name: str, address: str, python: str, as_json: bool) -> None:
    """Give a board a name.

    ADDRESS is ssh://user@host[:port], adb:SERIAL or emulated:NAME. Over ssh your own configuration, keys and known
    hosts count: what `ssh user@host` reaches without a password, edgeq reaches.
    """
    from edgeq.boards.registry import add_board

    added = add_board(name, address, python)
    print_result({"board": name, "address": address, "python": python}, as_json,
                 lambda: say(f"added {added.name}: edgeq board info {added.name}"))


@board.command("list")
@common
def list_(as_json: bool) -> None:
    """List your boards, and those that can be emulated."""
    from edgeq.boards.registry import all_boards
    from edgeq.report.boards import board_list

    rows = all_boards()
    print_result(rows, as_json, lambda: board_list(rows))


@board.command()
@click.argument("name")
@common
def remove(name: str, as_json: bool) -> None:
    """Forget a board; `clean` it first if nothing of edgeq should stay there."""
    from edgeq.boards.registry import remove_board

    remove_board(name)
    print_result({"removed": name}, as_json, lambda: say(f"removed {name}"))


@board.command()
@click.argument("name")
@common
def info(name: str, as_json: bool) -> None:
    """Show what a board is: cpu, features, memory, Python, libc, engines."""
    from edgeq.boards.fleet import facts_of
    from edgeq.boards.registry import find_board
    from edgeq.report.boards import board_facts

    found = facts_of(find_board(name)).to_json()
    print_result(found, as_json, lambda: board_facts(found))


@board.command()
@click.argument("name")
@common
def clean(name: str, as_json: bool) -> None:
    """Remove everything that edgeq has put on a board."""
    from edgeq.boards.fleet import clean as clean_board
    from edgeq.boards.registry import find_board

    folder = clean_board(find_board(name))
    print_result({"board": name, "removed": folder}, as_json, lambda: say(f"{name}: removed {folder}"))


@board.command()
@common
def refresh(as_json: bool) -> None:
    """Let the next run fetch the newest engines, qemu and Debian packages.

    What was fetched once stays as it is until then, so that results can be repeated and no network is needed.
    """
    from dataclasses import asdict

    from edgeq.boards.cache import forget_fetched
    from edgeq.report.boards import forgotten

    rows = [asdict(found) for found in forget_fetched()]
    print_result(rows, as_json, lambda: forgotten(rows))


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@board_option(required=True)
@job_options
@common
def test(bundle: Path, boards: tuple[str, ...], as_json: bool, **words: Any) -> None:
    """Run a bundle's self-test on boards: do they compute what the converter promised?

    The engine is brought along: a board needs python3 and no network.
    """
    from edgeq.boards.runner import Job
    from edgeq.report.boards import test_table

    rows = on_boards(boards, Job(bundle, **job_words(boards, words)))
    print_result(rows, as_json, lambda: test_table(rows))
    if not all(row["ok"] for row in rows):
        sys.exit(BAD_INPUT)


def on_boards(names: tuple[str, ...], job: Any) -> list[dict[str, Any]]:
    """What each board found, as plain data."""
    from edgeq.boards.fleet import run_on_boards
    from edgeq.boards.registry import find_board
    from edgeq.report.boards import live_table

    boards = [find_board(name) for name in dict.fromkeys(names)]
    with live_table([board.name for board in boards]) as watch:
        return [outcome.to_json() for outcome in run_on_boards(boards, job, watch)]
