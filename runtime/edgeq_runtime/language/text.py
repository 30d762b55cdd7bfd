"""Text <-> tokens of a bundle, whole and token by token."""
from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Sequence, Tuple

from edgeq_runtime.engines import missing
from edgeq_runtime.errors import BundleError, InputError
from edgeq_runtime.integrity import inside

from .template import ChatTemplate, checked_messages, named_template

if TYPE_CHECKING:
    from edgeq_runtime.manifest import Language

CONFIG = "tokenizer_config.json"
MAX_CONFIG = 1 << 25  # bytes: it repeats every added token
_SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
_INCOMPLETE = "\ufffd"  # what a decoder gives for bytes that are no character, or not yet


class Tokenizer:
    """tokenizer.json of a bundle, and its chat template.

    path: of tokenizer.json.
    """

    def __init__(self, folder: str, language: Language) -> None:
        """Raises:
            BundleError: a file is missing, damaged, or of another vocabulary. EngineError: tokenizers is not installed.
        """
        self.path = inside(folder, language.tokenizer)
        self._tokenizer = open_tokenizer(self.path, language.vocabulary)
        self._bos = language.bos if language.add_bos else None
        config = _config(folder)
        self._template = _template(folder, language.template, config)

    @property
    def has_template(self) -> bool:
        return self._template is not None

    def encode(self, text: str, special: bool = True) -> List[int]:
        """special: put the model's token of a beginning in front, where it was trained with one.

        Raises:
            InputError: no text, or one that is no Unicode.
        """
        tokens: List[int] = self._tokenizer.encode(checked_text(text, "the prompt"), add_special_tokens=False).ids
        return [self._bos, *tokens] if special and self._bos is not None else tokens

    def decode(self, tokens: Sequence[int], special: bool = False) -> str:
        """special: tokens such as that of an end become text too."""
        text: str = self._tokenizer.decode(list(tokens), skip_special_tokens=not special)
        return text

    def chat(self, messages: Any, **words: Any) -> str:
        """messages: [{"role": "user", "content": "Hello"}, ...] -> the text that asks for the next answer.

        Raises:
            InputError: the model has no chat template, or it refuses them; see template.
        """
        if self._template is None:
            raise InputError("this model has no chat template: it continues plain prompts and answers no messages")
        return self._template(checked_messages(messages), **words)


def open_tokenizer(path: str, vocabulary: int) -> Any:
    """A tokenizer.json, without truncation and padding. vocabulary: of the network.

    Raises:
        BundleError: the file is missing, damaged, or of another vocabulary. EngineError: tokenizers is not installed.
    """
    try:
        import tokenizers
    except ImportError:
        raise missing("tokenizers", "pip install 'edgeq-runtime[language]'") from None
    name = os.path.basename(path)
    if not os.path.isfile(path):
        raise BundleError(f"the bundle has no {name}: text cannot become tokens; convert it again")
    try:
        found = tokenizers.Tokenizer.from_file(path)
    except Exception as error:  # the package raises bare Exception
        raise BundleError(f"{name} is damaged: {error}") from None
    count = found.get_vocab_size(with_added_tokens=True)
    if count > vocabulary:
        raise BundleError(f"{name} has {count} tokens, the model {vocabulary}: they are not of one model")
    found.no_truncation()
    found.no_padding()
    return found


def checked_text(text: Any, what: str) -> str:
    """Raises InputError: no text, or one that is no Unicode."""
    if not isinstance(text, str):
        raise InputError(f"{what} must be text, got {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{what} is no Unicode text: {error}") from None
    return text


class TokenText:
    """Tokens one by one -> pieces of text, each of whole characters; together they are the text of all."""

    def __init__(self, tokenizer: Tokenizer, before: Sequence[int] = ()) -> None:
        """before: tokens in front, so that a space of the first one is seen."""
        self._tokenizer, self._tokens = tokenizer, list(before)
        self._start, self._shown = 0, len(self._tokens)
        self._prefix = self._text(self._shown)

    def add(self, token: int) -> str:
        self._tokens.append(token)
        text = self._text(len(self._tokens))
        if text.endswith(_INCOMPLETE) or len(text) <= len(self._prefix):
            return ""
        piece = text[len(self._prefix):]
        self._start, self._shown = self._shown, len(self._tokens)
        self._prefix = self._text(self._shown)
        return piece

    def end(self) -> str:
        """What is left of a character that was begun."""
        return self._text(len(self._tokens))[len(self._prefix):]

    def _text(self, end: int) -> str:
        return self._tokenizer.decode(self._tokens[self._start:end])


class StopStrings:
    """Pieces of text -> pieces that can be shown: a text that may become a stop string waits."""

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = tuple(stop)
        self._waiting = ""
        self.found = False

    def add(self, piece: str) -> str:
        if not self._stop:
            return piece
        text = self._waiting + piece
        places = [place for place in map(text.find, self._stop) if place >= 0]
        if places:
            self.found, self._waiting = True, ""
            return text[:min(places)]
        held = max((size for stop in self._stop for size in range(1, min(len(stop), len(text) + 1))
                    if text.endswith(stop[:size])), default=0)
        self._waiting = text[len(text) - held:]
        return text[:len(text) - held]

    def end(self) -> str:
        """What waited for a stop string that did not come."""
        waiting, self._waiting = self._waiting, ""
        return waiting


def checked_stop(stop: Any) -> Tuple[str, ...]:
    """A text, several, or None.

    Raises:
        InputError: anything else, or an empty one.
    """
    stops = (stop,) if isinstance(stop, str) else stop or ()
    if not isinstance(stops, (list, tuple)) or not all(isinstance(one, str) and one for one in stops):
        raise InputError(f"stop must be a text or a list of texts, none empty; got {stop!r}")
    return tuple(stops)


def _config(folder: str) -> Dict[str, Any]:
    path = os.path.join(folder, CONFIG)
    if not os.path.isfile(path):
        return {}
    try:
        with open(inside(folder, CONFIG), encoding="utf-8") as file:
            config = json.loads(file.read(MAX_CONFIG))
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{CONFIG} is damaged: {error}") from None
    if not isinstance(config, dict):
        raise BundleError(f"{CONFIG} must be an object")
    return config


def _template(folder: str, file_name: str, config: Dict[str, Any]) -> Optional[ChatTemplate]:
    source, names = named_template(config.get("chat_template"))
    if file_name:
        try:
            with open(inside(folder, file_name), encoding="utf-8") as file:
                source = file.read()
        except (OSError, UnicodeDecodeError) as error:
            raise BundleError(f"cannot read the chat template {file_name}: {error}") from None
    elif names and not source:
        raise BundleError(f"{CONFIG} has chat templates named {', '.join(names)}, none of them `default`")
    special = {name: value["content"] if isinstance(value, dict) else value
               for name, value in config.items() if name in _SPECIAL and value is not None}
    return ChatTemplate(source, special) if source else None
