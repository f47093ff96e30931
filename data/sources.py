"""What goes into a corpus: the recipe's files as tasks of the pipeline, and the records of a task as documents.

A task is one large file, or small files of one source together, so that a crawl's 80,000 files and a folder of scripts both
come out at minutes of work a task. It does not depend on the number of workers: a build that is taken up again with more of
them finds what it has done.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from datatrove.data import Document

from ..catalog.errors import CorruptInput, RecipeError
from ..catalog.fingerprint import fingerprint
from ..catalog.languages import LANGUAGES, UNKNOWN
from .plan import read_plan
from .planned import Where, plan_tasks, planned_pages
from .presets import Preset, preset_of
from .readers import Row, check, read_rows
from .recipe import CorpusRecipe, Source
from .streams import MirrorFile
from .thresholds import CODE
from .warc import Response, check_warc, responses

GROUP_BYTES = 64 << 20
"""Files of a source up to this size together are one task."""
GROUP_FILES = 2_000
"""And up to this number."""
MAX_LINE_BYTES = 16 << 20
"""Bytes of a JSON line."""
MAX_FILE_BYTES = 4 << 20
"""Bytes of a source code file that are read; a longer one is removed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What one task of the pipeline reads."""

    source: Source
    key: str
    """Digest of the source's place in the recipe and of the names and sizes below."""
    paths: tuple[str, ...]
    """Local files, or places below the mirror for a listing."""
    root: str = ""
    """The common folder of the source's local files: what `file` of a document is relative to."""
    batch: int = -1
    """Form `plan`: which part of the plan."""

    @property
    def label(self) -> str:
        """The file's name, or the first one's and the number of the others."""
        first = next(iter(self.paths), "") or self.source.reading.hub
        more = f" and {len(self.paths) - 1} more" if len(self.paths) > 1 else ""
        return f"{first}{more}" if self.batch < 0 else f"{first}, part {self.batch}"


def tasks(recipe: CorpusRecipe, files: Mapping[str, Sequence[Path]], mirror: str) -> list[Task]:
    """The tasks of a recipe, in its order.

    Raises CorruptInput for a listing or plan that cannot be read and, where bad files are refused, for a file whose beginning
    is not what its form says: found before hours of work and not after.
    """
    found: list[Task] = []
    for i, source in enumerate(recipe.source):
        if source.listing:
            found += [_task(i, source, (name,), "") for name in listed(source, mirror)]
            continue
        if source.reading.hub:
            found.append(_task(i, source, ("",), ""))
            continue
        paths = files.get(f"source.{i}.files", [])
        if source.form == "plan":
            for path in paths:
                read_plan(path)
                found += [_task(i, source, (str(path),), "", n) for n in range(plan_tasks(path))]
            continue
        for path in paths if recipe.bad_files == "refuse" else ():
            _check(source, path)
        root = os.path.commonpath([path.parent for path in paths])
        found += [_task(i, source, tuple(map(str, group)), root) for group in _grouped(paths)]
    return found


def _check(source: Source, path: Path) -> None:
    if source.form == "warc":
        check_warc(path)
    elif source.form == "rows":
        check(preset_of(source.preset, source.reading.changes()), path)


def _task(number: int, source: Source, paths: tuple[str, ...], root: str, batch: int = -1) -> Task:
    """`root`: the common folder of a source's local files; empty for what is read elsewhere."""
    sizes = [Path(path).stat().st_size if root else 0 for path in paths]
    names = [os.path.relpath(path, root) if root else path for path in paths]
    key = fingerprint([number, source.form, names, sizes, batch])[:32]
    return Task(source=source, key=key, paths=paths, root=root, batch=batch)


def _grouped(paths: Sequence[Path]) -> Iterator[list[Path]]:
    group: list[Path] = []
    size = 0
    for path in paths:
        weight = path.stat().st_size
        if group and (size + weight > GROUP_BYTES or len(group) == GROUP_FILES):
            yield group
            group, size = [], 0
        group.append(path)
        size += weight
    if group:
        yield group


def listed(source: Source, mirror: str) -> list[str]:
    """The chosen files of a listing, as places below the mirror; raises CorruptInput for one that is empty or leaves it."""
    with MirrorFile(mirror, source.listing) as file:
        content = file.read()
    text = (gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content).decode("utf-8", "replace")
    names = [line.strip() for line in text.splitlines() if line.strip()]
    for name in names:
        if name.startswith("/") or ":" in name or ".." in name.split("/"):
            raise CorruptInput(source.listing, "", f"{name!r} is not a place below the mirror")
    chosen = names[source.first : source.first + source.count if source.count else None]
    if not chosen:
        raise CorruptInput(source.listing, "", f"has {len(names)} files; none is chosen")
    return chosen


def check_names(recipe: CorpusRecipe) -> None:
    """Raise RecipeError for a language that is not known, or a source whose name or language cannot be."""
    where = str(recipe.ref)
    if not recipe.source or not recipe.languages:
        raise RecipeError(where, "source" if recipe.languages else "languages", "is empty")
    for language in recipe.languages:
        if language not in LANGUAGES:
            raise RecipeError(where, "languages", f"{language!r} is not one of {', '.join(LANGUAGES)}")
    for i, source in enumerate(recipe.source):
        if source.language and source.language not in (*LANGUAGES, CODE):
            raise RecipeError(
                where, f"source.{i}.language", f"{source.language!r} is not one of {', '.join(LANGUAGES)}, {CODE}"
            )
        if not source.language and source.form in ("jsonl", "files"):
            raise RecipeError(where, f"source.{i}.language", f"is required for form {source.form!r}")
        if source.language and source.form in ("warc", "plan"):
            raise RecipeError(where, f"source.{i}.language", f"form {source.form!r} has its languages from the pages")
        if not source.name.isidentifier():
            raise RecipeError(where, f"source.{i}.name", f"{source.name!r} must be a plain word: it names a folder")
        if source.preset:
            preset_of(source.preset, source.reading.changes(), where, f"source.{i}.preset")


