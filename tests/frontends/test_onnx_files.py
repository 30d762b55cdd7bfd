"""Files as they come: damaged, cut short, with weights beside them, with initializers among the inputs."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from passes.graphs import assert_close, build, feeds, noise, session

from edgeq.errors import ModelError, UnsupportedModel
from edgeq.frontends import load_model
from edgeq.graph import IR_VERSION, OPSET

TEXT = "g (float[1,64] x) => (float[] y) { h = MatMul(x, w) y = Relu(h) }"


def small(**changed: Any) -> onnx.ModelProto:
    return build(TEXT, {"w": noise(64, 48), **changed})


def write(proto: onnx.ModelProto, path: Path, *, external: bool = False) -> Path:
    onnx.save(proto, path, save_as_external_data=external, location="weights.data", size_threshold=0)
    return path


def test_a_file_a_proto_and_a_graph_are_the_same_model(tmp_path: Path) -> None:
    path = write(small(), tmp_path / "m.onnx")
    given = ir.from_proto(small())
    for source in (path, str(path), small(), given):
        model = load_model(source)
        assert (model.opset_imports[""], model.ir_version) == (OPSET, IR_VERSION)
        assert [node.op_type for node in model.graph] == ["MatMul", "Relu"]
        assert all(node.name for node in model.graph)


def test_the_given_graph_is_left_alone() -> None:
    given = ir.from_proto(build("g (float[N,4] x) => (float[] y) { h = Identity(x) y = Dropout(h) }", opset=10))
    before = ir.to_proto(given).SerializeToString()
    load_model(given)
    assert ir.to_proto(given).SerializeToString() == before


def test_weights_in_a_file_of_their_own(tmp_path: Path) -> None:
    path = write(small(), tmp_path / "m.onnx", external=True)
    model = load_model(path)
    before = session(small())
    sample = feeds(before)
    assert_close(before.run(None, sample), session(model).run(None, sample), tolerance=0)


def test_a_missing_file_of_weights_is_named(tmp_path: Path) -> None:
    path = write(small(), tmp_path / "m.onnx", external=True)
    (tmp_path / "weights.data").unlink()
    with pytest.raises(ModelError, match=r"m\.onnx: its file of weights is missing: .*weights\.data"):
        load_model(path)


def test_a_file_of_weights_that_is_cut_short(tmp_path: Path) -> None:
    path = write(small(), tmp_path / "m.onnx", external=True)
    data = tmp_path / "weights.data"
    data.write_bytes(data.read_bytes()[:-5])
    with pytest.raises(ModelError, match=r"cut short: .*weights\.data ends before 'w'"):
        load_model(path)


@pytest.mark.parametrize("location", ["../secret", "/etc/hostname"])
def test_weights_outside_the_folder_are_refused(tmp_path: Path, location: str) -> None:
    (tmp_path / "inside").mkdir()
    path = write(small(), tmp_path / "inside" / "m.onnx", external=True)
    (tmp_path / "secret").write_bytes((tmp_path / "inside" / "weights.data").read_bytes())
    proto = onnx.load(path, load_external_data=False)
    next(e for e in proto.graph.initializer[0].external_data if e.key == "location").value = location
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match="lie outside its folder"):
        load_model(path)


@pytest.mark.parametrize("content", [
    b"", b"hello, this is no network\n" * 50, np.random.default_rng(3).bytes(5000), b"\x08\x07",
], ids=["empty", "text", "random", "no graph"])
def test_files_that_are_no_network(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"m\.onnx is not an ONNX model") as caught:
        load_model(path)
    assert "\n" not in str(caught.value)


def test_every_cut_of_a_file_is_refused_in_one_line(tmp_path: Path) -> None:
    whole = small().SerializeToString()
    path = tmp_path / "m.onnx"
    for length in range(1, len(whole) - 1, 997):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelError, match=r"m\.onnx") as caught:
            load_model(path)
        assert "\n" not in str(caught.value)


def test_a_missing_or_unknown_source(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"cannot read .*none\.onnx: No such file"):
        load_model(tmp_path / "none.onnx")
    with pytest.raises(ModelError, match="no such file"):
        load_model(tmp_path / "none.bin")
    (tmp_path / "m.bin").write_bytes(b"x")
    with pytest.raises(ModelError, match=r"a \.onnx file, a \.pt2 file or module:function"):
        load_model(tmp_path / "m.bin")


def test_nan_weights_are_named_and_infinite_ones_pass() -> None:
    bad = noise(64, 48)
    bad[3, 5] = np.nan
    with pytest.raises(ModelError, match="weights hold NaN: w"):
        load_model(small(w=bad))
    mask = np.triu(np.full((4, 4), -np.inf, np.float32), 1)
    load_model(build("g (float[4,4] x) => (float[] y) { y = Add(x, m) }", {"m": mask}))


def test_unknown_operators_are_all_listed() -> None:
    with pytest.raises(UnsupportedModel) as caught:
        load_model(build("g (float[2] x) => (float[] y) { a = Frobnicate(x) b = Relu(a) y = Defenestrate(b) }"))
    assert [problem.op for problem in caught.value.problems] == ["Frobnicate", "Defenestrate"]


def test_other_domains_pass_through() -> None:
    proto = build("g (float[2,3] x) => (float[2,3] y) { y = com.microsoft.FastGelu(x) }")
    proto.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    assert [node.domain for node in load_model(proto).graph] == ["com.microsoft"]


def test_the_default_domain_may_be_imported_twice_and_by_either_name() -> None:
    proto = build("g (float[2,3] x) => (float[] y) { y = Relu(x) }")
    proto.opset_import.insert(0, onnx.helper.make_opsetid("ai.onnx", 9))
    proto.graph.node[0].domain = "ai.onnx"
    model = load_model(proto)
    assert dict(model.opset_imports) == {"": OPSET}
    assert model.graph.node(0).domain == ""


def test_initializers_among_the_inputs_are_constants() -> None:
    proto = small()
    proto.graph.input.append(onnx.helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [64, 48]))
    assert [value.name for value in load_model(proto).graph.inputs] == ["x"]


def test_names_that_occur_twice_become_unique() -> None:
    proto = build("g (float[2] x) => (float[] y) { a = Relu(x) y = Exp(a) }")
    for node in proto.graph.node:
        node.name = "same"
    assert len({node.name for node in load_model(proto).graph}) == 2


@pytest.mark.parametrize("opset", [6, 99])
def test_opsets_out_of_reach(opset: int) -> None:
    with pytest.raises(ModelError, match=f"uses ONNX opset {opset}; edgeq reads 7 to"):
        load_model(build("g (float[2] x) => (float[] y) { y = Add(x, x) }", opset=opset))


def test_an_older_opset_with_operators_that_never_changed() -> None:
    assert load_model(build("g (bool[2] x) => (bool[] y) { y = Not(x) }", opset=1)).opset_imports[""] == OPSET


def test_functions_are_inlined() -> None:
    proto = onnx.parser.parse_model('''
        <ir_version: 8, opset_import: ["" : 17, "mine" : 1]>
        g (float[2,3] x) => (float[] y) { a = mine.twice(x)  y = mine.twice(a) }
        <domain: "mine", opset_import: ["" : 17]> twice (x) => (z) { s = Add(x, x)  z = Identity(s) }''')
    before = session(proto)
    model = load_model(proto)
    assert {node.domain for node in model.graph} == {""}
    assert not model.functions
    sample = feeds(before)
    assert_close(before.run(None, sample), session(model).run(None, sample), tolerance=0)
