"""BPE as SentencePiece has it: a score per token in a GGUF file, a list of merges in tokenizer.json.

llama.cpp joins the neighbours whose union is the token of the highest score; tokenizers joins the pair that stands
first in its list. Both say the same where the list holds every pair that makes a token, in the order of the scores:
https://github.com/ggml-org/llama.cpp/blob/master/src/llama-vocab.cpp (llm_tokenizer_spm_session),
https://github.com/huggingface/transformers/blob/main/src/transformers/convert_slow_tokenizer.py (generate_merges).
"""
from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

from edgeq.errors import ModelError

SPACE: Final = "\N{LOWER ONE EIGHTH BLOCK}"
_TO_SPACE: Final = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
_PREPEND: Final = {"type": "Prepend", "prepend": SPACE}


def merges_of_scores(scores: Mapping[str, float]) -> list[tuple[str, str]]:
    """Every pair of tokens that makes a token, those of the highest score first."""
    return [pair for token in sorted(scores, key=scores.__getitem__, reverse=True) for pair in _pairs(token, scores)]


def scores_of_merges(merges: Sequence[tuple[str, str]], tokens: Collection[str]) -> dict[str, float]:
    """Scores of the tokens that merges make: 0 for the first, whole numbers below it for the others.

    Args:
        tokens: those of the vocabulary that are plain text.

    Raises:
        ModelError: pairs are missing, so that no scores say the same.
    """
    known, plain = set(merges), set(tokens)
    missing = [pair for token in plain for pair in _pairs(token, plain) if pair not in known]
    if missing:
        left, right = min(missing)
        raise ModelError(f"{len(missing)} pairs of tokens make a token and are no merges of tokenizer.json, such as "
                         f"'{left}' and '{right}': llama.cpp would join them, so a GGUF file cannot hold this "
                         "tokenizer; convert without the GGUF target")
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for rank, pair in enumerate(merges):
        first.setdefault("".join(pair), rank)
        last["".join(pair)] = rank
    return _falling((token, rank, last[token]) for token, rank in first.items())


def _falling(spans: Iterable[tuple[str, int, int]]) -> dict[str, float]:
    """Tokens whose merges stand among each other's had one score."""
    scores: dict[str, float] = {}
    score, end = 1.0, -1
    for token, first, last in spans:
        score -= first > end
        end = max(end, last)
        scores[token] = score
    return scores


def _pairs(token: str, known: Collection[str]) -> Iterable[tuple[str, str]]:
    for cut in range(len(token) - 1, 0, -1):
        left, right = token[:cut], token[cut:]
        if left in known and right in known:
            yield left, right


def prefixes_space(tokenizer: Mapping[str, Any]) -> bool:
    """Whether the text gets a space before its first word, from tokenizer.json's normalizer and pre-tokenizer.

    A Metaspace counts as well, although it adds none before a space, nor, where it says so, behind special tokens:
    llama.cpp always does, and a GGUF file cannot say otherwise.

    Raises:
        ModelError: steps that SentencePiece does not have.
    """
    match tokenizer.get("normalizer"), tokenizer.get("pre_tokenizer"):
        case {"type": "Sequence", "normalizers": [first, second]}, None if (first, second) == (_PREPEND, _TO_SPACE):
            return True
        # Text has no spaces left where the cut comes, so it cuts nothing.
        case normalizer, None | {"type": "Split", "pattern": {"String": " "}} if normalizer == _TO_SPACE:
            return False
        case None, {"type": "Metaspace", "replacement": "\N{LOWER ONE EIGHTH BLOCK}", "split": False, **others}:
            default = "always" if others.get("add_prefix_space", True) else "never"
            return bool(others.get("prepend_scheme", default) != "never")
    raise ModelError(f"the tokenizer's normalizer {tokenizer.get('normalizer')} with the pre-tokenizer "
                     f"{tokenizer.get('pre_tokenizer')} is none of SentencePiece's, so a GGUF file cannot hold it; "
                     "convert without the GGUF target")


def as_json(prefix: bool) -> dict[str, Any]:
    """The entries `normalizer`, `pre_tokenizer` and `decoder` of tokenizer.json."""
    decoders = [{"type": "Replace", "pattern": {"String": SPACE}, "content": " "}, {"type": "ByteFallback"},
                {"type": "Fuse"}, *([{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else [])]
    return {"normalizer": {"type": "Sequence", "normalizers": [_PREPEND, _TO_SPACE]} if prefix else _TO_SPACE,
            "pre_tokenizer": None, "decoder": {"type": "Sequence", "decoders": decoders}}
