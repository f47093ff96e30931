"""Readers of other sources: every form and compression, bad rows with a reason, bad files as one clear line."""

from __future__ import annotations

import bz2
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from sea_lion.catalog.errors import CorruptInput, SeaLionError
from sea_lion.data import readers
from sea_lion.data.presets import preset_of
from sea_lion.data.readers import SeenIds, check, read_rows

from .source_files import TEXT, digest, fineweb, jsonl, parquet, rows_of


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst", ".bz2"])
def test_jsonl_compressed_in_every_way(tmp_path: Path, suffix: str) -> None:
    path = jsonl(tmp_path / f"a.jsonl{suffix}", [{"text": f"{n} {TEXT}", "id": f"n{n}"} for n in range(3_000)])
    rows = rows_of("jsonl", path)
    assert [(row.id, row.position) for row in rows] == [(f"n{n}", n + 1) for n in range(3_000)]
    if suffix:
        path.rename(tmp_path / "misnamed.jsonl")
        assert len(rows_of("jsonl", tmp_path / "misnamed.jsonl")) == 3_000
        data = (tmp_path / "misnamed.jsonl").read_bytes()
        path.write_bytes(data[: len(data) - len(data) // 4])
        with pytest.raises(CorruptInput, match=r"line \d+ or later: cannot be read: "):
            rows_of("jsonl", path)


def test_several_members_are_one_file(tmp_path: Path) -> None:
    line = json.dumps({"text": TEXT}).encode() + b"\n"
    for suffix, pack in (("gz", gzip.compress), ("zst", zstandard.compress), ("bz2", bz2.compress)):
        (tmp_path / f"a.{suffix}").write_bytes(pack(line) + pack(line) + pack(line[:-1]))
        assert len(rows_of("jsonl", tmp_path / f"a.{suffix}")) == 3


def test_bad_rows_of_jsonl_come_with_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "MAX_TEXT_BYTES", 4_000)
    lines = [
        b'\xef\xbb\xbf{"text": "good"}', b"", b'{"text": null}', b'{"other": 1}', b'{"text": 7}', b'{"text": "  "}',
        b'{"text": "\\ud800 half"}', b'{"text": "\xff"}', b"{broken", b"[1]", b'{"text": "' + b"x" * 9_000 + b'"}',
        b"[" * 100_000 + b"1", b'{"text": "last"}',
    ]  # fmt: skip
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    rows = rows_of("jsonl", tmp_path / "a.jsonl")
    assert [row.fault for row in rows] == [
        "", "no_text", "no_text", "text_is_no_string", "empty", "lone_surrogates", "not_utf8", "not_json", "not_an_object",
        "too_large", "too_large", "",
    ]  # fmt: skip
    assert [row.position for row in rows] == [1, *range(3, 14)]
    assert rows[0].text == "good" and rows[-1].text == "last" and not any(row.text for row in rows if row.fault)
    assert len({row.id for row in rows}) == len(rows)


def test_a_line_too_deep_for_the_parser_is_a_fault(tmp_path: Path) -> None:
    deep = '{"text": ' + "[" * 200_000 + "]" * 200_000 + "}"
    (tmp_path / "a.jsonl").write_text('{"text": "good"}\n' + deep + '\n{"text": "last"}')
    assert [row.fault for row in rows_of("jsonl", tmp_path / "a.jsonl")] == ["", "not_json", ""]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[\n{}\n]", "line 1: begins an array"),
        (b"id,text\n1,a\n", "line 1: is no JSON object, so this is no JSON Lines file: 'id,text"),
        (b"\n \n", "holds no documents"),
        (b'{"body": "a"}\n', "row 1: has no column 'text' for the text; it has body"),
        (b"PAR1....PAR1", "line 1: is no JSON object"),
    ],
)
def test_what_is_no_jsonl_is_one_clear_line(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(CorruptInput) as raised:
        rows_of("jsonl", tmp_path / "a.jsonl")
    assert message in str(raised.value) and str(raised.value).startswith(str(tmp_path / "a.jsonl"))
    with pytest.raises(CorruptInput):
        check(preset_of("jsonl"), tmp_path / "a.jsonl")


def test_bad_rows_of_parquet_come_with_a_reason(tmp_path: Path) -> None:
    texts = pa.array([b"good", None, b"\xff\xfe", b" ", b"last"], pa.binary()).cast(pa.string(), safe=False)
    table = pa.table({"text": texts, "id": pa.array([1, 2, 3, 1, 1])})
    pq.write_table(table, tmp_path / "a.parquet")
    rows = rows_of("parquet", tmp_path / "a.parquet")
    assert [row.fault for row in rows] == ["", "no_text", "not_utf8", "empty", ""]
    assert [rows[0].id, rows[1].id, rows[4].id] == ["1", "2", digest("last")]


@pytest.mark.parametrize("kind", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string()), pa.binary()])
def test_every_arrow_type_of_text(tmp_path: Path, kind: Any) -> None:
    pq.write_table(pa.table({"text": pa.array([TEXT, TEXT]).cast(kind)}), tmp_path / "a.parquet")
    assert [row.text for row in rows_of("parquet", tmp_path / "a.parquet")] == [TEXT, TEXT]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"text": 5}], "the column 'text' is int64, not text"),
        ([{"body": "a", "n": 1}], "has no column 'text' for the text; it has body, n"),
    ],
)
def test_parquet_without_text_is_refused(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(CorruptInput) as raised:
        check(preset_of("parquet"), parquet(tmp_path / "a.parquet", rows))
    assert message in str(raised.value)


def test_a_damaged_parquet_file_is_one_clear_line(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", [{"text": f"{n} {TEXT}"} for n in range(4_000)], row_group_size=500)
    data = bytearray(path.read_bytes())
    path.write_bytes(data[:-20])
    with pytest.raises(CorruptInput, match="cannot be read as Parquet"):
        check(preset_of("parquet"), path)
    middle = len(data) // 2
    data[middle : middle + 4_000] = bytes(4_000)
    path.write_bytes(data)
    with pytest.raises(CorruptInput, match=r"row \d+ or later: cannot be read as Parquet") as raised:
        rows_of("parquet", path)
    assert "\n" not in str(raised.value)


def test_an_empty_parquet_file_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "a.parquet")
    with pytest.raises(CorruptInput, match="holds no documents"):
        rows_of("parquet", tmp_path / "a.parquet")


def test_one_huge_row_group_is_read_in_pieces(tmp_path: Path) -> None:
    """37 MB of text in a single row group, less than half of it in memory at any time."""
    texts = [f"{n} {TEXT * 40}" for n in range(7_000)]
    path = parquet(tmp_path / "a.parquet", [{"text": text} for text in texts], row_group_size=10_000, compression="none")
    del texts
    before, most, count = pa.total_allocated_bytes(), 0, 0
    for count, _ in enumerate(read_rows(preset_of("parquet"), path), 1):  # noqa: B007
        most = max(most, pa.total_allocated_bytes() - before)
    assert count == 7_000 and path.stat().st_size > 30e6
    assert most < 18e6


def test_ids_are_the_source_s_unless_they_repeat_or_cannot_be(tmp_path: Path) -> None:
    ids = ["a", "a", "", None, "b\n", "x" * 600, 5, True, "b"]
    rows = rows_of("jsonl", jsonl(tmp_path / "a.jsonl", [{"id": id, "text": f"text {n}"} for n, id in enumerate(ids)]))
    kept = {0: "a", 6: "5", 8: "b"}
    assert [row.id for row in rows] == [kept.get(n, digest(f"text {n}")) for n in range(len(ids))]


def test_seen_ids_forget_none() -> None:
    seen = SeenIds()
    assert sum(seen.add(str(n)) for n in range(50_000)) > 49_990
    assert not any(seen.add(str(n)) for n in range(50_000))


def test_a_hub_data_set_from_a_local_folder(tmp_path: Path) -> None:
    parquet(tmp_path / "fineweb/data/train-00000-of-00002.parquet", [fineweb()])
    parquet(tmp_path / "fineweb/data/train-00001-of-00002.parquet", [fineweb(id="2", text=None), fineweb(id="3")])
    preset = preset_of("fineweb", {"form": "hub"})
    rows = rows_of(preset, tmp_path / "fineweb")
    assert [(row.id, row.language, row.position, row.fault) for row in rows] == [
        ("<urn:uuid:1>", "eng", 1, ""), ("2", "eng", 2, "no_text"), ("3", "eng", 3, ""),
    ]  # fmt: skip
    assert {row.file for row in rows} == {"fineweb"}


def test_a_hub_data_set_of_json_lines_with_a_misnamed_column(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    jsonl(tmp_path / "set/train.jsonl.gz", [{"text": TEXT, "id": "1"}])
    preset = preset_of("jsonl", {"form": "hub", "hub": "someone/set"})
    assert [row.text for row in rows_of(preset, tmp_path / "set")] == [TEXT]
    wrong = preset_of("jsonl", {"form": "hub", "hub": "someone/set", "columns": {"text": "body"}})
    with pytest.raises(CorruptInput, match="has no column 'body' for the text; it has text, id"):
        rows_of(wrong, tmp_path / "set")
    with pytest.raises(CorruptInput, match="cannot be read through datasets"):
        rows_of(preset, tmp_path / "nothing-here")


def test_a_hub_out_of_reach_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(SeaLionError) as raised:
        rows_of(preset_of("fineweb", {"form": "hub"}), "")
    assert str(raised.value).startswith("HuggingFaceFW/fineweb: the hub cannot be reached; give a local folder")
