"""The whole of a recovery: what the student may learn, what it learns from, and whether it is the better for it."""
from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from edgeq import policy
from edgeq.errors import BundleError, CalibrationError, UsageError
from edgeq.graph import constant
from edgeq.inference.reference import run_onnx
from edgeq.inference.session import Arrays
from edgeq.progress import Progress
from edgeq.quant.calibrate.cache import digest
from edgeq.quant.samples import digest_of
from edgeq.recovery.lessons import Lessons, takes_several
from edgeq.recovery.loss import Loss
from edgeq.recovery.network import TorchNetwork
from edgeq.recovery.parameters import Learn, learnable
from edgeq.recovery.train import Learning, Student, train


@dataclass(frozen=True, slots=True)
class Figures:
    """before, after: the loss on samples that nothing was learned from, of what onnxruntime computes. accepted: whether
    the bundle has what was learned, since the loss fell. ended: why learning did.
    """

    learned: Learn
    samples: int
    held_out: int
    steps: int
    ended: str
    before: float
    after: float

    @property
    def accepted(self) -> bool:
        return self.after < self.before

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"accepted": self.accepted}


@dataclass(frozen=True, slots=True)
class StateFile:
    """Where learning is kept while it goes on. resume: go on from what lies there."""

    path: Path
    resume: bool

    def read(self, job: str) -> Learning | None:
        """Raises UsageError: what lies there is of another job, or is none of ours."""
        if not self.resume or not self.path.exists():
            return None
        try:
            known = torch.load(self.path, weights_only=True)
            found = None if known.pop("job") != job else Learning(**known)
        except Exception as error:  # torch says it in many classes
            raise UsageError(f"--resume: '{self.path}' cannot be read ({error}); delete it to begin anew") from None
        if found is None:
            raise UsageError(f"--resume: '{self.path}' is of another model, other samples or other options; "
                             "leave --resume out to begin anew")
        return found

    def write(self, job: str, learning: Learning) -> None:
        draft = self.path.with_name(f"{self.path.name}.part")
        try:
            torch.save({"job": job, **{name: getattr(learning, name) for name in Learning.__slots__}}, draft)
            draft.replace(self.path)
        except (OSError, RuntimeError) as error:
            draft.unlink(missing_ok=True)
            raise BundleError(f"cannot write {self.path}: {error}") from error


def recover(network: ir.Model, graph: ir.Model, samples: Sequence[Arrays], learn: Learn, progress: Progress,
            state: StateFile | None = None) -> tuple[ir.Model, Figures]:
    """(the QDQ graph with what it has learned, or as it is where that gains nothing on held-out samples; figures).

    network: the float one, from whose outputs is learned. samples: every RECOVERY_JUDGES_ONE_IN-th judges.

    Raises:
        CalibrationError: too few samples, or a network that says no number of the first of them. UnsupportedModel:
            operators without a torch form. UsageError: see `StateFile.read`.
    """
    if len(samples) < policy.RECOVERY_LEAST_SAMPLES.value:
        raise CalibrationError(f"--recover: {len(samples)} samples are too few to learn from some and judge by others; "
                               f"give at least {policy.RECOVERY_LEAST_SAMPLES.value}, better hundreds")
    result = graph.clone()
    floats = {name: data for name, value in network.graph.initializers.items()
              if (data := constant(value)) is not None and data.dtype == np.float32}
    student = Student(TorchNetwork.of(result), learnable(result.graph, floats, learn), Loss.of(network))
    if not student.learned:
        raise UsageError("--recover: the quantized graph holds no integers of weights, no bias and no norm to learn")
    progress("asking the float model")
    teacher = [tuple(outputs.values()) for outputs in run_onnx(network, samples, fused=True)]
    together = takes_several(student.network, samples)
    every = policy.RECOVERY_JUDGES_ONE_IN.value
    judging = [number for number in range(len(samples)) if number % every == every - 1]
    learning = sorted(set(range(len(samples))) - set(judging))
    lessons, judges = (Lessons([samples[k] for k in part], [teacher[k] for k in part], together)
                       for part in (learning, judging))
    before = _loss(graph, judges, student.loss)
    job = _job(graph, network, samples, learn)
    begun = None if state is None else state.read(job)
    now, ended = train(student, lessons, judges, learn, progress, begun,
                       lambda learning: None if state is None else state.write(job, learning))
    for each in student.learned:
        each.write(result.graph)
    figures = Figures(learn, len(learning), len(judging), now.step, ended, before, _loss(result, judges, student.loss))
    return result if figures.accepted else graph, figures


def _loss(graph: ir.Model, judges: Lessons, loss: Loss) -> float:
    """As onnxruntime computes it, rounding by rounding.

    Raises:
        CalibrationError: it is no number.
    """
    total = 0.0
    for outputs, true in zip(run_onnx(graph, judges.feeds), judges.teacher, strict=True):
        total += float(loss([torch.from_numpy(np.array(array)) for array in outputs.values()],
                            [torch.from_numpy(np.array(array)) for array in true]))
    if not np.isfinite(total):
        raise CalibrationError("--recover: the loss between the quantized model and the float one is no number: an "
                               "output is infinite or none on the samples; look at these, or leave --recover out")
    return total / len(judges.feeds)


def _job(graph: ir.Model, network: ir.Model, samples: Sequence[Arrays], learn: Learn) -> str:
    """What all steps follow from."""
    data = hashlib.sha256(b"".join(digest_of(dict(feed)) for feed in samples))
    numbers = {name: found.value for name, found in policy.parameters().items() if name.startswith("RECOVERY_")}
    return json.dumps([digest(graph), digest(network), data.hexdigest(), learn, numbers])
