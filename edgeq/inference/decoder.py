"""A decoder's graph in onnxruntime, fed token by token: what a language model is judged against."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


class Decoder(Protocol):
    """What judging needs of a language model, whichever engine runs it; edgeq_runtime.language has the same."""

    @property
    def context(self) -> int: ...

    def logits(self, tokens: Sequence[int], every: bool = False) -> Array:
        """Feed tokens behind those that the cache holds -> [1, vocabulary] of the last, or [tokens, vocabulary]."""
        ...

    def keep(self, count: int) -> None:
        """Forget the cache behind its first `count` tokens."""
        ...

    def close(self) -> None: ...


class GraphDecoder:
    """A graph with past keys and values in and out (edgeq.frontends.decoder.builder), in an onnxruntime session."""

    def __init__(self, session: Any, context: int):
        self.context = context
        self._session = session
        self._cache = {value.name: np.zeros([size if isinstance(size, int) else int(axis == 0)
                                             for axis, size in enumerate(value.shape)], np.float32)
                       for value in session.get_inputs()[1:]}

    def logits(self, tokens: Sequence[int], every: bool = False) -> Array:
        found, *present = self._session.run(None, {"input_ids": np.asarray([tokens], np.int64), **self._cache})
        self._cache = dict(zip(self._cache, present, strict=True))
        return np.asarray(found[0] if every else found[0][-1:])

    def keep(self, count: int) -> None:
        self._cache = {name: array[:, :, :count] for name, array in self._cache.items()}

    def close(self) -> None:
        self._session = None
