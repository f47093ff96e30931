"""Questions that counts cannot answer, about single documents: one by its id, examples with what the rules said, domains.

They read the side tables (see `sides`), which are as large as the data, so each look-up is made to read little of them: an id
leads through `document_ids`, sorted by id, to domain and address, by which `documents` is sorted. An index over all documents
in the database was refused: at 100 million of them it would be the largest part of a catalog, and be copied at each refresh.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from . import confined, index, sides
from .errors import SeaLionError
from .places import Folder
from .records import ArtifactRef
from .store import Store

SHOWN = (
    "ref", "id", "url", "domain", "language", "language_score", "source", "split", "crawl", "date", "characters", "bytes",
    "shard", "rules",
)  # fmt: skip
"""Columns of an example; `rules` says what each rule measured and was compared with."""
LANGUAGE, SHARD = SHOWN.index("language"), SHOWN.index("shard")
LIMITS = b"limits"
"""In the metadata of a file of documents: JSON, a row a limit (reason, measure, bound, limit)."""
DIGEST = re.compile(r"(?:sha1:)?([A-Z2-7]{32})")
"""The payload digest of a WARC record: SHA-1 in base 32."""
MOST_ROWS = 2**63 - 1
"""The largest number after LIMIT."""
MEMORY = "1GB"
"""Of a query over documents; what is beyond goes to the disk."""
ROUNDING = 1e-6
"""Measures are kept as 32-bit floats: so far, relative, may one that met a limit be beyond it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """An answer."""

    columns: list[str]
    """Their names."""
    rows: list[tuple[Any, ...]]
    """In order."""
    sql: str
    """The statement that `sea-lion catalog sql` answers in the same way, with `$name` where a parameter stands."""
    warnings: tuple[str, ...] = ()
    """A line for each file that was left out, or that the text could not be read of."""


@contextmanager
def reading(
    store: Store, names: Sequence[str], *, ref: str = "", language: str = "", source: str = ""
) -> Iterator[tuple[duckdb.DuckDBPyConnection, tuple[str, ...]]]:
    """A connection to a current index with some side tables, cut down to files that may hold such rows, out of core.

    Also gives a line for each file that is left out. For our own queries only: it can open any file.
    """
    published = _published(store, names)
    with (
        tempfile.TemporaryDirectory(prefix="sea-lion-documents-") as folder,
        duckdb.connect(config={"memory_limit": MEMORY, "temp_directory": folder}) as connection,
    ):
        connection.execute("SET enable_progress_bar = false; SET python_enable_replacements = false")
        # Attached, not opened: settings would be those of all connections of this process to the file.
        connection.execute(f"ATTACH {sides.literal(str(published))} AS catalog (READ_ONLY); USE catalog")
        yield connection, _attached(connection, store, names, ref=ref, language=language, source=source)


def _attached(
    connection: duckdb.DuckDBPyConnection, store: Store, names: Sequence[str], *, ref: str, language: str, source: str
) -> tuple[str, ...]:
    """Make side tables of the files that may hold such rows; a line for each file that is left out."""
    wanted = [f"ref = {sides.literal(ref)}"] if ref else []
    for key, value in (("language", language), ("source", source)):
        if value:
            wanted.append(f"(contains(path, {sides.literal(f'/{key}={value}/')}) OR NOT contains(path, '/{key}='))")
    chosen = f" WHERE {' AND '.join(wanted)}" if wanted else ""
    connection.execute(f"CREATE OR REPLACE TEMP VIEW side_files AS SELECT * FROM catalog.side_files{chosen}")
    return tuple(sides.attach(connection, store.root, names))


def _published(store: Store, names: Sequence[str]) -> Path:
    """The current index, the files of some side tables being there."""
    published = index.published(store)
    sides.fetch(store, published, names=names)
    return published


