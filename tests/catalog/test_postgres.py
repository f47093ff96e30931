"""PostgreSQL as the index, on a real server that these tests start: the same answers, many ingesters, kills, restarts."""

from __future__ import annotations

import getpass
import math
import multiprocessing
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from sea_lion.catalog import index, ingest, postgres
from sea_lion.catalog.errors import SeaLionError, Unfinished
from sea_lion.catalog.postgres import PostgresTarget, query, rebuild, refresh
from sea_lion.catalog.schema import migrations, statements, tables, views
from sea_lion.catalog.slots import Count, Manifest, SlotSet
from sea_lion.catalog.store import Store

psycopg = pytest.importorskip("psycopg")
IS_ROOT = os.geteuid() == 0
SUPERUSER = "postgres" if IS_ROOT else getpass.getuser()
FORK = multiprocessing.get_context("fork")


class Server:
    """A PostgreSQL that listens on a socket in its own folder only."""

    def __init__(self, programs: Path) -> None:
        self.programs = programs
        self.folder = Path(tempfile.mkdtemp(prefix="pg"))  # a socket's path is short
        if IS_ROOT:
            shutil.chown(self.folder, "postgres", "postgres")
        self.run("initdb", "-D", str(self.folder / "data"), "-A", "trust", "-U", SUPERUSER, "--no-sync", "-E", "UTF8")
        self.control("start")

    def run(self, program: str, *arguments: str) -> None:
        who = {"user": "postgres", "group": "postgres", "extra_groups": ()} if IS_ROOT else {}
        command = [str(self.programs / program), *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=self.folder, **who)  # type: ignore[call-overload]

    def control(self, what: str, *more: str) -> None:
        settings = f"-k {self.folder} -c listen_addresses= -c fsync=off -c max_connections=40"
        self.run("pg_ctl", what, "-w", "-D", f"{self.folder}/data", "-l", f"{self.folder}/log", "-o", settings, *more)

    def address(self, database: str, user: str = SUPERUSER) -> str:
        return f"postgresql://{user}@/{database}?host={self.folder}"

    def database(self, name: str) -> str:
        with psycopg.connect(self.address("postgres"), autocommit=True) as connection:
            connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
            connection.execute(f'CREATE DATABASE "{name}"')
        return self.address(name)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    found = [Path(path).parent for path in [shutil.which("initdb")] if path]
    found += sorted(path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("no PostgreSQL on this machine (initdb)")
    server = Server(found[-1])
    yield server
    server.control("stop", "-m", "immediate")
    shutil.rmtree(server.folder)


@pytest.fixture
def address(server: Server) -> str:
    return server.database("catalog")


@pytest.fixture(scope="module")
def answered(server: Server, filled: Store) -> str:
    """The whole lineage's index in a database."""
    address = server.database("filled")
    refresh(filled, address)
    return address


def slotted(root: Path, slots: int = 40) -> Store:
    """A catalog whose corpus is being made: a set of slots, each reported but the last."""
    store = Store(root)
    made = SlotSet(place=store.place, ref="corpus/slow@1", stage="extract")
    made.plan([(f"slot-{i}", "") for i in range(slots)], "f")
    for i in range(slots - 1):
        made.report(manifest(i))
    return store


def manifest(i: int) -> Manifest:
    count = Count(language="khm", source="web", crawl="CC-1", documents=i, characters=i, bytes=i, tokens={"t@1": i})
    return Manifest(slot=f"slot-{i}", sha256=f"{i:064x}", documents=i, counts=(count,))


def same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, (int, float)):
        return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12)
    return bool(one == other)


@pytest.mark.parametrize("relation", [*views(), *tables()])
def test_every_view_and_table_answers_as_the_file_does(answered: str, filled: Store, relation: str) -> None:
    columns, rows = query(answered, f'SELECT * FROM "{relation}"')
    expected_columns, expected = index.query(filled, f'SELECT * FROM "{relation}"')
    assert columns == expected_columns and len(rows) == len(expected)
    order = [i for i, value in enumerate(expected[0]) if not isinstance(value, float)] if expected else []
    rows, expected = (sorted(found, key=lambda row: repr([row[i] for i in order])) for found in (rows, expected))
    different = [(a, b) for a, b in zip(rows, expected, strict=True) if not all(map(same, a, b))]
    assert different == []


def test_it_follows_what_changes(address: str, filled: Store, tmp_path: Path) -> None:
    shutil.copytree(filled.root, tmp_path / "artifacts")
    store = Store(tmp_path / "artifacts")
    assert refresh(store, address).artifacts == len(filled.all())
    assert refresh(store, address).artifacts == 0
    shutil.rmtree(store.root / "corpus" / "tiny")
    assert refresh(store, address).gone == 1
    assert query(address, "SELECT count(*) FROM flow")[1] == [(0,)]
    shutil.copytree(filled.root / "corpus" / "tiny", store.root / "corpus" / "tiny")
    record = store.root / "mixture" / "tiny" / "1" / "artifact.json"
    record.write_bytes(record.read_bytes()[:-9])
    done = refresh(store, address)
    assert (done.artifacts, len(done.problems)) == (1, 1)
    assert query(address, "SELECT path FROM problems")[1] == [("mixture/tiny/1/artifact.json",)]
    assert rebuild(store, address).artifacts == len(filled.all()) - 1


