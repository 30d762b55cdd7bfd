"""A Whisper and a T5 of random weights with tokenizers of words, as the folders that Hugging Face's tools write."""
from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from decoder_checkpoints import save_shard
from frontends.transformer.families import PAIRS
from numpy.typing import NDArray

from edgeq.frontends.transformer.families import FAMILIES, stack_of
from edgeq.frontends.transformer.source import shape_of

WORDS = ("<pad>", "</s>", "<eot>", "<sot>", *(f"w{k}" for k in range(4, 80)), "<quiet>", *(f"<{k}>" for k in range(20)))
QUIET, FIRST_TIME = 80, 81
WHISPER: dict[str, Any] = {**PAIRS["whisper"], "suppress_tokens": [5, 6], "begin_suppress_tokens": [7],
                           "no_timestamps_token_id": QUIET}


def save_pair(folder: Path, words: Mapping[str, Any]) -> Path:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(models.WordLevel({word: k for k, word in enumerate(WORDS)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps(words))
    save_shard(folder / "model.safetensors", tensors(words))
    return folder



def tensors(words: Mapping[str, Any]) -> dict[str, NDArray[np.float32]]:
    """By their names in the file, random."""
    row, random = FAMILIES[words["model_type"]], np.random.default_rng(0)
    assert row.decoder is not None
    found: dict[str, NDArray[np.float32]] = {}
    for side, names in (("encoder", row.encoder), ("decoder", row.decoder)):
        stack = stack_of(row, words, side)  # type: ignore[arg-type]
        for role, name in names.items():
            for layer in range(stack.layers if "{}" in name else 1):
                for part in ("weight", "bias"):
                    is_norm = role.endswith("norm")
                    has_bias = role in stack.biases or role.startswith("conv") or (is_norm and not stack.rms)
                    shape = shape_of(stack, role, part)
                    if shape is None or (part == "bias" and not has_bias) or role in ("head", "head_bias"):
                        continue
                    drawn = random.normal(0, .3 if len(shape) > 1 else .2, shape)
                    key = row.prefixes[0] + name.split("|")[0].format(layer) + f".{part}"
                    found.setdefault(key, (drawn + (is_norm and part == "weight")).astype(np.float32))
    return found
