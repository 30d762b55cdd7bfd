"""The words of `edgeq convert`, as the command line and Python take them; `request` holds what they mean."""
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict

from edgeq.dimensions import Shape
from edgeq.progress import Progress, silent

if TYPE_CHECKING:
    from edgeq_runtime.postprocess import Classify, Detect
    from edgeq_runtime.preprocess import Preprocess
    from edgeq_runtime.sound import LogMel

Inputs: TypeAlias = Mapping[str, Shape]
Before: TypeAlias = "str | Path | Mapping[str, Any] | Preprocess | LogMel"
After: TypeAlias = "str | Path | Mapping[str, Any] | Classify | Detect"
Names: TypeAlias = str | Iterable[str]


@dataclass(frozen=True, slots=True)
class Options:
    """The words of `edgeq.convert` with their defaults, which says what each means; nothing is checked here."""

    device: str | None = None
    bits: int = 8
    calibration: Any = None
    samples: int | None = None
    activations: str | int = "auto"
    weights: str = "per-channel"
    calibrator: str = "auto"
    calibration_cache: str | Path | None = None
    method: str = "auto"
    keep_float: Names = ()
    inputs: Inputs | None = None
    example_inputs: Any = None
    state: Mapping[str, str] | Names | None = None
    preprocess: Before | None = None
    postprocess: After | None = None
    labels: str | Path | Sequence[str] = ()
    layout: str = "keep"
    io: str = "float"
    full_integer: bool = False
    prefer: str | None = None
    measure: bool = False
    board: str | None = None
    eval: Any = None
    metric: Any = None
    max_drop: float | str | None = None
    min_metric: float | None = None
    max_bytes: int | str | None = None
    min_db: float | None = None
    keep_qdq: str | Path | None = None
    min_os: int = 18
    compute: str = "ane"
    about: str | Path | Mapping[str, str] | None = None
    product: str = ""
    version: str = ""
    gguf_type: str = ""
    gguf_file: str | Path | None = None
    bits_per_weight: float | None = None
    adapter: str | Path | None = None
    requantize: bool = False
    recover: Any = None
    recover_weights: bool = False
    resume: bool = False
    strict: bool = False
    trust: bool = False
    verify: bool = True
    latency: bool = False
    report: bool = True
    force: bool = False
    dry_run: bool = False
    progress: Progress = silent


class Words(TypedDict, total=False):
    """The fields of `Options`, for the types of what passes them on as keywords."""

    device: str | None
    bits: int
    calibration: Any
    samples: int | None
    activations: str | int
    weights: str
    calibrator: str
    calibration_cache: str | Path | None
    method: str
    keep_float: Names
    inputs: Inputs | None
    example_inputs: Any
    state: Mapping[str, str] | Names | None
    preprocess: Before | None
    postprocess: After | None
    labels: str | Path | Sequence[str]
    layout: str
    io: str
    full_integer: bool
    prefer: str | None
    measure: bool
    board: str | None
    eval: Any
    metric: Any
    max_drop: float | str | None
    min_metric: float | None
    max_bytes: int | str | None
    min_db: float | None
    keep_qdq: str | Path | None
    min_os: int
    compute: str
    about: str | Path | Mapping[str, str] | None
    product: str
    version: str
    gguf_type: str
    gguf_file: str | Path | None
    bits_per_weight: float | None
    adapter: str | Path | None
    requantize: bool
    recover: Any
    recover_weights: bool
    resume: bool
    strict: bool
    trust: bool
    verify: bool
    latency: bool
    report: bool
    force: bool
    dry_run: bool
    progress: Progress
