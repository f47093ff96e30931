"""Plots of rows: a label, a strip of marks on a shared scale, figures.

Each strip is an SVG of its own whose places are percentages, the words around it are HTML: so a plot fills any width, from a
phone to a screen, and its text keeps its size; below 640 pixels the strip slips under its label. A picture with one fixed
system of coordinates was refused: on a phone its text is a third as large, or the page scrolls sideways.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..charts import ticks
from ..markup import Child, Html, tag
from .parts import brief

HEIGHT = 20
SERIES = 6
"""Colours `k1` to `k6`, each with a shape of its own, for those who see colours otherwise."""
SHAPES = (
    "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0-10 0z", "M0-6.2L6.2 0L0 6.2L-6.2 0z", "M-4.6-4.6H4.6V4.6H-4.6z", "M0-5.8L5.8 4.6H-5.8z",
    "M0 5.8L5.8-4.6H-5.8z", "M-2-6H2V-2H6V2H2V6H-2V2H-6V-2H-2z",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Scale:
    """The values at a strip's left and right end."""

    low: float
    high: float

    def at(self, value: float) -> str:
        """A value's place."""
        share = (value - self.low) / ((self.high - self.low) or 1.0)
        return f"{100 * min(1.0, max(0.0, share)):.2f}%"

    def between(self, low: float, high: float) -> str:
        """The width between two values."""
        share = (min(high, self.high) - max(low, self.low)) / ((self.high - self.low) or 1.0)
        return f"{100 * max(0.0, share):.2f}%"


def scale_of(values: Iterable[float | None], *, zero: bool = False) -> Scale:
    """A scale with room for all the values, and for zero when the marks are bars from there."""
    finite = [value for value in values if value is not None and math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=1.0)
    if zero:
        return Scale(min(0.0, low), max(0.0, high) or 1.0)
    pad = (high - low) * 0.06 or abs(high) * 0.06 or 1.0
    return Scale(low - pad, high + pad)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One row of a plot."""

    label: Child
    """What it is about."""
    about: str
    """Its figures in words, for those who cannot see the marks, and as a tooltip."""
    marks: Sequence[Child]
    """What `span`, `dot`, `reach` and `notch` draw."""
    figures: Child
    """Its figures beside the strip."""


def plot(
    title: str,
    lines: Sequence[Line],
    scale: Scale | None = None,
    *,
    form: str = "",
    strong: float | None = None,
    height: float = HEIGHT,
) -> Html:
    """The lines below each other; with a scale, its round values above them and faint lines through them.

    `form` is the format of the scale's values, else they are written briefly; a line through `strong` is no faint one.
    """
    marked = ticks(scale.low, scale.high, 4) if scale else []
    axis = None
    if scale:
        words = [
            tag("text", _worded(value, form), x=scale.at(value), y=12, text_anchor=_anchor(scale, value)) for value in marked
        ]
        ruler = tag("svg", words, class_="strip tick", width="100%", height=16, aria_hidden="true")
        axis = tag("div", tag("span"), ruler, tag("span"), class_="line axisline")
    grid = [
        tag("line", class_="zero" if value == strong else "axis", x1=scale.at(value), x2=scale.at(value), y1=0, y2=height)
        for value in dict.fromkeys(marked + ([strong] if strong is not None else []))
        if scale
    ]
    drawn = [_line(line, grid, height) for line in lines]
    return tag("div", axis, drawn, class_="plot", role="group", aria_label=title)


def _worded(value: float, form: str) -> str:
    return (f"{value:{form}}" if value or "%" in form else "0") if form else brief(value)


def _anchor(scale: Scale, value: float) -> str:
    share = (value - scale.low) / ((scale.high - scale.low) or 1.0)
    return "start" if share < 0.06 else "end" if share > 0.94 else "middle"


def _line(line: Line, grid: Sequence[Html], height: float) -> Html:
    strip = tag(
        "svg", tag("title", line.about), grid, *line.marks, class_="strip", width="100%", height=height, role="img",
    )  # fmt: skip
    return tag("div", tag("span", line.label, class_="label"), strip, tag("span", line.figures, class_="figs"), class_="line")


def span(colour: str, scale: Scale, low: float, high: float, *, top: float = 4, thick: float = 12) -> Html | None:
    """A bar between two values."""
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return None
    return tag("rect", class_=f"f{colour}", x=scale.at(low), width=scale.between(low, high), y=top, height=thick)


def dot(series: int, scale: Scale, value: float | None, *, hollow: bool = False, y: float = HEIGHT / 2) -> Html | None:
    """A mark of a series, filled or as an outline."""
    if value is None or not math.isfinite(value):
        return None
    shape = tag("path", d=SHAPES[series % SERIES], class_=f"{'o' if hollow else 'f'}k{series % SERIES + 1}")
    return tag("svg", shape, x=scale.at(value), y=y, overflow="visible", width=1, height=1)


def reach(colour: str, scale: Scale, low: float, high: float, *, y: float = HEIGHT / 2) -> Html | None:
    """A thin line between two values: bounds, a standard error either side, or a change."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return None
    return tag("line", class_=f"reach s{colour}", x1=scale.at(low), x2=scale.at(high), y1=y, y2=y)


def curve(colour: str, steps: Sequence[float], values: Sequence[float], *, height: float = HEIGHT) -> Html | None:
    """A line through values over steps, from the strip's left end to its right, on a scale of its own from foot to top."""
    known = [(step, value) for step, value in zip(steps, values, strict=True) if math.isfinite(value)]
    if not known:
        return None
    across, up = Scale(known[0][0], known[-1][0]), Scale(min(v for _, v in known), max(v for _, v in known))
    places = [((step - across.low) / ((across.high - across.low) or 1.0), value) for step, value in known]
    drawn = [(1000 * x, 3 + (height - 6) * (1 - (value - up.low) / ((up.high - up.low) or 1.0))) for x, value in places]
    if len(drawn) == 1:
        drawn.append((1000.0, drawn[0][1]))
    line = tag("polyline", class_=f"trend s{colour}", points=" ".join(f"{x:.0f},{y:.1f}" for x, y in drawn))
    return tag("svg", line, viewBox=f"0 0 1000 {height:g}", width="100%", height=height, preserveAspectRatio="none")


def notch(scale: Scale, value: float) -> Html:
    """A dotted tick: what a value has to stay beyond."""
    return tag("line", class_="notch", x1=scale.at(value), x2=scale.at(value), y1=3, y2=HEIGHT - 3)


def key(entries: Sequence[tuple[int, Child]], *, hollow: frozenset[int] = frozenset()) -> Html:
    """What the marks of the series stand for."""
    marks = [
        tag("li", tag("svg", tag("path", d=SHAPES[i % SERIES], class_=f"{'o' if i in hollow else 'f'}k{i % SERIES + 1}"),
            viewBox="-8 -8 16 16", width=14, height=14, aria_hidden="true"), words)
        for i, words in entries
    ]  # fmt: skip
    return tag("ul", marks, class_="legend")


def legend(entries: Sequence[tuple[str, Child]]) -> Html:
    """What the colours of bars stand for: colour class and words."""
    return tag("ul", [tag("li", tag("i", class_=name), words) for name, words in entries], class_="legend")
