"""What TensorRT's parser or builder refuses, or cannot fuse, as rules with their sources: better said here than on the
device after minutes.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import onnx_ir as ir

from edgeq.graph import all_nodes, constant, is_constant, label
from edgeq.ops import MATRIX_PRODUCTS
from edgeq.quant.qdq import DEQUANTIZE, QUANTIZE, grid_of, stored_dtype
from edgeq.scheme import PerBlock, PerTensor
from edgeq_converters.tensorrt.operands import dequantizers

_OPERATORS: Final = "https://github.com/onnx/onnx-tensorrt/blob/main/docs/operators.md"
_EXPLICIT: Final = "https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/work-quantized-types.html"
_RESIDUAL: Final = "https://docs.nvidia.com/deeplearning/tensorrt/tensorflow-quantization-toolkit/docs/docs/add_custom_qdq_cases.html"
# No document says it. Its builder does, of MatMul in float16: "type mismatch between matmul operand scales".
_BUILDER: Final = "https://pypi.org/project/tensorrt-rtx-cu12-libs/1.7.1.116/"
_BIAS: Final = "https://github.com/microsoft/onnxruntime/issues/14229"

# Marked N there.
UNSUPPORTED: Final = frozenset({
    "BitShift", "Compress", "ConcatFromSequence", "Det", "Hardmax", "MaxRoiPool", "MaxUnpool", "Multinomial",
    "NegativeLogLikelihoodLoss", "RandomNormal", "RandomNormalLike", "SequenceAt", "SequenceConstruct",
    "SequenceEmpty", "SequenceErase", "SequenceInsert", "SequenceLength", "SoftmaxCrossEntropyLoss", "SplitToSequence",
    "StringNormalizer", "TfIdfVectorizer", "Unique", "DFT", "STFT", "MelWeightMatrix",
})
INTEGER_OPS: Final = frozenset({
    "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear"})
STORED: Final = (ir.DataType.INT8, ir.DataType.INT4, ir.DataType.INT32)  # of int32, float-bias says more
_CONVERT: Final = "convert the float model with --target tensorrt"


@dataclass(frozen=True, slots=True)
class Rule:
    """check: node -> why it breaks the rule, or ''. refused: by the parser or the builder; else it runs, and slower."""

    name: str
    source: str
    remedy: str
    check: Callable[[ir.Node], str]
    refused: bool = True


@dataclass(frozen=True, slots=True)
class Finding:
    """One node that breaks one rule."""

    rule: str
    node: str
    op: str
    reason: str
    source: str
    remedy: str
    refused: bool


def lint(graph: ir.Graph) -> list[Finding]:
    """Everything that breaks a rule, in graph order, control-flow bodies included."""
    return [Finding(rule.name, label(node), node.op_type, reason, rule.source, rule.remedy, rule.refused)
            for node in all_nodes(graph) for rule in RULES if (reason := rule.check(node))]


def _operator(node: ir.Node) -> str:
    if node.domain not in ("", "ai.onnx"):
        return f"TensorRT has no domain '{node.domain}'"
    return "TensorRT's parser has no such operator" if node.op_type in UNSUPPORTED else ""


def _integer_operator(node: ir.Node) -> str:
    return "quantized networks are QuantizeLinear and DequantizeLinear around float operators" if (
        node.op_type in INTEGER_OPS) else ""


def _constant_grid(node: ir.Node) -> str:
    return "its scale or zero point is computed" if _is_qdq(node) and grid_of(node) is None else ""


def _zero_point(node: ir.Node) -> str:
    grid = grid_of(node) if _is_qdq(node) else None
    return "its zero point is not 0" if grid is not None and grid.zero_point.any() else ""


def _signed(node: ir.Node) -> str:
    if not _is_qdq(node) or stored_dtype(node) in STORED:
        return ""
    return f"its integers are {stored_dtype(node).name}"


def _bias(node: ir.Node) -> str:
    return "an int32 value is dequantized; biases are float" if (
        node.op_type == DEQUANTIZE and stored_dtype(node) == ir.DataType.INT32) else ""


def _activation_scale(node: ir.Node) -> str:
    grid = grid_of(node) if _is_qdq(node) and not is_constant(node.inputs[0]) else None
    return "activations have one scale for the whole tensor" if (
        grid is not None and not isinstance(grid.type.granularity, PerTensor)) else ""


def _int4(node: ir.Node) -> str:
    if not _is_qdq(node) or stored_dtype(node) != ir.DataType.INT4:
        return ""
    if node.op_type == QUANTIZE or constant(node.inputs[0]) is None:
        return "INT4 is for weights"
    grid = grid_of(node)
    rank = len(node.inputs[0].shape or ()) if node.inputs[0] is not None else 0
    if grid is None or not isinstance(grid.type.granularity, PerBlock) or grid.type.granularity.axis < rank - 2:
        return "INT4 has scales in blocks along one of the last two axes"
    for use in node.outputs[0].uses():
        data = use.node.inputs[0]
        producer = data.producer() if data is not None else None
        if producer is not None and producer.op_type == DEQUANTIZE:
            return f"'{label(use.node)}' multiplies INT4 weights with INT8 activations"
    return ""


def _scale_types(node: ir.Node) -> str:
    """A product in float32 is multiplied as such, whatever its scales are."""
    if node.op_type not in MATRIX_PRODUCTS or node.domain != "" or node.outputs[0].dtype == ir.DataType.FLOAT:
        return ""
    scales = [each.inputs[1] for each in dequantizers(node)]
    types = sorted({scale.dtype.name for scale in scales if scale is not None and scale.dtype is not None})
    return f"the scales of what it multiplies are {' and '.join(types)}" if len(types) > 1 else ""


def _residual(node: ir.Node) -> str:
    """Conv -> Q -> DQ -> Add <- DQ <- Q: both inputs are rounded, and the first need not be."""
    if node.op_type != "Add" or node.domain != "":
        return ""
    rounded = [_rounded(value) for value in node.inputs]
    product = next((value.producer() for value in rounded if value is not None and _is_product(value)), None)
    if None in rounded or product is None:
        return ""
    return f"'{label(product)}' is rounded before the sum, so that no kernel computes both"


def _is_product(value: ir.Value) -> bool:
    producer = value.producer()
    return producer is not None and producer.op_type == "Conv" and len(value.uses()) == 1


def _rounded(value: ir.Value | None) -> ir.Value | None:
    """x of x -> Q -> DQ -> value."""
    for op in (DEQUANTIZE, QUANTIZE):
        producer = None if value is None else value.producer()
        if producer is None or producer.op_type != op:
            return None
        value = producer.inputs[0]
    return value


def _is_qdq(node: ir.Node) -> bool:
    return node.op_type in (QUANTIZE, DEQUANTIZE) and node.domain == ""


RULES: Final = (
    Rule("supported-operators", _OPERATORS, "run this part outside the network, or choose --target onnxruntime",
         _operator),
    Rule("qdq-only", _OPERATORS, _CONVERT, _integer_operator),
    Rule("constant-grids", _EXPLICIT, _CONVERT, _constant_grid),
    Rule("zero-point-0", _OPERATORS, _CONVERT, _zero_point),
    Rule("signed-integers", _EXPLICIT, _CONVERT, _signed),
    Rule("float-bias", _BIAS, _CONVERT, _bias),
    Rule("one-activation-scale", _EXPLICIT, _CONVERT, _activation_scale),
    Rule("int4-weights-in-blocks", _EXPLICIT, "add --activations float, or use --bits 8", _int4),
    Rule("one-type-of-scales", _BUILDER, _CONVERT, _scale_types),
    Rule("one-rounded-summand", _RESIDUAL, _CONVERT, _residual, refused=False),
)
