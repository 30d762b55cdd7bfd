"""Sizes that a model leaves open: what files write there, and what the samples tell of them."""
from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from free_nets import proto, streaming
from numpy.typing import NDArray
from onnx import helper
from onnxruntime import InferenceSession
from small_graphs import normal

import edgeq_runtime
from edgeq import convert
from edgeq.cli import main
from edgeq.conversion.options import Options
from edgeq.conversion.request import read_request
from edgeq.conversion.sample_sizes import sample_sizes
from edgeq.dimensions import dimensions, free_dimensions
from edgeq.errors import CalibrationError, ModelError, UnsupportedModel
from edgeq.frontends import load_model
from edgeq_runtime.dimensions import Choice, Range


def net(*dims: int | str | None) -> onnx.ModelProto:
    """x [N,3,H,W] -> a convolution -> y, with these dimensions in the file."""
    model = proto("g (float[N,3,H,W] x) => (float[M,4,A,B] y) { a = Conv <pads = [1,1,1,1]> (x, w) y = Relu (a) }",
                  w=normal(4, 3, 3, 3, seed=1))
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, dims))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info(
        "y", onnx.TensorProto.FLOAT, (dims[0], 4, *dims[2:])))
    return model


def x(*shape: int) -> dict[str, NDArray[np.float32]]:
    return {"x": normal(*shape, seed=sum(shape))}


def bound(model: Any, **words: Any) -> dict[str, tuple[Any, ...]]:
    """The inputs' shapes under these words of `convert`."""
    request = read_request("onnxruntime", Options(bits=32, **words))
    network = load_model(model, inputs=request.inputs, tell=sample_sizes(request))
    return {str(value.name): dimensions(value, free_dimensions(network)) for value in network.graph.inputs}


def generated() -> Iterator[dict[str, NDArray[np.float32]]]:
    yield from (x(1, 3, 8, 16) for _ in range(2))


@pytest.mark.parametrize("dims", [
    ("?", 3, "?", "?"), (-1, 3, -1, -1), (None, 3, None, None), ("", 3, "", ""), ("-1", 3, "-1", "-1"),
    ("None", 3, "None", "None"), ("unk__1", 3, "unk__1", "unk__1"), ("N", 3, "H", "W"), (0, 3, 0, 0), (-1, -1, -1, -1)])
@pytest.mark.parametrize("samples", [
    [x(1, 3, 8, 16)] * 2, [{"x": x(3, 8, 16)["x"]}], normal(4, 3, 8, 16, seed=1), generated(), [x(4, 3, 8, 16)]],
    ids=["feeds", "without batch", "array", "generator", "batches"])
def test_samples_of_one_shape_tell_it(dims: tuple[Any, ...], samples: Any) -> None:
    if isinstance(samples, Iterator):
        samples = generated()
    assert bound(net(*dims), calibration=samples) == {"x": (1, 3, 8, 16)}
    assert bound(net(*dims), inputs={"x": (1, 3, 8, 16)}) == {"x": (1, 3, 8, 16)}


@pytest.mark.parametrize(("shapes", "expected"), [
    ([(1, 3, 9, 16), (1, 3, 12, 16), (1, 3, 10, 16)], (1, 3, Range("H", 9, 12), 16)),
    ([(1, 3, 64, 32), (1, 3, 32, 32)], (1, 3, Choice("H", (32, 64)), 32)),
])
def test_samples_of_several_shapes_tell_the_limits(shapes: list[tuple[int, ...]], expected: tuple[Any, ...]) -> None:
    assert bound(net("N", 3, "H", "?"), calibration=[x(*shape) for shape in shapes]) == {"x": expected}
    fixed = (1, 3, 9, 7)
    assert bound(net("N", 3, "H", "?"), calibration=[x(*fixed)], inputs={"x": (1, 3, "1..9", 7)}) == {
        "x": (1, 3, Range("H", 1, 9), 7)}  # what is said is not asked


def test_files_of_one_feed_each_tell_the_batch(tmp_path: Path) -> None:
    for number, size in enumerate((4, 2, 4)):
        np.savez(tmp_path / f"{number}.npz", **x(size, 3, 8, 16))
    assert bound(net("N", 3, "?", "?"), calibration=tmp_path) == {"x": (Range("N", 2, 4), 3, 8, 16)}


def test_evaluation_data_tell_where_there_is_no_calibration() -> None:
    shape = {"x": (1, 3, 8, 16)}
    free = net("?", 3, "?", "?")
    assert bound(free, eval=[(x(1, 3, 8, 16), 0)] * 2, metric="top1") == shape
    assert bound(free, eval=((x(1, 3, 8, 16), 0) for _ in range(2)), metric="top1") == shape
    assert bound(free, eval=[x(1, 3, 8, 16)], metric="sqnr") == shape
    with pytest.raises(ModelError, match=r"free dimensions, \?x3x\?x\?; .*or give samples \(--calibration\)"):
        bound(free, eval=lambda predict: 1.0)


@pytest.mark.parametrize("metric", ["top1", "sqnr"])
def test_every_file_of_a_csv_is_asked(tmp_path: Path, metric: str) -> None:
    for size in (9, 12):
        np.save(tmp_path / f"{size}.npy", x(1, 3, size, 16)["x"])
    (tmp_path / "rows.csv").write_text("file,label\n9.npy,0\n12.npy,1\n")
    assert bound(net("?", 3, "H", "?"), eval=tmp_path / "rows.csv", metric=metric) == {
        "x": (1, 3, Range("H", 9, 12), 16)}


def test_a_batch_alone_asks_for_nothing() -> None:
    assert bound(net(-1, 3, 8, 16)) == {"x": (1, 3, 8, 16)}


def test_an_axis_of_one_name_has_one_size() -> None:
    with pytest.raises(CalibrationError, match=r"float32\[1,3,8,16\], the model takes float32\[N,3,S,S\]"):
        bound(net("N", 3, "S", "S"), calibration=[x(1, 3, 8, 16)])


def test_steps_that_are_written_out_ask_for_their_number(tmp_path: Path) -> None:
    samples = [{"x": normal(size, 1, 6, seed=size), "h0": normal(1, 1, 8, seed=1)} for size in (5, 7)]
    with pytest.raises(UnsupportedModel, match="needs 'T' at conversion"):
        convert(streaming("GRU"), target="tflite", calibration=samples, output=tmp_path / "b")


@pytest.mark.parametrize("target", ["onnxruntime", "tflite"])
def test_the_command_line_takes_the_sizes_and_says_so(target: str, tmp_path: Path) -> None:
    model = net("?", 3, "?", "?")
    onnx.save(model, tmp_path / "net.onnx")
    (tmp_path / "data").mkdir()
    for size in (9, 12):
        np.savez(tmp_path / "data" / f"{size}.npz", **x(1, 3, size, 7))
    result = CliRunner().invoke(main, ["convert", str(tmp_path / "net.onnx"), "--target", target, "--bits", "32",
                                       "--calibration", str(tmp_path / "data"), "-o", str(tmp_path / "b")])
    assert result.exit_code == 0, result.output
    assert re.search(r"^the calibration samples tell the sizes of x:1,3,x_2=9\.\.12,7; --input gives others$",
                     result.output, re.MULTILINE)
    with edgeq_runtime.load(tmp_path / "b") as opened:
        for size in (9, 10, 12):
            feed = x(1, 3, size, 7)
            expected, = InferenceSession(model.SerializeToString()).run(None, feed)
            np.testing.assert_allclose(opened.run(feed)["y"], expected, rtol=0, atol=1e-5)
