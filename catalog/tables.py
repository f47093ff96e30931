"""Query results for people and for programs."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

FORMATS = ("table", "csv", "json", "markdown")


def render(columns: Sequence[str], rows: Sequence[Sequence[Any]], form: str) -> str:
    """The rows in one of `FORMATS`, without a closing newline."""
    if form == "json":
        return json.dumps([dict(zip(columns, row, strict=True)) for row in rows], ensure_ascii=False, indent=1, default=str)
    if form == "csv":
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([columns, *rows])
        return text.getvalue().rstrip("\n")
    if form == "markdown":
        lines = [columns, ["---"] * len(columns), *rows]
        return "\n".join("| " + " | ".join(cell(value).replace("|", "\\|") for value in line) + " |" for line in lines)
    return _table(columns, rows)


def cell(value: Any) -> str:
    """One value for people: thousands apart, floats to four significant places, nothing for NULL."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for i, column in enumerate(columns):
        is_number = any(isinstance(row[i], (int, float)) and not isinstance(row[i], bool) for row in rows)
        table.add_column(column, justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(cell(value) for value in row))
    is_terminal = sys.stdout.isatty()
    console = Console(file=io.StringIO(), force_terminal=is_terminal, width=None if is_terminal else 1000)
    console.print(table)
    output = console.file
    assert isinstance(output, io.StringIO)
    return "\n".join(line.rstrip() for line in output.getvalue().rstrip().splitlines())
