"""ONNX Runtime. Its sessions may be run from several threads at once, so no lock is needed."""
from __future__ import annotations

import os
from typing import Any, Dict, List, Optional, Sequence

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


def open(folder: str, manifest: Manifest, threads: Optional[int]) -> OnnxRuntime:
    """Raises EngineError: not installed, outside the version range, none of the wanted providers, or refused by it."""
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
    try:
        session = onnxruntime.InferenceSession(
            os.path.join(folder, manifest.entry), _session_options(onnxruntime, manifest.options, threads),
            providers=providers)
    except Exception as error:  # its exceptions share no base class
        raise EngineError(f"onnxruntime {onnxruntime.__version__} cannot load {manifest.entry}: {error}") from error
    return OnnxRuntime(session, f"onnxruntime {onnxruntime.__version__}", manifest)


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
    session_options.enable_cpu_mem_arena = bool(options.get("enable_cpu_mem_arena", True))
    if threads is not None:
        session_options.intra_op_num_threads = threads
    for key, value in options.get("session_options", {}).items():
        session_options.add_session_config_entry(key, str(value))
    return session_options


def _cache(folder: str, version: str) -> Optional[str]:
    """Where TensorRT may keep what it built for this bundle on this device: it is good for one onnxruntime only.

    None where the bundle cannot be written to; each start then builds anew.
    """
    return os.path.join(folder, "engine_cache", version) if os.access(folder, os.W_OK) else None


def _providers(available: List[str], wanted: Optional[List[Any]], cache: Optional[str]) -> List[Any]:
    """The wanted providers that this build has, in their order; the CPU where the bundle asks for nothing."""
    chosen = [(provider, {}) if isinstance(provider, str) else (provider[0], provider[1])
              for provider in wanted or ["CPUExecutionProvider"]]
    usable = [(name, _in_cache(options, cache)) for name, options in chosen if name in available]
    if not usable:
        raise EngineError(f"this bundle wants one of {wanted}; this build of onnxruntime has {available}")
    return usable


def _in_cache(options: Dict[str, Any], cache: Optional[str]) -> Dict[str, Any]:
    """TensorRT's options with this device's cache folder in place of the bundle's word for it."""
    if "trt_engine_cache_path" not in options:
        return options
    if cache is None:
        return {key: value for key, value in options.items() if "_cache_" not in key}
    os.makedirs(cache, exist_ok=True)
    return {key: cache if key.endswith("_cache_path") else value for key, value in options.items()}
