"""Does the written artifact, run by its own engine, compute what the quantized graph says? And how far is that from
float?
"""
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgeq import policy
from edgeq.backend import backend_named
from edgeq.errors import VerificationError
from edgeq.inference.columns import columns_of
from edgeq.inference.reference import Arrays
from edgeq.metrics import ErrorPower
from edgeq.verification.compare import Difference, compare
from edgeq.verification.interface import as_float, as_taken
from edgeq.verification.references import References
from edgeq_runtime.manifest import Manifest
from edgeq_runtime.session import open_model


@dataclass(frozen=True, slots=True)
class Verification:
    """samples: how many. inputs: where they come from. reference: who computed the float model. graph: the artifact
    against the quantized graph. float: against the float model. quantized: the quantized graph against the float model,
    which is what quantization alone costs. warnings: what is not as near as it should be, and near enough."""

    samples: int
    inputs: str
    reference: str
    engine: str
    graph: tuple[Difference, ...]
    float: tuple[Difference, ...]
    quantized: tuple[Difference, ...]
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {"samples": self.samples, "inputs": self.inputs, "reference": self.reference, "engine": self.engine,
                "against_float": [_row(d) for d in self.float], "against_graph": [_row(d) for d in self.graph],
                "graph_against_float": [_row(d) for d in self.quantized], "warnings": list(self.warnings)}


def _row(difference: Difference) -> dict[str, Any]:
    row = asdict(difference)
    del row["noise"], row["signal"]
    return row


def verify_artifact(folder: Path, manifest: Manifest, references: References,
                    ) -> tuple[Verification, list[dict[str, Any]]]:
    """Run an artifact on the references' samples -> (the comparison, its outputs as the float model gives them).

    Raises:
        VerificationError: the artifact is further from the float model than the quantized graph explains.
    """
    outputs, engine = _run(folder, manifest, references)
    pairs = (references.graph, outputs), (references.float, outputs), (references.float, references.graph)
    graph, float_, quantized = (_compare(expected, got, references) for expected, got in pairs)
    limits = [_allowed(found, references) for found in quantized]
    complaints = [(_complaint(*row), row[0].noise <= policy.DOUBT_FACTOR.value * row[2])
                  for row in zip(float_, quantized, limits, strict=True)]
    wrong = [message for message, is_near in complaints if message and not is_near]
    if wrong:
        wrong += filter(None, [backend_named(manifest.target).explain(
            folder, manifest, [as_taken(manifest, feed) for feed in references.alone])])
        raise VerificationError(f"{manifest.target}: the artifact does not compute what the quantized "
                                "graph computes:\n" + "\n".join(f"  - {message}" for message in wrong))
    doubts = [message for message, _ in complaints if message] + _lost_infinities(quantized, references)
    return Verification(len(outputs), references.inputs, references.source[1], engine, graph, float_, quantized,
                        tuple(doubts)), outputs


def _run(folder: Path, manifest: Manifest, references: References) -> tuple[list[dict[str, Any]], str]:
    """What an artifact computes, and who ran it."""
    run_in_parts = backend_named(manifest.target).run_in_parts if references.large else None
    feeds = [as_taken(manifest, feed) for feed in references.feeds]
    if run_in_parts is not None:
        outputs, by = run_in_parts(folder, manifest, feeds)
    else:
        with open_model(str(folder), manifest) as opened:
            outputs, by = [opened.run(feed) for feed in feeds], f"{opened.engine}, {opened.accelerator}"
    return [as_float(manifest, found) for found in outputs], by


def _compare(reference: Sequence[Arrays], got: Sequence[Arrays], references: References) -> tuple[Difference, ...]:
    """The largest of the scores that noise gets says nothing: only real samples have a top-1."""
    found = compare(reference, got, references.row_sets, references.parts)
    return found if references.real else tuple(replace(difference, top1=None) for difference in found)


def _allowed(graph: Difference, references: References) -> float:
    """Noise that the artifact may have against float, as a sum of squares.

    An engine that rounds a tie differently moves a value by one step, the same size of error as quantization itself;
    its noise adds to the graph's own. Computing in half precision (Core ML) has a floor of its own.
    """
    allowed = policy.NOISE_FACTOR.value * graph.noise + graph.signal * 10 ** (-policy.NOISE_FLOOR_DB.value / 10)
    return allowed + references.arithmetic_noise.get(graph.output, 0.0)


def _lost_infinities(quantized: Sequence[Difference], references: References) -> list[str]:
    """The outputs that are far from float by their infinities alone, whatever the other numbers are."""
    return [f"output '{difference.output}' is NaN or infinite in the float model for some of the samples, and at other "
            "places once it is quantized: compute what leads to it in float (--keep-float)"
            for difference in quantized if not math.isfinite(difference.noise)
            and any(not np.isfinite(outputs[difference.output]).all()
                    for outputs in columns_of(references.float, references.parts))]


def _complaint(artifact: Difference, graph: Difference, allowed: float) -> str:
    if artifact.noise <= allowed:  # False for NaN too
        return ""
    return (f"output '{artifact.output}': {artifact.sqnr_db:.1f} dB against the float model, where the graph has "
            f"{graph.sqnr_db:.1f} dB and {ErrorPower(allowed, graph.signal).sqnr_db:.1f} dB was allowed")
