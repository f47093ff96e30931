"""The prompt and the notebook's connection: statements end where they should, and each is answered confined."""

from __future__ import annotations

import io
import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from sea_lion.catalog import confined, index, open_catalog, schema, shell
from sea_lion.catalog.confined import Answer, Limits
from sea_lion.catalog.errors import SeaLionError
from sea_lion.catalog.records import TokenizerBody
from sea_lion.training.recipe import TokenizerRecipe


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shell")
    with duckdb.connect(str(folder / "catalog.duckdb")) as connection:
        for migration in schema.migrations().values():
            for statement in schema.statements(migration):
                connection.execute(statement)
        connection.execute("INSERT INTO artifacts (ref, kind) VALUES ('corpus/a@1', 'corpus')")
    return folder


class Asked:
    """Answers as the command does, and notes what was asked."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root
        self.statements: list[tuple[str, list[str]]] = []

    def __call__(self, sql: str, parameters: list[str]) -> Answer:
        self.statements.append((sql, parameters))
        if self.root is not None:
            return confined.ask(self.root / "catalog.duckdb", self.root, sql, parameters, Limits(seconds=120))
        if "bad" in sql:
            raise SeaLionError("SQL: bad")
        return Answer(table=pa.table({"a": [1, 2]}), truncated="cut" in sql, warnings=("x is missing",) if "gap" in sql else ())


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("SELECT 1;\nSELECT 2;", ["SELECT 1", "SELECT 2"]),
        ("SELECT 1; SELECT 2\n;\n", ["SELECT 1", "SELECT 2"]),
        (
            "SELECT ';', \"a;b\", $$;$$ -- ; not yet\n/* ;\n; */ FROM x;",
            ["SELECT ';', \"a;b\", $$;$$ -- ; not yet\n/* ;\n; */ FROM x"],
        ),
        ("SELECT 'a'';'\n, 2;SELECT 3", ["SELECT 'a'';'\n, 2", "SELECT 3"]),
        (".tables\n\n  .schema a\nSELECT\n.5;", [".tables", ".schema a", "SELECT\n.5"]),
        (";;\n ;\n", []),
        ("SELECT 1 -- open", ["SELECT 1 -- open"]),
        ("SELECT 'open;\n", ["SELECT 'open;"]),
    ],
)
def test_a_statement_ends_at_a_semicolon_of_its_own(text: str, found: list[str]) -> None:
    lines = io.StringIO(text)
    assert list(shell.statements(lambda _: lines.readline())) == found


def test_what_has_begun_can_be_dropped() -> None:
    lines: list[str | None] = ["SELECT 1,\n", None, "SELECT 2;\n", ""]
    begun: list[bool] = []

    def read(is_begun: bool) -> str | None:
        begun.append(is_begun)
        return lines.pop(0)

    assert list(shell.statements(read)) == ["SELECT 2"]
    assert begun == [False, True, False, False]


def test_a_pipe_is_answered_statement_by_statement(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = Asked(root)
    given = ".format csv\nSELECT ref FROM artifacts;\n.schema inputs\n.tables\n.quit\nSELECT 'never';"
    assert shell.run(asked, source=io.StringIO(given)) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[:5] == ["ref", "corpus/a@1", "name,type", "ref,VARCHAR", "role,VARCHAR"]
    assert {"artifacts,BASE TABLE", "documents,VIEW"} <= set(shown)
    assert len(asked.statements) == 3


def test_a_pipe_stops_at_what_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    asked = Asked()
    assert shell.run(asked, source=io.StringIO("SELECT bad;\nSELECT 2;")) == 2
    assert (len(asked.statements), capsys.readouterr().err) == (1, "SQL: bad\n")
    for wrong in (".nonsense", ".schema", ".format xml", ".format parquet"):
        assert shell.run(asked, source=io.StringIO(wrong)) == 2
        assert wrong.split()[0] in capsys.readouterr().err
    assert len(asked.statements) == 1


def test_what_is_cut_or_left_out_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert shell.run(Asked(), form="json", source=io.StringIO("SELECT cut, gap;")) == 0
    said = capsys.readouterr().err
    assert "only the first 2 rows" in said
    assert "left out: x is missing" in said


PROMPTED = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background inherits that it is ignored
from pathlib import Path
from sea_lion.catalog import confined, shell
root = Path(sys.argv[1])
def answered(sql, parameters):
    return confined.ask(root / "catalog.duckdb", root, sql, parameters, confined.Limits(seconds=300))
sys.exit(shell.run(answered))
"""


