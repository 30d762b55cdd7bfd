"""`edgeq analyze`: which layers of a model quantization would hurt most, as plain data."""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from edgeq.errors import UsageError
from edgeq.options import Options, scheme_of


def analyze(model: Any, targets: Sequence[str], options: Options, scored: int = 20) -> dict[str, Any]:
    """Rank the layers of a model by the damage that each causes when it alone is quantized as `options` say.

    targets: whose rules; none: those of all that share a plan. scored: with options.metric, so many of the worst layers
    that have weights are scored by it too, each at the cost of a whole evaluation, and come first, in the order of
    their drop.

    Raises:
        UsageError: no samples, or nothing to quantize. EdgeqError: the model or the samples cannot be used.
    """
    from edgeq.backend import backends, target_named
    from edgeq.dimensions import dimensions, free_dimensions
    from edgeq.frontends import load_model
    from edgeq.graph import real_inputs
    from edgeq.mixed_precision import Limits, TrialBuilder, goal_on, observed, score_alone
    from edgeq.passes import canonicalize
    from edgeq.quant.calibrate import CALIBRATORS, calibrate
    from edgeq.quant.methods import method_named
    from edgeq.quant.plan import make_plan
    from edgeq.quant.qdq import DEQUANTIZE, QUANTIZE
    from edgeq.quant.quantize import quantize
    from edgeq.quant.samples import InputSpec, open_samples
    from edgeq.quant.sensitivity import sensitivity
    from edgeq.targets import are_symmetric
    from edgeq.verify.evaluate import open_evaluation

    if options.calibration is None:
        raise UsageError("the damage is measured on real samples: add --calibration DATA")
    network = load_model(model, inputs=dict(options.inputs or {}), open_sizes=True)
    if any(node.op_type in (QUANTIZE, DEQUANTIZE) for node in network.graph):
        raise UsageError("the model is quantized already; give its float original")
    canonicalize(network)
    specs = {value.name or "": InputSpec(value.dtype.numpy().name, dimensions(value, free_dimensions(network)))
             for value in real_inputs(network.graph) if value.dtype is not None and value.shape is not None}
    samples = open_samples(options.calibration, specs, limit=options.samples, preprocess=options.preprocess)
    chosen = [target_named(name) for name in targets] or [
        backend.target for backend in backends() if not backend.target.symmetric]
    scheme = scheme_of(options, symmetric=are_symmetric(chosen))
    plan = make_plan(network, chosen, scheme, keep_float=options.keep_float)
    if not plan.weights and not plan.groups:
        raise UsageError("nothing in this model would be quantized")
    feeds = list(samples)
    statistics = calibrate(network, observed(plan, network), feeds, progress=lambda done: options.progress(
        "calibrating", done, len(feeds))) if plan.groups else {}
    calibrator = CALIBRATORS["mse"]
    graph = quantize(network, plan, statistics, calibrator)
    found = sensitivity(network, graph, plan, feeds, lambda done, total: options.progress("layers", done, total))
    layers = [asdict(damage) for damage in found]
    result: dict[str, Any] = {"samples": len(feeds), "bits": options.bits, "layers": layers}
    if options.metric is not None or options.eval is not None:
        evaluation = open_evaluation(options.eval, options.metric, specs, preprocess=options.preprocess)
        goal = goal_on(network, evaluation, Limits())
        builder = TrialBuilder(network, chosen, scheme, samples, statistics, calibrator,
                               method_named("sum-preserving"), options.keep_float)
        result |= {"metric": evaluation.metric.name, "float_score": goal.float_score}
        wanted = [line for line in layers if line["node"] in builder.layers][:scored]
        for number, line in enumerate(wanted):
            options.progress("scoring layers", number, len(wanted))
            line["score"] = score_alone(builder, goal, line["node"])
        layers.sort(key=lambda line: -goal.drop(line["score"]) if "score" in line else math.inf)
    return result


def print_damage(found: Mapping[str, Any], shown: int) -> None:
    """The worst layers as a table for people."""
    from edgeq.report.console import console, size, table

    metric = [f">{found['metric']} (float: {found['float_score']:.4g})"] if "metric" in found else []
    rows = table("layer", "op", ">bits", ">weights", ">dB of the output", *metric,
                 title=f"each layer quantized alone, {found['samples']} samples; the worst first")
    for line in found["layers"][:shown]:
        score = [f"{line['score']:.4g}" if "score" in line else "-"] if metric else []
        rows.add_row(line["node"], line["op"], str(line["bits"] or "-"),
                     size(line["weight_bytes"]) if line["weight_bytes"] else "-", f"{line['sqnr_db']:.1f}", *score)
    out = console()
    out.print(rows)
    if len(found["layers"]) > shown:
        out.print(f"and {len(found['layers']) - shown} that hurt less (--top)")
