"""Texts -> vectors, with a network that reads one text at a time: nothing is padded, so nothing is masked."""
from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, Dict, List, Mapping, Sequence, Union

import numpy as np

from edgeq_runtime.errors import InputError
from edgeq_runtime.integrity import inside

from .text import checked_text, open_tokenizer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgeq_runtime.manifest import Text


class TextEncoder:
    """A tokenizer and a network that makes one vector of the tokens, pooled and normalized inside."""

    def __init__(self, folder: str, text: Text, run: Callable[[Mapping[str, Any]], Dict[str, Any]]) -> None:
        """run: input_ids int64 [1, tokens] -> one output [1, width].

        Raises:
            BundleError: see open_tokenizer. EngineError: `tokenizers` is not installed.
        """
        self.text, self._run = text, run
        self._tokenizer = open_tokenizer(inside(folder, text.tokenizer), text.vocabulary)

    def tokens(self, text: str, *, truncate: bool = False) -> List[int]:
        """With the tokens around them that the model was trained with. truncate: the first that fit, with the last.

        Raises:
            InputError: no text, or more tokens than the network reads.
        """
        found: List[int] = self._tokenizer.encode(checked_text(text, "a text")).ids
        most = self.text.context
        if len(found) > most and not truncate:
            raise InputError(f"a text has {len(found)} tokens, and the network reads {most}: split it, or let its end "
                             "be left out (truncate)")
        if len(found) > most:
            room = most - self._tokenizer.num_special_tokens_to_add(False)
            plain = self._tokenizer.encode(text, add_special_tokens=False)
            plain.truncate(room)
            found = self._tokenizer.post_process(plain).ids
        if not found:
            raise InputError("a text is empty")
        return found

    def embed(self, texts: Union[str, Sequence[str]], *, truncate: bool = False) -> NDArray[np.float32]:
        """One text -> float32 [width], several -> [texts, width]. truncate: leave out what the network cannot read.

        Raises:
            InputError: no texts, or one that is empty or too long. EngineError: the engine failed.
        """
        if isinstance(texts, str):
            return self._embed(self.tokens(texts, truncate=truncate))
        if not isinstance(texts, (list, tuple)) or not texts:
            raise InputError(f"give a text or a list of texts, got {texts!r}"[:200])
        read = [self.tokens(text, truncate=truncate) for text in texts]  # all are looked at before any is run
        return np.stack([self._embed(tokens) for tokens in read])

    def _embed(self, tokens: List[int]) -> NDArray[np.float32]:
        found, = self._run({"input_ids": np.asarray([tokens], np.int64)}).values()
        return np.asarray(found[0], np.float32)
