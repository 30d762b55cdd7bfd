"""One network, calibrated once, quantized as often as is asked for with another precision for each layer."""
from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Final

import onnx_ir as ir

from edgeq import policy
from edgeq.graph import all_nodes, is_constant, label, static
from edgeq.graph import shape as shape_of
from edgeq.ops import KEEPING_ORDER, MULTIPLY_ACCUMULATE
from edgeq.progress import Progress, silent
from edgeq.quant.calibrate import Calibrator, TensorStatistics
from edgeq.quant.fit import Fit, Fitted, Fitter
from edgeq.quant.methods import Method
from edgeq.quant.plan import Precision, QuantPlan, Weight, make_plan
from edgeq.quant.plan.integers import IntegerNodes
from edgeq.quant.plan.units import Units
from edgeq.quant.quantize import quantize
from edgeq.quant.samples import Samples
from edgeq.quant.solve.layer import NO_CORRECTION, Settings
from edgeq.scheme import PerChannel, QuantScheme, QuantType
from edgeq.targets import Target

LARGEST: Final = 1 << 30  # bytes of weights: pieces of a model go through protobuf, which ends at 2 GiB
_W8: Final = QuantType(8, granularity=PerChannel())


@dataclass(frozen=True, slots=True)
class Built:
    """A quantized graph and the plan that it carries out."""

    graph: ir.Model
    plan: QuantPlan


class FitCache:
    """Weights of one network that have been fitted to its samples, each without a look at the others."""

    def __init__(self) -> None:
        # None for a weight that cannot be fitted
        self._known: dict[tuple[str, QuantType, int, Settings], Fitted | None] = {}

    def fitter(self, fit: Fit, wanted: Sequence[Weight]) -> Fitter:
        """As `fit`, which is asked only where some of the wanted weights have not been fitted by its settings."""
        def fitted(model: ir.Model, plan: QuantPlan) -> dict[str, Fitted]:
            keys = {weight.value: _key(weight, fit.settings) for weight in wanted}
            if not self._known.keys() >= set(keys.values()):
                found = fit(model, plan)
                self._known.update({_key(weight, fit.settings): found.get(weight.value) for weight in plan.weights})
            return {name: known for name, key in keys.items() if (known := self._known[key]) is not None}

        return fitted


def _key(weight: Weight, settings: Settings) -> tuple[str, QuantType, int, Settings]:
    """All that decides what a weight is fitted to, of one network and its samples."""
    return weight.value, weight.type, weight.table_channels, settings


@dataclass(frozen=True)
class TrialBuilder:
    """samples: the calibration data, or None where only weights are quantized. statistics: of every value that some
    choice of precisions rounds. calibrator: of all values, or of each by its name. fits: may be shared with builders of
    the same network and samples.
    """

    network: ir.Model
    targets: Sequence[Target]
    scheme: QuantScheme
    samples: Samples | None
    statistics: Mapping[str, TensorStatistics]
    calibrator: Calibrator | Mapping[str, Calibrator]
    method: Method
    keep_float: Sequence[str] = ()
    progress: Progress = silent
    fits: FitCache = field(default_factory=FitCache)

    @cached_property
    def work(self) -> dict[str, int]:
        """Of each node that could compute on integers."""
        return {} if self.integers is None else {label(node): work(node) for node in self.integers.nodes}

    @cached_property
    def integers(self) -> IntegerNodes | None:
        """What could compute on integers; None where no activation is rounded."""
        if self.scheme.activation is None:
            return None
        return IntegerNodes(self.units, (), {}, integer_outputs=self.scheme.integer_outputs)

    def float_share(self, plan: QuantPlan) -> float:
        """Of the work that could be done on integers, what a plan does in float."""
        total = sum(self.work.values())
        return sum(self.work.get(kept.node, 0) for kept in plan.kept) / total if total else 0.0

    def with_8_bit_weights(self) -> TrialBuilder:
        """The same, to see what rounding activations costs alone, next to which 8-bit weights cost little."""
        eight = self.scheme.weight if self.scheme.weight and self.scheme.weight.bits == 8 else _W8
        return replace(self, scheme=replace(self.scheme, weight=eight, table_channels=0))

    def plan(self, layers: Mapping[str, Precision]) -> QuantPlan:
        return make_plan(self.network, self.targets, self.scheme, keep_float=self.keep_float, layers=layers)

    def build(self, layers: Mapping[str, Precision], *, refit: bool = False) -> Built:
        """Quantize with these layers' precisions.

        Weights below 8 bits are fitted as the method says: once for each layer and its bits; or, with refit, anew and
        to what just these layers in front of each left.
        """
        plan = self.plan(layers)
        fit = self._fit(plan, refit)
        graph = quantize(self.network, plan, self.statistics, self.calibrator, self.method.rounding, fit,
                         self.method.search)
        return Built(graph, plan)

    @cached_property
    def units(self) -> Units:
        return Units(self.network.graph, [target.at(self.scheme.activation_bits) for target in self.targets])

    @cached_property
    def layers(self) -> dict[str, ir.Node]:
        """The layers whose weights the plan may store as integers, by label, in graph order; those of bodies too."""
        planned = {weight.node for weight in self.plan({}).weights}
        return {label(node): node for node in all_nodes(self.network.graph) if label(node) in planned}

    @cached_property
    def _below_8(self) -> Fit | None:
        return self.method.fit(self.samples, 4)

    @cached_property
    def _at_8(self) -> Fit | None:
        return self.method.fit(self.samples, 8)

    def _fit(self, plan: QuantPlan, refit: bool) -> Fitter | None:
        narrow = [weight for weight in plan.weights if weight.type.bits < 8]
        fit, wanted = (self._below_8, narrow) if narrow else (self._at_8, plan.weights)
        if not wanted or fit is None:
            return None
        if refit:
            return fit
        # A weight that makes up for the errors of certain layers in front of it does harm behind others.
        alone = replace(fit, settings=replace(fit.settings, corrections=(NO_CORRECTION,)))
        return self.fits.fitter(alone, wanted)


def work(node: ir.Node) -> int:
    """Multiplications of one run of a multiply-accumulate node; what takes as long, roughly, of another op."""
    output = node.outputs[0]
    if static(output) is None:
        return 0
    elements = math.prod(shape_of(output))
    weight = node.inputs[1] if node.op_type in MULTIPLY_ACCUMULATE else None
    if weight is None:
        return 0 if node.op_type in KEEPING_ORDER else elements * policy.ELEMENT_WORK.value
    sizes = shape_of(weight)
    match node.op_type:
        case "Conv":
            return elements * math.prod(sizes[1:])
        case "ConvTranspose":
            assert node.inputs[0] is not None
            return math.prod(shape_of(node.inputs[0])) * math.prod(sizes[1:])
        case _:
            return elements * (sizes[-2] if node.op_type == "MatMul" else math.prod(sizes) // shape_of(output)[-1])


def observed(plan: QuantPlan, network: ir.Model) -> tuple[str, ...]:
    """The values that calibration must see so that every plan with more nodes in float finds its statistics."""
    return tuple(name for name in plan.groups if not is_constant(network.graph.initializers.get(name)))


def precisions(bits: Mapping[str, int], floats: Iterable[str], reason: str = "") -> dict[str, Precision]:
    """What `make_plan` takes. bits: of the weights, by layer. floats: nodes that compute in float, for this reason."""
    found = {name: Precision(width) for name, width in bits.items()}  # type: ignore[arg-type]
    return found | {name: replace(found.get(name, Precision()), integer_activations=False, reason=reason)
                    for name in sorted(set(floats))}
