"""The ways to choose the integers of weights, by the steps that the user names, joined by "+"."""
from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final

import onnx_ir as ir

from edgeq import policy
from edgeq.errors import UsageError
from edgeq.quant.fit import Fit
from edgeq.quant.plan import QuantPlan
from edgeq.quant.rounding import Rounding, nearest, sum_preserving
from edgeq.quant.samples import Samples
from edgeq.quant.scale_search import ScaleSearch, clipped, full, half_quadratic
from edgeq.quant.scaling.accept import Scaled, scale_channels
from edgeq.quant.scaling.proposals import NEED_SAMPLES, PROPOSALS
from edgeq.quant.scaling.rotate import ROTATE, rotate_channels
from edgeq.quant.solve.layer import DEFAULT, NO_CORRECTION, Settings


@dataclass(frozen=True, slots=True)
class Method:
    """rounding, search: of what is not fitted, and of its steps. settings: of the fit to samples, or None for a method
    that needs none. scalings: of channels, before anything is rounded (names of `scaling.proposals`, and ROTATE).
    alternatives: scalings of which that is taken whose outputs are nearest to float, if there are samples.

    optional: without samples it does without the fit. at_8: the fit of 8-bit weights, where that is another; None for
    rounding alone.
    """

    rounding: Rounding = nearest
    search: ScaleSearch = full
    settings: Settings | None = None
    scalings: tuple[str, ...] = ()
    alternatives: tuple[tuple[str, ...], ...] = ()
    optional: bool = False
    at_8: Settings | None = None

    def scale(self, model: ir.Model, plan: QuantPlan, samples: Samples | None, bits: int) -> list[Scaled]:
        """Scale the channels of a float model, in place, where that helps -> where it did.

        Raises:
            UsageError: there are no samples, and one of the scalings looks at these.
        """
        if not self.scalings:
            return []
        blind = [name for name in self.scalings if name in (*NEED_SAMPLES, ROTATE) and samples is None]
        if blind:
            raise UsageError(f"--method {blind[0]} needs real samples: add --calibration DATA")
        feeds = None if samples is None else samples.chosen(policy.SCALING_SAMPLES.value)
        fitted, names = self.is_fitted(samples, bits), [name for name in self.scalings if name in PROPOSALS]
        done = scale_channels(model, plan, names, feeds, fitted=fitted) if names else []
        if ROTATE in self.scalings and feeds is not None:
            done += rotate_channels(model, plan, feeds, fitted=fitted)
        return done

    def fit(self, samples: Samples | None, bits: int) -> Fit | None:
        """How weights of so many bits are fitted, or None where rounding does it alone.

        Raises:
            UsageError: there are no samples, and the method is nothing without.
        """
        settings = self._settings(samples, bits)
        if settings is None:
            return None
        if samples is None:
            raise UsageError("this --method needs real samples: add --calibration DATA, or use --method auto")
        return Fit(tuple(samples.chosen(policy.FIT_SAMPLES.value)), settings)

    def is_fitted(self, samples: Samples | None, bits: int) -> bool:
        """Whether weights of so many bits are fitted, rather than rounded."""
        return self._settings(samples, bits) is not None

    def _settings(self, samples: Samples | None, bits: int) -> Settings | None:
        if not self.optional:
            return self.settings
        return None if samples is None else self.at_8 if bits >= 8 else self.settings


_ALONE: Final = (NO_CORRECTION,)
# 8 bits leave little to win: descent and new scales add nothing to GPTQ there, and take most of the time.
_AT_8: Final = Settings(passes=0, refits=0, corrections=_ALONE)
AUTO: Final = "auto"
AUTO_2026_11: Final = "auto-2026.11"  # what it did in November 2026, kept for one release
AUTOMATIC: Final = (AUTO, AUTO_2026_11)
_BARE: Final = Settings(gptq=False, passes=0, refits=0, corrections=_ALONE, bias=False)


def _fitted(**changes: Any) -> Callable[[Method], Method]:
    return lambda method: replace(method, settings=replace(method.settings or _BARE, **changes))


def _scaled(name: str) -> Callable[[Method], Method]:
    return lambda method: replace(method, scalings=(*method.scalings, name))


# What each word of a --method adds. They are added in this order, which is that of the flow, whatever order the user
# names them in: channels are scaled; scales, then integers are chosen; both are improved; biases are corrected.
STEPS: Final[Mapping[str, Callable[[Method], Method]]] = MappingProxyType({
    "fold-gains": _scaled("fold-gains"),
    "equalize": _scaled("equalize"),
    "smooth": _scaled("smooth"),
    "awq": _scaled("awq"),
    ROTATE: _scaled(ROTATE),
    "nearest": lambda method: replace(method, rounding=nearest),
    "sum-preserving": lambda method: replace(method, rounding=sum_preserving),
    "clip": lambda method: replace(method, search=clipped),
    "hqq": lambda method: replace(method, search=half_quadratic),
    "adaround": _fitted(adaround=True),
    "gptq": _fitted(gptq=True),
    "gptaq": _fitted(gptq=True, corrections=DEFAULT.corrections),
    "descent": _fitted(passes=DEFAULT.passes),
    "refit": _fitted(passes=DEFAULT.passes, refits=DEFAULT.refits),
    "bias": _fitted(bias=True),
    AUTO: lambda method: replace(method, rounding=sum_preserving, settings=DEFAULT, optional=True, at_8=_AT_8,
                                   alternatives=(("fold-gains", "equalize"), ("fold-gains", "equalize", "smooth"))),
    AUTO_2026_11: lambda method: replace(method, rounding=sum_preserving, settings=DEFAULT, optional=True),
})

# Steps of which a method holds at most one, and what each of them decides.
EXCLUSIVE: Final[Mapping[str, frozenset[str]]] = MappingProxyType({
    "says how weights are rounded where none are fitted": frozenset({"nearest", "sum-preserving", *AUTOMATIC}),
    "says how the scale of a weight is chosen where none are fitted": frozenset({"clip", "hqq"}),
    "chooses the first integers of a fit": frozenset({"adaround", "gptq", "gptaq", *AUTOMATIC}),
})


def method_named(text: str) -> Method:
    """The method of these steps, joined by "+", in any order.

    Raises:
        UsageError: a step does not exist, or two of them contradict each other.
    """
    names = text.split("+")
    unknown = [name for name in names if name not in STEPS]
    if unknown:
        raise UsageError(f"--method {text}: there is no {', '.join(map(repr, unknown))}; take steps "
                         f"joined by +, such as equalize+gptq+descent, of {', '.join(STEPS)}")
    for decision, steps in EXCLUSIVE.items():
        rivals = [name for name in STEPS if name in names and name in steps]
        if len(rivals) > 1:
            raise UsageError(f"--method {text}: {' and '.join(map(repr, rivals))} contradict each other, since each "
                             f"{decision}; name one of them")
    method = Method()
    for name, add in STEPS.items():
        if name in names:
            method = add(method)
    return method
