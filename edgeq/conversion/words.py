"""Single words of the command line and of Python, read as strictly in both: a value of another kind is refused.

A word is named as on the command line in every message; in Python it has underscores.
"""
from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from edgeq.backend import About, target_names
from edgeq.dimensions import GRAMMAR, Shape, parse_dimension, read_shape
from edgeq.errors import BundleError, UsageError
from edgeq_runtime.dimensions import Choice, Dimension, Range
from edgeq_runtime.manifest import VERSION

if TYPE_CHECKING:
    from edgeq_runtime.postprocess import Classify, Detect
    from edgeq_runtime.preprocess import Preprocess
    from edgeq_runtime.sound import LogMel

Target: TypeAlias = str | Iterable[str] | None
T = TypeVar("T")


def one_of(flag: str, value: Any, known: Iterable[T]) -> T:
    """The one of the known values that is meant: 8 is "8", "NHWC" is "nhwc"."""
    listed = list(known)
    for one in listed:
        if type(value) in (str, int) and str(value).lower() == str(one):
            return one
    raise UsageError(f"{flag} {_said(value)}: use {_either(map(str, listed))}")


def system(flag: str, value: Any, known: Sequence[int]) -> int:
    """A version of iOS that some target is written for."""
    if type(value) is not int or value not in known:
        raise UsageError(f"{flag} {_said(value)}: there is {', '.join(map(str, known))}")
    return value


def count(flag: str, value: Any) -> int | None:
    """A number of things, at least 1; None for all."""
    if value is not None and (type(value) is not int or value < 1):
        raise UsageError(f"{flag} {_said(value)}: give a whole number, at least 1")
    return value


def number(flag: str, value: Any) -> float | None:
    if value is not None and (type(value) not in (int, float) or not math.isfinite(value)):
        raise UsageError(f"{flag} {_said(value)}: give a number")
    return value  # type: ignore[no-any-return]


def each_of_two(flag: str, value: Any, known: Iterable[str]) -> tuple[str, str]:
    """What holds of inputs and what of outputs: one word for both, or two with a comma."""
    parts = value.split(",") if isinstance(value, str) else [value]
    if len(parts) > 2:
        raise UsageError(f"{flag} {_said(value)}: give one word, or two with a comma: of the inputs and of the outputs")
    known = tuple(known)
    first, last = one_of(flag, parts[0], known), one_of(flag, parts[-1], known)
    return first, last


def version(flag: str, value: Any) -> str:
    """Numbers with dots, or nothing."""
    if type(value) is not str or (value and not VERSION.fullmatch(value)):
        raise UsageError(f"{flag} {_said(value)}: give numbers with dots, such as 1.4.2")
    return value


def switch(flag: str, value: Any) -> bool:
    if type(value) is not bool:
        raise UsageError(f"{flag} is on or off: give True or False, not {_said(value)}")
    return value


def text(flag: str, value: Any) -> str:
    if not isinstance(value, str):
        raise UsageError(f"{flag} {_said(value)}: give text")
    return value


def path(flag: str, value: Any) -> Path | None:
    if value is not None and not isinstance(value, str | Path):
        raise UsageError(f"{flag} {_said(value)}: give the path of a file")
    return None if value is None else Path(value)


def targets(asked: Target) -> tuple[str, ...]:
    """Each name once. One name may stand alone."""
    names = [] if asked is None else [asked] if isinstance(asked, str) else _listed("--target", asked)
    for name in names:
        if name not in target_names():
            raise UsageError(f"no target {_said(name)}; there are {', '.join(target_names())}")
    return tuple(dict.fromkeys(names))


def patterns(flag: str, given: Any) -> tuple[str, ...]:
    """Names or regular expressions; which they are, the planner sees. One may stand alone."""
    return tuple(text(flag, one) for one in ([given] if isinstance(given, str) else _listed(flag, given)))


def state(given: Any) -> dict[str, str] | None:
    """Input -> the output that it is in the next step, of `state` in Python and --state; {} of "none", None of what
    names tell.
    """
    if given is None or isinstance(given, Mapping):
        return given if given is None else {text("--state", name): text("--state", given[name]) for name in given}
    said = patterns("--state", given)
    if said == ("none",):
        return {}
    pairs = dict((one.split("=") * 2)[:2] for one in said)
    if len(pairs) != len(said) or not all(one.count("=") == 1 for one in said):
        raise UsageError(f"--state {' '.join(said)}: give INPUT=OUTPUT for each state, or none")
    return pairs or None


