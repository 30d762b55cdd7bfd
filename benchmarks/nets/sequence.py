"""Sound and sequences: recurrent layers, dilated one-dimensional convolutions, state in and out; plain torch."""
from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nets.convnets import conv_bn


class GlobalNorm(nn.Module):
    """[N,C,T] normalized over C and T; gain and offset per channel."""

    def __init__(self, c: int):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(1, c, 1)), nn.Parameter(torch.zeros(1, c, 1))

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((1, 2), keepdim=True)
        variance = ((x - mean) ** 2).mean((1, 2), keepdim=True)
        return self.weight * (x - mean) / torch.sqrt(variance + 1e-8) + self.bias


class TemporalBlock(nn.Module):
    def __init__(self, c: int, wide: int, dilation: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(c, wide, 1), nn.PReLU(), GlobalNorm(wide),
            nn.Conv1d(wide, wide, 3, padding=dilation, dilation=dilation, groups=wide), nn.PReLU(), GlobalNorm(wide),
            nn.Conv1d(wide, c, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class ConvTasNet(nn.Module):
    """Luo and Mesgarani 2019: learned filter bank, masks from dilated blocks, transposed filter bank. [N,1,T]."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Conv1d(1, 32, 16, 8, bias=False), nn.ConvTranspose1d(32, 1, 16, 8, bias=False)
        self.separator = nn.Sequential(GlobalNorm(32), nn.Conv1d(32, 24, 1),
                                       *(TemporalBlock(24, 48, 2 ** k) for k in range(3)),
                                       nn.PReLU(), nn.Conv1d(24, 64, 1))

    def forward(self, sound: Tensor) -> Tensor:
        bank = F.relu(self.encoder(sound))
        n, c, steps = bank.shape
        masks = torch.sigmoid(self.separator(bank)).reshape(n, 2, c, steps)
        apart = (masks * bank.unsqueeze(1)).reshape(n * 2, c, steps)
        return self.decoder(apart).reshape(n, 2, -1)


class CausalConv(nn.Conv1d):
    """Padded on the left only."""

    def __init__(self, c: int, o: int, kernel: int, dilation: int):
        super().__init__(c, o, kernel, dilation=dilation)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (self.dilation[0] * (self.kernel_size[0] - 1), 0)))


class WaveNet(nn.Module):
    """van den Oord et al. 2016: causal dilated convolutions, tanh times sigmoid, skips that are added up."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv1d(1, 24, 1)
        self.filters = nn.ModuleList([CausalConv(24, 48, 2, 2 ** k) for k in range(4)])
        self.mixers = nn.ModuleList([nn.Conv1d(24, 24, 1) for _ in range(4)])
        self.out = nn.Sequential(nn.ReLU(), nn.Conv1d(24, 24, 1), nn.ReLU(), nn.Conv1d(24, 32, 1))

    def forward(self, sound: Tensor) -> Tensor:
        x, skips = self.enter(sound), torch.zeros(())
        for gated, mixer in zip(self.filters, self.mixers, strict=True):
            a, b = gated(x).chunk(2, 1)
            y = mixer(torch.tanh(a) * torch.sigmoid(b))
            skips, x = skips + y, x + y
        return self.out(skips)


class Crnn(nn.Module):
    """Shi et al. 2015, text in pictures: convolutions, columns as time, two bidirectional LSTM, CTC scores."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(conv_bn(1, 16), nn.MaxPool2d(2), conv_bn(16, 32), nn.MaxPool2d(2),
                                      conv_bn(32, 32), nn.MaxPool2d((2, 1)))
        self.recurrent = nn.LSTM(32 * 4, 32, num_layers=2, bidirectional=True, batch_first=True)
        self.out = nn.Linear(64, 40)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        y, _ = self.recurrent(x.flatten(1, 2).transpose(1, 2))
        return self.out(y).log_softmax(-1)


class GruDenoiser(nn.Module):
    """A gain for every band of every frame: dense, two GRU, dense, sigmoid. [N,T,bands]."""

    def __init__(self, bands: int = 40):
        super().__init__()
        self.enter, self.out = nn.Linear(bands, 48), nn.Linear(48, bands)
        self.recurrent = nn.GRU(48, 48, num_layers=2, batch_first=True)

    def forward(self, frames: Tensor) -> Tensor:
        y, _ = self.recurrent(torch.tanh(self.enter(frames)))
        return frames * torch.sigmoid(self.out(y))


class StreamingGru(nn.Module):
    """One frame at a time: the state of two GRU goes in and out as a tensor [1,2,48]."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.out = nn.Linear(40, 48), nn.Linear(48, 40)
        self.cells = nn.ModuleList([nn.GRU(48, 48, batch_first=True) for _ in range(2)])

    def forward(self, frame: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        x, after = torch.tanh(self.enter(frame)), []
        for k, cell in enumerate(self.cells):
            x, h = cell(x, state[:, k:k + 1].transpose(0, 1).contiguous())
            after.append(h.transpose(0, 1))
        return frame * torch.sigmoid(self.out(x)), torch.cat(after, 1)


class StreamingLstm(nn.Module):
    """A voice detector: one chunk of sound and the LSTM's two states in, a score and the states out."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv1d(1, 24, 32, 16), nn.ReLU(), nn.Conv1d(24, 32, 3, 2, 1), nn.ReLU())
        self.recurrent, self.out = nn.LSTM(32, 32, batch_first=True), nn.Linear(32, 1)

    def forward(self, sound: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y, (h, c) = self.recurrent(self.features(sound).transpose(1, 2), (h, c))
        return torch.sigmoid(self.out(y)).mean(1), h, c


class RnnTagger(nn.Module):
    """Tokens, embeddings, a bidirectional plain RNN, a label for each token."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(200, 32)
        self.recurrent, self.out = nn.RNN(32, 32, bidirectional=True, batch_first=True), nn.Linear(64, 20)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(self.recurrent(self.embedding(tokens))[0])


class LstmLanguage(nn.Module):
    """Embedding, two LSTM, scores of the next token at every place."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(200, 32)
        self.recurrent, self.out = nn.LSTM(32, 48, num_layers=2, batch_first=True), nn.Linear(48, 200)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(self.recurrent(self.embedding(tokens))[0])


class KeywordSpotter(nn.Module):
    """DS-CNN on a spectrogram: an uneven first kernel, depthwise separable blocks, dropout that is gone."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 32, (10, 4), 2, (5, 1), bias=False), nn.BatchNorm2d(32), nn.ReLU(),
                                  *(nn.Sequential(conv_bn(32, 32, 3, 1, 32), conv_bn(32, 32, 1)) for _ in range(3)),
                                  nn.Dropout(0.4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 35))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x).softmax(-1)


class VideoNet(nn.Module):
    """Three-dimensional convolutions over a short clip [N,3,T,H,W]."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv3d(3, 16, 3, (1, 2, 2), 1), nn.BatchNorm3d(16), nn.ReLU(),
                                  nn.MaxPool3d(2), nn.Conv3d(16, 32, 3, 1, 1), nn.BatchNorm3d(32), nn.ReLU(),
                                  nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(32, 100))

    def forward(self, clip: Tensor) -> Tensor:
        return self.body(clip)


class PointNet(nn.Module):
    """Qi et al. 2017: one small net per point, the maximum over points, a learned 3x3 transform. [N,3,points]."""

    def __init__(self) -> None:
        super().__init__()
        self.align = nn.Sequential(nn.Conv1d(3, 24, 1), nn.BatchNorm1d(24), nn.ReLU())
        self.matrix = nn.Linear(24, 9)
        self.body = nn.Sequential(nn.Conv1d(3, 32, 1), nn.BatchNorm1d(32), nn.ReLU(), nn.Conv1d(32, 64, 1),
                                  nn.BatchNorm1d(64), nn.ReLU())
        self.out = nn.Linear(64, 40)

    def forward(self, points: Tensor) -> Tensor:
        matrix = self.matrix(self.align(points).amax(2)).reshape(-1, 3, 3) + torch.eye(3)
        turned = torch.bmm(points.transpose(1, 2), matrix).transpose(1, 2)
        return self.out(self.body(turned).amax(2))
