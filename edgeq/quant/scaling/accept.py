"""Which of the proposed scales is carried out where: the one with the least measured error, or none."""
from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeq import policy
from edgeq.graph import constant, label
from edgeq.inference.partial import PartialRun
from edgeq.inference.session import Arrays
from edgeq.ops import CONVOLUTIONS
from edgeq.quant.fit import gather_moments, geometry_of
from edgeq.quant.plan import QuantPlan, Weight
from edgeq.quant.scaling.places import SCALED, Place, Reader, find_places
from edgeq.quant.scaling.proposals import PROPOSALS, Channels, Scale
from edgeq.quant.solve.gptq import gptq
from edgeq.quant.solve.grids import Blocks, clipped_steps
from edgeq.quant.solve.moments import Moments, objective
from edgeq.scheme import PerBlock, PerTensor

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Scaled:
    """A place whose channels were scaled. error_ratio: of the error that its readers measured, after to before."""

    place: str
    method: str
    error_ratio: float


@dataclass(frozen=True, slots=True, eq=False)
class Sight:
    """What one reader sees of its channels [C]: their extremes, and moments to round by and to judge by."""

    fitted: Moments
    held: Moments
    low: Array
    high: Array
    mean: Array


def scale_channels(model: ir.Model, plan: QuantPlan, methods: Collection[str], feeds: Sequence[Arrays] | None,
                   *, fitted: bool) -> list[Scaled]:
    """Scale channels of the float `model`, in place, where one of `methods` (of PROPOSALS) lowers the error.

    feeds: samples; without, weights alone are compared, as if inputs were as large as the weights that write them, and
    independent. fitted: weights will be fitted to samples rather than rounded, and are so in the comparison.
    """
    planned = {weight.node: weight for weight in plan.weights}
    open_ = [place for place in find_places(model.graph) if all(
        label(reader.node) in planned and geometry_of(reader.node) is not None for reader in place.readers)]
    if feeds is None:
        return _without_samples(open_, planned, plan, methods)
    untouched = model.clone()
    twins = dict(zip(model.graph, untouched.graph, strict=True))
    readers = {reader.node: reader for place in open_ for reader in place.readers}
    nodes = [node for node in model.graph if node in readers]
    run = PartialRun(untouched, feeds, needed=[twins[node] for node in nodes])
    sights: dict[ir.Node, Sight] = {}
    found = []
    for node in nodes:
        run.run_until(twins[node])
        sights[node] = sight_of(readers[node], twins[node], run.inputs(twins[node], 0))
        ready = [place for place in open_ if all(reader.node in sights for reader in place.readers)]
        found += [done for place in ready if (done := _decide(place, sights, planned, plan, methods, fitted=fitted))]
        open_ = [place for place in open_ if place not in ready]
        sights = {node: sights[node] for place in open_ for reader in place.readers
                  if (node := reader.node) in sights}
    return found


def _without_samples(places: Sequence[Place], planned: Mapping[str, Weight], plan: QuantPlan, methods: Collection[str],
                     ) -> list[Scaled]:
    """Chains of layers are gone through until they stand still, and what neither helps nor hurts a place is done too:
    only so do the layers on both sides of a depthwise one, which scales cannot hurt, come to terms.
    """
    found = {place: Scaled(place.name, "", 1.0) for place in places}
    for _ in range(policy.SCALING_ROUNDS.value):
        for place in places:
            done = _decide(place, {}, planned, plan, methods, fitted=False, least=1.0 + 1e-6)
            if done is not None:
                found[place] = replace(done, error_ratio=found[place].error_ratio * done.error_ratio)
    return [done for done in found.values() if done.error_ratio < policy.SCALING_GAIN.value]


