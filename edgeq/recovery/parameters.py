"""What a quantized graph may learn, and how it comes back into the graph: in the same places, types and grids."""
from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray

from edgeq import policy
from edgeq.graph import is_constant, only_reader
from edgeq.quant.qdq import DEQUANTIZE, grid_of
from edgeq.quant.weights import bias_params, quantize_bias, stored_array
from edgeq.recovery.forms import Tensor, rounded, spread_grid
from edgeq.recovery.network import as_tensor
from edgeq.scheme import PerBlock, PerChannel, QuantParams, dequantize

Learn: TypeAlias = Literal["scales", "weights"]


class Learned(Protocol):
    """One constant of the graph. Its numbers are learned relative to their own size, so that one rate fits all."""

    @property
    def tensors(self) -> list[Tensor]:
        """What the optimizer moves; zeros where nothing was learned."""

    def value(self) -> tuple[str, Tensor]:
        """The name of the value that the graph computes with, and what it is now."""

    def write(self, graph: ir.Graph) -> None:
        """Into the graph's constants."""


@dataclass(frozen=True, slots=True, eq=False)
class Vector:
    """A bias or a norm's gain in float32."""

    name: str
    begin: Tensor
    move: Tensor

    @classmethod
    def of(cls, value: ir.Value) -> Vector:
        begin = as_tensor(value)
        return cls(value.name or "", begin, torch.zeros_like(begin, requires_grad=True))

    @property
    def tensors(self) -> list[Tensor]:
        return [self.move]

    def value(self) -> tuple[str, Tensor]:
        return self.name, self.begin + self.move * _size(self.begin)

    def write(self, graph: ir.Graph) -> None:
        _set(graph.initializers[self.name], self.value()[1].detach().numpy())


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """Integers of weights and their scales. drift: of the codes, in steps, where these are learned too. twin: whose
    codes these are, transposed: a head's, of the embedding.

    Straight through: a code is the nearest integer to where its weight went (Esser et al. 2020, arXiv:1902.08153,
    without their rescaled gradients).
    """

    node: ir.Node
    params: QuantParams
    codes: Tensor
    begin: Tensor
    log_scale: Tensor
    drift: Tensor | None
    twin: Grid | None = None

    @classmethod
    def of(cls, node: ir.Node, params: QuantParams, learn: Learn, weight: NDArray[np.float32] | None) -> Grid:
        """weight: what the codes were rounded from, where known: a code begins there, as far as it stays the same."""
        stored, scale = node.inputs[0], node.inputs[1]
        assert stored is not None
        assert scale is not None
        codes = as_tensor(stored).to(torch.float32)
        log_scale = torch.zeros(params.scale.shape, requires_grad=True)
        found = cls(node, params, codes, codes, log_scale, None)
        if learn == "scales":
            return found
        begin = codes
        if weight is not None:
            inside = policy.RECOVERY_BEGIN.value
            real = torch.from_numpy(np.array(weight)) / found._spread(torch.from_numpy(np.array(params.scale)))
            begin = torch.clamp(real, codes - inside, codes + inside)
        return cls(node, params, codes, begin, log_scale, torch.zeros_like(codes, requires_grad=True))

    @property
    def tensors(self) -> list[Tensor]:
        return [self.log_scale] if self.drift is None else [self.log_scale, self.drift]

    def value(self) -> tuple[str, Tensor]:
        return self.node.outputs[0].name or "", self._codes() * self._spread(self._scale())

    def new_params(self) -> QuantParams:
        scale = np.asarray(self._scale().detach().numpy(), np.float32)
        return QuantParams(self.params.type, scale, self.params.zero_point)

    def write(self, graph: ir.Graph) -> None:
        stored, scale = self.node.inputs[0], self.node.inputs[1]
        assert stored is not None
        assert scale is not None
        _set(scale, self.new_params().scale)
        if self.drift is not None or self.twin is not None:
            codes = self._codes().detach().numpy().astype(np.int8)
            _set(stored, stored_array(codes, self.params.type))

    def _codes(self) -> Tensor:
        if self.twin is not None:
            return self.twin._codes().T
        if self.drift is None:
            return self.codes
        return rounded(torch.clamp(self.begin + self.drift, *map(float, self.params.type.range)))

    def _scale(self) -> Tensor:
        return torch.from_numpy(np.array(self.params.scale)) * torch.exp(self.log_scale)

    def _spread(self, scale: Tensor) -> Tensor:
        match self.params.type.granularity:
            case PerChannel(axis):
                return spread_grid(scale, self.codes.shape, axis, 0)
            case PerBlock(size, axis):
                return spread_grid(scale, self.codes.shape, axis, size)
        return scale.reshape(())


