"""The store of artifacts: folders with an `artifact.json`, made whole or not at all.

An artifact lives at `{root}/{name}/{version}/`. It is made in a work folder named by its fingerprint, so that an interrupted
making can be taken up again; `artifact.json` is written there last, and one rename of the folder makes the artifact exist. The
refused alternative is a database as the truth: many workers could not write to it (see the facts on DuckDB), and it could be
lost. What a stage's alias points to is not stored either: it is the stage's latest promotion.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from .discarding import Discarded, beside_record, discardable, read_mark
from .errors import CorruptInput, DriftError, MissingArtifact, SeaLionError, Unfinished
from .files import RECORD as RECORD
from .files import SCRATCH as SCRATCH
from .files import file_digests, locked, record_state, record_status, record_text, space_for, sync_folder
from .files import read_artifact as read_artifact
from .files import verify_files as verify_files
from .files import write_atomically as write_atomically
from .files import write_rows as write_rows
from .fingerprint import difference, fingerprint, plain
from .licences import combined_licence
from .places import Place
from .provenance import provenance
from .recipes import STAGE_PREFIX, Recipe, external_files, identity, recipe_fingerprint, references
from .records import BODIES, Artifact, ArtifactRef, Body, GateDecision, Input, Promotion

log = logging.getLogger(__name__)

WORK = ".work"
RESUME = ".resume"
SLOTS = "slots"
"""Folder of the slots' manifests, beside the artifacts (see `slots`)."""
KIND = re.compile(rb'"kind"\s*:\s*"([a-z-]+)"')
LOOKED_UP = ("mirror", "ngrams", "overlap", "plan", "questions")
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
    """The artifact, when it exists with this fingerprint and is whole."""


