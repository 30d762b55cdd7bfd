"""From a sound to a model input, as the manifest declares it; the same code calibrates, verifies and runs."""
from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Dict, Optional, Tuple, Union

import numpy as np

from .errors import BundleError, InputError

_LAYOUTS = ("NMT", "NTM", "NCMT", "NCTM", "NMTC", "NTMC")
_LOGS = {"natural": (np.log, 1.0), "log10": (np.log10, 1.0), "db": (np.log10, 10.0)}


@dataclass(frozen=True)
class LogMel:
    """A log-mel spectrogram: frames, Hann window, Fourier transform, mel filters, logarithm, (x - mean) / std.

    sample_rate: hertz. samples: the sound is cut, or filled with zeros, at its end to this length. window, hop: samples
    of one frame and between two. fft: at least `window`. center: frame k is centred on sample k * hop of the sound,
    reflected at its ends, as torch.stft and librosa do; otherwise it begins there, as tf.signal.stft. power: of the
    magnitude. mels, low_hz, high_hz (None: half the sample rate): the filters. scale: "htk" or "slaney". norm: "slaney"
    for filters of equal area, or "none" for a peak of 1. log: of max(x, floor) + offset, "natural", "log10" or "db"
    (ten times log10). below: what is further under the loudest is raised to there, in units of `log`. frames: no more
    than so many. layout: "NMT", "NTM", "NCMT", "NCTM", "NMTC" or "NTMC", with M the mels, T the frames and C = 1.
    """

    sample_rate: int
    samples: Optional[int] = None
    window: int = 400
    hop: int = 160
    fft: int = 512
    center: bool = True
    power: float = 2.0
    mels: int = 40
    low_hz: float = 0.0
    high_hz: Optional[float] = None
    scale: str = "htk"
    norm: str = "none"
    log: str = "natural"
    floor: float = 1e-10
    offset: float = 0.0
    mean: float = 0.0
    std: float = 1.0
    layout: str = "NMT"
    below: Optional[float] = None
    frames: Optional[int] = None

    def __post_init__(self) -> None:
        for field, known in (("scale", ("htk", "slaney")), ("norm", ("none", "slaney")), ("log", tuple(_LOGS)),
                             ("layout", _LAYOUTS)):
            if getattr(self, field) not in known:
                raise BundleError(f"preprocessing: {field} is one of {', '.join(known)}; got {getattr(self, field)}")
        sizes = (self.sample_rate, self.window, self.hop, self.mels, 1 if self.samples is None else self.samples)
        if min(sizes) < 1 or self.fft < self.window:
            raise BundleError("preprocessing: sizes are positive, and fft is at least window")
        if not 0 <= self.low_hz < self.top_hz <= self.sample_rate / 2:
            raise BundleError("preprocessing: 0 <= low_hz < high_hz <= sample_rate / 2")
        if self.std == 0 or self.floor < 0 or self.floor + self.offset <= 0:
            raise BundleError("preprocessing: std is not 0, and floor + offset is above 0: silence has a logarithm")

    @property
    def top_hz(self) -> float:
        return self.sample_rate / 2 if self.high_hz is None else self.high_hz

    def to_dict(self) -> Dict[str, Any]:
        later = {"below", "frames"}  # older runtimes know no such word
        return {"kind": "log-mel", **{name: value for name, value in asdict(self).items()
                                      if name not in later or value is not None}}

    def __call__(self, sound: Any, rate: Optional[int] = None) -> Any:
        """sound float32 [samples], -1 to 1 -> float32 in `layout`, one sample. rate: where it is known, to be checked.

        Raises:
            InputError: not such a sound, too short for a frame, or of another rate.
        """
        sound = np.asarray(sound)
        if sound.ndim != 1 or sound.dtype.kind != "f":
            raise InputError(f"a sound is a float array [samples], got {sound.dtype} {list(sound.shape)}")
        if rate is not None and rate != self.sample_rate:
            raise InputError(f"the sound has {rate} samples a second, the model takes {self.sample_rate}: resample it")
        mels = _mel_filters(self) @ self._spectrum(self._cut(sound.astype(np.float64)))[:, :self.frames]
        log, factor = _LOGS[self.log]
        found = factor * log(np.maximum(mels, self.floor) + self.offset)
        if self.below is not None:
            found = np.maximum(found, found.max() - self.below)
        return self._laid_out(((found - self.mean) / self.std).astype(np.float32))

    def _cut(self, sound: Any) -> Any:
        if self.samples is None:
            return sound
        return np.pad(sound[:self.samples], (0, max(0, self.samples - sound.size)))

    def _spectrum(self, sound: Any) -> Any:
        """float64 [samples] -> [fft / 2 + 1, frames]."""
        half = self.fft // 2
        shortest = half + 1 if self.center else self.window
        if sound.size < shortest:
            raise InputError(f"the sound has {sound.size} samples; a frame needs {shortest}")
        # A frame of torch is fft long with the window in its middle: the same magnitudes as the window's part alone.
        first, end = ((self.fft - self.window) // 2, sound.size + 2 * half - self.fft) if self.center else (
            0, sound.size - self.window)
        padded = np.pad(sound, half, mode="reflect") if self.center else sound
        starts = first + np.arange(end // self.hop + 1) * self.hop
        hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(self.window) / self.window)
        frames = padded[starts[:, None] + np.arange(self.window)] * hann
        return np.abs(np.fft.rfft(frames, self.fft, axis=1).T) ** self.power

    def _laid_out(self, mels: Any) -> Any:
        """[M,T] -> as `layout` says."""
        mels = mels if self.layout.index("M") < self.layout.index("T") else mels.T
        sizes = iter(mels.shape)
        return np.ascontiguousarray(mels.reshape([1 if axis in "NC" else next(sizes) for axis in self.layout]))


