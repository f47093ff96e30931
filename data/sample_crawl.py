"""Builds the sample crawl: WARC files in Common Crawl's form from the texts in `data/sample`.

    python -m sea_lion.data.sample_crawl [FOLDER]

One gzip member a record; a `warcinfo` record, then `request`, `response` and `metadata` for each capture, the last with the
`languages-cld2` line that Common Crawl writes since CC-MAIN-2018-34 (https://commoncrawl.org/get-started). The same texts give
the same bytes on every machine: dates are fixed, record ids are derived (uuid5), and the gzip members carry neither a time nor
an operating system. The one thing that can differ is the deflate stream of another zlib (zlib-ng); what it holds does not.
"""

from __future__ import annotations

import argparse
import io
import json
import struct
import zlib
from collections import Counter
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import NAMESPACE_URL, uuid5

from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from .sample_captures import Capture, all_captures, cld2_codes, read_sample
from .sample_pages import choice

CRAWL = "CC-MAIN-2024-18"
SEGMENT = "CC-MAIN-20240412101354-20240412131354"
FILES = 3
"""The captures are dealt out over this many files."""
START = datetime(2024, 4, 12, 10, 13, 54, tzinfo=UTC)
"""When the first capture was fetched; the next ones follow 33 s apart."""
SAMPLE = Path(__file__).parent / "sample"


