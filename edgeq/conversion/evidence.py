"""Where the error of a conversion comes from: the quantized graph beside the float one, layer by layer."""
from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeq.errors import EdgeqError
from edgeq.graph import constant
from edgeq.ops import LIMITING, MULTIPLY_ACCUMULATE
from edgeq.quant.qdq import DEQUANTIZE, grid_of
from edgeq.report.facts import LayerSize
from edgeq.report.html import NOT_VERIFIED, WORST, Evidence
from edgeq.report.plots import Weights
from edgeq.scheme import broadcast
from edgeq.verification.layers import LayerComparison, compare_graphs
from edgeq.verification.references import References

FEEDS: Final = 4  # of the verification's: the page shows where the error comes from, it does not measure an accuracy
GENERATED_FEEDS: Final = 1  # noise is like noise
SHOWN_WEIGHTS: Final = 20000


@dataclass(frozen=True)
class Layers:
    """network: the float model. graph: the same quantized, or the network itself where there is nothing to compare."""

    network: ir.Model
    graph: ir.Model
    references: References

    @cached_property
    def evidence(self) -> Evidence:
        """Computed once for all bundles of a conversion, when the first asks for it."""
        found = self._comparison()
        if isinstance(found, str):
            return Evidence(found, sizes=self.sizes)
        named = [*found.worst(WORST), *([] if found.first_broken is None else [found.first_broken])]
        weights = {layer.value: self._weights(layer.value) for layer in named}
        return Evidence(found, {value: some for value, some in weights.items() if some is not None},
                        self.sizes)

    @property
    def unverified(self) -> Evidence:
        return Evidence(NOT_VERIFIED, sizes=self.sizes)

    @cached_property
    def sizes(self) -> tuple[LayerSize, ...]:
        """The bytes of every constant of the quantized graph, by the layer that reads it first."""
        found: dict[str, list[tuple[int, str, str, str]]] = {}
        for value in self.graph.graph.initializers.values():
            reader = _reader(value)
            if reader is not None and value.const_value is not None:
                kind = value.const_value.dtype.name.lower()
                found.setdefault(reader.outputs[0].name or "", []).append(
                    (value.const_value.nbytes, reader.op_type, (value.name or "").removesuffix("_q"), kind))
        return tuple(LayerSize(layer, *max(parts)[1:], sum(part[0] for part in parts))
                     for layer, parts in found.items())

    def _comparison(self) -> LayerComparison | str:
        """Every layer of the quantized graph, or why there is none."""
        if self.graph is self.network:
            return "The model came quantized, so there is no float model to compare it with."
        if self.references.large:
            return "The layers were not compared: the float model is larger than what is held in memory at once."
        try:
            count = FEEDS if self.references.real else GENERATED_FEEDS
            return compare_graphs(self.network, self.graph, self.references.alone[:count])
        except EdgeqError as error:  # the page is no reason to lose the bundle
            return f"The layers could not be compared: {error}"

    def _weights(self, name: str) -> Weights | None:
        """The quantized weights of the product behind a value."""
        node = next((value.producer() for node in self.network.graph for value in node.outputs
                     if value.name == name), None)
        while node is not None and node.op_type in (*LIMITING, "Add") and node.op_type not in MULTIPLY_ACCUMULATE:
            node = next((value.producer() for value in node.inputs if value is not None and value.producer()), None)
        if node is None or node.op_type not in MULTIPLY_ACCUMULATE:
            return None
        weight = node.inputs[1]
        data = constant(weight)
        if weight is None or data is None:
            return None
        for reader in self.graph.graph:
            source = reader.inputs[0] if reader.op_type == DEQUANTIZE else None
            grid = grid_of(reader) if source is not None and source.name == f"{weight.name}_q" else None
            stored = constant(source)
            if grid is not None and stored is not None and stored.shape == data.shape:
                steps = data.astype(np.float32) / broadcast(grid.scale, grid.type.granularity, data.shape)
                return Weights(weight.name or "", _some(steps), _some(stored.astype(np.int32)), grid.type.range,
                               grid.type.bits)
        return None


def _reader(value: ir.Value) -> ir.Node | None:
    """What computes with a constant, behind its dequantization."""
    reader = next((node for node, _ in value.uses()), None)
    while reader is not None and reader.op_type == DEQUANTIZE:
        reader = next((node for node, _ in reader.outputs[0].uses()), None)
    return reader


def _some(array: NDArray[Any]) -> NDArray[Any]:
    flat = array.ravel()
    return flat[::max(1, flat.size // SHOWN_WEIGHTS)]
