"""What changed in ONNX between opset 7 and 21, one row per change.

A change that only widened types, or added an attribute whose default is the old meaning, needs no row. Source of every
row: https://github.com/onnx/onnx/blob/main/docs/Changelog.md
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeq.graph import attribute, constant
from edgeq.ops import REDUCING

INT64 = np.int64


class CannotAdapt(Exception):
    """A node whose old meaning the new opset cannot express; the text is the reason."""


@dataclass(frozen=True, slots=True)
class Step:
    """``adapt`` turns the form of ``op`` valid before opset ``since`` into the form valid from there, in place."""

    op: str
    since: int
    adapt: Callable[[ir.Node], None]


def _constant_before(node: ir.Node, data: NDArray[Any]) -> ir.Value:
    """A Constant node: unlike an initializer it may stand in a function or in the body of an If."""
    made = ir.node("Constant", [], attributes={"value": ir.tensor(data)})
    _insert_before(node, made)
    return made.outputs[0]


def _insert_before(node: ir.Node, *made: ir.Node) -> None:
    assert node.graph is not None
    node.graph.insert_before(node, made)


def _set_input(node: ir.Node, index: int, value: ir.Value) -> None:
    if len(node.inputs) <= index:
        node.resize_inputs(index + 1)
    node.replace_input_with(index, value)


def _to_input(name: str, index: int, *, scalar: bool = False) -> Callable[[ir.Node], None]:
    """Attribute ``name`` became input ``index``: int64 [n], or [1] of a single number."""
    def adapt(node: ir.Node) -> None:
        found = node.attributes.pop(name, None)
        if found is None or (len(node.inputs) > index and node.inputs[index] is not None):
            return
        if found.is_ref():
            raise CannotAdapt(f"its attribute {name} is a parameter of a function")
        data = np.asarray(found.value, INT64)
        if scalar or data.size:  # an empty list of axes meant "all", which is the new default
            _set_input(node, index, _constant_before(node, data if scalar else data.reshape(-1)))
    return adapt


def _drop(name: str) -> Callable[[ir.Node], None]:
    """Attribute ``name`` had no effect in inference."""
    def adapt(node: ir.Node) -> None:
        node.attributes.pop(name, None)
    return adapt


def _rename(op: str) -> Callable[[ir.Node], None]:
    def adapt(node: ir.Node) -> None:
        node.op_type = op
    return adapt


def _refuse(reason: str) -> Callable[[ir.Node], None]:
    def adapt(node: ir.Node) -> None:
        raise CannotAdapt(reason)
    return adapt


def _batch_norm_spatial(node: ir.Node) -> None:
    if attribute(node, "spatial", 1) != 1:
        raise CannotAdapt("spatial=0 (statistics per pixel) was removed in opset 9")
    node.attributes.pop("spatial", None)


def _one_output(node: ir.Node) -> None:
    """Before 14 the optional outputs of BatchNormalization belonged to training."""
    if any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
        raise CannotAdapt("its training outputs are used")
    node.resize_outputs(1)


def _clip_bounds(node: ir.Node) -> None:
    for index, name in ((1, "min"), (2, "max")):
        found = node.attributes.pop(name, None)
        if found is not None:
            _set_input(node, index, _constant_before(node, np.asarray(found.value, _dtype(node))))


def _pad_inputs(node: ir.Node) -> None:
    pads, value = node.attributes.pop("pads", None), node.attributes.pop("value", None)
    if pads is None:
        return
    _set_input(node, 1, _constant_before(node, np.asarray(pads.value, INT64)))
    if value is not None and value.value != 0:
        _set_input(node, 2, _constant_before(node, np.asarray(value.value, _dtype(node))))


def _dtype(node: ir.Node) -> np.dtype[Any]:
    """These ops took float attributes, so that unknown means float32."""
    data = node.inputs[0]
    return np.dtype(np.float32) if data is None or data.dtype is None else data.dtype.numpy()


def _slice_inputs(node: ir.Node) -> None:
    for index, name in ((1, "starts"), (2, "ends"), (3, "axes")):
        _to_input(name, index)(node)


def _upsample_scales(node: ir.Node) -> None:
    scales = node.attributes.pop("scales", None)
    if scales is not None:
        _set_input(node, 1, _constant_before(node, np.asarray(scales.value, np.float32)))


def _resize_inputs(node: ir.Node) -> None:
    """[X, scales] -> [X, roi, scales]; the only meaning before 11 was asymmetric."""
    scales = node.inputs[1]
    nearest = _nearest_mode(node) if attribute(node, "mode", "nearest") == "nearest" else None
    node.op_type = "Resize"
    node.resize_inputs(3)
    node.replace_input_with(1, None)
    node.replace_input_with(2, scales)
    node.attributes["coordinate_transformation_mode"] = ir.AttrString("coordinate_transformation_mode", "asymmetric")
    if nearest is not None:
        node.attributes["nearest_mode"] = ir.AttrString("nearest_mode", nearest)


def _nearest_mode(node: ir.Node) -> str:
    """Before 11, nearest rounded down where it enlarges and up where it reduces.

    https://github.com/microsoft/onnxruntime/blob/main/onnxruntime/core/providers/cpu/tensor/upsamplebase.h (SIMPLE),
    and the example resize_downsample_nearest of Resize-10. A reduction by a whole number is the same either way.
    """
    if node.op_type == "Upsample":
        return "floor"
    scales = constant(node.inputs[1])
    if scales is None:
        raise CannotAdapt("its scales are computed; export the model with opset 11 or later")
    uneven = (scales < 1) & (np.abs(1 / scales - np.rint(1 / scales)) > 1e-4)
    if uneven.any() and (scales > 1).any():
        raise CannotAdapt("it enlarges one axis and reduces another; only opset 10 rounds both ways")
    return "ceil" if uneven.any() else "floor"


def _resize_one_of(node: ir.Node) -> None:
    """Until 12 an unused roi or scales was an empty tensor; now it is absent, and scales excludes sizes."""
    if attribute(node, "coordinate_transformation_mode") == "tf_half_pixel_for_nn":
        raise CannotAdapt("coordinate_transformation_mode=tf_half_pixel_for_nn was removed in opset 13")
    for index in (1, 2):
        data = constant(node.inputs[index]) if len(node.inputs) > index else None
        if data is not None and data.size == 0:
            node.replace_input_with(index, None)


def _softmax_axis(node: ir.Node) -> None:
    """Before 13 the tensor was flattened to [prod(shape[:axis]), prod(shape[axis:])] first.

        x -> Softmax(axis=1) -> y     =>     x -> Flatten(axis=1) -> Softmax(axis=-1) -> Reshape -> y
                                             x -> Shape -----------------------------------^
    """
    axis, data = int(attribute(node, "axis", 1)), node.inputs[0]
    assert data is not None
    rank = None if data.shape is None else len(data.shape)
    node.attributes["axis"] = ir.AttrInt64("axis", -1)
    if axis == -1 or (rank is not None and axis % rank == rank - 1):
        return
    if axis < 0 and rank is None:
        raise CannotAdapt(f"axis={axis} of a tensor of unknown rank")
    shape = ir.node("Shape", [data])
    flat = ir.node("Flatten", [data], attributes={"axis": axis % rank if rank else axis})
    _insert_before(node, shape, flat)
    node.replace_input_with(0, flat.outputs[0])
    assert node.graph is not None
    restore = ir.node("Reshape", [node.outputs[0], shape.outputs[0]])
    node.graph.insert_after(node, restore)
    _take_over(node.outputs[0], restore)


def _take_over(old: ir.Value, restore: ir.Node) -> None:
    """Readers of ``old`` read what ``restore`` computes of it, under the same name."""
    new = restore.outputs[0]
    new.name, new.shape, new.type = old.name, old.shape, old.type
    old.name, old.shape = f"{old.name}_flat", None
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    restore.replace_input_with(0, old)


def _split_count(node: ir.Node) -> None:
    """From 18 an even split says into how many."""
    if len(node.inputs) < 2 or node.inputs[1] is None:
        node.attributes["num_outputs"] = ir.AttrInt64("num_outputs", len(node.outputs))


def _grid_sample_mode(node: ir.Node) -> None:
    names = {"bilinear": "linear", "bicubic": "cubic"}
    mode = attribute(node, "mode", "bilinear")
    node.attributes["mode"] = ir.AttrString("mode", names.get(mode, mode))


def _roi_align_mode(node: ir.Node) -> None:
    mode = ir.AttrString("coordinate_transformation_mode", "output_half_pixel")
    node.attributes[mode.name] = mode


def _dft_axis(node: ir.Node) -> None:
    axis = node.attributes.pop("axis", None)
    _set_input(node, 2, _constant_before(node, np.asarray(1 if axis is None else axis.value, INT64)))


def _group_norm_per_channel(node: ir.Node) -> None:
    """scale and bias [groups] -> [C]: from 21 they are per channel."""
    data, groups = node.inputs[0], int(attribute(node, "num_groups"))
    if data is None or data.shape is None or not isinstance(data.shape[1], int):
        raise CannotAdapt("its number of channels is not known")
    for index in (1, 2):
        per_group = constant(node.inputs[index])
        if per_group is None:
            raise CannotAdapt("its scale or bias is not a constant")
        _set_input(node, index, _constant_before(node, np.repeat(per_group, data.shape[1] // groups)))


UPGRADES: Final[tuple[Step, ...]] = (
    Step("BatchNormalization", 9, _batch_norm_spatial),
    Step("BatchNormalization", 14, _one_output),
    Step("Scan", 9, _refuse("the batch axis of Scan was removed in opset 9")),
    Step("Upsample", 9, _upsample_scales),
    Step("Upsample", 10, _resize_inputs),
    Step("Slice", 10, _slice_inputs),
    Step("TopK", 10, _to_input("k", 1)),
    Step("Scatter", 11, _rename("ScatterElements")),
    Step("Clip", 11, _clip_bounds),
    Step("Pad", 11, _pad_inputs),
    Step("Resize", 11, _resize_inputs),
    Step("Dropout", 12, _drop("ratio")),
    Step("Resize", 13, _resize_one_of),
    *(Step(op, 13, _softmax_axis) for op in ("Softmax", "LogSoftmax", "Hardmax")),
    *(Step(op, 13, _to_input("axes", 1)) for op in ("Squeeze", "Unsqueeze", "ReduceSum")),
    Step("Split", 13, _to_input("split", 1)),
    Step("RoiAlign", 16, _roi_align_mode),
    *(Step(op, 18, _to_input("axes", 1)) for op in REDUCING - {"ReduceSum"}),
    Step("Split", 18, _split_count),
    Step("DFT", 20, _dft_axis),
    Step("GridSample", 20, _grid_sample_mode),
    Step("GroupNormalization", 21, _group_norm_per_channel),
)
