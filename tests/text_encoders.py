"""A BERT of random weights with a tokenizer of words, as the folder that sentence-transformers writes."""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from decoder_checkpoints import save_shard
from frontends.transformer.families import BERT

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "a", "cat", "dog", "sat", "ran", "on", "under", "mat", "red",
         "blue", ".", ",")
MODULES = [{"path": "", "type": "sentence_transformers.models.Transformer"},
           {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
           {"path": "2_Normalize", "type": "sentence_transformers.models.Normalize"}]


def save_encoder(folder: Path, *, pooling: str = "pooling_mode_mean_tokens", most: int = 16) -> Path:
    """pooling: the word of its configuration. most: tokens of a text."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(models.WordPiece({word: k for k, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[
        ("[CLS]", 2), ("[SEP]", 3)])
    tokenizer.save(str(folder / "tokenizer.json"))
    for path, data in {"config.json": BERT, "modules.json": MODULES, "1_Pooling/config.json": {pooling: True},
                       "sentence_bert_config.json": {"max_seq_length": most}}.items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(json.dumps(data))
    save_shard(folder / "model.safetensors", tensors())
    return folder


def tensors() -> dict[str, Any]:
    """By their names in the file, random."""
    random, hidden, inner = np.random.default_rng(0), BERT["hidden_size"], BERT["intermediate_size"]
    found: dict[str, Any] = {}

    def table(name: str, *shape: int) -> None:
        found[f"{name}.weight"] = random.normal(0, .3, shape).astype(np.float32)

    def linear(name: str, outputs: int, inputs: int) -> None:
        table(name, outputs, inputs)
        found[f"{name}.bias"] = random.normal(0, .2, outputs).astype(np.float32)

    def norm(name: str) -> None:
        linear(name, hidden, 1)
        found[f"{name}.weight"] = 1 + found[f"{name}.weight"][:, 0]

    for name, rows in (("word", BERT["vocab_size"]), ("position", BERT["max_position_embeddings"]),
                       ("token_type", BERT["type_vocab_size"])):
        table(f"embeddings.{name}_embeddings", rows, hidden)
    norm("embeddings.LayerNorm")
    for k in range(BERT["num_hidden_layers"]):
        for name in ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"):
            linear(f"encoder.layer.{k}.{name}", hidden, hidden)
        linear(f"encoder.layer.{k}.intermediate.dense", inner, hidden)
        linear(f"encoder.layer.{k}.output.dense", hidden, inner)
        norm(f"encoder.layer.{k}.attention.output.LayerNorm")
        norm(f"encoder.layer.{k}.output.LayerNorm")
    return found


def torch_states(ids: list[int]) -> Any:
    """[tokens, hidden]: what torch's own transformer layers make of the tokens."""
    import torch

    given, places = {name: torch.tensor(array) for name, array in tensors().items()}, torch.arange(len(ids))
    x = sum(given[f"embeddings.{name}_embeddings.weight"][rows] for name, rows in (
        ("word", torch.tensor(ids)), ("position", places), ("token_type", 0 * places)))
    gain, bias = (given[f"embeddings.LayerNorm.{part}"] for part in ("weight", "bias"))
    x = torch.nn.functional.layer_norm(x, x.shape[-1:], gain, bias, 1e-12)
    for k in range(BERT["num_hidden_layers"]):
        layer = torch.nn.TransformerEncoderLayer(BERT["hidden_size"], BERT["num_attention_heads"],
                                                 BERT["intermediate_size"], 0, "gelu", 1e-12, batch_first=True)
        here = f"encoder.layer.{k}."
        state = {f"{theirs}.{part}": given[f"{here}{ours}.{part}"] for part in ("weight", "bias") for theirs, ours in (
            ("self_attn.out_proj", "attention.output.dense"), ("linear1", "intermediate.dense"),
            ("linear2", "output.dense"), ("norm1", "attention.output.LayerNorm"), ("norm2", "output.LayerNorm"))}
        state |= {f"self_attn.in_proj_{part}": torch.cat([given[f"{here}attention.self.{name}.{part}"]
                                                          for name in ("query", "key", "value")])
                  for part in ("weight", "bias")}
        layer.load_state_dict(state)
        with torch.no_grad():
            x = layer.eval()(x[None])[0]
    return x.numpy()
