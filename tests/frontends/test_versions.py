"""Every change between opsets: against onnxruntime, which still runs the old forms, and against ONNX's own schemas."""
from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator
from passes.graphs import Row, assert_close, build, check, feeds, noise, session

from edgeq.errors import UnsupportedModel
from edgeq.frontends import load_model
from edgeq.frontends.downgrades import DOWNGRADES
from edgeq.frontends.upgrades import UPGRADES
from edgeq.graph import OPSET

X = "g (float[2,4,6,5] x) => (float[] y)"
REDUCTIONS = (
    "ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSumSquare", "ReduceSum",
)

OLD = [
    Row("BatchNormalization-7", X + "{ y = BatchNormalization <spatial = 1> (x, s, s, s, s) }", ["BatchNormalization"],
        {"s": np.abs(noise(4))}, 7),
    Row("BatchNormalization-9", X + "{ y = BatchNormalization(x, s, s, s, s) }", ["BatchNormalization"],
        {"s": np.abs(noise(4))}, 9),
    Row("Upsample-7", X + "{ y = Upsample <scales = [1.0, 1.0, 2.0, 3.0]> (x) }", ["Resize"], {}, 7),
    Row("Upsample-9 linear", X + '{ y = Upsample <mode = "linear"> (x, k) }', ["Resize"],
        {"k": np.array([1, 1, 2, 3], np.float32)}, 9),
    *(Row(f"Resize-10 nearest by {k}", X + "{ y = Resize(x, k) }", ["Resize"],
          {"k": np.array([1, 1, *k], np.float32)}, 10) for k in ((1.7, 2), (0.6, 0.7), (0.5, 1), (2, 0.2))),
    Row("Resize-10 linear", X + '{ y = Resize <mode = "linear"> (x, k) }', ["Resize"],
        {"k": np.array([1, 1, 2, 3], np.float32)}, 10),
    Row("Resize-11 with sizes", X + "{ y = Resize(x, none, none, n) }", ["Resize"],
        {"none": np.zeros(0, np.float32), "n": np.array([2, 4, 9, 11])}, 11),
    Row("Resize-11 with scales", X + '{ y = Resize <mode = "cubic"> (x, none, k) }', ["Resize"],
        {"none": np.zeros(0, np.float32), "k": np.array([1, 1, 2, 2], np.float32)}, 11),
    Row("Slice-1", X + "{ y = Slice <starts = [1, -4], ends = [3, 99], axes = [1, 3]> (x) }", ["Slice"], {}, 9),
    Row("Slice-1 without axes", X + "{ y = Slice <starts = [0, 1], ends = [1, 3]> (x) }", ["Slice"], {}, 9),
    Row("TopK-1", "g (float[3,7] x) => (float[] y, int64[] i) { y, i = TopK <k = 3> (x) }", ["TopK"], {}, 9),
    Row("Scatter-9", "g (float[3,4] x) => (float[] y) { y = Scatter(x, i, u) }", ["ScatterElements"],
        {"i": np.array([[2, 0]]), "u": noise(1, 2)}, 9),
    Row("Clip-6", X + "{ y = Clip <min = -0.5, max = 1.5> (x) }", ["Clip"], {}, 10),
    Row("Clip-6, one side", X + "{ y = Clip <max = 1.5> (x) }", ["Clip"], {}, 7),
    Row("Pad-2", X + "{ y = Pad <pads = [0, 0, 1, 2, 0, 0, 0, 1], value = 1.5> (x) }", ["Pad"], {}, 10),
    Row("Pad-2 reflect", X + '{ y = Pad <pads = [0, 0, 1, 2, 0, 0, 0, 1], mode = "reflect"> (x) }', ["Pad"], {}, 7),
    Row("Dropout-7", X + "{ y = Dropout <ratio = 0.25> (x) }", ["Dropout"], {}, 7),
    *(Row(f"{op}-{opset} axis {axis}", X + f"{{ y = {op} <axis = {axis}> (x) }}",
          [op] if axis in (3, -1) else ["Flatten", op, "Reshape"], {}, opset)
      for op in ("Softmax", "LogSoftmax", "Hardmax") for opset, axis in ((7, 3), (7, 2), (11, -1), (12, 1), (11, -3))),
    Row("Softmax-11 default", X + "{ y = Softmax(x) }", ["Flatten", "Softmax", "Reshape"], {}, 11),
    Row("Softmax-11 inside", X + "{ a = Softmax <axis = 1> (x) y = Relu(a) }",
        ["Flatten", "Softmax", "Reshape", "Relu"], {}, 11),
    Row("Softmax-13 keeps its axis", X + "{ y = Softmax <axis = 1> (x) }", ["Softmax"], {}, 13),
    Row("Squeeze-11", "g (float[2,1,3,1] x) => (float[] y) { y = Squeeze <axes = [1]> (x) }", ["Squeeze"], {}, 11),
    Row("Squeeze-1 of all", "g (float[2,1,3,1] x) => (float[] y) { y = Squeeze(x) }", ["Squeeze"], {}, 7),
    Row("Unsqueeze-11",
        "g (float[2,3] x) => (float[] y) { y = Unsqueeze <axes = [0, -1]> (x) }", ["Unsqueeze"], {}, 11),
    Row("Split-11", X + "{ y, z = Split <axis = 1, split = [1, 3]> (x) }", ["Split"], {}, 11),
    Row("Split-2 evenly", X + "{ a, b = Split <axis = 1> (x) y = Sub(a, b) }", ["Split", "Sub"], {}, 7),
    Row("Split-13 evenly", X + "{ a, b = Split <axis = 1> (x) y = Sub(a, b) }", ["Split", "Sub"], {}, 13),
    *(Row(f"{op}-7", X + f"{{ y = {op} <axes = [1, 3], keepdims = 0> (x) }}", [op], {}, 7) for op in REDUCTIONS),
    *(Row(f"{op}-11", X + f"{{ y = {op} <axes = [-2]> (x) }}", [op], {}, 11) for op in REDUCTIONS),
    *(Row(f"{op}-13 of all", X + f"{{ y = {op}(x) }}", [op], {}, 12) for op in REDUCTIONS),
    *(Row(f"{op}-13", "g (float[2,4] x) => (float[] y) { e = Abs(x) y = " + op + " <axes = [1]> (e) }", ["Abs", op],
          {}, 13)
      for op in ("ReduceLogSum", "ReduceLogSumExp")),
    Row("GridSample-16", "g (float[1,2,5,6] x, float[1,3,4,2] grid) => (float[] y)"
        ' { y = GridSample <mode = "bicubic"> (x, grid) }', ["GridSample"], {}, 16),
    Row("GridSample-16 default", "g (float[1,2,5,6] x, float[1,3,4,2] grid) => (float[] y) { y = GridSample(x, grid) }",
        ["GridSample"], {}, 16),
    Row("RoiAlign-10", "g (float[1,2,9,8] x) => (float[] y)"
        " { y = RoiAlign <output_height = 3, output_width = 2> (x, r, i) }", ["RoiAlign"],
        {"r": np.array([[1, 1, 6, 5]], np.float32), "i": np.array([0])}, 10),
    Row("inside an If", "g (float[2,3] x, bool k) => (float[] y) { y = If (k) <then_branch = t () => (float[2,3] a)"
        " { a = Clip <min = 0.0> (x) }, else_branch = e () => (float[2,3] b) { b = Dropout <ratio = 0.5> (x) }> }",
        ["If"], {}, 8),
]


