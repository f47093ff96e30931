"""`catalog.duckdb`: an index over the records, the slots' manifests and their side tables; a cache that can be deleted.

A refresh copies the published file, ingests into the copy what changed, in one transaction, and puts it in place by one rename:
a kill leaves the old index, readers never meet a writer, and what a damaged file costs is rebuilt from the truth. Updating the
published file in place was refused: DuckDB 2.0.0 loses committed transactions when processes take turns on one file (see the
facts). Rows are keyed by artifact, or by artifact, stage and slot, never by content; workers and ranks never open the file.
PostgreSQL (`postgres`) is a second target of the same ingest.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

import duckdb
import pyarrow as pa
from filelock import FileLock

from .errors import CorruptInput, SeaLionError, Unfinished
from .ingest import Problem, batches, changed
from .paths import partial_beside
from .schema import BY_SLOT, REFILLED, by_ref, migrations, statements, views
from .sides import COLUMNS, attach, fetch, named
from .slot_folders import folder_states
from .slot_rows import fold, set_batches
from .slots import slot_sets
from .store import Store

log = logging.getLogger(__name__)

INDEX = "catalog.duckdb"
SETTINGS = "SET enable_progress_bar = false; SET memory_limit = '1GB'; SET preserve_insertion_order = false"
TABLE_OF_KEYS = "CREATE TABLE IF NOT EXISTS index_meta (name VARCHAR PRIMARY KEY, value VARCHAR)"


class Target(Protocol):
    """Where the rows go. Everything between `begin` and `commit` is one transaction, and no other ingest runs meanwhile."""

    def record_states(self) -> dict[str, str]:
        """Ref to the state of its record when it was read."""
        ...

    def problems(self) -> list[Problem]:
        """What could not be read last time."""
        ...

    def slots_seen(self) -> dict[tuple[str, str], tuple[str, frozenset[str]]]:
        """Ref and stage to the state of the set, and the slots that are in, with its conflicts (see `slot_rows.Seen`)."""
        ...

    def forget(self, table: str, refs: Sequence[str], stage: str = "") -> None:
        """Delete the rows of these artifacts, or of one stage of them."""
        ...

    def add(self, table: str, rows: pa.Table) -> None:
        """Insert rows; those of a slot that is there already are left out."""
        ...

    def replace_problems(self, problems: Sequence[Problem]) -> None:
        """What cannot be read now."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Ingested:
    """What a refresh did."""

    artifacts: int
    """Records read, new ones and changed ones."""
    gone: int
    """Artifacts that are no more."""
    slots: int
    """Manifests taken in."""
    problems: tuple[Problem, ...]
    """What could not be read."""


def ingest(store: Store, target: Target) -> Ingested:
    """Bring a target up to the truth: idempotent, whatever was done before."""
    old = {problem.path: problem for problem in target.problems()}
    failed = {ref: state for problem in old.values() for ref, _, state in [problem.state.partition(" ")] if state}
    known = target.record_states()
    gone, records = changed(store, known | failed)
    stale = [*gone, *(ref for ref, _, _ in records if ref in known)]
    for table in by_ref() if stale else ():
        target.forget(table, stale)
    problems: dict[str, Problem] = {}
    for batch in batches(store, records):
        for table, rows in batch.rows.items():
            target.add(table, rows)
        problems |= {problem.path: problem for problem in batch.problems}
    looked_at = {path.relative_to(store.root).as_posix() for _, path, _ in records}
    kept = {path: p for path, p in old.items() if path not in looked_at and p.state.partition(" ")[0] not in gone and p.state}
    slots, damaged = _ingest_slots(store, target)
    problems |= kept | {path: Problem(path=path, problem=problem, state="") for path, problem in damaged}
    target.replace_problems(list(problems.values()))
    return Ingested(
        artifacts=len(records) - sum(path in looked_at for path in problems),
        gone=len(gone),
        slots=slots,
        problems=tuple(problems.values()),
    )


def _ingest_slots(store: Store, target: Target) -> tuple[int, list[tuple[str, str]]]:
    """How many slots are new, and what could not be read; a set that was planned anew, or is gone, loses its rows first."""
    count, problems = 0, list[tuple[str, str]]()
    for part in set_batches(store.place, target.slots_seen()):
        for ref, stage in part.stale:
            for table in BY_SLOT:
                target.forget(table, [ref], stage)
        for table in BY_SLOT:
            if len(part.tables[table]):
                target.add(table, part.tables[table])
        count += len(part.tables["slots"])
        problems += part.problems
    return count, problems


