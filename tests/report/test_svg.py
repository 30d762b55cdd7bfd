"""Drawings are well-formed, and what they show lies where its numbers say."""
from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import dataclass

import numpy as np
import pytest

from edgeq.report.plots import BAD, GOOD, curve, errors_by_layer, price_curve
from edgeq.report.svg import Panel, drawing, round_numbers

SVG = "{http://www.w3.org/2000/svg}"


@dataclass(frozen=True, eq=False)
class Row:
    sqnr_db: float


def test_bars_are_as_high_as_their_layers() -> None:
    rows = [Row(40.0), Row(20.0), Row(80.0), Row(-30.0)]
    bars = ET.fromstring(errors_by_layer(rows, rows[1:2])).findall(f"{SVG}rect")  # type: ignore[arg-type]
    heights = np.array([float(bar.get("height", "")) for bar in bars])
    assert heights / heights[0] == pytest.approx([50 / 50, 30 / 50, 70 / 50, 0], abs=0.01)  # from -10 to 60 dB
    assert [bar.get("fill") for bar in (bars[0], bars[-1])] == [GOOD, BAD]


def test_a_search_shows_its_points_and_words_are_no_markup() -> None:
    points = [{"bytes": 1000, "score": 0.5, "chosen": False}, {"bytes": 3000, "score": 0.9, "chosen": True}]
    found = ET.fromstring(curve(points, "<score>", 1.0, None))
    first, second = found.findall(f"{SVG}circle")
    assert float(second.get("cx", "")) > float(first.get("cx", ""))
    assert float(second.get("cy", "")) < float(first.get("cy", ""))  # pixels count from the top
    assert "<score>" in {text.text for text in found.findall(f"{SVG}text")}


def test_trials_stand_on_either_side_of_the_time_that_is_allowed() -> None:
    points = [{"time": time, "score": 20 + 9 * time, "chosen": time == 1.01, "said": f"{time} kB"}
              for time in (1.0, 1.01, 1.3)]
    found = ET.fromstring(price_curve(points, "sqnr [dB]", "an engine", 1.02))
    places = [float(dot.get("cx", "")) for dot in found.findall(f"{SVG}circle")]
    (limit,) = [float(path.get("d", "")[1:].split(",")[0]) for path in found.findall(f"{SVG}path")
                if path.get("stroke") == BAD]
    assert places[0] < places[1] < limit < places[2]
    assert [dot.get("fill") == GOOD for dot in found.findall(f"{SVG}circle")] == [False, True, False]
    assert {"1.3 kB", "slower is not allowed"} <= {text.text for text in found.findall(f"{SVG}text")}


@pytest.mark.parametrize(("low", "high", "expected"), [
    (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1.0]), (-0.8, 12.8, [0, 5, 10]), (-7, 9, [-5, 0, 5]), (3, 3, [3]),
    (0, 0.00013, [0, 5e-5, 1e-4])])
def test_round_numbers(low: float, high: float, expected: list[float]) -> None:
    assert round_numbers(low, high) == pytest.approx(expected)


def test_logarithmic_panels() -> None:
    panel = Panel(10, 20, 100, 90, (0, 1), (1, 1000), log_y=True)
    assert [panel.at(0.5, y)[1] for y in (1, 10, 1000, 0)] == pytest.approx([110, 80, 20, 110])
    panel.steps([1, 1000], [0, 0.5, 1], GOOD, filled=True)
    assert "M10.0,110.0 10.0,110.0 60.0,110.0 60.0,20.0 110.0,20.0 110.0,110.0" in drawing(120, 120, [panel])
