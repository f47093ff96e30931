"""Offline mirrors: the leaderboard's data as files in a folder, with the digest of each.

Data sets come from a folder of downloads: `org/name` folders, or the hub's own cache (`datasets--org--name/snapshots`), in
Parquet, JSON lines or CSV. Files are copied byte for byte, so that a digest here is the digest on the hub, under
`org/name/README.md` that lists configurations and splits as the hub does: `load_dataset` reads the mirror too. Our own tasks
do not call it. They read the files themselves, each checked against its digest while it is read; `load_dataset` would keep a
second copy in a cache of its own, which outlives the mirror and is checked by nobody.

The sentence splitter of NLTK (`punkt_tab`) is part of a mirror: lm-eval's IFEval downloads it on import, goes on when that
fails, and only stops when all answers are generated and it wants to count their sentences.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from ...catalog.errors import CorruptInput
from .definition import TaskSource, datasets_needed

MANIFEST = "mirror.json"
FORMATS = (".parquet", ".jsonl", ".json", ".csv")
PUNKT = "nltk_data/tokenizers/punkt_tab"
PUNKT_FILES = tuple(
    f"{PUNKT}/english/{name}" for name in ("abbrev_types.txt", "collocations.tab", "ortho_context.tab", "sent_starters.txt")
)
PUNKT_TASK = "leaderboard_ifeval"
LFS = b"version https://git-lfs"


class MirrorFile(NamedTuple):
    """One file of a mirror."""

    path: str
    """Relative to the mirror, with `/`."""
    sha256: str
    """Digest of its bytes."""
    bytes: int
    """Its size."""
    rows: int
    """Rows of a data file, 0 for any other."""


class MirroredFiles(NamedTuple):
    """What was written into a mirror, and what could not be."""

    files: tuple[MirrorFile, ...]
    """Sorted by path; `mirror.json`, which lists the others, is not among them."""
    missing: tuple[str, ...]
    """One line a task that cannot be asked: its name, a colon, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mirror:
    """A mirror, opened; its files are checked as they are read."""

    folder: Path
    """Where it lies."""
    files: Mapping[str, MirrorFile]
    """By path."""
    splits: Mapping[str, Mapping[str, tuple[str, ...]]]
    """Task to split to the paths of its files."""
    missing: tuple[str, ...]
    """As in `MirroredFiles`."""


def mirror_files(source: Path, target: Path) -> MirroredFiles:
    """Write a mirror of the downloads in `source` into the folder `target`; `mirror.json` is written last.

    A task whose data are not there is named in `missing`, and the mirror serves the others. Raises CorruptInput for a file
    that cannot be read, and when there are no data for any task.
    """
    files: dict[str, MirrorFile] = {}
    splits: dict[str, dict[str, list[str]]] = {}
    missing: list[str] = []
    for dataset, tasks in datasets_needed():
        folder = _dataset_folder(source, dataset)
        for task in tasks:
            found = _split_files(folder, task) if folder else None
            if found is None:
                missing.append(f"{task.task}: {_absence(source, dataset, folder, task)}")
                continue
            splits[task.task] = {split: [f"{dataset}/{name}" for name in names] for split, names in found.items()}
            for name in [name for names in found.values() for name in names]:
                path = f"{dataset}/{name}"
                if path not in files:
                    assert folder is not None
                    files[path] = _copied(folder / name, target, path)
        _write_card(target, dataset, tasks, splits, files)
    if not splits:
        problem = "holds none of the leaderboard's data sets, neither as org/name folders nor as the hub's cache"
        raise CorruptInput(source, "", f"{problem}; the first that is missing is {missing[0]}")
    if PUNKT_TASK in splits:
        _mirror_punkt(source, target, files, missing)
    _write_manifest(target, files, splits, missing)
    return MirroredFiles(tuple(files[path] for path in sorted(files)), tuple(missing))


def _dataset_folder(source: Path, dataset: str) -> Path | None:
    """Where the data set lies: `source/org/name`, or the snapshot of the hub's cache that its branch `main` points to."""
    plain = source / dataset
    if plain.is_dir():
        return plain
    cached = f"datasets--{dataset.replace('/', '--')}"
    for cache in (source / cached, source / "hub" / cached):
        main = cache / "refs" / "main"
        if main.is_file() and (cache / "snapshots" / main.read_text("utf-8").strip()).is_dir():
            return cache / "snapshots" / main.read_text("utf-8").strip()
        snapshots = [path for path in cache.glob("snapshots/*") if path.is_dir()]
        if len(snapshots) == 1:
            return snapshots[0]
        if snapshots:
            raise CorruptInput(cache, "", f"holds {len(snapshots)} snapshots and no refs/main that says which one to take")
    return None


