"""Documents as rows of Parquet files: between the stages, and in the shards of a corpus.

Shards are sorted by document id and written with fixed settings, so that the same documents give the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
from datatrove.data import Document

from ..catalog.fingerprint import file_digest
from ..catalog.records import Shard

ROW_GROUP = 1_000
"""Documents a row group: what a reader holds in memory at once."""

COLUMNS = {
    "id": pa.string(), "text": pa.string(), "url": pa.string(), "domain": pa.string(), "crawl": pa.string(),
    "language": pa.string(), "language_score": pa.float32(), "source": pa.string(), "split": pa.string(),
    "characters": pa.int64(), "bytes": pa.int64(), "charset": pa.string(), "masked_emails": pa.int32(),
    "masked_ips": pa.int32(), "masked_phones": pa.int32(), "file": pa.string(), "offset": pa.int64(),
}  # fmt: skip
"""Columns of a shard; `file` (name) and `offset` (bytes, of a WARC record; line or 0 else) say where a document was read."""
SCHEMA = pa.schema(list(COLUMNS.items()))

DOCUMENTS = pa.schema(
    [
        *((name, COLUMNS[name]) for name in ("id", "language", "source", "split")),
        ("shard", pa.string()),
        *((name, COLUMNS[name]) for name in ("url", "domain", "crawl", "characters", "bytes")),
    ]
)
"""The index table `documents`."""

_EMPTY = {"string": "", "float": 0.0, "int32": 0, "int64": 0}


def row(document: Document) -> dict[str, Any]:
    """A document as a row of `SCHEMA`."""
    known = {"id": document.id, "text": document.text, **document.metadata, "characters": len(document.text)}
    return {name: known.get(name, _EMPTY[str(kind)]) for name, kind in COLUMNS.items()}


def document(values: dict[str, Any]) -> Document:
    """The document of a row."""
    metadata = {name: value for name, value in values.items() if name not in ("id", "text")}
    return Document(text=values["text"], id=values["id"], metadata=metadata)


def write_shard(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write rows, in their order, as a Parquet file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(list(rows), schema=SCHEMA)
    pq.write_table(table, path, compression="zstd", row_group_size=ROW_GROUP)


def read_rows(folder: Path) -> Iterator[dict[str, Any]]:
    """The rows of all Parquet files of a folder, ordered by id, source and place; one language's documents fit in memory."""
    tables = [pq.read_table(path, schema=SCHEMA) for path in sorted(folder.glob("*.parquet"))]
    if tables:
        order = [(name, "ascending") for name in ("id", "source", "file", "offset")]
        for batch in pa.concat_tables(tables).sort_by(order).to_batches(ROW_GROUP):
            yield from batch.to_pylist()


def shard_records(folder: Path) -> tuple[Shard, ...]:
    """The record of every shard below `folder/shards`, ordered by path."""
    return tuple(_shard_record(folder, path) for path in sorted(folder.glob("shards/*/*.parquet")))


def _shard_record(folder: Path, path: Path) -> Shard:
    sizes = pq.read_table(path, columns=["characters", "bytes"]).to_pydict()
    language, _, split = path.stem.rpartition("-")
    return Shard(
        path=path.relative_to(folder).as_posix(),
        language=language,
        source=path.parent.name,
        split=split,
        documents=len(sizes["bytes"]),
        characters=sum(sizes["characters"]),
        bytes=sum(sizes["bytes"]),
        sha256=file_digest(path),
    )


def document_rows(folder: Path, shards: Iterable[Shard]) -> Iterator[dict[str, Any]]:
    """The rows of the index table `documents`."""
    names = [name for name in DOCUMENTS.names if name != "shard"]
    for shard in shards:
        for values in pq.read_table(folder / shard.path, columns=names).to_pylist():
            yield values | {"shard": shard.path}


def domain_of(url: str) -> str:
    """The registered domain of an address (`example.com.my`), its host where there is no public suffix, empty without one."""
    try:
        host = (urlsplit(url).hostname or "").lower().rstrip(".")
    except ValueError:
        return ""
    found = _suffixes()(host)
    return f"{found.domain}.{found.suffix}" if found.domain and found.suffix else host


@cache
def _suffixes() -> Any:
    """The public suffix list inside the package: by default it is fetched from the network at first use."""
    from tldextract import TLDExtract

    return TLDExtract(suffix_list_urls=(), cache_dir=None)
