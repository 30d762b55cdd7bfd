"""What any choice of precisions ends with: what each layer gets, and what was measured to decide that."""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeAlias

import onnx_ir as ir

from edgeq.quant.plan import Precision

Times: TypeAlias = Mapping[str, float]  # milliseconds by target


@dataclass(frozen=True, slots=True)
class Clocked:
    """How times were taken on one target. runs: of each graph, of which the least counts. threads: of the engine."""

    engine: str
    machine: str
    threads: int
    runs: int


# Some graphs, run in turns, so that what else a machine does hits all alike -> target: milliseconds of each.
Clock: TypeAlias = Callable[[Sequence[ir.Model]], Mapping[str, tuple[Sequence[float], Clocked]]]


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """One precision assignment that was quantized and scored. score: in the unit of its measurement. float_share: of
    the work that integers could do, what it does in float. bytes: of the largest artifact, or of the weights where none
    was written. times: predicted for the targets of which they are known, or measured. beside: then "plain" and "float"
    -> those of the same rounds.
    """

    layers: Mapping[str, Precision] = field(repr=False)
    score: float
    float_share: float = 0.0
    bytes: int | None = None
    times: Times = field(default_factory=dict)
    beside: Mapping[str, Times] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Measurement:
    """what: which roundings the scored graphs hold. plain: the score where no layer gets anything else, None where that
    was not measured. trials: all that was tried, in order, at most `budget`. chosen: one of them, or None where nothing
    was better than the plain graph. note: why nothing was tried, or "". times: "plain" and "float" -> as in a Trial.
    clocked: by target, where they were measured. most_time: that was allowed, of plain INT8's; None: time did not
    decide. slower: sentences on engines where plain integers are slower than float. stopped: why no more was tried.
    """

    what: str
    plain: float | None = None
    chosen: Trial | None = None
    trials: tuple[Trial, ...] = ()
    budget: int = 0
    note: str = ""
    metric: str = "sqnr"
    unit: str = "dB"
    times: Mapping[str, Times] = field(default_factory=dict)
    clocked: Mapping[str, Clocked] = field(default_factory=dict)
    most_time: float | None = None
    slower: tuple[str, ...] = ()
    stopped: str = ""

    @property
    def score(self) -> float | None:
        return self.plain if self.chosen is None else self.chosen.score

    def to_json(self) -> dict[str, Any]:
        trials = [{"score": trial.score, "float_share": round(trial.float_share, 4), "bytes": trial.bytes,
                   "milliseconds": _rounded(trial.times), "chosen": trial is self.chosen, **(
                       {"beside": _by_name(trial.beside)} if trial.beside else {})} for trial in self.trials]
        return {"what": self.what, "metric": self.metric, "unit": self.unit, "plain": self.plain, "score": self.score,
                "trials": trials, "budget": self.budget, "note": self.note,
                "milliseconds": _by_name(self.times),
                "clocked": {name: asdict(how) for name, how in self.clocked.items()}, "most_time": self.most_time,
                "slower": list(self.slower), "stopped": self.stopped}


def _by_name(found: Mapping[str, Times]) -> dict[str, dict[str, float]]:
    return {name: _rounded(times) for name, times in found.items()}


def _rounded(times: Times) -> dict[str, float]:
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
