"""A language model's checkpoint becomes a bundle: a tiny Llama with random weights, read back by the gguf package."""
from __future__ import annotations

import errno
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import tokenizers
from click.testing import CliRunner
from decoder_checkpoints import CONFIG, save_checkpoint, save_shard, save_text
from frontends.decoder.tokenizers_made import TEMPLATE, TEXTS

import edgeq
from edgeq.bundle.folder import Bundle
from edgeq.cli import main
from edgeq.conversion import decoder_verify
from edgeq.conversion.decoder_text import text_of_model
from edgeq.errors import BundleError, EdgeqError, UsageError, VerificationError
from edgeq.frontends.decoder.checkpoint import open_checkpoint
from edgeq.progress import silent
from edgeq.quant.decoder import StoredMatrix

LAYERS = CONFIG["num_hidden_layers"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny-llama")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_text(tmp_path_factory.mktemp("text") / "text.txt")


@pytest.fixture(scope="module")
def fitted(checkpoint: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return edgeq.convert(checkpoint, target="gguf", bits=4, calibration=text, samples=16,
                         output=tmp_path_factory.mktemp("fitted") / "tiny.edgeq")


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_the_bundle_holds_what_a_device_needs(fitted: Bundle, checkpoint: Path) -> None:
    found = fitted.manifest
    assert {"model.gguf", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json",
            "selftest.npz", "report.json", "report.html"} == {file.path for file in found.files}
    assert (fitted.path / "chat_template.jinja").read_text() == TEMPLATE
    language = found.language
    assert language is not None
    assert (language.context, language.vocabulary, language.layers, language.kv_heads, language.head_size) == (
        64, 600, LAYERS, 2, 64)
    assert (language.bos, language.eos, language.add_bos) == (1, (2, 0), False)
    assert language.defaults == {"temperature": 0.6, "top_p": 0.9}
    assert (found.engine, found.entry, found.format) == ("llamacpp", "model.gguf", 4)
    assert [str(spec.shape) for spec in (*found.inputs, *found.outputs)] == ["(1, 'tokens')", "(1, 'tokens', 600)"]
    assert hidden(fitted.path.parent) == []


def test_the_gguf_package_reads_types_weights_and_tokens(fitted: Bundle, checkpoint: Path) -> None:
    reader = gguf.GGUFReader(fitted.path / "model.gguf")
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    # By src/llama-quant.cpp for Q4_K_M in two layers: more bits for values and the last product, here in both.
    assert {tensors[f"blk.{layer}.{name}.weight"].tensor_type.name for layer in range(LAYERS)
            for name in ("attn_q", "attn_k", "attn_output", "ffn_gate", "ffn_up")} == {"Q4_K"}
    assert tensors["token_embd.weight"].tensor_type.name == "Q6_K"
    source = open_checkpoint(checkpoint)
    weight = source.weights.matrix("down", 1)
    got = gguf.dequantize(tensors["blk.1.ffn_down.weight"].data, tensors["blk.1.ffn_down.weight"].tensor_type)
    assert np.square(got - weight).mean() < 0.01 * np.square(weight).mean()
    ours = tokenizers.Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    count = ours.get_vocab_size()
    field = reader.get_field("tokenizer.ggml.tokens")
    assert field is not None
    assert field.contents()[:count] == [ours.id_to_token(number) for number in range(count)]


def test_two_targets_get_the_same_codes(checkpoint: Path, text: Path, tmp_path: Path) -> None:
    bundles = edgeq.convert(checkpoint, target=["gguf", "onnxruntime"], method="nearest", calibration=text, samples=8,
                            output=tmp_path)
    assert [bundle.path.name for bundle in bundles] == ["tiny-llama.gguf.edgeq", "tiny-llama.onnxruntime.edgeq"]
    first, second = (bundle.manifest.accuracy["on_text"] for bundle in bundles)
    assert first == second
    assert bundles[1].manifest.accuracy["engine"]["kl"] < 0.05
    assert len(bundles[1].manifest.inputs) == 2 + 2 * LAYERS


def test_figures_come_from_text_that_was_not_fitted_to(fitted: Bundle, checkpoint: Path, text: Path,
                                                       tmp_path: Path) -> None:
    nearest = edgeq.convert(checkpoint, target="gguf", bits=4, method="nearest", calibration=text, samples=16,
                            output=tmp_path / "nearest.edgeq")
    said = fitted.manifest.calibration
    assert said is not None
    assert (said["sequences"], said["held_out"]) == (16, 4)
    kl, plain = (bundle.manifest.accuracy["on_text"]["kl"]["mean"] for bundle in (fitted, nearest))
    assert 0 < kl < 0.8 * plain
    assert "fitted" in (fitted.path / "report.html").read_text()


def test_a_file_that_is_read_otherwise_than_it_was_written_is_refused(
        checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = StoredMatrix.rows
    monkeypatch.setattr(StoredMatrix, "rows", lambda matrix, order: real(matrix, np.roll(order, 1)))
    with pytest.raises(VerificationError, match=r"gguf: 4 weights are not read .*: q of layer 0, k of layer 0"):
        edgeq.convert(checkpoint, target="gguf", bits=4, method="nearest", output=tmp_path / "x.edgeq")
    assert list(tmp_path.iterdir()) == []


def test_the_model_writes_its_text_where_none_is_given(checkpoint: Path, tmp_path: Path) -> None:
    bundle = edgeq.convert(checkpoint, target="gguf", bits=4, samples=4, output=tmp_path / "x.edgeq")
    assert bundle.report["calibration"] == {
        "source": "text that the model sampled from itself", "sequences": 4, "tokens": 4 * 64, "held_out": 1,
        "held_out_tokens": 64, "left": 0, "warnings": ["256 tokens are few to fit weights to; 16384 lose less"]}
    assert bundle.manifest.language is not None
    first, again = (text_of_model(open_checkpoint(checkpoint), checkpoint, bundle.manifest.language, 4, silent)
                    for _ in range(2))
    np.testing.assert_array_equal(np.stack(first.fitted), np.stack(again.fitted))
    assert len({row.tobytes() for row in (*first.fitted, *first.judged)}) == 5
    assert bundle.report["on_text"]["float_perplexity"] < 50  # the model knows its own text


def test_a_device_names_the_target_and_its_threads(checkpoint: Path, tmp_path: Path) -> None:
    bundle = edgeq.convert(checkpoint, device="pi4", method="nearest", output=tmp_path / "x.edgeq")
    assert (bundle.manifest.target, bundle.manifest.options["threads"]) == ("gguf", 4)


def ended_in_layer(layer: int) -> Callable[..., None]:
    def progress(what: str, done: int = 0, total: int | None = None) -> None:
        if what == "fitting layers" and done == layer:
            raise KeyboardInterrupt

    return progress


def test_an_ended_conversion_goes_on(fitted: Bundle, checkpoint: Path, text: Path, tmp_path: Path) -> None:
    words: dict[str, Any] = {"target": "gguf", "bits": 4, "calibration": text, "samples": 16}
    with pytest.raises(KeyboardInterrupt):
        edgeq.convert(checkpoint, output=tmp_path / "x.edgeq", progress=ended_in_layer(1), **words)
    assert hidden(tmp_path) == [".x.edgeq.layers"]
    with pytest.raises(UsageError, match=r"--resume: the layers in .* are of another conversion"):
        edgeq.convert(checkpoint, output=tmp_path / "x.edgeq", resume=True, gguf_type="Q4_0", **{**words, "bits": 8})
    layers: list[int] = []
    bundle = edgeq.convert(
        checkpoint, output=tmp_path / "x.edgeq", resume=True, **words,
        progress=lambda what, done=0, total=None: layers.append(done) if what == "fitting layers" else None)
    assert (bundle.path / "model.gguf").read_bytes() == (fitted.path / "model.gguf").read_bytes()
    assert hidden(tmp_path) == []


def test_a_full_disk_loses_nothing(checkpoint: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                   ) -> None:
    words: dict[str, Any] = {"target": "gguf", "bits": 4, "calibration": text, "samples": 4,
                             "output": tmp_path / "x.edgeq"}
    real = np.save

    def save(path: Path, array: Any) -> None:
        if "layer-1" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, array)

    monkeypatch.setattr(np, "save", save)
    with pytest.raises(BundleError, match=r"No space left .* go on with --resume"):
        edgeq.convert(checkpoint, **words)
    monkeypatch.undo()
    assert hidden(tmp_path) == [".x.edgeq.layers"]
    assert edgeq.convert(checkpoint, resume=True, **words).path.is_dir()


def test_a_gguf_is_a_source_too(fitted: Bundle, tmp_path: Path) -> None:
    """Quantized anew as what it is, its numbers and tokens stay."""
    source = fitted.path / "model.gguf"
    bundle = edgeq.convert(source, target="gguf", gguf_type="F32", gguf_file=tmp_path / "bare.gguf", method="nearest",
                           output=tmp_path / "x.edgeq")
    assert (tmp_path / "bare.gguf").read_bytes() == (bundle.path / "model.gguf").read_bytes()
    before, after = ({tensor.name: gguf.dequantize(tensor.data, tensor.tensor_type)
                      for tensor in gguf.GGUFReader(path).tensors} for path in (source, tmp_path / "bare.gguf"))
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    first, second = (tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")) for folder in (
        fitted.path, bundle.path))
    assert [first.encode(text).ids for text in TEXTS] == [second.encode(text).ids for text in TEXTS]


def test_the_command_line_says_what_was_lost(checkpoint: Path, text: Path, tmp_path: Path) -> None:
    words = ["convert", str(checkpoint), "--target", "gguf", "--method", "nearest", "--calibration", str(text)]
    result = CliRunner().invoke(main, [*words, "--samples", "8", "--dry-run"])
    assert result.exit_code == 0, result.output
    assert re.search(r"gguf: of 100 first choices \d+\.\d are the float model's too", result.output)
    assert "nothing was written (--dry-run)" in result.output


# -- bad input ---------------------------------------------------------------------------------------------------------

def edited(name: str, **changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        data = json.loads((folder / name).read_text()) | changes
        (folder / name).write_text(json.dumps({key: value for key, value in data.items() if value is not None}))

    return change


def without(*names: str) -> Callable[[Path], None]:
    return lambda folder: [(folder / name).unlink() for name in names] and None


def pickled(folder: Path) -> None:
    without("model-1-of-2.safetensors", "model-2-of-2.safetensors", "model.safetensors.index.json")(folder)
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x02")


def cut(folder: Path) -> None:
    shard = folder / "model-2-of-2.safetensors"
    shard.write_bytes(shard.read_bytes()[:-100])


def not_a_number(folder: Path) -> None:
    tensors = open_checkpoint(folder).weights
    weight = np.full((256, 512), np.nan, np.float32)
    (folder / "model.safetensors.index.json").unlink()
    everything = {name: tensors.tensors[name] for name in tensors.tensors}  # type: ignore[union-attr]
    save_shard(folder / "model.safetensors", everything | {"model.layers.1.mlp.down_proj.weight": weight})


BAD = {
    "a shard is missing": (without("model-2-of-2.safetensors"), r"a shard is missing: .*model-2-of-2"),
    "a shard is cut short": (cut, r"model-2-of-2.safetensors is cut short"),
    "other sizes in the configuration": (
        edited("config.json", intermediate_size=384), r"gate_proj.weight' has shape \(512, 256\) where config.json"),
    "a weight that is no number": (not_a_number, r"'model.layers.1.mlp.down_proj.weight' .* holds NaN"),
    "an unknown rotary scaling": (
        edited("config.json", rope_scaling={"rope_type": "spiral"}), r"scaled by 'spiral'; edgeq knows default"),
    "an unknown architecture": (
        edited("config.json", model_type="mamba"), r"no row for the architecture 'mamba' .* there are llama, mistral"),
    "a configuration that is no JSON": (
        lambda folder: (folder / "config.json").write_text("{") and None, r"config.json is damaged"),
    "no configuration": (without("config.json"), r"is no checkpoint: it holds no config.json"),
    "a pickle": (pickled, r"pytorch_model.bin, a pickle, .* save it as safetensors"),
    "no tokenizer": (without("tokenizer.json"), r"holds no tokenizer.json; save it with transformers"),
    "a damaged tokenizer": (
        lambda folder: (folder / "tokenizer.json").write_text("{}") and None, r"tokenizer.json is damaged"),
    "a tokenizer of another model": (
        edited("config.json", vocab_size=500), r"tokenizer.json has 582 tokens and the network 500"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_checkpoints(name: str, tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "bad")
    change, message = BAD[name]
    change(folder)
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(EdgeqError, match=message) as raised:
        edgeq.convert(folder, target="gguf", bits=4, method="nearest", output=out / "x.edgeq")
    assert "\n" not in str(raised.value)
    assert list(out.iterdir()) == []


WORDS = {
    "a target for other networks": ({"target": "coreml"}, "--target coreml takes no language model"),
    "types of nobody": ({"gguf_type": "Q9_K"}, "--gguf-type Q9_K: there are F32, F16"),
    "bits that no type has": ({"bits": 32}, "--bits 32: gguf takes 2, 3, 4, 5, 6, 8, 16"),
    "a device without llama.cpp": ({"device": "pi-32bit"}, "--device pi-32bit does not run gguf; it runs tflite"),
    "activations": ({"activations": 8}, "--activations means nothing for a language model"),
    "a calibrator": ({"calibrator": "mse"}, "--calibrator means nothing for a language model"),
    "another method": ({"method": "gptq"}, "--method gptq: use auto or nearest"),
    "two ways to choose types": ({"bits_per_weight": 4.5, "gguf_type": "Q4_0"}, "it excludes --gguf-type"),
    "text that is not there": ({"calibration": "no.txt"}, "--calibration no.txt: No such file"),
    "samples as of a network": ({"calibration": np.zeros(3)}, "--calibration .*: give the path of a file"),
}


@pytest.mark.parametrize("name", WORDS)
def test_words_that_mean_nothing(name: str, checkpoint: Path, tmp_path: Path) -> None:
    words, message = WORDS[name]
    with pytest.raises(EdgeqError, match=message):
        edgeq.convert(checkpoint, **{"target": "gguf", "output": tmp_path / "x.edgeq", **words})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "content", "message"), [
    ("short.txt", "few words", r"\d+ tokens are too few"),
    ("bytes.txt", b"\xff\xfe\x00", "is no text in UTF-8"),
    ("broken.jsonl", '{"text": "a"}\n{', "line 2 is no JSON"),
    ("other.jsonl", '{"prompt": "a"}', 'line 1: give {"text"'),
    ("wrong.jsonl", '{"messages": [{"role": "user"}]}', "line 1"),
])
def test_bad_text(name: str, content: str | bytes, message: str, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(EdgeqError, match=message):
        edgeq.convert(checkpoint, target="gguf", calibration=tmp_path / name, output=tmp_path / "x.edgeq")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_chats_go_through_the_template(checkpoint: Path, tmp_path: Path) -> None:
    bundle = edgeq.convert(checkpoint, target="gguf", method="nearest", output=tmp_path / "x.edgeq", samples=8,
                           calibration=save_text(tmp_path / "chats.jsonl"))
    assert bundle.report["calibration"]["source"] == "chats.jsonl"


def test_without_a_chat_template(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "plain")
    edited("tokenizer_config.json", chat_template=None)(folder)
    result = CliRunner().invoke(main, ["convert", str(folder), "--target", "gguf", "--method", "nearest", "-o",
                                       str(tmp_path / "x.edgeq")])
    assert result.exit_code == 0, result.output
    assert "no chat template: the model continues plain prompts" in result.output
    with pytest.raises(EdgeqError, match="no chat template"):
        edgeq.convert(folder, target="gguf", output=tmp_path / "y.edgeq",
                      calibration=save_text(tmp_path / "chats.jsonl"))


def test_the_self_test_is_the_engines_or_the_weights_own(fitted: Bundle) -> None:
    with np.load(fitted.path / "selftest.npz") as found:
        assert found["input/0/input_ids"].shape == (1, decoder_verify.TOKENS)
        assert found["output/0/logits"].shape == (1, decoder_verify.TOKENS, 600)
