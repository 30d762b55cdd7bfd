"""Encoders with decoders into bundles: speech and texts to text."""
from __future__ import annotations

import json
import wave
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from encoder_decoders import FIRST_TIME, WHISPER, save_pair, tensors
from frontends.transformer.families import PAIRS
from numpy.typing import NDArray

import edgeq
from edgeq.cli import main
from edgeq.errors import EdgeqError
from edgeq_runtime import InputError, Manifest, load
from edgeq_runtime.__main__ import main as device
from edgeq_runtime.language.speech import Segment, Transcriber, Transcript
from edgeq_runtime.manifest import EncoderDecoder
from edgeq_runtime.sound import LogMel


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In float, which no test changes."""
    folder = tmp_path_factory.mktemp("whisper")
    source = save_pair(folder / "tiny", WHISPER)
    return edgeq.convert(source, target="onnxruntime", bits=32, output=folder / "b.edgeq").path


def torch_logits(sound: NDArray[np.float32], tokens: Sequence[int]) -> NDArray[Any]:
    """[tokens, vocabulary] by torch's own layers. sound: [1, mels, frames]."""
    import torch
    from torch.nn import TransformerDecoderLayer, TransformerEncoderLayer
    from torch.nn.functional import conv1d, gelu, layer_norm

    given = {name.removeprefix("model."): torch.tensor(array) for name, array in tensors(WHISPER).items()}
    width = WHISPER["d_model"]

    def loaded(kind: Any, side: str, k: int) -> Any:
        here = f"{side}.layers.{k}."
        layer = kind(width, WHISPER[f"{side}_attention_heads"], WHISPER[f"{side}_ffn_dim"], 0, "gelu", batch_first=True,
                     norm_first=True)
        names = {"linear1": "fc1", "linear2": "fc2", "norm1": "self_attn_layer_norm"}
        names |= {"norm2": "encoder_attn_layer_norm", "norm3": "final_layer_norm"} if side == "decoder" else {
            "norm2": "final_layer_norm"}
        state = {f"{theirs}.{part}": given[f"{here}{ours}.{part}"] for theirs, ours in names.items()
                 for part in ("weight", "bias")}
        for theirs, ours in (("self_attn", "self_attn"), ("multihead_attn", "encoder_attn")):
            if f"{here}{ours}.q_proj.weight" in given:
                parts = [{part: given.get(f"{here}{ours}.{role}_proj.{part}", torch.zeros(width))
                          for part in ("weight", "bias")} for role in "qkv"]
                state |= {f"{theirs}.in_proj_{part}": torch.cat([one[part] for one in parts])
                          for part in ("weight", "bias")}
                state |= {f"{theirs}.out_proj.{part}": given[f"{here}{ours}.out_proj.{part}"]
                          for part in ("weight", "bias")}
        layer.load_state_dict(state)
        return layer.eval()

    def final(x: Any, side: str) -> Any:
        return layer_norm(x, (width,), given[f"{side}.layer_norm.weight"], given[f"{side}.layer_norm.bias"])

    x = torch.tensor(sound)
    for name, stride in (("conv1", 1), ("conv2", 2)):
        x = gelu(conv1d(x, given[f"encoder.{name}.weight"], given[f"encoder.{name}.bias"], stride, 1))
    x = x.transpose(1, 2) + given["encoder.embed_positions.weight"]
    with torch.no_grad():
        for k in range(WHISPER["encoder_layers"]):
            x = loaded(TransformerEncoderLayer, "encoder", k)(x)
        table = given["decoder.embed_tokens.weight"]
        y = (table[torch.tensor(tokens)] + given["decoder.embed_positions.weight"][:len(tokens)])[None]
        mask = torch.nn.Transformer.generate_square_subsequent_mask(len(tokens))
        for k in range(WHISPER["decoder_layers"]):
            y = loaded(TransformerDecoderLayer, "decoder", k)(y, final(x, "encoder"), tgt_mask=mask)
        return (final(y, "decoder") @ table.T)[0].numpy()