def shapes(given: Any) -> dict[str, tuple[Dimension, ...]]:
    """Input name -> shape, of `inputs` in Python and --input."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise UsageError(f"--input {_said(given)}: give input names with their shapes, such as "
                         "{'image': (1, 3, 224, 224)}")
    return {text("--input", name): _shape(name, shape) for name, shape in given.items()}


def _shape(name: str, given: Shape) -> tuple[Dimension, ...]:
    try:
        if not isinstance(given, str):
            given = [_dimension(size) for size in given]
        return read_shape(given)
    except (TypeError, UsageError) as error:
        why = str(error) if isinstance(error, UsageError) else f"each axis is {GRAMMAR}"
        raise UsageError(f"--input {name}:{_said(given)}: {why}") from None


def _dimension(size: Any) -> Dimension:
    if isinstance(size, str):
        return parse_dimension(size)
    if isinstance(size, Range | Choice) or (hasattr(size, "__index__") and type(size) is not bool and size >= 0):
        return size if isinstance(size, Range | Choice) else int(size)
    raise UsageError(f"{_said(size)} is no size of an axis: write {GRAMMAR}")


def preprocess(given: Any) -> Preprocess | LogMel | None:
    """A preset's name, a JSON file, what such a file holds, or the object that it describes.

    Raises:
        UsageError: neither, or a file that says something else.
    """
    from edgeq_runtime.preprocess import PRESETS, Preprocess, from_dict
    from edgeq_runtime.sound import LogMel

    found: Preprocess | LogMel | None = _declared("--preprocess", given, (Preprocess, LogMel), PRESETS, from_dict)
    return found


def postprocess(given: Any) -> Classify | Detect | None:
    """As `preprocess`, of what the outputs mean."""
    from edgeq_runtime.postprocess import PRESETS, Classify, Detect, from_dict

    found: Classify | Detect | None = _declared("--postprocess", given, (Classify, Detect), PRESETS, from_dict)
    return found


def _declared(flag: str, given: Any, kinds: tuple[type, ...], presets: Mapping[str, Callable[[], Any]],
              decode: Callable[[Mapping[str, Any]], Any]) -> Any:
    if given is None or isinstance(given, kinds):
        return given
    if isinstance(given, str) and given in presets:
        return presets[given]()
    try:
        if isinstance(given, Mapping):
            return decode(given)
        if not isinstance(given, str | Path):
            raise ValueError(f"give a preset ({', '.join(presets)}), a file or a dict")
        data = json.loads(Path(given).read_text(encoding="utf-8"))
        if not isinstance(data, dict):
            raise ValueError("it holds no object of fields")
        return decode(data)
    except FileNotFoundError:
        raise UsageError(f"{flag} {given}: neither a file nor one of the presets {', '.join(presets)}") from None
    except (OSError, ValueError, BundleError) as error:
        raise UsageError(f"{flag} {_said(given)}: {error}") from None


def about(given: Any) -> About:
    """A JSON file, or what such a file holds.

    Raises:
        UsageError: it holds something else than author, licence and description.
    """
    known = ("author", "licence", "description")
    try:
        data = json.loads(Path(given).read_text(encoding="utf-8")) if isinstance(given, str | Path) else given or {}
    except (OSError, ValueError) as error:
        raise UsageError(f"--about {given}: {error}") from None
    if not isinstance(data, Mapping) or not set(data) <= set(known) or not all(
            isinstance(one, str) for one in data.values()):
        raise UsageError(f"--about {_said(given)}: give texts for {_either(known)}")
    return About(**data)


def labels(given: Any) -> tuple[str, ...]:
    """Class names in the order of the model's scores; or the file that holds one a line.

    Raises:
        UsageError: neither, or not a text file.
    """
    if given is None:
        return ()
    if not isinstance(given, str | Path):
        return tuple(text("--labels", name) for name in _listed("--labels", given))
    try:
        return tuple(Path(given).read_text(encoding="utf-8").splitlines())
    except UnicodeDecodeError:
        raise UsageError(f"--labels {given} is no text in UTF-8; give one class name a line") from None
    except OSError as error:
        raise UsageError(f"--labels {given}: {error.strerror}") from None


def _listed(flag: str, given: Any) -> list[Any]:
    if not isinstance(given, Iterable) or isinstance(given, Mapping | bytes):
        raise UsageError(f"{flag} {_said(given)}: give one name or a list of names")
    return list(given)


def _said(value: Any) -> str:
    """A value as the user wrote it; where that is no text, on one short line."""
    if isinstance(value, str | Path):
        return str(value)
    shown = repr(value).replace("\n", " ")
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def _either(names: Iterable[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} or {last}" if first else last


def source_date() -> dict[str, str]:
    """The day that SOURCE_DATE_EPOCH names, in seconds since 1970; none without it, so that the same conversion writes
    the same bytes: https://reproducible-builds.org/specs/source-date-epoch/

    Raises:
        UsageError: it is no number of seconds.
    """
    given = os.environ.get("SOURCE_DATE_EPOCH")
    if given is None:
        return {}
    try:
        return {"date": datetime.fromtimestamp(int(given), UTC).date().isoformat()}
    except (ValueError, OverflowError, OSError):
        raise UsageError(f"SOURCE_DATE_EPOCH is '{given}': give seconds since 1970, or unset it") from None