class Terminal:
    """A prompt at a terminal of its own."""

    def __init__(self, root: Path, home: Path) -> None:
        self.near, far = pty.openpty()
        environment = os.environ | {"HOME": str(home), "TERM": "dumb"}
        command = ["setsid", "--ctty", sys.executable, "-c", PROMPTED, str(root)]
        self.process = subprocess.Popen(command, stdin=far, stdout=far, stderr=far, env=environment)
        os.close(far)
        self.seen = ""

    def wait_for(self, text: str) -> None:
        assert self.shows(text, 120), self.seen

    def shows(self, text: str, seconds: float) -> bool:
        """Whether a text comes within a time."""
        end = time.monotonic() + seconds
        while text not in self.seen:
            ready, _, _ = select.select([self.near], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                return False
            self.seen += os.read(self.near, 65536).decode()
        return True

    def interrupt(self, text: str) -> None:
        """Type Ctrl-C until the text comes: one that arrives before the prompt reads is lost."""
        for _ in range(24):
            self.type("\x03")
            if self.shows(text, 5):
                return
        raise AssertionError(self.seen)

    def type(self, text: str) -> None:
        self.seen = ""
        os.write(self.near, text.encode())


def test_a_person_types_errs_and_stops_a_query(root: Path, tmp_path: Path) -> None:
    terminal = Terminal(root, tmp_path)
    terminal.wait_for(shell.PROMPT)
    terminal.type("SELECT nothing;\n")
    terminal.wait_for("SQL: ")
    terminal.type("SELECT 40 +\n")
    terminal.wait_for(shell.MORE)
    terminal.type("2 AS answer;\n")
    terminal.wait_for("42")
    terminal.type("WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT max(n) FROM r;\n")
    children = Path(f"/proc/{terminal.process.pid}/task/{terminal.process.pid}/children")
    while not children.read_text().strip():
        time.sleep(0.05)
    terminal.interrupt("stopped")
    assert not children.read_text().strip()
    terminal.type("SELECT 'dropped\n")
    terminal.wait_for(shell.MORE)
    terminal.interrupt(shell.PROMPT)
    terminal.type(".quit\n")
    assert terminal.process.wait(60) == 0
    assert "SELECT nothing;" in (tmp_path / ".sea-lion-history").read_text()


def put_items(filler: Any) -> None:
    """Two artifacts, one of them with a side table."""
    fields = {"kind": "tokenizer", "name": "tokenizer/tiny", "corpora": [filler.corpus()], "vocabulary": 4096}
    body = TokenizerBody(algorithm="byte-level-bpe", vocabulary=4096)
    filler.put(TokenizerRecipe, fields, body, {"items": [{"task": "t", "value": 1.5}]})


def test_a_notebook_gets_a_connection_that_opens_no_file(filler: Any, tmp_path: Path) -> None:
    put_items(filler)
    root = filler.store.root
    connection = open_catalog(root)
    count = "SELECT count(*) FROM artifacts"
    with open_catalog(str(root)) as second:  # two at once, beside our own queries
        assert second.sql(count).fetchall() == index.query(filler.store, count)[1] == connection.sql(count).fetchall() == [(2,)]
    assert connection.sql("SELECT ref, value FROM items").fetchall() == [("tokenizer/tiny@1", 1.5)]
    assert connection.sql("FROM ledger").to_arrow_table().num_rows > 0
    connection.register("mine", pa.table({"language": ["tha"]}))
    assert connection.sql("SELECT DISTINCT language FROM ledger SEMI JOIN mine USING (language)").fetchall() == [("tha",)]
    before = sorted(tmp_path.rglob("*"))
    copied = f"COPY ledger TO '{tmp_path}/x.csv'"
    for sql in ("FROM read_text('/etc/passwd')", copied, "SET threads = 9", "DELETE FROM artifacts"):
        with pytest.raises(duckdb.Error):
            connection.execute(sql)
    assert sorted(tmp_path.rglob("*")) == before
    with open_catalog(root, side_tables=()) as narrow:
        assert narrow.sql("FROM items").fetchall() == []
    with pytest.raises(SeaLionError, match="no catalog"):
        open_catalog(tmp_path / "nothing")


def test_a_side_file_that_is_gone_is_a_warning(filler: Any) -> None:
    put_items(filler)
    (filler.store.root / "tokenizer/tiny/1/items.parquet").unlink()
    with pytest.warns(UserWarning, match="items.parquet: is missing"):
        assert open_catalog(filler.store.root).sql("FROM items").fetchall() == []
