"""The student learns: Adam on the loss between its outputs and the teacher's, judged by samples that it never sees."""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch

from edgeq import policy
from edgeq.progress import Progress
from edgeq.recovery.forms import Tensor
from edgeq.recovery.lessons import Lesson, Lessons
from edgeq.recovery.loss import Loss
from edgeq.recovery.network import TorchNetwork
from edgeq.recovery.parameters import Learn, Learned

RATES: Final[dict[Learn, float]] = {
    "scales": policy.RECOVERY_RATE.value, "weights": policy.RECOVERY_WEIGHT_RATE.value}
FINISHED: Final = "all steps were taken"
STOOD_STILL: Final = "the held-out loss fell no more"
NO_NUMBER: Final = "the loss was no number"


@dataclass(frozen=True, slots=True, eq=False)
class Student:
    """network: the quantized graph. learned: what of it moves."""

    network: TorchNetwork
    learned: Sequence[Learned]
    loss: Loss

    @property
    def tensors(self) -> list[Tensor]:
        return [tensor for each in self.learned for tensor in each.tensors]

    def loss_on(self, lesson: Lesson) -> Tensor:
        """Times the lesson's share."""
        outputs = self.network.run(lesson.feed, dict(each.value() for each in self.learned))
        return self.loss(outputs, lesson.teacher) * lesson.share

    def judged(self, lessons: Lessons) -> float:
        """The mean loss on samples that nothing is learned from."""
        with torch.no_grad():
            return sum(float(self.loss_on(lesson)) for lesson in lessons.all())


@dataclass(slots=True)
class Learning:
    """How far it has come: what a file holds, so that another process may go on. losses: held out, from before the
    first step on. best: the tensors of the least of them. tensors, optimizer: of now.
    """

    step: int
    losses: list[float]
    best: list[Tensor]
    tensors: list[Tensor]
    optimizer: dict[str, Any]


def train(student: Student, lessons: Lessons, judges: Lessons, learn: Learn, progress: Progress,
          begun: Learning | None = None, keep: Callable[[Learning], None] = lambda learning: None,
          ) -> tuple[Learning, str]:
    """Move the student's tensors to where the held-out loss was least -> (how it went, why it ended).

    begun: where an earlier run ended; the same steps follow. keep: is given what each judgement has seen.
    """
    steps, tensors = policy.RECOVERY_STEPS.value, student.tensors
    optimizer = torch.optim.Adam(tensors, betas=(0.9, 0.95))
    now = begun or Learning(0, [student.judged(judges)], _copy(tensors), _copy(tensors), optimizer.state_dict())
    _restore(tensors, now.tensors)
    optimizer.load_state_dict(now.optimizer)
    while now.step < steps:
        progress("recovering", now.step, steps)
        for group in optimizer.param_groups:
            group["lr"] = RATES[learn] * _rate(now.step, steps)
        optimizer.zero_grad()
        for lesson in lessons.of_step(now.step):
            student.loss_on(lesson).backward()
        if not all(tensor.grad is None or bool(torch.isfinite(tensor.grad).all()) for tensor in tensors):
            return _ended(now, tensors, NO_NUMBER)
        optimizer.step()
        now.step, now.tensors, now.optimizer = now.step + 1, tensors, optimizer.state_dict()
        if now.step % policy.RECOVERY_JUDGED_EVERY.value == 0 or now.step == steps:
            _judge(now, student, judges)
            keep(now)
            if _stands_still(now.losses):
                return _ended(now, tensors, STOOD_STILL)
    return _ended(now, tensors, FINISHED)


def _judge(now: Learning, student: Student, judges: Lessons) -> None:
    found = student.judged(judges)
    if found < min(now.losses):
        now.best = _copy(student.tensors)
    now.losses.append(found)


def _ended(now: Learning, tensors: Sequence[Tensor], why: str) -> tuple[Learning, str]:
    _restore(tensors, now.best)
    return now, why


def _rate(step: int, steps: int) -> float:
    """Of the full rate: up in a straight line, down along a cosine."""
    warm = max(1, steps // 10)
    return (step + 1) / warm if step < warm else 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm)))


def _stands_still(losses: Sequence[float]) -> bool:
    """Whether none of the latest is below the least of those before. The loss before the first step does not count:
    while rates are high, losses may rise above it.
    """
    patience = policy.RECOVERY_PATIENCE.value
    learned = losses[1:]
    return len(learned) > patience and min(learned[-patience:]) >= min(learned[:-patience])


def _copy(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in tensors]


def _restore(tensors: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for tensor, value in zip(tensors, values, strict=True):
            tensor.copy_(value)
