"""The WARC reader on files that are damaged or made to harm: it counts, goes on, and stays small."""

from __future__ import annotations

import gzip
import hashlib
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import brotli
import pytest
from hypothesis import given
from hypothesis import strategies as st
from isal.isal_zlib import decompressobj

from sea_lion.catalog.errors import CorruptInput
from sea_lion.data import members as reader
from sea_lion.data.members import WINDOW, members
from sea_lion.data.warc import check_warc, conversions, payload, read_claim, responses

from . import hostile
from .hostile import CASES, HTML, Hostile, address, cld2, note, page


class Dribble:
    """A stream that cannot seek and gives as much as it likes."""

    def __init__(self, content: bytes, sizes: tuple[int, ...] = (1, 7, 100, 5000)) -> None:
        self.file, self.sizes, self.calls = BytesIO(content), sizes, 0

    def read(self, size: int, /) -> bytes:
        self.calls += 1
        return self.file.read(min(size, self.sizes[self.calls % len(self.sizes)]))


@pytest.fixture(scope="module")
def built() -> dict[str, Hostile]:
    """The cases, each built once."""
    return {name: build() for name, build in CASES.items()}


@pytest.mark.parametrize("name", CASES)
def test_every_known_damage_is_counted_and_costs_nothing_else(name: str, built: dict[str, Hostile]) -> None:
    case = built[name]
    found = list(responses(BytesIO(case.content)))
    assert [(response.url, response.fault) for response in found] == [(name and address(name), why) for name, why in case.found]
    expected = {address(name): content for name, content in case.payloads}
    for response in found:
        if not response.fault:
            assert payload(response) == (expected.get(response.url, HTML), "")
    places = [(response.offset, response.offset + response.length) for response in found]
    assert all(end <= begin for (_, end), (begin, _) in pairwise([*places, (len(case.content), 0)]))


@pytest.mark.parametrize("name", [name for name in CASES if "MB" not in name and "MiB" not in name])
def test_a_stream_that_cannot_seek_reads_the_same(name: str, built: dict[str, Hostile], tmp_path: Path) -> None:
    content = built[name].content
    path = tmp_path / "crawl.warc.gz"
    path.write_bytes(content)
    assert list(responses(Dribble(content))) == list(responses(path))


def test_the_member_of_a_response_is_the_record_alone(built: dict[str, Hostile]) -> None:
    content = built["other records"].content
    for response in responses(BytesIO(content)):
        alone = list(responses(BytesIO(content[response.offset : response.offset + response.length])))
        assert [(again.url, again.id, again.digest, again.length) for again in alone] == [
            (response.url, response.id, response.digest, response.length)
        ]


def test_other_records_are_counted(built: dict[str, Hostile]) -> None:
    skipped: Counter[str] = Counter()
    content = built["other records"].content + note("a", "{}") + gzip.compress(b"something else")
    assert len(list(responses(BytesIO(content), skipped=skipped))) == 3
    assert skipped == dict.fromkeys(("warcinfo", "request", "revisit", "resource", "conversion", "continuation"), 4) | {
        "unknown": 12, "no_record": 1
    }  # fmt: skip


def test_metadata_that_no_response_waits_for_is_counted() -> None:
    skipped: Counter[str] = Counter()
    content = note("a", "{}") + page("a") + note("a", cld2(("tha", 1.0))) + note("a", cld2(("vie", 1.0))) + note("b", "{}")
    (response,) = responses(BytesIO(content), skipped=skipped)
    assert response.claim is not None and response.claim.shares == (("tha", 1.0),)
    assert skipped == {"unmatched_metadata": 3}
    content = page("a") + page("b") + note("b", cld2(("tha", 1.0))) + note("b", cld2(("vie", 1.0)))
    assert [found.claim and found.claim.shares for found in responses(BytesIO(content))] == [None, (("tha", 1.0),)]


def test_a_response_is_given_as_soon_as_its_metadata_is_read() -> None:
    begin = page("a") + note("a", "{}")
    stream = Dribble(begin + page("b") * 20, (50,))
    assert next(responses(stream)).url == address("a")
    assert stream.file.tell() < len(begin) + 100


def test_metadata_finds_its_response_across_other_records() -> None:
    pages = [page(name) for name in "abcde"]
    notes = [note(name, cld2((name * 3, 0.5))) for name in "abcde"]
    request = hostile.member("request", {}, b"")
    content = pages[0] + request + notes[0] + pages[1] + pages[2] + notes[2] + notes[1] + pages[3] + pages[4] + notes[4]
    found = list(responses(BytesIO(content)))
    assert [response.url for response in found] == [address(name) for name in "abcde"]
    assert [response.claim and response.claim.shares[0][0] for response in found] == ["aaa", "bbb", "ccc", None, "eee"]


def test_few_responses_wait_for_metadata_that_never_comes() -> None:
    content = b"".join(page(f"p{number}") for number in range(50))
    stream = Dribble(content, (100,))
    found = responses(stream)
    assert next(found).url == address("p0")
    assert stream.file.tell() < 8 * len(page("p0")), "read far ahead"
    assert [response.url for response in found] == [address(f"p{number}") for number in range(1, 50)]


