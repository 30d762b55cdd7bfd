"""The plots of report.html, as SVG text."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgeq import policy
from edgeq.report.svg import Panel, drawing
from edgeq.verification.layers import Layer
from edgeq_runtime.errors import printable

GOOD, DOUBTFUL, BAD, PLAIN, ENDS = "#2e7d32", "#e69f00", "#c62828", "#6b7f99", "currentColor"
COLORS: Final = {"Good": GOOD, "Doubtful": DOUBTFUL, "Broken": BAD}  # by the word of report.verdict
SHOWN_DB: Final = (-10.0, 60.0)  # a layer beyond is as good as equal, or as good as lost
BINS: Final = 64


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """The weights of a layer. real: float numbers in steps of their grid; stored: the integers. ends: of the grid."""

    name: str
    real: NDArray[np.float32]
    stored: NDArray[np.int32]
    ends: tuple[int, int]
    bits: int


def color(decibel: float) -> str:
    """Green, amber or red."""
    return GOOD if decibel >= policy.GOOD_DB.value else DOUBTFUL if decibel >= policy.BROKEN_DB.value else BAD


def errors_by_layer(layers: Sequence[Layer], named: Sequence[Layer]) -> str:
    """A bar for each layer in order of computation, up to its SQNR; the layers `named` are numbered."""
    low, high = SHOWN_DB
    heights = np.clip([layer.sqnr_db for layer in layers], low, high)
    bottom = min(0.0, float(heights.min(initial=0.0)))
    broken = policy.BROKEN_DB.value
    panel = Panel(50, 10, 850, 250, (-0.8, len(layers) - 0.2),
                  (bottom, max(float(heights.max(initial=0.0)) + 9, broken + 6)))
    for place, (layer, top) in enumerate(zip(layers, heights, strict=True)):
        panel.bar(place, bottom, float(top), 0.85, color(layer.sqnr_db))
    panel.level(broken, BAD, dashed=True)
    panel.note(len(layers) - 0.4, broken, "broken below", BAD)
    for number, layer in enumerate(named, 1):
        place = list(layers).index(layer)
        panel.mark(place, max(float(heights[place]), bottom), number)
    panel.axes("layers, from the input to the output", "signal to error [dB]")
    return drawing(910, 300, [panel])


def curve(points: Sequence[Mapping[str, Any]], metric: str, reference: float, allowed: float | None) -> str:
    """Score over kilobytes of everything that a search tried."""
    across = [point["bytes"] / 1000 for point in points]
    up = [point["score"] for point in points] + [reference] + ([] if allowed is None else [allowed])
    panel = Panel(70, 15, 540, 200, _widened(across), _widened(up))
    panel.level(reference, PLAIN)
    panel.note(panel.x[1], reference, "float", PLAIN)
    if allowed is not None:
        panel.level(allowed, BAD, dashed=True)
        panel.note(panel.x[1], allowed, "worst allowed", BAD)
    _dots(panel, across, points, ["chosen" if point["chosen"] else "" for point in points])
    panel.axes("kilobytes", metric)
    return drawing(630, 255, [panel])


def price_curve(points: Sequence[Mapping[str, Any]], metric: str, engine: str, most: float | None) -> str:
    """Score over "time", of plain 8 bits', of all that was tried; "said" stands at a point. most: that was allowed."""
    across = [point["time"] for point in points]
    panel = Panel(70, 15, 540, 200, _widened([*across, most or 1.0]), _widened([point["score"] for point in points]))
    if most is not None:
        panel.upright(most, BAD)
        panel.note(most, panel.y[0], "slower is not allowed", BAD, anchor="start")
    _dots(panel, across, points, [point["said"] for point in points])
    panel.axes(f"time on {printable(engine)}, plain 8 bits = 1", metric)
    return drawing(630, 255, [panel])


def _dots(panel: Panel, across: Sequence[float], points: Sequence[Mapping[str, Any]], words: Sequence[str]) -> None:
    for x, point, word in zip(across, points, words, strict=True):
        shade = GOOD if point["chosen"] else PLAIN
        panel.dot(x, point["score"], 5 if point["chosen"] else 3, shade)
        if word:
            panel.note(x, point["score"], word, shade, anchor="start")


def _widened(numbers: Sequence[float]) -> tuple[float, float]:
    """Their ends, and a little air."""
    low, high = min(numbers, default=0.0), max(numbers, default=1.0)
    air = 0.08 * (high - low) or abs(high) * 0.1 or 1.0
    return low - air, high + air


def histograms(layers: Sequence[Layer], weights: Sequence[Weights | None]) -> str:
    """One row for each layer: its weights in steps of their grid, and its output with the ends of the grid."""
    panels = []
    for row, (layer, found) in enumerate(zip(layers, weights, strict=True)):
        top = 200 * row + 22
        panels += [_weights(top, found, row + 1), _activation(top, layer, row + 1)]
    return drawing(910, 200 * len(layers), panels)


def _weights(top: float, found: Weights | None, number: int) -> Panel:
    if found is None:
        panel = Panel(10, top, 430, 130, (0, 1), (0, 1))
        panel.write(225, top + 65, "no quantized weights", color=PLAIN, anchor="middle")
        return panel
    low, high = found.ends
    edge = max(float(np.abs(found.real).max(initial=0.0)), abs(low), abs(high)) + 1
    real, edges = np.histogram(found.real, np.linspace(-edge, edge, 97), density=True)
    # One bin for each integer of 4 bits, five integers to one of 8.
    stored, bins = np.histogram(found.stored, np.arange(low - 0.5, high + 1, 1 if found.bits <= 4 else 5), density=True)
    panel = Panel(10, top, 430, 130, (-edge, edge), (0, max(float(np.max(real)), float(np.max(stored))) or 1.0))
    panel.steps(real.tolist(), edges.tolist(), PLAIN, filled=True)
    panel.steps(stored.tolist(), bins.tolist(), DOUBTFUL, filled=False)
    _ends(panel, low, high)
    panel.write(18, top + 12, "float", color=PLAIN)
    panel.write(18, top + 27, f"{found.bits} bits", color=DOUBTFUL)
    panel.axes(f"weight, in steps of its grid; {_percent(float(np.mean(found.stored == 0)))} become 0",
               title=f"{number}  weights {_short(found.name)}")
    return panel


def _activation(top: float, layer: Layer, number: int) -> Panel:
    sample = layer.sample[np.isfinite(layer.sample)].astype(np.float64)
    ends = layer.grid.real_range() if layer.grid is not None else ()
    counts, edges = np.histogram(sample if sample.size else np.zeros(1), BINS)
    reach = (*ends, float(edges[0]), float(edges[-1]))
    # Logarithmic, since an outlier that decides the range is one among thousands.
    panel = Panel(470, top, 430, 130, (min(reach), max(reach)), (0.5, max(float(counts.max()), 1.0)), log_y=True)
    if sample.size:
        panel.steps(counts.tolist(), edges.tolist(), PLAIN, filled=True)
    said = "value; on no grid"
    if layer.grid is not None:
        _ends(panel, *ends)
        said = (f"value; {layer.grid.type.bits} bits between the dashed lines, {_percent(layer.range_used)} of the "
                "steps used")
    panel.axes(said, title=f"{number}  output {_short(layer.value)} ({layer.op})")
    return panel


def _ends(panel: Panel, low: float, high: float) -> None:
    for end in (low, high):
        panel.upright(end, ENDS)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f} %"


def _short(name: str) -> str:
    name = printable(name)
    return name if len(name) <= 36 else f"...{name[-33:]}"
