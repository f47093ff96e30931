"""A catalog in an object store: the same artifacts and records, each machine working in a local cache of them.

In the object store lie `records/{name~version}.json`, one flat listing of which tells what there is; an artifact's files below
`{name}/{version}/`, each with twelve digits of its digest in its name; the slots' manifests; `discarded/`, the marks of
artifacts whose large files were deleted; and `catalog.duckdb`, the index as last published. An artifact's files go up first and
its record last, by a PUT that only the first of several gets: machines that make one version at once never mix their files, and
what an interrupted upload left is not sent again. Records are mirrored into the cache, files fetched when first read and
compared with their digests. Refused: records beside the files as in a folder, for to find them among a corpus' shards every
level of the tree would have to be listed; and to read files in place, which mergekit, transformers and lm-eval do not.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from .discarding import DISCARDED, Discarded, beside_record, check_whole, parse_mark
from .errors import CorruptInput, DriftError, SeaLionError, Unfinished
from .files import HEAD_BYTES, RECORD, SCRATCH, parse_record, record_text, verify_files
from .fingerprint import difference, file_digest
from .index import INDEX
from .paths import checked_path
from .places import Folder, Place
from .records import Artifact, ArtifactRef, FileDigest
from .store import Store

log = logging.getLogger(__name__)

RECORDS = "records"
MARKS = "discarded"
STATES = ".remote.json"
"""File of the cache: path in the object store to its state when it was mirrored."""
AT_ONCE = 8
"""Files sent or fetched at a time."""


def store_at(text: str | Path) -> Store:
    """The catalog at a folder, or at `s3://bucket/prefix`; raises SeaLionError for another kind of address.

    The cache of the latter is a folder of $SEA_LION_CACHE (default: ~/.cache/sea-lion); deleting it loses nothing.
    """
    place = Place.at(text)
    if isinstance(place, Folder):
        return Store(place.root)
    server = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")
    name = hashlib.sha256(f"{server} {place.address}".encode()).hexdigest()[:16]
    return RemoteStore(place, Path(os.environ.get("SEA_LION_CACHE") or Path.home() / ".cache" / "sea-lion") / name)


def push(source: Store, target: RemoteStore) -> list[ArtifactRef]:
    """Send every artifact of a catalog that another, in an object store, lacks; raises DriftError where they contradict."""
    sent = []
    for artifact in source.all():
        there = target.get(artifact.ref)
        if there is None or (there != artifact and artifact.ref.version == "dev"):
            folder, mark = source.folder(artifact.ref), source.discarded(artifact.ref)
            verify_files(
                folder, artifact, [file.path for file in artifact.files if mark is None or file.path not in mark.files]
            )
            target.send(artifact, folder, mark)
            sent.append(artifact.ref)
        elif there.fingerprint != artifact.fingerprint:
            raise DriftError(str(artifact.ref), difference(there.identity, artifact.identity))
    return sent


class RemoteStore(Store):
    """The artifacts at a place in an object store; `root` is the cache."""

    def __init__(self, place: Place, cache: Path) -> None:
        super().__init__(cache)
        self._place = place
        self._cache = Folder(str(cache))
        self._states: dict[str, str] = _read_states(cache / STATES)
        self._listed: set[str] = set()
        """References that this process knows to exist."""
        self._whole: set[tuple[ArtifactRef, str]] = set()

    @property
    def place(self) -> Place:
        return self._place

    # -- reading ---------------------------------------------------------------------------------------------------------

    def records(self) -> Iterator[tuple[str, Path, str]]:
        """As in a folder, but for the state: the record's digest, the same on every machine that reads the index."""
        self._mirror_all()
        for ref, path, _ in super().records():
            if ref in self._listed:
                yield ref, path, _record_digest(path)

    def get(self, ref: ArtifactRef) -> Artifact | None:
        if not self._listed:
            self._mirror_all()
        if str(ref) not in self._listed or ref.version == "dev":
            found = self._place.found(_record_path(str(ref)))
            if found is None:
                self._forget(str(ref))
                return None
            self._mirror({str(ref): found.state})
        try:
            return super().get(ref)
        except CorruptInput:  # the cache is, or the object
            self._states.pop(str(ref), None)
            self._mirror({str(ref): ""})
        try:
            return super().get(ref)
        except CorruptInput as error:
            raise CorruptInput(f"{self._place.address}/{_record_path(str(ref))}", "", str(error)) from error

    def folder(self, ref: ArtifactRef, files: Collection[str] | None = None) -> Path:
        artifact, folder = self.get(ref), self.path(ref)
        if artifact is None or (ref, artifact.fingerprint) in self._whole:
            return folder
        mark = self.discarded(ref)
        wanted = [
            digest
            for digest in artifact.files
            if (files is None or digest.path in files) and (mark is None or digest.path not in mark.files)
        ]
        missing = [digest for digest in wanted if not _is_here(folder / checked_path(digest.path), digest.bytes)]
        _at_once(lambda digest: self._fetch(artifact, digest), missing)
        if files is None:
            self._whole.add((ref, artifact.fingerprint))
        return folder

    def _fetch(self, artifact: Artifact, digest: FileDigest) -> None:
        """Bring one file into the cache, where it is seen once its digest has been found right."""
        ref = artifact.ref
        target = self.path(ref) / digest.path
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.{secrets.token_hex(6)}.partial")
        place = object_path(ref, digest)
        try:
            self._place.get(place, partial)
            if partial.stat().st_size != digest.bytes or file_digest(partial) != digest.sha256:
                problem = f"is not what {ref} wrote (sha256 differs); restore it or remake the artifact"
                raise CorruptInput(f"{self._place.address}/{place}", "", problem)
            os.replace(partial, target)
        except FileNotFoundError as error:
            self._mirror_marks()  # discarded on another machine since?
            check_whole(self.path(ref), artifact, [digest.path])
            raise CorruptInput(f"{self._place.address}/{place}", "", f"is missing from {ref}") from error
        finally:
            partial.unlink(missing_ok=True)

    def _mirror_all(self) -> None:
        listed = {_ref_of(file.path): file.state for file in self._place.files(RECORDS)}
        found = {ref: state for ref, state in listed.items() if ref}
        for ref in [ref for ref in self._states if "@" in ref and not ref.startswith(f"{MARKS}/") and ref not in found]:
            if not self._place.exists(_record_path(ref)):  # not merely published since the listing
                self._forget(ref)
        self._mirror(found)
        self._mirror_marks()

    def _mirror(self, states: dict[str, str]) -> None:
        """Make the cache's records those of the object store, where their states differ."""
        self._listed |= states.keys()
        new = {_record_path(ref).rpartition("/")[2]: ref for ref, state in states.items() if self._states.get(ref) != state}
        for name, data in self._place.read_all(RECORDS, list(new)) if new else ():
            ref = new[name]
            if isinstance(data, FileNotFoundError):  # taken away since it was listed
                self._forget(ref)
                continue
            if isinstance(data, Exception):
                raise data
            folder = self.root / _folder_of(ref)
            known = (folder / RECORD).read_bytes() if (folder / RECORD).is_file() else None
            if known != data:
                if known is not None:  # an earlier `dev`, and its files
                    shutil.rmtree(folder, ignore_errors=True)
                self._cache.write(f"{_folder_of(ref)}/{RECORD}", data)
            self._states[ref] = states[ref]
        if new:
            self._write_states()

    def _mirror_marks(self) -> None:
        """Make the cache's marks of discarded files those of the object store."""
        listed = {_ref_of(file.path, MARKS): file.state for file in self._place.files(MARKS)}
        before = {key.removeprefix(f"{MARKS}/") for key in self._states if key.startswith(f"{MARKS}/")}
        for ref in before - listed.keys():
            (self.root / _folder_of(ref) / DISCARDED).unlink(missing_ok=True)
            del self._states[f"{MARKS}/{ref}"]
        new = {ref: state for ref, state in listed.items() if ref in self._listed and self._state_of_mark(ref) != state}
        for ref, state in new.items():
            artifact = super().get(ArtifactRef.parse(ref))
            with suppress(FileNotFoundError):  # taken away since it was listed
                data = self._place.read(_record_path(ref, MARKS))
                mark = parse_mark(data, f"{self._place.address}/{_record_path(ref, MARKS)}")
                for name, text in beside_record(artifact, mark).items() if artifact else ():
                    self._cache.write(f"{_folder_of(ref)}/{name}", text.encode())
                self._states[f"{MARKS}/{ref}"] = state
        if new or before - listed.keys():
            self._write_states()

    def _state_of_mark(self, ref: str) -> str:
        """The state of a mark when it was mirrored, empty when the cache has none."""
        return self._states.get(f"{MARKS}/{ref}", "") if (self.root / _folder_of(ref) / DISCARDED).is_file() else ""

    def _forget(self, ref: str) -> None:
        self._listed.discard(ref)
        if self._states.pop(ref, None) is not None:
            shutil.rmtree(self.root / _folder_of(ref), ignore_errors=True)
            self._write_states()

    def _write_states(self) -> None:
        self._cache.write(STATES, json.dumps(self._states).encode())

    # -- making ----------------------------------------------------------------------------------------------------------

    def discard(self, ref: ArtifactRef, patterns: Collection[str], *, reason: str, verb: str) -> Discarded:
        artifact, mark = self._discardable(ref, patterns, reason, verb)
        self._place.write(_record_path(str(ref), MARKS), beside_record(artifact, mark)[DISCARDED].encode())
        self._mirror_marks()
        for digest in artifact.files:
            if digest.path in mark.files:
                self._place.remove(object_path(ref, digest))
                (self.path(ref) / digest.path).unlink(missing_ok=True)
        return mark

    def send(self, artifact: Artifact, folder: Path, mark: Discarded | None = None) -> Artifact:
        """Upload an artifact's files from a folder, but for those that `mark` says are discarded, then its record; returns the
        artifact that now exists.

        That is another machine's when it was first with the same recipe. Raises DriftError when it was with another recipe, and
        Unfinished when the object store stops answering: the next call sends what is not there yet.
        """
        ref, record, marked = artifact.ref, _record_path(str(artifact.ref)), _record_path(str(artifact.ref), MARKS)
        gone = mark.files if mark else ()
        paths = {object_path(ref, digest): digest for digest in artifact.files if digest.path not in gone}
        try:
            there = {found.path: found.bytes for found in self._place.files(f"{ref.name}/{ref.version}")}
            missing = [path for path, digest in paths.items() if there.get(path) != digest.bytes]
            _at_once(lambda path: self._place.put(path, folder / paths[path].path), missing)
            data = record_text(artifact).encode()
            is_remade = mark is None and self._place.exists(marked)
            if mark is not None:
                self._place.write(marked, beside_record(artifact, mark)[DISCARDED].encode())
            if ref.version == "dev" or is_remade:
                self._place.write(record, data)
            elif not self._place.create(record, data):
                artifact = parse_record(self._place.read(record), f"{self._place.address}/{record}")
        except FileNotFoundError as error:
            raise SeaLionError(f"{self._place.address}: no such bucket, or a file of {ref} is gone: {error}") from error
        if is_remade:
            self._place.remove(marked)
        kept = {object_path(ref, digest) for digest in artifact.files}
        with suppress(Unfinished):  # it is published, whatever becomes of these
            for path in (there.keys() | paths.keys()) - kept:  # of an earlier `dev`, or of those that were not first
                self._place.remove(path)
        return artifact

    def _publish(self, artifact: Artifact, work: Path) -> Artifact:
        self._check_place(artifact.ref)
        shutil.rmtree(work / SCRATCH, ignore_errors=True)
        first = self.send(artifact, work)
        if first == artifact:
            super()._publish(artifact, work)
        else:
            shutil.rmtree(work)
            if first.fingerprint != artifact.fingerprint:
                raise DriftError(str(artifact.ref), difference(first.identity, artifact.identity))
        found = self._place.found(_record_path(str(artifact.ref)))
        self._mirror({str(artifact.ref): found.state if found else ""})
        self._states.pop(f"{MARKS}/{artifact.ref}", None)
        return first

    # -- the index -------------------------------------------------------------------------------------------------------

    def fetch_index(self, index: Path) -> None:
        found = self._place.found(INDEX)
        if found is not None and (self._states.get(INDEX) != found.state or not index.is_file()):
            index.parent.mkdir(parents=True, exist_ok=True)
            self._place.get(INDEX, index)
            self._states[INDEX] = found.state
            self._write_states()

    def publish_index(self, index: Path) -> None:
        try:
            self._place.put(INDEX, index)
        except SeaLionError as error:  # who may only read has the index all the same
            log.warning("the index is not published: %s", error)
            return
        found = self._place.found(INDEX)
        self._states[INDEX] = found.state if found else ""
        self._write_states()


