"""Memory of converting a model that is larger than the memory it may take: weights stay on disk.

    python benchmarks/large_model.py [--layers 12] [--bits 4] [--target onnxruntime] [--no-verify] [--json FILE]

A decoder with random weights, 2.6 GB of external data at 12 layers, is written into a temporary folder, and converted
(weights alone, no calibration) in a process of its own. Memory is the peak of that process's resident set, mapped file
pages included, above the set of the bare interpreter before its first import.
"""
from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from common import parser, report
from onnx import TensorProto, helper, numpy_helper

MODEL, FFN, HEADS, VOCABULARY, TOKENS = 2048, 5632, 16, 8192, 16


@dataclass(frozen=True)
class Row:
    target: str
    bits: int
    verified: bool
    source_megabytes: float
    bundle_megabytes: float
    seconds: float
    peak_megabytes_above_start: float
    start_megabytes: float


def decoder(folder: Path, layers: int) -> Path:
    """Write `model.onnx` and `model.onnx.data` -> the path of the model. tokens int64 [1,16] -> logits [1,16,8192].

    Every block is LayerNorm, attention, LayerNorm, and a gated feed-forward of SiLU, both with a residual; its seven
    products hold 51 million weights.
    """
    rng = np.random.default_rng(0)
    nodes: list[onnx.NodeProto] = []
    initializers: list[onnx.TensorProto] = []

    with open(folder / "model.onnx.data", "wb") as file:
        def weight(name: str, *shape: int) -> str:
            tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape,
                                 data_location=TensorProto.EXTERNAL)
            start = file.tell()
            for _ in range(shape[0]):
                rng.standard_normal(shape[1], np.float32).__imul__(np.float32(shape[0] ** -0.5)).tofile(file)
            for key, text in (("location", "model.onnx.data"), ("offset", start), ("length", file.tell() - start)):
                tensor.external_data.add(key=key, value=str(text))
            initializers.append(tensor)
            return name

        def constant(name: str, data: np.ndarray) -> str:
            initializers.append(numpy_helper.from_array(data, name))
            return name

        def op(kind: str, *inputs: str, name: str, **attributes: object) -> str:
            nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
            return name

        def product(x: str, name: str, *shape: int) -> str:
            return op("MatMul", x, weight(f"{name}.weight", *shape), name=name)

        def norm(x: str, name: str) -> str:
            return op("LayerNormalization", x, constant(f"{name}.weight", np.ones(MODEL, np.float32)), name=name)

        split = constant("split", np.array([1, TOKENS, HEADS, MODEL // HEADS]))
        join = constant("join", np.array([1, TOKENS, MODEL]))
        mask = constant("mask", np.triu(np.full((TOKENS, TOKENS), -1e9, np.float32), 1))
        scale = constant("scale", np.array((MODEL / HEADS) ** -0.5, np.float32))

        def heads(x: str, name: str, perm: list[int]) -> str:
            product(x, name, MODEL, MODEL)
            return op("Transpose", op("Reshape", name, split, name=f"{name}.split"), name=f"{name}.heads", perm=perm)

        x = op("Gather", weight("embedding.weight", VOCABULARY, MODEL), "tokens", name="embedding")
        for number in range(layers):
            at = f"layer{number}"
            h = norm(x, f"{at}.norm1")
            q, k, v = (heads(h, f"{at}.{part}", perm) for part, perm in (
                ("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])))
            scores = op("Mul", op("MatMul", q, k, name=f"{at}.qk"), scale, name=f"{at}.scores")
            share = op("Softmax", op("Add", scores, mask, name=f"{at}.masked"), name=f"{at}.softmax")
            mixed = op("Transpose", op("MatMul", share, v, name=f"{at}.mixed"), name=f"{at}.back", perm=[0, 2, 1, 3])
            out = product(op("Reshape", mixed, join, name=f"{at}.join"), f"{at}.out", MODEL, MODEL)
            x = op("Add", x, out, name=f"{at}.residual1")
            h = norm(x, f"{at}.norm2")
            gate = product(h, f"{at}.gate", MODEL, FFN)
            silu = op("Mul", gate, op("Sigmoid", gate, name=f"{at}.sigmoid"), name=f"{at}.silu")
            wide = op("Mul", silu, product(h, f"{at}.up", MODEL, FFN), name=f"{at}.gated")
            x = op("Add", x, product(wide, f"{at}.down", FFN, MODEL), name=f"{at}.residual2")
        product(norm(x, "norm"), "logits", MODEL, VOCABULARY)
    graph = helper.make_graph(
        nodes, "decoder", [helper.make_tensor_value_info("tokens", TensorProto.INT64, [1, TOKENS])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, TOKENS, VOCABULARY])], initializers)
    path = folder / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


CHILD = """
def resident(kind):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(kind)) / 1024
start = resident("VmRSS")
import sys, time
path, output, target, bits, verify = sys.argv[1:]
started = time.perf_counter()
from edgeq import convert
bundle = convert(path, target=target, output=output, bits=int(bits), verify=verify == "True")
seconds, size = time.perf_counter() - started, sum(file.bytes for file in bundle.manifest.files)
print(start, resident("VmHWM") - start, seconds, size)
"""


def measure(path: Path, target: str, bits: int, *, verify: bool) -> Row:
    """One conversion in a process of its own."""
    output = path.parent / f"{target}.{verify}"
    done = subprocess.run([sys.executable, "-c", CHILD, str(path), str(output), target, str(bits), str(verify)],
                          stdout=subprocess.PIPE, text=True, check=True)
    start, peak, seconds, size = map(float, done.stdout.split())
    source = sum(file.stat().st_size for file in (path, path.with_name("model.onnx.data")))
    return Row(target, bits, verify, source / 1e6, size / 1e6, seconds, peak, start)


def rows(targets: list[str], bits: int, layers: int, *, verify: bool) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        path = decoder(Path(folder), layers)
        print(f"wrote the model in {time.perf_counter() - started:.0f} s", file=sys.stderr)
        for target in targets:
            yield measure(path, target, bits, verify=verify)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--layers", type=int, default=12)
    options.add_argument("--bits", type=int, default=4)
    options.add_argument("--target", action="append")
    options.add_argument("--no-verify", action="store_true")
    chosen = options.parse_args()
    found = list(rows(chosen.target or ["onnxruntime"], chosen.bits, chosen.layers, verify=not chosen.no_verify))
    report(found, "a model with external data, weights on disk", chosen.json)


if __name__ == "__main__":
    main()
