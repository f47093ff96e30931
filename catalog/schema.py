"""The index's schema: ordered migrations and the views, in SQL that both backends run.

Tables change only by a new, numbered file in `migrations/`; views are dropped and made again at each refresh. An index of an
older number is brought forward, one of a newer number is refused: this code would not know what its columns mean.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

import duckdb
import pyarrow as pa

NUMBERED = re.compile(r"^(\d{4})_\w+\.sql$")
EXTERNAL = ("documents", "document_ids", "removals", "items", "answers")
"""Tables of documents, items and answers: as large as the data, so they stay in their Parquet files (see `sides`)."""
REFILLED = frozenset({2, 3, 4, 5, 6, 7})
"""Migrations after which what was ingested before must be read again: they add columns that records can fill."""


@cache
def migrations() -> dict[int, str]:
    """Number to SQL, in order."""
    folder = files(__package__ or "").joinpath("migrations")
    found = {int(match[1]): path.read_text("utf-8") for path in folder.iterdir() if (match := NUMBERED.match(path.name))}
    return dict(sorted(found.items()))


@cache
def views() -> dict[str, str]:
    """Name to the statement that makes it, each after those it uses."""
    text = "\n".join(
        line for line in files(__package__ or "").joinpath("views.sql").read_text("utf-8").splitlines() if line[:2] != "--"
    )
    statements = [part.strip() for part in text.split(";") if part.strip()]
    return {statement.split()[2]: statement for statement in statements}


def statements(sql: str) -> list[str]:
    """The statements of a migration, without comments; none of them holds a semicolon or two dashes in a text."""
    bare = "\n".join(line.partition("--")[0] for line in sql.splitlines())
    return [part.strip() for part in bare.split(";") if part.strip()]


@cache
def tables() -> dict[str, pa.Schema]:
    """Table to its Arrow schema, in the order of the migrations; JSON is text, times are in UTC."""
    with duckdb.connect() as connection:
        for sql in migrations().values():
            for statement in statements(sql):
                connection.execute(statement)
        named = connection.execute("SELECT table_name FROM duckdb_tables() ORDER BY table_oid").fetchall()
        return {str(name): _schema(connection, str(name)) for (name,) in named}


def _schema(connection: duckdb.DuckDBPyConnection, table: str) -> pa.Schema:
    kinds = {
        "VARCHAR": pa.string(), "JSON": pa.string(), "BIGINT": pa.int64(), "INTEGER": pa.int32(), "DOUBLE": pa.float64(),
        "BOOLEAN": pa.bool_(), "TIMESTAMP WITH TIME ZONE": pa.timestamp("us", tz="UTC"),
    }  # fmt: skip
    described = connection.execute(f'DESCRIBE "{table}"').fetchall()
    return pa.schema([(str(column[0]), kinds[str(column[1])]) for column in described])


BY_SLOT = ("slot_sets", "slots", "slot_counts", "slot_tokens", "slot_flow", "slot_conflicts")
"""Tables whose rows belong to an artifact's slots, not to its record."""


def by_ref() -> tuple[str, ...]:
    """Tables whose rows belong to an artifact's record."""
    return tuple(name for name in tables() if name not in (*BY_SLOT, "problems"))
