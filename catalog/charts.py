"""Charts as inline SVG, in the colours of `report.css`: every one has a title for those who do not see it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .layout import layered
from .lineage import MODEL, Graph, Node
from .markup import Child, Html, inside, tag

MARKS = {"pass": "✓", "fail": "✕", "hold": "◐", "error": "!"}
"""A sign beside the word and the colour of every verdict."""
NODE_WIDTH, NODE_HEIGHT, LAYER_HEIGHT = 204.0, 66.0, 106.0
LABEL, SMALL_LABEL = 23, 29
"""Characters that fit in a node, in its name and below it."""
POINTS = 240
"""Of a curve; more cannot be told apart at its width."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """One row of a forest plot: a difference with its bounds, and what it had to stay above."""

    label: str
    delta: float
    lower: float
    upper: float
    margin: float
    verdict: str
    figures: str
    """What the row's tooltip says."""


def picture(title: str, width: float, height: float, *children: Child, **attributes: str) -> Html:
    """An SVG of its own coordinates, announced by its title."""
    size = {"viewBox": f"0 0 {width:.0f} {height:.0f}", "role": "img", "aria_label": title}
    return tag("svg", tag("title", title), *children, **size, **attributes)


def ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round numbers between two bounds.

    >>> ticks(0.0, 9.7, 4)
    [0.0, 2.5, 5.0, 7.5]
    """
    if not high > low:
        return [low]
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = min((factor * power for factor in (1, 2, 2.5, 5, 10)), key=lambda step: abs(step - rough))
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def line_chart(title: str, steps: Sequence[float], values: Sequence[float]) -> Html:
    """A training curve: each value thin, their running mean thick; steps on x, at least two points."""
    width, height, left, right, top, bottom = 320.0, 168.0, 38.0, 10.0, 12.0, 24.0
    low, high = min(values), max(values)
    pad = (high - low) * 0.06 or abs(high) * 0.05 or 1.0
    low, high = low - pad, high + pad
    first, last = min(steps), max(steps)

    def x(step: float) -> float:
        return left + (step - first) / ((last - first) or 1) * (width - left - right)

    def y(value: float) -> float:
        return top + (high - value) / (high - low) * (height - top - bottom)

    grid: list[Html] = []
    for value in ticks(low, high, 4):
        grid.append(tag("line", class_="axis", x1=left, x2=width - right, y1=y(value), y2=y(value)))
        grid.append(tag("text", f"{value:g}", class_="tick", x=left - 6, y=y(value) + 4, text_anchor="end"))
    for step in ticks(first, last, 4):
        grid.append(tag("text", f"{step:,.0f}", class_="tick", x=x(step), y=height - 6, text_anchor="middle"))
    smooth = running_mean(values, max(1, len(values) // 25))
    curves = [
        tag("polyline", class_=name, points=" ".join(f"{x(s):.1f},{y(v):.1f}" for s, v in thin(steps, line)))
        for name, line in (("raw", values), ("curve", smooth))
    ]
    return picture(title, width, height, grid, curves)


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """The mean of each value and up to `window - 1` before it."""
    return [sum(values[max(0, i - window + 1) : i + 1]) / (i + 1 - max(0, i - window + 1)) for i in range(len(values))]


def thin(steps: Sequence[float], values: Sequence[float]) -> list[tuple[float, float]]:
    """At most about `POINTS` of the points, the last one among them."""
    stride = max(1, len(values) // POINTS)
    kept = list(zip(steps, values, strict=True))[::stride]
    return kept if len(values) % stride == 1 or stride == 1 else [*kept, (steps[-1], values[-1])]


def forest(title: str, rows: Sequence[Interval]) -> Html:
    """Differences with their bounds around zero: the tick before zero is the margin the lower bound must clear."""
    width, label, right, pitch, top = 860.0, 150.0, 270.0, 24.0, 26.0
    low = min(0.0, *(min(row.lower, -row.margin) for row in rows))
    high = max(0.0, *(row.upper for row in rows))
    pad = (high - low) * 0.05 or 0.01
    low, high = low - pad, high + pad

    def x(value: float) -> float:
        return label + (value - low) / (high - low) * (width - label - right)

    bottom = top + pitch * len(rows)
    marks: list[Html] = []
    for value in ticks(low, high, 6):
        marks.append(tag("line", class_="zero" if value == 0 else "axis", x1=x(value), x2=x(value), y1=top - 6, y2=bottom))
        marks.append(tag("text", f"{value:+g}" if value else "0", class_="tick", x=x(value), y=top - 11, text_anchor="middle"))
    lines = [_interval(row, x, top + pitch * (i + 0.5), width - right) for i, row in enumerate(rows)]
    return picture(title, width, bottom + 6, marks, lines)


def _interval(row: Interval, x: Callable[[float], float], y: float, end: float) -> Html:
    line, fill, word = f"line-{row.verdict}", f"fill-{row.verdict}", f"{MARKS[row.verdict]} {row.verdict}"
    return tag(
        "g",
        tag("title", row.figures),
        tag("text", row.label, x=0, y=y + 4, font_size="13"),
        tag("line", class_=line, x1=x(row.lower), x2=x(row.upper), y1=y, y2=y, stroke_width="2.4", stroke_linecap="round"),
        tag("line", class_="zero", x1=x(-row.margin), x2=x(-row.margin), y1=y - 6, y2=y + 6, stroke_dasharray="2 2")
        if row.margin
        else None,
        tag("circle", class_=fill, cx=x(row.delta), cy=y, r="4.6"),
        tag("text", f"{row.delta:+.3f}  [{row.lower:+.3f}, {row.upper:+.3f}]", class_="soft", x=end + 18, y=y + 4),
        tag(
            "text",
            word,
            class_=fill,
            x=end + 198,
            y=y + 4,
            font_size="12.5",
            font_weight="600",
        ),
    )


def lineage_picture(title: str, graph: Graph) -> Html:
    """The graph from the sources down: one box an artifact, an arrow from each to what was made from it."""
    order = graph.order()
    edges = [(edge.source, edge.target) for edge in graph.edges]
    layout = layered(dict.fromkeys(order, NODE_WIDTH), edges, order, gap=26.0)
    margin = 6.0

    def top(layer: int) -> float:
        return margin + layer * LAYER_HEIGHT

    arrow = tag(
        "defs",
        tag(
            "marker", tag("path", class_="head", d="M0 0L8 4L0 8z"), id="arrow", viewBox="0 0 8 8", refX="7", refY="4",
            markerWidth="7", markerHeight="7", orient="auto",
        ),
    )  # fmt: skip
    drawn = []
    for edge in graph.edges:
        points = [(margin + x, top(layer)) for layer, x in layout.routes[edge.source, edge.target]]
        kind = "edge basis" if edge.role == "base" else "edge" if graph.nodes[edge.source].kind == MODEL else "edge given"
        about = f"{edge.source} is {edge.role} of {edge.target}" + (f" ({edge.via})" if edge.via else "")
        drawn.append(tag("path", tag("title", about), class_=kind, d=_route(points), marker_end="url(#arrow)"))
    boxes = [_box(graph.nodes[ref], margin + layout.x[ref] - NODE_WIDTH / 2, top(layout.layer[ref])) for ref in order]
    width = layout.width + 2 * margin
    height = margin * 2 + (layout.layers - 1) * LAYER_HEIGHT + NODE_HEIGHT
    return picture(title, width, height, arrow, drawn, boxes, style=f"max-width:{width:.0f}px")


def _route(points: Sequence[tuple[float, float]]) -> str:
    """A path from the bottom of the first box to the top of the last one, straight past the layers between."""
    x, y = points[0][0], points[0][1] + NODE_HEIGHT
    path = f"M{x:.1f} {y:.1f}"
    for i, (next_x, next_top) in enumerate(points[1:], 2):
        end = next_top - 2 if i == len(points) else next_top
        middle = (y + end) / 2
        path += f"C{x:.1f} {middle:.1f} {next_x:.1f} {middle:.1f} {next_x:.1f} {end:.1f}"
        x, y = next_x, end
        if i < len(points):
            y += NODE_HEIGHT
            path += f"V{y:.1f}"
    return path


def _box(node: Node, x: float, y: float) -> Html:
    outline = f"box {node.kind} {node.verdict}" + (" promoted" if node.stages else "")
    about = f"{node.ref}: {node.what}"
    what = node.what if node.kind in (MODEL, "conversations") else f"{node.kind}: {node.what}"
    lines = [
        tag("text", _short(node.name, LABEL), x=x + 18, y=y + 23, font_size="13.5", font_weight="600"),
        tag("text", _short(what, SMALL_LABEL), class_="soft", x=x + 18, y=y + 39),
    ]
    if node.verdict:
        promoted = ("" if node.verdict == "pass" else " by waiver") if node.stages else None
        text = f"{MARKS[node.verdict]} {node.verdict}" + (f", promoted{promoted}" if promoted is not None else "")
        about += f"; gate {node.stage}: {node.verdict}" + "".join(f"; stands for {stage}" for stage in node.stages)
        lines.append(tag("text", text, class_=f"fill-{node.verdict}", x=x + 18, y=y + 56, font_size="12", font_weight="600"))
    return tag(
        "g",
        tag("title", about),
        tag("rect", class_=outline, x=x, y=y, width=NODE_WIDTH, height=NODE_HEIGHT, rx="10"),
        tag("rect", class_=f"fill-{node.kind}", x=x + 6, y=y + 10, width="4", height=NODE_HEIGHT - 20, rx="2"),
        inside(lines),
    )


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
