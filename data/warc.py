"""Reading WARC and WET files as crawls write them: responses with what the crawler noted of them, or texts.

A body is handed over as it is stored: nineteen pages of twenty are dropped for their language, on the annotation alone, and
nothing of those is decoded, parsed or hashed. A record's own member is trusted before its Content-Length, so that a wrong one
costs nothing; what cannot be read becomes a `Response` with a fault instead of an exception, so that it is counted. Refused: to
raise at the first damage, which loses the rest of a file of 30,000 pages.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..catalog.errors import CorruptInput
from ..catalog.languages import language_code
from .http_body import decoded_body, encodings_of, is_known
from .members import CUT, MAX_HEAD_BYTES, Member, Readable, members

MAX_RECORD_BYTES = 5 << 20
"""Bytes of a body, stored or decoded, that are read; Common Crawl itself cuts pages at 1 MiB (5 MiB since 2025)."""
MAX_NOTE_BYTES = 1 << 16
"""Bytes of a metadata record, or of one annotation, that are read; Common Crawl's take a few hundred."""
MAX_PENDING = 4
"""Responses that wait for their metadata record; Common Crawl's comes next, other crawlers write the request between."""
HTML_TYPES = ("text/html", "application/xhtml+xml")
KINDS = frozenset(("warcinfo", "response", "resource", "request", "metadata", "revisit", "conversion", "continuation"))
"""Types of record in the standard."""

_FOLD = re.compile(rb"\r?\n[ \t]+")
_FIELD = re.compile(rb"\n([^:\s]+)[ \t]*:[ \t]*([^\r\n]*)")
_STATUS = re.compile(rb"HTTP/[0-9.]{1,4}[ \t]+([0-9]{3})(?![0-9])")
_SHA1 = re.compile("(?:sha1:)?([A-Z2-7]{32})", re.IGNORECASE)


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
    """Where its member begins in the file."""
    length: int
    """Bytes of the file that the member takes."""
    record_id: str = ""
    """WARC-Record-ID, without brackets."""
    noted_digest: str = ""
    """WARC-Payload-Digest when it is a SHA-1 in base 32, without `sha1:`."""
    status: int = 0
    """HTTP status; 0 when there is none."""
    size: int = 0
    """Bytes of the stored body."""
    record: bytes = field(default=b"", repr=False)
    """The whole record as stored, up to the limit."""
    begin: int = 0
    """Where the body begins in the record."""
    end: int = 0
    """Where it ends, or the limit ends it."""
    encodings: tuple[str, ...] = ()
    """What the body is encoded in, in the order in which that was done."""
    content_type: str = ""
    """HTTP header."""
    media_type: str = ""
    """What the crawler found the body to be, else what the server says."""
    truncated: str = ""
    """Why the crawler cut the body (`length`, `time`, `disconnect`); empty when it did not. The page can be used."""
    fault: str = ""
    """Why it cannot be used (`status_404`, `redirect`, `not_html`, `damaged_record`, ...); empty when it can."""
    claim: Claim | None = None
    """None: the crawl noted no language."""
    charset: str = ""
    """The crawler's `charset-detected`."""

    @property
    def body(self) -> bytes:
        """The body as stored, in its transfer and content encodings; copied when asked for, as most never are."""
        return self.record[self.begin : self.end]

    @property
    def id(self) -> str:
        """Digest of what was fetched, where and when: the same for the same capture, wherever its file lies."""
        return _identity(self.url, self.date, self.offset, self.body)

    @property
    def digest(self) -> str:
        """SHA-1 of the stored body in base 32, as in Common Crawl's index: as noted, else computed."""
        return self.noted_digest or body_digest(self.body)


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """One `conversion` record of a WET file: the text of a page."""

    url: str
    date: str
    """WARC-Date, of the page."""
    offset: int
    """Where its member begins in the file."""
    length: int
    """Bytes of the file that the member takes."""
    record_id: str = ""
    """WARC-Record-ID, without brackets."""
    text: str = ""
    """What is not UTF-8 in it is replaced."""
    languages: tuple[str, ...] = ()
    """WARC-Identified-Content-Language as ISO 639-3, most used first."""
    fault: str = ""
    """Why it cannot be used; empty when it can."""

    @property
    def id(self) -> str:
        """Digest of address, date and text, wherever the file lies."""
        return _identity(self.url, self.date, self.offset, self.text.encode())


