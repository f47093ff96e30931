"""Fetching a plan's records from a mirror, politely: each record ends as fetched, or as failed with a reason.

Records are fetched in batches. A batch becomes two files, `000000.warc.gz` (the records, each with the `metadata` record behind
it where that was had) and `000000.parquet` (the plan's rows with what became of each); the second is written last and makes the
batch done: a run that was killed goes on where it was, and the next one asks again for what failed only. What arrives is
believed only when it is one whole gzip member that holds the plan's address and whose body has the plan's digest.

One event loop in a thread asks the mirror while the caller works on the batches before. Refused: a process or thread a request,
which cannot share a rate and a pool of connections; and one large file for all, in which nothing is done until all is.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import threading
from collections import Counter, deque
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type

from ..catalog.errors import CorruptInput, Unfinished
from ..catalog.fingerprint import canonical_json, fingerprint
from .members import CUT, DAMAGED, members
from .plan import MAX_RECORD_BYTES, PLAN, Range, Wanted, ranges, wanted
from .remote import Manners, Mirror, Trouble, open_mirror
from .warc import body_digest, responses

AHEAD = 3
"""Batches on their way at a time: the last ranges of one, waiting for their retries, do not hold up the next."""
MAX_PAGE_BYTES = 64 << 20
"""Bytes of a record, uncompressed."""
MAX_NOTE_BYTES = 16 << 10
"""Bytes of a metadata record."""
FETCHED = "fetched"
MISTAKEN = (DAMAGED, "other_record", "digest_mismatch")
"""Outcomes that a second request may mend: the mirror, or something on the way, has changed bytes."""
OUTCOMES = pa.schema([*PLAN, ("outcome", pa.string()), ("local_offset", pa.int64()), ("local_length", pa.int64())])
"""A plan's columns, `fetched` or the reason why not, and where in the batch's own WARC file the record lies (-1: nowhere)."""
NOTE = b"sea_lion.fetch"
_IS_METADATA = re.compile(rb"^warc-type:[ \t]*metadata[ \t]*\r?$", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetching:
    """What is fetched with a record, and how the mirror is asked."""

    gap: int = 4 << 10
    """Bytes between two wanted records up to which they are fetched together."""
    tail: int = 1 << 10
    """Bytes fetched behind each record for its `metadata` record; one takes 400 to 700."""
    overhead: float = 0.1
    """Bytes fetched beyond the wanted records' own, at most, as a share of these: neither gap nor tail goes beyond it."""
    manners: Manners = field(default_factory=Manners)
    """Rates, timeouts and retries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Some rows of a plan, done: `planned = fetched + sum(failed.values())`."""

    warc: Path
    """The records, in the plan's order; empty when none was fetched."""
    outcomes: Path
    """What became of each row (`OUTCOMES`)."""
    planned: int
    """Rows."""
    fetched: int
    """Records in `warc`."""
    failed: dict[str, int]
    """Reason to records that were not had."""
    planned_bytes: int
    """Of the rows' records."""
    tally: dict[str, int]
    """`requests` made, `bytes` received, `range_ignored` answers, `failed_<reason>` of requests, `retry_<reason>` of
    records that were not the plan's; of all runs that made the batch."""

    def origins(self) -> dict[int, Wanted]:
        """Offset in `warc` to the row of the plan: file and offset there are the record's provenance."""
        return {offset: row for row, outcome, offset in self.rows() if outcome == FETCHED}

    def rows(self) -> Iterator[tuple[Wanted, str, int]]:
        """Row, outcome and offset in `warc`, in the plan's order."""
        table = pq.read_table(self.outcomes)
        yield from zip(wanted(table), table["outcome"].to_pylist(), table["local_offset"].to_pylist(), strict=True)


