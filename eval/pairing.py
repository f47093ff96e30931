"""The items of scorecards, side by side: cells (a task in a language under a metric) and the nodes of the suite over them.

Scores are compared item by item and never by their aggregates; whether two scorecards may be compared at all is
`comparability`'s question. Values are arrays, and what was asked (`Asked`) is apart from what was answered, so that a table is
sorted, checked and counted once however many rules, baselines and simulated models meet it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ..catalog.errors import CorruptInput
from ..catalog.records import Artifact, Scorecard
from ..catalog.store import verify_files
from .contamination import Named, contaminated_items
from .policy import ANY_METRIC, Level
from .resampling import Floats
from .selection import node_name, selects
from .uncertainty import Sample

ITEMS = "items"
"""The index table whose rows are a scorecard's items."""
_COLUMNS = ("task", "language", "metric", "item", "cluster", "value", "doc_hash", "prompt_hash", "target_hash")
_LATER: dict[str, Any] = {"filter": "", "stratum": "", "is_null": False}
"""Columns that older scorecards lack, with what their absence means."""
HASHES = ("cluster", "doc_hash", "target_hash", "stratum", "prompt_hash")
"""What must be equal for two items to be the same question; the last one only where the prompts must be the same."""
CORPUS_METRICS = ("rougel", "rougel_f1", "rouge_l", "normalized_rougel_f1", "chrf", "chrf++", "metricx")
"""Metrics of long answers, whose values are too far from normal for a t interval: they are bootstrapped."""

Place = tuple[str, str, str]
"""Metric, language, task (with its filter, where the task has several)."""


