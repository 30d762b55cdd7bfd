"""A tiny configuration of every family that edgeq reads, in the words of its own config.json."""
from __future__ import annotations

from typing import Any

BERT: dict[str, Any] = {
    "model_type": "bert", "hidden_size": 48, "intermediate_size": 80, "num_attention_heads": 6, "num_hidden_layers": 2,
    "vocab_size": 101, "max_position_embeddings": 64, "pad_token_id": 0, "type_vocab_size": 2}
PADDED = {**BERT, "pad_token_id": 1, "max_position_embeddings": 66}
ENCODERS: dict[str, dict[str, Any]] = {
    "bert": BERT, "bert-relu": {**BERT, "hidden_act": "relu"}, "roberta": {**PADDED, "model_type": "roberta"},
    "xlm-roberta": {**PADDED, "model_type": "xlm-roberta"}, "camembert": {**PADDED, "model_type": "camembert"},
    "mpnet": {**PADDED, "model_type": "mpnet"},
    "distilbert": {"model_type": "distilbert", "dim": 48, "hidden_dim": 80, "n_heads": 6, "n_layers": 2,
                   "vocab_size": 101, "max_position_embeddings": 64},
}
T5: dict[str, Any] = {"model_type": "t5", "d_model": 48, "d_ff": 80, "d_kv": 10, "num_heads": 4, "num_layers": 2,
                      "num_decoder_layers": 3, "vocab_size": 101, "pad_token_id": 0, "decoder_start_token_id": 0,
                      "eos_token_id": 1, "n_positions": 200}
_BART: dict[str, Any] = {"d_model": 48, "encoder_ffn_dim": 80, "decoder_ffn_dim": 96, "encoder_attention_heads": 6,
                         "decoder_attention_heads": 4, "encoder_layers": 2, "decoder_layers": 3, "vocab_size": 101}
PAIRS: dict[str, dict[str, Any]] = {
    "t5": T5, "t5-gated": {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    "marian": {**_BART, "model_type": "marian", "max_position_embeddings": 64, "scale_embedding": True,
               "activation_function": "swish", "pad_token_id": 100, "eos_token_id": 1, "decoder_start_token_id": 100,
               "forced_eos_token_id": None},
    "whisper": {**_BART, "model_type": "whisper", "max_source_positions": 30, "max_target_positions": 40,
                "num_mel_bins": 20, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
                "decoder_start_token_id": 3},
}
