"""An engine of language models as `session.Model` wants one: arrays in, arrays out, beside the decoder for text."""
from __future__ import annotations

from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Any, List, Optional, Sequence

import numpy as np

from edgeq_runtime.engines import Engine, open_engine, written_to

from .cache import TokenCache
from .decoder import open_decoder

if TYPE_CHECKING:
    from edgeq_runtime.manifest import Manifest


class LanguageEngine:
    """One decoder, and where the model takes its past as inputs, the plain engine for `run` as soon as it is wanted."""

    def __init__(self, folder: str, manifest: Manifest, threads: Optional[int]) -> None:
        """Raises as open_decoder does."""
        self.cache = TokenCache(open_decoder(folder, manifest, threads))
        self.description, self.accelerator = self.cache.decoder.description, "cpu"
        self._keeps_its_past = [spec.name for spec in manifest.inputs] == ["input_ids"]
        self._open = partial(open_engine, folder, manifest, threads)
        self._plain: Optional[Engine] = None
        self._lock = Lock()

    def run(self, arrays: Sequence[Any], out: Optional[Sequence[Any]] = None) -> List[Any]:
        if not self._keeps_its_past:
            with self._lock:
                self._plain = self._plain or self._open()
            return self._plain.run(arrays, out)
        logits = self.cache.logits_of([int(token) for token in np.ravel(arrays[0])])[None]
        return written_to([logits], out)

    def close(self) -> None:
        self.cache.decoder.close()
        if self._plain is not None:
            self._plain.close()
