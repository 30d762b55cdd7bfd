"""A metric on what a bundle computes, run by its own engine."""
from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from edgeq.passes.images import arrays_channels_first, arrays_channels_last
from edgeq.verification.evaluate import Evaluation
from edgeq.verification.interface import as_float, as_taken
from edgeq_runtime import Model


def score_model(model: Model, evaluation: Evaluation, transposed: Collection[str]) -> float:
    """What an opened bundle scores. transposed: its inputs and outputs that are channels last and that the evaluation,
    which knows the source model's layout alone, has channels first.
    """
    def predict(feed: Mapping[str, Any]) -> dict[str, Any]:
        given = as_taken(model.manifest, arrays_channels_last(feed, transposed))
        return arrays_channels_first(as_float(model.manifest, model.run(given)), transposed)

    return evaluation.score(predict)
