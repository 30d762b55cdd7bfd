"""Language models for ONNX Runtime, and for ONNX Runtime GenAI, which runs the same folder."""
from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeq.backend import Artifact, DecoderWords
from edgeq.errors import UsageError
from edgeq.frontends.decoder.builder import weight_name
from edgeq.frontends.decoder.checkpoint import Checkpoint
from edgeq.frontends.decoder.spec import Spec
from edgeq.frontends.decoder.weights import shape_of
from edgeq.graph import NodeNote
from edgeq.inference.session import open_session
from edgeq.quant.codes import Codes
from edgeq.quant.decoder import QuantizedDecoder, Stored
from edgeq.quant.formats import FORMATS
from edgeq.quant.formats.mixes import fitting_type
from edgeq_converters.onnxfile import DATA, MODEL
from edgeq_converters.onnxruntime.backend import FAST_MATMUL
from edgeq_converters.onnxruntime.decoder_graph import build_shared
from edgeq_converters.onnxruntime.decoder_parts import LAYER_TYPES, stored_parts

GENAI_CONFIG: Final = "genai_config.json"
# The first release with the operators of opset 23, and the first whose windows are as wide as they say (measured with
# the releases 1.23 to 1.32).
ENGINE_VERSION: Final = ">=1.23"
WITH_WINDOWS: Final = ">=1.24"
BITS: Final[Mapping[int, str]] = MappingProxyType({4: "Q4_0", 8: "Q8_0", 16: "F16", 32: "F32"})
_TABLE: Final = "Q8_0"  # of embedding and head beside 4-bit layers, where 4 bits lose as much as all layers together
_EXTERNAL: Final = 1024  # bytes: smaller constants stay in the graph


def types(spec: Spec, words: DecoderWords) -> Callable[[str, int | None], str]:
    """Blocks of 32 with the scales of GGUF. Rows that are no multiple of 32 are in float16, as llama.cpp has them.

    Raises:
        UsageError: a type that ONNX Runtime has no kernel for.
    """
    chosen = words.type or BITS[words.bits]
    if chosen not in LAYER_TYPES:
        raise UsageError(f"ONNX Runtime has no kernel for weights of the type {chosen}; there are "
                         f"{', '.join(LAYER_TYPES)}")
    table = _TABLE if chosen in FORMATS else chosen

    def type_for(role: str, layer: int | None) -> str:
        wanted = table if layer is None else chosen
        return fitting_type(wanted, shape_of(spec, role, "weight")[1]) if wanted in FORMATS else wanted

    return type_for


def emit(checkpoint: Checkpoint, tokenizer: Path, decoder: QuantizedDecoder, folder: Path, words: DecoderWords,
         ) -> Artifact:
    """Write `model.onnx` (opset 23, IR 11), `model.onnx.data` and `genai_config.json`.

    tokenizer: the folder with config.json and perhaps generation_config.json.

    Raises:
        UnsupportedModel: a size of heads that has no kernel.
    """
    spec = checkpoint.spec
    model = build_shared(spec, stored_parts(spec, decoder))
    ir.save(model, folder / MODEL, external_data=DATA, size_threshold_bytes=_EXTERNAL)
    text = json.dumps(genai_config(spec, _special_tokens(tokenizer)), indent=2)
    (folder / GENAI_CONFIG).write_text(text + "\n")
    version = ENGINE_VERSION if all(layer.window is None for layer in spec.layers) else WITH_WINDOWS
    return Artifact(MODEL, "onnxruntime", version, options={"session_options": FAST_MATMUL},
                    notes=tuple(_notes(decoder)))


def genai_config(spec: Spec, tokens: Mapping[str, Any]) -> dict[str, Any]:
    """What ONNX Runtime GenAI must know: https://onnxruntime.ai/docs/genai/reference/config.html"""
    past = {f"past_{kind}_names": f"past_key_values.%d.{kind}" for kind in ("key", "value")}
    present = {f"present_{kind}_names": f"present.%d.{kind}" for kind in ("key", "value")}
    inputs = {"input_ids": "input_ids", "attention_mask": "attention_mask", **past}
    return {
        "model": {
            "type": "decoder", "context_length": spec.context, "vocab_size": spec.vocabulary, **tokens,
            "decoder": {
                "session_options": {**FAST_MATMUL, "provider_options": []}, "filename": MODEL,
                "head_size": spec.head_size, "hidden_size": spec.hidden, "num_attention_heads": spec.heads,
                "num_hidden_layers": len(spec.layers), "num_key_value_heads": spec.kv_heads,
                "inputs": inputs, "outputs": {"logits": "logits", **present},
            },
        },
        "search": {"max_length": spec.context, "past_present_share_buffer": True},
    }


def _special_tokens(folder: Path) -> dict[str, Any]:
    """Those that begin and end a text, of generation_config.json before config.json. GenAI wants one to pad with."""
    found: dict[str, Any] = {}
    for name in ("config.json", "generation_config.json"):
        if (folder / name).is_file():
            words = json.loads((folder / name).read_text())
            found |= {key: words[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")
                      if words.get(key) is not None}
    end = found.get("eos_token_id", found.get("bos_token_id", 0))
    return {"eos_token_id": end, "pad_token_id": end[0] if isinstance(end, list) else end, **found}


def _notes(decoder: QuantizedDecoder) -> list[NodeNote]:
    """What costs bytes or time, and no number."""
    notes = []
    for (role, layer), matrix in decoder.matrices.items():
        if _has_minima(matrix):
            notes.append(NodeNote(weight_name(role, layer), "MatMul", (
                f"{matrix.type}: minima are no whole multiples of their scales, as zero points would have to be; they "
                "are added by a second product, of the sums of blocks")))
    return notes


def _has_minima(matrix: Stored) -> bool:
    if isinstance(matrix, Codes):
        return matrix.offset is not None
    return matrix.type in FORMATS and FORMATS[matrix.type].has_minimum


def read(entry: Path, spec: Spec) -> Callable[[str, int | None], NDArray[Any]]:
    """The weights as onnxruntime computes them unfused: what a layer makes of the unit vectors."""
    graph = ir.load(entry).graph
    nodes = {node.name: node for node in graph}

    def first(name: str) -> ir.Node:
        return nodes.get(f"{name}.ordered", nodes[f"{name}.product"])

    def matrix(role: str, layer: int | None) -> NDArray[Any]:
        is_table = role == "embedding" or (role == "head" and spec.tied)
        name = "embedding" if is_table else weight_name(role, layer)
        rows, columns = shape_of(spec, role, "weight")
        source = graph.inputs[0] if is_table else first(name).inputs[0]
        last = nodes["embedding.rows"] if is_table else nodes.get(f"{name}.sum", nodes[f"{name}.product"])
        assert source is not None
        part = ir.convenience.extract(graph, [source], [last.outputs[0]])
        feed = np.arange(rows)[None] if is_table else np.eye(columns, dtype=np.float32)[None]
        entered = part.inputs[0]
        entered.type, entered.shape = ir.TensorType(ir.DataType.from_numpy(feed.dtype)), ir.Shape(feed.shape)
        session = open_session(ir.Model(part, ir_version=11), fused=False)
        found = np.asarray(session.run(None, {entered.name: feed})[0][0])
        return found if is_table else found.T

    return matrix