@dataclass(frozen=True, slots=True, eq=False)
class IntegerBias:
    """A bias of 32 bits on the product grid of an activation, whose scale stays, and of a weight, whose does not.

    What is learned is the real number; the integers are made anew once the weight's scale is known.
    """

    node: ir.Node
    weight: Grid
    begin: Tensor
    move: Tensor

    @property
    def tensors(self) -> list[Tensor]:
        return [self.move]

    def value(self) -> tuple[str, Tensor]:
        return self.node.outputs[0].name or "", self.begin + self.move * _size(self.begin)

    def write(self, graph: ir.Graph) -> None:
        stored, scale = self.node.inputs[0], self.node.inputs[1]
        assert stored is not None
        assert scale is not None
        before = np.asarray(as_tensor(scale).numpy()).reshape(-1)
        weight = np.broadcast_to(self.weight.params.scale.reshape(-1), before.shape)
        params = bias_params(self.weight.new_params(), np.float32(before[0] / weight[0]), before.size)
        _set(stored, quantize_bias(self.value()[1].detach().numpy(), params))
        _set(scale, params.scale)



def learnable(graph: ir.Graph, floats: Mapping[str, NDArray[np.float32]], learn: Learn) -> list[Learned]:
    """Everything that a QDQ graph may learn. floats: the float network's weights, by name."""
    grids: dict[str, Grid] = {}
    for grid in _grids(graph, floats, learn):
        twin = next((other for other in grids.values() if _are_transposed(other.codes, grid.codes)), None)
        grids[grid.node.outputs[0].name or ""] = grid if twin is None or learn == "scales" else replace(
            grid, drift=None, twin=twin)
    biases = [found for node in graph if (found := _integer_bias(node, grids)) is not None]
    vectors = [Vector.of(value) for value in graph.initializers.values() if _is_learned_vector(value)]
    return [*grids.values(), *biases, *vectors]


def _grids(graph: ir.Graph, floats: Mapping[str, NDArray[np.float32]], learn: Learn) -> Iterator[Grid]:
    """Of weights that one DequantizeLinear reads, whose integers lie around 0."""
    for node in graph:
        params = grid_of(node) if node.op_type == DEQUANTIZE and is_constant(node.inputs[0]) else None
        if params is None or params.type.bits > 8 or not params.type.symmetric or len(node.inputs[0].uses()) > 1:  # type: ignore[union-attr]
            continue
        stored = node.inputs[0].name or ""  # type: ignore[union-attr]
        weight = floats.get(stored.removesuffix("_q"))
        same = weight is not None and list(weight.shape) == list(node.inputs[0].shape or ())  # type: ignore[union-attr]
        yield Grid.of(node, params, learn, weight if same else None)


def _are_transposed(table: Tensor, codes: Tensor) -> bool:
    return codes.ndim == 2 and table.shape == codes.T.shape and table is not codes and torch.equal(table, codes.T)


def _integer_bias(node: ir.Node, grids: Mapping[str, Grid]) -> IntegerBias | None:
    """Where one node adds a bias of 32 bits to the products of a weight that is learned."""
    params = grid_of(node) if node.op_type == DEQUANTIZE and is_constant(node.inputs[0]) else None
    reader = only_reader(node.outputs[0])
    if params is None or params.type.bits != 32 or reader is None:
        return None
    weight = grids.get(reader.inputs[1].name or "") if len(reader.inputs) > 2 and reader.inputs[1] else None
    if weight is None:
        return None
    stored = as_tensor(node.inputs[0]).numpy()  # type: ignore[arg-type]
    begin = torch.from_numpy(dequantize(stored, params))
    return IntegerBias(node, weight, begin, torch.zeros_like(begin, requires_grad=True))


def _is_learned_vector(value: ir.Value) -> bool:
    """A float constant with one axis, that is added, or that multiplies: a bias or a norm's gain."""
    if not is_constant(value) or value.dtype is not ir.DataType.FLOAT or value.is_graph_output():
        return False
    sizes = [int(size) for size in value.const_value.shape.numpy()]  # type: ignore[union-attr]
    if sum(size > 1 for size in sizes) != 1:
        return False
    return all((use.node.op_type, use.idx) in _VECTORS for use in value.uses())


_VECTORS = frozenset({
    *((op, index) for op in ("Add", "Mul", "Sub") for index in (0, 1)),
    *((op, index) for op in ("LayerNormalization", "InstanceNormalization", "BatchNormalization") for index in (1, 2)),
    ("Conv", 2), ("ConvTranspose", 2), ("Gemm", 2),
})


def _size(values: Tensor) -> Tensor:
    """The root of the mean square; 1 where that is 0."""
    size = values.square().mean().sqrt()
    return torch.where(size > 0, size, torch.ones_like(size))


def _set(value: ir.Value, data: NDArray[Any]) -> None:
    old = value.const_value
    assert old is not None
    value.const_value = ir.tensor(np.ascontiguousarray(data).reshape(tuple(old.shape.numpy())), dtype=old.dtype,
                                  name=value.name)
