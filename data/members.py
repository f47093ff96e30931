"""Splitting a WARC file into members: each record's place in the file and its content, in bounded memory.

A member is a gzip member or, in an uncompressed file, a record. Damage is met here: a member that does not inflate, or whose
checksum differs, costs itself only, and reading goes on at the next gzip header behind which a record begins. FastWARC's
iterator was refused as the base: it frames records by their Content-Length, so that a wrong one loses the records that follow,
takes a file that ends within a record for a whole one, and does not tell where a member ends. ISA-L inflates as fast and hands
over exact members; Python's zlib takes twice as long.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from isal.igzip_lib import IsalError
from isal.isal_zlib import decompressobj

DAMAGED, CUT = "damaged_record", "cut_record"
CHUNK = 1 << 16
"""Bytes read at a time."""
SMALL = 1 << 12
"""Bytes read at first: two members of three, requests and metadata, are no longer, and copying more would cost."""
MAX_PIECE = 1 << 18
"""Bytes inflated at a time: a bomb is never whole in memory."""
WINDOW = 8 << 20
"""Bytes of a file that are kept to be looked at again, when the member that they were read as turns out to be damaged."""
MAX_HEAD_BYTES = 1 << 16
"""Bytes of one block of headers, WARC's or HTTP's."""
PROBE = 4 << 10
"""Bytes behind a gzip header that are looked at to tell whether a record begins there."""

_InflateError = cast("type[Exception]", IsalError)  # isal's stubs give the class as an instance
_GZIP = b"\x1f\x8b\x08"
_GZIP_HEADER = re.compile(rb"\x1f\x8b\x08(?=[\x00-\x1f].{4}[\x00\x02\x04][\x00-\x0d\xff])", re.DOTALL)  # they may overlap
_RECORD_LINE = re.compile(rb"(?<=\n)WARC/[01]\.[0-9]{1,2}\r?\n")
_CONTENT_LENGTH = re.compile(rb"\ncontent-length[ \t]*:[ \t]*([0-9]{1,18})[ \t]*\r\n", re.IGNORECASE)


class Readable(Protocol):
    """A binary stream that need not seek: an open file, the body of an HTTP answer, an object of a store."""

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes; none at the end."""
        ...


@dataclass(frozen=True, slots=True)
class Member:
    """One member of a WARC file."""

    offset: int
    """Where it begins in the file."""
    length: int
    """Bytes of the file that it takes; for a damaged one, up to the next member that was found."""
    data: bytes
    """Its content, up to the limit; nothing of a damaged one, as any of it may be wrong."""
    size: int
    """Bytes of its whole content; 0 for a damaged one."""
    fault: str = ""
    """`damaged_record`, or `cut_record` when the file ends within it."""


class _Tape:
    """A stream by offset: read forward, and again within a window."""

    def __init__(self, stream: Readable) -> None:
        self.stream, self.window, self.base, self.reread = stream, bytearray(), 0, 0

    @property
    def end(self) -> int:
        """Bytes read so far."""
        return self.base + len(self.window)

    def bytes_at(self, offset: int, least: int = 1, most: int = CHUNK) -> bytes:
        """From `least` to `most` bytes from `offset`; fewer at the end of the stream."""
        while self.end < offset + least and (more := self.stream.read(CHUNK)):
            self.window += more
            self._drop(len(self.window) - WINDOW)
        start = offset - self.base
        assert start >= 0, "the tape goes back within its window only"
        with memoryview(self.window) as view:
            return bytes(view[start : start + most])

    def forget(self, offset: int) -> None:
        """Let go of what lies before `offset`."""
        self._drop(min(offset - self.base, len(self.window)))

    def again_from(self, offset: int) -> int:
        """Where to look on when the member at `offset` failed: behind its first byte, as others may lie within it.

        Members made to fail late would have each byte read thousands of times, so there is an allowance; when it is used up,
        reading goes on where the failure came up.
        """
        self.reread += self.end - self.base
        is_allowed = self.reread <= 8 * (self.base + WINDOW)
        return max(offset + 1, self.base if is_allowed else self.end - CHUNK)

    def find(self, offset: int, pattern: re.Pattern[bytes], is_begin: Callable[[bytes], bool]) -> int:
        """Where, from `offset` on, the pattern occurs and a record begins; the stream's end when nowhere."""
        while True:
            piece = self.bytes_at(offset, PROBE)
            for match in pattern.finditer(piece):
                if is_begin(self.bytes_at(offset + match.start(), PROBE, PROBE)):
                    return offset + match.start()
            if len(piece) < PROBE:
                return self.end
            offset += len(piece) - 16  # the pattern may lie across two pieces

    def _drop(self, count: int) -> None:
        if count > 0:
            del self.window[:count]
            self.base += count


