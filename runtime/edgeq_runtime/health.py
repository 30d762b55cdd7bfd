"""How hot is this device, and has it slowed itself down? Read from Linux's /sys; elsewhere nothing is known.

Sources: Documentation/driver-api/thermal/sysfs-api.rst of Linux; the bits of the Raspberry Pi's firmware,
https://www.raspberrypi.com/documentation/computers/os.html#get_throttled; Intel's throttle counters,
Documentation/ABI/testing/sysfs-devices-system-cpu.
"""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Iterator, Optional, Tuple

_CPU_ZONES = ("cpu", "x86_pkg_temp", "soc", "tj", "k10temp", "coretemp")  # how drivers name the processor's sensor
_FIRMWARE = "devices/platform/soc/soc:firmware/get_throttled"
_PI_BITS = {0: "under-voltage", 1: "clock capped", 2: "throttled", 3: "soft temperature limit"}


@dataclass(frozen=True)
class Health:
    """temperature_c: the hottest sensor of the processor, or None. throttling: what slows it down now."""

    temperature_c: Optional[float] = None
    throttling: Tuple[str, ...] = ()
    throttle_count: Optional[int] = None


def health(sys: Path = Path("/sys")) -> Health:
    """What Linux tells now. throttle_count: how often Intel's cores have throttled since the start."""
    counts = [_number(path) for path in sys.glob("devices/system/cpu/cpu[0-9]*/thermal_throttle/core_throttle_count")]
    return Health(max(_temperatures(sys), default=None), (*_pi(sys), *_cooling(sys)),
                  sum(count for count in counts if count is not None) if counts else None)


def throttling(before: Health, after: Health) -> Tuple[str, ...]:
    """What slowed a device down before, between or after two looks at it."""
    found = dict.fromkeys((*before.throttling, *after.throttling))
    times = (after.throttle_count or 0) - (before.throttle_count or 0)
    return (*found, *([f"cores throttled {times} times"] if times > 0 else []))


def _temperatures(sys: Path) -> Iterator[float]:
    """Degrees of every sensor that names the processor; a zone that is switched off cannot be read."""
    for zone in sys.glob("class/thermal/thermal_zone*"):
        millidegrees = _number(zone / "temp")
        if millidegrees is not None and any(name in _text(zone / "type").lower() for name in _CPU_ZONES):
            yield millidegrees / 1000


def _pi(sys: Path) -> Iterator[str]:
    try:
        bits = int(_text(sys / _FIRMWARE), 16)
    except ValueError:
        return
    yield from (words for bit, words in _PI_BITS.items() if bits >> bit & 1)


def _cooling(sys: Path) -> Iterator[str]:
    """A cooling device of the kind cpufreq whose state is above 0 has lowered the clock."""
    for device in sorted(sys.glob("class/thermal/cooling_device*")):
        kind = _text(device / "type")
        if "cpufreq" in kind and (_number(device / "cur_state") or 0) > 0:
            yield f"clock lowered by {kind}"


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _number(path: Path) -> Optional[int]:
    try:
        return int(_text(path))
    except ValueError:
        return None
