"""SQL of others: what it may ask, and that whatever else it tries leaves every file as it was."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sea_lion.catalog import confined, schema
from sea_lion.catalog.confined import Answer, Limits
from sea_lion.catalog.errors import SeaLionError

SECRET = "the secret outside"
PLENTY = Limits(seconds=120)

ATTACKS, _, HARMLESS = Path(__file__).with_name("attacks.sql").read_text("utf-8").partition("-- harmless")


# Runs statements in one process, as the child does but without looking at their kind first: what is refused then is refused by
# the settings and the kernel. Prints what each gave.
DRIVER = """
import json, sys
from pathlib import Path
from sea_lion.catalog import confined
import duckdb
index, root, statements = json.load(sys.stdin)
secret_frame = duckdb.sql("SELECT 'the secret outside' AS a").to_arrow_table()
confined._bound_time(confined.Limits(seconds=100))
connection = confined.opened(Path(index))
confined.add_sides(connection, Path(root), ["documents"])
given = []
for sql in statements:
    try:
        relation = connection.sql(sql)
        given.append(repr(relation.fetchall()) if relation is not None else "done")
    except Exception as error:
        given.append(f"refused: {error}")
print(json.dumps(given))
"""


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("confined") / "artifacts"
    side = root / "corpus/a/1/documents/language=tha/part.parquet"
    side.parent.mkdir(parents=True)
    (root.parent / "outside.csv").write_text(f"a\n{SECRET}\n")
    with duckdb.connect(str(root.parent / "other.duckdb")) as other:
        other.execute(f"CREATE TABLE t AS SELECT '{SECRET}' AS a")
    (root / "link.csv").symlink_to(root.parent / "outside.csv")
    rows = {
        "id": ["1", "2"],
        "language": ["tha", "tha"],
        "rules": pa.array([[("w", 1.0)], []], pa.map_(pa.string(), pa.float32())),
    }
    pq.write_table(pa.table(rows), side)
    with duckdb.connect(str(root / "catalog.duckdb")) as connection:
        for migration in schema.migrations().values():
            for statement in schema.statements(migration):
                connection.execute(statement)
        for statement in schema.views().values():
            connection.execute(statement)
        connection.execute("INSERT INTO artifacts (ref, kind) VALUES ('corpus/a@1', 'corpus')")
        listed = "INSERT INTO side_files VALUES ('corpus/a@1', 'documents', $1, $2, '')"
        connection.execute(listed, [str(side.relative_to(root)), side.stat().st_size])
    return root


def ask(root: Path, sql: str, parameters: list[object] | dict[str, object] | tuple[()] = (), limits: Limits = PLENTY) -> Answer:
    return confined.ask(root / "catalog.duckdb", root, sql, parameters, limits)


def state(root: Path) -> dict[str, str]:
    """Every file that an attack could have changed or made."""
    places = [
        *root.parent.rglob("*"),
        *Path.cwd().glob("*"),
        *Path(tempfile.gettempdir()).glob("*.duckdb*"),
        *Path("/").glob("*"),
    ]
    inside = [path for path in places if path.is_file() and path.is_relative_to(root.parent)]
    return {str(path): "" for path in places} | {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in inside}


@pytest.fixture
def unchanged(catalog: Path) -> Iterator[Path]:
    before = state(catalog)
    yield catalog
    assert state(catalog) == before


def filled(root: Path, sql: str) -> str:
    side = root / "corpus/a/1/documents/language=tha/part.parquet"
    places = {"outside": root.parent / "outside.csv", "other": root.parent / "other.duckdb", "side": side}
    places |= {"root": root, "fresh": root.parent / "fresh"}
    for name, place in places.items():
        sql = sql.replace(f"{{{name}}}", str(place))
    return sql


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines()[1:] if not line.startswith("--")]


@pytest.mark.parametrize("text", [ATTACKS, HARMLESS], ids=["harmful", "harmless"])
def test_without_a_look_at_its_kind_a_statement_still_reads_writes_and_changes_nothing(unchanged: Path, text: str) -> None:
    statements = [filled(unchanged, sql) for sql in lines(text)]
    assert len(statements) > 14
    request = json.dumps([str(unchanged / "catalog.duckdb"), str(unchanged), statements])
    run = subprocess.run([sys.executable, "-c", DRIVER], input=request, capture_output=True, text=True, check=True, timeout=120)
    given = dict(zip(statements, json.loads(run.stdout), strict=True))
    assert not any(SECRET in answer for answer in given.values())
    if text == ATTACKS:
        assert [sql for sql, answer in given.items() if not answer.startswith("refused: ")] == []


@pytest.mark.parametrize(
    "sql",
    [
        "FROM read_text('{root}/link.csv')", "WITH x AS (COPY (SELECT 1) TO '{side}') FROM x", "SELECT 1; SELECT 2",
        "WITH x AS (DELETE FROM artifacts RETURNING *) FROM x", "SET VARIABLE x = 1", "-- nothing",
    ],
)  # fmt: skip
def test_an_attack_is_refused_in_one_line(unchanged: Path, sql: str) -> None:
    with pytest.raises(SeaLionError, match=r"^SQL: [^\n]+$"):
        ask(unchanged, filled(unchanged, sql))


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("SELECT sum(length(repeat('x', 2000000000 + range::INT))) FROM range(5)", "needed more than 512 MiB"),
        ("WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT max(n) FROM r", "took longer than 1 s"),
        ("SELECT count(*) FROM range(1000000) a, range(1000000) b WHERE hash(a.range, b.range) = 7", "took longer than 1 s"),
    ],
)
def test_what_would_never_end_is_ended(unchanged: Path, sql: str, says: str) -> None:
    limits = Limits(seconds=120 if "MiB" in says else 1, memory_bytes=512 << 20)
    with pytest.raises(SeaLionError, match=says):
        ask(unchanged, sql, limits=limits)


def test_a_parquet_bomb_ends_in_one_line(unchanged: Path) -> None:
    bomb = pa.DictionaryArray.from_arrays(pa.array([0] * 2000, pa.int32()), ["x" * 4_000_000])
    path = unchanged.parent / "bombed"
    path.mkdir()
    try:
        pq.write_table(pa.table({"url": bomb}), path / "bomb.parquet", compression="zstd")
        assert (path / "bomb.parquet").stat().st_size < 10_000_000
        (path / "catalog.duckdb").write_bytes((unchanged / "catalog.duckdb").read_bytes())
        with duckdb.connect(str(path / "catalog.duckdb")) as connection:
            size = (path / "bomb.parquet").stat().st_size
            connection.execute("INSERT INTO side_files VALUES ('corpus/x@1', 'documents', 'bomb.parquet', $1, '')", [size])
        with pytest.raises(SeaLionError, match="needed more than 512 MiB"):
            ask(
                path,
                "SELECT list(url) FROM documents WHERE ref = 'corpus/x@1'",
                limits=Limits(seconds=120, memory_bytes=512 << 20),
            )
    finally:
        for file in path.iterdir():
            file.unlink()
        path.rmdir()


def test_a_long_answer_is_cut_and_says_so(catalog: Path) -> None:
    answer = ask(catalog, "FROM range(10000000)", limits=Limits(seconds=120, rows=5000))
    assert (answer.truncated, answer.rows()[-1]) == (True, (4999,))
    wide = ask(catalog, "SELECT repeat('x', 1000) AS x FROM range(10000000)", limits=Limits(seconds=120, answer_bytes=20 << 20))
    assert wide.truncated
    assert 0 < wide.table.nbytes <= 20 << 20
    whole = ask(catalog, "FROM range(5000)", limits=Limits(seconds=120, rows=5000))
    assert (whole.truncated, whole.table.num_rows) == (False, 5000)


def test_index_and_side_tables_are_answered(catalog: Path) -> None:
    answer = ask(catalog, "SELECT a.kind, d.id, d.rules FROM documents d JOIN artifacts a USING (ref) ORDER BY id")
    assert answer.columns == ["kind", "id", "rules"]
    assert answer.rows() == [("corpus", "1", {"w": 1.0}), ("corpus", "2", {})]
    assert ask(catalog, "SELECT count(*) FROM documents WHERE language = $1 AND id = $2", ["tha", "2"]).rows() == [(1,)]
    assert ask(catalog, "SELECT $who || ' asks'", {"who": "'; DROP"}).rows() == [("'; DROP asks",)]
    names = {row[0] for row in ask(catalog, "SHOW TABLES").rows()}
    assert {"artifacts", "completeness", "documents", "items"} <= names
    assert ask(catalog, "PIVOT documents ON language USING count(*) GROUP BY ref").rows() == [("corpus/a@1", 2)]


def test_types_arrive_as_what_they_are(catalog: Path) -> None:
    sql = """SELECT 1 AS n, 2 AS n, sum(3::BIGINT), 1.25::DECIMAL(9, 2), DATE '2026-01-02',
        TIMESTAMPTZ '2026-01-02 03:00:00+01', 'x'::BLOB, INTERVAL 2 DAYS, '101'::BIT, {'a': [1, NULL]}, NULL,
        5::UHUGEINT, 'e'::ENUM ('e')"""
    answer = ask(catalog, sql)
    assert answer.columns[:2] == ["n", "n"]
    (row,) = answer.rows()
    assert [*row[:3], *map(str, row[3:4]), *row[4:5]] == [1, 2, 3, "1.25", datetime.date(2026, 1, 2)]
    assert row[5] == datetime.datetime(2026, 1, 2, 2, tzinfo=datetime.UTC)
    assert row[6:] == (b"x", "2 days", "101", {"a": [1, None]}, None, 5, "e")
    assert ask(catalog, "SELECT 1 AS a WHERE false").rows() == []


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("SELEC 1", "syntax error"), ("SELECT 'x'::INT", "Could not convert"), ("SELECT $1", "parameter"),
        ("SELECT error('a' || chr(27) || 'b')", r"a\\x1bb"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_clear_line(catalog: Path, sql: str, says: str) -> None:
    with pytest.raises(SeaLionError, match=says) as refused:
        ask(catalog, sql)
    assert "\n" not in str(refused.value)


def test_a_parameter_that_json_lacks_is_a_bug_of_the_caller(catalog: Path) -> None:
    with pytest.raises(ValueError, match="parameters are"):
        ask(catalog, "SELECT $1", [object()])


def test_a_missing_side_file_is_named(catalog: Path, tmp_path: Path) -> None:
    (tmp_path / "catalog.duckdb").write_bytes((catalog / "catalog.duckdb").read_bytes())
    answer = ask(tmp_path, "SELECT count(*) FROM documents")
    assert answer.rows() == [(0,)]
    assert "is missing from corpus/a@1" in answer.warnings[0]
    assert ask(tmp_path, "SELECT count(*) AS documents FROM artifacts").warnings == ()


def test_the_tables_of_a_statement_are_found_without_reading_what_it_names(unchanged: Path) -> None:
    index = unchanged / "catalog.duckdb"
    assert confined.tables_read(index, "SELECT count(*) FROM documents WHERE id = $1") == ["documents"]
    assert confined.tables_read(index, "SELECT sum(documents) FROM shards") == []
    # A pipe that nobody writes into: to open it would wait for ever.
    pipe = unchanged.parent / "pipe"
    os.mkfifo(pipe)
    try:
        with pytest.raises(SeaLionError, match="disabled by configuration"):
            ask(unchanged, f"FROM read_csv('{pipe}')")
    finally:
        pipe.unlink()


def test_the_kernel_lets_it_write_not_a_byte(tmp_path: Path) -> None:
    code = "import sys; from sea_lion.catalog import confined as c; c._bound_time(c.Limits())"
    code += "; open(sys.argv[1], 'wb', 0).write(b'x')"
    run = subprocess.run([sys.executable, "-c", code, str(tmp_path / "x")], capture_output=True, text=True, check=False)
    assert "File too large" in run.stderr
    assert (tmp_path / "x").read_bytes() == b""


def test_nothing_of_the_callers_environment_reaches_the_child(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("HF_TOKEN", SECRET)
    assert not any(SECRET in value for value in confined._environment().values())
    assert "HOME" not in confined._environment()


def test_a_child_outlives_neither_its_answer_nor_its_caller(catalog: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from sea_lion.catalog import confined
root = Path({str(catalog)!r})
never = "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT max(n) FROM r"
confined.ask(root / "catalog.duckdb", root, never, (), confined.Limits(seconds=2))
"""
    caller = subprocess.Popen([sys.executable, "-c", code])
    children: list[int] = []
    while not children:
        assert caller.poll() is None
        listed = Path(f"/proc/{caller.pid}/task/{caller.pid}/children").read_text().split()
        children = [int(pid) for pid in listed]
    caller.kill()
    caller.wait()
    for _ in range(600):
        with suppress(FileNotFoundError):
            if "Z" not in Path(f"/proc/{children[0]}/stat").read_text().rpartition(")")[2]:
                time.sleep(0.1)
                continue
        return
    pytest.fail("the child goes on without its caller")
