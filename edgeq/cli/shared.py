"""What the commands share: exit codes, options, and how a result and its progress are shown."""
from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from edgeq.dimensions import Shape
    from edgeq.progress import Progress

BAD_INPUT, USAGE, BELOW_WHAT_WAS_ASKED, INTERRUPTED, TERMINATED = 1, 2, 3, 130, 143
F = TypeVar("F", bound=Callable[..., Any])


class Registered(click.Choice[str]):
    """One of the names that installed packages offer, read when a command is parsed or helped with, not before."""

    def __init__(self, names: Callable[[], Sequence[str]]):
        self._names = names
        self.case_sensitive = True

    @property
    def choices(self) -> Sequence[str]:  # type: ignore[override]  # there an attribute, filled at import
        return self._names()


def shapes_of(ctx: click.Context, param: click.Parameter, texts: tuple[str, ...]) -> dict[str, Shape]:
    from edgeq.dimensions import parse_shape
    from edgeq.errors import UsageError

    shapes: dict[str, Shape] = {}
    for text in texts:
        name, _, sizes = text.rpartition(":")
        try:
            shapes[name] = parse_shape(sizes)
        except UsageError as error:
            raise click.BadParameter(f"'{text}': {error}") from None
        if not name:
            raise click.BadParameter(f"'{text}': write name, colon and shape of the input, such as image:1x3x224x224")
    return shapes


def input_option(function: F) -> F:
    return click.option("--input", "inputs", multiple=True, callback=shapes_of, metavar="NAME:1x3x224x224",
                        help="Fix an input's free dimensions, or keep them free within limits: tokens:1x1..128 (a "
                        "range), image:1x3x224/320x224/320 (enumerated), audio:1xT (any size). Repeatable.")(function)


def trust_option(function: F) -> F:
    return click.option("--trust", is_flag=True, help="Read pickles in a .pt2 file, which can run any code.")(function)


def board_option(*, required: bool) -> Callable[[F], F]:
    """Which boards."""
    return click.option("--board", "boards", multiple=True, required=required, metavar="NAME|ADDRESS",
                        help="A name given by `edgeq board add`, or an address. Repeatable.")


def job_options(function: F) -> F:
    """How a bundle runs on a board: fields of `boards.runner.Job`, None where nothing is said."""
    function = click.option("--timeout", type=click.FloatRange(min=1),
                            help="Seconds for the engine on a board.  [default: 300]")(function)
    return click.option("--engine", metavar="REQUIREMENT|installed",
                        help="On a board, instead of the newest that fits, such as onnxruntime==1.21.0.")(function)


def job_words(board: object, words: dict[str, Any]) -> dict[str, Any]:
    """What was said of `job_options`. Refuses it without a board, where it would mean nothing."""
    said = {key: value for key, value in words.items() if value is not None}
    if said and not board:
        raise click.UsageError(f"{' and '.join(f'--{key}' for key in said)}: only with --board")
    return said


def _keep_debug(ctx: click.Context, param: click.Parameter, wanted: bool) -> None:
    ctx.meta["debug"] = wanted


def debug_option(function: F) -> F:
    return click.option("--debug", is_flag=True, expose_value=False, callback=_keep_debug,
                        help="Show the traceback of an error.")(function)


def common(function: F) -> F:
    """The options of every command that has a result."""
    return click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")(debug_option(function))


def say(text: object, *, err: bool = False) -> None:
    """A line that holds names or paths, which could hold anything."""
    from edgeq_runtime.errors import printable

    click.echo(printable(str(text)), err=err)


def print_result(result: Any, as_json: bool, show: Callable[[], None]) -> None:
    if as_json:
        from edgeq_runtime.valid_json import json_text

        click.echo(json_text(result))
    else:
        show()


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A bar with what is going on; silent when stderr is not a terminal."""
    from edgeq.progress import silent

    if not sys.stderr.isatty():
        yield silent
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("reading the model", total=None)
        yield lambda what, done=0, total=None: bar.update(
            task, description=f"{what}, {done} samples" if done else what, completed=done, total=total)
