"""Plans: which records of which WARC files a corpus is made of, as one Parquet file that can be published.

Pages of the wanted languages are a twentieth of a crawl. The plan names them by file, offset and length, so that only they
are fetched (`fetch.py`), and anyone who has it rebuilds the same corpus without being given its text. It is made from Common
Crawl's columnar index (https://commoncrawl.org/columnar-index), or from the provenance of documents that a corpus has already.

DuckDB selects and sorts, within a memory limit and on disk beyond it; the rows stream through Arrow into the file, checked by
the same rules as a stranger's plan when it is read. Rows hold Common Crawl's own column names. Refused: a plan as JSON lines or
CDX, several times as large and sorted by address, which a fetch cannot use.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import duckdb
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from ..catalog.errors import CorruptInput
from ..catalog.fingerprint import canonical_json, plain
from .columnar import documents_sql, open_duckdb, pages_sql
from .database import evenly

pc: Any = pyarrow.compute  # its functions are made at import, type checkers do not see them

PLAN = pa.schema(
    [
        ("warc_filename", pa.string()),
        ("warc_record_offset", pa.int64()),
        ("warc_record_length", pa.int64()),
        ("url", pa.string()),
        ("content_digest", pa.string()),
        ("content_languages", pa.string()),
        ("language", pa.string()),
        ("crawl", pa.string()),
    ]
)
"""Columns of a plan, sorted by file and offset; `language` is ours (ISO 639-3), `content_languages` as the crawl noted them.

`content_digest` is base32 of a SHA-1, or empty where the source had none: then a fetched record is known by its address only.
"""
NOTE = b"sea_lion.plan"
"""Key of the file's metadata that holds how it was made (JSON)."""
ROWS = 1 << 16
"""Rows a row group: what is in memory at once."""
MAX_RECORD_BYTES = 16 << 20
"""Compressed bytes of a record; Common Crawl cuts pages at 1 MiB (5 MiB since 2025)."""
MAX_RANGE_BYTES = 8 << 20
"""Bytes of a range of several records."""
_UNSAFE_SEGMENT = re.compile(r"\.{0,2}|.*[\\:\x00-\x1f\x7f].*", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which pages of an index are wanted."""

    languages: tuple[str, ...]
    """ISO 639-3, of ours or others that CLD2 knows."""
    match: Literal["primary", "any"] = "primary"
    """`primary`: the page's first language is wanted; `any`: one of its up to three. The latter adds a third more records,
    most of them English pages with a menu of languages."""
    statuses: tuple[int, ...] = (200,)
    """HTTP statuses."""
    media_types: tuple[str, ...] = ("text/html", "application/xhtml+xml")
    """As the crawl detected them."""
    once: bool = False
    """Whether a payload (by its digest) that was captured several times is fetched once, from the first crawl and file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """One record of a plan."""

    file: str
    """Relative to a mirror of the crawl."""
    offset: int
    """Bytes from the file's beginning to the record's gzip member."""
    length: int
    """Bytes of that member."""
    url: str
    """The address that the record must hold."""
    digest: str
    """Base32 SHA-1 of the stored body; empty when not known."""
    languages: str
    """The crawl's annotation, ISO 639-3 codes joined by commas."""
    language: str
    """The language it was chosen for."""
    crawl: str
    """`CC-MAIN-2024-18`."""

    @property
    def stop(self) -> int:
        """Where the record ends."""
        return self.offset + self.length


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A plan that has been read once, whole, and is what it says."""

    path: Path
    """The Parquet file."""
    records: int
    """Rows."""
    bytes: int
    """Sum of the records' lengths: what a fetch cannot avoid."""
    files: int
    """WARC files named."""
    languages: dict[str, int]
    """Records per language."""
    selection: dict[str, Any] = field(default_factory=dict)
    """The `Selection` it was made by; empty for the plan of a corpus."""
    recipe: dict[str, Any] = field(default_factory=dict)
    """What its maker noted to rebuild a corpus from it."""

    def batches(self, records: int = 1_000, nbytes: int = 64 << 20) -> Iterator[list[Wanted]]:
        """The rows in order, at most so many records and (but for a single record) bytes at a time, streamed from the file.

        Where the batches end depends on the plan and these two figures alone.
        """
        rows: list[Wanted] = []
        size = 0
        for batch in pq.ParquetFile(self.path).iter_batches(ROWS, columns=PLAN.names):
            for row in wanted(batch):
                if rows and (len(rows) == records or size + row.length > nbytes):
                    yield rows
                    rows, size = [], 0
                rows.append(row)
                size += row.length
        if rows:
            yield rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """Bytes of one file that are fetched together."""

    file: str
    start: int
    stop: int
    """End of the last record, and of what may follow it; the file may end before."""
    records: tuple[Wanted, ...]
    """The records within, in order."""


def plan_rows(
    index_files: Sequence[str],
    out: Path,
    selection: Selection,
    *,
    recipe: Mapping[str, Any] | None = None,
    memory_limit: str = "1GB",
) -> Plan:
    """Select pages from a columnar index (paths, globs, http(s) or s3 addresses of Parquet files) and write their plan.

    `recipe` is kept in the file as it is given. DuckDB takes `memory_limit` (200 MB is about the least) and spills beside `out`
    beyond it; the rest of the process takes some 300 MB. Raises CorruptInput for an index that cannot be read, lacks a column
    that is needed, or names one record twice.
    """
    with open_duckdb(index_files, memory_limit, out.parent) as (connection, files):
        query = pages_sql(connection, files, selection)
        return _written(connection, query, out, {"selection": selection, "recipe": recipe})


def plan_of_records(
    tables: Sequence[str], out: Path, *, recipe: Mapping[str, Any] | None = None, memory_limit: str = "1GB"
) -> Plan:
    """Write the plan of documents that a corpus has, so that the corpus can be published as where its documents came from.

    `tables` are Parquet files with columns url, file, offset, length, digest, language and crawl; rows whose `length` is 0 came
    from something else than WARC files, and are left out. A `file` must be the name below a mirror, not a local path.
    """
    with open_duckdb(tables, memory_limit, out.parent) as (connection, files):
        return _written(connection, documents_sql(connection, files), out, {"selection": None, "recipe": recipe})


def _written(connection: duckdb.DuckDBPyConnection, query: str, out: Path, note: dict[str, Any]) -> Plan:
    """Write what a query selects as a plan; the file appears whole or not at all."""
    note = {key: plain(value) for key, value in note.items() if value is not None}
    counts = _Counts()
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        with pq.ParquetWriter(part, PLAN, compression="zstd") as writer:
            ordered = f"SELECT * FROM ({query}) ORDER BY warc_filename, warc_record_offset"
            rows = connection.sql(ordered).to_arrow_reader(ROWS)
            for table in evenly(rows, ROWS):
                table = table.cast(PLAN)
                counts.add(table, out.name)
                writer.write_table(table, row_group_size=ROWS)
            writer.add_key_value_metadata({NOTE: canonical_json({"format": 1, **note, **counts.summary()})})
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)
    return counts.plan(out, note)


