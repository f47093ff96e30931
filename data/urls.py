"""URL lists: pages of listed domains, listed pages, and pages with a listed word in their address.

A list is a text file, or a gzip of one, with an entry a line; `#` begins a comment line:

    example.com          the domain and everything below it
    .example             a whole top-level domain
    example.com/path     this page (a scheme, `www.`, a port and a final slash make no difference)
    word:casino          a word of the address, host or path

Lists are compiled once to a sorted array of 64-bit hashes in a file that all workers map into memory: 4.6 million entries are
37 MB, shared, where datatrove's sets of strings take 740 MB in every worker. A page that is not listed is taken for a listed
one with a probability below 10**-11. Substrings of words and datatrove's counts of soft words are left out: in SEA languages
they hit names and ordinary syllables.
"""

from __future__ import annotations

import gzip
import logging
import os
import re
import tarfile
import zlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO, cast
from urllib.parse import unquote

import numpy as np
import regex  # type: ignore[import-untyped]
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from ..catalog.errors import CorruptInput, MissingDependency
from ..catalog.fingerprint import file_digest, fingerprint

MAX_URL = 4_096
"""Characters of an address that are looked at."""
MAX_HOST = 253
"""Characters of a host name, by the rules of the DNS."""
BUNDLED = ("datatrove:domains", "datatrove:urls")
"""The lists inside the datatrove package (4.6 million domains and 20,000 pages, mostly adult): read there, never copied."""

_LOGGER = logging.getLogger(__name__)
_ADDRESS = re.compile(r"(?:[a-z][a-z0-9+.\-]*:(?=/))?/*([^/?#]*)([^#]*)", re.IGNORECASE)
_DOMAIN = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)+")
_HOST = re.compile(rf"{_DOMAIN.pattern}|\.[a-z0-9_-]+|\[[0-9a-f:.]+\]")
_WORD = regex.compile(r"[\p{L}\p{M}\p{N}]+")  # in `re`, a Thai vowel sign is no part of a word
_WORDS = "word:"
_GZIP = b"\x1f\x8b"


@dataclass(slots=True, kw_only=True)
class Counts:
    """What a list holds, line by line."""

    domains: int = 0
    """Domains and top-level domains."""
    urls: int = 0
    """Pages."""
    words: int = 0
    """Words of addresses."""
    bad: int = 0
    """Lines that are none of these."""


class UrlList:
    """A compiled list, mapped into memory."""

    def __init__(self, path: Path, hashes: NDArray[np.uint64]) -> None:
        self.path, self._hashes = path, hashes
        self._has_words = bool(self._found([_WORDS])[0])

    @classmethod
    def load(cls, path: Path) -> UrlList:
        """Map a file that `compile_list` wrote; raises CorruptInput for any other."""
        try:
            hashes = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise CorruptInput(path, "", f"is no compiled URL list ({error}); delete it, and it is made again") from error
        if hashes.dtype != np.uint64 or hashes.ndim != 1 or not len(hashes):
            raise CorruptInput(path, "", "is no compiled URL list; delete it, and it is made again")
        return cls(path, hashes.view(np.ndarray))

    @staticmethod
    def compiled(source: Path | str, cache: Path) -> Path:
        """The compiled file of a list, or of one of `BUNDLED`, in the folder `cache`; made when the list is new or changed.

        Raises what `compile_list` raises.
        """
        if isinstance(source, Path) and not source.is_file():
            raise CorruptInput(source, "", "no such file")
        digest = file_digest(source) if isinstance(source, Path) else fingerprint([source, file_digest(_archive())])
        into = cache / f"{digest[:32]}.npy"
        if not into.is_file() and (bad := compile_list(source, into).bad):
            _LOGGER.warning("%s: %d lines are no domain, address or word, and are left out", source, bad)
        return into

    def __reduce__(self) -> tuple[Callable[[Path], UrlList], tuple[Path]]:
        return UrlList.load, (self.path,)  # a worker maps the file, it is not sent a copy

    def __len__(self) -> int:
        return len(self._hashes)

    def reason(self, url: str) -> str:
        """Why an address is blocked: `blocked_domain`, `blocked_url` or `blocked_word`; empty for one that is not."""
        host, rest = address(url)
        if not host:
            return ""
        labels = host.split(".")
        domains = [".".join(labels[i:]) for i in range(len(labels) - 1)] if len(labels) > 1 else [host]
        domains.append(f".{labels[-1]}")
        words = {_WORDS + word for word in _WORD.findall(f"{host}{rest}".lower())} if self._has_words else ()
        found = self._found([*domains, _page(host, rest), *words])
        if not found.any():
            return ""
        first = int(found.argmax())
        return "blocked_domain" if first < len(domains) else "blocked_url" if first == len(domains) else "blocked_word"

    def _found(self, keys: Sequence[str]) -> NDArray[np.bool_]:
        """Which keys are in the list."""
        wanted = np.fromiter(map(_hashed, keys), np.uint64, len(keys))
        found: NDArray[np.bool_] = self._hashes.take(self._hashes.searchsorted(wanted), mode="clip") == wanted
        return found


