"""The door: what is no network is refused by name, files of the host stay where they are, legal oddities come in."""
from __future__ import annotations

import io
import os
import shutil
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from passes.graphs import assert_close, feeds, session

from edgeq.errors import EdgeqError, ModelError
from edgeq.frontends import load_model
from edgeq.frontends.check import MAX_NODES

HEAD = '<ir_version: 10, opset_import: ["" : 21, "mine" : 1]> '
TWICE = '<domain: "mine", opset_import: ["" : 21, "mine" : 1]> twice <alpha> (x) => (z) { %s }'
BRANCHES = ("g (float[2,3] x, bool c) => (float[2,3] y) { y = If (c) <"
            "then_branch = t () => (float[2,3] a) { a = Relu (x) }, "
            "else_branch = e () => (float[2,3] b) { b = Neg (x) }> }")
LOOP = ("g (float[2] x) => (float[2] y) <int64 n = {%s}, bool go = {1}> { y = Loop <body = b (int64 i, bool on, "
        "float[2] s) => (bool next, float[2] t) { next = Identity (on) t = Neg (s) }> (n, go, x) }")


def parsed(graph: str, *functions: str) -> ModelProto:
    return onnx.parser.parse_model(HEAD + graph + " ".join(functions))


def relu(change: Callable[[ModelProto], object], graph: str = "g (float[2,3] x) => (float[2,3] y) { h = Add (x, w) "
         "y = Relu (h) }") -> ModelProto:
    """A small network with weights w [3] and one thing wrong."""
    model = parsed(graph)
    model.graph.initializer.append(numpy_helper.from_array(np.ones(3, np.float32), "w"))
    model.graph.node[0].name = "first"
    change(model)
    return model


def called(body: str) -> ModelProto:
    """A network that calls a function with this body."""
    return parsed("g (float[2,3] x) => (float[2,3] y) { y = mine.twice <alpha = 1.0> (x) }", TWICE % body)


def _raw(model: ModelProto, data: bytes) -> None:
    model.graph.initializer[0].raw_data = data


def _reference(model: ModelProto) -> None:
    model.graph.node[0].op_type = "Elu"
    del model.graph.node[0].input[1]
    model.graph.node[0].attribute.add(name="alpha", ref_attr_name="alpha", type=onnx.AttributeProto.FLOAT)


def _bomb() -> ModelProto:
    """Twelve functions, each of which calls the one before ten times."""
    bodies = [" ".join(f"s{k} = Neg ({f's{k - 1}' if k else 'x'})" for k in range(9)) + " z = Neg (s8)"]
    bodies += [body.replace("Neg", f"mine.f{level}") for level, body in enumerate(bodies * 11)]
    functions = [f'<domain: "mine", opset_import: ["" : 21, "mine" : 1]> f{level} (x) => (z) {{ {body} }}'
                 for level, body in enumerate(bodies)]
    return parsed("g (float[2] x) => (float[2] y) { y = mine.f11 (x) }", *functions)


