"""Places the nodes of an acyclic graph on layers and routes the edges between them, so that arrows point down.

After Sugiyama et al. (1981): longest-path layers, a thin place holder wherever an edge crosses a layer, an order within the
layers by the mean place of the neighbours, and coordinates that pull each node towards them. Drawing programs do this better,
but none comes with Python.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

SWEEPS = 40
HOLDER_PULL = 3.0
"""How much more than a node a place holder resists being pushed aside: its edge would bend."""
Place = Hashable


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where everything goes; layers count from 0 downwards, x is a node's centre."""

    layer: dict[str, int]
    x: dict[str, float]
    routes: dict[tuple[str, str], list[tuple[int, float]]]
    """Edge to its points, (layer, x), from source to target."""
    width: float
    layers: int


def layered(widths: Mapping[str, float], edges: Sequence[tuple[str, str]], order: Sequence[str], *, gap: float) -> Layout:
    """Lay out the nodes of `widths`; `order` lists them, each after its sources. Two edges between the same nodes are one."""
    edges = list(dict.fromkeys(edges))
    layer = _layers(edges, order)
    wide: dict[Place, float] = dict(widths.items())
    rows: list[list[Place]] = [[] for _ in range(max(layer.values(), default=-1) + 1)]
    for name in order:
        rows[layer[name]].append(name)
    up: dict[Place, list[Place]] = {}
    down: dict[Place, list[Place]] = {}
    chains: dict[tuple[str, str], list[Place]] = {}
    for source, target in edges:
        chain: list[Place] = [source]
        for row in range(layer[source] + 1, layer[target]):
            holder = (source, target, row)
            wide[holder] = gap / 2
            rows[row].append(holder)
            chain.append(holder)
        chains[source, target] = [*chain, target]
        for a, b in pairwise(chains[source, target]):
            down.setdefault(a, []).append(b)
            up.setdefault(b, []).append(a)
    _sort_rows(rows, up, down)
    x = _coordinates(rows, up, down, wide, gap)
    left = min((x[place] - wide[place] / 2 for place in x), default=0.0)
    right = max((x[place] + wide[place] / 2 for place in x), default=0.0)
    routes = {edge: [(layer[edge[0]] + i, x[place] - left) for i, place in enumerate(chain)] for edge, chain in chains.items()}
    return Layout(layer=layer, x={name: x[name] - left for name in order}, routes=routes, width=right - left, layers=len(rows))


def _layers(edges: Sequence[tuple[str, str]], order: Sequence[str]) -> dict[str, int]:
    """Longest path from the top; what has no source of its own moves down to just above what it goes into."""
    layer: dict[str, int] = {}
    for name in order:
        layer[name] = max((layer[a] + 1 for a, b in edges if b == name), default=0)
    fed = {b for _, b in edges}
    for name in reversed(order):
        targets = [layer[b] for a, b in edges if a == name]
        if targets and name not in fed:
            layer[name] = min(targets) - 1
    return layer


def _sort_rows(rows: list[list[Place]], up: Mapping[Place, list[Place]], down: Mapping[Place, list[Place]]) -> None:
    best, fewest = [list(row) for row in rows], _crossings(rows, down)
    for sweep in range(SWEEPS):
        downwards = sweep % 2 == 0
        for row in rows if downwards else reversed(rows):
            place = {item: i for other in rows for i, item in enumerate(other)}
            near = up if downwards else down
            mean = {item: sum(place[n] for n in near.get(item, [])) / max(1, len(near.get(item, []))) for item in row}
            row.sort(key=lambda item: mean[item] if near.get(item) else place[item])
        crossings = _crossings(rows, down)
        if crossings < fewest:
            best, fewest = [list(row) for row in rows], crossings
    rows[:] = best


def _crossings(rows: Sequence[Sequence[Place]], down: Mapping[Place, list[Place]]) -> int:
    count = 0
    for row, below in pairwise(rows):
        place = {item: i for i, item in enumerate(below)}
        ends = [sorted(place[target] for target in down.get(item, [])) for item in row]
        flat = [(i, end) for i, targets in enumerate(ends) for end in targets]
        count += sum(1 for n, (i, a) in enumerate(flat) for j, b in flat[n + 1 :] if i < j and a > b)
    return count


def _coordinates(
    rows: Sequence[Sequence[Place]],
    up: Mapping[Place, list[Place]],
    down: Mapping[Place, list[Place]],
    wide: Mapping[Place, float],
    gap: float,
) -> dict[Place, float]:
    x: dict[Place, float] = {}
    for row in rows:
        reach = 0.0
        for item in row:
            x[item] = reach + wide[item] / 2
            reach += wide[item] + gap
        for item in row:
            x[item] -= (reach - gap) / 2
    for sweep in range(SWEEPS):
        downwards = sweep % 2 == 0
        for row in rows if downwards else reversed(rows):
            wish = {item: _wish(item, x, up.get(item, []), down.get(item, []), downwards) for item in row}
            _settle(row, wish, x, wide, gap)
    return x


def _wish(item: Place, x: Mapping[Place, float], above: Sequence[Place], below: Sequence[Place], downwards: bool) -> float:
    """Nodes want to be amid their neighbours; place holders straight below or above the last one, so that long edges are."""
    followed = above if downwards else below
    if _is_holder(item) and _is_holder(followed[0]):
        return x[followed[0]]
    near = [*above, *below]
    return sum(x[other] for other in near) / len(near) if near else x[item]


def _is_holder(place: Place) -> bool:
    return isinstance(place, tuple)


def _settle(
    row: Sequence[Place], wish: Mapping[Place, float], x: dict[Place, float], wide: Mapping[Place, float], gap: float
) -> None:
    """Move a row's items as near to their wishes as order and spacing allow: runs that touch share the mean of their wishes."""
    runs: list[Run] = []
    for item in row:
        run = Run([item], [wide[item] / 2], wide[item])
        while runs and runs[-1].start(wish) + runs[-1].length + gap > run.start(wish):
            before = runs.pop()
            shift = before.length + gap
            offsets = before.offsets + [shift + offset for offset in run.offsets]
            run = Run(before.members + run.members, offsets, shift + run.length)
        runs.append(run)
    for run in runs:
        for member, offset in zip(run.members, run.offsets, strict=True):
            x[member] = run.start(wish) + offset


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbours in a row that touch and move together."""

    members: list[Place]
    offsets: list[float]
    """Their centres, from the run's left end."""
    length: float

    def start(self, wish: Mapping[Place, float]) -> float:
        """Where the run's left end is nearest to its members' wishes; place holders count for more."""
        pulls = [HOLDER_PULL if _is_holder(member) else 1.0 for member in self.members]
        wanted = sum(
            pull * (wish[member] - offset) for pull, member, offset in zip(pulls, self.members, self.offsets, strict=True)
        )
        return wanted / sum(pulls)