def address(url: str) -> tuple[str, str]:
    """Host, and path with query, of a URL in one form for all ways to write it; the host is empty where there is none.

    Scheme, user, port and fragment are left out; the host is lower case and in its ASCII form, without a final dot; escapes are
    resolved. Anything is taken, and no more than `MAX_URL` characters of it.
    """
    match = _ADDRESS.match(url[:MAX_URL].strip().replace("\\", "/"))
    assert match is not None, "every part of the pattern may be empty"
    authority, rest = match.groups()
    host = unquote(authority).rpartition("@")[2].lower()
    host = f"{host.partition(']')[0]}]" if host.startswith("[") else host.partition(":")[0].rstrip(".")
    if not host.isascii():
        try:
            host = host[:MAX_HOST].encode("idna").decode("ascii").lower()
        except UnicodeError:  # a label that is empty, too long or of mixed direction: no registered name
            return "", ""
    return (host if len(host) <= MAX_HOST else ""), unquote(rest).rstrip("/")


def _page(host: str, rest: str) -> str:
    return f"{host.removeprefix('www.')}{rest or '/'}"


def _hashed(key: str) -> int:
    return xxh3_64_intdigest(key.encode("utf-8", "surrogatepass"))


def compile_list(source: Path | str, into: Path) -> Counts:
    """Write the entries of a list file, or of one of `BUNDLED`, to a compiled list.

    Lines that are no entry are counted and left out. Raises CorruptInput for a file that cannot be read, one with more such
    lines than entries or no entry at all, ValueError for a bundled list that does not exist.
    """
    hashes, counts = array("Q"), Counts()
    with _opened(source) as file:
        for number, line in enumerate(_lines(file, source), start=1):
            if key := _entry(line, counts):
                hashes.append(_hashed(key))
            elif counts.bad > 10 and counts.bad > number // 2:
                raise _unfit(source, number, line)
    if not hashes:
        raise CorruptInput(source, "", "holds no domain, address or word")
    if counts.words:
        hashes.append(_hashed(_WORDS))  # tells a reader to look words up at all
    into.parent.mkdir(parents=True, exist_ok=True)
    partial = into.with_name(f"{into.name}.{os.getpid()}.partial")
    with partial.open("wb") as packed:
        np.save(packed, np.unique(np.frombuffer(hashes, np.uint64)))
    os.replace(partial, into)
    return counts


def _entry(line: bytes, counts: Counts) -> str:
    """The key of a line's entry, counted; empty for none."""
    try:
        text = line.strip().decode("utf-8")
    except UnicodeDecodeError:
        counts.bad += 1
        return ""
    if not text or text.startswith("#"):
        return ""
    if _DOMAIN.fullmatch(text):  # nearly all lines of the large lists
        counts.domains += 1
        return text
    if text.startswith(_WORDS) and _WORD.fullmatch(text, len(_WORDS)):
        counts.words += 1
        return text.lower()
    host, rest = address(text)
    if not _HOST.fullmatch(host) or len(text.split()) > 1 or len(text) > MAX_URL:
        counts.bad += 1
        return ""
    counts.urls += bool(rest)
    counts.domains += not rest
    return _page(host, rest) if rest else host


def _unfit(source: Path | str, number: int, line: bytes) -> CorruptInput:
    shown = line[:80].decode("utf-8", "replace").strip()
    return CorruptInput(source, f"line {number}", f"{shown!r}: more than half of the lines are no domain, address or word")


@contextmanager
def _opened(source: Path | str) -> Iterator[IO[bytes]]:
    """A list as a stream of bytes, unpacked."""
    if isinstance(source, Path):
        try:
            file = source.open("rb")
        except OSError as error:
            raise CorruptInput(source, "", f"cannot be read ({error.strerror})") from error
        with file:
            if file.peek(2)[:2] == _GZIP:
                with gzip.GzipFile(fileobj=file) as unpacked:
                    yield cast("IO[bytes]", unpacked)
            else:
                yield file
        return
    if source not in BUNDLED:
        raise ValueError(f"{source!r} is no bundled list; there are {', '.join(BUNDLED)}")
    with tarfile.open(_archive(), "r:gz") as archive:
        member = archive.extractfile(source.partition(":")[2])
        assert member is not None, "the archive holds both lists as plain files"
        yield member


def _lines(file: IO[bytes], source: Path | str) -> Iterator[bytes]:
    try:
        yield from file
    except (OSError, EOFError, zlib.error) as error:
        raise CorruptInput(source, "", f"cannot be unpacked: {error}") from error


def bundled_digest() -> str:
    """Digest of the archive that `BUNDLED` are read from."""
    return file_digest(_archive())


def _archive() -> Path:
    package = find_spec("datatrove")
    places = package.submodule_search_locations if package else None
    found = sorted(Path(places[0], "assets").glob("url_filterblacklists*.tar.gz")) if places else []
    if not found:
        raise MissingDependency("datatrove", "for its URL lists")
    return found[-1]