WRONG = {
    "nobody": (relu(lambda m: m.graph.node[0].input.__setitem__(1, "v")),
               "Add 'first' reads 'v', which nobody produces"),
    "no output": (relu(lambda m: m.graph.output.add(name="z")), "output 'z' is computed by no node"),
    "cycle": (relu(lambda m: m.graph.node[0].input.__setitem__(1, "y")), "Add 'first' waits for its own result"),
    "bytes": (relu(lambda m: _raw(m, bytes(13))), r"weights 'w' of the shape \[3\] should hold 12 bytes, and holds 13"),
    "negative": (relu(lambda m: m.graph.initializer[0].dims.__setitem__(0, -3)), r"weights 'w' has the shape \[-3\]"),
    "type": (relu(lambda m: setattr(m.graph.initializer[0], "data_type", 99)),
             "weights 'w' has no type that ONNX knows"),
    "arity": (relu(lambda m: m.graph.node[0].input.append("x")), "Add 'first': it has 3 inputs instead of 2"),
    "absent": (relu(lambda m: m.graph.node[0].input.__setitem__(1, "")), "Add 'first': its input B is missing"),
    "attribute": (relu(lambda m: m.graph.node[0].attribute.append(helper.make_attribute("axis", 1))),
                  "Add 'first': the operator has no attribute 'axis'"),
    "switch": (parsed("g (float[2,3] x) => (float[2] y) { y = ReduceMax <keepdims = 7> (x) }"),
               "ReduceMax 'y': attribute 'keepdims' is 7, and only 0 and 1 have a meaning"),
    "count": (parsed("g (float[1,1,5,5] x) => (float[1,1,a,b] y) { y = MaxPool <kernel_shape = [3, 0]> (x) }"),
              r"MaxPool 'y': attribute 'kernel_shape' is \[3, 0\]; each must be 1 to 2\*\*31 - 1"),
    "reference": (relu(_reference),
                  "Elu 'first': attribute 'alpha' refers to 'alpha' of a function, and there is none"),
    "inputs": (relu(lambda m: m.graph.input.append(m.graph.input[0])), "input 'x' is there twice"),
    "twice": (relu(lambda m: m.graph.node[1].output.__setitem__(0, "h")), "value 'h' is computed twice"),
    "opsets": (relu(lambda m: m.opset_import.append(helper.make_opsetid("mine", 2))),
               "two versions of the domain 'mine'"),
    "types": (relu(lambda m: m.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ones(3, np.int64), "w"))),
              "Add 'first': B has inconsistent type"),
    "huge": (relu(lambda m: m.graph.input[0].type.tensor_type.shape.dim.add(dim_value=2**30)),
             r"value 'x' of the shape \[2, 3, 1073741824\] has more than 2\*\*31 elements"),
    "untyped": (relu(lambda m: m.graph.input[0].ClearField("type")), "input 'x' has no type"),
    "empty": (parsed("g (float[2] x) => (float[2] x) { }"), "it has no nodes"),
    "if": (relu(lambda m: m.graph.node[0].attribute.pop(), BRANCHES), "If 'first': its body 'else_branch' is missing"),
    "inside": (relu(lambda m: m.graph.node[0].attribute[0].g.node[0].input.__setitem__(0, "q"), BRANCHES),
               "If 'first': in its then_branch: Relu 'a' reads 'q', which nobody produces"),
    "hands on": (relu(lambda m: m.graph.node[0].attribute[1].g.output[0].CopyFrom(m.graph.input[0]), BRANCHES),
                 "If 'first': .*'x'"),
    "loop": (relu(lambda m: m.graph.node[0].attribute[0].g.input.pop(0), LOOP % 4),
             "Loop 'first': its body takes 2 values"),
    "function": (called("z = Add (x, u)"), "function 'mine.twice': Add 'z' reads 'u'"),
    "function reference": (called("z = Elu <alpha: float = @beta> (x)"), "refers to 'beta', which its function"),
    "recursion": (called("z = mine.twice <alpha = 1.0> (x)"), "function 'mine.twice' calls itself"),
    "bomb": (_bomb(), f"has [0-9]+ nodes, more than {MAX_NODES}"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_network_is_refused_by_name(case: str) -> None:
    model, message = WRONG[case]
    with pytest.raises(ModelError, match=message) as caught:
        load_model(model)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("model", "message"), [
    (parsed(LOOP % 10**6), "it runs its body 1000000 times, more than 100000"),
    (parsed((LOOP % 4).replace("(n, go, x)", '("", go, x)')), "neither a number of trips nor its body ever ends it"),
    (parsed("g (float[2,3] x) => (float[2,4] y) <int64[2] s = {2, 4}> { y = Reshape (x, s) }"),
     r"\[2, 3\] has another number of elements than \[2, 4\]"),
    (parsed("g (float[2] x) => (float[2] y) <int64[1] k = {3000000000}> { z = ConstantOfShape (k) s = ReduceSum (z) "
            "y = Add (x, s) }"), "more than 2"),
    (parsed("g (float x) => (float y) { y = Softmax <axis = 1> (x) }"), "Softmax"),
    (parsed("g (float[5,0,3] x, float[1,16,3] w, float[1,16,4] r) => (float[5,1,0,4] y) { y = LSTM <hidden_size = 4> "
            "(x, w, r) }"), "LSTM 'node': an input is empty"),
    (parsed("g (float[5,1,3] x, float[1,16,2] w, float[1,16,4] r) => (float[5,1,1,4] y) { y = LSTM <hidden_size = 4> "
            "(x, w, r) }"), r"its W is \[1, 16, 2\] instead of \[1, 16, 3\]"),
    (parsed("g (float[2,3] x, int64[1,3] i) => (float[1,3] y) { y = GatherElements <axis = 2> (x, i) }"),
     "it works on axis 2 of 'x', which has 2 axes"),
    (parsed("g (float[2,3] x) => (float[3,2] y) { y = Transpose <perm = [1, 1]> (x) }"), "Transpose"),
    (parsed("g (float[1,8,3] x) => (y) <int64 s = {4}, int64 n = {4}> { y = STFT (x, s, '', n) }".replace("''", '""')),
     r"its signal \[1, 8, 3\] is neither real nor complex"),
    (parsed("g (float[300000000] x) => (float[300000000] y) { y = Relu (x) }"), "more than 1 GB for one sample"),
], ids=["trips", "endless", "reshape", "overflow", "axis of a scalar", "nothing to repeat", "weights of an LSTM",
        "axis", "perm", "signal", "size of an input"])
