"""What one output joins is judged apart where sizes differ by orders, and every kind of output by what it is for."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from small_graphs import feeds, network, normal

from edgeq import convert
from edgeq.inference.columns import Parts, apart
from edgeq.inference.reference import run_onnx
from edgeq.inference.session import Arrays
from edgeq.verification.compare import compare
from edgeq.verification.evaluate import fidelity

SHAPE = (1, 3, 8, 8)
HEAD = """g (float[1,3,8,8] x) => (float[{shape}] y) {{ b = Conv (x, wb)  s = Conv (x, ws)  e = Exp (b)
    boxes = Mul (e, size)  scores = Sigmoid (s)  {rest} }}"""
ENDS = {
    "joined": ("1,6,8,8", "y = Concat <axis=1> (boxes, scores)", Parts(1, (4, 6))),
    "turned": ("1,64,6", "c = Concat <axis=1> (boxes, scores)  r = Reshape (c, rows)  y = Transpose <perm=[0,2,1]> (r)",
               Parts(2, (4, 6))),
    "levels": ("1,6,16,8", "c = Concat <axis=1> (boxes, scores)  d = Concat <axis=1> (boxes, scores)  "
               "y = Concat <axis=2> (c, d)", Parts(1, (4, 6))),
    "levels alone": ("1,8,8,8", "y = Concat <axis=1> (boxes, boxes)", None),
}


def head(kind: str, pixels: float = 300.0) -> ir.Model:
    shape, rest, _ = ENDS[kind]
    boxes, scores = normal(4, 3, 1, 1, seed=1) / 8, normal(2, 3, 1, 1, seed=2)
    return network(HEAD.format(shape=shape, rest=rest), wb=boxes, ws=scores,
                   size=np.full(1, pixels, np.float32), rows=np.array([1, 6, 64]))


def outputs(model: ir.Model) -> list[Arrays]:
    return list(run_onnx(model, feeds(SHAPE)))


@pytest.mark.parametrize("kind", ENDS)
def test_parts_are_found_where_a_concat_joined_them(kind: str) -> None:
    expected = ENDS[kind][2]
    assert apart(head(kind).graph, outputs(head(kind))) == ({} if expected is None else {"y": expected})


def test_parts_of_one_size_stay_together() -> None:
    assert apart(head("joined", 1.0).graph, outputs(head("joined", 1.0))) == {}


def test_lost_scores_do_not_hide_behind_boxes() -> None:
    model = head("joined")
    truth = outputs(model)
    lost = [{"y": np.concatenate([y["y"][:, :4], np.zeros_like(y["y"][:, 4:])], 1)} for y in truth]
    (whole,) = compare(truth, lost)
    assert whole.sqnr_db > 50, "what the error of the whole output says of scores that are gone"
    boxes, scores = compare(truth, lost, parts=apart(model.graph, truth))
    assert (boxes.output, scores.output) == ("y[0:4]", "y[4:6]")
    assert (boxes.sqnr_db, scores.sqnr_db) == (200, 0)
    runs = iter(lost)
    assert fidelity(feeds(SHAPE), truth, model.graph).score(lambda feed: next(runs)) == 0


def embeddings() -> list[Arrays]:
    rows = normal(6, 16, seed=3)
    return [{"y": row[None] / np.linalg.norm(row)} for row in rows]


def test_a_conversion_tests_the_whole_output(tmp_path: Path) -> None:
    """A device knows outputs, not parts of them."""
    bundle = convert(head("joined"), target="tflite", calibration=feeds(SHAPE, count=8), output=tmp_path / "b")
    assert {line["output"] for line in bundle.report["verification"]["against_float"]} == {"y[0:4]", "y[4:6]"}
    found = bundle.self_test()
    assert found.ok
    assert set(found.tolerance.error) == {"y"}
    assert found.tolerance.error["y"] > 0


def test_embeddings_keep_neighbours_and_no_class() -> None:
    truth = embeddings()
    (same,) = compare(truth, truth)
    assert (same.neighbours, same.top1) == (1.0, None)
    (turned,) = compare(truth, [truth[0], *truth[2:], truth[1]])
    assert turned.neighbours is not None
    assert turned.neighbours < 1


def test_scores_keep_their_class_and_pictures_have_a_peak() -> None:
    (scores,) = compare([{"y": np.float32([[0.2, 0.8]])}], [{"y": np.float32([[0.9, 0.1]])}])
    assert (scores.top1, scores.neighbours, scores.psnr_db) == (0.0, None, None)
    picture = np.linspace(0, 1, 3 * 32 * 32, dtype=np.float32).reshape(1, 3, 32, 32)
    (found,) = compare([{"y": picture}], [{"y": picture + np.float32(0.01)}])
    assert found.psnr_db == pytest.approx(40, abs=0.01)
