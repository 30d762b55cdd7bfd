"""A language-model bundle in lm-evaluation-harness (`pip install lm_eval`).

    python samples/lm_eval/evaluate.py model.gguf.edgeq --tasks arc_easy --limit 100
"""
from __future__ import annotations

import argparse
from typing import Any

import lm_eval
import numpy as np
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager

from edgeq_runtime import Manifest
from edgeq_runtime.language import open_decoder
from edgeq_runtime.language.text import Tokenizer


class BundleLM(LM):
    """What the harness asks for, answered by a bundle's own engine. Prompts that are too long lose their start."""

    def __init__(self, bundle: str, threads: int | None = None):
        super().__init__()
        manifest = Manifest.read(bundle)
        self.language = manifest.language
        self.decoder = open_decoder(bundle, manifest, threads)
        self.tokenizer = Tokenizer(bundle, self.language)

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        return [self._likelihood(*request.args) for request in requests]

    def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
        return [self._likelihood("", request.args[0])[0] for request in requests]

    def generate_until(self, requests: list[Any]) -> list[str]:
        return [self._continued(*request.args) for request in requests]

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return self.tokenizer.chat(chat_history, add_generation_prompt=add_generation_prompt)

    @property
    def tokenizer_name(self) -> str:
        return self.tokenizer.path.replace("/", "__")

    def _likelihood(self, prompt: str, text: str) -> tuple[float, bool]:
        """(log p of the text behind the prompt, whether each of its tokens is the most likely one)."""
        before, whole = self.tokenizer.encode(prompt), self.tokenizer.encode(prompt + text)
        if not before:  # nothing is in front of the first token: it is given
            before = whole[:1]
        score, greedy = 0.0, True
        for start in range(0, len(whole) - 1, self.decoder.context):
            part = whole[start:start + self.decoder.context + 1]
            self.decoder.keep(0)
            rows = self.decoder.logits(part[:-1], every=True)[max(len(before) - 1 - start, 0):]
            following = part[len(part) - len(rows):]
            rows = rows - rows.max(1, keepdims=True)
            picked = rows[np.arange(len(rows)), following] - np.log(np.exp(rows).sum(1))
            score, greedy = score + float(picked.sum()), greedy and bool((rows.argmax(1) == following).all())
        return score, greedy

    def _continued(self, prompt: str, words: dict[str, Any]) -> str:
        count = words.get("max_gen_toks", 256)
        tokens = self.tokenizer.encode(prompt)[-max(self.decoder.context - count, 1):]
        until = [mark for mark in words.get("until", ()) if mark]
        self.decoder.keep(0)
        said: list[int] = []
        text, row = "", self.decoder.logits(tokens)
        while len(said) < min(count, self.decoder.context - len(tokens)):
            said.append(int(row[-1].argmax()))
            if said[-1] in self.language.eos:
                break
            text = self.tokenizer.decode(said)
            if any(mark in text for mark in until):
                break
            row = self.decoder.logits(said[-1:])
        return text[:min([text.index(mark) for mark in until if mark in text], default=len(text))]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("bundle")
    options.add_argument("--tasks", nargs="+", required=True)
    options.add_argument("--include-path", help="a folder with tasks of your own")
    options.add_argument("--limit", type=int)
    given = options.parse_args()
    found = lm_eval.simple_evaluate(BundleLM(given.bundle), tasks=given.tasks, limit=given.limit,
                                    task_manager=TaskManager(include_path=given.include_path))
    print(lm_eval.utils.make_table(found))


if __name__ == "__main__":
    main()
