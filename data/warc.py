"""Reading WARC files as Common Crawl writes them: one gzip member a record, `metadata` after its `response`.

The members are split here, in bounded memory, and only their content is given to warcio. Readers of whole files end them, some
silently, at the first damaged member, and inflate a decompression bomb whole. Here

* a file cut short at its end is refused before anything is made (`check_warc`): it is an unfinished download;
* a damaged member within the file costs that record only, is counted, and reading goes on at the next gzip header;
* a record is read up to a limit; what lies beyond is inflated to find the member's end, and thrown away.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from warcio.bufferedreaders import BufferedReader
from warcio.exceptions import ArchiveLoadFailed
from warcio.recordloader import ArcWarcRecord, ArcWarcRecordLoader
from warcio.statusandheaders import StatusAndHeadersParserException

from ..catalog.errors import CorruptInput
from ..catalog.languages import language_code

MAX_RECORD_BYTES = 5 << 20
"""Bytes of a record, and of a decoded body, that are read; Common Crawl itself cuts pages at 1 MiB (5 MiB since 2025)."""
MAX_HEAD_BYTES = 64 << 10
"""Bytes of WARC and HTTP headers allowed on top of a record's limit."""
GZIP = b"\x1f\x8b\x08"
CHUNK = 1 << 14
"""Bytes read at a time."""
MAX_PIECE = 1 << 18
"""Bytes inflated at a time: a bomb is never whole in memory."""
HTML_TYPES = ("text/html", "application/xhtml+xml")


@dataclass(frozen=True, slots=True)
class Member:
    """One gzip member of a WARC file."""

    offset: int
    """Where it begins in the file."""
    data: bytes
    """Its content, up to the limit."""
    size: int
    """Bytes of its whole content."""
    is_damaged: bool
    """Whether it does not inflate to its end, or its checksum differs."""
    is_cut: bool
    """Whether the file ends within it."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What a crawl's annotation (`languages-cld2`) says a page is written in."""

    shares: tuple[tuple[str, float], ...]
    """Language (ISO 639-3) and share of the text it covers, 0 to 1, largest first."""
    is_reliable: bool
    """CLD2's own judgement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """One `response` record, with what the crawl noted about it."""

    url: str
    date: str
    """WARC-Date."""
    offset: int
    """Where its gzip member begins in the file."""
    payload: bytes = b""
    """The body, decoded of transfer and content encodings."""
    content_type: str = ""
    """HTTP header."""
    fault: str = ""
    """Why it cannot be used (`status_404`, `redirect`, `not_html`, `truncated`, ...); empty when it can."""
    claim: Claim | None = None
    """None: the crawl noted no language."""
    charset: str = ""
    """The crawler's `charset-detected`."""

    @property
    def id(self) -> str:
        """Digest of what was fetched, where and when: the same for the same capture, wherever its file lies."""
        digest = hashlib.sha256(f"{self.url}\n{self.date}\n{'' if self.url else self.offset}\n".encode())
        digest.update(self.payload)
        return digest.hexdigest()[:32]


def check_warc(path: Path) -> int:
    """The number of `response` (and damaged) records of a WARC file, read once in bounded memory.

    Raises CorruptInput when it is no WARC file, ends within a gzip member, holds no record, or is compressed as one member.
    """
    with path.open("rb") as file:
        magic = file.read(5)
    if magic[:3] != GZIP:
        hint = "is not compressed; one gzip member a record is needed" if magic == b"WARC/" else "is not a gzipped WARC file"
        raise CorruptInput(path, "", hint)
    responses = records = 0
    for member in members(path, MAX_HEAD_BYTES):
        where = f"byte {member.offset}"
        if member.is_cut:
            raise CorruptInput(path, where, "the file ends within this gzip member: it is cut short; fetch it again")
        if not member.data.startswith(b"WARC/") and not member.is_damaged and member.size:
            raise CorruptInput(path, where, "this gzip member does not hold a WARC record")
        if not member.is_damaged and _is_followed(member):
            raise CorruptInput(path, where, "several records in one gzip member; one member a record is needed")
        records += bool(member.size) and not member.is_damaged
        responses += member.is_damaged or _kind(member.data) == "response"
    if not records:
        raise CorruptInput(path, "", "holds no WARC record")
    return responses


