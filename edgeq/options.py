"""What the user asks for: the words of `edgeq convert`, and the scheme that they mean."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from edgeq.dimensions import Shape
from edgeq.errors import UsageError
from edgeq.scheme import PerBlock, PerChannel, PerTensor, QuantScheme, QuantType

if TYPE_CHECKING:
    from edgeq_runtime.postprocess import Classify, Detect
    from edgeq_runtime.preprocess import Preprocess
    from edgeq_runtime.sound import LogMel


class Progress(Protocol):
    """Told what is going on, how many samples of it are done, and of how many where that is known."""

    def __call__(self, what: str, done: int = 0, total: int | None = None) -> None: ...


@dataclass(frozen=True, slots=True)
class Options:
    """The words of `edgeq convert`, with the same meaning and defaults.

    bits: of the weights: 4, 8, 16 or 32 (float). calibration: samples (path, "module:function", or an iterable of
    dicts); activations are quantized exactly when it is given, unless `activations` says "float". weights:
    "per-channel", "per-tensor", "block:SIZE" or "table:CHANNELS". calibrator: a name of `CALIBRATORS`, or "auto".
    calibration_cache: a file that keeps what calibration saw. inputs: input name -> shape, for models with free
    dimensions; as on the command line ("1x1..128"), or an entry for each axis. eval: labelled
    data, or a function that scores a predictor. metric: a name of `edgeq.metrics.METRICS`, "module:function" or a
    function. max_drop (such as 1.0 or "1%"), min_metric, max_bytes (such as "600kB"): search the bits of each layer.
    strict: refuse what a target runs in float against the plan.
    layout: "nhwc" makes the images that go in and come out channels last (passes/images.py says which these are);
    samples stay as the source model takes them. device: a name of `DEVICES`, which chooses the target where none is
    named, and fits the bundles to what runs there.
    """

    bits: int = 8
    calibration: Any = None
    samples: int | None = None
    activations: str = "auto"
    weights: str = "per-channel"
    calibrator: str = "auto"
    calibration_cache: Path | None = None
    method: str = "auto"
    keep_float: Sequence[str] = ()
    inputs: Mapping[str, Shape] | None = None
    preprocess: Preprocess | LogMel | None = None
    postprocess: Classify | Detect | None = None
    labels: Sequence[str] = ()
    layout: Literal["keep", "nhwc"] = "keep"
    eval: Any = None
    metric: Any = None
    max_drop: float | str | None = None
    min_metric: float | None = None
    max_bytes: int | str | None = None
    keep_qdq: Path | None = None
    device: str | None = None
    min_os: int = 18
    compute: Literal["ane", "gpu", "cpu", "all"] = "ane"
    strict: bool = False
    verify: bool = True
    force: bool = False
    progress: Progress = lambda what, done=0, total=None: None


def scheme_of(options: Options, *, symmetric: bool = False) -> QuantScheme:
    """What the flags ask for. symmetric: of targets whose activations have zero point 0.

    Raises:
        UsageError: static activations without data, or a granularity that nobody knows.
    """
    if options.activations == "8" and options.calibration is None:
        raise UsageError("--activations 8 needs real samples: add --calibration DATA (an .npz, or a folder of samples)")
    if options.bits >= 16:
        if options.activations == "8":
            raise UsageError("--activations 8 goes with --bits 8 or 4: engines do not multiply integers with floats")
        return QuantScheme()
    static = options.calibration is not None and options.activations in ("auto", "8")
    activation = QuantType(8, signed=symmetric, symmetric=symmetric) if static else None
    if options.weights.partition(":")[0] == "table":
        return QuantScheme(QuantType(4, granularity=PerChannel()), activation, _table_channels(options))
    return QuantScheme(QuantType(options.bits, granularity=_granularity(options.weights)), activation)


def _table_channels(options: Options) -> int:
    """Of --weights table[:CHANNELS]."""
    size = options.weights.partition(":")[2] or "1"
    if not size.isdigit() or not int(size):
        raise UsageError(f"--weights {options.weights}: use table, or table:CHANNELS with how many share one")
    if options.bits != 4:
        raise UsageError(f"--weights {options.weights} goes with --bits 4: a table has 16 numbers")
    if options.min_os < 18:
        raise UsageError(f"--weights {options.weights} needs --min-os 18: before, a whole tensor shares one table")
    return int(size)


def _granularity(text: str) -> PerTensor | PerChannel | PerBlock:
    kind, _, size = text.partition(":")
    if kind == "block" and size.isdigit() and int(size) > 0:
        return PerBlock(int(size))
    if text in ("per-channel", "per-tensor"):
        return PerChannel() if text == "per-channel" else PerTensor()
    raise UsageError(f"--weights {text}: use per-channel, per-tensor, block:SIZE or table:CHANNELS")
