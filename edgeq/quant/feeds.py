"""One sample: the forms that it may have, and whether it fits the model, said in a line that names place and remedy."""
from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from edgeq.errors import CalibrationError
from edgeq_runtime.dimensions import Dimension, fits

Feed: TypeAlias = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class InputSpec:
    """What a model's input takes: a numpy dtype and a shape."""

    dtype: DTypeLike
    shape: tuple[Dimension, ...]

    def __str__(self) -> str:
        return f"{np.dtype(self.dtype).name}[{','.join(map(str, self.shape))}]"


@dataclass(frozen=True, slots=True)
class Located:
    """A feed as the source gave it, with the words that find it again."""

    where: str
    feed: Mapping[str, Any]


def batched(row: NDArray[Any], spec: InputSpec) -> NDArray[Any]:
    """A row with a batch axis of 1; an input without dimensions takes the bare number."""
    return row[np.newaxis] if spec.shape else row


def samples_of(item: Any, specs: Mapping[str, InputSpec], where: str) -> list[Feed]:
    """The feeds in one item of an iterable: itself, with the batch axis that it lacks, or its rows."""
    feed = named(item, specs, where)
    known = {name: array for name, array in feed.items() if name in specs}
    whole = {name: batched(array, specs[name]) for name, array in known.items()}
    lengths = {len(array) if array.ndim else 0 for array in known.values()}
    if fits_specs(known, specs) or len(known) != len(specs):
        return [feed]
    if fits_specs(whole, specs):
        return [whole]
    rows = [{name: batched(array[k], specs[name]) for name, array in known.items()}
            for k in range(lengths.pop() if len(lengths) == 1 else 0)]
    return rows if rows and fits_specs(rows[0], specs) else [feed]


def named(item: Any, specs: Mapping[str, InputSpec], where: str) -> Feed:
    """Arrays by the name of their input."""
    if isinstance(item, Mapping):
        return {name: as_array(value, where) for name, value in item.items()}
    values = [item] if is_array(item) else item
    if not isinstance(values, list | tuple) or not all(map(is_array, values[:len(specs)])):
        raise CalibrationError(f"{where} is a {type(item).__name__}; yield arrays, tuples of arrays, or dicts of input "
                               "name -> array")
    if len(values) < len(specs):
        raise CalibrationError(f"{where} holds {len(values)} arrays; the model takes {expected(specs)}: yield tuples "
                               "in this order, or dicts of input name -> array")
    return {name: as_array(value, where) for name, value in zip(specs, values, strict=False)}


def is_array(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype")


def as_array(value: Any, where: str) -> NDArray[Any]:
    """A torch tensor, on whatever device and with a gradient or not, as numpy's."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    try:
        return np.asarray(value)
    except (TypeError, ValueError) as error:
        raise CalibrationError(f"{where} holds what numpy has no array of: {error}") from error


def fits_specs(feed: Feed, specs: Mapping[str, InputSpec]) -> bool:
    sizes: dict[str, int] = {}
    return all(name in feed and fits(feed[name].shape, spec.shape, sizes) for name, spec in specs.items())


def checked(located: Located, specs: Mapping[str, InputSpec]) -> Feed:
    """The feed in the inputs' dtypes. Further arrays, labels say, are left out."""
    check_names(located.where, located.feed, specs)
    sizes: dict[str, int] = {}
    return {name: _fitting(f"{located.where}, input '{name}'", np.asarray(located.feed[name]), spec, sizes)
            for name, spec in specs.items()}


def _fitting(where: str, array: NDArray[Any], spec: InputSpec, sizes: dict[str, int]) -> NDArray[Any]:
    """sizes: of the free dimensions so far, which are equal where their names are."""
    given = f"{array.dtype.name}[{','.join(map(str, array.shape))}]"
    before = ", ".join(f"{name} is {size}" for name, size in sizes.items())
    if not fits(array.shape, spec.shape, sizes):
        raise CalibrationError(f"{where}: its shape is {given}, the model takes {spec}{_other_layout(array, spec)}"
                               + (f", and {before} in the same sample" if before else ""))
    if not np.can_cast(array.dtype, spec.dtype, "safe"):
        raise CalibrationError(f"{where}: its dtype is {given}, the model takes {spec}; convert it with "
                               f".astype('{np.dtype(spec.dtype).name}')")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise CalibrationError(f"{where}: it contains NaN or infinity; remove this sample or repair it")
    return array.astype(spec.dtype, copy=False)


def _other_layout(array: NDArray[Any], spec: InputSpec) -> str:
    """What helps when only the place of the channels is another."""
    for order, name in (((0, 3, 1, 2), "last"), ((0, 2, 3, 1), "first")):
        if array.ndim == len(spec.shape) == 4 and tuple(array.shape[axis] for axis in order) == spec.shape:
            return f"; its channels seem to come {name}: use .transpose{order}"
    return ""


def check_names(where: str, names: Iterable[str], specs: Mapping[str, InputSpec]) -> None:
    given = list(names)
    missing = [name for name in specs if name not in given]
    if missing:
        listing = ", ".join(f"'{name}'" for name in given) or "nothing"
        raise CalibrationError(f"{where}: holds {listing}; the model takes {expected(specs)}")


def expected(specs: Mapping[str, InputSpec]) -> str:
    return ", ".join(f"'{name}' {spec}" for name, spec in specs.items())