def test_what_only_shows_once_shapes_are_known(model: ModelProto, message: str) -> None:
    with pytest.raises(EdgeqError, match=message):
        load_model(model)


def test_names_that_are_no_text(tmp_path: Path) -> None:
    data = parsed("g (float[2,3] qxqz) => (float[2,3] y) { y = Relu (qxqz) }").SerializeToString()
    (tmp_path / "m.onnx").write_bytes(data.replace(b"qxqz", b"\xff\xfeab"))
    with pytest.raises(ModelError, match="is no UTF-8"):
        load_model(tmp_path / "m.onnx")


# -- files of the host -------------------------------------------------------------------------------------------------

def _external(tensor: TensorProto, location: str) -> TensorProto:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


def _weights(location: str) -> ModelProto:
    return relu(lambda m: _external(m.graph.initializer[0], location))


def _in_a_constant(location: str) -> ModelProto:
    model = parsed("g (float[2,3] x) => (float[2,3] y) { c = Constant <value_floats = [1.0, 1.0, 1.0]> () "
                   "y = Add (x, c) }")
    tensor = _external(numpy_helper.from_array(np.ones(3, np.float32)), location)
    model.graph.node[0].attribute[0].CopyFrom(helper.make_attribute("value", tensor))
    return model


def _in_a_body(location: str) -> ModelProto:
    model = parsed(BRANCHES.replace("a = Relu (x)", "a = Add (x, w)"))
    tensor = _external(numpy_helper.from_array(np.ones(3, np.float32), "w"), location)
    model.graph.node[0].attribute[0].g.initializer.append(tensor)
    return model


def _in_a_function(location: str) -> ModelProto:
    model = called("c = Constant <value_floats = [1.0, 1.0, 1.0]> () z = Add (x, c)")
    tensor = _external(numpy_helper.from_array(np.ones(3, np.float32)), location)
    model.functions[0].node[0].attribute[0].CopyFrom(helper.make_attribute("value", tensor))
    return model


def _sparse(location: str) -> ModelProto:
    """[1, 1, 1], whose values lie elsewhere."""
    model = parsed("g (float[2,3] x) => (float[2,3] y) { y = Add (x, w) }")
    values = _external(numpy_helper.from_array(np.ones(3, np.float32), "w"), location)
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(
        values, numpy_helper.from_array(np.arange(3)), [3]))
    return model


EVERYWHERE = (_weights, _in_a_constant, _in_a_body, _in_a_function, _sparse)