def read_plan(path: Path) -> Plan:
    """Read and check every row of a plan, in bounded memory.

    Raises CorruptInput, with the row, for columns that are missing or of another type, impossible offsets and lengths, rows
    that are out of order, twice there or overlap, file names that lead out of a mirror, and counts that differ from the file's.
    """
    counts = _Counts()
    try:
        file = pq.ParquetFile(path)
        missing = [name for name in PLAN.names if name not in file.schema_arrow.names]
        if missing:
            raise CorruptInput(path, "", f"is no plan: it has no column {missing[0]!r}")
        for batch in file.iter_batches(ROWS, columns=PLAN.names):
            counts.add(pa.Table.from_batches([batch]).cast(PLAN), path)
        note = json.loads((file.metadata.metadata or {}).get(NOTE, b"{}"))
    except FileNotFoundError as error:
        raise CorruptInput(path, "", "no such file") from error
    except (pa.ArrowException, OSError, ValueError, RecursionError) as error:
        raise CorruptInput(path, "", f"is no plan: {str(error).strip().splitlines()[0]}") from error
    if not isinstance(note, dict) or not all(isinstance(note.get(key, {}), dict) for key in ("selection", "recipe")):
        raise CorruptInput(path, NOTE.decode(), "is not what a plan notes about itself")
    for key, value in counts.summary().items():
        if key in note and note[key] != value:
            raise CorruptInput(path, NOTE.decode(), f"{key} is {note[key]}, the rows come to {value}: it was changed")
    return counts.plan(path, note)


class _Counts:
    """Checks the rows of a plan as they pass, and adds them up."""

    def __init__(self) -> None:
        self.records = self.bytes = self.files = 0
        self.languages: dict[str, int] = {}
        self.crawls: dict[str, int] = {}
        self._last: pa.Table | None = None

    def add(self, rows: pa.Table, source: Path | str) -> None:
        """Add the next rows; raises CorruptInput for the first that cannot be."""
        if not rows.num_rows:
            return
        before = [] if self._last is None else [self._last]
        first = self.records + 1 - len(before)
        checked = pa.concat_tables([*before, rows]).combine_chunks()
        for mask, problem in _faults(checked):
            at = pc.index(mask, True).as_py()
            if at >= 0:
                raise CorruptInput(source, f"row {first + at}", problem.format(**_shown(checked, at)))
        names = checked["warc_filename"]
        changes = pc.sum(pc.not_equal(names.slice(1), names.slice(0, len(names) - 1))).as_py() or 0
        self.files += changes + (not before)
        self.records += rows.num_rows
        self.bytes += pc.sum(rows["warc_record_length"]).as_py()
        for column, counts in (("language", self.languages), ("crawl", self.crawls)):
            for pair in pc.value_counts(rows[column]).to_pylist():
                counts[pair["values"]] = counts.get(pair["values"], 0) + pair["counts"]
        self._last = rows.slice(rows.num_rows - 1)

    def summary(self) -> dict[str, Any]:
        """What the file notes about its rows."""
        return {
            "records": self.records,
            "bytes": self.bytes,
            "files": self.files,
            "languages": dict(sorted(self.languages.items())),
            "crawls": dict(sorted(self.crawls.items())),
        }

    def plan(self, path: Path, note: Mapping[str, Any]) -> Plan:
        """The plan of these rows."""
        kept = {key: note.get(key, {}) for key in ("selection", "recipe")}
        languages = dict(sorted(self.languages.items()))
        return Plan(path=path, records=self.records, bytes=self.bytes, files=self.files, languages=languages, **kept)


