"""Every family against transformers, whose code shares nothing with ours."""
from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from encoder_decoders import WHISPER, save_pair
from frontends.transformer.families import ENCODERS, PAIRS

from edgeq.conversion.pair import log_mel
from edgeq.frontends.transformer.source import open_folder
from edgeq_runtime.language.speech import Transcriber
from edgeq_runtime.manifest import EncoderDecoder

pytestmark = [pytest.mark.full, pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")]
RELATIVE = 1e-4  # of the largest number


def made(words: dict[str, Any], kind: str, folder: Path) -> Any:
    """A model of random weights, saved as its users save theirs."""
    transformers = pytest.importorskip("transformers", reason="installed by `make test-full`")
    words = dict(words)
    config = transformers.AutoConfig.for_model(words.pop("model_type"), **words)
    torch.manual_seed(0)
    model = getattr(transformers, kind).from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "embed_positions" in name and config.model_type == "marian":
                continue  # they follow from their number
            is_gain = weight.ndim == 1 and "norm" in name.lower() and "weight" in name
            weight.copy_(torch.randn_like(weight) * (0.3 if weight.ndim > 1 else 0.2) + float(is_gain))
        for name, buffer in model.named_buffers():
            if name.endswith("final_logits_bias"):
                buffer.copy_(torch.randn_like(buffer))
    model.save_pretrained(folder)
    return model


def session(model: ir.Model, path: Path) -> Any:
    ir.save(model, path)
    return onnxruntime.InferenceSession(str(path))


@pytest.mark.parametrize("name", ENCODERS)
def test_encoders(name: str, tmp_path: Path) -> None:
    model = made(ENCODERS[name], "AutoModel", tmp_path)
    tokens = np.random.default_rng(0).integers(3, 101, (1, 19))
    with torch.no_grad():
        expected = model(torch.tensor(tokens)).last_hidden_state.mean(1).numpy()
    got, = session(open_folder(tmp_path).encoder(), tmp_path / "encoder.onnx").run(None, {"input_ids": tokens})
    np.testing.assert_allclose(got, expected, rtol=0, atol=RELATIVE * np.abs(expected).max())


@pytest.mark.parametrize("name", PAIRS)
def test_encoders_with_decoders(name: str, tmp_path: Path) -> None:
    kind = "AutoModelForSpeechSeq2Seq" if name == "whisper" else "AutoModelForSeq2SeqLM"
    model = made(PAIRS[name], kind, tmp_path)
    random = np.random.default_rng(0)
    source, given = random.integers(3, 99, (1, 23)), "input_ids"
    if name == "whisper":
        source, given = random.normal(size=(1, 20, 60)).astype(np.float32), "input_features"
    tokens = random.integers(3, 99, (1, 35))
    with torch.no_grad():
        expected = model(torch.tensor(source), decoder_input_ids=torch.tensor(tokens)).logits.numpy()[0]
    folder = open_folder(tmp_path)
    first, second = (session(graph, tmp_path / f"{k}.onnx") for k, graph in enumerate(folder.pair()))
    read = dict(zip([value.name for value in first.get_outputs()], first.run(None, {given: source}), strict=True))
    past = {value.name: np.full(value.shape, 9, np.float32) for value in second.get_inputs()
            if value.name.startswith("past.")}
    for place, token in enumerate(tokens[0]):
        found = dict(zip([value.name for value in second.get_outputs()], second.run(
            None, {"input_ids": np.array([[token]]), "position": np.array([place]), **read, **past}), strict=True))
        np.testing.assert_allclose(found["logits"][0], expected[place], rtol=0, atol=RELATIVE * np.abs(expected).max())
        for key, value in found.items():
            if key.startswith("new."):
                past[f"past.{key[4:]}"][:, :, place] = value[:, :, 0]


def test_what_whisper_hears() -> None:
    transformers = pytest.importorskip("transformers", reason="installed by `make test-full`")
    before = log_mel(2 * 1500, 80)
    sound = (np.random.default_rng(0).normal(size=50_001) * np.linspace(0, .3, 50_001)).astype(np.float32)
    expected = transformers.WhisperFeatureExtractor()(sound, sampling_rate=16000, return_tensors="np").input_features
    np.testing.assert_allclose(before(sound, 16000), expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_when_whisper_says_times(tmp_path: Path) -> None:
    """The rules for tokens of time, on random logits behind random texts."""
    transformers = pytest.importorskip("transformers", reason="installed by `make test-full`")
    about = EncoderDecoder("e", 40, 101, (3,), (2,), timestamps=50, no_timestamps=49)
    folder = save_pair(tmp_path / "tiny", WHISPER)
    told = transformers.GenerationConfig(eos_token_id=2, no_timestamps_token_id=49, max_initial_timestamp_index=50)
    theirs = transformers.WhisperTimeStampLogitsProcessor(told, begin_index=1)
    pair = Namespace(about=about)
    ours = Transcriber(str(folder), pair, log_mel(60, 20), "input_features")  # type: ignore[arg-type]
    random, forced = np.random.default_rng(0), 0
    for _ in range(300):
        times = np.sort(random.integers(50, 80, 6)).tolist()
        tokens = [int(times.pop(0)) if random.random() < .4 else int(random.integers(4, 49))
                  for _ in range(random.integers(0, 6))]
        logits = (random.normal(size=101) * 3).astype(np.float32)
        expected = theirs(torch.tensor([[3, *tokens]]), torch.tensor(logits[None].copy()))[0].numpy()
        ours._allow_times(logits, tokens, 100, timed=True)
        np.testing.assert_array_equal(np.isinf(logits), np.isinf(expected), str(tokens))
        forced += np.isinf(logits[:49]).all()
    assert 30 < forced < 270