def test_logits_are_torchs(whisper: Path) -> None:
    sound = np.random.default_rng(0).normal(size=(1, 20, 60)).astype(np.float32)
    tokens = [3, 9, 17, 4, 60, 9]
    assert {path.name for path in whisper.iterdir()} == {"manifest.json", "model-encoder", "model.onnx", "report.html",
                                                         "report.json", "selftest.npz", "tokenizer.json"}
    with load(whisper) as model:
        assert model.self_test().status == "pass"
        found, again = (model.pair.logits({"input_features": sound}, tokens) for _ in range(2))
    expected = torch_logits(sound, tokens)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    np.testing.assert_array_equal(found, again)


@pytest.mark.parametrize(("family", "target", "bits", "error"), [
    ("whisper", "onnxruntime", 8, .05), ("whisper", "tflite", 8, .05), ("t5", "tflite", 32, 1e-4),
    ("t5", "onnxruntime", 4, .5)])
def test_targets(family: str, target: str, bits: int, error: float, tmp_path: Path) -> None:
    """Against the float graphs run by onnxruntime."""
    import onnx_ir as ir
    import onnxruntime

    from edgeq.frontends.transformer.source import open_folder

    source = save_pair(tmp_path / "tiny", WHISPER if family == "whisper" else PAIRS[family])
    made = edgeq.convert(source, target=target, bits=bits, output=tmp_path / "b.edgeq")
    random, tokens = np.random.default_rng(0), [3, 9, 17, 4]
    given: dict[str, Any] = {"input_ids": np.array([[5, 6, 7, 8, 1]])} if family == "t5" else {
        "input_features": random.normal(size=(1, 20, 60)).astype(np.float32)}
    for number, graph in enumerate(open_folder(source).pair()):
        ir.save(graph, tmp_path / f"{number}.onnx")
    first, second = (onnxruntime.InferenceSession(str(tmp_path / f"{number}.onnx")) for number in range(2))
    read = dict(zip([value.name for value in first.get_outputs()], first.run(None, given), strict=True))
    past = {value.name: np.zeros(value.shape, np.float32) for value in second.get_inputs() if "past" in value.name}
    expected, *_ = second.run(["logits"], {"input_ids": [[3]], "position": [0], **read, **past})
    with made.load() as model:
        assert model.self_test().ok
        found = model.pair.logits(given, tokens)
    assert np.abs(found[0] - expected[0]).max() <= error * np.abs(expected).max()


