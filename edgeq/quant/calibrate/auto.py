"""--calibrator auto: for each group of values that share a grid, the calibrator whose range costs the outputs least."""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import onnx_ir as ir

from edgeq.inference.prefix import Arrays
from edgeq.inference.walk import Columns, Walk
from edgeq.quant.calibrate.calibrators import CALIBRATORS, Calibrator
from edgeq.quant.calibrate.statistics import TensorStatistics
from edgeq.quant.params import grid
from edgeq.quant.plan import QuantPlan
from edgeq.quant.quantize import group_statistics
from edgeq.quant.quantize import quantize as write_plan
from edgeq.scheme import QuantParams, dequantize, quantize

DEFAULT: Final = "mse"
SAMPLES: Final = 24
CHOOSING: Final = 8  # of these; each costs half a run of the network for every range that is tried
MARGIN: Final = 0.95  # of the default's error: what is not clearly better on these samples is luck
_ALIKE: Final = 1 / 64  # of the range: grids that differ by less are one


def choose_calibrators(network: ir.Model, plan: QuantPlan, statistics: Mapping[str, TensorStatistics],
                       feeds: Sequence[Arrays], progress: Callable[[int, int], None] = lambda done, total: None,
                       ) -> dict[str, Calibrator]:
    """Leader of each group -> its calibrator.

    Errors of single values nearly add up, unless one of them is cut off where later samples need it. So the mixture
    that is best value by value on a few samples is judged on the others, all values rounded at once, beside every
    calibrator that serves all values alike.
    """
    mixed = _value_by_value(network, plan, statistics, feeds[:CHOOSING], progress)
    choices = {name: dict.fromkeys(mixed, calibrator) for name, calibrator in CALIBRATORS.items()} | {"auto": mixed}
    judges = feeds[CHOOSING:] or feeds
    expected = Walk(network, judges).outputs()
    alone = replace(plan, weights=(), biases=())
    error = {name: _lost(expected, Walk(write_plan(network, alone, statistics, choice), judges).outputs())
             for name, choice in choices.items()}
    return choices[_best(error)]


def _value_by_value(network: ir.Model, plan: QuantPlan, statistics: Mapping[str, TensorStatistics],
                    feeds: Sequence[Arrays], progress: Callable[[int, int], None]) -> dict[str, Calibrator]:
    """Leader -> calibrator. Each source of a group is rounded alone, on each of the ranges that differ, in the float
    network; what the outputs then lose is added up over the sources.
    """
    merged = group_statistics(network.graph, plan, statistics)
    trials = {leader: _trials(found, plan) for leader, found in merged.items()}
    error = {leader: dict.fromkeys(grids, 0.0) for leader, grids in trials.items()}
    position = {node: number for number, node in enumerate(network.graph)}
    values = {value.name: value for node in network.graph for value in node.outputs}
    values |= {value.name: value for value in network.graph.inputs}

    def place(value: ir.Value) -> int:
        producer = value.producer()
        return -1 if producer is None else position[producer]

    sources = sorted((values[name] for name in plan.sources if len(trials.get(plan.groups[name], ())) > 1), key=place)
    walk = Walk(network, feeds)
    expected = walk.outputs()
    for number, value in enumerate(sources):
        leader = plan.groups[value.name or ""]
        walk.advance(place(value))
        exact = walk.values[value.name or ""]
        for name, params in trials[leader].items():
            rounded = [dequantize(quantize(array, params), params) for array in exact]
            error[leader][name] += _lost(expected, walk.rest(value, rounded))
        progress(number + 1, len(sources))
    return {leader: CALIBRATORS[_best(found)] for leader, found in error.items()}


def _trials(statistics: TensorStatistics, plan: QuantPlan) -> dict[str, QuantParams]:
    """Calibrator -> its grid, the default first; those whose grid another one has already are left out."""
    assert plan.activation is not None
    found: dict[str, QuantParams] = {}
    for name in (DEFAULT, *(name for name in CALIBRATORS if name != DEFAULT)):
        params = grid(*CALIBRATORS[name](statistics, plan.activation.bits), plan.activation)
        low, high = params.real_range()
        if not any(np.allclose((low, high), other.real_range(), rtol=0, atol=(high - low) * _ALIKE)
                   for other in found.values()):
            found[name] = params
    return found


def _lost(expected: Columns, got: Columns) -> float:
    """Squared error of the outputs in units of their own squares, summed over the outputs."""
    lost = 0.0
    for name in expected.keys() & got.keys():
        exact, found = (np.concatenate([array.astype(np.float64).ravel() for array in columns[name]])
                        for columns in (expected, got))
        lost += float(np.square(found - exact).sum() / max(float(np.square(exact).sum()), 1e-30))
    return lost


def _best(errors: Mapping[str, float]) -> str:
    best = min(errors, key=errors.__getitem__)
    return best if errors[best] < MARGIN * errors[DEFAULT] else DEFAULT
