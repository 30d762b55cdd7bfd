"""ONNX Runtime as a decoder: attention writes keys and values into the buffers that it reads, so no step copies them.

The graph takes input_ids, attention_mask (of ones: its length is what counts), past_key_values, and first_logits (the
first token whose logits are wanted, with a default), and gives logits and present. ONNX Runtime GenAI runs it, too.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any, List, Optional, Sequence

import numpy as np

from edgeq_runtime.engines.onnxruntime import open_session
from edgeq_runtime.errors import BundleError, EngineError

from .decoder import check_tokens

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgeq_runtime.manifest import Language, Manifest

CAPACITY = 256  # tokens that the buffers hold at first; they double
BATCH = 512  # tokens of one run: attention holds a number for each of them, each token of the past and each head


def open_decoder(folder: str, manifest: Manifest, threads: Optional[int]) -> OnnxRuntimeDecoder:
    """Raises BundleError: no language model. EngineError: see engines.onnxruntime.open_session."""
    if manifest.language is None:
        raise BundleError(f"'{manifest.name}' is no language model: its manifest has no `language`")
    session, description = open_session(folder, manifest, threads)
    return OnnxRuntimeDecoder(session, description, manifest.language)


class OnnxRuntimeDecoder:
    """A session and the keys and values of one sequence."""

    def __init__(self, session: Any, description: str, language: Language) -> None:
        self.description, self.context, self.vocabulary = description, language.context, language.vocabulary
        self._session: Any = session
        self._binding = session.io_binding()
        self._names = [f"{layer}.{kind}" for layer in range(language.layers) for kind in ("key", "value")]
        self._buffers: List[NDArray[np.float32]] = [
            np.empty((1, language.kv_heads, 0, language.head_size), np.float32) for _ in self._names]
        self._mask = np.ones(0, np.int64)
        self._held = 0

    def logits(self, tokens: Sequence[int], every: bool = False) -> NDArray[Any]:
        if self._session is None:
            raise EngineError("the model is closed")
        ids = np.ascontiguousarray(tokens, np.int64).reshape(-1)
        check_tokens(ids, self._held, self)
        self._make_room(self._held + len(ids))
        found = np.empty((len(ids) if every else 1, self.vocabulary), np.float32)
        for start in range(0, len(ids), BATCH):
            part = ids[start:start + BATCH]
            self._run(part, found[start:start + len(part)] if every else found)
        return found

    def keep(self, count: int) -> None:
        self._held = min(self._held, count)

    def close(self) -> None:
        self._session = self._binding = None
        self._buffers = []

    def _run(self, ids: NDArray[np.int64], logits: NDArray[np.float32]) -> None:
        """Feed tokens [n] and write the last ones' logits [m, vocabulary]."""
        total, first = self._held + len(ids), np.array([len(ids) - len(logits)], np.int64)
        for name, shape, array in (("input_ids", (1, len(ids)), ids), ("attention_mask", (1, total), self._mask),
                                   ("first_logits", (1,), first)):
            self._binding.bind_input(name, "cpu", 0, np.int64, shape, array.ctypes.data)
        self._binding.bind_output("logits", "cpu", 0, np.float32, (1, *logits.shape), logits.ctypes.data)
        try:
            self._session.run_with_iobinding(self._binding)
        except Exception as error:  # its exceptions share no base class
            raise EngineError(f"{self.description}: {error}") from error
        self._held = total

    def _make_room(self, total: int) -> None:
        capacity = len(self._mask)
        if total <= capacity:
            return
        capacity = max(capacity, CAPACITY)
        while capacity < total:
            capacity *= 2
        capacity = min(capacity, self.context)
        self._mask = np.ones(capacity, np.int64)
        for k, (name, old) in enumerate(zip(self._names, self._buffers, strict=True)):
            larger = np.empty((*old.shape[:2], capacity, old.shape[3]), np.float32)
            larger[:, :, :self._held] = old[:, :, :self._held]
            self._buffers[k] = larger
            place = ("cpu", 0, np.float32, larger.shape, larger.ctypes.data)
            self._binding.bind_input(f"past_key_values.{name}", *place)
            self._binding.bind_output(f"present.{name}", *place)