@dataclass(frozen=True, slots=True)
class _Record:
    """A member with its WARC headers read."""

    member: Member
    kind: str
    """WARC-Type; empty when it cannot be told."""
    fields: dict[bytes, bytes]
    start: int = 0
    """Where the block begins in the member's content."""
    end: int = 0
    """Where it ends in it."""
    fault: str = ""

    def text(self, name: bytes) -> str:
        """A WARC header."""
        return self.fields.get(name, b"").decode("utf-8", "replace")


@dataclass(slots=True)
class _Waiting:
    """A response whose metadata record may still come."""

    response: Response
    is_annotated: bool = False


def body_digest(body: bytes) -> str:
    """SHA-1 in base 32, the form of WARC-Payload-Digest and of Common Crawl's index."""
    return base64.b32encode(hashlib.sha1(body, usedforsecurity=False).digest()).decode()


def _identity(url: str, date: str, offset: int, content: bytes) -> str:
    digest = hashlib.sha256(f"{url}\n{date}\n{'' if url else offset}\n".encode())
    digest.update(content)
    return digest.hexdigest()[:32]


def payload(response: Response, limit: int = MAX_RECORD_BYTES) -> tuple[bytes, str]:
    """The body freed of its transfer and content encodings, up to `limit` bytes, and why it cannot be used.

    The fault is that of the response, or `undecodable_body`, `too_large`, `empty`; the bytes of a body that was cut are what
    there is of it.
    """
    if response.fault:
        return b"", response.fault
    return decoded_body(response.body, response.encodings, limit)


def check_warc(source: Path) -> None:
    """Look at the beginning of a WARC file: two records, a member each.

    Raises CorruptInput when it is no WARC file, begins with something else, ends there, or is compressed as one member.
    """
    with source.open("rb") as file:
        magic = file.read(5)
    if magic[:3] != b"\x1f\x8b\x08" and magic != b"WARC/":
        raise CorruptInput(source, "", "is not a gzipped WARC file")
    found = 0
    for member in members(source, MAX_RECORD_BYTES + MAX_HEAD_BYTES):
        where = f"byte {member.offset}"
        if member.fault == CUT:
            raise CorruptInput(source, where, "the file ends within this record: it is cut short; fetch it again")
        record = _record(member)
        if record.fault == "no_record" and member.size:
            raise CorruptInput(source, where, "this gzip member does not hold a WARC record")
        if record.fault == "joined_records":
            raise CorruptInput(source, where, "several records in one gzip member; one member a record is needed")
        found += not record.fault
        if found == 2:
            return
    if not found:
        raise CorruptInput(source, "", "holds no WARC record")


def responses(
    source: Path | Readable, *, limit: int = MAX_RECORD_BYTES, skipped: Counter[str] | None = None
) -> Iterator[Response]:
    """Every `response` record in the file's order, with its annotation; `skipped` counts the other records by type.

    Damaged members are given as responses too, as what they held is not known. A `metadata` record belongs to the waiting
    response that it names or, when it names none, to the last one if that has the same address.
    Errors of the stream pass through.
    """
    skipped = Counter() if skipped is None else skipped
    pending: deque[_Waiting] = deque()
    for record in _records(source, limit, "response", skipped):
        if record.kind == "metadata" and not record.fault:
            if not _annotate(pending, record):
                skipped["unmatched_metadata"] += 1
        else:
            pending.append(_Waiting(_response(record, limit)))
        while pending and (pending[0].is_annotated or len(pending) > MAX_PENDING):
            yield pending.popleft().response
    yield from (waiting.response for waiting in pending)


