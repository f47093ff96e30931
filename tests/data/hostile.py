"""WARC files as they should not be: every damage that is known from crawls, downloads and malice, made from a few good pages.

Each case is built when asked for, names the pages that stand in it and says what must become of each. `member`, `page` and
`note` build files of one's own.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import brotli
from isal.isal_zlib import crc32_combine

HTML = b"<html><body><p>a page of some length, as pages go, with a few words in it</p></body></html>"
TYPE = "Content-Type: text/html"
LF_BLOCK = b"HTTP/1.1 200 OK\nContent-Type: text/html\n\n" + HTML


@dataclass(frozen=True, slots=True, kw_only=True)
class Hostile:
    """A file and what a reader must make of it."""

    content: bytes
    found: tuple[tuple[str, str], ...]
    """Address (its name only) and fault of every response, in order."""
    payloads: tuple[tuple[str, bytes], ...] = ()
    """What some pages decode to; those without a fault that are not named here decode to HTML."""


def record(kind: str, headers: dict[str, str], block: bytes, end: str = "\r\n") -> bytes:
    """One record, not compressed."""
    head = {"WARC-Type": kind, "WARC-Date": "2024-04-12T10:00:00Z", "Content-Length": str(len(block))} | headers
    lines = "".join(f"{name}: {value}{end}" for name, value in head.items() if value)
    return f"WARC/1.0{end}{lines}{end}".encode() + block + (end * 2).encode()


def packed(content: bytes) -> bytes:
    """One gzip member."""
    return gzip.compress(content, mtime=0)


def member(kind: str, headers: dict[str, str], block: bytes) -> bytes:
    """One record, compressed."""
    return packed(record(kind, headers, block))


def address(name: str) -> str:
    """The address of the page with that name."""
    return f"https://{name}.example/"


def page_record(name: str, body: bytes = HTML, http: str = TYPE, status: str = "200 OK", **headers: str) -> bytes:
    """A `response`, not compressed; a header given as "" is left out."""
    fields = {
        "WARC-Target-URI": address(name), "WARC-Record-ID": f"<urn:{name}>",
        "Content-Type": "application/http; msgtype=response",
    } | {key.replace("_", "-"): value for key, value in headers.items()}  # fmt: skip
    return record("response", fields, f"HTTP/1.1 {status}\r\n{http}\r\n\r\n".encode() + body)


def page(name: str, body: bytes = HTML, http: str = TYPE, status: str = "200 OK", **headers: str) -> bytes:
    """A `response`, compressed."""
    return packed(page_record(name, body, http, status, **headers))


def cld2(*shares: tuple[str, float]) -> str:
    """The value of `languages-cld2`."""
    languages = [{"code": "xx", "code-iso-639-3": code, "text-covered": share, "score": 1.0} for code, share in shares]
    return json.dumps({"reliable": True, "text-bytes": 900, "languages": languages})


def note(name: str, languages: str, **headers: str) -> bytes:
    """The `metadata` record of a page, with the value of its `languages-cld2`."""
    fields = {"WARC-Target-URI": address(name), "WARC-Concurrent-To": f"<urn:{name}>"}
    fields |= {key.replace("_", "-"): value for key, value in headers.items()}
    return member("metadata", fields, f"fetchTimeMs: 9\r\ncharset-detected: UTF-8\r\nlanguages-cld2: {languages}\r\n".encode())


def zeros(head: bytes, megabytes: int) -> bytes:
    """A gzip member of `head` and that many MiB of zeros: a bomb of a thousandth of its size, made in no time."""
    mega = bytes(1 << 20)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    begin = packer.compress(head) + packer.flush(zlib.Z_FULL_FLUSH)
    once = packer.compress(mega) + packer.flush(zlib.Z_FULL_FLUSH)
    crc, one = zlib.crc32(head), zlib.crc32(mega)
    for _ in range(megabytes):
        crc = crc32_combine(crc, one, len(mega))
    size = (len(head) + (megabytes << 20)) & 0xFFFFFFFF
    tail = packer.flush() + crc.to_bytes(4, "little") + size.to_bytes(4, "little")
    return b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + begin + once * megabytes + tail


def bomb_record(megabytes: int) -> bytes:
    """A record whose gzip member is the bomb."""
    head = page_record("bomb", b"", Content_Length=str((megabytes << 20) + 44))
    return zeros(head.removesuffix(b"\r\n\r\n"), megabytes)


A, B, C = page("a"), page("b"), page("c")
GOOD = (("a", ""), ("b", ""), ("c", ""))
A_C = (("a", ""), ("c", ""))


def _three(middle: bytes, fault: str = "", name: str = "b") -> Hostile:
    """A page, what is wrong, a page."""
    return Hostile(content=A + middle + C, found=(("a", ""), (name, fault), ("c", "")))


def _flipped(at: int) -> bytes:
    data = bytearray(page("b", HTML * 40))
    data[at] ^= 0xFF
    return bytes(data)


def _length(value: str) -> Hostile:
    """A page with that Content-Length; without one when it is empty."""
    return _three(page("b", Content_Length=value))


def _body(body: bytes, http: str, fault: str = "") -> Hostile:
    return _three(page("b", body, f"{TYPE}\r\n{http}"), fault)


def _chunked(*chunks: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


def _raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


def _plain(second: bytes, third: bytes = b"", fault: str = "") -> Hostile:
    """A file that is not compressed."""
    content = page_record("a") + second + (third or page_record("c"))
    return Hostile(content=content, found=(("a", ""), ("b", ""), ("c", fault)))


def _cut_text(size: int) -> Hostile:
    """A page in UTF-8 that the crawler cut within a character."""
    body = ("<html><body>" + "ภาษาไทย" * (size // 21 + 9)).encode()[:size]
    return Hostile(
        content=A + page("b", body, WARC_Truncated="length") + C, found=GOOD, payloads=(("b", body),)
    )  # fmt: skip


def _others() -> Hostile:
    kinds = ("warcinfo", "request", "revisit", "resource", "dns", "conversion", "continuation", "no-such-type", "")
    others = b"".join(member(kind, {"WARC-Target-URI": address("x")}, b"GET / HTTP/1.1\r\n\r\n") for kind in kinds)
    return Hostile(content=others + A + others + B + others + C + others, found=GOOD)


def _lookalike() -> Hostile:
    """A page that is itself the text of a WARC file, stored so that its bytes stand in the file as they are."""
    packer = zlib.compressobj(0, zlib.DEFLATED, 31)
    body = b"<html>" + A + page_record("x") + b"</html>"
    content = A + packer.compress(page_record("b", body)) + packer.flush() + C
    return Hostile(content=content, found=GOOD, payloads=(("b", body),))


CASES: dict[str, Callable[[], Hostile]] = {
    "whole": lambda: Hostile(content=A + B + C, found=GOOD),
    "empty file": lambda: Hostile(content=b"", found=()),
    "cut in a member": lambda: Hostile(content=A + B + C[:-40], found=(("a", ""), ("b", ""), ("c", "cut_record"))),
    "cut in a checksum": lambda: Hostile(content=A + B + C[:-3], found=(("a", ""), ("b", ""), ("c", "cut_record"))),
    "cut in a gzip header": lambda: Hostile(content=A + B + C + A[:7], found=(*GOOD, ("", "cut_record"))),
    "cut after a byte": lambda: Hostile(content=A + B + C + A[:1], found=(*GOOD, ("", "cut_record"))),
    "a member cut in the middle of the file": lambda: _three(B[:-40], "damaged_record", ""),
    "garbage between": lambda: _three(b"garbage \x1f\x8b\x08 more garbage" * 9, "damaged_record", ""),
    "garbage that looks like gzip": lambda: _three((b"\x1f\x8b\x08\0\0\0\0\0\0\xff" * 999), "damaged_record", ""),
    "a gzip header begun before another": lambda: _three(b"x\x1f\x8b\x08\0\0", "damaged_record", ""),
    "garbage before": lambda: Hostile(content=b"\0garbage" + A + B + C, found=(("", "damaged_record"), *GOOD)),
    "zeros behind": lambda: Hostile(content=A + B + C + bytes(2000), found=(*GOOD, ("", "damaged_record"))),
    "gzip magic damaged": lambda: _three(_flipped(0), "damaged_record", ""),
    "gzip flags damaged": lambda: _three(_flipped(3), "damaged_record", ""),
    "bit flip": lambda: _three(_flipped(-30), "damaged_record", ""),
    "checksum flip": lambda: _three(_flipped(-6), "damaged_record", ""),
    "size flip": lambda: _three(_flipped(-1), "damaged_record", ""),
    "empty members": lambda: Hostile(content=packed(b"") + A + packed(b"") * 3 + B + packed(b"\r\n") + C, found=GOOD),
    "members of something else": lambda: Hostile(content=A + packed(b"a,b\n1,2\n") + B + packed(b"WAR") + C, found=GOOD),
    "Content-Length too large": lambda: _length("9999"),
    "Content-Length too large by one": lambda: _length(str(len(HTML) + 45)),
    "Content-Length too small": lambda: _length("50"),
    "Content-Length zero": lambda: _length("0"),
    "Content-Length negative": lambda: _length("-5"),
    "Content-Length text": lambda: _length("many"),
    "Content-Length beyond all integers": lambda: _length("9" * 5000),
    "Content-Length with blanks": lambda: _length(f"  {len(HTML) + 44} \t"),
    "Content-Length missing": lambda: _length(""),
    "two records in a member": lambda: _three(packed(page_record("b") + page_record("x")), "joined_records"),
    "no address": lambda: _three(page("b", WARC_Target_URI=""), "no_url", ""),
    "no record id": lambda: _three(page("b", WARC_Record_ID="")),
    "a header line of 5 MB": lambda: _three(page("b", X_Long="x" * 5_000_000), "unreadable_record", ""),
    "an HTTP header line of 5 MB": lambda: _three(page("b", HTML, "X-Long: " + "x" * 5_000_000), "unreadable_record"),
    "ten thousand headers": lambda: _three(page("b", HTML, TYPE + "\r\nX: y" * 10_000)),
    "no blank line": lambda: _three(packed(b"WARC/1.0\r\nWARC-Type: response\r\n"), "unreadable_record", ""),
    "no HTTP head": lambda: _three(member("response", {"WARC-Target-URI": address("b")}, HTML), "no_http_status"),
    "no block": lambda: _three(member("response", {"WARC-Target-URI": address("b")}, b""), "no_http_status"),
    "bytes of every kind in headers": lambda: _three(page("b", HTML, TYPE + "\r\nX\0: é\x7f\x0b\x85\u2028y")),
    "lines that end in LF": lambda: _three(packed(record("response", {"warc-target-uri": address("b")}, LF_BLOCK, "\n"))),
    "a header twice": lambda: _three(page("b", HTML, f"{TYPE}\r\nContent-Type: image/png")),
    "blanks around values": lambda: _three(page("b", WARC_Target_URI=f" \t{address('b')} \t")),
    "folded headers": lambda: _three(page("b", HTML, "content-type:\r\n\ttext/html")),
    "other records": _others,
    "the same record twice": lambda: Hostile(content=A + B + B + C, found=(("a", ""), ("b", ""), ("b", ""), ("c", ""))),
    "metadata before, behind and without a response": lambda: Hostile(
        content=note("b", "{}") + A + B + note("z", "{}") + note("b", "{}") + note("a", "{}") + C, found=GOOD
    ),
    "broken annotations": lambda: Hostile(
        content=A + note("a", '{"reliable": tr') + B + note("b", "[" * 50_000) + C + note("c", "\0\xff" * 999), found=GOOD
    ),
    "cut by the crawler within a character": lambda: _cut_text(1 << 20),
    "cut by the crawler at 5 MiB": lambda: _cut_text(5 << 20),
    "cut by the crawler to nothing": lambda: _three(page("b", b"", WARC_Truncated="disconnect"), "truncated"),
    "empty body": lambda: _three(page("b", b""), "empty"),
    "a page of 200 MB": lambda: _three(zeros(page_record("b", b"<html>", Content_Length="209715250"), 200), "too_large"),
    "a page that holds a WARC file": _lookalike,
    "ten thousand nested tags": lambda: Hostile(
        content=A + page("b", b"<html>" + b"<div>" * 10_000) + C, found=GOOD, payloads=(("b", b"<html>" + b"<div>" * 10_000),)
    ),
    "NUL bytes": lambda: Hostile(
        content=A + page("b", b"<html>\0\0" * 99) + C, found=GOOD, payloads=(("b", b"<html>\0\0" * 99),)
    ),
    "gzip body": lambda: _body(packed(HTML), "Content-Encoding: gzip"),
    "gzip body, cut": lambda: Hostile(
        content=A + page("b", packed(bytes(range(33, 127)) * 9)[:-9], f"{TYPE}\r\nContent-Encoding: GZIP") + C, found=GOOD,
        payloads=(("b", bytes(range(33, 127)) * 9),),
    ),
    "deflate body": lambda: _body(zlib.compress(HTML), "Content-Encoding: deflate"),
    "deflate body without header": lambda: _body(_raw_deflate(HTML), "Content-Encoding: deflate"),
    "brotli body": lambda: _body(brotli.compress(HTML), "Content-Encoding: br"),
    "chunked body": lambda: _body(_chunked(HTML[:9], HTML[9:]), "Transfer-Encoding: chunked"),
    "chunked body, cut": lambda: _body(_chunked(HTML + b"x")[:-8], "Transfer-Encoding: chunked"),
    "chunked gzip body": lambda: _body(_chunked(packed(HTML)), "Content-Encoding: x-gzip\r\nTransfer-Encoding: chunked"),
    "two encodings": lambda: _body(brotli.compress(packed(HTML)), "Content-Encoding: gzip, identity, br"),
    "encodings long taken off": lambda: _body(HTML, "Content-Encoding: br, deflate, gzip\r\nTransfer-Encoding: chunked"),
    "unknown encoding": lambda: _body(HTML, "Content-Encoding: rot13", "unknown_encoding"),
    "a hundred encodings": lambda: _body(HTML, "Content-Encoding: " + "gzip," * 100, "unknown_encoding"),
    "no media type": lambda: _three(page("b", HTML, "Server: x")),
    "no media type, gzip": lambda: _three(page("b", packed(HTML), "Content-Encoding: gzip")),
    "an image": lambda: _three(page("b", b"\xff\xd8", "Content-Type: image/jpeg"), "not_html"),
    "not HTML by its bytes": lambda: _three(page("b", b"%PDF-1.7", "Server: x"), "not_html"),
    "not HTML as the crawler found": lambda: _three(page("b", WARC_Identified_Payload_Type="application/pdf"), "not_html"),
    "not found": lambda: _three(page("b", status="404 Not Found"), "status_404"),
    "redirection": lambda: _three(page("b", status="302 Found"), "redirect"),
    "status zero": lambda: _three(page("b", status="000 Nothing"), "no_http_status"),
    "plain": lambda: _plain(page_record("b")),
    "plain, cut": lambda: _plain(page_record("b"), page_record("c")[:-60], "cut_record"),
    "plain, Content-Length too large": lambda: _plain(page_record("b", Content_Length="300")),
    "plain, Content-Length too small": lambda: _plain(page_record("b", Content_Length="50")),
    "plain, Content-Length missing": lambda: _plain(page_record("b", Content_Length="")),
    "plain, Content-Length text": lambda: _plain(page_record("b", Content_Length="many")),
    "plain, Content-Length beyond the file": lambda: _plain(page_record("b", Content_Length="9" * 15)),
}  # fmt: skip
"""Name of each case to what builds it."""
