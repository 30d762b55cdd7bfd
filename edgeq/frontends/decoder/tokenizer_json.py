"""The `tokenizer.*` metadata of a GGUF file -> tokenizer.json and tokenizer_config.json."""
from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from edgeq.errors import ModelError
from edgeq.frontends.decoder import pretokenizers, sentencepiece
from edgeq.frontends.decoder.gguf_tokenizer import SPECIAL, TokenType, padding_token
from edgeq.frontends.decoder.pretokenizers import pre_tokenizer_named


def tokenizer_json_of_gguf(metadata: Mapping[str, Any]) -> str:
    """tokenizer.json, as the tokenizers package loads it. Padding tokens are left out.

    Args:
        metadata: key -> value; what is not below "tokenizer." is not looked at.

    Raises:
        ModelError: no tokenizer, one that is neither byte-level BPE nor SentencePiece's BPE, or a pre-tokenizer that
            edgeq does not know.
    """
    model = metadata.get("tokenizer.ggml.model")
    if model is None:
        raise ModelError("the file holds no tokenizer: give the checkpoint folder")
    if model not in ("gpt2", "llama"):
        raise ModelError(f"the file's tokenizer is of model '{model}' (tokenizer.ggml.model); edgeq reads 'gpt2' and "
                         "'llama': give the checkpoint folder")
    tokens, types = _tokens(metadata)
    vocabulary = {token: number for number, token in enumerate(tokens)
                  if not (types[number] == TokenType.UNUSED and token == padding_token(number))}
    parts = (_byte_level if model == "gpt2" else _sentencepiece)(metadata, vocabulary, types)
    return json.dumps({"version": "1.0", "truncation": None, "padding": None, "added_tokens": _added(tokens, types),
                       **parts, "post_processor": _post_processor(metadata, tokens)}, ensure_ascii=False)


def tokenizer_config_of_gguf(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """tokenizer_config.json: special tokens, whether they are added, and the chat template where the file has one.

    Raises:
        ModelError: as `tokenizer_json_of_gguf`.
    """
    tokens, _ = _tokens(metadata)
    special = {f"{word}_token": tokens[number] for word, key in SPECIAL.items()
               if (number := metadata.get(f"tokenizer.ggml.{key}_token_id")) is not None}
    says = {ours: metadata[f"tokenizer.ggml.{theirs}"] for ours, theirs in (
        ("add_bos_token", "add_bos_token"), ("add_eos_token", "add_eos_token"),
        ("add_prefix_space", "add_space_prefix"),
    ) if f"tokenizer.ggml.{theirs}" in metadata}
    cleans = metadata.get("tokenizer.ggml.model") == "gpt2" and pre_tokenizer_named(_pre(metadata)).cleans
    template = _chat_template(metadata)
    return {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": cleans, **special, **says,
            **({"chat_template": template} if template else {})}


def _tokens(metadata: Mapping[str, Any]) -> tuple[Sequence[str], Sequence[int]]:
    tokens = metadata.get("tokenizer.ggml.tokens")
    if tokens is None:
        raise ModelError("the file holds no tokens (tokenizer.ggml.tokens): give the checkpoint folder")
    types = metadata.get("tokenizer.ggml.token_type") or [TokenType.NORMAL] * len(tokens)
    if len(types) != len(tokens) or len(set(tokens)) != len(tokens):
        raise ModelError(f"the file's tokenizer is damaged: {len(tokens)} tokens, {len(set(tokens))} different ones, "
                         f"{len(types)} types")
    for key in SPECIAL.values():
        if metadata.get(f"tokenizer.ggml.{key}_token_id", 0) >= len(tokens):
            raise ModelError(f"the file's tokenizer is damaged: its {key}_token_id is beyond its {len(tokens)} tokens")
    return tokens, types


def _pre(metadata: Mapping[str, Any]) -> str:
    return str(metadata.get("tokenizer.ggml.pre", "default"))


def _added(tokens: Sequence[str], types: Sequence[int]) -> list[dict[str, Any]]:
    special = {TokenType.CONTROL: True, TokenType.UNKNOWN: True, TokenType.USER_DEFINED: False}
    return [{"id": number, "content": token, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": special[TokenType(kind)]}
            for number, (token, kind) in enumerate(zip(tokens, types, strict=True)) if kind in special]


def _byte_level(metadata: Mapping[str, Any], vocabulary: Mapping[str, int], types: Sequence[int]) -> dict[str, Any]:
    row = pre_tokenizer_named(_pre(metadata))
    # A merge is split at its first space that is not its first character, as llama.cpp does.
    merges = [[merge[:cut], merge[cut + 1:]] for merge in metadata.get("tokenizer.ggml.merges", ())
              for cut in [merge.find(" ", 1)]]
    return {**pretokenizers.as_json(row),
            "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
            "model": _bpe(vocabulary, merges) | {"ignore_merges": row.whole_words}}


def _sentencepiece(metadata: Mapping[str, Any], vocabulary: Mapping[str, int], types: Sequence[int]) -> dict[str, Any]:
    scores = metadata.get("tokenizer.ggml.scores")
    if scores is None or len(scores) != len(types):
        raise ModelError("the file's tokenizer is damaged: it has no score for each token (tokenizer.ggml.scores)")
    plain = {token: float(scores[number]) for token, number in vocabulary.items()
             if types[number] in (TokenType.NORMAL, TokenType.UNUSED)}
    unknown = next((token for token, number in vocabulary.items() if types[number] == TokenType.UNKNOWN), None)
    merges = [list(pair) for pair in sentencepiece.merges_of_scores(plain)]
    return {**sentencepiece.as_json(bool(metadata.get("tokenizer.ggml.add_space_prefix", True))),
            "model": _bpe(vocabulary, merges) | {"unk_token": unknown, "fuse_unk": True, "byte_fallback": True}}


def _bpe(vocabulary: Mapping[str, int], merges: Sequence[Sequence[str]]) -> dict[str, Any]:
    return {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": vocabulary, "merges": merges}


def _post_processor(metadata: Mapping[str, Any], tokens: Sequence[str]) -> dict[str, Any] | None:
    """The first and the last token, where the file or llama.cpp's default for its kind adds them."""
    is_llama = metadata["tokenizer.ggml.model"] == "llama"
    first = is_llama or pre_tokenizer_named(_pre(metadata)).adds_first
    added = {word: int(metadata.get(f"tokenizer.ggml.{word}_token_id", default))
             for word, adds, default in (("bos", first, 1 if is_llama else 11), ("eos", False, 2 if is_llama else 11))
             if metadata.get(f"tokenizer.ggml.add_{word}_token", adds)}
    if not added:
        return None
    special = {word: {"SpecialToken": {"id": tokens[number], "type_id": 0}} for word, number in added.items()}
    single = [*(special[word] for word in ("bos",) if word in added), {"Sequence": {"id": "A", "type_id": 0}},
              *(special[word] for word in ("eos",) if word in added)]
    return {"type": "TemplateProcessing", "single": single, "pair": [*single, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {tokens[number]: {"id": tokens[number], "ids": [number], "tokens": [tokens[number]]}
                               for number in added.values()}}


def _chat_template(metadata: Mapping[str, Any]) -> str | list[dict[str, str]] | None:
    default = metadata.get("tokenizer.chat_template")
    others = {name: metadata[f"tokenizer.chat_template.{name}"]
              for name in metadata.get("tokenizer.chat_templates", ())}
    if not others:
        return default
    return [{"name": name, "template": text} for name, text in
            (({"default": default} if default else {}) | others).items()]
