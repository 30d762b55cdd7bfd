"""ONNX Runtime: the standard QDQ graph in the forms that its fusions recognize, weights beside it."""
from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import onnx_ir as ir

from edgeq.backend import Artifact, EmitOptions
from edgeq.errors import Problem, UnsupportedModel
from edgeq.graph import QUANTIZED, all_nodes, label
from edgeq.passes.quantized_moves import move_weights
from edgeq.quant.qdq import DEQUANTIZE
from edgeq_converters.onnxfile import MODEL, drop_unread, save
from edgeq_converters.onnxruntime.fusion import float_nodes, float_reason, is_static
from edgeq_converters.onnxruntime.hard_swish import integer_hard_swish
from edgeq_converters.onnxruntime.interface import note_interface, unsigned_interface
from edgeq_converters.onnxruntime.keep_float_weights import anchor_float_weights
from edgeq_converters.onnxruntime.limits import limit_integers
from edgeq_converters.onnxruntime.lstm import dynamic_lstm
from edgeq_converters.onnxruntime.masks import generate_masks
from edgeq_converters.onnxruntime.matmul import gemm_of_biased_matmul
from edgeq_converters.onnxruntime.padding import keep_zeros_before_max_pool
from edgeq_converters.onnxruntime.shared_embedding import store_tied_once
from edgeq_converters.onnxruntime.signedness import (
    explicit_zero_points,
    signed_weights,
    unsigned_activations,
    unsigned_operands,
)
from edgeq_converters.onnxruntime.strip_inferable import leave_out_the_spare
from edgeq_converters.onnxruntime.weights import WeightForms

DOMAINS: Final = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})

# MatMulNBits rounds activations to int8 per block (level 4), 3.3 times faster than in float (level 1) when a language
# model decodes. Four layers of it lie 39 dB from the graph as written, where 4-bit weights themselves leave 15 to 20.
# https://github.com/microsoft/onnxruntime/blob/main/include/onnxruntime/core/session/onnxruntime_session_options_config_keys.h
FAST_MATMUL: Final = {"session.qdq_matmulnbits_accuracy_level": "4"}
EXACT_MATMUL: Final = {"session.qdq_matmulnbits_accuracy_level": "1"}


def emit(model: ir.Model, folder: Path, options: EmitOptions) -> Artifact:
    """Write `model.onnx` (opset 21, IR 10), and `model.onnx.data` for weights of a megabyte and more.

    Raises:
        UnsupportedModel: nodes of a domain that ONNX Runtime does not have, all of them.
    """
    problems = [Problem(label(node), node.op_type, f"ONNX Runtime has no domain '{node.domain}'")
                for node in all_nodes(model.graph) if node.domain not in DOMAINS]
    if problems:
        raise UnsupportedModel("onnxruntime", problems)
    model = model.clone()
    exact = model.metadata_props.pop(QUANTIZED, None) is not None
    if exact:
        move_weights(model, blocks=True)
    graph = model.graph
    explicit_zero_points(graph)
    unsigned_activations(graph)
    note_interface(model)
    unsigned_interface(graph)
    unsigned_operands(graph)
    signed_weights(graph)
    limit_integers(graph)
    gemm_of_biased_matmul(graph)
    integer_hard_swish(graph)
    keep_zeros_before_max_pool(graph)
    fallbacks = float_nodes(graph)
    forms = WeightForms(graph)
    if dynamic_lstm(graph):
        forms.used.add("Cast of int4")
    if any(node.op_type == "MatMul" and is_static(node) and not float_reason(node) for node in graph):
        forms.used.add("MatMul in integers")
    forms.rewrite()
    anchor_float_weights(graph)
    store_tied_once(graph)
    generate_masks(graph)
    leave_out_the_spare(model)
    drop_unread(graph, DEQUANTIZE)
    save(model, folder)
    return Artifact(MODEL, "onnxruntime", forms.engine_version, options=_options(forms, exact),
                    float_nodes=tuple(fallbacks))


def _options(forms: WeightForms, exact: bool) -> dict[str, Any]:
    """exact: the grids are the source's own, which rounds no activation beside them."""
    if not forms.has_matmul_nbits:
        return {}
    return {"session_options": EXACT_MATMUL if exact else FAST_MATMUL}


