"""One row per behaviour of an ONNX operator: what every backend is checked against."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from zlib import crc32

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Tensor:
    """One input of a row.

    constant: an initializer, not fed at run time. values: exact contents (then ``shape`` is theirs). low, high: uniform
    over [low, high); without them floats are standard normal. lattice: floats are rounded to its multiples, which
    half precision holds exactly, so that rows with steps in them (Floor, ArgMax, Equal) see ties and no rounding.
    """

    shape: tuple[int, ...]
    dtype: str = "float32"
    constant: bool = False
    values: Any = None
    low: float | None = None
    high: float | None = None
    lattice: float = 0.0

    def draw(self, rng: np.random.Generator) -> NDArray[Any]:
        """The contents: shape and dtype of this tensor."""
        if self.values is not None:
            return np.asarray(self.values, self.dtype).reshape(self.shape)
        if self.dtype == "bool":
            return rng.random(self.shape) < 0.5
        if not self.is_float:
            low, high = int(self.low or 0), int(self.high if self.high is not None else 10)
            return rng.integers(low, high, self.shape).astype(self.dtype)
        if self.low is None or self.high is None:
            data = rng.normal(size=self.shape)
        else:
            data = rng.uniform(self.low, self.high, self.shape)
        return np.asarray(np.rint(data / self.lattice) * self.lattice if self.lattice else data, self.dtype)

    @property
    def is_float(self) -> bool:
        return self.dtype.startswith("float")


Input: TypeAlias = Tensor | str | None  # str: a value by name ("x0", ...); None: an absent optional input


@dataclass(frozen=True, slots=True)
class Step:
    """A further node on the previous result (its first input), fused with it: no grid lies between the two."""

    op: str
    inputs: tuple[Input, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Case:
    """One operator in one form.

    inputs: in ONNX order. outputs: names, '' for one that is absent. tail: see Step. steps: how far an int8 run may be
    off, in steps of the output grid; ``why`` says why where that is more than one. seed: another draw of the same row.
    xfail: what fails today and the reason, keyed by "backend/form", for example "tflite/int8".
    """

    id: str
    op: str
    inputs: tuple[Input, ...]
    attributes: Mapping[str, Any]
    outputs: tuple[str, ...] = ("y",)
    tail: tuple[Step, ...] = ()
    steps: float = 1.0
    why: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps > 1 and not self.why:
            raise ValueError(f"{self.id}: more than one step needs a reason")

    def rng(self, purpose: str) -> np.random.Generator:
        """A generator of its own for each row and purpose, so that no row depends on its neighbours."""
        return np.random.default_rng(crc32(f"{self.id}/{purpose}/{self.seed}".encode()))


def case(
    id: str, op: str, *inputs: Input, outputs: Sequence[str] = ("y",), tail: Sequence[Step] = (), steps: float = 1.0,
    why: str = "", seed: int = 0, **attributes: Any,
) -> Case:
    """A row: every other keyword is an ONNX attribute."""
    return Case(id, op, inputs, attributes, tuple(outputs), tuple(tail), steps, why, seed)


def x(*shape: int, dtype: str = "float32", low: float | None = None, high: float | None = None,
      lattice: float = 0.0) -> Tensor:
    """An input that is fed at run time."""
    return Tensor(shape, dtype, low=low, high=high, lattice=lattice)


def const(*shape: int, dtype: str = "float32", low: float | None = None, high: float | None = None,
          lattice: float = 0.0) -> Tensor:
    """A constant with random contents."""
    return Tensor(shape, dtype, constant=True, low=low, high=high, lattice=lattice)


def given(values: Any, dtype: str = "int64") -> Tensor:
    """A constant with these contents: a number or (nested) list."""
    return Tensor(np.shape(values), dtype, constant=True, values=values)


def then(op: str, *inputs: Input, **attributes: Any) -> Step:
    """A further node on the result."""
    return Step(op, inputs, attributes)
