"""The sample crawl: the committed files are what the builder writes, and they are what `expected.json` says."""

import gzip
import io
import json
import zlib
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from warcio.archiveiterator import ArchiveIterator

from sea_lion.catalog.languages import LANGUAGES
from sea_lion.data import sample_crawl
from sea_lion.data.sample_captures import all_captures, read_sample

CRAWL = sample_crawl.SAMPLE / "crawl"
FILES = sorted(CRAWL.glob("*.warc.gz"))


class Record(NamedTuple):
    """One record as warcio reads it."""

    kind: str
    url: str
    headers: dict[str, str]
    status: str
    body: bytes
    digests_right: bool | None


@pytest.fixture(scope="module")
def records() -> list[Record]:
    """All records of the committed files."""
    found = []
    for path in FILES:
        with path.open("rb") as file:
            for record in ArchiveIterator(file, check_digests=True):
                body = record.raw_stream.read()
                found.append(
                    Record(
                        kind=record.rec_type,
                        url=record.rec_headers.get_header("WARC-Target-URI") or "",
                        headers=dict(record.rec_headers.headers),
                        status=record.http_headers.get_statuscode() if record.rec_type == "response" else "",
                        body=body,
                        digests_right=record.digest_checker.passed if record.digest_checker else None,
                    )
                )
    return found


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    """The committed expectation."""
    table: dict[str, Any] = json.loads((CRAWL / "expected.json").read_text("utf-8"))
    return table


def case(expected: dict[str, Any], name: str) -> str:
    """Address of the one capture of a case."""
    (url,) = (capture["url"] for capture in expected["captures"] if capture["case"] == name)
    return str(url)


def response(records: list[Record], url: str) -> Record:
    """The response of an address."""
    (found,) = (record for record in records if record.kind == "response" and record.url == url)
    return found


def noted(record: Record) -> dict[str, Any]:
    """The `languages-cld2` value of a metadata record, empty when there is none."""
    for line in record.body.decode().splitlines():
        if line.startswith("languages-cld2: "):
            value: dict[str, Any] = json.loads(line.removeprefix("languages-cld2: "))
            return value
    return {}


def test_rebuild_gives_the_committed_files(tmp_path: Path) -> None:
    sample_crawl.build(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in CRAWL.iterdir())
    for path in CRAWL.iterdir():
        committed, rebuilt = path.read_bytes(), (tmp_path / path.name).read_bytes()
        if path.suffix == ".gz" and "ng" in zlib.ZLIB_RUNTIME_VERSION:  # zlib-ng deflates otherwise
            committed, rebuilt = gzip.decompress(committed), gzip.decompress(rebuilt)
        assert committed == rebuilt, f"{path.name}: run python -m sea_lion.data.sample_crawl"


def test_size_names_and_number(records: list[Record], expected: dict[str, Any]) -> None:
    assert sum(path.stat().st_size for path in FILES) < 950_000
    assert len(FILES) == 3
    assert all(path.name.startswith("CC-MAIN-2024041") for path in FILES)
    kinds = Counter(record.kind for record in records)
    assert kinds["warcinfo"] == len(FILES)
    assert kinds["request"] == kinds["response"] == expected["responses"] >= 300
    assert kinds["metadata"] == expected["metadata_records"] == expected["responses"] - 1


def test_one_gzip_member_a_record(records: list[Record]) -> None:
    members = 0
    for path in FILES:
        rest = path.read_bytes()
        while rest:
            assert rest[4:8] == b"\0\0\0\0", "a member carries a time"
            member = zlib.decompressobj(zlib.MAX_WBITS + 16)
            text = member.decompress(rest) + member.flush()
            assert member.eof and text.startswith(b"WARC/1.0\r\n") and text.endswith(b"\r\n\r\n")
            assert len(list(ArchiveIterator(io.BytesIO(text)))) == 1
            rest = member.unused_data
            members += 1
    assert members == len(records)


def test_digests_and_ids(records: list[Record]) -> None:
    assert all(record.digests_right for record in records if record.kind == "response")
    for record in records:
        if record.kind == "response":
            assert {"WARC-Payload-Digest", "WARC-Block-Digest", "WARC-Identified-Payload-Type"} <= record.headers.keys()
    ids = [record.headers["WARC-Record-ID"] for record in records]
    assert len(set(ids)) == len(ids)
    infos = {record.headers["WARC-Record-ID"] for record in records if record.kind == "warcinfo"}
    assert {record.headers["WARC-Warcinfo-ID"] for record in records if record.kind != "warcinfo"} == infos
    by_id = {record.headers["WARC-Record-ID"]: record for record in records}
    for record in records:
        if record.kind in ("response", "metadata"):
            other = by_id[record.headers["WARC-Concurrent-To"]]
            assert other.url == record.url
            assert other.kind == {"response": "request", "metadata": "response"}[record.kind]


