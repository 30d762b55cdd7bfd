"""Emulated boards, as rows: which core qemu imitates, and which Debian stands for the board's system."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

# The system of a Raspberry Pi has a compiler, and with it OpenMP, which llama.cpp is linked to.
PYTHON: Final = ("python3-minimal", "libpython3-stdlib", "libstdc++6", "libgomp1")
ON_32_BITS: Final = (*PYTHON, "python3-numpy")  # PyPI has no numpy for 32-bit ARM


@dataclass(frozen=True, slots=True)
class EmulatedBoard:
    """cpu: a name of qemu's (https://www.qemu.org/docs/master/system/arm/virt.html). architecture: Debian's.

    python: of that release. stands_for: what the row is near to, and how it is not.
    """

    cpu: str
    architecture: Literal["arm64", "armhf"]
    release: Literal["bookworm", "trixie"]
    stands_for: str
    packages: tuple[str, ...] = PYTHON

    @property
    def python(self) -> str:
        return {"bookworm": "python3.11", "trixie": "python3.13"}[self.release]


EMULATED: Final[Mapping[str, EmulatedBoard]] = MappingProxyType({
    "pi3": EmulatedBoard("cortex-a53", "arm64", "bookworm", "Raspberry Pi 3 and Zero 2: no dot product"),
    "pi4": EmulatedBoard("cortex-a72", "arm64", "bookworm", "Raspberry Pi 4: no dot product"),
    "pi5": EmulatedBoard("cortex-a76", "arm64", "trixie", "Raspberry Pi 5: dot product"),
    "pi-32bit": EmulatedBoard(
        "cortex-a7", "armhf", "bookworm", "32-bit Raspberry Pi OS 12, from Pi 2 on", ON_32_BITS),
    "pi-32bit-trixie": EmulatedBoard(
        "cortex-a7", "armhf", "trixie", "32-bit Raspberry Pi OS 13, with Debian's onnxruntime",
        (*ON_32_BITS, "python3-onnxruntime")),
    # qemu has no Cortex-A78AE. It is an ARMv8.2 core with dot product and without i8mm, and so is the A76.
    "jetson-orin": EmulatedBoard("cortex-a76", "arm64", "bookworm", "the CPU of a Jetson Orin (nearest core), no GPU"),
    "armv9-phone": EmulatedBoard("cortex-a710", "arm64", "trixie", "an ARMv9 phone's core: SVE2, i8mm; not Android"),
})
