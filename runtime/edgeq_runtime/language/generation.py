"""A text in the making: pieces as they come, and in the end what there is to say about it."""
from __future__ import annotations

from dataclasses import dataclass
from threading import Event
from time import perf_counter
from typing import TYPE_CHECKING, Callable, Iterator, List, Optional, Sequence, Tuple

from .cache import TokenCache
from .sampling import Sampler, Sampling
from .text import StopStrings, Tokenizer, TokenText

if TYPE_CHECKING:
    from .grammar import Grammar

STOP, LENGTH, CANCELLED = "stop", "length", "cancelled"


@dataclass(frozen=True)
class Generation:
    """A finished text.

    tokens: what was drawn, without the token of an end. finish_reason: "stop" (the model's own end, a stop string, or
    JSON that is complete), "length" (max_tokens, or the context is full) or "cancelled". prompt_tokens: of the prompt,
    of which cached_tokens were there already. seconds_to_first_token: from the first step on. tokens_per_second: of all
    tokens but the first, without the time that the caller took between pieces; None where there are none.
    """

    text: str
    tokens: Tuple[int, ...]
    finish_reason: str
    prompt_tokens: int
    cached_tokens: int
    seconds_to_first_token: Optional[float]
    tokens_per_second: Optional[float]


@dataclass(frozen=True)
class Request:
    """What is to be made. prompt: tokens. before: how many of its last ones belong to the text, so that a space in
    front is kept. limit: of new tokens."""

    prompt: Sequence[int]
    before: int
    limit: int
    sampling: Sampling
    stop: Tuple[str, ...]
    eos: Tuple[int, ...]
    grammar: Optional[Grammar] = None


class TextStream:
    """Iterate for the pieces of text; `result` is there when they have ended. One thread iterates, any may cancel."""

    def __init__(self, request: Request, cache: TokenCache, tokenizer: Tokenizer,
                 unwanted: Callable[[], bool] = lambda: False) -> None:
        """unwanted: asked before every step, also amid a prompt; True cancels."""
        self._request, self._cache, self._unwanted, self._cancel = request, cache, unwanted, Event()
        self._all = list(request.prompt)  # and behind it what is drawn
        self._drawn = Drawn(TokenText(tokenizer, request.prompt[len(request.prompt) - request.before:]),
                            StopStrings(request.stop))
        self._sampler = Sampler(request.sampling, cache.decoder.vocabulary, request.prompt)
        self._text: List[str] = []
        self._result: Optional[Generation] = None
        self._pieces = self._generated()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        piece = next(self._pieces)
        self._text.append(piece)
        return piece

    def cancel(self) -> None:
        """End the text where it is, from any thread; `finish_reason` is "cancelled" then."""
        self._cancel.set()

    @property
    def result(self) -> Generation:
        """The finished text; makes what is left of it first."""
        for _ in self:
            pass
        assert self._result is not None
        return self._result

    def _cancelled(self) -> bool:
        return self._cancel.is_set() or self._unwanted()

    def _generated(self) -> Iterator[str]:
        cached = self._cache.shared(self._all)
        first, later, reason = None, 0.0, ""
        while not reason:
            start = perf_counter()
            piece, reason = self._step()
            spent = perf_counter() - start
            if first is None:
                first = None if reason == CANCELLED else spent
            else:
                later += spent
            if piece:
                yield piece
        if rest := self._drawn.end():
            yield rest
        tokens = tuple(self._all[len(self._request.prompt):])
        self._result = Generation("".join(self._text), tokens, reason, len(self._request.prompt), cached, first,
                                  (len(tokens) - 1) / later if len(tokens) > 1 else None)

    def _step(self) -> Tuple[str, str]:
        """One token -> the piece of text that it completes, and the reason to end, or ""."""
        request = self._request
        logits = None if self._cancelled() else self._cache.logits_behind(self._all, self._cancelled)
        if logits is None:
            return "", CANCELLED
        token = self._sampler(logits, None if request.grammar is None else request.grammar.allowed())
        if token in request.eos:
            return "", STOP
        self._all.append(token)
        complete = request.grammar is not None and request.grammar.add(token)
        piece = self._drawn.add(token)
        if complete or self._drawn.stopped:
            return piece, STOP
        return piece, LENGTH if len(self._all) - len(request.prompt) >= request.limit else ""


class Drawn:
    """Tokens -> what of their text can be shown."""

    def __init__(self, text: TokenText, stops: StopStrings) -> None:
        self._text, self._stops = text, stops

    @property
    def stopped(self) -> bool:
        return self._stops.found

    def add(self, token: int) -> str:
        piece = self._text.add(token)
        return self._stops.add(piece) if piece else ""

    def end(self) -> str:
        """Bytes of a character that was begun, and what waited for a stop string."""
        return "" if self.stopped else self._stops.add(self._text.end()) + self._stops.end()
