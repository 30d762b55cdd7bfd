"""What llama.cpp must know of a decoder beside its tensors.

Keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgeq.errors import Problem, UnsupportedModel
from edgeq.frontends.decoder.spec import LayerNorm, Linear, LongRope, Rotary, Spec, Yarn


def metadata(spec: Spec, architecture: str, name: str, file_type: int) -> dict[str, Any]:
    """Key -> value: int, float, str or bool; whole numbers become uint32, the others float32."""
    _refuse_what_no_key_says(spec, architecture)
    head = f"{architecture}."
    found: dict[str, Any] = {
        "general.architecture": architecture, "general.name": name, "general.file_type": file_type,
        "general.quantization_version": 2,
        head + "vocab_size": spec.vocabulary, head + "context_length": spec.context,
        head + "embedding_length": spec.hidden, head + "block_count": len(spec.layers),
        head + "feed_forward_length": spec.inner, head + "attention.head_count": spec.heads,
        head + "attention.head_count_kv": spec.kv_heads, head + "attention.key_length": spec.head_size,
        head + "attention.value_length": spec.head_size,
        head + ("attention.layer_norm_epsilon" if isinstance(spec.norm, LayerNorm)
                else "attention.layer_norm_rms_epsilon"): spec.epsilon,
    }
    found |= {head + key: value for key, value in _optional(spec, architecture).items() if value is not None}
    rotary = next((layer.rotary for layer in spec.layers if layer.window is None and layer.rotary is not None),
                  next((layer.rotary for layer in spec.layers if layer.rotary is not None), None))
    if rotary is not None:
        found |= {head + key: value for key, value in _rotary(rotary).items()}
    return found


def _refuse_what_no_key_says(spec: Spec, architecture: str) -> None:
    """Raises UnsupportedModel: llama.cpp would compute something else, because it takes the number from elsewhere."""
    problems = []
    usual = spec.head_size ** -0.5
    if architecture != "granite" and abs(spec.attention_scale - usual) > 1e-6 * usual:
        problems.append(Problem("attention", architecture, f"queries and keys are scaled by {spec.attention_scale:g}; "
                                f"llama.cpp takes {usual:g}, the root of the head's size, and no key changes it"))
    bases = {layer.rotary.base for layer in spec.layers if layer.rotary is not None and layer.window is not None}
    others = {layer.rotary.base for layer in spec.layers if layer.rotary is not None and layer.window is None}
    if others and bases - others and architecture != "gemma3":
        problems.append(Problem("rotary", architecture, "layers with a window have another base than the others, which "
                                "llama.cpp knows of Gemma 3 alone"))
    if problems:
        raise UnsupportedModel("gguf", problems)


def _optional(spec: Spec, architecture: str) -> Mapping[str, Any]:
    windows = {layer.window for layer in spec.layers} - {None}
    scaled = architecture == "granite"
    return {
        "attention.sliding_window": next(iter(windows), None),
        "attn_logit_softcapping": spec.attention_cap, "final_logit_softcapping": spec.logit_cap,
        "attention.scale": spec.attention_scale if scaled else None,
        "embedding_scale": spec.embedding_scale if scaled else None,
        "residual_scale": spec.residual_scale if scaled else None,
        "logit_scale": 1.0 / spec.logit_scale if scaled else None,
    }


def _rotary(rotary: Rotary) -> dict[str, Any]:
    found: dict[str, Any] = {"rope.dimension_count": rotary.size, "rope.freq_base": rotary.base}
    match rotary.scaling:
        case Linear(factor):
            found |= {"rope.scaling.type": "linear", "rope.scaling.factor": factor}
        case Yarn() as yarn:
            found |= {"rope.scaling.type": "yarn", "rope.scaling.factor": yarn.factor,
                      "rope.scaling.original_context_length": yarn.original}
        case LongRope() as longrope:
            found |= {"rope.scaling.attn_factor": longrope.attention,
                      "rope.scaling.original_context_length": longrope.original}
    return found