def documents(task: Task, where: Where, refuses_cut: bool) -> Iterator[Document]:
    """Every record of a task as a document.

    `metadata["fault"]` says why one cannot be used; `record` holds a page as it is stored. Raises CorruptInput for a file that
    is not what its form says and, with `refuses_cut`, for one that is cut short.
    """
    forms = {"warc": _pages, "plan": _planned, "rows": _rows, "jsonl": _texts, "files": _files}
    for document in forms[task.source.form](task, where, refuses_cut):
        document.metadata.setdefault("crawl", task.source.crawl)
        document.metadata["source"] = task.source.name
        yield document


def _pages(task: Task, where: Where, refuses_cut: bool) -> Iterator[Document]:
    for place in task.paths:
        if task.source.listing:
            with MirrorFile(where.mirror, place) as stream:
                yield from _records(responses(stream), place, refuses_cut)
        else:
            path = Path(place)
            check_warc(path)
            yield from _records(responses(path), path.relative_to(task.root).as_posix(), refuses_cut, place)


def _records(found: Iterator[Response], name: str, refuses_cut: bool, place: str = "") -> Iterator[Document]:
    for response in found:
        if response.fault == "cut_record" and refuses_cut:
            problem = "the file ends within this record: it is cut short; fetch it again"
            raise CorruptInput(place or name, f"byte {response.offset}", problem)
        yield _page(response, name, response.offset, response.length)


def _page(response: Response, file: str, offset: int, length: int) -> Document:
    metadata: dict[str, Any] = {
        "language": UNKNOWN, "bytes": response.size, "fault": response.fault, "url": response.url, "record": response,
        "claim": response.claim, "date": response.date, "file": file, "offset": offset, "length": length,
    }  # fmt: skip
    return Document(text="", id="-", metadata=metadata)


def _planned(task: Task, where: Where, refuses_cut: bool) -> Iterator[Document]:
    """The records of one part of a plan; one that could not be fetched is a document with a fault."""
    folder = where.folder / task.key
    for response, row in planned_pages(Path(task.paths[0]), task.batch, replace(where, folder=folder), refuses_cut):
        document = _page(response, row.file, row.offset, row.length)
        document.metadata["crawl"] = row.crawl
        yield document
    shutil.rmtree(folder, ignore_errors=True)


def _rows(task: Task, where: Where, refuses_cut: bool) -> Iterator[Document]:
    preset = preset_of(task.source.preset, task.source.reading.changes())
    for name in task.paths:
        for row in read_rows(preset, name):
            yield _row(task, preset, row)


def _row(task: Task, preset: Preset, row: Row) -> Document:
    """Its own word for its language is believed, or compared with what its text is identified as."""
    said = task.source.language or row.language
    is_believed = bool(task.source.language) or preset.trust == "believed"
    document = _given(said if is_believed else "", row.id, row.text, row.fault, row.file, row.position)
    document.metadata |= {"url": row.url, "licence": row.licence, "date": row.date, "said": said}
    document.metadata["is_declared"] = bool(task.source.language)
    if row.crawl:
        document.metadata["crawl"] = row.crawl
    return document


def _texts(task: Task, where: Where, refuses_cut: bool) -> Iterator[Document]:
    for name in task.paths:
        path, seen = Path(name), set[str]()
        for number, line in lines(path):
            value = _object(path, number, line)
            if value["id"] in seen:
                raise CorruptInput(path, f"line {number}", f"the id {value['id']!r} occurs twice")
            seen.add(value["id"])
            title = value.get("title")
            text = f"{title}\n{value['text']}" if isinstance(title, str) and title else value["text"]
            yield _given(task.source.language, value["id"], text, "", path.name, number)
        if not seen:
            raise CorruptInput(path, "", "holds no documents")


def _object(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise CorruptInput(path, f"line {number}", f"is not JSON: {error}") from error
    if not isinstance(value, dict) or not all(isinstance(value.get(key), str) for key in ("id", "text")):
        raise CorruptInput(path, f"line {number}", "must be an object with the texts `id` and `text`")
    if not value["id"] or not value["id"].isprintable():
        raise CorruptInput(path, f"line {number}", "the id must be printable characters")
    return value


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


def _files(task: Task, where: Where, refuses_cut: bool) -> Iterator[Document]:
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
        document = _given(task.source.language, relative, text, fault, relative, 0)
        document.metadata["bytes"] = len(content)
        yield document


def _given(language: str, id: str, text: str, fault: str, file: str, offset: int) -> Document:
    """A document that is text already; its language is believed where it is known."""
    fault = fault or ("" if text.strip() else "empty")
    metadata = {
        "language": UNKNOWN, "given": language, "bytes": len(text.encode("utf-8", "replace")), "fault": fault,
        "url": "", "file": file, "offset": offset, "language_score": 1.0,
    }  # fmt: skip
    return Document(text=text, id=id, metadata=metadata)
