"""One pass over the files of the models before they are merged: are they what their records say, and is every number finite?

A merge with one NaN in a parent succeeds without a word, and pruning spreads it over the tensor. Bytes are read once, in
pieces that fit a processor's cache: a piece is digested and searched for NaN and infinity while it lies there; the digest is
what takes the time (sha256: about 1.2 GB/s of a core). Files are taken by several threads, largest first, as Python lets go
of its lock for all three steps. Memory mapping was refused: its pages count as the process's memory.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..catalog.errors import CorruptInput
from ..catalog.records import FileDigest
from .contract import Stored

PIECE = 1 << 20
"""Bytes read at a time."""
EXPONENTS: dict[torch.dtype, tuple[Any, int, int]] = {
    torch.float64: (np.uint64, 0x7FFF_FFFF_FFFF_FFFF, 0x7FF0_0000_0000_0000),
    torch.float32: (np.uint32, 0x7FFF_FFFF, 0x7F80_0000),
    torch.bfloat16: (np.uint16, 0x7FFF, 0x7F80),
    torch.float16: (np.uint16, 0x7FFF, 0x7C00),
}
"""Type to its bits as a whole number, the mask that takes the sign away, and the least of what is left that is not finite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Audited:
    """What an audit read."""

    files: int
    bytes: int
    seconds: float
    digests: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Model to its files' sha256; empty where none were asked for."""

    @property
    def rate(self) -> float:
        """GB a second, of all threads together."""
        return self.bytes / 1e9 / self.seconds if self.seconds else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A model to audit."""

    name: str
    """As messages call it."""
    folder: Path
    """With its files."""
    files: tuple[FileDigest, ...] = ()
    """What its record says of them; none for a folder without a record, of which only the weights are read."""
    tensors: Mapping[str, Stored] = field(default_factory=dict)
    """Where its tensors lie."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Item:
    """One file to read."""

    model: str
    folder: Path
    path: Path
    bytes: int
    sha256: str
    """That it should have; empty when nothing is known."""
    tensors: tuple[tuple[str, Stored], ...]
    """In it, by their places."""


def check_sizes(subject: Subject) -> None:
    """Raise CorruptInput for the first file that is missing or not as long as its record says; nothing is read."""
    for digest in subject.files:
        path = subject.folder / digest.path
        if not path.is_file():
            raise CorruptInput(path, "", f"is missing from {subject.name}; restore it or remake the artifact")
        found = path.stat().st_size
        if found != digest.bytes:
            raise _changed(path, subject.name, f"it has {found:,} bytes, not {digest.bytes:,}; its sha256 differs")


def audit(
    subjects: Sequence[Subject],
    *,
    threads: int = 2,
    digested: bool = True,
    advance: Callable[[int], object] = lambda _: None,
) -> Audited:
    """Read every file of the models once; `advance` is told of each piece's bytes, from any thread.

    Raises CorruptInput for the first model and file that is not what its record says, or holds NaN or infinity: of one file the
    digest is the earlier reason. With `digested` False only tensors are looked at.
    """
    start = time.perf_counter()
    items = list({item.path: item for subject in subjects for item in _items(subject, digested)}.values())
    stop = Event()
    with ThreadPoolExecutor(max_workers=max(1, threads), thread_name_prefix="audit") as pool:
        futures: dict[int, Future[str]] = {
            i: pool.submit(_read, items[i], stop, digested, advance)
            for i in sorted(range(len(items)), key=lambda i: -items[i].bytes)
        }
        try:
            found = [futures[i].result() for i in range(len(items))]
        except BaseException:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    digests: dict[str, dict[str, str]] = {}
    for item, digest in zip(items, found, strict=True):
        if digested:
            digests.setdefault(item.model, {})[item.path.relative_to(item.folder).as_posix()] = digest
    return Audited(
        files=len(items), bytes=sum(item.bytes for item in items), seconds=time.perf_counter() - start, digests=digests
    )


def check_finite(name: str, folder: Path, tensors: Mapping[str, Stored], *, threads: int = 2) -> None:
    """Raise CorruptInput for the first tensor that holds NaN or infinity; `name` is the message's."""
    audit([Subject(name=name, folder=folder, tensors=tensors)], threads=threads, digested=False)


def _changed(path: Path, name: str, how: str = "sha256 differs") -> CorruptInput:
    return CorruptInput(path, "", f"is not what {name} wrote ({how}); restore it or remake the artifact")


def _items(subject: Subject, digested: bool) -> Iterable[_Item]:
    check_sizes(subject)
    lying: dict[Path, list[tuple[str, Stored]]] = {}
    for name, stored in subject.tensors.items():
        lying.setdefault(stored.file, []).append((name, stored))
    known = {subject.folder / digest.path: digest for digest in subject.files}
    for path in lying.keys() - known.keys():
        if subject.files and path.parent == subject.folder:
            raise CorruptInput(path, "", f"is no file of {subject.name}; take it away or remake the artifact")
    for path in sorted(known.keys() | lying.keys()) if digested else sorted(lying):
        digest = known.get(path)
        yield _Item(
            model=subject.name,
            folder=subject.folder,
            path=path,
            bytes=path.stat().st_size,
            sha256=digest.sha256 if digest else "",
            tensors=tuple(sorted(lying.get(path, []), key=lambda pair: pair[1].offset)),
        )


def _read(item: _Item, stop: Event, digested: bool, advance: Callable[[int], object]) -> str:
    """Digest and search one file; returns its sha256."""
    digest, place, current = hashlib.sha256(), 0, 0
    searches = [_Search(name, stored) for name, stored in item.tensors if stored.dtype in EXPONENTS]
    piece = bytearray(PIECE)
    with item.path.open("rb", buffering=0) as file:
        while not stop.is_set() and (count := file.readinto(piece)):
            view = memoryview(piece)[:count]
            if digested:
                digest.update(view)
            while current < len(searches) and searches[current].end <= place:
                current += 1
            for search in searches[current:]:
                if search.start >= place + count:
                    break
                search.see(view[max(0, search.start - place) : max(0, search.end - place)])
            place += count
            advance(count)
    if not stop.is_set() and item.sha256 and digest.hexdigest() != item.sha256:
        raise _changed(item.path, item.model)
    for search in searches:
        if search.bad:
            raise CorruptInput(item.model, search.name, f"{search.bad:,} of {search.elements:,} elements are NaN or infinite")
    return digest.hexdigest()


class _Search:
    """Counts what is not finite in one tensor, given its bytes in order, in pieces that may end within a number."""

    def __init__(self, name: str, stored: Stored) -> None:
        self.name, self.elements, self.bad = name, stored.elements, 0
        self.start, self.end = stored.offset, stored.offset + stored.elements * stored.dtype.itemsize
        self.type, self.mask, self.least = EXPONENTS[stored.dtype]
        self.width = stored.dtype.itemsize
        self.rest = b""

    def see(self, view: memoryview) -> None:
        """The tensor's next bytes."""
        if self.rest:
            missing = self.width - len(self.rest)
            whole, view = self.rest + bytes(view[:missing]), view[missing:]
            if len(whole) < self.width:
                self.rest = whole
                return
            self._count(np.frombuffer(whole, self.type))
        count = len(view) // self.width
        self.rest = bytes(view[count * self.width :])
        if count:
            self._count(np.frombuffer(view, self.type, count))

    def _count(self, bits: NDArray[Any]) -> None:
        magnitudes = bits & self.type(self.mask)
        if magnitudes.max() >= self.least:
            self.bad += int((magnitudes >= self.least).sum())
