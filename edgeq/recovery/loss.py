"""How far the student's outputs are from the teacher's, as a number that can be differentiated."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir
import torch

from edgeq.graph import moved_from
from edgeq.ops import MATRIX_PRODUCTS
from edgeq.recovery.forms import Tensor

# What may stand between a layer and the scores that leave the network.
_MOVES = frozenset({"Add", "Cast", "DequantizeLinear", "Flatten", "Identity", "QuantizeLinear", "Reshape", "Squeeze",
                    "Transpose", "Unsqueeze"})
_PROBABILITIES = frozenset({"Softmax", "Sigmoid"})


@dataclass(frozen=True, slots=True)
class Loss:
    """scores: of each output, whether its last axis holds the scores of classes, in front of a softmax.

    Those are compared as distributions: sum p log(p / q), in nats. Numbers of any other kind by their squared error
    over the variance of the teacher's.
    """

    scores: tuple[bool, ...]

    @classmethod
    def of(cls, model: ir.Model) -> Loss:
        return cls(tuple(_are_scores(value) for value in model.graph.outputs))

    def __call__(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """The mean over the outputs that hold floats."""
        parts = [_squared(ours, true) + _divergence(ours, true) if scores else _squared(ours, true)
                 for ours, true, scores in zip(student, teacher, self.scores, strict=True) if true.is_floating_point()]
        return torch.stack(parts).mean()


def _are_scores(value: ir.Value) -> bool:
    """The product of a matrix with more than one column, which a softmax outside may follow."""
    producer = moved_from(value, _MOVES).producer()
    size = value.shape[-1] if value.shape is not None and len(value.shape) > 1 else 1
    return producer is not None and producer.op_type in MATRIX_PRODUCTS and size != 1


def _divergence(student: Tensor, teacher: Tensor) -> Tensor:
    true, ours = torch.log_softmax(teacher, -1), torch.log_softmax(student, -1)
    return (true.exp() * (true - ours)).sum(-1).mean()


def _squared(student: Tensor, teacher: Tensor) -> Tensor:
    power = teacher.var() if teacher.numel() > 1 else teacher.square().mean()
    return (student - teacher).square().mean() / torch.clamp(power, min=torch.finfo(torch.float32).tiny)
