"""Networks larger than memory: weights are read one at a time, and what is written is what would be written anyway."""
from __future__ import annotations

import gc
import weakref
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from small_graphs import feeds, network, normal, residual

import edgeq_converters.onnxfile
from edgeq import convert, external_weights
from edgeq.inference.reference import run_onnx, run_parts

WIDTH, LAYERS = 96, 6
WEIGHT = 4 * WIDTH * WIDTH


@pytest.fixture(autouse=True)
def weights_in_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edgeq_converters.onnxfile, "EXTERNAL_BYTES", 1)


@pytest.fixture
def small_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(external_weights, "IN_MEMORY_BYTES", WEIGHT)
    monkeypatch.setattr(external_weights, "SMALL_BYTES", WIDTH * WIDTH // 4)  # below the integers of 4 bits too


def deep(folder: Path) -> Path:
    """x [4,96] -> MatMul, Relu, Gemm(transB), Relu, ... -> y [4,96], its weights in a file beside it."""
    lines, weights = [], {}
    for k in range(LAYERS):
        product = f"MatMul (h{k}, w{k})" if k % 2 else f"Gemm <transB = 1> (h{k}, w{k}, b)"
        lines.append(f"p{k} = {product} h{k + 1} = Relu (p{k})")
        weights[f"w{k}"] = normal(WIDTH, WIDTH, seed=k, scale=WIDTH**-0.5)
    model = network(f"g (float[4,{WIDTH}] x) => (float[4,{WIDTH}] y) {{ h0 = Identity (x) {' '.join(lines)} "
                    f"y = Identity (h{LAYERS}) }}", b=normal(WIDTH, seed=99), **weights)
    path = folder / "model.onnx"
    ir.save(model, path, external_data="weights.bin", size_threshold_bytes=0)
    return path


class Reads:
    """Counts what is read of every tensor, and the bytes of all that somebody still holds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.whole: Counter[tuple[str, int]] = Counter()
        self.held = self.peak = 0
        read = external_weights.DiskTensor._read

        def counted(tensor: external_weights.DiskTensor, count: int) -> NDArray[np.uint8]:
            raw = read(tensor, count)
            if count == tensor.nbytes == WEIGHT:
                self.whole[tensor.path, tensor.offset or 0] += 1
            self.held += raw.nbytes
            self.peak = max(self.peak, self.held)
            weakref.finalize(raw, self.drop, raw.nbytes)
            return raw

        monkeypatch.setattr(external_weights.DiskTensor, "_read", counted)

    def drop(self, count: int) -> None:
        self.held -= count


@pytest.mark.usefixtures("small_memory")
@pytest.mark.parametrize("bits", [4, 8, 16])
def test_one_weight_at_a_time(bits: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass that keeps what it read, or reads everything once more, fails here."""
    source, reads = deep(tmp_path), Reads(monkeypatch)
    bundle = convert(source, target="onnxruntime", bits=bits, output=tmp_path / "b")
    assert bundle.report["verification"] is not None
    assert len(reads.whole) == LAYERS
    assert max(reads.whole.values()) <= 2  # is it NaN, and what are its integers
    assert WEIGHT <= reads.peak <= 2.5 * WEIGHT


@pytest.mark.parametrize("options", [
    {"bits": 4}, {"bits": 4, "weights": "block:32"}, {"bits": 8, "weights": "per-tensor"}, {"bits": 16}, {"bits": 32},
], ids=str)
def test_the_same_file(options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = deep(tmp_path)
    plain = convert(source, target="onnxruntime", output=tmp_path / "plain", **options)
    monkeypatch.setattr(external_weights, "IN_MEMORY_BYTES", WEIGHT)
    monkeypatch.setattr(external_weights, "SMALL_BYTES", 64)
    reads = Reads(monkeypatch)
    large = convert(source, target="onnxruntime", output=tmp_path / "large", **options)
    assert reads.whole
    for name in ("model.onnx", "model.onnx.data"):
        assert (large.path / name).read_bytes() == (plain.path / name).read_bytes()
    assert large.report["verification"]["against_graph"] == plain.report["verification"]["against_graph"]


@pytest.mark.parametrize("bits", [4, 8, 16])
@pytest.mark.parametrize("tied", [True, False])
def test_an_embedding_and_its_head(tied: bool, bits: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = normal(2 * WIDTH, WIDTH // 2)
    head = table.T.copy() if tied else normal(WIDTH // 2, 2 * WIDTH, seed=1)
    model = network(f"g (int64[1,5] ids) => (float[1,5,{2 * WIDTH}] y) {{ e = Gather (table, ids) t = Tanh (e) "
                    "y = MatMul (t, head) }", table=table, head=head)
    ir.save(model, tmp_path / "model.onnx", external_data="weights.bin", size_threshold_bytes=0)
    plain = convert(tmp_path / "model.onnx", target="onnxruntime", bits=bits, output=tmp_path / "plain")
    monkeypatch.setattr(external_weights, "IN_MEMORY_BYTES", WEIGHT)
    monkeypatch.setattr(external_weights, "SMALL_BYTES", 64)
    reads = Reads(monkeypatch)
    large = convert(tmp_path / "model.onnx", target="onnxruntime", bits=bits, output=tmp_path / "large")
    assert len(reads.whole) == 2
    assert reads.peak <= 2.5 * WEIGHT
    for name in ("model.onnx", "model.onnx.data"):
        assert (large.path / name).read_bytes() == (plain.path / name).read_bytes()


@pytest.mark.usefixtures("small_memory")
@pytest.mark.parametrize(("target", "file"), [("tflite", "model.tflite"),
                                              ("coreml", "model.mlpackage/Data/com.apple.CoreML/weights/weight.bin")])
def test_other_targets(target: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = deep(tmp_path)
    large = convert(source, target=target, bits=4, output=tmp_path / "large")
    monkeypatch.undo()
    plain = convert(source, target=target, bits=4, output=tmp_path / "plain")
    assert (large.path / file).read_bytes() == (plain.path / file).read_bytes()


@pytest.mark.usefixtures("small_memory")
def test_copies_of_a_weight_become_one(tmp_path: Path) -> None:
    w = normal(WIDTH, WIDTH)
    near = w.copy()
    near[-1, -1] += 1  # alike but for the last number
    model = network(f"g (float[4,{WIDTH}] x) => (float[4,{WIDTH}] y) {{ a = MatMul (x, w) r = Relu (a) "
                    "c = MatMul (r, twin) s = Relu (c) y = MatMul (s, near) }", w=w, twin=w.copy(), near=near)
    ir.save(model, tmp_path / "model.onnx", external_data="weights.bin", size_threshold_bytes=0)
    bundle = convert(tmp_path / "model.onnx", target="onnxruntime", bits=32, output=tmp_path / "b")
    written = onnx.load(bundle.path / "model.onnx", load_external_data=False)
    assert {node.input[1] for node in written.graph.node if node.op_type == "MatMul"} == {"w", "near"}


@pytest.mark.parametrize("typed", [True, False])
@pytest.mark.parametrize("most", [1, 150, 10**9])
def test_parts_compute_what_the_whole_does(most: int, typed: bool) -> None:
    model, samples = residual(), feeds((1, 3, 9, 7))
    for value in (value for node in model.graph for value in node.outputs if not typed):
        value.type = value.shape = None  # as in a bundle
    for whole, parts in zip(run_onnx(model, samples), run_parts(model, samples, most), strict=True):
        # onnxruntime multiplies by packed weights in another order than by plain ones
        np.testing.assert_allclose(parts["y"], whole["y"], rtol=1e-6)


@pytest.mark.usefixtures("small_memory")
def test_temporary_files_go_with_their_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    convert(deep(tmp_path), target="onnxruntime", bits=4, output=tmp_path / "b")
    gc.collect()
    assert list((tmp_path / "temporary").iterdir()) == []
