"""Query results for people and for programs.

For people every string is shown, not obeyed: urls, domains and names come from the web, so terminal escapes, control characters
and marks that reorder a line appear as `\\x1b`, `\\u202e`, and no text is taken for markup. For programs (CSV, JSON, Parquet) a
string is as it is. Widths count the cells that a terminal takes, as Thai and Khmer marks take none and Chinese two.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
import sys
from collections.abc import Callable, Sequence
from datetime import date, time
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .errors import SeaLionError
from .paths import partial_beside

if TYPE_CHECKING:
    import pyarrow as pa

FORMATS = ("table", "csv", "json", "markdown", "parquet")
Columns = Sequence[str]
Rows = Sequence[Sequence[Any]]

# Controls, line separators, marks that change the direction of text, tag characters, lone surrogates. Zero-width spaces and
# joiners stay: they are spelling in Khmer, Thai, Lao and Burmese.
_HIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ufeff\ud800-\udfff\U000e0000-\U000e007f]")
# What Markdown would obey: an image in a cell would be fetched by whoever reads the card. `_` inside a word is only itself.
_MARKDOWN = re.compile(r"[\\`*\[\]<|~$]|(?<!\w)_|_(?!\w)")


def write(columns: Columns, rows: Rows, form: str, output: Path | None = None, table: pa.Table | None = None) -> None:
    """Write a result in one of `FORMATS` to a file, or to standard output.

    `table` is the same result in Arrow, where there is one: a Parquet file then keeps its types. Raises SeaLionError for
    Parquet on a terminal, and for a result that has no form in it.
    """
    if form == "parquet":
        _write_parquet(columns, rows, output, table)
    elif output is None:
        text = render(columns, rows, form)
        print(visible(text, kept="\n") if sys.stdout.isatty() and form in ("csv", "json") else text)
    else:
        output.parent.mkdir(parents=True, exist_ok=True)
        with partial_beside(output) as partial:
            partial.write_text(render(columns, rows, form) + "\n", "utf-8", newline="")
            partial.replace(output)


def render(columns: Columns, rows: Rows, form: str) -> str:
    """The rows in one of the `FORMATS` that are text, without a closing newline."""
    return _FORMS[form](columns, rows)


def visible(text: str, kept: str = "") -> str:
    """The text with whatever a terminal or a reader would not see as a character spelled out, but for the characters `kept`."""
    return _HIDDEN.sub(lambda match: match[0] if match[0] in kept else _spelled(match[0]), text)


def cell(value: Any) -> str:
    """One value for people: thousands apart, floats to four significant places, nothing for NULL."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _spelled(character: str) -> str:
    short = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}.get(character)
    code = ord(character)
    return short or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")


def _csv(columns: Columns, rows: Rows) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_json_text(value) if isinstance(value, (dict, list, tuple)) else value for value in row] for row in rows)
    return text.getvalue().removesuffix("\n")


def _json(columns: Columns, rows: Rows) -> str:
    names = unique(columns)
    return json.dumps(
        [dict(zip(names, map(_plain, row), strict=True)) for row in rows], ensure_ascii=False, indent=1, allow_nan=False
    )


def _json_text(value: Any) -> str:
    return json.dumps(_plain(value), ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    """A value that JSON has: times in ISO 8601, whole decimals as whole numbers, bytes in hexadecimal, no number as null."""
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (date, time)):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.hex()
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def _markdown(columns: Columns, rows: Rows) -> str:
    def line(values: Sequence[Any]) -> str:
        return "| " + " | ".join(_MARKDOWN.sub(r"\\\g<0>", visible(cell(value))) for value in values) + " |"

    return "\n".join([line(columns), "| " + " | ".join("---" for _ in columns) + " |", *(line(row) for row in rows)])


def _table(columns: Columns, rows: Rows) -> str:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for i, column in enumerate(columns):
        is_number = any(isinstance(row[i], (int, float)) and not isinstance(row[i], bool) for row in rows)
        table.add_column(Text(visible(column)), justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(visible(cell(value))) for value in row))
    is_terminal = sys.stdout.isatty()
    written = io.StringIO()
    Console(file=written, force_terminal=is_terminal, width=None if is_terminal else 1000).print(table)
    return "\n".join(line.rstrip() for line in written.getvalue().rstrip().splitlines())


_FORMS: dict[str, Callable[[Columns, Rows], str]] = {"table": _table, "csv": _csv, "json": _json, "markdown": _markdown}


def unique(columns: Columns) -> list[str]:
    """The names, the later ones of the same name numbered: `n`, `n_2`."""
    names: list[str] = []
    for column in columns:
        name, number = column, 1
        while name in names:
            number += 1
            name = f"{column}_{number}"
        names.append(name)
    return names


def _write_parquet(columns: Columns, rows: Rows, output: Path | None, table: pa.Table | None) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = unique(columns)
    try:
        turned = list(zip(*rows, strict=True)) or [()] * len(names)
        whole: pa.Table = pa.table(list(map(pa.array, turned)), names=names) if table is None else table.rename_columns(names)
        target: Path | TextIO = output or sys.stdout
        if isinstance(target, Path):
            target.parent.mkdir(parents=True, exist_ok=True)
            with partial_beside(target) as partial:
                with partial.open("wb") as file:  # not by Arrow, whose errors do not say which file
                    pq.write_table(whole, file)
                partial.replace(target)
        elif target.isatty():
            raise SeaLionError("parquet is not for a terminal: name a file with --output, or send it into one")
        else:
            pq.write_table(whole, target.buffer)
    except pa.ArrowException as error:
        raise SeaLionError(f"this result has no form in Parquet: {str(error).splitlines()[0]}") from error
