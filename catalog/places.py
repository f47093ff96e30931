"""Places: the folder that a catalog's truth lies in, on a shared file system or in an object store, behind the same few verbs.

What every writer relies on is `create`: of several that create one path, exactly one is told that it was first, and no reader
ever meets half a file. Locally that is a temporary file and link(), which also NFS does atomically; in an object store it is a
PUT that is only taken while there is nothing (If-None-Match). Refused: lock files (a killed holder), rename as the way to be
first (it replaces), fsspec's own local files (no exclusive create, no fsync, symbolic links followed), and object stores
whose fsspec driver takes `mode="create"` without keeping it.

Paths are relative to the place and checked each time: a manifest is input, and `../../etc` in it must not be read.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import fsspec

from .errors import CorruptInput, MissingDependency, SeaLionError, Unfinished
from .paths import PARTIAL, Found, checked_path, content_in, found_file, opened, partial_beside, partial_name

BATCH = 256
"""Objects that are asked for at a time."""
CONFLICT_TRIES = 8
"""How often a PUT is tried that the store refuses because another one of the same path is under way."""


class Place(ABC):
    """A folder, local or in an object store. Holds only its address, so that it goes to workers as it is.

    All paths are relative and go through `checked_path`. A file that is not there is a FileNotFoundError; an object store that
    does not answer is Unfinished, one that refuses a SeaLionError.
    """

    def __init__(self, address: str) -> None:
        self.address = address

    @staticmethod
    def at(address: str | Path) -> Place:
        """The place at a local path, or at `s3://bucket/prefix`; raises SeaLionError for another scheme.

        Where S3 is and who asks comes from the environment (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, ...).
        """
        text = str(address)
        if isinstance(address, Path) or "://" not in text:
            return Folder(text)
        if not text.startswith("s3://") or not text.removeprefix("s3://").strip("/"):
            raise SeaLionError(f"{text}: a catalog is a folder or s3://bucket/prefix")
        return Bucket(text.rstrip("/"))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.address!r})"

    @abstractmethod
    def read(self, path: str) -> bytes:
        """The bytes of a file."""

    @abstractmethod
    def read_all(self, folder: str, names: Sequence[str]) -> Iterator[tuple[str, bytes | Exception]]:
        """Name and bytes of many files of one folder, in their order; what cannot be read comes as its error."""

    @abstractmethod
    def open(self, path: str) -> BinaryIO:
        """A file to read from, for what is too large for `read`."""

    @abstractmethod
    def get(self, path: str, target: Path) -> None:
        """Copy a file to a local path, which is there whole or not at all."""

    @abstractmethod
    def create(self, path: str, data: bytes) -> bool:
        """Write a file that is not there yet. True for the first who does, False when there is one.

        After a lost answer the first may be told False: compare the content where that matters.
        """

    @abstractmethod
    def write(self, path: str, data: bytes) -> None:
        """Write a file, or replace it, whole or not at all."""

    @abstractmethod
    def put(self, path: str, local: Path) -> None:
        """Copy a local file to a path, or replace what is there, whole or not at all."""

    @abstractmethod
    def listing(self, folder: str) -> tuple[list[str], list[str]]:
        """Names of the folders and of the files in a folder, unordered; none for a folder that is not there."""

    def names(self, folder: str) -> list[str]:
        """Names of the files in a folder, unordered."""
        return self.listing(folder)[1]

    @abstractmethod
    def files(self, folder: str) -> Iterator[Found]:
        """Every file below a folder, unordered; symbolic links are left out. `""` is the place itself."""

    @abstractmethod
    def found(self, path: str) -> Found | None:
        """Size and state of a file, None when it is not there."""

    def exists(self, path: str) -> bool:
        """Whether the file is there."""
        return self.found(path) is not None

    @abstractmethod
    def remove(self, path: str) -> None:
        """Take a file away, if it is there."""

    @abstractmethod
    def local(self, path: str) -> Path | None:
        """The file's path on this machine, None in an object store; raises CorruptInput when a symbolic link is on the way."""


