"""Train the small decoder that language-model benchmarks measure on: Llama's architecture, 5 million parameters, every
row a multiple of 256 and a head size of 32, so that all of GGUF's types fit it.

    python benchmarks/train_decoder.py FOLDER

The text is the documentation that installed packages carry: their METADATA, .md and .rst files, and the docstrings in
their sources. Every fiftieth document is held out: FOLDER/held_out.txt. FOLDER becomes a Hugging Face checkpoint. The
seed is fixed; which text there is depends on what is installed.
"""
from __future__ import annotations

import argparse
import ast
import hashlib
import json
import math
import site
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM

VOCABULARY = 4096
LENGTH = 256  # tokens of a training sequence
BATCH = 8
PEAK_RATE = 2e-3
WARM_UP = 0.03  # share of the steps
SEED = 20260719
SHORTEST, LONGEST = 200, 20000  # characters of a document
END = "<|endoftext|>"


def documents(folders: list[Path], limit: int) -> list[str]:
    """Documentation of the packages in the folders, each text once, at most `limit` characters in all."""
    known: set[bytes] = set()
    found = []
    for path in sorted(path for folder in folders for path in folder.rglob("*") if path.is_file()):
        for text in _texts(path):
            key = hashlib.blake2b(text.encode(errors="ignore"), digest_size=8).digest()
            if len(text) >= SHORTEST and key not in known:
                known.add(key)
                found.append(text[:LONGEST].encode(errors="ignore").decode())
    order = np.random.default_rng(SEED).permutation(len(found))
    total = np.cumsum([len(found[k]) for k in order])
    return [found[k] for k in order[:int(np.searchsorted(total, limit))]]


def _texts(path: Path) -> Iterator[str]:
    if path.name == "METADATA" or path.suffix in (".md", ".rst"):
        yield path.read_text(errors="ignore")
    elif path.suffix == ".py":
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tree = ast.parse(path.read_text(errors="ignore"))
        except (SyntaxError, ValueError, RecursionError):
            return
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield ast.get_docstring(node) or ""


def tokenizer_of(texts: list[str]) -> tokenizers.Tokenizer:
    """Byte-level BPE with single digits, as SmolLM2 has it."""
    found = tokenizers.Tokenizer(models.BPE())
    found.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                                   pre_tokenizers.ByteLevel(add_prefix_space=False)])
    found.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=[END], show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    found.train_from_iterator(texts, trainer)
    return found


def network() -> LlamaForCausalLM:
    config = LlamaConfig(vocab_size=VOCABULARY, hidden_size=256, intermediate_size=768, num_hidden_layers=5,
                         num_attention_heads=8, num_key_value_heads=4, head_dim=32, max_position_embeddings=1024,
                         rms_norm_eps=1e-5, tie_word_embeddings=True, bos_token_id=0, eos_token_id=0)
    return LlamaForCausalLM(config)


def train(model: LlamaForCausalLM, tokens: Any, steps: int) -> None:
    """On random windows of tokens [N]; the rate falls along a cosine."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, betas=(0.9, 0.95), weight_decay=0.05)
    chance = np.random.default_rng(SEED)
    start = time.monotonic()
    for number in range(steps):
        share = number / steps
        rate = PEAK_RATE * min(share / WARM_UP, 0.05 + 0.95 * (1 + math.cos(math.pi * share)) / 2)
        for group in optimizer.param_groups:
            group["lr"] = max(rate, PEAK_RATE / 100)
        at = chance.integers(0, len(tokens) - LENGTH, BATCH)
        batch = torch.from_numpy(np.stack([tokens[k:k + LENGTH] for k in at]).astype(np.int64))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if number % 100 == 0:
            passed = time.monotonic() - start
            print(f"{passed:5.0f} s  step {number}  perplexity {math.exp(loss.item()):.1f}", flush=True)


def perplexity(model: LlamaForCausalLM, tokens: Any) -> float:
    """On the first 64 windows of tokens [N]."""
    rows = torch.from_numpy(tokens[:len(tokens) // LENGTH * LENGTH].reshape(-1, LENGTH)[:64].astype(np.int64))
    with torch.no_grad():
        return math.exp(float(np.mean([model(row[None], labels=row[None]).loss.item() for row in rows])))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("folder", type=Path)
    options.add_argument("--steps", type=int, default=2000)
    options.add_argument("--megabytes", type=float, default=16, help="of text")
    options.add_argument("--packages", type=Path, nargs="+", default=[Path(path) for path in site.getsitepackages()])
    given = options.parse_args()
    torch.manual_seed(SEED)
    texts = documents(given.packages, int(given.megabytes * 1e6))
    held_out, texts = texts[::50], [text for k, text in enumerate(texts) if k % 50]
    tokenizer = tokenizer_of(texts)
    encoded = [np.asarray([*entry.ids, 0], np.uint16) for entry in tokenizer.encode_batch(texts)]
    tokens = np.concatenate(encoded)
    print(f"{len(texts)} documents, {len(tokens) / 1e6:.2f} million tokens", file=sys.stderr, flush=True)
    model = network()
    train(model, tokens, given.steps)
    judges = np.concatenate([np.asarray([*entry.ids, 0]) for entry in tokenizer.encode_batch(held_out)])
    print(f"held out: perplexity {perplexity(model.eval(), judges):.2f}", flush=True)
    model.save_pretrained(given.folder)
    tokenizer.save(str(given.folder / "tokenizer.json"))
    words = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": END, "eos_token": END, "add_bos_token": False,
             "model_max_length": 1024}
    (given.folder / "tokenizer_config.json").write_text(json.dumps(words, indent=2) + "\n")
    (given.folder / "held_out.txt").write_text("\n\n".join(held_out))


if __name__ == "__main__":
    main()
