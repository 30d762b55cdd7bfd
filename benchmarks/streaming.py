"""Streaming models over whole recordings, their own state fed back: the score of the float model and of each bundle.

    python benchmarks/streaming.py [--bits 8] [--targets onnxruntime,tflite] [--json FILE]

denoiser: trained here in about a minute, from a fixed seed, on made voices in made noise. A convolution over the last
three frames (one cache) and a GRU (one state) make a mask for the next frame; SI-SNR in dB over held-out sounds, which
is that of the noisy ones without a model. silero: a voice detector, where the real models are; the share of the
recording's steps on which it says the same as in float.
"""
from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import open_zoo, parser, report
from torch import nn

import edgeq
import edgeq_runtime

RATE, FRAME, HOP = 8000, 256, 128  # samples per second, of a frame, between frames
BINS, HIDDEN, SEED, SECONDS = FRAME // 2 + 1, 96, 20261201, 3
STEPS, BATCH = 220, 16
CALIBRATED, SCORED = 4, 12  # sounds
WINDOW = np.sqrt(np.hanning(FRAME + 1)[:-1]).astype(np.float32)
SILERO = "silero_vad_16k"


@dataclass(frozen=True)
class Row:
    """steps: how many the score is over. db: of the worst output, as the bundle's verification says it."""

    model: str
    target: str
    metric: str
    steps: int
    float_score: float
    score: float
    db: float
    of_float: float


class Denoiser(nn.Module):
    """mix [batch, time, bins, 2], cache [batch, 1, 2, bins], h [1, batch, hidden] -> the three of the next step."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 16, (3, 5), (1, 2), (0, 2))
        self.second = nn.Conv2d(16, 16, (1, 5), (1, 2), (0, 2))
        self.narrow = nn.Linear(16 * 33, HIDDEN)
        self.over_time = nn.GRU(HIDDEN, HIDDEN, batch_first=True)
        self.mask = nn.Linear(HIDDEN, BINS)

    def forward(self, mix: torch.Tensor, cache: torch.Tensor, h: torch.Tensor) -> tuple[torch.Tensor, ...]:
        seen = torch.cat([cache, torch.log(mix.square().sum(-1) + 1e-4)[:, None]], 2)
        x = torch.relu(self.second(torch.relu(self.first(seen))))
        x = torch.relu(self.narrow(x.transpose(1, 2).flatten(2)))
        x, h = self.over_time(x, h)
        return mix * torch.sigmoid(self.mask(x))[..., None], seen[:, :, -2:], h


def voice(generator: np.random.Generator) -> np.ndarray:
    """Harmonics of a gliding pitch under two formants, in syllables [samples]."""
    time = np.arange(RATE * SECONDS) / RATE
    pitch = generator.uniform(90, 240) * (1 + .15 * np.sin(2 * np.pi * generator.uniform(.3, 1.5) * time))
    phase, formants = 2 * np.pi * np.cumsum(pitch) / RATE, generator.uniform((300, 1000), (900, 2600))
    weights = (np.exp(-((pitch * k - formants[:, None]) / 250) ** 2).sum(0) + .05 for k in range(1, 16))
    sound = sum(weight * np.sin(k * phase) for k, weight in enumerate(weights, 1))
    syllables = np.repeat(generator.random(4 * SECONDS) < .7, RATE // 4).astype(float)
    loudness = np.convolve(syllables, np.hanning(400) / 200, "same")
    return loudness * sound / np.sqrt(np.mean((loudness * sound) ** 2) + 1e-9) * .1


def noise(generator: np.random.Generator) -> np.ndarray:
    """Of a colour of its own, rising and falling [samples]."""
    colour = np.fft.rfft(generator.normal(size=RATE * SECONDS)) / np.linspace(.2, 1, RATE * SECONDS // 2 + 1) ** (
        generator.uniform(-.5, 1.5))
    sound = np.fft.irfft(colour) * (1 + .5 * np.sin(2 * np.pi * generator.uniform(.2, 2) * np.arange(
        RATE * SECONDS) / RATE))
    return sound / np.sqrt(np.mean(sound ** 2)) * .1 * 10 ** (-generator.uniform(-2, 8) / 20)


def frames(sound: np.ndarray) -> np.ndarray:
    """[samples] -> spectra [time, bins, 2]."""
    spectra = np.fft.rfft(np.lib.stride_tricks.sliding_window_view(sound, FRAME)[::HOP] * WINDOW)
    return np.stack([spectra.real, spectra.imag], -1).astype(np.float32)


def sound_of(spectra: np.ndarray) -> np.ndarray:
    """The inverse."""
    found = np.zeros((len(spectra) - 1) * HOP + FRAME)
    for k, spectrum in enumerate(spectra):
        found[k * HOP:k * HOP + FRAME] += np.fft.irfft(spectrum[:, 0] + 1j * spectrum[:, 1]) * WINDOW
    return found


def sounds(count: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """(mixed, clean) spectra."""
    generator = np.random.default_rng(seed)
    pairs = [(voice(generator), noise(generator)) for _ in range(count)]
    return [(frames(clean + rest), frames(clean)) for clean, rest in pairs]


def train() -> Denoiser:
    torch.manual_seed(SEED)
    net = Denoiser()
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    mixed, clean = (torch.from_numpy(np.stack(each)) for each in zip(*sounds(STEPS, SEED), strict=True))
    for _ in range(STEPS):
        rows = torch.randint(len(mixed), (BATCH,))
        got = net(mixed[rows], torch.zeros(BATCH, 1, 2, BINS), torch.zeros(1, BATCH, HIDDEN))[0]
        # Of compressed magnitudes too, so that the quiet counts.
        loss = (_compressed(got) - _compressed(clean[rows])).square().mean() + 10 * (got - clean[rows]).square().mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return net.eval()


def _compressed(spectra: torch.Tensor) -> torch.Tensor:
    return (spectra.square().sum(-1) + 1e-8) ** .15


def si_snr(estimate: np.ndarray, clean: np.ndarray) -> float:
    """Scale-invariant signal to noise ratio in dB: https://arxiv.org/abs/1811.02508."""
    target = (estimate @ clean) / (clean @ clean) * clean
    return float(10 * np.log10((target @ target) / ((estimate - target) @ (estimate - target))))


