"""How far quantized weights are from the float network, by what it says of a text: layer after layer, so that neither
network is held.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from edgeq import policy
from edgeq.conversion.decoder_fit import Array, DecoderWeights, Tokens, last_states
from edgeq.conversion.decoder_states import States
from edgeq.conversion.evaluate_language import text_sentences
from edgeq.frontends.decoder.builder import Matrix
from edgeq.frontends.decoder.spec import Spec
from edgeq.progress import Progress, silent
from edgeq.verification.language import TextScores, compared, log_softmax


@dataclass(frozen=True, slots=True)
class Figures:
    """scores: of every predicted token. entropy: of what the float network says, in nats on average; a text of its own
    kind surprises it by as much.
    """

    scores: TextScores
    entropy: float

    @property
    def warnings(self) -> list[str]:
        """Whether the text is of the kind that the network knows."""
        assert self.scores.float_surprise is not None
        surprise = float(self.scores.float_surprise.mean())
        if surprise - self.entropy <= policy.UNLIKE_TEXT.value:
            return []
        return [f"the text is unlike what the model says: it surprises the float network by {surprise:.2f} nats a "
                f"token, its own would by {self.entropy:.2f}; without --calibration it writes its text itself"]

    def to_json(self) -> dict[str, Any]:
        assert self.scores.divergence is not None
        return {"tokens": len(self.scores.surprise), "kl": asdict(self.scores.divergence),
                "perplexity": self.scores.perplexity, "float_perplexity": self.scores.float_perplexity,
                "said": list(text_sentences(self.scores)), "warnings": self.warnings}


@dataclass(frozen=True)
class Judge:
    """The float network on the tokens of each sequence: run once, whatever is compared with it."""

    spec: Spec
    weights: DecoderWeights
    tokens: Sequence[Tokens]
    progress: Progress = silent

    @cached_property
    def _exact(self) -> States:
        return last_states(self.spec, self.weights, self.weights.matrix, self.tokens, self.progress)

    def figures(self, quantized: Matrix) -> Figures:
        """quantized: role, layer -> the weight in float32 that takes the place of the float network's."""
        spec = self.spec
        seen = last_states(spec, self.weights, quantized, self.tokens, self.progress)
        role = ("embedding" if spec.tied else "head", None)
        head, ours = self.weights.matrix(*role), quantized(*role)
        rows, entropies = [], []
        for true, got, row in zip(self._exact, seen, self.tokens, strict=True):
            log_p = log_softmax(logits_of(spec, true[0, :-1], head))
            rows.append(compared(log_p, log_softmax(logits_of(spec, got[0, :-1], ours)), row[1:]))
            entropies.append(-(np.exp(log_p) * log_p).sum(1, dtype=np.float64))
        scores = TextScores(*(np.concatenate(column) for column in zip(*rows, strict=True)))
        return Figures(scores, float(np.concatenate(entropies).mean()))


def logits_of(spec: Spec, states: Array, head: Array) -> Array:
    """states [T, width] in front of the head -> logits [T, vocabulary]."""
    logits = states @ head.T * np.float32(spec.logit_scale)
    cap = spec.logit_cap
    return np.asarray(logits if cap is None else cap * np.tanh(logits / cap), np.float32)
