"""PostgreSQL as the index, for teams that outgrow one file: the same tables, views and ingest, asked by many at once.

Chosen over DuckLake, which has no unique keys: merging writers left up to eight copies of a row, without an error (see the
facts). An ingest is one transaction under an advisory lock, so that several at once wait for each other and a killed one leaves
nothing; rows go in by COPY. Users get a role that may only SELECT: what they ask runs in a read-only transaction with a time
limit, but PostgreSQL, not this module, is what keeps them out. Document tables stay in their Parquet files, as with the file.
"""

from __future__ import annotations

import io
import re
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pyarrow import csv

from .errors import MissingDependency, SeaLionError, Unfinished
from .index import Ingested, ingest
from .ingest import Problem
from .schema import BY_SLOT, REFILLED, by_ref, migrations, statements, tables, views
from .store import Store

if TYPE_CHECKING:
    import psycopg

LOCK = 0x5EA110
"""Number of the advisory lock that one ingest at a time holds."""
IDENTITY = "catalog.id"
"""File of a catalog: what tells it from others whose index a database could hold."""
TRIES = 4
"""How often a transaction is tried that the database ends because of another one."""
TIME_LIMIT = 60
"""Seconds that a query may take."""
_ESCAPED = re.compile(rb"\\(?:\\|u0000)")


class PostgresTarget:
    """The index in a database, within one transaction that its caller opened."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self.connection = connection

    def migrate(self, catalog: str) -> None:
        """Bring the tables to the newest migration and the views to those of this code; refuse another catalog's index."""
        execute = self.connection.execute
        execute("CREATE TABLE IF NOT EXISTS schema_migrations (number INTEGER PRIMARY KEY)")
        execute("CREATE TABLE IF NOT EXISTS index_meta (name VARCHAR PRIMARY KEY, value VARCHAR)")
        done = {int(number) for (number,) in execute("SELECT number FROM schema_migrations").fetchall()}
        if done and max(done) > max(migrations()):
            raise SeaLionError(f"the index was made by a newer version (schema {max(done)}); use that")
        if self._meta("catalog") not in ("", catalog):
            raise SeaLionError("this database holds the index of another catalog; name one database, or schema, for each")
        for number, sql in migrations().items():
            if number not in done:
                for statement in statements(sql):
                    execute(statement.encode())
                execute("INSERT INTO schema_migrations VALUES (%s)", [number])
        for table in (*by_ref(), *BY_SLOT):
            execute(f'CREATE INDEX IF NOT EXISTS "{table}_of" ON "{table}" (ref)'.encode())
        if REFILLED - done:
            self.clear()
        digest = sha256("".join(views().values()).encode()).hexdigest()
        if self._meta("views") != digest:
            for name in reversed(views()):
                execute(f'DROP VIEW IF EXISTS "{name}" CASCADE'.encode())
            for statement in views().values():
                execute(statement.encode())
        for name, value in (("views", digest), ("catalog", catalog)):
            execute("DELETE FROM index_meta WHERE name = %s", [name])
            execute("INSERT INTO index_meta VALUES (%s, %s)", [name, value])

    def _meta(self, name: str) -> str:
        row = self.connection.execute("SELECT value FROM index_meta WHERE name = %s", [name]).fetchone()
        return str(row[0]) if row else ""

    def clear(self) -> None:
        """Forget everything, so that it is read again."""
        for table in (*by_ref(), *BY_SLOT, "problems"):
            self.connection.execute(f'DELETE FROM "{table}"'.encode())

    def record_states(self) -> dict[str, str]:
        return dict(self.connection.execute("SELECT ref, record_state FROM artifacts").fetchall())

    def problems(self) -> list[Problem]:
        found = self.connection.execute("SELECT path, problem, state FROM problems").fetchall()
        return [Problem(path=path, problem=problem, state=state) for path, problem, state in found]

    def slots_seen(self) -> dict[tuple[str, str], tuple[str, frozenset[str]]]:
        found = self.connection.execute(
            """SELECT p.ref, p.stage, p.state, array_agg(s.name) FILTER (WHERE s.name IS NOT NULL) FROM slot_sets p
            LEFT JOIN (
                SELECT ref, stage, slot AS name FROM slots
                UNION ALL SELECT ref, stage, 'conflicts/' || slot || '-' || left(sha256, 12) FROM slot_conflicts
            ) s ON s.ref = p.ref AND s.stage = p.stage GROUP BY p.ref, p.stage, p.state"""
        ).fetchall()
        return {(ref, stage): (state, frozenset(slots or ())) for ref, stage, state, slots in found}

    def forget(self, table: str, refs: Sequence[str], stage: str = "") -> None:
        which = " AND stage = %(stage)s" if stage else ""
        self.connection.execute(
            f'DELETE FROM "{table}" WHERE ref = ANY(%(refs)s){which}'.encode(), {"refs": list(refs), "stage": stage}
        )

    def add(self, table: str, rows: pa.Table) -> None:
        is_keyed = table in ("slots", "slot_sets")
        into = f"given_{table}" if is_keyed else table
        with self.connection.cursor() as cursor:
            if is_keyed:  # COPY knows no ON CONFLICT
                cursor.execute(f'CREATE TEMP TABLE "{into}" (LIKE "{table}") ON COMMIT DROP'.encode())
            columns = ", ".join(f'"{name}"' for name in rows.column_names)
            with cursor.copy(f'COPY "{into}" ({columns}) FROM STDIN (FORMAT csv)'.encode()) as copy:
                for part in _csv(table, rows):
                    copy.write(part)
            if is_keyed:
                cursor.execute(f'INSERT INTO "{table}" SELECT * FROM "{into}" ON CONFLICT DO NOTHING'.encode())
                cursor.execute(f'DROP TABLE "{into}"'.encode())

    def replace_problems(self, problems: Sequence[Problem]) -> None:
        self.connection.execute("DELETE FROM problems")
        rows = [{"path": problem.path, "problem": problem.problem, "state": problem.state} for problem in problems]
        if rows:
            self.add("problems", pa.Table.from_pylist(rows, schema=tables()["problems"]))


