"""From a float network to its quantized graph: with one precision for all layers, or with one searched for each."""
from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

import onnx_ir as ir

from edgeq import policy
from edgeq.devices import least_bits
from edgeq.errors import UsageError
from edgeq.inference.reference import run_onnx
from edgeq.mixed_precision import (
    Goal,
    Limits,
    MixedPrecision,
    TrialBuilder,
    choose_precisions,
    goal_on,
    observed,
    search,
)
from edgeq.mixed_precision.candidates import BITS
from edgeq.mixed_precision.trial_builder import spread
from edgeq.options import Options
from edgeq.passes.dynamic import is_dynamic
from edgeq.quant.calibrate import CALIBRATORS, Calibrator, Statistics, calibrate
from edgeq.quant.calibrate.auto import DEFAULT, choose_calibrators
from edgeq.quant.calibrate.cache import calibrate_with_cache
from edgeq.quant.float16 import store_half
from edgeq.quant.methods import Method, method_named
from edgeq.quant.plan import QuantPlan, make_plan
from edgeq.quant.qdq import DEQUANTIZE, QUANTIZE
from edgeq.quant.quantize import quantize
from edgeq.quant.samples import InputSpec, Samples, open_samples
from edgeq.quant.scaling.accept import Scaled
from edgeq.scheme import QuantScheme
from edgeq.targets import Target
from edgeq.verify.evaluate import Evaluation, fidelity, open_evaluation


@dataclass(frozen=True, slots=True)
class Quantized:
    """network: the float one that was quantized, with the channels that `scaled` lists scaled. plan: None where the
    source was quantized already, and keeps its scales. mixed: what single layers get, as far as that was measured.
    """

    network: ir.Model
    graph: ir.Model
    plan: QuantPlan | None
    statistics: Statistics
    scaled: Sequence[Scaled] = ()
    mixed: MixedPrecision = field(default_factory=MixedPrecision)

    @property
    def kept(self) -> list[str]:
        """The nodes that the plan keeps float."""
        return [node.node for node in self.plan.kept] if self.plan else []


def quantized(network: ir.Model, targets: Sequence[Target], scheme: QuantScheme, samples: Samples | None,
              options: Options, goal: Goal | None, size: Callable[[ir.Model], int]) -> Quantized:
    """The QDQ graph of a canonical network. size: such a graph -> bytes of the largest artifact that it becomes."""
    limited = goal is not None and goal.limits != Limits()
    if is_quantized(network):
        if limited:
            raise UsageError("the model is quantized already; a search needs its float original")
        if options.bits in (4, 16):
            raise UsageError(f"--bits {options.bits}: the model is quantized already, and its own grids are kept; "
                             "leave --bits out, or give the float original")
        return Quantized(network, network, None, Statistics({}, 0))
    method = method_named(options.method)
    plan = make_plan(network, targets, scheme, keep_float=options.keep_float)
    if options.bits == 16:
        return Quantized(network, store_half(network), plan, Statistics({}, 0))
    network, scaled = _scaled(network, plan, method, samples, options)
    plan = make_plan(network, targets, scheme, keep_float=options.keep_float) if scaled else plan
    measuring = samples is not None and "auto" in options.method.split("+")
    values = observed(plan, network) if limited or measuring else plan.sources
    statistics = _calibrate(network, values, samples, options)
    calibrators = _calibrators(network, plan, statistics, samples, options)
    builder = TrialBuilder(network, targets, scheme, samples, statistics, _by_value(calibrators, plan), method,
                           options.keep_float, options.progress)
    if goal is not None and limited:
        least = least_bits(options.device, [target.name for target in targets])
        built, mixed = search(builder, goal, size, [bits for bits in BITS if bits >= least])
        return Quantized(network, built.graph, built.plan, statistics, scaled, mixed)
    mixed = choose_precisions(builder, samples) if samples is not None and measuring else MixedPrecision()
    plan = builder.plan(mixed.layers)
    fit = method.fit(samples, options.bits)
    if fit is not None:
        options.progress("fitting weights", 0)
    graph = quantize(network, plan, statistics, builder.calibrator, method.rounding, fit, method.search)
    return Quantized(network, graph, plan, statistics, scaled, mixed)


