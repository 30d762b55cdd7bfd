"""One output per pixel or per box: segmentation, detection, super-resolution, in plain torch."""
from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nets.convnets import conv_bn


class DoubleConv(nn.Sequential):
    def __init__(self, c: int, o: int):
        super().__init__(conv_bn(c, o), conv_bn(o, o))


class UNet(nn.Module):
    """Ronneberger et al. 2015, with transposed convolutions on the way up."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([DoubleConv(3, 16), DoubleConv(16, 32), DoubleConv(32, 48)])
        self.up = nn.ModuleList([nn.ConvTranspose2d(48, 32, 2, 2), nn.ConvTranspose2d(32, 16, 2, 2)])
        self.merge = nn.ModuleList([DoubleConv(64, 32), DoubleConv(32, 16)])
        self.out = nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for block in self.down[:-1]:
            skips.append(block(x))
            x = F.max_pool2d(skips[-1], 2)
        x = self.down[-1](x)
        for up, merge, skip in zip(self.up, self.merge, reversed(skips), strict=True):
            x = merge(torch.cat([up(x), skip], 1))
        return self.out(x)


class DeepLabV3(nn.Module):
    """Chen et al. 2017: dilated convolutions side by side, image pooling, bilinear enlargement."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(conv_bn(3, 16, 3, 2), conv_bn(16, 32, 3, 2), conv_bn(32, 48, 3, 2),
                                      conv_bn(48, 48, dilation=2))
        self.rates = nn.ModuleList([conv_bn(48, 24, 1), *(conv_bn(48, 24, dilation=rate) for rate in (2, 4, 6))])
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(48, 24, 1), nn.ReLU())
        self.project = nn.Sequential(conv_bn(120, 32, 1), conv_bn(32, 32), nn.Conv2d(32, 8, 1))

    def forward(self, image: Tensor) -> Tensor:
        x = self.backbone(image)
        pooled = F.interpolate(self.pool(x), size=x.shape[-2:], mode="bilinear", align_corners=False)
        x = self.project(torch.cat([*(branch(x) for branch in self.rates), pooled], 1))
        return F.interpolate(x, size=image.shape[-2:], mode="bilinear", align_corners=False)


