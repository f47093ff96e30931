"""What goes into a corpus: the recipe's files as tasks of the pipeline, checked before anything is made.

All that can be wrong with a whole file is found here, so that it is one clear line and costs nothing but the check; within the
pipeline only single records fail.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datatrove.data import Document

from ..catalog.errors import CorruptInput, RecipeError
from ..catalog.languages import LANGUAGES, UNKNOWN
from .quality import CODE
from .recipe import CorpusRecipe, Source
from .warc import check_warc, responses

MAX_LINE_BYTES = 16 << 20
"""Bytes of a JSON line."""
MAX_FILE_BYTES = 4 << 20
"""Bytes of a source code file that are read; a longer one is removed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What one task of the pipeline reads: a WARC or JSON Lines file, or all files of a source of form `files`."""

    source: Source
    paths: tuple[str, ...]
    root: str
    """Folder that ids of form `files` are relative to."""
    documents: int
    """Records it holds."""


def tasks(recipe: CorpusRecipe, files: Mapping[str, Sequence[Path]]) -> list[Task]:
    """The tasks of a recipe, in its order; every file has been read once and is whole.

    Raises CorruptInput for the first file that is not what its form says.
    """
    found: list[Task] = []
    for i, source in enumerate(recipe.source):
        paths = files[f"source.{i}.files"]
        if source.form == "files":
            root = os.path.commonpath([path.parent for path in paths])
            found.append(Task(source=source, paths=tuple(map(str, paths)), root=root, documents=len(paths)))
            continue
        check = check_warc if source.form == "warc" else _check_lines
        found += [Task(source=source, paths=(str(path),), root="", documents=check(path)) for path in paths]
    return found


def check_names(recipe: CorpusRecipe) -> None:
    """Raise RecipeError for a language that is not known, or a source whose name or language cannot be."""
    where = str(recipe.ref)
    for language in recipe.languages:
        if language not in LANGUAGES:
            raise RecipeError(where, "languages", f"{language!r} is not one of {', '.join(LANGUAGES)}")
    for i, source in enumerate(recipe.source):
        if source.language and source.language not in (*LANGUAGES, CODE):
            raise RecipeError(
                where, f"source.{i}.language", f"{source.language!r} is not one of {', '.join(LANGUAGES)}, {CODE}"
            )
        if not source.language and source.form != "warc":
            raise RecipeError(where, f"source.{i}.language", f"is required for form {source.form!r}")
        if not source.name.isidentifier():
            raise RecipeError(where, f"source.{i}.name", f"{source.name!r} must be a plain word: it names a folder")


def _check_lines(path: Path) -> int:
    """The number of documents of a JSON Lines file; raises CorruptInput for the first line that is none."""
    seen: set[str] = set()
    for number, line in lines(path):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise CorruptInput(path, f"line {number}", f"is not JSON: {error}") from error
        if not isinstance(value, dict) or not all(isinstance(value.get(key), str) for key in ("id", "text")):
            raise CorruptInput(path, f"line {number}", "must be an object with the texts `id` and `text`")
        if not value["id"] or not value["id"].isprintable():
            raise CorruptInput(path, f"line {number}", "the id must be printable characters")
        if value["id"] in seen:
            raise CorruptInput(path, f"line {number}", f"the id {value['id']!r} occurs twice")
        seen.add(value["id"])
    if not seen:
        raise CorruptInput(path, "", "holds no documents")
    return len(seen)


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number and text of every line that is not blank; raises CorruptInput for one that is too long or not UTF-8."""
    with path.open("rb") as file:
        number = 0
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(line) > MAX_LINE_BYTES:
                raise CorruptInput(path, f"line {number}", f"is longer than {MAX_LINE_BYTES >> 20} MiB")
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise CorruptInput(path, f"line {number}", f"is not UTF-8 (byte {error.start} of the line)") from error
            if text.strip():
                yield number, text


def documents(task: Task) -> Iterator[Document]:
    """Every record of a task as a document; `metadata["fault"]` says why one cannot be used, `payload` holds a page's bytes."""
    read = {"warc": _pages, "jsonl": _texts, "files": _files}[task.source.form]
    for document in read(task):
        document.metadata |= {"source": task.source.name, "crawl": task.source.crawl}
        yield document


def _pages(task: Task) -> Iterator[Document]:
    path = Path(task.paths[0])
    for response in responses(path):
        metadata: dict[str, Any] = {
            "language": UNKNOWN, "bytes": len(response.payload), "fault": response.fault, "url": response.url,
            "payload": response.payload, "content_type": response.content_type, "claim": response.claim,
            "noted_charset": response.charset, "file": path.name, "offset": response.offset,
        }  # fmt: skip
        yield Document(text="", id=response.id, metadata=metadata)


def _texts(task: Task) -> Iterator[Document]:
    path = Path(task.paths[0])
    for number, line in lines(path):
        value = json.loads(line)
        title = value.get("title")
        text = f"{title}\n{value['text']}" if isinstance(title, str) and title else value["text"]
        yield _given(task, value["id"], text, "", path.name, number)


def _files(task: Task) -> Iterator[Document]:
    for name in task.paths:
        path = Path(name)
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
        fault = "too_large" if len(content) > MAX_FILE_BYTES else ""
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError:
            text, fault = "", fault or "not_utf8"
        relative = path.relative_to(task.root).as_posix()
        document = _given(task, relative, text, fault, relative, 0)
        document.metadata["bytes"] = len(content)
        yield document


def _given(task: Task, id: str, text: str, fault: str, file: str, offset: int) -> Document:
    """A document whose language is known."""
    fault = fault or ("" if text.strip() else "empty")
    metadata = {
        "language": UNKNOWN, "given": task.source.language, "bytes": len(text.encode("utf-8", "replace")), "fault": fault,
        "url": "", "file": file, "offset": offset, "language_score": 1.0,
    }  # fmt: skip
    return Document(text=text, id=id, metadata=metadata)
