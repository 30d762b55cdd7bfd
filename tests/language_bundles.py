"""A language model of random weights with a tokenizer of 700 tokens, as a checkpoint and as a GGUF bundle."""
from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from frontends.decoder.tokenizers_made import byte_level
from numpy.typing import NDArray
from runtime_bundles import entries

from edgeq.frontends.decoder.checkpoint import Checkpoint, open_checkpoint
from edgeq.quant.decoder import QuantizedDecoder, StoredMatrix
from edgeq_runtime import Manifest, TensorSpec
from edgeq_runtime.manifest import FILE_NAME, Language

TEMPLATE = ("{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
            "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
CONTEXT = 96


def checkpoint(folder: Path, seed: int = 0) -> Checkpoint:
    """A Hugging Face folder: Llama, two layers, heads of 16, its tokenizer's vocabulary."""
    from safetensors.numpy import save_file

    byte_level("smollm-2", folder)
    vocabulary = len(json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]) + 2  # and two added ones
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "intermediate_size": 96,
              "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2, "vocab_size": vocabulary,
              "max_position_embeddings": CONTEXT, "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": True}
    (folder / "config.json").write_text(json.dumps(config))
    random = np.random.default_rng(seed)
    sizes = {"self_attn.q_proj": (64, 64), "self_attn.k_proj": (32, 64), "self_attn.v_proj": (32, 64),
             "self_attn.o_proj": (64, 64), "mlp.gate_proj": (96, 64), "mlp.up_proj": (96, 64),
             "mlp.down_proj": (64, 96)}
    shapes = {f"model.layers.{k}.{name}.weight": shape for k in range(2) for name, shape in sizes.items()}
    tensors = {name: random.normal(0, .3, shape).astype(np.float32) for name, shape in
               {"model.embed_tokens.weight": (vocabulary, 64), **shapes}.items()}
    for name in ("model.norm", *(f"model.layers.{k}.{norm}" for k in range(2)
                                 for norm in ("input_layernorm", "post_attention_layernorm"))):
        tensors[f"{name}.weight"] = random.normal(1, .1, 64).astype(np.float32)
    save_file(tensors, folder / "model.safetensors")
    return open_checkpoint(folder)


def gguf(source: Checkpoint, path: Path) -> None:
    """The checkpoint in float32, in one file."""
    from edgeq.frontends.decoder.gguf_tokenizer import gguf_tokenizer_of_folder
    from edgeq_converters.gguf.metadata import metadata
    from edgeq_converters.gguf.tensors import tensors
    from edgeq_converters.gguf.writer import write

    roles = ("q", "k", "v", "o", "gate", "up", "down")
    places = [("embedding", None), *((role, layer) for layer in range(2) for role in roles)]
    matrices = {place: StoredMatrix.of_floats("F32", source.weights.matrix(*place)) for place in places}
    decoder = QuantizedDecoder(matrices, source.weights.vector)
    write(path, metadata(source.spec, "llama", "tiny", 0), gguf_tokenizer_of_folder(source.path),
          lambda: tensors(source.spec, "llama", decoder))


def bundle(folder: Path, *, template: str = TEMPLATE, **changes: Any) -> Path:
    """A GGUF bundle. changes: of its `Language`."""
    source = checkpoint(folder / "checkpoint")
    made = folder / "tiny.gguf.edgeq"
    made.mkdir()
    gguf(source, made / "model.gguf")
    (made / "tokenizer.json").write_bytes((source.path / "tokenizer.json").read_bytes())
    (made / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<|im_start|>"}))
    if template:
        (made / "chat_template.jinja").write_text(template)
    vocabulary = source.config["vocab_size"]
    language = Language(CONTEXT, vocabulary, 2, 2, 16, bos=1, eos=(2,), add_bos=False,
                        template="chat_template.jinja" if template else "")
    manifest = Manifest(
        name="tiny", target="gguf", engine="llamacpp", engine_version="", entry="model.gguf",
        inputs=(TensorSpec("input_ids", "int64", (1, "tokens")),),
        outputs=(TensorSpec("logits", "float32", (1, "tokens", vocabulary)),), files=entries(made),
        options={"cache": "f32", "threads": 1}, language=replace(language, **changes))
    (made / FILE_NAME).write_text(manifest.to_json())
    return made


class ScriptedDecoder:
    """A decoder whose logits are a function of all tokens so far; `fed` counts what it was given."""

    description = "scripted"

    def __init__(self, function: Callable[[Sequence[int]], NDArray[Any]], vocabulary: int, context: int = CONTEXT,
                 ) -> None:
        self.function, self.vocabulary, self.context = function, vocabulary, context
        self.held: list[int] = []
        self.fed = 0
        self.closed = False

    def logits(self, tokens: Sequence[int], every: bool = False) -> NDArray[Any]:
        rows = []
        for number, token in enumerate(tokens, 1):
            self.held.append(token)
            if every or number == len(tokens):
                rows.append(self.function(self.held))
        self.fed += len(tokens)
        return np.asarray(rows, np.float32)

    def keep(self, count: int) -> None:
        del self.held[count:]

    def close(self) -> None:
        self.closed = True
