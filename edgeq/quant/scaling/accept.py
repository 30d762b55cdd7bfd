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
from edgeq.quant.formats.grid import Whole
from edgeq.quant.plan import QuantPlan, Weight
from edgeq.quant.scaling.proposals import PROPOSALS, Channels, Scale
from edgeq.quant.scaling.sites import SCALED, Reader, ScalingSite, find_sites
from edgeq.quant.solve.gptq import gptq
from edgeq.quant.solve.moments import Moments, objective
from edgeq.quant.solve.scales import Blocks, clipped_scales
from edgeq.scheme import PerBlock, PerTensor

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Scaled:
    """A site whose channels were scaled. place: its name. error_ratio: of the error at its readers, after to before."""

    place: str
    method: str
    error_ratio: float


@dataclass(frozen=True, slots=True, eq=False)
class ReaderStats:
    """What one reader sees of its channels [C]: their extremes, and moments to round by and to judge by."""

    training: Moments
    validation: Moments
    low: Array
    high: Array
    mean: Array


def scale_channels(model: ir.Model, plan: QuantPlan, methods: Collection[str], feeds: Sequence[Arrays] | None,
                   *, fitted: bool) -> list[Scaled]:
    """Scale channels of the float `model`, in place, where one of `methods` (of PROPOSALS) lowers the error.

    feeds: samples; without, weights alone are compared, as if inputs were as large as the weights that write them, and
    independent. fitted: weights will be fitted to samples rather than rounded, and are so in the comparison.
    """
    if feeds is not None:
        return scale_alternatives([(model, methods)], plan, feeds, fitted=fitted)[0]
    planned = _planned(plan)
    return _without_samples(_open_sites(model, planned), planned, plan, methods)


def scale_alternatives(trials: Sequence[tuple[ir.Model, Collection[str]]], plan: QuantPlan, feeds: Sequence[Arrays], *,
                       fitted: bool) -> list[list[Scaled]]:
    """`scale_channels` of several copies of one network, each by its own methods, with one run of the samples."""
    planned = _planned(plan)
    open_ = [_open_sites(model, planned) for model, _ in trials]
    untouched = trials[0][0].clone()
    twins = [dict(zip(model.graph, untouched.graph, strict=True)) for model, _ in trials]
    readers = {twins[0][reader.node]: reader for site in open_[0] for reader in site.readers}
    nodes = [node for node in untouched.graph if node in readers]
    run = PartialRun(untouched, feeds, needed=nodes)
    stats: dict[ir.Node, ReaderStats] = {}
    found: list[list[Scaled]] = [[] for _ in trials]
    for node in nodes:
        run.run_until(node)
        stats[node] = reader_stats(readers[node], node, run.inputs(node, 0))
        for (_, methods), twin, sites, done in zip(trials, twins, open_, found, strict=True):
            seen = {reader: stats[twin[reader.node]] for site in sites for reader in site.readers
                    if twin[reader.node] in stats}
            ready = [site for site in sites if all(reader in seen for reader in site.readers)]
            done += [one for site in ready if (one := _decide(site, seen, planned, plan, methods, fitted=fitted))]
            sites[:] = [site for site in sites if site not in ready]
        kept = {twins[0][reader.node] for site in open_[0] for reader in site.readers}
        stats = {node: stats[node] for node in kept if node in stats}
    return found


def _planned(plan: QuantPlan) -> dict[str, Weight]:
    return {weight.node: weight for weight in plan.weights}


def _open_sites(model: ir.Model, planned: Collection[str]) -> list[ScalingSite]:
    """Those whose readers are all rounded, and of which we know the columns."""
    return [site for site in find_sites(model.graph) if all(
        label(reader.node) in planned and geometry_of(reader.node) is not None for reader in site.readers)]


def _without_samples(sites: Sequence[ScalingSite], planned: Mapping[str, Weight], plan: QuantPlan,
                     methods: Collection[str]) -> list[Scaled]:
    """Chains of layers are gone through until they stand still, and what neither helps nor hurts a site is done too:
    only so do the layers on both sides of a depthwise one, which scales cannot hurt, converge.
    """
    found = {site: Scaled(site.name, "", 1.0) for site in sites}
    for _ in range(policy.SCALING_ROUNDS.value):
        for site in sites:
            done = _decide(site, {}, planned, plan, methods, fitted=False, least=1.0 + 1e-6)
            if done is not None:
                found[site] = replace(done, error_ratio=found[site].error_ratio * done.error_ratio)
    return [done for done in found.values() if done.error_ratio < policy.SCALING_GAIN.value]


