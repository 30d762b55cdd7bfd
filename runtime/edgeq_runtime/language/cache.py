"""A decoder and what its cache holds, so that a text that begins like the last one is not read again."""
from __future__ import annotations

from threading import RLock
from typing import TYPE_CHECKING, Any, Callable, List, Optional, Sequence

from edgeq_runtime.errors import EngineError

from .decoder import Decoder

if TYPE_CHECKING:
    from numpy.typing import NDArray

CHUNK = 512  # tokens of a prompt between two looks at whether it is still wanted


class TokenCache:
    """One cache for all texts; each goes on behind the longest beginning that it shares with the one before.

    Texts may take turns, token by token and from several threads: each is right, and slower than alone.
    """

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        self._lock = RLock()
        self._text: List[int] = []  # of whoever was last; it only grows
        self._count = 0  # how many of its tokens the decoder holds

    def shared(self, tokens: Sequence[int]) -> int:
        """How many tokens of a text the cache holds; of a whole text all but the last, whose logits are wanted."""
        with self._lock:
            if self._text is tokens:
                return min(self._count, len(tokens) - 1)
            most = min(self._count, len(tokens) - 1)
            return next((k for k in range(most) if self._text[k] != tokens[k]), most)

    def logits_behind(self, tokens: List[int], cancelled: Callable[[], bool]) -> Optional[NDArray[Any]]:
        """float32 [vocabulary] behind the last token of a text, or None where `cancelled` says so.

        tokens: the caller may append to the list and call again.

        Raises:
            InputError: more tokens than the context. EngineError: the engine failed; the next text starts anew.
        """
        with self._lock:
            self._rewind(self.shared(tokens))
            self._text = tokens
            logits = None
            while self._count < len(tokens):
                if cancelled():
                    return None
                logits = self._fed(tokens[self._count:self._count + CHUNK], every=False)
            return None if logits is None else logits[-1]

    def logits_of(self, tokens: List[int]) -> NDArray[Any]:
        """float32 [len(tokens), vocabulary]: behind every token of a text of its own, which is then forgotten."""
        with self._lock:
            self._rewind(0)
            self._text = []
            try:
                return self.decoder.logits(tokens, every=True)
            finally:
                self.decoder.keep(0)

    def _rewind(self, count: int) -> None:
        if count < self._count:
            try:
                self.decoder.keep(count)
            except EngineError:  # what a sliding window has dropped does not come back: such a cache forgets all
                count = 0
                self.decoder.keep(count)
            self._count = count

    def _fed(self, tokens: List[int], *, every: bool) -> NDArray[Any]:
        before, self._count = self._count, 0
        try:
            logits = self.decoder.logits(tokens, every)
        except BaseException:
            self.decoder.keep(0)
            raise
        self._count = before + len(tokens)
        return logits