def _absence(source: Path, dataset: str, folder: Path | None, task: TaskSource) -> str:
    if folder is None:
        return f"{source} has no {dataset}"
    config = f"configuration {task.config!r}" if task.config else "no configuration"
    return f"{folder} has no file of {config} and split {' or '.join(map(repr, task.splits))}"


def _split_files(folder: Path, task: TaskSource) -> dict[str, list[str]] | None:
    """Split to its data files, relative to the folder; None when one split has none."""
    card = _card_files(folder, task.config)
    found: dict[str, list[str]] = {}
    for split in task.splits:
        places = [task.config, "data", "."] if not task.config else [task.config]
        guesses = [f"{place}/{split}{rest}" for place in places for rest in ("-*", ".*")]
        guesses += [f"{task.config}.*", f"data/{task.config}.*"] if task.config else []
        for pattern in card.get(split, ()) or guesses:
            names = sorted(path.relative_to(folder).as_posix() for path in folder.glob(pattern.lstrip("/")) if _is_data(path))
            found.setdefault(split, []).extend(names)
            if names and not card.get(split):
                break  # the first of the usual places that holds something
    return found if all(found.get(split) for split in task.splits) else None


def _is_data(path: Path) -> bool:
    return path.suffix in FORMATS and path.is_file()


def _card_files(folder: Path, config: str) -> dict[str, list[str]]:
    """Split to glob patterns, as the data set's README.md has them under `configs`; empty when it says nothing."""
    try:
        _, front, _ = (folder / "README.md").read_text("utf-8").split("---\n", 2)
        configs = (yaml.safe_load(front) or {}).get("configs") or []
    except (FileNotFoundError, ValueError, yaml.YAMLError, AttributeError):
        return {}
    named = [entry for entry in configs if entry.get("config_name", "default") == (config or "default")]
    chosen = named or (configs if len(configs) == 1 and not config else [])
    files = chosen[0].get("data_files") if chosen else None
    if isinstance(files, str) or (isinstance(files, list) and files and isinstance(files[0], str)):
        files = [{"split": "train", "path": files}]
    patterns: dict[str, list[str]] = {}
    for entry in files or ():
        path = entry["path"]
        patterns.setdefault(str(entry["split"]), []).extend([path] if isinstance(path, str) else path)
    return patterns


def _copied(source: Path, target: Path, path: str) -> MirrorFile:
    """Copy one file, following the links of the hub's cache; a data file is read, to know that it can be."""
    data = source.read_bytes()
    rows = table_of(data, source).num_rows if source.suffix in FORMATS else 0
    return _written(data, target, path, rows)


def _written(data: bytes, target: Path, path: str, rows: int = 0) -> MirrorFile:
    (target / path).parent.mkdir(parents=True, exist_ok=True)
    (target / path).write_bytes(data)
    return MirrorFile(path, hashlib.sha256(data).hexdigest(), len(data), rows)


def _write_card(
    target: Path,
    dataset: str,
    tasks: list[TaskSource],
    splits: Mapping[str, Mapping[str, list[str]]],
    files: dict[str, MirrorFile],
) -> None:
    """The data set's README.md, from which the hub's own library learns configurations and splits."""
    configs: dict[str, dict[str, list[str]]] = {}
    for task in tasks:
        for split, paths in splits.get(task.task, {}).items():
            names = [path.removeprefix(f"{dataset}/") for path in paths]
            configs.setdefault(task.config or "default", {})[split] = names
    if not configs:
        return
    entries = [
        {"config_name": name, "data_files": [{"split": split, "path": paths} for split, paths in found.items()]}
        for name, found in configs.items()
    ]
    text = f"---\n{yaml.safe_dump({'configs': entries}, sort_keys=False)}---\n\nMirror of the data set {dataset}.\n"
    files[f"{dataset}/README.md"] = _written(text.encode(), target, f"{dataset}/README.md")


def _mirror_punkt(source: Path, target: Path, files: dict[str, MirrorFile], missing: list[str]) -> None:
    for path in PUNKT_FILES:
        data = _punkt_bytes(source, path)
        if data is None:
            how = f"python -m nltk.downloader -d {source}/nltk_data punkt_tab"
            missing.append(f"{PUNKT_TASK}: {source} has no {path}; get it with {how}")
            return
        files[path] = _written(data, target, path)


