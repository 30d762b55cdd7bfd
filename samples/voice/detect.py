"""Say from when to when a sound is heard in a .wav file, reading it in steps as from a microphone.

    python detect.py BUNDLE recording.wav [--label speech] [--step 0.1]
"""
from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import edgeq_runtime
from edgeq_runtime.sound import read_wav

ON, OFF = 0.6, 0.4  # two thresholds: a score that wavers around one would switch with every step


def scores(model: edgeq_runtime.Model, sound: np.ndarray, label: str, step: int) -> Iterator[tuple[int, float]]:
    """(sample at which a window ends, score of the label), every `step` samples. Before the start there is silence."""
    window = np.zeros(model.steps[0].samples, np.float32)
    for begin in range(0, len(sound) - step + 1, step):
        window = np.concatenate([window[step:], sound[begin:begin + step]])
        yield begin + step, sum(found.score for found in model.predict(window) if found.label == label)


def heard(found: Iterator[tuple[int, float]], end: int) -> Iterator[tuple[int, int]]:
    """(first, last) sample of each stretch in which the score is high."""
    since = None
    for sample, score in found:
        if since is None and score > ON:
            since = sample
        elif since is not None and score < OFF:
            yield since, sample
            since = None
    if since is not None:
        yield since, end


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("recording", type=Path)
    parser.add_argument("--label", default="speech")
    parser.add_argument("--step", type=float, default=0.1, metavar="SECONDS")
    options = parser.parse_args()
    try:
        with edgeq_runtime.load(options.bundle, threads=1) as model:
            sound, rate = read_wav(options.recording)
            declared = getattr(model.steps[0], "sample_rate", None)
            if declared != rate or model.steps[0].samples is None or model.steps[1] is None:
                sys.exit(f"error: the bundle declares no window of sound at {rate} samples a second, or no labels")
            step = round(options.step * rate)
            for first, last in heard(scores(model, sound, options.label, step), len(sound)):
                print(f"{first / rate:.2f} s to {last / rate:.2f} s: {options.label}")
    except edgeq_runtime.EdgeqError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
