"""How constant integers reach the op that reads them: one form per kind of reader.

ONNX Runtime never folds a DequantizeLinear of a constant while its QDQ mode is on: one that no kernel absorbs runs in
every inference. So each constant gets a form that a kernel absorbs, or one that folds when the session loads.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeq.graph import attribute, initializer, is_constant, label
from edgeq.graph import shape as shape_of
from edgeq.ops import MATRIX_PRODUCTS
from edgeq.quant.qdq import DEQUANTIZE, QUANTIZE, grid_of
from edgeq.quant.weights import stored_array
from edgeq.scheme import PerBlock, PerChannel, PerTensor, QuantParams, broadcast
from edgeq_converters.onnxruntime.fusion import float_reason, is_static, written_params
from edgeq_converters.onnxruntime.keep_float_weights import is_between_integers

# Feature of the written graph -> the first release that runs it well. Measured with the releases 1.18 to 1.31.
NEEDS: Final[Mapping[str, tuple[int, int]]] = MappingProxyType({
    "opset 21": (1, 18),
    "int4 data": (1, 19),
    "MatMul in integers": (1, 20),          # earlier: no QLinearMatMul of opset 21, the model does not load
    "Cast of int4": (1, 23),                # earlier: no such kernel
    "int4 per channel in MatMul": (1, 25),  # earlier: DequantizeLinear in every run, 50 times slower
})


Shape: TypeAlias = tuple[int, ...]
Form: TypeAlias = Callable[["WeightForms", ir.Node, QuantParams, Shape, ir.Node, int], None]


@dataclass(slots=True)
class WeightForms:
    """Rewrites the constants of one graph; `used` collects the keys of NEEDS."""

    graph: ir.Graph
    used: set[str] = field(default_factory=lambda: {"opset 21"})
    has_matmul_nbits: bool = False
    made: int = 0

    @property
    def engine_version(self) -> str:
        """The specifier of the oldest release that runs every form that was used."""
        return ">={}.{}".format(*max(NEEDS[feature] for feature in self.used))

    def rewrite(self) -> None:
        """Every DequantizeLinear of a constant, once per reader. The kernels are asked before anything changes."""
        plans = []
        for node in [node for node in self.graph if node.op_type == DEQUANTIZE]:
            params, stored = grid_of(node), node.inputs[0]
            if params is None or stored is None or not is_constant(stored) or node.outputs[0].is_graph_output():
                continue
            plans += [(node, params, shape_of(stored), use.node, use.idx,
                       self._form(use.node, use.idx, params, shape_of(stored)))
                      for use in node.outputs[0].uses()]
        for node, params, shape, reader, index, form in plans:
            if params.type.bits == 4:
                self.used.add("int4 data")
            if form is not None:
                form(self, node, params, shape, reader, index)

    def _form(self, reader: ir.Node, index: int, params: QuantParams, shape: Shape) -> Form | None:
        """The method that rewrites this constant for this reader; None to leave it as it is."""
        if reader.graph is not self.graph:
            return WeightForms.unfolded  # no fusion looks into a body, or out of one
        if reader.op_type == "Gather" and index == 0 and params.same_grid(written_params(reader.outputs[0])):
            return None  # looks up integers: DropQDQNodesRules, in the file of `_ORT` in edgeq.targets
        if reader.op_type == "Gather" and index == 0 and _is_by_row(reader, params):
            return WeightForms.gathered
        if is_static(reader) and not float_reason(reader):
            return WeightForms.widened if params.type.bits == 4 else None
        if index == 2 and is_between_integers(reader):
            return None  # a DQ here is what keeps the float weights float, see anchors
        if index == 1 and _fits_nbits(reader, params, shape):
            return WeightForms.blocked
        return WeightForms.unfolded

    def widened(self, node: ir.Node, params: QuantParams, shape: Shape, reader: ir.Node, index: int) -> None:
        """4 bits on disk, an int8 kernel at run time.

            Conv(DQ(int4 w))      =>      Conv(DQ(Cast(int4 w, int8)))

        The Cast folds at load; DQ(int4) itself is refused by the selectors of Conv, Gemm and MatMul
        (`allow_4bit_weight_`), and then runs in float at half the speed.
        """
        self.used.add("Cast of int4")
        cast = self._cast(node, ir.DataType.INT8 if params.type.signed else ir.DataType.UINT8)
        kind = np.int8 if params.type.signed else np.uint8
        zero_point = initializer(self.graph, f"{cast.name}_zero_point", np.asarray(params.zero_point.astype(kind)))
        inputs = [cast, node.inputs[1], zero_point]  # QGemm's selector wants one even where it is zero
        attributes = {key: attr.value for key, attr in node.attributes.items()}
        reader.replace_input_with(index, self._node(node, DEQUANTIZE, inputs, attributes, "_dq"))

    def blocked(self, node: ir.Node, params: QuantParams, shape: Shape, reader: ir.Node, index: int) -> None:
        """Weights alone, float activations: DQ next to MatMul becomes MatMulNBits when the weight is [K,N].

            Gemm(x, DQ(int4 w [N,K], axis 1, block), transB=1)      =>      Gemm(x, DQ(int4 w [K,N], axis 0, block))

        ValidateDQForMatMulNBits: blocks of a power of two >= 16 along axis 0, or one scale for each column or for all.
        """
        self.has_matmul_nbits = True
        if not isinstance(params.type.granularity, PerBlock):
            self.used.add("int4 per channel in MatMul")
        if reader.op_type == "MatMul" or not attribute(reader, "transB", 0):
            return
        stored = node.inputs[0]
        assert stored is not None
        name = stored.name
        scale = params.scale.T if isinstance(params.type.granularity, PerBlock) else params.scale
        attributes = {key: attr.value for key, attr in node.attributes.items()}
        if not isinstance(params.type.granularity, PerTensor):
            attributes["axis"] = 1 - params.type.granularity.axis % 2
        inputs = [initializer(self.graph, f"{name}_transposed", transposed(stored)),
                  initializer(self.graph, f"{name}_transposed_scale", np.ascontiguousarray(scale))]
        if params.zero_point.any():
            zero_point = stored_array(params.zero_point, params.type)
            zero_point = zero_point.T if isinstance(params.type.granularity, PerBlock) else zero_point
            inputs.append(initializer(self.graph, f"{name}_transposed_zero_point", np.ascontiguousarray(zero_point)))
        result = self._node(node, DEQUANTIZE, inputs, attributes, "_transposed")
        result.shape, result.type = ir.Shape(shape[::-1]), ir.TensorType(ir.DataType.FLOAT)
        reader.replace_input_with(index, result)
        reader.attributes.pop("transB")

    def gathered(self, node: ir.Node, params: QuantParams, shape: Shape, reader: ir.Node, index: int) -> None:
        """An embedding: look up integers, then scale the few rows that were wanted.

            Gather(DQ(int8 table [V,D], scale [V]), ids)  =>  Mul(Cast(Gather(table, ids)), Gather(scale [V,1], ids))

        DQ -> Gather would dequantize the whole table in every run (2000 times slower at V = 32000).
        """
        table = node.inputs[0]
        if params.type.bits == 4:
            self.used.add("Cast of int4")  # Gather takes no 4-bit data
            table = self._cast(node, ir.DataType.INT8 if params.type.signed else ir.DataType.UINT8)
        name = reader.outputs[0].name
        rows = self._node(reader, "Gather", [table, reader.inputs[1]], {"axis": 0}, "_rows")
        real = self._node(reader, "Cast", [rows], {"to": ir.DataType.FLOAT}, "_float")
        column = (-1, *[1] * (len(shape) - 1)) if params.scale.ndim else ()
        scale = initializer(self.graph, f"{name}_scale", params.scale.reshape(column))
        if params.scale.ndim:
            scale = self._node(reader, "Gather", [scale, reader.inputs[1]], {"axis": 0}, "_scales")
        product = ir.node("Mul", [real, scale], name=label(reader))
        self.graph.insert_before(reader, product)
        result, old = product.outputs[0], reader.outputs[0]
        result.shape, result.type, old.name = old.shape, old.type, f"{name}_old"
        old.replace_all_uses_with(result, replace_graph_outputs=True)
        result.name = name
        self.graph.remove(reader, safe=True)

    def unfolded(self, node: ir.Node, params: QuantParams, shape: Shape, reader: ir.Node, index: int) -> None:
        """Integers on disk, float at run time: arithmetic that folds once at load, where DQ would run every time.

            ConvTranspose(x, DQ(int8 w, s, z))      =>      ConvTranspose(x, Mul(Sub(Cast(w, float), z), s))
        """
        if params.type.bits == 4:
            self.used.add("Cast of int4")
        value = self._cast(node, ir.DataType.FLOAT)
        scale, zero_point, split = _broadcastable(params, shape)
        if split is not None:
            value = self._reshape(node, value, split, "_blocks")
        if zero_point.any():
            offset = initializer(self.graph, f"{value.name}_zero_point", zero_point.astype(np.float32))
            value = self._node(node, "Sub", [value, offset], {}, "_centred")
        value = self._node(node, "Mul", [value, initializer(self.graph, f"{value.name}_scale", scale)], {}, "_real")
        if split is not None:
            value = self._reshape(node, value, shape, "_whole")
        value.shape, value.type = ir.Shape(shape), ir.TensorType(ir.DataType.FLOAT)
        reader.replace_input_with(index, value)

    def _cast(self, node: ir.Node, to: ir.DataType) -> ir.Value:
        return self._node(node, "Cast", [node.inputs[0]], {"to": to}, f"_{to.name.lower()}")

    def _reshape(self, node: ir.Node, value: ir.Value, shape: tuple[int, ...], suffix: str) -> ir.Value:
        target = initializer(self.graph, f"{value.name}{suffix}_shape", np.array(shape, np.int64))
        return self._node(node, "Reshape", [value, target], {}, suffix)

    def _node(self, before: ir.Node, op: str, inputs: list[Any], attributes: dict[str, Any], suffix: str) -> ir.Value:
        """Insert a node in front of another, with a name that says where it comes from -> its output."""
        made = ir.node(op, inputs, attributes)
        self.made += 1
        made.outputs[0].name = f"{before.outputs[0].name}{suffix}_{self.made}"
        self.graph.insert_before(before, made)
        return made.outputs[0]


def transposed(stored: ir.Value) -> ir.TensorProtocol:
    """[K,N] of a constant [N,K], computed when it is written."""
    tensor = stored.const_value
    assert tensor is not None
    return ir.LazyTensor(lambda: ir.tensor(np.ascontiguousarray(tensor.numpy().T), dtype=tensor.dtype),
                         tensor.dtype, ir.Shape(shape_of(stored)[::-1]))


def _is_by_row(gather: ir.Node, params: QuantParams) -> bool:
    by_row = params.type.granularity in (PerTensor(), PerChannel(0))
    return by_row and attribute(gather, "axis", 0) == 0 and not params.zero_point.any()


def _fits_nbits(reader: ir.Node, params: QuantParams, shape: Shape) -> bool:
    """True where ONNX Runtime makes MatMulNBits of a float activation and this weight, once it is [K,N].

    8-bit weights are left out: computed exactly (accuracy level 1) they run at a tenth of the speed of float.
    """
    if reader.op_type not in MATRIX_PRODUCTS or is_static(reader) or len(shape) != 2 or params.type.bits != 4:
        return False
    if any(use.node.op_type == QUANTIZE for use in reader.outputs[0].uses()):
        return False
    inner = 1 if attribute(reader, "transB", 0) else 0
    match params.type.granularity:
        case PerBlock(size, axis):
            fits = axis % 2 == inner and size >= 16 and not size & (size - 1) and shape[inner] % size == 0
        case PerChannel(axis):
            fits = axis % 2 != inner
        case PerTensor():
            fits = True
    return fits and (reader.op_type == "MatMul" or _is_plain(reader, shape[1 - inner]))


def _is_plain(gemm: ir.Node, width: int) -> bool:
    """A Gemm that only multiplies and adds a constant bias [N]."""
    scaled = attribute(gemm, "alpha", 1.0) != 1.0 or attribute(gemm, "beta", 1.0) != 1.0
    bias = gemm.inputs[2] if len(gemm.inputs) > 2 else None
    return not scaled and not attribute(gemm, "transA", 0) and (
        bias is None or (bias.shape is not None and tuple(bias.shape.dims) == (width,)))


def _broadcastable(params: QuantParams, shape: tuple[int, ...],
                   ) -> tuple[NDArray[np.float32], NDArray[np.int32], tuple[int, ...] | None]:
    """Scale and zero point that broadcast against data of `shape`, or against `split` where blocks divide an axis."""
    granularity = params.type.granularity
    if isinstance(granularity, PerBlock):
        axis = granularity.axis % len(shape)
        if shape[axis] % granularity.size == 0:
            split = (*shape[:axis], shape[axis] // granularity.size, granularity.size, *shape[axis + 1:])
            return np.expand_dims(params.scale, axis + 1), np.expand_dims(params.zero_point, axis + 1), split
    return broadcast(params.scale, granularity, shape), broadcast(params.zero_point, granularity, shape), None