def members(path: Path, limit: int = MAX_RECORD_BYTES + MAX_HEAD_BYTES) -> Iterator[Member]:
    """The gzip members of a file, each inflated up to `limit` bytes; after a damaged one, the next that can be found."""
    size = path.stat().st_size
    with path.open("rb", buffering=1 << 20) as file:
        offset = 0
        while offset < size:
            member, end = _member(file, offset, limit)
            yield member
            offset = _next_member(file, offset + 1) if member.is_damaged and not member.is_cut else end


def _member(file: BinaryIO, offset: int, limit: int) -> tuple[Member, int]:
    """The gzip member that begins at `offset`, and where it ends."""
    file.seek(offset)
    inflater = zlib.decompressobj(wbits=31)
    data, size = bytearray(), 0
    while not inflater.eof:
        chunk = inflater.unconsumed_tail or file.read(CHUNK)
        try:
            piece = inflater.decompress(chunk, MAX_PIECE)
        except zlib.error:
            return Member(offset, bytes(data), size, True, False), offset
        if not chunk and not piece and not inflater.eof:
            return Member(offset, bytes(data), size, True, True), file.tell()
        size += len(piece)
        data += piece[: max(0, limit - len(data))]
    return Member(offset, bytes(data), size, False, False), file.tell() - len(inflater.unused_data)


def _next_member(file: BinaryIO, start: int) -> int:
    """Seek to the next gzip header at or after `start` whose content begins like a WARC record, or to the file's end."""
    file.seek(start)
    tail, position = b"", start
    while chunk := file.read(CHUNK):
        window, base = tail + chunk, position - len(tail)
        at = window.find(GZIP)
        while at >= 0:
            if _begins_record(file, base + at):
                file.seek(base + at)
                return base + at
            at = window.find(GZIP, at + 1)
        position += len(chunk)
        file.seek(position)
        tail = window[-2:]
    return position


def _begins_record(file: BinaryIO, offset: int) -> bool:
    file.seek(offset)
    try:
        return bool(zlib.decompressobj(wbits=31).decompress(file.read(4096), 5) == b"WARC/")
    except zlib.error:
        return False


def _head(data: bytes) -> tuple[bytes, int]:
    """The WARC header block and where the record's block begins."""
    end = data.find(b"\r\n\r\n")
    return (data, len(data)) if end < 0 else (data[:end], end + 4)


def _field(head: bytes, name: bytes) -> bytes:
    for line in head.split(b"\r\n")[1:]:
        key, _, value = line.partition(b":")
        if key.strip().lower() == name:
            return value.strip()
    return b""


def _kind(data: bytes) -> str:
    return _field(_head(data)[0], b"warc-type").decode("latin-1").lower()


def _is_followed(member: Member) -> bool:
    """Whether a second record lies behind the first in one member."""
    head, start = _head(member.data)
    length = _field(head, b"content-length")
    if not length.isdigit():
        return False
    rest = member.data[start + int(length) :].lstrip(b"\r\n")
    return rest.startswith(b"WARC/")


def responses(path: Path, limit: int = MAX_RECORD_BYTES) -> Iterator[Response]:
    """Every `response` record with its annotation; a damaged member counts as one (`damaged_record`), as its type is unknown.

    A `metadata` record is taken for the response before it when it names that record, or names none.
    """
    pending: tuple[str, Response] | None = None
    for member in members(path, limit + MAX_HEAD_BYTES):
        if not member.size and not member.is_damaged:
            continue
        head, _ = _head(member.data)
        kind = "response" if member.is_damaged else _kind(member.data)
        if kind == "metadata" and pending:
            yield _annotated(*pending, member.data)
            pending = None
        elif pending:
            yield pending[1]
            pending = None
        if kind == "response":
            pending = _field(head, b"warc-record-id").decode("latin-1"), _response(member, limit)
    if pending:
        yield pending[1]


