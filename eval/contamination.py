"""What a scorecard says about contamination: which of its items lie in training corpora, and its scores without them.

The items found come from an artifact of kind `overlap`, made by the rule that decontamination uses. A gate whose policy has a
`[clean]` table refuses scorecards of which nothing is known, and compares without the items that either side found.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..catalog.errors import RecipeError
from ..catalog.records import STRICT, Artifact, Contamination, Overlaps
from ..catalog.store import Job, verify_files, write_rows

TABLE = "contaminated.parquet"
SCHEMA = pa.schema([(name, pa.string()) for name in ("task", "language", "item", "corpus")] + [("documents", pa.int64())])
Named = tuple[str, str, str]
"""Task, language and item."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clean:
    """What a policy asks of contamination."""

    __pydantic_config__ = STRICT

    max_share: float = 1.0
    """Highest share of a task's items that a training corpus may hold; above, the scores say nothing (verdict `error`)."""
    exclude: bool = True
    """Whether the items found are left out of every comparison."""

    def __post_init__(self) -> None:
        if not 0 <= self.max_share <= 1:
            raise ValueError(f"max_share is a share, 0 to 1, not {self.max_share:g}")


def write_contamination(job: Job[Any], items: pa.Table) -> tuple[tuple[str, ...], tuple[Contamination, ...]]:
    """The corpora looked through and the shares found, from the recipe's `overlap`; writes the items found as `TABLE`."""
    artifact = job.inputs[job.recipe.overlap]
    if not isinstance(artifact.body, Overlaps):
        raise RecipeError(str(job.recipe.ref), "overlap", f"{artifact.ref} is a {artifact.kind}, not an overlap with corpora")
    folder = job.folder_of(job.recipe.overlap)
    verify_files(folder, artifact)
    documents: defaultdict[tuple[Named, str], set[str]] = defaultdict(set)
    for row in pq.read_table(folder / artifact.tables["item_overlaps"]).to_pylist():
        _, task, language, item = row["item"].split("/", 3)
        documents[(task, language, item), row["corpus"]].add(row["document"])
    asked = set(zip(*(items[name].to_pylist() for name in ("task", "language", "item")), strict=True))
    rows = [
        {"task": name[0], "language": name[1], "item": name[2], "corpus": corpus, "documents": len(found)}
        for (name, corpus), found in sorted(documents.items())
        if name in asked
    ]
    write_rows(job.folder / TABLE, rows, SCHEMA)
    found = {name for name, _ in documents if name in asked}
    return artifact.body.corpora, tuple(_shares(items.to_pylist(), found))


def _shares(rows: Sequence[Mapping[str, Any]], found: set[Named]) -> Iterator[Contamination]:
    cells: defaultdict[tuple[str, str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        cells[row["task"], row["language"], row["metric"]].append(row)
    for (task, language, metric), cell in cells.items():
        clean = [row for row in cell if (task, language, row["item"]) not in found]
        value = _mean(cell)
        assert value is not None
        yield Contamination(
            task=task,
            language=language,
            metric=metric,
            items=len(cell),
            found=len(cell) - len(clean),
            value=value,
            clean_value=_mean(clean),
        )


def _mean(rows: Sequence[Mapping[str, Any]]) -> float | None:
    strata: defaultdict[str, list[float]] = defaultdict(list)
    for row in rows:
        strata[row["stratum"] or ""].append(row["value"])
    return sum(sum(values) / len(values) for values in strata.values()) / len(strata) if strata else None


def contaminated_items(artifact: Artifact, folder: Path) -> frozenset[Named]:
    """The items of a scorecard that training corpora hold; raises CorruptInput for a changed table."""
    if "contaminated" not in artifact.tables:
        return frozenset()
    path = artifact.tables["contaminated"]
    verify_files(folder, artifact, [path])
    rows = pq.read_table(folder / path).to_pylist()
    return frozenset((row["task"], row["language"], row["item"]) for row in rows)
