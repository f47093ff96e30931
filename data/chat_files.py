"""Rows of chat files one by one, in bounded memory: JSON Lines and JSON arrays, compressed or not, and Parquet.

A line that is no JSON costs that line only. A JSON array is read element by element, where `json.load` would hold all of it;
what is wrong within it ends the file, as nothing says where the next element begins.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from ..catalog.errors import CorruptInput
from .chat_formats import BadRow
from .readers import opened

MAX_ROW_BYTES = 16 << 20
"""Bytes of a line, characters of an array's element."""
BATCH = 256
"""Rows of Parquet decoded at once."""
BUFFER = 1 << 20

Rows = Iterator[tuple[str, Any]]
"""Where a row is (`line 3`), and the row, or BadRow when it cannot be read."""


def raw_rows(path: Path) -> Rows:
    """All rows of a file, whose content tells its form; raises CorruptInput for a file that is cut short or no such file."""
    with path.open("rb") as file:
        if file.read(4) == b"PAR1":
            return _parquet(path)
    return _json(path)


def stem(path: Path) -> str:
    """A file's name without its endings: `tha` of `tha.jsonl.gz`."""
    name = path.name
    for ending in (".gz", ".zst", ".bz2", ".jsonl", ".json", ".parquet"):
        name = name.removesuffix(ending) or name
    return name


def _parquet(path: Path) -> Rows:
    number = 0
    try:
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=BUFFER) as file:
            for batch in file.iter_batches(batch_size=BATCH, use_threads=False):
                for row in batch.to_pylist():
                    number += 1
                    yield f"row {number}", row
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise CorruptInput(path, f"row {number + 1} or later", f"cannot be read as Parquet: {_line(error)}") from error


def _json(path: Path) -> Rows:
    try:
        with opened(path) as file:
            start = file.read(64).removeprefix(codecs.BOM_UTF8).lstrip()
        is_array = start.startswith(b"[") and ".jsonl" not in path.name
        with opened(path) as file:
            yield from _elements(path, file) if is_array else _lines(file)
    except (OSError, EOFError) as error:
        raise CorruptInput(path, "", f"is cut short or damaged: {_line(error)}") from error


def _lines(file: BinaryIO) -> Rows:
    number = 0
    while line := file.readline(MAX_ROW_BYTES + 1):
        number += 1
        where = f"line {number}"
        if len(line) > MAX_ROW_BYTES:
            while line and not line.endswith(b"\n"):
                line = file.readline(BUFFER)
            yield where, BadRow("too_large", f"is longer than {MAX_ROW_BYTES >> 20} MiB")
            continue
        try:
            yield where, json.loads(line.rstrip(b"\r\n").decode())
        except UnicodeDecodeError as error:
            yield where, BadRow("not_utf8", f"is not UTF-8 at byte {error.start + 1}")
        except json.JSONDecodeError as error:
            yield where, BadRow("not_json", f"is not JSON: {error.msg} at column {error.colno}")
        except (RecursionError, ValueError) as error:
            yield where, BadRow("not_json", f"is not JSON: {_line(error)}")


def _elements(path: Path, file: BinaryIO) -> Rows:
    """Decode one element after the other from a window of the text; an element cut by its end is decoded again with more."""
    decode, window, number = codecs.getincrementaldecoder("utf-8-sig")(), "", 0
    scan, is_open = json.JSONDecoder().raw_decode, False

    def more() -> bool:
        nonlocal window
        block = file.read(max(BUFFER, len(window)))  # doubling: a long element is not decoded again and again
        try:
            window += decode.decode(block, final=not block)
        except UnicodeDecodeError as error:
            raise CorruptInput(path, f"element {number + 1} or later", "is not UTF-8") from error
        return bool(block)

    def corrupt(problem: str) -> CorruptInput:
        return CorruptInput(path, f"element {number + 1}", problem)

    while True:
        window = window.lstrip()
        if not window and more():
            continue
        if not window:
            raise corrupt("is missing: the array does not end")
        if window[0] == "]" and is_open:
            break
        if window[0] != ("," if number else "["):
            raise corrupt(f"follows {window[:20]!r}, not a comma or the array's end")
        body, is_open = window[1:].lstrip(), True
        if body.startswith("]") and not number:
            break
        try:
            value, end = scan(body)
        except (json.JSONDecodeError, RecursionError) as error:
            if len(window) > MAX_ROW_BYTES or isinstance(error, RecursionError) or not more():
                raise corrupt(f"is not JSON, or longer than {MAX_ROW_BYTES >> 20} MiB") from error
            continue
        window, number = body[end:], number + 1
        yield f"element {number}", value


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
