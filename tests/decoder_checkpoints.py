"""A tiny Llama with random weights as the folder that Hugging Face's tools write."""
from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from frontends.decoder.tokenizers_made import TEXTS, byte_level
from numpy.typing import NDArray

from edgeq.frontends.decoder.architectures import LLAMA, spec_of
from edgeq.frontends.decoder.spec import Spec
from edgeq.frontends.decoder.weights import linear_roles, norm_roles, shape_of

CONFIG: dict[str, Any] = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 256, "intermediate_size": 512,
    "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2, "vocab_size": 600,
    "tie_word_embeddings": True, "max_position_embeddings": 64, "rms_norm_eps": 1e-5}
# https://huggingface.co/docs/safetensors
TYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "int8": "I8", "uint8": "U8", "int32": "I32",
         "uint32": "U32", "int64": "I64"}
GENERATION = {"eos_token_id": [2, 0], "temperature": 0.6, "top_p": 0.9, "max_length": 20}


def tensors_of(spec: Spec) -> dict[str, NDArray[np.float32]]:
    """Random ones, by their names in the file."""
    chance = np.random.default_rng(0)
    roles = [("embedding", None), ("final_norm", None)]
    roles += [(role, layer) for layer in range(len(spec.layers)) for role in (*linear_roles(spec), *norm_roles(spec))]
    found = {}
    for role, layer in roles:
        shape = shape_of(spec, role, "weight")
        made = chance.normal(size=shape, scale=shape[-1] ** -0.5 if len(shape) > 1 else 0.1) + (len(shape) == 1)
        found[f"{LLAMA[role].format(layer)}.weight"] = made.astype(np.float32)
    found["model.embed_tokens.weight"] *= 4
    return found


def save_shard(path: Path, tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str] | None = None) -> None:
    """https://github.com/huggingface/safetensors#format"""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    data = b""
    for name, array in tensors.items():
        header[name] = {"dtype": TYPES[array.dtype.name], "shape": array.shape,
                        "data_offsets": [len(data), len(data) + array.nbytes]}
        data += array.tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def save_checkpoint(folder: Path, **config: Any) -> Path:
    """In two shards; config: beside CONFIG."""
    byte_level("smollm-2", folder)
    said = CONFIG | config
    (folder / "config.json").write_text(json.dumps(said))
    (folder / "generation_config.json").write_text(json.dumps(GENERATION))
    tensors = tensors_of(spec_of(said))
    names = list(tensors)
    shards = {"model-1-of-2.safetensors": names[:5], "model-2-of-2.safetensors": names[5:]}
    for shard, inside in shards.items():
        save_shard(folder / shard, {name: tensors[name] for name in inside})
    index = {name: shard for shard, inside in shards.items() for name in inside}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return folder


def save_text(path: Path, repeated: int = 8) -> Path:
    """Text in many languages, or as messages where the file is .jsonl."""
    texts = [text for k in range(repeated) for text in np.random.default_rng(k).permutation(TEXTS)]
    path.write_text("\n".join(texts) if path.suffix != ".jsonl" else "\n".join(
        json.dumps({"messages": [{"role": "user", "content": text}]}) for text in texts), encoding="utf-8")
    return path
