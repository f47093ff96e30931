"""Whole files of a mirror, read from beginning to end in blocks, each tried again when the connection fails.

For the WARC files that a listing names and for the listing itself. A stream of one request, as fsspec opens it, loses a
gigabyte to a connection that drops once; a block is asked for again.
"""

from __future__ import annotations

from typing import Any

import fsspec
from tenacity import retry, retry_if_exception, stop_after_attempt, wait_random_exponential

from ..catalog.errors import CorruptInput, MissingDependency, SeaLionError, Unfinished

BLOCK = 8 << 20
"""Bytes of a request."""
TRIES = 6


class MirrorFile:
    """A file below a mirror, for reading forwards; `with` closes it."""

    def __init__(self, mirror: str, place: str) -> None:
        """Raises CorruptInput for a file that is not there, MissingDependency for an address without its fsspec package."""
        try:
            self._filesystem, root = fsspec.core.url_to_fs(mirror, **({"asynchronous": False} if "://" in mirror else {}))
        except ImportError as error:
            raise MissingDependency("the fsspec backend", f"to read from {mirror}") from error
        except ValueError as error:
            raise SeaLionError(f"{mirror}: no mirror: {error}; give an http(s) or s3 address, or a folder") from error
        self._path, self._name = f"{root.rstrip('/')}/{place}", place
        self._position, self._block = 0, memoryview(b"")
        self._size = self._asked_size(mirror)

    def _asked_size(self, mirror: str) -> int:
        try:
            size = _tried(lambda: self._filesystem.size(self._path))
        except FileNotFoundError as error:
            raise CorruptInput(self._name, "", f"is not below the mirror {mirror}") from error
        except Exception as error:  # what fsspec's backends raise has no common class
            raise Unfinished(f"{self._name}: cannot be read from {mirror}: {type(error).__name__}: {error}") from error
        if size is None:
            raise CorruptInput(self._name, "", f"the mirror {mirror} does not say how long it is")
        return int(size)

    def read(self, size: int = -1, /) -> bytes:
        """Up to `size` bytes, all that is left for -1; empty at the end. Raises Unfinished when the mirror fails for good."""
        if size < 0:
            parts = []
            while part := self.read(BLOCK):
                parts.append(part)
            return b"".join(parts)
        if not self._block and self._position < self._size:
            self._block = memoryview(self._fetched(self._position, min(self._size, self._position + BLOCK)))
            self._position += len(self._block)
        taken, self._block = bytes(self._block[:size]), self._block[size:]
        return taken

    def _fetched(self, start: int, stop: int) -> bytes:
        def asked() -> bytes:
            data: bytes = self._filesystem.cat_file(self._path, start=start, end=stop)
            if len(data) != stop - start:
                raise OSError(f"{len(data)} bytes came for {stop - start}")
            return data

        try:
            return bytes(_tried(asked))
        except Exception as error:  # see above
            raise Unfinished(f"{self._name}: byte {start} cannot be read: {type(error).__name__}: {error}") from error

    def __enter__(self) -> MirrorFile:
        return self

    def __exit__(self, *error: object) -> None:
        self._block = memoryview(b"")


def _is_passing(error: BaseException) -> bool:
    return not isinstance(error, FileNotFoundError | PermissionError)


@retry(
    retry=retry_if_exception(_is_passing),
    stop=stop_after_attempt(TRIES),
    wait=wait_random_exponential(multiplier=0.5, max=60),
    reraise=True,
)
def _tried(call: Any) -> Any:
    return call()