def refreshed(root: Path, address: str, times: int = 1) -> None:
    for _ in range(times):
        refresh(Store(root), address)


def joined(children: list[Any]) -> list[int]:
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    return [child.exitcode for child in children]


COUNTS = """SELECT (SELECT count(*) FROM slots), (SELECT sum(documents) FROM slot_counts),
    (SELECT sum(tokens) FROM slot_tokens), (SELECT count(*) FROM artifacts), (SELECT count(*) FROM flow)"""


def test_four_ingesters_at_once_count_each_slot_once(address: str, filled: Store, tmp_path: Path) -> None:
    shutil.copytree(filled.root, tmp_path / "artifacts")
    store = slotted(tmp_path / "artifacts")
    assert joined([FORK.Process(target=refreshed, args=(store.root, address, 3)) for _ in range(4)]) == [0] * 4
    expected = index.query(store, COUNTS)[1]
    assert query(address, COUNTS)[1] == expected and expected[0][:3] == (39, 741, 741)
    slots = SlotSet(place=store.place, ref="corpus/slow@1", stage="extract")
    slots.report(manifest(39))
    assert slots.report(replace(manifest(5), sha256="f" * 64)) == "conflict"
    assert joined([FORK.Process(target=refreshed, args=(store.root, address)) for _ in range(4)]) == [0] * 4
    assert query(address, COUNTS)[1][0][:3] == (40, 780, 780)
    assert query(address, "SELECT planned, reported, missing FROM completeness WHERE stage = 'extract'")[1] == [(40, 40, 0)]
    assert query(address, "SELECT slot FROM slot_conflicts")[1] == [("slot-5",)]


def stuck(root: Path, address: str, marker: Path) -> None:
    """An ingest that stops, in its transaction, once rows are in."""
    add = PostgresTarget.add

    def then_wait(self: PostgresTarget, table: str, rows: pa.Table) -> None:
        add(self, table, rows)
        marker.write_text("rows are in")
        time.sleep(60)

    PostgresTarget.add = then_wait  # type: ignore[method-assign]
    try:
        refresh(Store(root), address)
    except Unfinished as error:
        marker.write_text(str(error))
        os._exit(3)


def begun(root: Path, address: str, marker: Path) -> Any:
    child = FORK.Process(target=stuck, args=(root, address, marker))
    child.start()
    while not marker.exists():
        assert child.is_alive()
        time.sleep(0.02)
    return child


def test_a_killed_ingest_leaves_nothing_and_holds_nobody_up(address: str, tmp_path: Path) -> None:
    store = slotted(tmp_path / "artifacts")
    child = begun(store.root, address, tmp_path / "marker")
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert refresh(store, address).slots == 39
    assert query(address, COUNTS)[1][0][:3] == (39, 741, 741)


def test_a_restarted_server_is_one_line_and_the_next_ingest_is_right(server: Server, address: str, tmp_path: Path) -> None:
    store, marker = slotted(tmp_path / "artifacts"), tmp_path / "marker"
    child = begun(store.root, address, marker)
    server.control("stop", "-m", "immediate")
    with pytest.raises(Unfinished, match="does not answer"):
        query(address, "SELECT 1")
    with pytest.raises(Unfinished, match="does not answer") as error:
        refresh(store, address)
    assert "\n" not in str(error.value)
    server.control("start")
    assert refresh(store, address).slots == 39
    assert query(address, COUNTS)[1][0][:3] == (39, 741, 741)
    os.kill(child.pid, signal.SIGKILL)
    child.join()


