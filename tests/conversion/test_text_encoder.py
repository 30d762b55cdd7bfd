"""A folder of a text encoder into bundles, and texts into vectors."""
from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from text_encoders import save_encoder, torch_states

import edgeq
from edgeq.cli import main
from edgeq.errors import EdgeqError
from edgeq_runtime import InputError, load
from edgeq_runtime.__main__ import main as device

TEXTS = ["The cat sat on the mat.", "A red dog ran, a blue cat ran.", "mat"]
IDS = [[2, 4, 6, 8, 10, 4, 12, 15, 3], [2, 5, 13, 7, 9, 16, 5, 14, 6, 9, 15, 3], [2, 12, 3]]
POOLINGS: dict[str, Callable[[Any], Any]] = {
    "pooling_mode_mean_tokens": lambda x: x.mean(0), "pooling_mode_cls_token": lambda x: x[0],
    "pooling_mode_max_tokens": lambda x: x.max(0),
    "pooling_mode_mean_sqrt_len_tokens": lambda x: x.sum(0) / len(x) ** .5}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In float, which no test changes."""
    folder = tmp_path_factory.mktemp("encoder")
    return edgeq.convert(save_encoder(folder / "tiny"), target="onnxruntime", bits=32, output=folder / "b.edgeq").path


@pytest.mark.parametrize("pooling", POOLINGS)
def test_vectors_are_torchs(pooling: str, tmp_path: Path) -> None:
    source = save_encoder(tmp_path / "tiny", pooling=pooling)
    made = edgeq.convert(source, target="onnxruntime", bits=32, output=tmp_path / "b.edgeq", verify=False)
    with made.load() as model:
        found = model.embed(TEXTS)
    expected = np.stack([POOLINGS[pooling](torch_states(ids)) for ids in IDS])
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=2e-6)


@pytest.mark.parametrize(("target", "bits", "cosine"), [
    ("onnxruntime", 8, .999), ("onnxruntime", 4, .95), ("tflite", 8, .999), ("tflite", 4, .95)])
def test_in_few_bits(target: str, bits: int, cosine: float, bundle: Path, tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(TEXTS * 4))
    made = edgeq.convert(bundle.parent / "tiny", target=target, bits=bits, calibration=texts, activations="float",
                         output=tmp_path / "b.edgeq")
    assert made.manifest.calibration is not None
    assert made.manifest.calibration["samples"] == 12
    with made.load() as model, load(bundle) as plain:
        found, expected = model.embed(TEXTS), plain.embed(TEXTS)
    assert (found * expected).sum(1).min() > cosine
    assert not np.allclose(found, expected, atol=1e-5)


def test_a_text_that_is_too_long(bundle: Path) -> None:
    with load(bundle) as model:
        with pytest.raises(InputError, match="a text has 22 tokens, and the network reads 16"):
            model.embed("cat " * 20)
        found, expected = model.embed("cat " * 20, truncate=True), model.embed("cat " * 14)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("texts", [[], 3, ["cat", 3], ["\ud800"]], ids=repr)
def test_refuses_texts(texts: Any, bundle: Path) -> None:
    with load(bundle) as model, pytest.raises(InputError):
        model.embed(texts)


def test_both_command_lines(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with load(bundle) as model:
        expected = model.embed(TEXTS[:2])
    (tmp_path / "more.txt").write_text(TEXTS[1] + "\n")
    found = CliRunner().invoke(main, ["embed", str(bundle), TEXTS[0], "--input", str(tmp_path / "more.txt"), "--json",
                                      "-o", str(tmp_path / "v.npy")])
    assert found.exit_code == 0, found.output
    said = json.loads(found.stdout)
    np.testing.assert_allclose(said["vectors"], expected, atol=1e-7)
    np.testing.assert_allclose(said["cosines"], expected @ expected.T, atol=1e-6)
    np.testing.assert_array_equal(np.load(tmp_path / "v.npy"), expected)
    assert device([str(bundle), "embed", *TEXTS[:2], "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == said
    assert f"{said['cosines'][0][1]:.3f}" in CliRunner().invoke(main, ["embed", str(bundle), *TEXTS[:2]]).output


def changed(**words: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **words}))
    return change


def written(name: str, text: str) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).write_text(text)


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


BAD = {
    "no weights": (without("model.safetensors"), "holds no model.safetensors"),
    "no tokenizer": (without("tokenizer.json"), "holds no tokenizer.json; save it with transformers"),
    "damaged tokenizer": (written("tokenizer.json", "{"), "tokenizer.json is damaged"),
    "damaged modules": (written("modules.json", "{"), "modules.json is damaged"),
    "another module": (written("modules.json", '[{"type": "models.Dense", "path": ""}]'), "no Dense"),
    "no pooling": (written("1_Pooling/config.json", "{}"), "it asks for none"),
    "a head": (changed(architectures=["BertForSequenceClassification"]), "has a head that edgeq does not write"),
    "an activation": (changed(hidden_act="mish"), "no activation 'mish'"),
    "no width": (changed(hidden_size=None), "config.json lacks hidden_size"),
    "another width": (changed(intermediate_size=96), r"intermediate.dense.weight' has shape \(80, 48\) where"),
    "heads": (changed(num_attention_heads=7), "7 attention heads do not divide a width of 48"),
    "a layer more": (changed(num_hidden_layers=3), "no tensor 'encoder.layer.2.attention.self.key.weight'"),
    "positions": (changed(position_embedding_type="relative_key"), "position_embedding_type 'relative_key'"),
    "fewer words": (changed(vocab_size=10), "tokenizer.json has 17 tokens, the model 10"),
}


@pytest.mark.parametrize("case", BAD)
def test_refuses_folders(case: str, tmp_path: Path) -> None:
    change, message = BAD[case]
    source = save_encoder(tmp_path / "tiny")
    change(source)
    with pytest.raises(EdgeqError, match=message):
        edgeq.convert(source, target="onnxruntime", output=tmp_path / "b.edgeq")
    assert {path.name for path in tmp_path.iterdir()} == {"tiny"}


def test_refuses_calibration_without_texts(tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("\n")
    with pytest.raises(EdgeqError, match="holds no texts: one a line"):
        edgeq.convert(save_encoder(tmp_path / "tiny"), target="onnxruntime", calibration=tmp_path / "texts.txt")
