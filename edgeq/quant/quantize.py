"""Write a plan into a model as QuantizeLinear and DequantizeLinear: one standard ONNX graph that any runtime
executes.
"""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import NameFixPass

from edgeq.graph import all_nodes, bodies, constant, initializer, label
from edgeq.quant.calibrate.calibrators import Calibrator
from edgeq.quant.calibrate.statistics import TensorStatistics
from edgeq.quant.fit import Fitted, Fitter, geometry_of, rounded_to_tables
from edgeq.quant.float16 import store_half_in_place
from edgeq.quant.params import grid
from edgeq.quant.plan import Bias, QuantPlan, Weight
from edgeq.quant.qdq import DEQUANTIZE, QUANTIZE
from edgeq.quant.rounding import Rounding, sum_preserving
from edgeq.quant.scale_search import ScaleSearch, full
from edgeq.quant.weights import (
    bias_params,
    quantize_bias,
    quantize_weight,
    stored_array,
    weight_params,
    widen_for_bias,
)
from edgeq.scheme import PerBlock, PerChannel, QuantParams, QuantType, broadcast, dequantize
from edgeq.scheme import quantize as to_integers
from edgeq.targets import Fixed


def quantize(model: ir.Model, plan: QuantPlan, statistics: Mapping[str, TensorStatistics],
             calibrator: Calibrator | Mapping[str, Calibrator], rounding: Rounding = sum_preserving,
             fit: Fitter | None = None, search: ScaleSearch = full) -> ir.Model:
    """The model with its plan carried out, as a copy. statistics: of every source of the plan. calibrator: of all
    groups, or of each by its leader. rounding, search: of weights and of their steps, where none are fitted. fit: how
    to fit them to data.

        x -> Conv(w, b) -> Relu -> y      =>      x -> Q -> DQ -> Conv(DQ(int8 w), DQ(int32 b)) -> Relu -> Q -> DQ -> y
    """
    result = model.clone()
    writer = _Writer(result.graph, plan, _grids(model.graph, plan, statistics, calibrator), rounding, search)
    writer.write_activations()
    writer.write_weights(fit(model, plan) if fit is not None else {})
    store_half_in_place(result, [result.graph.initializers[name] for name in plan.half])
    NameFixPass()(result)
    return result


def group_statistics(graph: ir.Graph, plan: QuantPlan, statistics: Mapping[str, TensorStatistics],
                     ) -> dict[str, TensorStatistics]:
    """Leader -> the statistics of everything that brings numbers into its group."""
    merged: dict[str, TensorStatistics] = {}
    for name, leader in plan.groups.items():
        data = constant(graph.initializers[name]) if name in graph.initializers else None
        found = statistics.get(name) if data is None else TensorStatistics.empty().add(data)
        if found is not None and leader not in plan.fixed:
            merged[leader] = merged[leader].merge(found) if leader in merged else found
    return merged


def _grids(graph: ir.Graph, plan: QuantPlan, statistics: Mapping[str, TensorStatistics],
           calibrator: Calibrator | Mapping[str, Calibrator]) -> dict[str, QuantParams]:
    """planned value -> its grid; one per group."""
    if plan.activation is None:
        return {}
    grids = {leader: _prescribed(plan.activation, fixed) for leader, fixed in plan.fixed.items()}
    for leader, found in group_statistics(graph, plan, statistics).items():
        choose = calibrator[leader] if isinstance(calibrator, Mapping) else calibrator
        grids[leader] = grid(*choose(found, plan.activation.bits), plan.activation)
    return {name: grids[leader] for name, leader in plan.groups.items()}


def _prescribed(kind: QuantType, fixed: Fixed) -> QuantParams:
    return QuantParams(kind, np.array(fixed.scale, np.float32), np.array(fixed.zero_point, np.int32))


