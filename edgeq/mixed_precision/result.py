"""What any choice of precisions ends with: what each layer gets, and what was measured to decide that."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgeq.quant.plan import Precision


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """One precision assignment that was quantized and scored. score: in the unit of its measurement. float_share: of
    the work that integers could do, what it does in float. bytes: of the largest artifact, or of the weights where none
    was written. times: predicted milliseconds, by the targets of which they are known.
    """

    layers: Mapping[str, Precision] = field(repr=False)
    score: float
    float_share: float = 0.0
    bytes: int | None = None
    times: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Measurement:
    """what: which roundings the scored graphs hold. plain: the score where no layer gets anything else, None where that
    was not measured. trials: all that was tried, in order, at most `budget`. chosen: one of them, or None where nothing
    was better than the plain graph. note: why nothing was tried, or "". times: "plain" and "float" -> as in a Trial.
    slower: sentences on engines where plain integers are slower than float. stopped: why nothing more was tried.
    """

    what: str
    plain: float | None = None
    chosen: Trial | None = None
    trials: tuple[Trial, ...] = ()
    budget: int = 0
    note: str = ""
    metric: str = "sqnr"
    unit: str = "dB"
    times: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    slower: tuple[str, ...] = ()
    stopped: str = ""

    @property
    def score(self) -> float | None:
        return self.plain if self.chosen is None else self.chosen.score

    def to_json(self) -> dict[str, Any]:
        trials = [{"score": trial.score, "float_share": round(trial.float_share, 4), "bytes": trial.bytes,
                   "milliseconds": _rounded(trial.times), "chosen": trial is self.chosen} for trial in self.trials]
        return {"what": self.what, "metric": self.metric, "unit": self.unit, "plain": self.plain, "score": self.score,
                "trials": trials, "budget": self.budget, "note": self.note,
                "milliseconds": {name: _rounded(times) for name, times in self.times.items()},
                "slower": list(self.slower), "stopped": self.stopped}


def _rounded(times: Mapping[str, float]) -> dict[str, float]:
    return {name: float(f"{time:.4g}") for name, time in times.items()}


@dataclass(frozen=True, slots=True)
class MixedPrecision:
    """layers: what single nodes get instead of the scheme. float_share: of the work that integers could do, what they
    leave to float. Empty where nothing was measured, and the planner's rules hold.
    """

    layers: Mapping[str, Precision] = field(default_factory=dict)
    float_share: float = 0.0
    measured: tuple[Measurement, ...] = ()

    @classmethod
    def of(cls, measurement: Measurement) -> MixedPrecision:
        """What one measurement has chosen."""
        chosen = measurement.chosen
        return cls(measured=(measurement,)) if chosen is None else cls(
            chosen.layers, chosen.float_share, (measurement,))

    def to_json(self) -> dict[str, Any]:
        """For report.json."""
        layers = [{"node": name, "weight_bits": given.weight_bits, "reason": given.reason,
                   "float": given.integer_activations is False or (given.weight_bits or 0) >= 16}
                  for name, given in self.layers.items()]
        return {"layers": layers, "float_share": round(self.float_share, 4),
                "measured": [measurement.to_json() for measurement in self.measured]}
