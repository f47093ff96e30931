"""The endless stream of tokens of one mixture part, read by place: its files end to end, again and again.

The files of all variants lie behind each other, variant 0 first, so that epoch e reads variant e % variants and the stream
repeats itself after all of them. A window may lie across documents, files and epochs: no token is lost at a border. Windows
come in the order of the stream. To permute them was refused: documents are shuffled within each file, while in order disks read
ahead, and what a run read is the difference of two places. So a part that is planned for less than an epoch reads its first
shards, and not something of each.

Files are mapped into memory when they are first read, a few hundred at a time: a stream has no state, and costs no memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..catalog.errors import CorruptInput
from .batches import Integers

MAPPED = 256
"""Files of a stream that are mapped at the same time: the system allows a process some 65,000 in all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenFile:
    """One file of tokens, as its table says it is."""

    path: Path
    """Token ids; `.index` and `.documents` lie beside it."""
    tokens: int
    documents: int


class Read(NamedTuple):
    """What was read of the documents of one crawl."""

    documents: int
    """Documents whose first token was read, each time."""
    tokens: int
    plain: int
    """The same text without BPE-dropout."""


class TokenStream:
    """The files of one part, end to end without end; places are counted in tokens from 0."""

    def __init__(self, files: Sequence[TokenFile], token_bytes: int) -> None:
        """Raises CorruptInput for a file whose size is not what the table says; opens none of them."""
        self._files = [file for file in files if file.tokens]
        if not self._files:
            raise ValueError("a stream needs tokens")
        for file in self._files:
            _check_size(file.path, file.tokens * token_bytes)
            _check_size(_beside(file, "index"), file.documents * 8)
        self._kind = np.dtype(f"<u{token_bytes}")
        self._begins = np.cumsum([0, *(file.tokens for file in self._files)])
        self._documents = np.cumsum([0, *(file.documents for file in self._files)])
        self._mapped = lru_cache(maxsize=MAPPED)(self._map)

    @property
    def tokens(self) -> int:
        """Tokens of all variants: what one reads before anything comes again."""
        return int(self._begins[-1])

    def read(self, place: int, tokens: npt.NDArray[np.int64], starts: npt.NDArray[np.bool_]) -> None:
        """Fill `tokens` from a place on, and set `starts`, all False before, where a document begins."""
        filled = 0
        for file, low, high in self._pieces(place, place + len(tokens)):
            ids, ends = self._mapped(file)
            tokens[filled : filled + high - low] = ids[low:high]
            first, last = ends.searchsorted((low, high))
            starts[ends[first:last] + (filled - low)] = True
            starts[filled] |= low == 0
            filled += high - low

    def file_at(self, place: int) -> Path:
        """The file that a place lies in."""
        return self._files[next(self._pieces(place, place + 1))[0]].path

    def starts_before(self, places: Integers) -> Integers:
        """Documents that begin before each place."""
        rounds, rest = np.divmod(places, self.tokens)
        files = self._begins.searchsorted(rest, "right") - 1
        count: Integers = rounds * self._documents[-1] + self._documents[files]
        for file in np.unique(files).tolist():
            here = files == file
            within = rest[here] - self._begins[file]
            count[here] += np.where(within > 0, self._mapped(file)[1].searchsorted(within) + 1, 0)
        return count

    def ledger(self, spans: Sequence[tuple[int, int]]) -> dict[str, Read]:
        """What spans of the stream hold, by crawl; each file's list of documents is read once, also for many epochs.

        A document that is read in part counts for as much of its plain tokens, rounded so that its parts add up to all of them.
        """
        wanted: dict[int, dict[tuple[int, int], int]] = {}
        for low, high in spans:
            for file, first, last, times in self._repeated(low, high):
                own = wanted.setdefault(file, {})
                own[first, last] = own.get((first, last), 0) + times
        total: dict[str, Read] = {}
        for file in sorted(wanted):
            for crawl, read in self._read(file, wanted[file]):
                total[crawl] = Read(*(a + b for a, b in zip(total.get(crawl, Read(0, 0, 0)), read, strict=True)))
        return total

    def _pieces(self, low: int, high: int) -> Iterator[tuple[int, int, int]]:
        """File, first and last place in it (the last excluded) of what lies between two places."""
        while low < high:
            rest = low % self.tokens
            file = int(self._begins.searchsorted(rest, "right")) - 1
            begin = rest - int(self._begins[file])
            end = min(self._files[file].tokens, begin + high - low)
            yield file, begin, end
            low += end - begin

    def _repeated(self, low: int, high: int) -> Iterator[tuple[int, int, int, int]]:
        """The same pieces, each with how often it comes: whole rounds of all files at once."""
        rounds = max(0, high // self.tokens - -(-low // self.tokens))
        if rounds:
            first = -(-low // self.tokens) * self.tokens
            yield from ((file, 0, each.tokens, rounds) for file, each in enumerate(self._files))
            rest = [(low, first), (first + rounds * self.tokens, high)]
        else:
            rest = [(low, high)]
        yield from ((*piece, 1) for span in rest for piece in self._pieces(*span))

    def _read(self, number: int, spans: dict[tuple[int, int], int]) -> Iterator[tuple[str, Read]]:
        """What was read of one file; `spans` says which places and how often."""
        file, ends = self._files[number], self._mapped(number)[1]
        crawls, names, plain = _documents(file)
        for (low, high), times in spans.items():
            first = int(ends.searchsorted(low, "right"))
            last = int(ends.searchsorted(high)) + 1
            end = np.asarray(ends[first:last])
            start = np.append(ends[first - 1] if first else 0, end[:-1])
            size, text = end - start, plain[first:last]
            before, after = np.clip(low - start, 0, size), np.clip(high - start, 0, size)
            counts = ((start >= low) & (start < high), after - before, text * after // size - text * before // size)
            sums = [np.bincount(crawls[first:last], each, len(names)).astype(np.int64) * times for each in counts]
            yield from (
                (names[i], Read(*(int(each[i]) for each in sums))) for i in np.flatnonzero(sums[1]).tolist()
            )  # fmt: skip

    def _map(self, number: int) -> tuple[npt.NDArray[Any], Integers]:
        """Tokens of a file and the end of each document, which stay on disk."""
        file = self._files[number]
        # Plain arrays over the maps: memmap's own type makes every slice ten times dearer. Signed, as searching unsigned
        # numbers for signed ones would make a copy of all of them.
        tokens = np.asarray(np.memmap(file.path, self._kind, "r"))
        ends = np.asarray(np.memmap(_beside(file, "index"), "<i8", "r"))
        if len(ends) == 0 or ends[-1] != file.tokens:
            raise CorruptInput(_beside(file, "index"), "", f"does not end at the {file.tokens:,} tokens of {file.path.name}")
        return tokens, ends


def _beside(file: TokenFile, what: str) -> Path:
    return file.path.with_name(f"{file.path.name}.{what}")


def _check_size(path: Path, wanted: int) -> None:
    if not path.is_file():
        raise CorruptInput(path, "", "is missing")
    found = path.stat().st_size
    if found != wanted:
        raise CorruptInput(path, "", f"holds {found:,} bytes, not {wanted:,}; restore it or remake the token files")


def _documents(file: TokenFile) -> tuple[Integers, list[str], Integers]:
    """Number of the crawl of each document, the crawls, and each document's tokens without dropout."""
    path = _beside(file, "documents")
    try:
        table = pq.ParquetFile(path).read(columns=["crawl", "tokens_plain"]).combine_chunks()
    except (pa.ArrowException, OSError, KeyError) as error:
        raise CorruptInput(path, "", f"cannot be read as documents: {str(error).splitlines()[0]}") from error
    if len(table) != file.documents:
        raise CorruptInput(path, "", f"lists {len(table):,} documents, not {file.documents:,}")
    coded = pc.fill_null(table["crawl"], "").dictionary_encode().combine_chunks()
    numbers = coded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    return numbers, coded.dictionary.to_pylist(), table["tokens_plain"].to_numpy()
