"""Shapes of a model with free dimensions: those that it has under a few sizes, and what these have in common.

    x[1,T,8] -> Slice(1:) -> y     T = 16: y[1,15,8]   T = 15: y[1,14,8]   T = 10: y[1,9,8]     =>     y[1,y_1,8]

Every rule of inference and of folding then needs to know numbers only. Two axes get one name where they have one size
under every witness, and the name of an input's dimension where they have its size.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import onnx_ir as ir

from edgeq.dimensions import Sizes, extremes, keep_free, witnesses
from edgeq.errors import ModelError
from edgeq.graph import all_nodes, real_inputs
from edgeq_runtime.dimensions import Free


def infer_from_witnesses(model: ir.Model, free: Mapping[str, Free], infer: Callable[[ir.Model], None]) -> None:
    """Give every value a shape and a dtype, in place. The inputs have theirs, with the names of the free dimensions.

    infer: gives every value of a model a static shape once its inputs have one.

    Raises:
        ModelError: the model has no shapes under one of the sizes.
    """
    keep_free(model, free)
    seen = witnesses(free)
    known = [_described(_inferred(model, sizes, infer)) for sizes in seen]
    _check_smallest(model, next(extremes(free)), infer, _empty(known[0]))
    names = {tuple(sizes[name] for sizes in seen): name for name in free}
    for value in _values(model):
        found = [values.get(value.name or "") for values in known]
        if None in found or value in model.graph.inputs:
            continue
        shapes = [described.shape for described in found if described is not None]
        value.type = found[0].type if found[0] is not None else None
        ranks = {len(shape) if shape is not None else None for shape in shapes}
        value.shape = None if len(ranks) > 1 or None in ranks else ir.Shape([
            _common(sizes, names, f"{value.name}_{axis}")
            for axis, sizes in enumerate(zip(*(shape for shape in shapes if shape is not None), strict=True))])


def specialized(model: ir.Model, sizes: Sizes) -> ir.Model:
    """A copy of a model whose free dimensions have these sizes at the inputs; what follows is not inferred yet."""
    copy = model.clone()
    keep_free(copy, {})
    for value in real_inputs(copy.graph):
        assert value.shape is not None
        value.shape = ir.Shape([d if isinstance(d, int) else sizes[str(d.value)] for d in value.shape])
    return copy


def _inferred(model: ir.Model, sizes: Sizes, infer: Callable[[ir.Model], None]) -> ir.Model:
    copy = specialized(model, sizes)
    try:
        infer(copy)
    except ModelError as error:
        raise _beyond(sizes, str(error)) from None
    return copy


def _check_smallest(model: ir.Model, sizes: Sizes, infer: Callable[[ir.Model], None], expected: set[str]) -> None:
    """The smallest sizes may be less than a window reads. expected: what is empty anyway."""
    empty = sorted(_empty(_described(_inferred(model, sizes, infer))) - expected)
    if empty:
        raise _beyond(sizes, f"'{empty[0]}' is empty")


def _empty(values: Mapping[str, ir.Value]) -> set[str]:
    return {name for name, value in values.items()
            if value.shape is not None and any(isinstance(d, int) and d <= 0 for d in value.shape)}


def _beyond(sizes: Sizes, reason: str) -> ModelError:
    chosen = ", ".join(f"{name} = {size}" for name, size in sizes.items())
    return ModelError(f"the model does not run with {chosen}: {reason}\nlimit the range, or enumerate the sizes that "
                      "it takes, such as --input NAME:1x3x64/96")


def _values(model: ir.Model) -> Iterator[ir.Value]:
    for node in all_nodes(model.graph):
        yield from node.outputs
    yield from model.graph.outputs


def _described(model: ir.Model) -> dict[str, ir.Value]:
    """Every value by name; what was folded is an initializer by now."""
    found = {value.name or "": value for graph in model.graphs() for value in graph.initializers.values()}
    return found | {value.name or "": value for value in _values(model)}


def _common(sizes: tuple[int | ir.SymbolicDim, ...], names: dict[tuple[int, ...], str], new: str) -> int | str:
    if len(set(sizes)) == 1:
        return sizes[0] if isinstance(sizes[0], int) else str(sizes[0].value or new)
    if not all(isinstance(size, int) for size in sizes):
        return new  # how much is found depends on the data as well
    return names.setdefault(tuple(size for size in sizes if isinstance(size, int)), new)
