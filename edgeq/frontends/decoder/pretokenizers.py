"""How byte-level BPE cuts text into words: the names that llama.cpp has for it, and what tokenizer.json says."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from edgeq.errors import ModelError

Json: TypeAlias = Mapping[str, Any]
Step: TypeAlias = tuple[Any, ...]

_ENDINGS: Final = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES: Final = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER: Final = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER: Final = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_PUNCTUATION: Final = r" ?[^\s\p{L}\p{N}]+"


def _like_gpt4(digits: str) -> str:
    return (rf"{_ENDINGS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}|{_PUNCTUATION}[\r\n]*|{_SPACES}")


def _by_case(endings: str, digits: str) -> str:
    return (rf"{_UPPER}*{_LOWER}+{endings}|{_UPPER}+{_LOWER}*{endings}|{digits}|{_PUNCTUATION}[\r\n/]*|{_SPACES}")


def _cut(regex: str) -> tuple[Step, ...]:
    return ("Split", regex), ("ByteLevel", False, False)


_GPT2: Final[tuple[Step, ...]] = (("ByteLevel", False, True),)
_DIGITS: Final[tuple[Step, ...]] = (("Digits", True), *_GPT2)
_QWEN35: Final = (rf"{_ENDINGS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|"
                  rf"{_SPACES}")


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """name: `tokenizer.ggml.pre`, and `others` that llama.cpp treats alike. steps: those of tokenizer.json.

    whole_words: a word that is a token needs no merges (`ignore_merges`). cleans: detokenized text loses the space
    before a full stop. adds_first: a text gets the first token where the file does not say. composed: text is brought
    to Unicode's NFC first, which llama.cpp never does.
    """

    name: str
    steps: tuple[Step, ...]
    whole_words: bool = False
    cleans: bool = True
    adds_first: bool = False
    composed: bool = False
    others: tuple[str, ...] = ()


# Regular expressions and flags by name: https://github.com/ggml-org/llama.cpp/blob/master/src/llama-vocab.cpp
# (llm_tokenizer_bpe and llama_vocab::impl::load). Of rows that differ in `cleans` alone the fitting one is taken, else
# the first. "gpt-4o" and "tekken" stand there with approximate letter classes: case is told apart for a-z only.
PRE_TOKENIZERS: Final = (
    PreTokenizer("llama-bpe", _cut(_like_gpt4(r"\p{N}{1,3}")), whole_words=True, adds_first=True,
                 others=("llama3", "llama-v3", "falcon3", "pixtral", "lfm2")),
    PreTokenizer("dbrx", _cut(_like_gpt4(r"\p{N}{1,3}")), others=("smaug-bpe", "chatglm-bpe", "glm4")),
    PreTokenizer("qwen2", _cut(_like_gpt4(r"\p{N}")), cleans=False, composed=True, others=("deepseek-r1-qwen",)),
    PreTokenizer("stablelm2", _cut(_like_gpt4(r"\p{N}")), others=("megrez",)),
    PreTokenizer("qwen35", _cut(_QWEN35), cleans=False, composed=True),
    PreTokenizer("smollm", _DIGITS, cleans=False, others=("command-r",)),
    PreTokenizer("refact", _DIGITS, others=("starcoder", "codeshell", "exaone", "minerva-7b")),
    PreTokenizer("gpt-2", _GPT2, others=("olmo", "phi-2", "mpt", "jais")),
    PreTokenizer("granite-docling", _GPT2, cleans=False, others=("trillion",)),
    PreTokenizer("gpt-4o", _cut(_by_case(f"{_ENDINGS}?", r"\p{N}{1,3}")), cleans=False, others=("llama4",)),
    PreTokenizer("tekken", _cut(_by_case("", r"\p{N}")), whole_words=True, cleans=False, adds_first=True),
)


def pre_tokenizer_of(tokenizer: Json, cleans: bool | None) -> PreTokenizer:
    """The row that a byte-level tokenizer.json fits.

    Args:
        cleans: `clean_up_tokenization_spaces` of tokenizer_config.json, None where it is not said.

    Raises:
        ModelError: no row has these steps, or this normalizer.
    """
    normalizer = tokenizer.get("normalizer")
    if normalizer not in (None, {"type": "NFC"}, {"type": "Sequence", "normalizers": []}):
        raise ModelError(f"the tokenizer changes text by {_kinds(normalizer)} before it cuts it, which a GGUF file "
                         "cannot say of byte-level BPE; convert without the GGUF target")
    steps, whole = _steps(tokenizer.get("pre_tokenizer")), bool(tokenizer["model"].get("ignore_merges"))
    rows = [row for row in PRE_TOKENIZERS if row.steps == steps and row.whole_words == whole]
    if not rows:
        raise ModelError("the pre-tokenizer of tokenizer.json is none that edgeq has a name for in llama.cpp "
                         f"({', '.join(row.name for row in PRE_TOKENIZERS)}): {list(steps)}, ignore_merges {whole}; "
                         "convert without the GGUF target, or add a row to edgeq/frontends/decoder/pretokenizers.py")
    return next((row for row in rows if row.cleans == cleans), rows[0])


def pre_tokenizer_named(name: str) -> PreTokenizer:
    """Raises ModelError: `tokenizer.ggml.pre` that no row has."""
    for row in PRE_TOKENIZERS:
        if name in (row.name, *row.others):
            return row
    known = ", ".join(name for row in PRE_TOKENIZERS for name in (row.name, *row.others))
    raise ModelError(f"the file cuts text into words by '{name}' (tokenizer.ggml.pre), which edgeq does not know; it "
                     f"knows {known}; give the checkpoint folder")


def as_json(row: PreTokenizer) -> dict[str, Any]:
    """The entries `normalizer` and `pre_tokenizer` of tokenizer.json."""
    steps = [_step_json(*step) for step in row.steps]
    return {"normalizer": {"type": "NFC"} if row.composed else None,
            "pre_tokenizer": steps[0] if len(steps) == 1 else {"type": "Sequence", "pretokenizers": steps}}


def _steps(found: Json | None) -> tuple[Step, ...]:
    """The pre-tokenizer without what has no influence on tokens; a step that no row can have as it stands."""
    if found is None:
        return ()
    if found["type"] == "Sequence":
        return tuple(step for inner in found["pretokenizers"] for step in _steps(inner))
    match found:
        case {"type": "Split", "pattern": {"Regex": regex}, "behavior": behavior, "invert": invert} if (
                # Each regular expression of the table covers any text, so what it does not match is nothing.
                (behavior, invert) in (("Isolated", False), ("Removed", True))):
            return (("Split", regex),)
        case {"type": "Digits"}:
            return (("Digits", bool(found.get("individual_digits", False))),)
        case {"type": "ByteLevel"}:
            return (("ByteLevel", bool(found.get("add_prefix_space", True)), bool(found.get("use_regex", True))),)
    return ((found["type"], dict(found)),)


def _step_json(kind: str, *values: Any) -> dict[str, Any]:
    match kind:
        case "Split":
            return {"type": kind, "pattern": {"Regex": values[0]}, "behavior": "Isolated", "invert": False}
        case "Digits":
            return {"type": kind, "individual_digits": values[0]}
    return {"type": "ByteLevel", "add_prefix_space": values[0], "trim_offsets": True, "use_regex": values[1]}


def _kinds(normalizer: Json) -> str:
    return ", ".join(part["type"] for part in normalizer.get("normalizers", [normalizer]))
