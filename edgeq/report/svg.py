"""Drawings as SVG text: panels with axes, in which lines, bars and steps stand. Text takes the colour of the page."""
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape


@dataclass(slots=True)
class Panel:
    """A rectangle with axes. left, top, width, height: of the inside, in pixels. x, y: (low, high) of the numbers.
    log_y: the upright axis is logarithmic, its numbers positive.
    """

    left: float
    top: float
    width: float
    height: float
    x: tuple[float, float]
    y: tuple[float, float]
    log_y: bool = False
    parts: list[str] = field(default_factory=list)

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Numbers -> pixels; what lies beyond the panel, at its edge."""
        def share(value: float, ends: tuple[float, float]) -> float:
            return min(max((value - ends[0]) / (ends[1] - ends[0] or 1), 0.0), 1.0)

        up = share(math.log(max(y, self.y[0])), (math.log(self.y[0]), math.log(self.y[1]))) if self.log_y else (
            share(y, self.y))
        return self.left + share(x, self.x) * self.width, self.top + (1 - up) * self.height

    def bar(self, x: float, low: float, high: float, width: float, color: str) -> None:
        (x0, y0), (x1, y1) = self.at(x - width / 2, high), self.at(x + width / 2, low)
        self.parts.append(f'<rect x="{x0:.1f}" y="{y0:.1f}" width="{x1 - x0:.1f}" height="{y1 - y0:.1f}" '
                          f'fill="{color}"/>')

    def steps(self, counts: Sequence[float], edges: Sequence[float], color: str, *, filled: bool) -> None:
        """A histogram as one shape."""
        floor = self.y[0]
        corners = [(edges[0], floor)]
        for count, start, stop in zip(counts, edges, edges[1:], strict=False):
            corners += [(start, count), (stop, count)]
        corners.append((edges[-1], floor))
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (self.at(*corner) for corner in corners))
        paint = f'fill="{color}" fill-opacity=".65"' if filled else f'fill="none" stroke="{color}" stroke-width="1.3"'
        self.parts.append(f'<path d="M{path}" {paint}/>')

    def upright(self, x: float, color: str) -> None:
        """A dashed line."""
        self._line(self.at(x, self.y[0]), self.at(x, self.y[1]), color, dashed=True)

    def level(self, y: float, color: str, *, dashed: bool = False) -> None:
        self._line(self.at(self.x[0], y), self.at(self.x[1], y), color, dashed=dashed)

    def line(self, start: tuple[float, float], stop: tuple[float, float], color: str) -> None:
        self._line(self.at(*start), self.at(*stop), color, dashed=False)

    def dot(self, x: float, y: float, radius: float, color: str) -> None:
        across, down = self.at(x, y)
        self.parts.append(f'<circle cx="{across:.1f}" cy="{down:.1f}" r="{radius:g}" fill="{color}"/>')

    def mark(self, x: float, y: float, number: int) -> None:
        """A number in a circle, above a place."""
        across, down = self.at(x, y)
        self.parts.append(f'<circle cx="{across:.1f}" cy="{down - 10:.1f}" r="8" fill="none" stroke="currentColor"/>')
        self.write(across, down - 6, str(number), anchor="middle", bold=True)

    def note(self, x: float, y: float, text: str, color: str, anchor: str = "end") -> None:
        """Text just above a place."""
        across, down = self.at(x, y)
        self.write(across, down - 4, text, color=color, anchor=anchor)

    def write(self, across: float, down: float, text: str, *, color: str = "currentColor", anchor: str = "start",
              bold: bool = False, turned: bool = False) -> None:
        """Text at pixels, which stays readable on what it covers."""
        more = (' font-weight="bold"' if bold else "") + (
            f' transform="rotate(-90 {across:.1f} {down:.1f})"' if turned else "")
        self.parts.append(f'<text x="{across:.1f}" y="{down:.1f}" fill="{color}" text-anchor="{anchor}" '
                          f'stroke="var(--page)" stroke-width="3" paint-order="stroke"{more}>'
                          f"{escape(text)}</text>")

    def axes(self, x_label: str, y_label: str = "", *, title: str = "", x_numbers: bool = True) -> None:
        """The lower and left edge, round numbers along them where there is a label, and the labels."""
        foot, middle = self.top + self.height, self.left + self.width / 2
        self._line((self.left, foot), (self.left + self.width, foot), "currentColor")
        for value in round_numbers(*self.x) if x_numbers else ():
            self.write(self.at(value, self.y[0])[0], foot + 14, f"{value:g}", anchor="middle")
        self.write(middle, foot + 29, x_label, anchor="middle")
        if y_label:
            self._line((self.left, self.top), (self.left, foot), "currentColor")
            for value in round_numbers(*self.y):
                self.write(self.left - 5, self.at(self.x[0], value)[1] + 4, f"{value:g}", anchor="end")
            self.write(self.left - 34, self.top + self.height / 2, y_label, anchor="middle", turned=True)
        if title:
            self.write(self.left, self.top - 7, title)

    def _line(self, start: tuple[float, float], stop: tuple[float, float], color: str, *, dashed: bool = False) -> None:
        (x0, y0), (x1, y1) = start, stop
        dash = ' stroke-dasharray="4 3"' if dashed else ""
        self.parts.append(f'<path d="M{x0:.1f},{y0:.1f} {x1:.1f},{y1:.1f}" stroke="{color}"{dash}/>')


def drawing(width: float, height: float, panels: Sequence[Panel]) -> str:
    """The panels as one element that stands inside HTML."""
    inside = "".join(part for panel in panels for part in panel.parts)
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
            f'height="{height:g}" font-size="12" font-family="system-ui, sans-serif">{inside}</svg>')


def round_numbers(low: float, high: float) -> list[float]:
    """At most seven multiples of 1, 2 or 5 times a power of ten from low to high."""
    if not high > low:
        return [low]
    least = (high - low) / 6
    power = 10.0 ** math.floor(math.log10(least))
    step = next(power * unit for unit in (1, 2, 5, 10) if power * unit >= least * (1 - 1e-9))
    return [k * step for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
