"""The files of artifacts: each there whole or not at all, and compared with its digest when read again.

`artifact.json` begins with the digest of its own remaining bytes, so that one altered byte anywhere in it is noticed.
Refused: a digest in a second file, which a copy or a killed writer leaves behind, and one over the parsed values, for which
every record would have to be written out again to be checked. Records made before digests were written still open.
"""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import hashlib
import json
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json

from .discarding import check_whole
from .errors import CorruptInput, Unfinished
from .fingerprint import canonical_json, file_digest
from .records import BODIES, STRICT, Artifact, ArtifactRef, FileDigest

RECORD = "artifact.json"
SCRATCH = ".scratch"
"""A maker's own folder within its work folder: no part of the artifact, and gone when that is published."""
_HEAD = b'{"sha256":"'
_DIGEST = slice(len(_HEAD), len(_HEAD) + 64)
HEAD_BYTES = _DIGEST.stop
"""So many bytes of a record tell it from every other one."""


def record_text(artifact: Artifact) -> str:
    """What `artifact.json` holds: the canonical JSON with one more key, `sha256`, the digest of the JSON without it."""
    text = canonical_json(artifact)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f'{_HEAD.decode()}{digest}",{text[1:]}'


def parse_record(data: bytes, source: Path | str) -> Artifact:
    """The artifact that a record's bytes describe; raises CorruptInput, naming `source`, for any that are not as written."""
    if data.startswith(_HEAD):
        rest = b"{" + data[_DIGEST.stop + len('",') :]
        if data[_DIGEST.stop :][:2] != b'",' or hashlib.sha256(rest).hexdigest().encode() != data[_DIGEST]:
            raise CorruptInput(source, "", "is not as it was written (its sha256 differs); restore it or remake the artifact")
        data = rest
    try:
        read = _reader(str(from_json(data)["kind"])).validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise CorruptInput(source, where, f"is not an artifact record: {first['msg'].splitlines()[0]}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptInput(source, "", f"is not an artifact record: {str(error).splitlines()[0]}") from error
    return Artifact(**{field.name: getattr(read, field.name) for field in dataclasses.fields(Artifact)})


@cache
def _reader(kind: str) -> TypeAdapter[Any]:
    """Reads the records of one kind. Pydantic would try the bodies of all of them: 6.7 s instead of 0.6 for 100,000 shards."""
    hints = get_type_hints(Artifact) | {"body": BODIES[kind]}
    fields = [
        (field.name, hints[field.name], dataclasses.field(default=field.default, default_factory=field.default_factory))
        for field in dataclasses.fields(Artifact)
    ]
    return TypeAdapter(dataclasses.make_dataclass("Record", fields, kw_only=True, namespace={"__pydantic_config__": STRICT}))


def read_artifact(path: Path) -> Artifact:
    """Read an `artifact.json`; raises CorruptInput when it is not one, or no longer the one that was written."""
    return parse_record(path.read_bytes(), path)


def record_state(status: os.stat_result) -> str:
    """What changes when a record is written anew; the order of two states means nothing, a clock may jump."""
    return f"{status.st_mtime_ns}:{status.st_size}:{status.st_ino}"


def record_status(folder: Path) -> os.stat_result | None:
    """The status of a folder's `artifact.json`, None when it holds none."""
    try:
        status = (folder / RECORD).stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status if stat.S_ISREG(status.st_mode) else None


def verify_files(folder: Path, artifact: Artifact, paths: Iterable[str] | None = None) -> None:
    """Compare an artifact's files (all, or those named) with their digests; raises CorruptInput for the first that differs, and
    FilesDiscarded when one of them was deleted on purpose."""
    wanted = set(paths) if paths is not None else None
    check_whole(folder, artifact, wanted)
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
    sync_folder(path.parent)


def write_rows(path: Path, rows: list[dict[str, Any]], schema: Any) -> None:
    """Write rows as a Parquet file with an Arrow schema; the same rows give the same bytes."""
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, compression="zstd")


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_digests(folder: Path) -> Iterator[FileDigest]:
    """The digests of everything in a folder that belongs to an artifact, ordered by path."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != RECORD and SCRATCH not in path.relative_to(folder).parts:
            yield FileDigest(path=path.relative_to(folder).as_posix(), bytes=path.stat().st_size, sha256=file_digest(path))


@contextmanager
def locked(path: Path) -> Iterator[None]:
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


@contextmanager
def space_for(ref: ArtifactRef) -> Iterator[None]:
    """Say of a full disk that it is one, and that the work can go on; raises Unfinished."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Unfinished(f"{ref}: no space left on the device; free some, then run it again") from error
        raise


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file that may be a stranger's; raises CorruptInput for anything else."""
    try:
        table = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CorruptInput(path, "", f"cannot be read as JSON: {str(error).splitlines()[0]}") from error
    if not isinstance(table, dict):
        raise CorruptInput(path, "", "holds no JSON object")
    return table