def build(folder: Path, sample: Path = SAMPLE) -> dict[str, Any]:
    """Write the WARC files and `expected.json` into a folder; returns what `expected.json` says."""
    folder.mkdir(parents=True, exist_ok=True)
    captures = all_captures(read_sample(sample))
    for number in range(FILES):
        name = f"{SEGMENT}-{number:05}.warc.gz"
        share = [(index, capture) for index, capture in enumerate(captures) if index * FILES // len(captures) == number]
        (folder / name).write_bytes(_warc(name, share))
    expected = expectation(captures)
    (folder / "expected.json").write_text(json.dumps(expected, ensure_ascii=False, indent=1) + "\n", "utf-8")
    return expected


def expectation(captures: list[Capture]) -> dict[str, Any]:
    """What was put in: counts by case and language, and the address of every capture that is no plain article."""
    cases: dict[str, dict[str, int]] = {}
    for (case, language), count in sorted(Counter((capture.case, capture.language) for capture in captures).items()):
        cases.setdefault(case, {})[language] = count
    return {
        "crawl": CRAWL,
        "responses": len(captures),
        "metadata_records": sum(capture.has_metadata for capture in captures),
        "html_with_languages": sum(capture.noted_language is not None and capture.has_metadata for capture in captures),
        "personal_data": dict(sorted(Counter(c.language for c in captures if not c.original and _has_mail(c)).items())),
        "cases": cases,
        "captures": [
            {"url": c.url, "case": c.case, "language": c.language} | ({"original": c.original} if c.original else {})
            for c in sorted(captures, key=lambda capture: (capture.case, capture.url))
            if c.case != "article"
        ],
    }


def gzip_member(data: bytes) -> bytes:
    """The bytes as one gzip member without time and operating system, so that they depend on nothing else."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = deflate.compress(data) + deflate.flush()
    return b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\xff" + body + struct.pack("<II", zlib.crc32(data), len(data))


def main() -> None:
    """Build into the folder named on the command line, or into the package's `data/sample/crawl`."""
    parser = argparse.ArgumentParser(prog="python -m sea_lion.data.sample_crawl", description="Build the sample crawl.")
    parser.add_argument("folder", nargs="?", type=Path, default=SAMPLE / "crawl", help="where to write (default: the package)")
    build(parser.parse_args().folder)


def _has_mail(capture: Capture) -> bool:
    return b"@example." in capture.payload


def _warc(name: str, captures: list[tuple[int, Capture]]) -> bytes:
    start = START + timedelta(seconds=33 * captures[0][0])
    info_id = _record_id(name, "warcinfo")
    info = (
        f"isPartOf: {CRAWL}\r\npublisher: sea-lion-platform\r\ndescription: Sample crawl, written for this repository\r\n"
        "robots: none, no site was visited\r\nformat: WARC File Format 1.0\r\n"
    )
    out = [_record("warcinfo", {"WARC-Record-ID": info_id, "WARC-Date": _iso(start), "WARC-Filename": name}, info.encode())]
    for index, capture in captures:
        out += _capture_records(capture, START + timedelta(seconds=33 * index), info_id)
    return b"".join(gzip_member(record) for record in out)


def _capture_records(capture: Capture, when: datetime, info_id: str) -> list[bytes]:
    """Request, response and, where there is one, metadata."""
    ids = {kind: _record_id(capture.url, kind) for kind in ("request", "response", "metadata")}
    address = {"WARC-IP-Address": f"192.0.2.{1 + choice(urlsplit(capture.url).netloc, 254)}"}
    shared = {"WARC-Date": _iso(when), "WARC-Warcinfo-ID": info_id, "WARC-Target-URI": capture.url}
    response = {"WARC-Record-ID": ids["response"], **shared, "WARC-Concurrent-To": ids["request"], **address}
    response["WARC-Identified-Payload-Type"] = capture.content_type.partition(";")[0]
    if capture.is_truncated:
        response["WARC-Truncated"] = "length"
    records = [
        _record("request", {"WARC-Record-ID": ids["request"], **shared, **address}, b"", _request_headers(capture)),
        _record("response", response, capture.payload, _response_headers(capture, when)),
    ]
    if capture.has_metadata:
        headers = {"WARC-Record-ID": ids["metadata"], **shared, "WARC-Concurrent-To": ids["response"]}
        records.append(_record("metadata", headers, _metadata(capture)))
    return records


class _Writer(WARCWriter):  # type: ignore[misc]
    """warcio's writer with digests where Common Crawl has them: on responses only."""

    def ensure_digest(self, record: Any, block: bool = True, payload: bool = True) -> None:
        if record.rec_type == "response":
            super().ensure_digest(record, block=block, payload=payload)


def _record(kind: str, headers: dict[str, str], payload: bytes, http: StatusAndHeaders | None = None) -> bytes:
    """One record, not compressed, as warcio writes it; its lengths and digests are filled in there."""
    out = io.BytesIO()
    writer = _Writer(out, gzip=False)
    record = writer.create_warc_record(
        "",
        kind,
        payload=io.BytesIO(payload),
        length=len(payload),
        warc_headers_dict={"WARC-Type": kind, **headers},
        http_headers=http,
    )
    writer.write_record(record)
    return out.getvalue()


def _request_headers(capture: Capture) -> StatusAndHeaders:
    parts = urlsplit(capture.url)
    path = parts.path + (f"?{parts.query}" if parts.query else "")
    headers = [
        ("User-Agent", "CCBot/2.0 (https://commoncrawl.org/faq/)"),
        ("Accept", "text/html,*/*;q=0.8"),
        ("Accept-Language", "en-US,en;q=0.5"),
        ("Accept-Encoding", "br,gzip"),
        ("Host", parts.netloc),
        ("Connection", "Keep-Alive"),
    ]
    return StatusAndHeaders(f"GET {path} HTTP/1.1", headers, is_http_request=True)


def _response_headers(capture: Capture, when: datetime) -> StatusAndHeaders:
    headers = [
        ("Date", format_datetime(when, usegmt=True)),
        ("Server", ("nginx", "Apache", "openresty")[choice(urlsplit(capture.url).netloc, 3)]),
        ("Content-Type", capture.content_type),
        ("Content-Length", str(len(capture.payload))),
        ("Connection", "keep-alive"),
    ]
    if capture.location:
        headers.insert(2, ("Location", capture.location))
    return StatusAndHeaders(capture.status, headers, protocol="HTTP/1.1")


def _metadata(capture: Capture) -> bytes:
    """The crawler's notes; the language lines stand on HTML pages only, as in Common Crawl."""
    lines = [f"fetchTimeMs: {80 + choice(capture.url + 'ms', 900)}"]
    if capture.noted_language:
        lines += [f"charset-detected: {capture.noted_charset}", f"languages-cld2: {json.dumps(_noted(capture))}"]
    return ("\r\n".join(lines) + "\r\n").encode().replace(b'": ', b'":').replace(b', "', b',"').replace(b"}, {", b"},{")


def _noted(capture: Capture) -> dict[str, Any]:
    assert capture.noted_language is not None
    with_english = capture.noted_language != "eng" and choice(capture.url + "english", 4) == 0
    found = [(capture.noted_language, 0.93 if with_english else 0.98, 800 + choice(capture.url, 900))]
    if with_english:
        found.append(("eng", 0.05, 300 + choice(capture.url, 300)))
    languages = []
    for language, covered, score in found:
        code, iso, name = cld2_codes(language)
        languages.append({"code": code, "code-iso-639-3": iso, "text-covered": covered, "score": float(score), "name": name})
    return {"reliable": True, "text-bytes": capture.text_bytes, "languages": languages}


def _record_id(name: str, kind: str) -> str:
    return f"<urn:uuid:{uuid5(NAMESPACE_URL, f'{CRAWL}/{kind}/{name}')}>"


def _iso(when: datetime) -> str:
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")


if __name__ == "__main__":
    main()
