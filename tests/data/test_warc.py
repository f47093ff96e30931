"""The WARC reader on what crawls really hold."""

from __future__ import annotations

import gzip
import resource
import zlib
from pathlib import Path
from typing import Any

import pytest

from sea_lion.catalog.errors import CorruptInput
from sea_lion.data import warc as reader
from sea_lion.data.warc import check_warc, members, read_claim, responses

HTML = b"<html><body><p>a page</p></body></html>"


def test_metadata_goes_to_the_response_before_it(warc: Any) -> None:
    warc.record("warcinfo", {}, b"isPartOf: X")
    warc.page("https://a.example/", HTML)
    warc.note("https://a.example/", ("tha", 0.9), ("eng", 0.1))
    warc.page("https://b.example/", HTML)
    warc.page("https://c.example/", HTML)
    warc.note("https://other.example/", ("vie", 0.9))
    path = warc.save()
    assert check_warc(path) == 3
    found = list(responses(path))
    assert [response.url[8] for response in found] == ["a", "b", "c"]
    assert found[0].claim is not None and found[0].claim.shares == (("tha", 0.9), ("eng", 0.1))
    assert found[0].charset == "UTF-8" and found[0].payload == HTML
    assert found[1].claim is None and found[2].claim is None


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({}, ""),
        ({"status": "404 Not Found"}, "status_404"),
        ({"status": "302 Found"}, "redirect"),
        ({"http": "Content-Type: image/png"}, "not_html"),
        ({"WARC_Identified_Payload_Type": "application/pdf"}, "not_html"),
        ({"WARC_Truncated": "length"}, "truncated"),
        ({"Content_Length": "99999"}, "truncated"),
        ({"WARC_Target_URI": ""}, "no_url"),
        ({"http": "Content-Type: text/html\r\nContent-Encoding: zstd"}, "unknown_encoding"),
    ],
)
def test_faults_of_single_records(warc: Any, options: dict[str, str], fault: str) -> None:
    warc.page("https://a.example/", HTML, **options)
    warc.page("https://b.example/", HTML)
    assert [response.fault for response in responses(warc.save())] == [fault, ""]


def test_compressed_and_chunked_bodies_are_decoded(warc: Any) -> None:
    packed = gzip.compress(HTML)
    warc.page("https://a.example/", packed, "Content-Type: text/html\r\nContent-Encoding: gzip")
    chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(HTML), HTML)
    warc.page("https://b.example/", chunked, "Content-Type: text/html\r\nTransfer-Encoding: chunked")
    assert [response.payload for response in responses(warc.save())] == [HTML, HTML]


def test_bombs_are_read_to_the_limit_only(warc: Any) -> None:
    bomb = bytes(120 << 20)
    warc.page("https://body.example/", gzip.compress(bomb), "Content-Type: text/html\r\nContent-Encoding: gzip")
    warc.page("https://member.example/", bomb)
    del bomb
    warc.page("https://good.example/", HTML)
    path = warc.save()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert check_warc(path) == 3
    assert [response.fault for response in responses(path)] == ["too_large", "too_large", ""]
    assert max(len(response.payload) for response in responses(path)) <= reader.MAX_RECORD_BYTES
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 60 << 10


def test_a_damaged_member_costs_that_record_only(warc: Any) -> None:
    for name in "abc":
        warc.page(f"https://{name}.example/", HTML * 50 + name.encode())
    middle = bytearray(warc.members[1])
    middle[len(middle) // 2] ^= 0xFF
    warc.members[1] = bytes(middle)
    path = warc.save()
    assert check_warc(path) == 3
    assert [response.fault for response in responses(path)] == ["", "damaged_record", ""]


def test_garbage_between_members_is_passed_over(warc: Any) -> None:
    warc.page("https://a.example/", HTML)
    warc.members.append(b"garbage \x1f\x8b\x08 more garbage" * 9)
    warc.page("https://b.example/", HTML)
    assert [r.url for r in responses(warc.save()) if not r.fault] == ["https://a.example/", "https://b.example/"]


def test_every_cut_of_the_last_member_is_refused(warc: Any) -> None:
    warc.page("https://a.example/", HTML)
    warc.page("https://b.example/", HTML)
    whole = warc.save().read_bytes()
    for length in range(len(warc.members[0]) + 1, len(whole)):
        warc.path.write_bytes(whole[:length])
        with pytest.raises(CorruptInput, match=rf"crawl.warc.gz: byte {len(warc.members[0])}: .*cut short"):
            check_warc(warc.path)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"not a crawl at all", "is not a gzipped WARC file"),
        (b"WARC/1.0\r\nWARC-Type: response\r\n\r\n", "is not compressed"),
        (gzip.compress(b""), "holds no WARC record"),
        (gzip.compress(b"a,b\n1,2\n"), "does not hold a WARC record"),
        (b"\x1f\x8b\x08garbage garbage garbage", "holds no WARC record"),
    ],
)
def test_what_is_no_crawl_is_refused(warc: Any, content: bytes, problem: str) -> None:
    warc.path.write_bytes(content)
    with pytest.raises(CorruptInput, match=problem):
        check_warc(warc.path)


def test_one_member_for_all_records_is_refused(warc: Any) -> None:
    warc.page("https://a.example/", HTML)
    warc.page("https://b.example/", HTML)
    warc.path.write_bytes(gzip.compress(b"".join(map(gzip.decompress, warc.members))))
    with pytest.raises(CorruptInput, match="one member a record"):
        check_warc(warc.path)


def test_members_cover_the_file(warc: Any) -> None:
    for number in range(40):
        warc.page(f"https://a.example/{number}", zlib.compress(bytes(number)) * 100)
    found = list(members(warc.save()))
    assert [member.offset for member in found] == [sum(map(len, warc.members[:i])) for i in range(40)]
    assert all(member.size == len(member.data) for member in found)


def test_ids_speak_of_content_not_of_place(warc: Any, tmp_path: Path) -> None:
    warc.page("https://a.example/", HTML)
    first = next(responses(warc.save())).id
    warc.members.insert(0, gzip.compress(b"WARC/1.0\r\nWARC-Type: warcinfo\r\nContent-Length: 0\r\n\r\n\r\n\r\n"))
    warc.path = tmp_path / "other.warc.gz"
    assert next(responses(warc.save())).id == first


@pytest.mark.parametrize("text", ["", "null", "[]", "{}", '{"languages": []}', '{"reliable": true, "languages": [{}]}', "{"])
def test_unreadable_annotations_count_as_none(text: str) -> None:
    assert read_claim(text) is None
