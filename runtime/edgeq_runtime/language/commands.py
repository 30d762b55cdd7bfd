"""`generate`, `chat` and `serve`, the same for `edgeq` and for `python -m edgeq_runtime` on the device."""
from __future__ import annotations

import os
import signal
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from threading import current_thread, main_thread
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterator, List, Mapping, Optional, Tuple

from edgeq_runtime.errors import InputError

if TYPE_CHECKING:
    from .generation import Generation, TextStream
    from .model import LanguageModel
    from .server import Server

HOST, PORT = "127.0.0.1", 8080
# Words of `LanguageModel.generate` as flags: name, type, help.
FLAGS: Tuple[Tuple[str, type, str], ...] = (
    ("max-tokens", int, "The most tokens of an answer; by default as many as the context holds."),
    ("temperature", float, "0 takes the likeliest token every time; by default as the model's own settings say, or 0."),
    ("top-p", float, "Draw from the likeliest tokens that weigh this much together."),
    ("min-p", float, "Draw from tokens at least this often as likely as the likeliest."),
    ("top-k", int, "Draw from this many of the likeliest tokens."),
    ("repetition-penalty", float, "Above 1 makes tokens less likely that the text holds already."),
    ("seed", int, "Draw the same text again."),
)
MAX_SCHEMA = 1 << 20  # bytes of a file


@dataclass(frozen=True)
class Screen:
    """Where words go. show: text of the model, without an end of line. note: a line about it. ask: a line of the user.
    """

    show: Callable[[str], None]
    note: Callable[[str], None]
    ask: Callable[[str], str] = input


def terminal() -> Screen:
    """stdout for the text, stderr for the rest."""
    def show(text: str) -> None:
        sys.stdout.write(shown(text))
        sys.stdout.flush()

    def note(text: str) -> None:
        sys.stderr.write(f"{shown(text)}\n")

    return Screen(show, note)


def shown(text: str) -> str:
    """A model's text for a terminal: control characters, which could drive it, become visible."""
    return "".join(sign if (sign >= " " and not "\x7f" <= sign < "\xa0") or sign in "\n\t" else
                   sign.encode("unicode_escape").decode() for sign in text)


def schema_of(said: Optional[str]) -> Optional[str]:
    """--json-schema: JSON, or a file that holds it.

    Raises:
        InputError: there is no such file.
    """
    if said is None or said.lstrip().startswith("{"):
        return said
    try:
        with open(said, encoding="utf-8") as file:
            return file.read(MAX_SCHEMA)
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise InputError(f"cannot read the JSON schema {said}: {error}") from None


def generate(model: LanguageModel, prompt: str, screen: Screen, *, system: Optional[str] = None, raw: bool = False,
             **words: Any) -> Generation:
    """Answer a prompt as a user's message, or with `raw` and without a chat template continue it.

    system: a message in front. words: of LanguageModel.generate.

    Raises:
        InputError: as LanguageModel.generate; or a system message without a template.
    """
    asked: Any = prompt
    if raw or not model.tokenizer.has_template:
        if system is not None:
            raise InputError("a system message needs a chat template" + (": leave out --raw" if raw else
                                                                         ", which this model has not"))
        if not raw:
            screen.note("this model has no chat template: the prompt is continued as it stands")
    else:
        if not prompt:
            raise InputError("the prompt is empty")
        asked = [*_system(system), {"role": "user", "content": prompt}]
    stream: TextStream = model.generate(asked, **words)
    for piece in stream:
        screen.show(piece)
    return stream.result


def chat(model: LanguageModel, screen: Screen, *, system: Optional[str] = None, **words: Any) -> None:
    """A dialogue until /exit or the end of the input. Ctrl-C ends the answer that is being written, not the dialogue.

    Raises:
        InputError: the model has no chat template.
    """
    if not model.tokenizer.has_template:
        raise InputError("this model has no chat template, so that it cannot be talked to: `generate` continues plain "
                         "prompts")
    screen.note("/exit ends, /reset forgets the dialogue, Ctrl-C ends an answer")
    messages = _system(system)
    while True:
        try:
            line = screen.ask("> ").strip()
        except (EOFError, KeyboardInterrupt):
            screen.show("\n")  # the shell's prompt comes on a line of its own
            return
        if line == "/exit":
            return
        if line == "/reset":
            messages = _system(system)
            screen.note("forgotten")
        elif line:
            messages = _answered(model, screen, [*messages, {"role": "user", "content": line}], words)


def _answered(model: LanguageModel, screen: Screen, messages: List[Dict[str, str]], words: Mapping[str, Any],
              ) -> List[Dict[str, str]]:
    """The dialogue with its answer, or without the last message where there is none."""
    try:
        stream = model.generate(messages, **words)
        with cancelled_by_interrupt(stream):
            for piece in stream:
                screen.show(piece)
    except InputError as error:
        screen.note(f"error: {error}\n/reset forgets the dialogue")
        return messages[:-1]
    screen.show("\n")
    screen.note(summary(stream.result))
    return [*messages, {"role": "assistant", "content": stream.result.text}]


@contextmanager
def cancelled_by_interrupt(stream: TextStream) -> Iterator[None]:
    """Ctrl-C ends a text; only the main thread may say so to the system."""
    if current_thread() is not main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, lambda number, frame: stream.cancel())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def summary(result: Generation) -> str:
    """One line: how long it was and how fast it came."""
    speed = "" if result.tokens_per_second is None else f", {result.tokens_per_second:.1f} tokens/s"
    first = "" if result.seconds_to_first_token is None else f", first after {result.seconds_to_first_token:.2f} s"
    return (f"[{result.finish_reason}: {len(result.tokens)} tokens behind {result.prompt_tokens} "
            f"({result.cached_tokens} cached){first}{speed}]")


def serving(model: LanguageModel, folder: str, screen: Screen, host: str = HOST, port: int = PORT) -> Server:
    """A server that listens; the caller runs it. Its model is called as the bundle's folder is.

    Raises:
        InputError: it cannot listen there.
    """
    from .server import Server

    server = Server((host, port), model, os.path.basename(os.path.abspath(folder)).partition(".")[0] or "model")
    place = f"http://{host if ':' not in host else f'[{host}]'}:{server.server_address[1]}/v1"
    screen.note(f"'{server.name}' at {place} (OpenAI's chat-completions protocol)")
    if not server.loopback:
        screen.note("warning: whoever reaches this address can use the model: there are neither keys nor encryption")
    return server


def run_until_interrupted(server: Server) -> None:
    """Serve; Ctrl-C or the end of the process ends it."""
    try:
        server.serve_forever(poll_interval=.2)
    except KeyboardInterrupt:
        return
    finally:
        server.server_close()


def lines_of(path: str) -> List[str]:
    """The texts of a file, one a line.

    Raises:
        InputError: it cannot be read.
    """
    try:
        with open(path, encoding="utf-8") as file:
            return [line for line in file.read().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the texts {path}: {error}") from None


def similarities(vectors: Any) -> List[List[float]]:
    """float32 [texts, width] -> the cosine of every two."""
    import numpy as np

    units = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    cosines: List[List[float]] = (units @ units.T).tolist()
    return cosines


def _system(text: Optional[str]) -> List[Dict[str, str]]:
    return [] if text is None else [{"role": "system", "content": text}]
