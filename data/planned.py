"""The pages of a plan, fetched and read: each with the place in the crawl that the plan gives it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow.parquet as pq

from ..catalog.errors import Unfinished
from ..catalog.languages import UNKNOWN, language_code
from .fetch import FETCHED, Fetching, fetch
from .plan import Wanted, wanted
from .remote import Manners
from .warc import Claim, Response, responses

TASK_RECORDS = 20_000
"""Rows of a plan that are one task: about 700 MB."""
PASSING = (
    "timeout",
    "connection",
    "short_body",
    "wrong_range",
    "read_error",
    "status_5",
    "status_408",
    "status_425",
    "status_429",
)
"""How the reasons begin of failures that may pass."""
BATCH_RECORDS = 500
"""Rows fetched together, and kept until the task is done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """Where and how the files of a crawl are read; never part of a corpus' identity."""

    mirror: str
    """An http(s) or s3 address, or a folder."""
    folder: Path
    """For what was fetched, until its task is done."""
    processes: int = 1
    """That ask the mirror at the same time: they share its patience."""


def plan_tasks(plan: Path) -> int:
    """The number of tasks of a plan."""
    return math.ceil(int(pq.read_metadata(plan).num_rows) / TASK_RECORDS)


def planned_pages(plan: Path, task: int, where: Where, refuses_gaps: bool) -> Iterator[tuple[Response, Wanted]]:
    """The pages of one task's rows, in the plan's order; one that could not be had has the fault `fetch_<reason>`.

    A page whose annotation was not fetched with it has the one of the plan. Raises what `fetch` raises and, with
    `refuses_gaps`, Unfinished at the end when another try may still have what could not be had.
    """
    passing: Counter[str] = Counter()
    manners = Manners()
    manners = replace(manners, requests_per_second=manners.requests_per_second / where.processes)
    for batch in fetch(_batches(plan, task), where.mirror, where.folder, Fetching(manners=manners)):
        found = responses(batch.warc) if batch.fetched else iter(())
        for row, outcome, offset in batch.rows():
            passing[outcome] += outcome.startswith(PASSING)
            response = next((one for one in found if one.offset == offset), None) if outcome == FETCHED else None
            if response is None:
                reason = f"fetch_{outcome}" if outcome != FETCHED else "fetch_unreadable"
                yield Response(url=row.url, date="", offset=row.offset, length=row.length, fault=reason), row
            else:
                yield replace(response, claim=response.claim or _claim(row)), row

    if refuses_gaps and passing.total():
        told = ", ".join(f"{count} {reason}" for reason, count in passing.most_common() if count)
        raise Unfinished(f"{plan}, part {task}: records that the mirror did not give ({told}); run again to ask for these only")


def _claim(row: Wanted) -> Claim | None:
    """The index names the languages of a page, the first one first, without their shares: only of that one is it known."""
    first = row.languages.partition(",")[0]
    if row.language == UNKNOWN:
        return None
    return Claim(((row.language, 1.0),), True) if language_code(first or row.language) == row.language else None


def _batches(plan: Path, task: int) -> Iterator[list[Wanted]]:
    """The rows of a task, cut the same way every time."""
    begin, end, first = task * TASK_RECORDS, (task + 1) * TASK_RECORDS, 0
    held: list[Wanted] = []
    with pq.ParquetFile(plan) as file:
        for group in range(file.metadata.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            if first < end and first + count > begin:
                rows = file.read_row_group(group).slice(max(0, begin - first), end - max(first, begin))
                held += wanted(rows)
            first += count
            while len(held) >= BATCH_RECORDS:
                yield held[:BATCH_RECORDS]
                held = held[BATCH_RECORDS:]
    if held:
        yield held
