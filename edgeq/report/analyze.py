"""`edgeq analyze`: which layers of a model quantization would hurt most, as plain data."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from edgeq.errors import UsageError
from edgeq.options import Options, scheme_of


def analyze(model: Any, targets: Sequence[str], options: Options) -> dict[str, Any]:
    """Rank the layers of a model by the damage that each causes when it alone is quantized as `options` say.

    Raises:
        UsageError: no samples, or nothing to quantize. EdgeqError: the model or the samples cannot be used.
    """
    from edgeq.dimensions import dimensions, free_dimensions
    from edgeq.frontends import load_model
    from edgeq.graph import real_inputs
    from edgeq.passes import canonicalize
    from edgeq.quant.calibrate import CALIBRATORS, calibrate
    from edgeq.quant.plan import make_plan
    from edgeq.quant.qdq import DEQUANTIZE, QUANTIZE
    from edgeq.quant.quantize import quantize
    from edgeq.quant.samples import InputSpec, open_samples
    from edgeq.quant.sensitivity import sensitivity
    from edgeq.targets import TARGETS, are_symmetric

    if options.calibration is None:
        raise UsageError("the damage is measured on real samples: add --calibration DATA")
    network = load_model(model, inputs=dict(options.inputs or {}), open_sizes=True)
    if any(node.op_type in (QUANTIZE, DEQUANTIZE) for node in network.graph):
        raise UsageError("the model is quantized already; give its float original")
    canonicalize(network)
    specs = {value.name or "": InputSpec(value.dtype.numpy().name, dimensions(value, free_dimensions(network)))
             for value in real_inputs(network.graph) if value.dtype is not None and value.shape is not None}
    samples = open_samples(options.calibration, specs, limit=options.samples, preprocess=options.preprocess)
    chosen = [TARGETS[name] for name in targets]
    plan = make_plan(network, chosen, scheme_of(options, symmetric=are_symmetric(chosen)),
                     keep_float=options.keep_float)
    if not plan.weights and not plan.groups:
        raise UsageError("nothing in this model would be quantized")
    feeds = list(samples)
    statistics = calibrate(network, plan.sources, feeds, progress=lambda done: options.progress(
        "calibrating", done, len(feeds))) if plan.sources else {}
    graph = quantize(network, plan, statistics, CALIBRATORS["mse"])
    found = sensitivity(network, graph, plan, feeds, lambda done, total: options.progress("layers", done, total))
    return {"samples": len(feeds), "bits": options.bits, "layers": [asdict(damage) for damage in found]}


def print_damage(found: Mapping[str, Any], shown: int) -> None:
    """The worst layers as a table for people."""
    from edgeq.report.text import console, size, table

    rows = table("layer", "op", ">bits", ">weights", ">dB of the output",
                 title=f"each layer quantized alone, {found['samples']} samples; the worst first")
    for line in found["layers"][:shown]:
        rows.add_row(line["node"], line["op"], str(line["bits"] or "-"),
                     size(line["weight_bytes"]) if line["weight_bytes"] else "-", f"{line['sqnr_db']:.1f}")
    out = console()
    out.print(rows)
    if len(found["layers"]) > shown:
        out.print(f"and {len(found['layers']) - shown} that hurt less (--top)")
