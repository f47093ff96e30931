"""The ledger of a corpus: every document that enters a stage leaves it or is counted as removed, with the reason.

Each stage of each task writes one small file of counts; they are added up when the pipeline is done, checked, and become the
table `flow`. Languages are those known at the stage's entry: `und` up to the metadata gate, then the annotation's, and from the
identification on the detected one. Bytes are those of the payload up to extraction, of the UTF-8 text after it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

STAGES = ("read", "gate", "decode", "extract", "identify", "quality", "mask", "exact", "near", "write")
"""The stages in order; a stage's place is its `step`."""

FLOW = pa.schema(
    [
        ("step", pa.int32()),
        ("stage", pa.string()),
        ("source", pa.string()),
        ("language", pa.string()),
        ("outcome", pa.string()),
        ("reason", pa.string()),
        ("documents", pa.int64()),
        ("bytes", pa.int64()),
    ]
)

Key = tuple[str, str, str, str, str]
"""Stage, source, language, outcome (`in`, `out`, `removed`), reason."""


class Tally:
    """Counts of one stage in one task."""

    def __init__(self, stage: str) -> None:
        assert stage in STAGES, stage
        self.stage = stage
        self.counts: dict[Key, list[int]] = {}

    def add(self, outcome: str, source: str, language: str, size: int, reason: str = "") -> None:
        """Count one document of `size` bytes."""
        count = self.counts.setdefault((self.stage, source, language, outcome, reason), [0, 0])
        count[0] += 1
        count[1] += size

    def save(self, folder: Path, rank: int) -> None:
        """Write the counts as the file of this stage and task."""
        folder.mkdir(parents=True, exist_ok=True)
        rows = [[*key, *count] for key, count in self.counts.items()]
        (folder / f"{self.stage}-{rank:06}.json").write_text(json.dumps(rows), "utf-8")


def flow(folder: Path) -> list[dict[str, Any]]:
    """The rows of the table `flow`, from the files of all stages and tasks, in order."""
    totals: dict[Key, list[int]] = {}
    for path in sorted(folder.glob("*.json")):
        for *key, documents, size in json.loads(path.read_text("utf-8")):
            stage, source, language, outcome, reason = key
            count = totals.setdefault((stage, source, language, outcome, reason), [0, 0])
            count[0] += documents
            count[1] += size
    order = sorted(totals, key=lambda key: (STAGES.index(key[0]), *key[1:]))
    names = ("stage", "source", "language", "outcome", "reason")
    return [
        {
            "step": STAGES.index(key[0]),
            **dict(zip(names, key, strict=True)),
            "documents": totals[key][0],
            "bytes": totals[key][1],
        }
        for key in order
    ]


def imbalances(rows: Sequence[dict[str, Any]], last: int = len(STAGES) - 1) -> list[str]:
    """Where documents were lost or made, up to step `last`: within a stage, source and language, or between two stages."""
    entered: dict[tuple[int, str, str], int] = {}
    passed: dict[tuple[int, str], dict[str, int]] = {}
    for row in rows:
        key = row["step"], row["source"], row["language"]
        entered[key] = entered.get(key, 0) + (row["documents"] if row["outcome"] == "in" else -row["documents"])
        totals = passed.setdefault((row["step"], row["source"]), {"in": 0, "out": 0, "removed": 0})
        totals[row["outcome"]] += row["documents"]
    wrong = [f"{STAGES[step]}, {source}, {language}: {count:+}" for (step, source, language), count in entered.items() if count]
    nothing = {"in": 0, "out": 0}
    for step, source in sorted(passed):
        before, after = passed[step, source], passed.get((step + 1, source), nothing)
        if step < last and before["out"] != after["in"]:
            wrong.append(f"{source}: {before['out']} out of {STAGES[step]}, {after['in']} into {STAGES[step + 1]}")
    return wrong


def total(rows: Sequence[dict[str, Any]], stage: str, outcome: str) -> int:
    """Documents of one stage and outcome, all sources and languages."""
    return sum(row["documents"] for row in rows if row["stage"] == stage and row["outcome"] == outcome)
