"""Free sizes on the host: how a user writes them, where a model keeps them, and which sizes stand for all of them."""
from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING, Final, TypeAlias

from edgeq.errors import UsageError
from edgeq_runtime.dimensions import Choice, Dimension, Free, Range

if TYPE_CHECKING:
    import onnx_ir as ir

Sizes: TypeAlias = Mapping[str, int]  # name of a dimension -> its size in one run
# As users give it: "1x1..128", or an entry for each axis, of which texts are read as on the command line.
Shape: TypeAlias = str | Sequence[int | str | Range | Choice]

GRAMMAR: Final = "a size (224), a range (1..128), sizes to choose from (224/320) or a name (T, T=1..128)"
_DIMENSION: Final = re.compile(
    r"(?P<name>[A-Za-z_]\w*)|((?P<of>[A-Za-z_]\w*)=)?((?P<low>\d+)\.\.(?P<high>\d*)|(?P<sizes>\d+(/\d+)*))")
_METADATA: Final = "edgeq.free."  # a copy of the model has its metadata too, and so has a saved file
_UNLIMITED: Final = 32  # the least size that stands for those of a range without end


def read_shape(given: Shape) -> tuple[Dimension, ...]:
    """A shape in any of the forms that users give it."""
    if isinstance(given, str):
        return parse_shape(given)
    return tuple(parse_dimension(d) if isinstance(d, str) else d for d in given)


def parse_shape(text: str) -> tuple[Dimension, ...]:
    """"1x3x224x224", "1x1..128" or "1,max_len": sizes between x, or between commas where a name holds an x.

    Raises:
        UsageError: a part is none of `GRAMMAR`.
    """
    return tuple(map(parse_dimension, text.split("," if "," in text else "x"))) if text else ()


def parse_dimension(text: str) -> Dimension:
    """The size of one axis. A range or choice that the text does not name is named "": as in the model."""
    found = _DIMENSION.fullmatch(text)
    if found is None:
        raise UsageError(f"'{text}' is no size of an axis: write {GRAMMAR}")
    if found["name"]:
        return Range(found["name"])
    name = found["of"] or ""
    sizes = sorted({int(size) for size in (found["sizes"] or found["low"]).split("/")})
    last = int(found["high"]) if found["high"] else None
    if sizes[0] < 1 or (last is not None and last < sizes[0]):
        raise UsageError(f"'{text}' is no size of an axis: sizes are positive, and ranges end after they begin")
    if found["low"] is not None:
        return sizes[0] if last == sizes[0] else Range(name, sizes[0], last)
    return sizes[0] if len(sizes) == 1 and not name else Choice(name, tuple(sizes))


def free_dimensions(model: ir.Model) -> dict[str, Free]:
    """The dimensions that a loaded model leaves to each run, by name."""
    found = {}
    for key, limits in model.metadata_props.items():
        if key.startswith(_METADATA):
            dimension = parse_dimension(f"_={limits}")
            assert not isinstance(dimension, int | str)
            name = key.removeprefix(_METADATA)
            found[name] = replace(dimension, name=name)
    return found


def keep_free(model: ir.Model, free: Mapping[str, Free]) -> None:
    """Let `free_dimensions` find these, and no others, in place."""
    for key in [key for key in model.metadata_props if key.startswith(_METADATA)]:
        del model.metadata_props[key]
    for name, dimension in free.items():
        text = str(replace(dimension, name="_"))
        model.metadata_props[_METADATA + name] = text.removeprefix("_=") if text != "_" else "1.."


def dimensions(value: ir.Value, free: Mapping[str, Free]) -> tuple[Dimension, ...]:
    """The shape of a value with the limits of its free dimensions; others are named only."""
    return tuple(d if isinstance(d, int) else free.get(str(d.value), str(d.value)) for d in value.shape or ())


def witnesses(free: Mapping[str, Free]) -> list[Sizes]:
    """Sizes from which the general case can be read: what is equal under all of them does not depend on a size.

    The first are the largest. They avoid 1, which broadcasts, and give no two dimensions the same sizes throughout.
    """
    columns = {name: _telling(dimension) for name, dimension in free.items()}
    found: list[Sizes] = [{name: sizes[0] for name, sizes in columns.items()}]
    for turn in range(max(map(len, columns.values())) - 1):
        found.append({name: sizes[1:][(turn + k) % (len(sizes) - 1)] if len(sizes) > 1 else sizes[0]
                      for k, (name, sizes) in enumerate(columns.items())})
    for one, other in combinations(columns, 2):
        if all(sizes[one] == sizes[other] for sizes in found):
            found.append({name: sizes[0 if name == one else -1] for name, sizes in columns.items()})
    return found


def _telling(dimension: Free) -> list[int]:
    if isinstance(dimension, Choice):
        larger = [size for size in dimension.sizes if size > 1]
        return list(larger if len(larger) > 1 else dimension.sizes)[::-1]
    first = max(dimension.low, 2)
    if dimension.high is None:
        first = max(first, _UNLIMITED)
        return [first + 21, first + 1, first]
    if dimension.high <= first:  # 1..2: nothing but 1 is left
        return [dimension.high, dimension.low]
    return sorted({dimension.high, dimension.high - 1, first + (dimension.high - first) * 2 // 3}, reverse=True)


def extremes(free: Mapping[str, Free]) -> Iterator[Sizes]:
    """The smallest, a middle and the largest size that each dimension may have; of enumerated sizes, all."""
    columns = {name: _spread(dimension) for name, dimension in free.items()}
    for turn in range(max(map(len, columns.values()), default=0)):
        yield {name: sizes[min(turn, len(sizes) - 1)] for name, sizes in columns.items()}


def _spread(dimension: Free) -> list[int]:
    if isinstance(dimension, Choice):
        return list(dimension.sizes)
    high = _telling(dimension)[0] if dimension.high is None else dimension.high
    return [dimension.low, (dimension.low + high) // 2, high]