@pytest.mark.parametrize("row", OLD, ids=str)
def test_old_forms_mean_the_same(row: Row) -> None:
    check(row, lambda model: None)


def test_group_normalization_18() -> None:
    """onnxruntime has no kernel of GroupNormalization-18; ONNX's reference implementation has."""
    given = build("g (float[2,6,3,4] x) => (float[] y)"
                  " { y = GroupNormalization <num_groups = 3, epsilon = 0.1> (x, s, b) }",
                  {"s": noise(3), "b": noise(3, seed=9)}, opset=18)
    after = session(load_model(given))
    sample = feeds(after)
    assert_close(ReferenceEvaluator(given).run(None, sample), after.run(None, sample))


def test_what_the_new_opset_cannot_say_is_refused_with_all_nodes() -> None:
    text = X + """{ a = BatchNormalization <spatial = 0> (x, s, s, s, s)
        b = BatchNormalization <spatial = 0> (a, s, s, s, s)  y = Relu(b) }"""
    with pytest.raises(UnsupportedModel, match="spatial=0") as caught:
        load_model(build(text, {"s": noise(4, 6, 5)}, opset=8))
    assert len(caught.value.problems) == 2


def test_a_rounding_that_only_opset_10_had_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="enlarges one axis and reduces another"):
        load_model(build(X + "{ y = Resize(x, k) }", {"k": np.array([1, 1, 1.7, 0.6], np.float32)}, opset=10))


