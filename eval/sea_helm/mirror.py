"""SEA-HELM's own files, checked against recorded digests and copied to where the harness reads them.

A mirror is a folder with `seahelm_tasks/…` as in the repository, `hub/ORG/NAME/…` for data sets of the hub (v1.2.1), and
`mirror.json`, which lists each file with its digest. Every file is checked twice: against the digests recorded here when the
mirror is made, against `mirror.json` each time it is read. What the source has not (data of other licences, gated data sets) is
listed as missing, and the tasks that need it are named as such; nothing is fetched.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from ...catalog.errors import CorruptInput
from ...catalog.files import write_atomically
from ...catalog.fingerprint import plain
from ...catalog.recipes import adapter, read_table, read_toml
from ...catalog.records import STRICT
from ..mirror_recipe import Mirror, MirrorFile
from .profile import profile_of
from .templates import TaskSettings, read_tasks

log = logging.getLogger(__name__)

MANIFEST = "mirror.json"
TASKS = "seahelm_tasks"
HUB = "hub"
FIRST = "task_config.yaml"
"""Marks the folder of the benchmark's tasks."""
DATA = (".jsonl", ".parquet")
_SHARD = re.compile(r"-\d{5}-of-\d{5}$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """What is known of one file of a release before it is seen."""

    __pydantic_config__ = STRICT
    path: str
    """Below `seahelm_tasks/`."""
    sha256: str
    """Empty: not recorded."""
    bytes: int
    """0: not recorded."""
    rows: int
    licence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Listed:
    files: tuple[Recorded, ...]


@cache
def recorded(profile: str) -> dict[str, Recorded]:
    """The files of a release by their path below `seahelm_tasks/`."""
    name = f"digests_{profile.removeprefix('sea_helm_')}.toml"
    file = Path(str(package_files(__package__ or ""))) / name
    return {entry.path: entry for entry in read_table(read_toml(file), _Listed, file).files}


def source_files(source: Path, profile: str) -> tuple[str, ...]:
    """The files of a checkout (its root, or its `seahelm_tasks/`) and of downloads beside it that belong to a mirror.

    Relative to `source`. Raises CorruptInput where there is no checkout.
    """
    root = source / TASKS if (source / TASKS).is_dir() else source
    if not (root / FIRST).is_file():
        raise CorruptInput(source, "", f"holds no checkout of SEA-HELM: neither {TASKS}/{FIRST} nor {FIRST} is there")
    found = [root / path for path in recorded(profile) if (root / path).is_file()]
    settings = {path: _text(path.read_bytes(), path) for path in found if path.name == "config.yaml"}
    for name in _hub_names(settings, profile):
        found += [path for folder in _hub_folders(source, name) for path in folder.rglob("*") if _is_data(path)]
    return tuple(sorted(path.relative_to(source).as_posix() for path in found))


def write_mirror(files: Sequence[Path], target: Path, profile: str) -> Mirror:
    """Check files of a checkout and of downloads, copy them into `target`, and write `mirror.json` last.

    Raises CorruptInput, naming the file and both digests, for one that is not as the release has it.
    """
    about = profile_of(profile)
    places = _places(files, profile)
    copied = []
    for place in sorted(places):
        source = places[place]
        content = source.read_bytes()
        known = recorded(profile).get(place.removeprefix(f"{TASKS}/"))
        file = _checked(content, source, place, known, about.tag)
        (target / place).parent.mkdir(parents=True, exist_ok=True)
        (target / place).write_bytes(content)
        copied.append(file)
    unchecked = [place for place in places if not _is_checked(place, profile)]
    if unchecked:
        log.warning("%d files have no recorded digest (%s, …); they are taken as they are", len(unchecked), min(unchecked))
    absent = [entry for path, entry in recorded(profile).items() if f"{TASKS}/{path}" not in places]
    mirror = Mirror(
        benchmark="sea-helm",
        profile=profile,
        revision=about.revision,
        files=tuple(copied),
        missing=tuple(f"{entry.path}: {_absence(entry, about.tag)}" for entry in sorted(absent, key=lambda entry: entry.path)),
    )
    write_atomically(target / MANIFEST, json.dumps(plain(mirror), indent=1, ensure_ascii=False) + "\n")
    return mirror


class OpenMirror:
    """A mirror to read from; each file is compared with its digest when it is read."""

    def __init__(self, folder: Path) -> None:
        """Read `mirror.json`; raises CorruptInput where there is none, or it is no list of SEA-HELM's files."""
        self.folder = folder
        try:
            text = (folder / MANIFEST).read_bytes()
            self.record: Mirror = adapter(Mirror).validate_json(text)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise CorruptInput(folder, MANIFEST, "is missing: make one with 'sea-lion eval mirror sea-helm'") from error
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise CorruptInput(folder / MANIFEST, where, f"is no list of a mirror's files: {first['msg']}") from error
        if self.record.benchmark != "sea-helm":
            raise CorruptInput(folder, "", f"is a mirror of {self.record.benchmark}, not of sea-helm")
        self.files = {file.path: file for file in self.record.files}

    def settings(self) -> dict[str, str]:
        """The text of every YAML file by its path below `seahelm_tasks/`."""
        paths = [path for path in self.files if path.startswith(f"{TASKS}/") and path.endswith(".yaml")]
        return {path.removeprefix(f"{TASKS}/"): _text(self._content(path), self.folder / path) for path in sorted(paths)}

    def paths_of(self, file: str, config: str = "", split: str = "") -> list[str]:
        """Where the rows lie that a task's `filepath` means: a file of the repository, or a split of a hub data set."""
        if file.startswith(f"{TASKS}/"):
            return [file] if file in self.files else []
        prefix = f"{HUB}/{file}/"
        return sorted(path for path in self.files if path.startswith(prefix) and _holds(path[len(prefix) :], config, split))

    def has(self, paths: Iterable[str]) -> bool:
        """Whether all of these files are there, and unaltered; raises CorruptInput for one that was altered."""
        return all(path in self.files and self._content(path) is not None for path in paths)

    def rows(self, paths: Iterable[str]) -> list[dict[str, Any]]:
        """The rows of files, in order; raises CorruptInput for an altered file and for a line that is no row."""
        return [row for path in paths for row in _rows(self._content(path), self.folder / path)]

    def _content(self, path: str) -> bytes:
        file, place = self.files[path], self.folder / path
        try:
            content = place.read_bytes()
        except OSError as error:
            raise CorruptInput(place, "", "is listed in mirror.json and cannot be read: make the mirror again") from error
        _compare(content, place, file.sha256, "make the mirror again")
        return content


def _text(content: bytes, source: Path) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CorruptInput(source, f"byte {error.start}", "is not UTF-8") from error


def _checked(content: bytes, source: Path, place: str, known: Recorded | None, tag: str) -> MirrorFile:
    hint = f"is this release {tag}?"
    if known and known.sha256:  # before its rows are read: an altered file need not have any
        _compare(content, source, known.sha256, hint)
    digest, rows = hashlib.sha256(content).hexdigest(), _row_count(content, source)
    if known and not known.sha256 and known.bytes and (len(content), rows) != (known.bytes, known.rows):
        problem = f"has {len(content):,} bytes and {rows:,} rows, not {known.bytes:,} and {known.rows:,}"
        raise CorruptInput(source, "", f"{problem} (sha256 {digest}, not recorded); {hint}")
    licence = known.licence if known else ""
    return MirrorFile(path=place, sha256=digest, bytes=len(content), rows=rows, licence=licence)


def _compare(content: bytes, source: Path, expected: str, hint: str) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise CorruptInput(source, "", f"was altered: its sha256 is {found}, not {expected}; {hint}")


def _is_checked(place: str, profile: str) -> bool:
    known = recorded(profile).get(place.removeprefix(f"{TASKS}/"))
    return bool(known and known.sha256)


def _absence(entry: Recorded, tag: str) -> str:
    if entry.licence.startswith("LicenseRef-") or "-NC" in entry.licence:
        return f"not in the source; its licence ({entry.licence}) does not let us pass it on: take it from a checkout of {tag}"
    return f"not in the source ({entry.licence}): take it from a checkout of {tag}"


def _places(files: Sequence[Path], profile: str) -> dict[str, Path]:
    """Where each file goes in a mirror."""
    roots = [file.parent for file in files if file.name == FIRST]
    if len(roots) != 1:
        raise CorruptInput(FIRST, "", f"is named {len(roots)} times; a mirror is made of one checkout")
    settings = {file: _text(file.read_bytes(), file) for file in files if file.name == "config.yaml"}
    names = _hub_names(settings, profile)
    places = {}
    for file in files:
        inside = file.relative_to(roots[0]).as_posix() if file.is_relative_to(roots[0]) else ""
        place = f"{TASKS}/{inside}" if inside in recorded(profile) else _hub_place(file, names)
        if not place:
            raise CorruptInput(file, "", f"is no file of SEA-HELM {profile_of(profile).tag}")
        places[place] = file
    return places


def _hub_names(settings: Mapping[Path, str], profile: str) -> list[str]:
    """The data sets of the hub that the tasks read."""
    tasks: list[TaskSettings] = []
    for path, text in settings.items():
        tasks += read_tasks(text, profile, path).values()
    names = {texts.file for task in tasks for texts in task.languages.values()}
    return sorted(name for name in names if not name.startswith(f"{TASKS}/"))


def _hub_folders(source: Path, name: str) -> Iterator[Path]:
    if (source / name).is_dir():
        yield source / name
    yield from (source / f"datasets--{name.replace('/', '--')}" / "snapshots").glob("*")


def _hub_place(file: Path, names: Sequence[str]) -> str:
    for name in names:
        cached = re.escape(f"datasets--{name.replace('/', '--')}")
        found = re.search(rf"/(?:{re.escape(name)}|{cached}/snapshots/[^/]+)/(.+)$", file.as_posix())
        if found:
            return f"{HUB}/{name}/{found[1]}"
    return ""


def _holds(path: str, config: str, split: str) -> bool:
    """Whether a file of a hub data set belongs to a configuration's split, in any of the hub's customary layouts."""
    *folders, file = path.split("/")
    stem = _SHARD.sub("", file.partition(".")[0])
    return (config in folders and split in (stem, *folders)) or stem in (f"{config}_{split}", f"{config}-{split}")


def _is_data(path: Path) -> bool:
    return path.suffix in DATA and path.is_file() and path.stat().st_size > 0


def _row_count(content: bytes, source: Path) -> int:
    return sum(1 for _ in _rows(content, source)) if source.suffix in DATA else 0


def _rows(content: bytes, source: Path) -> Iterator[dict[str, Any]]:
    if source.suffix == ".parquet":
        try:
            yield from pq.read_table(io.BytesIO(content)).to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise CorruptInput(source, "", f"is not a whole Parquet file: {str(error).splitlines()[0]}") from error
        return
    for number, line in enumerate(content.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise CorruptInput(source, f"line {number}", f"is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise CorruptInput(source, f"line {number}", "is no row (a JSON object)")
        yield row
