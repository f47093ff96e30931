"""The store of artifacts: folders with an `artifact.json`, made whole or not at all.

An artifact lives at `{root}/{name}/{version}/`. It is made in a work folder named by its fingerprint, so that an interrupted
making can be taken up again; `artifact.json` is written there last, and one rename of the folder makes the artifact exist. The
refused alternative is a database as the truth: many workers could not write to it (see the facts on DuckDB), and it could be
lost. What a stage's alias points to is not stored either: it is the stage's latest promotion.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from .errors import CorruptInput, DriftError, MissingArtifact, SeaLionError, Unfinished
from .fingerprint import canonical_json, difference, file_digest, fingerprint, plain
from .licences import combined_licence
from .provenance import provenance
from .recipes import STAGE_PREFIX, Recipe, adapter, external_files, identity, recipe_fingerprint, references
from .records import BODIES, Artifact, ArtifactRef, Body, FileDigest, GateDecision, Input, Promotion

log = logging.getLogger(__name__)

RECORD = "artifact.json"
WORK = ".work"
SCRATCH = ".scratch"
"""A maker's own folder within its work folder: no part of the artifact, and gone when that is published."""
LOOKED_UP = ("ngrams",)
"""Kinds of input that nothing is taken from: their licence does not pass on."""
R = TypeVar("R", bound=Recipe)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Where and how a recipe is made; never part of its identity."""

    workers: int = 1
    """Processes for the steps that can use several."""
    device: str = "cpu"
    """`cpu` or `cuda`."""
    executor: str = "local"
    """What runs the tasks of a corpus: `local`, `ray` or `slurm`."""
    executor_settings: Mapping[str, str] = field(default_factory=dict)
    """Settings of that executor, e.g. `partition` and `time` of Slurm."""
    mirror: str = "https://data.commoncrawl.org/"
    """Where the files that a recipe names by their place in a crawl are read: an http(s) or s3 address, or a folder."""
    show_progress: bool = False
    """Whether standard error is a terminal that shows progress bars."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job(Generic[R]):
    """One recipe being made: all that an area's verb needs to know."""

    recipe: R
    """What to make."""
    inputs: Mapping[str, Artifact]
    """Reference, as the recipe writes it, to the artifact it means."""
    files: Mapping[str, list[Path]]
    """Key path of a `Files` field to the files its patterns match."""
    folder: Path
    """Where to write; what an earlier, interrupted attempt left is still there."""
    store: Store
    """To reach further artifacts (read only)."""
    options: Options = field(default_factory=Options)
    """Where and how."""

    def folder_of(self, ref: str) -> Path:
        """The folder of an input, by its reference as the recipe writes it."""
        return self.store.folder(self.inputs[ref].ref)


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What a verb made: the body, and the index tables it wrote as Parquet files into the job's folder."""

    body: Body
    """The record special to the kind."""
    tables: dict[str, str] = field(default_factory=dict)
    """Table of the index to file name, or a pattern of several."""
    licences: tuple[str, ...] = ()
    """Of what was read from outside the catalog, beside the recipe's own."""


