"""Commands on a bundle that reads or writes text."""
from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edgeq.cli.shared import common, debug_option, print_result

if TYPE_CHECKING:
    from edgeq_runtime.language.model import LanguageModel

F = TypeVar("F", bound=Callable[..., Any])
# Those of the runtime's own command line, which cannot be asked before a command runs: it would load numpy.
FLAGS: tuple[tuple[str, type, str], ...] = (
    ("max-tokens", int, "The most tokens of an answer.  [default: as many as the context holds]"),
    ("temperature", float, "0 takes the likeliest token.  [default: the model's own settings, or 0]"),
    ("top-p", float, "Draw from the likeliest tokens that weigh this much together."),
    ("min-p", float, "Draw from tokens at least this often as likely as the likeliest."),
    ("top-k", int, "Draw from this many of the likeliest tokens."),
    ("repetition-penalty", float, "Above 1 makes tokens less likely that the text holds already."),
    ("seed", int, "Draw the same text again."),
)


def generation_options(function: F) -> F:
    """How an answer is drawn: words of `LanguageModel.generate`, None where nothing is said."""
    function = click.option("--threads", type=click.IntRange(min=1), help="Of the engine; its own choice by default.",
                            )(function)
    function = click.option("--system", metavar="TEXT", help="A system message in front.")(function)
    function = click.option("--json-schema", metavar="JSON|FILE", help="Answer in JSON that fits it.")(function)
    function = click.option("--stop", multiple=True, metavar="TEXT", help="End the answer in front of it. Repeatable.",
                            )(function)
    for name, kind, words in reversed(FLAGS):
        function = click.option(f"--{name}", type=kind, metavar="N", help=words)(function)
    return function


@contextmanager
def _opened(bundle: Path, threads: int | None) -> Iterator[LanguageModel]:
    from edgeq_runtime import load

    with load(bundle, threads=threads) as model:
        yield model.language


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("prompt")
@click.option("--raw", is_flag=True, help="Continue the prompt as it stands, without the chat template.")
@generation_options
@common
def generate(bundle: Path, prompt: str, raw: bool, threads: int | None, json_schema: str | None, as_json: bool,
             **words: Any) -> None:
    """Answer a prompt with a language model; the text comes as it is made.

    Where the model has a chat template, the prompt is a user's message; otherwise it is continued.
    """
    from dataclasses import asdict, replace

    from edgeq_runtime.language.commands import generate as answered
    from edgeq_runtime.language.commands import schema_of, summary, terminal

    screen = terminal()
    with _opened(bundle, threads) as model:
        result = answered(model, prompt, replace(screen, show=lambda text: None) if as_json else screen, raw=raw,
                          json_schema=schema_of(json_schema), **words)
    if not as_json:
        screen.show("\n")
        screen.note(summary(result))
    else:
        print_result(asdict(result), as_json, lambda: None)


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@generation_options
@debug_option
def chat(bundle: Path, threads: int | None, json_schema: str | None, **words: Any) -> None:
    """Talk to a language model. /exit ends, /reset forgets, Ctrl-C ends an answer."""
    from edgeq_runtime.language.commands import chat as talked
    from edgeq_runtime.language.commands import schema_of, terminal

    with _opened(bundle, threads) as model:
        talked(model, terminal(), json_schema=schema_of(json_schema), **words)


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0 for any free one.")
@click.option("--threads", type=click.IntRange(min=1), help="Of the engine; its own choice by default.")
@debug_option
def serve(bundle: Path, host: str, port: int, threads: int | None) -> None:
    """Serve a language model on this machine in OpenAI's protocol.

    /v1/models, /v1/chat/completions and /v1/completions; requests queue on one decoder. There are no keys and no
    encryption: put a proxy in front where others may reach it.
    """
    from edgeq_runtime.language.commands import run_until_interrupted, serving, terminal

    with _opened(bundle, threads) as model:
        run_until_interrupted(serving(model, str(bundle), terminal(), host, port))


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("texts", nargs=-1, metavar="TEXT...")
@click.option("--input", "file", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="Further texts, one a line.")
@click.option("--truncate", is_flag=True, help="Leave out the end of a text that is too long, instead of refusing it.")
@click.option("--threads", type=click.IntRange(min=1), help="Of the engine; its own choice by default.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Save the vectors here, as .npy.")
@common
def embed(bundle: Path, texts: tuple[str, ...], file: Path | None, truncate: bool, threads: int | None,
          output: Path | None, as_json: bool) -> None:
    """Make a vector of each text, and show how alike they are: the cosine of every two."""
    from edgeq.report.text import embeddings
    from edgeq_runtime import load
    from edgeq_runtime.language.commands import lines_of, similarities

    given = [*texts, *(() if file is None else lines_of(str(file)))]
    if not given:
        raise click.UsageError("give texts, or a file of them with --input")
    with load(bundle, threads=threads) as model:
        found = model.embed(given, truncate=truncate)
    if output is not None:
        import numpy as np

        np.save(output, found)
    alike = similarities(found)
    print_result({"vectors": found.tolist(), "cosines": alike}, as_json,
                 lambda: embeddings(given, found.shape[1], alike))


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("sound", type=click.Path(path_type=Path), metavar="SPEECH.wav")
@click.option("--timestamps", is_flag=True, help="Say when each part was spoken.")
@click.option("--language", metavar="en", help="Of the speech, where the model knows several.")
@click.option("--task", type=click.Choice(["transcribe", "translate"]), default="transcribe", show_default=True,
              help="translate: to English, where the model can.")
@click.option("--threads", type=click.IntRange(min=1), help="Of the engine; its own choice by default.")
@common
def transcribe(bundle: Path, sound: Path, threads: int | None, as_json: bool, **words: Any) -> None:
    """Write down what is spoken, in a sound of any length."""
    from dataclasses import asdict

    from edgeq.cli.shared import say
    from edgeq_runtime import load
    from edgeq_runtime.language.speech import written_down
    from edgeq_runtime.sound import read_wav

    with load(bundle, threads=threads) as model:
        found = model.transcribe(*read_wav(sound), **words)
    print_result(asdict(found), as_json, lambda: say(written_down(found, times=words["timestamps"])))


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("texts", nargs=-1, required=True, metavar="TEXT...")
@click.option("--max-tokens", type=click.IntRange(min=1), help="Of a text; as many as the context holds by default.")
@click.option("--threads", type=click.IntRange(min=1), help="Of the engine; its own choice by default.")
@common
def translate(bundle: Path, texts: tuple[str, ...], max_tokens: int | None, threads: int | None, as_json: bool) -> None:
    """Write a text for each text, with an encoder and a decoder such as T5 or Marian.

    T5 is told its task in the text: "translate English to German: Good morning."
    """
    from edgeq.cli.shared import say
    from edgeq_runtime import load

    with load(bundle, threads=threads) as model:
        found = [model.translate(text, max_tokens=max_tokens) for text in texts]
    print_result(found, as_json, lambda: say("\n".join(found)))
