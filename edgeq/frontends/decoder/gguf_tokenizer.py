"""A checkpoint folder's tokenizer -> the `tokenizer.*` metadata of a GGUF file.

What a GGUF file has no place for, and llama.cpp therefore does without: Unicode normalization, and added tokens that
swallow the spaces beside them (llama.cpp does so for a `general.name` with "phi-3" in it).
"""
from __future__ import annotations

import json
from collections.abc import Mapping
from enum import IntEnum
from pathlib import Path
from typing import Any, Final, TypeAlias

from edgeq.errors import ModelError
from edgeq.frontends.decoder.pretokenizers import pre_tokenizer_of
from edgeq.frontends.decoder.sentencepiece import SPACE, prefixes_space, scores_of_merges

Json: TypeAlias = dict[str, Any]


class TokenType(IntEnum):
    """https://github.com/ggml-org/ggml/blob/master/docs/gguf.md#ggml"""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


# Word of tokenizer_config.json (before "_token") -> key of the file (before "_token_id").
SPECIAL: Final = {"bos": "bos", "eos": "eos", "unk": "unknown", "sep": "seperator", "pad": "padding", "mask": "mask"}
BYTES: Final = tuple(f"<0x{byte:02X}>" for byte in range(256))


def padding_token(number: int) -> str:
    """What stands in the file for a row of the embedding that no token has."""
    return f"[PAD{number}]"


def gguf_tokenizer_of_folder(folder: Path) -> dict[str, Any]:
    """Metadata by key, "tokenizer.ggml.model" to "tokenizer.chat_template", for byte-level BPE and SentencePiece's BPE.

    There are as many tokens as config.json's `vocab_size`, where it has one: the missing ones are padding.

    Raises:
        ModelError: a file is missing or damaged, or says what a GGUF file cannot hold; the message tells the remedy.
    """
    tokenizer = _read_tokenizer(folder)
    config, words = _read(folder / "config.json"), _read(folder / "tokenizer_config.json")
    has_bytes = tokenizer["model"].get("byte_fallback")
    found = _sentencepiece(tokenizer) if has_bytes else _byte_level(tokenizer, words)
    _pad(found, config)
    identities = {token: number for number, token in enumerate(found["tokenizer.ggml.tokens"])}
    special = _special(identities, words, config)
    return found | _additions(tokenizer, words, identities, special) | _templates(folder, words)


def _read_tokenizer(folder: Path) -> Json:
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ModelError(f"{folder} holds no tokenizer.json; save it with transformers: AutoTokenizer.from_pretrained("
                         "FOLDER).save_pretrained(FOLDER)")
    found = _read(path)
    kind = (found.get("model") or {}).get("type", "BPE" if "merges" in (found.get("model") or {}) else None)
    if kind != "BPE":
        raise ModelError(f"{path} has a model of type {kind}: edgeq writes BPE tokenizers to a GGUF file, byte-level "
                         "and with byte fallback; convert without the GGUF target")
    if not isinstance(found["model"].get("vocab"), dict) or not isinstance(found["model"].get("merges"), list):
        raise ModelError(f"{path} is damaged: its model has no vocab or no merges")
    return found