def reader_stats(reader: Reader, twin: ir.Node, inputs: Sequence[NDArray[Any]]) -> ReaderStats:
    """What a reader sees of its channels in the inputs of its `twin` in an untouched model, one for each sample."""
    geometry, data = geometry_of(twin), constant(twin.inputs[1])
    assert geometry is not None
    assert data is not None
    axis = 1 if twin.op_type in CONVOLUTIONS else -1
    flat = [np.moveaxis(array, axis, 0).reshape(array.shape[axis] // reader.repeat, -1) for array in inputs]
    low, high = np.min([part.min(1) for part in flat], axis=0), np.max([part.max(1) for part in flat], axis=0)
    mean = np.mean([np.abs(part).mean(1) for part in flat], axis=0)
    moments = gather_moments(geometry, geometry.rows(data.astype(np.float32)), inputs, inputs)
    return ReaderStats(*moments, low, high, mean.astype(np.float32))


def _decide(site: ScalingSite, stats: Mapping[Reader, ReaderStats], planned: Mapping[str, Weight], plan: QuantPlan,
            methods: Collection[str], *, fitted: bool, least: float = policy.SCALING_GAIN.value) -> Scaled | None:
    """Carry out the best scale of a site, where its error is below `least` of the error without. Which is best is
    found by rounding, whether it is good enough by what will be done to the weights, which may take long.
    """
    known = [stats[reader] for reader in site.readers] if stats else []
    channels = Channels(site.after, site.before,
                        np.max([np.maximum(-s.low, s.high) for s in known], axis=0) if known else None,
                        np.mean([s.mean for s in known], axis=0) if known else None, site.gain)

    def error(scale: Scale, fitted: bool) -> float:
        return sum(rounding_error(reader, planned[label(reader.node)], scale, stats.get(reader), channels, plan,
                                  fitted=fitted) for reader in site.readers)

    proposals = [(name, scale) for name in methods for scale in PROPOSALS[name](channels)]
    if not proposals:
        return None
    name, scale = min(proposals, key=lambda proposal: error(proposal[1], False))
    before, after = error(np.ones(site.channels, np.float32), fitted), error(scale, fitted)
    if not after < least * before:
        return None
    site.apply(scale)
    return Scaled(site.name, name, after / before)


def rounding_error(reader: Reader, weight: Weight, scale: Scale, stats: ReaderStats | None, channels: Channels,
                   plan: QuantPlan, *, fitted: bool) -> float:
    """Of the reader's output, from rounding its weights and its input, in units of the output's square."""
    geometry, data = geometry_of(reader.node), constant(reader.node.inputs[1])
    assert geometry is not None
    assert data is not None
    data = data.astype(np.float32)
    plain, rows = geometry.rows(data), geometry.rows(reader.scale(data, scale))
    spread = geometry.rows(reader.scale(np.ones_like(data), scale))[:, :1]  # [G,1,n]: the scale of every column
    if stats is None:
        power = geometry.rows(reader.scale(np.ones_like(data), channels.before if channels.before is not None
                                           else np.ones_like(scale)))[:, :1]
        gram: Array = np.eye(plain.shape[2], dtype=np.float32) * power**2
        training = validation = Moments(gram, gram, np.zeros(gram.shape[:2]), np.zeros(gram.shape[:2]), 1)
    else:
        training, validation = stats.training, stats.validation
    free = bool(weight.bias)
    problem = objective(rows, _scaled(training, spread), free_bias=free)
    judged = objective(rows, _scaled(validation, spread), free_bias=free, damping=1e-6)
    rounded = _rounded(rows, problem.hessian, weight, fitted)
    total = judged.error(rounded).sum()
    read = reader.node.inputs[0]
    name = "" if read is None else (read.name or "").removesuffix(SCALED)  # as it was called when the plan was made
    if stats is not None and plan.activation is not None and name in plan.groups:
        low, high = min((stats.low / scale).min(), 0.0), max((stats.high / scale).max(), 0.0)
        step = (high - low) / (2**plan.activation.bits - 1)
        total += step**2 / 12 * np.square(rows, dtype=np.float64).sum()
    energy = objective(plain, validation, free_bias=False, damping=1e-6).hessian
    return float(total / max(np.einsum("grn,grn->", plain @ energy, plain, dtype=np.float64), 1e-30))


def _scaled(moments: Moments, spread: Array) -> Moments:
    """The moments of inputs that are divided by `spread` [G,1,n]."""
    gram = moments.gram / (spread * np.swapaxes(spread, 1, 2))
    inputs = moments.quantized / spread[:, 0]
    return Moments(gram, gram, inputs, inputs, moments.count)


def _rounded(rows: Array, hessian: Array, weight: Weight, fitted: bool) -> Array:
    """The weights [G,R,n] after rounding."""
    granularity, qmax = weight.type.granularity, weight.type.range[1]
    blocks = Blocks(not isinstance(granularity, PerTensor),
                    granularity.size if isinstance(granularity, PerBlock) else rows.shape[2])
    least = np.full(len(blocks.split(rows)), np.abs(rows).max() * 1e-6 + 1e-12, np.float32)
    scales = clipped_scales(rows, hessian, blocks, qmax, least, candidates=policy.SCALING_CLIPS.value if fitted else 1)
    scale = blocks.spread(scales, rows.shape)
    levels = Whole(-qmax, qmax)
    integers = gptq(rows.copy(), hessian, scale, levels) if fitted else levels.nearest(rows / scale)
    return np.asarray(integers * scale, np.float32)
