"""One program for all sizes: what the programs for a few sizes have in common, see edgeq_converters.unify.

Types get unknown dimensions where the programs differ, and what else names a size is replaced:

    reshape(x, [1, 16, 32])   reshape(x, [1, 15, 32])   reshape(x, [1, 10, 32])     =>     reshape(x, [1, -1, 32])

Two sizes in one constant are read from the shape of a value at run time. The description of an input holds the limits:
https://apple.github.io/coremltools/docs-guides/source/flexible-inputs.html
"""
from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import onnx_ir as ir

from edgeq.dimensions import Sizes
from edgeq.errors import Problem, UnsupportedModel
from edgeq.graph import rank
from edgeq_converters.coreml.builder import MAX_RANK, is_var
from edgeq_converters.mil.builder import Var
from edgeq_converters.unify import (
    Arrays,
    Column,
    Differs,
    Size,
    as_sizes,
    columns,
    equal,
    followed,
    side_by_side,
    table,
    varies,
)
from edgeq_runtime.dimensions import Choice, Dimension, Free

TARGET: Final = "coreml"
MOST_SHAPES: Final = 128  # enumerated; https://apple.github.io/coremltools/docs-guides/source/flexible-inputs.html
REST: Final = -1  # reshape: what is left over


def flexible(programs: Sequence[Any], nodes: Mapping[str, tuple[str, str]], free: Mapping[str, Free]) -> Any:
    """coremltools' programs of one graph under the witness sizes -> the first, made right for every size.

    nodes: name of an op -> label and operator of the ONNX node that it was made for.

    Raises:
        UnsupportedModel: a node whose form depends on a size.
    """
    _Unification(programs, nodes, free).run()
    return programs[0]


def refuse_endless(shapes: Mapping[str, Sequence[Dimension]]) -> None:
    """An ML program's inputs must have an upper limit."""
    problems = [Problem(name, "input", f"'{d.name}' has no upper limit; an ML program needs one",
                        "give one with --input, such as 1..128")
                for name, shape in shapes.items() for d in shape
                if not isinstance(d, int | str | Choice) and d.high is None]
    if problems:
        raise UnsupportedModel(TARGET, problems)


def refuse_many_axes(values: Iterable[ir.Value]) -> None:
    """An input or output of rank 6 is another shape in a package, which no limits of its own sizes describe."""
    problems = [Problem(value.name or "", "input" if value.is_graph_input() else "output",
                        f"rank {rank(value)} with free sizes; Core ML ends at {MAX_RANK}", "fix its sizes with --input")
                for value in values if rank(value) > MAX_RANK]
    if problems:
        raise UnsupportedModel(TARGET, problems)


def declare_limits(program: Any, shapes: Mapping[str, Sequence[Dimension]], largest: Sizes) -> None:
    """shapes: name of an input in the program -> its shape. Enumerated where all its free sizes are, else ranges."""
    import coremltools as ct

    def declared(shape: Sequence[Dimension]) -> Any:
        free = {d.name: d for d in shape if not isinstance(d, int | str)}
        default = [d if isinstance(d, int) else largest[str(getattr(d, "name", d))] for d in shape]
        choices = {name: limit.sizes for name, limit in free.items() if isinstance(limit, Choice)}
        combined = [dict(zip(choices, sizes, strict=True)) for sizes in itertools.product(*choices.values())]
        if len(choices) == len(free) and len(combined) <= MOST_SHAPES:
            return ct.EnumeratedShapes([[d if isinstance(d, int) else sizes[str(getattr(d, "name", d))] for d in shape]
                                        for sizes in combined], default=default)
        return ct.Shape([d if isinstance(d, int | str) else ct.RangeDim(
            *((d.sizes[0], d.sizes[-1]) if isinstance(d, Choice) else (d.low, d.high)), default=largest[d.name])
            for d in shape])

    program.functions["main"].set_input_types(tuple(
        ct.TensorType(name=name, shape=declared(shape)) for name, shape in shapes.items()
        if not all(isinstance(d, int) for d in shape)))


