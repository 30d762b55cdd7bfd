"""How fast is a bundle on this device, and how much memory does it take?"""
from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any, Dict, Optional, Tuple

import numpy as np

from .health import health, throttling
from .selftest import example
from .session import Model


@dataclass(frozen=True)
class BenchmarkResult:
    """Times in milliseconds. first_ms: the very first run, which also prepares. peak_rss_bytes: of this process.

    temperature_before_c, temperature_after_c: of the processor. throttling: what slowed it down before or behind the
    timed runs, so that they say less about the model than about the cooling. Both as far as Linux tells, see health.
    """

    engine: str
    accelerator: str
    runs: int
    first_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    peak_rss_bytes: Optional[int]
    bundle_bytes: int
    temperature_before_c: Optional[float] = None
    temperature_after_c: Optional[float] = None
    throttling: Tuple[str, ...] = ()

    def to_dict(self) -> Dict[str, Any]:
        return asdict(self)


def benchmark(model: Model, runs: int = 100, warmup: int = 10) -> BenchmarkResult:
    """Time `runs` runs after `warmup` uncounted ones, on the bundle's first self-test sample or else on zeros.

    Raises:
        BundleError: an input has a free dimension and the bundle has no samples.
    """
    if runs < 1 or warmup < 0:
        raise ValueError("runs is at least 1 and warmup at least 0")
    inputs = example(model)
    first = _time(model, inputs)
    for _ in range(warmup):
        model.run(inputs)
    before = health()
    times = [_time(model, inputs) for _ in range(runs)]
    after = health()
    p50, p90, p99 = (float(value) for value in np.percentile(times, (50, 90, 99)))
    return BenchmarkResult(model.engine, model.accelerator, runs, first, p50, p90, p99, peak_rss_bytes(),
                           sum(file.bytes for file in model.manifest.files), before.temperature_c, after.temperature_c,
                           throttling(before, after))


def _time(model: Model, inputs: Dict[str, Any]) -> float:
    start = perf_counter()
    model.run(inputs)
    return (perf_counter() - start) * 1e3


def peak_rss_bytes() -> Optional[int]:
    """The largest resident memory of this process so far, or None where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform in ("darwin", "ios") else peak * 1024  # Apple counts bytes, Linux kilobytes
