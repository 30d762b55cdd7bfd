"""Devices that a conversion can be for: what runs there, which releases, and what does not, as rows with sources."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from edgeq.errors import UsageError
from edgeq_runtime.engines.versions import matches
from edgeq_runtime.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Available:
    """An engine as it can be had for a device.

    newest: the last release of `package` there, or "" where that is everybody's. excluded: releases that do not run
    there, as a specifier. source: who says so.
    """

    package: str = ""
    newest: str = ""
    excluded: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True)
class Device:
    """targets: what runs there, the first by default. threads: as many as large cores, where that is known."""

    name: str
    summary: str
    targets: Mapping[str, Available]
    threads: int | None = None

    def chosen(self, asked: Sequence[str]) -> tuple[str, ...]:
        """The targets of a conversion.

        Raises:
            UsageError: one that the device does not run.
        """
        wrong = [name for name in asked if name not in self.targets]
        if wrong:
            raise UsageError(f"--device {self.name} does not run {', '.join(wrong)}; it runs {', '.join(self.targets)}")
        return tuple(dict.fromkeys(asked)) or (next(iter(self.targets)),)

    def fitted(self, manifest: Manifest) -> Manifest:
        """The manifest of a bundle for this device: with its threads, and without the releases that fail there.

        Raises:
            UsageError: the bundle needs a newer engine than the device can have.
        """
        there = self.targets[manifest.target]
        needed = str(manifest.options["tflite_runtime"]) if there.package == "tflite-runtime" \
            else manifest.engine_version
        if there.newest and not matches(there.newest, needed):
            raise UsageError(f"--device {self.name}: the bundle needs {there.package} {needed}, and {there.newest} is "
                             f"the newest for it ({there.source}); more bits may need less")
        threads = {"threads": self.threads} if self.threads is not None else {}
        return replace(manifest, engine_version=",".join(filter(None, (manifest.engine_version, there.excluded))),
                       options={**manifest.options, **threads})


# 1.21.0 was built for ARMv8.2 and dies of SIGILL on older cores; 1.21.1 mended it.
_NOT_1_21_0: Final = Available(excluded="!=1.21.0", source="https://github.com/microsoft/onnxruntime/issues/24112")
_ANY: Final = Available()
DEVICES: Final[Mapping[str, Device]] = MappingProxyType({device.name: device for device in (
    # Four cores each: https://www.raspberrypi.com/documentation/computers/processors.html
    Device("pi4", "Raspberry Pi 4, 64-bit", {"tflite": _ANY, "onnxruntime": _NOT_1_21_0}, 4),
    Device("pi5", "Raspberry Pi 5, 64-bit", {"tflite": _ANY, "onnxruntime": _ANY}, 4),
    Device("pi-32bit", "32-bit Raspberry Pi OS 12", {
        "tflite": Available("tflite-runtime", "2.14.0", source="https://pypi.org/project/tflite-runtime/#files"),
    }, 4),
    # The CPU's engines are those of JetPack 6's Python 3.10; TensorRT comes with onnxruntime from NVIDIA's own index.
    Device("jetson-orin", "Jetson Orin with JetPack 6", {
        "tensorrt": _ANY, "tflite": _ANY,
        "onnxruntime": Available("onnxruntime", "1.23.2", source="https://pypi.org/project/onnxruntime/1.23.2/#files"),
    }),
    Device("iphone", "iPhone, from iOS 16", {"coreml": _ANY}),
    Device("android", "Android phones, 64-bit", {"tflite": _ANY, "onnxruntime": _NOT_1_21_0}),
)})


def device_named(name: str) -> Device:
    """Raises UsageError: there is none."""
    if name not in DEVICES:
        raise UsageError(f"there is no device '{name}'; there are {', '.join(DEVICES)}")
    return DEVICES[name]


def targets_of(asked: Sequence[str], device: str | None) -> tuple[str, ...]:
    """The targets of a conversion that names some, or a device, or both.

    Raises:
        UsageError: neither, or a target that the device does not run.
    """
    if device is not None:
        return device_named(device).chosen(asked)
    if not asked:
        raise UsageError(f"name what to convert for: --target, or --device with one of {', '.join(DEVICES)}")
    return tuple(dict.fromkeys(asked))
