"""Plans: what is selected from an index, what is refused when one is read, and which ranges are fetched."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sea_lion.catalog.errors import CorruptInput, SeaLionError
from sea_lion.data.columnar import INDEX, index_rows
from sea_lion.data.plan import NOTE, PLAN, Selection, Wanted, excess, plan_of_records, plan_rows, ranges, read_plan
from sea_lion.data.warc import responses

from .crawl_server import make_crawl, mirror_of

SEA = Selection(languages=("tha", "zsm", "fil", "cmn"))


def digest(text: str) -> str:
    """A SHA-1 as the index has it."""
    return base64.b32encode(hashlib.sha1(text.encode()).digest()).decode()


def index(path: Path, *rows: dict[str, Any], without: tuple[str, ...] = ()) -> Path:
    """An index file; what a row does not say is that of an ordinary Thai page."""
    filled = []
    for i, row in enumerate(rows):
        ordinary = {
            "url": f"https://a.example/{i}", "fetch_status": 200, "content_digest": digest(f"{path} {i}"),
            "content_mime_type": "text/html", "content_mime_detected": "text/html", "content_languages": "tha",
            "warc_filename": "crawl-data/CC-MAIN-2024-18/segments/1/warc/a.warc.gz", "warc_record_offset": i * 1000,
            "warc_record_length": 900, "crawl": "CC-MAIN-2024-18", "subset": "warc",
        }  # fmt: skip
        filled.append(ordinary | row)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(filled, schema=INDEX).drop_columns(list(without)), path)
    return path


def chosen(path: Path) -> list[tuple[int, str]]:
    """Offset and language of a plan's rows."""
    return [(row.offset, row.language) for batch in read_plan(path).batches() for row in batch]


def test_selects_by_language_status_and_media_type(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"content_languages": "msa,eng"},
        {"content_languages": "eng,tgl"},
        {"content_languages": "zho"},
        {"content_languages": "eng"},
        {"content_languages": None},
        {"fetch_status": 404},
        {"content_mime_detected": "application/pdf"},
        {"content_mime_detected": None, "content_mime_type": "application/xhtml+xml"},
        {"subset": "robotstxt"},
    ]
    source = str(index(tmp_path / "i.parquet", *reversed(rows)))
    plan = plan_rows([source], tmp_path / "plan.parquet", SEA, recipe={"name": "corpus/x"})
    assert chosen(plan.path) == [(1000, "tha"), (6000, "cmn"), (8000, "zsm")]
    assert (plan.records, plan.bytes, plan.files) == (3, 2700, 1)
    assert plan.languages == {"cmn": 1, "tha": 1, "zsm": 1} and plan.recipe == {"name": "corpus/x"}
    assert read_plan(plan.path) == plan and plan.selection["match"] == "primary"
    any_of = Selection(languages=SEA.languages, match="any")
    assert chosen(plan_rows([source], tmp_path / "any.parquet", any_of).path)[2] == (7000, "fil")


def test_languages_that_are_not_ours_can_be_selected(tmp_path: Path) -> None:
    source = str(index(tmp_path / "i.parquet", {"content_languages": "jav"}, {}))
    assert chosen(plan_rows([source], tmp_path / "p.parquet", Selection(languages=("jav",))).path) == [(0, "jav")]
    for wrong in ("x'--", "english", ""):
        with pytest.raises(ValueError, match="ISO 639-3"):
            plan_rows([source], tmp_path / "p.parquet", Selection(languages=(wrong,)))
    with pytest.raises(ValueError, match="must each name something"):
        plan_rows([source], tmp_path / "p.parquet", Selection(languages=()))


