"""Weights fitted to data, layer by layer from the inputs on, each to what the weights before it left."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeq import policy
from edgeq.dimensions import free_dimensions
from edgeq.graph import attribute, constant, label
from edgeq.graph import shape as shape_of
from edgeq.inference.comparable import has_known_size
from edgeq.inference.partial import PartialRun
from edgeq.inference.session import Arrays
from edgeq.ops import MATRIX_PRODUCTS, MULTIPLY_ACCUMULATE
from edgeq.quant.plan import QuantPlan, Weight
from edgeq.quant.rounding import nearest, sum_preserving
from edgeq.quant.solve.geometry import Geometry, Product, Window
from edgeq.quant.solve.layer import DEFAULT, Layer, Settings, Solution, solve
from edgeq.quant.solve.moments import Moments
from edgeq.quant.solve.scales import Blocks
from edgeq.quant.solve.table import Tabled, round_to_tables, solve_tables
from edgeq.quant.weights import quantize_weight, weight_params
from edgeq.scheme import Granularity, PerBlock, PerTensor, QuantParams, QuantType, dequantize

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """One weight and the bias behind it. stored: integers in the weight's shape."""

    params: QuantParams
    stored: NDArray[np.int8]
    bias: Array | None


# float model, plan -> weight name -> what was found
Fitter: TypeAlias = Callable[[ir.Model, QuantPlan], dict[str, Fitted]]


@dataclass(frozen=True, slots=True)
class Fit:
    """How to fit weights, and to what. feeds: samples, input name -> array."""

    feeds: Sequence[Arrays]
    settings: Settings = DEFAULT

    def __call__(self, model: ir.Model, plan: QuantPlan) -> dict[str, Fitted]:
        """Weight name -> its integers, of the weights that can be fitted; the others are left to rounding.

        model: float; it stays as it is. Activations are not rounded in front of a layer, its weights alone are: the
        error of a value that was cut off belongs to its sample, and weights that make up for it lose on others.
        """
        layers = _layers(model.graph, plan)
        replaced: dict[str, Array] = {}
        free = free_dimensions(model)
        nodes = [node for node, *_ in layers]
        exact = PartialRun(model, self.feeds, needed=nodes)
        quantized = PartialRun(model, self.feeds, needed=nodes, replaced=replaced)
        fitted: dict[str, Fitted] = {}
        for node, weight, geometry in layers:
            exact.run_until(node)
            quantized.run_until(node)
            data = constant(node.inputs[1])
            assert data is not None
            data = data.astype(np.float32)
            # Rows that the data choose are others once the weights in front are rounded: no pairs to learn from.
            paired = has_known_size(node.inputs[0], free)
            moments = gather_moments(geometry, geometry.rows(data),
                                     (quantized if paired else exact).inputs(node, 0), exact.inputs(node, 0))
            bias = model.graph.initializers.get(weight.bias)
            alone = bias is not None and len(bias.uses()) == 1
            result = _fit(data, weight, geometry, moments, self.settings, constant(bias) if alone else None)
            fitted[weight.value] = result
            replaced[weight.value] = dequantize(result.stored, result.params)
            if result.bias is not None:
                replaced[weight.bias] = result.bias
        return fitted


def _layers(graph: ir.Graph, plan: QuantPlan) -> list[tuple[ir.Node, Weight, Geometry]]:
    """In graph order, what can be fitted: a weight that one node reads alone, and whose columns we know."""
    planned = {weight.node: weight for weight in plan.weights}
    readers = [weight.value for weight in plan.weights]
    layers = []
    for node in graph:
        weight = planned.get(label(node))
        if weight is not None and readers.count(weight.value) == 1 and not weight.shares_embedding:
            geometry = geometry_of(node)
            if geometry is not None:
                layers.append((node, weight, geometry))
    return layers


def geometry_of(node: ir.Node) -> Geometry | None:
    """How a multiply-accumulate node reads its input, or None where this module does not know: what a recurrent layer
    multiplies its weights with exists inside it alone.
    """
    if node.op_type not in MULTIPLY_ACCUMULATE:
        return None
    assert node.inputs[1] is not None
    shape = shape_of(node.inputs[1])
    if node.op_type in MATRIX_PRODUCTS:
        scaled = attribute(node, "alpha", 1.0) != 1.0 or attribute(node, "beta", 1.0) != 1.0
        plain = len(shape) == 2 and not attribute(node, "transA", 0) and not scaled
        return Product(bool(attribute(node, "transB", 0))) if plain else None
    if attribute(node, "auto_pad", "NOTSET") not in ("NOTSET", ""):
        return None
    kernel = shape[2:]
    rank = len(kernel)
    ones = (1,) * rank
    strides = tuple(attribute(node, "strides", ones))
    dilations = tuple(attribute(node, "dilations", ones))
    pads = tuple(attribute(node, "pads", (0,) * (2 * rank)))
    group = int(attribute(node, "group", 1))
    if node.op_type == "Conv":
        return Window(group, kernel, strides, dilations, pads[:rank], pads[rank:], ones)
    if attribute(node, "output_shape") is not None:
        return None
    reach = [d * (k - 1) for d, k in zip(dilations, kernel, strict=True)]
    extra = attribute(node, "output_padding", (0,) * rank)
    before = tuple(r - p for r, p in zip(reach, pads[:rank], strict=True))
    after = tuple(r - p + e for r, p, e in zip(reach, pads[rank:], extra, strict=True))
    if min(*before, *after) < 0:
        return None
    return Window(group, kernel, ones, dilations, before, after, strides, mirrored=True)