def _scaled(network: ir.Model, plan: QuantPlan, method: Method, samples: Samples | None, options: Options,
            ) -> tuple[ir.Model, list[Scaled]]:
    """The same float function, with channels as the method wants them scaled, and where that was done."""
    if not method.scalings:
        return network, []
    options.progress("scaling channels")
    scaled = network.clone()
    return scaled, method.scale(scaled, plan, samples, options.bits)


def open_goal(network: ir.Model, specs: Mapping[str, InputSpec], samples: Samples | None, limits: Limits,
              options: Options) -> Goal | None:
    """What the user wants measured, with the float network's score; None where that is nothing.

    Raises:
        UsageError: a metric without data, or limits without a metric. EvaluationError: there is no score.
    """
    if options.eval is None and options.metric is None:
        if limits != Limits():
            raise UsageError("a search needs something to measure: add --eval DATA with --metric, or --metric sqnr")
        return None
    if limits != Limits() and options.bits >= 16:
        raise UsageError(f"--bits {options.bits} leaves nothing to search; leave it out")
    options.progress("scoring the float model")
    return goal_on(network, _evaluation(network, specs, samples, options), limits)


def _evaluation(network: ir.Model, specs: Mapping[str, InputSpec], samples: Samples | None, options: Options,
                ) -> Evaluation:
    if options.metric != "sqnr":
        if options.eval is None:
            raise UsageError(f"--metric {options.metric} needs labelled data: add --eval DATA")
        return open_evaluation(options.eval, options.metric, specs, preprocess=options.preprocess)
    if options.max_drop is not None:
        raise UsageError("--metric sqnr measures against the float model, which therefore has no score to drop from; "
                         "say how many dB with --min-metric")
    if options.eval is not None:
        samples = open_samples(options.eval, specs, preprocess=options.preprocess)
    if samples is None:
        raise UsageError("--metric sqnr needs samples: add --calibration DATA or --eval DATA")
    feeds = spread(samples, policy.FIDELITY_SAMPLES.value) if options.eval is None else list(samples)
    return fidelity(feeds, run_onnx(network, feeds, fused=True))


def is_quantized(network: ir.Model) -> bool:
    """Whether the source came with grids of its own."""
    return is_dynamic(network.graph) or any(node.op_type in (QUANTIZE, DEQUANTIZE) for node in network.graph)


def _by_value(calibrators: Calibrator | Mapping[str, Calibrator], plan: QuantPlan,
              ) -> Calibrator | Mapping[str, Calibrator]:
    """Leaders change when some layers compute in float; each value keeps what was chosen for its group."""
    if not isinstance(calibrators, Mapping):
        return calibrators
    return {name: calibrators.get(leader, CALIBRATORS[DEFAULT]) for name, leader in plan.groups.items()}


def _calibrate(network: ir.Model, values: Collection[str], samples: Samples | None, options: Options) -> Statistics:
    if not values:
        return Statistics({}, 0)
    assert samples is not None

    def progress(done: int) -> None:
        options.progress("calibrating", done, samples.length)

    if options.calibration_cache is not None:
        return calibrate_with_cache(options.calibration_cache, network, values, samples, progress=progress)
    return calibrate(network, values, samples, progress=progress)


def _calibrators(network: ir.Model, plan: QuantPlan, statistics: Statistics, samples: Samples | None, options: Options,
                 ) -> Calibrator | Mapping[str, Calibrator]:
    if options.calibrator != "auto" or samples is None:
        return CALIBRATORS[DEFAULT if options.calibrator == "auto" else options.calibrator]
    return choose_calibrators(network, plan, statistics, list(islice(samples, policy.AUTO_SAMPLES.value)),
                              lambda done, total: options.progress("choosing ranges", done, total))
