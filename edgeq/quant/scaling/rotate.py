"""Which streams are rotated: those where the layers on both sides then lose less to rounding."""
from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final

import numpy as np
import onnx_ir as ir

from edgeq import policy
from edgeq.graph import label
from edgeq.inference.partial import PartialRun
from edgeq.inference.session import Arrays
from edgeq.quant.fit import geometry_of
from edgeq.quant.plan import QuantPlan, Weight
from edgeq.quant.scaling.accept import Scaled, reader_stats, rounding_error
from edgeq.quant.scaling.proposals import Channels
from edgeq.quant.scaling.rotations import rotation
from edgeq.quant.scaling.sites import Reader
from edgeq.quant.scaling.streams import RotatableStream, find_streams

ROTATE: Final = "rotate"


def rotate_channels(model: ir.Model, plan: QuantPlan, feeds: Sequence[Arrays], *, fitted: bool) -> list[Scaled]:
    """Rotate the streams of the float `model`, in place, each as a whole where that lowers the sum of its products'
    relative errors -> where it did. Both what writes a stream and what reads it counts: both get other weights.
    Arguments are those of `scale_channels`.
    """
    planned = {weight.node: weight for weight in plan.weights}
    done: dict[RotatableStream, Scaled] = {}
    for batch in _batches(list(find_streams(model.graph)), planned):
        nodes = [node for products in batch.values() for node in products]
        before = _errors(model, nodes, planned, plan, feeds, fitted)
        seed = policy.ROTATION_SEED.value
        undo = {stream: stream.apply(rotation(stream.size, seed, keeps_mean=stream.keeps_mean)) for stream in batch}
        after = _errors(model, nodes, planned, plan, feeds, fitted)
        for stream, products in batch.items():
            ratio = sum(after[node] for node in products) / max(sum(before[node] for node in products), 1e-30)
            if ratio < policy.SCALING_GAIN.value:
                done[stream] = Scaled(stream.name, ROTATE, ratio)
            else:
                undo[stream]()
    for stream in done:
        stream.rename()
    return list(done.values())


def _batches(streams: Sequence[RotatableStream], planned: Collection[str],
             ) -> list[dict[RotatableStream, list[ir.Node]]]:
    """Streams that are decided on at the same time, since no product belongs to two of them, each with its products
    that become integers. Those with the most come first.
    """
    integers = {stream: [node for node in stream.products if label(node) in planned and geometry_of(node) is not None]
                for stream in streams}
    batches: list[dict[RotatableStream, list[ir.Node]]] = []
    for stream, products in sorted(integers.items(), key=lambda item: -len(item[1])):
        free = (batch for batch in batches if not any(set(products) & set(others) for others in batch.values()))
        batch = next(free, None)
        if batch is None:
            batches.append(batch := {})
        batch[stream] = products
    return batches


def _errors(model: ir.Model, nodes: Collection[ir.Node], planned: Mapping[str, Weight], plan: QuantPlan,
            feeds: Sequence[Arrays], fitted: bool) -> dict[ir.Node, float]:
    """Product -> the squared error of its output from rounding, in units of the output's square."""
    ordered = [node for node in model.graph if node in nodes]
    run, errors = PartialRun(model, feeds, needed=ordered), {}
    for node in ordered:
        run.run_until(node)
        reader = Reader(node)
        stats = reader_stats(reader, node, run.inputs(node, 0))
        ones = np.ones_like(stats.mean)
        errors[node] = rounding_error(reader, planned[label(node)], ones, stats, Channels(ones), plan,
                                      fitted=fitted)
    return errors
