"""The document tables of a made-up corpus: every value is a function of a document's number, so nothing is held or sorted.

Documents of a language are numbered in the order of their domain and address; a mixing function gives each its id, and the ids'
order gives its shard and row. So both orders can be written in pieces, and the counts of the shards are exactly those of the
documents. 13 languages; each shard mixes four of eight crawls; domains have Zipf's sizes, one for 20 documents.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sea_lion.data.shards import DOCUMENTS, IDS, LIMITS, TABLE_GROUP, TABLE_ROWS, shard_name

LANGUAGES = {
    "ind": 220, "vie": 200, "eng": 140, "tha": 120, "cmn": 100, "zsm": 80, "fil": 50, "tam": 30, "jav": 20, "khm": 15,
    "mya": 12, "lao": 8, "sun": 5,
}  # fmt: skip
"""Language to its share, in thousandths."""
CRAWLS = tuple(f"CC-MAIN-20{year}-{week:02}" for year in (23, 24) for week in (10, 22, 38, 50))
CRAWLS_OF_SHARD = 4
WARC = "CC-MAIN-20240412101354-20240412131354-"
FILES = 48_256
"""WARC files of a crawl: 386,048 in all."""
MEASURES = ("letters", "stop_words", "distinct", "punctuated_lines")
"""Measured of each document; a real corpus has 28."""
BATCH = TABLE_ROWS // 4
DOMAIN_DOCUMENTS = 20
LETTERS = 8

Numbers = NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What the documents of one language come to."""

    language: str
    documents: Numbers
    """Of each shard and crawl, as are the next two."""
    characters: Numbers
    bytes: Numbers
    file_documents: Numbers
    """Of each crawl and WARC file, as is the next one."""
    file_bytes: Numbers


