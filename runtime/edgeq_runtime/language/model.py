"""A language model in a bundle: prompts and conversations in, text out."""
from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, Callable, List, Literal, Mapping, Optional, Sequence, Tuple, Union, overload

from edgeq_runtime.errors import InputError

from .cache import TokenCache
from .generation import Generation, Request, TextStream
from .grammar import Grammars
from .sampling import Sampling
from .text import Tokenizer, checked_stop

if TYPE_CHECKING:
    from edgeq_runtime.manifest import Language

_BEFORE = 6  # tokens of a plain prompt that its continuation is decoded with: a character has at most four bytes
Prompt = Union[str, Sequence[Mapping[str, Any]]]


class LanguageModel:
    """Text generation over one decoder. Safe to use from several threads; see TokenCache."""

    def __init__(self, folder: str, language: Language, cache: TokenCache) -> None:
        self.language = language
        self.context = cache.decoder.context
        self.tokenizer = Tokenizer(folder, language)
        self._cache = cache

    @overload
    def generate(self, prompt: Prompt, *, stream: Literal[True] = True, max_tokens: Optional[int] = None,
                 temperature: Optional[float] = None, top_p: Optional[float] = None, min_p: Optional[float] = None,
                 top_k: Optional[int] = None, repetition_penalty: Optional[float] = None, seed: Optional[int] = None,
                 stop: Union[str, Sequence[str], None] = None,
                 json_schema: Union[str, Mapping[str, Any], None] = None,
                 unwanted: Callable[[], bool] = ...) -> TextStream: ...

    @overload
    def generate(self, prompt: Prompt, *, stream: Literal[False], max_tokens: Optional[int] = None,
                 temperature: Optional[float] = None, top_p: Optional[float] = None, min_p: Optional[float] = None,
                 top_k: Optional[int] = None, repetition_penalty: Optional[float] = None, seed: Optional[int] = None,
                 stop: Union[str, Sequence[str], None] = None,
                 json_schema: Union[str, Mapping[str, Any], None] = None,
                 unwanted: Callable[[], bool] = ...) -> Generation: ...

    def generate(self, prompt: Prompt, *, stream: bool = True, max_tokens: Optional[int] = None,
                 stop: Union[str, Sequence[str], None] = None,
                 json_schema: Union[str, Mapping[str, Any], None] = None,
                 unwanted: Callable[[], bool] = lambda: False, **said: Any) -> Union[TextStream, Generation]:
        """Continue a text, or answer a conversation.

        prompt: a text, which is continued as it stands, or messages [{"role": "user", "content": "Hello"}], which the
        chat template puts into the form that the model was trained on. stream: give a TextStream, whose pieces come as
        they are made; or else the finished Generation. max_tokens: of the answer; None for as many as the context
        holds. temperature, top_p, min_p, top_k, repetition_penalty, seed: see Sampling; None takes the model's own of
        generation_config.json. stop: texts that end the answer and are not part of it. json_schema: the answer is JSON
        that fits it, unless max_tokens cuts it short. unwanted: asked before every step; True cancels.

        Raises:
            InputError: a prompt that is empty, no text, or longer than the context; messages without a chat template;
            a schema that cannot be followed; a number that is out of range. EngineError: the engine failed.
        """
        unknown = sorted(set(said) - set(Sampling.__dataclass_fields__))
        if unknown:
            raise TypeError(f"generate() got an unexpected keyword argument '{unknown[0]}'")
        tokens, before = self._tokens(prompt)
        grammar = None if json_schema is None else self._grammars.of_schema(json_schema)
        request = Request(tokens, before, self._limit(len(tokens), max_tokens),
                          Sampling.of(self.language.defaults, said), checked_stop(stop), self.language.eos, grammar)
        made = TextStream(request, self._cache, self.tokenizer, unwanted)
        return made if stream else made.result

    def _tokens(self, prompt: Prompt) -> Tuple[List[int], int]:
        if isinstance(prompt, str):
            if not prompt:
                raise InputError("the prompt is empty")
            tokens = self.tokenizer.encode(prompt)
            return tokens, min(_BEFORE, len(tokens))
        if not isinstance(prompt, (list, tuple)):
            raise InputError(f"the prompt must be text or a list of messages, got {type(prompt).__name__}")
        return self.tokenizer.encode(self.tokenizer.chat(prompt), special=False), 0

    def _limit(self, prompt: int, wanted: Optional[int]) -> int:
        room = self.context - prompt
        if room < 1:
            raise InputError(f"the prompt has {prompt} tokens, and the context holds {self.context} with the answer: "
                             "shorten it")
        if wanted is None:
            return room
        if type(wanted) is not int or wanted < 1:
            raise InputError(f"max_tokens must be a whole number above 0, got {wanted!r}")
        if wanted > room:
            raise InputError(f"max_tokens is {wanted}, and a context of {self.context} has room for {room} behind a "
                             f"prompt of {prompt}: ask for less, or shorten the prompt")
        return wanted

    @cached_property
    def _grammars(self) -> Grammars:
        return Grammars(self.tokenizer.path, self.language.vocabulary, self.language.eos)
