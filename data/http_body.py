"""Decoding the body of an HTTP answer as a crawl stored it, tolerant and never past a limit.

Crawlers store bodies as they came or, like Common Crawl's, decoded, under headers that they mostly, not always, rename; so an
encoding that the bytes themselves deny is passed over. A body that ends early gives what there is of it, as a browser would.
The decoders are asked for no more than the limit, so that is what a bomb costs.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable

import brotli

MAX_ENCODINGS = 4
"""Encodings laid on one body; more are no server's doing."""
_CHUNK_LINE = re.compile(rb"[ \t]{0,16}([0-9a-fA-F]{1,8})[^\n]{0,1024}\n")


def decoded_body(body: bytes, encodings: tuple[str, ...], limit: int) -> tuple[bytes, str]:
    """Up to `limit` bytes of a body freed of its encodings (given in the order in which they were applied), and what failed.

    The fault is `unknown_encoding`, `undecodable_body`, `too_large`, `empty` or nothing.
    """
    if not is_known(encodings):
        return b"", "unknown_encoding"
    for encoding in reversed(encodings):
        try:
            body = _DECODERS[encoding](body, limit + 1)
        except (zlib.error, brotli.error):
            if not body.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
                return b"", "undecodable_body"
    if len(body) > limit:
        return body[:limit], "too_large"
    return body, "" if body and not body.isspace() else "empty"


def is_known(encodings: tuple[str, ...]) -> bool:
    """Whether all the encodings can be taken off."""
    return len(encodings) <= MAX_ENCODINGS and all(encoding in _DECODERS for encoding in encodings)


def encodings_of(content_encoding: bytes, transfer_encoding: bytes) -> tuple[str, ...]:
    """The encodings that two HTTP headers name, in the order in which they were applied; those that change nothing left out."""
    if not content_encoding and not transfer_encoding:
        return ()
    names = (name.strip().lower() for name in b",".join((content_encoding, transfer_encoding)).decode("latin-1").split(","))
    return tuple(name for name in names if name not in ("", "identity", "none"))


def _gunzip(body: bytes, most: int) -> bytes:
    """The first gzip member, which is all that browsers show of several."""
    return zlib.decompressobj(wbits=31).decompress(body, most)


def _inflate(body: bytes, most: int) -> bytes:
    """`deflate`, which servers send with the zlib header that the standard asks for, or without."""
    has_header = len(body) > 1 and body[0] & 15 == 8 and not (body[0] << 8 | body[1]) % 31
    return zlib.decompressobj(wbits=15 if has_header else -15).decompress(body, most)


def _unbrotli(body: bytes, most: int) -> bytes:
    return bytes(brotli.Decompressor().process(body, output_buffer_limit=most)[:most])


def _unchunk(body: bytes, most: int) -> bytes:
    """The chunks of a body, up to where it ends or is no longer chunked; all of it when it never was."""
    pieces: list[bytes] = []
    at = size = 0
    while size < most and (line := _CHUNK_LINE.match(body, at)):
        length = int(line[1], 16)
        if not length:
            break
        pieces.append(body[line.end() : line.end() + length])
        size += len(pieces[-1])
        at = line.end() + length
        at += 2 if body.startswith(b"\r\n", at) else body.startswith(b"\n", at)
    return b"".join(pieces) if pieces or _CHUNK_LINE.match(body) else body[:most]


_DECODERS: dict[str, Callable[[bytes, int], bytes]] = {
    "gzip": _gunzip,
    "x-gzip": _gunzip,
    "deflate": _inflate,
    "br": _unbrotli,
    "chunked": _unchunk,
}