class Incomparable(Exception):
    """Two scorecards that must not be compared; becomes the verdict `error`, not an error of the command."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Asked:
    """What one cell's items were, in the order of their names: everything but the answers."""

    items: tuple[str, ...]
    """Names of the items."""
    columns: Mapping[str, NDArray[np.str_]]
    """By `HASHES`."""
    strata: tuple[NDArray[np.intp], ...]
    """Places of the items of each stratum, largest first; strata of a single cluster are one."""
    shares: tuple[float, ...]
    """Each stratum's part of the cell's mean: one each, and as many as were put together."""
    is_each_alone: bool
    """Whether every item is a cluster of its own."""

    @property
    def clusters(self) -> NDArray[np.str_]:
        """Cluster of each item."""
        return self.columns["cluster"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """The answers to what one cell asked."""

    asked: Asked
    values: Floats
    """In the metric's own unit; a value that is missing is NaN."""
    nulls: int = 0
    """Items out of whose answers nothing could be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Items:
    """The items of one scorecard."""

    ref: str
    """Reference of the scorecard."""
    card: Scorecard
    blocks: Mapping[Place, Block]
    """Every cell, ordered by place."""
    repeated: tuple[str, ...] = ()
    """Items that occur more than once."""
    empty: tuple[str, ...] = ()
    """Items without a value."""
    contaminated: frozenset[Named] = frozenset()
    """Items that training corpora hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """The items of one task in one language under one metric: a candidate's beside what they are compared with."""

    metric: str
    language: str
    task: str
    asked: Asked
    differences: Floats
    """Candidate less reference per item, signed so that higher is better."""
    is_binary: bool
    """Whether the items are right-or-wrong and each its own cluster."""
    candidate: float
    """The candidate's score: the plain mean over strata of their items' means."""
    reference: float
    """The baseline's score, or the floor."""

    @property
    def is_corpus(self) -> bool:
        """Whether its error is bootstrapped: a mean over strata, or a metric of long answers."""
        return len(self.asked.strata) > 1 or self.metric in CORPUS_METRICS

    def samples(self, weight: float, clusters: NDArray[Any]) -> list[Sample]:
        """One sample a stratum; `weight` is the task's share of a node's mean, `clusters` names each item's cluster."""
        if len(self.asked.strata) == 1:
            return [Sample(differences=self.differences, clusters=clusters, is_binary=self.is_binary, weight=weight)]
        return [
            Sample(
                differences=self.differences[places],
                clusters=clusters[places],
                is_binary=self.is_binary,
                weight=weight * share,
                shares=_item_shares(self.asked, places),
            )
            for places, share in zip(self.asked.strata, self.asked.shares, strict=True)
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A place of the suite where a metric is tested."""

    level: Level
    name: str
    """`metric`, `metric/language` or `metric/language/task`."""
    metric: str
    """The metric that the rule names."""
    cells: tuple[Cell, ...]
    """Its tasks; all of them for the suite."""

    def weights(self) -> list[float]:
        """Share of each cell: the plain mean of languages, each the plain mean of its tasks."""
        tasks = Counter(cell.language for cell in self.cells)
        return [1 / (len(tasks) * tasks[cell.language]) for cell in self.cells]

    def samples(self) -> list[Sample]:
        """The node's samples: their shares add up to 1."""
        codes, _ = _layout(tuple(cell.asked for cell in self.cells))
        cells = zip(self.cells, self.weights(), codes, strict=True)
        return [sample for cell, weight, clusters in cells for sample in cell.samples(weight, clusters)]

    def clusters(self) -> int:
        """Distinct clusters."""
        return _layout(tuple(cell.asked for cell in self.cells))[1]


def read_items(artifact: Artifact, folder: Path) -> Items:
    """Read a scorecard's items; raises CorruptInput when the table is missing, changed or not a table of items."""
    if not isinstance(artifact.body, Scorecard) or ITEMS not in artifact.tables:
        raise CorruptInput(str(artifact.ref), "", f"is a {artifact.kind} without a table of items, not a scorecard to gate on")
    path = folder / artifact.tables[ITEMS]
    verify_files(folder, artifact, iter((artifact.tables[ITEMS],)))
    try:
        with pq.ParquetFile(path) as file:
            later = [name for name in _LATER if name in file.schema_arrow.names]
            table = file.read(columns=[*_COLUMNS, *later])
    except (OSError, pa.ArrowException) as error:
        raise CorruptInput(path, "", f"is not a table of items: {str(error).splitlines()[0]}") from error
    if table.num_columns < len(_COLUMNS) + len(later):
        missing = sorted(set(_COLUMNS) - set(table.column_names))
        raise CorruptInput(path, "", f"is not a table of items: it has no column {missing[0]!r}")
    if not pa.types.is_floating(table.schema.field("value").type):
        raise CorruptInput(path, "", f"is not a table of items: its values are {table.schema.field('value').type}, not numbers")
    items = items_of(str(artifact.ref), artifact.body, table.to_pylist())
    return replace(items, contaminated=contaminated_items(artifact, folder))


def items_of(ref: str, card: Scorecard, rows: Sequence[Mapping[str, Any]]) -> Items:
    """A scorecard's items from the rows of its table, in any order."""
    filters: dict[Place, set[str]] = {}
    for row in rows:
        filters.setdefault((str(row["metric"]), str(row["language"]), str(row["task"])), set()).add(str(_of(row, "filter")))
    cells: dict[Place, list[Mapping[str, Any]]] = {}
    for row in rows:
        metric, language, task = str(row["metric"]), str(row["language"]), str(row["task"])
        several = len(filters[metric, language, task]) > 1
        cells.setdefault((metric, language, f"{task}:{_of(row, 'filter')}" if several else task), []).append(row)
    blocks, repeated, empty = {}, [], []
    for place in sorted(cells):
        found = sorted(cells[place], key=lambda row: str(row["item"]))
        names = tuple(str(row["item"]) for row in found)
        repeated += [f"{'/'.join(place)}/{name}" for name, count in Counter(names).items() if count > 1]
        empty += [f"{'/'.join(place)}/{name}" for name, row in zip(names, found, strict=True) if row["value"] is None]
        columns = {name: [str(_of(row, name)) for row in found] for name in HASHES}
        values = np.array([np.nan if row["value"] is None else row["value"] for row in found], dtype=np.float64)
        nulls = sum(bool(_of(row, "is_null")) for row in found)
        blocks[place] = Block(asked=asked_of(names, columns), values=values, nulls=nulls)
    return Items(ref=ref, card=card, blocks=blocks, repeated=tuple(repeated), empty=tuple(empty))


def _of(row: Mapping[str, Any], name: str) -> Any:
    value = row.get(name)
    return _LATER.get(name, "") if value is None else value


def asked_of(items: tuple[str, ...], columns: Mapping[str, Sequence[str] | NDArray[np.str_]]) -> Asked:
    """What was asked, from the items' names (sorted) and their columns by `HASHES`."""
    arrays = {name: np.asarray(columns[name], dtype=np.str_) for name in HASHES}
    strata, shares = _strata(arrays["stratum"], arrays["cluster"])
    is_each_alone = len(np.unique(arrays["cluster"])) == len(items)
    return Asked(items=items, columns=arrays, strata=strata, shares=shares, is_each_alone=is_each_alone)


def _strata(names: NDArray[np.str_], clusters: NDArray[np.str_]) -> tuple[tuple[NDArray[np.intp], ...], tuple[float, ...]]:
    """Places of the items of each stratum, and the strata's shares.

    A stratum of one cluster has no error of its own: all such are put together, and a last one with the smallest other. The
    mean stays that of all strata; their differences from each other count as error, which is the cautious side.
    """
    if not len(names) or (names == names[0]).all():
        return (np.arange(len(names)),), (1.0,)
    parts = [np.flatnonzero(names == name) for name in np.unique(names)]
    parts.sort(key=lambda part: (-len(part), clusters[part[0]]))
    whole = [part for part in parts if (clusters[part] != clusters[part[0]]).any()]
    single = [part for part in parts if (clusters[part] == clusters[part[0]]).all()]
    if single and (len(single) == 1 or len({str(clusters[part[0]]) for part in single}) == 1) and whole:
        single.append(whole.pop())
    together = [[part] for part in whole] + ([single] if single else [])
    places = tuple(np.concatenate(group) for group in together)
    return places, tuple(len(group) / len(parts) for group in together)


def _item_shares(asked: Asked, places: NDArray[np.intp]) -> Floats | None:
    """Share of each item in the mean of a stratum: unequal only where strata of different sizes were put together."""
    names = asked.columns["stratum"][places]
    _, code, counts = np.unique(names, return_inverse=True, return_counts=True)
    if len(counts) == 1:
        return None
    shares: Floats = 1.0 / (len(counts) * counts[code])
    return shares


@lru_cache(maxsize=1024)
def _layout(asked: tuple[Asked, ...]) -> tuple[list[NDArray[np.intp]], int]:
    """Number of each item's cluster, in the order of all clusters' names, and how many there are.

    Kept, because cells keep what was asked and meet many rules, baselines and simulated models.
    """
    names, code = np.unique(np.concatenate([cell.clusters for cell in asked]), return_inverse=True)
    ends = np.cumsum([len(cell.items) for cell in asked])[:-1]
    return np.split(code, ends), len(names)


def score(asked: Asked, values: Floats) -> float:
    """The plain mean over strata of their items' means."""
    if len(asked.strata) == 1:
        return float(values.mean())
    total = 0.0
    for places, share in zip(asked.strata, asked.shares, strict=True):
        shares = _item_shares(asked, places)
        total += share * float(values[places].mean() if shares is None else values[places] @ shares)
    return total


def cells_of(candidate: Items, baseline: Items | None, value: float = 0.0) -> list[Cell]:
    """Every cell of the candidate beside the baseline's, or beside a fixed value.

    Raises Incomparable for items of a metric without a direction. That the baseline was asked the same was checked before.
    """
    directions = {score.metric: score.higher_is_better for score in candidate.card.scores}
    found = []
    for (metric, language, task), block in candidate.blocks.items():
        if metric not in directions:
            raise Incomparable(f"{candidate.ref} has items of {metric!r} but no score that gives its direction")
        asked, mine = block.asked, block.values
        other = np.full(len(mine), value) if baseline is None else baseline.blocks[metric, language, task].values
        is_binary = asked.is_each_alone and _is_right_or_wrong(mine) and _is_right_or_wrong(other)
        found.append(
            Cell(
                metric=metric, language=language, task=task, asked=asked, is_binary=is_binary,
                differences=mine - other if directions[metric] else other - mine,
                candidate=score(asked, mine), reference=score(asked, other) if baseline else value,
            )
        )  # fmt: skip
    return found


def _is_right_or_wrong(values: Floats) -> bool:
    return bool(((values == 0.0) | (values == 1.0)).all())


def chosen(
    cells: Sequence[Cell],
    card: Scorecard,
    metric: str,
    languages: Sequence[str],
    tasks: Sequence[str],
    scale: Mapping[str, float],
) -> list[Cell]:
    """The cells that a rule is about; for `score` those of each task's own metric, in one unit."""
    counted = _counted(cells, card) if metric == ANY_METRIC else set()
    found = []
    for cell in cells:
        task = cell.task.partition(":")[0]
        if not selects(languages, cell.language) or not selects(tasks, task, cell.task):
            continue
        if metric == ANY_METRIC and (cell.metric, cell.language, task) in counted:
            found.append(_scaled(cell, scale.get(cell.metric, 1.0)))
        elif cell.metric == metric:
            found.append(cell)
    return found


def _counted(cells: Sequence[Cell], card: Scorecard) -> set[Place]:
    """What each task counts by, where its items have it; else the raw metrics behind that, whose items are not normalised."""
    have = {(cell.metric, cell.language, cell.task.partition(":")[0]) for cell in cells}

    def of(role: str) -> set[Place]:
        return {(score.metric, score.language, score.task) for score in card.scores if score.role == role} & have

    counted = of("score")
    told = {(language, task) for _, language, task in counted}
    return counted | {place for place in of("raw") if place[1:] not in told}


def _scaled(cell: Cell, factor: float) -> Cell:
    if factor == 1:
        return cell
    return Cell(
        metric=cell.metric, language=cell.language, task=cell.task, asked=cell.asked, is_binary=False,
        differences=cell.differences * factor, candidate=cell.candidate * factor, reference=cell.reference * factor,
    )  # fmt: skip


def nodes(
    cells: Sequence[Cell], metric: str, levels: Sequence[Level], languages: Sequence[str] = (), tasks: Sequence[str] = ()
) -> Iterator[Node]:
    """Where a metric is tested at the levels asked for, widest first; `cells` are those that the rule is about.

    A language with one task, or a suite with one language, is one node and not two: it stays with the wider of its levels.
    `languages` and `tasks` are what the rule says it is about, and part of the nodes' names. Raises Incomparable when there is
    no cell, or a task's items are all one cluster.
    """
    if not cells:
        raise Incomparable(f"the policy asks for the metric {metric!r}, which the scorecards do not have there")
    for cell in cells:
        if len(cell.asked.items) < 2 or (not cell.asked.is_each_alone and _layout((cell.asked,))[1] < 2):
            raise Incomparable(
                f"{cell.metric}/{cell.language}/{cell.task} has one cluster of items: its error cannot be estimated"
            )
    by_language: dict[str, list[Cell]] = {}
    for cell in cells:
        by_language.setdefault(cell.language, []).append(cell)
    wide = [Node(level="suite", name=node_name(metric, tasks, languages=languages), metric=metric, cells=tuple(cells))]
    middle = [
        Node(level="language", name=node_name(metric, tasks, language), metric=metric, cells=tuple(by_language[language]))
        for language in sorted(by_language)
    ]
    narrow = [
        Node(level="task", name=f"{metric}/{cell.language}/{cell.task}", metric=metric, cells=(cell,))
        for node in middle
        for cell in node.cells
    ]
    seen: set[tuple[Place, ...]] = set()
    for node in (*wide, *middle, *narrow):
        places = tuple(sorted((cell.metric, cell.language, cell.task) for cell in node.cells))
        if node.level in levels and places not in seen:
            seen.add(places)
            yield node
