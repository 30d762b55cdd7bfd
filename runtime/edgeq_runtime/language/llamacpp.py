"""llama.cpp as a decoder: one GGUF file, one sequence, its own cache of keys and values."""
from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from threading import RLock
from typing import TYPE_CHECKING, Any, Dict, Optional, Sequence

import numpy as np

from edgeq_runtime.engines.versions import require
from edgeq_runtime.errors import BundleError, EngineError

from .decoder import check_tokens
from .llama_library import Library, load_library

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgeq_runtime.manifest import Manifest

OPTIONS = {
    "threads",  # how many for one run, where the caller does not say
    "context",  # tokens that the cache holds, where that is less than the model's context
    "cache",    # type of keys and values in the cache: a name of CACHE_TYPES
    "flash_attention",  # True: less memory for long prompts, and less exact, see _ATTENTION
}
CACHE_TYPES: Dict[str, int] = {"f32": 0, "f16": 1, "q8_0": 8, "bf16": 30}  # enum ggml_type of ggml.h
# enum llama_flash_attn_type. llama.cpp's own choice is on, whose kernel for processors rounds: of SmolLM2 it moves the
# next token by a KL divergence of .005 after 768 tokens, where the weights of Q4_K_M do by .009; without it steps are a
# tenth slower behind 128 tokens and as fast behind 768.
_ATTENTION = {False: 0, True: 1}
# The cache is made at once: 2 x layers x kv_heads x head_size x 2 bytes a token, 16 GB for the 131,072 of Llama 3.1 8B.
CONTEXT = 4096
BATCH = 512  # tokens of one call; llama.cpp's own n_ubatch, and how long a cancelled prompt goes on


def open_decoder(folder: str, manifest: Manifest, threads: Optional[int]) -> LlamaDecoder:
    """Open the GGUF file of a bundle.

    Raises:
        BundleError: options that are unknown or out of range. EngineError: see load_library; or llama.cpp refuses it.
    """
    language = manifest.language
    if language is None:
        raise BundleError(f"'{manifest.name}' is no language model: its manifest has no `language`")
    unknown = sorted(set(manifest.options) - OPTIONS)
    if unknown:
        raise BundleError(f"options that this runtime does not know: {', '.join(unknown)}; update edgeq-runtime")
    context = manifest.options.get("context", min(language.context, CONTEXT))
    cache = manifest.options.get("cache", "f16")
    if type(context) is not int or not 1 <= context <= language.context:
        raise BundleError(f"the bundle asks for a context of {context!r} tokens; the model has 1 to {language.context}")
    if cache not in CACHE_TYPES:
        raise BundleError(f"the bundle asks for a cache of type {cache!r}; there are {', '.join(CACHE_TYPES)}")
    flash = manifest.options.get("flash_attention", False)
    if type(flash) is not bool:
        raise BundleError(f"the bundle's flash_attention must be true or false, not {flash!r}")
    library = load_library()
    require(library.package, library.version, manifest.engine_version)
    return LlamaDecoder(library, os.path.join(folder, manifest.entry), language.vocabulary,
                        Settings(threads or len(_processors()), context, CACHE_TYPES[cache], _ATTENTION[flash]))


@dataclass(frozen=True)
class Settings:
    """Of a llama_context. cache: an enum ggml_type. attention: an enum llama_flash_attn_type."""

    threads: int
    context: int
    cache: int
    attention: int


class LlamaDecoder:
    """A llama_context. Calls from several threads wait for each other."""

    def __init__(self, library: Library, path: str, vocabulary: int, settings: Settings) -> None:
        self._library, self._functions, self._lock = library, library.functions, RLock()
        self._model: Optional[int] = None
        self._context: Optional[int] = None
        try:
            self._model = self._loaded(path)
            self._context = self._opened(settings)
            self.vocabulary = self._functions.llama_vocab_n_tokens(self._functions.llama_model_get_vocab(self._model))
            if self.vocabulary != vocabulary:
                raise BundleError(f"{os.path.basename(path)} has {self.vocabulary} tokens, the manifest says "
                                  f"{vocabulary}: they are not of one model")
        except Exception:
            self.close()
            raise
        self.description = library.description
        self.context = settings.context  # llama.cpp rounds its own up
        self._memory = self._functions.llama_get_memory(self._context)
        self._held = 0
        self._tokens = (ctypes.c_int32 * BATCH)()
        self._every = (ctypes.c_int8 * BATCH)(*[1] * BATCH)

    def logits(self, tokens: Sequence[int], every: bool = False) -> NDArray[Any]:
        with self._lock:
            if self._context is None:
                raise EngineError("the model is closed")
            check_tokens(tokens, self._held, self)  # llama.cpp would refuse, or abort the process
            parts = [self._decode(tokens[k:k + BATCH], every) for k in range(0, len(tokens), BATCH)]
            return np.concatenate(parts) if every and len(parts) > 1 else parts[-1]

    def keep(self, count: int) -> None:
        with self._lock:
            if self._context is None:
                raise EngineError("the model is closed")
            if count >= self._held:
                return
            if not self._functions.llama_memory_seq_rm(self._memory, 0, count, -1):
                raise EngineError(f"{self.description} cannot forget a part of what this model's cache holds")
            self._held = count

    def close(self) -> None:
        with self._lock:
            context, self._context = self._context, None
            model, self._model = self._model, None
            if context is not None:
                self._functions.llama_free(context)
            if model is not None:
                self._functions.llama_model_free(model)

    def _loaded(self, path: str) -> int:
        params = self._functions.llama_model_default_params()
        params.use_extra_bufts = not _has_amx()
        return self._made(self._functions.llama_model_load_from_file(os.fsencode(path), params),
                          f"load {os.path.basename(path)}")

    def _opened(self, settings: Settings) -> int:
        params = self._functions.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = settings.context, BATCH, BATCH
        params.n_threads = params.n_threads_batch = settings.threads
        params.type_k = params.type_v = settings.cache
        params.flash_attn_type = settings.attention
        return self._made(self._functions.llama_init_from_model(self._model, params),
                          f"make a cache of {settings.context} tokens")

    def _made(self, handle: Optional[int], what: str) -> int:
        if not handle:
            reasons = "; ".join(self._library.errors) or "it gives no reason"
            raise EngineError(f"{self._library.description} cannot {what}: {reasons}")
        self._library.errors.clear()
        return handle

    def _decode(self, tokens: Sequence[int], every: bool) -> NDArray[Any]:
        count = len(tokens)
        self._tokens[:count] = list(tokens)
        batch = self._functions.llama_batch_get_one(self._tokens, count)
        if every:
            batch.logits = ctypes.cast(self._every, type(batch.logits))
        code = self._functions.llama_decode(self._context, batch)
        if code:
            reasons = "; ".join(self._library.errors)
            raise EngineError(f"{self.description}: llama_decode failed with {code}{': ' if reasons else ''}{reasons}")
        self._held += count
        found = self._functions.llama_get_logits(self._context)
        return np.ctypeslib.as_array(found, (count if every else 1, self.vocabulary)).copy()


def _processors() -> Sequence[int]:
    """Those that this process may use; llama.cpp's own default is 4 threads, whatever the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return list(os.sched_getaffinity(0))
    return range(os.cpu_count() or 1)


def _has_amx() -> bool:
    """Where llama.cpp repacks quantized weights for AMX it can crash (llama-cpp-python 0.3.36, every quantized type).

    Elsewhere the extra buffers are those that make 4-bit products fast on ARM, so that they stay.
    """
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            return "amx_int8" in file.read()
    except OSError:
        return False
