"""Documents as rows of Parquet files: between the rounds, in the shards of a corpus, and in the tables beside them.

Shards are sorted by document id and written with fixed settings, so that the same documents give the same bytes, whatever the
number of tasks, workers and machines that made them. An id is a digest, so its order is a shuffle.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from itertools import chain, islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep

from ..catalog.fingerprint import file_digest
from ..catalog.records import Shard
from .database import evenly

ROW_GROUP = 1_000
"""Documents a row group: what a reader holds in memory at once."""
SPOOL_BYTES = 64 << 20
"""Text that a task holds in memory before it writes a file."""
TABLE_GROUP = 25_000
"""Rows a row group of a table without texts: what a look-up reads."""
TABLE_ROWS = 1_000_000
"""Rows a file of such a table."""

SHARED = {
    "id": pa.string(), "url": pa.string(), "domain": pa.string(), "crawl": pa.string(), "date": pa.string(),
    "language": pa.string(), "language_score": pa.float32(), "source": pa.string(), "split": pa.string(),
    "licence": pa.string(), "characters": pa.int64(), "bytes": pa.int64(), "charset": pa.string(), "cluster_size": pa.int64(),
    "masked_emails": pa.int32(), "masked_ips": pa.int32(), "masked_phones": pa.int32(), "masked_ids": pa.int32(),
    "masked_cards": pa.int32(), "file": pa.string(), "offset": pa.int64(), "length": pa.int64(), "digest": pa.string(),
}  # fmt: skip
"""Columns of both. `file`, `offset` and `length` say where a document was read (the gzip member of a WARC file; line or row,
and 0, else), `digest` is the SHA-1 of the record's payload in base 32, `cluster_size` how many documents it stands for,
a record that was read twice counting once."""
EVIDENCE = {
    "claimed": pa.string(), "claimed_share": pa.float32(), "fasttext": pa.string(), "fasttext_score": pa.float32(),
    "cld2": pa.string(), "script": pa.string(), "cluster": pa.string(), "rules": pa.map_(pa.string(), pa.float32()),
}  # fmt: skip
"""Further columns of the table `documents`: what each opinion on the language was, and what each rule measured."""
MADE_LATER = ("split", "cluster", "cluster_size")

SCHEMA = pa.schema([("id", pa.string()), ("text", pa.string()), *list(SHARED.items())[1:]])
"""A shard."""
SPOOL = pa.schema([field for field in SCHEMA if field.name not in MADE_LATER] + [
    (name, kind) for name, kind in EVIDENCE.items() if name not in MADE_LATER
])  # fmt: skip
"""A file between the rounds."""
DOCUMENTS = pa.schema([("shard", pa.string()), ("row", pa.int64()), *SHARED.items(), *EVIDENCE.items()])
"""The table `documents`; `row` is the document's in its shard, counted from 0."""
IDS = pa.schema(
    [(name, pa.string()) for name in ("id", "domain", "url", "language", "source", "shard")] + [("row", pa.int64())]
)
"""The table `document_ids`: what leads from an id to the document's row in `documents` and in its shard."""
LIMITS = b"limits"
"""In the metadata of the files of `documents`: what its rules were compared with, as JSON."""

_EMPTY = {"string": "", "float": 0.0, "int32": 0, "int64": 0}


def row(document: Document) -> dict[str, Any]:
    """A document as a row of `SPOOL`."""
    metadata = document.metadata
    known = {"id": document.id, "text": document.text, **metadata, "characters": len(document.text)}
    known["domain"] = domain_of(metadata["url"])
    if claim := metadata.get("claim"):
        known["claimed"], known["claimed_share"] = claim.shares[0]
    known["rules"] = list(metadata.get("rules", {}).items())
    return {name: known.get(name, _EMPTY.get(str(kind))) for name, kind in zip(SPOOL.names, SPOOL.types, strict=True)}


