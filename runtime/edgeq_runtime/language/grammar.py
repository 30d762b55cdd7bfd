"""JSON by a schema: which tokens may come next, by the package llguidance."""
from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Mapping, Sequence, Union

import numpy as np

from edgeq_runtime.engines import missing
from edgeq_runtime.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_SCHEMA = 1 << 20  # characters


class Grammars:
    """Makes grammars over one tokenizer: reading its tokens takes longer than the rest."""

    def __init__(self, path: str, vocabulary: int, eos: Sequence[int]) -> None:
        """path: of tokenizer.json. vocabulary: logits of the model. eos: what may end a text.

        Raises:
            EngineError: llguidance is not installed.
        """
        try:
            import llguidance
        except ImportError:
            raise missing("llguidance", "pip install 'edgeq-runtime[json]'") from None
        self._vocabulary = vocabulary
        self._tokenizer = llguidance.LLTokenizer(path, n_vocab=vocabulary, eos_token=list(eos) or None)

    def of_schema(self, schema: Union[str, Mapping[str, Any]]) -> Grammar:
        """schema: JSON schema, as an object or its text. The JSON has no blanks that the schema does not ask for.

        Raises:
            InputError: no schema, or one with words that the grammar has not.
        """
        from llguidance import LLMatcher

        try:
            text = schema if isinstance(schema, str) else json.dumps(schema)
            if len(text) > MAX_SCHEMA or not isinstance(json.loads(text), (dict, bool)):
                raise ValueError(f"it must be an object of at most {MAX_SCHEMA} characters")
            made = LLMatcher.grammar_from_json_schema(text, defaults={"whitespace_flexible": False})
            matcher = LLMatcher(self._tokenizer, made, log_level=0)
            reason = matcher.get_error()
        except (ValueError, TypeError, RecursionError) as error:
            reason = str(error)
        if reason:
            raise InputError(f"the JSON schema cannot be followed: {reason}")
        return Grammar(matcher, self._vocabulary)


class Grammar:
    """A text in the making."""

    def __init__(self, matcher: Any, vocabulary: int) -> None:
        self._matcher, self._vocabulary = matcher, vocabulary
        self._bits = np.zeros(-(-vocabulary // 32), np.int32)

    def allowed(self) -> NDArray[Any]:
        """bool [vocabulary]: the tokens that may come next, that of an end among them where the text may end."""
        self._matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
        return np.unpackbits(self._bits.view(np.uint8), bitorder="little")[:self._vocabulary].view(bool)

    def add(self, token: int) -> bool:
        """The next token -> is the text complete, and nothing may follow?

        Raises:
            InputError: the grammar gave up: a limit of llguidance.
        """
        if not self._matcher.consume_token(token):
            raise InputError(f"the JSON schema cannot be followed further: {self._matcher.get_error()}")
        return bool(self._matcher.is_stopped())