@dataclass
class _Unification:
    programs: Sequence[Any]
    nodes: Mapping[str, tuple[str, str]]
    free: Mapping[str, Free]
    known: dict[Var, list[Column]] = field(default_factory=dict)  # of computed values
    cut: dict[Var, list[Column]] = field(default_factory=dict)  # compressed tables that are longer than what is read
    vectors: dict[Any, Var] = field(default_factory=dict)  # what was computed from sizes so far
    symbols: dict[Column, Any] = field(default_factory=dict)

    def run(self) -> None:
        functions = [program.functions["main"] for program in self.programs]
        for name in functions[0].inputs:
            self._know([function.inputs[name] for function in functions])
        listed = [list(_computing(function)) for function in functions]
        side_by_side(TARGET, listed, self._unify, self._node, self.free)

    def _node(self, op: Any) -> tuple[str, str]:
        return self.nodes.get(op.name, (op.name, op.op_type))

    def _know(self, values: Sequence[Var]) -> None:
        """Remember the sizes of a computed value, and give the first its type with unknown dimensions."""
        from coremltools.converters.mil.mil import get_new_symbol, types

        first = values[0]
        if not types.is_tensor(first.sym_type):
            return
        self.known[first] = columns(value.shape for value in values)
        shape = [self.symbols.setdefault(column, get_new_symbol()) if varies(column) else column[0]
                 for column in self.known[first]]
        first._sym_type = types.tensor(first.sym_type.get_primitive(), shape)
        if any(map(varies, self.known[first])):
            first._sym_val = None

    def _unify(self, ops: Sequence[Any]) -> None:
        first = ops[0]
        if any(op.op_type != first.op_type or list(op.inputs) != list(first.inputs) for op in ops):
            raise Differs("it becomes other operators for another size")
        if first.op_type.startswith("constexpr_"):
            self._compressed(ops)
            return
        given = {key: [_listed(op.inputs[key]) for op in ops] for key in first.inputs}
        for key, lists in given.items():
            if len({len(values) for values in lists}) > 1:
                raise Differs("it becomes other operators for another size")
            replaced = [self._input(first, key, values) for values in zip(*lists, strict=True)]
            if any(new is not old for new, old in zip(replaced, lists[0], strict=True)):
                new = replaced if isinstance(first.inputs[key], list | tuple) else replaced[0]
                first.set_inputs(no_check_var_types=True, **{key: new})
        for values in zip(*(op.outputs for op in ops), strict=True):
            self._know(values)

    def _compressed(self, ops: Sequence[Any]) -> None:
        """A compressed table stays as long as the longest, and is cut where it is read."""
        for key in ops[0].inputs:
            arrays = [np.asarray(op.inputs[key].val) for op in ops]
            if not equal(arrays):
                table(arrays, self.free)
        sizes = columns(op.outputs[0].shape for op in ops)
        if any(map(varies, sizes)):
            self.cut[ops[0].outputs[0]] = sizes

    def _input(self, op: Any, key: str, values: Sequence[Var]) -> Var:
        if values[0] in self.cut:
            with op.enclosing_block:
                return self._cut(op, values[0], self.cut[values[0]])
        data = [_constant(value) for value in values]
        if any((array is None) != (data[0] is None) for array in data):
            raise Differs("it becomes other operators for another size")
        arrays = [array for array in data if array is not None]
        if not arrays or equal(arrays):
            return values[0]
        if len({array.dtype for array in arrays}) > 1:
            raise Differs("it holds other numbers for another size")
        with op.enclosing_block:
            return self._replaced(op, key, values[0], arrays)

    def _replaced(self, op: Any, key: str, value: Var, arrays: Arrays) -> Var:
        """A constant that is another one for another size."""
        from coremltools.converters.mil import Builder

        numbers = as_sizes(arrays)
        if numbers is not None:
            return self._open_end(op, key, numbers) or self._numbers(op, numbers, arrays[0].shape)
        sizes = columns(array.shape for array in arrays)
        if table(arrays, self.free) == "cut":
            return self._cut(op, value, sizes)
        return Builder.fill(shape=self._numbers(op, sizes, (len(sizes),)), value=arrays[0].reshape(-1)[0], before_op=op)

    def _cut(self, op: Any, value: Var, sizes: Sequence[Column]) -> Var:
        from coremltools.converters.mil import Builder

        shape = self._numbers(op, sizes, (len(sizes),))
        return Builder.slice_by_size(x=value, begin=np.zeros(len(sizes), np.int32), size=shape, before_op=op)

    def _open_end(self, op: Any, key: str, numbers: list[Column]) -> Var | None:
        """reshape and slice_by_index have a word for one size, or for those that reach to the end."""
        from coremltools.converters.mil import Builder

        varying = [k for k, column in enumerate(numbers) if varies(column)]
        word = np.array([column[0] for column in numbers], np.int32)
        if (op.op_type, key) == ("reshape", "shape") and len(varying) == 1:
            word[varying] = REST
        elif (op.op_type, key) == ("slice_by_index", "end") and op.x in self.known and all(
                numbers[k] == self.known[op.x][k] for k in varying):
            given = op.inputs.get("end_mask")
            mask = np.zeros(len(numbers), bool) if given is None else np.array(given.val)
            mask[varying] = True
            op.set_inputs(no_check_var_types=True, end_mask=Builder.const(val=mask, before_op=op))
        else:
            return None
        return Builder.const(val=word, before_op=op)

    def _numbers(self, op: Any, numbers: Sequence[Column], shape: tuple[int, ...]) -> Var:
        """int32 of this shape, each number read from the shape of a value where it varies."""
        from coremltools.converters.mil import Builder

        key = (op.enclosing_block, tuple(numbers), shape)
        if key not in self.vectors:
            found = [followed(column, self.known) for column in numbers]
            parts = [np.array([size], np.int32) if isinstance(size, int) else self._size(op, size) for size in found]
            vector = parts[0] if len(parts) == 1 else Builder.concat(values=parts, axis=0, before_op=op)
            if not shape:
                vector = Builder.squeeze(x=vector, axes=[0], before_op=op)
            elif shape != (len(parts),):
                vector = Builder.reshape(x=vector, shape=np.array(shape, np.int32), before_op=op)
            self.vectors[key] = vector
        return self.vectors[key]

    def _size(self, op: Any, size: Size[Var]) -> Var:
        from coremltools.converters.mil import Builder

        made = Builder.slice_by_size(x=Builder.shape(x=size.value, before_op=op), begin=np.array([size.axis], np.int32),
                                size=np.array([1], np.int32), before_op=op)
        if size.factor != 1:
            made = Builder.mul(x=made, y=np.int32(size.factor), before_op=op)
        return made if not size.offset else Builder.add(x=made, y=np.int32(size.offset), before_op=op)


def _computing(block: Any) -> Iterator[Any]:
    """Every op but constants, bodies of control flow included, in order."""
    for op in list(block.operations):
        if op.op_type != "const":
            yield op
        for inner in op.blocks:
            yield from _computing(inner)


def _listed(given: Any) -> list[Var]:
    return [given] if is_var(given) else list(given)


def _constant(value: Var) -> Any:
    """The data of a const op, of whatever kind, as an array; None for a computed value."""
    return np.asarray(value.val) if value.op is not None and value.op.op_type == "const" else None
