"""The WARC reader on what crawls really hold, with two other readers as second opinions."""

from __future__ import annotations

import gzip
import hashlib
from base64 import b32encode
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from threading import Thread
from typing import Any

import fsspec
import pytest
from fastwarc.warc import ArchiveIterator as FastWarc
from fastwarc.warc import WarcRecordType
from warcio.archiveiterator import ArchiveIterator as Warcio

import sea_lion
from sea_lion.catalog.errors import CorruptInput
from sea_lion.data.members import members
from sea_lion.data.warc import MAX_RECORD_BYTES, body_digest, check_warc, payload, read_claim, responses

from .hostile import CASES, HTML, address, cld2, member, note, packed, page, page_record

SAMPLES = sorted(Path(sea_lion.__path__[0], "data", "sample", "crawl").glob("*.warc.gz"))
WELL_FORMED = ("whole", "other records", "gzip body", "deflate body", "chunked body", "an image", "not found")
"""Cases; not Brotli's, which warcio 1.8 fails on."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The sample crawl, and files that every reader must read alike."""
    folder = tmp_path_factory.mktemp("files")
    made = [folder / f"{name}.warc.gz" for name in WELL_FORMED]
    for path in made:
        path.write_bytes(CASES[path.name.removesuffix(".warc.gz")]().content)
    assert len(SAMPLES) == 3
    return SAMPLES + made


def by_warcio(path: Path, is_decoded: bool) -> list[tuple[Any, ...]]:
    found = []
    with path.open("rb") as file:
        iterator = Warcio(file)
        for record in iterator:
            if record.rec_type == "response":
                status = int(record.http_headers.get_statuscode())
                body = (record.content_stream() if is_decoded else record.raw_stream).read()
                place = iterator.get_record_offset(), iterator.get_record_length()
                found.append((record.rec_headers.get_header("WARC-Target-URI"), status, body, *place))
    return found


def test_warcio_reads_the_same(files: list[Path]) -> None:
    for path in files:
        ours = [(found.url, found.status, found.body, found.offset, found.length) for found in responses(path)]
        assert ours == by_warcio(path, is_decoded=False) and len(ours) >= 3


def test_warcio_decodes_the_same(files: list[Path]) -> None:
    for path in files:
        theirs = {url: body for url, _, body, *_ in by_warcio(path, is_decoded=True)}
        ours = {found.url: payload(found) for found in responses(path) if not found.fault}
        assert ours == {url: (theirs[url], "") for url in ours} and len(ours) >= 2


def test_fastwarc_reads_the_same(files: list[Path]) -> None:
    for path in files:
        with path.open("rb") as file:
            theirs = [
                (record.headers["WARC-Target-URI"], record.stream_pos, record.reader.read())
                for record in FastWarc(file, record_types=WarcRecordType.response, parse_http=False)
            ]
        ours = [(found.url, found.offset, found.record[-4 - len(block) : -4]) for found, (*_, block) in zip(
            responses(path), theirs, strict=True)]  # fmt: skip
        assert ours == theirs


def test_digests_of_the_sample_crawl_are_those_of_its_bodies() -> None:
    for path in SAMPLES:
        for found in responses(path):
            assert found.noted_digest and found.digest == body_digest(found.body)


def test_a_digest_that_was_not_noted_is_computed() -> None:
    expected = b32encode(hashlib.sha1(HTML).digest()).decode()
    noted = "sha1:" + "A" * 32
    content = page("a") + page("b", WARC_Payload_Digest="sha256:abc") + page("c", WARC_Payload_Digest=noted)
    assert [found.digest for found in responses(BytesIO(content))] == [expected, expected, "A" * 32]


def test_metadata_goes_to_the_response_that_it_names() -> None:
    claims = cld2(("eng", 0.1), ("tha", 0.9))
    content = page("a") + note("a", claims) + page("b") + page("c") + note("other", cld2(("vie", 0.9)))
    found = list(responses(BytesIO(content)))
    assert [response.url for response in found] == [address(name) for name in "abc"]
    assert found[0].claim is not None and found[0].claim.shares == (("tha", 0.9), ("eng", 0.1)) and found[0].claim.is_reliable
    assert found[0].charset == "UTF-8" and payload(found[0]) == (HTML, "")
    assert found[1].claim is None and found[2].claim is None


def test_metadata_that_names_nothing_goes_to_the_last_response_of_its_address() -> None:
    unnamed = [note(name, cld2((name * 3, 1.0)), WARC_Concurrent_To="") for name in "abc"]
    found = responses(BytesIO(page("a") + unnamed[0] + page("b") + unnamed[2]))
    assert [response.claim and response.claim.shares[0][0] for response in found] == ["aaa", None]


def test_what_the_crawler_noted_is_kept() -> None:
    content = page(
        "a", WARC_Truncated="Length", WARC_Identified_Payload_Type="application/xhtml+xml", WARC_Date="2021-01-02T03:04:05Z"
    )
    (found,) = responses(BytesIO(content))
    assert (found.truncated, found.media_type, found.date) == ("length", "application/xhtml+xml", "2021-01-02T03:04:05Z")
    assert (found.status, found.content_type, found.record_id, found.size) == (200, "text/html", "urn:a", len(HTML))


