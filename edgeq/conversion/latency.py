"""How long one call takes on the machine that converts, where it is asked for."""
from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

from edgeq.report.doctor import processor
from edgeq_runtime.benchmark import benchmark
from edgeq_runtime.manifest import Manifest
from edgeq_runtime.session import open_model

RUNS: Final = 50


def measured_latency(folder: Path, manifest: Manifest) -> dict[str, Any]:
    """For report.json. p50_ms: None where no engine of a device runs here, and `said` then says so."""
    with open_model(str(folder), manifest) as model:
        if "interpreter" in model.accelerator:
            return {"p50_ms": None, "said": f"not measured: {model.engine} is no engine of a device"}
        found = benchmark(model, RUNS)
    return {"p50_ms": found.p50_ms, "p90_ms": found.p90_ms, "runs": found.runs, "engine": found.engine,
            "processor": f"{processor()['name'] or 'an unknown processor'}, {os.cpu_count()} cores"}