class Bottleneck(nn.Module):
    def __init__(self, c: int):
        super().__init__()
        self.body = nn.Sequential(conv_bn(c, c, activation=nn.SiLU), conv_bn(c, c, activation=nn.SiLU))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class C2f(nn.Module):
    """YOLOv8's block: split, a chain of bottlenecks, everything concatenated."""

    def __init__(self, c: int, o: int):
        super().__init__()
        self.enter, self.chain = conv_bn(c, o, 1, activation=nn.SiLU), nn.ModuleList([Bottleneck(o // 2)])
        self.leave = conv_bn(o // 2 * 3, o, 1, activation=nn.SiLU)

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.enter(x).chunk(2, 1))
        for block in self.chain:
            parts.append(block(parts[-1]))
        return self.leave(torch.cat(parts, 1))


class Sppf(nn.Module):
    def __init__(self, c: int):
        super().__init__()
        self.enter, self.leave = conv_bn(c, c // 2, 1, activation=nn.SiLU), conv_bn(c * 2, c, 1, activation=nn.SiLU)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.enter(x)]
        for _ in range(3):
            parts.append(F.max_pool2d(parts[-1], 5, 1, 2))
        return self.leave(torch.cat(parts, 1))


class Yolo(nn.Module):
    """YOLOv8: C2f and SPPF, a path down and up, heads without anchors, distributions decoded to boxes in the net.

    [1,3,H,W] -> [1,4+classes,cells]: boxes (centre, size, in pixels), then scores.
    """

    BINS, CLASSES = 8, 10

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn(3, 16, 3, 2, activation=nn.SiLU), conv_bn(16, 24, 3, 2, activation=nn.SiLU))
        self.p3 = nn.Sequential(conv_bn(24, 32, 3, 2, activation=nn.SiLU), C2f(32, 32))
        self.p4 = nn.Sequential(conv_bn(32, 48, 3, 2, activation=nn.SiLU), C2f(48, 48), Sppf(48))
        self.top = C2f(80, 32)
        self.boxes = nn.ModuleList([nn.Conv2d(c, 4 * self.BINS, 1) for c in (32, 48)])
        self.scores = nn.ModuleList([nn.Conv2d(c, self.CLASSES, 1) for c in (32, 48)])

    def forward(self, x: Tensor) -> Tensor:
        p3 = self.p3(self.stem(x))
        p4 = self.p4(p3)
        p3 = self.top(torch.cat([F.interpolate(p4, scale_factor=2.0, mode="nearest"), p3], 1))
        boxes = torch.cat([conv(p).flatten(2) for conv, p in zip(self.boxes, (p3, p4), strict=True)], 2)
        scores = torch.cat([conv(p).flatten(2) for conv, p in zip(self.scores, (p3, p4), strict=True)], 2)
        return torch.cat([self.decode(boxes, (p3, p4), x.shape[-1]), scores.sigmoid()], 1)

    def decode(self, boxes: Tensor, maps: tuple[Tensor, ...], size: int) -> Tensor:
        n, _, cells = boxes.shape
        bins = boxes.reshape(n, 4, self.BINS, cells).softmax(2)
        sides = (bins * torch.arange(self.BINS, dtype=torch.float32).reshape(1, 1, -1, 1)).sum(2)
        points, strides = [], []
        for feature in maps:
            h, w = feature.shape[-2:]
            y, x = torch.meshgrid(torch.arange(h) + 0.5, torch.arange(w) + 0.5, indexing="ij")
            points.append(torch.stack([x.flatten(), y.flatten()]))
            strides.append(torch.full((1, h * w), size / w))
        grid, stride = torch.cat(points, 1), torch.cat(strides, 1)
        low, high = grid - sides[:, :2], grid + sides[:, 2:]
        return torch.cat([(low + high) / 2, high - low], 1) * stride


class YoloV5(nn.Module):
    """Anchors, a Focus stem of strided slices, sigmoid decoding over a five-dimensional tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.focus = conv_bn(12, 16, activation=nn.SiLU)
        self.body = nn.Sequential(conv_bn(16, 32, 3, 2, activation=nn.SiLU), Bottleneck(32),
                                  conv_bn(32, 48, 3, 2, activation=nn.SiLU), Bottleneck(48))
        self.out = nn.Conv2d(48, 3 * 9, 1)
        self.register_buffer("anchors", torch.tensor([[10.0, 13], [16, 30], [33, 23]]).reshape(1, 3, 1, 1, 2))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]], 1)
        y = self.out(self.body(self.focus(x)))
        n, _, h, w = y.shape
        y = y.reshape(n, 3, 9, h, w).permute(0, 1, 3, 4, 2).sigmoid()
        rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
        grid = torch.stack([columns, rows], 2).reshape(1, 1, h, w, 2) - 0.5
        centre, size, scores = y[..., :2] * 2 + grid, (y[..., 2:4] * 2) ** 2 * self.anchors, y[..., 4:]
        return torch.cat([centre * 8, size, scores], -1).reshape(n, -1, 9)


class Ssd(nn.Module):
    """SSDLite: two maps of box offsets and class scores, softmax over classes, no decoding."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(*(conv_bn(c, o, 3, 2, activation=nn.ReLU6)
                                     for c, o in ((3, 16), (16, 32), (32, 48))))
        self.second = conv_bn(48, 64, 3, 2, activation=nn.ReLU6)
        self.boxes = nn.ModuleList([nn.Conv2d(c, 3 * 4, 3, padding=1) for c in (48, 64)])
        self.scores = nn.ModuleList([nn.Conv2d(c, 3 * 6, 3, padding=1) for c in (48, 64)])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first = self.first(x)
        maps = (first, self.second(first))
        boxes = [conv(m).permute(0, 2, 3, 1).reshape(x.shape[0], -1, 4)
                 for conv, m in zip(self.boxes, maps, strict=True)]
        scores = [conv(m).permute(0, 2, 3, 1).reshape(x.shape[0], -1, 6)
                  for conv, m in zip(self.scores, maps, strict=True)]
        return torch.cat(boxes, 1), torch.cat(scores, 1).softmax(-1)


class SubPixel(nn.Module):
    """ESPCN / EDSR: residual blocks without normalization, DepthToSpace at the end, a long skip."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, 24, 5, padding=2)
        self.blocks = nn.ModuleList([nn.Sequential(nn.Conv2d(24, 24, 3, padding=1), nn.PReLU(24),
                                                   nn.Conv2d(24, 24, 3, padding=1)) for _ in range(3)])
        self.leave, self.shuffle = nn.Conv2d(24, 12, 3, padding=1), nn.PixelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        y = first = F.relu(self.enter(x))
        for block in self.blocks:
            y = y + 0.2 * block(y)
        return F.interpolate(x, scale_factor=2.0, mode="bicubic", align_corners=False) + self.shuffle(
            self.leave(y + first))


class StyleNet(nn.Module):
    """Johnson et al. 2016: reflection padding, instance normalization, nearest enlargement."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.ReflectionPad2d(4), nn.Conv2d(3, 16, 9), nn.InstanceNorm2d(16, affine=True),
                                   nn.ReLU(), nn.ReflectionPad2d(1), nn.Conv2d(16, 32, 3, 2),
                                   nn.InstanceNorm2d(32, affine=True), nn.ReLU())
        self.leave = nn.Sequential(nn.Upsample(scale_factor=2), nn.ReflectionPad2d(1), nn.Conv2d(32, 16, 3),
                                   nn.InstanceNorm2d(16, affine=True), nn.ReLU(), nn.Conv2d(16, 3, 9, padding=4))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.leave(self.enter(x)))


class HeatMaps(nn.Module):
    """HRNet's idea: two resolutions that exchange, heat maps at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn(3, 16, 3, 2), conv_bn(16, 16, 3, 2))
        self.down, self.fine, self.coarse = conv_bn(16, 32, 3, 2), conv_bn(16, 16), conv_bn(32, 32)
        self.up, self.down_again = conv_bn(32, 16, 1, activation=None), conv_bn(16, 32, 3, 2, activation=None)
        self.out = nn.Conv2d(16, 17, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        fine, coarse = self.fine(x), self.coarse(self.down(x))
        mixed = F.relu(coarse + self.down_again(fine))
        fine = F.relu(fine + F.interpolate(self.up(mixed), scale_factor=2.0, mode="nearest"))
        return self.out(fine)
