"""From a float network to its quantized graph: plan, calibrate, quantize. Conversions, dry runs, `edgeq inspect` and
`edgeq analyze` all come through here, each with a request of its own.
"""
from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import onnx_ir as ir

from edgeq import policy
from edgeq.conversion.emission import emit_as_asked
from edgeq.conversion.interface import with_pixel_grid
from edgeq.conversion.request import Request
from edgeq.errors import UsageError
from edgeq.inference.reference import Arrays, run_onnx
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
from edgeq.mixed_precision.result import Clock
from edgeq.mixed_precision.scalings import choose_scaling
from edgeq.passes.dynamic import is_dynamic
from edgeq.progress import silent
from edgeq.quant.calibrate import CALIBRATORS, Calibrator, Statistics, calibrate
from edgeq.quant.calibrate.auto import DEFAULT, choose_calibrators
from edgeq.quant.calibrate.cache import calibrate_with_cache
from edgeq.quant.feeds import InputSpec
from edgeq.quant.float16 import store_half
from edgeq.quant.methods import Method
from edgeq.quant.plan import QuantPlan, make_plan
from edgeq.quant.qdq import DEQUANTIZE, QUANTIZE
from edgeq.quant.recordings import roll_out
from edgeq.quant.samples import Samples
from edgeq.quant.scaling.accept import Scaled
from edgeq.scheme import QuantType
from edgeq.verification.evaluate import Evaluation, LabelledData, evaluation_samples, fidelity

# Where the samples of a figure come from.
HELD_OUT: Final = "calibration samples that were held out: no range, weight or choice has seen them"
TOO_FEW: Final = "the samples that were also used for calibration: too few to hold any out"
SEARCHED: Final = "--eval, which led the search"


def _nothing_seen() -> Statistics:
    return Statistics({}, 0)


@dataclass(frozen=True, slots=True)
class QuantizedNetwork:
    """network: the float one that was quantized, with the channels that `scaled` lists scaled. plan: None where the
    source was quantized already, and keeps its scales. mixed: what single layers get, as far as that was measured.
    trials: builds the same with other precisions. recovery: what --recover did, for the report.
    """

    network: ir.Model
    graph: ir.Model
    plan: QuantPlan | None
    statistics: Statistics = field(default_factory=_nothing_seen)
    scaled: Sequence[Scaled] = ()
    mixed: MixedPrecision = field(default_factory=MixedPrecision)
    trials: TrialBuilder | None = None
    recovery: Mapping[str, Any] | None = None

    @property
    def kept(self) -> list[str]:
        """The nodes that the plan keeps float."""
        return [node.node for node in self.plan.kept] if self.plan else []


def quantize_network(network: ir.Model, request: Request, samples: Samples | None, goal: Goal | None = None, *,
                     observe_all: bool = False, clock: Clock | None = None) -> QuantizedNetwork:
    """The QDQ graph of a canonical network. observe_all: calibrate whatever some plan with more layers in float would
    round, as a search needs it. clock: of the trials of the float fallback; None: their times are predicted.

    Raises:
        UsageError: the model is quantized already and other integers are wanted, or a method needs samples.
        CalibrationError, EvaluationError: the samples or the metric cannot be used.
    """
    if is_quantized(network):
        _refuse_to_quantize_again(request)
        return QuantizedNetwork(network, network, None)
    plan = _plan(network, request)
    if request.weights == "float16":
        return QuantizedNetwork(network, store_half(network), plan)
    network, scaled = _scaled(network, plan, samples, request)
    plan = _plan(network, request) if scaled else plan
    is_measured = request.is_measured and samples is not None
    wanted = observed(plan, network) if observe_all or request.is_search or is_measured else plan.sources
    learn, judge = _to_judge(samples, request)
    statistics = _calibrated(network, wanted, learn, request)
    calibrators = _calibrators(network, plan, statistics, learn, judge, request)
    trials = TrialBuilder(network, request.targets, request.scheme, learn, statistics, calibrators, request.method,
                          request.keep_float, request.progress)
    if goal is not None and request.is_search:
        built, mixed = search(trials, goal, lambda graph: max(
            emit_as_asked(name, graph, request).bytes for name in request.target_names), [
                bits for bits in BITS if bits >= request.least_bits])
        return QuantizedNetwork(network, built.graph, built.plan, statistics, scaled, mixed, trials)
    mixed = MixedPrecision()
    if is_measured and judge is not None:
        mixed = choose_precisions(trials, judge, request.options.prefer,
                                  floats=not request.options.full_integer and request.scheme.activation_bits == 8,
                                  clock=clock)
    if learn is not judge and judge is not None:
        statistics = calibrate(network, wanted, judge, resume=statistics) if wanted else statistics
        trials = replace(trials, samples=samples, statistics=statistics)
    request.progress("quantizing weights", 0)
    built = trials.build(mixed.layers, refit=request.weight_bits < 8)
    return QuantizedNetwork(network, built.graph, built.plan, statistics, scaled, mixed, trials)


