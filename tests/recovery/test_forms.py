"""The torch forms of operators, over the table of operator cases, against onnxruntime."""
from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch
from opcases import BY_ID, CASES, Case, build, quantize, run_onnxruntime, sample

from edgeq.errors import UnsupportedModel
from edgeq.recovery.forms import FORMS
from edgeq.recovery.network import TorchNetwork

# Forms that are refused by name; every other row of an operator with a form has to be right.
REFUSED = {"deconv-output-shape", "deconv-same-upper", "resize-cubic", "resize-cubic-uneven-corners"}


def outputs(model: ir.Model, case: Case) -> dict[str, np.ndarray]:
    found = TorchNetwork.of(model).run(sample(case), {})
    return {value.name: tensor.numpy() for value, tensor in zip(model.graph.outputs, found, strict=True)}


ROWS = [case for case in CASES if {case.op, *(step.op for step in case.tail)} <= set(FORMS)]


@pytest.mark.parametrize("case", ROWS, ids=lambda case: case.id)
def test_a_form_computes_what_onnxruntime_computes(case: Case) -> None:
    model = build(case)
    try:
        got = outputs(model, case)
    except UnsupportedModel as refusal:
        assert case.id in REFUSED, refusal  # noqa: PT017
        return
    assert case.id not in REFUSED
    for name, true in run_onnxruntime(model, sample(case)).items():
        assert (got[name].shape, got[name].dtype) == (true.shape, true.dtype)
        scale = max(1.0, float(np.abs(true).max())) if true.dtype.kind == "f" and true.size else 1.0
        np.testing.assert_allclose(got[name], true, rtol=1e-5, atol=1e-5 * scale if true.dtype.kind == "f" else 0)


def test_every_form_has_a_row() -> None:
    known = {op for case in ROWS for op in (case.op, *(step.op for step in case.tail))}
    assert set(FORMS) - known == {"QuantizeLinear", "DequantizeLinear"}  # below


@pytest.mark.parametrize("name", ["conv-pads-strides", "gemm"])
def test_grids_round_as_onnxruntime_rounds(name: str) -> None:
    case = BY_ID[name]
    model, _ = quantize(case)
    got = outputs(model, case)
    for output, true in run_onnxruntime(model, sample(case)).items():
        np.testing.assert_allclose(got[output], true, atol=1e-5 * np.abs(true).max())


def test_rounding_passes_gradients_through() -> None:
    x = torch.tensor([0.2, 3.4, 900.0], requires_grad=True)
    FORMS["QuantizeLinear"](x, torch.tensor(0.5), torch.tensor(3, dtype=torch.uint8)).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [2.0, 2.0, 0.0]  # 1 / scale, and none beyond the grid