def fetch(batches: Iterable[Sequence[Wanted]], mirror: str, folder: Path, settings: Fetching | None = None) -> Iterator[Batch]:
    """Fetch batches of a plan's rows into a folder, and give each when it is done, in their order.

    `mirror` is an http(s) or s3 address, or a folder, below which the plan's file names are found. Of batches that the folder
    holds already only the records that failed are asked for again. Memory is bounded by three batches. Raises CorruptInput
    when the folder holds the batches of another plan, and Unfinished, with all that is done kept, when the mirror fails too
    often in a row.
    """
    settings = settings or Fetching()
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock", thread_local=False):
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, name="fetch", daemon=True)
        thread.start()
        stream = _stream(batches, mirror, folder, settings)
        try:
            while (batch := asyncio.run_coroutine_threadsafe(_next(stream), loop).result()) is not None:
                yield batch
        finally:
            asyncio.run_coroutine_threadsafe(_ended(stream), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()


async def _next(stream: AsyncGenerator[Batch, None]) -> Batch | None:
    return await anext(stream, None)


async def _ended(stream: AsyncGenerator[Batch, None]) -> None:
    """Everything that is still under way is stopped; a caller who was interrupted may have left a wait for the next batch."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await stream.aclose()


async def _stream(
    batches: Iterable[Sequence[Wanted]], mirror: str, folder: Path, settings: Fetching
) -> AsyncGenerator[Batch, None]:
    async with open_mirror(mirror, settings.manners) as source:
        fetcher = _Fetcher(source, mirror, settings)
        ahead: deque[asyncio.Task[Batch]] = deque()
        try:
            for number, rows in enumerate(batches):
                ahead.append(asyncio.create_task(fetcher.batch(folder / f"{number:06}", rows)))
                if len(ahead) == AHEAD:
                    yield await ahead.popleft()
            while ahead:
                yield await ahead.popleft()
        finally:
            for task in ahead:
                task.cancel()
            await asyncio.gather(*ahead, return_exceptions=True)


@dataclass(frozen=True, slots=True)
class _Record:
    row: Wanted
    outcome: str
    data: bytes = b""
    """The record's gzip member, and that of its `metadata` record."""


class _Fetcher:
    """What the batches share: the mirror, and how often in a row it has failed."""

    def __init__(self, mirror: Mirror, address: str, settings: Fetching) -> None:
        self.mirror, self.address, self.settings = mirror, address, settings
        self.failures = 0
        self.read = _retrying(settings.manners).wraps(self._read)

    async def batch(self, stem: Path, rows: Sequence[Wanted]) -> Batch:
        """A batch from the folder; from the mirror what the folder lacks."""
        done = _done(stem, rows)
        if done is not None and not done.failed:
            return done
        tally = Counter(done.tally if done else {})
        records = await asyncio.to_thread(_kept, done) if done else {}
        lacking = [row for row in rows if row not in records and row.length <= MAX_RECORD_BYTES]
        parts = ranges(lacking, gap=self.settings.gap, tail=self.settings.tail, overhead=self.settings.overhead)
        for found in await asyncio.gather(*(self._range(part, tally) for part in parts)):
            records |= {record.row: record for record in found}
        in_order = [records.get(row) or _Record(row, "too_large") for row in rows]
        await asyncio.to_thread(_write, stem, in_order, tally)
        batch = _done(stem, rows)
        assert batch is not None, "a batch that was written is done"
        return batch

    async def _range(self, part: Range, tally: Counter[str]) -> list[_Record]:
        """The records of a range; one that is not what the plan says is asked for again, once and alone."""
        records = await self._once(part, tally)
        for i, record in enumerate(records):
            if record.outcome in MISTAKEN:
                tally[f"retry_{record.outcome}"] += 1
                stop = min(part.stop, record.row.stop + self.settings.tail)
                alone = Range(file=part.file, start=record.row.offset, stop=stop, records=(record.row,))
                records[i] = (await self._once(alone, tally))[0]
        return records

    async def _once(self, part: Range, tally: Counter[str]) -> list[_Record]:
        try:
            data = await self.read(part, tally)
        except Trouble as trouble:
            self._failed(trouble)
            return [_Record(row, trouble.reason) for row in part.records]
        self.failures = 0
        places = [(row, row.offset - part.start) for row in part.records]
        return [judged(row, data[at : at + row.length + MAX_NOTE_BYTES]) for row, at in places]

    async def _read(self, part: Range, tally: Counter[str]) -> bytes:
        try:
            data = await self.mirror.read(part.file, part.start, part.stop, tally)
            if len(data) < part.records[-1].stop - part.start:
                raise Trouble("short_body")
        except Trouble as trouble:
            tally[f"failed_{trouble.reason}"] += 1
            raise
        return data

    def _failed(self, trouble: Trouble) -> None:
        self.failures += 1
        if self.failures >= self.settings.manners.give_up_after:
            raise Unfinished(
                f"{self.address}: {self.failures} ranges in a row failed, the last with {trouble.reason}; "
                "is it the right mirror, and up? What was fetched is kept: run again"
            )


def _retrying(manners: Manners) -> AsyncRetrying:
    """Tries again after any trouble: less often where the mirror refuses, later each time, never before it allows."""

    def trouble(state: RetryCallState) -> Trouble:
        error = state.outcome.exception() if state.outcome else None
        assert isinstance(error, Trouble)
        return error

    def is_last(state: RetryCallState) -> bool:
        return state.attempt_number >= (manners.refused_tries if trouble(state).is_refused else manners.tries)

    def seconds(state: RetryCallState) -> float:
        doubled = manners.backoff * 2.0 ** (state.attempt_number - 1) * random.uniform(0.5, 1.5)
        return min(max(doubled, trouble(state).wait), manners.max_wait)

    return AsyncRetrying(retry=retry_if_exception_type(Trouble), stop=is_last, wait=seconds, reraise=True)


def judged(row: Wanted, data: bytes) -> _Record:
    """What of the bytes from a record's offset on is kept: the record, when it is the plan's, and its `metadata` record."""
    member = data[: row.length]
    response = next(responses(BytesIO(member), limit=MAX_PAGE_BYTES), None)
    if response is None or response.url != row.url or response.length != row.length:
        is_damaged = response is not None and response.fault in (DAMAGED, CUT)
        return _Record(row, DAMAGED if is_damaged else "other_record")
    if response.size > MAX_PAGE_BYTES:
        return _Record(row, "too_large")
    if response.fault in (DAMAGED, CUT):
        return _Record(row, DAMAGED)
    if row.digest and body_digest(response.body) != row.digest:
        return _Record(row, "digest_mismatch")
    note = next(members(BytesIO(data[row.length :]), MAX_NOTE_BYTES), None)
    if note is not None and not note.fault and _IS_METADATA.search(note.data.partition(b"\r\n\r\n")[0]):
        member += data[row.length : row.length + note.length]
    return _Record(row, FETCHED, member)


def _kept(batch: Batch) -> dict[Wanted, _Record]:
    """The records that a batch has."""
    table = pq.read_table(batch.outcomes)
    places = zip(wanted(table), table["local_offset"].to_pylist(), table["local_length"].to_pylist(), strict=True)
    with batch.warc.open("rb") as file:
        data = file.read()
    return {row: _Record(row, FETCHED, data[offset : offset + length]) for row, offset, length in places if offset >= 0}


def _write(stem: Path, records: Sequence[_Record], tally: Counter[str]) -> None:
    """The batch's two files, each whole or not there, the one that says it is done last."""
    offsets, end = [], 0
    with _appearing(stem.with_suffix(".warc.gz")) as file:
        for record in records:
            offsets.append(end if record.data else -1)
            end += file.write(record.data)
    columns = [[getattr(record.row, name) for record in records] for name in Wanted.__slots__]
    columns += [[record.outcome for record in records], offsets, [len(record.data) for record in records]]
    note = {"batch": _batch_key([record.row for record in records]), "warc_bytes": end, "tally": dict(sorted(tally.items()))}
    schema = OUTCOMES.with_metadata({NOTE: canonical_json(note)})
    with _appearing(stem.with_suffix(".parquet")) as file:
        pq.write_table(pa.table(columns, schema=schema), file, compression="zstd")


@contextmanager
def _appearing(path: Path) -> Iterator[BinaryIO]:
    """A file that is on the disk, whole, before it has its name."""
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _batch_key(rows: Sequence[Wanted]) -> str:
    return fingerprint([[getattr(row, name) for name in Wanted.__slots__] for row in rows])


def _done(stem: Path, rows: Sequence[Wanted]) -> Batch | None:
    """The batch that the folder holds; None when there is none, or it is damaged. Raises CorruptInput for another one."""
    warc, outcomes = stem.with_suffix(".warc.gz"), stem.with_suffix(".parquet")
    try:
        table = pq.read_table(outcomes, columns=["outcome", "warc_record_length"])
        note = json.loads(table.schema.metadata[NOTE])
        is_whole = warc.stat().st_size == note["warc_bytes"]
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError):
        return None
    if note["batch"] != _batch_key(rows):
        raise CorruptInput(
            outcomes, "", "holds the records of another plan, or of batches of another size; give an empty folder"
        )
    failed = Counter(table["outcome"].to_pylist())
    fetched = failed.pop(FETCHED, 0)
    if not is_whole:
        return None
    return Batch(
        warc=warc, outcomes=outcomes, planned=table.num_rows, fetched=fetched, failed=dict(sorted(failed.items())),
        planned_bytes=sum(table["warc_record_length"].to_pylist()), tally=note["tally"],
    )  # fmt: skip
