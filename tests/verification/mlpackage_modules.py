"""Torch modules that Apple's converter turns into packages, and the schemes of coremltools.optimize that compress them.

Sizes are uneven everywhere (H != W, channels in != out, unequal strides and pads), so that a swapped axis shows.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


class Mobile(nn.Module):
    """Depthwise, dilated, grouped and strided convolutions, hard swish, PReLU, all pools."""

    def __init__(self) -> None:
        super().__init__()
        stem = nn.Conv2d(3, 12, (3, 5), (2, 1), (1, 2), bias=False)
        self.stem = nn.Sequential(stem, nn.BatchNorm2d(12), nn.Hardswish())
        self.depthwise = nn.Sequential(nn.Conv2d(12, 24, 3, 1, 2, dilation=2, groups=12), nn.PReLU(24))
        self.grouped = nn.Conv2d(24, 20, (1, 3), groups=4, padding=(0, 1))
        self.head = nn.Linear(20, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(self.stem(x), 3, 2, 1, ceil_mode=True)
        x = F.avg_pool2d(self.depthwise(x), (3, 2), (2, 1), (1, 0), ceil_mode=True)
        x = F.avg_pool2d(F.relu6(self.grouped(x)), 3, 1, 1, count_include_pad=False)
        return self.head(F.leaky_relu(x, 0.1).mean((2, 3)))


class UNet(nn.Module):
    """Transposed convolutions, group norm, pixel shuffle, bilinear and nearest upsampling, skips."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 16, 3, 2, 1)
        self.norm = nn.GroupNorm(4, 16)
        self.deep = nn.Conv2d(16, 24, 3, 2, 1)
        self.up = nn.ConvTranspose2d(24, 16, (3, 4), (2, 2), (1, 1), output_padding=(1, 0))
        self.shuffle = nn.Conv2d(32, 20, 1)
        self.grouped_up = nn.ConvTranspose2d(5, 10, 2, 1, groups=5, dilation=(2, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skip = F.silu(self.norm(self.down(x)))
        x = self.up(F.elu(self.deep(skip)))
        x = F.pixel_shuffle(self.shuffle(torch.cat([x, skip], 1)), 2)
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        x = F.interpolate(self.grouped_up(x), scale_factor=(1, 2), mode="nearest")
        return F.pixel_unshuffle(x[:, :, 2:-2, 2:-2], 2)


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(32, 4, 48, dropout=0.0, activation="gelu", batch_first=True)
        self.register_buffer("mask", torch.full((9, 9), -30000.0).triu(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x, src_mask=self.mask)


class Attention(nn.Module):
    """Scaled dot product attention with a mask, rotary-like slices, RMS norm, a gated MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(24, 72, bias=False), nn.Linear(24, 24)
        self.gate, self.up, self.down = nn.Linear(24, 40), nn.Linear(24, 40), nn.Linear(40, 24)
        self.weight = nn.Parameter(torch.rand(24) + 0.5)
        self.register_buffer("mask", torch.ones(11, 11, dtype=torch.bool).tril())

    def norm(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * self.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (part.view(2, 11, 3, 8).transpose(1, 2) for part in self.qkv(self.norm(x)).chunk(3, -1))
        q = torch.cat([-q[..., 4:], q[..., :4]], -1)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, self.mask).transpose(1, 2).reshape(2, 11, 24))
        y = self.norm(x)
        return x + self.down(F.gelu(self.gate(y), approximate="tanh") * self.up(y))


class Recurrent(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.cell = {"lstm": nn.LSTM(10, 14, 1, bidirectional=True), "gru": nn.GRU(10, 14), "rnn": nn.RNN(10, 14)}[kind]

    def forward(self, x: torch.Tensor) -> Any:
        output, state = self.cell(x)
        return output, state[0] if isinstance(state, tuple) else state


class Embedding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.place, self.norm = nn.Embedding(50, 16), nn.Embedding(12, 16), nn.LayerNorm(16)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.norm(self.table(tokens) + self.place(torch.arange(7)))


class Function(nn.Module):
    """A module of one function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self.function(*inputs)


def interpolate(x: torch.Tensor) -> Any:
    return (F.interpolate(x, (11, 5), mode="bilinear", align_corners=True), F.interpolate(x, (13, 17), mode="bilinear"),
            F.interpolate(x, scale_factor=(3, 2), mode="nearest"),
            F.interpolate(x, scale_factor=(2, 3), mode="bilinear"))


def padding(x: torch.Tensor) -> Any:
    return (F.pad(x, (1, 2, 3, 0)), F.pad(x, (2, 1, 0, 3), mode="reflect"), F.pad(x, (3, 0, 1, 2), mode="replicate"),
            F.pad(x, (1, 1), value=-2.5))


def reductions(x: torch.Tensor) -> Any:
    return (x.mean(1), x.sum((0, 2), keepdim=True), x.amax(-1), x.amin((1, 2)), x.norm(dim=1), x.abs().sum(2),
            torch.logsumexp(x, -1), x.argmax(1), x.std(-1), x.cumsum(1), x.argmin(-1, keepdim=True))


def indexing(x: torch.Tensor, indices: torch.Tensor) -> Any:
    values, places = x.topk(3, dim=1)
    ordered = x.argsort(dim=-1, descending=True)
    scattered = torch.zeros(4, 9, 5).scatter(1, indices.long(), x[:, :2])
    return (values, places, ordered, x.gather(1, indices.long()), scattered, x.index_select(2, torch.tensor([4, 0, 2])),
            x[:, 1::2, -3:], x.flip(1), torch.where(x > 0, x, x.new_tensor(-1.0)), x.masked_fill(x < -1, 9.0))


def algebra(x: torch.Tensor, y: torch.Tensor) -> Any:
    return (torch.einsum("nchw,nwhu->nchu", x, y), torch.einsum("bij,bjk->bik", x[:, 0], y[:, :, 0]),
            x.transpose(1, 2) @ y.permute(0, 2, 1, 3), torch.stack([x, x * 2], 2).flatten(1, 2),
            torch.tile(y, (1, 2, 1, 3)))


def activations(x: torch.Tensor) -> Any:
    positive = x.abs() + 0.1
    return (F.gelu(x), F.gelu(x, approximate="tanh"), F.mish(x), F.softplus(x), F.softsign(x), F.hardsigmoid(x),
            F.elu(x, 0.7), F.selu(x), F.log_softmax(x, 1), F.hardtanh(x, -0.7, 0.4), torch.erf(x), torch.tan(x / 4),
            torch.atan(x), torch.log(positive), torch.rsqrt(positive), positive ** 1.7, torch.sign(x),
            torch.floor(x), torch.round(x * 4), torch.sinh(x), torch.cosh(x), torch.exp2(x), F.threshold(x, 0.2, 0.0),
            torch.atan2(x, positive), torch.remainder(x, 0.75), x.clamp(min=-0.3))


def norms(x: torch.Tensor) -> Any:
    return (F.instance_norm(x), F.local_response_norm(x, 5, 0.3, 0.8, 1.5), F.normalize(x, dim=1),
            F.group_norm(x, 3), F.layer_norm(x, x.shape[2:]), F.batch_norm(x, x.mean((0, 2, 3)), x.var((0, 2, 3))))


class Signal(nn.Module):
    """Convolutions and pools over one and three dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv1d(2, 6, 7, 3, 4, dilation=2)
        self.back = nn.ConvTranspose1d(6, 3, 5, 2, 1)
        self.three = nn.Conv3d(3, 5, (1, 3, 2), (1, 2, 1), (0, 1, 1))

    def forward(self, x: torch.Tensor, volume: torch.Tensor) -> Any:
        signal = F.avg_pool1d(torch.tanh(self.one(x)), 3, 2, 1)
        return self.back(signal), F.max_pool3d(self.three(volume), (1, 2, 2))


def grid_sample(x: torch.Tensor, grid: torch.Tensor) -> Any:
    return (F.grid_sample(x, grid, align_corners=True), F.grid_sample(x, grid, mode="nearest", align_corners=False),
            F.grid_sample(x, grid, padding_mode="border", align_corners=False),
            F.grid_sample(x, grid, padding_mode="reflection", align_corners=True))


def affine(x: torch.Tensor) -> torch.Tensor:
    matrix = torch.tensor([[[0.8, -0.3, 0.1], [0.2, 1.1, -0.2]]])
    return F.grid_sample(x, F.affine_grid(matrix, [1, 3, 5, 4], align_corners=True), align_corners=True)


class Branches(nn.Module):
    """Control flow: scripted, for a tracer does not see it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x - 1
        if bool(x.sum() > 0):
            y = x * 2
        while bool(y.sum() < 100):
            y = y.abs() * 1.5 + 1
        return y


def _image(*shape: int) -> torch.Tensor:
    """Values that float16 holds exactly, so that no threshold, floor or index depends on the rounding of the inputs."""
    return torch.randn(*shape).half().float()


@dataclass(frozen=True)
class Case:
    """``make`` -> the module and its inputs."""

    name: str
    make: Callable[[], tuple[nn.Module, tuple[torch.Tensor, ...]]]


CASES: tuple[Case, ...] = (
    Case("mobile", lambda: (Mobile(), (_image(2, 3, 37, 30),))),
    Case("unet", lambda: (UNet(), (_image(1, 3, 24, 20),))),
    Case("transformer", lambda: (Transformer(), (_image(2, 9, 32),))),
    Case("attention", lambda: (Attention(), (_image(2, 11, 24),))),
    Case("lstm", lambda: (Recurrent("lstm"), (_image(6, 2, 10),))),
    Case("gru", lambda: (Recurrent("gru"), (_image(6, 2, 10),))),
    Case("rnn", lambda: (Recurrent("rnn"), (_image(6, 2, 10),))),
    Case("embedding", lambda: (Embedding(), (torch.randint(0, 50, (3, 7), dtype=torch.int32),))),
    Case("interpolate", lambda: (Function(interpolate), (_image(2, 3, 7, 9),))),
    Case("padding", lambda: (Function(padding), (_image(2, 3, 7, 9),))),
    Case("reductions", lambda: (Function(reductions), (_image(3, 5, 7),))),
    Case("indexing", lambda: (Function(indexing), (_image(4, 6, 5), torch.rand(4, 2, 5).argsort(1).to(torch.int32)))),
    Case("algebra", lambda: (Function(algebra), (_image(2, 3, 4, 5), _image(2, 5, 4, 6)))),
    Case("activations", lambda: (Function(activations), (_image(3, 4, 5),))),
    Case("norms", lambda: (Function(norms), (_image(2, 6, 5, 7),))),
    Case("signal", lambda: (Signal(), (_image(2, 2, 61), _image(1, 3, 4, 9, 8)))),
    Case("grid_sample", lambda: (Function(grid_sample), (_image(2, 3, 6, 8), _image(2, 5, 4, 2) * 0.5))),
    Case("affine", lambda: (Function(affine), (_image(1, 3, 6, 8),))),
    Case("branches", lambda: (torch.jit.script(Branches()), (_image(3, 5),))),
)


def build(case: Case) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """The case's module in inference mode, and its inputs; the same ones every time."""
    torch.manual_seed(sum(map(ord, case.name)))
    with torch.no_grad():
        module, inputs = case.make()
        for parameter in module.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return module.eval(), inputs


def expected(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[np.ndarray[Any, Any], ...]:
    with torch.no_grad():
        result = module(*inputs)
    return tuple(part.numpy() for part in (result if isinstance(result, tuple) else (result,)))


def feeds(inputs: tuple[torch.Tensor, ...]) -> dict[str, np.ndarray[Any, Any]]:
    return {f"input_{number}": value.numpy() for number, value in enumerate(inputs)}


def convert(module: nn.Module, inputs: tuple[torch.Tensor, ...], precision: str, target: str = "iOS18") -> Any:
    """Apple's converter -> an MLModel with the inputs input_0, input_1, ..., typed as ``precision`` inside."""
    import coremltools as ct

    types = {torch.float32: np.float32, torch.int32: np.int32}
    passes = ct.PassPipeline.DEFAULT
    # It rewrites x * a + b as a batch_norm of variance 1 and epsilon 1e-5: the program itself is then off by 5e-6.
    passes.remove_passes({"common::fuse_elementwise_to_batchnorm"})
    scripted = isinstance(module, torch.jit.ScriptModule)
    return ct.convert(
        module if scripted else torch.jit.trace(module, inputs, check_trace=False),
        inputs=[ct.TensorType(f"input_{number}", shape=value.shape, dtype=types[value.dtype])
                for number, value in enumerate(inputs)],
        minimum_deployment_target=getattr(ct.target, target), skip_model_load=True, pass_pipeline=passes,
        compute_precision=ct.precision.FLOAT16 if precision == "float16" else ct.precision.FLOAT32)


def save(model: Any, path: Path) -> Path:
    model.save(str(path))
    return path


def _config(options: Any) -> Any:
    from coremltools.optimize.coreml import OptimizationConfig

    return OptimizationConfig(global_config=options)


def _linear(joint: bool = False, **options: Any) -> Callable[[Any], Any]:
    def compress(model: Any) -> Any:
        from coremltools.optimize import coreml as cto

        config = _config(cto.OpLinearQuantizerConfig(weight_threshold=0, **options))
        return cto.linear_quantize_weights(model, config, joint_compression=joint)

    return compress


def _palette(joint: bool = False, **options: Any) -> Callable[[Any], Any]:
    def compress(model: Any) -> Any:
        from coremltools.optimize import coreml as cto

        config = _config(cto.OpPalettizerConfig(mode="kmeans", weight_threshold=0, **options))
        return cto.palettize_weights(model, config, joint_compression=joint)

    return compress


def _pruned(model: Any) -> Any:
    from coremltools.optimize import coreml as cto

    return cto.prune_weights(model, _config(cto.OpMagnitudePrunerConfig(target_sparsity=0.5, weight_threshold=0)))


def _then(*stages: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def compress(model: Any) -> Any:
        for stage in stages:
            model = stage(model)
        return model

    return compress


SCHEMES: Mapping[str, Callable[[Any], Any]] = {
    "int8 per channel": _linear(mode="linear_symmetric", dtype="int8", granularity="per_channel"),
    "uint8 asymmetric": _linear(mode="linear", dtype="uint8", granularity="per_channel"),
    "int4 block 32": _linear(mode="linear_symmetric", dtype="int4", granularity="per_block", block_size=32),
    "uint4 block 32": _linear(mode="linear", dtype="uint4", granularity="per_block", block_size=32),
    "palette 4 bit": _palette(nbits=4),
    "palette 6 bit": _palette(nbits=6),
    "palette 3 bit": _palette(nbits=3),
    "palette 4 bit, group 16": _palette(nbits=4, granularity="per_grouped_channel", group_size=16),
    "palette 4 bit, scale per channel": _palette(nbits=4, enable_per_channel_scale=True),
    "palette 4 bit, vectors of 2": _palette(nbits=4, cluster_dim=2),
    "palette 4 bit, int8 table": _then(_palette(nbits=4), _linear(True, mode="linear_symmetric", dtype="int8",
                                                                granularity="per_tensor")),
    "pruned 50 %": _pruned,
    "pruned 50 %, palette 4 bit": _then(_pruned, _palette(True, nbits=4)),
    "pruned 50 %, int8": _then(_pruned, _linear(True, mode="linear_symmetric")),
}

SCHEMES_IOS16: Mapping[str, Callable[[Any], Any]] = {
    "int8 per channel": _linear(mode="linear_symmetric", dtype="int8"),
    "uint8 asymmetric": _linear(mode="linear", dtype="uint8"),
    "palette 4 bit": _palette(nbits=4),
    "palette 6 bit": _palette(nbits=6),
    "pruned 50 %": _pruned,
}


class Compressible(nn.Module):
    """Convolutions and matrices whose channels are multiples of 32, so that every scheme applies."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(32, 64, 3, padding=1), nn.Conv2d(64, 32, 1)
        self.three, self.four = nn.Linear(32, 96), nn.Linear(96, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.two(F.relu(self.one(x))))
        return self.four(torch.tanh(self.three(x.mean((2, 3)) * math.sqrt(8))))


COMPRESSIBLE = Case("compressible", lambda: (Compressible(), (_image(1, 32, 9, 7),)))
