"""Tasks for a language model, a JSON object on each line of a file:

    {"prompt": "2 + 2 =", "answer": "4"}                        exact match of what it says up to the line's end
    {"prompt": "...", "answer": ["yes", "Yes"], "stop": ["."]}  one of several answers, and another end
    {"prompt": "The sky is", "choices": [" blue", " red"], "answer": 0}    which choice is the most likely to follow
    {"prompt": "...", "schema": {...}}                          the first JSON value that it says fits the schema
    {"messages": [{"role": "user", "content": "..."}], ...}     instead of a prompt: through the chat template

"max_tokens" bounds what is said: 32 tokens, or 256 of JSON. Models answer with their most likely tokens. White space
around an answer does not count; a choice is scored by the sum of its tokens' log-likelihoods, as "acc" of
lm-evaluation-harness.
"""
from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, Protocol, TypeAlias

import numpy as np

from edgeq import policy
from edgeq.errors import EvaluationError, MissingExtra
from edgeq.inference.decoder import Decoder
from edgeq.verification.language import log_softmax

Message: TypeAlias = Mapping[str, str]
Kind: TypeAlias = Literal["exact", "choice", "json"]
_WORDS: Final = frozenset({"prompt", "messages", "answer", "choices", "schema", "stop", "max_tokens"})


