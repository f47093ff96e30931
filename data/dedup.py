"""De-duplication across files and crawls with a bounded memory: exact, by a digest of the text, and near, by MinHash.

Two steps. `write_signatures` makes a small Parquet file of one spool file: a digest of each document's text and one hash for
each band of its MinHash. `resolve` joins any number of them in DuckDB, which moves to disk what exceeds its memory limit, and
says of every document whether it is kept. The kept one of a cluster is that with the smallest id, so that neither the order nor
the partition of the files changes a verdict.

datatrove's four stages are not used: they hold all pairs in Python dicts, know a document only by its place in its file, and
count one that is read twice as two.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyarrow.compute import call_function
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ..catalog.errors import CorruptInput
from .database import bounded, parquet
from .minhash import MinHash, language_group, shingles, text_digest
from .recipe import Deduplication

__all__ = ["PLACE", "VERDICTS", "language_group", "resolve", "write_signatures"]

DOCUMENTS_AT_ONCE = 256
EDGES_AT_ONCE = 200_000
MEMBERS_AT_ONCE = 250_000
"""Documents of clusters that are judged together, unless one cluster has more."""
ROW_GROUP = 50_000
DIGEST = pa.binary(16)
PLACE = {"id": pa.string(), "source": pa.string(), "file": pa.string(), "offset": pa.int64()}
"""What names a document, and the order that decides who stays."""
_COPY_KEY = "text_digest, id, source"
VERDICTS = pa.schema(
    [
        *PLACE.items(),
        ("spool_file", pa.int32()),
        ("spool_row", pa.int64()),
        ("text_digest", DIGEST),
        ("verdict", pa.string()),
        ("cluster", pa.string()),
        ("cluster_size", pa.int64()),
    ]
)
"""One row a document, in the order of the given files: `spool_file` and `spool_row` count these and the rows in them from 0,
and alone tell a record apart that was read twice. `cluster` is the id of the kept document, `cluster_size` the number of
documents that it stands for; copies with equal id, source and text count once in it."""


def write_signatures(spool: Path, out: Path, language: str, settings: Deduplication) -> int:
    """Write the signatures of a Parquet file of documents in one language, with the columns of `PLACE` and text.

    Returns their number. Without near de-duplication there are no bands; a text shorter than a shingle has null. Takes the
    memory of `DOCUMENTS_AT_ONCE` documents and 60 bytes a character of the longest. Raises CorruptInput for a file that cannot
    be read.
    """
    schema, minhash, count = _signature_schema(settings), MinHash(settings.buckets, settings.hashes_per_bucket), 0
    options: dict[str, Any] = {"compression": "zstd", "use_dictionary": ["source", "file"]}
    with pq.ParquetWriter(out, schema, **options) as writer:
        for places, texts in _documents(spool):
            columns = [*places.columns, *_signatures(texts, language, settings, minhash)]
            for part in pa.table(columns, names=schema.names).combine_chunks().to_batches():
                writer.write_batch(part)  # gathers row groups of a useful size
            count += len(texts)
    return count


def _documents(spool: Path) -> Iterator[tuple[pa.Table, list[str]]]:
    """The places and the texts of a spool file. Apart from what is written, whose errors (a full disk) are not the file's."""
    schema, count = pa.schema([*PLACE.items(), ("text", pa.string())]), 0
    try:
        with pq.ParquetFile(spool) as file:
            for batch in file.iter_batches(DOCUMENTS_AT_ONCE, columns=schema.names):
                table = pa.table(batch).select(schema.names).cast(schema)
                if any(column.null_count for column in table.columns):
                    raise CorruptInput(spool, f"row {count + 1} or later", "a document has no id, source, file, offset or text")
                yield table.select(list(PLACE)), table["text"].to_pylist()
                count += len(table)
    except (pa.ArrowException, OSError, KeyError, UnicodeDecodeError) as error:
        raise CorruptInput(spool, "", f"cannot be read as documents: {str(error).splitlines()[0]}") from error


