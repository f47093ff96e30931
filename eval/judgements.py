"""Judgements that were made, by content: what was once judged is never asked again.

A judgement's key is the digest of all that it depends on: the messages (question, answers and the judge's prompt among them),
the judge and its settings. Each is committed to one SQLite file as soon as it is made, so that a run killed at any moment
loses none but those on their way; several runs may share the file. Refused: a file of JSON lines, which a second writer
tears, and keys made of the question's number, with which a model's new answers are given the verdicts on its old ones.

Scores of translations (`sea_helm.metricx`) are kept in the same way.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..catalog.errors import CorruptInput
from ..catalog.files import write_atomically

BUSY_SECONDS = 60.0
"""How long another run's write is waited for."""
_TABLE = "create table if not exists judgements (key text primary key, judge text not null, text text not null) without rowid"


class Judgements:
    """The judgements of one SQLite file, or of memory alone without a path."""

    def __init__(self, path: Path | None = None) -> None:
        """Open or make the file; raises CorruptInput when it is not a file of judgements."""
        self.path = path
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._connection = sqlite3.connect(
                path or ":memory:", timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            self._connection.execute(_TABLE)
            self._connection.execute("select key, judge, text from judgements limit 1").fetchone()
        except sqlite3.DatabaseError as error:
            raise self._corrupt(error) from error

    def found(self, keys: Iterable[str]) -> dict[str, str]:
        """The texts of those keys that are there."""
        texts = {}
        try:
            for key in keys:
                row = self._connection.execute("select text from judgements where key = ?", (key,)).fetchone()
                if row is not None:
                    texts[key] = str(row[0])
        except sqlite3.DatabaseError as error:
            raise self._corrupt(error) from error
        return texts

    def keep(self, key: str, judge: str, text: str) -> str:
        """Put a judgement on record and return the one that counts: the first, when another run was quicker."""
        text = text.encode("utf-8", "replace").decode()  # half a surrogate pair is nothing that a file can hold
        try:
            self._connection.execute("insert or ignore into judgements values (?, ?, ?)", (key, judge, text))
        except sqlite3.DatabaseError as error:
            raise self._corrupt(error) from error
        return self.found([key])[key]

    def rows(self) -> Iterator[tuple[str, str, str]]:
        """Key, judge and text of all, by key."""
        yield from self._connection.execute("select key, judge, text from judgements order by key")

    def write(self, path: Path) -> int:
        """Write all as recorded judgements, a file of JSON lines that `recorded_judgements` reads, and return their number."""
        lines = [
            json.dumps({"key": key, "judge": judge, "text": text}, ensure_ascii=False) + "\n"
            for key, judge, text in self.rows()
        ]
        write_atomically(path, "".join(lines))
        return len(lines)

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def _corrupt(self, error: sqlite3.DatabaseError) -> CorruptInput:
        return CorruptInput(
            self.path or "memory", "", f"cannot be used as a file of judgements: {error}; restore it, or remove it to ask anew"
        )


def recorded_judgements(path: Path) -> dict[str, str]:
    """Key to text of a file of recorded judgements, JSON lines or Parquet; raises CorruptInput for anything else."""
    rows = recorded_rows(path, {"key": str, "text": str})
    texts: dict[str, str] = {}
    for number, row in enumerate(rows, 1):
        if texts.setdefault(row["key"], row["text"]) != row["text"]:
            raise CorruptInput(path, f"row {number}", f"another judgement of the key {row['key']} came before")
    return texts


def recorded_rows(path: Path, columns: Mapping[str, type[str] | type[float]]) -> Sequence[Mapping[str, Any]]:
    """The rows of a file of records, JSON lines or Parquet, which must have these columns; raises CorruptInput."""
    if not path.is_file():
        raise CorruptInput(path, "", "no such file of recorded answers")
    try:
        rows = pq.read_table(path).to_pylist() if path.suffix == ".parquet" else list(_json_lines(path))
    except (pa.ArrowException, OSError) as error:
        raise CorruptInput(path, "", f"is not a Parquet file: {str(error).splitlines()[0]}") from error
    for number, row in enumerate(rows, 1):
        for name, kind in columns.items():
            value = row.get(name) if isinstance(row, dict) else None
            if not (type(value) in (int, float) if kind is float else isinstance(value, str)):
                raise CorruptInput(path, f"row {number}", f"{name} must be {'a number' if kind is float else 'a text'}")
    return rows


def _json_lines(path: Path) -> Iterator[Any]:
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            yield json.loads(line)
        except ValueError as error:
            raise CorruptInput(path, f"line {number}", f"is not JSON: {error}") from error
