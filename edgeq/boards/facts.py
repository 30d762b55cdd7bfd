"""What a board told about itself."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any, Final

# Part numbers of ARM's own cores: arch/arm64/include/asm/cputype.h of Linux; 32-bit ones from their reference manuals.
CORES: Final[Mapping[str, str]] = MappingProxyType({
    "0xc07": "Cortex-A7", "0xc0f": "Cortex-A15", "0xd03": "Cortex-A53", "0xd04": "Cortex-A35", "0xd05": "Cortex-A55",
    "0xd07": "Cortex-A57", "0xd08": "Cortex-A72", "0xd0b": "Cortex-A76", "0xd0c": "Neoverse N1", "0xd41": "Cortex-A78",
    "0xd42": "Cortex-A78AE", "0xd46": "Cortex-A510", "0xd47": "Cortex-A710", "0xd49": "Neoverse N2",
})


@dataclass(frozen=True, slots=True)
class Facts:
    """root: the folder on the board that edgeq fills. machine: as `uname -m`, but "armv7l" for a 32-bit Python on a
    64-bit kernel. model: of the device tree. part: of the processor, as ARM numbers them. features: the processor's
    flags. tag: Python's, such as "cp311". libc: "glibc 2.36", or "" for another. packages: name -> version of engines
    that the board's Python has already.
    """

    root: str
    machine: str
    system: str
    python: str
    tag: str
    libc: str
    model: str | None = None
    cpu: str | None = None
    features: tuple[str, ...] = ()
    cpus: int | None = None
    memory_bytes: int | None = None
    free_bytes: int | None = None
    part: str | None = None
    packages: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Facts:
        return cls(**{**data, "features": tuple(data["features"])})

    @property
    def core(self) -> str:
        """The name of the processor, as well as it is known."""
        return CORES.get(self.part or "", "") or self.cpu or self.machine

    @property
    def glibc(self) -> tuple[int, int] | None:
        """(2, 36), or None for another C library."""
        name, _, version = self.libc.partition(" ")
        if name != "glibc":
            return None
        major, minor = version.split(".")[:2]
        return int(major), int(minor)

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"core": self.core}

    def __str__(self) -> str:
        return f"{self.system} on {self.machine}, Python {self.python}, {self.libc or 'not glibc'}"
