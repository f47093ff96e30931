"""Reads instruction conversations and preference pairs from JSON Lines, strictly, into one Parquet file.

A file's name says its language (`tha.jsonl`, `tha-letters.jsonl`; `general` and `maths` are English). One bad row refuses the
whole set and is named: a trainer that skips rows silently trains on something else than its recipe says.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..catalog.errors import CorruptInput
from ..catalog.languages import LANGUAGES, language_code
from ..catalog.records import Conversations
from ..catalog.store import Job, Made, write_rows
from .recipe import ConversationsRecipe

log = logging.getLogger(__name__)

FILE = "conversations.parquet"
ENGLISH_SETS = ("general", "maths")
"""File names that are topics; their language is English."""

MESSAGES_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("language", pa.string()),
        ("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
    ]
)
PREFERENCE_SCHEMA = pa.schema([(name, pa.string()) for name in ("id", "language", "prompt", "chosen", "rejected")])


def gather_conversations(job: Job[ConversationsRecipe]) -> Made:
    """Read the recipe's files into `conversations.parquet`, in the order of the files; raises CorruptInput for a bad row."""
    form = job.recipe.form
    rows: list[dict[str, Any]] = []
    stems: dict[str, Path] = {}
    for path in dict.fromkeys(job.files["files"]):
        if path.stem in stems:
            raise CorruptInput(path, "", f"has the name of {stems[path.stem]}: ids would not be unique")
        stems[path.stem] = path
        rows += read_rows(path, form)
    write_rows(job.folder / FILE, rows, MESSAGES_SCHEMA if form == "messages" else PREFERENCE_SCHEMA)
    languages = dict(sorted(Counter(row["language"] for row in rows).items()))
    log.info("%s: %d rows in %d languages", job.recipe.ref, len(rows), len(languages))
    return Made(body=Conversations(form=form, rows=len(rows), languages=languages))


def read_rows(path: Path, form: str) -> list[dict[str, Any]]:
    """The rows of one file, with `id` (`<stem>-<line>`) and `language`; raises CorruptInput naming file and line."""
    language = file_language(path)
    rows = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            value = json.loads(line.decode("utf-8"))
            row = _messages_row(value) if form == "messages" else _preference_row(value)
        except UnicodeDecodeError as error:
            raise CorruptInput(path, f"line {number}", f"is not UTF-8 at byte {error.start + 1}") from error
        except json.JSONDecodeError as error:
            raise CorruptInput(path, f"line {number}", f"is not JSON: {error.msg} at column {error.colno}") from error
        except ValueError as error:
            raise CorruptInput(path, f"line {number}", str(error)) from error
        rows.append({"id": f"{path.stem}-{number:04}", "language": language, **row})
    if not rows:
        raise CorruptInput(path, "", "holds no row")
    return rows


def file_language(path: Path) -> str:
    """The language that a file's name says; raises CorruptInput when it says none."""
    if path.stem in ENGLISH_SETS:
        return "eng"
    language = language_code(path.stem.partition("-")[0])
    if language not in LANGUAGES:
        names = ", ".join([*LANGUAGES, *ENGLISH_SETS])
        raise CorruptInput(path, "", f"{path.stem!r} names no language; name the file by one of {names}")
    return language


def _messages_row(row: Any) -> dict[str, Any]:
    _require_keys(row, ("messages",), "a row")
    messages = row["messages"]
    if not isinstance(messages, list):
        raise ValueError(f"messages must be a list, not {type(messages).__name__}")
    for message in messages:
        _require_keys(message, ("role", "content"), "a message")
        _require_text(message["content"], "content")
    roles = [message["role"] for message in messages]
    turns = roles[1:] if roles[:1] == ["system"] else roles
    if not turns or turns != ["user", "assistant"] * (len(turns) // 2):
        raise ValueError(f"roles must alternate user, assistant after an optional system and end with assistant, not {roles}")
    return {"messages": messages}


def _preference_row(row: Any) -> dict[str, Any]:
    _require_keys(row, ("prompt", "chosen", "rejected"), "a row")
    for key in ("prompt", "chosen", "rejected"):
        _require_text(row[key], key)
    if row["chosen"] == row["rejected"]:
        raise ValueError("chosen and rejected are the same")
    return dict(row)


def _require_keys(value: Any, keys: tuple[str, ...], what: str) -> None:
    if not isinstance(value, dict):
        raise ValueError(f"{what} must be an object, not {type(value).__name__}")
    if set(value) != set(keys):
        raise ValueError(f"{what} must have exactly the keys {', '.join(keys)}, not {', '.join(value) or 'none'}")


def _require_text(value: Any, key: str) -> None:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{key} must be text that is not empty, not {value!r}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{key} holds half a surrogate pair at character {error.start + 1}") from error
