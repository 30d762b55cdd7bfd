"""LiteRT as a decoder, on the model inside of a LiteRT-LM file: the same signatures that LiteRT-LM itself runs.

    tokens int32 [1,S], input_pos int32 [S], mask float32 [1,1,S,C], kv_cache_{k,v}_{i} -> the caches, and logits where
    S is 1
"""
from __future__ import annotations

import os
from threading import RLock
from typing import TYPE_CHECKING, Any, Dict, Optional, Sequence

import numpy as np

from edgeq_runtime.engines.tflite import import_interpreter, version_of
from edgeq_runtime.engines.versions import require
from edgeq_runtime.errors import BundleError, EngineError

from .decoder import check_tokens

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgeq_runtime.manifest import Language, Manifest

OPTIONS = {
    "threads",   # how many for one run, where the caller does not say
    "context",   # tokens that the caches hold
    "prefills",  # how many tokens of a prompt one run may take; each has a signature
    "model_at",  # [first, end]: where the model lies in the file, in bytes
}
NEVER = np.float32(-1e9)  # in the mask: what a token may not see


def open_decoder(folder: str, manifest: Manifest, threads: Optional[int]) -> LiteRTDecoder:
    """Raises BundleError: options that are unknown or do not fit. EngineError: LiteRT is missing, or refuses the file.
    """
    language, options = manifest.language, manifest.options
    if language is None:
        raise BundleError(f"'{manifest.name}' is no language model: its manifest has no `language`")
    unknown = sorted(set(options) - OPTIONS)
    if unknown:
        raise BundleError(f"options that this runtime does not know: {', '.join(unknown)}; update edgeq-runtime")
    path = os.path.join(folder, manifest.entry)
    first, end = options.get("model_at", (0, 0))
    if not 0 <= first < end <= os.path.getsize(path):
        raise BundleError(f"{manifest.entry}: the manifest says that its model lies at {first} to {end}, beyond its "
                          f"{os.path.getsize(path)} bytes")
    package, interpreter_class = import_interpreter()
    version = version_of(package)
    require(package, version, manifest.engine_version)
    with open(path, "rb") as file:
        file.seek(first)
        content = file.read(end - first)
    try:
        interpreter = interpreter_class(model_content=content, num_threads=threads)
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise EngineError(f"{package} {version} cannot load {manifest.entry}: {error}") from error
    return LiteRTDecoder(interpreter, f"{package} {version}", language, options["context"],
                         sorted(options.get("prefills", ()), reverse=True))


class LiteRTDecoder:
    """An interpreter and the keys and values of one sequence, which lie in its inputs: of what a run gives, only the
    new rows are copied there. Calls from several threads wait for each other.
    """

    def __init__(self, interpreter: Any, description: str, language: Language, context: int, prefills: Sequence[int],
                 ) -> None:
        self.description, self.context, self.vocabulary = description, context, language.vocabulary
        self._lock, self._interpreter, self._held = RLock(), interpreter, 0
        self._prefills = prefills
        self._inputs = {details["name"]: details["index"] for details in interpreter.get_input_details()}
        self._outputs = {details["name"].partition(".new")[0]: details["index"]
                         for details in interpreter.get_output_details()}
        self._caches = [name for name in self._inputs if name in self._outputs]
        for name in self._caches:
            interpreter.tensor(self._inputs[name])()[...] = 0

    def logits(self, tokens: Sequence[int], every: bool = False) -> NDArray[Any]:
        with self._lock:
            if self._interpreter is None:
                raise EngineError("the model is closed")
            check_tokens(tokens, self._held, self)
            ids = np.asarray(tokens, np.int32)
            try:
                start = 0 if every else self._prefilled(ids[:-1])  # the last one's logits are wanted
                found = [self._step(ids[k:k + 1]) for k in range(start, len(ids))]
            except (ValueError, RuntimeError) as error:
                raise EngineError(f"{self.description}: {error}") from error
            return np.stack(found if every else found[-1:])

    def keep(self, count: int) -> None:
        with self._lock:
            self._held = min(self._held, count)

    def close(self) -> None:
        with self._lock:
            self._interpreter = None

    def _step(self, ids: NDArray[np.int32]) -> Any:
        """One token -> its logits."""
        interpreter = self._interpreter
        for name, array in self._placed(ids).items():
            interpreter.set_tensor(self._inputs[name], array)
        interpreter.invoke()
        for name in self._caches:
            self._keep_rows(name, interpreter.tensor(self._outputs[name])(), 1)
        self._held += 1
        return interpreter.get_tensor(self._outputs["logits"])[0, 0]

    def _prefilled(self, ids: NDArray[np.int32]) -> int:
        """How many tokens the runs for several of them have taken."""
        start = 0
        for size in self._prefills:
            while start + size <= len(ids):
                self._prefill(ids[start:start + size])
                start += size
        return start

    def _prefill(self, ids: NDArray[np.int32]) -> None:
        caches = {name: self._interpreter.get_tensor(self._inputs[name]) for name in self._caches}
        # Made anew: an interpreter that a runner refers to refuses to be invoked by itself.
        outputs = self._interpreter.get_signature_runner(f"prefill_{len(ids)}")(**self._placed(ids), **caches)
        for name in self._caches:
            self._keep_rows(name, outputs[name], len(ids))
        self._held += len(ids)

    def _placed(self, ids: NDArray[np.int32]) -> Dict[str, NDArray[Any]]:
        places = np.arange(self._held, self._held + len(ids), dtype=np.int32)
        mask = np.where(np.arange(self.context) <= places[:, None], np.float32(0), NEVER)[None, None]
        return {"tokens": ids[None], "input_pos": places, "mask": mask}

    def _keep_rows(self, name: str, found: NDArray[Any], count: int) -> None:
        rows = slice(self._held, self._held + count)
        self._interpreter.tensor(self._inputs[name])()[:, rows] = found[:, rows]
