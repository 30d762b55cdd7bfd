"""In which layouts each operator can work: the rows that the choice of layouts (layout_assignment.py) is made from.

An operator without a row reads and writes ONNX order. A row says what a handler does; it costs nothing but a TRANSPOSE
too many or too few where it is wrong, since handlers transpose what they are not given in the order that they read.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import onnx_ir as ir

from edgeq.graph import attribute, constant, is_constant, shape
from edgeq.ops import REDUCING, RESHAPING
from edgeq_converters.tflite.layout import (
    Layout,
    channels_last,
    flattens,
    identity,
    inverse,
    last,
    reshape_layouts,
    swapped,
    transposed,
    with_new_axes,
    without,
)
from edgeq_converters.tflite.layout_form import Form, Reads
from edgeq_converters.tflite.ops_elementwise import BINARY, FORMULAS, UNARY


@dataclass(frozen=True, slots=True)
class Rule:
    """makes(node, works): the layout of output 0, None where the node cannot work in that one; works(node, makes): the
    inverse. reads: the layouts of the inputs. source: the input in whose layout the node works, None for the result's
    (inputs of a lower rank broadcast)."""

    makes: Callable[[ir.Node, Layout], Layout | None]
    works: Callable[[ir.Node, Layout], Layout | None]
    reads: Callable[[ir.Node, Layout], Reads]
    source: int | None = 0

    def form(self, node: ir.Node, works: Layout) -> Form | None:
        made = self.makes(node, works)
        if made is None:
            return None
        rest = (_trailing(made, _rank(output)) for output in node.outputs[1:])
        return Form(works, self.reads(node, works), (made, *rest))

    def from_input(self, node: ir.Node, position: int, layout: Layout) -> Form | None:
        """The form that reads an input in a layout."""
        if self.source not in (None, position):
            return None
        rank = len(layout) if self.source is not None else _rank(node.outputs[0])
        return self.form(node, with_new_axes(layout, range(rank - len(layout)), rank))

    def from_output(self, node: ir.Node, layout: Layout) -> Form | None:
        """The form that leaves output 0 in a layout."""
        works = self.works(node, layout)
        return None if works is None else self.form(node, works)


def rule(node: ir.Node) -> Rule | None:
    """The row of a node that works in several layouts, else None."""
    if node.op_type in WITHOUT_KEEPDIMS and not attribute(node, "keepdims", 1):
        return REDUCED
    if node.op_type == "Gather":
        return GATHERED if is_constant(node.inputs[1]) and not is_constant(node.inputs[0]) else None
    if node.op_type == "MatMul":
        return PRODUCT if _is_batched(node) else None
    if node.op_type == "Resize" and _has_kernel(node):
        return None
    return RULES.get(node.op_type)


def fixed_form(node: ir.Node) -> Form:
    """The form of a node without a choice: input 0 and the results in its order, parameters in ONNX order."""
    works = FIXED.get(node.op_type, _onnx)(node)
    reads = () if node.op_type in UNREAD else tuple(
        (i, works if i == 0 else identity(_rank(value))) for i, value in computed(node))
    return Form(works, reads, tuple(works if _rank(output) == len(works) and node.op_type in FIXED
                                    else identity(_rank(output)) for output in node.outputs))


def default_form(node: ir.Node, found: Rule) -> Form:
    """What a node does when nothing speaks for a layout."""
    value = node.outputs[0] if found.source is None else node.inputs[found.source]
    rank = _rank(value)
    form = found.form(node, identity(rank)) or found.form(node, last(rank, attribute(node, "axis", -1) % rank))
    assert form is not None
    return form


def computed(node: ir.Node) -> list[tuple[int, ir.Value]]:
    """The inputs that are tensors at run time."""
    return [(i, value) for i, value in enumerate(node.inputs) if value is not None and not is_constant(value)]


def _rank(value: ir.Value | None) -> int:
    return len(shape(value)) if value is not None and value.shape is not None else 0


def _trailing(layout: Layout, rank: int) -> Layout:
    """The layout of a value of lower rank that broadcasts against one in `layout`."""
    added = len(layout) - rank
    return tuple(axis - added for axis in layout if axis >= added)


# -- rows ----------------------------------------------------------------------------------------
def _same(node: ir.Node, layout: Layout) -> Layout:
    return layout


def _never(node: ir.Node, layout: Layout) -> None:
    return None


def _operands(node: ir.Node, works: Layout) -> Reads:
    first = computed(node)[:1] if node.op_type == "CastLike" else computed(node)
    return tuple((i, _trailing(works, _rank(value))) for i, value in first if _rank(value) <= len(works))


def _only_first(node: ir.Node, works: Layout) -> Reads:
    return () if is_constant(node.inputs[0]) else ((0, works),)


def _reduced_axes(node: ir.Node) -> list[int]:
    rank = _rank(node.inputs[0])
    if node.op_type in ("ArgMax", "ArgMin"):
        return [attribute(node, "axis", 0) % rank]
    given = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if given is None or not given.size:
        return [] if attribute(node, "noop_with_empty_axes", 0) else list(range(rank))
    return sorted({int(axis) % rank for axis in given.ravel()})


def _reduced(node: ir.Node, works: Layout) -> Layout:
    return without(works, _reduced_axes(node))


def _unreduced(node: ir.Node, made: Layout) -> Layout:
    return with_new_axes(made, _reduced_axes(node), _rank(node.inputs[0]))


def _order(node: ir.Node) -> tuple[int, ...]:
    return tuple(attribute(node, "perm", ())) or tuple(reversed(range(_rank(node.inputs[0]))))


def _relabelled(node: ir.Node, works: Layout) -> Layout:
    return transposed(works, _order(node))


def _labelled_back(node: ir.Node, made: Layout) -> Layout:
    return transposed(made, inverse(_order(node)))


def _reshape(node: ir.Node) -> tuple[tuple[int, ...], tuple[int, ...]]:
    assert node.inputs[0] is not None
    return shape(node.inputs[0]), shape(node.outputs[0])


def _reshaped(node: ir.Node, works: Layout) -> Layout:
    return reshape_layouts(*_reshape(node), works)[1]


def _shaped_back(node: ir.Node, made: Layout) -> Layout | None:
    old, new = _reshape(node)
    needed, works = reshape_layouts(new, old, made)
    return works if needed == made else None


def _reshape_reads(node: ir.Node, works: Layout) -> Reads:
    """A flattening that only products with constant weights read is free: their rows are permuted."""
    old, new = _reshape(node)
    needed = reshape_layouts(old, new, works)[0]
    uses = list(node.outputs[0].uses())
    permuting = [use for use in uses if permutes_weights(use.node, use.idx)]
    if needed == works or not permuting or not flattens(old, new, works):
        return _only_first(node, needed)
    return _only_first(node, works) + (_only_first(node, needed) if len(permuting) < len(uses) else ())


def permutes_weights(node: ir.Node, position: int) -> bool:
    """Whether a reader takes its input in any order of columns, see ops_linear."""
    return (node.op_type == "Gemm" and position == 0 and is_constant(node.inputs[1])
            and not attribute(node, "transA", 0))


def _gather_axis(node: ir.Node) -> tuple[int, int]:
    """-> (the axis, how many axes take its place)."""
    index = constant(node.inputs[1])
    assert index is not None
    return int(attribute(node, "axis", 0)) % _rank(node.inputs[0]), int(index.ndim)


def _gathered(node: ir.Node, works: Layout) -> Layout:
    axis, extra = _gather_axis(node)
    if not extra:
        return without(works, [axis])
    place = works.index(axis)
    moved = [a if a < axis else a + extra - 1 for a in works]
    return (*moved[:place], *range(axis, axis + extra), *moved[place + 1:])


def _gathered_back(node: ir.Node, made: Layout) -> Layout | None:
    axis, extra = _gather_axis(node)
    if extra > 1:
        return None
    return made if extra else with_new_axes(made, [axis], _rank(node.inputs[0]))


def _axis_last(node: ir.Node, layout: Layout) -> Layout | None:
    return layout if not layout or layout[-1] == attribute(node, "axis", -1) % len(layout) else None


def _onnx_or_channels_last(node: ir.Node, layout: Layout) -> Layout | None:
    return layout if layout in (identity(len(layout)), channels_last(len(layout))) else None


def _is_batched(node: ir.Node) -> bool:
    """A product of two computed stacks of matrices, whose second BATCH_MATMUL reads transposed too."""
    first, second = node.inputs
    return not is_constant(second) and not is_constant(first) and _rank(first) == _rank(second) >= 2


def _product_made(node: ir.Node, works: Layout) -> Layout | None:
    rank = len(works)
    return identity(rank) if works in (identity(rank), swapped(rank)) else None


def _product_reads(node: ir.Node, works: Layout) -> Reads:
    return (0, identity(len(works))), (1, works)


def _has_kernel(node: ir.Node) -> bool:
    """Resize over pixels; other forms are products along single axes."""
    return _rank(node.inputs[0]) == 4 and attribute(node, "mode", "nearest") != "cubic"


ANY: Final = Rule(_same, _same, _operands, None)  # of all operands, in whichever common layout
FIRST: Final = Rule(_same, _same, _only_first)
REDUCED: Final = Rule(_reduced, _unreduced, _only_first)
GATHERED: Final = Rule(_gathered, _gathered_back, _only_first)
PRODUCT: Final = Rule(_product_made, _never, _product_reads, 1)
TRANSPOSED: Final = Rule(_relabelled, _labelled_back, _only_first)
RESHAPED: Final = Rule(_reshaped, _shaped_back, _reshape_reads)
BY_AXIS: Final = Rule(_axis_last, _axis_last, _only_first)
BY_GROUP: Final = Rule(_onnx_or_channels_last, _onnx_or_channels_last, _only_first)

WITHOUT_KEEPDIMS: Final = REDUCING | {"ArgMax", "ArgMin"}
RULES: Final[Mapping[str, Rule]] = {
    **dict.fromkeys((*BINARY, *UNARY, *FORMULAS), ANY),
    **dict.fromkeys((
        "Max", "Min", "Sum", "Mean", "Div", "Pow", "Mod", "Neg", "Where", "Concat", "Expand", "IsNaN", "CastLike",
    ), ANY),
    **dict.fromkeys((
        "Identity", "Dropout", "Cast", "Relu", "Clip", "LeakyRelu", "Elu", "Selu", "Celu", "ThresholdedRelu", "Shrink",
        "Gelu", "HardSigmoid", "HardSwish", "IsInf", "Split", "Slice", "Pad", "Tile", "CenterCropPad",
        "LayerNormalization", "RMSNormalization", "InstanceNormalization", "BatchNormalization", "LpNormalization",
        "MeanVarianceNormalization", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool", "CumSum", "Resize",
        *WITHOUT_KEEPDIMS,
    ), FIRST),
    "Transpose": TRANSPOSED,
    **dict.fromkeys(RESHAPING, RESHAPED),
    "Softmax": BY_AXIS, "LogSoftmax": BY_AXIS, "GroupNormalization": BY_GROUP,
}


def _onnx(node: ir.Node) -> Layout:
    return identity(_rank(node.inputs[0] if node.inputs else None))


def _channels_last(node: ir.Node) -> Layout:
    return channels_last(_rank(node.inputs[0]))


def _axis_is_last(node: ir.Node) -> Layout:
    rank = _rank(node.inputs[0])
    return last(rank, attribute(node, "axis", -1) % rank)


FIXED: Final[Mapping[str, Callable[[ir.Node], Layout]]] = {
    **dict.fromkeys(("Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool", "DepthToSpace", "SpaceToDepth",
                     "GridSample", "LRN", "Resize"), _channels_last),
    "TopK": _axis_is_last, "Hardmax": _axis_is_last,
}
UNREAD: Final = frozenset(("Shape", "Size", "EyeLike"))  # ops that ask only for a shape