def test_requests_are_http(records: list[Record]) -> None:
    with gzip.open(FILES[0]) as file:
        text = file.read(4000)
    assert b"\r\n\r\nGET /" in text and b"HTTP/1.1\r\nUser-Agent: CCBot/2.0" in text


def test_counts_are_what_expected_says(records: list[Record], expected: dict[str, Any]) -> None:
    captures = all_captures(read_sample(sample_crawl.SAMPLE))
    assert sample_crawl.expectation(captures) == expected
    assert sum(sum(languages.values()) for languages in expected["cases"].values()) == expected["responses"]
    named = {capture["url"] for capture in expected["captures"]}
    urls = {record.url for record in records if record.kind == "response"}
    assert named < urls
    assert len(urls - named) == sum(expected["cases"]["article"].values())


def test_articles_of_every_language(expected: dict[str, Any]) -> None:
    assert set(expected["cases"]["article"]) == set(LANGUAGES)
    assert min(expected["cases"]["article"].values()) >= 20
    assert expected["personal_data"] == dict.fromkeys(sorted(LANGUAGES), 3)
    cases = {name: sum(languages.values()) for name, languages in expected["cases"].items()}
    assert cases["exact_duplicate"] == 6 and cases["near_duplicate"] >= 12 and cases["other_language"] >= 12
    assert cases["spam"] == 6 and cases["too_short"] == 2


def test_duplicates_repeat_their_original(records: list[Record], expected: dict[str, Any]) -> None:
    for capture in expected["captures"]:
        if "original" not in capture:
            continue
        copy, original = (response(records, url).body.decode() for url in (capture["url"], capture["original"]))
        copied, first = ([line for line in page.splitlines() if line.startswith("<p>")] for page in (copy, original))
        if capture["case"] == "exact_duplicate":
            assert copied == first and len(first) >= 2
        else:
            assert sum(a != b for a, b in zip(copied, first, strict=True)) == 1, "one paragraph has one word changed"


def test_legacy_charsets(records: list[Record], expected: dict[str, Any]) -> None:
    thai = response(records, case(expected, "tis620")).body
    assert "ตลาด" in thai.decode("tis-620") and b'charset="tis-620"' in thai
    chinese = response(records, case(expected, "gb18030")).body
    assert "的" in chinese.decode("gb18030") and b'charset="gb18030"' in chinese
    for body in (thai, chinese):
        with pytest.raises(UnicodeDecodeError):
            body.decode()


def test_damaged_pages(records: list[Record], expected: dict[str, Any]) -> None:
    cut = response(records, case(expected, "truncated"))
    assert cut.headers["WARC-Truncated"] == "length"
    with pytest.raises(UnicodeDecodeError, match="unexpected end of data"):
        cut.body.decode()
    bad = response(records, case(expected, "bad_byte")).body
    assert bad.count(b"\xff") == 1
    assert bad.replace(b"\xff", b"").decode()


def test_what_is_no_page(records: list[Record], expected: dict[str, Any]) -> None:
    assert response(records, case(expected, "not_found")).status == "404"
    assert response(records, case(expected, "redirect")).status == "301"
    image = response(records, case(expected, "image"))
    assert image.body.startswith(b"\xff\xd8\xff") and image.headers["WARC-Identified-Payload-Type"] == "image/jpeg"
    pdf = response(records, case(expected, "pdf")).body
    table = int(pdf.split(b"startxref\n")[1].split(b"\n")[0])
    assert pdf.startswith(b"%PDF-") and pdf[table:].startswith(b"xref\n")


def test_languages_that_the_crawler_noted(records: list[Record], expected: dict[str, Any]) -> None:
    named = {capture["url"]: capture for capture in expected["captures"]}
    codes = {"zsm": "msa", "fil": "tgl", "cmn": "zho"}
    with_languages = 0
    for record in records:
        if record.kind != "metadata":
            continue
        assert record.body.startswith(b"fetchTimeMs: ")
        capture = named.get(record.url, {"case": "article", "language": ""})
        if not (value := noted(record)):
            assert capture["case"] in ("image", "pdf", "redirect")
            continue
        with_languages += 1
        first = value["languages"][0]
        assert value["reliable"] is True and set(first) == {"code", "code-iso-639-3", "text-covered", "score", "name"}
        if capture["case"] == "metadata_names_thai":
            assert (first["code-iso-639-3"], capture["language"]) == ("tha", "fra")
        elif capture["case"] == "metadata_names_french":
            assert (first["code-iso-639-3"], capture["language"]) == ("fra", "vie")
        elif capture["language"]:
            assert first["code-iso-639-3"] == codes.get(capture["language"], capture["language"])
    assert with_languages == expected["html_with_languages"]
    assert case(expected, "no_metadata") not in {record.url for record in records if record.kind == "metadata"}