def _signatures(texts: Sequence[str], language: str, settings: Deduplication, minhash: MinHash) -> list[pa.Array]:
    """The columns of the texts' digests and bands."""
    digests: list[bytes] = []
    bands = np.zeros((len(texts), settings.buckets), np.uint64)
    is_short = np.ones(len(texts), bool)
    for i, text in enumerate(texts):
        digests.append(text_digest(text))
        if settings.near and len(found := shingles(text, language, settings.ngram)):
            bands[i], is_short[i] = minhash.bands(found), False
    return [pa.array(digests, DIGEST), *(pa.array(band, mask=is_short) for band in bands.T if settings.near)]


def _signature_schema(settings: Deduplication) -> pa.Schema:
    near = f"{settings.ngram}-grams, {settings.buckets} buckets of {settings.hashes_per_bucket}"
    return pa.schema(
        [*PLACE.items(), ("text_digest", DIGEST), *((name, pa.uint64()) for name in _band_names(settings))],
        metadata={"deduplication": near if settings.near else "exact duplicates only"},
    )


def _band_names(settings: Deduplication) -> list[str]:
    return [f"band_{i:02}" for i in range(settings.buckets)] if settings.near else []


def resolve(
    signatures: Sequence[Path],
    out: Path,
    settings: Deduplication,
    *,
    memory_limit: str = "1GB",
    temp: Path,
    threads: int = 1,
) -> dict[str, int]:
    """Write a verdict on every document of some files of signatures (schema `VERDICTS`); returns the documents by verdict.

    Documents with the same text, or with a band in common, are in one cluster, and so are those that others connect. The first
    in the order of `PLACE` is kept; a document whose text is that of an earlier one is an exact duplicate, the others are near
    duplicates. Copies of one document, with equal id, source and text, are exact duplicates even where `exact` is off.

    Takes `memory_limit` and 5 bytes a document beside what Python and the libraries take (about 320 MB). Raises CorruptInput
    for a file that is not what `write_signatures` makes under these settings.
    """
    if not signatures or len(set(signatures)) != len(signatures):
        raise ValueError("resolve needs files of signatures, each once")
    expected = _signature_schema(settings)
    counts = [_checked_count(path, expected) for path in signatures]
    firsts = np.cumsum([0, *counts])
    with bounded(memory_limit, temp, threads) as database:
        try:
            _name_documents(database, signatures, firsts)
            forest = _connected(database, settings, int(firsts[-1]))
            _gather_members(database, signatures, forest)
            del forest
        except (duckdb.Error, pa.ArrowException, OSError) as error:
            if found := _unreadable(signatures, expected):
                raise found from error
            raise
        _judge(database, settings)
        return _write_verdicts(database, signatures, firsts, out)


def _checked_count(path: Path, expected: pa.Schema) -> int:
    """Documents in a file of signatures."""
    try:
        with pq.ParquetFile(path) as file:
            found, count = file.schema_arrow, file.metadata.num_rows
    except (pa.ArrowException, OSError) as error:
        raise CorruptInput(path, "", f"cannot be read as signatures: {str(error).splitlines()[0]}") from error
    if not found.equals(expected, check_metadata=True):
        settings = (found.metadata or {}).get(b"deduplication", b"something else").decode("utf-8", "replace")
        raise CorruptInput(path, "", f"holds signatures for {settings}, not for {expected.metadata[b'deduplication'].decode()}")
    return int(count)


def _unreadable(signatures: Sequence[Path], expected: pa.Schema) -> CorruptInput | None:
    """The first file whose pages cannot be read: DuckDB does not say which."""
    for path in signatures:
        try:
            with pq.ParquetFile(path) as file:
                for _ in file.iter_batches(columns=expected.names):
                    pass
        except (pa.ArrowException, OSError) as error:
            return CorruptInput(path, "", f"cannot be read as signatures: {str(error).splitlines()[0]}")
    return None


