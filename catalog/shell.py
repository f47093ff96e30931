"""`sea-lion catalog open`: a prompt over the catalog, for people and for pipes.

Each statement is answered as `catalog sql` answers it, in a child process of its own (`confined`), so a paste from anywhere is
safe and a query that runs away ends. One connection for the whole session was refused: it would have to be trusted. For
notebooks there is `sea_lion.catalog.open_catalog`.
"""

from __future__ import annotations

import atexit
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from .confined import Answer
from .errors import SeaLionError
from .tables import FORMATS, write

PROMPT, MORE = "sea-lion> ", "     ...> "
HELP = """\
SELECT ...;            an answer; a statement ends with a semicolon
.tables                tables and views
.schema NAME           columns of a table or view
.format FORMAT         table, csv, json or markdown
.quit                  the end (or Ctrl-D); Ctrl-C drops a line or stops a query
"""
TABLES = "SELECT table_name AS name, table_type AS type FROM information_schema.tables ORDER BY 1"
SCHEMA = """SELECT column_name AS name, data_type AS type FROM information_schema.columns WHERE table_name = $1
    ORDER BY ordinal_position"""
HISTORY_LINES = 1_000


def run(answered: Callable[[str, list[str]], Answer], *, form: str = "table", source: TextIO | None = None) -> int:
    """Answer statements from a terminal or a pipe until they end; `answered` takes one, with its parameters.

    Returns 0, or 2 when a statement of a pipe was refused: the rest of the pipe is not run then.
    """
    given: TextIO = sys.stdin if source is None else source
    is_terminal = given.isatty()
    if is_terminal:
        _remember()
        print("A statement ends with a semicolon; .help says more, Ctrl-D ends.", file=sys.stderr)
    for statement in statements(_typed if is_terminal else lambda _: given.readline()):
        command, _, rest = statement.rstrip("; ").partition(" ")
        try:
            if command in (".quit", ".exit"):
                break
            if command == ".format":
                form = _form(rest.strip())
            elif command == ".help":
                print(HELP, end="")
            else:
                _show(answered(*_asked(statement, command, rest.strip())), form)
        except SeaLionError as error:
            print(error, file=sys.stderr)
            if not is_terminal:
                return 2
        except KeyboardInterrupt:
            if not is_terminal:
                raise
            print("stopped", file=sys.stderr)
    return 0


def statements(read: Callable[[bool], str | None]) -> Iterator[str]:
    """The statements and dot commands that `read` gives line by line; what is left at the end counts as a statement too.

    `read` is told whether a statement has begun; it returns an empty text at the end, and None to drop what has begun.
    """
    held = ""
    while (line := read(bool(held))) != "":
        if line is None:
            held = ""
        elif not held and line.strip().startswith("."):
            yield line.strip()
        else:
            *done, held = split(held + line)
            yield from (statement.strip() for statement in done if statement.strip())
            held = held if held.strip() else ""
    if held.strip():
        yield held.strip()


def split(text: str) -> list[str]:
    """The text cut at each semicolon that ends a statement: none in quotes or comments does; the last part is not ended."""
    parts, start, place = [], 0, 0
    ends = {"'": "'", '"': '"', "--": "\n", "/*": "*/", "$$": "$$"}
    while place < len(text):
        opening = next((mark for mark in ends if text.startswith(mark, place)), "")
        if opening:
            end = text.find(ends[opening], place + len(opening))
            if end < 0:
                break
            place = end + len(ends[opening])
            continue
        if text[place] == ";":
            parts.append(text[start:place])
            start = place + 1
        place += 1
    return [*parts, text[start:]]


def _asked(statement: str, command: str, name: str) -> tuple[str, list[str]]:
    """SQL and parameters of a statement or of a dot command; raises SeaLionError for an unknown one."""
    if not statement.startswith("."):
        return statement, []
    if command == ".tables":
        return TABLES, []
    if command == ".schema" and name:
        return SCHEMA, [name]
    raise SeaLionError(f"{command}: there are .tables, .schema NAME, .format FORMAT, .help and .quit")


def _form(name: str) -> str:
    known = [form for form in FORMATS if form != "parquet"]
    if name not in known:
        raise SeaLionError(f".format {name}: one of {', '.join(known)}")
    return name


def _show(answer: Answer, form: str) -> None:
    write(answer.columns, answer.rows(), form, table=answer.table)
    for line in notes(answer):
        print(line, file=sys.stderr)


def notes(answer: Answer) -> list[str]:
    """What a person has to know of an answer beside its rows."""
    cut = (
        [f"only the first {answer.table.num_rows:,} rows are shown; add a LIMIT or ask more narrowly"]
        if answer.truncated
        else []
    )
    return [*cut, *(f"left out: {warning}" for warning in answer.warnings)]


def _typed(is_begun: bool) -> str | None:
    try:
        return input(MORE if is_begun else PROMPT) + "\n"
    except KeyboardInterrupt:
        print()
        return None
    except EOFError:
        print()
        return ""


def _remember() -> None:
    """Keep a history of lines in the home folder, where readline is there."""
    history = Path.home() / ".sea-lion-history"
    with suppress(ImportError, OSError):
        import readline

        readline.set_history_length(HISTORY_LINES)
        with suppress(FileNotFoundError):
            readline.read_history_file(history)
        atexit.register(_written, history)


def _written(history: Path) -> None:
    import readline

    with suppress(OSError):
        readline.write_history_file(history)
