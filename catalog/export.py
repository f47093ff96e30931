"""A corpus as a folder to publish: shards, a card, Croissant metadata; as Parquet or as JSON Lines.

The folder is made beside its place and renamed, and every shard is compared with its digest on the way, so that what is
published is what the record says. Nothing is uploaded here.
"""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from .cards import croissant, dataset_card
from .errors import SeaLionError
from .fingerprint import file_digest
from .records import Artifact, Corpus
from .store import Store, verify_files

Form = Literal["parquet", "jsonl"]
MEDIA_TYPES: dict[str, str] = {"parquet": "application/x-parquet", "jsonl": "application/jsonlines"}
PLAN = "plan.parquet"
BATCH = 1_000
"""Rows held in memory."""

PlanWriter = Callable[[Artifact, Path, Path], bool]
"""Writes the crawl plan of a corpus (the artifact, its folder, the file to write); False when nothing came from a crawl."""


def export(store: Store, ref: str, target: Path, form: Form, write_plan: PlanWriter | None = None) -> Path:
    """Write a corpus into a new folder, ready for a hub; returns the folder.

    Raises SeaLionError when the reference is no corpus or the folder exists, CorruptInput for a shard that is not as made.
    """
    artifact = store.require(ref)
    if not isinstance(artifact.body, Corpus):
        raise SeaLionError(f"{artifact.ref} is a {artifact.kind}, not a corpus")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise SeaLionError(f"{target}: exists already; name a folder that does not")
    final = target.resolve()  # `.` has no name of its own
    final.parent.mkdir(parents=True, exist_ok=True)
    partial = final.with_name(f".{final.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        _write(store, artifact, artifact.body, partial, form, write_plan)
        if final.exists():
            final.rmdir()
        partial.rename(final)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _write(store: Store, artifact: Artifact, corpus: Corpus, folder: Path, form: Form, write_plan: PlanWriter | None) -> None:
    origin, schema = store.folder(artifact.ref), None
    files: list[tuple[str, int, str]] = []
    for shard in corpus.shards:
        verify_files(origin, artifact, iter([shard.path]))
        name = f"data/{shard.path.removeprefix('shards/')}"
        path = folder / (name if form == "parquet" else name.removesuffix(".parquet") + ".jsonl.gz")
        path.parent.mkdir(parents=True, exist_ok=True)
        schema = schema or pq.read_schema(origin / shard.path)
        if form == "parquet":
            shutil.copyfile(origin / shard.path, path)
        else:
            _write_lines(origin / shard.path, path)
        files.append((path.relative_to(folder).as_posix(), path.stat().st_size, file_digest(path)))
    columns = [(field.name, _croissant_type(field.type)) for field in schema or []]
    has_plan = write_plan is not None and write_plan(artifact, origin, folder / PLAN)
    (folder / "croissant.json").write_text(croissant(artifact, files, columns, MEDIA_TYPES[form]), "utf-8")
    (folder / "README.md").write_text(dataset_card(store, artifact, PLAN if has_plan else ""), "utf-8")


def _write_lines(shard: Path, path: Path) -> None:
    with path.open("wb") as raw, gzip.GzipFile("", "wb", compresslevel=6, fileobj=raw, mtime=0) as file:
        for batch in pq.ParquetFile(shard).iter_batches(BATCH):
            for row in batch.to_pylist():
                file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")


def _croissant_type(kind: Any) -> str:
    return "sc:Text" if pa.types.is_string(kind) else "sc:Integer" if pa.types.is_integer(kind) else "sc:Float"