def _name_documents(database: duckdb.DuckDBPyConnection, signatures: Sequence[Path], firsts: NDArray[np.int64]) -> None:
    """The view `documents`, with a `number` that counts them over all files."""
    numbers = pa.table({"file_index": np.arange(len(signatures), dtype=np.uint64), "first": firsts[:-1]})
    database.register("numbers", numbers)
    database.execute("CREATE TABLE files AS SELECT * FROM numbers")
    database.execute(
        f"""CREATE VIEW documents AS SELECT first + file_row_number AS number, d.*
        FROM (SELECT *, file_index, file_row_number FROM {parquet(signatures)}) d JOIN files USING (file_index)"""
    )


def _connected(database: duckdb.DuckDBPyConnection, settings: Deduplication, count: int) -> _Forest:
    """The documents, by number, joined where they share a text or a band."""
    forest = _Forest(count)
    for key in (_text_key(settings), *_band_names(settings)):
        edges = database.sql(
            f"""SELECT number, first FROM documents
            JOIN (SELECT {key}, min(number) AS first FROM documents GROUP BY {key} HAVING count(*) > 1) USING ({key})
            WHERE number > first"""
        )
        for batch in edges.to_arrow_reader(EDGES_AT_ONCE):
            forest.join(*(column.to_numpy() for column in batch.columns))
    return forest


def _gather_members(database: duckdb.DuckDBPyConnection, signatures: Sequence[Path], forest: _Forest) -> None:
    """The table `members`: the documents that are not alone, with the number of the first in their cluster.

    Picked out of the files as they are read: DuckDB does not join millions of them within a small limit.
    """
    database.execute(
        """CREATE TABLE members
        (number BIGINT, cluster BIGINT, id VARCHAR, source VARCHAR, file VARCHAR, "offset" BIGINT, text_digest BLOB)"""
    )
    is_member, first = forest.settle(), 0
    for path in signatures:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(ROW_GROUP, columns=[*PLACE, "text_digest"]):
                numbers = first + np.flatnonzero(is_member[first : first + len(batch)])
                rows = pa.table(batch).select([*PLACE, "text_digest"]).take(pa.array(numbers - first))
                columns = [pa.array(numbers), pa.array(forest.earlier[numbers].astype(np.int64)), *rows.columns]
                database.register("found", pa.table(columns, names=["number", "cluster", *rows.column_names]))
                database.execute("INSERT INTO members SELECT * FROM found")
                database.unregister("found")
                first += len(batch)


def _text_key(settings: Deduplication) -> str:
    """The columns in which an exact duplicate is equal: with `exact` off, only a copy is one."""
    return "text_digest" if settings.exact else _COPY_KEY


class _Forest:
    """Connected components of a graph whose edges come in batches: of each document one that is earlier in its component."""

    def __init__(self, count: int) -> None:
        self.earlier = np.arange(count, dtype=np.uint32 if count < 1 << 32 else np.int64)

    def roots(self, documents: NDArray[Any]) -> NDArray[Any]:
        """The first document of the component of each."""
        found: NDArray[Any] = self.earlier[documents]
        while not np.array_equal(found, further := self.earlier[found]):
            found = further
        self.earlier[documents] = found
        return found

    def join(self, left: NDArray[Any], right: NDArray[Any]) -> None:
        """Add the edges between `left[i]` and `right[i]`."""
        ends = np.concatenate([self.roots(left), self.roots(right)])
        nodes, places = np.unique(ends, return_inverse=True)
        edges = coo_array((np.ones(len(left), bool), (places[: len(left)], places[len(left) :])), shape=(len(nodes),) * 2)
        _, labels = connected_components(edges, directed=False)
        _, firsts = np.unique(labels, return_index=True)
        self.earlier[nodes] = nodes[firsts[labels]]

    def settle(self) -> NDArray[np.bool_]:
        """Make `earlier` the first of each document's component; says which documents are not alone in theirs."""
        is_member = np.zeros(len(self.earlier), bool)
        for start in range(0, len(self.earlier), EDGES_AT_ONCE):
            documents = np.arange(start, min(start + EDGES_AT_ONCE, len(self.earlier)))
            roots = self.roots(documents)
            is_later = roots != documents
            is_member[documents[is_later]] = is_member[roots[is_later]] = True
        return is_member


