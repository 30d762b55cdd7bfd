"""How near a quantized graph comes to the float network, on samples that are run in float once."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import onnx_ir as ir

from edgeq import policy
from edgeq.inference.comparable import with_comparable_outputs
from edgeq.inference.reference import predictor, run_onnx
from edgeq.inference.session import Arrays
from edgeq.quant.samples import Samples
from edgeq.verification.evaluate import Evaluation, fidelity


@dataclass(frozen=True)
class Fidelity:
    """feeds: samples that single roundings may be measured on. compared: what whole networks are compared on, over time
    where they stream.
    """

    network: ir.Model
    feeds: Sequence[Arrays]
    compared: Sequence[Arrays]

    @classmethod
    def of(cls, network: ir.Model, samples: Samples) -> Fidelity:
        """On a few of the samples."""
        feeds = samples.chosen(policy.FIDELITY_SAMPLES.value)
        return cls(network, feeds, samples.stretch or feeds)

    def sqnr_db(self, graph: ir.Model) -> float:
        """Of the worst output."""
        return score_graph(self._evaluation, with_comparable_outputs(graph))

    @cached_property
    def _evaluation(self) -> Evaluation:
        network = with_comparable_outputs(self.network)
        return fidelity(self.compared, run_onnx(network, self.compared, fused=True), network.graph)


def score_graph(evaluation: Evaluation, graph: ir.Model) -> float:
    """Run a graph op by op, so that every rounding happens -> its score."""
    return evaluation.score(predictor(graph))
