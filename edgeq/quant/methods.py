"""The ways to choose the integers of weights, by the name that the user gives."""
from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from types import MappingProxyType
from typing import Final

from edgeq.errors import UsageError
from edgeq.quant.fit import Fit
from edgeq.quant.prefix import Arrays
from edgeq.quant.rounding import Rounding, nearest, sum_preserving
from edgeq.quant.solve.layer import DEFAULT, NO_CORRECTION, Settings

_SAMPLES: Final = 128  # more hold more of every layer's inputs in memory, and change little


@dataclass(frozen=True, slots=True)
class Method:
    """rounding: of what is not fitted. settings: of the fit to samples, or None for a method that needs none.

    optional: without samples, and at 8 bits, where rounding alone loses next to nothing, it does without the fit.
    """

    rounding: Rounding
    settings: Settings | None = None
    optional: bool = False

    def fit(self, samples: Iterable[Arrays] | None, bits: int) -> Fit | None:
        """How weights of so many bits are fitted, or None where rounding does it alone.

        Raises:
            UsageError: there are no samples, and the method is nothing without.
        """
        if self.settings is None or (self.optional and (samples is None or bits >= 8)):
            return None
        if samples is None:
            raise UsageError("this --method needs real samples: add --calibration DATA, or use --method auto")
        return Fit(tuple(islice(samples, _SAMPLES)), self.settings)


_ALONE: Final = (NO_CORRECTION,)

METHODS: Final[Mapping[str, Method]] = MappingProxyType({
    "auto": Method(sum_preserving, DEFAULT, optional=True),
    "nearest": Method(nearest),
    "sum-preserving": Method(sum_preserving),
    "gptq": Method(nearest, Settings(passes=0, refits=0, corrections=_ALONE, bias=False)),
    "gptaq": Method(nearest, Settings(passes=0, refits=0, bias=False)),
    "descent": Method(nearest, Settings(gptq=False, refits=0, corrections=_ALONE, bias=False)),
})


def method_named(name: str) -> Method:
    """The method of this name.

    Raises:
        UsageError: there is none.
    """
    if name not in METHODS:
        raise UsageError(f"no method '{name}'; there are {', '.join(METHODS)}")
    return METHODS[name]
