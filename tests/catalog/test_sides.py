"""The document-level tables outside the index: what they show, what they leave out, and what they refuse to open."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sea_lion.catalog import schema, sides

Rows = list[dict[str, Any]]
Catalog = tuple[Path, duckdb.DuckDBPyConnection]
THA = "corpus/a/1/documents/language=tha/source=web/part-0.parquet"
KHM = "corpus/a/1/documents/language=khm/source=web/part-0.parquet"
OTHER = "corpus/b/1/documents.parquet"


def add(catalog: Catalog, path: str, table: pa.Table, ref: str = "corpus/a@1", name: str = "documents") -> Path:
    """A side file and its row in the index."""
    root, connection = catalog
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, file)
    connection.execute("INSERT INTO side_files VALUES ($1, $2, $3, $4, '')", [ref, name, path, file.stat().st_size])
    return file


def documents(language: str, urls: list[str], **extra: pa.Array) -> pa.Table:
    return pa.table(
        {
            "id": [f"{language}{i}" for i in range(len(urls))], "url": urls, "language": [language] * len(urls),
            "rules": pa.array([[("words", 3.5)]] * len(urls), pa.map_(pa.string(), pa.float32())),
        } | extra
    )  # fmt: skip


@pytest.fixture(params=["plain", "od[d] * 'root'"])
def catalog(request: pytest.FixtureRequest, tmp_path: Path) -> Catalog:
    root = tmp_path / request.param
    root.mkdir()
    connection = duckdb.connect()
    for migration in schema.migrations().values():
        for statement in schema.statements(migration):
            connection.execute(statement)
    made = (root, connection)
    add(made, THA, documents("tha", ["https://a/", "https://b/"]))
    add(made, KHM, documents("khm", ["https://c/"]))
    add(made, OTHER, documents("lao", ["https://d/"], row=pa.array([7])), ref="corpus/b@1")
    return made


def attached(root: Path, connection: duckdb.DuckDBPyConnection) -> list[str]:
    return sides.attach(connection, root)


def registered(root: Path, connection: duckdb.DuckDBPyConnection) -> list[str]:
    tables, problems = sides.datasets(root, sides.listed(connection))
    for name, table in tables.items():
        connection.register(name, table)
    return problems


WAYS = pytest.mark.parametrize("way", [attached, registered])
Way = Callable[[Path, duckdb.DuckDBPyConnection], list[str]]


def test_the_declared_tables_are_those_that_the_index_leaves_outside() -> None:
    assert tuple(sides.COLUMNS) == schema.EXTERNAL
    assert all(sides.schema(name).names[0] == "ref" for name in sides.COLUMNS)


@WAYS
def test_rows_of_all_artifacts_stand_in_one_table(catalog: Catalog, way: Way) -> None:
    assert way(*catalog) == []
    rows = catalog[1].execute("SELECT ref, url, row, rules['words'], crawl FROM documents ORDER BY url").fetchall()
    assert rows == [
        ("corpus/a@1", "https://a/", None, 3.5, None), ("corpus/a@1", "https://b/", None, 3.5, None),
        ("corpus/a@1", "https://c/", None, 3.5, None), ("corpus/b@1", "https://d/", 7, 3.5, None),
    ]  # fmt: skip
    asked = "SELECT url FROM documents WHERE ref = 'corpus/a@1' AND language = 'khm'"
    assert catalog[1].execute(asked).fetchall() == [("https://c/",)]


@WAYS
def test_an_empty_catalog_has_the_tables_with_their_columns(tmp_path: Path, catalog: Catalog, way: Way) -> None:
    catalog[1].execute("DELETE FROM side_files")
    assert way(tmp_path, catalog[1]) == []
    for name in sides.COLUMNS:
        described = [row[0] for row in catalog[1].execute(f"DESCRIBE {name}").fetchall()]
        assert described == sides.schema(name).names
        assert catalog[1].execute(f"SELECT count(*) FROM {name}").fetchone() == (0,)


@WAYS
def test_a_file_that_cannot_be_used_costs_itself(catalog: Catalog, way: Way) -> None:
    root, connection = catalog
    (root / THA).unlink()
    (root / KHM).write_bytes((root / KHM).read_bytes()[:-5])
    garbled = add(catalog, "corpus/a/1/documents/garbled.parquet", documents("lao", ["https://x/"]))
    garbled.write_bytes(b"x" * garbled.stat().st_size)
    add(catalog, "corpus/c/1/documents.parquet", pa.table({"id": [{"a": 1}]}), ref="corpus/c@1")
    add(catalog, "corpus/d/1/documents.parquet", pa.table({"ID": ["x"], "id": ["y"]}), ref="corpus/d@1")
    problems = "\n".join(way(root, connection))
    assert f"{THA}: is missing from corpus/a@1" in problems
    assert f"{KHM}: has" in problems
    assert "garbled.parquet" in problems
    assert "corpus/c/1/documents.parquet: id: is struct<a: int64>, not string" in problems
    assert "corpus/d/1/documents.parquet: 'ID': is not in lower case" in problems
    assert connection.execute("SELECT url FROM documents").fetchall() == [("https://d/",)]


@WAYS
@pytest.mark.parametrize(
    "path", ["../secret.parquet", "/etc/passwd", "corpus/../../secret.parquet", "file:///etc/passwd", "a/*"]
)
def test_a_path_that_leads_out_is_refused(catalog: Catalog, way: Way, path: str) -> None:
    root, connection = catalog
    pq.write_table(documents("tha", ["https://secret/"]), root.parent / "secret.parquet")
    size = (root.parent / "secret.parquet").stat().st_size
    connection.execute("INSERT INTO side_files VALUES ('corpus/x@1', 'documents', $1, $2, '')", [path, size])
    problems = way(root, connection)
    assert len(problems) == 1
    assert repr(path)[1:-1] in problems[0]
    assert connection.execute("SELECT count(*) FROM documents").fetchone() == (4,)


@WAYS
def test_symbolic_links_are_refused_wherever_they_stand(catalog: Catalog, way: Way) -> None:
    root, connection = catalog
    outside = root.parent / "outside"
    outside.mkdir()
    pq.write_table(documents("tha", ["https://secret/"]), outside / "x.parquet")
    size = (outside / "x.parquet").stat().st_size
    (root / "linked").symlink_to(outside)
    (root / "x.parquet").symlink_to(outside / "x.parquet")
    for path in ("linked/x.parquet", "x.parquet"):
        connection.execute("INSERT INTO side_files VALUES ('corpus/x@1', 'documents', $1, $2, '')", [path, size])
    assert len(way(root, connection)) == 2
    assert connection.execute("SELECT count(*) FROM documents WHERE url LIKE '%secret%'").fetchone() == (0,)


@WAYS
def test_texts_stay_texts(catalog: Catalog, way: Way) -> None:
    root, connection = catalog
    hostile = "corpus/x@1' AS ref; DROP TABLE shards; --"
    add(catalog, "x'; DROP TABLE shards; --.parquet", documents("tha", ["'; DROP"], **{'a"b': pa.array([1])}), ref=hostile)
    assert way(root, connection) == []
    assert connection.execute('SELECT url, "a""b" FROM documents WHERE ref = $1', [hostile]).fetchall() == [("'; DROP", 1)]
    assert connection.execute("SELECT count(*) FROM shards").fetchone() == (0,)


@WAYS
def test_narrower_and_dictionary_columns_are_read_as_declared(catalog: Catalog, way: Way) -> None:
    root, connection = catalog
    encoded = pa.table({"url": pa.array(["https://e/"]).dictionary_encode(), "characters": pa.array([3], pa.int16())})
    add(catalog, "corpus/e/1/documents.parquet", encoded, ref="corpus/e@1")
    assert way(root, connection) == []
    rows = connection.execute("SELECT url, typeof(url), typeof(characters) FROM documents WHERE characters > 2").fetchall()
    assert rows == [("https://e/", "VARCHAR", "BIGINT")]


def test_drill_down_reads_only_the_files_of_its_language(catalog: Catalog) -> None:
    root, connection = catalog
    found = sides.paths(connection, root, "documents", language="tha")
    assert len(found) == 2  # and the file whose path says no language
    assert connection.execute("SELECT url FROM read_parquet($1) WHERE language = 'tha' ORDER BY 1", [found]).fetchall() == [
        ("https://a/",),
        ("https://b/",),
    ]
    assert len(sides.paths(connection, root, "documents", ref="corpus/a@1", language="khm", source="web")) == 1
    assert sides.paths(connection, root, "documents", ref="corpus/a@1", source="books") == []


@pytest.mark.parametrize(
    ("sql", "names"),
    [
        ("SELECT sum(documents) FROM shards", ()),
        ("SELECT sum(documents) FROM shards JOIN (FROM flow) AS f USING (ref) WHERE language = $1", ()),
        ("SELECT count(*) FROM main.documents WHERE ref = $1", ("documents",)),
        ("EXPLAIN SELECT count(*) FROM documents", ("documents",)),
        ("WITH d AS (FROM documents) SELECT count(*) FROM d JOIN ITEMS i ON true", ("documents", "items")),
        ("SELECT * FROM document_ids WHERE id = $1", ("document_ids",)),
        ("FROM query('SELECT * FROM removals')", ("removals",)),
        ("PIVOT removals ON stage USING count(*)", ("removals",)),
    ],
)
def test_only_the_tables_that_a_statement_reads_are_looked_for(catalog: Catalog, sql: str, names: tuple[str, ...]) -> None:
    assert sides.named(catalog[1], sql) == names
