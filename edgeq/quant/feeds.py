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
    """What a model's input takes: a numpy dtype and a shape. state: the output that it is in the next step, or ""."""

    dtype: DTypeLike
    shape: tuple[Dimension, ...]
    state: str = ""

    def __str__(self) -> str:
        return f"{np.dtype(self.dtype).name}[{','.join(map(str, self.shape))}]"


@dataclass(frozen=True, slots=True)
class Located:
    """A feed as the source gave it, with the words that find it again."""

    where: str
    feed: Mapping[str, Any]


def batched(row: NDArray[Any], spec: InputSpec) -> NDArray[Any]:
    """A row with a batch axis of 1, where it has none; an input without dimensions takes the bare number."""
    return row[np.newaxis] if row.ndim < len(spec.shape) else row


def given(specs: Mapping[str, InputSpec], names: Iterable[str]) -> dict[str, InputSpec]:
    """What data of these names must hold: a state only where they do, since the step before gives it."""
    there = set(names)
    return {name: spec for name, spec in specs.items() if not spec.state or name in there}


def begun(feed: Mapping[str, Any], specs: Mapping[str, InputSpec]) -> dict[str, Any]:
    """The first step of a recording: a state that it leaves out is zeros, as far as its shape is known."""
    sizes = {name: [d for d in spec.shape if isinstance(d, int)] for name, spec in specs.items() if spec.state}
    return {name: np.zeros(shape, specs[name].dtype) for name, shape in sizes.items()
            if len(shape) == len(specs[name].shape)} | dict(feed)


def initial_state(columns: Mapping[str, NDArray[Any]], specs: Mapping[str, InputSpec]) -> dict[str, NDArray[Any]]:
    """Of arrays whose first axis counts steps, those that hold the state before the first one alone."""
    return {name: array for name, array in columns.items()
            if name in specs and specs[name].state and fits(array.shape, specs[name].shape, {})}


def samples_of(item: Any, specs: Mapping[str, InputSpec], where: str) -> list[Feed]:
    """The feeds in one item of an iterable: itself, with the batch axis that it lacks, or its rows; of a streaming
    model these are the steps of a recording.
    """
    feed = named(item, specs, where)
    wanted = given(specs, feed)
    known = {name: array for name, array in feed.items() if name in wanted}
    whole = {name: batched(array, wanted[name]) for name, array in known.items()}
    if fits_specs(known, wanted) or len(known) != len(wanted):
        return [feed]
    if fits_specs(whole, wanted):
        return [whole]
    initial = initial_state(known, wanted)
    columns = {name: array for name, array in known.items() if name not in initial}
    lengths = {len(array) if array.ndim else 0 for array in columns.values()}
    rows = [{name: batched(array[k], wanted[name]) for name, array in columns.items()}
            for k in range(lengths.pop() if len(lengths) == 1 else 0)]
    return [begun(rows[0] | initial, specs), *rows[1:]] if rows and fits_specs(rows[0] | initial, wanted) else [feed]


def named(item: Any, specs: Mapping[str, InputSpec], where: str) -> Feed:
    """Arrays by the name of their input."""
    if isinstance(item, Mapping):
        return {name: as_array(value, where) for name, value in item.items()}
    values = [item] if is_array(item) else item
    if not isinstance(values, list | tuple) or not all(map(is_array, values[:len(specs)])):
        raise CalibrationError(f"{where} is a {type(item).__name__}; yield arrays, tuples of arrays, or dicts of input "
                               "name -> array")
    if len(values) < len(specs) or any(spec.state and np.ndim(value) != len(spec.shape)
                                       for value, spec in zip(values, specs.values(), strict=False)):
        specs = given(specs, ())
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
    return all(name in feed and fits(feed[name].shape, spec.shape, sizes)
               for name, spec in given(specs, feed).items())


def checked(located: Located, specs: Mapping[str, InputSpec]) -> Feed:
    """The feed in the inputs' dtypes. Further arrays, labels say, are left out."""
    check_names(located.where, located.feed, specs)
    sizes: dict[str, int] = {}
    return {name: _fitting(f"{located.where}, input '{name}'", np.asarray(located.feed[name]), spec, sizes)
            for name, spec in given(specs, located.feed).items()}


def _fitting(where: str, array: NDArray[Any], spec: InputSpec, sizes: dict[str, int]) -> NDArray[Any]:
    """sizes: of the free dimensions so far, which are equal where their names are."""
    found = f"{array.dtype.name}[{','.join(map(str, array.shape))}]"
    before = ", ".join(f"{name} is {size}" for name, size in sizes.items())
    if not fits(array.shape, spec.shape, sizes):
        raise CalibrationError(f"{where}: its shape is {found}, the model takes {spec}{_other_layout(array, spec)}"
                               + (f", and {before} in the same sample" if before else ""))
    if not np.can_cast(array.dtype, spec.dtype, "safe"):
        raise CalibrationError(f"{where}: its dtype is {found}, the model takes {spec}; convert it with "
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
    there = list(names)
    missing = [name for name in given(specs, there) if name not in there]
    if missing:
        listing = ", ".join(f"'{name}'" for name in there) or "nothing"
        raise CalibrationError(f"{where}: holds {listing}; the model takes {expected(specs)}")


def expected(specs: Mapping[str, InputSpec]) -> str:
    return ", ".join(f"'{name}' {spec}" for name, spec in specs.items())