class Spool(PipelineStep):  # type: ignore[misc]  # datatrove is untyped
    """Writes a task's documents to `folder/<language>/<number>.parquet`, each file sorted by id; passes nothing on."""

    type, name = "writer", "spool"

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def run(self, data: Iterator[Document], rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Hold up to `SPOOL_BYTES` of text."""
        held: dict[str, list[dict[str, Any]]] = {}
        size = number = 0
        for document in data:
            held.setdefault(document.metadata["language"], []).append(row(document))
            size += document.metadata["bytes"]
            if size > SPOOL_BYTES:
                self._write(held, number)
                held, size, number = {}, 0, number + 1
        self._write(held, number)
        yield from ()

    def _write(self, held: Mapping[str, list[dict[str, Any]]], number: int) -> None:
        for language, rows in held.items():
            rows.sort(key=lambda values: (values["id"], values["source"], values["file"], values["offset"]))
            path = self.folder / language / f"{number:06}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            table = pa.Table.from_pylist(rows, schema=SPOOL)
            pq.write_table(table, path, compression="zstd", row_group_size=ROW_GROUP)


def write_shard(folder: Path, name: str, batches: Iterable[pa.RecordBatch]) -> None:
    """Write sorted rows as `folder/shards/<name>` and, without their texts, as `folder/documents/<name>`.

    The rows have the columns of `SCHEMA` and `EVIDENCE`; they are regrouped, so that the bytes do not depend on the batches.
    """
    paths = [folder / kind / name for kind in ("shards", "documents")]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
    with (
        pq.ParquetWriter(paths[0], SCHEMA, compression="zstd") as texts,
        pq.ParquetWriter(paths[1], DOCUMENTS, compression="zstd") as sides,
    ):
        for number, group in enumerate(evenly(batches, ROW_GROUP)):
            texts.write_table(group.select(SCHEMA.names).cast(SCHEMA))
            side = group.append_column("shard", pa.repeat(f"shards/{name}", len(group)))
            side = side.append_column("row", pa.array(range(number * ROW_GROUP, number * ROW_GROUP + len(group))))
            sides.write_table(side.select(DOCUMENTS.names).cast(DOCUMENTS))


def write_in_files(folder: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    """Write rows as `folder/part-00000.parquet` and so on; the bytes do not depend on the batches."""
    folder.mkdir(parents=True)
    groups, number = evenly(batches, TABLE_GROUP), 0
    while rows := list(islice(groups, 1)):
        with pq.ParquetWriter(folder / f"part-{number:05}.parquet", schema, compression="zstd") as writer:
            for group in chain(rows, islice(groups, TABLE_ROWS // TABLE_GROUP - 1)):
                writer.write_table(group.select(schema.names).cast(schema))
        number += 1


def shard_name(language: str, source: str, split: str, part: int, parts: int) -> str:
    """A shard's place: `language=tha/source=web/train-00000-of-00003.parquet`."""
    return f"language={language}/source={source}/{split}-{part:05}-of-{parts:05}.parquet"


def shard_records(folder: Path) -> tuple[Shard, ...]:
    """The record of every shard below `folder/shards`, ordered by path."""
    return tuple(_shard_record(folder, path) for path in sorted(folder.glob("shards/*/*/*.parquet")))


def _shard_record(folder: Path, path: Path) -> Shard:
    sizes = pq.ParquetFile(path).read(columns=["characters", "bytes"]).to_pydict()
    return Shard(
        path=path.relative_to(folder).as_posix(),
        language=path.parent.parent.name.removeprefix("language="),
        source=path.parent.name.removeprefix("source="),
        split=path.stem.partition("-")[0],
        documents=len(sizes["bytes"]),
        characters=sum(sizes["characters"]),
        bytes=sum(sizes["bytes"]),
        sha256=file_digest(path),
    )


def domain_of(url: str) -> str:
    """The registered domain of an address (`example.com.my`), its host where there is no public suffix, empty without one."""
    try:
        host = (urlsplit(url).hostname or "").lower().rstrip(".")
    except ValueError:
        return ""
    found = _suffixes()(host) if host else None
    return f"{found.domain}.{found.suffix}" if found and found.domain and found.suffix else host


@cache
def _suffixes() -> Any:
    """The public suffix list inside the package: by default it is fetched from the network at first use."""
    from tldextract import TLDExtract

    return TLDExtract(suffix_list_urls=(), cache_dir=None)
