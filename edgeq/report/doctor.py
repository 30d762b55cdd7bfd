"""What this machine has and lacks, as plain data for `edgeq doctor`. Reads package metadata; imports no engine."""
from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from edgeq.backend import BACKENDS, registered, target_named

PROJECT: Final = "edgeq"
# What the extras are for that are no target's.
PURPOSES: Final[Mapping[str, str]] = MappingProxyType({
    "torch": ".pt2 files and torch modules as source", "image": "images as samples and inputs",
    "sign": "signed archives: edgeq pack --sign, keygen", "decoder": "language models: GGUF files and tokenizers",
    "language": "language models: prompts and chats", "llamacpp": "language models on llama.cpp",
    "recover": "learning from the float model: edgeq convert --recover", "sweep": "edgeq sweep",
    "json": "language models: answers that follow a JSON schema",
    "litertlm": "language models for LiteRT-LM (--target tflite)",
    "mcu": "microcontrollers: TensorFlow Lite Micro, and Arm's compiler for Ethos-U",
})
# Instructions that integer kernels use; without them INT8 is slower than it could be, or than float.
INTEGER_FLAGS: Final = ("avx2", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm", "sve", "atomics")


def examine() -> dict[str, Any]:
    """Machine, packages, and for each part of edgeq what is missing and the command that installs it."""
    parts = list(_parts())
    packages = {name: _version(name) for part in parts for name in part.distributions}
    return {"python": platform.python_version(), "platform": platform.platform(), "machine": platform.machine(),
            "cpu": processor(), "cpus": os.cpu_count(), "memory_bytes": _memory_bytes(), "packages": packages,
            "parts": [part.to_json(packages) for part in parts]}


@dataclass(frozen=True, slots=True)
class Part:
    """extra: of edgeq, or "". install: what pip installs. distributions: that the part needs besides those before."""

    extra: str
    purpose: str
    install: str
    distributions: tuple[str, ...]

    def to_json(self, versions: Mapping[str, str | None]) -> dict[str, Any]:
        missing = [name for name in self.distributions if versions[name] is None]
        return {"extra": self.extra, "purpose": self.purpose, "missing": missing,
                "install": f"pip install '{self.install}'" if missing else None}


def _parts() -> Iterator[Part]:
    """edgeq, its extras, and the packages that bring further backends, as their own metadata say."""
    targets: dict[tuple[str, str], list[str]] = {}
    for name, entry in registered(BACKENDS).items():
        package = PROJECT if entry.dist is None else entry.dist.name
        targets.setdefault((package, target_named(name).needs if package == PROJECT else ""), []).append(name)
    needed = _requirements(PROJECT)
    for extra in ["", *(name for name in needed if name not in ("", "all"))]:
        served = [f"the target {name}" for name in targets.pop((PROJECT, extra), [])]
        purpose = ", ".join(served if extra else ["edgeq itself", *served]) or PURPOSES.get(extra, extra)
        own = tuple(name for name in needed[extra] if not extra or name not in needed[""])
        yield Part(extra, purpose, f"{PROJECT}[{extra}]" if extra else PROJECT, own)
    for (package, _), names in targets.items():
        yield Part("", ", ".join(f"the target {name}" for name in names), package,
                   tuple(name for name in _requirements(package)[""] if name not in needed[""]))


def _requirements(distribution: str) -> dict[str, list[str]]:
    """Extra, "" for none -> names of the distributions that it needs."""
    found: dict[str, list[str]] = {"": []}
    for text in requires(distribution) or []:
        extra = re.search(r"""extra == ['"]([^'"]+)""", text)
        name = re.split(r"[^\w.-]", text, maxsplit=1)[0]
        found.setdefault(extra[1] if extra else "", []).append(name)
    return found


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def processor() -> dict[str, Any]:
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