def conversions(
    source: Path | Readable, *, limit: int = MAX_RECORD_BYTES, skipped: Counter[str] | None = None
) -> Iterator[Conversion]:
    """Every `conversion` record of a WET file, in its order; `skipped` counts the other records by type."""
    skipped = Counter() if skipped is None else skipped
    for record in _records(source, limit, "conversion", skipped):
        if record.kind == "metadata" and not record.fault:
            skipped["metadata"] += 1
            continue
        text = record.member.data[record.start : record.end].decode("utf-8", "replace")
        languages = (language_code(name) for name in record.text(b"warc-identified-content-language").split(","))
        url = _address(record)
        is_longer = len(text) > limit or record.member.size > len(record.member.data)
        yield Conversion(
            url=url,
            date=record.text(b"warc-date"),
            offset=record.member.offset,
            length=record.member.length,
            record_id=record.text(b"warc-record-id").strip("<>"),
            text=text,
            languages=tuple(language for language in languages if language),
            fault=record.fault or (("too_large" if is_longer else "" if text.strip() else "empty") if url else "no_url"),
        )


def read_claim(text: str) -> Claim | None:
    """Read `languages-cld2`; None when there is none, or it cannot be read."""
    if not text or len(text) > MAX_NOTE_BYTES:
        return None
    try:
        table = json.loads(text)
        shares = [(row["code-iso-639-3"], row["text-covered"]) for row in table["languages"]]
        is_reliable = table["reliable"] is True
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    if not shares or not all(isinstance(code, str) and type(share) in (int, float) for code, share in shares):
        return None
    if not all(0 <= share <= 1 for _, share in shares):
        return None
    shares.sort(key=lambda row: -row[1])
    return Claim(tuple((language_code(code), float(share)) for code, share in shares), is_reliable)


def _records(source: Path | Readable, limit: int, kind: str, skipped: Counter[str]) -> Iterator[_Record]:
    """The records of a type, the metadata records, and all that cannot be read; the others are counted."""
    for member in members(source, limit + 2 * MAX_HEAD_BYTES):
        record = _record(member)
        if record.fault == "no_record" or (not record.fault and record.kind not in (kind, "metadata")):
            skipped[record.fault or (record.kind if record.kind in KINDS else "unknown")] += 1
        else:
            yield record


def _record(member: Member) -> _Record:
    """Read the WARC headers; the fault is the member's, or `no_record`, `unreadable_record`, `joined_records`."""
    data = member.data
    blank, start = _blank_line(data, 0, len(data))
    if blank < 0 or not data.startswith(b"WARC/"):
        is_record = data.startswith(b"WARC/")
        return _Record(member, "", {}, fault=member.fault or ("unreadable_record" if is_record else "no_record"))
    fields = _fields(data[:blank])
    kind = fields.get(b"warc-type", b"").decode("latin-1").lower()
    declared = fields.get(b"content-length", b"")
    end = start + int(declared) if declared.isdigit() and len(declared) < 19 else -1
    behind = data[end : end + 16] if start <= end <= member.size else b"-"
    fault = member.fault or ("joined_records" if behind.lstrip(b"\r\n").startswith(b"WARC/") else "")
    if behind not in (b"\r\n\r\n", b"\n\n", b""):  # then the member's end, not Content-Length, says where the block ends
        end = len(data) - 4 if data.endswith(b"\r\n\r\n") else len(data)
    return _Record(member, kind, fields, start, max(start, min(end, len(data))), fault)


def _blank_line(data: bytes, start: int, end: int) -> tuple[int, int]:
    """Where a head that begins at `start` ends and what follows begins; -1 and `end` when no blank line is near enough."""
    stop = min(end, start + MAX_HEAD_BYTES)
    crlf = data.find(b"\r\n\r\n", start, stop)
    bare = data.find(b"\n\n", start, stop if crlf < 0 else crlf)
    if bare >= 0:
        return bare, bare + 2
    return (crlf, crlf + 4) if crlf >= 0 else (-1, end)


