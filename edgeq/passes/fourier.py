"""Discrete Fourier transforms of a fixed length as products with a matrix."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeq.graph import attribute, constant, static
from edgeq.passes.rewrite import constant_like, nodes_of, replace

MAX_ELEMENTS: Final = 2**20  # of the matrix: at 4 MB a fast transform begins to pay


def dft_to_matmul(model: ir.Model) -> int:
    """DFT along a constant axis, of constant length, becomes a MatMul -> how many.

        x[1,8,1] -> DFT(axis 1) -> y[1,8,2]     =>     x -> Reshape[1,8] -> MatMul([8,16]) -> Reshape[1,8,2] -> y

    Few engines have the operator, and onnxruntime's is three digits less exact than this one, whose matrix is computed
    in float64.
    """
    return sum(_dft(node) for node in nodes_of(model, "DFT"))


def _dft(node: ir.Node) -> bool:
    data, shape = node.inputs[0], static(node.inputs[0])
    length, axes = (constant(node.inputs[k]) if len(node.inputs) > k else None for k in (1, 2))
    computed = any(len(node.inputs) > k and node.inputs[k] is not None and constant(node.inputs[k]) is None
                   for k in (1, 2))
    if data is None or data.dtype != ir.DataType.FLOAT or shape is None or computed:
        return False
    axis = int(axes.reshape(())) % len(shape) if axes is not None else len(shape) - 2
    inverse, one_sided = bool(attribute(node, "inverse", 0)), bool(attribute(node, "onesided", 0))
    to_real = inverse and one_sided
    given = 2 * (shape[axis] - 1) if to_real else shape[axis]
    matrix = dft_matrix(shape[axis], shape[-1], given if length is None else int(length.reshape(())),
                        inverse=inverse, one_sided=one_sided)
    if matrix.size > MAX_ELEMENTS or axis == len(shape) - 1:
        return False
    rest = [k for k in range(len(shape) - 1) if k != axis]
    outer = [shape[k] for k in rest]
    steps = _Steps(node)
    moved = steps("Transpose", [data], [*outer, shape[axis], shape[-1]], perm=[*rest, axis, len(shape) - 1])
    flat = steps.reshape(moved, [*outer, shape[axis] * shape[-1]])
    weight = constant_like(node, "dft", matrix.reshape(shape[axis] * shape[-1], -1).astype(np.float32))
    product = steps("MatMul", [flat, weight], [*outer, matrix.shape[2] * matrix.shape[3]])
    bins = steps.reshape(product, [*outer, *matrix.shape[2:]])
    back = [*rest, axis, len(shape) - 1]
    replace(node, "Transpose", [bins], perm=[back.index(k) for k in range(len(shape))])
    return True


def dft_matrix(size: int, parts: int, length: int, *, inverse: bool, one_sided: bool) -> NDArray[np.float64]:
    """[size, parts, bins, parts out]: what every given number adds to every number of the result.

    size: elements given, cut or padded with zeros to the length. parts: 1 (real) or 2 (real, imaginary).
    https://onnx.ai/onnx/operators/onnx__DFT.html
    """
    bins = length if inverse or not one_sided else length // 2 + 1
    given = np.arange(min(size, length))
    turns = np.outer(given, np.arange(bins)) % length / length  # exact integers before the division
    angle = 2 * np.pi * turns * (1 if inverse else -1)
    cosine, sine = np.cos(angle), np.sin(angle)
    matrix = np.zeros((size, 2, bins, 2))
    matrix[given, 0, :, 0], matrix[given, 1, :, 0] = cosine, -sine
    matrix[given, 0, :, 1], matrix[given, 1, :, 1] = sine, cosine
    if inverse:
        matrix /= length
    if inverse and one_sided:  # the other half of the spectrum is the conjugate of this one
        both = np.where((given == 0) | (2 * given == length), 1.0, 2.0)
        matrix[given] *= both[:, None, None, None]
        matrix = matrix[..., :1]
    return matrix[:, :parts]


def stft_to_matmul(model: ir.Model) -> int:
    """STFT with constant step and window becomes a Gather of frames and a MatMul -> how many.

        x[1,16,1] -> STFT(step 4, window[8]) -> y[1,3,5,2]     =>     x -> Gather[3,8] -> MatMul([8,10]) -> y
    """
    return sum(_stft(node) for node in nodes_of(model, "STFT"))


def _stft(node: ir.Node) -> bool:
    data, shape = node.inputs[0], static(node.inputs[0])
    values = [*node.inputs[1:], None, None][:3]
    step, window, length = (constant(value) for value in values)
    if data is None or data.dtype != ir.DataType.FLOAT or shape is None or step is None or any(
            value is not None and constant(value) is None for value in values):
        return False
    if length is not None:
        size = int(length.reshape(()))
    elif window is not None:
        size = window.size
    else:
        return False
    parts = shape[2] if len(shape) == 3 else 1
    matrix = dft_matrix(size, parts, size, inverse=False, one_sided=bool(attribute(node, "onesided", 1)) and parts == 1)
    if window is not None:
        matrix = matrix * np.asarray(window, np.float64)[:, None, None, None]
    hop = int(step.reshape(()))
    frames = (shape[1] - size) // hop + 1
    if matrix.size > MAX_ELEMENTS or frames < 1:
        return False
    steps = _Steps(node)
    at = constant_like(node, "frames", np.arange(frames)[:, None] * hop + np.arange(size))
    cut = steps("Gather", [data, at], [shape[0], frames, size, *shape[2:]], axis=1)
    flat = steps.reshape(cut, [shape[0], frames, size * parts])
    weight = constant_like(node, "dft", matrix.reshape(size * parts, -1).astype(np.float32))
    bins = matrix.shape[2]
    product = steps("MatMul", [flat, weight], [shape[0], frames, bins * 2])
    replace(node, "Reshape", [product, constant_like(node, "shape", np.asarray([shape[0], frames, bins, 2], np.int64))])
    return True


class _Steps:
    """Nodes in front of another, with its dtype."""

    def __init__(self, node: ir.Node):
        assert node.graph is not None
        self.node, self.graph, self.count = node, node.graph, 0

    def __call__(self, op: str, inputs: Sequence[ir.Value], shape: Sequence[int], **attributes: Any) -> ir.Value:
        made = ir.node(op, inputs, attributes=attributes or None, name=f"{self.node.name}_{self.count}")
        self.count += 1
        output = made.outputs[0]
        output.name, output.shape, output.type = made.name, ir.Shape(shape), ir.TensorType(ir.DataType.FLOAT)
        self.graph.insert_before(self.node, made)
        return output

    def reshape(self, value: ir.Value, shape: Sequence[int]) -> ir.Value:
        return self("Reshape", [value, constant_like(self.node, "shape", np.asarray(shape, np.int64))], shape)
