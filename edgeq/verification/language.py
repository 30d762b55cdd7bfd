"""How far a language model is from its float model on a text: perplexity, KL divergence, first choices.

A text is cut into windows without overlap, each read with an empty cache; every token but a window's first is
predicted, those with little context too. llama.cpp's tool judges the second half of its windows alone, and so finds
lower perplexities than these.
"""
from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgeq import policy
from edgeq.errors import EvaluationError
from edgeq.inference.decoder import Decoder
from edgeq.progress import Progress, silent

Array: TypeAlias = NDArray[np.float64]
Window: TypeAlias = Sequence[int]


@dataclass(frozen=True, slots=True)
class Divergence:
    """KL of the model's next-token distribution from the float model's, in nats a token: mean and 99th percentile.
    flips: share of the tokens for which another one is the most likely, in %.
    """

    mean: float
    percentile_99: float
    flips: float


@dataclass(frozen=True, slots=True, eq=False)
class TextScores:
    """Of every predicted token [N]: surprise, -log p of the token that follows, in nats; of the float model, too, with
    kl and flipped, where there is one.
    """

    surprise: Array
    float_surprise: Array | None = None
    kl: Array | None = None
    flipped: NDArray[np.bool_] | None = None

    @property
    def perplexity(self) -> float:
        return math.exp(self.surprise.mean())

    @property
    def float_perplexity(self) -> float | None:
        return None if self.float_surprise is None else math.exp(self.float_surprise.mean())

    @property
    def divergence(self) -> Divergence | None:
        if self.kl is None or self.flipped is None:
            return None
        return Divergence(float(self.kl.mean()), float(np.quantile(self.kl, 0.99)), 100 * float(self.flipped.mean()))

    @property
    def standard_error(self) -> float | None:
        """Of the perplexity's growth, as a share of float's: by the tokens' paired differences."""
        if self.float_surprise is None or len(self.surprise) < 2:
            return None
        difference = self.surprise - self.float_surprise
        return float(difference.std(ddof=1) / math.sqrt(len(difference)))


def windows(tokens: Sequence[int], context: int, first: int | None = None, limit: int | None = None) -> list[Window]:
    """Tokens of a text, cut. context: of the model. first: a token that every window begins with. limit: of windows.

    Raises:
        EvaluationError: fewer than two tokens.
    """
    begin = [] if first is None else [first]
    size = min(context, policy.JUDGED_WINDOW.value) - len(begin)
    found: list[Window] = [[*begin, *tokens[start:start + size]] for start in range(0, len(tokens), size)]
    found = [window for window in found if len(window) > 1][:limit]
    if not found:
        raise EvaluationError("the text is too short to be judged by: it has fewer than two tokens")
    return found


def score_text(decoder: Decoder, reference: Decoder | None, texts: Sequence[Window], progress: Progress = silent,
               ) -> TextScores:
    """A model on windows of tokens, beside its float model where that is given.

    Raises:
        EvaluationError: a logit that is no finite number; models of different vocabularies.
    """
    parts: list[tuple[NDArray[Any], ...]] = []
    for number, window in enumerate(texts):
        progress("judging", number, len(texts))
        got = _log_probabilities(decoder, window)
        if reference is None:
            parts += [(-_picked(log_q, following),) for log_q, following in got]
        else:
            true = _log_probabilities(reference, window)
            parts += [compared(log_p, log_q, following)
                      for (log_p, following), (log_q, _) in zip(true, got, strict=True)]
    return TextScores(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """logits [T, vocabulary] -> log p.

    Raises:
        EvaluationError: one of them is no finite number.
    """
    if not np.isfinite(logits).all():
        raise EvaluationError("the language model's logits are no finite numbers")
    shifted = logits - logits.max(1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(1, keepdims=True)), np.float32)


def _log_probabilities(decoder: Decoder, window: Window) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
    """(log p [T, vocabulary], the tokens that follow [T]), a part of the window at a time: a row of logits is large."""
    decoder.keep(0)
    inputs, following = window[:-1], np.asarray(window[1:], np.int64)
    step = policy.JUDGED_PART.value
    for start in range(0, len(inputs), step):
        part = slice(start, start + step)
        yield log_softmax(decoder.logits(inputs[part], every=True)), following[part]


def compared(log_p: NDArray[np.float32], log_q: NDArray[np.float32], following: NDArray[np.int64],
              ) -> tuple[Array, Array, Array, NDArray[np.bool_]]:
    """log p and log q of the next token [T, vocabulary], and the tokens that follow [T] -> surprise, the float model's,
    KL and flipped of TextScores.
    """
    if log_p.shape != log_q.shape:
        raise EvaluationError(f"the float model has {log_p.shape[1]} tokens and the bundle {log_q.shape[1]}: "
                              "they are not the same language model")
    flipped = log_p.argmax(1) != log_q.argmax(1)
    return -_picked(log_q, following), -_picked(log_p, following), kl_divergence(log_p, log_q), flipped


def kl_divergence(log_p: NDArray[np.float32], log_q: NDArray[np.float32]) -> Array:
    """Of q from p, in nats, for each token [T]; both [T, vocabulary]."""
    return np.asarray((np.exp(log_p) * (log_p - log_q)).sum(1, dtype=np.float64))


def _picked(rows: NDArray[np.float32], columns: NDArray[np.int64]) -> Array:
    return np.asarray(rows[np.arange(len(rows)), columns], np.float64)
