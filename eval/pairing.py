"""Pairs the items of two scorecards, or says why they cannot be compared.

Scores are comparable only item by item: the same suite, the same items, the same questions and answers. Aggregated numbers are
never compared; a scorecard that lost its items cannot be gated.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..catalog.errors import CorruptInput
from ..catalog.records import Artifact, Scorecard
from ..catalog.store import verify_files
from .policy import Level
from .uncertainty import Floats, Sample

ITEMS = "items"
"""The index table whose rows are a scorecard's items."""
_COLUMNS = ("task", "language", "metric", "item", "cluster", "value", "doc_hash", "prompt_hash", "target_hash")

Key = tuple[str, str, str, str]
"""Metric, language, task, item."""


class Incomparable(Exception):
    """Two scorecards that must not be compared; becomes the verdict `error`, not an error of the command."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Items:
    """The items of one scorecard."""

    ref: str
    """Reference of the scorecard."""
    card: Scorecard
    rows: Mapping[Key, Mapping[str, Any]]
    """Every item, ordered by key."""
    repeated: tuple[Key, ...] = ()
    """Keys that occur more than once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """The items of one task in one language under one metric: a candidate's beside what they are compared with."""

    metric: str
    language: str
    task: str
    higher_is_better: bool
    """Direction of the metric."""
    candidate: Floats
    """The candidate's values, ordered by item."""
    reference: Floats
    """The baseline's values, or a floor repeated."""
    clusters: tuple[str, ...]
    """Cluster of each item."""

    def sample(self, weight: float) -> Sample:
        """The differences, signed so that higher is better; `weight` is the task's share of a node's mean."""
        difference = self.candidate - self.reference
        values = np.concatenate([self.candidate, self.reference])
        return Sample(
            differences=difference if self.higher_is_better else -difference,
            clusters=np.array(self.clusters),
            is_binary=bool(np.isin(values, (0.0, 1.0)).all()) and len(set(self.clusters)) == len(self.clusters),
            weight=weight,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A place of the suite where a metric is tested."""

    level: Level
    name: str
    """`metric`, `metric/language` or `metric/language/task`."""
    cells: tuple[Cell, ...]
    """Its tasks; all of them for the suite."""

    def weights(self) -> list[float]:
        """Share of each cell: the plain mean of languages, each the plain mean of its tasks."""
        tasks = Counter(cell.language for cell in self.cells)
        return [1 / (len(tasks) * tasks[cell.language]) for cell in self.cells]


def read_items(artifact: Artifact, folder: Path) -> Items:
    """Read a scorecard's items; raises CorruptInput when the table is missing, changed or not a table of items."""
    if not isinstance(artifact.body, Scorecard) or ITEMS not in artifact.tables:
        raise CorruptInput(str(artifact.ref), "", f"is a {artifact.kind} without a table of items, not a scorecard to gate on")
    path = folder / artifact.tables[ITEMS]
    verify_files(folder, artifact, iter((artifact.tables[ITEMS],)))
    try:
        table = pq.read_table(path, columns=list(_COLUMNS)).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise CorruptInput(path, "", f"is not a table of items: {str(error).splitlines()[0]}") from error
    table.sort(key=_key)
    repeated = tuple(key for key, count in Counter(map(_key, table)).items() if count > 1)
    return Items(ref=str(artifact.ref), card=artifact.body, rows={_key(row): row for row in table}, repeated=repeated)


def _key(row: Mapping[str, Any]) -> Key:
    return str(row["metric"]), str(row["language"]), str(row["task"]), str(row["item"])


def require_sound(items: Items) -> None:
    """Raise Incomparable for a scorecard without items, with an item twice or with a value that is no number."""
    if not items.rows:
        raise Incomparable(f"{items.ref} has no items")
    if items.repeated:
        raise Incomparable(f"{items.ref} has {'/'.join(items.repeated[0])} more than once")
    for key, row in items.rows.items():
        if row["value"] is None or not math.isfinite(row["value"]):
            raise Incomparable(f"{items.ref}: {'/'.join(key)} has the value {row['value']}")


def paired_cells(candidate: Items, baseline: Items, same_prompts: bool) -> list[Cell]:
    """Every task's items side by side; raises Incomparable with the first difference between what the two were asked."""
    _require_equal("suite", candidate, baseline, lambda items: items.card.suite)
    if same_prompts:  # prompts are part of the fingerprint, so it can only be asked for where they must be equal
        _require_equal("suite_fingerprint", candidate, baseline, lambda items: items.card.suite_fingerprint)
    _require_equal("harness", candidate, baseline, lambda items: items.card.harness)
    for mine, other in ((candidate, baseline), (baseline, candidate)):
        missing = [key for key in mine.rows if key not in other.rows]
        if missing:
            first = "/".join(missing[0])
            raise Incomparable(f"{other.ref} lacks {len(missing)} of the items of {mine.ref}, the first is {first}")
    hashes = ["cluster", "doc_hash", "target_hash"] + ["prompt_hash"] * same_prompts
    for key, row in candidate.rows.items():
        differs = [name for name in hashes if row[name] != baseline.rows[key][name]]
        if differs:
            raise Incomparable(f"{'/'.join(key)}: {candidate.ref} and {baseline.ref} differ in {' and '.join(differs)}")
    return list(_cells(candidate, lambda key: float(baseline.rows[key]["value"])))


def floor_cells(candidate: Items, metric: str, value: float) -> list[Cell]:
    """The candidate's items of one metric beside a fixed value."""
    return [cell for cell in _cells(candidate, lambda _: value) if cell.metric == metric]


def nodes(cells: Sequence[Cell], metric: str, levels: Sequence[Level]) -> list[Node]:
    """Where a metric is tested at the levels asked for, widest first.

    A language with one task, or a suite with one language, is one node and not two: it stays with the wider of its levels.
    Raises Incomparable when no item has the metric, or a task's items are all one cluster.
    """
    found = [cell for cell in cells if cell.metric == metric]
    if not found:
        raise Incomparable(f"the policy asks for the metric {metric!r}, which the scorecards do not have")
    for cell in found:
        if len(set(cell.clusters)) < 2:
            raise Incomparable(f"{metric}/{cell.language}/{cell.task} has one cluster of items: its error cannot be estimated")
    candidates = [Node(level="suite", name=metric, cells=tuple(found))]
    for language in sorted({cell.language for cell in found}):
        tasks = tuple(cell for cell in found if cell.language == language)
        candidates.append(Node(level="language", name=f"{metric}/{language}", cells=tasks))
        candidates += [Node(level="task", name=f"{metric}/{language}/{cell.task}", cells=(cell,)) for cell in tasks]
    kept: list[Node] = []
    for node in sorted(candidates, key=lambda node: ("suite", "language", "task").index(node.level)):
        if node.level in levels and _places(node) not in [_places(other) for other in kept]:
            kept.append(node)
    return kept


def _places(node: Node) -> list[tuple[str, str]]:
    return [(cell.language, cell.task) for cell in node.cells]


def _require_equal(what: str, candidate: Items, baseline: Items, value: Callable[[Items], str]) -> None:
    mine, other = value(candidate), value(baseline)
    if mine != other:
        raise Incomparable(f"{what} of {candidate.ref} is {mine}, of {baseline.ref} {other}")


def _cells(candidate: Items, reference: Callable[[Key], float]) -> Iterator[Cell]:
    directions = {score.metric: score.higher_is_better for score in candidate.card.scores}
    grouped: dict[tuple[str, str, str], list[Key]] = {}
    for key in candidate.rows:
        grouped.setdefault(key[:3], []).append(key)
    for (metric, language, task), keys in grouped.items():
        if metric not in directions:
            raise Incomparable(f"{candidate.ref} has items of {metric!r} but no score that gives its direction")
        clusters = tuple(str(candidate.rows[key]["cluster"]) for key in keys)
        yield Cell(
            metric=metric,
            language=language,
            task=task,
            higher_is_better=directions[metric],
            candidate=np.array([float(candidate.rows[key]["value"]) for key in keys]),
            reference=np.array([reference(key) for key in keys]),
            clusters=clusters,
        )
