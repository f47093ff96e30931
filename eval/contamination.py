"""What a scorecard says about contamination: which of its items lie in training corpora, and its scores without them.

The items found come from an artifact of kind `overlap`, made by the rule that decontamination uses. That an item was not found
says something only where it was looked for: an overlap whose index knows other suites, or not all languages, is refused. A gate
whose policy has a `[clean]` table refuses scorecards of which nothing is known, and compares without the items that either side
found.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..catalog.errors import RecipeError
from ..catalog.records import QUESTIONS, STRICT, Artifact, Contamination, Ngrams, Overlaps, Questions
from ..catalog.store import Job, verify_files, write_rows
from .metrics import mean_over_strata

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
    """The corpora looked through and the shares found, from the recipe's `overlap`; writes the items found as `TABLE`.

    Tasks whose items have no text of their own (held-out documents, answers of a word) have no share. Raises RecipeError for an
    overlap that looked for other items.
    """
    artifact = job.inputs[job.recipe.overlap]
    labels, sought = looked_for(job)
    assert isinstance(artifact.body, Overlaps)
    folder = job.folder_of(job.recipe.overlap)
    verify_files(folder, artifact)
    documents: defaultdict[tuple[Named, str], set[str]] = defaultdict(set)
    for row in pq.read_table(folder / artifact.tables["item_overlaps"]).to_pylist():
        if row["suite"] in labels:
            _, task, language, item = row["item"].split("/", 3)
            documents[(task, language, item), row["corpus"]].add(row["document"])
    asked = set(zip(*(items[name].to_pylist() for name in ("task", "language", "item")), strict=True))
    if unsought := sorted({language for _, language, _ in asked} - {language for _, language, _ in sought}):
        problem = f"{artifact.ref} looked for no items in {', '.join(unsought)}; make it of questions in all languages"
        raise RecipeError(str(job.recipe.ref), "overlap", problem)
    rows = [
        {"task": name[0], "language": name[1], "item": name[2], "corpus": corpus, "documents": len(found)}
        for (name, corpus), found in sorted(documents.items())
        if name in asked
    ]
    write_rows(job.folder / TABLE, rows, SCHEMA)
    found = {name for name, _ in documents if name in asked}
    cells = {(task, language) for task, language, _ in sought}
    return artifact.body.corpora, tuple(
        _shares([row for row in items.to_pylist() if (row["task"], row["language"]) in cells], found)
    )


def looked_for(job: Job[Any]) -> tuple[set[str], set[Named]]:
    """The names that the recipe's `overlap` has for its suite, and the suite's items that were looked for; raises RecipeError
    when there are none."""
    overlap = job.inputs[job.recipe.overlap]
    if not isinstance(overlap.body, Overlaps):
        raise RecipeError(str(job.recipe.ref), "overlap", f"{overlap.ref} is a {overlap.kind}, not an overlap with corpora")
    labels: set[str] = set()
    sought: set[Named] = set()
    others: list[str] = []
    for index in (job.store.require(source.ref) for source in overlap.inputs):
        for source in index.inputs if isinstance(index.body, Ngrams) else ():
            questions = job.store.require(source.ref)
            if not isinstance(questions.body, Questions):
                continue
            others.append(questions.recipe["suite"])
            if questions.recipe["suite"] == job.recipe.suite:
                number = int(source.role.split(".")[1])  # `suite.0.questions`
                labels.add(index.recipe["suite"][number]["name"])
                sought.update(_items(questions, job.store.folder(questions.ref)))
    if not sought:
        problem = f"{overlap.ref} looked for items of {', '.join(others) or 'files'}, not of {job.recipe.suite}"
        raise RecipeError(str(job.recipe.ref), "overlap", f"{problem}: index its questions (recipe of kind questions)")
    return labels, sought


def _items(questions: Artifact, folder: Path) -> Iterator[Named]:
    verify_files(folder, questions, [QUESTIONS])
    with (folder / QUESTIONS).open(encoding="utf-8") as lines:
        for line in lines:
            task, language, item = json.loads(line)["id"].split("/", 2)
            yield task, language, item


def _shares(rows: Sequence[Mapping[str, Any]], found: set[Named]) -> Iterator[Contamination]:
    cells: defaultdict[tuple[str, str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        cells[row["task"], row["language"], row["metric"]].append(row)
    for (task, language, metric), cell in cells.items():
        clean = [row for row in cell if (task, language, row["item"]) not in found]
        yield Contamination(
            task=task,
            language=language,
            metric=metric,
            items=len(cell),
            found=len(cell) - len(clean),
            value=_mean(cell),
            clean_value=_mean(clean) if clean else None,
        )


def _mean(rows: Sequence[Mapping[str, Any]]) -> float:
    return mean_over_strata((row["stratum"] or "", row["value"]) for row in rows)


def contaminated_items(artifact: Artifact, folder: Path) -> frozenset[Named]:
    """The items of a scorecard that training corpora hold; raises CorruptInput for a changed table."""
    if "contaminated" not in artifact.tables:
        return frozenset()
    path = artifact.tables["contaminated"]
    verify_files(folder, artifact, [path])
    rows = pq.read_table(folder / path).to_pylist()
    return frozenset((row["task"], row["language"], row["item"]) for row in rows)
