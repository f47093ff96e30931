import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from sea_lion import cli
from sea_lion.catalog.tables import render

CONVERSATIONS = """
kind = "conversations"
name = "conversations/x"
version = "1"
form = "messages"
files = ["tha.jsonl"]
licence = "Apache-2.0"
"""
ROOT = Path(__file__).parent.parent.parent
ROW = {"messages": [{"role": "user", "content": "สวัสดี"}, {"role": "assistant", "content": "สวัสดีครับ"}]}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "x.toml").write_text(CONVERSATIONS)
    (tmp_path / "recipes" / "tha.jsonl").write_text(json.dumps(ROW) + "\n")
    return tmp_path


def test_every_command_shows_help_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    commands = [[verb] for verb in (*cli.EXAMPLES, "run", "report", "waive")]
    commands += [["catalog", question] for question in ("ls", "show", "lineage", "sql", "tokens", "rebuild")]
    for command in commands:
        with pytest.raises(SystemExit) as stopped:
            cli.main([*command, "--help"])
        assert stopped.value.code == 0
        assert f"example:\n  sea-lion {' '.join(command)}" in capsys.readouterr().out


def test_the_examples_name_recipes_that_exist() -> None:
    named = [word for _, example in cli.EXAMPLES.values() for word in example.split() if word.startswith("recipes/")]
    assert len(named) == 3 and all((ROOT / name).is_file() for name in named)


def test_build_and_ask(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["build", "recipes/x.toml"]) == 0
    assert capsys.readouterr().out.startswith("conversations/x@1  ")
    assert cli.main(["catalog", "ls", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["ref"] == "conversations/x@1"
    assert cli.main(["catalog", "show", "conversations/x@1"]) == 0
    assert "Apache-2.0" in capsys.readouterr().out
    assert cli.main(["catalog", "sql", "SELECT kind, count(*) AS n FROM artifacts GROUP BY kind", "--format", "csv"]) == 0
    assert list(csv.reader(io.StringIO(capsys.readouterr().out))) == [["kind", "n"], ["conversations", "1"]]
    assert cli.main(["catalog", "rebuild"]) == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "recipes/x.toml"], "made by 'sea-lion build'"),
        (["build", "recipes/none.toml"], "no such file"),
        (["build", "recipes"], "is a folder"),
        (["run", "nowhere"], "neither a folder nor one of the built-in"),
        (["run", "recipes", "--workers", "0"], "at least 1"),
        (["catalog", "ls"], "no catalog there"),
        (["build", "recipes/x.toml", "--catalog", "recipes/x.toml"], "x.toml"),
        (["report", "--catalog", "recipes", "--output", "/proc/none/report"], "/proc/none"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    assert said in captured.err and captured.err.count("\n") == 1 and captured.out == ""


def test_a_changed_recipe_names_the_field(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["build", "recipes/x.toml"]) == 0
    (folder / "recipes" / "x.toml").write_text(CONVERSATIONS.replace("messages", "preference"))
    assert cli.main(["build", "recipes/x.toml"]) == 2
    assert 'form: "messages" -> "preference"' in capsys.readouterr().err


def test_an_unknown_token_column_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["build", "recipes/x.toml"]) == 0
    assert cli.main(["catalog", "tokens", "--by", "language; DROP TABLE shards"]) == 2
    assert "is none of language, source" in capsys.readouterr().err


def test_run_makes_what_is_missing_and_shows_its_plan(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for state in ("to make", "done"):
        assert cli.main(["run", "recipes", "--dry-run"]) == 0
        assert state in capsys.readouterr().out
        assert cli.main(["run", "recipes"]) == 0
        assert capsys.readouterr().out == "report: artifacts/report/index.html\n"
    assert (folder / "artifacts" / "report" / "index.html").is_file()


def test_the_light_commands_do_not_import_the_heavy_libraries() -> None:
    code = (
        "import sys; from sea_lion import cli, chain; print([m for m in ('torch','lm_eval','datatrove') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


ROWS = [("tha", 1234, 0.5, None), ("a|b", 2, 1e-9, True)]


def test_formats() -> None:
    columns = ["language", "documents", "share", "flag"]
    assert json.loads(render(columns, ROWS, "json"))[0] == {"language": "tha", "documents": 1234, "share": 0.5, "flag": None}
    assert list(csv.reader(io.StringIO(render(columns, ROWS, "csv"))))[1] == ["tha", "1234", "0.5", ""]
    assert render(columns, ROWS, "markdown").splitlines()[-1] == "| a\\|b | 2 | 1e-09 | True |"
    assert "1,234" in render(columns, ROWS, "table").splitlines()[1]
