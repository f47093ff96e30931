"""Tables of cards: each is the answer to a query that stands below it, written so that it can be read back and compared.

Names in a catalog come from the web: the module `tables` escapes them, so that nothing in a cell can end the table, begin a
query or be read as markup. A card is read back by a Markdown parser, as a hub reads it; own code that looks for lines beginning
with `|` was refused, for it could be shown another table than the reader is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from markdown_it import MarkdownIt

from .tables import render

TOTAL = "total"
"""First cell of a closing row that sums the rows above it."""
FENCE = "```"
_READER = MarkdownIt("commonmark").enable("table")


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One table of a card."""

    heading: str
    """Of its section."""
    sql: str
    """The query, as it is printed."""
    about: str = ""
    """A sentence above the table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """One table as a card has it."""

    heading: str
    """Of the section it stands in."""
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    """Cells as they are written."""
    sql: str
    """The query below it, empty for none."""


def prose(text: str) -> str:
    """A text in the same escapes as a cell's."""
    return render([text], [], "markdown").splitlines()[0].removeprefix("| ").removesuffix(" |")


def written(question: Question, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A section: heading, table and query."""
    about = f"{question.about}\n\n" if question.about else ""
    table = render(columns, rows, "markdown")
    return f"## {question.heading}\n\n{about}{table}\n\n{FENCE}sql\n{question.sql}\n{FENCE}\n"


def tables(text: str) -> list[Table]:
    """The tables of a card, as a hub shows them, each with the query that stands below it."""
    found: list[Table] = []
    heading, rows, is_heading = "", list[list[str]](), False
    for token in _READER.parse(text):
        if token.type == "heading_open":
            is_heading = True
        elif token.type == "table_open":
            rows = []
        elif token.type == "tr_open":
            rows.append([])
        elif token.type == "inline":
            if is_heading:
                heading, is_heading = token.content, False
            elif token.level > 3 and rows:
                rows[-1].append(token.content.strip())
        elif token.type == "table_close":
            found.append(Table(heading=heading, columns=tuple(rows[0]), rows=tuple(map(tuple, rows[1:])), sql=""))
            rows = []
        elif token.type == "fence" and token.info.strip() == "sql" and found and not found[-1].sql:
            found[-1] = replace(found[-1], sql=token.content.removesuffix("\n"))
    return found


def has_html_table(text: str) -> bool:
    """Whether a card shows a table in HTML, which no query stands for."""
    found = (part for token in _READER.parse(text) for part in (token, *(token.children or ())))
    return any(part.type in ("html_block", "html_inline") and "<t" in part.content.casefold() for part in found)


def sums(table: Table) -> list[str]:
    """What does not add up: where a table ends with a total, whole numbers add up to it, and percentages to 100."""
    if len(table.rows) < 2 or table.rows[-1][:1] != (TOTAL,):
        return []
    problems, total = [], table.rows[-1]
    for i, column in enumerate(table.columns):
        values = [_number(row[i]) if i < len(row) else None for row in table.rows]
        given = [value for value in values[:-1] if value is not None]
        last = values[-1]
        if last is None or not given:
            continue
        if column.endswith("percent"):
            if abs(sum(given) - 100) > 0.01 * (len(given) + 1) or last != 100:
                problems.append(f"table {table.heading!r}, column {column!r}: the rows make {sum(given):.4g} percent, not 100")
        elif all(value == int(value) for value in given) and "." not in total[i] and sum(given) != last:
            problems.append(f"table {table.heading!r}, column {column!r}: the rows add up to {sum(given):,.0f}, not {total[i]}")
    return problems


def _number(text: str) -> float | None:
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return None
