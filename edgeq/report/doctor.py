"""What this machine has and lacks, as plain data for `edgeq doctor`. Reads package metadata; imports no engine."""
from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

# What each part of edgeq needs: the same as in pyproject.toml, which a test compares. "": always installed.
DISTRIBUTIONS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType({
    "": ("click", "matplotlib", "ml-dtypes", "numpy", "onnx", "onnx-ir", "onnxruntime", "rich"),
    "tflite": ("ai-edge-litert", "flatbuffers"),
    "coreml": ("coremltools",),
    "torch": ("torch", "onnxscript"),
    "image": ("pillow",),
    "sign": ("cryptography",),
})
PURPOSES: Final[Mapping[str, str]] = MappingProxyType({
    "": "edgeq itself, and the target onnxruntime", "tflite": "the target tflite", "coreml": "the target coreml",
    "torch": ".pt2 files and torch modules as source", "image": "images as samples and inputs",
    "sign": "signed archives: edgeq pack --sign, keygen",
})
# Instructions that integer kernels use; without them INT8 is slower than it could be, or than float.
INTEGER_FLAGS: Final = ("avx2", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm", "sve", "atomics")


def examine() -> dict[str, Any]:
    """Machine, packages, and for each part of edgeq what is missing and the command that installs it."""
    packages = {name: _version(name) for names in DISTRIBUTIONS.values() for name in names}
    parts = []
    for extra, names in DISTRIBUTIONS.items():
        missing = [name for name in names if packages[name] is None]
        command = f"pip install '{f'edgeq[{extra}]' if extra else 'edgeq'}'" if missing else None
        parts.append({"extra": extra, "purpose": PURPOSES[extra], "missing": missing, "install": command})
    return {"python": platform.python_version(), "platform": platform.platform(), "machine": platform.machine(),
            "cpu": _cpu(), "cpus": os.cpu_count(), "memory_bytes": _memory_bytes(), "packages": packages,
            "parts": parts}


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _cpu() -> dict[str, Any]:
    """The processor's name, and which integer instructions it has; None where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return {"name": platform.processor() or None, "integer_instructions": None}
    found = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = (found.get("flags") or found.get("Features") or "").split()
    name = found.get("model name") or found.get("Model") or platform.processor() or None
    return {"name": name, "integer_instructions": [flag for flag in INTEGER_FLAGS if flag in flags]}


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return None