def _fields(head: bytes) -> dict[bytes, bytes]:
    """The headers of a block by lower-case name; the first of several alike, folded lines joined."""
    if b"\n " in head or b"\n\t" in head:
        head = _FOLD.sub(b" ", head)
    return {name.lower(): value.rstrip() for name, value in reversed(_FIELD.findall(head))}


def _response(record: _Record, limit: int) -> Response:
    data, start, end = record.member.data, record.start, record.end
    blank, begin = _blank_line(data, start, end)
    status = _STATUS.match(data, start, begin)
    head = _fields(data[start : blank if blank >= 0 else min(end, start + MAX_HEAD_BYTES)])
    content_type = head.get(b"content-type", b"").decode("latin-1")
    digest = _SHA1.fullmatch(record.text(b"warc-payload-digest"))
    is_unreadable = blank < 0 and end - start > MAX_HEAD_BYTES
    response = Response(
        url=_address(record),
        date=record.text(b"warc-date"),
        offset=record.member.offset,
        length=record.member.length,
        record_id=record.text(b"warc-record-id").strip("<>"),
        noted_digest=digest[1].upper() if digest else "",
        status=int(status[1]) if status else 0,
        record=data,
        begin=begin,
        end=begin if record.fault else min(end, begin + limit),
        size=max(0, end - begin if len(data) == record.member.size else record.member.size - 4 - begin),
        encodings=encodings_of(head.get(b"content-encoding", b""), head.get(b"transfer-encoding", b"")),
        content_type=content_type,
        media_type=(record.text(b"warc-identified-payload-type") or content_type).partition(";")[0].strip().lower(),
        truncated=record.text(b"warc-truncated").lower(),
        fault=record.fault or ("unreadable_record" if is_unreadable else ""),
    )
    fault = "" if response.fault else _fault(response, limit)
    return replace(response, fault=fault) if fault else response


def _fault(response: Response, limit: int) -> str:
    """What makes a response unusable; empty when nothing does."""
    if not response.url:
        return "no_url"
    if not response.status:
        return "no_http_status"
    if 300 <= response.status < 400:
        return "redirect"
    if response.status != 200:
        return f"status_{response.status:03}"
    if response.size > limit:
        return "too_large"
    if not is_known(response.encodings):
        return "unknown_encoding"
    if response.begin == response.end:
        return "truncated" if response.truncated else "empty"
    return _type_fault(response)


def _type_fault(response: Response) -> str:
    """Whether the body is something else than HTML: the crawler's finding first, then the server's word, then the bytes."""
    if response.media_type:
        return "" if response.media_type in HTML_TYPES else "not_html"
    begin = decoded_body(response.body, response.encodings, 1024)[0].lstrip().lower()
    return "" if begin.startswith(b"<!doctype html") or b"<html" in begin else "not_html"


def _address(record: _Record) -> str:
    return record.text(b"warc-target-uri").strip("<>")


def _annotate(pending: deque[_Waiting], record: _Record) -> bool:
    """Give what a metadata record notes to the response that it belongs to; whether there is one."""
    about = (record.text(b"warc-concurrent-to") or record.text(b"warc-refers-to")).strip("<>")
    for waiting in pending if about else list(pending)[-1:]:
        response = waiting.response
        is_meant = response.record_id == about if about else _address(record) in ("", response.url)
        if is_meant and not waiting.is_annotated:
            block = record.member.data[record.start : min(record.end, record.start + MAX_NOTE_BYTES)]
            lines = (line.partition(":") for line in block.decode("utf-8", "replace").split("\n"))
            noted = {name.strip().lower(): value.strip() for name, _, value in lines}
            claim = read_claim(noted.get("languages-cld2", ""))
            waiting.response = replace(response, claim=claim, charset=noted.get("charset-detected", ""))
            waiting.is_annotated = True
            return True
    return False