Maker = Callable[[Job[Any]], Made]


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A recipe with its inputs resolved, and whether it has been made."""

    recipe: Recipe
    content: dict[str, Any]
    """Its identity."""
    fingerprint: str
    """Digest of the identity."""
    inputs: dict[str, Artifact]
    files: dict[str, list[Path]]
    made: Artifact | None
    """The artifact, when it exists with this fingerprint."""


class Store:
    """The artifacts below one folder."""

    def __init__(self, root: Path) -> None:
        if root.exists() and not root.is_dir():
            raise SeaLionError(f"{root}: is a file; the catalog is a folder")
        self.root = root
        self._read: dict[str, Artifact] = {}

    # -- reading ---------------------------------------------------------------------------------------------------------

    def folder(self, ref: ArtifactRef) -> Path:
        """Where the artifact is, or would be."""
        return self.root / ref.name / ref.version

    def get(self, ref: ArtifactRef) -> Artifact | None:
        """The artifact, or None; raises CorruptInput when its record cannot be read."""
        if str(ref) not in self._read:
            path = self.folder(ref) / RECORD
            if not path.is_file():
                return None
            self._read[str(ref)] = read_artifact(path)
        return self._read[str(ref)]

    def require(self, ref: str) -> Artifact:
        """The artifact of `name@version` or `stage:NAME`; raises MissingArtifact with the nearest names."""
        if ref.startswith(STAGE_PREFIX):
            return self.stage_model(ref.removeprefix(STAGE_PREFIX))[0]
        try:
            found = self.get(ArtifactRef.parse(ref))
        except ValueError as error:
            raise MissingArtifact(ref, [str(artifact.ref) for artifact in self.all()]) from error
        if found is None:
            raise MissingArtifact(ref, [str(artifact.ref) for artifact in self.all()])
        return found

    def all(self) -> list[Artifact]:
        """Every artifact, ordered by reference."""
        refs = (
            ArtifactRef(name=path.parent.parent.relative_to(self.root).as_posix(), version=path.parent.name)
            for path in self.root.glob(f"**/{RECORD}")
            if WORK not in path.relative_to(self.root).parts
        )
        artifacts = (self.get(ref) for ref in refs)
        return sorted((artifact for artifact in artifacts if artifact), key=lambda artifact: str(artifact.ref))

    def promotions(self, stage: str) -> list[Artifact]:
        """The promotions of a stage, earliest first."""
        found = [a for a in self.all() if isinstance(a.body, Promotion) and a.body.stage == stage]
        return sorted(found, key=lambda artifact: _promotion(artifact).sequence)

    def stage_model(self, stage: str) -> tuple[Artifact, str]:
        """The model a stage's alias stands for, and how it was found.

        The latest promotion decides. Without one, a refusal under the policy's `keep-parent` leaves the parent in the stage's
        place. Raises MissingArtifact otherwise.
        """
        promoted = self.promotions(stage)
        if promoted:
            last = promoted[-1]
            return self.require(_promotion(last).model), f"stage {stage}: {last.ref}"
        for artifact in sorted(self.all(), key=lambda artifact: artifact.provenance.created, reverse=True):
            body = artifact.body
            if isinstance(body, GateDecision) and body.stage == stage and body.verdict != "pass" and body.kept:
                return self.require(body.kept), f"stage {stage}: {body.verdict}, the policy keeps {body.kept}"
        raise MissingArtifact(f"{STAGE_PREFIX}{stage}", [f"{STAGE_PREFIX}{name}" for name in self.stages()])

    def stages(self) -> dict[str, str]:
        """Stage to the reference of the model promoted to it."""
        latest: dict[str, Promotion] = {}
        for artifact in self.all():
            if isinstance(artifact.body, Promotion):
                body = artifact.body
                if body.stage not in latest or latest[body.stage].sequence < body.sequence:
                    latest[body.stage] = body
        return {stage: latest[stage].model for stage in sorted(latest)}

    # -- making ----------------------------------------------------------------------------------------------------------

    def plan(self, recipe: Recipe, base: Path) -> Planned:
        """Resolve a recipe's inputs and say whether it is made.

        `base` is the folder its file patterns are relative to. Raises MissingArtifact for an input that does not exist and
        DriftError for a version that was made from another recipe.
        """
        inputs = {ref: self.require(ref) for _, ref in references(recipe)}
        for found in inputs.values():
            if found.ref.version == "dev" and recipe.version != "dev":
                raise SeaLionError(f"{recipe.ref}: {found.ref} may change under it; only version 'dev' is made from 'dev'")
        files = external_files(recipe, base)
        content = identity(recipe, inputs, files)
        digest = recipe_fingerprint(content)
        made = self.get(recipe.ref)
        if made is not None and made.fingerprint != digest:
            if recipe.version != "dev":
                raise DriftError(str(recipe.ref), difference(made.identity, content))
            made = None
        return Planned(recipe=recipe, content=content, fingerprint=digest, inputs=inputs, files=files, made=made)

    def make(self, recipe: Recipe, base: Path, maker: Maker, options: Options) -> Artifact:
        """The artifact of a recipe, made now unless it exists already.

        Bad input (any SeaLionError but Unfinished) leaves nothing behind; what an earlier, killed try had done stays.
        """
        planned = self.plan(recipe, base)
        if planned.made is not None:
            return planned.made
        work = self.work_folder(planned)
        work.mkdir(parents=True, exist_ok=True)
        with _locked(work.parent / f"{fingerprint(str(recipe.ref))[:16]}.lock"):
            self._read.pop(str(recipe.ref), None)
            existing = self.plan(recipe, base).made
            if existing is not None:
                return existing
            work.mkdir(exist_ok=True)
            if (work / RECORD).is_file():  # killed between the record and the renaming
                return self._publish(read_artifact(work / RECORD), work)
            is_resumed = any(work.iterdir())
            start = time.perf_counter()
            job = Job(recipe=recipe, inputs=planned.inputs, files=planned.files, folder=work, store=self, options=options)
            try:
                made = maker(job)
                artifact = self._record(planned, made, work, time.perf_counter() - start)
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise Unfinished(f"{recipe.ref}: no space left on the device; free some, then run it again") from error
                raise
            except SeaLionError as error:
                if not is_resumed and not isinstance(error, Unfinished):
                    shutil.rmtree(work, ignore_errors=True)
                raise
            return self._publish(artifact, work)

    def work_folder(self, planned: Planned) -> Path:
        """Where a recipe is made before it exists; the same for every attempt at the same recipe."""
        return self.root / WORK / fingerprint([str(planned.recipe.ref), planned.fingerprint])[:16]

    def _record(self, planned: Planned, made: Made, work: Path, seconds: float) -> Artifact:
        recipe = planned.recipe
        inputs = tuple(
            Input(role=role, ref=str(planned.inputs[ref].ref), fingerprint=planned.inputs[ref].fingerprint, via=self._via(ref))
            for role, ref in references(recipe)
        )
        return Artifact(
            ref=recipe.ref,
            kind=next(kind for kind, body in BODIES.items() if isinstance(made.body, body)),
            fingerprint=planned.fingerprint,
            recipe=plain(recipe),
            identity=planned.content,
            inputs=inputs,
            licence=combined_licence(
                recipe.licence,
                [artifact.licence for artifact in planned.inputs.values() if artifact.kind not in LOOKED_UP] + [*made.licences],
            ),
            files=tuple(_digests(work)),
            tables=made.tables,
            body=made.body,
            provenance=provenance(seconds),
        )

    def _via(self, ref: str) -> str:
        return self.stage_model(ref.removeprefix(STAGE_PREFIX))[1] if ref.startswith(STAGE_PREFIX) else ""

    def _publish(self, artifact: Artifact, work: Path) -> Artifact:
        write_atomically(work / RECORD, canonical_json(artifact))
        shutil.rmtree(work / SCRATCH, ignore_errors=True)
        final = self.folder(artifact.ref)
        final.parent.mkdir(parents=True, exist_ok=True)
        if final.exists():  # version `dev`, or a folder without a record
            if any(path.parent != final for path in final.rglob(RECORD)):
                raise SeaLionError(f"{artifact.ref}: its folder holds other artifacts; choose another name or version")
            shutil.rmtree(final)
        os.replace(work, final)
        _sync_folder(final.parent)
        self._read[str(artifact.ref)] = artifact
        return artifact


def read_artifact(path: Path) -> Artifact:
    """Read an `artifact.json`; raises CorruptInput when it is not one."""
    try:
        artifact: Artifact = adapter(Artifact).validate_json(path.read_bytes())
    except ValueError as error:
        raise CorruptInput(path, "", f"is not an artifact record: {str(error).splitlines()[0]}") from error
    return artifact


def verify_files(folder: Path, artifact: Artifact, paths: Iterator[str] | None = None) -> None:
    """Compare an artifact's files (all, or those named) with their digests; raises CorruptInput for the first that differs."""
    wanted = set(paths) if paths is not None else None
    for digest in artifact.files:
        if wanted is not None and digest.path not in wanted:
            continue
        path = folder / digest.path
        if not path.is_file():
            raise CorruptInput(path, "", f"is missing from {artifact.ref}")
        if path.stat().st_size != digest.bytes or file_digest(path) != digest.sha256:
            raise CorruptInput(
                path, "", f"is not what {artifact.ref} wrote (sha256 differs); restore it or remake the artifact"
            )


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that it is there whole or not at all, also after a power cut."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
    _sync_folder(path.parent)


def write_rows(path: Path, rows: list[dict[str, Any]], schema: Any) -> None:
    """Write rows as a Parquet file with an Arrow schema; the same rows give the same bytes."""
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, compression="zstd")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock file, and take it away at the end: who waited for the one taken away tries again with a new one."""
    while True:
        with path.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not (path.exists() and path.stat().st_ino == os.fstat(file.fileno()).st_ino):
                continue
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _digests(folder: Path) -> Iterator[FileDigest]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != RECORD and SCRATCH not in path.relative_to(folder).parts:
            yield FileDigest(path=path.relative_to(folder).as_posix(), bytes=path.stat().st_size, sha256=file_digest(path))


def _promotion(artifact: Artifact) -> Promotion:
    assert isinstance(artifact.body, Promotion)
    return artifact.body
