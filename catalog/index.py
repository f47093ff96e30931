"""`catalog.duckdb`: an index over the artifact records, rebuilt whole and put in place by one rename.

Rebuilding is chosen over updating in place: it is idempotent, a killed rebuild leaves the old index, and readers never meet a
writer (DuckDB 2.0.0 loses committed transactions when processes take turns on one file; see the facts). Workers and ranks never
open the file.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from glob import escape, glob, has_magic
from importlib.resources import files
from pathlib import Path
from typing import Any

import duckdb
from filelock import FileLock

from .errors import CorruptInput, SeaLionError
from .fingerprint import canonical_json, plain
from .records import Artifact
from .store import RECORD, Store

INDEX = "catalog.duckdb"

BODY_TABLES: dict[tuple[str, str], tuple[str, tuple[str, ...]]] = {
    ("corpus", "shards"): ("shards", ()),
    ("mixture", "parts"): ("mixture_parts", ()),
    ("scorecard", "scores"): ("scores", ("model", "suite")),
    ("decision", "outcomes"): ("outcomes", ("stage", "model")),
}
"""(kind, field of the body that holds records) to (table, further fields of the body that each row repeats)."""

ROW_TABLES = {
    "decision": ("decisions", ("stage", "model", "policy", "verdict", "reason", "on_refusal", "kept")),
    "promotion": (
        "promotions",
        ("stage", "model", "decision", "verdict", "sequence", "waiver_by", "waiver_reason"),
    ),
}
"""Kind to (table, fields of the body): one row an artifact."""


def rebuild(store: Store) -> Path:
    """Make the index anew from the records; raises CorruptInput for a record or side table that cannot be read."""
    store.root.mkdir(parents=True, exist_ok=True)
    target = store.root / INDEX
    partial = target.with_name(f"{INDEX}.partial")
    with FileLock(f"{target}.lock"):
        for stale in (partial, partial.with_name(f"{partial.name}.wal")):
            stale.unlink(missing_ok=True)
        with duckdb.connect(str(partial)) as connection:
            connection.execute(files(__package__ or "").joinpath("schema.sql").read_text("utf-8"))
            connection.execute("BEGIN")
            _ingest(connection, store, Store(store.root).all())
            connection.execute("COMMIT")
        os.replace(partial, target)
    return target


def is_current(store: Store) -> bool:
    """Whether the index exists and no record is newer than it."""
    index = store.root / INDEX
    if not index.is_file():
        return False
    written = index.stat().st_mtime_ns
    records = list(store.root.glob(f"**/{RECORD}"))
    return all(record.stat().st_mtime_ns <= written for record in records) and _count(index) == len(records)


def _count(index: Path) -> int:
    try:
        with duckdb.connect(str(index), read_only=True) as connection:
            row = connection.execute("SELECT count(*) FROM artifacts").fetchone()
    except duckdb.Error:
        return -1
    return int(row[0]) if row else -1


def connect(store: Store) -> duckdb.DuckDBPyConnection:
    """A read-only connection to a current index, confined to it: no files, no network, no settings changed."""
    if not is_current(store):
        rebuild(store)
    connection = duckdb.connect(str(store.root / INDEX), read_only=True)
    connection.execute("SET enable_external_access = false; SET python_enable_replacements = false")
    connection.execute("SET lock_configuration = true")
    return connection


def query(store: Store, sql: str, parameters: Sequence[Any] = ()) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Column names and rows of a query over the index; raises SeaLionError for SQL that DuckDB refuses."""
    with connect(store) as connection:
        try:
            if len(connection.extract_statements(sql)) != 1:
                raise SeaLionError("SQL: exactly one statement is answered")
            result = connection.execute(sql, list(parameters))
            return [column[0] for column in result.description or []], result.fetchall()
        except duckdb.Error as error:
            raise SeaLionError(f"SQL: {' '.join(str(error).split('LINE 1:')[0].split())}") from error


def _ingest(connection: duckdb.DuckDBPyConnection, store: Store, artifacts: list[Artifact]) -> None:
    rows: dict[str, list[dict[str, Any]]] = {}
    for artifact in artifacts:
        _collect(artifact, rows)
        for table, file in artifact.tables.items():
            _ingest_parquet(connection, table, store.folder(artifact.ref), file, str(artifact.ref))
    for table, values in rows.items():
        if values:
            _insert(connection, table, values)


def _insert(connection: duckdb.DuckDBPyConnection, table: str, rows: list[dict[str, Any]]) -> None:
    """Insert rows; JSON is the way in, so that types are the schema's and not guessed from the first rows."""
    described = connection.execute(f'DESCRIBE "{table}"').fetchall()
    types = {str(column[0]): str(column[1]) for column in described}
    names = [name for name in types if name in rows[0]]
    placeholders = ", ".join(f"$1->'{name}'" if types[name] == "JSON" else f"($1->>'{name}')::{types[name]}" for name in names)
    columns = ", ".join(f'"{name}"' for name in names)
    text = [[canonical_json(row)] for row in rows]
    connection.executemany(f'INSERT INTO "{table}" ({columns}) SELECT {placeholders}', text)


def _collect(artifact: Artifact, rows: dict[str, list[dict[str, Any]]]) -> None:
    ref, body = str(artifact.ref), plain(artifact.body)
    made = artifact.provenance
    rows.setdefault("artifacts", []).append(
        {
            "ref": ref, "name": artifact.ref.name, "version": artifact.ref.version, "kind": artifact.kind,
            "fingerprint": artifact.fingerprint, "licence": artifact.licence,
            "bytes": sum(file.bytes for file in artifact.files), "created": made.created, "seconds": made.seconds,
            "peak_memory_bytes": made.peak_memory_bytes, "commit": made.commit,
            "description": artifact.recipe.get("description", ""), "recipe": artifact.recipe, "body": body,
        }
    )  # fmt: skip
    for given in artifact.inputs:
        rows.setdefault("inputs", []).append(
            {"ref": ref, "role": given.role, "input_ref": given.ref, "input_fingerprint": given.fingerprint, "via": given.via}
        )
    for (kind, field), (table, repeated) in BODY_TABLES.items():
        if kind == artifact.kind:
            shared = {"ref": ref} | {name: body[name] for name in repeated}
            rows.setdefault(table, []).extend(shared | row for row in body[field])
    if artifact.kind in ROW_TABLES:
        table, fields = ROW_TABLES[artifact.kind]
        rows.setdefault(table, []).append({"ref": ref} | {name: body[name] for name in fields})


def _ingest_parquet(connection: duckdb.DuckDBPyConnection, table: str, folder: Path, file: str, ref: str) -> None:
    """Copy the rows of a side table: a file, or a pattern, which may match none.

    Only `file` is a pattern: in the folder's own path DuckDB would read `[1]` as one too, and `language=x` as a column.
    """
    names = sorted(glob(file, root_dir=folder)) if has_magic(file) else [file]
    if not names:
        return
    paths = [escape(str(folder / name)) for name in names]
    read = f'INSERT INTO "{table}" BY NAME SELECT $ref AS ref, * FROM read_parquet($paths, hive_partitioning = false)'
    try:
        connection.execute(read, {"ref": ref, "paths": paths})
    except duckdb.Error as error:
        raise CorruptInput(folder / file, table, f"cannot be read: {str(error).splitlines()[0]}") from error