def _read(path: Path) -> Json:
    """{} for a file that is not there."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} is damaged: {error}") from None
    if not isinstance(found, dict):
        raise ModelError(f"{path} is damaged: it is no JSON object")
    return found


def _byte_level(tokenizer: Json, words: Json) -> dict[str, Any]:
    row = pre_tokenizer_of(tokenizer, words.get("clean_up_tokenization_spaces"))
    tokens, types = _vocabulary(tokenizer)
    prefix = {"tokenizer.ggml.add_space_prefix": words["add_prefix_space"]} if isinstance(
        words.get("add_prefix_space"), bool) else {}
    return {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": row.name, "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.token_type": types,
            "tokenizer.ggml.merges": [" ".join(pair) for pair in _merges(tokenizer)], **prefix}


def _sentencepiece(tokenizer: Json) -> dict[str, Any]:
    tokens, types = _vocabulary(tokenizer)
    plain = [token for token, kind in zip(tokens, types, strict=True) if kind == TokenType.NORMAL]
    scores = scores_of_merges(_merges(tokenizer), plain)
    lowest = min(scores.values(), default=0.0) - 1
    # llama.cpp looks for tokens of this type in the text as it came, spaces and all.
    named = [token.replace(SPACE, " ") if kind == TokenType.USER_DEFINED else token
             for token, kind in zip(tokens, types, strict=True)]
    return {"tokenizer.ggml.model": "llama", "tokenizer.ggml.pre": "default", "tokenizer.ggml.tokens": named,
            "tokenizer.ggml.scores": [scores.get(token, lowest) for token in tokens],
            "tokenizer.ggml.token_type": types, "tokenizer.ggml.add_space_prefix": prefixes_space(tokenizer)}


def _vocabulary(tokenizer: Json) -> tuple[list[str], list[int]]:
    """Tokens and their types, by number; a number without a token is padding."""
    model = tokenizer["model"]
    added = {token["content"]: token for token in tokenizer.get("added_tokens") or ()}
    numbers = model["vocab"] | {content: token["id"] for content, token in added.items()}
    by_number = {number: token for token, number in numbers.items()}
    if len(by_number) < len(numbers):
        twice = sorted(token for token, number in numbers.items() if by_number[number] != token)
        raise ModelError(f"tokenizer.json gives one number to two tokens: {', '.join(twice[:5])}")
    with_bytes = bool(model.get("byte_fallback"))

    def kind(token: str) -> TokenType:
        if with_bytes and token == model.get("unk_token"):
            return TokenType.UNKNOWN
        if token in added:
            return TokenType.CONTROL if added[token].get("special") else TokenType.USER_DEFINED
        return TokenType.BYTE if with_bytes and token in BYTES else TokenType.NORMAL

    tokens = [by_number.get(number, padding_token(number)) for number in range(max(by_number, default=-1) + 1)]
    return tokens, [int(kind(token)) if number in by_number else int(TokenType.UNUSED)
                    for number, token in enumerate(tokens)]


def _merges(tokenizer: Json) -> list[tuple[str, str]]:
    """Older files have them as strings with a space between."""
    found = [tuple(merge.split(" ") if isinstance(merge, str) else merge) for merge in tokenizer["model"]["merges"]]
    wrong = next((pair for pair in found if len(pair) != 2), None)
    if wrong is not None:
        raise ModelError(f"tokenizer.json is damaged: the merge {wrong} is no pair")
    return [(left, right) for left, right in found]


def _pad(found: dict[str, Any], config: Json) -> None:
    size = config.get("vocab_size", config.get("text_config", {}).get("vocab_size"))
    count = len(found["tokenizer.ggml.tokens"])
    if size is None or size == count:
        return
    if size < count:
        raise ModelError(f"the tokenizer has {count} tokens and config.json's vocab_size is {size}: the files are not "
                         "of one model")
    found["tokenizer.ggml.tokens"] += map(padding_token, range(count, size))
    found["tokenizer.ggml.token_type"] += [int(TokenType.UNUSED)] * (size - count)
    if "tokenizer.ggml.scores" in found:
        found["tokenizer.ggml.scores"] += [found["tokenizer.ggml.scores"][0]] * (size - count)


def _special(identities: Mapping[str, int], words: Json, config: Json) -> dict[str, int]:
    """What tokenizer_config.json names, else config.json's number."""
    found = {}
    for word, key in SPECIAL.items():
        named = words.get(f"{word}_token")
        content = named.get("content") if isinstance(named, dict) else named
        if content is not None and content not in identities:
            raise ModelError(f"tokenizer_config.json's {word}_token '{content}' is no token of tokenizer.json")
        number = identities[content] if content is not None else config.get(f"{word}_token_id")
        if isinstance(number, int) and number < len(identities):
            found[f"tokenizer.ggml.{key}_token_id"] = number
    return found


def _additions(tokenizer: Json, words: Json, identities: Mapping[str, int],
               special: Mapping[str, int]) -> dict[str, int | bool]:
    """Numbers of special tokens, and whether a text gets the first and the last one.

    tokenizer_config.json says it, else tokenizer.json's template; in transformers it depends on the tokenizer's class.
    """
    names = [part.get("SpecialToken", {}).get("id") for part in _template(tokenizer.get("post_processor"))]
    middle = names.index(None) if None in names else 0
    found: dict[str, int | bool] = dict(special)
    for word, added in (("bos", names[:middle]), ("eos", names[middle + 1:])):
        said, key = words.get(f"add_{word}_token"), f"tokenizer.ggml.{word}_token_id"
        if added and said is not False:
            number = identities.get(added[0])
            if len(added) > 1 or number is None or number != found.setdefault(key, number):
                raise ModelError(f"tokenizer.json adds {added} to a text, and a GGUF file can only say that the {word} "
                                 f"token is added; set {word}_token of tokenizer_config.json to a single one")
        # llama.cpp adds the first by default and never the last.
        if word == "bos" or added or said is not None:
            found[f"tokenizer.ggml.add_{word}_token"] = bool(added) if said is None else bool(said)
    return found


def _template(processor: Json | None) -> list[Json]:
    if processor is None:
        return []
    if processor["type"] == "Sequence":
        return next((found for inner in processor["processors"] if (found := _template(inner))), [])
    return list(processor["single"]) if processor["type"] == "TemplateProcessing" else []


def _templates(folder: Path, words: Json) -> dict[str, Any]:
    """Chat templates; one in a file of its own goes before tokenizer_config.json's, as in transformers."""
    own = folder / "chat_template.jinja"
    try:
        found = own.read_text(encoding="utf-8") if own.is_file() else words.get("chat_template")
    except (OSError, ValueError) as error:
        raise ModelError(f"{own} is damaged: {error}") from None
    if found is None or isinstance(found, str):
        return {"tokenizer.chat_template": found} if found else {}
    named = {entry["name"]: entry["template"] for entry in found}
    default = {"tokenizer.chat_template": named.pop("default")} if "default" in named else {}
    others = {f"tokenizer.chat_template.{name}": template for name, template in named.items()}
    return default | others | ({"tokenizer.chat_templates": list(named)} if named else {})
