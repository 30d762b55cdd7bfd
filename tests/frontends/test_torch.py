"""torch sources, against torch itself."""
from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from passes.graphs import session

from edgeq.errors import MissingExtra, ModelError
from edgeq.frontends import load_model
from edgeq.graph import OPSET
from edgeq.passes import canonicalize

torch = pytest.importorskip("torch", reason="the torch extra is not installed")

FACTORY = '''
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = torch.nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = torch.nn.BatchNorm2d(8)
        self.group = torch.nn.GroupNorm(2, 8)
        self.head = torch.nn.Linear(8, 5)
        with torch.no_grad():
            self.norm.running_mean.uniform_(-1, 1)
            self.norm.running_var.uniform_(0.5, 2)

    def forward(self, image):
        x = torch.nn.functional.hardswish(self.norm(self.conv(image)))
        x = torch.nn.functional.gelu(self.group(x)) + torch.nn.functional.silu(x)
        return self.head(x.mean((2, 3)))

def make():
    return Net(), (torch.ones(1, 3, 9, 7),)

def make_by_name():
    return Net(), {"image": torch.ones(1, 3, 9, 7)}

def make_nothing():
    return Net()

class Choosing(torch.nn.Module):
    def forward(self, x):
        return x + 1 if x.sum() > 0 else x

def make_choosing():
    return Choosing(), (torch.ones(2, 3),)

def make_trouble():
    raise RuntimeError("no weights here")
'''


@pytest.fixture(scope="module")
def factory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("factory")
    (folder / "edgeq_test_factory.py").write_text(FACTORY)
    return folder


@pytest.fixture
def here(factory: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(factory)
    return factory


@pytest.mark.parametrize("kind", ["make", "make_by_name", "ExportedProgram", ".pt2"])
def test_every_torch_source(here: Path, kind: str) -> None:
    network, image = _network(here), np.random.default_rng(0).standard_normal((1, 3, 9, 7)).astype(np.float32)
    source = f"edgeq_test_factory:{kind}"
    if not kind.startswith("make"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch about itself
            source = torch.export.export(network, (torch.ones(1, 3, 9, 7),))
            torch.export.save(source, here / "net.pt2")
    if kind == ".pt2":
        source = here / "net.pt2"
    model = load_model(source)
    canonicalize(model)
    assert model.opset_imports[""] == OPSET
    assert {"HardSwish", "Gelu", "GlobalAveragePool"} <= {node.op_type for node in model.graph}
    assert "BatchNormalization" not in {node.op_type for node in model.graph}
    with torch.no_grad():
        expected = network(torch.from_numpy(image)).numpy()
    got, = session(model).run(None, {model.graph.inputs[0].name: image})
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def _network(folder: Path) -> torch.nn.Module:
    scope: dict[str, object] = {}
    exec((folder / "edgeq_test_factory.py").read_text(), scope)
    return scope["Net"]().eval()  # type: ignore[operator]


@pytest.mark.parametrize(("source", "message"), [
    ("edgeq_test_factory:make_nothing", r"must return \(torch module, example inputs\), got Net"),
    ("edgeq_test_factory:make_trouble", "make_trouble failed: RuntimeError: no weights here"),
    ("edgeq_test_factory:make_choosing", "torch cannot export this module to ONNX: "),
    ("edgeq_test_factory:nothing", "has no function 'nothing'"),
    ("edgeq_no_such_module:make", "cannot import edgeq_no_such_module"),
    ("broken.pt2", r"broken\.pt2 is not a torch\.export file"),
    ("none.pt2", r"no such file: none\.pt2"),
])
def test_what_cannot_be_read(here: Path, source: str, message: str) -> None:
    (here / "broken.pt2").write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(ModelError, match=message) as caught:
        load_model(source)
    assert "\n" not in str(caught.value)


def test_an_object_of_another_kind() -> None:
    with pytest.raises(ModelError, match="cannot read a int as a network"):
        load_model(7)  # type: ignore[arg-type]


def test_without_torch_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtra, match=r"A torch model needs .*pip install 'edgeq\[torch\]'"):
        load_model("anything:make")


def test_an_onnx_model_does_not_import_torch() -> None:
    code = "import sys, edgeq.frontends, edgeq.passes; print({'torch', 'onnxscript'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"