def schemas() -> dict[str, list[onnx.defs.OpSchema]]:
    found = defaultdict(list)
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "":
            found[schema.name].append(schema)
    return {name: sorted(versions, key=lambda schema: schema.since_version) for name, versions in found.items()}


def breaking_changes() -> Iterator[tuple[str, int]]:
    """Every (operator, opset) from 8 to 21 that lost an attribute, changed a default or moved an input."""
    for name, versions in schemas().items():
        for old, new in pairwise(versions):
            if not 7 < new.since_version <= OPSET:
                continue
            lost = set(old.attributes) - set(new.attributes)
            changed = {key for key in set(old.attributes) & set(new.attributes)
                       if old.attributes[key].default_value != new.attributes[key].default_value}
            moved = [i.name for i in old.inputs] != [i.name for i in new.inputs][:len(old.inputs)]
            if lost or changed or moved or new.deprecated:
                yield name, new.since_version


RENAMED_ONLY = {("BatchNormalization", 14)}  # mean and var became input_mean and input_var


def test_no_breaking_change_is_missed() -> None:
    rows = {(step.op, step.since) for step in UPGRADES}
    changes = set(breaking_changes())
    assert changes
    assert changes - rows - RENAMED_ONLY == set()


def test_every_attribute_that_came_later_has_a_row() -> None:
    rows = {step.op for step in DOWNGRADES}
    added = {name for name, versions in schemas().items()
             if (base := [v for v in versions if v.since_version <= OPSET])
             and set(versions[-1].attributes) - set(base[-1].attributes)}
    assert added
    assert added - rows == set()


NEW = [
    Row("Swish-24", "g (float[2,6] x) => (float[] y) { y = Swish <alpha = 1.5> (x) }", [], {}, 24),
    Row("RMSNormalization-23", "g (float[2,6] x) => (float[] y) { y = RMSNormalization <epsilon = 0.01> (x, s) }", [],
        {"s": noise(6)}, 23),
    Row("RotaryEmbedding-23", "g (float[1,2,3,8] x) => (float[] y) { y = RotaryEmbedding(x, c, s) }", [],
        {"c": noise(1, 3, 4), "s": noise(1, 3, 4, seed=5)}, 23),
    Row("Attention-23", "g (float[1,2,5,8] q, float[1,2,7,8] k, float[1,2,7,6] v) => (float[] y)"
        " { y = Attention(q, k, v) }", [], {}, 23),
    Row("Cast-24", "g (float[2,6] x) => (float[] y) { a = Cast <to = 6> (x) y = Cast <to = 1> (a) }", [], {}, 24),
    Row("Reshape-25", "g (float[2,6] x) => (float[] y) { y = Reshape(x, n) }", [], {"n": np.array([3, 4])}, 25),
]


@pytest.mark.parametrize("row", NEW, ids=str)
def test_newer_opsets_come_down(row: Row) -> None:
    given = build(row.text, row.constants, row.opset)
    model = load_model(given)
    assert model.opset_imports[""] == OPSET
    after = session(model)
    sample = feeds(after)
    assert_close(ReferenceEvaluator(given).run(None, sample), after.run(None, sample))


def test_new_operators_without_a_body_are_refused_by_name() -> None:
    with pytest.raises(UnsupportedModel, match=r"BitCast .* read the bits of FLOAT as INT32"):
        load_model(build("g (float[3] x) => (int32[] y) { y = BitCast <to = 6> (x) }", opset=26))


def test_a_type_that_came_later_is_refused_where_it_is_computed() -> None:
    text = 'g (float[3] x) => (float[] y) { a = Cast <to = 24, round_mode = "down"> (x) y = Cast <to = 1> (a) }'
    with pytest.raises(UnsupportedModel, match="rounds to FLOAT8E8M0"):
        load_model(build(text, opset=24))