def _record_path(ref: str, folder: str = RECORDS) -> str:
    return checked_path(f"{folder}/{ref.replace('/', '~')}.json")


def _ref_of(path: str, folder: str = RECORDS) -> str:
    """The reference that a record's or a mark's path means, empty when it means none: what lies in an object store is input."""
    ref = path.removeprefix(f"{folder}/").removesuffix(".json").replace("~", "/")
    try:
        return ref if _record_path(str(ArtifactRef.parse(ref)), folder) == path else ""
    except ValueError:
        return ""


def _folder_of(ref: str) -> str:
    name, _, version = ref.rpartition("@")
    return checked_path(f"{name}/{version}")


def object_path(ref: ArtifactRef, digest: FileDigest) -> str:
    """Where a file of an artifact lies: under its name, and its digest, so that two makings never share an object."""
    folder, slash, name = checked_path(digest.path).rpartition("/")
    named = f"{Path(name).stem}-{digest.sha256[:12]}{Path(name).suffix}"
    return f"{ref.name}/{ref.version}/{folder}{slash}{named}"


def _record_digest(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    return head[-64:].decode("ascii", "replace")


def _is_here(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except FileNotFoundError:
        return False


def _at_once(work: Callable[[Any], None], things: Sequence[Any]) -> None:
    """Do something for each of many, some at a time; what is not begun when one fails is left."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        futures = [pool.submit(work, thing) for thing in things]
        try:
            for future in futures:
                future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _read_states(path: Path) -> dict[str, str]:
    try:
        return {str(key): str(value) for key, value in json.loads(path.read_bytes()).items()}
    except (OSError, ValueError, AttributeError):
        return {}
