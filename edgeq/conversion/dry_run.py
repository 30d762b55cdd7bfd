"""What a conversion would end with, told before it begins.

Only a backend knows what it writes, what of it runs in float, and of which engine that asks what. So the flow is run
once as `quantization.plain` has it, on one sample, and written into nowhere. What only the real ranges, a search or
fitted weights decide is checked again at the end.
"""
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict

import onnx_ir as ir

from edgeq.conversion.emission import emit_as_asked
from edgeq.conversion.metadata import input_specs
from edgeq.conversion.options import Options
from edgeq.conversion.quantization import QuantizedNetwork, plain, quantize_network
from edgeq.conversion.request import Request, read_request
from edgeq.errors import EdgeqError, FloatFallback, UnsupportedModel, UsageError, all_of
from edgeq.external_weights import is_large
from edgeq.inference.reference import Arrays
from edgeq.quant.samples import Samples, open_samples
from edgeq.targets import Target
from edgeq.verification.references import References


def refuse_early(network: ir.Model, request: Request, samples: Samples | None) -> None:
    """Nothing is done for a network whose weights do not fit into memory twice.

    Raises:
        UnsupportedModel, UsageError: nodes that a target cannot run, or an engine that the device has not.
        EdgeqError: several of these.
    """
    if is_large(network):
        return
    first = None if samples is None else samples.first(1)
    graph, refused = quantize_network(network, plain(request), first).graph, list[EdgeqError]()
    for name in request.target_names:
        try:
            artifact = emit_as_asked(name, graph, request).artifact
            if request.device is not None:
                request.device.refuse_newer(name, artifact.engine_version, artifact.options)
        except (UnsupportedModel, UsageError) as error:
            refused.append(error)
    if refused:
        raise all_of(refused)


def refuse_float(result: QuantizedNetwork, request: Request) -> None:
    """Raises FloatFallback where a target runs more in float than the plan says."""
    found = {name: float_ops(name, result, request) for name in request.target_names}
    if any(found.values()):
        raise FloatFallback({name: rows for name, rows in found.items() if rows})


def predicted_float_ops(network: ir.Model, targets: Iterable[Target]) -> dict[str, list[dict[str, str]] | None]:
    """Target -> what a conversion with samples will report of it as float_on_this_engine; None where it cannot be told.

    It cannot where the network is too large to be run for this, where generated inputs do not fit, and where the target
    refuses nodes. What a range decides in a backend is whether it ends at the bounds of an activation, and those are
    found on any input. What real samples make `--method auto` keep in float besides is part of the plan by then, and
    not told here.
    """
    feed = _generated_feed(network)
    return {target.name: None if feed is None else _predicted(network, target, feed) for target in targets}


def _generated_feed(network: ir.Model) -> Arrays | None:
    if is_large(network):
        return None
    try:
        return References(network, network, input_specs(network), None).feeds[0]
    except EdgeqError:
        return None


def _predicted(network: ir.Model, target: Target, feed: Arrays) -> list[dict[str, str]] | None:
    request = plain(read_request(target.name, Options(calibration=[feed])))
    try:
        result = quantize_network(network, request, open_samples([feed], input_specs(network)))
        return float_ops(target.name, result, request)
    except EdgeqError:
        return None


def float_ops(target: str, result: QuantizedNetwork, request: Request) -> list[dict[str, str]]:
    """What a target runs in float of a quantized network, beyond what the plan keeps: rows of node, op and reason."""
    artifact = emit_as_asked(target, result.graph, request).artifact
    return [asdict(node) for node in artifact.unplanned_float(result.kept)]