def plain(request: Request) -> Request:
    """The same with nothing that is chosen by measuring: what every method begins with."""
    return replace(request, method=Method(), is_measured=False, calibrator=CALIBRATORS["minmax"], limits=Limits(),
                   calibration_cache=None, options=replace(request.options, progress=silent))


def is_fitted(network: ir.Model, request: Request) -> bool:
    """Whether ranges, weights or choices are made on calibration samples."""
    return isinstance(request.weights, QuantType) and not is_quantized(network)


def is_quantized(network: ir.Model) -> bool:
    """Whether the source came with grids of its own."""
    return is_dynamic(network.graph) or any(node.op_type in (QUANTIZE, DEQUANTIZE) for node in network.graph)


def _refuse_to_quantize_again(request: Request) -> None:
    if request.is_search:
        raise UsageError("the model is quantized already; a search needs its float original")
    if request.options.measure:
        raise UsageError("--measure times trials, and the model is quantized already: leave it out")
    if request.weight_bits in (4, 16):
        raise UsageError(f"--bits {request.weight_bits}: the model is quantized already, and its own grids are kept; "
                         "leave --bits out, or give the float original")


def _plan(network: ir.Model, request: Request) -> QuantPlan:
    return make_plan(network, request.targets, request.scheme, keep_float=request.keep_float)


def _scaled(network: ir.Model, plan: QuantPlan, samples: Samples | None, request: Request,
            ) -> tuple[ir.Model, list[Scaled]]:
    """The same float function, with channels as the method wants them scaled, and where that was done."""
    if request.scheme.activation_bits == 16 and request.method.alternatives:
        return network, []  # scales weigh the rounding of activations against that of weights; it is nothing here
    if request.method.alternatives and samples is not None and request.weight_bits == 8:
        # Below, each comparison would fit all weights: five times the time of ResNet-20's conversion, for no gain.
        request.progress("scaling channels")
        unscaled = TrialBuilder(network, request.targets, request.scheme, samples, {}, CALIBRATORS[DEFAULT],
                                request.method, request.keep_float)
        return choose_scaling(unscaled, samples)
    if not request.method.scalings:
        return network, []
    request.progress("scaling channels")
    scaled = network.clone()
    return scaled, request.method.scale(scaled, plan, samples, request.weight_bits)


