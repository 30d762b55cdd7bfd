"""The shapes of a model's inputs: what the file declares, what the user says to it, and what samples tell."""
from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final, TypeAlias, TypeGuard

import onnx_ir as ir

from edgeq.dimensions import Shape, free_dimensions, read_shape
from edgeq.errors import ModelError
from edgeq.graph import all_nodes, real_inputs
from edgeq_runtime.dimensions import Dimension, Free, Range

# Shapes of inputs, where a name alone is a size of which nothing is known -> sizes, by name.
Tell: TypeAlias = Callable[[Mapping[ir.Value, tuple[Dimension, ...]]], Mapping[str, int | Free]]

# What writers put where a dimension has no name; two such have nothing to do with each other. So has what holds no
# letter: Paddle2ONNX writes "?" for every free axis.
_NO_NAMES: Final = re.compile(r"[\W\d_]*|unk[_\d]*|none|null|nan|any|unknown|undefined|dynamic", re.IGNORECASE)


def forget_no_names(model: ir.Model) -> None:
    """Free dimensions that are written as a negative size, or under a name that says nothing, have none, in place."""
    values = [value for graph in model.graphs() for value in graph.inputs]
    values += [value for node in all_nodes(model.graph) for value in node.outputs]
    for value in values:
        if value.shape is not None and any(map(_is_no_name, value.shape)):
            value.shape = ir.Shape([None if _is_no_name(d) else d for d in value.shape])


def _is_no_name(d: int | ir.SymbolicDim) -> bool:
    return d < 0 if isinstance(d, int) else d.value is not None and _NO_NAMES.fullmatch(d.value) is not None


def bind_inputs(model: ir.Model, inputs: Mapping[str, Shape], tell: Tell | None = None) -> dict[str, Free]:
    """Give every input the shape that the user asks for, in place -> the dimensions that stay free, by name.

    A named dimension has one size everywhere: what is said of "N" in one input holds in the others. Where nothing is
    said, `tell` may know. A free first axis of which nobody knows becomes 1 (the batch). A declared 0 is a size, unless
    somebody says otherwise: some writers mean a free one.

    Raises:
        ModelError: a name, rank or size does not fit, or nothing is said of a free dimension.
    """
    values = {str(value.name): value for value in real_inputs(model.graph)}
    unknown = [name for name in inputs if name not in values]
    if unknown:
        raise ModelError(f"the model has no input '{unknown[0]}'; its inputs are {', '.join(values) or 'none'}")
    given = _spelled_out({name: read_shape(asked) for name, asked in inputs.items()})
    sizes: dict[str, Dimension] = {}
    for name, asked in given.items():
        _bind(values[name], asked, sizes)
    for name, kept in free_dimensions(model).items():
        sizes.setdefault(name, kept)
    if tell is not None:
        sizes |= _told(values, given, sizes, tell)
    for value in values.values():
        first = value.shape[0] if value.shape is not None and len(value.shape) else 0
        if value.name not in given and isinstance(first, ir.SymbolicDim):
            sizes.setdefault(_symbol(first, value, 0), 1)
    shapes = {value: _resolved(value, given.get(str(value.name)), sizes) for value in values.values()}
    free = _limits(shapes)
    for value, shape in shapes.items():
        value.shape = ir.Shape([d if isinstance(d, int) else d.name for d in shape])
    return free


def _spelled_out(given: Mapping[str, tuple[Dimension, ...]]) -> dict[str, tuple[Dimension, ...]]:
    """A name alone stands for the limits that are given with it elsewhere."""
    limits = {d.name: d for shape in given.values() for d in shape
              if not isinstance(d, int | str) and d.name and d != Range(d.name)}
    return {name: tuple(d if isinstance(d, int | str) else limits.get(d.name, d) if d == Range(d.name) else d
                        for d in shape) for name, shape in given.items()}