@pytest.mark.parametrize("build", EVERYWHERE)
@pytest.mark.parametrize("location", ["../secret", "{root}/secret", "link", "C:\\secret", "a/../../secret"])
@pytest.mark.parametrize("form", ["file", "proto", "graph"])
def test_no_tensor_lies_outside_the_models_folder(build: Callable[[str], ModelProto], location: str, form: str,
                                                  tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "secret").write_bytes(np.ones(3, np.float32).tobytes())
    (inside / "link").symlink_to(tmp_path / "secret")
    monkeypatch.chdir(inside)
    model = build(location.format(root=tmp_path))
    (inside / "m.onnx").write_bytes(model.SerializeToString())
    if form == "graph" and build is _sparse:
        pytest.skip("onnx_ir has no sparse weights")
    source = {"file": lambda: inside / "m.onnx", "proto": lambda: model, "graph": lambda: ir.from_proto(model)}[form]()
    with pytest.raises(ModelError, match="lie outside its folder"):
        load_model(source)


@pytest.mark.parametrize("build", EVERYWHERE)
def test_every_tensor_inside_it_is_read_though_its_file_has_two_names(build: Callable[[str], ModelProto],
                                                                      tmp_path: Path) -> None:
    (tmp_path / "first.bin").write_bytes(np.array([1, 2, 3], np.float32).tobytes())
    os.link(tmp_path / "first.bin", tmp_path / "w.bin")
    (tmp_path / "m.onnx").write_bytes(build("w.bin").SerializeToString())
    model = load_model(tmp_path / "m.onnx")
    held = [value.const_value.numpy() for value in model.graph.initializers.values() if value.const_value is not None]
    assert any(np.array_equal(data, [1, 2, 3]) for data in held)


@pytest.mark.parametrize(("indices", "message"), [([0, 5, 7], ""), ([[0, 0], [1, 2], [3, 1]], ""),
                                                  ([0, 1, 12], "an index of the sparse weights 'w' lies outside")])
def test_sparse_weights_become_dense(indices: list[int], message: str) -> None:
    model = parsed("g (float[2,4] x) => (float[2,3] y) { y = MatMul (x, w) }")
    values = numpy_helper.from_array(np.array([1, 2, 3], np.float32), "w")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(
        values, numpy_helper.from_array(np.array(indices, np.int64)), [4, 3]))
    if message:
        with pytest.raises(ModelError, match=message):
            load_model(model)
        return
    before = session(model)
    sample = feeds(before)
    assert_close(before.run(None, sample), session(load_model(model)).run(None, sample), tolerance=0)


# -- pickles -----------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch = pytest.importorskip("torch")
    path = tmp_path_factory.mktemp("program") / "net.pt2"
    torch.export.save(torch.export.export(torch.nn.Linear(3, 2).eval(), (torch.ones(1, 3),)), path)
    return path


class Runs:
    """What a pickle can do when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def _poisoned(path: Path, entry: str, marker: Path) -> None:
    """The archive with a pickle in the place of an entry, or with one entry more."""
    import torch

    buffer = io.BytesIO()
    torch.save(Runs(marker), buffer)
    with zipfile.ZipFile(path) as archive:
        files = {info.filename: archive.read(info) for info in archive.infolist()}
    root = next(iter(files)).partition("/")[0]
    if entry == "config":
        name = f"{root}/data/weights/model_weights_config.json"
        files[name] = files[name].replace(b'"use_pickle": false', b'"use_pickle": true', 1)
        files[f"{root}/data/weights/weight_0"] = buffer.getvalue()
    else:
        files[f"{root}/{entry}"] = buffer.getvalue()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)


@pytest.mark.parametrize(("entry", "message"), [
    ("data/sample_inputs/model.pt", "the sample inputs .* hold more than tensors"),
    ("config", "'.*weight' is pickled"),
    ("data/constants/custom_obj_0", "custom_obj_0', which may be a pickle"),
    ("data/aotinductor/model/a.so", r"a\.so', which may be a pickle or a program"),
])
def test_an_archive_with_pickles_is_refused_before_torch_sees_it(entry: str, message: str, program: Path,
                                                                 tmp_path: Path) -> None:
    path, marker = Path(shutil.copy(program, tmp_path)), tmp_path / "ran"
    _poisoned(path, entry, marker)
    with pytest.raises(ModelError, match=f"{message}.*--trust"):
        load_model(path)
    assert not marker.exists()
    if entry == "data/sample_inputs/model.pt":
        with suppress(ModelError):  # no samples are in it
            load_model(path, trust=True)
        assert marker.exists(), "or the pickle proves nothing"
