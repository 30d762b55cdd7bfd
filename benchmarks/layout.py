"""Layout: how many TRANSPOSE operators a .tflite file needs for a network written channels first.

    python benchmarks/layout.py [--json FILE]

Where a network keeps its public inputs and outputs as they are (channels first), one TRANSPOSE is due for an image
that goes in, and one for an image that comes out; "nhwc" is with --layout nhwc, where none is. The bounds are what a
minimum cut over two orders per value reached in a prototype for the same kinds of network; here a value may be held in
any order. "around each" is what comes out when every operator that wants channels last gets transposes of its own.
"""
from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnx_ir as ir
from common import parser, report

# TRANSPOSEs of the prototype, the same with --layout nhwc, and those that onnx2tf 2.6.9 wrote for the same kinds of
# network quantized.
BOUND: Final = {"small": (1, 0, 1), "mbv2": (1, 0, 1), "mbv3+SE": (1, 0, 25), "flatfc": (1, 0, 1), "unet": (2, 0, 5),
                "shuffle": (3, 2, 7), "convnext": (1, 0, 2), "vit": (5, 4, 6)}
LAST: Final = frozenset(("Conv", "ConvTranspose", "MaxPool", "AveragePool", "Resize"))


@dataclass(frozen=True)
class Row:
    net: str
    nodes: int
    around_each: int
    ours: int
    bound: int
    ours_nhwc: int
    bound_nhwc: int
    onnx2tf: int
    ms: float


