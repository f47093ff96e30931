"""Where the documents that stay go: duplicates out, the held-out ones aside, the rest cut into shards of about one size.

SQL in DuckDB over the spool files of all tasks, with a bound on its memory beyond which it uses the disk. What decides is the
documents' content alone, never the order or the number of tasks. Tables of the documents are written apart from the shards: a
shard is in the order of the ids, which is a shuffle and right for training, but a site's documents are then everywhere.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import duckdb

from ..catalog.fingerprint import fingerprint
from ..catalog.licences import NOASSERTION
from .database import bounded, parquet
from .dedup import PLACE, resolve
from .ledger import LISTED, REMOVALS, STAGES, Tally
from .quality import RULES
from .recipe import CorpusRecipe
from .shards import DOCUMENTS, EVIDENCE, IDS, LIMITS, SHARED, shard_name, write_in_files, write_shard
from .thresholds import Thresholds

TEXT_PER_BYTE = 3
"""Bytes of UTF-8 text that a byte of a zstd-compressed shard holds, about."""
PLACES = "places.parquet"
MEMORY = "600MB"
"""Of DuckDB in a task."""
ORDER = ", ".join(f'"{name}"' for name in PLACE)
"""Of the documents in a shard."""
JOINED = "spool.filename = {0}.spool AND spool.file_row_number = {0}.spool_row"
"""A document is known by its place in the spool: two input files may hold the same capture."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Languages whose documents are compared with each other."""

    key: str
    languages: tuple[str, ...]

    @property
    def label(self) -> str:
        """The languages."""
        return " and ".join(self.languages)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One shard to write."""

    key: str
    group: str
    language: str
    source: str
    split: str
    part: int
    parts: int
    first: str
    """Its smallest id."""
    last: str
    """Its largest id."""

    @property
    def label(self) -> str:
        """The shard's name."""
        return shard_name(self.language, self.source, self.split, self.part, self.parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The second round's work: the duplicates of a group, and the places of what is left."""

    clean: Path
    recipe: CorpusRecipe

    def __call__(self, group: Group, folder: Path) -> None:
        """Write `verdicts.parquet`, `places.parquet`, `ledger.json` and `removals.parquet`."""
        spool = _spool(self.clean, group.languages)
        signatures = [path.parents[2] / "signatures" / path.parent.name / path.name for path in spool]
        verdicts = folder / "verdicts.parquet"
        resolve(signatures, verdicts, self.recipe.deduplication, memory_limit=MEMORY, temp=folder)
        with bounded(MEMORY, folder) as connection:
            _views(connection, spool)
            numbers = ", ".join(f"({i}, '{_quoted(path)}')" for i, path in enumerate(spool))
            connection.execute(
                f"""CREATE VIEW verdicts AS SELECT v.* EXCLUDE (id, source, file, "offset"), name AS spool
                FROM {parquet([verdicts])} v
                JOIN (VALUES {numbers}) AS files(number, name) ON number = spool_file"""
            )
            tally = Tally(folder)
            _count(connection, tally)
            tally.save()
            _list_removed(connection, folder / LISTED)
            target = self.recipe.shard_megabytes * 1_000_000 * TEXT_PER_BYTE
            _place(connection, folder / PLACES, self.recipe.heldout_documents, target)


def _spool(clean: Path, languages: Sequence[str]) -> list[Path]:
    return [path for language in languages for path in sorted(clean.glob(f"*/spool/{language}/*.parquet"))]


def _views(connection: duckdb.DuckDBPyConnection, spool: Sequence[Path]) -> None:
    connection.execute(f"CREATE VIEW spool AS SELECT * FROM {parquet(spool, 'filename = true, file_row_number = true')}")


def _count(connection: duckdb.DuckDBPyConnection, tally: Tally) -> None:
    """The ledger of the stages `exact` and `near`."""
    rows = connection.execute(
        f"""SELECT language, source, verdict, count(*)::BIGINT, sum(bytes)::BIGINT
        FROM spool JOIN verdicts ON {JOINED.format("verdicts")} GROUP BY ALL ORDER BY ALL"""
    ).fetchall()
    for language, source, verdict, documents, size in rows:
        entered = {"exact": True, "near": verdict != "exact_duplicate"}
        for stage in ("exact", "near"):
            if entered[stage]:
                outcome = "removed" if verdict == f"{stage}_duplicate" else "out"
                reason = verdict if outcome == "removed" else ""
                tally.add(stage, "in", source, language, size, documents=documents)
                tally.add(stage, outcome, source, language, size, reason, documents=documents)


def _list_removed(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    connection.execute(
        f"""COPY (SELECT replace(verdict, '_duplicate', '') AS stage, language, verdict AS reason, source, url, domain, crawl,
            file, "offset", length, digest, bytes, cluster AS detail
        FROM spool JOIN verdicts ON {JOINED.format("verdicts")} WHERE verdict <> 'keep')
        TO '{_quoted(path)}' (FORMAT parquet)"""
    )


def _place(connection: duckdb.DuckDBPyConnection, path: Path, heldout: int, target_bytes: int) -> None:
    """Split and part of every document that stays.

    Held out are, of every language's documents of source `web`, those whose texts have the lowest digests: the choice is by
    content, so that a document stays held out when others are added.
    """
    connection.execute(
        f"""COPY (
            WITH kept AS (
                SELECT {ORDER}, verdicts.spool, spool_row, language, bytes, cluster, cluster_size,
                    source = 'web' AND row_number() OVER (
                        PARTITION BY language, source ORDER BY text_digest, {ORDER}
                    ) <= {heldout} AS is_heldout
                FROM spool JOIN verdicts ON {JOINED.format("verdicts")} WHERE verdict = 'keep'
            ), divided AS (SELECT *, if(is_heldout, 'heldout', 'train') AS split FROM kept)
            SELECT id, source, spool, spool_row, language, split, cluster, cluster_size,
                ((sum(bytes) OVER (PARTITION BY language, source, split ORDER BY {ORDER}) - bytes) // {target_bytes})::INTEGER
                    AS part
            FROM divided ORDER BY language, split, {ORDER}
        ) TO '{_quoted(path)}' (FORMAT parquet)"""
    )


def parts(folder: Path, group: Group) -> list[Part]:
    """The shards that a group's documents go to."""
    rows = duckdb.connect().execute(
        f"""SELECT language, source, split, part, min(id), max(id),
            max(max(part)) OVER (PARTITION BY language, source, split) + 1
        FROM {parquet([folder / PLACES])} GROUP BY language, source, split, part ORDER BY ALL"""
    ).fetchall()  # fmt: skip
    return [
        Part(
            key=fingerprint([language, source, split, part])[:32], group=group.key, language=language, source=source,
            split=split, part=part, parts=count, first=first, last=last,
        )
        for language, source, split, part, first, last, count in rows
    ]  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """The third round's work: one shard, and what is known of its documents beside their texts."""

    clean: Path
    places: Path

    def __call__(self, part: Part, folder: Path) -> None:
        """Write `shards/…`, `documents/…` and `ledger.json`."""
        columns = [name for name in (*SHARED, *EVIDENCE) if name not in ("split", "cluster", "cluster_size")]
        chosen = ", ".join(f'spool."{name}"' for name in columns)
        with bounded(MEMORY, folder) as connection:
            _views(connection, _spool(self.clean, [part.language]))
            places = parquet([self.places / part.group / PLACES])
            wanted: dict[str, str | int] = {"language": part.language, "source": part.source, "split": part.split}
            wanted |= {"part": part.part, "first": part.first, "last": part.last}
            found = connection.sql(
                f"""SELECT {chosen}, spool.text, split, cluster, cluster_size
                FROM spool JOIN {places} AS places ON {JOINED.format("places")}
                WHERE places.language = $language AND places.source = $source AND split = $split AND part = $part
                    AND spool.id BETWEEN $first AND $last
                ORDER BY {", ".join(f'spool."{name}"' for name in PLACE)}""",
                params=wanted,
            )
            write_shard(folder, part.label, found.to_arrow_reader(1_000))
        tally = Tally(folder)
        _count_written(tally, part, folder)
        tally.save()


def _count_written(tally: Tally, part: Part, folder: Path) -> None:
    written = parquet([folder / "documents" / part.label])
    sizes = duckdb.connect().execute(f"SELECT count(*), sum(bytes)::BIGINT FROM {written}").fetchone()
    assert sizes is not None
    for outcome in ("in", "out"):
        tally.add("write", outcome, part.source, part.language, sizes[1], documents=sizes[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The documents of one language and source, to be written as tables."""

    key: str
    language: str
    source: str
    parts: tuple[Part, ...]
    """Their shards."""

    @property
    def label(self) -> str:
        """The folder of their tables."""
        return f"language={self.language}/source={self.source}"


def listings(shards: Sequence[Part]) -> list[Listing]:
    """The languages and sources of some shards."""
    found: dict[tuple[str, str], list[Part]] = {}
    for part in shards:
        found.setdefault((part.language, part.source), []).append(part)
    return [
        Listing(key=fingerprint([language, source])[:32], language=language, source=source, parts=tuple(some))
        for (language, source), some in sorted(found.items())
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tabulate:
    """The fourth round's work: the tables of a language's documents from one source."""

    written: Path
    """Folder of the third round."""
    thresholds: Mapping[str, Thresholds]

    def __call__(self, listing: Listing, folder: Path) -> None:
        """Write `documents/…` by domain, `document_ids/…` by id, `shard_counts.parquet` and `origins.parquet`."""
        limits = DOCUMENTS.with_metadata({LIMITS: json.dumps(rule_limits(self.thresholds[listing.language]))})
        with bounded(MEMORY, folder) as connection:
            sides = parquet([self.written / part.key / "documents" / part.label for part in listing.parts])
            connection.execute(f"CREATE VIEW sides AS SELECT * FROM {sides}")
            # Shard and row make the order total: an id need not be unique.
            ordered = connection.sql('SELECT * FROM sides ORDER BY domain, url, id, shard, "row"')
            write_in_files(folder / "documents" / listing.label, limits, ordered.to_arrow_reader(10_000))
            by_id = connection.sql(f'SELECT {", ".join(IDS.names)} FROM sides ORDER BY id, shard, "row"')
            write_in_files(folder / "document_ids" / listing.label, IDS, by_id.to_arrow_reader(10_000))
            for name, keys, sums in COUNTED:
                total = ", ".join(f"sum({column})::BIGINT AS {column}" for column in sums)
                counts = f"SELECT {keys}, count(*)::BIGINT AS documents, {total} FROM sides GROUP BY {keys} ORDER BY {keys}"
                connection.execute(f"COPY ({counts}) TO '{_quoted(folder / name)}' (FORMAT parquet)")


COUNTED = (
    ("shard_counts.parquet", "shard, language, source, split, crawl", ("characters", "bytes")),
    ("origins.parquet", "source, crawl, file", ("bytes",)),
)
"""Tables of counts: file, what is counted by, what is added up beside the documents."""


def write_counts(tabulated: Sequence[Path], folder: Path) -> None:
    """The counts of all languages and sources, from the folders of the fourth round."""
    with bounded(MEMORY, folder) as connection:
        for name, keys, sums in COUNTED:
            total = ", ".join(f"sum({column})::BIGINT AS {column}" for column in ("documents", *sums))
            counts = f"SELECT {keys}, {total} FROM {parquet([one / name for one in tabulated])} GROUP BY {keys} ORDER BY {keys}"
            connection.execute(f"COPY ({counts}) TO '{_quoted(folder / name)}' (FORMAT parquet, COMPRESSION zstd)")


def rule_limits(thresholds: Thresholds) -> list[dict[str, str | float]]:
    """The limits that can drop a document: reason, measure, `min` or `max`, and the number, in the order of the rules."""
    lets_pass = {field.name: field.default for field in fields(Thresholds)}
    found: list[dict[str, str | float]] = []
    for rule in RULES:
        limit = getattr(thresholds, rule.limit)
        if limit != lets_pass[rule.limit]:
            value = limit[rule.place] if isinstance(limit, tuple) else limit
            found.append({"reason": rule.reason, "measure": rule.measure, "bound": rule.limit[:3], "limit": value})
    return found


def document_licences(documents: Sequence[Path], recipe: str) -> tuple[str, ...]:
    """The licences that documents come with, as their side tables say; those of none are under the recipe's.

    Where the recipe has none either, nobody has said what may be done with them: NOASSERTION, whatever the others are under.
    """
    sql = f"SELECT DISTINCT coalesce(licence, '') FROM {parquet(documents)}"
    found = {str(licence) or ("" if recipe else NOASSERTION) for (licence,) in duckdb.connect().execute(sql).fetchall()}
    return tuple(sorted(found - {""}))


def write_removals(files: Sequence[Path], target: Path) -> None:
    """The lists of all tasks as one table, in the order of the stages, files and offsets."""
    columns = ", ".join(f'"{name}"' for name in REMOVALS.names)
    rows = f"SELECT {columns} FROM {parquet(files)}" if files else _nothing()
    stages = ", ".join(f"'{stage}'" for stage in STAGES)
    order = f'list_position([{stages}], stage), source, file, "offset", reason, url, detail'
    with bounded(MEMORY, target.parent) as connection:
        connection.execute(
            f"COPY (SELECT * FROM ({rows}) ORDER BY {order}) TO '{_quoted(target)}' (FORMAT parquet, COMPRESSION zstd)"
        )


def _nothing() -> str:
    kinds: dict[str, Any] = {"string": "VARCHAR", "int64": "BIGINT"}
    return "SELECT " + ", ".join(f'NULL::{kinds[str(field.type)]} AS "{field.name}"' for field in REMOVALS) + " WHERE false"


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")
