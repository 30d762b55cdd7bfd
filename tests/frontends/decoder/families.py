"""A tiny configuration of every family that edgeq reads, in the words of its own config.json."""
from __future__ import annotations

from typing import Any

SMALL: dict[str, Any] = {
    "hidden_size": 48, "intermediate_size": 80, "num_attention_heads": 6, "num_key_value_heads": 2,
    "num_hidden_layers": 3, "vocab_size": 101, "max_position_embeddings": 128, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2}
WIDE = {**SMALL, "head_dim": 16}  # heads wider than hidden / heads

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", **WIDE},
    "llama-biases-llama3": {"model_type": "llama", **WIDE, "attention_bias": True, "mlp_bias": True, "rope_scaling": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32}},
    "llama-linear": {"model_type": "llama", **WIDE, "rope_scaling": {"rope_type": "linear", "factor": 2.0}},
    "llama-yarn": {"model_type": "llama", **WIDE, "rope_scaling": {
        "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}},
    "mistral-window": {"model_type": "mistral", **WIDE, "sliding_window": 5},
    "smollm3": {"model_type": "smollm3", **WIDE, "num_hidden_layers": 5},
    "qwen2-window": {"model_type": "qwen2", **SMALL, "use_sliding_window": True, "sliding_window": 4,
                     "max_window_layers": 1},
    "qwen3": {"model_type": "qwen3", **WIDE},
    "gemma2": {"model_type": "gemma2", **WIDE, "sliding_window": 4, "query_pre_attn_scalar": 20},
    "gemma3": {"model_type": "gemma3_text", **WIDE, "num_hidden_layers": 7, "sliding_window": 4,
               "query_pre_attn_scalar": 20},
    "phi3": {"model_type": "phi3", **SMALL, "tie_word_embeddings": False},
    "phi4-longrope": {"model_type": "phi3", **SMALL, "tie_word_embeddings": True, "partial_rotary_factor": 0.75,
                      "original_max_position_embeddings": 32, "rope_scaling": {
                          "type": "longrope", "short_factor": [1.0, 1.1, 1.2], "long_factor": [2.0, 3.0, 4.0]}},
    "olmo2": {"model_type": "olmo2", **SMALL},
    "granite": {"model_type": "granite", **SMALL, "embedding_multiplier": 3.0, "logits_scaling": 2.0,
                "residual_multiplier": 0.4, "attention_multiplier": 0.3},
    "gpt2": {"model_type": "gpt2", "vocab_size": 101, "n_positions": 128, "n_embd": 48, "n_layer": 3, "n_head": 6,
             "bos_token_id": 1, "eos_token_id": 2},
}
