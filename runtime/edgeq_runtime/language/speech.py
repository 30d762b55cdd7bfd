"""Speech to text: sound of any length, in windows that begin where the last whole segment has ended.

Radford et al. 2022, arXiv:2212.04356, section 3.8 (windows) and its code's rules for tokens of time. Without their
temperatures, and without the text before as a prompt.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from edgeq_runtime.errors import BundleError, InputError
from edgeq_runtime.integrity import inside

from .pair import Pair, likeliest
from .text import open_tokenizer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgeq_runtime.sound import LogMel

TICK = 0.02  # seconds between two tokens of time
FIRST = 50  # ticks: how late a text may begin
LEAST = 0.1  # seconds of sound that are worth a window


@dataclass(frozen=True)
class Segment:
    """start, end: seconds from the beginning of the sound."""

    start: float
    end: float
    text: str


@dataclass(frozen=True)
class Transcript:
    """text: of the whole. segments: its parts; one for each window where no times were asked for."""

    text: str
    segments: Tuple[Segment, ...]


def written_down(found: Transcript, *, times: bool) -> str:
    """For people: the text, or a line for each segment with its times."""
    if not times:
        return found.text
    return "\n".join(f"[{_clock(one.start)} --> {_clock(one.end)}] {one.text}" for one in found.segments)


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60:02}:{seconds % 60:05.2f}"


class Transcriber:
    """before: makes the encoder's only input, called `name`, of a sound, and says how long a window is."""

    def __init__(self, folder: str, pair: Pair, before: LogMel, name: str) -> None:
        if before.samples is None:
            raise BundleError("the bundle does not say how long a window of sound is: convert it again")
        self._pair, self._before, self._window, self._name = pair, before, before.samples, name
        self._tokenizer = open_tokenizer(inside(folder, pair.about.tokenizer), pair.about.vocabulary)

    def transcribe(self, sound: Any, rate: Optional[int] = None, *, timestamps: bool = False,
                   language: Optional[str] = None, task: str = "transcribe") -> Transcript:
        """sound: float [samples], -1 to 1. rate: samples a second, where it is known. timestamps: segments with their
        times; a sound that is longer than a window has them in any case. language: of the speech, where the model
        knows several. task: "transcribe", or "translate" to English where the model can.

        Raises:
            InputError: not such a sound, of another rate, or too short; a language or task that the model does not
            know. EngineError: the engine failed.
        """
        sound = np.asarray(sound)
        if sound.ndim != 1 or sound.dtype.kind != "f" or not np.isfinite(sound).all():
            raise InputError(f"a sound is a float array [samples] of finite numbers, got {sound.dtype} "
                             f"{list(sound.shape)}")
        hertz = self._before.sample_rate
        if rate is not None and rate != hertz:
            raise InputError(f"the sound has {rate} samples a second, the model takes {hertz}: resample it")
        if sound.size < LEAST * hertz:
            raise InputError(f"the sound has {sound.size} samples, which is less than {LEAST} s: no speech is so short")
        start = self._start(language, task)
        if sound.size <= self._window and not timestamps:
            about = self._pair.about
            quiet = [] if about.no_timestamps is None else [about.no_timestamps]
            text = self._text(self._written(sound, [*start, *quiet], timed=False))
            return Transcript(text, (Segment(0.0, sound.size / hertz, text),))
        return self._in_windows(sound, start)

    def _in_windows(self, sound: NDArray[Any], start: List[int]) -> Transcript:
        if self._pair.about.timestamps is None:
            raise InputError("this model writes no times, so it takes no sound longer than "
                             f"{self._window / self._before.sample_rate:g} s")
        hertz, place, segments = self._before.sample_rate, 0, []
        while sound.size - place >= LEAST * hertz:
            part = sound[place:place + self._window]
            tokens = self._written(part, start, timed=True)
            found, end = self._segments(tokens, part.size / hertz)
            segments += [Segment(place / hertz + one.start, place / hertz + one.end, one.text)
                         for one in found if one.text]
            place += max(int(end * hertz), self._before.hop)
        return Transcript(" ".join(one.text for one in segments), tuple(segments))

    def _written(self, part: NDArray[Any], start: Sequence[int], *, timed: bool) -> List[int]:
        plain = likeliest(self._pair.about)
        ticks = int(np.ceil(part.size / self._before.sample_rate / TICK))

        def choose(logits: NDArray[Any], tokens: Sequence[int]) -> int:
            self._allow_times(logits, tokens, ticks, timed=timed)
            return plain(logits, tokens)

        # Half of the context, as the code of the paper has it: the other half is for a text before.
        return self._pair.write({self._name: self._before(part)}, start, choose, self._pair.about.context // 2)

    def _allow_times(self, logits: NDArray[Any], tokens: Sequence[int], ticks: int, *, timed: bool) -> None:
        """Rules for tokens of time, into the logits: they come in pairs, ascend, and begin early; one is written where
        all of them together are likelier than any other token. ticks: of the sound.
        """
        about = self._pair.about
        logits[list(about.suppressed)] = -np.inf
        if about.no_timestamps is not None:
            logits[about.no_timestamps] = -np.inf
        first = about.timestamps
        if first is None:
            return
        if not timed:
            logits[first:] = -np.inf
            return
        logits[first + ticks + 1:] = -np.inf
        if not tokens:
            logits[:first] = -np.inf
            logits[first + FIRST + 1:] = -np.inf
            return
        times = [token for token in tokens if token >= first]
        was_time = tokens[-1] >= first
        if was_time and (len(tokens) < 2 or tokens[-2] >= first):
            logits[first:] = -np.inf  # a segment has begun: text
        elif was_time:
            logits[:min(about.eos)] = -np.inf  # a segment has ended: the next one begins, or nothing
        if times:
            logits[first:times[-1] + (0 if was_time and len(tokens) > 1 and tokens[-2] < first else 1)] = -np.inf
        weights = np.exp(logits - logits.max())
        if weights[first:].sum() > weights[:first].max():
            logits[:first] = -np.inf

    def _segments(self, tokens: List[int], seconds: float) -> Tuple[List[Segment], float]:
        """-> segments in seconds from the window's beginning, and where the next window begins."""
        first = self._pair.about.timestamps
        assert first is not None
        found: List[Segment] = []
        text: List[int] = []
        begun = closed = 0.0
        for token in tokens:
            if token < first:
                text.append(token)
                continue
            time = (token - first) * TICK
            if text:
                found.append(Segment(begun, time, self._text(text)))
                closed, text = time, []
            begun = time
        if text:  # it goes on behind the window, or the model has not said where it ends
            return ([*found, Segment(begun, seconds, self._text(text))], seconds) if not found else (found, closed)
        is_single = len(tokens) > 1 and tokens[-1] >= first and tokens[-2] < first
        return found, seconds if not found or is_single else closed

    def _text(self, tokens: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(list(tokens), skip_special_tokens=True)
        return text.strip()

    def _start(self, language: Optional[str], task: str) -> List[int]:
        about = self._pair.about
        if not about.languages:
            if language not in (None, "en") or task != "transcribe":
                raise InputError("this model knows English alone, and no other task than to transcribe it")
            return list(about.start)
        return [*about.start, _named("language", language or "", about.languages), _named("task", task, about.tasks)]


def _named(what: str, name: str, known: Dict[str, Any]) -> int:
    if name not in known:
        raise InputError(f"name the {what}: one of {', '.join(sorted(known))}" + (f"; not '{name}'" if name else ""))
    return int(known[name])