READ = """
import sys
from pathlib import Path
from sea_lion.data.warc import payload, responses
def peak():
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
before = peak()
for response in responses(Path(sys.argv[1])):
    content, fault = payload(response)
    print(response.url, fault or len(content))
print((peak() - before) >> 10)
"""
"""Not `getrusage`, whose peak a process has from the one that started it."""

BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "member": (lambda: hostile.bomb_record(1536), "too_large"),
    "damaged member": (lambda: hostile.bomb_record(1536)[:-2], ""),
    "gzip": (lambda: encoded(hostile.zeros(b"<html>", 1536), "gzip"), "too_large"),
    "brotli": (lambda: encoded(brotli.compress(bytes(256 << 20), quality=1), "br"), "too_large"),
    "member that does not shrink": (lambda: gzip.compress(hostile.page_record("bomb", bytes(100 << 20)), 0), "too_large"),
    "chunks": (lambda: encoded(b"1\r\nx\r\n" * 300_000, "", "chunked"), "300000"),
}


def encoded(body: bytes, content: str, transfer: str = "") -> bytes:
    """A page in encodings."""
    return page("bomb", body, f"{hostile.TYPE}\r\nContent-Encoding: {content}\r\nTransfer-Encoding: {transfer}")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_of_a_gigabyte_and_a_half_takes_little_memory(name: str, tmp_path: Path) -> None:
    build, outcome = BOMBS[name]
    path = tmp_path / "crawl.warc.gz"
    path.write_bytes(page("a") + build() + page("c"))
    lines = subprocess.run([sys.executable, "-c", READ, path], capture_output=True, text=True, check=True).stdout.splitlines()
    bomb = f"{address('bomb')} {outcome}" if outcome else " damaged_record"
    assert lines[:-1] == [f"{address('a')} {len(HTML)}", bomb, f"{address('c')} {len(HTML)}"]
    assert int(lines[-1]) < 60, "MiB more than before reading"


def test_a_page_behind_damage_is_found_wherever_the_pieces_that_are_searched_end() -> None:
    for begin in range(reader.CHUNK - 12, reader.CHUNK + 4):
        length = begin - len(page("a"))
        found = list(responses(BytesIO(page("a") + b"-" * length + page("c"))))
        assert [response.url for response in found] == [address("a"), "", address("c")], begin


def test_a_damaged_member_longer_than_the_window_costs_no_other() -> None:
    noise = hashlib.shake_128(b"").digest(WINDOW + (1 << 20))
    middle = bytearray(gzip.compress(hostile.page_record("b", noise), 1))
    assert len(middle) > WINDOW
    middle[-6] ^= 1
    found = [(response.url, response.fault) for response in responses(BytesIO(page("a") + bytes(middle) + page("c")))]
    assert found == [(address("a"), ""), ("", "damaged_record"), (address("c"), "")]


def test_members_made_to_fail_late_are_not_inflated_thousands_of_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """2,600 gzip headers, each of a record in a stored block that reaches over the others, on to one bad end 4 MiB away."""
    head, starts, fed = b"WARC/1.0\r\n", 2600, [0]
    blocks = b"".join(stored(bytes(65535)) for _ in range(64))
    bomb = b"".join(
        b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + stored(head + bytes(25 * left))[: 5 + len(head)] for left in range(starts - 1, -1, -1)
    )
    content = bomb + blocks + b"\x07" + page("c")

    class Counted:
        def __init__(self, wbits: int) -> None:
            self.inner = decompressobj(wbits=wbits)

        def decompress(self, data: bytes, most: int) -> bytes:
            fed[0] += len(data)
            return self.inner.decompress(data, most)

        def __getattr__(self, name: str) -> object:
            return getattr(self.inner, name)

    monkeypatch.setattr(reader, "decompressobj", Counted)
    found = list(responses(BytesIO(content)))
    assert (found[-1].url, found[-1].fault) == (address("c"), "") and len(found) > 2
    assert fed[0] < 12 * (len(content) + WINDOW)


def stored(data: bytes) -> bytes:
    """A deflate block that is not compressed."""
    return b"\0" + len(data).to_bytes(2, "little") + (len(data) ^ 0xFFFF).to_bytes(2, "little") + data


KINDS = ("flip", "cut", "insert", "repeat", "swap")
DAMAGE = st.tuples(st.sampled_from(KINDS), st.floats(0, 1, exclude_max=True), st.binary(max_size=40))


@given(st.lists(DAMAGE, min_size=1, max_size=4))
def test_pages_behind_any_damage_are_found(damages: list[tuple[str, float, bytes]]) -> None:
    before, behind = b"".join(map(page, "abcde")), b"".join(map(page, "vwxyz"))
    content = bytearray(before)
    for kind, share, data in damages:
        damage(content, kind, int(share * len(content)), data)
    found = list(responses(Dribble(bytes(content) + behind, (9, 300, 70_000))))
    usable = [response.url for response in found if not response.fault]
    assert usable[-5:] == [address(name) for name in "vwxyz"]
    assert set(usable) <= {address(name) for name in "abcdevwxyz"}
    assert all(payload(response) == (HTML, "") for response in found if not response.fault)


