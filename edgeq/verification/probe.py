"""What a probe of a backend is made with: names of values, and the probe of everything that is a graph in ONNX.

A probe knows how one engine names its values; `Backend.probe` gives it.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx_ir as ir

from edgeq.backend import Seen
from edgeq.graph import consumers, is_constant
from edgeq.inference.session import Arrays, exposing, open_session
from edgeq.ops import LIMITING
from edgeq.quant.qdq import DEQUANTIZE, QUANTIZE, grid_of
from edgeq.scheme import PerTensor, QuantParams, dequantize
from edgeq_runtime.manifest import Manifest


def float_values(graph: ir.Graph) -> list[ir.Value]:
    values = [*graph.inputs, *(value for node in graph for value in node.outputs)]
    return [value for value in values if value.name and value.dtype == ir.DataType.FLOAT and not is_constant(value)]


def rounded_name(value: ir.Value) -> str:
    """The value that an integer kernel writes in place of this one: that of the activation which it performs."""
    readers = consumers(value)
    if len(readers) == 1 and readers[0].op_type in LIMITING and not value.is_graph_output():
        return readers[0].outputs[0].name or ""
    return value.name or ""


def is_inner(value: ir.Value) -> bool:
    """Whether only the bias, the activation or the rounding that its kernel performs reads it: no engine has it."""
    readers = consumers(value)
    if len(readers) != 1 or value.is_graph_output():
        return False
    producer, reader = value.producer(), readers[0]
    if producer is not None and producer.op_type == "MatMul" and reader.op_type == "Add":
        return any(_is_stored(other) for other in reader.inputs if other is not value)
    return reader.op_type in LIMITING or reader.op_type == QUANTIZE


def _is_stored(value: ir.Value | None) -> bool:
    """A constant, or one behind a DequantizeLinear."""
    producer = None if value is None else value.producer()
    return is_constant(value) or (producer is not None and producer.op_type == DEQUANTIZE
                                  and is_constant(producer.inputs[0]))


class GraphProbe:
    """A QDQ graph. Values on a grid are read as the integers behind their QuantizeLinear, so kernels still fuse.

    session_options: run it fused, as a bundle; None runs op by op, as the reference.
    """

    def __init__(self, model: ir.Model, network: ir.Model, session_options: Mapping[str, str] | None):
        known = {value.name for value in float_values(network.graph)}
        self._grids: dict[str, tuple[str, QuantParams]] = {}
        for node in model.graph:
            data = node.inputs[0] if node.inputs else None
            grid = grid_of(node) if node.op_type == QUANTIZE else None
            name = None if data is None or grid is None else _float_name(data, node.outputs[0], known)
            if name is not None and grid is not None and isinstance(grid.type.granularity, PerTensor):
                self._grids[name] = node.outputs[0].name or "", grid
        # A bundle leaves out the types of inner values; what has the name of a float value is one, or says otherwise.
        self._plain = [value.name or "" for node in model.graph for value in node.outputs
                       if value.name in known and value.name not in self._grids and not is_inner(value)
                       and value.dtype in (None, ir.DataType.FLOAT)]
        exposed = exposing(model, [*(stored for stored, _ in self._grids.values()), *self._plain])
        self._session = open_session(exposed, fused=session_options is not None, entries=session_options or {})

    @classmethod
    def of_bundle(cls, path: Path, network: ir.Model, manifest: Manifest) -> GraphProbe:
        """Of a bundle whose artifact is such a graph, run with the manifest's session options."""
        return cls(ir.load(path), network, manifest.options.get("session_options", {}))

    @property
    def names(self) -> Sequence[str]:
        return [*self._grids, *self._plain]

    def run(self, feed: Arrays) -> Mapping[str, Seen]:
        wanted = [*(stored for stored, _ in self._grids.values()), *self._plain]
        found = dict(zip(wanted, self._session.run(wanted, dict(feed)), strict=True)) if wanted else {}
        seen = {name: Seen(found[name]) for name in self._plain}
        for name, (stored, grid) in self._grids.items():
            seen[name] = Seen(dequantize(found[stored], grid), found[stored], grid)
        return seen


def _float_name(value: ir.Value, stored: ir.Value, known: set[str | None]) -> str | None:
    """The name in the float model of a value that is rounded: its own; that of its integers, which are called
    `<value>_q` also where the backend computes the value in another shape; or, for an output, the rounded value's.
    """
    rounded = [out.name for reader in consumers(stored) if reader.op_type == DEQUANTIZE for out in reader.outputs]
    names = [value.name, (stored.name or "").removesuffix("_q"), *rounded]
    return next((name for name in names if name in known), None)