class Tokenizer(Protocol):
    def encode(self, text: str, special: bool = True) -> list[int]: ...

    def decode(self, ids: Sequence[int]) -> str: ...

    def chat(self, messages: Sequence[Message]) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Exact:
    answers: tuple[str, ...]
    stop: tuple[str, ...]
    max_tokens: int = policy.ANSWER_TOKENS.value
    kind: Kind = field(default="exact", init=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """answer: the right one's number."""

    choices: tuple[str, ...]
    answer: int
    kind: Kind = field(default="choice", init=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Json:
    """fits: whether a value keeps the schema."""

    fits: Callable[[Any], bool]
    max_tokens: int = policy.JSON_TOKENS.value
    kind: Kind = field(default="json", init=False)


@dataclass(frozen=True, slots=True)
class Task:
    """prompt: text, or the messages of a dialogue."""

    prompt: str | tuple[Message, ...]
    asked: Exact | Choice | Json


def read_tasks(path: Path, limit: int | None = None) -> list[Task]:
    """Raises EvaluationError: the file cannot be read, or a line is no task; says which and why."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise EvaluationError(f"--tasks {path} cannot be read: {error}") from None
    found = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                found.append(_task(json.loads(line)))
            except (ValueError, KeyError, TypeError) as error:
                raise EvaluationError(f"--tasks {path}, line {number}: {_told(error)}") from None
    if not found:
        raise EvaluationError(f"--tasks {path} holds no tasks")
    return found[:limit]


def is_right(decoder: Decoder, tokenizer: Tokenizer, end: Sequence[int], task: Task) -> bool:
    """Whether the model solves a task. end: the tokens that end what it says."""
    text = task.prompt if isinstance(task.prompt, str) else tokenizer.chat(task.prompt)
    special = isinstance(task.prompt, str)  # a template writes the special tokens itself
    match task.asked:
        case Choice(choices=choices, answer=answer):
            found = [_likelihood(decoder, tokenizer, text, choice, special) for choice in choices]
            return int(np.argmax(found)) == answer
        case Exact(answers=answers, stop=stop, max_tokens=count):
            said = _said(decoder, tokenizer, end, tokenizer.encode(text, special), count,
                         lambda text: any(mark in text.lstrip() for mark in stop))
            said = said.lstrip()
            for mark in stop:
                said = said.split(mark)[0]
            return said.strip() in answers
        case Json(fits=fits, max_tokens=count):
            said = _said(decoder, tokenizer, end, tokenizer.encode(text, special), count,
                         lambda text: first_json(text) is not None)
            value = first_json(said)
            return value is not None and fits(value[0])


def first_json(text: str) -> tuple[Any] | None:
    """The JSON object or array that begins first in a text, in a tuple; None where none begins or it does not end."""
    start = min((at for at in (text.find("{"), text.find("[")) if at >= 0), default=None)
    if start is None:
        return None
    try:
        return (json.JSONDecoder().raw_decode(text[start:])[0],)
    except ValueError:
        return None


def _said(decoder: Decoder, tokenizer: Tokenizer, end: Sequence[int], prompt: Sequence[int], count: int,
          finished: Callable[[str], bool]) -> str:
    """What the model says behind a prompt, at most `count` tokens and up to where it is finished."""
    _check_room(decoder, len(prompt) + 1)
    decoder.keep(0)
    row, text = decoder.logits(prompt), ""
    said: list[int] = []
    while len(said) < min(count, decoder.context - len(prompt)):
        token = int(row[-1].argmax())
        if token in end:
            break
        said.append(token)
        text = tokenizer.decode(said)
        if finished(text):
            break
        row = decoder.logits([token])
    return text


def _likelihood(decoder: Decoder, tokenizer: Tokenizer, prompt: str, choice: str, special: bool) -> float:
    """log p(choice | prompt). A token over the border between them belongs to the choice."""
    before, whole = tokenizer.encode(prompt, special), tokenizer.encode(prompt + choice, special)
    same = next((k for k, pair in enumerate(zip(before, whole, strict=False)) if pair[0] != pair[1]),
                min(len(before), len(whole)))
    same = max(1, min(same, len(whole) - 1))
    _check_room(decoder, len(whole))
    decoder.keep(0)
    rows = log_softmax(decoder.logits(whole[:-1], every=True)[same - 1:])
    return float(rows[np.arange(len(rows)), whole[same:]].sum())


def _check_room(decoder: Decoder, count: int) -> None:
    if count > decoder.context:
        raise EvaluationError(f"a task has {count} tokens, and the model's context {decoder.context}: shorten it")


def _task(line: Any) -> Task:
    if not isinstance(line, dict):
        raise ValueError("a task is a JSON object")
    if unknown := sorted(line.keys() - _WORDS):
        raise ValueError(f"no such word: {', '.join(unknown)}; there are {', '.join(sorted(_WORDS))}")
    if ("prompt" in line) == ("messages" in line):
        raise ValueError("a task has a prompt or messages")
    prompt = line["prompt"] if "prompt" in line else tuple(line["messages"])
    count = {"max_tokens": int(line["max_tokens"])} if "max_tokens" in line else {}
    if "schema" in line:
        return Task(prompt, Json(fits=_checker(line["schema"]), **count))
    if "answer" not in line:
        raise ValueError("a task has an answer or a schema")
    if "choices" in line:
        choices = tuple(str(choice) for choice in line["choices"])
        if not 0 <= int(line["answer"]) < len(choices):
            raise ValueError(f"answer {line['answer']}: there are {len(choices)} choices, counted from 0")
        return Task(prompt, Choice(choices=choices, answer=int(line["answer"])))
    answers = [line["answer"]] if isinstance(line["answer"], str) else line["answer"]
    return Task(prompt, Exact(answers=tuple(str(answer).strip() for answer in answers),
                              stop=tuple(line.get("stop", ["\n"])), **count))


def _checker(schema: Any) -> Callable[[Any], bool]:
    try:
        import jsonschema  # type: ignore[import-untyped]
    except ImportError:
        raise MissingExtra("a task with a JSON schema", "decoder") from None
    kind = jsonschema.validators.validator_for(schema)
    try:
        kind.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise ValueError(f"the schema is none: {error.message}") from None
    return kind(schema).is_valid  # type: ignore[no-any-return]


def _told(error: Exception) -> str:
    return f"it lacks {error}" if isinstance(error, KeyError) else str(error)