def _judge(database: duckdb.DuckDBPyConnection, settings: Deduplication) -> None:
    """The table `verdicts` on the members.

    Some clusters at a time: DuckDB does not stay within its memory where it joins millions of rows with a text to one another.
    """
    (count,) = database.sql("SELECT count(*) FROM members").fetchall()[0]
    parts = count // MEMBERS_AT_ONCE + 1
    database.execute("CREATE TABLE verdicts (number BIGINT, cluster VARCHAR, cluster_size BIGINT, verdict VARCHAR)")
    for part in range(parts):
        _judge_clusters(database, settings, f"cluster % {parts} = {part}")


def _judge_clusters(database: duckdb.DuckDBPyConnection, settings: Deduplication, which: str) -> None:
    """Add to `verdicts`, ordered by number. In `ranked`, `rowid` is the rank in the order of `PLACE`."""
    database.execute(
        f"""CREATE OR REPLACE TABLE ranked AS SELECT number, cluster, {_COPY_KEY} FROM members WHERE {which}
        ORDER BY id, source, file, "offset", number"""
    )
    database.execute(
        f"""INSERT INTO verdicts WITH
            copies AS (SELECT cluster, {_COPY_KEY}, min(rowid) AS first FROM ranked GROUP BY ALL),
            clusters AS (SELECT cluster, min(first) AS first, count(*) AS size FROM copies GROUP BY cluster),
            texts AS (SELECT {_text_key(settings)}, min(rowid) AS first_text FROM ranked GROUP BY ALL)
        SELECT r.number, kept.id AS cluster, size AS cluster_size,
            CASE WHEN r.rowid > first_text THEN 'exact_duplicate' WHEN r.rowid > first THEN 'near_duplicate' ELSE 'keep' END
                AS verdict
        FROM ranked r JOIN clusters USING (cluster) JOIN ranked kept ON kept.rowid = clusters.first
        JOIN texts t ON {" AND ".join(f"t.{name} = r.{name}" for name in _text_key(settings).split(", "))}
        ORDER BY r.number"""
    )


def _write_verdicts(
    database: duckdb.DuckDBPyConnection, signatures: Sequence[Path], firsts: NDArray[np.int64], out: Path
) -> dict[str, int]:
    """One row for every row of the files: that of the table `verdicts`, or the verdict on a document that is alone."""
    counts = {"keep": 0, "exact_duplicate": 0, "near_duplicate": 0}
    options: dict[str, Any] = {"compression": "zstd", "use_dictionary": ["source", "file", "verdict"]}
    with pq.ParquetWriter(out, VERDICTS, **options) as writer:
        for i, path in enumerate(signatures):
            with pq.ParquetFile(path) as file:
                row = 0
                for batch in file.iter_batches(ROW_GROUP, columns=[*PLACE, "text_digest"]):
                    table = _with_verdicts(database, batch, i, row, int(firsts[i]) + row)
                    writer.write_table(table)
                    row += len(table)
                    for value in table["verdict"].value_counts().to_pylist():
                        counts[value["values"]] += value["counts"]
    return counts


def _with_verdicts(database: duckdb.DuckDBPyConnection, batch: pa.RecordBatch, file: int, row: int, first: int) -> pa.Table:
    """The documents from `row` of a file on, the first of them having the number `first`."""
    count = len(batch)
    found = database.sql(
        f"SELECT * FROM verdicts WHERE number BETWEEN {first} AND {first + count - 1} ORDER BY number"
    ).to_arrow_table()  # fmt: skip
    is_member = np.zeros(count, bool)
    is_member[found["number"].to_numpy() - first] = True
    columns = {name: batch.column(name) for name in (*PLACE, "text_digest")}
    alone = {
        "verdict": pa.array(["keep"] * count),
        "cluster": columns["id"],
        "cluster_size": pa.array(np.ones(count, np.int64)),
    }
    for name, values in alone.items():
        columns[name] = call_function("replace_with_mask", [values, pa.array(is_member), found[name].combine_chunks()])
    columns |= {"spool_file": pa.array(np.full(count, file)), "spool_row": pa.array(np.arange(row, row + count))}
    return pa.table(columns).select(VERDICTS.names).cast(VERDICTS)
