"""Samples of a streaming model: steps in the order of time, and the state that the float network has before each."""
from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from edgeq import policy
from edgeq.inference.reference import Arrays, run_onnx
from edgeq.quant.feeds import Feed, InputSpec, Located
from edgeq.quant.samples import Samples, digest_of
from edgeq.state import filled, state_pairs


class Recordings(Samples):
    """Every feed holds a state, so that it can be looked at alone; all of them are held in memory.

    Parts are whole recordings, and of one of them the beginning and the end: steps are never shuffled.
    """

    def __init__(self, specs: Mapping[str, InputSpec], recordings: Sequence[Sequence[Feed]]):
        steps = list(itertools.chain.from_iterable(recordings))
        super().__init__(specs, lambda: (Located("the rolled out samples", feed) for feed in steps), "", len(steps))
        self._recordings, self._states = recordings, {name for name, spec in specs.items() if spec.state}

    @property
    def stretch(self) -> list[Feed]:
        return list(itertools.islice(self.running(), policy.ROLLED_STEPS.value))

    def running(self) -> Iterator[Feed]:
        for recording in self._recordings:
            yield recording[0]
            yield from ({name: array for name, array in feed.items() if name not in self._states}
                        for feed in recording[1:])

    def first(self, count: int) -> Recordings:
        return self._cut(self._recordings, count)[0]

    def hold_out(self, *, in_order: bool = False) -> tuple[Samples, Samples | None]:
        """As of Samples, with no more than a fifth and no less: errors of a state show over time."""
        return (self, None) if self.count < policy.HELD_OUT_FROM.value else self.split(policy.HELD_OUT_ONE_IN.value)

    def split(self, step: int, *, in_order: bool = False) -> tuple[Recordings, Recordings]:
        """(the rest, so many as every `step`-th would be, or as many as show what becomes of the state): recordings
        by their content, and the end of the one where that cuts.
        """
        chosen = max(self.count // step, min(policy.ROLLED_STEPS.value, self.count // policy.HELD_OUT_ONE_IN.value))
        ranked = sorted(self._recordings, key=lambda recording: digest_of(recording[0]))
        return self._cut(ranked, self.count - chosen)

    def _cut(self, recordings: Sequence[Sequence[Feed]], count: int) -> tuple[Recordings, Recordings]:
        """(the first `count` steps, the others)"""
        ends = list(itertools.accumulate(map(len, recordings), initial=0))
        parts = [(recording[:max(count - start, 0)], recording[max(count - start, 0):])
                 for recording, start in zip(recordings, ends, strict=False)]
        first, second = ([part[side] for part in parts if part[side]] for side in (0, 1))
        return Recordings(self.specs, first), Recordings(self.specs, second)


def roll_out(network: ir.Model, samples: Samples) -> Samples:
    """The samples of a streaming model with the float network's state; others as they are. A sample that holds a state
    begins a recording, unless it is what the step before gives.
    """
    pairs = state_pairs(network)
    if not pairs:
        return samples
    given = list(samples)
    outputs = list(run_onnx(network, given, fused=True))
    recordings: list[list[Feed]] = []
    for number, feed in enumerate(filled(given, outputs, pairs)):
        if not number or not _goes_on(given[number], outputs[number - 1], pairs):
            recordings.append([])
        recordings[-1].append(feed)
    return Recordings(samples.specs, recordings)


def _goes_on(feed: Arrays, before: Arrays, pairs: Mapping[str, str]) -> bool:
    """Whether a state that a sample holds, as somebody recorded it, is that of the step before."""
    return all(name not in feed or np.allclose(feed[name], before[after], rtol=1e-3, atol=1e-4)
               for name, after in pairs.items())