def test_translates_greedily(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = edgeq.convert(save_pair(tmp_path / "tiny", PAIRS["t5"]), target="onnxruntime", output=tmp_path / "b.edgeq")
    with made.load() as model:
        said = model.translate("w5 w6 w7", max_tokens=6)
        tokens = [0]
        for _ in range(6):
            tokens.append(int(model.pair.logits({"input_ids": np.array([[5, 6, 7, 1]])}, tokens)[-1].argmax()))
        with pytest.raises(InputError, match="201 tokens, and the encoder reads 1 to 200"):
            model.translate("w5 " * 200)
        with pytest.raises(EdgeqError, match="reads no sound: use `translate`"):
            model.transcribe(np.zeros(16000, np.float32))
    ended = tokens.index(1) if 1 in tokens else 7
    assert [f"w{token}" for token in tokens[1:ended] if 3 < token < 80] == [
        word for word in said.split() if word.startswith("w")]
    found = CliRunner().invoke(main, ["translate", str(made.path), "w5 w6 w7", "--max-tokens", "6", "--json"])
    assert json.loads(found.stdout) == [said]
    assert device([str(made.path), "translate", "w5 w6 w7", "--max-tokens", "6", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [said]


def save_wav(path: Path, seconds: float, rate: int = 16000) -> Path:
    sound = np.random.default_rng(0).normal(0, 3000, int(seconds * rate)).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(sound.tobytes())
    return path


def test_both_command_lines(whisper: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sound = save_wav(tmp_path / "speech.wav", 1.5)  # more than two windows of .6 s
    found = CliRunner().invoke(main, ["transcribe", str(whisper), str(sound), "--json"])
    assert found.exit_code == 0, found.output
    assert device([str(whisper), "transcribe", str(sound), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(found.stdout)


@pytest.mark.parametrize(("seconds", "rate", "message"), [
    (.5, 8000, "the sound has 8000 samples a second, the model takes 16000: resample it"),
    (.05, 16000, "800 samples, which is less than 0.1 s"), (0, 16000, "0 samples, which is less than")])
def test_refuses_sounds(seconds: float, rate: int, message: str, whisper: Path, tmp_path: Path) -> None:
    found = CliRunner().invoke(main, ["transcribe", str(whisper), str(save_wav(tmp_path / "s.wav", seconds, rate))])
    assert found.exit_code == 1
    assert message in found.output
    assert found.output.count("\n") == 1


@pytest.mark.parametrize(("words", "message"), [
    ({"calibration": "x.npz"}, "--calibration is for one network; an encoder with a decoder is two"),
    ({"io": "uint8"}, "--io is for one network"), ({"target": "gguf"}, "--target gguf takes language models alone")])
def test_refuses_words(words: Mapping[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(EdgeqError, match=message):
        edgeq.convert(save_pair(tmp_path / "tiny", WHISPER), **{"target": "onnxruntime", "output": tmp_path / "b.edgeq",
                                                               **words})
    assert {path.name for path in tmp_path.iterdir()} == {"tiny"}


# -- times -------------------------------------------------------------------------------------------------------------

ABOUT = EncoderDecoder("e", 40, 101, (3,), (2,), (5, 6), (7,), timestamps=FIRST_TIME, no_timestamps=80)


class Scripted:
    """Writes what it is told for each window, whatever it hears."""

    about = ABOUT

    def __init__(self, *windows: Sequence[int]) -> None:
        self.windows = list(windows)

    def write(self, source: Any, start: Any, choose: Any, most: int) -> list[int]:
        return list(self.windows.pop(0)) if self.windows else []


def transcriber(whisper: Path, *windows: Sequence[int]) -> Transcriber:
    before = LogMel(16000, samples=9600, fft=400, mels=20)
    return Transcriber(str(whisper), Scripted(*windows), before, "input_features")  # type: ignore[arg-type]


def at(tick: int) -> int:
    return FIRST_TIME + tick


@pytest.mark.parametrize(("windows", "expected"), [
    # One whole segment: the window is done, and the next begins behind it.
    ([[at(0), 10, at(10)], [at(1), 11, at(5)]], [(0, .2, "w10"), (.62, .7, "w11")]),
    # A segment that goes on behind the window is read again from where the one before ended.
    ([[at(0), 10, at(10), at(10), 11], [at(0), 11, at(15)]], [(0, .2, "w10"), (.2, .5, "w11")]),
    # No end is said: all of the window.
    ([[at(0), 10], [at(0), 12, at(19)]], [(0, .6, "w10"), (.6, .98, "w12")]),
], ids=["whole", "cut", "open"])
def test_windows(windows: list[list[int]], expected: list[tuple[float, float, str]], whisper: Path) -> None:
    found = transcriber(whisper, *windows).transcribe(np.zeros(16000, np.float32), 16000)
    assert [one.text for one in found.segments] == [text for *_, text in expected]
    np.testing.assert_allclose([(one.start, one.end) for one in found.segments],
                               [times for *times, _ in expected], atol=1e-6)
    assert found.text == " ".join(text for *_, text in expected)


def test_a_short_sound_has_times_where_asked(whisper: Path) -> None:
    sound = np.zeros(8000, np.float32)
    assert transcriber(whisper, [10, 11]).transcribe(sound) == Transcript("w10 w11", (Segment(0.0, .5, "w10 w11"),))
    timed = transcriber(whisper, [at(2), 10, at(4)]).transcribe(sound, timestamps=True)
    assert timed.segments == (Segment(.04, .08, "w10"),)


def test_an_encoder_decoder_raises_the_format(whisper: Path) -> None:
    found = Manifest.read(whisper)
    assert found.format == 6
    assert found.encoder_decoder == EncoderDecoder(
        "model-encoder", 40, 101, (3,), (2,), (5, 6), (7,), timestamps=FIRST_TIME, no_timestamps=80)
    assert Manifest.from_json(found.to_json()) == found
