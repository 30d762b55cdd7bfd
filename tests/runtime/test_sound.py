"""Log-mel spectrograms against torch.stft, and against the formulas written out."""
from __future__ import annotations

import json
import wave
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeq_runtime import BundleError, InputError
from edgeq_runtime.preprocess import from_dict
from edgeq_runtime.sound import LogMel, _mel_filters, _to_hertz, _to_mel, read_wav

SPEECH = LogMel(16000, window=400, hop=160, fft=512, mels=13)


def sound(samples: int) -> Any:
    time = np.arange(samples) / 16000
    noise = np.random.default_rng(7).normal(size=samples)
    return (.5 * np.sin(2 * np.pi * 440 * time) + .2 * np.sin(2 * np.pi * 3000 * time) + .01 * noise).astype(np.float32)


@pytest.mark.parametrize("spec", [
    SPEECH, replace(SPEECH, window=512), replace(SPEECH, window=400, fft=400, hop=133), replace(SPEECH, power=1.0),
    replace(SPEECH, window=512, center=False)])
@pytest.mark.parametrize("samples", [1600, 1703])
def test_the_spectrum_is_torchs(spec: LogMel, samples: int) -> None:
    torch = pytest.importorskip("torch", reason="torch.stft is the reference")
    wanted = torch.stft(torch.from_numpy(sound(samples)).double(), spec.fft, spec.hop, spec.window,
                        torch.hann_window(spec.window, dtype=torch.float64), center=spec.center, pad_mode="reflect",
                        return_complex=True).abs().numpy() ** spec.power
    found = spec._spectrum(sound(samples).astype(np.float64))
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-12 * wanted.max())


