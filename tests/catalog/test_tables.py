"""Results for people and for programs: strings are shown, not obeyed, and no value changes on its way."""

from __future__ import annotations

import csv
import datetime
import io
import json
import re
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.cells import cell_len

from sea_lion.catalog.errors import SeaLionError
from sea_lion.catalog.tables import render, visible, write

HOSTILE = [
    "\x1b[2J\x1b]0;title\x07", "\u202egpj.exe", "\x9b31m", "a|b\nc", "[red]x[/]", "[/closed]", "`code`", "<script>x</script>",
    "![i](http://x/)", "\udc80", "\u2066x\u2069", "\r\nX: y", "\U000e0041", "=cmd()", ":smile:", "\\", "_a_ *b* ~~c~~ $d$",
]  # fmt: skip


@pytest.mark.parametrize("form", ["table", "markdown"])
@pytest.mark.parametrize("text", HOSTILE)
def test_no_character_acts_on_the_terminal_or_breaks_a_line(form: str, text: str) -> None:
    shown = render(["n", text], [(1, text), (2, "x")], form)
    assert len(shown.splitlines()) == (3 if form == "table" else 4)
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\U000e0041]", shown)
    shown.encode("utf-8")


def test_text_is_not_taken_for_the_markup_of_the_table() -> None:
    shown = render(["[bold]c[/]"], [("[red]x[/]",), ("[/closed]",), (":smile:",)], "table")
    assert [line.strip() for line in shown.splitlines()] == ["[bold]c[/]", "[red]x[/]", "[/closed]", ":smile:"]


def test_a_cell_of_markdown_is_its_text() -> None:
    line = render(["a"], [("![i](http://x/) `b` <c> |d _e_ f_g \\",)], "markdown").splitlines()[-1]
    assert line == r"| !\[i\](http://x/) \`b\` \<c> \|d \_e\_ f_g \\ |"


def test_escapes_name_the_character() -> None:
    assert visible("\x1b[31m\n\u202e\u200b\U000e0041") == "\\x1b[31m\\n\\u202e\u200b\\U000e0041"
    assert visible("a\nb\x07", kept="\n") == "a\nb\\x07"


def test_columns_line_up_in_scripts_of_other_widths() -> None:
    texts = ["abc", "中文字", "ก็ข้อมูล", "é", "データ"]
    lines = render(["text", "n"], [(text, 7) for text in texts], "table").splitlines()
    assert {cell_len(line) for line in lines} == {cell_len(lines[0])}


def test_csv_keeps_every_text_and_shows_nested_values_as_json() -> None:
    rows = [(text, None, 1.5, {"a": [1, Decimal("2")]}) for text in HOSTILE if text != "\udc80"]
    back = list(csv.reader(io.StringIO(render(["t", "n", "f", "m"], rows, "csv"), newline="")))
    assert back[0] == ["t", "n", "f", "m"]
    assert back[1:] == [[text, "", "1.5", '{"a": [1, 2]}'] for text in HOSTILE if text != "\udc80"]


def test_json_has_what_json_can_say() -> None:
    utc = datetime.datetime(2026, 1, 2, 3, tzinfo=datetime.UTC)
    row = (
        1,
        2,
        datetime.date(2026, 1, 2),
        utc,
        Decimal("3"),
        Decimal("1.5"),
        {"k": [None, b"\x01"]},
        float("nan"),
        True,
        "\x1b",
    )
    (back,) = json.loads(render(["n", "n", "d", "t", "i", "f", "m", "nan", "b", "s"], [row], "json"))
    assert back == {
        "n": 1, "n_2": 2, "d": "2026-01-02", "t": "2026-01-02T03:00:00+00:00", "i": 3, "f": 1.5, "m": {"k": [None, "01"]},
        "nan": None, "b": True, "s": "\x1b",
    }  # fmt: skip


def test_parquet_goes_to_a_file_with_its_types(tmp_path: Path) -> None:
    table = pa.table({"a": pa.array([1], pa.int16()), "b": pa.array([{"x": [1]}])}).rename_columns(["a", "a"])
    write(["a", "a"], [(1, {"x": [1]})], "parquet", tmp_path / "new" / "answer.parquet", table)
    read = pq.read_table(tmp_path / "new" / "answer.parquet")
    assert (read.schema.names, read.schema.types[0], read.to_pylist()) == (
        ["a", "a_2"],
        pa.int16(),
        [{"a": 1, "a_2": {"x": [1]}}],
    )
    write(["a", "b"], [(1, "x"), (None, "y")], "parquet", tmp_path / "own.parquet")
    assert pq.read_table(tmp_path / "own.parquet").to_pylist() == [{"a": 1, "b": "x"}, {"a": None, "b": "y"}]
    write(["a", "b"], [], "parquet", tmp_path / "empty.parquet")
    assert pq.read_table(tmp_path / "empty.parquet").schema.names == ["a", "b"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.parquet", "new", "own.parquet"]


def test_parquet_goes_into_a_pipe_but_not_to_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "from sea_lion.catalog.tables import write; write(['a'], [(1,)], 'parquet')"
    piped = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    assert pq.read_table(pa.BufferReader(piped)).to_pylist() == [{"a": 1}]
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    with pytest.raises(SeaLionError, match="--output"):
        write(["a"], [(1,)], "parquet")


def test_what_parquet_cannot_hold_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SeaLionError, match="no form in Parquet"):
        write(["a"], [(1,), ("x",)], "parquet", tmp_path / "x.parquet")
    assert list(tmp_path.iterdir()) == []


def test_text_goes_to_a_file_or_to_the_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(["a"], [("x",)], "csv", tmp_path / "deep" / "x.csv")
    assert (tmp_path / "deep" / "x.csv").read_text() == "a\nx\n"
    write(["a"], [("\x1b[31m",)], "csv")
    assert capsys.readouterr().out == "a\n\x1b[31m\n"


def test_on_a_terminal_programs_forms_are_harmless_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    write(["a"], [("\x1b[31m",)], "csv")
    assert capsys.readouterr().out == "a\n\\x1b[31m\n"