def test_bodies_up_to_the_limit_are_used_and_longer_ones_are_not() -> None:
    exact, longer = HTML.ljust(MAX_RECORD_BYTES), HTML.ljust(MAX_RECORD_BYTES + 1)
    squeezed = packed(longer)
    content = page("a", exact) + page("b", longer) + page("c", squeezed, "Content-Type: text/html\r\nContent-Encoding: gzip")
    found = list(responses(BytesIO(content)))
    assert [(response.fault, response.size) for response in found] == [
        ("", len(exact)), ("too_large", len(longer)), ("", len(squeezed))
    ]  # fmt: skip
    assert payload(found[0]) == (exact, "") and payload(found[2]) == (exact[:MAX_RECORD_BYTES], "too_large")
    assert payload(found[1]) == (b"", "too_large") and payload(found[0], 10)[1] == "too_large"


def test_encodings_are_taken_off_only_when_asked() -> None:
    squeezed = packed(HTML)
    (found,) = responses(BytesIO(page("a", squeezed, "Content-Type: text/html\r\nContent-Encoding: gzip")))
    assert found.body == squeezed and found.encodings == ("gzip",)
    (bad,) = responses(BytesIO(page("a", b"\x1f\x8b\x08" + b"x" * 99, "Content-Type: text/html\r\nContent-Encoding: gzip")))
    assert payload(bad) == (b"", "undecodable_body")
    (blank,) = responses(BytesIO(page("a", packed(b" \n"), "Content-Type: text/html\r\nContent-Encoding: gzip")))
    assert not blank.fault and payload(blank) == (b" \n", "empty")


def test_ids_speak_of_content_not_of_place() -> None:
    first, again, other = (next(responses(BytesIO(content))) for content in (
        page("a"), member("warcinfo", {}, b"") + page("a", X_Header="y"), page("a", HTML + b"!")))  # fmt: skip
    assert first.id == again.id != other.id and len(first.id) == 32
    lost = [response.id for response in responses(BytesIO(page("a", WARC_Target_URI="") * 2))]
    assert lost[0] != lost[1]


def test_an_uncompressed_file_reads_like_a_compressed_one(tmp_path: Path) -> None:
    records = [page_record(name, HTML * 999) for name in "abc"]
    path = tmp_path / "crawl.warc"
    path.write_bytes(b"".join(records))
    check_warc(path)
    found = list(responses(path))
    compressed = list(responses(BytesIO(b"".join(map(packed, records)))))
    assert [(one.id, one.fault) for one in found] == [(one.id, one.fault) for one in compressed]
    assert [(one.offset, one.length) for one in found] == [(i * len(records[0]), len(records[0])) for i in range(3)]


def test_a_file_is_read_over_http_as_it_comes(tmp_path: Path) -> None:
    (tmp_path / "crawl.warc.gz").write_bytes(SAMPLES[0].read_bytes())
    handler = partial(Quiet, directory=tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        web: Any = fsspec.filesystem("http")
        with web.open(f"http://127.0.0.1:{server.server_port}/crawl.warc.gz", block_size=0) as stream:
            with pytest.raises(ValueError, match="Cannot seek"):
                stream.seek(9)
            assert list(responses(stream)) == list(responses(SAMPLES[0]))
        server.shutdown()


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder without a word."""

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def test_members_cover_the_file() -> None:
    pages = [page(f"p{number}", bytes(number * 20_000)) for number in range(40)]
    found = list(members(BytesIO(b"".join(pages)), 300_000))
    assert [member.offset for member in found] == [sum(map(len, pages[:i])) for i in range(40)]
    assert [member.length for member in found] == list(map(len, pages))
    assert [member.data for member in found] == [gzip.decompress(page)[:300_000] for page in pages]
    assert [member.size for member in found] == [len(gzip.decompress(page)) for page in pages]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is not a gzipped WARC file"),
        (b"not a crawl at all", "is not a gzipped WARC file"),
        (gzip.compress(b""), "holds no WARC record"),
        (gzip.compress(b"a,b\n1,2\n"), "byte 0: this gzip member does not hold a WARC record"),
        (page("a") + gzip.compress(b"a,b\n1,2\n"), r"byte \d+: this gzip member does not hold a WARC record"),
        (b"\x1f\x8b\x08garbage garbage garbage", "holds no WARC record"),
        (gzip.compress(page_record("a") + page_record("b")), "byte 0: several records .* one member a record is needed"),
        (b"WARC/1.0\r\nContent-Length: 9\r\n\r\n", "byte 0: the file ends within this record: it is cut short"),
    ],
    ids=range(8),  # of their own they would hold the time, and differ from one process to the other
)
def test_what_is_no_crawl_is_refused(content: bytes, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "crawl.warc.gz"
    path.write_bytes(content)
    with pytest.raises(CorruptInput, match=f"crawl.warc.gz: {problem}"):
        check_warc(path)


def test_only_the_beginning_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "crawl.warc.gz"
    path.write_bytes(page("a") + page("b") + page("c")[:-9])
    check_warc(path)
    assert [response.fault for response in responses(path)] == ["", "", "cut_record"]
    for sample in SAMPLES:
        check_warc(sample)


@pytest.mark.parametrize("text", ["", "null", "[]", "{}", '{"languages": []}', '{"reliable": true, "languages": [{}]}', "{"])
def test_unreadable_annotations_count_as_none(text: str) -> None:
    assert read_claim(text) is None
