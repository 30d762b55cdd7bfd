"""What a net of the table is: a torch module with random weights, and generated inputs with structure in them."""
from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Array: TypeAlias = NDArray[Any]
Sampler: TypeAlias = Callable[[np.random.Generator], Array]

WARM_UP: Final = 3  # forward passes from which the statistics of batch normalization are taken


@dataclass(frozen=True)
class Net:
    """One row of the table.

    family: heading in the table. make: builds the module, weights at random. inputs: input name -> sampler of one
    array with its batch axis; names are those of `forward`. outputs: attributes of a transformers output, or ().
    """

    name: str
    family: str
    make: Callable[[], nn.Module]
    inputs: Mapping[str, Sampler]
    outputs: tuple[str, ...] = ()

    def samples(self, count: int, seed: int) -> list[dict[str, Array]]:
        generator = np.random.default_rng(seed)
        return [{name: sampler(generator) for name, sampler in self.inputs.items()} for _ in range(count)]

    def module(self) -> nn.Module:
        """In evaluation mode, with weights and statistics that keep activations alive; from a fixed seed."""
        torch.manual_seed(0)
        network = Called(self.make(), tuple(self.inputs), self.outputs)
        randomize(network)
        settle_statistics(network, [[torch.from_numpy(array) for array in sample.values()]
                                    for sample in self.samples(4 * WARM_UP, seed=3)])
        return network.eval()


class Called(nn.Module):
    """A module called by keyword with tensors in order, whose outputs are tensors."""

    def __init__(self, inner: nn.Module, inputs: tuple[str, ...], outputs: tuple[str, ...]):
        super().__init__()
        self.inner, self.inputs, self.outputs = inner, inputs, outputs

    def forward(self, *tensors: Tensor) -> Any:
        found = self.inner(**dict(zip(self.inputs, tensors, strict=True)))
        return tuple(getattr(found, name) for name in self.outputs) if self.outputs else found


def randomize(network: nn.Module) -> None:
    """Weights of variance 1.5 / fan-in, so that neither ReLU nor GELU nets fade with depth; uneven norm gains."""
    for module in network.modules():
        weight = getattr(module, "weight", None)
        if weight is None or isinstance(weight, nn.UninitializedParameter):
            continue
        with torch.no_grad():
            if "Norm" in type(module).__name__:
                weight.uniform_(0.6, 1.4)
                if getattr(module, "bias", None) is not None:
                    module.bias.normal_(0, 0.2)
            elif isinstance(module, nn.Embedding):
                weight.normal_(0, 0.7)
            elif isinstance(module, nn.Linear | nn.modules.conv._ConvNd) or type(module).__name__ == "Conv1D":
                weight.normal_(0, math.sqrt(1.5 / _fan_in(module)))
                if module.bias is not None:
                    module.bias.normal_(0, 0.1)


def _fan_in(module: nn.Module) -> int:
    weight = module.weight
    if isinstance(module, nn.modules.conv._ConvTransposeNd) or type(module).__name__ == "Conv1D":  # [in, out, ...]
        groups = getattr(module, "groups", 1)
        overlap = math.prod(weight.shape[2:]) // math.prod(getattr(module, "stride", (1,)))
        return max(1, weight.shape[0] // groups * max(1, overlap))
    return math.prod(weight.shape[1:])


def settle_statistics(network: nn.Module, batches: list[list[Tensor]]) -> None:
    """Running mean and variance as after training: taken from data, each layer behind the one before."""
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    network.eval()
    for norm in norms:
        norm.train()
        norm.momentum = None  # the plain mean over the passes
    size = len(batches) // WARM_UP
    with torch.no_grad():
        for start in range(0, len(batches), size):
            network(*(torch.cat(parts) for parts in zip(*batches[start:start + size], strict=True)))


def image(channels: int = 3, height: int = 64, width: int = 64) -> Sampler:
    """[1,channels,height,width]: shaded rectangles on smooth waves, about zero mean and unit variance."""
    def sample(generator: np.random.Generator) -> Array:
        y, x = np.mgrid[0:1:height * 1j, 0:1:width * 1j]
        picture = np.zeros((channels, height, width))
        for _ in range(4):
            fy, fx, phase = generator.uniform(-4, 4, 3)
            picture += generator.normal(size=(channels, 1, 1)) * np.sin(2 * math.pi * (fy * y + fx * x) + phase)
        for _ in range(3):
            top, left = generator.uniform(0, 0.7, 2)
            inside = (y > top) & (y < top + 0.3) & (x > left) & (x < left + 0.3)
            picture += inside * generator.normal(size=(channels, 1, 1))
        picture += 0.05 * generator.normal(size=picture.shape)
        return (0.6 * picture)[None].astype(np.float32)
    return sample


def tokens(vocabulary: int = 200, length: int = 16) -> Sampler:
    """[1,length] int64: token numbers, small ones more often, as in text."""
    def sample(generator: np.random.Generator) -> Array:
        return np.minimum(generator.zipf(1.3, (1, length)), vocabulary - 1).astype(np.int64)
    return sample


def mask(length: int = 16) -> Sampler:
    """[1,length] int64: ones, then zeros for the padding."""
    def sample(generator: np.random.Generator) -> Array:
        return (np.arange(length) < generator.integers(length // 2, length + 1)).astype(np.int64)[None]
    return sample


def waveform(length: int, *, channels: int | None = None) -> Sampler:
    """[1,length], or [1,channels,length]: three tones under a slow envelope, with a little noise."""
    def sample(generator: np.random.Generator) -> Array:
        time = np.arange(length) / length
        sound = 0.02 * generator.normal(size=length)
        for _ in range(3):
            frequency, phase, rate = generator.uniform([length / 200, 0, 1], [length / 10, 6, 4])
            envelope = 0.5 - 0.5 * np.cos(2 * math.pi * rate * time + phase)
            sound += 0.5 * envelope * np.sin(2 * math.pi * frequency * time)
        shape = (1, length) if channels is None else (1, channels, length)
        return np.broadcast_to(sound, shape).astype(np.float32)
    return sample


def spectrogram(*shape: int) -> Sampler:
    """[1,*shape]: ridges that move with time (the axis of `shape` with the most steps), about zero mean."""
    def sample(generator: np.random.Generator) -> Array:
        picture = image(1, shape[-2], shape[-1])(generator)[0, 0]
        return np.broadcast_to(picture, (1, *shape)).astype(np.float32)
    return sample


def normal(*shape: int, scale: float = 1.0) -> Sampler:
    """[1,*shape]: noise, for states that come from a step before."""
    def sample(generator: np.random.Generator) -> Array:
        return (scale * generator.normal(size=(1, *shape))).astype(np.float32)
    return sample
