"""llama.cpp's C functions, with ctypes, out of one of two packages.

llama-cpp-python declares them itself, for whatever llama.cpp it was built with. The prebuilt wheel xllamacpp exports
them undeclared, so this file declares the few that the runtime calls. Structs change between releases of llama.cpp
without a version of the interface, hence one release of xllamacpp is known here and every other is refused.
Signatures and fields: https://github.com/ggml-org/llama.cpp/blob/b11549/include/llama.h
"""
from __future__ import annotations

import ctypes
from collections import deque
from ctypes import POINTER, Structure, c_bool, c_char_p, c_float, c_int8, c_int32, c_uint32, c_void_p
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Callable, Deque, Dict, Tuple

from edgeq_runtime.errors import EngineError

XLLAMACPP = "2026.10.11549"  # llama.cpp b11549
INSTALL = f"pip install 'xllamacpp=={XLLAMACPP}' (a prebuilt wheel), or llama-cpp-python (which is compiled)"


class ModelParams(Structure):
    """`llama_model_params`: 78 bytes are written by llama_model_default_params of b11549, all of them named here."""

    _fields_ = [  # as ctypes wants it
        ("devices", c_void_p), ("tensor_buft_overrides", c_void_p), ("n_gpu_layers", c_int32), ("split_mode", c_int32),
        ("load_mode", c_int32), ("lazy_mode", c_int32), ("main_gpu", c_int32), ("tensor_split", c_void_p),
        ("progress_callback", c_void_p), ("progress_callback_user_data", c_void_p), ("kv_overrides", c_void_p),
        ("vocab_only", c_bool), ("check_tensors", c_bool), ("use_extra_bufts", c_bool), ("no_host", c_bool),
        ("no_alloc", c_bool), ("load_mtp", c_bool),
    ]


class ContextParams(Structure):
    """`llama_context_params`: the fields up to the types of the cache, and the rest of the 168 bytes as it comes."""

    _fields_ = [  # as ctypes wants it
        ("n_ctx", c_uint32), ("n_batch", c_uint32), ("n_ubatch", c_uint32), ("n_seq_max", c_uint32),
        ("n_rs_seq", c_uint32), ("n_outputs_max", c_uint32), ("n_outputs_max_per_seq", c_uint32),
        ("n_threads", c_int32), ("n_threads_batch", c_int32), ("ctx_type", c_int32), ("rope_scaling_type", c_int32),
        ("pooling_type", c_int32), ("attention_type", c_int32), ("flash_attn_type", c_int32),
        ("rope_freq_base", c_float), ("rope_freq_scale", c_float), ("yarn_ext_factor", c_float),
        ("yarn_attn_factor", c_float), ("yarn_beta_fast", c_float), ("yarn_beta_slow", c_float),
        ("yarn_orig_ctx", c_uint32), ("defrag_thold", c_float), ("cb_eval", c_void_p), ("cb_eval_user_data", c_void_p),
        ("type_k", c_int32), ("type_v", c_int32), ("rest", ctypes.c_uint64 * 7),
    ]


class Batch(Structure):
    """`llama_batch`. Without positions the tokens go behind those of the cache, without `logits` only the last counts.
    """

    _fields_ = [  # as ctypes wants it
        ("n_tokens", c_int32), ("token", POINTER(c_int32)), ("embd", POINTER(c_float)), ("pos", POINTER(c_int32)),
        ("n_seq_id", POINTER(c_int32)), ("seq_id", c_void_p), ("logits", POINTER(c_int8)),
    ]


