"""ONNX Runtime. Its sessions may be run from several threads at once, so no lock is needed."""
from __future__ import annotations

import os
import re
from typing import Any, Dict, List, Optional, Pattern, Sequence, Tuple

from edgeq_runtime.engines import missing
from edgeq_runtime.engines.versions import require
from edgeq_runtime.errors import BundleError, EngineError
from edgeq_runtime.manifest import Manifest

OPTIONS = {
    "threads",               # how many for one run, where the caller does not say
    "session_options",       # config entries: onnxruntime_session_options_config_keys.h
    "providers",             # execution providers by preference: names, or [name, {option: value}]
    "enable_cpu_mem_arena",  # False saves memory between runs
}

_SWITCH, _NUMBER = re.compile("True|False|0|1"), re.compile(r"\d{1,12}")
_PATH = re.compile(".*", re.DOTALL)  # of the cache: replaced by this device's own
# What a bundle may say to a provider, and of which form. Names and meanings:
# https://onnxruntime.ai/docs/execution-providers/TensorRT-ExecutionProvider.html and CUDA-ExecutionProvider.html
PROVIDERS: Dict[str, Dict[str, Pattern[str]]] = {
    "CPUExecutionProvider": {},
    "CUDAExecutionProvider": {"device_id": _NUMBER, "gpu_mem_limit": _NUMBER, "use_tf32": _SWITCH},
    "TensorrtExecutionProvider": {
        "device_id": _NUMBER, "trt_int8_enable": _SWITCH, "trt_fp16_enable": _SWITCH, "trt_bf16_enable": _SWITCH,
        "trt_max_workspace_size": _NUMBER, "trt_builder_optimization_level": _NUMBER,
        "trt_engine_cache_enable": _SWITCH, "trt_timing_cache_enable": _SWITCH,
        "trt_engine_cache_path": _PATH, "trt_timing_cache_path": _PATH,
    },
}
# Of onnxruntime_session_options_config_keys.h: those that choose kernels and threads, none that names a file.
SESSION_OPTIONS = re.compile(
    r"session\.(qdqisint8allowed|qdq_matmulnbits_accuracy_level|disable_prepacking|disable_quant_qdq|"
    r"enable_quant_qdq_cleanup|set_denormal_as_zero|dynamic_block_base|(intra|inter)_op\.allow_spinning|"
    r"force_spinning_stop)|mlas\.\w+|optimization\.enable_gelu_approximation")


def open(folder: str, manifest: Manifest, threads: Optional[int]) -> OnnxRuntime:
    """Raises EngineError: see open_session."""
    return OnnxRuntime(*open_session(folder, manifest, threads), manifest)


def open_session(folder: str, manifest: Manifest, threads: Optional[int]) -> Tuple[Any, str]:
    """-> the bundle's InferenceSession, and name and version of the engine.

    Raises:
        EngineError: not installed, outside the version range, none of the wanted providers, or refused by it.
    """
    try:
        import onnxruntime
    except ImportError:
        raise missing("onnxruntime", "pip install 'edgeq-runtime[onnxruntime]'") from None
    require("onnxruntime", onnxruntime.__version__, manifest.engine_version)
    unknown = sorted(set(manifest.options) - OPTIONS)
    if unknown:
        raise BundleError(f"options that this runtime does not know: {', '.join(unknown)}; update edgeq-runtime")
    cache = _cache(folder, onnxruntime.__version__)
    providers = _providers(onnxruntime.get_available_providers(), manifest.options.get("providers"), cache)
    options = _session_options(onnxruntime, manifest.options, threads)
    try:
        session = onnxruntime.InferenceSession(os.path.join(folder, manifest.entry), options, providers=providers)
    except Exception as error:  # its exceptions share no base class
        raise EngineError(f"onnxruntime {onnxruntime.__version__} cannot load {manifest.entry}: {error}") from error
    return session, f"onnxruntime {onnxruntime.__version__}"