class Folder(Place):
    """A place on a file system: every step below the root is opened without following links."""

    @property
    def root(self) -> Path:
        """The folder."""
        return Path(self.address)

    def read(self, path: str) -> bytes:
        with self.open(path) as file:
            return file.read()

    def read_all(self, folder: str, names: Sequence[str]) -> Iterator[tuple[str, bytes | Exception]]:
        with self._descended(folder and checked_path(folder)) as parent:
            for name in names:
                try:
                    data: bytes | Exception = content_in(parent, name)
                except (OSError, SeaLionError) as error:
                    data = error
                yield name, data

    def open(self, path: str) -> BinaryIO:
        folder, name = os.path.split(checked_path(path))
        with self._descended(folder) as parent:
            return os.fdopen(opened(parent, name, f"{self.address}/{path}"), "rb")

    def get(self, path: str, target: Path) -> None:
        with partial_beside(target) as partial:
            with self.open(path) as source, partial.open("xb") as file:
                shutil.copyfileobj(source, file, 1 << 20)
            os.replace(partial, target)

    def create(self, path: str, data: bytes) -> bool:
        with self._written(path, data) as (parent, partial, name):
            try:
                os.link(partial, name, src_dir_fd=parent, dst_dir_fd=parent)
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
                    problem = "its file system has no hard links; keep the catalog on one that has"
                    raise SeaLionError(f"{self.address}: {problem}") from error
                raise
            return True

    def write(self, path: str, data: bytes) -> None:
        with self._written(path, data) as (parent, partial, name):
            os.replace(partial, name, src_dir_fd=parent, dst_dir_fd=parent)

    def put(self, path: str, local: Path) -> None:
        with self._written(path, local) as (parent, partial, name):
            os.replace(partial, name, src_dir_fd=parent, dst_dir_fd=parent)

    def listing(self, folder: str) -> tuple[list[str], list[str]]:
        folders: list[str] = []
        files: list[str] = []
        with (
            suppress(FileNotFoundError),
            self._descended(folder and checked_path(folder)) as parent,
            os.scandir(parent) as entries,
        ):
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.name)
                elif not PARTIAL.match(entry.name):
                    files.append(entry.name)
        return folders, files

    def files(self, folder: str) -> Iterator[Found]:
        waiting = [folder and checked_path(folder)]
        while waiting:
            here = waiting.pop()
            with suppress(FileNotFoundError), self._descended(here) as parent, os.scandir(parent) as entries:
                for entry in entries:
                    path = f"{here}/{entry.name}" if here else entry.name
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(path)
                    elif entry.is_file(follow_symlinks=False) and not PARTIAL.match(entry.name):
                        with suppress(FileNotFoundError):  # taken away since
                            yield found_file(path, entry.stat(follow_symlinks=False))

    def found(self, path: str) -> Found | None:
        folder, name = os.path.split(checked_path(path))
        try:
            with self._descended(folder) as parent:
                status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return found_file(path, status) if stat.S_ISREG(status.st_mode) else None

    def remove(self, path: str) -> None:
        folder, name = os.path.split(checked_path(path))
        with suppress(FileNotFoundError), self._descended(folder) as parent:
            os.unlink(name, dir_fd=parent)

    def local(self, path: str) -> Path | None:
        here = self.root
        for part in checked_path(path).split("/"):
            here = here / part
            if here.is_symlink():
                raise CorruptInput(here, "", "is a symbolic link; a catalog has none")
        return here

    @contextmanager
    def _descended(self, folder: str, *, make: bool = False) -> Iterator[int]:
        """The descriptor of a folder below the root, reached without following a link."""
        if make:
            self.root.mkdir(parents=True, exist_ok=True)
        here = os.open(self.address, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for part in folder.split("/") if folder else ():
                if make:
                    with suppress(FileExistsError):
                        os.mkdir(part, dir_fd=here)
                        os.fsync(here)
                inner = opened(here, part, f"{self.address}/{folder}", os.O_DIRECTORY)
                os.close(here)
                here = inner
            yield here
        finally:
            os.close(here)

    @contextmanager
    def _written(self, path: str, content: bytes | Path) -> Iterator[tuple[int, str, str]]:
        """The folder's descriptor, the name of a synced temporary file in it, and the name it is for."""
        folder, name = os.path.split(checked_path(path))
        partial = partial_name(name)
        with self._descended(folder, make=True) as parent:
            try:
                descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666, dir_fd=parent)
                with os.fdopen(descriptor, "wb") as file:
                    if isinstance(content, bytes):
                        file.write(content)
                    else:
                        with content.open("rb") as source:
                            shutil.copyfileobj(source, file, 1 << 20)
                    file.flush()
                    os.fsync(file.fileno())
                yield parent, partial, name
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(partial, dir_fd=parent)
            os.fsync(parent)


