"""Makes a crawl of any size for benchmarks: Common Crawl's form, the markup of real pages, 95% of it in languages nobody wants.

    python benchmarks/crawl.py FOLDER --responses 30000 --files 10

The pages are those of `pages.py`. For the unwanted 95% those in other languages are used as they are, but for a title of their
own; for a wanted language every visible text of a page is replaced by sentences of that language from `data/sample/articles`,
drawn at random, so that menus, teasers, comments and the article all speak it. The annotation is what CLD2 says of the page, as
in Common Crawl; a tenth of the Thai pages is in windows-874, three tenths of the Chinese in GB18030, 1.5% of the captures are
no HTML, 2% repeat an earlier page under another address. The same arguments give the same captures. `truth.parquet` says what
each one is.

Limits: 290 layouts, the texts of a translated page are all in one language, and they are sentences in no order.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import re
from base64 import b32encode
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from hashlib import sha1
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pycld2
from lxml import html
from resiliparse.parse.encoding import bytes_to_str, detect_encoding

from sea_lion.catalog.languages import LANGUAGES

SHARES = {
    "cmn": 0.016, "ind": 0.010, "vie": 0.009, "tha": 0.005, "zsm": 0.003, "tam": 0.002, "fil": 0.002, "mya": 0.001,
    "khm": 0.001, "lao": 0.001,
}  # fmt: skip
"""Share of the captures in each wanted language: 5% in all, in the order of Common Crawl's own, the rarest made commoner."""
REPEATABLE = 300
"""Captures that may be repeated: each stays in memory."""
NOT_HTML, REPEATED = 0.015, 0.02
CRAWL = "CC-MAIN-2024-18"
ISO3 = {
    "de": "deu", "en": "eng", "fr": "fra", "es": "spa", "it": "ita", "nl": "nld", "pt": "por", "ru": "rus", "pl": "pol",
    "ja": "jpn", "tr": "tur", "cs": "ces", "sv": "swe", "da": "dan", "no": "nor", "el": "ell", "hu": "hun", "ro": "ron",
} | {language.short: language.cld2 for language in LANGUAGES.values()}  # fmt: skip
_CHARSET = re.compile(r"(charset\s*=\s*[\"']?)[\w-]+")
_SENTENCE = re.compile(r"(?<=[.!?。！？။។])\s*|(?<=[ฯ\u0e46])\s+|\n")
_SKIPPED = {"script", "style", "noscript", "template", "svg", "textarea"}


@dataclass(frozen=True, slots=True)
class Capture:
    """One response."""

    url: str
    language: str
    """Of its text; `other` for pages as they are."""
    kind: str
    """`page`, `repeat` or `not_html`."""
    content_type: str
    body: bytes
    note: str
    """The `metadata` record's block."""


@cache
def sentences(language: str) -> tuple[str, ...]:
    """Sentences of a language, from the sample articles; of unspaced languages, phrases."""
    path = Path(__file__).parent.parent / "data" / "sample" / "articles" / f"{language}.jsonl"
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    texts = [text for row in rows for text in (row["title"], *row["paragraphs"])]
    found = (part.strip() for text in texts for part in _SENTENCE.split(text))
    return tuple(dict.fromkeys(part for part in found if len(part) > 15))


def translated(page: bytes, language: str, draw: random.Random) -> str:
    """A page whose visible texts are sentences of a language, each about as long as what it replaces."""
    text = text_of(page)[0].lstrip("\ufeff").replace("\0", "")
    tree = html.document_fromstring(text.encode(), parser=html.HTMLParser(encoding="utf-8"))
    pool = list(sentences(language))
    draw.shuffle(pool)
    position = 0
    for element in tree.iter("*"):
        for name in ("text", "tail"):
            if name == "text" and str(element.tag).lower() in _SKIPPED:
                continue
            old = getattr(element, name)
            if old is None or len(old.strip()) < 2:
                continue
            length, new = len(old.strip()), ""
            while len(new) < length * 0.8:
                new = f"{new} {pool[position % len(pool)]}" if new else pool[position % len(pool)]
                position += 1
                if len(new) > length + 40:
                    new = new[: max(length, 12)]
            setattr(element, name, f" {new} ")
    return str(html.tostring(tree, encoding="unicode", doctype="<!DOCTYPE html>"))


