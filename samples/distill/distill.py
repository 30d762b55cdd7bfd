"""Distillation: a small network learns from a large one, both become 4 and 8 bits, and a table says which is worth it.

    pip install 'edgeq[torch]' scikit-learn
    python samples/distill/distill.py

The teacher and its students are one class with another width. A student sees no label: it learns what the teacher
says to each image, softened (Hinton et al. 2015, arXiv:1503.02531). For a network of yours, change `Net` and `load`.
"""
from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import edgeq
import edgeq_runtime

TEST, CALIBRATION, EPOCHS, BATCH, TEMPERATURE = 800, 128, 40, 64, 4.0


@dataclass(frozen=True)
class Config:
    """width: channels of the first block, twice as many of the second."""

    width: int = 32


class Net(nn.Sequential):
    """image [N,1,8,8] in [0,1] -> logits [N,10]."""

    def __init__(self, config: Config) -> None:
        w = config.width
        super().__init__(
            nn.Conv2d(1, w, 3, padding=1, bias=False), nn.BatchNorm2d(w), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(w, 2 * w, 3, padding=1, bias=False), nn.BatchNorm2d(2 * w), nn.ReLU(),
            nn.Conv2d(2 * w, 2 * w, 3, padding=1, bias=False), nn.BatchNorm2d(2 * w), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * w, 10))


def load() -> tuple[Tensor, Tensor]:
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    return torch.from_numpy((data.images[order, None] / 16).astype(np.float32)), torch.from_numpy(data.target[order])


def train(network: Net, images: Tensor, loss: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Net:
    """loss: of (logits, the images as they were moved, which of all images they are)."""
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=EPOCHS * -(-len(images) // BATCH))
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(images)).split(BATCH):
            padded = F.pad(images[batch], (1, 1, 1, 1))
            top, left = torch.randint(0, 3, (2,)).tolist()
            moved = padded[:, :, top:top + 8, left:left + 8]
            found = loss(network(moved), moved, batch)
            optimizer.zero_grad()
            found.backward()
            optimizer.step()
            schedule.step()
    return network.eval()


def distilled(teacher: Net, config: Config, images: Tensor) -> Net:
    def loss(logits: Tensor, moved: Tensor, batch: Tensor) -> Tensor:
        with torch.no_grad():
            said = F.log_softmax(teacher(moved) / TEMPERATURE, 1)
        ours = F.log_softmax(logits / TEMPERATURE, 1)
        return TEMPERATURE**2 * F.kl_div(ours, said, reduction="batchmean", log_target=True)

    return train(Net(config), images, loss)


def report(name: str, network: Net, bits: int, images: Tensor, test: tuple[Tensor, Tensor], said: Tensor) -> None:
    """A line of the table: bytes, accuracy, and how often the answer is that of the float teacher."""
    with tempfile.TemporaryDirectory() as folder:
        bundle = edgeq.convert(network, example_inputs=torch.zeros(1, 1, 8, 8), target="tflite", bits=bits,
                               calibration=[image[None].numpy() for image in images[:CALIBRATION]],
                               output=Path(folder) / "a.edgeq")
        with edgeq_runtime.load(bundle.path, threads=1) as model:
            feed, = (spec.name for spec in bundle.manifest.inputs)
            answers = torch.tensor([int(next(iter(model.run({feed: image[None].numpy()}).values())).argmax())
                                    for image in test[0]])
        print(f"| {name} | {bits} | {bundle.artifact_bytes:6} | {100 * (answers == test[1]).float().mean():.2f} | "
              f"{100 * (answers == said).float().mean():.2f} |", flush=True)


def main() -> None:
    torch.manual_seed(0)
    images, labels = load()
    test, learn = (images[:TEST], labels[:TEST]), images[TEST:]
    by_labels = lambda logits, moved, batch: F.cross_entropy(logits, labels[TEST:][batch])  # noqa: E731
    teacher = train(Net(Config()), learn, by_labels)
    with torch.no_grad():
        said = teacher(test[0]).argmax(1)
    print("| network | bits | bytes | accuracy % | agrees with the float teacher % |\n|---|---|---|---|---|")
    for bits in (32, 8, 4):
        report("teacher, width 32", teacher, bits, learn, test, said)
    for width in (22, 16):
        student = distilled(teacher, Config(width), learn)
        for bits in (8, 4):
            report(f"student, width {width}, distilled", student, bits, learn, test, said)
        report(f"width {width}, from labels alone", train(Net(Config(width)), learn, by_labels), 4, learn, test, said)


if __name__ == "__main__":
    main()