class _Writer:
    """Inserts the Q and DQ nodes of one plan into one graph."""

    def __init__(self, graph: ir.Graph, plan: QuantPlan, grids: Mapping[str, QuantParams], rounding: Rounding,
                 search: ScaleSearch):
        self.graph, self.plan, self.grids, self.rounding, self.search = graph, plan, grids, rounding, search
        self.nodes = {label(node): node for node in graph}
        self.order = {node: position for position, node in enumerate(graph)}
        self.outermost = {inner: node for node in graph for body in bodies(node) for inner in all_nodes(body)}
        self.values = {value.name or "": value for node in graph for value in (*node.inputs, *node.outputs) if value}

    def write_weights(self, fitted: Mapping[str, Fitted]) -> None:
        for weight in {weight.value: weight for weight in self.plan.weights}.values():
            biases = [bias for bias in self.plan.biases if bias.weight == weight.value]
            found = fitted.get(weight.value) or self._from_table(weight)
            if found is not None and found.bias is not None:
                self.graph.initializers[weight.bias].const_value = ir.tensor(found.bias, name=weight.bias)
            self._write_weight(weight.value, weight.type, biases, found)

    def _from_table(self, weight: Weight) -> Fitted | None:
        """A weight of tables that was not fitted."""
        node = self.nodes.get(weight.node) if weight.table_channels else None
        geometry = None if node is None else geometry_of(node)
        return None if geometry is None else rounded_to_tables(self._data(weight.value), weight, geometry)

    def _write_weight(self, name: str, kind: QuantType, biases: list[Bias], fitted: Fitted | None) -> None:
        """One weight and the biases of every node that reads it (a shared weight has several)."""
        value = self.graph.initializers[name]
        weight = self._data(name)
        params = weight_params(weight, kind, self.search) if fitted is None else fitted.params
        for bias in biases:
            params = widen_for_bias(params, self.grids[bias.activation], self._data(bias.value), weight, bias.bits)
        if fitted is not None and not np.array_equal(params.scale, fitted.params.scale):
            if params.type.bits == kind.bits:  # where a channel's step is another one, its integers are too
                kept = broadcast(params.scale == fitted.params.scale, kind.granularity, weight.shape)
                stored = np.where(kept, fitted.stored, quantize_weight(weight, params, self.rounding))
            else:  # a table, whose numbers move to the new step
                stored = to_integers(dequantize(fitted.stored, fitted.params), params).astype(np.int8)
            fitted = replace(fitted, stored=stored)
        for bias in [bias for bias in biases if bias.bits == 32]:
            addend = self._data(bias.value)
            offsets = bias_params(params, np.float32(self.grids[bias.activation].scale), addend.size)
            self._store(self.graph.initializers[bias.value], quantize_bias(addend, offsets), offsets,
            self.nodes[bias.node])
        stored = quantize_weight(weight, params, self.rounding) if fitted is None else fitted.stored
        self._store(value, stored, params, *(use.node for use in value.uses()))

    def _data(self, name: str) -> NDArray[np.float32]:
        data = constant(self.graph.initializers[name])
        assert data is not None
        return data.astype(np.float32, copy=False)

    def _store(self, value: ir.Value, stored: NDArray[Any], params: QuantParams, *readers: ir.Node) -> None:
        """Replace float data by integers and a DQ in front of its readers."""
        name = value.name or ""
        data = initializer(self.graph, f"{name}_q", stored_array(stored, params.type), value)
        unique = data.name or ""
        to_real = self._node(DEQUANTIZE, [data, *self._parameters(name, params)], params, unique)
        real = to_real.outputs[0]
        real.name, real.shape, real.type = f"{unique}_dq", value.shape, ir.TensorType(ir.DataType.FLOAT)
        outermost = [self.outermost.get(reader, reader) for reader in readers]
        self.graph.insert_before(min(outermost, key=self.order.__getitem__), to_real)
        for use in list(value.uses()):
            if use.node in readers:
                use.node.replace_input_with(use.idx, real)
        if not value.uses() and not value.is_graph_output():
            del self.graph.initializers[name]

    def write_activations(self) -> None:
        for name, params in self.grids.items():
            value = self.values[name]
            if name in self.graph.initializers and not value.is_graph_input():
                uses = [use.node for use in value.uses() if (label(use.node), use.idx) in self.plan.readers]
                self._store(value, to_integers(self._data(name), params), params, *uses)
            else:
                self._round(value, params)

    def _round(self, value: ir.Value, params: QuantParams) -> None:
        """value -> Q -> DQ, read by everyone when the kernel stores integers, else only by the nodes that want them."""
        name = value.name or ""
        everyone = name in self.plan.rounded
        readers = [(use.node, use.idx) for use in value.uses()
                   if everyone or (label(use.node), use.idx) in self.plan.readers]
        was_output = value.is_graph_output() and everyone
        parameters = self._parameters(name, params)
        to_grid = self._node(QUANTIZE, [value, *parameters], params, name)
        stored = to_grid.outputs[0]
        stored.name, stored.shape = f"{name}_q", value.shape
        stored.type = ir.TensorType(_dtype(params))
        to_real = self._node(DEQUANTIZE, [stored, *parameters], params, name)
        real = to_real.outputs[0]
        real.name, real.shape, real.type = f"{name}_dq", value.shape, value.type
        producer = value.producer()
        if producer is None:
            self.graph.insert_before(self.graph[0], [to_grid, to_real])
        else:
            self.graph.insert_after(producer, [to_grid, to_real])
        for node, index in readers:
            node.replace_input_with(index, real)
        if was_output:
            self._take_over_output(value, real)

    def _take_over_output(self, value: ir.Value, real: ir.Value) -> None:
        name = value.name
        value.name = f"{name}_float"
        real.name = name
        outputs = self.graph.outputs
        outputs[outputs.index(value)] = real

    def _parameters(self, name: str, params: QuantParams) -> list[ir.Value]:
        scale = initializer(self.graph, f"{name}_scale", params.scale)
        zero_point = initializer(self.graph, f"{name}_zero_point", stored_array(params.zero_point, params.type))
        return [scale, zero_point]

    def _node(self, op_type: str, inputs: list[ir.Value], params: QuantParams, name: str) -> ir.Node:
        attributes: dict[str, int] = {}
        match params.type.granularity:
            case PerChannel(axis):
                attributes = {"axis": axis}
            case PerBlock(size, axis):
                attributes = {"axis": axis, "block_size": size}
        return ir.node(op_type, inputs, attributes, name=f"{name}_{op_type}")


def _dtype(params: QuantParams) -> ir.DataType:
    return ir.DataType[f"{'' if params.type.signed else 'U'}INT{params.type.bits}"]
