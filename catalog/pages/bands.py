"""Bands: strips of marks one above the other over the same layers of a model, each with a scale of its own.

As in `plots`, places are percentages and the words around the strips are HTML, so that a picture fills any width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..charts import ticks
from ..markup import Child, Html, tag
from .plots import Scale, dot, span

DOTTED = 20
"""Up to so many layers each has a mark of its own on the lines."""
GAP = 0.6
"""Between the layers and what lies before and after them, in widths of a layer."""
NAMES = {"embed_tokens": "embeddings", "lm_head": "head", "embeddings": "Embeddings", "head": "Last norm, head"}
Value = float | None


def place_name(place: str) -> str:
    """What a place is called."""
    return f"Layer {place}" if place.isdigit() else NAMES.get(place, place)


def cosine(value: float) -> str:
    """A cosine, with a minus that is no hyphen."""
    return f"{value:.2f}".replace("-0.00", "0.00").replace("-", "−")


def share(value: Value) -> str:
    """A share as a percentage of about three digits."""
    if value is None:
        return "–"
    percent = 100 * value
    size = abs(percent)
    places = 0 if size == 0 or size >= 99.95 else 1 if size >= 0.995 else 2 if size >= 0.005 else 4
    return f"{percent:.{places}f}%"


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One line through the layers."""

    name: str
    """What it is, in words."""
    look: str
    """CSS classes of the line."""
    values: Sequence[Value]
    """One a place; None where there is no figure."""
    mark: int = -1
    """Number of the shape and colour of its marks; none below 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """One strip over all layers."""

    heading: str
    """What it shows."""
    note: str
    """What that means."""
    series: Sequence[Series]
    """Its lines."""
    total: Child
    """Figures of the whole model."""
    height: float = 60
    """In pixels."""
    bars: Sequence[Value] = ()
    """Bars in the place of lines."""
    between: tuple[Sequence[Value], Sequence[Value]] | None = None
    """The lowest and the highest value at each place, as a surface behind the lines."""
    high: float = 0
    """The scale reaches at least so far up."""
    form: Callable[[float], str] = share
    """How a value is written."""

    def drawn(self, places: Sequence[str]) -> Html:
        """Label, axis, strip and figures."""
        values = [v for line in self.series for v in line.values if v is not None] + [v for v in self.bars if v is not None]
        scale = Scale(min(0.0, *values, 0.0), max(self.high, *values, 0.0) or 1.0)
        marked = ticks(scale.low, scale.high, 2 if self.height < 70 else 3)
        axis = [
            tag("text", f"{100 * value:g}%" if self.form is share else f"{value:g}", x="100%", y=self._y(scale, value) + 4,
                text_anchor="end")
            for value in marked
        ]  # fmt: skip
        return tag(
            "div",
            tag("div", self.heading, tag("small", self.note), class_="label"),
            tag("svg", axis, class_="tick", width=46, height=self.height, aria_hidden="true"),
            self._strip(places, scale, marked),
            tag("div", self.total, class_="figs"),
            class_="tier",
        )  # fmt: skip

    def _strip(self, places: Sequence[str], scale: Scale, marked: Sequence[float]) -> Html:
        across = Scale(0.0, _centres(places)[-1] + 0.5)
        lines = [
            tag("line", class_="axis" if value else "zero", x1=0, x2="100%", y1=y, y2=y)
            for value, y in ((value, self._y(scale, value)) for value in marked)
        ]
        return tag(
            "svg", tag("title", f"{self.heading}: {self._about(places)}"), lines, self._bars(places, across, scale),
            tag("svg", self._surface(places, across, scale), [self._line(line, places, across, scale) for line in self.series],
                viewBox=f"0 0 1000 {self.height:g}", width="100%", height=self.height, preserveAspectRatio="none"),
            [self._marks(line, places, across, scale) for line in self.series], self._hints(places, across),
            class_="strip", width="100%", height=self.height, role="img",
        )  # fmt: skip

    def _named(self) -> list[tuple[str, Sequence[Value]]]:
        """What it draws by name; bars need none."""
        return [("", self.bars)] if self.bars else [(line.name, line.values) for line in self.series]

    def _y(self, scale: Scale, value: float) -> float:
        return 7 + (self.height - 14) * (scale.high - value) / ((scale.high - scale.low) or 1.0)

    def _bars(self, places: Sequence[str], across: Scale, scale: Scale) -> list[Child]:
        foot, half = self._y(scale, 0.0), min(0.36, 0.03 * across.high)
        drawn = []
        for x, value in zip(_centres(places), self.bars, strict=False):
            if value is not None:
                top = self._y(scale, value)
                drawn.append(span("gone", across, x - half, x + half, top=top, thick=foot - top))
        return list(drawn)

    def _at(self, places: Sequence[str], across: Scale, scale: Scale, values: Sequence[Value]) -> list[tuple[float, float]]:
        """Where the values of the layers lie in the strip, of a width of 1000."""
        return [
            (1000 * x / across.high, self._y(scale, value))
            for place, x, value in zip(places, _centres(places), values, strict=True)
            if place.isdigit() and value is not None and math.isfinite(value)
        ]

    def _line(self, line: Series, places: Sequence[str], across: Scale, scale: Scale) -> Html | None:
        points = self._at(places, across, scale, line.values)
        written = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        return tag("polyline", class_=f"trend {line.look}", points=written) if len(points) > 1 else None

    def _surface(self, places: Sequence[str], across: Scale, scale: Scale) -> Html | None:
        if self.between is None:
            return None
        low, high = (self._at(places, across, scale, values) for values in self.between)
        return tag("polygon", class_="among", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in [*high, *reversed(low)]))

    def _marks(self, line: Series, places: Sequence[str], across: Scale, scale: Scale) -> list[Child]:
        """A mark at each value that no line goes through, and at all of them where there are few."""
        alone = sum(place.isdigit() for place in places) <= DOTTED
        marks: list[Child] = []
        for place, x, value in zip(places, _centres(places), line.values, strict=True):
            if value is not None and math.isfinite(value) and (alone or not place.isdigit()):
                y = self._y(scale, value)
                if line.mark < 0:
                    marks.append(tag("circle", class_="pairdot", cx=across.at(x), cy=y, r=2.6))
                else:
                    marks.append(tag("g", dot(line.mark, across, x, hollow=line.mark > 0, y=y), class_="small-mark"))
        return marks

    def _hints(self, places: Sequence[str], across: Scale) -> list[Child]:
        """What one reads where one points: the figures of a place."""
        hints: list[Child] = []
        for i, (place, x) in enumerate(zip(places, _centres(places), strict=True)):
            known = [(name, values[i]) for name, values in self._named()]
            words = ", ".join(f"{name} {self.form(value)}".strip() for name, value in known if value is not None)
            if words:
                text = f"{place_name(place)}: {words}"
                hints.append(
                    tag("rect", tag("title", text), class_="hint", x=across.at(x - 0.5), width=across.between(x - 0.5, x + 0.5),
                        y=0, height=self.height)
                )  # fmt: skip
        return hints

    def _about(self, places: Sequence[str]) -> str:
        """The band in words: where each line is lowest and highest."""
        said = []
        for name, values in self._named():
            known = [(value, place) for place, value in zip(places, values, strict=True) if value is not None]
            if known:
                low, high = min(known, key=lambda pair: pair[0]), max(known, key=lambda pair: pair[0])
                ends = (f"{self.form(value)} ({place_name(place)})" for value, place in (low, high))
                said.append(f"{name} from {' to '.join(ends)}".strip())
        return "; ".join(said)


def _centres(places: Sequence[str]) -> list[float]:
    """The middle of each place's column, a layer wide, from the left; what is no layer stands a gap apart."""
    centres, x = [], 0.5
    for i, place in enumerate(places):
        if i and place.isdigit() != places[i - 1].isdigit():
            x += GAP
        centres.append(x)
        x += 1
    return centres


def ruler(places: Sequence[str]) -> Html:
    """The layers' numbers below all bands."""
    across = Scale(0.0, _centres(places)[-1] + 0.5)
    layers = sum(place.isdigit() for place in places)
    step = next(step for step in (1, 2, 4, 5, 8, 10, 16, 20, 32, 50, 100, 1000) if layers <= 17 * step or step == 1000)
    words = [
        tag("text", place if place.isdigit() else {"embeddings": "E", "head": "H"}.get(place, "?"), x=across.at(x), y=13,
            text_anchor="middle", class_="other" if place.isdigit() and int(place) % (2 * step) else None)
        for place, x in zip(places, _centres(places), strict=True)
        if not place.isdigit() or int(place) % step == 0
    ]  # fmt: skip
    label = tag("div", tag("small", "Layer; E: embeddings, H: last norm and head"), class_="label")
    ruler = tag("svg", words, class_="strip tick", width="100%", height=18, aria_hidden="true")
    return tag("div", label, tag("span"), ruler, tag("span"), class_="tier ruler")
