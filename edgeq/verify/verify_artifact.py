"""Does the written artifact, run by its own engine, compute what the quantized graph says? And how far is that from
float?
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir

import edgeq_runtime
from edgeq import policy
from edgeq.errors import VerificationError
from edgeq.inference.reference import PART, Arrays, run_parts
from edgeq.metrics import ErrorPower
from edgeq.verify.compare import Difference, compare
from edgeq.verify.references import References
from edgeq_runtime.manifest import Manifest


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


def verify_bundle(folder: Path, references: References) -> tuple[Verification, list[dict[str, Any]]]:
    """Run a bundle on the references' samples -> (the comparison, the bundle's own outputs).

    Raises:
        VerificationError: the artifact is further from the float model than the quantized graph explains.
    """
    outputs, engine = _run_bundle(folder, references)
    pairs = (references.graph, outputs), (references.float, outputs), (references.float, references.graph)
    graph, float_, quantized = (_compare(*pair, scores=references.real) for pair in pairs)
    limits = [_allowed(found, references) for found in quantized]
    complaints = [(_complaint(*row), row[0].noise <= policy.DOUBT_FACTOR.value * row[2])
                  for row in zip(float_, quantized, limits, strict=True)]
    wrong = [message for message, is_near in complaints if message and not is_near]
    if wrong:
        raise VerificationError(f"{Manifest.read(folder).target}: the artifact does not compute what the quantized "
                                "graph computes:\n" + "\n".join(f"  - {message}" for message in wrong))
    doubts = [message for message, _ in complaints if message]
    return Verification(len(outputs), references.inputs, references.source[1], engine, graph, float_, quantized,
                        tuple(doubts)), outputs


def _run_bundle(folder: Path, references: References) -> tuple[list[dict[str, Any]], str]:
    """What a bundle computes, and who ran it. Its engine may take three times its weights, while it rearranges them."""
    manifest = Manifest.read(folder)
    if references.large and manifest.target == "onnxruntime":
        model = ir.load(folder / manifest.entry)
        options = manifest.options.get("session_options", {})
        outputs = run_parts(model, references.feeds, PART, fused=True, session_options=options)
        return outputs, "onnxruntime, CPUExecutionProvider, part by part"
    with edgeq_runtime.load(folder) as opened:
        outputs = [dict(opened.run(dict(feed))) for feed in references.feeds]
        return outputs, f"{opened.engine}, {opened.accelerator}"


def _compare(reference: Sequence[Arrays], got: Sequence[Arrays], *, scores: bool) -> tuple[Difference, ...]:
    """The largest of the scores that noise gets says nothing: only real samples have a top-1."""
    return tuple(difference if scores else replace(difference, top1=None) for difference in compare(reference, got))


def _allowed(graph: Difference, references: References) -> float:
    """Noise that the artifact may have against float, as a sum of squares.

    An engine that rounds a tie differently moves a value by one step, the same size of error as quantization itself;
    its noise adds to the graph's own. Computing in half precision (Core ML) has a floor of its own.
    """
    allowed = policy.NOISE_FACTOR.value * graph.noise + graph.signal * 10 ** (-policy.NOISE_FLOOR_DB.value / 10)
    return allowed + references.arithmetic_noise.get(graph.output, 0.0)


def _complaint(artifact: Difference, graph: Difference, allowed: float) -> str:
    if artifact.noise <= allowed:  # False for NaN too
        return ""
    return (f"output '{artifact.output}': {artifact.sqnr_db:.1f} dB against the float model, where the graph has "
            f"{graph.sqnr_db:.1f} dB and {ErrorPower(allowed, graph.signal).sqnr_db:.1f} dB was allowed")