def _bind(value: ir.Value, given: tuple[Dimension, ...], sizes: dict[str, Dimension]) -> None:
    """Check one given shape against the declared one, and remember what its named dimensions are."""
    asked = "x".join(str(d).removeprefix("=") for d in given)
    if any(isinstance(size, int) and size <= 0 for size in given):
        raise ModelError(f"input '{value.name}': every size must be positive, got {asked}")
    if value.shape is None:
        return
    if len(given) != len(value.shape):
        raise ModelError(f"input '{value.name}' has {len(value.shape)} axes, {_text(value)}; --input gives {asked}")
    for axis, (size, declared) in enumerate(zip(given, value.shape, strict=True)):
        named = _called(size, value, axis)
        expected = declared if _is_size(declared) else sizes.setdefault(_symbol(declared, value, axis), named)
        if expected != named:
            raise ModelError(f"input '{value.name}' is {_text(value)} with {expected} on axis {axis}; "
                             f"--input gives {asked}")


def _called(size: Dimension, value: ir.Value, axis: int) -> Dimension:
    """A free size under its own name or else that of the model's dimension."""
    if isinstance(size, int | str) or size.name:
        return size
    declared = value.shape[axis] if value.shape is not None else None
    return replace(size, name=_symbol(declared, value, axis))


def _symbol(dim: int | ir.SymbolicDim | None, value: ir.Value, axis: int) -> str:
    """The name of a free dimension; one without a name is like no other."""
    return str(getattr(dim, "value", None) or f"{value.name}_{axis}")


def _is_size(declared: int | ir.SymbolicDim) -> TypeGuard[int]:
    return isinstance(declared, int) and declared > 0


def _told(values: Mapping[str, ir.Value], given: Mapping[str, tuple[Dimension, ...]], sizes: Mapping[str, Dimension],
          tell: Tell) -> Mapping[str, Dimension]:
    """The sizes of which nothing was said."""
    shapes = {value: given[name] if name in given else tuple(
        d if _is_size(d) else sizes.get(_symbol(d, value, axis), _symbol(d, value, axis))
        for axis, d in enumerate(value.shape)) for name, value in values.items() if value.shape is not None}
    open_ones = any(isinstance(d, str) for shape in shapes.values() for d in shape)
    return tell(shapes) if open_ones and len(shapes) == len(values) else {}


def _resolved(value: ir.Value, given: tuple[Dimension, ...] | None, sizes: Mapping[str, Dimension],
              ) -> tuple[int | Free, ...]:
    if given is not None:
        found = [_called(size, value, axis) for axis, size in enumerate(given)]
    elif value.shape is None:
        raise ModelError(f"input '{value.name}' has no shape; give one with --input {value.name}:1x3x224x224")
    else:
        found = [d if _is_size(d) else sizes.get(_symbol(d, value, axis), "?" if isinstance(d, ir.SymbolicDim) else d)
                 for axis, d in enumerate(value.shape)]
    if any(isinstance(d, str) for d in found):
        example = "x".join(d if isinstance(d, str) else str(d) for d in found)
        raise ModelError(f"input '{value.name}' has free dimensions, {_text(value)}; fix them with --input "
                         f"NAME:1x3x224x224, here --input {value.name}:{example} with a number for each ?, "
                         "or with limits to keep it free, such as 1..128; or give samples (--calibration), whose "
                         "sizes are taken")
    return tuple(d for d in found if not isinstance(d, str))


def _limits(shapes: Mapping[ir.Value, tuple[int | Free, ...]]) -> dict[str, Free]:
    free: dict[str, Free] = {}
    for value, shape in shapes.items():
        for dimension in shape:
            if not isinstance(dimension, int) and free.setdefault(dimension.name, dimension) != dimension:
                raise ModelError(f"input '{value.name}': {dimension} was {free[dimension.name]} before; two sizes need "
                                 "two names")
    return free


def _text(value: ir.Value) -> str:
    dims = value.shape or ()
    return "x".join(str(d) if isinstance(d, int) else str(d.value or "?") for d in dims) or "a scalar"
