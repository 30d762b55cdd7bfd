"""--calibrator auto: for each group of values that share a grid, the calibrator whose range costs the outputs least."""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final, TypeAlias

import numpy as np
import onnx_ir as ir

from edgeq import policy
from edgeq.inference.comparable import with_comparable_outputs
from edgeq.inference.partial import Columns
from edgeq.inference.reference import run_onnx
from edgeq.inference.session import Arrays
from edgeq.metrics import ErrorPower
from edgeq.quant.calibrate.calibrators import CALIBRATORS, Calibrator
from edgeq.quant.calibrate.statistics import TensorStatistics
from edgeq.quant.params import grid
from edgeq.quant.plan import QuantPlan
from edgeq.quant.quantize import group_statistics, quantize
from edgeq.quant.sensitivity import errors_alone, quantizer_on
from edgeq.scheme import QuantParams

DEFAULT: Final = "mse"
Range: TypeAlias = tuple[float, float]


def choose_calibrators(network: ir.Model, plan: QuantPlan, statistics: Mapping[str, TensorStatistics],
                       feeds: Sequence[Arrays], judges: Sequence[Arrays],
                       progress: Callable[[int, int], None] = lambda done, total: None) -> dict[str, Calibrator]:
    """Leader of each group -> its calibrator.

    Errors of single values nearly add up, unless one of them is cut off where later samples need it. So the choice
    that is best value by value on a few samples, `feeds`, is judged on others, all values rounded at once, beside every
    calibrator that serves all values alike. Without judges the feeds judge.
    """
    merged = group_statistics(network.graph, plan, statistics)
    bits = plan.activation.bits if plan.activation else 8
    ranges = {name: {leader: calibrator(found, bits) for leader, found in merged.items()}
              for name, calibrator in CALIBRATORS.items()}
    mixed = _value_by_value(network, plan, ranges, feeds, progress)
    choices = {name: dict.fromkeys(mixed, name) for name in CALIBRATORS} | {"auto": mixed}
    judges = judges or feeds
    expected = outputs_of(network, judges)
    alone = replace(plan, weights=(), biases=())

    def lost(choice: Mapping[str, str]) -> float:
        known: dict[str, Calibrator] = {leader: lambda *_, found=ranges[name][leader]: found
                                        for leader, name in choice.items()}
        return _lost(expected, outputs_of(quantize(network, alone, statistics, known), judges))

    best = choices[_best({name: lost(choice) for name, choice in choices.items()})]
    return {leader: CALIBRATORS[name] for leader, name in best.items()}


def outputs_of(network: ir.Model, feeds: Sequence[Arrays]) -> Columns:
    """What two runs of a network are compared by, op by op: onnxruntime's fused kernels round a graph of float weights
    and integer activations otherwise than it says, by as much as quantization itself.
    """
    found = list(run_onnx(with_comparable_outputs(network), feeds))
    return {name: [outputs[name] for outputs in found] for name in found[0]}


def _value_by_value(network: ir.Model, plan: QuantPlan, ranges: Mapping[str, Mapping[str, Range]],
                    feeds: Sequence[Arrays], progress: Callable[[int, int], None]) -> dict[str, str]:
    """Leader -> calibrator, of those that `ranges` holds, each with its range for every leader. Each source of a group
    is rounded alone, on each of the ranges that differ, in the float network; what the outputs then lose is added up
    over the sources.
    """
    trials = {leader: _trials({name: found[leader] for name, found in ranges.items()}, plan)
              for leader in ranges[DEFAULT]}
    values = {value.name: value for node in network.graph for value in node.outputs}
    values |= {value.name: value for value in network.graph.inputs}
    quantizers = {(source, name): quantizer_on(values[source], params) for source in plan.sources
                  if len(grids := trials.get(plan.groups[source], {})) > 1 for name, params in grids.items()}
    error = {leader: dict.fromkeys(grids, 0.0) for leader, grids in trials.items()}
    for (source, name), errors in errors_alone(network, quantizers, feeds, progress).items():
        error[plan.groups[source]][name] += sum(found.ratio for found in errors)
    return {leader: _best(found) for leader, found in error.items()}


def _trials(ranges: Mapping[str, Range], plan: QuantPlan) -> dict[str, QuantParams]:
    """Calibrator -> its grid, the default first; those whose grid another one has already are left out."""
    assert plan.activation is not None
    found: dict[str, QuantParams] = {}
    for name in (DEFAULT, *(name for name in ranges if name != DEFAULT)):
        params = grid(*ranges[name], plan.activation)
        low, high = params.real_range()
        if not any(np.allclose((low, high), other.real_range(), rtol=0, atol=(high - low) * policy.AUTO_ALIKE.value)
                   for other in found.values()):
            found[name] = params
    return found


def _lost(expected: Columns, got: Columns) -> float:
    """Squared error of the outputs in units of their own squares, summed over the outputs."""
    return sum(ErrorPower.of(expected[name], got[name]).ratio for name in expected if name in got)


def _best(errors: Mapping[str, float]) -> str:
    best = min(errors, key=errors.__getitem__)
    return best if errors[best] < policy.AUTO_MARGIN.value * errors[DEFAULT] else DEFAULT
