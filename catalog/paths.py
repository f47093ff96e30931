"""Paths inside a catalog: relative, plain, and opened step by step without following symbolic links.

A manifest or a record is input: what it names must not be able to lead out of the catalog. The text is checked, and links are
refused where the path is opened; to resolve the path first and compare it with the root was refused: it can change in between.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .errors import CorruptInput

PARTIAL = re.compile(r"^\..*\.partial$")
"""Names of files that are being written, or whose writer died."""
LONGEST_PATH = 1024
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_ONE_READ = 1 << 16
_SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*:")
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f\\*?\[\]{}\ud800-\udfff]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One file of a place."""

    path: str
    """Relative to the place."""
    bytes: int
    """Size."""
    state: str
    """Another one means: written anew."""


def checked_path(text: str) -> str:
    """The same text when it is a plain relative path; raises CorruptInput for any other.

    Refused: empty, absolute, with a scheme, `.`, `..` or empty parts, `~`, backslashes, control characters, glob characters,
    what is not UTF-8. Symbolic links are refused where the path is opened.
    """
    problem = ""
    if not text or len(text) > LONGEST_PATH:
        problem = "is empty" if not text else f"is longer than {LONGEST_PATH} characters"
    elif _FORBIDDEN.search(text):
        problem = "has a character that paths in a catalog do not have"
    elif text.startswith(("/", "~")) or _SCHEME.match(text):
        problem = "is not relative to the catalog"
    elif any(part in ("", ".", "..") for part in text.split("/")):
        problem = "leads elsewhere than it says"
    if problem:
        raise CorruptInput(ascii(text[:100]), "", f"this path {problem}")
    return text


def partial_name(name: str) -> str:
    """A name for a file while it is written, another one each time."""
    return f".{name}.{secrets.token_hex(6)}.partial"


@contextmanager
def partial_beside(final: Path) -> Iterator[Path]:
    """A temporary name beside a path, gone afterwards."""
    partial = final.with_name(partial_name(final.name))
    try:
        yield partial
    finally:
        partial.unlink(missing_ok=True)


def opened(parent: int, name: str, path: str, flags: int = 0) -> int:
    """A descriptor of a plain file (or of what the flags say) in a folder; raises CorruptInput for a link or a device."""
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | flags, dir_fd=parent)
    except OSError as error:
        is_link = error.errno in (errno.ELOOP, errno.ENOTDIR) and stat.S_ISLNK(os.lstat(name, dir_fd=parent).st_mode)
        if is_link:
            raise CorruptInput(path, "", "is a symbolic link, or lies behind one; a catalog has none") from error
        raise
    if not flags & os.O_DIRECTORY and not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise CorruptInput(path, "", "is not a file")
    return descriptor


def content_in(parent: int, name: str) -> bytes:
    """The bytes of a small file in a folder: half the system calls, for 100,000 of them. A link gives OSError (ELOOP)."""
    if not _PLAIN_NAME.fullmatch(name):
        raise CorruptInput(ascii(name), "", "is not a plain name")
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
    try:
        data = part = os.read(descriptor, _ONE_READ)
        while len(part) == _ONE_READ:
            part = os.read(descriptor, _ONE_READ)
            data += part
    finally:
        os.close(descriptor)
    return data


def found_file(path: str, status: os.stat_result) -> Found:
    """A local file by its status."""
    return Found(path=path, bytes=status.st_size, state=f"{status.st_mtime_ns}:{status.st_size}:{status.st_ino}")