def _to_judge(samples: Samples | None, request: Request) -> tuple[Samples | None, Samples | None]:
    """(what ranges are taken from first, what choices are judged by before it joins them): a range that has seen a
    sample cuts nothing off it, and would look better than it is. The same twice where there are few, for a search,
    which has a judge of its own, and for a calibration cache, which goes on from all samples that it has seen.
    """
    if samples is None or request.is_search or not request.is_measured or request.calibration_cache is not None or (
            samples.count < policy.CHOICE_JUDGES_FROM.value):
        return samples, samples
    one_in = max(policy.CHOICE_JUDGES_ONE_IN.value, -(-samples.count // policy.CHOICE_JUDGES_MOST.value))
    return samples.split(one_in)


def _calibrated(network: ir.Model, values: Collection[str], samples: Samples | None, request: Request) -> Statistics:
    if not values:
        return _nothing_seen()
    assert samples is not None

    def progress(done: int) -> None:
        request.progress("calibrating", done, samples.length)

    if request.calibration_cache is not None:
        return calibrate_with_cache(request.calibration_cache, network, values, samples, progress=progress)
    return calibrate(network, values, samples, progress=progress)


def _calibrators(network: ir.Model, plan: QuantPlan, statistics: Statistics, learn: Samples | None,
                 judge: Samples | None, request: Request) -> Calibrator | Mapping[str, Calibrator]:
    """Of all values, or of each. What shares a grid changes when layers compute in float, so that each value keeps what
    was chosen for its group.
    """
    if request.calibrator is not None:
        return with_pixel_grid(request.calibrator, network, plan, request)
    if learn is None or judge is None:
        return CALIBRATORS[DEFAULT]
    skipped = policy.AUTO_CHOOSING.value if learn is judge else 0
    judges = judge.stretch or judge.chosen(policy.AUTO_JUDGES.value, skipped)
    chosen = choose_calibrators(network, plan, statistics, learn.chosen(policy.AUTO_CHOOSING.value), judges,
                                lambda done, total: request.progress("choosing ranges", done, total))
    return with_pixel_grid({name: chosen.get(leader, CALIBRATORS[DEFAULT]) for name, leader in plan.groups.items()},
                           network, plan, request)


def open_goal(network: ir.Model, specs: Mapping[str, InputSpec], seen: Samples | None, unseen: Samples | None,
              request: Request) -> Goal | None:
    """What the user wants measured, with the float network's score; None where that is nothing. seen: what is
    calibrated with. unseen: samples that were held out.

    Raises:
        EvaluationError: there is no score. CalibrationError: the data do not fit the model.
    """
    if request.measure is None:
        return None
    request.progress("scoring the float model")
    (led, told), reported = _evaluations(network, specs, seen, unseen, request)
    rest = None if reported is None else goal_on(network, reported[0], request.limits, reported[1])
    return goal_on(network, led, request.limits, told, rest)


def _evaluations(network: ir.Model, specs: Mapping[str, InputSpec], seen: Samples | None, unseen: Samples | None,
                 request: Request) -> tuple[tuple[Evaluation, str], tuple[Evaluation, str] | None]:
    """(what is measured, where its samples come from), and the same of what a search is kept from seeing, or None."""
    measure = request.measure
    if isinstance(measure, LabelledData):
        if not request.is_search:
            return (measure.open(specs, preprocess=request.preprocess), "--eval"), None
        led, reported = measure.split(specs, preprocess=request.preprocess)
        return (led, SEARCHED), None if reported is None else (reported, "--eval, unseen by the search")

    def outputs(feeds: Sequence[Arrays]) -> Evaluation:
        return fidelity(feeds, run_onnx(network, feeds, fused=True), network.graph)

    if measure is not None and measure.data is not None:
        given = roll_out(network, evaluation_samples(measure.data, specs, preprocess=request.preprocess))
        if not request.is_search or given.count < policy.HELD_OUT_FROM.value:
            return (outputs(list(given.running())), SEARCHED if request.is_search else "--eval"), None
        led_by, kept = (list(part.running()) for part in given.split(policy.REPORTED_ONE_IN.value))
        return (outputs(led_by), SEARCHED), (outputs(kept), "--eval, unseen by the search")
    assert seen is not None
    if unseen is None:
        return (outputs(seen.stretch or seen.chosen(policy.FIDELITY_SAMPLES.value)), TOO_FEW), None
    if not request.is_search:
        return (outputs(unseen.stretch or unseen.chosen(policy.FIDELITY_SAMPLES.value)), HELD_OUT), None
    return (outputs(seen.stretch or seen.chosen(policy.FIDELITY_SAMPLES.value)), "calibration samples"), (
        outputs(unseen.stretch or unseen.chosen(policy.FIDELITY_SAMPLES.value)), HELD_OUT)
