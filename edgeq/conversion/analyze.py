"""Which layers of a model quantization would hurt most, as plain data."""
from __future__ import annotations

import math
from dataclasses import asdict, replace
from typing import Any, Final

from edgeq.conversion.metadata import input_specs
from edgeq.conversion.options import Options
from edgeq.conversion.pipeline import open_calibration
from edgeq.conversion.quantization import is_quantized, open_goal, quantize_network
from edgeq.conversion.request import read_request
from edgeq.conversion.sample_sizes import sample_sizes
from edgeq.conversion.words import Target
from edgeq.errors import UsageError
from edgeq.frontends import load_model
from edgeq.mixed_precision import score_alone
from edgeq.passes import canonicalize
from edgeq.quant.sensitivity import sensitivity

# Without a fit, which would make up for the damage that is to be seen.
METHOD: Final = "sum-preserving"
CALIBRATOR: Final = "mse"
SCORED: Final = 20


def analyze_layers(model: Any, targets: Target, options: Options, scored: int = SCORED) -> dict[str, Any]:
    """Rank the layers of a model by the damage that each causes when it alone is quantized as `options` say.

    targets: whose rules; none: those of all that share a plan. scored: with options.metric, so many of the worst layers
    that have weights are scored by it too, each at the cost of a whole evaluation, and come first, in the order of
    their drop.

    Raises:
        UsageError: no samples, or nothing to quantize. EdgeqError: the model or the samples cannot be used.
    """
    if options.calibration is None:
        raise UsageError("the damage is measured on real samples: add --calibration DATA")
    request = read_request(targets, replace(options, method=METHOD, calibrator=CALIBRATOR))
    network = load_model(model, inputs=request.inputs, tell=sample_sizes(request),
                         example_inputs=request.example_inputs, state=request.state, open_sizes=True,
                         trust=options.trust)
    if is_quantized(network):
        raise UsageError("the model is quantized already; give its float original")
    canonicalize(network)
    samples = open_calibration(network, request)
    assert samples is not None
    result = quantize_network(network, request, samples, observe_all=True)
    if result.plan is None or not (result.plan.weights or result.plan.groups):
        raise UsageError("nothing in this model would be quantized")
    found = sensitivity(network, result.graph, result.plan, list(samples),
                        lambda done, total: request.progress("layers", done, total))
    layers = [asdict(damage) for damage in found]
    ranked: dict[str, Any] = {"samples": samples.count, "bits": request.weight_bits, "layers": layers}
    goal = open_goal(network, input_specs(network), samples, None, request)
    if goal is None or result.trials is None:
        return ranked
    wanted = [line for line in layers if line["node"] in result.trials.layers][:scored]
    for number, line in enumerate(wanted):
        request.progress("scoring layers", number, len(wanted))
        line["score"] = score_alone(result.trials, goal, line["node"])
    layers.sort(key=lambda line: -goal.drop(line["score"]) if "score" in line else math.inf)
    return ranked | {"metric": goal.evaluation.metric.name, "float_score": goal.float_score}