@contextmanager
def opened(source: Path | Readable) -> Iterator[Readable]:
    """The stream itself, or the file at a path while it is read."""
    if isinstance(source, Path):
        with source.open("rb", buffering=0) as file:
            yield file
    else:
        yield source


def members(source: Path | Readable, limit: int) -> Iterator[Member]:
    """The members of a file, with up to `limit` bytes of each one's content; after damage, the next that can be found.

    The work is linear in the bytes of the file and of its content, whatever they are; memory is bounded by `limit` and WINDOW.
    """
    with opened(source) as stream:
        tape = _Tape(stream)
        split = _records if tape.bytes_at(0, 5, 5) == b"WARC/" else _gzip_members
        yield from split(tape, limit)


def _gzip_members(tape: _Tape, limit: int) -> Iterator[Member]:
    offset = 0
    while (member := _inflated(tape, offset, limit)).length:
        if member.fault:
            begin = tape.bytes_at(offset, 10, 10) if tape.base <= offset else b""
            is_gzip = _GZIP.startswith(begin[:3]) and (len(begin) < 10 or _GZIP_HEADER.match(begin))
            after = tape.find(tape.again_from(offset), _GZIP_HEADER, _holds_record)
            is_cut = is_gzip and member.fault == CUT and after == tape.end
            member = Member(offset, after - offset, member.data, member.size, CUT if is_cut else DAMAGED)
        yield member
        offset += member.length
        tape.forget(offset)


def _inflated(tape: _Tape, offset: int, limit: int) -> Member:
    """The gzip member that begins at `offset`; of no length at the end of the stream."""
    inflater = decompressobj(wbits=31)
    pieces: list[bytes] = []
    size, position, rest = 0, offset, b""
    while not inflater.eof:
        if not rest:
            rest = tape.bytes_at(position, 1, CHUNK if size else SMALL)
            position += len(rest)
        try:
            piece = inflater.decompress(rest, MAX_PIECE)
        except _InflateError:
            return Member(offset, position - offset, b"", 0, DAMAGED)
        if not rest and not piece and not inflater.eof:
            return Member(offset, position - offset, b"".join(pieces), size, CUT)
        if size < limit:
            pieces.append(piece[: limit - size])
        size += len(piece)
        rest = inflater.unconsumed_tail
    return Member(offset, position - offset - len(inflater.unused_data), b"".join(pieces), size)


def _holds_record(begin: bytes) -> bool:
    try:
        return decompressobj(wbits=31).decompress(begin, 5) == b"WARC/"
    except _InflateError:
        return False


def _records(tape: _Tape, limit: int) -> Iterator[Member]:
    """The records of an uncompressed file: framed by Content-Length where another record, or the end, lies behind."""
    offset = 0
    while tape.bytes_at(offset):
        tape.forget(offset)
        end = _declared_end(tape.bytes_at(offset, MAX_HEAD_BYTES), offset)
        position, data = offset, bytearray()
        while position < end and (piece := tape.bytes_at(position, 1, min(CHUNK, end - position))):
            data += piece[: max(0, limit - len(data))]
            position += len(piece)
        behind = tape.bytes_at(position, PROBE, PROBE)
        gap = len(behind) - len(behind.lstrip(b"\r\n"))
        fault = ""
        if position == end and behind[gap : gap + 5] in (b"WARC/", b""):
            after = position + gap
        else:
            after = tape.find(tape.again_from(offset), _RECORD_LINE, lambda _: True)
            if position < end and after == tape.end:
                fault = CUT
            elif tape.base > offset:
                fault, data = DAMAGED, bytearray()
            else:
                data = tape.window[: min(after - offset, limit)]
        yield Member(offset, after - offset, bytes(data), 0 if fault == DAMAGED else after - offset, fault)
        offset = after


def _declared_end(begin: bytes, offset: int) -> int:
    """Where the record at `offset` ends by its own headers; -1 when they do not say."""
    blank = begin.find(b"\r\n\r\n") + 2
    declared = _CONTENT_LENGTH.search(begin, 0, blank) if blank > 1 else None
    return offset + blank + 2 + int(declared[1]) if declared else -1