def sight_of(reader: Reader, twin: ir.Node, inputs: Sequence[NDArray[Any]]) -> Sight:
    """What a reader sees of its channels in the inputs of its `twin` in an untouched model, one for each sample."""
    geometry, data = geometry_of(twin), constant(twin.inputs[1])
    assert geometry is not None
    assert data is not None
    axis = 1 if twin.op_type in CONVOLUTIONS else -1
    flat = [np.moveaxis(array, axis, 0).reshape(array.shape[axis] // reader.repeat, -1) for array in inputs]
    low, high = np.min([part.min(1) for part in flat], axis=0), np.max([part.max(1) for part in flat], axis=0)
    mean = np.mean([np.abs(part).mean(1) for part in flat], axis=0)
    return Sight(*gather_moments(geometry, geometry.rows(data.astype(np.float32)), inputs, inputs), low, high,
                 mean.astype(np.float32))


def _decide(place: Place, sights: Mapping[ir.Node, Sight], planned: Mapping[str, Weight], plan: QuantPlan,
            methods: Collection[str], *, fitted: bool, least: float = policy.SCALING_GAIN.value) -> Scaled | None:
    """Carry out the best scale of a place, where its error is below `least` of the error without."""
    seen = [sights[reader.node] for reader in place.readers] if sights else []
    channels = Channels(place.after, place.before,
                        np.max([np.maximum(-s.low, s.high) for s in seen], axis=0) if seen else None,
                        np.mean([s.mean for s in seen], axis=0) if seen else None, place.gain)

    def error(scale: Scale) -> float:
        return sum(rounding_error(reader, planned[label(reader.node)], scale, sights.get(reader.node), channels, plan,
                                  fitted=fitted) for reader in place.readers)

    before = error(np.ones(place.channels, np.float32))
    trials = [(error(scale), name, scale) for name in methods for scale in PROPOSALS[name](channels)]
    after, name, scale = min(trials, key=lambda trial: trial[0], default=(before, "", None))
    if scale is None or not after < least * before:
        return None
    place.apply(scale)
    return Scaled(place.name, name, after / before)


def rounding_error(reader: Reader, weight: Weight, scale: Scale, sight: Sight | None, channels: Channels,
                   plan: QuantPlan, *, fitted: bool) -> float:
    """Of the reader's output, from rounding its weights and its input, in units of the output's square."""
    geometry, data = geometry_of(reader.node), constant(reader.node.inputs[1])
    assert geometry is not None
    assert data is not None
    data = data.astype(np.float32)
    plain, rows = geometry.rows(data), geometry.rows(reader.scale(data, scale))
    spread = geometry.rows(reader.scale(np.ones_like(data), scale))[:, :1]  # [G,1,n]: the scale of every column
    if sight is None:
        power = geometry.rows(reader.scale(np.ones_like(data), channels.before if channels.before is not None
                                           else np.ones_like(scale)))[:, :1]
        square: Array = np.eye(plain.shape[2], dtype=np.float32) * power**2
        moments = held = Moments(square, square, np.zeros(square.shape[:2]), np.zeros(square.shape[:2]), 1)
    else:
        moments, held = sight.fitted, sight.held
    free = bool(weight.bias)
    problem = objective(rows, _scaled(moments, spread), free_bias=free)
    judged = objective(rows, _scaled(held, spread), free_bias=free, damping=1e-6)
    rounded = _rounded(rows, problem.square, weight, fitted)
    total = judged.error(rounded).sum()
    read = reader.node.inputs[0]
    name = "" if read is None else (read.name or "").removesuffix(SCALED)  # as it was called when the plan was made
    if sight is not None and plan.activation is not None and name in plan.groups:
        low, high = min((sight.low / scale).min(), 0.0), max((sight.high / scale).max(), 0.0)
        step = (high - low) / (2**plan.activation.bits - 1)
        total += step**2 / 12 * np.square(rows, dtype=np.float64).sum()
    energy = objective(plain, held, free_bias=False, damping=1e-6).square
    return float(total / max(np.einsum("grn,grn->", plain @ energy, plain, dtype=np.float64), 1e-30))


def _scaled(moments: Moments, spread: Array) -> Moments:
    """The moments of inputs that are divided by `spread` [G,1,n]."""
    square = moments.square / (spread * np.swapaxes(spread, 1, 2))
    seen = moments.seen / spread[:, 0]
    return Moments(square, square, seen, seen, moments.count)


def _rounded(rows: Array, square: Array, weight: Weight, fitted: bool) -> Array:
    """The weights [G,R,n] behind their grid."""
    granularity, limit = weight.type.granularity, weight.type.range[1]
    blocks = Blocks(not isinstance(granularity, PerTensor),
                    granularity.size if isinstance(granularity, PerBlock) else rows.shape[2])
    least = np.full(len(blocks.split(rows)), np.abs(rows).max() * 1e-6 + 1e-12, np.float32)
    steps = clipped_steps(rows, square, blocks, limit, least, candidates=policy.SCALING_CLIPS.value if fitted else 1)
    step = blocks.spread(steps, rows.shape)
    codes = gptq(rows.copy(), square, step, limit) if fitted else np.clip(np.rint(rows / step), -limit, limit)
    return np.asarray(codes * step, np.float32)
