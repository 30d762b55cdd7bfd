"""Everything edgeq raises on purpose.

EdgeqError                 (edgeq_runtime.errors: the device knows it too)
├── BundleError            a bundle that is damaged, too new, unsafe, or in the way
├── EngineError            an engine that is missing or too old
├── InputError             an input with a wrong name, shape or dtype
├── ModelError             a source that cannot be read as a network
├── UnsupportedModel       nodes that a target cannot run; carries every such node, not just the first
├── CalibrationError       samples missing, empty, not finite, or of the wrong name, shape or dtype
├── BoardError             a board that cannot be reached, or has not what a bundle needs
├── EvaluationError        a metric or its data that gives no score
├── FloatFallback          ops of a quantized model that a target runs in float, where --strict was given
├── MissingExtra           a part of edgeq that was not installed; names the pip command
├── TargetsFailed          bundles of some targets that were not written, where those of others were
├── TooFarFromFloat        a bundle below what --min-db asks, or broken, where --strict was given
├── UsageError             options that contradict each other
└── VerificationError      the artifact does not compute what the quantized graph says
"""
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeq_runtime.errors import BundleError, EdgeqError, EngineError, InputError

__all__ = [
    "BoardError", "BundleError", "CalibrationError", "EdgeqError", "EngineError", "EvaluationError",
    "FloatFallback", "InputError", "MissingExtra", "ModelError", "Problem", "TargetsFailed", "TooFarFromFloat",
    "UnsupportedModel", "UsageError", "VerificationError", "all_of",
]


class ModelError(EdgeqError):
    """The source cannot be read as a network, or its shapes cannot be inferred."""


class CalibrationError(EdgeqError):
    """The calibration samples do not fit the model."""


class EvaluationError(EdgeqError):
    """The metric or the data that it is to be measured on gives no score."""


class BoardError(EdgeqError):
    """A board cannot be reached, lacks what a bundle needs, or was lost on the way."""


class UsageError(EdgeqError):
    """Options that contradict each other, or that the target does not have."""


class VerificationError(EdgeqError):
    """The written artifact does not compute what the quantized graph computes."""


class TooFarFromFloat(EdgeqError):
    """A bundle is farther from the float model than ``--min-db`` or ``--strict`` allows."""


class TargetsFailed(EdgeqError):
    """Of several targets, some bundles failed and were not written. failed: by target. written: paths of the others."""

    def __init__(self, failed: Mapping[str, EdgeqError], written: Sequence[Path]):
        self.failed, self.written = dict(failed), tuple(written)
        lines = "\n".join(f"- {name}: {str(error).removeprefix(f'{name}: ')}" for name, error in failed.items())
        super().__init__(f"{' and '.join(failed)} failed, and {'is' if len(failed) == 1 else 'are'} not written; the "
                         f"bundles of the other targets are:\n{lines}")


class FloatFallback(EdgeqError):
    """``--strict`` was given, and ops run in float. found: target -> rows of node, op and reason."""

    def __init__(self, found: Mapping[str, Sequence[Mapping[str, str]]]):
        self.found = found
        where = " and ".join(f"{name} ({len(rows)})" for name, rows in found.items())
        super().__init__(f"ops of the quantized model run in float on {where}, and --strict was given: nothing was "
                         "written; `edgeq inspect` tells which and why, --keep-float makes them part of the plan")


class MissingExtra(EdgeqError):
    """An optional dependency is not installed."""

    def __init__(self, purpose: str, extra: str):
        super().__init__(f"{purpose} needs an extra that is not installed: pip install 'edgeq[{extra}]'")


@dataclass(frozen=True, slots=True)
class Problem:
    """One node that a target cannot run. ``remedy``: the option or change that helps, or ''."""

    node: str
    op: str
    reason: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.op} '{self.node}': {self.reason}" + (f" ({self.remedy})" if self.remedy else "")


class UnsupportedModel(EdgeqError):
    """Nodes that ``target`` cannot run, all of them."""

    def __init__(self, target: str, problems: Iterable[Problem]):
        self.target, self.problems = target, tuple(problems)
        lines = "\n".join(f"  - {problem}" for problem in self.problems)
        count = len(self.problems)
        super().__init__(f"{count} {'node' if count == 1 else 'nodes'} cannot run on {target}:\n{lines}")


def first_line(error: BaseException) -> str:
    """What a library said; what follows is its stack."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def all_of(errors: Sequence[EdgeqError]) -> EdgeqError:
    """One error that says what several say: of their class where they have one in common."""
    if len(errors) == 1:
        return errors[0]
    kinds = {type(error) for error in errors}
    kind = kinds.pop() if len(kinds) == 1 and kinds <= {UsageError, VerificationError, TooFarFromFloat} else EdgeqError
    return kind("\n".join(["nothing was converted, for these reasons:", *(f"- {error}" for error in errors)]))
