"""The reference is the source as another engine computes it, behind no pass of ours."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from passes.graphs import build

import edgeq
from edgeq.errors import VerificationError
from edgeq.frontends import load_source
from edgeq.passes import canonical
from edgeq.verification.references import Origin, References, check_passes

RESIZE = ('g (float[1,2,5,7] x) => (float[] y) { y = Resize <mode = "linear",'
          ' coordinate_transformation_mode = "align_corners"> (x, "", s) }')
SCALES = {"s": np.array([1, 1, 0.7, 1.5], np.float32)}


def test_a_wrong_pass_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: a pass that takes every corner for a pixel's outer edge."""
    def halve(model: object) -> int:
        for node in canonical.nodes_of(model, "Resize"):  # type: ignore[arg-type]
            node.attributes["coordinate_transformation_mode"] = canonical.ir.AttrString(
                "coordinate_transformation_mode", "half_pixel")
        return 0

    wrong = (*canonical.PASSES, canonical.Pass(halve, True, "planted"))
    monkeypatch.setattr(canonical, "PASSES", wrong)
    with pytest.raises(VerificationError, match=r"does not compute what its source computes(.|\n)*'y'.*onnxruntime"):
        edgeq.convert(build(RESIZE, SCALES), target="onnxruntime", bits=32, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


class Branches(torch.nn.Module):
    """Takes keywords and a number, gives a dict."""

    def forward(self, x: torch.Tensor, shift: int, *, y: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"sum": x + y * shift, "far": torch.nn.functional.interpolate(
            x[None, None], scale_factor=0.7, mode="bilinear", align_corners=True)}


def test_torch_runs_its_own_programs() -> None:
    x, y = torch.randn(5, 7), torch.randn(5, 7)
    network, reference = load_source(torch.export.export(Branches(), (x, 3), {"y": y}))
    assert reference is not None
    assert reference.by.startswith("torch 2.")
    names = [value.name or "" for value in network.graph.inputs]
    found = reference.run([dict(zip(names, (x.numpy(), y.numpy()), strict=True))])[0]
    for output, expected in zip(found.values(), Branches()(x, 3, y=y).values(), strict=True):
        np.testing.assert_array_equal(output, expected.numpy())


def test_types_of_the_source() -> None:
    """onnxruntime is fed half precision where the source takes it, and gives what the network gives."""
    source = build("g (float16[2,3] x) => (float16[2,3] y) { y = Relu(x) }")
    network, reference = load_source(source)
    assert reference is not None
    feed = {"x": np.array([[-1, 2, 0.1], [3, -4, 5]], network.graph.inputs[0].dtype.numpy())}  # type: ignore[union-attr]
    assert reference.run([feed])[0]["y"].dtype == network.graph.outputs[0].dtype.numpy()  # type: ignore[union-attr]


def test_what_onnxruntime_cannot_run_is_said() -> None:
    model = onnx.parser.parse_model('<ir_version: 10, opset_import: ["" : 21]> g (bfloat16[2] x) => (bfloat16[2] y)'
                                    ' { y = Gelu(x) }')
    network, reference = load_source(model)
    references = References(network, network, {}, [{"x": np.ones(2, np.float32)}],
                            None if reference is None else Origin(reference, network))
    outputs, by = references.source
    assert outputs is None
    assert "onnxruntime, the reference of every check, cannot" in by


@pytest.mark.parametrize(("reference", "got", "fits"), [
    ([1e-6, 2e-6], [1.1e-6, 2e-6], False),
    ([-np.inf, 1], [-3.4028235e38, 1], True),
    ([-np.inf, 1], [0, 1], False),
    ([np.nan, 1], [np.nan, 1], True),
    ([3, 1], [np.inf, 1], False),
])
def test_how_near_is_near(reference: list[float], got: list[float], fits: bool) -> None:
    first, second = ([{"y": np.array(numbers, np.float32)}] for numbers in (reference, got))
    if fits:
        check_passes(first, second, "onnxruntime", {})
    else:
        with pytest.raises(VerificationError, match="'y'"):
            check_passes(first, second, "onnxruntime", {})


def test_quiet_outputs_have_an_absolute_floor(tmp_path: Path) -> None:
    """A sigmoid that sees nothing: 1e-6, of which onnxruntime's polynomial misses a tenth."""
    model = build("g (float[1,8] x) => (float[1,8] y) { z = Gemm(x, w, b) y = Sigmoid(z) }",
                  {"w": np.eye(8, dtype=np.float32), "b": np.full(8, -13.5, np.float32)})
    for target in ("onnxruntime", "tflite"):
        edgeq.convert(model, target=target, bits=32, output=tmp_path / target)