class Bucket(Place):
    """A place in an S3-compatible object store, by way of s3fs."""

    KEPT: ClassVar[dict[str, Any]] = {"use_listings_cache": False, "default_cache_type": "none"}

    def read(self, path: str) -> bytes:
        with self._answering() as store:
            data: bytes = store.cat_file(self._key(path))
        return data

    def read_all(self, folder: str, names: Sequence[str]) -> Iterator[tuple[str, bytes | Exception]]:
        for start in range(0, len(names), BATCH):
            some = names[start : start + BATCH]
            keys = [self._key(f"{folder}/{name}") for name in some]
            with self._answering() as store:
                contents = store.cat(keys, on_error="return") if keys else {}
            for name, key in zip(some, keys, strict=True):
                found = contents.get(key, FileNotFoundError(key))
                if isinstance(found, Exception) and not isinstance(found, FileNotFoundError):
                    raise _named(found, self.address) from found
                yield name, found

    def open(self, path: str) -> BinaryIO:
        with self._answering() as store:
            file: BinaryIO = store.open(self._key(path), "rb", cache_type="readahead")
        return file

    def get(self, path: str, target: Path) -> None:
        with partial_beside(target) as partial, self._answering() as store:
            store.get_file(self._key(path), str(partial))
            os.replace(partial, target)

    def create(self, path: str, data: bytes) -> bool:
        for _ in range(CONFLICT_TRIES):
            try:
                with self._answering() as store:
                    store.pipe_file(self._key(path), data, mode="create")
                return True
            except FileExistsError:
                return False
            except _Conflict:
                continue
        raise Unfinished(f"{self.address}/{path}: the object store refused this {CONFLICT_TRIES} times; try again")

    def write(self, path: str, data: bytes) -> None:
        with self._answering() as store:
            store.pipe_file(self._key(path), data)

    def put(self, path: str, local: Path) -> None:
        with self._answering() as store:
            store.put_file(str(local), self._key(path))

    def listing(self, folder: str) -> tuple[list[str], list[str]]:
        folders: list[str] = []
        files: list[str] = []
        with suppress(FileNotFoundError), self._answering() as store:
            for entry in store.ls(self._key(folder) if folder else self._top, detail=True, refresh=True):
                name = str(entry["name"]).rpartition("/")[2]
                (folders if entry["type"] == "directory" else files).append(name)
        return folders, [name for name in files if name]

    def files(self, folder: str) -> Iterator[Found]:
        with self._answering() as store:
            entries = store.find(self._key(folder) if folder else self._top, detail=True, refresh=True)
        for key, entry in entries.items():
            yield Found(path=key[len(self._top) + 1 :], bytes=int(entry["size"]), state=str(entry.get("ETag", "")))

    def found(self, path: str) -> Found | None:
        try:
            with self._answering() as store:
                entry = store.info(self._key(path), refresh=True)
        except FileNotFoundError:
            return None
        if entry["type"] != "file":
            return None
        return Found(path=path, bytes=int(entry["size"]), state=str(entry.get("ETag", "")))

    def remove(self, path: str) -> None:
        with suppress(FileNotFoundError), self._answering() as store:
            store.rm_file(self._key(path))

    def local(self, path: str) -> Path | None:
        checked_path(path)
        return None

    @property
    def _top(self) -> str:
        return self.address.removeprefix("s3://")

    def _key(self, path: str) -> str:
        return f"{self._top}/{checked_path(path)}"

    @contextmanager
    def _answering(self) -> Iterator[Any]:
        """The store of this process and thread (fsspec keeps it); its errors as ours."""
        try:
            yield fsspec.filesystem("s3", **self.KEPT)
        except (SeaLionError, FileExistsError):
            raise
        except FileNotFoundError as error:
            if _code(error) == "NoSuchBucket":
                raise SeaLionError(f"{self.address}: there is no such bucket") from error
            raise
        except ImportError as error:
            raise MissingDependency("s3fs", f"for {self.address}") from error
        except Exception as error:  # s3fs raises OSError, botocore's own and aiohttp's
            raise _named(error, self.address) from error


def _code(error: Exception) -> str:
    """The store's own code for an error, empty when it did not answer."""
    response = getattr(error, "response", None) or getattr(error.__cause__, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))


class _Conflict(Exception):
    """Another PUT of the same path is under way."""


def _named(error: Exception, address: str) -> Exception:
    code = _code(error)
    if code in ("PreconditionFailed", "412"):
        return FileExistsError(address)
    if code == "ConditionalRequestConflict":
        return _Conflict(address)
    line = (str(error) or type(error).__name__).splitlines()[0]
    if isinstance(error, PermissionError) or "redentials" in line:
        return SeaLionError(f"{address}: the object store refuses: {line}; see AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY")
    return Unfinished(f"{address}: the object store does not answer: {line}; the same command goes on from here")