def test_the_same_payload_is_fetched_once_across_crawls(tmp_path: Path) -> None:
    same = digest("same")
    sources = []
    for crawl in ("CC-MAIN-2024-18", "CC-MAIN-2023-50"):
        place: dict[str, Any] = {"warc_filename": f"crawl-data/{crawl}/segments/1/warc/a.warc.gz", "crawl": crawl}
        rows = [place | {"content_digest": value} for value in (same, digest(crawl), None, None)]
        sources.append(str(index(tmp_path / f"it's {crawl}.parquet", *rows)))
    assert plan_rows(sources, tmp_path / "plan.parquet", SEA).records == 8
    once = plan_rows(sources, tmp_path / "once.parquet", Selection(languages=("tha",), once=True))
    assert once.records == 7, "two digests that are unknown are not the same"
    assert [row.crawl for batch in once.batches() for row in batch if row.digest == same] == ["CC-MAIN-2023-50"]


def test_partition_folders_are_columns_and_addresses_are_files(tmp_path: Path) -> None:
    folder = tmp_path / "table" / "crawl=CC-MAIN-2024-18"
    bare = ("crawl", "subset")
    index(folder / "subset=warc" / "part-0.parquet", {}, {"content_languages": "eng"}, without=bare)
    index(folder / "subset=robotstxt" / "part-0.parquet", {"warc_record_offset": 5}, without=bare)
    plan = plan_rows([f"{tmp_path}/table/*/*/*.parquet"], tmp_path / "p.parquet", SEA)
    assert [row.crawl for batch in plan.batches() for row in batch] == ["CC-MAIN-2024-18"]
    with mirror_of(tmp_path) as server:
        address = f"{server.address}/table/crawl=CC-MAIN-2024-18/subset=warc/part-0.parquet"
        remote = plan_rows([address], tmp_path / "remote.parquet", SEA)
        assert all(last >= 0 for _, _, last, _ in server.asked), "the file was asked for whole"
        with pytest.raises(CorruptInput, match="part-9"):
            plan_rows([address.replace("part-0", "part-9")], tmp_path / "none.parquet", SEA)
    assert remote.path.read_bytes() == plan.path.read_bytes()


def test_an_index_that_takes_more_memory_than_allowed_says_so(tmp_path: Path) -> None:
    source = str(index(tmp_path / "i.parquet", {}))
    with pytest.raises(SeaLionError, match="takes more memory than 10kB to plan"):
        plan_rows([source], tmp_path / "p.parquet", SEA, memory_limit="10kB")


def test_the_same_index_gives_the_same_bytes(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"warc_record_offset": i * 1000} for i in range(5000)]
    whole = index(tmp_path / "whole.parquet", *rows)
    table = pq.read_table(whole)
    for i in range(5):
        pq.write_table(table.slice((4 - i) * 1000, 1000), tmp_path / f"part{i}.parquet")
    plans = [
        plan_rows([str(tmp_path / pattern)], tmp_path / f"{i}.plan", SEA).path
        for i, pattern in enumerate(["whole.parquet", "part*.parquet"])
    ]
    assert plans[0].read_bytes() == plans[1].read_bytes()


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda path: index(path, {}, without=("content_languages",)), "has no column 'content_languages'"),
        (lambda path: path.write_bytes(b"PAR1 no"), "i.parquet"),
        (lambda path: path.with_name("other").touch(), "no file matches"),
        (lambda path: index(path, {}, {"warc_record_offset": 0}), "row 2: .* is out of order, or in the record before it"),
        (lambda path: index(path, {"warc_filename": "../../etc/passwd"}), "row 1: .* is not a plain path"),
        (lambda path: index(path, {"warc_record_length": None}), "row 1: warc_record_length is missing"),
    ],
)
def test_an_index_that_is_none_is_one_clear_line(tmp_path: Path, make: Any, problem: str) -> None:
    make(tmp_path / "i.parquet")
    with pytest.raises(CorruptInput, match=problem) as error:
        plan_rows([str(tmp_path / "i.parquet")], tmp_path / "plan.parquet", SEA)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("*plan*")) and not list(tmp_path.glob(".*")), "nothing is left behind"