def test_a_server_that_stops_under_an_ingest_is_one_line(
    server: Server, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, add = slotted(tmp_path / "artifacts"), PostgresTarget.add

    def then_restart(self: PostgresTarget, table: str, rows: pa.Table) -> None:
        add(self, table, rows)
        if table == "slots":
            server.control("restart", "-m", "immediate")

    with monkeypatch.context() as patched:
        patched.setattr(PostgresTarget, "add", then_restart)
        with pytest.raises(Unfinished, match=r"postgresql:///catalog: PostgreSQL does not answer: .*run it again") as error:
            refresh(store, address)
        assert "\n" not in str(error.value)
    assert query(address, "SELECT tablename FROM pg_tables WHERE tablename = 'slots'")[1] == []
    assert refresh(store, address).slots == 39


def test_parameters_are_values_and_one_statement_is_answered(answered: str) -> None:
    sql = "SELECT ref FROM artifacts WHERE kind = $1 AND bytes >= $2 ORDER BY ref"
    assert query(answered, sql, ["tokenizer", 0])[1] == [("tokenizer/tiny@1",)]
    assert query(answered, sql, ["' OR true --", 0])[1] == []
    assert query(answered, "SELECT '100 %s' AS x")[1] == [("100 %s",)]
    for bad in ("SELECT 1; SELECT 2", "SELECT * FROM nothing", "SELECT $1", "nonsense"):
        with pytest.raises(SeaLionError, match=r"^SQL: ") as error:
            query(answered, bad)
        assert "\n" not in str(error.value)
    with pytest.raises(SeaLionError, match="took longer than 1 s"):
        query(answered, "SELECT pg_sleep(30)", seconds=1)


ATTACKS = [
    "DELETE FROM artifacts",
    "WITH gone AS (DELETE FROM artifacts RETURNING 1) SELECT * FROM gone",
    "COPY artifacts TO '/tmp/stolen.csv'",
    "COPY (SELECT 1) TO PROGRAM 'touch /tmp/stolen'",
    "SELECT pg_read_file('/etc/passwd')",
    "SELECT lo_import('/etc/passwd')",
    "CREATE TABLE x (i INTEGER)",
    "DO $$ BEGIN RESET ROLE; SET TRANSACTION READ WRITE; DELETE FROM artifacts; END $$",
    "DO $$ BEGIN COMMIT; DELETE FROM artifacts; END $$",
    "SET TRANSACTION READ WRITE",
    "SELECT set_config('transaction_read_only', 'off', false)",
]


@pytest.mark.parametrize("sql", ATTACKS)
def test_what_a_user_may_not_do(server: Server, answered: str, sql: str) -> None:
    with psycopg.connect(answered, autocommit=True) as connection:
        if connection.execute("SELECT 1 FROM pg_roles WHERE rolname = 'owner'").fetchone() is None:
            connection.execute("CREATE ROLE owner LOGIN")
            connection.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO owner")
    owner = server.address("filled", "owner")
    before = query(owner, "SELECT count(*) FROM artifacts", is_foreign=True)
    with pytest.raises(SeaLionError, match=r"^SQL: "):
        query(owner, sql, is_foreign=True)
    assert query(owner, "SELECT count(*) FROM artifacts", is_foreign=True) == before
    with pytest.raises(SeaLionError, match="not as a superuser"):
        query(answered, sql, is_foreign=True)


def test_text_that_postgresql_does_not_hold(address: str, tmp_path: Path) -> None:
    refresh(Store(tmp_path / "artifacts"), address)
    texts = {"path": "a\0b", "problem": '"; DROP TABLE slots; --\t\\N\n\\.', "state": ""}
    row: dict[str, Any] = dict.fromkeys(tables()["artifacts"].names) | {"ref": "x\0", "body": r'{"a":"\\u0000 \u0000\u0000"}'}
    with postgres._connected(address) as connection:
        target = PostgresTarget(connection)
        target.replace_problems([ingest.Problem(**texts)])
        target.add("artifacts", pa.Table.from_pylist([row], schema=tables()["artifacts"]))
    assert query(address, "SELECT * FROM problems")[1] == [("a\ufffdb", texts["problem"], "")]
    assert query(address, "SELECT ref, body->>'a', name FROM artifacts")[1] == [("x\ufffd", r"\u0000 " + "\ufffd" * 2, None)]


def test_one_database_is_one_catalogs(address: str, tmp_path: Path) -> None:
    refresh(slotted(tmp_path / "one"), address)
    with pytest.raises(SeaLionError, match="another catalog"):
        refresh(slotted(tmp_path / "two"), address)
    (tmp_path / "one").rename(tmp_path / "moved")
    assert refresh(Store(tmp_path / "moved"), address).slots == 0
    with psycopg.connect(address) as connection:
        connection.execute("CREATE SCHEMA second")
        connection.execute("INSERT INTO schema_migrations VALUES (9999)")
    with pytest.raises(SeaLionError, match="newer version"):
        refresh(Store(tmp_path / "moved"), address)
    assert refresh(Store(tmp_path / "two"), f"{address}&options=-csearch_path%3Dsecond").slots == 39


def test_an_older_index_is_brought_forward(address: str, filled: Store) -> None:
    with psycopg.connect(address) as connection:
        for statement in statements(migrations()[1]):
            connection.execute(statement)
        connection.execute("CREATE TABLE schema_migrations (number INTEGER PRIMARY KEY)")
        connection.execute("INSERT INTO schema_migrations VALUES (1)")
        connection.execute("INSERT INTO artifacts (ref) VALUES ('corpus/old@1')")
    assert refresh(filled, address).artifacts == len(filled.all())
    assert query(address, "SELECT count(*) FROM artifacts")[1] == [(len(filled.all()),)]


def test_where_no_server_is_and_no_secret_is_shown(tmp_path: Path) -> None:
    address = f"postgresql://me:secret@/x?host={tmp_path}"
    for ask in (lambda: query(address, "SELECT 1"), lambda: refresh(slotted(tmp_path / "a", 2), address)):
        with pytest.raises(Unfinished, match="postgresql:///x: PostgreSQL does not answer") as error:
            ask()
        assert "secret" not in str(error.value) and "\n" not in str(error.value)
