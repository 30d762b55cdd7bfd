"""Chains of operators of one kind, as `operator_costs.py` measures them: ONNX text, uneven sizes, random weights."""
from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal

import numpy as np
import onnx

POINTWISE: Final = "p{n} = Conv ({x}, wp)\n"
DENSE: Final = "p{n} = MatMul ({x}, wp)\n"
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Chain:
    """before: what every link begins with; block: what is measured; {x} is what comes in, {n} the number of the link.
    The last line's value goes out. weights: by name. mixed: finds the outputs
    of nodes that compute in float, with weights of so many bits.
    """

    name: str
    shape: tuple[int, ...]
    block: str
    weights: Shapes = field(default_factory=dict)
    before: str = ""
    copies: int = 5
    mixed: str = ""
    bits: Literal[8, 16] = 8

    def network(self, *, long: bool) -> onnx.ModelProto:
        """The longer chain, or the one to subtract from it: as long without the block, or a single link."""
        links = self.copies if long or self.before else 1
        text = self.before + (self.block if long or not self.before else "")
        body, x = "", "x"
        for number in range(links):
            body += text.replace("{x}", x).replace("{n}", str(number))
            x = body.splitlines()[-1].split(" = ")[0].split(",")[0]
        if self.before:  # what follows the last weights would stay float
            body += self.before.replace("{x}", x).replace("{n}", "_last")
            x = body.splitlines()[-1].split(" = ")[0]
        sizes, axes = ",".join(map(str, self.shape)), ",".join("ABCD"[:len(self.shape)])
        model = onnx.parser.parse_model('<ir_version: 10, opset_import: ["" : 21]> '
                                        f"g (float[{sizes}] x) => (float[{axes}] {x}) {{\n{body}}}")
        for node in model.graph.node:
            node.name = node.output[0]
        model.graph.initializer.extend(self._constants(body))
        return onnx.shape_inference.infer_shapes(model)

    def _constants(self, body: str) -> Iterator[onnx.TensorProto]:
        random = np.random.default_rng(0)
        for name, shape in self.weights.items():
            if name in body:  # small, so that nothing grows along the chain
                scale = 4 * (np.prod(shape[1:]) if len(shape) == 4 else max(shape, default=1)) ** .5
                yield onnx.numpy_helper.from_array((random.normal(size=shape) / scale).astype(np.float32), name)
        channels = self.shape[1]
        for name, data in {"zero": [0], "one": [1], "two": [2], "half": [channels // 2], "flat": [1, -1],
                           "pads": [0, 0, 1, 1] * 2, "whole": list(self.shape), "back": [*range(channels)][::-1],
                           "f_low": -1.0, "f_high": 1.0, "f_two": 2.0, "scales": [1.0, 1.0, 2.0, 2.0]}.items():
            if re.search(rf"\b{name}\b", body):
                is_float = name.startswith("f_") or name == "scales"
                yield onnx.numpy_helper.from_array(np.array(data, np.float32 if is_float else np.int64), name)


def chains() -> Iterator[Chain]:
    for plain in (*_convolutions(), *_dense()):
        yield plain
        if plain.shape[-1] > 1 and plain.copies > 3:
            yield replace(plain, name=f"{plain.name}, every second in float", mixed=r"^[cd]\d", bits=16)
            yield replace(plain, name=f"{plain.name}, weights alone", mixed=".")
    for channels, size in ((16, 24), (48, 10), (64, 28), (32, 80)):
        image = (1, channels, size, size)
        wp = {"wp": (channels, channels, 1, 1)}
        for op in ONE:
            yield Chain(f"{op} {image}", image, f"y{{n}} = {op}\n", wp, POINTWISE)
        for op in IMAGES:
            yield Chain(f"{op} {image}", image, f"y{{n}} = {op}\n", wp | {"slope": (channels, 1, 1)}, POINTWISE)
        for name, block, weights in IMAGE_BLOCKS:
            found = {key: tuple(int(-d * channels) if d < 0 else int(d) for d in sizes)
                     for key, sizes in weights.items()}
            yield Chain(f"{name} {image}", image, block, wp | found, POINTWISE)
        for op in IMAGES[:2]:
            block = f"a{{n}} = Conv ({{x}}, wp)\nm{{n}} = {op}\nc{{n}} = Conv (m{{n}}, wp)\n".replace("p{n}", "a{n}")
            yield Chain(f"{op} {image}, float before", image, block, wp, mixed=r"^a\d", bits=16)
            yield Chain(f"{op} {image}, float behind", image, block, wp, mixed=r"^c\d", bits=16)
    for steps, width in ((64, 64), (98, 64), (128, 192), (384, 64)):
        rows = (1, steps, width)
        for op in (*ONE, *ROWS):
            yield Chain(f"{op} {rows}", rows, f"y{{n}} = {op}\n", {"wp": (width, width), "gain": (width,)}, DENSE)
        for name, block in ROW_BLOCKS:
            yield Chain(f"{name} {rows}", rows, block, {"wp": (width, width)}, DENSE)
    for steps, width in ((16, 32), (4, 128), (50, 64)):
        yield Chain(f"LSTM {steps} {width}", (steps, 1, width), LSTM.replace("{width}", str(width)),
                    {"wi": (1, 4 * width, width), "wr": (1, 4 * width, width)}, copies=3)


def _convolutions() -> Iterator[Chain]:
    for inner, outer, size, kernel in (
            (8, 8, 32, 1), (16, 64, 28, 1), (64, 64, 28, 1), (24, 96, 14, 1), (64, 16, 56, 1), (128, 256, 14, 1),
            (12, 20, 64, 1), (256, 256, 7, 1), (32, 32, 90, 1), (56, 12, 96, 1),
            (3, 16, 64, 3), (16, 16, 32, 3), (32, 64, 16, 3), (64, 64, 28, 3), (12, 12, 48, 3), (1, 32, 40, 5),
            (8, 16, 20, 7), (128, 128, 8, 3), (16, 64, 55, 3), (32, 32, 80, 3)):
        yield _conv(inner, outer, size, kernel, 1)
    for channels, size, kernel in ((16, 32, 3), (64, 28, 3), (96, 14, 3), (72, 22, 5), (256, 7, 3), (24, 56, 3)):
        yield _conv(channels, channels, size, kernel, channels)
    for channels, size in ((64, 20), (32, 40)):
        yield _conv(channels, channels, size, 3, 4)


def _conv(inner: int, outer: int, size: int, kernel: int, group: int) -> Chain:
    form = f"<pads = [{','.join([str(kernel // 2)] * 4)}], group = {group}>"
    block = (f"a{{n}} = Conv {form} ({{x}}, w1)\nb{{n}} = Relu (a{{n}})\n"
             f"c{{n}} = Conv {form} (b{{n}}, w2)\nd{{n}} = Relu (c{{n}})\n")
    name = f"Conv {kernel}x{kernel} {inner}>{outer} in {group} groups, {size}x{size}"
    return Chain(name, (1, inner, size, size), block, {
        "w1": (outer, inner // group, kernel, kernel), "w2": (inner, outer // group, kernel, kernel)})


def _dense() -> Iterator[Chain]:
    block = "a{n} = MatMul ({x}, w1)\nb{n} = Add (a{n}, s1)\nc{n} = MatMul (b{n}, w2)\nd{n} = Add (c{n}, s2)\n"
    for rows, inner, outer in ((1, 64, 64), (1, 512, 256), (64, 64, 64), (98, 64, 256), (128, 192, 64), (32, 512, 512),
                               (384, 64, 172)):
        yield Chain(f"MatMul {rows} {inner}>{outer}", (1, rows, inner), block, {
            "w1": (inner, outer), "w2": (outer, inner), "s1": (outer,), "s2": (inner,)})


ONE: Final = (
    *(f"{op} (p{{n}})" for op in ("Sigmoid", "Tanh", "HardSwish", "HardSigmoid", "Gelu", "Elu", "Erf", "Exp", "Abs",
                                  "Neg", "Softmax", "LeakyRelu")),
    *(f"{op} (p{{n}}, {{x}})" for op in ("Add", "Sub", "Mul", "Max")),
    "Clip (p{n}, f_low, f_high)", "Div (p{n}, f_two)", "Pow (p{n}, f_two)")
IMAGES: Final = ("MaxPool <kernel_shape = [3,3], pads = [1,1,1,1]> (p{n})", "Transpose <perm = [0,1,3,2]> (p{n})",
                 "AveragePool <kernel_shape = [3,3], pads = [1,1,1,1]> (p{n})", "PRelu (p{n}, slope)")
HALVED: Final = "y{n} = MaxPool <kernel_shape = [2,2], strides = [2,2]> (u{n})\n"
IMAGE_BLOCKS: Final[tuple[tuple[str, str, Mapping[str, tuple[float, ...]]], ...]] = (  # -2: two times the channels
    ("Concat", "k{n} = Concat <axis = 1> (p{n}, {x})\ny{n} = Conv (k{n}, w2)\n", {"w2": (-1, -2, 1, 1)}),
    ("Slice", "s{n} = Slice (p{n}, zero, half, one)\ny{n} = Concat <axis = 1> (s{n}, s{n})\n", {}),
    ("Resize nearest", 'u{n} = Resize <mode = "nearest", coordinate_transformation_mode = "asymmetric", '
     'nearest_mode = "floor"> (p{n}, , scales)\n' + HALVED, {}),
    ("Resize linear", 'u{n} = Resize <mode = "linear"> (p{n}, , scales)\n' + HALVED, {}),
    ("GlobalAveragePool", "g{n} = GlobalAveragePool (p{n})\ny{n} = Mul (p{n}, g{n})\n", {}),
    ("ConvTranspose", "u{n} = ConvTranspose <kernel_shape = [2,2], strides = [2,2]> (p{n}, w2)\n" + HALVED,
     {"w2": (-1, -1, 2, 2)}),
    ("DepthToSpace", "u{n} = DepthToSpace <blocksize = 2> (p{n})\ny{n} = Conv <strides = [2,2]> (u{n}, w2)\n",
     {"w2": (-1, -.25, 2, 2)}),
    ("Pad", "u{n} = Pad (p{n}, pads)\ny{n} = Conv (u{n}, w2)\n", {"w2": (-1, -1, 3, 3)}),
)
ROWS: Final = ("LayerNormalization (p{n}, gain, gain)", "LogSoftmax (p{n})", "Gather <axis = 1> (p{n}, back)")
ROW_BLOCKS: Final = (
    ("MatMul of two", "f{n} = Softmax (p{n})\nt{n} = Transpose <perm = [0,2,1]> (p{n})\nm{n} = MatMul (f{n}, t{n})\n"
     "y{n} = MatMul (m{n}, p{n})\n"),
    ("ReduceMean", "m{n} = ReduceMean (p{n}, two)\ny{n} = Sub (p{n}, m{n})\n"),
    ("ReduceSum", "m{n} = ReduceSum (p{n}, two)\ny{n} = Add (p{n}, m{n})\n"),
    ("Expand", "m{n} = ReduceMax (p{n}, two)\ny{n} = Expand (m{n}, whole)\n"),
    ("Reshape", "m{n} = Reshape (p{n}, flat)\nz{n} = Sigmoid (m{n})\ny{n} = Reshape (z{n}, whole)\n"),
    ("Sqrt Log", "k{n} = Exp (p{n})\ns{n} = Sqrt (k{n})\ny{n} = Log (s{n})\n"),
)
LSTM: Final = ("r{n}, h{n}, c{n} = LSTM <hidden_size = {width}> ({x}, wi, wr)\ny{n} = Squeeze (r{n}, one)\n")