def divided(total: int, least: int = 1) -> dict[str, int]:
    """Language to its share of `total`."""
    shares = {language: max(least, total * weight // 1000) for language, weight in LANGUAGES.items()}
    shares["ind"] += total - sum(shares.values())
    return shares


def mixed(values: Numbers, salt: int) -> Numbers:
    """A number for each number, no two alike, that looks random (the finalizer of SplitMix64)."""
    x = values.astype(np.uint64) + np.uint64(salt * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


HEX = np.frombuffer(b"".join(b"%02x" % i for i in range(256)), dtype=np.uint16)
BASE32 = np.frombuffer(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", dtype=np.uint8)


def hexadecimal(values: Numbers) -> Numbers:
    """Numbers as 16 digits each, in a matrix of characters."""
    return HEX[values.astype(">u8").view(np.uint8)].view(np.uint8).reshape(len(values), 16)


def digits(values: Numbers, width: int, base: int = 10, first: bytes = b"0") -> Numbers:
    """Numbers in a base, as a matrix of characters."""
    places = np.array([base**place for place in reversed(range(width))], dtype=np.int64)
    return (values.astype(np.int64)[:, None] // places % base + first[0]).astype(np.uint8)


def texts(*parts: bytes | Numbers, rows: int) -> pa.Array:
    """The parts of each row, fixed texts and matrices of characters, as one column of strings."""
    wide = [np.broadcast_to(np.frombuffer(p, np.uint8), (rows, len(p))) if isinstance(p, bytes) else p for p in parts]
    matrix = np.concatenate(wide, axis=1)
    offsets = np.arange(rows + 1, dtype=np.int32) * matrix.shape[1]
    return pa.StringArray.from_buffers(rows, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(matrix)))


class Language:
    """The documents of one language."""

    def __init__(self, language: str, documents: int, shards: int) -> None:
        self.language, self.documents, self.shards = language, documents, shards
        self.salt = 16 * list(LANGUAGES).index(language)
        rows = np.arange(documents, dtype=np.uint32)
        self.order = np.argsort(mixed(rows, self.salt)).astype(np.uint32)
        """The documents' numbers in the order of their ids."""
        self.rank = np.empty(documents, np.uint32)
        self.rank[self.order] = rows
        self.starts = np.arange(shards + 1, dtype=np.int64) * documents // shards
        """Place in the order of the ids where a shard begins."""
        generator = np.random.default_rng(self.salt)
        count = max(10, documents // DOMAIN_DOCUMENTS)
        sizes = 1 / (np.arange(count) + 10)
        sizes = np.maximum(1, (sizes / sizes.sum() * documents).astype(np.int64))
        sizes[0] += documents - sizes.sum()
        self.ends = np.cumsum(generator.permutation(sizes))
        """Number of the first document that is no longer of a domain."""
        self.names = digits(np.arange(count) * (26**LETTERS // count), LETTERS, 26, b"a")

    def ids(self, rows: Numbers) -> Numbers:
        """The first 64 bits of the documents' ids."""
        return mixed(rows, self.salt)

    def place(self, ranks: Numbers) -> tuple[Numbers, Numbers]:
        """Shard, and row in it, by the place in the order of the ids."""
        shard = np.searchsorted(self.starts, ranks, "right") - 1
        return shard, ranks - self.starts[shard]

    def crawl(self, ids: Numbers, shard: Numbers) -> Numbers:
        """Number of the crawl."""
        return (shard + (ids % np.uint64(CRAWLS_OF_SHARD)).astype(np.int64)) % len(CRAWLS)

    def file(self, ids: Numbers) -> Numbers:
        """Number of the WARC file in its crawl."""
        return (ids >> np.uint64(8)).astype(np.int64) % FILES

    def sizes(self, ids: Numbers) -> tuple[Numbers, Numbers]:
        """Characters and bytes."""
        characters = 300 + (ids >> np.uint64(24)).astype(np.int64) % 6_000
        return characters, characters * (1 if self.language in ("ind", "eng", "zsm", "fil", "jav", "sun") else 3)

    def identified(self, rows: Numbers, ids: Numbers) -> dict[str, Any]:
        """The columns that both tables have."""
        domain = np.searchsorted(self.ends, rows, "right")
        first = np.where(domain > 0, self.ends[domain - 1], 0)
        names, count = self.names[domain], len(rows)
        top = f".{self.language}.example".encode()
        shard, row = self.place(self.rank[rows])
        number = digits(shard, 5)
        head, _, tail = shard_name(self.language, "web", "train", 0, self.shards).encode().partition(b"00000")
        return {
            "id": texts(hexadecimal(ids), hexadecimal(mixed(ids, 1)), rows=count),
            "url": texts(
                b"https://www.", names, top, b"/", digits(rows - first, 8), b"/", hexadecimal(mixed(ids, 2)), rows=count
            ),
            "domain": texts(names, top, rows=count),
            "shard": texts(b"shards/" + head, number, tail, rows=count),
            "row": pa.array(row),
        }

    def table(self, rows: Numbers) -> pa.Table:
        """Rows of the table `documents`."""
        ids, count = self.ids(rows), len(rows)
        shard, _ = self.place(self.rank[rows])
        crawl, noise = self.crawl(ids, shard), mixed(ids, 3)
        characters, size = self.sizes(ids)
        base32 = [BASE32[(noise >> np.uint64(5 * i)).astype(np.uint8) % 32] for i in range(12)]
        base32 += [BASE32[(mixed(ids, 4) >> np.uint64(5 * i)).astype(np.uint8) % 32] for i in range(12)]
        base32 += [BASE32[(mixed(ids, 5) >> np.uint64(5 * i)).astype(np.uint8) % 32] for i in range(8)]
        measured = np.arange(count + 1, dtype=np.int32) * len(MEASURES)
        shares = (
            mixed(np.repeat(ids, len(MEASURES)) + np.tile(np.arange(len(MEASURES), dtype=np.uint64), count), 6) % 1000
        ) / 1000
        columns = self.identified(rows, ids) | {
            "crawl": taken(CRAWLS, crawl),
            "date": taken([f"20{23 + i // 112}-{i // 14 % 8 + 3:02}-{i % 14 + 10}T10:51:51Z" for i in range(224)],
                          crawl * 28 + (noise % 28).astype(np.int64)),
            "language_score": pa.array(((noise >> np.uint64(7)) % 350 / 1000 + 0.65).astype(np.float32)),
            "characters": pa.array(characters),
            "bytes": pa.array(size),
            "file": texts(
                b"crawl-data/", numpy_texts(CRAWLS)[crawl], b"/segments/1713591296587.", digits(self.file(ids) // 1_000, 2),
                b"/warc/" + WARC.encode(), digits(self.file(ids), 5), b".warc.gz", rows=count,
            ),
            "offset": pa.array((noise % 1_000_000_000).astype(np.int64)),
            "length": pa.array(((noise >> np.uint64(32)) % 60_000 + 800).astype(np.int64)),
            "digest": texts(np.stack(base32, axis=1), rows=count),
            "rules": pa.MapArray.from_arrays(measured, taken(MEASURES, np.tile(np.arange(len(MEASURES)), count)),
                                             pa.array(shares.astype(np.float32))),
        }  # fmt: skip
        fixed: dict[str, Any] = {"language": self.language, "source": "web", "split": "train", "charset": "utf-8"}
        fixed |= {
            "claimed": self.language,
            "fasttext": self.language,
            "claimed_share": 1,
            "fasttext_score": 1,
            "cluster_size": 1,
        }
        empty = {"string": "", "float": 0.0, "int32": 0, "int64": 0}
        for field in DOCUMENTS:
            if field.name not in columns:
                value = fixed.get(field.name, empty.get(str(field.type)))
                columns[field.name] = pa.repeat(pa.scalar(value, field.type), count)
        return pa.table([columns[name] for name in DOCUMENTS.names], schema=DOCUMENTS)

    def id_table(self, rows: Numbers) -> pa.Table:
        """Rows of the table `document_ids`."""
        columns = self.identified(rows, self.ids(rows))
        columns |= {"language": pa.repeat(self.language, len(rows)), "source": pa.repeat("web", len(rows))}
        return pa.table([columns[name] for name in IDS.names], schema=IDS)

    def counts(self) -> Counts:
        """What its documents come to, by shard and crawl, and by WARC file."""
        shape, files = (self.shards, len(CRAWLS)), (len(CRAWLS), FILES)
        sums = [np.zeros(shape[0] * shape[1], np.int64) for _ in range(3)]
        file_sums = [np.zeros(files[0] * files[1], np.int64) for _ in range(2)]
        for start in range(0, self.documents, 4 * BATCH):
            ranks = np.arange(start, min(start + 4 * BATCH, self.documents))
            ids = self.ids(self.order[ranks])
            shard, _ = self.place(ranks)
            crawl = self.crawl(ids, shard)
            place, file = shard * len(CRAWLS) + crawl, crawl * FILES + self.file(ids)
            for into, where, weights in zip(
                [*sums, *file_sums],
                [place, place, place, file, file],
                [None, *self.sizes(ids), None, self.sizes(ids)[1]],
                strict=True,
            ):
                into += np.bincount(where, weights, len(into)).astype(np.int64)  # exact: sums are far below 2**53
        shaped = [each.reshape(shape) for each in sums] + [each.reshape(files) for each in file_sums]
        return Counts(
            language=self.language, documents=shaped[0], characters=shaped[1], bytes=shaped[2],
            file_documents=shaped[3], file_bytes=shaped[4],
        )  # fmt: skip


def taken(values: tuple[str, ...] | list[str], numbers: Numbers) -> pa.Array:
    """The values of the numbers given."""
    return pa.array(values).take(pa.array(numbers))


def numpy_texts(values: tuple[str, ...]) -> Numbers:
    """Texts of one length, as a matrix of characters."""
    return np.frombuffer("".join(values).encode(), np.uint8).reshape(len(values), -1)


def write_documents(folder: Path, language: str, documents: int, shards: int) -> Counts:
    """Write the two tables of one language as the data area does; returns what they come to."""
    made = Language(language, documents, shards)
    limits = json.dumps([{"reason": "few_letters", "measure": "letters", "bound": "min", "limit": 0.1}])
    described = DOCUMENTS.with_metadata({LIMITS: limits})
    numbers = np.arange(documents, dtype=np.uint32)
    for name, schema, order, table in (
        ("documents", described, numbers, made.table),
        ("document_ids", IDS, made.order, made.id_table),
    ):
        place = folder / name / f"language={language}" / "source=web"
        place.mkdir(parents=True)
        for number, start in enumerate(range(0, documents, TABLE_ROWS)):
            with pq.ParquetWriter(place / f"part-{number:05}.parquet", schema, compression="zstd") as writer:
                for rows in batches(order[start : start + TABLE_ROWS], table):
                    writer.write_table(rows.cast(schema), row_group_size=TABLE_GROUP)
    return made.counts()


def batches(rows: Numbers, table: Callable[[Numbers], pa.Table]) -> Iterator[pa.Table]:
    """The rows of some documents, not all at once."""
    for start in range(0, len(rows), BATCH):
        yield table(rows[start : start + BATCH])
