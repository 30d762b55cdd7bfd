"""The plots of report.html, as SVG text. matplotlib is imported here only, without pyplot and its state."""
from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from edgeq import policy
from edgeq.quiet import quiet
from edgeq.verification.layers import Layer
from edgeq_runtime.errors import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GOOD, DOUBTFUL, BAD, PLAIN, ENDS = "#2e7d32", "#e69f00", "#c62828", "#6b7f99", "#111111"
COLORS: Final = {"Good": GOOD, "Doubtful": DOUBTFUL, "Broken": BAD}  # by the word of report.verdict
SHOWN_DB: Final = (-10.0, 60.0)  # a layer beyond is as good as equal, or as good as lost
BINS: Final = 64
# Text stays text; the salt makes the same report twice the same file.
STYLE: Final = {"svg.fonttype": "none", "svg.hashsalt": "edgeq", "font.size": 9.0, "axes.spines.top": False,
                "axes.spines.right": False}


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
    with _style():
        return _svg(_errors_by_layer(layers, named))


def curve(points: Sequence[Mapping[str, Any]], metric: str, reference: float, allowed: float | None) -> str:
    """Score over kilobytes of everything that a search tried."""
    with _style():
        figure = _figure(6.5, 3.0)
        axes: Axes = figure.add_axes((0.12, 0.18, 0.85, 0.78))
        axes.axhline(reference, color=PLAIN, linewidth=1, label="float")
        if allowed is not None:
            axes.axhline(allowed, color=BAD, linewidth=1, linestyle="--", label="worst allowed")
        for point in points:
            chosen = point["chosen"]
            axes.plot(point["bytes"] / 1000, point["score"], "o", color=GOOD if chosen else PLAIN,
                      markersize=8 if chosen else 5, label="chosen" if chosen else None)
        axes.set_xlabel("kilobytes")
        axes.set_ylabel(metric)
        axes.legend(frameon=False)
        return _svg(figure)


def _errors_by_layer(layers: Sequence[Layer], named: Sequence[Layer]) -> Figure:
    figure = _figure(9.5, 3.2)
    axes: Axes = figure.add_axes((0.06, 0.16, 0.93, 0.8))
    low, high = SHOWN_DB
    heights = np.clip([layer.sqnr_db for layer in layers], low, high)
    bottom = min(0.0, float(heights.min(initial=0.0)))
    axes.bar(range(len(layers)), heights - bottom, bottom=bottom, color=[color(layer.sqnr_db) for layer in layers],
             width=0.85)
    axes.axhline(policy.BROKEN_DB.value, color=BAD, linewidth=1, linestyle="--")
    axes.text(len(layers) - 0.4, policy.BROKEN_DB.value + 1, "broken below", color=BAD, va="bottom", ha="right",
              bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.5})
    for number, layer in enumerate(named, 1):
        place = list(layers).index(layer)
        axes.annotate(str(number), (place, max(heights[place], bottom) + 1), ha="center", va="bottom", weight="bold",
                      bbox={"boxstyle": "circle,pad=0.2", "facecolor": "white", "edgecolor": ENDS, "linewidth": 0.8})
    axes.set_xlim(-0.8, len(layers) - 0.2)
    axes.set_ylim(bottom, max(float(heights.max(initial=0.0)) + 9, policy.BROKEN_DB.value + 6))
    axes.set_xlabel("layers, from the input to the output")
    axes.set_ylabel("signal to error [dB]")
    return figure


def histograms(layers: Sequence[Layer], weights: Sequence[Weights | None]) -> str:
    """One row for each layer: its weights in steps of their grid, and its output with the ends of the grid."""
    with _style():
        return _svg(_histograms(layers, weights))


def _histograms(layers: Sequence[Layer], weights: Sequence[Weights | None]) -> Figure:
    figure = _figure(9.5, 2.5 * len(layers))
    for row, (layer, found) in enumerate(zip(layers, weights, strict=True)):
        left: Axes = figure.add_subplot(len(layers), 2, 2 * row + 1)
        right: Axes = figure.add_subplot(len(layers), 2, 2 * row + 2)
        _weights(left, found, row + 1)
        _activation(right, layer, row + 1)
    figure.subplots_adjust(0.02, 0.6 / (2.5 * len(layers)), 0.99, 1 - 0.3 / (2.5 * len(layers)), 0.06, 0.5)
    return figure


def _weights(axes: Axes, found: Weights | None, number: int) -> None:
    if found is None:
        axes.text(0.5, 0.5, "no quantized weights", ha="center", va="center", transform=axes.transAxes, color=PLAIN)
        axes.set_axis_off()
        return
    low, high = found.ends
    edge = max(float(np.abs(found.real).max(initial=0.0)), abs(low), abs(high)) + 1
    _filled(axes, found.real, np.linspace(-edge, edge, 97))
    # One bin for each integer of 4 bits, five integers to one of 8.
    bins = np.arange(low - 0.5, high + 1, 1 if found.bits <= 4 else 5)
    axes.stairs(*np.histogram(found.stored, bins, density=True), color=DOUBTFUL, linewidth=1.3, baseline=None,
                label=f"{found.bits} bits")
    _ends(axes, low, high)
    axes.set_title(f"{number}  weights {_short(found.name)}", loc="left", fontsize=9, parse_math=False)
    axes.set_xlabel(f"weight, in steps of its grid; {_percent(float(np.mean(found.stored == 0)))} become 0")
    axes.set_yticks([])
    axes.legend(frameon=False, fontsize=8)


def _activation(axes: Axes, layer: Layer, number: int) -> None:
    sample = layer.sample[np.isfinite(layer.sample)]
    if sample.size:
        _filled(axes, sample, BINS)
    axes.set_yscale("log")  # an outlier that decides the range is one among thousands
    axes.minorticks_off()
    if layer.grid is not None:
        low, high = layer.grid.real_range()
        _ends(axes, low, high)
        axes.set_xlabel(f"value; {layer.grid.type.bits} bits between the dashed lines, {_percent(layer.range_used)} "
                        f"of the steps used")
    else:
        axes.set_xlabel("value; on no grid")
    axes.set_title(f"{number}  output {_short(layer.value)} ({layer.op})", loc="left", fontsize=9, parse_math=False)
    axes.set_yticks([])


def _filled(axes: Axes, numbers: NDArray[Any], bins: Any) -> None:
    """A histogram as one shape: a bar for each bin takes seconds to draw."""
    counts, edges = np.histogram(numbers, bins, density=True)
    axes.stairs(counts, edges, fill=True, color=PLAIN, alpha=0.65, label="float")


def _ends(axes: Axes, low: float, high: float) -> None:
    for end in (low, high):
        axes.axvline(end, color=ENDS, linewidth=1, linestyle="--")


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f} %"


def _short(name: str) -> str:
    name = printable(name)
    return name if len(name) <= 36 else f"...{name[-33:]}"


def _style() -> AbstractContextManager[None]:
    from matplotlib import rc_context

    settings: Any = STYLE  # matplotlib has a literal type for its keys
    return rc_context(settings)


def _figure(width: float, height: float) -> Figure:
    """Inches. Nothing of pyplot, which would keep it alive."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure((width, height))
    FigureCanvasSVG(figure)
    return figure


def _svg(figure: Figure) -> str:
    """Without the XML prologue, whose document type would not stand inside HTML."""
    stream = io.StringIO()
    with quiet():  # about signs of a name that its font does not have
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    return text[text.index("<svg"):]