def refresh(store: Store, address: str) -> Ingested:
    """Bring the index in a database up to the truth, reading only what changed; several at once do each other no harm.

    Raises Unfinished when the database goes away, SeaLionError when it refuses.
    """
    return _ingested(store, address, is_anew=False)


def rebuild(store: Store, address: str) -> Ingested:
    """Read everything again; readers see the old rows until all the new ones are there. Raises as `refresh` does."""
    return _ingested(store, address, is_anew=True)


def query(
    address: str, sql: str, parameters: Sequence[Any] = (), *, is_foreign: bool = False, seconds: int = TIME_LIMIT
) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Column names and rows of one statement (`$1` for a parameter), read only and bounded in time.

    `is_foreign` says that a user wrote it: a superuser's connection is then refused, for a superuser reads files and starts
    programs whatever the transaction says. Raises SeaLionError for SQL that PostgreSQL refuses.
    """
    import psycopg

    with _connected(address) as connection:
        connection.read_only = True
        superuser = connection.execute("SHOW is_superuser").fetchone()  # the first statement: from here on read only for good
        if is_foreign and superuser == ("on",):
            raise SeaLionError(f"{_shown(address)}: connect with a role that may only SELECT, not as a superuser")
        connection.execute("SELECT set_config('statement_timeout', %s, true)", [str(seconds * 1000)])
        try:
            with psycopg.RawCursor(connection) as cursor:
                cursor.execute(sql.encode(), list(parameters), prepare=True)  # prepared: one statement, not several
                return [column.name for column in cursor.description or ()], cursor.fetchall() if cursor.description else []
        except psycopg.errors.QueryCanceled as error:
            raise SeaLionError(f"SQL: took longer than {seconds} s") from error
        except (psycopg.errors.AdminShutdown, psycopg.errors.CrashShutdown):
            raise
        except psycopg.Error as error:
            if connection.broken:
                raise
            raise SeaLionError(f"SQL: {_line(error)}") from error


def _ingested(store: Store, address: str, *, is_anew: bool) -> Ingested:
    import psycopg

    store.place.create(IDENTITY, uuid.uuid4().hex.encode())
    catalog = store.place.read(IDENTITY).decode()
    for attempt in range(TRIES):
        try:
            with _connected(address) as connection:
                # A snapshot taken before the lock is ours would not show what the one before us wrote.
                connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
                connection.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK])
                target = PostgresTarget(connection)
                target.migrate(catalog)
                if is_anew:
                    target.clear()
                return ingest(store, target)
        except (psycopg.errors.SerializationFailure, psycopg.errors.DeadlockDetected) as error:
            if attempt == TRIES - 1:
                raise Unfinished(f"{_shown(address)}: busy with other transactions: {_line(error)}; run it again") from error
            time.sleep(0.1 * 2**attempt)
    raise AssertionError("unreachable")


@contextmanager
def _connected(address: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection whose one transaction is committed at the end; the database's absence and refusals as our errors."""
    try:
        import psycopg
    except ImportError as error:
        raise MissingDependency("psycopg[binary]", f"for {_shown(address)}") from error
    try:
        with psycopg.connect(address, connect_timeout=10, options=_options(address)) as connection:
            _same_types(connection)
            yield connection
    except (psycopg.errors.SerializationFailure, psycopg.errors.DeadlockDetected):
        raise
    except psycopg.OperationalError as error:
        if isinstance(error, psycopg.errors.InsufficientResources | psycopg.errors.DiskFull):
            raise Unfinished(f"{_shown(address)}: {_line(error)}; nothing was changed") from error
        raise Unfinished(
            f"{_shown(address)}: PostgreSQL does not answer: {_line(error)}; nothing was changed, run it again"
        ) from error
    except psycopg.Error as error:
        raise SeaLionError(f"{_shown(address)}: PostgreSQL refuses: {_line(error)}") from error


