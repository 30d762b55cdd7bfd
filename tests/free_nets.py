"""Networks with free dimensions, and real-looking samples of several sizes for them."""
from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.numpy_helper import from_array
from small_graphs import normal

Feed = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class FreeNet:
    """sizes: of the runs that are compared; the smallest and the largest of the limits are among them."""

    name: str
    make: Callable[[], Any]  # an onnx.ModelProto or a torch ExportedProgram
    inputs: Mapping[str, tuple[int | str, ...]]
    feed: Callable[[int], Feed]
    sizes: tuple[int, ...]

    def __str__(self) -> str:
        return self.name

    def feeds(self) -> list[Feed]:
        return [self.feed(size) for size in self.sizes]


def proto(text: str, **weights: NDArray[Any]) -> onnx.ModelProto:
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]> {text}')
    model.graph.initializer.extend(from_array(np.asarray(data), name) for name, data in weights.items())
    return model


def conv_net() -> onnx.ModelProto:
    """x [N,3,H,W] -> two convolutions, one of them strided, a residual, a classifier -> [N,5]."""
    return proto("""g (float[N,3,H,W] x) => (float[M,5] y) {
        a = Conv <pads = [1,1,1,1], strides = [2,2]> (x, w1, b1)  r = Relu (a)
        c = Conv <pads = [1,1,1,1]> (r, w2, b2)  s = Add (c, r)  t = Relu (s)
        n = Shape <start = 0, end = 1> (t)  f = GlobalAveragePool (t)
        d = Concat <axis = 0> (n, rest)  v = Reshape (f, d)  y = Gemm <transB = 1> (v, w3, b3) }""",
        w1=normal(4, 3, 3, 3, seed=1), b1=normal(4, seed=2), w2=normal(4, 4, 3, 3, seed=3, scale=0.3),
        b2=normal(4, seed=4), w3=normal(5, 4, seed=5), b3=normal(5, seed=6), rest=np.array([4]))


def encoder() -> onnx.ModelProto:
    """tokens [N,T] -> embedding, positions cut to T, one layer of attention with 2 heads, feed-forward -> [N,T,16]."""
    def weight(rows: int, columns: int, seed: int) -> NDArray[np.float32]:
        return normal(rows, columns, seed=seed, scale=rows ** -0.5)

    return proto("""g (int64[N,T] tokens) => (float[N,T,16] y) {
        e = Gather (table, tokens)  size = Shape (tokens)  n = Gather (size, i0)  t = Gather (size, i1)
        t1 = Unsqueeze (t, v0)  n1 = Unsqueeze (n, v0)  p = Slice (positions, v0, t1, v0)  x = Add (e, p)
        q = MatMul (x, wq)  k = MatMul (x, wk)  v = MatMul (x, wv)
        split = Concat <axis = 0> (n1, t1, heads)
        q4 = Reshape (q, split)  k4 = Reshape (k, split)  v4 = Reshape (v, split)
        qh = Transpose <perm = [0,2,1,3]> (q4)  kh = Transpose <perm = [0,2,3,1]> (k4)
        vh = Transpose <perm = [0,2,1,3]> (v4)
        dots = MatMul (qh, kh)  scaled = Mul (dots, scale)  weights = Softmax <axis = -1> (scaled)
        mix = MatMul (weights, vh)  back = Transpose <perm = [0,2,1,3]> (mix)
        join = Concat <axis = 0> (n1, t1, width)  flat = Reshape (back, join)
        o = MatMul (flat, wo)  r = Add (o, x)  l = LayerNormalization (r, gain, bias)
        h = MatMul (l, w1)  g = Relu (h)  f = MatMul (g, w2)  y = Add (f, l) }""",
        table=normal(40, 16, seed=1), positions=normal(32, 16, seed=2, scale=0.3), i0=np.array(0), i1=np.array(1),
        v0=np.array([0]), heads=np.array([2, 8]), width=np.array([16]), scale=np.float32(8 ** -0.5),
        **{f"w{name}": weight(16, 16, seed) for seed, name in enumerate("qkvo")}, w1=weight(16, 24, 7),
        w2=weight(24, 16, 8), gain=np.ones(16, np.float32), bias=np.zeros(16, np.float32))


def streaming(op: str) -> onnx.ModelProto:
    """frames [T,1,6] and a state -> recurrent layer, one score per frame [T,1,3] and the new state."""
    gates, more = (4, "c0") if op == "LSTM" else (3, "")
    cell = (", float[1,1,8] c0", ", c1", ", float[1,1,8] c1") if more else ("", "", "")
    lens = f", , h0, {more}" if more else ", , h0"
    return proto(f"""g (float[T,1,6] x, float[1,1,8] h0{cell[0]}) => (float[T,1,3] y, float[1,1,8] h1{cell[2]}) {{
        a, h1{cell[1]} = {op} <hidden_size = 8{"" if more else ", linear_before_reset = 1"}> (x, w, r, b{lens})
        s = Squeeze (a, axis)  y = MatMul (s, u) }}""",
        w=normal(1, gates * 8, 6, seed=1, scale=0.4), r=normal(1, gates * 8, 8, seed=2, scale=0.4),
        b=normal(1, gates * 16, seed=3, scale=0.1), u=normal(8, 3, seed=4), axis=np.array([1]))


@cache
def torch_encoder() -> Any:
    """torch's own encoder layer with the batch and the length free, as torch.export keeps them."""
    import torch

    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(16, 2, 24, dropout=0.0, batch_first=True, activation="gelu").eval()
    dims = torch.export.Dim("batch", min=2, max=4), torch.export.Dim("length", min=2, max=32)
    with torch.no_grad():
        return torch.export.export(layer, (torch.zeros(3, 7, 16),), dynamic_shapes=({0: dims[0], 1: dims[1]},))


def _tokens(size: int) -> Feed:
    return {"tokens": np.random.default_rng(size).integers(0, 40, (1 + size % 3, size))}


def _frames(size: int) -> Feed:
    return {"x": normal(size, 1, 6, seed=size), "h0": normal(1, 1, 8, seed=size + 1, scale=0.5)}


NETS = (
    FreeNet("conv, batch", conv_net, {"x": ("1..4", 3, 9, 7)}, lambda n: {"x": normal(n, 3, 9, 7, seed=n)}, (1, 3, 4)),
    FreeNet("conv, image", conv_net, {"x": (1, 3, "H=8/12/17", "W=10/15/20")},
            lambda n: {"x": normal(1, 3, n, {8: 10, 12: 15, 17: 20}[n], seed=n)}, (8, 12, 17)),
    FreeNet("encoder", encoder, {"tokens": ("1..3", "1..32")}, _tokens, (1, 2, 13, 32)),
    FreeNet("torch encoder", torch_encoder, {"src": ("2..4", "2..32", 16)},
            lambda n: {"src": normal(2 + n % 3, n, 16, seed=n)}, (2, 7, 19, 32)),
    FreeNet("LSTM", lambda: streaming("LSTM"), {"x": ("1..24", 1, 6)},
            lambda n: {**_frames(n), "c0": normal(1, 1, 8, seed=n + 2, scale=0.5)}, (1, 5, 24)),
    FreeNet("GRU", lambda: streaming("GRU"), {"x": ("1..24", 1, 6)}, _frames, (1, 5, 24)),
)
