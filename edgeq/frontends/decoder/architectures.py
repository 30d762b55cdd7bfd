"""The decoders that edgeq reads: a row each, and one reader for their config.json.

A row says in what a family departs from Llama: kinds and places of norms, names of tensors, and the defaults that its
own configuration class leaves out of the file. To add one, add a row, and a case to tests/frontends/decoder.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias

from edgeq.errors import ModelError
from edgeq.frontends.decoder.rope_config import rotary_of
from edgeq.frontends.decoder.spec import Layer, LayerNorm, RMSNorm, Spec

Config: TypeAlias = Mapping[str, Any]

# Role -> name of a tensor of layer {}, without ".weight" or ".bias". "name[k/n]": the k-th of n parts of a fused one;
# "name[q]", "name[k]", "name[v]": of queries, keys and values one behind the other.
LLAMA: Final[Mapping[str, str]] = MappingProxyType({
    "embedding": "model.embed_tokens", "final_norm": "model.norm", "head": "lm_head",
    "attention_norm": "model.layers.{}.input_layernorm", "mlp_norm": "model.layers.{}.post_attention_layernorm",
    "q": "model.layers.{}.self_attn.q_proj", "k": "model.layers.{}.self_attn.k_proj",
    "v": "model.layers.{}.self_attn.v_proj", "o": "model.layers.{}.self_attn.o_proj",
    "q_norm": "model.layers.{}.self_attn.q_norm", "k_norm": "model.layers.{}.self_attn.k_norm",
    "gate": "model.layers.{}.mlp.gate_proj", "up": "model.layers.{}.mlp.up_proj",
    "down": "model.layers.{}.mlp.down_proj",
})
_POST: Final = {"attention_post_norm": "model.layers.{}.post_attention_layernorm",
                "mlp_post_norm": "model.layers.{}.post_feedforward_layernorm"}
_GEMMA: Final = {**LLAMA, **_POST, "mlp_norm": "model.layers.{}.pre_feedforward_layernorm"}
_PHI3: Final = {**LLAMA, **{role: f"model.layers.{{}}.self_attn.qkv_proj[{role}]" for role in "qkv"},
                "gate": "model.layers.{}.mlp.gate_up_proj[0/2]", "up": "model.layers.{}.mlp.gate_up_proj[1/2]"}
_GPT2: Final = {
    "embedding": "wte", "positions": "wpe", "final_norm": "ln_f", "head": "lm_head",
    "attention_norm": "h.{}.ln_1", "mlp_norm": "h.{}.ln_2", "o": "h.{}.attn.c_proj",
    **{role: f"h.{{}}.attn.c_attn[{role}]" for role in "qkv"}, "up": "h.{}.mlp.c_fc", "down": "h.{}.mlp.c_proj",
}
_GEMMA_DEFAULTS: Final = {"tie_word_embeddings": True, "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh",
                          "query_pre_attn_scalar": 256, "sliding_window": 4096}

# https://github.com/huggingface/transformers/blob/main/src/transformers/activations.py (ACT2FN)
_ACTIVATIONS: Final[Mapping[str, Literal["silu", "gelu", "gelu_tanh"]]] = MappingProxyType({
    "silu": "silu", "swish": "silu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh", "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh", "gelu_accurate": "gelu_tanh",
})


def _all_layers(config: Config, number: int) -> bool:
    return True


def _every_other(config: Config, number: int) -> bool:
    return number % 2 == 0


def _by_pattern(config: Config, number: int) -> bool:
    pattern = config.get("sliding_window_pattern") or config.get("_sliding_window_pattern") or 6
    return bool((number + 1) % int(pattern))


def _upper_layers(config: Config, number: int) -> bool:
    return bool(config.get("use_sliding_window", False)) and number >= int(config.get("max_window_layers", 0))


@dataclass(frozen=True, slots=True)
class Architecture:
    """type: `model_type` of config.json. gguf: `general.architecture` of a .gguf. names: of tensors, by role.

    window: whether a layer attends over `sliding_window` tokens alone, where config.json does not list it. scaled: the
    embedding is multiplied with the root of its width. other_biases: beside what attention_bias and mlp_bias say.
    defaults: what config.json leaves out. transposed: linear weights lie as [in, out] (GPT-2's Conv1D). The rest as in
    `Spec`.
    """

    type: str
    gguf: str
    names: Mapping[str, str] = field(default_factory=lambda: LLAMA)
    norm: LayerNorm | RMSNorm = field(default_factory=RMSNorm)
    pre_norm: bool = True
    post_norm: bool = False
    qk_norm: Literal["head", "all"] | None = None
    other_biases: frozenset[str] = frozenset()
    gated: bool = True
    scaled: bool = False
    window: Callable[[Config, int], bool] = _all_layers
    transposed: bool = False
    defaults: Mapping[str, Any] = field(default_factory=dict)


ARCHITECTURES: Final[Mapping[str, Architecture]] = MappingProxyType({row.type: row for row in (
    Architecture("llama", "llama"),
    Architecture("mistral", "llama", defaults={"sliding_window": 4096}),
    Architecture("smollm3", "smollm3", defaults={"rope_theta": 2000000.0, "no_rope_layer_interval": 4}),
    Architecture("qwen2", "qwen2", other_biases=frozenset("qkv"), window=_upper_layers),
    Architecture("qwen3", "qwen3", qk_norm="head", window=_upper_layers, defaults={"head_dim": 128}),
    Architecture("gemma2", "gemma2", _GEMMA, RMSNorm(1.0), post_norm=True, scaled=True, window=_every_other,
                 defaults={**_GEMMA_DEFAULTS, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}),
    Architecture("gemma3_text", "gemma3", _GEMMA, RMSNorm(1.0), post_norm=True, qk_norm="head", scaled=True,
                 window=_by_pattern,
                 defaults={**_GEMMA_DEFAULTS, "rope_theta": 1000000.0, "rope_local_base_freq": 10000.0}),
    Architecture("phi3", "phi3", _PHI3),
    Architecture("olmo2", "olmo2", {**LLAMA, **_POST}, pre_norm=False, post_norm=True, qk_norm="all",
                 defaults={"rms_norm_eps": 1e-5}),
    Architecture("granite", "granite"),
    Architecture("gpt2", "gpt2", _GPT2, LayerNorm(), gated=False, transposed=True,
                 other_biases=frozenset({"q", "k", "v", "o", "up", "down"}),
                 defaults={"tie_word_embeddings": True, "activation_function": "gelu_new"}),
)})
# What other families call the same number.
_OTHER_NAMES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType({
    "hidden_size": ("n_embd",), "num_attention_heads": ("n_head",), "num_hidden_layers": ("n_layer",),
    "max_position_embeddings": ("n_positions",), "intermediate_size": ("n_inner",),
    "rms_norm_eps": ("layer_norm_epsilon",), "hidden_act": ("hidden_activation", "activation_function"),
})
_NEEDED: Final = ("hidden_size", "num_attention_heads", "num_hidden_layers", "vocab_size")


def architecture_of(config: Config) -> Architecture:
    """The row of a config.json.

    Raises:
        ModelError: no row has its model_type; lists those that there are, and what a row would have to say.
    """
    kind = str(config.get("model_type", ""))
    if kind == "gemma3" and "text_config" not in config:
        kind = "gemma3_text"
    if kind not in ARCHITECTURES:
        named = ", ".join(config.get("architectures") or ["unnamed"])
        raise ModelError(f"no row for the architecture '{kind}' ({named}); there are {', '.join(ARCHITECTURES)}. "
                         "A new one needs: kind and place of its norms, "
                         "biases, gate, rotary scaling, sliding windows, and the names of its tensors")
    return ARCHITECTURES[kind]


def spec_of(config: Config) -> Spec:
    """What a config.json describes.

    Raises:
        ModelError: an unknown architecture, a missing or contradictory number, an activation or a scaling of rotary
            positions that nobody knows.
    """
    row = architecture_of(config)
    known = _with_defaults(row, config)
    missing = [name for name in _NEEDED if known.get(name) is None]
    if missing:
        raise ModelError(f"config.json lacks {', '.join(missing)}")
    hidden, heads = int(known["hidden_size"]), int(known["num_attention_heads"])
    kv_heads = int(known.get("num_key_value_heads") or heads)
    head_size = int(known.get("head_dim") or hidden // heads)
    if heads % kv_heads:
        raise ModelError(f"config.json: {heads} attention heads cannot share {kv_heads} key and value heads")
    activation = str(known.get("hidden_act", "silu"))
    if activation not in _ACTIVATIONS:
        raise ModelError(f"config.json: no activation '{activation}'; there are {', '.join(_ACTIVATIONS)}")
    attention = known.get("query_pre_attn_scalar")
    scale = float(attention) ** -0.5 if attention is not None else float(
        known.get("attention_multiplier") or head_size ** -0.5)
    biases = set(row.other_biases)
    biases |= set("qkvo") if known.get("attention_bias") else set()
    biases |= {"gate", "up", "down"} if known.get("mlp_bias") else set()
    context = int(known.get("max_position_embeddings") or 2048)
    return Spec(
        row.type, int(known["vocab_size"]), context, hidden, int(known.get("intermediate_size") or 4 * hidden), heads,
        kv_heads, head_size, tuple(_layer(row, known, head_size, k) for k in range(int(known["num_hidden_layers"]))),
        row.norm, float(known.get("rms_norm_eps", 1e-6 if isinstance(row.norm, RMSNorm) else 1e-5)), scale,
        _ACTIVATIONS[activation], row.gated, row.pre_norm, row.post_norm, row.qk_norm, frozenset(biases),
        bool(known.get("tie_word_embeddings", False)), known.get("attn_logit_softcapping"),
        known.get("final_logit_softcapping"),
        hidden ** 0.5 if row.scaled else float(known.get("embedding_multiplier") or 1.0),
        float(known.get("residual_multiplier") or 1.0), 1.0 / float(known.get("logits_scaling") or 1.0),
        context if "positions" in row.names else 0)


def _with_defaults(row: Architecture, config: Config) -> dict[str, Any]:
    known = {**row.defaults, **config}
    for name, others in _OTHER_NAMES.items():
        found = next((known[other] for other in (name, *others) if known.get(other) is not None), None)
        if found is not None:
            known[name] = found
    return known


def _layer(row: Architecture, known: Config, head_size: int, number: int) -> Layer:
    kinds = known.get("layer_types")
    slides = kinds[number] == "sliding_attention" if kinds else row.window(known, number)
    window = known.get("sliding_window")
    width = None if window is None or not slides else int(window)
    if "positions" in row.names or _without_rotary(known, number):
        rotary = None
    else:
        rotary = rotary_of(known, head_size, local=width is not None)
    return Layer(rotary, width)


def _without_rotary(known: Config, number: int) -> bool:
    """SmolLM3 leaves positions out of every fourth layer."""
    listed, interval = known.get("no_rope_layers"), known.get("no_rope_layer_interval")
    if listed:
        return not listed[number]
    return bool(interval and (number + 1) % int(interval) == 0)