def gather_moments(geometry: Geometry, rows: Array, quantized: Sequence[NDArray[Any]],
                   exact: Sequence[NDArray[Any]]) -> tuple[Moments, Moments]:
    """The moments to fit to and, of every fourth sample, those to judge by. rows: of the weights [G,R,n]. quantized,
    exact: what enters the layer in both models, one array for each sample.
    """
    groups, _, size = rows.shape
    training, validation = Moments.empty(groups, size), Moments.empty(groups, size)
    share = -(-max(policy.FIT_LEAST_COLUMNS.value, policy.FIT_COLUMNS_EACH.value * size) // len(quantized))
    for number, (after, before) in enumerate(zip(quantized, exact, strict=True)):
        count = geometry.positions(after.shape)
        chosen = np.arange(count)
        if count > share:
            chosen = np.sort(np.random.default_rng(number).choice(count, share, replace=False))
        moments = validation if (number + 1) % policy.FIT_VALIDATION_ONE_IN.value == 0 else training
        columns = geometry.columns(after, chosen)
        moments.add(columns, columns if before is after else geometry.columns(before, chosen))
    return training, validation if validation.count else training


def _fit(data: Array, weight: Weight, geometry: Geometry, moments: tuple[Moments, Moments], settings: Settings,
         bias: Array | None) -> Fitted:
    if weight.table_channels:
        return _fit_tables(data, weight, geometry, moments, settings, bias)
    plain = weight_params(data, weight.type)
    rows, granularity = geometry.rows(data), weight.type.granularity
    blocks = Blocks(not isinstance(granularity, PerTensor),
                    granularity.size if isinstance(granularity, PerBlock) else rows.shape[2])
    scales = _by_row(plain.scale, geometry, granularity)
    layer = Layer(rows, blocks, weight.type.range[1], scales * policy.FIT_SMALLEST_CLIP.value, bias is not None)
    rounded = [Solution(geometry.rows(quantize_weight(data, plain, rounding).astype(np.float32)), scales)
               for rounding in (sum_preserving, nearest)]
    found = solve(layer, *moments, rounded, settings)
    stored = geometry.weight(found.integers, data.shape).astype(np.int8)
    params = replace(plain, scale=_by_weight(found.scales, plain.scale.shape, geometry, granularity))
    moved = bias + found.shift.reshape(-1) if bias is not None and found.shift is not None else None
    return Fitted(params, stored, moved)


def _fit_tables(data: Array, weight: Weight, geometry: Geometry, moments: tuple[Moments, Moments], settings: Settings,
                bias: Array | None) -> Fitted:
    found = solve_tables(geometry.rows(data), weight.table_channels, *moments, bias is not None, settings)
    moved = bias + found.shift.reshape(-1) if bias is not None and found.shift is not None else None
    return Fitted(_tabled_params(found, weight), geometry.weight(found.integers, data.shape).astype(np.int8), moved)


def rounded_to_tables(data: Array, weight: Weight, geometry: Geometry) -> Fitted:
    """A weight of tables without samples."""
    found = round_to_tables(geometry.rows(data), weight.table_channels)
    return Fitted(_tabled_params(found, weight), geometry.weight(found.integers, data.shape).astype(np.int8), None)


def _tabled_params(found: Tabled, weight: Weight) -> QuantParams:
    """8-bit integers, which standard ONNX holds, of which each table knows 16."""
    zero_point = np.zeros(len(found.scale), np.int32)
    return QuantParams(QuantType(8, granularity=weight.type.granularity), found.scale, zero_point)


def _by_row(scale: Array, geometry: Geometry, granularity: Granularity) -> Array:
    """The scales of a QuantParams, in the order of the rows [S]."""
    return geometry.rows(scale).reshape(-1) if isinstance(granularity, PerBlock) else scale.reshape(-1)


def _by_weight(scales: Array, shape: tuple[int, ...], geometry: Geometry, granularity: Granularity) -> Array:
    """The inverse of `_by_row`."""
    if isinstance(granularity, PerBlock):
        scales = geometry.weight(scales.reshape(geometry.rows(np.zeros(shape, np.float32)).shape), shape)
    return np.array(scales, np.float32).reshape(shape)