def captures(pages: list[bytes], count: int, seed: int, wanted: float) -> Iterator[Capture]:
    """`count` captures, the same for the same arguments; `wanted` is the share in wanted languages."""
    draw = random.Random(seed)
    languages, weights = list(SHARES), list(SHARES.values())
    before: list[Capture] = []
    others = [page for page in pages if not is_wanted(page)]
    for number in range(count):
        roll = draw.random()
        if roll < NOT_HTML:
            url = f"https://files{number}.example/{number}.pdf"
            yield Capture(url, "other", "not_html", "application/pdf", b"%PDF-1.4" * 900, "")
            continue
        if roll < NOT_HTML + REPEATED and before:
            old = draw.choice(before)
            yield Capture(f"https://mirror{number}.example/again", old.language, "repeat", old.content_type, old.body, old.note)
            continue
        language = draw.choices(languages, weights)[0] if draw.random() < wanted else "other"
        capture = captured(draw.choice(others if language == "other" else pages), language, number, draw)
        if len(before) < REPEATABLE:
            before.append(capture)
        yield capture


def captured(page: bytes, language: str, number: int, draw: random.Random) -> Capture:
    """A page as a capture: with texts in a wanted language, or as it is for `other`."""
    if language == "other":
        text, charset = text_of(page)
        body, content_type = page.replace(b"</title>", f" {number}</title>".encode(), 1), "text/html"
    else:
        legacy = {"tha": ("cp874", "windows-874", 0.1), "cmn": ("gb18030", "gb18030", 0.3)}.get(language, ("", "", 0.0))
        codec, charset = legacy[:2] if draw.random() < legacy[2] else ("utf-8", "utf-8")
        text = _CHARSET.sub(rf"\g<1>{charset}", translated(page, language, draw))
        body, content_type = text.encode(codec, "xmlcharrefreplace"), f"text/html; charset={charset}"
    url = f"https://site{number % 997}.example/{language}/{number}"
    return Capture(url, language, "page", content_type, body, _note(text, charset))


def text_of(page: bytes) -> tuple[str, str]:
    """A page decoded, and its charset, as a crawler detects it."""
    charset = detect_encoding(page) or "utf-8"
    return bytes_to_str(page, charset), charset


def is_wanted(page: bytes) -> bool:
    """Whether a page as it is shows a wanted language."""
    codes = {LANGUAGES[code].cld2 for code in SHARES}
    return any(row["code-iso-639-3"] in codes for row in _annotation(text_of(page)[0])["languages"])


def _note(text: str, charset: str) -> str:
    """The block of the metadata record."""
    annotation = _annotation(text)
    noted = json.dumps(annotation, separators=(",", ":"))
    fields = f"fetchTimeMs: 123\r\ncharset-detected: {charset.upper()}\r\n"
    return fields + (f"languages-cld2: {noted}\r\n" if annotation["languages"] else "")


@lru_cache(maxsize=400)
def _annotation(text: str) -> dict[str, Any]:
    printable = "".join(c if c.isprintable() else " " for c in text)
    reliable, size, found = pycld2.detect(printable, isPlainText=False, bestEffort=True)
    languages = [
        {"code": code, "code-iso-639-3": ISO3.get(code[:2], code), "text-covered": percent / 100, "score": score}
        for _, code, percent, score in found
        if code != "un"
    ]
    return {"reliable": reliable, "text-bytes": size, "languages": languages}


