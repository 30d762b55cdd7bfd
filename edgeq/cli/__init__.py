"""The command line: parse, call one function, print. stdout is the result, stderr is the progress.

Exit codes: 0 good; 1 cannot convert or bad input; 2 usage; 3 converted, but below what was asked; 130 and 143 ended by
SIGINT and SIGTERM.
"""
from __future__ import annotations

import signal
import sys
from typing import Any

import click

from edgeq.cli import archives, boards, bundles, conversion, language, models
from edgeq.cli import sweep as sweeps
from edgeq.cli.shared import BAD_INPUT, BELOW_WHAT_WAS_ASKED, INTERRUPTED, TERMINATED, USAGE, say


class _Group(click.Group):
    """Turns every error into one clean message and an exit code; `--debug` lets the traceback through."""

    def invoke(self, ctx: click.Context) -> Any:
        signal.signal(signal.SIGTERM, _terminated)
        try:
            return super().invoke(ctx)
        except click.ClickException as error:
            from edgeq_runtime.errors import printable

            vars(error)["message"] = printable(error.message)
            raise
        except (click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt:
            click.echo("error: interrupted", err=True)
            ctx.exit(INTERRUPTED)
        except Exception as error:
            if ctx.meta.get("debug"):
                raise
            message, code = _explained(error)
            say(f"error: {message}", err=True)
            ctx.exit(code)


def _terminated(number: int, frame: object) -> None:
    """An exception instead of the end of the process, so that drafts and temporary folders go."""
    sys.exit(TERMINATED)


def _explained(error: Exception) -> tuple[str, int]:
    """What to tell the user, and the exit code."""
    from edgeq.errors import EdgeqError, FloatFallback, TargetsFailed, TooFarFromFloat, UsageError

    if isinstance(error, TargetsFailed):
        return str(error), min(_explained(each)[1] for each in error.failed.values())
    if isinstance(error, EdgeqError):
        codes: dict[type, int] = {UsageError: USAGE, FloatFallback: BELOW_WHAT_WAS_ASKED,
                                  TooFarFromFloat: BELOW_WHAT_WAS_ASKED}
        return str(error), codes.get(type(error), BAD_INPUT)
    if isinstance(error, BrokenPipeError):
        raise error  # click ends quietly: whoever read our output has seen enough
    if isinstance(error, OSError):
        return str(error), BAD_INPUT
    return f"{type(error).__name__}: {error}\nThis is a bug in edgeq: please report what --debug prints", BAD_INPUT


def _version(ctx: click.Context, param: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        import edgeq

        click.echo(f"edgeq {edgeq.__version__}")
        ctx.exit()


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version.")
def main() -> None:
    """A trained network in; a small, fast, verified bundle for phones, Raspberry Pi and Jetson out."""


@main.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a shell.

    For the shell's start file: eval "$(edgeq completion bash)"
    """
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(main, {}, "edgeq", "_EDGEQ_COMPLETE").source())


for command in (conversion.convert, models.inspect, models.analyze, models.estimate, bundles.verify, bundles.evaluate,
                bundles.run, bundles.benchmark, language.generate, language.chat, language.serve, language.embed,
                language.transcribe, language.translate, boards.test, boards.board, archives.pack, archives.unpack,
                archives.keygen, models.targets, sweeps.sweep, models.doctor):
    main.add_command(command)
