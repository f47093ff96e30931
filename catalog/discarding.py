"""Discarding: an artifact's large files deleted on purpose, its record kept.

A search makes more weights than a disk holds, but what was tried must stay on record. `discarded.json` beside the record lists
the deleted files and is written before the first of them goes, so that no reader takes a killed discarding, or a finished one,
for damage; `recipe.toml` beside it makes the artifact again. Refused: a change of the record, which the digests of promotions
and the fingerprints of what was made from it rest on; and an artifact of its own that says so, which could be lost or forged
apart from what it is about.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from .errors import CorruptInput, SeaLionError
from .fingerprint import canonical_json
from .paths import checked_path, content_in
from .records import STRICT, Artifact

DISCARDED = "discarded.json"
"""The mark, beside `artifact.json`."""
REMAKE = "recipe.toml"
"""The artifact's recipe, beside the mark."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Discarded:
    """What was taken away from an artifact."""

    __pydantic_config__ = STRICT

    files: tuple[str, ...]
    """Files of the record that are deleted, or about to be."""
    reason: str
    """Why, in words that end `its files were discarded ...`."""
    verb: str
    """The command that makes the artifact again from `recipe.toml`: `merge`."""


class FilesDiscarded(SeaLionError):
    """An artifact that is asked for files which were deleted on purpose."""

    def __init__(self, ref: str, folder: Path, mark: Discarded) -> None:
        count = len(mark.files)
        what = mark.files[0] if count == 1 else f"{count} files ({mark.files[0]}, ...)"
        super().__init__(f"{ref}: {what} discarded {mark.reason}; remake it with: sea-lion {mark.verb} {folder / REMAKE}")


def read_mark(folder: Path) -> Discarded | None:
    """What was discarded of the artifact in a folder, None when nothing was; raises CorruptInput for a damaged mark."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return parse_mark(content_in(descriptor, DISCARDED), folder / DISCARDED)
    except FileNotFoundError:
        return None
    finally:
        os.close(descriptor)


def parse_mark(data: bytes, source: Path | str) -> Discarded:
    """The mark that these bytes are; raises CorruptInput, naming `source`, for any others."""
    try:
        mark = _reader().validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise CorruptInput(source, where, f"does not say what was discarded: {first['msg'].splitlines()[0]}") from error
    for path in mark.files:
        checked_path(path)
    return mark


@cache
def _reader() -> TypeAdapter[Discarded]:
    return TypeAdapter(Discarded)


def beside_record(artifact: Artifact, mark: Discarded) -> dict[str, str]:
    """Name to text of the files that say so beside the record, the mark itself, which counts, last."""
    comment = f"{artifact.ref}, of which files were discarded {mark.reason}; this makes them again."
    return {REMAKE: recipe_toml(artifact.recipe, comment), DISCARDED: canonical_json(mark) + "\n"}


def discardable(artifact: Artifact, patterns: Collection[str]) -> tuple[str, ...]:
    """The files of an artifact that the patterns match, in order.

    Raises SeaLionError when there are none, or when one of them is a table of the index: a rebuilt index would lack its rows.
    """
    found = tuple(file.path for file in artifact.files if any(fnmatchcase(file.path, pattern) for pattern in patterns))
    if not found:
        raise SeaLionError(f"{artifact.ref}: has no file like {', '.join(patterns)} to discard")
    for table, pattern in artifact.tables.items():
        taken = [path for path in found if fnmatchcase(path, pattern)]
        if taken:
            raise SeaLionError(f"{artifact.ref}: {taken[0]} is the table {table} of the index and cannot be discarded")
    return found


def check_whole(folder: Path, artifact: Artifact, paths: Iterable[str] | None = None) -> None:
    """Raise FilesDiscarded when files of an artifact (all, or those named) were discarded."""
    mark = read_mark(folder)
    if mark is not None and (paths is None or not set(mark.files).isdisjoint(paths)):
        raise FilesDiscarded(str(artifact.ref), folder, mark)


def recipe_toml(recipe: Mapping[str, Any], comment: str = "") -> str:
    """A recipe's plain values as a recipe file that reads back as the same recipe.

    The standard library only reads TOML; JSON's strings, numbers and lists of these are TOML's, and None, which TOML does not
    have, is what a field that is left out has.
    """
    lines = [f"# {line}" for line in comment.splitlines()]
    return "\n".join([*lines, *_table(recipe, "")]) + "\n"


def _table(values: Mapping[str, Any], prefix: str) -> list[str]:
    given = {key: value for key, value in values.items() if value is not None}
    nested = {key: value for key, value in given.items() if _is_nested(value)}
    lines = [f"{_key(key)} = {_value(value)}" for key, value in given.items() if key not in nested]
    for key, value in nested.items():
        path = prefix + _key(key)
        if isinstance(value, Mapping):
            lines += ["", f"[{path}]", *_table(value, f"{path}.")]
        else:
            for row in value:
                lines += ["", f"[[{path}]]", *_table(row, f"{path}.")]
    return lines


def _is_nested(value: Any) -> bool:
    """Whether a value is a table or a list of tables, which come after all plain values; an empty table is a plain one."""
    if isinstance(value, Mapping):
        return bool(value)
    return isinstance(value, list) and any(isinstance(item, Mapping) for item in value)


def _value(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # which JSON has in a text as it is


def _key(key: str) -> str:
    return key if key.replace("_", "").replace("-", "").isalnum() and key.isascii() else _value(key)