def find(store: Store, text: str) -> Table:
    """The documents with an id, or else with the payload digest of a WARC record (which reads a column of all documents)."""
    sql = """SELECT d.* FROM document_ids i
JOIN documents d ON d.ref = i.ref AND d.domain = i.domain AND d.url = i.url AND d.id = i.id
WHERE i.id = $id"""
    columns: list[str] = []
    rows: list[tuple[Any, ...]] = []
    warnings: dict[str, None] = {}
    with reading(store, ("document_ids",)) as (connection, left_out):
        warnings |= dict.fromkeys(left_out)
        for *place, parameters in _places(connection, text):
            which = dict(zip(("ref", "language", "source"), place, strict=True))
            warnings |= dict.fromkeys(_attached(connection, store, ("documents",), **which))
            where = " AND ".join(f"{name} = ${name}" for name in parameters)
            result = connection.execute(f"SELECT * FROM documents WHERE {where}", parameters)
            columns = [column[0] for column in result.description or []]
            rows += result.fetchall()
        if not rows and (digest := DIGEST.fullmatch(text)):
            sql = "SELECT * FROM documents WHERE digest = $digest"
            warnings |= dict.fromkeys(_attached(connection, store, ("documents",), ref="", language="", source=""))
            result = connection.execute(sql, {"digest": digest[1]})
            columns, rows = [column[0] for column in result.description or []], result.fetchall()
    return Table(columns=columns, rows=rows, sql=sql, warnings=tuple(warnings))


def _places(connection: duckdb.DuckDBPyConnection, text: str) -> list[tuple[str, str, str, dict[str, str]]]:
    """Where documents of an id are: artifact, language, source, and what selects them there; older corpora are searched."""
    listed = connection.execute(
        "SELECT DISTINCT ref, language, source, domain, url FROM document_ids WHERE id = $1 ORDER BY ALL", [text]
    ).fetchall()
    older = connection.execute(
        """SELECT DISTINCT ref FROM catalog.side_files WHERE name = 'documents'
        AND ref NOT IN (SELECT ref FROM catalog.side_files WHERE name = 'document_ids') ORDER BY ref"""
    ).fetchall()
    return [
        *((ref, language, source, {"domain": domain, "url": url, "id": text}) for ref, language, source, domain, url in listed),
        *((ref, "", "", {"id": text}) for (ref,) in older),
    ]


def documents(
    store: Store, *, ref: str = "", language: str = "", source: str = "", domain: str = "", crawl: str = "", where: str = "",
    limit: int = 10, text: int = 0,
) -> Table:  # fmt: skip
    """Example documents, in the order of the table; `where` is SQL of a person's own and answered by `confined`.

    Column `rules` has what was measured of a document and the limits it was held against, column `text` the first so many
    characters of its text. A document of the table met all rules: those that broke one are in `removals`.
    """
    given = {"ref": ref, "language": language, "source": source, "domain": domain, "crawl": crawl}
    parameters = {name: value for name, value in given.items() if value}
    clauses = [f"{name} = ${name}" for name in parameters] + ([f"({where}\n)"] if where.strip() else [])
    names = ", ".join(SHOWN)
    chosen = f" WHERE {' AND '.join(clauses)}" if clauses else ""
    sql = f"SELECT {names} FROM documents{chosen} LIMIT {min(limit, MOST_ROWS)}"
    if where.strip():
        answer = confined.ask(_published(store, ("documents",)), store.root, sql, parameters)
        rows, warnings = answer.rows(), answer.warnings
    else:
        with reading(store, ("documents",), ref=ref, language=language, source=source) as (connection, warnings):
            rows = connection.execute(sql, parameters).fetchall()
    limits = _limits(store, {(row[0], row[LANGUAGE]) for row in rows})
    rows = [(*row[:-1], outcome(row[-1] or {}, limits[row[0], row[LANGUAGE]])) for row in rows]
    if text <= 0:
        return Table(columns=list(SHOWN), rows=rows, sql=sql, warnings=warnings)
    texts, problems = _texts(store, [(row[0], row[SHARD], row[1]) for row in rows], text)
    rows = [(*row, found) for row, found in zip(rows, texts, strict=True)]
    return Table(columns=[*SHOWN, "text"], rows=rows, sql=sql, warnings=(*warnings, *problems))


