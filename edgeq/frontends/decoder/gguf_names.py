"""How llama.cpp names, fuses and orders a decoder's tensors.

Names: https://github.com/ggml-org/llama.cpp/blob/master/gguf-py/gguf/constants.py (TENSOR_NAMES).
"""
from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgeq.frontends.decoder.spec import Spec

NAMES: Final[Mapping[str, str]] = MappingProxyType({
    "embedding": "token_embd", "positions": "position_embd", "final_norm": "output_norm", "head": "output",
    "attention_norm": "blk.{}.attn_norm", "mlp_norm": "blk.{}.ffn_norm",
    "attention_post_norm": "blk.{}.post_attention_norm", "mlp_post_norm": "blk.{}.post_ffw_norm",
    "q": "blk.{}.attn_q", "k": "blk.{}.attn_k", "v": "blk.{}.attn_v", "qkv": "blk.{}.attn_qkv",
    "o": "blk.{}.attn_output", "q_norm": "blk.{}.attn_q_norm", "k_norm": "blk.{}.attn_k_norm",
    "gate": "blk.{}.ffn_gate", "up": "blk.{}.ffn_up", "down": "blk.{}.ffn_down",
})
# Architectures whose tensors lie one behind the other in one: name in the file -> roles.
FUSED: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = MappingProxyType({
    "phi3": {"qkv": ("q", "k", "v"), "up": ("gate", "up")}, "gpt2": {"qkv": ("q", "k", "v")}})
# Where llama.cpp rotates neighbouring numbers (LLAMA_ROPE_TYPE_NORM) instead of the two halves of a head: queries' and
# keys' rows change their order. https://github.com/ggml-org/llama.cpp/blob/master/src/llama-model.cpp
INTERLEAVED: Final = frozenset({"llama", "granite", "smollm3"})


def file_order(spec: Spec, architecture: str, role: str) -> NDArray[np.int64]:
    """Which row of ours lies where in the file, of queries and keys: number k of the two halves of a head becomes
    number 2k and 2k + 1.
    """
    rows = np.arange((spec.heads if role == "q" else spec.kv_heads) * spec.head_size)
    if architecture not in INTERLEAVED:
        return rows
    return rows.reshape(-1, 2, spec.head_size // 2).swapaxes(1, 2).reshape(-1)