@dataclass
class Net:
    """A network in the making; methods append one operator each and return its output's name."""

    shape: tuple[int, ...]
    nodes: list[Any] = field(default_factory=list)
    constants: list[Any] = field(default_factory=list)
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        return self.several(kind, 1, *inputs, **attributes)[0]

    def several(self, kind: str, outputs: int, *inputs: str, **attributes: Any) -> list[str]:
        """An operator with several outputs."""
        names = [f"v{len(self.nodes)}_{k}" for k in range(outputs)]
        self.nodes.append(onnx.helper.make_node(kind, list(inputs), names, **attributes))
        return names

    def weights(self, *shape: int) -> str:
        return self.constant((self.rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32))

    def constant(self, data: Any) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(onnx.numpy_helper.from_array(np.asarray(data), name))
        return name

    def conv(self, x: str, i: int, o: int, k: int = 1, stride: int = 1, group: int = 1) -> str:
        pads = [k // 2] * 4
        return self.op("Conv", x, self.weights(o, i // group, k, k), self.weights(o), pads=pads,
                       strides=[stride] * 2, group=group)

    def relu(self, x: str) -> str:
        return self.op("Relu", x)

    def reshape(self, x: str, *shape: int) -> str:
        return self.op("Reshape", x, self.constant(np.array(shape)))

    def linear(self, x: str, i: int, o: int) -> str:
        return self.op("Add", self.op("MatMul", x, self.weights(i, o)), self.weights(o))

    def classify(self, x: str, channels: int) -> str:
        return self.op("Gemm", self.op("Flatten", self.op("GlobalAveragePool", x)), self.weights(channels, 10))

    def norm(self, x: str, width: int) -> str:
        return self.op("LayerNormalization", x, self.constant(np.ones(width, np.float32)), self.weights(width), axis=-1)

    def model(self, out: str) -> ir.Model:
        graph = onnx.helper.make_graph(
            self.nodes, "net", [onnx.helper.make_tensor_value_info("x", 1, self.shape)],
            [onnx.helper.make_tensor_value_info(out, 1, None)], self.constants)
        proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)
        return ir.from_proto(onnx.shape_inference.infer_shapes(proto, data_prop=True))


def small() -> ir.Model:
    n = Net((1, 3, 32, 24))
    h = n.op("MaxPool", n.relu(n.conv("x", 3, 8, 3)), kernel_shape=[2, 2], strides=[2, 2])
    return n.model(n.op("Softmax", n.classify(n.relu(n.conv(h, 8, 12, 3)), 12)))


def mobile(squeeze: bool) -> ir.Model:
    """Seventeen inverted bottlenecks, with squeeze and excitation in the third version."""
    n = Net((1, 3, 64, 48))
    h, width = n.relu(n.conv("x", 3, 8, 3, 2)), 8
    for block in range(17):
        out = 8 + 4 * (block // 4)
        wide = width * 3
        y = n.relu(n.conv(h, width, wide))
        y = n.op("HardSwish", n.conv(y, wide, wide, 3, 2 if block in (2, 6) else 1, wide))
        if squeeze and block % 2:
            s = n.relu(n.conv(n.op("GlobalAveragePool", y), wide, 4))
            y = n.op("Mul", y, n.op("HardSigmoid", n.conv(s, 4, wide)))
        y = n.conv(y, wide, out)
        h = n.op("Add", h, y) if out == width and block not in (2, 6) else y
        width = out
    return n.model(n.classify(n.relu(n.conv(h, width, 48)), 48))


def flat_fc() -> ir.Model:
    n = Net((1, 3, 16, 12))
    h = n.relu(n.conv(n.relu(n.conv("x", 3, 6, 3)), 6, 5, 3))
    return n.model(n.op("Gemm", n.op("Flatten", h), n.weights(5 * 16 * 12, 10)))


def unet() -> ir.Model:
    n = Net((1, 3, 32, 24))
    a = n.relu(n.conv("x", 3, 6, 3))
    b = n.relu(n.conv(a, 6, 10, 3, 2))
    c = n.relu(n.conv(b, 10, 14, 3, 2))
    up = n.op("ConvTranspose", c, n.weights(14, 10, 2, 2), strides=[2, 2])
    d = n.relu(n.conv(n.op("Concat", up, b, axis=1), 20, 10, 3))
    up = n.op("Resize", d, "", n.constant(np.array([1, 1, 2, 2], np.float32)), mode="linear")
    return n.model(n.op("Sigmoid", n.conv(n.op("Concat", up, a, axis=1), 16, 2)))


def shuffle() -> ir.Model:
    """Three units with a channel shuffle between grouped convolutions, two of them behind a split."""
    n = Net((1, 3, 32, 24))
    h = n.relu(n.conv("x", 3, 12, 3, 2))
    for _ in range(2):
        left, right = n.several("Split", 2, h, axis=1, num_outputs=2)
        right = n.conv(n.conv(n.relu(n.conv(right, 6, 6)), 6, 6, 3, group=6), 6, 6)
        joined = n.reshape(n.op("Concat", left, right, axis=1), 1, 2, 6, 16, 12)
        h = n.reshape(n.op("Transpose", joined, perm=[0, 2, 1, 3, 4]), 1, 12, 16, 12)
    return n.model(n.classify(n.relu(n.conv(h, 12, 16)), 16))


def convnext() -> ir.Model:
    n = Net((1, 3, 32, 24))
    h = n.op("Conv", "x", n.weights(16, 3, 4, 4), n.weights(16), strides=[4, 4])
    for _ in range(3):
        y = n.op("Transpose", n.conv(h, 16, 16, 7, group=16), perm=[0, 2, 3, 1])
        y = n.linear(n.op("Gelu", n.linear(n.norm(y, 16), 16, 64)), 64, 16)
        h = n.op("Add", h, n.op("Transpose", y, perm=[0, 3, 1, 2]))
    return n.model(n.classify(h, 16))


def vit() -> ir.Model:
    """Patches, a class token, one layer of attention with four heads."""
    n, width, heads = Net((1, 3, 32, 32)), 32, 4
    patches = n.op("Conv", "x", n.weights(width, 3, 8, 8), n.weights(width), strides=[8, 8])
    tokens = n.op("Transpose", n.reshape(patches, 1, width, 16), perm=[0, 2, 1])
    token = n.constant(np.ones((1, 1, width), np.float32))
    h = n.op("Add", n.op("Concat", token, tokens, axis=1), n.weights(17, width))
    y = n.norm(h, width)
    q, k, v = (n.op("Transpose", n.reshape(n.linear(y, width, width), 1, 17, heads, width // heads), perm=perm)
               for perm in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]))
    mixed = n.op("MatMul", n.op("Softmax", n.op("MatMul", q, k)), v)
    mixed = n.reshape(n.op("Transpose", mixed, perm=[0, 2, 1, 3]), 1, 17, width)
    h = n.op("Add", h, n.linear(mixed, width, width))
    h = n.op("Add", h, n.linear(n.op("Gelu", n.linear(n.norm(h, width), width, 64)), 64, width))
    first = n.op("Gather", h, n.constant(np.array(0)), axis=1)
    return n.model(n.op("Gemm", n.norm(first, width), n.weights(width, 10)))


NETS: Final[dict[str, Callable[[], ir.Model]]] = {
    "small": small, "mbv2": lambda: mobile(False), "mbv3+SE": lambda: mobile(True), "flatfc": flat_fc, "unet": unet,
    "shuffle": shuffle, "convnext": convnext, "vit": vit,
}


def measure(name: str) -> Row:
    from edgeq.passes.images import channels_first_names, make_channels_last

    model, turned = NETS[name](), NETS[name]()
    make_channels_last(turned, channels_first_names(turned.graph))
    start = time.perf_counter()
    ours = transposes(model)
    seconds = time.perf_counter() - start
    bound, bound_nhwc, peer = BOUND[name]
    spatial = sum(2 for node in model.graph if node.op_type in LAST)
    own = sum(node.op_type == "Transpose" for node in model.graph)
    return Row(name, len(model.graph), spatial + own, ours, bound, transposes(turned), bound_nhwc, peer, 1e3 * seconds)


def transposes(model: ir.Model) -> int:
    from edgeq.backend import EmitOptions
    from edgeq_converters.tflite import emit

    with tempfile.TemporaryDirectory() as folder:
        emit(model, Path(folder), EmitOptions())
        return kernels((Path(folder) / "model.tflite").read_bytes())["TRANSPOSE"]


def kernels(content: bytes) -> Counter[str]:
    """How often each builtin occurs."""
    from ai_edge_litert import schema_py_generated as schema

    names = {value: key for key, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    return Counter(names[model.operatorCodes[op.opcodeIndex].builtinCode] for op in model.subgraphs[0].operators)


def main() -> None:
    given = parser(__doc__).parse_args()
    measure("small")  # imports
    rows = [measure(name) for name in NETS]
    over = [row.net for row in rows if row.ours > row.bound or row.ours_nhwc > row.bound_nhwc]
    report(rows, f"TRANSPOSE operators; beyond the bound: {', '.join(over) or 'none'}", given.json)


if __name__ == "__main__":
    main()
