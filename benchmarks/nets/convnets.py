"""Convolutional classifiers that transformers does not have, in plain torch."""
from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CLASSES = 100


def conv_bn(c: int, o: int, kernel: int = 3, stride: int = 1, groups: int = 1,
            activation: type[nn.Module] | None = nn.ReLU, dilation: int = 1) -> nn.Sequential:
    """Convolution, batch normalization, activation; same size at stride 1."""
    padding = dilation * (kernel - 1) // 2
    layers: list[nn.Module] = [nn.Conv2d(c, o, kernel, stride, padding, dilation, groups, bias=False),
                               nn.BatchNorm2d(o)]
    return nn.Sequential(*layers, *([] if activation is None else [activation()]))


def head(c: int) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, CLASSES))


class SqueezeExcite(nn.Module):
    def __init__(self, c: int, reduced: int):
        super().__init__()
        self.down, self.up = nn.Conv2d(c, reduced, 1), nn.Conv2d(reduced, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * F.hardsigmoid(self.up(F.relu(self.down(F.adaptive_avg_pool2d(x, 1)))))


class InvertedResidual(nn.Module):
    """MobileNetV3: expand, depthwise, squeeze-excite, project."""

    def __init__(self, c: int, expanded: int, o: int, kernel: int, stride: int, se: bool, activation: type[nn.Module]):
        super().__init__()
        self.shortcut = c == o and stride == 1
        self.body = nn.Sequential(
            conv_bn(c, expanded, 1, activation=activation),
            conv_bn(expanded, expanded, kernel, stride, expanded, activation),
            SqueezeExcite(expanded, expanded // 4) if se else nn.Identity(),
            conv_bn(expanded, o, 1, activation=None))

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        return x + y if self.shortcut else y


def mobilenet_v3() -> nn.Module:
    """Howard et al. 2019: squeeze-excite with HardSigmoid, HardSwish in the later half."""
    return nn.Sequential(
        conv_bn(3, 16, 3, 2, activation=nn.Hardswish),
        InvertedResidual(16, 16, 16, 3, 2, True, nn.ReLU),
        InvertedResidual(16, 72, 24, 3, 2, False, nn.ReLU),
        InvertedResidual(24, 88, 24, 3, 1, False, nn.ReLU),
        InvertedResidual(24, 96, 40, 5, 2, True, nn.Hardswish),
        InvertedResidual(40, 120, 40, 5, 1, True, nn.Hardswish),
        conv_bn(40, 96, 1, activation=nn.Hardswish),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 128), nn.Hardswish(), nn.Linear(128, CLASSES))


class UniversalInvertedBottleneck(nn.Module):
    """MobileNetV4: a depthwise convolution before and one within the expansion, either may be absent; layer scale."""

    def __init__(self, c: int, o: int, first: int, middle: int, stride: int, expansion: int = 4):
        super().__init__()
        wide = c * expansion
        self.shortcut = c == o and stride == 1
        self.body = nn.Sequential(
            conv_bn(c, c, first, stride if not middle else 1, c, None) if first else nn.Identity(),
            conv_bn(c, wide, 1),
            conv_bn(wide, wide, middle, stride, wide) if middle else nn.Identity(),
            conv_bn(wide, o, 1, activation=None))
        self.gamma = nn.Parameter(torch.full((o, 1, 1), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x) * self.gamma
        return x + y if self.shortcut else y


class MobileAttention(nn.Module):
    """MobileNetV4's MQA: many queries, one key and value, taken from a map of half the size."""

    def __init__(self, c: int, heads: int, size: int):
        super().__init__()
        self.heads, self.size = heads, size
        self.query = nn.Conv2d(c, heads * size, 1)
        self.reduce = conv_bn(c, c, 3, 2, c, None)
        self.key, self.value = nn.Conv2d(c, size, 1), nn.Conv2d(c, size, 1)
        self.out = nn.Conv2d(heads * size, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        q = self.query(x).reshape(n, self.heads, self.size, h * w).transpose(2, 3)
        small = self.reduce(x)
        k, v = self.key(small).flatten(2), self.value(small).flatten(2)
        weights = torch.softmax(q @ k.unsqueeze(1) * self.size ** -0.5, -1)
        y = (weights @ v.transpose(1, 2).unsqueeze(1)).transpose(2, 3).reshape(n, self.heads * self.size, h, w)
        return x + self.out(y)


def mobilenet_v4() -> nn.Module:
    """Qin et al. 2024, the hybrid form."""
    return nn.Sequential(
        conv_bn(3, 16, 3, 2), conv_bn(16, 24, 3, 2), conv_bn(24, 24, 1),
        UniversalInvertedBottleneck(24, 32, 5, 5, 2), UniversalInvertedBottleneck(32, 32, 0, 3, 1),
        UniversalInvertedBottleneck(32, 32, 3, 0, 1), MobileAttention(32, 4, 8),
        UniversalInvertedBottleneck(32, 48, 3, 3, 2), UniversalInvertedBottleneck(48, 48, 0, 0, 1),
        conv_bn(48, 96, 1), head(96))


class ShuffleUnit(nn.Module):
    """ShuffleNetV2: half of the channels pass by, then both halves are interleaved."""

    def __init__(self, c: int, stride: int):
        super().__init__()
        self.stride, half = stride, c // 2
        inside = half if stride == 1 else c
        out = half if stride == 1 else c
        self.right = nn.Sequential(conv_bn(inside, out, 1), conv_bn(out, out, 3, stride, out, None),
                                   conv_bn(out, out, 1))
        if stride == 2:
            self.left = nn.Sequential(conv_bn(c, c, 3, 2, c, None), conv_bn(c, c, 1))

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == 1:
            kept, passed = x.chunk(2, 1)
            y = torch.cat([kept, self.right(passed)], 1)
        else:
            y = torch.cat([self.left(x), self.right(x)], 1)
        n, c, h, w = y.shape
        return y.reshape(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def shufflenet_v2() -> nn.Module:
    """Ma et al. 2018."""
    return nn.Sequential(conv_bn(3, 24, 3, 2), nn.MaxPool2d(3, 2, 1), ShuffleUnit(24, 2), ShuffleUnit(48, 1),
                         ShuffleUnit(48, 2), ShuffleUnit(96, 1), conv_bn(96, 128, 1), head(128))


class ShuffleNetV1Unit(nn.Module):
    """Grouped 1x1 convolutions with a channel shuffle between them."""

    def __init__(self, c: int, groups: int):
        super().__init__()
        self.groups = groups
        self.down = conv_bn(c, c // 4, 1, groups=groups)
        self.middle = conv_bn(c // 4, c // 4, 3, 1, c // 4, None)
        self.up = conv_bn(c // 4, c, 1, groups=groups, activation=None)

    def forward(self, x: Tensor) -> Tensor:
        y = F.channel_shuffle(self.down(x), self.groups)
        return F.relu(x + self.up(self.middle(y)))


def shufflenet_v1() -> nn.Module:
    """Zhang et al. 2017."""
    return nn.Sequential(conv_bn(3, 48, 3, 2), nn.MaxPool2d(3, 2, 1), ShuffleNetV1Unit(48, 3), ShuffleNetV1Unit(48, 3),
                         nn.AvgPool2d(3, 2, 1), ShuffleNetV1Unit(48, 3), head(48))


class Ghost(nn.Module):
    """Half of the channels by a 1x1 convolution, the other half from those by a cheap depthwise one."""

    def __init__(self, c: int, o: int, relu: bool):
        super().__init__()
        activation = nn.ReLU if relu else None
        self.primary = conv_bn(c, (o + 1) // 2, 1, activation=activation)
        self.cheap = conv_bn((o + 1) // 2, (o + 1) // 2, 3, 1, (o + 1) // 2, activation)
        self.o = o

    def forward(self, x: Tensor) -> Tensor:
        first = self.primary(x)
        return torch.cat([first, self.cheap(first)], 1)[:, :self.o]


class GhostBottleneck(nn.Module):
    def __init__(self, c: int, wide: int, o: int, stride: int):
        super().__init__()
        self.body = nn.Sequential(Ghost(c, wide, True),
                                  conv_bn(wide, wide, 3, stride, wide, None) if stride == 2 else nn.Identity(),
                                  SqueezeExcite(wide, wide // 4), Ghost(wide, o, False))
        self.shortcut = nn.Identity() if stride == 1 and c == o else nn.Sequential(
            conv_bn(c, c, 3, stride, c, None), conv_bn(c, o, 1, activation=None))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.shortcut(x)


def ghostnet() -> nn.Module:
    """Han et al. 2020; odd channel counts make the slice at the end of a module real."""
    return nn.Sequential(conv_bn(3, 16, 3, 2), GhostBottleneck(16, 32, 16, 1), GhostBottleneck(16, 48, 25, 2),
                         GhostBottleneck(25, 72, 40, 2), conv_bn(40, 96, 1), head(96))


class DenseLayer(nn.Module):
    def __init__(self, c: int, growth: int):
        super().__init__()
        self.body = nn.Sequential(nn.BatchNorm2d(c), nn.ReLU(), nn.Conv2d(c, 4 * growth, 1, bias=False),
                                  nn.BatchNorm2d(4 * growth), nn.ReLU(),
                                  nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.body(x)], 1)


def densenet() -> nn.Module:
    """Huang et al. 2017: normalization before convolution, concatenation after concatenation."""
    return nn.Sequential(
        conv_bn(3, 24, 7, 2), nn.MaxPool2d(3, 2, 1), DenseLayer(24, 12), DenseLayer(36, 12), DenseLayer(48, 12),
        nn.BatchNorm2d(60), nn.ReLU(), nn.Conv2d(60, 30, 1, bias=False), nn.AvgPool2d(2),
        DenseLayer(30, 12), DenseLayer(42, 12), DenseLayer(54, 12), nn.BatchNorm2d(66), nn.ReLU(), head(66))


class Fire(nn.Module):
    def __init__(self, c: int, squeezed: int, expanded: int):
        super().__init__()
        self.squeeze = nn.Conv2d(c, squeezed, 1)
        self.narrow, self.wide = nn.Conv2d(squeezed, expanded, 1), nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.squeeze(x))
        return torch.cat([F.relu(self.narrow(x)), F.relu(self.wide(x))], 1)


def squeezenet() -> nn.Module:
    """Iandola et al. 2016: ceil-mode pooling, classes from a convolution."""
    return nn.Sequential(nn.Conv2d(3, 32, 3, 2), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True), Fire(32, 8, 24),
                         Fire(48, 8, 24), nn.MaxPool2d(3, 2, ceil_mode=True), Fire(48, 12, 32),
                         nn.Conv2d(64, CLASSES, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


class Inception(nn.Module):
    def __init__(self, c: int):
        super().__init__()
        self.branches = nn.ModuleList([
            conv_bn(c, 16, 1), nn.Sequential(conv_bn(c, 12, 1), conv_bn(12, 16, 3)),
            nn.Sequential(conv_bn(c, 8, 1), nn.Conv2d(8, 8, (1, 7), padding=(0, 3)),
                          nn.Conv2d(8, 16, (7, 1), padding=(3, 0)), nn.ReLU()),
            nn.Sequential(nn.AvgPool2d(3, 1, 1, count_include_pad=False), conv_bn(c, 16, 1))])

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


def inception() -> nn.Module:
    """Szegedy et al. 2015: four branches with uneven kernels, average pooling that leaves its padding out."""
    return nn.Sequential(conv_bn(3, 32, 3, 2), nn.MaxPool2d(3, 2), Inception(32), Inception(64), nn.MaxPool2d(3, 2),
                         Inception(64), head(64))