def _options(address: str) -> str:
    """Settings of the session: times in UTC; what the address itself sets (its schema) stays."""
    from psycopg.conninfo import conninfo_to_dict

    return f"{conninfo_to_dict(address).get('options') or ''} -c TimeZone=UTC".strip()


def _same_types(connection: psycopg.Connection[Any]) -> None:
    """Answer with the types that DuckDB answers with: JSON as text, sums as whole numbers."""
    from psycopg.adapt import Loader
    from psycopg.types.string import TextLoader

    class NumberLoader(Loader):
        def load(self, data: Any) -> int | float:
            text = bytes(data).decode()
            return int(text) if text.lstrip("-").isdigit() else float(text)

    connection.adapters.register_loader("json", TextLoader)
    connection.adapters.register_loader("numeric", NumberLoader)


def _csv(table: str, rows: pa.Table) -> Iterator[bytes]:
    """The rows as CSV, in parts; PostgreSQL's text and JSON hold no NUL, which becomes U+FFFD."""
    for batch in rows.to_batches(max_chunksize=100_000):
        part = io.BytesIO()
        csv.write_csv(batch, part, csv.WriteOptions(include_header=False))
        data = part.getvalue().replace(b"\0", "\ufffd".encode())
        if table == "artifacts" and b"\\u0000" in data:
            data = _ESCAPED.sub(lambda found: found[0].replace(b"u0000", b"ufffd"), data)
        yield data


def _line(error: BaseException) -> str:
    return " ".join((str(error) or type(error).__name__).split("\nLINE ")[0].split())


def _shown(address: str) -> str:
    """The address without what is secret in it."""
    return re.sub(r"(//)[^/]*@", r"\1", address.split("?")[0]) if "://" in address else "PostgreSQL"
