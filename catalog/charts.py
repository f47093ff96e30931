"""Pictures as inline SVG in the colours of `report.css`: training curves and lineages, each with a title for who cannot see it.

Plots that are rows of marks are in `pages.plots`. A charting library was refused: the smallest page of one is 300 kB gzipped
and needs scripts, these take 3 kB.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

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


def line_chart(
    title: str,
    steps: Sequence[float],
    values: Sequence[float],
    *,
    low: Sequence[float] = (),
    high: Sequence[float] = (),
    rates: Sequence[float | None] = (),
    broken: Sequence[float] = (),
) -> Html:
    """A training curve over its steps: the values, a band from `low` to `high`, the learning `rates` on a scale of their own
    along the lower part, and crosses at the steps whose loss is no number."""
    width, height, left, right, top, bottom = 320.0, 168.0, 38.0, 10.0, 12.0, 24.0
    least, most = min([*values, *low]), max([*values, *high])
    pad = (most - least) * 0.06 or abs(most) * 0.05 or 1.0
    least, most = least - pad, most + pad
    first, last = min([*steps, *broken]), max([*steps, *broken])

    def x(step: float) -> float:
        return left + (step - first) / ((last - first) or 1) * (width - left - right)

    def y(value: float) -> float:
        return top + (most - value) / (most - least) * (height - top - bottom)

    grid: list[Html] = []
    for value in ticks(least, most, 4):
        grid.append(tag("line", class_="axis", x1=left, x2=width - right, y1=y(value), y2=y(value)))
        grid.append(tag("text", f"{value:g}", class_="tick", x=left - 6, y=y(value) + 4, text_anchor="end"))
    for step in ticks(first, last, 4):
        grid.append(tag("text", f"{step:,.0f}", class_="tick", x=x(step), y=height - 6, text_anchor="middle"))
    band = [(x(s), y(v)) for s, v in zip(steps, high, strict=False)] + [(x(s), y(v)) for s, v in zip(steps, low, strict=False)][
        ::-1
    ]
    peak = max((rate for rate in rates if rate), default=0.0)
    floor = height - bottom
    slope = [(x(s), floor - (rate or 0.0) / peak * 0.4 * (floor - top)) for s, rate in zip(steps, rates, strict=False) if peak]
    crosses = [tag("path", class_="cross", d=f"M{x(step) - 3:.1f} {floor - 7:.1f}l6 6m0-6l-6 6") for step in broken[:40]]
    shapes = [
        tag("polygon", class_="band", points=_points(band)) if band else None,
        tag("polyline", class_="lr", points=_points(slope)) if slope else None,
        tag("polyline", class_="curve", points=_points([(x(s), y(v)) for s, v in thin(steps, values)])),
    ]
    return picture(title, width, height, grid, shapes, crosses)


def _points(places: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """The mean of each value and up to `window - 1` before it."""
    return [sum(values[max(0, i - window + 1) : i + 1]) / (i + 1 - max(0, i - window + 1)) for i in range(len(values))]


def thin(steps: Sequence[float], values: Sequence[float]) -> list[tuple[float, float]]:
    """At most about `POINTS` of the points, the last one among them."""
    stride = max(1, len(values) // POINTS)
    kept = list(zip(steps, values, strict=True))[::stride]
    return kept if len(values) % stride == 1 or stride == 1 else [*kept, (steps[-1], values[-1])]


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
    kind = node.kind or "missing"
    outline = f"box {kind} {node.verdict}" + (" promoted" if node.stages else "")
    about = f"{node.ref}: {node.what}"
    what = node.what if node.kind in (MODEL, "conversations", "crawl", "") else f"{kind}: {node.what}"
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
        tag("rect", class_=f"fill-{kind}", x=x + 6, y=y + 10, width="4", height=NODE_HEIGHT - 20, rx="2"),
        inside(lines),
    )


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
