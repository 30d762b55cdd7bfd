"""Train the network of this sample and write digits.onnx, calibration.npz and test.npz beside this file.

    pip install 'edgeq[torch]' scikit-learn
    python samples/digits/train.py

The data are scikit-learn's 1797 real scanned digits of 8x8 pixels (UCI, Alpaydin and Kaynak 1998). `make demo` runs
nothing of this: its results are kept in the repository.
"""
from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

HERE = Path(__file__).parent
TEST, CALIBRATION = 400, 128
EPOCHS, BATCH = 40, 64


def conv(inputs: int, outputs: int, kernel: int, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU())


class Residual(nn.Module):
    """x + pointwise(depthwise(x)), the block of most small vision networks."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(channels, channels, 3, groups=channels), conv(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.body(x))


class Digits(nn.Module):
    """image [N,1,8,8] in [0,1] -> logits [N,10]."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            conv(1, 32, 3), Residual(32), nn.MaxPool2d(2), conv(32, 64, 3), Residual(64), nn.AdaptiveAvgPool2d(1),
            nn.Flatten())
        self.classify = nn.Linear(64, 10)

    def forward(self, image: Tensor) -> Tensor:
        return self.classify(self.features(image))


def load() -> tuple[np.ndarray, np.ndarray]:
    """Shuffled images [1797,1,8,8] float32 in [0,1] and labels [1797] int64."""
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    images = (data.images[order, None] / 16).astype(np.float32)
    return images, data.target[order].astype(np.int64)


def shifted(images: Tensor) -> Tensor:
    """The batch moved by up to one pixel each way."""
    padded = nn.functional.pad(images, (1, 1, 1, 1))
    top, left = torch.randint(0, 3, (2,)).tolist()
    return padded[:, :, top:top + 8, left:left + 8]


def train(images: Tensor, labels: Tensor) -> Digits:
    network = Digits()
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=1e-2)
    steps = EPOCHS * -(-len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=steps)
    for epoch in range(EPOCHS):
        total = 0.0
        for batch in torch.randperm(len(images)).split(BATCH):
            loss = nn.functional.cross_entropy(network(shifted(images[batch])), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(batch)
        print(f"epoch {epoch + 1:2}: loss {total / len(images):.4f}")
    return network.eval()


def export(network: Digits, path: Path) -> None:
    """Write ONNX without the exporter's notes, which hold the source lines and folders of whoever trained it."""
    program = torch.onnx.export(network, (torch.zeros(1, 1, 8, 8),), input_names=["image"], output_names=["logits"],
                                dynamo=True, verbose=False)
    model = program.model_proto
    for item in (*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        item.ClearField("metadata_props")
        item.ClearField("doc_string")
    for owner in (model, model.graph):
        owner.ClearField("metadata_props")
    onnx.save(model, path)


def main() -> None:
    torch.manual_seed(0)
    images, labels = load()
    training = torch.from_numpy(images[TEST:]), torch.from_numpy(labels[TEST:])
    network = train(*training)
    with torch.no_grad():
        right = network(torch.from_numpy(images[:TEST])).argmax(1).numpy() == labels[:TEST]
    parameters = sum(p.numel() for p in network.parameters())
    print(f"{parameters} parameters, test accuracy {right.mean():.2%}")
    export(network, HERE / "digits.onnx")
    np.savez_compressed(HERE / "test.npz", image=images[:TEST], label=labels[:TEST])
    np.savez_compressed(HERE / "calibration.npz", image=images[TEST:TEST + CALIBRATION])


if __name__ == "__main__":
    main()