class OnnxRuntime:
    """An inference session that takes and gives arrays in the manifest's order."""

    def __init__(self, session: Any, description: str, manifest: Manifest) -> None:
        self.description = description
        self.accelerator = ", ".join(session.get_providers())
        self._session = session
        self._inputs = [spec.engine_name or spec.name for spec in manifest.inputs]
        self._outputs = [spec.engine_name or spec.name for spec in manifest.outputs]
        _check_names("inputs", self._inputs, [value.name for value in session.get_inputs()])
        if set(self._outputs) - {value.name for value in session.get_outputs()}:
            _check_names("outputs", self._outputs, [value.name for value in session.get_outputs()])

    def run(self, arrays: Sequence[Any], out: Optional[Sequence[Any]] = None) -> List[Any]:
        if out is not None:
            return self._run_into(arrays, out)
        outputs: List[Any] = self._session.run(self._outputs, dict(zip(self._inputs, arrays, strict=True)))
        return outputs

    def _run_into(self, arrays: Sequence[Any], out: Sequence[Any]) -> List[Any]:
        """onnxruntime writes into the caller's memory itself. Threads share no binding: each run makes its own."""
        binding = self._session.io_binding()
        for name, array in zip(self._inputs, arrays, strict=True):
            binding.bind_cpu_input(name, array if array.flags.c_contiguous else array.copy())
        for name, target in zip(self._outputs, out, strict=True):
            if target is None:
                binding.bind_output(name, "cpu")
            else:
                binding.bind_output(name, "cpu", 0, target.dtype.type, target.shape, target.ctypes.data)
        self._session.run_with_iobinding(binding)
        return [value.numpy() if target is None else target
                for value, target in zip(binding.get_outputs(), out, strict=True)]

    def close(self) -> None:
        """Nothing to do: the session goes with the last run that uses it."""


def _check_names(kind: str, manifest: List[str], model: List[str]) -> None:
    if set(manifest) != set(model):
        raise BundleError(f"the manifest's {kind} {manifest} are not those of the model: {model}")


def _session_options(onnxruntime: Any, options: Dict[str, Any], threads: Optional[int]) -> Any:
    session_options = onnxruntime.SessionOptions()
    session_options.log_severity_level = 3  # errors only: a device's stderr is not the place for graph warnings
    session_options.enable_cpu_mem_arena = _checked(options.get("enable_cpu_mem_arena", True), bool,
                                                    "enable_cpu_mem_arena")
    if threads is not None:
        session_options.intra_op_num_threads = threads
    for key, value in _checked(options.get("session_options", {}), dict, "session_options").items():
        if not SESSION_OPTIONS.fullmatch(key) or not _NUMBER.fullmatch(str(value)):
            raise BundleError(f"the session option {key}={value!r} is not one that this runtime passes on")
        session_options.add_session_config_entry(key, str(value))
    return session_options


def _cache(folder: str, version: str) -> Optional[str]:
    """Where TensorRT may keep what it built for this bundle on this device: it is good for one onnxruntime only.

    None where the bundle cannot be written to; each start then builds anew.
    """
    return os.path.join(folder, "engine_cache", version) if os.access(folder, os.W_OK) else None


def _providers(available: List[str], wanted: Any, cache: Optional[str]) -> List[Any]:
    """The wanted providers that this build has, in their order; the CPU where the bundle asks for nothing."""
    chosen = [_provider(each) for each in _checked(wanted or ["CPUExecutionProvider"], list, "providers")]
    usable = [(name, _in_cache(options, cache)) for name, options in chosen if name in available]
    if not usable:
        raise EngineError(f"this bundle wants one of {wanted}; this build of onnxruntime has {available}")
    return usable


def _provider(wanted: Any) -> Tuple[str, Dict[str, Any]]:
    """A name, or [name, options]: those of `PROVIDERS` alone, and of their types. Others name libraries and files."""
    name, options = (wanted, {}) if isinstance(wanted, str) else wanted if (
        isinstance(wanted, list) and len(wanted) == 2) else (None, None)
    if not isinstance(name, str) or name not in PROVIDERS or not isinstance(options, dict):
        raise BundleError(f"the provider {wanted!r} is not one that this runtime knows: {', '.join(PROVIDERS)}")
    for key, value in options.items():
        kind = PROVIDERS[name].get(key)
        if kind is None or not kind.fullmatch(str(value)):
            raise BundleError(f"{name}: the option {key}={value!r} is not one that this runtime passes on")
    return name, options


def _checked(value: Any, kind: type, name: str) -> Any:
    if type(value) is not kind:
        raise BundleError(f"the option '{name}' must be a {kind.__name__}, got {value!r}")
    return value


def _in_cache(options: Dict[str, Any], cache: Optional[str]) -> Dict[str, Any]:
    """TensorRT's options with this device's cache folder in place of the bundle's word for it."""
    if not any(key.endswith("_cache_path") for key in options):
        return options
    if cache is None:
        return {key: value for key, value in options.items() if "_cache_" not in key}
    os.makedirs(cache, exist_ok=True)
    return {key: cache if key.endswith("_cache_path") else value for key, value in options.items()}