def damage(content: bytearray, kind: str, at: int, data: bytes) -> None:
    """Change a file in place."""
    if kind == "flip" and content:
        content[at] ^= data[0] | 1 if data else 1
    elif kind == "cut":
        del content[at : at + 1 + len(data) * 8]
    elif kind == "insert":
        content[at:at] = data
    elif kind == "repeat":
        content[at:at] = content[at : at + 300]
    else:
        middle = len(content) // 2
        content[:] = content[middle:] + content[:middle]


@given(st.binary(max_size=300), st.integers(0, 3))
def test_any_bytes_are_read_or_refused(data: bytes, form: int) -> None:
    begin = (b"", b"WARC/1.0\r\n", b"\x1f\x8b\x08\0\0\0\0\0\0\xff", b"")[form]
    content = gzip.compress(b"WARC/1.0\r\nWARC-Type: response\r\n" + data) if form == 3 else begin + data
    for response in responses(BytesIO(content)):
        assert isinstance(response.id, str) and payload(response) is not None
    assert sum(member.length for member in members(BytesIO(content), 99)) == len(content)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(("languages", "reliable", "code-iso-639-3", "text-covered")), inner, max_size=4)
    ),
    max_leaves=9,
)


@given(JSON)
def test_any_annotation_gives_a_claim_or_none(value: object) -> None:
    claim = read_claim(json.dumps(value))
    assert claim is None or all(0 <= share <= 1 for _, share in claim.shares)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 10_000_000,
        '{"languages": ' * 9_999,
        '{"reliable": true, "languages": [{"code-iso-639-3": "tha", "text-covered": NaN}]}',
        '{"reliable": true, "languages": [{"code-iso-639-3": "tha", "text-covered": Infinity}]}',
        '{"reliable": true, "languages": [{"code-iso-639-3": "tha", "text-covered": 1e999}]}',
        '{"reliable": true, "languages": [{"code-iso-639-3": "tha", "text-covered": 1%s}]}' % ("0" * 5000),
        '{"reliable": true, "languages": [{"code-iso-639-3": "tha", "text-covered": 1%s}]}' % ("0" * 400),
        '{"reliable": true, "languages": [{"code-iso-639-3": "tha", "text-covered": -0.1}]}',
        '{"reliable": true, "languages": [{"code-iso-639-3": "tha", "text-covered": true}]}',
        '{"reliable": true, "languages": [{"code-iso-639-3": "tha", "text-covered": "0.9"}]}',
        '{"reliable": true, "languages": [{"code-iso-639-3": {}, "text-covered": 0.9}]}',
        '{"reliable": true, "languages": [{"code-iso-639-3": "%s", "text-covered": 0.9}]}' % ("x" * 10_000_000),
        '{"reliable": true, "languages": [["code-iso-639-3", "text-covered"]]}',
        '{"reliable": true, "languages": "tha"}',
        '{"reliable": true, "languages": 7}',
        '{"languages": [{"code-iso-639-3": "tha", "text-covered": 0.9}]}',
        "\0",
        "\ud800",
    ],
    ids=lambda text: text[:40] + text[-40:] if isinstance(text, str) else None,
)
def test_hostile_annotations_count_as_none(text: str) -> None:
    assert read_claim(text) is None


def test_texts_of_a_damaged_wet_file_are_read(tmp_path: Path) -> None:
    fields = {"WARC-Target-URI": address("a"), "WARC-Identified-Content-Language": "tha, zho,msa"}
    good, empty = hostile.member("conversion", fields, "ภาษา".encode() + b"\xff"), hostile.member("conversion", fields, b" ")
    other = hostile.member("warcinfo", {}, b"")
    damaged = bytearray(hostile.member("conversion", fields, b"abc" * 99))
    damaged[-6] ^= 1
    path = tmp_path / "crawl.warc.wet.gz"
    path.write_bytes(other + good + bytes(damaged) + empty + good[:-5])
    found = list(conversions(path))
    assert [text.fault for text in found] == ["", "damaged_record", "empty", "cut_record"]
    assert found[0].text == "ภาษา\ufffd" and found[0].languages == ("tha", "cmn", "zsm") and found[0].offset == len(other)
    assert found[0].id == next(conversions(BytesIO(good))).id and found[0].length == len(good)
    assert [text.fault for text in conversions(BytesIO(good), limit=2)] == ["too_large"]


@pytest.mark.parametrize("cut", range(1, 120, 7))
def test_every_cut_of_the_first_member_is_refused(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "crawl.warc.gz"
    path.write_bytes(page("a")[:-cut])
    with pytest.raises(CorruptInput, match=r"byte 0: .*cut short"):
        check_warc(path)
