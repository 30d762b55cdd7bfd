"""Devices that a conversion can be for, and what an artifact for one may ask of it.

A row is a device's own facts; which engines run there, and in which releases, the backends say (`Backend.devices`). A
device is found by its entry point, as a backend is.
"""
from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from edgeq.backend import DEVICES, Available, Trial, backends, load_registered
from edgeq.errors import UsageError
from edgeq_runtime.engines.versions import matches, specifier
from edgeq_runtime.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Device:
    """threads: as many as large cores, where that is known."""

    name: str
    summary: str
    threads: int | None = None

    def refusals(self, targets: Sequence[str], bits: int) -> Iterator[str]:
        """Why the device cannot have these targets with weights of so many bits."""
        absent = [name for name in targets if name not in self.targets]
        if absent:
            yield f"--device {self.name} does not run {', '.join(absent)}; it runs {', '.join(self.targets)}"
        for name in targets:
            there = self.targets.get(name)
            if there is not None and bits < there.least_bits:
                yield (f"--device {self.name} runs {name} with {there.package} {there.newest}, which has no "
                       f"{bits}-bit weights ({there.bits_source}): use --bits {there.least_bits}")

    def least_bits(self, targets: Iterable[str]) -> int:
        """Of the weights that all of these targets can have here."""
        return max(self.targets[name].least_bits for name in targets)

    @property
    def targets(self) -> dict[str, Available]:
        """What runs there, the preferred first."""
        there = {backend.target.name: backend.devices[self.name] for backend in backends()
                 if self.name in backend.devices}
        return dict(sorted(there.items(), key=lambda item: (not item[1].preferred, item[0])))

    def refuse_newer(self, target: str, engine_version: str, options: Mapping[str, Any]) -> None:
        """Raises UsageError: an artifact needs a newer engine than the device can have."""
        there = self.targets[target]
        needed = specifier(there.package, engine_version, options)
        if there.newest and not matches(there.newest, needed):
            raise UsageError(f"--device {self.name}: the bundle needs {there.package} {needed}, and {there.newest} is "
                             f"the newest for it ({there.source}); more bits or another --weights may need less")

    def tried(self, folder: Path, manifest: Manifest) -> Trial | None:
        """What its engine or its compiler made of the bundle, where that can be had here. Raises UnsupportedModel."""
        found = self.targets[manifest.target].tried
        return None if found is None else found(folder, manifest)

    def fitted(self, manifest: Manifest) -> Manifest:
        """The manifest of a bundle for this device: with its threads, and without the releases that fail there.

        Raises:
            UsageError: see refuse_newer.
        """
        self.refuse_newer(manifest.target, manifest.engine_version, manifest.options)
        excluded = self.targets[manifest.target].excluded
        threads = {"threads": self.threads} if self.threads is not None else {}
        return replace(manifest, engine_version=",".join(filter(None, (manifest.engine_version, excluded))),
                       options={**manifest.options, **threads})


# Four cores each: https://www.raspberrypi.com/documentation/computers/processors.html
PI4: Final = Device("pi4", "Raspberry Pi 4, 64-bit", 4)
PI5: Final = Device("pi5", "Raspberry Pi 5, 64-bit", 4)
PI_32BIT: Final = Device("pi-32bit", "32-bit Raspberry Pi OS 12", 4)
JETSON_ORIN: Final = Device("jetson-orin", "Jetson Orin with JetPack 6")
IPHONE: Final = Device("iphone", "iPhone, from iOS 16")
ANDROID: Final = Device("android", "Android phones, 64-bit")
MCU: Final = Device("mcu", "microcontrollers with TensorFlow Lite Micro")
ETHOS_U: Final = Device("ethos-u", "microcontrollers with Arm's Ethos-U")
EDGE_TPU: Final = Device("edgetpu", "Coral's Edge TPU")


def device_named(name: str) -> Device:
    """Raises UsageError: there is none."""
    return load_registered(DEVICES, name, Device, "device")