class Store:
    """The artifacts below one folder. `remote.store_at` opens the one that an address in an object store means."""

    def __init__(self, root: Path) -> None:
        if root.exists() and not root.is_dir():
            raise SeaLionError(f"{root}: is a file; the catalog is a folder")
        self.root = root
        self._read: dict[str, tuple[str, Artifact]] = {}
        self._named: dict[str, tuple[str, bytes]] = {}
        self._told: set[tuple[str, str]] = set()

    # -- reading ---------------------------------------------------------------------------------------------------------

    @property
    def place(self) -> Place:
        """Where the catalog's truth lies and its slots are reported."""
        return Place.at(self.root)

    def path(self, ref: ArtifactRef) -> Path:
        """Where the artifact is on this machine, or would be."""
        return self.root / ref.name / ref.version

    def folder(self, ref: ArtifactRef, files: Collection[str] | None = None) -> Path:
        """The folder to read an artifact in: its files, all or those named, are there when they are anywhere."""
        return self.path(ref)

    def fetch_index(self, index: Path) -> None:
        """Bring the index that another machine published; in a folder it is there."""

    def publish_index(self, index: Path) -> None:
        """Let other machines have the index; in a folder they do."""

    def records(self) -> Iterator[tuple[str, Path, str]]:
        """Reference, file and state of every record, none of them opened.

        Nothing below a folder with a record is looked at, nor a slot's manifest: both can be hundreds of thousands of files.
        """
        waiting = [""]
        while waiting:
            here = waiting.pop()
            status = record_status(self.root / here) if here else None
            if status is not None:
                name, _, version = here.rpartition("/")
                yield f"{name}@{version}", self.root / here / RECORD, record_state(status)
                continue
            with suppress(FileNotFoundError), os.scandir(self.root / here) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False) and entry.name[0] != "." and (here or entry.name != SLOTS):
                        waiting.append(f"{here}/{entry.name}" if here else entry.name)

    def get(self, ref: ArtifactRef) -> Artifact | None:
        """The artifact, or None; raises CorruptInput when its record cannot be read or is another artifact's."""
        path = self.path(ref)
        status = record_status(path)
        if status is None:
            return None
        state = record_state(status)
        known = self._read.get(str(ref))
        if known is None or known[0] != state:
            known = self._read[str(ref)] = state, read_artifact(path / RECORD)
        if known[1].ref != ref:
            raise CorruptInput(path / RECORD, "", f"says it is {known[1].ref}, but lies in the folder of {ref}")
        return known[1]

    def require(self, ref: str) -> Artifact:
        """The artifact of `name@version` or `stage:NAME`; raises MissingArtifact with the nearest names."""
        if ref.startswith(STAGE_PREFIX):
            return self.stage_model(ref.removeprefix(STAGE_PREFIX))[0]
        try:
            found = self.get(ArtifactRef.parse(ref))
        except ValueError as error:
            raise MissingArtifact(ref, [known for known, _, _ in self.records()]) from error
        if found is None:
            raise MissingArtifact(ref, [known for known, _, _ in self.records()])
        return found

    def all(self) -> list[Artifact]:
        """Every artifact, ordered by reference; one whose record cannot be read is left out with a warning."""
        found = (self._readable(ref, state) for ref, _, state in sorted(self.records()))
        return [artifact for artifact in found if artifact]

    def _readable(self, ref: str, state: str) -> Artifact | None:
        try:
            return self.get(ArtifactRef.parse(ref))
        except (CorruptInput, ValueError, OSError) as error:
            if (ref, state) not in self._told:
                log.warning("left out: %s", error)
            self._told.add((ref, state))
            return None

    def _of_kind(self, kind: str) -> Iterator[Artifact]:
        """The artifacts of a kind: of the others no more is done than to look for its name in their bytes, once."""
        for ref, path, state in sorted(self.records()):
            known = self._named.get(ref)
            if known is None or known[0] != state:
                with suppress(FileNotFoundError):
                    known = self._named[ref] = state, b" ".join(KIND.findall(path.read_bytes()))
            if known is not None and kind.encode() in known[1]:
                artifact = self._readable(ref, state)
                if artifact is not None and artifact.kind == kind:
                    yield artifact

    def promotions(self, stage: str) -> list[Artifact]:
        """The promotions of a stage, earliest first."""
        found = [artifact for artifact in self._of_kind("promotion") if _promotion(artifact).stage == stage]
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
        for artifact in sorted(self._of_kind("decision"), key=lambda artifact: artifact.provenance.created, reverse=True):
            body = artifact.body
            if isinstance(body, GateDecision) and body.stage == stage and body.verdict != "pass" and body.kept:
                return self.require(body.kept), f"stage {stage}: {body.verdict}, the policy keeps {body.kept}"
        raise MissingArtifact(f"{STAGE_PREFIX}{stage}", [f"{STAGE_PREFIX}{name}" for name in self.stages()])

    def stages(self) -> dict[str, str]:
        """Stage to the reference of the model promoted to it."""
        latest: dict[str, Promotion] = {}
        for body in map(_promotion, self._of_kind("promotion")):
            if body.stage not in latest or latest[body.stage].sequence < body.sequence:
                latest[body.stage] = body
        return {stage: latest[stage].model for stage in sorted(latest)}

    # -- discarding ------------------------------------------------------------------------------------------------------

    def discarded(self, ref: ArtifactRef) -> Discarded | None:
        """What was deleted of an artifact on purpose, None when it is whole."""
        return read_mark(self.path(ref))

    def discard(self, ref: ArtifactRef, patterns: Collection[str], *, reason: str, verb: str) -> Discarded:
        """Delete an artifact's files that match glob patterns and keep its record; what a killed call began, the next ends.

        `reason` and `verb` are as in `Discarded`; the recipe must name no files outside the catalog. Making the recipe again
        makes the files again. Raises SeaLionError for tables of the index, and for a model that a stage stands or stood for.
        """
        artifact, mark = self._discardable(ref, patterns, reason, verb)
        for name, text in beside_record(artifact, mark).items():
            write_atomically(self.path(ref) / name, text)
        for path in mark.files:
            (self.path(ref) / path).unlink(missing_ok=True)
        return mark

    def _discardable(self, ref: ArtifactRef, patterns: Collection[str], reason: str, verb: str) -> tuple[Artifact, Discarded]:
        artifact = self.require(str(ref))
        for promoted in self._of_kind("promotion"):
            if _promotion(promoted).model == str(ref):
                raise SeaLionError(f"{ref}: {promoted.ref} rests on its files; they cannot be discarded")
        return artifact, Discarded(files=discardable(artifact, patterns), reason=reason, verb=verb)

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
        whole = made if made is not None and not self.discarded(recipe.ref) else None
        return Planned(recipe=recipe, content=content, fingerprint=digest, inputs=inputs, files=files, made=whole)

    def make(self, recipe: Recipe, base: Path, maker: Maker, options: Options) -> Artifact:
        """The artifact of a recipe, made now unless it exists already.

        Bad input (any SeaLionError but Unfinished) leaves nothing behind; what an earlier, killed try had done stays.
        """
        planned = self.plan(recipe, base)
        if planned.made is not None:
            return planned.made
        work = self.work_folder(planned)
        with space_for(recipe.ref):
            work.mkdir(parents=True, exist_ok=True)
            with locked(work.parent / f"{fingerprint(str(recipe.ref))[:16]}.lock"):
                planned = self.plan(recipe, base)
                return planned.made or self._made(planned, maker, work, options)

    def _made(self, planned: Planned, maker: Maker, work: Path, options: Options) -> Artifact:
        recipe = planned.recipe
        work.mkdir(exist_ok=True)
        if (work / RECORD).is_file():  # killed between the record and the publishing
            return self._publish(read_artifact(work / RECORD), work)
        is_resumed = any(work.iterdir())
        start = time.perf_counter()
        job = Job(recipe=recipe, inputs=planned.inputs, files=planned.files, folder=work, store=self, options=options)
        try:
            self._check_place(recipe.ref)
            artifact = self._record(planned, maker(job), work, time.perf_counter() - start)
        except SeaLionError as error:
            if not is_resumed and not isinstance(error, Unfinished):
                shutil.rmtree(work, ignore_errors=True)
                slots = f"{SLOTS}/{recipe.ref.name}/{recipe.ref.version}"
                for file in list(self.place.files(slots)):
                    self.place.remove(file.path)
                shutil.rmtree(self.root / slots, ignore_errors=True)
            raise
        write_atomically(work / RECORD, record_text(artifact))
        return self._publish(artifact, work)

    def work_folder(self, planned: Planned) -> Path:
        """Where a recipe is made before it exists; the same for every attempt at the same recipe."""
        return self.root / WORK / fingerprint([str(planned.recipe.ref), planned.fingerprint])[:16]

    def resume_folder(self, ref: ArtifactRef) -> Path:
        """Where a verb may keep what later attempts at the same artifact go on from, its recipe edited or not; deleted when it
        is made."""
        return self.root / WORK / f"{fingerprint(str(ref))[:16]}{RESUME}"

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
            files=tuple(file_digests(work)),
            tables=made.tables,
            body=made.body,
            provenance=provenance(seconds),
        )

    def _via(self, ref: str) -> str:
        return self.stage_model(ref.removeprefix(STAGE_PREFIX))[1] if ref.startswith(STAGE_PREFIX) else ""

    def _check_place(self, ref: ArtifactRef) -> None:
        """Raise SeaLionError when the artifact would lie inside another one's folder, or around one: neither would be found."""
        final = self.path(ref)
        outer = next((path for path in final.parents if self.root in path.parents and record_status(path)), None)
        if outer or ref.name.startswith(f"{SLOTS}/"):
            raise SeaLionError(f"{ref}: lies inside {outer or self.root / SLOTS}; choose another name or version")
        if final.exists() and any(path.parent != final for path in final.rglob(RECORD)):
            raise SeaLionError(f"{ref}: its folder holds other artifacts; choose another name or version")

    def _publish(self, artifact: Artifact, work: Path) -> Artifact:
        """Make a finished work folder, record included, the artifact; returns the one that now exists."""
        self._check_place(artifact.ref)
        shutil.rmtree(work / SCRATCH, ignore_errors=True)
        final, old = self.path(artifact.ref), work.with_name(f"{work.name}.old")
        final.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(old, ignore_errors=True)
        if final.exists():  # version `dev`, files that were discarded, or a folder without a record
            os.replace(final, old)
        os.replace(work, final)
        sync_folder(final.parent)
        shutil.rmtree(old, ignore_errors=True)
        shutil.rmtree(self.resume_folder(artifact.ref), ignore_errors=True)
        return artifact


def _promotion(artifact: Artifact) -> Promotion:
    assert isinstance(artifact.body, Promotion)
    return artifact.body