def _annotated(record_id: str, response: Response, metadata: bytes) -> Response:
    head, start = _head(metadata)
    about = _field(head, b"warc-concurrent-to") or _field(head, b"warc-refers-to")
    if about and about.decode("latin-1") != record_id:
        return response
    noted = {}
    for line in metadata[start:].decode("utf-8", "replace").splitlines():
        key, _, value = line.partition(":")
        noted[key.strip().lower()] = value.strip()
    return Response(
        url=response.url, date=response.date, offset=response.offset, payload=response.payload,
        content_type=response.content_type, fault=response.fault, claim=read_claim(noted.get("languages-cld2", "")),
        charset=noted.get("charset-detected", ""),
    )  # fmt: skip


def read_claim(text: str) -> Claim | None:
    """Read `languages-cld2`; None when there is none, or it cannot be read."""
    try:
        table = json.loads(text)
        shares = [(language_code(str(row["code-iso-639-3"])), float(row["text-covered"])) for row in table["languages"]]
        reliable = table["reliable"] is True
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
    if not all(0 <= share <= 1 for _, share in shares):
        return None
    return Claim(tuple(sorted(shares, key=lambda share: -share[1])), reliable) if shares else None


def _response(member: Member, limit: int) -> Response:
    head, start = _head(member.data)
    url = _field(head, b"warc-target-uri").strip(b"<>").decode("utf-8", "replace")
    date = _field(head, b"warc-date").decode("latin-1")
    if member.is_damaged:
        return Response(url=url, date=date, offset=member.offset, fault="damaged_record")
    if not url:
        return Response(url="", date=date, offset=member.offset, payload=member.data[start:], fault="no_url")
    try:
        record = ArcWarcRecordLoader().parse_record_stream(BytesIO(member.data), known_format="warc", no_record_parse=False)
        payload, is_longer = _body(record, limit)
    except (ArchiveLoadFailed, StatusAndHeadersParserException, ValueError, EOFError, zlib.error, OSError):
        return Response(url=url, date=date, offset=member.offset, payload=member.data[start:], fault="unreadable_record")
    content_type = _content_type(record)
    return Response(
        url=url,
        date=date,
        offset=member.offset,
        payload=payload,
        content_type=content_type,
        fault=_fault(record, head, member, is_longer, limit) or _type_fault(head, content_type, payload),
    )


def _body(record: ArcWarcRecord, limit: int) -> tuple[bytes, bool]:
    """Up to `limit` bytes of the decoded body, and whether there are more."""
    stream, data = record.content_stream(), bytearray()
    while len(data) <= limit and (piece := stream.read(min(MAX_PIECE, limit + 1 - len(data)))):
        data += piece
    return bytes(data[:limit]), len(data) > limit


def _content_type(record: ArcWarcRecord) -> str:
    return str(record.http_headers.get_header("content-type") or "") if record.http_headers else ""


def _fault(record: ArcWarcRecord, head: bytes, member: Member, is_longer: bool, limit: int) -> str:
    """What makes a record unusable, whatever its type; empty when nothing does."""
    status = record.http_headers.get_statuscode() if record.http_headers else ""
    if not status.isdigit():
        return "no_http_status"
    if 300 <= int(status) < 400:
        return "redirect"
    if int(status) != 200:
        return f"status_{status}"
    if is_longer or member.size > limit + MAX_HEAD_BYTES:
        return "too_large"
    encoding = str(record.http_headers.get_header("content-encoding") or "identity").lower()
    if encoding not in ("identity", *BufferedReader.get_supported_decompressors()):
        return "unknown_encoding"
    length, start = _field(head, b"content-length"), _head(member.data)[1]
    is_short = not length.isdigit() or int(length) > member.size - start
    return "truncated" if _field(head, b"warc-truncated") or is_short else ""


def _type_fault(head: bytes, content_type: str, payload: bytes) -> str:
    """Whether the payload is something else than HTML: the crawler's finding first, then the server's word, then the bytes."""
    media = _field(head, b"warc-identified-payload-type").decode("latin-1") or content_type.partition(";")[0]
    if media.strip().lower() in HTML_TYPES:
        return "" if payload.strip() else "empty"
    begin = payload[:1024].lstrip().lower()
    return "" if not media and (begin.startswith(b"<!doctype html") or b"<html" in begin) else "not_html"