def test_frames_without_center_begin_at_multiples_of_hop() -> None:
    """As tf.signal.stft: the window's samples, then zeros up to the transform's length."""
    spec = replace(SPEECH, center=False)
    data = sound(1000).astype(np.float64)
    found = spec._spectrum(data)
    assert found.shape == (257, (1000 - 400) // 160 + 1)
    hann = np.array([.5 - .5 * np.cos(2 * np.pi * n / 400) for n in range(400)])
    frame = np.concatenate([data[160:560] * hann, np.zeros(112)])
    np.testing.assert_allclose(found[:, 1], np.abs(np.fft.fft(frame)[:257]) ** 2, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("scale", ["htk", "slaney"])
@pytest.mark.parametrize("norm", ["none", "slaney"])
def test_the_filters_are_triangles_between_mels(scale: str, norm: str) -> None:
    spec = replace(SPEECH, scale=scale, norm=norm, low_hz=20.0, high_hz=7600.0)
    low, top = (float(_to_mel(hertz, scale)) for hertz in (20.0, 7600.0))
    edges = [float(_to_hertz(low + (top - low) * k / 14, scale)) for k in range(15)]
    filters = _mel_filters(spec)
    for m in range(13):
        left, peak, right = edges[m:m + 3]
        for k in range(257):
            hertz = k * 16000 / 512
            height = max(0.0, min((hertz - left) / (peak - left), (right - hertz) / (right - peak)))
            area = 2 / (right - left) if norm == "slaney" else 1.0
            assert filters[m, k] == pytest.approx(height * area, abs=1e-12)


def test_the_mel_scales_are_the_published_ones() -> None:
    """1000 Hz is about 1000 mel on HTK's; Slaney's reaches 15 there, is linear below, and 6.4 kHz lies 27 steps up."""
    assert _to_mel(1000.0, "htk") == pytest.approx(1000, abs=.1)
    assert _to_mel(1000.0, "slaney") == pytest.approx(15)
    assert _to_mel(500.0, "slaney") == pytest.approx(7.5)
    assert _to_mel(6400.0, "slaney") == pytest.approx(15 + 27)
    hertz = np.array([0, 31.0, 440, 999, 1000, 1001, 7999])
    for scale in ("htk", "slaney"):
        np.testing.assert_allclose(_to_hertz(_to_mel(hertz, scale), scale), hertz, atol=1e-9)


@pytest.mark.full
@pytest.mark.parametrize("scale", ["htk", "slaney"])
@pytest.mark.parametrize("norm", ["none", "slaney"])
def test_the_filters_are_those_of_transformers(scale: str, norm: str) -> None:
    audio = pytest.importorskip("transformers.audio_utils", reason="another implementation")
    wanted = audio.mel_filter_bank(257, 13, 20.0, 7600.0, 16000, norm=None if norm == "none" else norm, mel_scale=scale)
    found = _mel_filters(replace(SPEECH, scale=scale, norm=norm, low_hz=20.0, high_hz=7600.0))
    np.testing.assert_allclose(found, wanted.T, rtol=0, atol=1e-9)


def test_logarithm_normalization_and_silence() -> None:
    data = sound(1600)
    mels = _mel_filters(SPEECH) @ SPEECH._spectrum(data.astype(np.float64))
    for changes, wanted in [
        ({"log": "natural"}, np.log(mels)), ({"log": "log10"}, np.log10(mels)), ({"log": "db"}, 10 * np.log10(mels)),
        ({"mean": -3.0, "std": 2.0}, (np.log(mels) + 3) / 2), ({"floor": 0.0, "offset": 1e-6}, np.log(mels + 1e-6)),
    ]:
        np.testing.assert_allclose(replace(SPEECH, **changes)(data)[0], wanted, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(SPEECH(np.zeros(1600, np.float32)), np.log(1e-10), rtol=1e-6)


@pytest.mark.parametrize("layout", ["NMT", "NTM", "NCMT", "NCTM", "NMTC", "NTMC"])
def test_layouts_name_their_axes(layout: str) -> None:
    sizes = {"N": 1, "C": 1, "M": 13, "T": 11}
    found = replace(SPEECH, layout=layout)(sound(1600))
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    assert found.shape == tuple(sizes[axis] for axis in layout)
    plain = SPEECH(sound(1600))[0]
    np.testing.assert_array_equal(found.squeeze(), plain if layout.index("M") < layout.index("T") else plain.T)


def test_a_sound_is_cut_or_filled() -> None:
    second = replace(SPEECH, samples=16000)
    assert second(sound(20000)).shape == second(sound(100)).shape == (1, 13, 101)
    np.testing.assert_array_equal(second(sound(20000)), SPEECH(sound(20000)[:16000]))
    np.testing.assert_array_equal(second(sound(1000)), SPEECH(np.append(sound(1000), np.zeros(15000, np.float32))))


def test_survives_the_manifest() -> None:
    assert from_dict(json.loads(json.dumps(SPEECH.to_dict()))) == SPEECH


@pytest.mark.parametrize(("changes", "message"), [
    ({"scale": "bark"}, "scale is one of htk, slaney; got bark"), ({"layout": "TM"}, "layout is one of"),
    ({"fft": 256}, "fft is at least window"), ({"hop": 0}, "sizes are positive"), ({"std": 0.0}, "std is not 0"),
    ({"floor": 0.0}, "silence has a logarithm"), ({"window": 1.5}, "window should be an"),
    ({"high_hz": 9000.0}, "sample_rate / 2"),
    ({"tempo": 1}, "unknown key 'tempo'"), ({"kind": "mfcc"}, "no kind 'mfcc'; this runtime knows image, log-mel"),
])
def test_refuses_a_declaration(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BundleError, match=message):
        from_dict({**SPEECH.to_dict(), **changes})


@pytest.mark.parametrize(("data", "rate", "message"), [
    (np.zeros((2, 1600), np.float32), None, r"a sound is a float array \[samples\], got float32 \[2, 1600\]"),
    (np.zeros(1600, np.int16), None, "got int16"), (np.zeros(100, np.float32), None, "100 samples; a frame needs 257"),
    (np.zeros(1600, np.float32), 44100, "44100 samples a second, the model takes 16000: resample it"),
])
def test_refuses_a_sound(data: Any, rate: int | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        SPEECH(data, rate)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32"])
@pytest.mark.parametrize("channels", [1, 2])
def test_reads_wav_as_libsndfile(tmp_path: Path, subtype: str, channels: int) -> None:
    soundfile = pytest.importorskip("soundfile", reason="libsndfile is the reference")
    data = np.stack([sound(500), sound(500)[::-1]], axis=1)[:, :channels]
    soundfile.write(tmp_path / "a.wav", data, 16000, subtype=subtype)
    found, rate = read_wav(tmp_path / "a.wav")
    assert rate == 16000
    wanted = soundfile.read(tmp_path / "a.wav", dtype="float32", always_2d=True)[0].mean(axis=1)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-7)


def test_a_wav_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"RIFF....WAVE")
    with pytest.raises(InputError, match=r"cannot read the sound .*a\.wav"):
        read_wav(tmp_path / "a.wav")
    with pytest.raises(InputError, match="cannot read the sound"):
        read_wav(tmp_path / "nowhere.wav")


def test_a_wav_that_was_cut_off(tmp_path: Path) -> None:
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(np.arange(100, dtype="<i2").tobytes())
    whole = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "a.wav").write_bytes(whole[:-51])
    np.testing.assert_array_equal(read_wav(tmp_path / "a.wav")[0], np.arange(74, dtype=np.float32) / 2**15)
