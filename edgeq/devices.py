"""Devices that a conversion can be for: what runs there, which releases, and what does not, as rows with sources."""
from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final

from edgeq.errors import UsageError
from edgeq_runtime.engines.versions import matches, specifier
from edgeq_runtime.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Available:
    """An engine as it can be had for a device.

    newest: the last release of `package` there, or "" where that is everybody's. excluded: releases that do not run
    there, as a specifier. least_bits: of the weights that its kernels read. source, bits_source: who says so.
    """

    package: str = ""
    newest: str = ""
    excluded: str = ""
    source: str = ""
    least_bits: int = 4
    bits_source: str = ""

    def needs_newer(self, engine_version: str, options: Mapping[str, Any]) -> str:
        """The specifier that asks for more than the newest release there, or "". As in an `Artifact` or `Manifest`."""
        needed = specifier(self.package, engine_version, options)
        return needed if self.newest and not matches(self.newest, needed) else ""


@dataclass(frozen=True, slots=True)
class Device:
    """targets: what runs there, the first by default. threads: as many as large cores, where that is known."""

    name: str
    summary: str
    targets: Mapping[str, Available]
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

    def refuse_newer(self, target: str, engine_version: str, options: Mapping[str, Any]) -> None:
        """Raises UsageError: an artifact needs a newer engine than the device can have."""
        there = self.targets[target]
        needed = there.needs_newer(engine_version, options)
        if needed:
            raise UsageError(f"--device {self.name}: the bundle needs {there.package} {needed}, and {there.newest} is "
                             f"the newest for it ({there.source}); more bits or another --weights may need less")

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


# 1.21.0 was built for ARMv8.2 and dies of SIGILL on older cores; 1.21.1 mended it.
_NOT_1_21_0: Final = Available(excluded="!=1.21.0", source="https://github.com/microsoft/onnxruntime/issues/24112")
_ANY: Final = Available()
DEVICES: Final[Mapping[str, Device]] = MappingProxyType({device.name: device for device in (
    # Four cores each: https://www.raspberrypi.com/documentation/computers/processors.html
    Device("pi4", "Raspberry Pi 4, 64-bit", {"tflite": _ANY, "onnxruntime": _NOT_1_21_0}, 4),
    Device("pi5", "Raspberry Pi 5, 64-bit", {"tflite": _ANY, "onnxruntime": _ANY}, 4),
    Device("pi-32bit", "32-bit Raspberry Pi OS 12", {
        # Its CONV_2D, FULLY_CONNECTED and DEQUANTIZE are of versions that know no 4-bit weights.
        "tflite": Available(
            "tflite-runtime", "2.14.0", source="https://pypi.org/project/tflite-runtime/#files", least_bits=8,
            bits_source="https://github.com/tensorflow/tensorflow/blob/v2.14.0/tensorflow/lite/core/kernels/register.cc"),
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
