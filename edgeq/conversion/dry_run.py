"""What a conversion would be refused for at its end, said before it reads its data.

Only a backend knows what it writes, and of which engine that asks what. So the plan is carried out once on the ranges
of one sample, with plain rounding, and written for every target into nowhere. What only the real ranges, a search or
fitted weights decide is checked again at the end.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice

import onnx_ir as ir

from edgeq.backend import Artifact, target_named
from edgeq.conversion.quantization import is_quantized
from edgeq.devices import device_named
from edgeq.errors import EdgeqError, UnsupportedModel, UsageError, all_of
from edgeq.external_weights import is_large
from edgeq.options import Options
from edgeq.quant.calibrate import CALIBRATORS, Statistics, calibrate
from edgeq.quant.plan import make_plan
from edgeq.quant.quantize import quantize
from edgeq.quant.rounding import nearest
from edgeq.quant.samples import Samples
from edgeq.scheme import QuantScheme


def rehearse(network: ir.Model, targets: Sequence[str], scheme: QuantScheme, samples: Samples | None, options: Options,
             emit: Callable[[str, ir.Model], Artifact]) -> None:
    """emit: target, quantized graph -> what the target would write. Nothing is done for a network whose weights do not
    fit into memory twice.

    Raises:
        UnsupportedModel, UsageError: nodes that a target cannot run, or an engine that the device has not.
        EdgeqError: several of these.
    """
    if is_large(network):
        return
    graph, refused = _rehearsed(network, targets, scheme, samples, options), list[EdgeqError]()
    for name in targets:
        try:
            artifact = emit(name, graph)
            if options.device is not None:
                device_named(options.device).refuse_newer(name, artifact.engine_version, artifact.options)
        except (UnsupportedModel, UsageError) as error:
            refused.append(error)
    if refused:
        raise all_of(refused)


def _rehearsed(network: ir.Model, targets: Sequence[str], scheme: QuantScheme, samples: Samples | None,
               options: Options) -> ir.Model:
    if is_quantized(network):
        return network
    plan = make_plan(network, [target_named(name) for name in targets], scheme, keep_float=options.keep_float)
    values = [] if samples is None else plan.sources
    statistics = calibrate(network, values, islice(samples or (), 1)) if values else Statistics({}, 0)
    return quantize(network, plan, statistics, CALIBRATORS["minmax"], nearest)
