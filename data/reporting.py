"""What a round tells the catalog about its units: documents by language, source and crawl, and what was removed.

Only the shards' round counts documents, and each of the others the steps it is made of, so that nothing is counted twice while
a corpus is being made.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from ..catalog.fingerprint import fingerprint
from ..catalog.slots import Count, Flow, SlotSet
from ..catalog.store import Job
from .ledger import LEDGER, flow
from .rounds import Described, Reporting, undescribed

COUNTED = ("language", "source", "split", "crawl")
SIZES = ("characters", "bytes")


def reporting(job: Job[Any], stage: str, code: str = "", describe: Callable[[Any, Path], Described] = undescribed) -> Reporting:
    """Where the units of one of an artifact's rounds are reported; `code` is a digest of what makes them.

    The job's folder is named by the recipe and its inputs, so another recipe is another plan.
    """
    slots = SlotSet(place=job.store.place, ref=str(job.recipe.ref), stage=stage)
    return Reporting(slots=slots, fingerprint=fingerprint([job.folder.name, code]), describe=describe)


def removed(unit: Any, folder: Path) -> Described:
    """The steps of a unit with a ledger."""
    path = folder / LEDGER
    rows = flow([path]) if path.is_file() else []
    steps = [
        Flow(
            step=row["step"], step_name=row["stage"], source=row["source"], language=row["language"], outcome=row["outcome"],
            reason=row["reason"], documents=row["documents"], bytes=row["bytes"],
        )
        for row in rows
    ]  # fmt: skip
    return (), steps


def written(unit: Any, folder: Path) -> Described:
    """The documents of a unit that wrote a shard, and its last step."""
    counts = []
    for path in sorted(folder.glob("shards/*/*/*.parquet")):
        table = pq.ParquetFile(path).read(columns=[*COUNTED, *SIZES])
        sizes = [(name, "sum") for name in SIZES]
        for row in table.group_by(list(COUNTED)).aggregate([*sizes, ([], "count_all")]).to_pylist():
            given: dict[str, Any] = {name: row[name] or "" for name in COUNTED}
            given |= {name: row[f"{name}_sum"] for name in SIZES}
            counts.append(Count(documents=row["count_all"], **given))
    return counts, removed(unit, folder)[1]