_MODEL, _CONTEXT, _MEMORY, _VOCABULARY = c_void_p, c_void_p, c_void_p, c_void_p
LOG = ctypes.CFUNCTYPE(None, c_int32, c_char_p, c_void_p)
# name -> result, arguments
FUNCTIONS: Dict[str, Tuple[Any, Tuple[Any, ...]]] = {
    "llama_backend_init": (None, ()),
    "llama_log_set": (None, (LOG, c_void_p)),
    "llama_model_default_params": (ModelParams, ()),
    "llama_context_default_params": (ContextParams, ()),
    "llama_model_load_from_file": (_MODEL, (c_char_p, ModelParams)),
    "llama_init_from_model": (_CONTEXT, (_MODEL, ContextParams)),
    "llama_model_get_vocab": (_VOCABULARY, (_MODEL,)),
    "llama_vocab_n_tokens": (c_int32, (_VOCABULARY,)),
    "llama_n_ctx": (c_uint32, (_CONTEXT,)),
    "llama_get_memory": (_MEMORY, (_CONTEXT,)),
    "llama_memory_seq_rm": (c_bool, (_MEMORY, c_int32, c_int32, c_int32)),
    "llama_batch_get_one": (Batch, (POINTER(c_int32), c_int32)),
    "llama_decode": (c_int32, (_CONTEXT, Batch)),
    "llama_get_logits": (POINTER(c_float), (_CONTEXT,)),
    "llama_free": (None, (_CONTEXT,)),
    "llama_model_free": (None, (_MODEL,)),
}
# What the header says the defaults are. Read at other places they are other numbers: a layout that moved is noticed.
_DEFAULTS: Dict[str, Dict[str, float]] = {
    "llama_model_default_params": {"n_gpu_layers": -1, "split_mode": 1, "main_gpu": 0, "use_extra_bufts": 1},
    "llama_context_default_params": {
        "n_ctx": 512, "n_batch": 2048, "n_ubatch": 512, "n_seq_max": 1, "rope_scaling_type": -1, "flash_attn_type": -1,
        "yarn_ext_factor": -1, "yarn_beta_slow": -1, "defrag_thold": -1, "type_k": 1, "type_v": 1},
}


@dataclass(frozen=True)
class Library:
    """functions: object whose attributes are the functions of FUNCTIONS. package: that brings it, in this version.

    errors: the last lines that llama.cpp logged as errors.
    """

    functions: Any
    package: str
    version: str
    errors: Deque[str]
    _log: Any  # llama.cpp keeps its address, so it lives as long as the library

    @property
    def description(self) -> str:
        return f"llama.cpp of {self.package} {self.version}"


def load_library() -> Library:
    """The installed llama.cpp: llama-cpp-python, or else xllamacpp.

    Raises:
        EngineError: neither is installed, or not in a release that this runtime knows.
    """
    for package in _PACKAGES:
        try:
            return _loaded(package, version(package))
        except PackageNotFoundError:
            continue
    raise EngineError(f"llama.cpp is not installed: {INSTALL}")


@lru_cache(maxsize=None)  # a process loads a library once, whoever asks, and the library keeps the address of `log`
def _loaded(package: str, found: str) -> Library:
    functions = _PACKAGES[package](found)
    errors: Deque[str] = deque(maxlen=8)

    def note(level: int, text: bytes, data: object) -> None:
        if level == 4:  # GGML_LOG_LEVEL_ERROR
            errors.append(text.decode(errors="replace").strip())

    log = getattr(functions, "llama_log_callback", LOG)(note)
    functions.llama_log_set(log, None)
    functions.llama_backend_init()
    return Library(functions, package, found, errors, log)


def _llama_cpp_python(found: str) -> Any:
    from llama_cpp import llama_cpp

    absent = [name for name in FUNCTIONS if not hasattr(llama_cpp, name)]
    if absent:
        raise EngineError(f"llama-cpp-python {found} has no {absent[0]}: pip install -U llama-cpp-python")
    return llama_cpp


def _xllamacpp(found: str) -> Any:
    if found != XLLAMACPP:
        raise EngineError(f"this runtime knows the C structs of xllamacpp {XLLAMACPP}, installed is {found}: {INSTALL}")
    import xllamacpp  # it finds the libraries that it brings along

    return declared(ctypes.CDLL(str(next(Path(xllamacpp.__path__[0]).glob("xllamacpp*.so")))), f"xllamacpp {found}")


# By preference: package -> version -> an object whose attributes are the functions.
_PACKAGES: Dict[str, Callable[[str], Any]] = {"llama-cpp-python": _llama_cpp_python, "xllamacpp": _xllamacpp}


def declared(library: Any, name: str) -> Any:
    """The same library with the signatures of FUNCTIONS.

    Raises:
        EngineError: a function is missing, or the structs are laid out differently.
    """
    for function, (result, arguments) in FUNCTIONS.items():
        try:
            entry = getattr(library, function)
        except AttributeError:
            raise EngineError(f"{name} exports no {function}: {INSTALL}") from None
        entry.restype, entry.argtypes = result, arguments
    for function, fields in _DEFAULTS.items():
        made = getattr(library, function)()
        for field, expected in fields.items():
            if getattr(made, field) != expected:
                raise EngineError(f"{name}: {field} of {function} is {getattr(made, field)}, in llama.h it is "
                                  f"{expected}: this is another layout of the struct. {INSTALL}")
    return library