class DuckTarget:
    """The index as a DuckDB file that nobody else opens."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self.connection = connection

    def migrate(self) -> None:
        """Bring the tables to the newest migration and the views to those of this code."""
        self.connection.execute(TABLE_OF_KEYS)
        number = int(self.meta("schema") or 0)
        for later, sql in migrations().items():
            if later > number:
                for statement in statements(sql):
                    self.connection.execute(statement)
        if 0 < number < max(REFILLED):
            for table in (*by_ref(), *BY_SLOT, "problems"):
                self.connection.execute(f'DELETE FROM "{table}"')
        digest = _views_digest()
        if self.meta("views") != digest:
            for (name,) in self.connection.execute("SELECT view_name FROM duckdb_views() WHERE NOT internal").fetchall():
                self.connection.execute(f'DROP VIEW "{name}" CASCADE')
            for statement in views().values():
                self.connection.execute(statement)
        self.note("schema", str(max(migrations())))
        self.note("views", digest)

    def note(self, name: str, value: str) -> None:
        """Set a value of `index_meta`."""
        self.connection.execute("INSERT OR REPLACE INTO index_meta VALUES ($1, $2)", [name, value])

    def meta(self, name: str) -> str:
        """A value of `index_meta`: `schema`, the number of the newest migration, or `views`, their digest."""
        row = self.connection.execute("SELECT value FROM index_meta WHERE name = $1", [name]).fetchone()
        return str(row[0]) if row else ""

    def record_states(self) -> dict[str, str]:
        return dict(self.connection.execute("SELECT ref, record_state FROM artifacts").fetchall())

    def problems(self) -> list[Problem]:
        found = self.connection.execute("SELECT path, problem, state FROM problems").fetchall()
        return [Problem(path=path, problem=problem, state=state) for path, problem, state in found]

    def slots_seen(self) -> dict[tuple[str, str], tuple[str, frozenset[str]]]:
        found = self.connection.execute(
            """SELECT p.ref, p.stage, any_value(p.state), list(s.name) FILTER (s.name IS NOT NULL) FROM slot_sets p
            LEFT JOIN (
                SELECT ref, stage, slot AS name FROM slots
                UNION ALL SELECT ref, stage, 'conflicts/' || slot || '-' || left(sha256, 12) FROM slot_conflicts
            ) s ON s.ref = p.ref AND s.stage = p.stage GROUP BY p.ref, p.stage"""
        ).fetchall()
        return {(ref, stage): (state, frozenset(slots or ())) for ref, stage, state, slots in found}

    def forget(self, table: str, refs: Sequence[str], stage: str = "") -> None:
        which = "ref IN (SELECT unnest($refs))" + (" AND stage = $stage" if stage else "")
        self.connection.execute(
            f'DELETE FROM "{table}" WHERE {which}', {"refs": list(refs)} | ({"stage": stage} if stage else {})
        )

    def add(self, table: str, rows: pa.Table) -> None:
        # `rows` is found by its name: what is registered in a transaction stays in memory until its end.
        ignore = " ON CONFLICT DO NOTHING" if table in ("slots", "slot_sets") else ""
        self.connection.execute(f'INSERT INTO "{table}" BY NAME SELECT * FROM rows{ignore}')

    def replace_problems(self, problems: Sequence[Problem]) -> None:
        self.connection.execute("DELETE FROM problems")
        if problems:
            self.connection.executemany(
                "INSERT INTO problems VALUES ($1, $2, $3)", [[p.path, p.problem, p.state] for p in problems]
            )


def _views_digest() -> str:
    return sha256("".join(views().values()).encode()).hexdigest()


def rebuild(store: Store) -> Path:
    """Make the index anew from the truth; raises SeaLionError when there is no room for it."""
    for folder, _, _ in slot_sets(store.place):
        with suppress(CorruptInput):  # a damaged plan, which is among the problems
            fold(store.place, folder)
    _publish(store, is_anew=True)
    return store.root / INDEX


def refresh(store: Store) -> Ingested:
    """Bring the index up to the truth, reading only what changed; raises as `rebuild` does."""
    return _publish(store, is_anew=False)


def _publish(store: Store, *, is_anew: bool) -> Ingested:
    if "?" in str(store.root):
        raise SeaLionError(f"{store.root}: DuckDB takes what follows a '?' in a path for options; choose another folder")
    store.root.mkdir(parents=True, exist_ok=True)
    target = store.root / INDEX
    try:
        with FileLock(f"{target}.lock"), _scratch(store.root) as scratch:
            for stale in store.root.glob(f".{INDEX}.*.partial"):  # of refreshes that were killed
                stale.unlink(missing_ok=True)
            work = scratch / INDEX
            store.fetch_index(target)
            if not is_anew and _is_usable(target):
                shutil.copyfile(target, work)
            with duckdb.connect(str(work)) as connection:
                connection.execute(SETTINGS)
                connection.execute("BEGIN")
                duck = DuckTarget(connection)
                duck.migrate()
                states = folder_states(store.place)  # before they are read: what comes meanwhile is then new
                done = ingest(store, duck)
                duck.note("slots", states)
                connection.execute("COMMIT")
                connection.execute("CHECKPOINT")
            with partial_beside(target) as partial:
                shutil.copyfile(work, partial)
                with partial.open("rb+") as file:
                    os.fsync(file.fileno())
                os.replace(partial, target)
            store.publish_index(target)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Unfinished(f"{target}: no space left on the device for the index; the old one stays") from error
        raise
    except duckdb.Error as error:
        raise Unfinished(f"{target}: {str(error).splitlines()[0]}; the old index stays") from error
    for problem in done.problems:
        log.warning("%s: %s; left out of the index", problem.path, problem.problem)
    return done


@contextmanager
def _scratch(root: Path) -> Iterator[Path]:
    """A folder on this machine to work in, always the same one for a catalog: what a killed refresh left there goes now."""
    mine = Path(tempfile.gettempdir()) / f"sea-lion-{os.getuid()}"
    mine.mkdir(mode=0o700, exist_ok=True)
    if mine.is_symlink() or mine.stat().st_uid != os.getuid():
        raise SeaLionError(f"{mine}: belongs to somebody else; set TMPDIR to a folder of your own")
    folder = mine / sha256(str(root.resolve()).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _is_usable(index: Path) -> bool:
    """Whether the published file can be brought forward; one that cannot be read, or was made before migrations, cannot."""
    if not index.is_file():
        return False
    try:
        with duckdb.connect(str(index), read_only=True) as connection:
            row = connection.execute("SELECT value FROM index_meta WHERE name = 'schema'").fetchone()
    except duckdb.Error:
        return False
    number = int(row[0]) if row else 0
    if number > max(migrations()):
        raise SeaLionError(
            f"{index}: was made by a newer version (schema {number}, this one knows {max(migrations())}); use that, "
            "or delete the file to have it made anew"
        )
    return number > 0


def is_current(store: Store) -> bool:
    """Whether the index exists and holds every record and slot there is, as it is."""
    index = store.root / INDEX
    store.fetch_index(index)
    states = folder_states(store.place)
    with _opened(index) as target:
        if target is None:
            return False
        failed = {ref: state for p in target.problems() for ref, _, state in [p.state.partition(" ")] if state}
        gone, records = changed(store, target.record_states() | failed)
        if gone or records:
            return False
        damaged = {(problem.path, problem.problem) for problem in target.problems() if not problem.state}
        if states and not damaged and target.meta("slots") == states:
            return True
        for part in set_batches(store.place, target.slots_seen()):
            if part.stale or any(len(rows) for rows in part.tables.values()) or not damaged.issuperset(part.problems):
                return False
            damaged.difference_update(part.problems)
        return not damaged


def _is_of_this_version(index: Path) -> bool:
    """Whether the index has the tables and views that this code asks."""
    with _opened(index) as target:
        return target is not None


@contextmanager
def _opened(index: Path) -> Iterator[DuckTarget | None]:
    """The published file, None for one that cannot be read or is not of this version; raises as `_is_usable` does."""
    with ExitStack() as stack:
        target = None
        with suppress(duckdb.Error):
            if index.is_file():
                found = DuckTarget(stack.enter_context(duckdb.connect(str(index), read_only=True)))
                if (found.meta("schema"), found.meta("views")) == (str(max(migrations())), _views_digest()):
                    target = found
                else:
                    _is_usable(index)
        yield target


def published(store: Store) -> Path:
    """The published index, refreshed if anything changed.

    In a catalog that one may only read it is what its owner last refreshed, with a warning; raises SeaLionError where that is
    nothing that this code can ask.
    """
    index = store.root / INDEX
    if is_current(store):
        return index
    try:
        refresh(store)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        problem = f"{index}: is not up to date and cannot be written to"
        if not _is_of_this_version(index):
            raise SeaLionError(f"{problem}; have its owner run 'sea-lion catalog refresh'") from error
        log.warning("%s: the answer is from its last refresh", problem)
    return index


def current(store: Store, sql: str = "") -> Path:
    """The published index (see `published`), with the document files that a statement reads on this machine."""
    fetch(store, index := published(store), sql)
    return index


@contextmanager
def connect(store: Store, sql: str = "") -> Iterator[duckdb.DuckDBPyConnection]:
    """A read-only connection to a current index with the document tables as views, for our own queries.

    It can read files; a user's SQL goes through `confined`. With a statement, only the document tables that it reads are made.
    """
    file = current(store, sql)
    names = tuple(COLUMNS)
    with duckdb.connect(str(file), read_only=True) as connection:
        connection.execute("SET enable_progress_bar = false; SET python_enable_replacements = false; SET TimeZone = 'UTC'")
        if sql:
            names = named(connection, sql)
        for problem in attach(connection, store.root, names):
            log.warning("%s", problem)
        yield connection


def query(store: Store, sql: str, parameters: Sequence[Any] = ()) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Column names and rows of one of our own queries; raises SeaLionError for SQL that DuckDB refuses."""
    with connect(store, sql) as connection:
        try:
            if len(connection.extract_statements(sql)) != 1:
                raise SeaLionError("SQL: exactly one statement is answered")
            result = connection.execute(sql, list(parameters))
            return [column[0] for column in result.description or []], result.fetchall()
        except duckdb.Error as error:
            raise SeaLionError(f"SQL: {' '.join(str(error).split('LINE 1:')[0].split())}") from error
