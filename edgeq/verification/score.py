"""A metric on what a bundle computes, run by its own engine."""
from __future__ import annotations

from collections.abc import Collection

from edgeq.passes.images import arrays_channels_first, arrays_channels_last
from edgeq.verification.evaluate import Evaluation
from edgeq_runtime import Model


def score_model(model: Model, evaluation: Evaluation, transposed: Collection[str]) -> float:
    """What an opened bundle scores. transposed: its inputs and outputs that are channels last and that the evaluation,
    which knows the source model's layout alone, has channels first.
    """
    return evaluation.score(lambda feed: arrays_channels_first(
        model.run(arrays_channels_last(feed, transposed)), transposed))