def members(capture: Capture, number: int) -> list[bytes]:
    """The gzip members of a capture: request, response and, for pages, metadata."""
    kinds = ("request", "response", "metadata")
    ids = {kind: f"<urn:uuid:{number:08x}-0000-4000-8000-{i:012}>" for i, kind in enumerate(kinds)}
    shared = f"WARC-Target-URI: {capture.url}\r\nWARC-Date: 2024-04-{1 + number % 28:02}T10:00:00Z\r\n"
    request = f"GET / HTTP/1.1\r\nUser-Agent: CCBot/2.0\r\nHost: {capture.url.split('/')[2]}\r\n\r\n".encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {capture.content_type}\r\nContent-Length: {len(capture.body)}\r\n\r\n".encode()
    digest = b32encode(sha1(capture.body).digest()).decode()
    typed = f"WARC-Payload-Digest: sha1:{digest}\r\nWARC-Identified-Payload-Type: {capture.content_type.partition(';')[0]}\r\n"
    made = [
        _member("request", ids["request"], shared, "application/http; msgtype=request", request),
        _member("response", ids["response"], shared + typed, "application/http; msgtype=response", head + capture.body),
    ]
    if capture.note:
        about = shared + f"WARC-Concurrent-To: {ids['response']}\r\n"
        made.append(_member("metadata", ids["metadata"], about, "application/warc-fields", capture.note.encode()))
    return made


def _member(kind: str, record_id: str, fields: str, content_type: str, block: bytes) -> bytes:
    head = f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Record-ID: {record_id}\r\n{fields}Content-Type: {content_type}\r\n"
    data = f"{head}Content-Length: {len(block)}\r\n\r\n".encode() + block + b"\r\n\r\n"
    return gzip.compress(data, compresslevel=6, mtime=0)


def write_crawl(
    folder: Path, pages: list[bytes], responses: int, files: int = 1, seed: int = 1, wanted: float = 0.05
) -> list[Path]:
    """Write WARC files and `truth.parquet` (url, language, kind, file, offset, length); returns the WARC files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths, truth = [folder / f"{CRAWL}-{number:05}.warc.gz" for number in range(files)], list[dict[str, Any]]()
    per_file = -(-responses // files)
    stream = captures(pages, responses, seed, wanted)
    for index, path in enumerate(paths):
        with path.open("wb") as file:
            about = "WARC-Date: 2024-04-01T00:00:00Z\r\n"
            file.write(_member("warcinfo", "<urn:uuid:0>", about, "application/warc-fields", b"isPartOf: X\r\n"))
            for number, capture in zip(range(index * per_file, (index + 1) * per_file), stream, strict=False):
                offset = file.tell()
                parts = members(capture, number)
                place = {"file": path.name, "offset": offset + len(parts[0]), "length": len(parts[1])}
                truth.append({"url": capture.url, "language": capture.language, "kind": capture.kind, **place})
                file.write(b"".join(parts))
    pq.write_table(pa.Table.from_pylist(truth), folder / "truth.parquet")
    return paths


def write_samples(path: Path, pages: list[bytes]) -> None:
    """Write a WARC file to warm up on: one page in each wanted language, and one that only its text tells to be in another."""
    draw = random.Random(0)
    made = [captured(draw.choice(pages), language, number, draw) for number, language in enumerate(SHARES)]
    made.append(replace(captured(next(page for page in pages if not is_wanted(page)), "other", len(made), draw), note=""))
    path.write_bytes(b"".join(part for number, capture in enumerate(made) for part in members(capture, number)))


def main() -> None:
    """Write a crawl."""
    from pages import real_pages  # type: ignore[import-not-found]  # the folder of a script is on its path

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--responses", type=int, default=3_000)
    parser.add_argument("--files", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--wanted", type=float, default=0.05, help="share of the captures in wanted languages")
    parser.add_argument("--cache", type=Path, default=Path("artifacts/.pages"), help="where the pages' packages are kept")
    options = parser.parse_args()
    pages = real_pages(options.cache)
    paths = write_crawl(options.folder, pages, options.responses, options.files, options.seed, options.wanted)
    print(json.dumps({"files": len(paths), "bytes": sum(path.stat().st_size for path in paths)}))


if __name__ == "__main__":
    main()
