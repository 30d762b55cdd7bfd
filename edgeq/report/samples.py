"""The samples of report.html: pictures that went in, and what the float model and the bundle make of them."""
from __future__ import annotations

import struct
import zlib
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

from edgeq.report.page import section
from edgeq.report.verdict import decibels
from edgeq_runtime.postprocess import Detection, Scored


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One of the verified inputs. number: which. picture: uint8 [H,W,channels], 1 or 3 of them, or None where the input
    is none. size: (height, width) of the model's input, in whose pixels boxes are. real, quantized: the answers of the
    float model and of the bundle. changed: they say something else. sqnr_db: of the outputs.
    """

    number: int
    picture: NDArray[np.uint8] | None
    size: tuple[int, int]
    real: Sequence[Scored]
    quantized: Sequence[Scored]
    changed: bool
    sqnr_db: float


def samples_html(samples: Sequence[Sample], shown: int, what: str) -> str:
    """samples: those that changed first. shown: how many have a card. what: where they come from."""
    if not samples:
        return ""
    changed = sum(sample.changed for sample in samples)
    said = f"{len(samples) - changed} of {len(samples)} answers are those of the float model"
    order = "; those that changed come first" if changed else "; the least alike come first"
    cards = "".join(map(_card, samples[:shown]))
    drawn = any(isinstance(one, Detection) for sample in samples for one in sample.real)
    boxes = " Boxes: dashed those of the float model, yellow those of the bundle." if drawn else ""
    return section("Samples", f'<p>{said}{order}.</p><div class="cards">{cards}</div>'
                              f'<p class="note">{escape(what)}.{boxes}</p>')


def _card(sample: Sample) -> str:
    picture = "" if sample.picture is None else _picture(sample)
    columns = "".join(f"<td>{_answers(answers)}</td>" for answers in (sample.real, sample.quantized))
    word = "changed" if sample.changed else "same"
    return (f'<figure class="{word}">{picture}<table><tr><th>float</th><th>bundle</th></tr><tr>{columns}</tr></table>'
            f"<figcaption>sample {sample.number}: <b>{word}</b>, {decibels(sample.sqnr_db)}</figcaption></figure>")


def _answers(found: Sequence[Scored]) -> str:
    lines = [f"{escape(one.label)} <span>{one.score:.{2 if abs(one.score) <= 1 else 1}f}</span>"
             for one in found[:_LINES]]
    more = len(found) - _LINES if any(isinstance(one, Detection) for one in found) else 0
    return "<br>".join([*lines, *([f"and {more} more"] if more > 0 else [])]) or "nothing"


_LINES = 3


def _picture(sample: Sample) -> str:
    """The picture with its boxes: those of float dashed under those of the bundle."""
    assert sample.picture is not None
    high, wide = sample.size
    rough = ' class="rough"' if max(sample.picture.shape) < 64 else ""
    boxes = "".join(f'<path class="{kind}" d="M{x0:.1f},{y0:.1f}H{x1:.1f}V{y1:.1f}H{x0:.1f}z"/>'
                    for kind, answers in (("float", sample.real), ("bundle", sample.quantized))
                    for x0, y0, x1, y1 in (one.box for one in answers if isinstance(one, Detection)))
    drawn = f'<svg viewBox="0 0 {wide} {high}" preserveAspectRatio="none">{boxes}</svg>' if boxes else ""
    data = b64encode(png(sample.picture)).decode()
    return (f'<div class="picture"><img{rough} alt="sample {sample.number}" src="data:image/png;base64,{data}">{drawn}'
            "</div>")


def png(pixels: NDArray[np.uint8]) -> bytes:
    """uint8 [H,W,channels], 1 or 3 -> a file. Format: https://www.w3.org/TR/png-3/"""
    height, width, channels = pixels.shape
    lines = np.diff(pixels.reshape(height, -1), axis=0, prepend=np.uint8(0))  # filter 2: less the line above
    filtered = np.insert(lines, 0, 2, axis=1)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0 if channels == 1 else 2, 0, 0, 0)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(filtered.tobytes(), 9))
            + chunk(b"IEND", b""))
