"""Tokenizers small enough to be made in a test, each with the steps of a family's own tokenizer.json."""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgeq.frontends.decoder.pretokenizers import PRE_TOKENIZERS

TEXTS = (
    "Hello world", " two  spaces\tand a tab\n\nand lines\r\n", "I'll say: WE'RE done, it's 3.14159 or 12345!",
    "für Größe, façade, naïve", "Привет, мир", "你好，世界。今天天气很好",
    "こんにちは世界、カタカナ", "안녕하세요 세계", "مرحبا بالعالم ١٢٣", "שלום עולם", "नमस्ते दुनिया", "สวัสดีชาวโลก",
    "👩\u200d👩\u200d👧 🎉🎉 🇩🇪 ✊🏽", "½ ² Ⅻ ①②",
    "def f(x: int) -> str:\n    return f'{x:>8}' if x != 0 else \"\"  # why\n",
    "a\u00a0b\u2003c\u200bd", "\\ $ ^ ~ | ` <= >=",
    "<|im_start|>user\nHi<|im_end|>\n<tool>x</tool> <|im_end|><|im_end|>", "   ", "\n\n\n", "aaaaaaaaaaaaa banana", "x",
    "cafe\u0301 cafe\u0301",
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
NAMED = ("<tool>", "</tool>")
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
WORDS = {"bos_token": SPECIAL[1], "eos_token": {"content": SPECIAL[2]}, "pad_token": SPECIAL[2],
         "unk_token": SPECIAL[0], "chat_template": TEMPLATE}

_ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_TAIL = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_CASES = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+", \
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
# Model -> (name in llama.cpp, regular expression, behaviour of the cut), as the family's own tokenizer.json has it.
REGEXES = {
    "llama-3": ("llama-bpe", _ENDINGS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _TAIL,
                "isolated"),
    "olmo-2": ("dbrx", _ENDINGS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _TAIL,
               "removed"),
    "qwen-2": ("qwen2", _ENDINGS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _TAIL, "isolated"),
    "qwen-3.5": ("qwen35", _ENDINGS + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|" + _TAIL,
                 "isolated"),
    "phi-4-mini": ("gpt-4o", "|".join(f"{case}{_ENDINGS}?" for case in _CASES)
                   + r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + _TAIL, "removed"),
    "mistral-nemo": ("tekken", "|".join(_CASES) + r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + _TAIL, "isolated"),
    "smollm-2": ("smollm", "digits", ""), "granite-3": ("refact", "digits", ""), "gpt-2": ("gpt-2", "", ""),
}


def save(folder: Path, tokenizer: Any, **words: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_text(tokenizer if isinstance(tokenizer, str) else tokenizer.to_str())
    (folder / "tokenizer_config.json").write_text(json.dumps(words))
    return folder


def byte_level(model: str, folder: Path) -> Path:
    """A folder with a tokenizer of 700 tokens, with `model`'s way to cut text."""
    import tokenizers
    from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

    name, regex, behaviour = REGEXES[model]
    tokenizer = tokenizers.Tokenizer(models.BPE(ignore_merges=name in ("llama-bpe", "tekken")))
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=len(behaviour) == 0)
    if regex == "digits":
        steps = [pre_tokenizers.Digits(individual_digits=True), bytes_]
    elif regex:
        steps = [pre_tokenizers.Split(tokenizers.Regex(regex), behaviour, invert=behaviour == "removed"), bytes_]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps) if regex else bytes_
    tokenizer.normalizer = normalizers.NFC() if "qwen" in model else None
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=list(SPECIAL), show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    tokenizer.add_tokens([tokenizers.AddedToken(token, normalized=False) for token in NAMED])
    row = next(row for row in PRE_TOKENIZERS if row.name == name)
    return save(folder, tokenizer, **WORDS, clean_up_tokenization_spaces=row.cleans, add_bos_token=False)


def sentencepiece(folder: Path, *, prefix: bool, once: bool = False, complete: bool = True) -> Path:
    """A folder with Llama's normalizer and decoder (prefix), or Gemma's.

    once: a space before the first word alone, as Mistral 0.3 has it. complete: every pair that makes a token is a
    merge.
    """
    import tokenizers
    from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

    first = ("<unk>", "<s>", "</s>")
    ids = {token: number for number, token in enumerate((*first, *(f"<0x{byte:02X}>" for byte in range(256))))}
    raw = tokenizers.Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always" if prefix else "never")
    raw.train_from_iterator([text for text in TEXTS if not text.startswith("<|")] * 3,
                            trainers.BpeTrainer(vocab_size=500, show_progress=False, limit_alphabet=120))
    trained = json.loads(raw.to_str())["model"]
    made = ["".join(pair) for pair in trained["merges"]]
    for token in [*made, *(token for token in trained["vocab"] if token not in made)]:
        ids.setdefault(token, len(ids))
    pairs = [(left, right) for token in made for cut in range(1, len(token))
             if (left := token[:cut]) in ids and (right := token[cut:]) in ids]
    merges = pairs if complete else [(left, right) for left, right in trained["merges"]]
    tokenizer = tokenizers.Tokenizer(models.BPE(ids, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    to_space = normalizers.Replace(" ", "▁")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), to_space]) if prefix else to_space
    if once:
        tokenizer.normalizer = None
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    elif not prefix:
        tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                                           *([decoders.Strip(" ", 1, 0)] if prefix else [])])
    tokenizer.add_special_tokens([tokenizers.AddedToken(token, normalized=False) for token in (*first, *SPECIAL)])
    tokenizer.add_tokens([tokenizers.AddedToken(token, normalized=False) for token in NAMED])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)])
    return save(folder, tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", chat_template=TEMPLATE)