def outcome(measures: dict[str, float], limits: Sequence[dict[str, Any]]) -> str:
    """What was measured and its limits: `letters 0.93 (min 0.7); words 210 (min 50, max 100000)`, with `broken` where it is."""
    said: dict[str, list[str]] = {}
    for limit in limits:
        if (value := measures.get(limit["measure"])) is not None:
            beyond = value - limit["limit"] if limit["bound"] == "max" else limit["limit"] - value
            is_broken = beyond > ROUNDING * max(1.0, abs(limit["limit"]))
            bound = f"{limit['bound']} {limit['limit']:g}{' broken' if is_broken else ''}"
            said.setdefault(limit["measure"], []).append(bound)
    shown = {name: f" ({', '.join(bounds)})" for name, bounds in said.items()}
    return "; ".join(f"{name} {value:.4g}{shown.get(name, '')}" for name, value in measures.items())


def _limits(store: Store, wanted: set[tuple[str, str]]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """The limits of each artifact and language, none where the files do not say them."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    with duckdb.connect(str(store.root / index.INDEX), read_only=True) as connection:
        for ref, language in wanted:
            row = connection.execute(
                """SELECT min(path) FROM side_files WHERE name = 'documents' AND ref = $1 AND contains(path, $2)""",
                [ref, f"/language={language}/"],
            ).fetchone()
            found[ref, language] = []
            if row and row[0]:
                with Folder(str(store.root)).open(row[0]) as file:
                    found[ref, language] = json.loads((pq.read_schema(file).metadata or {}).get(LIMITS, b"[]"))
    return found


def _texts(store: Store, wanted: Sequence[tuple[str, str, str]], characters: int) -> tuple[list[str | None], list[str]]:
    """The beginnings of texts by artifact, shard and id, and a line for each shard that cannot be read."""
    by_shard: dict[tuple[str, str], list[str]] = {}
    for ref, shard, name in wanted:
        by_shard.setdefault((ref, shard), []).append(name)
    texts: dict[tuple[str, str, str], str] = {}
    problems = []
    for (ref, shard), names in by_shard.items():
        try:
            with _shard(store, ref, shard) as file:  # sorted by id: only the row groups of these are read
                table = pq.read_table(file, columns=["id", "text"], filters=[("id", "in", names)])
        except (SeaLionError, OSError, ValueError, KeyError, pa.ArrowException) as error:
            problems.append(f"{ref} {shard}: the texts cannot be read: {str(error).splitlines()[0]}")
            continue
        for row in table.to_pylist():
            texts[ref, shard, row["id"]] = row["text"][:characters]
    return [texts.get(one) for one in wanted], problems


def _shard(store: Store, ref: str, shard: str) -> BinaryIO:
    """A shard's file; raises CorruptInput for a path that leads out of the catalog."""
    parsed = ArtifactRef.parse(ref)
    store.folder(parsed, {shard})
    return Folder(str(store.root)).open(f"{parsed.name}/{parsed.version}/{shard}")


def domains(store: Store, language: str, *, ref: str = "", limit: int = 20) -> Table:
    """The domains with most documents in a language, of each corpus or of one: documents, bytes, share, and what was removed.

    `removed` counts what the listed stages removed, by the language known then; empty for a corpus that does not say domains.
    """
    of_ref = " AND ref = $ref" if ref else ""
    sql = f"""WITH kept AS (
    SELECT ref, domain, count(*) AS documents, sum(bytes)::BIGINT AS bytes FROM documents WHERE language = $language{of_ref}
    GROUP BY ref, domain
), gone AS (
    SELECT ref, domain, count(*) AS removed FROM removals WHERE language = $language AND domain IS NOT NULL{of_ref}
    GROUP BY ref, domain
)
SELECT ref, domain, documents, bytes, documents / sum(documents) OVER (PARTITION BY ref) AS share,
    CASE WHEN ref IN (SELECT ref FROM gone) THEN coalesce(removed, 0) END AS removed, slots_reported, slots_planned
FROM kept LEFT JOIN gone USING (ref, domain) LEFT JOIN complete USING (ref)
ORDER BY documents DESC, ref, domain LIMIT {min(limit, MOST_ROWS)}"""
    parameters = {"language": language} | ({"ref": ref} if ref else {})
    with reading(store, ("documents", "removals"), ref=ref, language=language) as (connection, warnings):
        result = connection.execute(sql, parameters)
        return Table(columns=[c[0] for c in result.description or []], rows=result.fetchall(), sql=sql, warnings=warnings)
