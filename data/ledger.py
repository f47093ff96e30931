"""The ledger of a corpus: every document that enters a stage leaves it or is counted as removed, with the reason.

Each task counts in a file of its own; the files are added up when the pipeline is done, checked, and become the table `flow`.
Documents that were removed behind the gate (which most of a crawl does not pass) are listed one by one as well, in `removals`.
Languages are those known at the stage's entry: `und` up to the gate, then the annotation's, and from the identification on the
detected one. Bytes are those of the payload up to extraction, of the UTF-8 text after it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .shards import domain_of

STAGES = (
    "read", "gate", "urls", "decode", "sample", "extract", "identify", "quality", "contamination", "mask",
    "exact", "near", "write",
)  # fmt: skip
"""The stages in order; a stage's place is its `step`."""
UNLISTED = ("read", "gate", "sample")
"""Stages whose removals are counted only: most of a crawl ends there."""

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
REMOVALS = pa.schema(
    [(name, pa.string()) for name in ("stage", "language", "reason", "source", "url", "domain", "crawl", "file")]
    + [("offset", pa.int64()), ("length", pa.int64()), ("digest", pa.string()), ("bytes", pa.int64()), ("detail", pa.string())]
)
"""The table `removals`: one row a document; `detail` says more (the value that broke a rule, the document it repeats)."""

FAILURES = pa.schema([(name, pa.string()) for name in ("source", "file", "problem")])
"""The index table `failures`: files that could not be read, or not to their end, where the recipe says to count them."""

Key = tuple[str, str, str, str, str]
"""Stage, source, language, outcome (`in`, `out`, `removed`), reason."""
LEDGER = "ledger.json"
LISTED = "removals.parquet"
BATCH = 5_000
"""Removals held in memory."""


class Tally:
    """Counts of one task, and the list of what it removed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.counts: dict[Key, list[int]] = {}
        self.removed: list[dict[str, Any]] = []
        self.failures: list[list[str]] = []
        self.writer: pq.ParquetWriter | None = None

    def add(
        self, stage: str, outcome: str, source: str, language: str, size: int, reason: str = "", documents: int = 1
    ) -> None:
        """Count documents of `size` bytes together."""
        count = self.counts.setdefault((stage, source, language, outcome, reason), [0, 0])
        count[0] += documents
        count[1] += size

    def fail(self, source: str, file: str, problem: str) -> None:
        """Note a file that could not be read to its end."""
        self.failures.append([source, file, problem])

    def list(self, row: Mapping[str, Any]) -> None:
        """Note one removed document: a row of `REMOVALS`, but for its domain."""
        self.removed.append({**row, "domain": domain_of(row["url"])})
        if len(self.removed) >= BATCH:
            self._flush()

    def save(self) -> None:
        """Write `ledger.json` and, if anything was listed, `removals.parquet`."""
        assert all(key[0] in STAGES for key in self.counts), self.counts
        self._flush()
        if self.writer:
            self.writer.close()
        rows = [[*key, *count] for key, count in sorted(self.counts.items())]
        (self.folder / LEDGER).write_text(json.dumps({"flow": rows, "failures": self.failures}), "utf-8")

    def _flush(self) -> None:
        if self.removed:
            if self.writer is None:
                self.writer = pq.ParquetWriter(self.folder / LISTED, REMOVALS, compression="zstd")
            self.writer.write_table(pa.Table.from_pylist(self.removed, schema=REMOVALS))
            self.removed = []


def flow(files: Iterable[Path]) -> list[dict[str, Any]]:
    """The rows of the table `flow`, from the ledgers of all tasks, in order."""
    totals: dict[Key, list[int]] = {}
    for path in files:
        for *key, documents, size in json.loads(path.read_text("utf-8"))["flow"]:
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


def failures(files: Iterable[Path]) -> list[dict[str, Any]]:
    """The rows of the table `failures`, in order."""
    rows = sorted(row for path in files for row in json.loads(path.read_text("utf-8"))["failures"])
    return [dict(zip(FAILURES.names, row, strict=True)) for row in rows]


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