def _shown(rows: pa.Table, at: int) -> dict[str, Any]:
    """The row's values for a message, short and printable."""
    values = rows.slice(at, 1).to_pylist()[0]
    return {name: ascii(value)[:120] if isinstance(value, str) else value for name, value in values.items()}


def _faults(rows: pa.Table) -> Iterator[tuple[pa.ChunkedArray, str]]:
    """For each rule a plan's rows keep: which rows break it, and what to say."""
    for name in PLAN.names:
        yield pc.is_null(rows[name]), f"{name} is missing"
    names, offsets, lengths = rows["warc_filename"], rows["warc_record_offset"], rows["warc_record_length"]
    unsafe = [name for name in pc.unique(names).to_pylist() if not is_safe_name(name)]
    yield pc.is_in(names, pa.array(unsafe, pa.string())), "warc_filename {warc_filename} is not a plain path below a mirror"
    yield pc.or_(pc.less(offsets, 0), pc.greater(offsets, 1 << 50)), "warc_record_offset {warc_record_offset} cannot be"
    wrong = pc.or_(pc.less_equal(lengths, 0), pc.greater(lengths, 1 << 40))
    yield wrong, "warc_record_length {warc_record_length} cannot be"
    yield pc.equal(rows["url"], ""), "url is empty"
    yield _differs(rows["content_digest"], "^([A-Z2-7]{32})?$"), "content_digest {content_digest} is not base32 of a SHA-1"
    yield _differs(rows["language"], "^[a-z]{3,8}$"), "language {language} is not an ISO 639-3 code"
    stops = pc.add(offsets, lengths)
    count = rows.num_rows - 1
    same = pc.equal(names.slice(1), names.slice(0, count))
    behind = pc.and_(same, pc.less(offsets.slice(1), stops.slice(0, count)))
    unsorted = pc.less(names.slice(1), names.slice(0, count))
    first = pa.array([False])
    order = "{warc_filename} at {warc_record_offset} is out of order, or in the record before it"
    yield pa.chunked_array([first, *pc.or_(behind, unsorted).chunks]), order


def _differs(values: pa.ChunkedArray, pattern: str) -> pa.ChunkedArray:
    return pc.invert(pc.match_substring_regex(values, pattern))


def is_safe_name(name: str) -> bool:
    """Whether a file's name stays below the mirror it is appended to: relative, no `..`, no scheme, nothing unprintable."""
    return all(_UNSAFE_SEGMENT.fullmatch(segment) is None for segment in name.split("/"))


def wanted(rows: pa.RecordBatch | pa.Table) -> Iterator[Wanted]:
    """Rows of a plan as records."""
    columns = [rows.column(name).to_pylist() for name in PLAN.names]
    for file, offset, length, url, digest, languages, language, crawl in zip(*columns, strict=True):
        yield Wanted(
            file=file, offset=offset, length=length, url=url, digest=digest,
            languages=languages, language=language, crawl=crawl,
        )  # fmt: skip


def ranges(rows: Iterable[Wanted], *, gap: int = 4 << 10, tail: int = 1 << 10, overhead: float = 0.1) -> Iterator[Range]:
    """Records in the order of a plan as the ranges to fetch.

    Neighbours no more than `gap` bytes apart are fetched together, and with each record the `tail` bytes behind it, where its
    `metadata` record lies. Both are paid from an account into which every record puts `overhead` times its own length, so that
    never more than that share is fetched in excess; what the account cannot pay is left out.
    """
    account = 0.0
    open_: list[Wanted] = []
    stop = 0
    for row in rows:
        if row.length <= 0:
            raise ValueError(f"a record of {row.length} bytes")
        account += overhead * row.length
        extra = row.offset - stop  # what joining costs on top of the tail that has been paid
        is_near = bool(open_) and row.file == open_[-1].file and row.offset - open_[-1].stop <= gap
        if is_near and extra <= account and row.stop + tail - open_[0].offset <= MAX_RANGE_BYTES:
            account -= extra
        elif open_:
            yield Range(file=open_[0].file, start=open_[0].offset, stop=stop, records=tuple(open_))
            open_ = []
        open_.append(row)
        stop = row.stop
        if tail <= account:
            account -= tail
            stop += tail
    if open_:
        yield Range(file=open_[0].file, start=open_[0].offset, stop=stop, records=tuple(open_))


def excess(parts: Iterable[Range]) -> float:
    """Bytes of the ranges beyond their records' own, as a share of these; at most 0 for no records."""
    fetched = wanted_bytes = 0
    for part in parts:
        fetched += part.stop - part.start
        wanted_bytes += sum(row.length for row in part.records)
    return fetched / wanted_bytes - 1 if wanted_bytes else 0.0
