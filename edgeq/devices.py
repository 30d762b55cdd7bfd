"""Devices that a conversion can be for, and what an artifact for one may ask of it.

A row is a device's own facts; which engines run there, and in which releases, the backends say (`Backend.devices`). A
device is found by its entry point, as a backend is.
"""
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from edgeq.backend import (
    DEVICES,
    Available,
    Backend,
    EmitOptions,
    backend_named,
    backends,
    device_names,
    load_registered,
)
from edgeq.errors import UsageError, all_of
from edgeq.options import Options, scheme_of
from edgeq_runtime.engines.versions import matches, specifier
from edgeq_runtime.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Device:
    """threads: as many as large cores, where that is known."""

    name: str
    summary: str
    threads: int | None = None

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


def device_named(name: str) -> Device:
    """Raises UsageError: there is none."""
    return load_registered(DEVICES, name, Device, "device")


def targets_of(asked: Sequence[str], options: Options) -> tuple[str, ...]:
    """The targets of a conversion that names some, or a device, or both.

    Raises:
        UsageError: neither, or whatever the options want that a target or the device does not offer, all of it.
    """
    device = None if options.device is None else device_named(options.device)
    default = [] if device is None else [next(iter(device.targets))]
    targets = tuple(dict.fromkeys(asked or default))
    if not targets:
        raise UsageError(f"name what to convert for: --target, or --device with one of {', '.join(device_names())}")
    asked_of = {name: backend_named(name) for name in targets}
    refused = [*_contradictions(options), *_refused_tables(asked_of, options), *_unread(asked_of, options)]
    if device is not None:
        refused += _refused_by(device, targets, options)
    if refused:
        raise all_of([UsageError(reason) for reason in refused])
    return targets


def least_bits(device: str | None, targets: Sequence[str]) -> int:
    """Of the weights that all targets of a conversion can have."""
    return 4 if device is None else max(device_named(device).targets[name].least_bits for name in targets)


def _contradictions(options: Options) -> Iterator[str]:
    """What fits no target, because the options do not fit one another."""
    try:
        scheme_of(options)
    except UsageError as error:
        yield str(error)


def _refused_tables(targets: Mapping[str, Backend], options: Options) -> Iterator[str]:
    without = [name for name, backend in targets.items() if not backend.target.tables]
    if options.weights.partition(":")[0] == "table" and without:
        known = [backend.target.name for backend in backends() if backend.target.tables]
        yield (f"--weights {options.weights}: {' and '.join(without)} multiply 4-bit integers with a scale; "
               f"tables of numbers exist on {' and '.join(known)} alone")


def _unread(targets: Mapping[str, Backend], options: Options) -> Iterator[str]:
    """What is said to backends and none of those that are asked for reads."""
    for word in ("min_os", "compute"):
        said = getattr(options, word)
        if said != getattr(EmitOptions(), word) and not any(word in backend.options for backend in targets.values()):
            readers = [backend.target.name for backend in backends() if word in backend.options]
            yield (f"--{word.replace('_', '-')} {said}: {' and '.join(targets)} cannot be told; "
                   f"it is for {' and '.join(readers)}")


def _refused_by(device: Device, targets: Sequence[str], options: Options) -> Iterator[str]:
    absent = [name for name in targets if name not in device.targets]
    if absent:
        yield f"--device {device.name} does not run {', '.join(absent)}; it runs {', '.join(device.targets)}"
    for name in targets:
        there = device.targets.get(name)
        if there is not None and options.bits < there.least_bits:
            yield (f"--device {device.name} runs {name} with {there.package} {there.newest}, which has no "
                   f"{options.bits}-bit weights ({there.bits_source}): use --bits {there.least_bits}")