@dataclass(frozen=True)
class Stream:
    """model: a path. recordings: what is fed, step by step, but its state. score: of the first output of every step of
    every recording, and how it is called. calibration: as `edgeq.convert` takes it.
    """

    name: str
    model: Path
    calibration: Any
    recordings: Sequence[Sequence[Mapping[str, Any]]]
    metric: str
    score: Callable[[list[np.ndarray]], float]


def denoiser(folder: Path) -> Stream:
    net, path = train(), folder / "denoiser.onnx"
    example = (torch.zeros(1, 1, BINS, 2), torch.zeros(1, 1, 2, BINS), torch.zeros(1, 1, HIDDEN))
    torch.onnx.export(net, example, str(path), input_names=["mix", "cache", "h"],
                      output_names=["clean", "cache_out", "h_out"], dynamo=False)
    held = sounds(SCORED, SEED + 1)
    clean = [sound_of(spectra) for _, spectra in held]

    def score(found: list[np.ndarray]) -> float:
        return float(np.mean([si_snr(sound_of(got[:, 0, 0]), expected)
                              for got, expected in zip(found, clean, strict=True)]))

    calibration = [{"mix": mixed[:, None]} for mixed, _ in sounds(CALIBRATED, SEED + 2)]
    return Stream("denoiser", path, calibration, [[{"mix": frame[None, None]} for frame in mixed] for mixed, _ in held],
                  "SI-SNR dB", score)


def silero(zoo: Any) -> Stream:
    """Its manifest's: steps of 512 samples with the 64 before; the first third calibrates."""
    feeds = [{"input": feed["input"], "sr": feed["sr"]} for feed in zoo.feeds(SILERO, limit=10 ** 6)]
    with np.load(zoo.root / SILERO / "data.npz") as data:
        speaks, calibrated = data["prob"] > .5, len(data["calib"])

    def agreement(found: list[np.ndarray]) -> float:
        return float(np.mean((found[0].ravel() > .5) == speaks))

    return Stream("silero", zoo.model(SILERO), feeds[:calibrated], [feeds], "agreement", agreement)


def scored(stream: Stream, run: Callable[[Mapping[str, Any]], Mapping[str, Any]], reset: Callable[[], None]) -> float:
    found = []
    for recording in stream.recordings:
        reset()
        found.append(np.stack([next(iter(run(feed).values())) for feed in recording]))
    return stream.score(found)


def rows(stream: Stream, targets: list[str], bits: int, folder: Path) -> Iterator[Row]:
    scores = {}
    sizes = {name: array.shape for name, array in stream.recordings[0][0].items()}
    for width, wanted in ((32, ["onnxruntime"]), (bits, targets)):
        for bundle in edgeq.convert(stream.model, target=wanted, bits=width, inputs=sizes,
                                    output=folder / f"{stream.name}-{width}",
                                    calibration=stream.calibration if width == 8 else None):
            with edgeq_runtime.load(bundle.path) as model:
                scores[width] = scored(stream, model.run, model.reset)
            if width == bits:
                worst = min(found["sqnr_db"] for found in bundle.report["verification"]["against_float"])
                yield Row(stream.name, bundle.manifest.target, stream.metric, sum(map(len, stream.recordings)),
                          scores[32], scores[bits], worst, bundle.artifact_bytes / stream.model.stat().st_size)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--bits", type=int, default=8, choices=(4, 8))
    options.add_argument("--targets", default="onnxruntime,tflite")
    chosen = options.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        streams = [denoiser(folder)]
        if (chosen.models / SILERO).is_dir():
            streams.append(silero(open_zoo(chosen.models)))
        found = [row for stream in streams for row in rows(stream, chosen.targets.split(","), chosen.bits, folder)]
    report(found, f"{chosen.bits} bits, every step with the artifact's own state", chosen.json)


if __name__ == "__main__":
    main()