GOOD: dict[str, Any] = {
    "warc_filename": "a/b.warc.gz", "warc_record_offset": 100, "warc_record_length": 50, "url": "https://a.example/",
    "content_digest": digest(""), "content_languages": "tha", "language": "tha", "crawl": "",
}  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        *(
            ([GOOD, GOOD | {"warc_filename": name}], "row 2: .* not a plain path below a mirror")
            for name in (
                "/etc/passwd", "../x", "a/../../x", "https://evil.example/x", "s3:x", "c:\\x", "a//b", "a/./b", "", "a\nb",
                "//evil.example/x", "file:///x",
            )
        ),
        ([GOOD | {"warc_record_offset": -1}], "row 1: warc_record_offset -1 cannot be"),
        ([GOOD | {"warc_record_offset": (1 << 63) - 1}], "row 1: warc_record_offset .* cannot be"),
        ([GOOD | {"warc_record_length": 0}], "row 1: warc_record_length 0 cannot be"),
        ([GOOD | {"warc_record_length": 1 << 62}], "row 1: warc_record_length .* cannot be"),
        ([GOOD | {"url": ""}], "row 1: url is empty"),
        ([GOOD | {"url": None}], "row 1: url is missing"),
        ([GOOD | {"content_digest": "sha1:0"}], "row 1: content_digest 'sha1:0' is not base32"),
        ([GOOD | {"language": "Thai"}], "row 1: language 'Thai' is not"),
        ([GOOD, GOOD], "row 2: .* out of order, or in the record before it"),
        ([GOOD, GOOD | {"warc_record_offset": 149}], "row 2"),
        ([GOOD, GOOD | {"warc_record_offset": 50}], "row 2"),
        ([GOOD, GOOD | {"warc_filename": "a/a.warc.gz"}], "row 2"),
    ],
)  # fmt: skip
def test_a_plan_that_cannot_be_is_refused(tmp_path: Path, rows: list[dict[str, Any]], problem: str) -> None:
    path = tmp_path / "plan.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=PLAN), path)
    with pytest.raises(CorruptInput, match=problem) as error:
        read_plan(path)
    assert "\n" not in str(error.value)


def test_what_is_no_plan_or_was_changed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "plan.parquet"
    with pytest.raises(CorruptInput, match="no such file"):
        read_plan(path)
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(CorruptInput, match="is no plan"):
        read_plan(path)
    pq.write_table(pa.table({"url": ["x"]}), path)
    with pytest.raises(CorruptInput, match="no column 'warc_filename'"):
        read_plan(path)
    table = pa.Table.from_pylist([GOOD], schema=PLAN)
    pq.write_table(table.set_column(1, "warc_record_offset", pa.array(["x"])), path)
    with pytest.raises(CorruptInput, match="is no plan"):
        read_plan(path)
    for note, problem in (({"records": 2}, "records is 2, the rows come to 1"), ({"recipe": []}, NOTE.decode()), ([], "notes")):
        pq.write_table(table.replace_schema_metadata({NOTE: json.dumps(note)}), path)
        with pytest.raises(CorruptInput, match=problem):
            read_plan(path)
    pq.write_table(table, path)
    assert read_plan(path).records == 1, "a plan need not say how it was made"


def test_an_empty_selection_is_an_empty_plan(tmp_path: Path) -> None:
    plan = plan_rows([str(index(tmp_path / "i.parquet", {}))], tmp_path / "p.parquet", Selection(languages=("lao",)))
    assert plan.records == 0 and list(plan.batches()) == [] and read_plan(plan.path) == plan


def test_batches_end_by_records_and_by_bytes(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"warc_record_length": 900 if i != 5 else 1000} for i in range(9)]
    plan = plan_rows([str(index(tmp_path / "i.parquet", *rows))], tmp_path / "p.parquet", SEA)
    assert [len(batch) for batch in plan.batches(4)] == [4, 4, 1]
    assert [len(batch) for batch in plan.batches(4, 1900)] == [2, 2, 2, 2, 1]
    assert [len(batch) for batch in plan.batches(4, 10)] == [1] * 9


