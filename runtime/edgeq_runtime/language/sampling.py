"""From logits to a token, in the order of transformers: penalty, mask, temperature, top-k, top-p, min-p.

https://github.com/huggingface/transformers/blob/v5.0.0/src/transformers/generation/logits_process.py
"""
from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Iterable, Mapping, Optional, Tuple

import numpy as np

from edgeq_runtime.errors import EngineError, InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SAMPLED = ("top_p", "top_k", "min_p")  # which say nothing where the best token is taken anyway


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn.

    temperature: 0 takes the token with the largest logit. top_k: the k most likely, 0 for all; ties of the last stay.
    top_p: the smallest set of most likely tokens that weighs this much. min_p: those at least this often as likely as
    the likeliest. repetition_penalty: logits of tokens that the text holds already, prompt included, are divided by
    it, or multiplied where negative (arXiv 1909.05858). seed: None draws another text each time.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    min_p: float = 0.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: Optional[int] = None

    def __post_init__(self) -> None:
        for name, low, high in (("temperature", 0.0, math.inf), ("top_p", 0.0, 1.0), ("min_p", 0.0, 1.0),
                                ("top_k", 0, math.inf), ("repetition_penalty", 0.0, math.inf)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high \
                    or math.isinf(value):
                raise InputError(f"{name} must be a number of {low} to {high}, got {value!r}")
        if not self.top_p or not self.repetition_penalty:
            raise InputError("top_p and repetition_penalty must be above 0")
        for name in ("top_k", "seed"):
            if type(getattr(self, name)) is not int and not (name == "seed" and self.seed is None):
                raise InputError(f"{name} must be a whole number, got {getattr(self, name)!r}")
        if self.seed is not None and self.seed < 0:
            raise InputError(f"the seed must be 0 or more, got {self.seed}")

    @classmethod
    def of(cls, defaults: Mapping[str, Any], said: Mapping[str, Any]) -> Sampling:
        """What a caller said (None: nothing), over the defaults of generation_config.json.

        A model whose defaults do not sample is asked to by any of top_p, top_k and min_p: at temperature 1 then.

        Raises:
            InputError: a value that is out of range.
        """
        words = {name: said[name] for name in cls.__dataclass_fields__ if said.get(name) is not None}
        own = {name: defaults[name] for name in cls.__dataclass_fields__ if defaults.get(name) is not None}
        samples = defaults.get("do_sample", "temperature" in own)
        if not samples:
            own = {name: value for name, value in own.items() if name == "repetition_penalty"}
        if samples or any(name in words for name in _SAMPLED):
            own.setdefault("temperature", 1.0)
        return cls(**{**own, **words})


class Sampler:
    """Draws one token after another."""

    def __init__(self, sampling: Sampling, vocabulary: int, prompt: Iterable[int]) -> None:
        self._sampling = sampling
        self._random = np.random.default_rng(sampling.seed)
        self._seen: Optional[NDArray[Any]] = None
        if sampling.repetition_penalty != 1:
            self._seen = np.zeros(vocabulary, bool)
            self._seen[list(prompt)] = True

    def __call__(self, logits: NDArray[Any], allowed: Optional[NDArray[Any]] = None) -> int:
        """logits: float32 [vocabulary], changed in place. allowed: bool [vocabulary] of a grammar, or None.

        Raises:
            EngineError: the logits are not numbers.
        """
        if self._seen is not None:
            penalize(logits, self._seen, self._sampling.repetition_penalty)
        if allowed is not None:
            logits[~allowed] = -np.inf
        token = int(logits.argmax())  # a NaN, where there is one
        if not math.isfinite(logits[token]):
            raise EngineError(f"the model gave the logit {logits[token]}: its weights or this engine are broken")
        if self._sampling.temperature > 0:
            token = self._drawn(logits)
        if self._seen is not None:
            self._seen[token] = True
        return token

    def _drawn(self, logits: NDArray[Any]) -> int:
        tokens, weights = candidates(logits, self._sampling)
        places = np.cumsum(weights, dtype=np.float64)
        place = int(np.searchsorted(places, self._random.random() * places[-1], side="right"))
        place = min(place, len(places) - 1)
        return place if tokens is None else int(tokens[place])


def penalize(logits: NDArray[Any], seen: NDArray[Any], penalty: float) -> None:
    """logits: float32 [vocabulary], changed in place. seen: bool [vocabulary]."""
    places = np.flatnonzero(seen)
    values = logits[places]
    logits[places] = np.where(values < 0, values * penalty, values / penalty)


def candidates(logits: NDArray[Any], sampling: Sampling) -> Tuple[Optional[NDArray[Any]], NDArray[Any]]:
    """float32 [vocabulary] -> the tokens that can be drawn, None for all, and their weights, which need not add to 1.

    Nothing is sorted but the few tokens that top-p can reach.
    """
    tokens = None
    if 0 < sampling.top_k < logits.size:
        last = np.partition(logits, logits.size - sampling.top_k)[logits.size - sampling.top_k]
        tokens = np.flatnonzero(logits >= last)
        logits = logits[tokens]
    with np.errstate(over="ignore", under="ignore"):
        weights = np.exp((logits - logits.max()) / np.float32(sampling.temperature))
    if sampling.top_p < 1:
        total = float(weights.sum(dtype=np.float64))
        # All that weigh less than an even share of 1 - top_p together weigh less than that: they are never reached.
        reached = np.flatnonzero(weights > total * (1 - sampling.top_p) / weights.size)
        order = reached[np.argsort(-weights[reached], kind="stable")]
        before = np.cumsum(weights[order], dtype=np.float64)
        order = order[:int(np.searchsorted(before, total * sampling.top_p, side="left")) + 1]
        tokens, weights = order if tokens is None else tokens[order], weights[order]
    if sampling.min_p > 0:
        kept = np.flatnonzero(weights >= sampling.min_p * weights.max())
        tokens, weights = kept if tokens is None else tokens[kept], weights[kept]
    return tokens, weights
