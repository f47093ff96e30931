"""A corpus as a folder to publish: shards, a manifest of them, a card, Croissant metadata; as Parquet or as JSON Lines.

The folder is made beside its place and renamed, and every shard is compared with its digest on the way, so that what is
published is what the record says. A licence above the parents' is refused before anything is written. Nothing is uploaded here.
"""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pyarrow.parquet as pq

from .cards import card
from .croissant import MANIFEST, column_type, croissant, manifest
from .errors import SeaLionError
from .files import verify_files
from .fingerprint import file_digest
from .inheritance import check_claim, inherited, inherited_licence
from .records import Artifact, Corpus
from .store import Store

Form = Literal["parquet", "jsonl"]
MEDIA_TYPES: dict[str, str] = {"parquet": "application/x-parquet", "jsonl": "application/jsonlines"}
PLAN = "plan.parquet"
BATCH = 1_000
"""Rows held in memory."""

PlanWriter = Callable[[Artifact, Path, Path], bool]
"""Writes the crawl plan of a corpus (the artifact, its folder, the file to write); False when nothing came from a crawl."""


def export(
    store: Store, ref: str, target: Path, form: Form, write_plan: PlanWriter | None = None, *, licence: str = ""
) -> Path:
    """Write a corpus into a new folder, ready for a hub; returns the folder.

    Raises SeaLionError when the reference is no corpus or the folder exists, LicenceRefused for a licence that gives more than
    what the corpus was made from, CorruptInput for a shard that is not as made.
    """
    artifact = store.require(ref)
    if not isinstance(artifact.body, Corpus):
        raise SeaLionError(f"{artifact.ref} is a {artifact.kind}, not a corpus")
    if licence:
        check_claim(store, str(artifact.ref), licence)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise SeaLionError(f"{target}: exists already; name a folder that does not")
    final = target.resolve()  # `.` has no name of its own
    final.parent.mkdir(parents=True, exist_ok=True)
    partial = final.with_name(f".{final.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        listed = _copy(store, artifact, artifact.body, partial, form)
        origin = store.folder(artifact.ref)
        plan = PLAN if write_plan is not None and write_plan(artifact, origin, partial / PLAN) else ""
        (partial / MANIFEST).write_text(listed, "utf-8")
        (partial / "croissant.json").write_text(corpus_croissant(store, artifact, listed, form, licence), "utf-8")
        (partial / "README.md").write_text(card(store, str(artifact.ref), licence, plan), "utf-8")
        if final.exists():
            final.rmdir()
        partial.rename(final)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def corpus_croissant(store: Store, artifact: Artifact, listed: str = "", form: Form = "parquet", licence: str = "") -> str:
    """Croissant metadata of a corpus as it is exported; `listed` is the manifest, by default that of its Parquet form."""
    if not isinstance(artifact.body, Corpus):
        raise SeaLionError(f"{artifact.ref} is a {artifact.kind}; Croissant describes a corpus")
    ref, shards = str(artifact.ref), artifact.body.shards
    if licence:
        check_claim(store, ref, licence)
    schema = pq.read_schema(store.folder(artifact.ref, [shards[0].path]) / shards[0].path) if shards else []
    columns = [(field.name, column_type(field.type)) for field in schema]
    sizes = {file.path: file.bytes for file in artifact.files}
    listed = listed or manifest((_place(shard.path, "parquet"), sizes[shard.path], shard.sha256) for shard in shards)
    return croissant(store, artifact, listed, columns, MEDIA_TYPES[form], licence or inherited_licence(inherited(store, ref)))


def _copy(store: Store, artifact: Artifact, corpus: Corpus, folder: Path, form: Form) -> str:
    """Copy the shards, each compared with its digest; returns the manifest."""
    folder.mkdir()
    files = []
    for shard in corpus.shards:
        origin = store.folder(artifact.ref, [shard.path])
        verify_files(origin, artifact, [shard.path])
        name = _place(shard.path, form)
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if form == "parquet":
            shutil.copyfile(origin / shard.path, path)
        else:
            _write_lines(origin / shard.path, path)
        files.append((name, path.stat().st_size, file_digest(path)))
    return manifest(files)


def _place(shard: str, form: Form) -> str:
    """Where a shard lies in the exported folder."""
    name = f"data/{shard.removeprefix('shards/')}"
    return name if form == "parquet" else name.removesuffix(".parquet") + ".jsonl.gz"


def _write_lines(shard: Path, path: Path) -> None:
    with path.open("wb") as raw, gzip.GzipFile("", "wb", compresslevel=6, fileobj=raw, mtime=0) as file:
        for batch in pq.ParquetFile(shard).iter_batches(BATCH):
            for row in batch.to_pylist():
                file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