@st.composite
def records(draw: Any) -> list[Wanted]:
    """Records of a few files in the order of a plan."""
    found = []
    for file in range(draw(st.integers(1, 3))):
        offset = draw(st.integers(0, 10_000))
        for _ in range(draw(st.integers(0, 12))):
            length = draw(st.integers(1, 60_000))
            found.append(
                Wanted(file=f"{file}", offset=offset, length=length, url="u", digest="", languages="", language="tha", crawl="")
            )
            offset += length + draw(st.one_of(st.just(0), st.integers(0, 9_000)))
    return found


@given(records(), st.integers(0, 8_000), st.integers(0, 2_000), st.sampled_from([0.0, 0.05, 0.1, 10.0]))
def test_ranges_hold_every_record_once_within_the_overhead(rows: list[Wanted], gap: int, tail: int, overhead: float) -> None:
    found = list(ranges(rows, gap=gap, tail=tail, overhead=overhead))
    assert [row for part in found for row in part.records] == rows
    for part in found:
        assert part.start == part.records[0].offset and part.records[-1].stop <= part.stop
        assert {row.file for row in part.records} == {part.file}
        assert all(after.offset - before.stop <= gap for before, after in zip(part.records, part.records[1:], strict=False))
    assert excess(found) <= overhead + 1e-9
    if overhead == 10 and all(overhead * row.length >= gap + tail for row in rows):  # each record pays for itself
        assert all(part.stop == part.records[-1].stop + tail for part in found)


def test_the_index_of_a_warc_leads_back_to_its_pages(tmp_path: Path) -> None:
    make_crawl(tmp_path, files=1, captures=24, kilobytes=2)
    path = next(tmp_path.rglob("*.warc.gz"))
    rows = list(index_rows(path))
    assert len(rows) == 22, "pages that answered 404 are not in this part of an index"
    by_offset = {response.offset: response for response in responses(path)}
    with path.open("rb") as file:
        for row in rows:
            file.seek(row["warc_record_offset"])
            (alone,) = responses(_Slice(file.read(row["warc_record_length"])))
            assert alone.url == row["url"] and alone.body == by_offset[row["warc_record_offset"]].body
            assert base64.b32encode(hashlib.sha1(alone.body).digest()).decode() == row["content_digest"]
    assert rows[6]["content_languages"] == "msa,eng" and rows[6]["url_host_registered_domain"] == "host0.example"


class _Slice:
    """Bytes that can be read once, forward."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def read(self, size: int) -> bytes:
        """The next bytes."""
        data, self.data = self.data[:size], self.data[size:]
        return data


def test_the_plan_of_documents_names_the_records_they_came_from(tmp_path: Path) -> None:
    source = str(make_crawl(tmp_path, files=2, kilobytes=2))
    plan = plan_rows([source], tmp_path / "plan.parquet", Selection(languages=("tha", "lao", "zsm", "fil")))
    rows = [row for batch in plan.batches() for row in batch]
    documents = [
        {
            "url": row.url, "file": row.file, "offset": row.offset, "length": row.length, "digest": row.digest,
            "language": row.language, "crawl": row.crawl, "text": "…",
        }
        for row in reversed(rows)
    ]  # fmt: skip
    documents += [documents[0] | {"file": "lines.jsonl", "length": 0}, documents[1] | {"language": "zzz"}]
    pq.write_table(pa.Table.from_pylist(documents), tmp_path / "documents.parquet")
    again = plan_of_records([str(tmp_path / "documents.parquet")], tmp_path / "again.parquet", recipe={"kind": "corpus"})
    assert again.recipe == {"kind": "corpus"} and again.selection == {}
    named = [(row.file, row.offset, row.length, row.url, row.digest, row.language) for b in again.batches() for row in b]
    assert named == [(row.file, row.offset, row.length, row.url, row.digest, row.language) for row in rows]
