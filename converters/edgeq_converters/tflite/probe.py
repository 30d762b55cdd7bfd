"""The tensors of a .tflite file, run by LiteRT without delegates."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from edgeq.backend import Seen
from edgeq.errors import MissingExtra
from edgeq.graph import static
from edgeq.inference.reference import Arrays
from edgeq.passes.shapes import largest_run
from edgeq.scheme import QuantParams, QuantType, dequantize
from edgeq.verification.probe import float_values, rounded_name
from edgeq_runtime.manifest import TensorSpec


class TFLiteProbe:
    """Every tensor kept; a tensor has the name of the value that it holds, in one of two layouts.

    An int8 kernel that performs the ReLU behind it writes the ReLU's output, under the name of its own.
    """

    def __init__(self, path: Path, network: ir.Model, inputs: Sequence[TensorSpec]):
        try:
            from ai_edge_litert.interpreter import Interpreter, OpResolverType
        except ImportError:
            raise MissingExtra("TFLite models", "tflite") from None
        self._interpreter = Interpreter(
            str(path), experimental_preserve_all_tensors=True, num_threads=1,
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES)
        self._interpreter.allocate_tensors()
        self._inputs = {detail["name"]: detail for detail in self._interpreter.get_input_details()}
        self._names = {spec.name: spec.engine_name or spec.name for spec in inputs}
        self._given = {engine: name for name, engine in self._names.items()}
        values = {value.name: value for value in float_values(network.graph)}
        details = {detail["name"]: detail for detail in self._interpreter.get_tensor_details()}
        largest = float_values(largest_run(network).graph)  # the sizes that the file declares
        shapes = {value.name or "": sizes for value in largest if (sizes := static(value)) is not None}
        self._tensors: dict[str, tuple[int, tuple[int, ...], QuantParams | None]] = {}
        for name in details.keys() & shapes.keys() - self._inputs.keys():
            held = tuple(int(d) for d in details[name]["shape"])
            order, grid = _order(shapes[name], held), _tflite_grid(details[name])
            rounded = name if grid is None else rounded_name(values[name])
            if order is not None and (rounded == name or rounded not in details):
                self._tensors[rounded] = details[name]["index"], order, grid

    @property
    def names(self) -> Sequence[str]:
        return list(self._tensors)

    def run(self, feed: Arrays) -> Mapping[str, Seen]:
        resized = [(detail["index"], size) for detail in self._interpreter.get_input_details()
                   if (size := feed[self._given[detail["name"]]].shape) != tuple(detail["shape"])]
        for index, size in resized:
            self._interpreter.resize_tensor_input(index, size)
        if resized:
            self._interpreter.allocate_tensors()
        for name, array in feed.items():
            detail = self._inputs[self._names[name]]
            self._interpreter.set_tensor(detail["index"], array.astype(detail["dtype"]))
        self._interpreter.reset_all_variables()
        self._interpreter.invoke()
        seen = {}
        for name, (index, order, grid) in self._tensors.items():
            held = np.transpose(self._interpreter.get_tensor(index), order)
            seen[name] = Seen(held) if grid is None else Seen(dequantize(held, grid), held, grid)
        return seen


def _order(shape: tuple[int, ...], held: tuple[int, ...]) -> tuple[int, ...] | None:
    """The transposition from a stored tensor to ONNX order, or None where the shapes leave two, or none."""
    plain = tuple(range(len(shape)))
    channels_last = (0, *plain[2:], 1) if len(shape) > 2 else plain
    fits = [layout for layout in dict.fromkeys((plain, channels_last)) if tuple(shape[d] for d in layout) == held]
    if not fits:
        return None
    same = len(fits) == 1 or sum(size > 1 for size in shape) <= 1  # with one long axis, both hold the same order
    return tuple(int(d) for d in np.argsort(fits[0])) if same else None


def _tflite_grid(detail: Mapping[str, Any]) -> QuantParams | None:
    parameters = detail["quantization_parameters"]
    if detail["dtype"] not in (np.int8, np.uint8) or len(parameters["scales"]) != 1:
        return None
    signed = detail["dtype"] is np.int8
    return QuantParams(QuantType(8, signed, symmetric=False), np.array(parameters["scales"][0], np.float32),
                       np.array(parameters["zero_points"][0], np.int32))
