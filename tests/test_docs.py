"""The documentation is true: the reference is current, commands parse and print what is shown, tables are the schema's."""

import argparse
import re
import runpy
import shlex
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import duckdb
import pytest

from sea_lion import cli
from sea_lion.catalog import index, schema, sides
from sea_lion.catalog.store import Store

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md")] + sorted(DOCS.glob("*.md"))
COMMAND = re.compile(r"^(?:\$ )?(?:\.venv/bin/)?sea-lion (.+?)(?: \| head -\d+.*)?$", re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)(?:#([^)]+))?")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
DESCRIBED = re.compile(r"^\| `(\w+)` \| ([a-z_0-9, ]+) \| .+ \|$", re.MULTILINE)
"""A row of the lists of tables and views: name and columns."""
BOX = re.compile(r"^    (\w+) \{\n(.*?)^    \}$", re.MULTILINE | re.DOTALL)
RELATION = re.compile(r"^    (\w+) [|}][|o](?:--)[|o][|{] (\w+) : ", re.MULTILINE)
CONSOLE: dict[str, Any] = runpy.run_path(str(DOCS / "console.py"))


@pytest.fixture(scope="module")
def columns() -> dict[str, list[str]]:
    """Table or view to its columns, as the program makes them."""
    with duckdb.connect() as connection:
        for sql in schema.migrations().values():
            for statement in schema.statements(sql):
                connection.execute(statement)
        for view in schema.views().values():
            connection.execute(view)
        rows = connection.execute(
            "SELECT table_name, list(column_name ORDER BY ordinal_position) FROM information_schema.columns GROUP BY ALL"
        ).fetchall()
    return dict(rows) | {name: sides.schema(name).names for name in sides.COLUMNS}


def catalog_commands() -> Mapping[str, argparse.ArgumentParser]:
    """Every subcommand of `sea-lion catalog`."""

    def below(parser: argparse.ArgumentParser) -> Mapping[str, argparse.ArgumentParser]:
        (action,) = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
        choices: Mapping[str, argparse.ArgumentParser] = action.choices
        return choices

    return below(below(cli._parser())["catalog"])


def test_the_recipe_reference_is_current() -> None:
    written = runpy.run_path(str(DOCS / "reference.py"))["reference"]()
    assert (DOCS / "recipes.md").read_text("utf-8") == written, "run python docs/reference.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_parse_and_links_lead_somewhere(page: Path) -> None:
    text = page.read_text("utf-8")
    for line in COMMAND.findall(text):
        words = shlex.split(line, comments=True)
        if words and "--help" not in words:
            cli._parser().parse_args(cli.joined(words))
    for target, anchor in LINK.findall(text):
        other = page.parent / target
        assert other.exists(), f"{page.name} links to {target}"
        if anchor:
            headings = HEADING.findall(other.read_text("utf-8"))
            assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_docs_show_commands_at_all() -> None:
    assert sum(len(COMMAND.findall(page.read_text("utf-8"))) for page in PAGES) > 100


@pytest.mark.parametrize("name", CONSOLE["PAGES"])
def test_commands_print_what_the_page_shows(name: str) -> None:
    page = (DOCS / name).read_text("utf-8")
    assert CONSOLE["BLOCK"].search(page)
    assert CONSOLE["rewritten"](page) == page, f"run python docs/console.py {name}"


def test_ten_questions_have_the_same_answers_from_an_index_that_grew_and_from_files_alone() -> None:
    page = (DOCS / "questions.md").read_text("utf-8")
    assert len(re.findall(r"^## \d+\. .+\?$", page, re.MULTILINE)) == 10
    with CONSOLE["demo_folder"]() as folder:
        store = Store(folder / "artifacts")
        late = ("corpus/tiny/2", "slots/corpus/tiny/2/shards", "promotion/tiny-llama/final", "checkpoint/tiny-llama-cpt")
        for place in late:
            (folder / "aside" / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.move(store.root / place, folder / "aside" / place)
        whole = index.refresh(store).artifacts
        for place in late:
            shutil.move(folder / "aside" / place, store.root / place)
            assert index.refresh(store).artifacts < whole
        assert CONSOLE["answered"](page) == page
        for file in store.root.glob("catalog.duckdb*"):
            file.unlink()
        assert cli.main(["catalog", "rebuild"]) == 0
        assert CONSOLE["answered"](page) == page


def test_every_table_and_view_is_described(columns: dict[str, list[str]]) -> None:
    described = {name: row.split(", ") for name, row in DESCRIBED.findall((DOCS / "catalog.md").read_text("utf-8"))}
    assert described == columns


def test_the_diagram_names_real_tables_and_columns(columns: dict[str, list[str]]) -> None:
    (diagram,) = re.findall(
        r"^```mermaid\n(erDiagram.*?)^```$", (DOCS / "catalog.md").read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    boxes = {name: re.findall(r"^        \w+ (\w+)", body, re.MULTILINE) for name, body in BOX.findall(diagram)}
    pairs = RELATION.findall(diagram)
    assert len(boxes) > 10 and len(pairs) == diagram.count("--")
    assert {name for pair in pairs for name in pair} <= set(columns)
    for name, wanted in boxes.items():
        assert wanted and set(wanted) <= set(columns[name]), name


@pytest.mark.parametrize("name", catalog_commands())
def test_the_help_of_every_catalog_command_shows_an_example_that_parses(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["catalog", name, "--help"])
    assert stopped.value.code == 0
    example = capsys.readouterr().out.partition("example:\n  ")[2].strip().rpartition("| ")[2]
    assert example.startswith(f"sea-lion catalog {name}")
    cli._parser().parse_args(shlex.split(example)[1:])


def test_every_catalog_command_is_in_the_docs_with_its_output() -> None:
    blocks = "".join(CONSOLE["BLOCK"].findall((DOCS / "catalog.md").read_text("utf-8")))
    shown = set(re.findall(r"^\$ .*?sea-lion catalog ([\w-]+)", blocks, re.MULTILINE))
    assert shown == set(catalog_commands()) - {"push"}  # which needs an object store


def exit_codes() -> Iterator[tuple[list[str], int]]:
    yield ["catalog", "ls"], 0
    yield ["catalog", "show", "corpus/nothing@1"], 2
    yield ["catalog", "sql", "SELECT"], 2
    yield ["catalog", "licences", "stage:tiny-llama/final", "--claim", "MIT"], 2
    yield ["catalog", "fsck"], 3  # the recorded demo has no weights


def test_exit_codes_are_those_of_the_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    table = (DOCS / "catalog.md").read_text("utf-8").partition("## Exit codes")[2]
    assert [int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)] == [0, 1, 2, 3, 130]
    assert cli.GATE_EXIT == {"pass": 0, "fail": 1, "hold": 2, "error": 3}
    with CONSOLE["demo_folder"]():
        for words, code in exit_codes():
            assert cli.main(words) == code, words
        with pytest.raises(SystemExit) as stopped:
            cli.main(["catalog", "nothing"])
        assert stopped.value.code == 2

        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(index, "query", interrupted)
        assert cli.main(["catalog", "ls"]) == 130
    assert "the same command goes on" in capsys.readouterr().err