def _punkt_bytes(source: Path, path: str) -> bytes | None:
    """One file of `punkt_tab`, from its folder or from the archive as NLTK's downloader leaves it."""
    if (source / path).is_file():
        return (source / path).read_bytes()
    archive = source / f"{PUNKT}.zip"
    if not archive.is_file():
        return None
    try:
        with zipfile.ZipFile(archive) as opened:
            return opened.read(path.removeprefix("nltk_data/tokenizers/"))
    except (KeyError, zipfile.BadZipFile) as error:
        raise CorruptInput(archive, "", f"is not NLTK's archive of punkt_tab: {error}") from error


def _write_manifest(
    target: Path, files: Mapping[str, MirrorFile], splits: Mapping[str, Mapping[str, list[str]]], missing: list[str]
) -> None:
    listed = {path: files[path]._asdict() for path in sorted(files)}
    body = {"mirror": "leaderboard", "files": list(listed.values()), "splits": splits, "missing": missing}
    draft = target / f"{MANIFEST}.draft"
    draft.write_text(json.dumps(body, indent=1, ensure_ascii=False) + "\n", "utf-8")
    os.replace(draft, target / MANIFEST)


def open_mirror(folder: Path) -> Mirror:
    """The mirror in a folder; raises CorruptInput when there is none."""
    path = folder / MANIFEST
    try:
        body: dict[str, Any] = json.loads(path.read_text("utf-8"))
        files = [MirrorFile(**entry) for entry in body["files"]]
        splits = {task: {split: tuple(paths) for split, paths in found.items()} for task, found in body["splits"].items()}
        missing = tuple(map(str, body["missing"]))
    except FileNotFoundError as error:
        how = "make it with `sea-lion eval mirror leaderboard`"
        raise CorruptInput(folder, "", f"is not a mirror of the leaderboard: it has no {MANIFEST}; {how}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptInput(path, "", f"is not the list of a mirror's files: {error!r}; make the mirror again") from error
    return Mirror(folder=folder, files={file.path: file for file in files}, splits=splits, missing=missing)


def checked_bytes(mirror: Mirror, path: str) -> bytes:
    """A file's bytes; raises CorruptInput, with both digests, when they are not those that were mirrored."""
    remedy = "make the mirror again"
    recorded = mirror.files.get(path)
    if recorded is None:
        raise CorruptInput(mirror.folder, path, f"is not among the mirror's files; {remedy}")
    try:
        data = (mirror.folder / path).read_bytes()
    except OSError as error:
        raise CorruptInput(mirror.folder, path, f"cannot be read: {error.strerror}; {remedy}") from error
    digest = hashlib.sha256(data).hexdigest()
    if digest != recorded.sha256:
        raise CorruptInput(mirror.folder, path, f"its sha256 is {digest}, mirrored was {recorded.sha256}; {remedy}")
    return data


def split_table(mirror: Mirror, task: str, split: str) -> pa.Table:
    """All rows of a task's split, every file checked; raises CorruptInput when a file changed or cannot be read."""
    paths = mirror.splits[task][split]
    tables = [table_of(checked_bytes(mirror, path), mirror.folder / path) for path in paths]
    return pa.concat_tables(tables, promote_options="permissive") if len(tables) > 1 else tables[0]


def table_of(data: bytes, path: Path) -> pa.Table:
    """The rows in a data file's bytes; raises CorruptInput when they are not of the format that its name says."""
    if data.startswith(LFS):
        raise CorruptInput(path, "", "is a pointer of Git LFS, not the data: fetch it with `git lfs pull`")
    try:
        if path.suffix == ".parquet":
            return pq.read_table(io.BytesIO(data))
        return _csv_table(data) if path.suffix == ".csv" else pa.Table.from_pylist(list(_json_rows(data)))
    except (pa.ArrowException, ValueError, OSError) as error:
        problem = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CorruptInput(path, "", f"is not a {path.suffix[1:]} file that can be read: {problem}") from error


def _csv_table(data: bytes) -> pa.Table:
    import pandas  # what the hub's library reads CSV with: the same cells are empty, the same are numbers

    return pa.Table.from_pandas(pandas.read_csv(io.BytesIO(data)), preserve_index=False)


def _json_rows(data: bytes) -> Iterator[dict[str, Any]]:
    text = data.decode("utf-8")
    if text.lstrip().startswith("["):
        yield from json.loads(text)
    else:
        yield from (json.loads(line) for line in text.split("\n") if line.strip())
