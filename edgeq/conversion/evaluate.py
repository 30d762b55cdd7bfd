"""The user's metric on a bundle that exists, beside its float model."""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

import edgeq_runtime
from edgeq.errors import UsageError
from edgeq.inference.reference import predictor, run_onnx
from edgeq.metrics import Metric
from edgeq.mixed_precision import Limits
from edgeq.mixed_precision.goal import Drop
from edgeq.verification.evaluate import Evaluation, evaluation_samples, fidelity, labelled_data
from edgeq.verification.score import score_model
from edgeq.verification.verify_bundle import float_network, source_preprocess, source_specs, transposed_names
from edgeq_runtime.manifest import Manifest
from edgeq_runtime.predict import steps


@dataclass(frozen=True, slots=True)
class Score:
    """What a bundle scores, in the metric's unit. float_score: the same of the float model, or None where that was not
    given. worst_allowed: by the limit, or None.
    """

    metric: Metric
    score: float
    float_score: float | None = None
    worst_allowed: float | None = None

    @property
    def drop(self) -> float | None:
        """How much worse than the float model; negative where it is better."""
        return None if self.float_score is None else self.metric.drop(self.float_score, self.score)

    @property
    def met(self) -> bool:
        """Whether the limit is kept."""
        return self.worst_allowed is None or self.metric.drop(self.worst_allowed, self.score) <= 0

    def to_json(self) -> dict[str, Any]:
        return {"metric": self.metric.name, "unit": self.metric.unit,
                "higher_is_better": self.metric.higher_is_better, "score": self.score, "float_score": self.float_score,
                "drop": self.drop, "worst_score_allowed": self.worst_allowed, "max_bytes": None, "met": self.met}


def evaluate_bundle(bundle: Path, data: Any, metric: Any, reference: Any, limits: Limits, limit: int | None = None,
                    example_inputs: Any = None, trust: bool = False) -> Score:
    """Score a bundle, run by its own engine. data: as the float model takes it. limit: at most so many samples.
    example_inputs: of a reference that is a torch module. trust: as of `load_model`.

    Raises:
        UsageError: no such metric, or what needs a reference without one. EvaluationError: there is no score.
        CalibrationError: the data do not fit the model. BundleError, EngineError: see edgeq_runtime.load.
    """
    if data is None:
        raise UsageError("eval needs --data; of a language model --perplexity TEXT or --tasks FILE")
    if isinstance(limits.quality, Drop) and reference is None:
        raise UsageError("--max-drop compares with the float model: add --reference MODEL")
    manifest = Manifest.read(bundle)
    if manifest.language is not None:
        raise UsageError(f"{bundle} is a language model, which --perplexity TEXT, --kl-against CHECKPOINT and --tasks "
                         "FILE judge")
    network = None if reference is None else float_network(reference, manifest, (), example_inputs, trust)
    evaluation = _evaluation(data, metric, manifest, network, limit)
    if isinstance(limits.quality, Drop) and evaluation.metric.name == "sqnr":
        raise UsageError("--metric sqnr gives the float model no score to drop from; say how many dB with --min-metric")
    with edgeq_runtime.load(bundle) as model:
        score = score_model(model, evaluation, transposed_names(manifest))
    if network is None:
        return Score(evaluation.metric, score, None, _floor(limits, evaluation.metric, 0.0))
    float_score = evaluation.score(predictor(network, fused=True))
    return Score(evaluation.metric, score, float_score, _floor(limits, evaluation.metric, float_score))


def _floor(limits: Limits, metric: Metric, float_score: float) -> float | None:
    return None if limits.quality is None else limits.quality.floor(metric, float_score)


def _evaluation(data: Any, metric: Any, manifest: Manifest, network: ir.Model | None, limit: int | None) -> Evaluation:
    specs, preprocess = source_specs(manifest), source_preprocess(manifest)
    if not (isinstance(metric, str) and metric == "sqnr"):
        labelled = labelled_data(data, metric, flag="--data", labels=manifest.labels, postprocess=steps(manifest)[1])
        return labelled.open(specs, limit=limit, preprocess=preprocess)
    if network is None:
        raise UsageError("--metric sqnr measures against the float model: add --reference MODEL")
    feeds = list(evaluation_samples(data, specs, limit=limit, preprocess=preprocess))
    return fidelity(feeds, run_onnx(network, feeds, fused=True), network.graph)