def _mel_filters(spec: LogMel) -> Any:
    """Triangles on the mel scale, float64 [mels, fft / 2 + 1]."""
    low_mel, top_mel = (float(_to_mel(hertz, spec.scale)) for hertz in (spec.low_hz, spec.top_hz))
    edges = _to_hertz(np.linspace(low_mel, top_mel, spec.mels + 2), spec.scale)
    bins = np.arange(spec.fft // 2 + 1) * spec.sample_rate / spec.fft
    low, peak, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    filters = np.maximum(0, np.minimum((bins - low) / (peak - low), (high - bins) / (high - peak)))
    return filters * 2 / (high - low) if spec.norm == "slaney" else filters


# Slaney's Auditory Toolbox, as in librosa: linear up to 1000 Hz, then 27 steps for a factor of 6.4.
_LINEAR, _BREAK, _STEP = 200 / 3, 1000.0, np.log(6.4) / 27


def _to_mel(hertz: Any, scale: str) -> Any:
    if scale == "htk":
        return 2595 * np.log10(1 + hertz / 700)
    return np.where(hertz < _BREAK, hertz / _LINEAR, _BREAK / _LINEAR + np.log(np.maximum(hertz, 1) / _BREAK) / _STEP)


def _to_hertz(mel: Any, scale: str) -> Any:
    if scale == "htk":
        return 700 * (10 ** (mel / 2595) - 1)
    return np.where(mel < _BREAK / _LINEAR, mel * _LINEAR, _BREAK * np.exp(_STEP * (mel - _BREAK / _LINEAR)))


def read_wav(path: Union[str, Path]) -> Tuple[Any, int]:
    """A .wav file of 8, 16, 24 or 32 bit integers -> (float32 [samples] from -1 to 1, samples per second).

    Several channels become their mean.

    Raises:
        InputError: it cannot be read, or holds something else.
    """
    import wave

    try:
        with wave.open(str(path), "rb") as file:
            width, channels, rate = file.getsampwidth(), file.getnchannels(), file.getframerate()
            data = file.readframes(file.getnframes())
    except (OSError, EOFError, wave.Error) as error:
        raise InputError(f"cannot read the sound {path}: {error}") from None
    data = data[:len(data) - len(data) % (width * channels)]  # a file that was cut off
    if width == 1:
        values = np.frombuffer(data, np.uint8).astype(np.float32) / 128 - 1
    else:  # the bytes of an integer become the upper ones of an int32
        bytes_ = np.zeros((len(data) // width, 4), np.uint8)
        bytes_[:, 4 - width:] = np.frombuffer(data, np.uint8).reshape(-1, width)
        values = (bytes_.view("<i4")[:, 0] / 2**31).astype(np.float32)
    return values.reshape(-1, channels).mean(axis=1, dtype=np.float32), rate
