"""The corpus of the sample crawl, and builds that must fail or agree."""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from importlib.resources import files
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sea_lion.catalog.errors import CorruptInput, RecipeError, SeaLionError
from sea_lion.catalog.languages import LANGUAGES
from sea_lion.data import shards
from sea_lion.data.ledger import STAGES, imbalances
from sea_lion.data.recipe import Deduplication, Source
from sea_lion.data.shards import domain_of

SAMPLE = files("sea_lion").joinpath("data/sample")
EXPECTED = json.loads(SAMPLE.joinpath("crawl/expected.json").read_text("utf-8"))

REASONS = {
    "not_found": {("read", "status_404")},
    "redirect": {("read", "redirect")},
    "image": {("read", "not_html")},
    "pdf": {("read", "not_html")},
    "other_language": {("gate", f"claimed_{code}") for code in ("fra", "deu", "swa", "spa", "jpn", "rus", "por", "kor")},
    "metadata_names_french": {("gate", "claimed_fra")},
    "listing": {
        ("extract", "no_article"),
        *(("quality", rule) for rule in ("too_short", "unpunctuated_lines", "many_new_lines")),
    },
    "metadata_names_thai": {("identify", "detected_fra")},
    "too_short": {("quality", "too_short"), ("extract", "no_article")},
    "spam": {("quality", "repeated_ngrams"), ("quality", "keyword_spam"), ("identify", "low_language_score")},
    "exact_duplicate": {("exact", "exact_duplicate")},
    "near_duplicate": {("near", "near_duplicate")},
}
"""Case of the crawl to the places in the ledger where it may end; all other cases are kept."""


def flow(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(folder / "flow.parquet").to_pylist()
    return rows


def documents(folder: Path, source: str = "*", split: str = "*") -> list[dict[str, Any]]:
    paths = sorted(folder.glob(f"shards/*/source={source}/{split}-*.parquet"))
    return [row for path in paths for row in pq.read_table(path).to_pylist()]


def removed(folder: Path) -> Counter[tuple[str, str]]:
    counts: Counter[tuple[str, str]] = Counter()
    for row in flow(folder):
        if row["outcome"] == "removed" and row["source"] == "web":
            counts[row["stage"], row["reason"]] += row["documents"]
    return counts


def test_the_ledger_balances(sample_corpus: Any) -> None:
    artifact, folder = sample_corpus
    rows = flow(folder)
    assert imbalances(rows) == [] and {row["stage"] for row in rows} == set(STAGES)
    entered = sum(row["documents"] for row in rows if row["stage"] == "read" and row["outcome"] == "in")
    gone = sum(row["documents"] for row in rows if row["outcome"] == "removed")
    assert entered == artifact.body.documents_in and entered - gone == artifact.body.documents_out == len(documents(folder))
    web = sum(row["documents"] for row in rows if (row["stage"], row["outcome"], row["source"]) == ("read", "in", "web"))
    assert web == EXPECTED["responses"]


def test_a_lost_document_shows(sample_corpus: Any) -> None:
    rows = flow(sample_corpus[1])
    for i in range(len(rows)):
        assert imbalances(rows[:i] + rows[i + 1 :]), rows[i]


def test_every_special_case_ends_where_it_should(sample_corpus: Any) -> None:
    _, folder = sample_corpus
    kept = {row["url"] for row in documents(folder, "web")}
    left = removed(folder)
    for case, languages in EXPECTED["cases"].items():
        places = REASONS.get(case, set())
        if case != "article":
            assert not places or sum(left[place] for place in places) >= sum(languages.values()), case
    for capture in EXPECTED["captures"]:
        if "original" in capture:  # one of the two stays, and it may be either
            assert len({capture["url"], capture["original"]} & kept) <= 1, capture
        elif capture["case"] != "article":
            assert (capture["url"] in kept) == (capture["case"] not in REASONS), capture
    assert set(left) <= {place for places in REASONS.values() for place in places}
    total = sum(sum(languages.values()) for case, languages in EXPECTED["cases"].items() if case in REASONS)
    assert sum(left.values()) == total


def test_kept_documents_per_language(sample_corpus: Any) -> None:
    _, folder = sample_corpus
    kept = Counter(row["language"] for row in documents(folder, "web"))
    articles = Counter(EXPECTED["cases"]["article"])
    for case in ("bad_byte", "gb18030", "tis620", "no_metadata", "truncated"):
        articles.update(EXPECTED["cases"][case])
    assert kept == articles and set(kept) == set(LANGUAGES) and min(kept.values()) >= 12
    heldout = Counter(row["language"] for row in documents(folder, "web", "heldout"))
    assert set(heldout.values()) == {4} and {row["split"] for row in documents(folder, "[tc]*")} == {"train"}


def test_malay_hosts_hold_malay(sample_corpus: Any) -> None:
    by_host = {row["domain"]: row["language"] for row in documents(sample_corpus[1], "web")}
    assert by_host["akhbar-kampung.example"] == "zsm" and by_host["pasar-harian.example"] == "ind"


def test_legacy_charsets_and_bad_bytes_come_out_right(sample_corpus: Any) -> None:
    rows = {row["url"]: row for row in documents(sample_corpus[1], "web")}
    for case, charset in (("tis620", "cp874"), ("gb18030", "gb18030"), ("bad_byte", "utf-8")):
        capture = next(capture for capture in EXPECTED["captures"] if capture["case"] == case)
        row = rows[capture["url"]]
        lines = SAMPLE.joinpath(f"articles/{capture['language']}.jsonl").read_text("utf-8").splitlines()
        paragraphs = ["".join(json.loads(line)["paragraphs"][:1]) for line in lines]
        assert row["charset"] == charset and any(text[-30:] in row["text"] for text in paragraphs), case


def test_personal_data_is_masked(sample_corpus: Any) -> None:
    rows = documents(sample_corpus[1], "web")
    for row in rows:
        assert not re.search(r"[a-z]@[a-z]|\d[\d .-]{7,}\d", row["text"]), row["text"]
        assert row["text"].count("[EMAIL]") == row["masked_emails"] and row["text"].count("[PHONE]") == row["masked_phones"]
    masked = Counter(row["language"] for row in rows if row["masked_emails"] or row["masked_phones"])
    assert masked == Counter(EXPECTED["personal_data"])


def test_no_boilerplate_is_left(sample_corpus: Any) -> None:
    for row in documents(sample_corpus[1], "web"):
        chrome = json.loads(SAMPLE.joinpath(f"chrome/{row['language']}.json").read_text("utf-8"))
        for part in (chrome["footer"], chrome["cookie"], chrome["newsletter"], *chrome["comments"], *chrome["related_links"]):
            assert part not in row["text"], (row["url"], part)


def test_records_agree_with_the_shards(sample_corpus: Any) -> None:
    artifact, folder = sample_corpus
    index = [row for path in folder.glob("documents/*/*/*.parquet") for row in pq.read_table(path).to_pylist()]
    assert len(index) == len({(row["source"], row["id"]) for row in index}) == artifact.body.documents_out
    for shard in artifact.body.shards:
        rows = pq.read_table(folder / shard.path).to_pylist()
        assert [row["id"] for row in rows] == sorted(row["id"] for row in rows) and len(rows) == shard.documents
        assert sum(len(row["text"].encode()) for row in rows) == shard.bytes == sum(row["bytes"] for row in rows)
        assert {(row["language"], row["source"], row["split"]) for row in rows} == {(shard.language, shard.source, shard.split)}
    tables = {f"{name}.parquet" for name in ("failures", "flow", "origins", "removals", "shard_counts")}
    assert {path.name for path in folder.iterdir()} == {"artifact.json", "documents", "document_ids", "shards", *tables}


def test_documents_are_listed_by_domain_and_by_id(sample_corpus: Any) -> None:
    artifact, folder = sample_corpus
    shards = {shard.path: pq.ParquetFile(folder / shard.path).read().to_pylist() for shard in artifact.body.shards}
    by_domain, by_id = (
        [(path.relative_to(folder / name).parent.as_posix(), pq.ParquetFile(path).read().to_pylist())
         for path in sorted(folder.glob(f"{name}/*/*/*.parquet"))]
        for name in ("documents", "document_ids")
    )  # fmt: skip
    assert sum(len(rows) for _, rows in by_domain) == sum(len(rows) for _, rows in by_id) == artifact.body.documents_out
    for tables, order in ((by_domain, ("domain", "url", "id")), (by_id, ("id",))):
        for place, rows in tables:
            keys = [tuple(row[name] for name in order) for row in rows]
            assert keys == sorted(keys)
            for row in rows:
                document = shards[row["shard"]][row["row"]]
                assert place == f"language={row['language']}/source={row['source']}"
                assert {name: document[name] for name in row if name in document} == {
                    name: row[name] for name in row if name in document
                }
    crawled = next(rows for place, rows in by_domain if place == "language=tha/source=web")
    assert len({row["shard"] for row in crawled}) == 2 and all(row["rules"] for row in crawled)


def test_tables_of_documents_are_cut_into_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "TABLE_GROUP", 3)
    monkeypatch.setattr(shards, "TABLE_ROWS", 6)
    rows = pa.table({"id": [f"{i:02}" for i in range(13)]})
    for size in (1, 5, 13):
        shards.write_in_files(tmp_path / f"{size}", rows.schema, iter(rows.to_batches(max_chunksize=size)))
    files = sorted((tmp_path / "13").iterdir())
    assert [(path.name, pq.read_metadata(path).num_rows) for path in files] == [
        ("part-00000.parquet", 6), ("part-00001.parquet", 6), ("part-00002.parquet", 1),
    ]  # fmt: skip
    assert pa.concat_tables(map(pq.read_table, files)).equals(rows)
    assert pq.read_metadata(files[0]).num_row_groups == 2
    for size in (1, 5):
        assert [path.read_bytes() for path in sorted((tmp_path / f"{size}").iterdir())] == [path.read_bytes() for path in files]


def test_counts_by_shard_and_by_file_are_those_of_the_documents(sample_corpus: Any) -> None:
    artifact, folder = sample_corpus
    counts: Counter[Any] = Counter()
    origins: Counter[Any] = Counter()
    for shard in artifact.body.shards:
        for row in pq.ParquetFile(folder / shard.path).read().to_pylist():
            here = (shard.path, row["language"], row["source"], row["split"], row["crawl"])
            counts.update({(here, "documents"): 1, (here, "characters"): row["characters"], (here, "bytes"): row["bytes"]})
            origin = (row["source"], row["crawl"], row["file"])
            origins.update({(origin, "documents"): 1, (origin, "bytes"): row["bytes"]})
    for name, expected in (("shard_counts", counts), ("origins", origins)):
        rows = pq.read_table(folder / f"{name}.parquet").to_pylist()
        keys = len(rows[0]) - len({measure for _, measure in expected})
        found = {(tuple(list(row.values())[:keys]), measure): row[measure] for row in rows for measure in list(row)[keys:]}
        assert found == expected
        assert [list(row.values())[:keys] for row in rows] == sorted(list(row.values())[:keys] for row in rows)
    assert {key[2] for key, _ in origins if key[0] == "web"} == {path.name for path in Path(str(SAMPLE)).glob("crawl/*.gz")}


def test_the_limits_of_the_rules_are_kept_with_the_documents(sample_corpus: Any) -> None:
    for language in ("tha", "eng"):
        path = sample_corpus[1] / f"documents/language={language}/source=web/part-00000.parquet"
        limits = json.loads(pq.read_schema(path).metadata[shards.LIMITS])
        rows = pq.ParquetFile(path).read().to_pylist()
        assert {limit["bound"] for limit in limits} == {"min", "max"}
        for row in rows:
            measured = dict(row["rules"])
            for limit in limits:
                value = measured[limit["measure"]]
                assert value >= limit["limit"] - 1e-6 if limit["bound"] == "min" else value <= limit["limit"] + 1e-6
    named = {(limit["reason"], limit["measure"]) for limit in limits}
    assert {("too_short", "characters"), ("repeated_ngrams", "repeated_5grams")} <= named


def test_removals_say_their_domain(sample_corpus: Any) -> None:
    rows = pq.read_table(sample_corpus[1] / "removals.parquet").to_pylist()
    assert {row["stage"] for row in rows if row["domain"]} >= {"identify", "quality", "exact", "near"}
    assert all(row["domain"] == domain_of(row["url"]) for row in rows)


def test_code_is_kept_as_it_is(sample_corpus: Any) -> None:
    rows = {row["id"]: row["text"] for row in documents(sample_corpus[1], "code")}
    assert rows["languages.py"] == files("sea_lion").joinpath("catalog/languages.py").read_text("utf-8")


def test_two_workers_give_the_same_bytes(sample_corpus: Any, build: Any, tmp_path: Path) -> None:
    again, _ = build(tmp_path, workers=2)
    assert again.files == sample_corpus[0].files


def test_ids_and_texts_do_not_depend_on_the_files(sample_corpus: Any, build: Any, tmp_path: Path, warc: Any) -> None:
    """All three files' members in one file give the same documents."""
    crawl = sorted(Path(str(SAMPLE)).glob("crawl/*.warc.gz"))
    warc.path.write_bytes(b"".join(path.read_bytes() for path in crawl))
    source = (Source(name="web", form="warc", files=(str(warc.path),), crawl="CC-MAIN-2024-18"),)
    _, folder = build(tmp_path / "store", source=source)
    assert {(row["id"], row["text"]) for row in documents(folder, "web") if row["language"] != "eng"} == {
        (row["id"], row["text"]) for row in documents(sample_corpus[1], "web") if row["language"] != "eng"
    }


def test_switches_off(build: Any, tmp_path: Path) -> None:
    source = (Source(name="text", form="jsonl", files=(str(tmp_path / "a.jsonl"),), language="eng"),)
    text = "Call 081-234-5678 or write to siti@kedai.example. " + "Some words that make it long enough to be kept. " * 7
    rows = [{"id": f"{i}", "title": "A title", "text": text} for i in range(3)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    off = Deduplication(exact=False, near=False)
    _, folder = build(tmp_path / "off", source=source, deduplication=off, mask_personal_data=False)
    assert [row["id"] for row in documents(folder)] == ["0", "1", "2"] and "siti@" in documents(folder)[0]["text"]
    _, folder = build(tmp_path / "on", source=source)
    assert [row["id"] for row in documents(folder)] == ["0"] and "[EMAIL]" in documents(folder)[0]["text"]
    _, folder = build(tmp_path / "near", source=source, deduplication=Deduplication(exact=False))
    assert len(documents(folder)) == 1 and imbalances(flow(folder)) == []


def test_texts_too_short_for_a_shingle_pass(build: Any, tmp_path: Path) -> None:
    (tmp_path / "t.toml").write_text("[eng]\nmin_characters = 1\nmax_characters = 99\n", "utf-8")
    (tmp_path / "a.jsonl").write_text('{"id": "a", "text": "one"}\n{"id": "b", "text": "two\\ud800"}\n', "utf-8")
    source = (Source(name="text", form="jsonl", files=(str(tmp_path / "a.jsonl"),), language="eng"),)
    _, folder = build(tmp_path / "s", source=source, languages=("eng",), thresholds=(str(tmp_path / "t.toml"),))
    assert [row["text"] for row in documents(folder)] == ["one", "two"]


def cut(crawl: bytes) -> bytes:
    return crawl[:-20]


BAD_CRAWLS = {
    "cut": (cut, "cut short"),
    "no records": (lambda crawl: gzip.compress(b""), "holds no WARC record"),
    "no crawl": (lambda crawl: b"PAR1" + crawl, "is not a gzipped WARC file"),
    "empty": (lambda crawl: b"", "is empty"),
}


@pytest.mark.parametrize("case", BAD_CRAWLS)
def test_bad_crawls_leave_nothing(build: Any, tmp_path: Path, case: str) -> None:
    change, problem = BAD_CRAWLS[case]
    path = tmp_path / "crawl.warc.gz"
    path.write_bytes(change(sorted(Path(str(SAMPLE)).glob("crawl/*.warc.gz"))[0].read_bytes()))
    source = (Source(name="web", form="warc", files=(str(path),)),)
    with pytest.raises(CorruptInput, match=problem) as caught:
        build(tmp_path / "store", source=source)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert [path for path in (tmp_path / "store").rglob("*") if path.is_file() and path.suffix != ".lock"] == []


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b'{"id": "a", "text": "x"}\n{"id": "b", "te', "line 2: is not JSON"),
        (b'{"id": "a", "text": "\xff"}\n', "line 1: is not UTF-8"),
        (b'{"id": 7, "text": "x"}\n', "line 1: must be"),
        (b'{"id": "a", "text": "x"}\n\n{"id": "a", "text": "y"}\n', "line 3: the id 'a' occurs twice"),
        (b'{"id": "a\\ud800", "text": "x"}\n', "line 1: the id"),
        (b"[" * 100_000 + b"\n", "line 1: is not JSON"),
        (b"\n \n", "holds no documents"),
    ],
)
def test_bad_lines_are_named(build: Any, tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    with pytest.raises(CorruptInput, match=problem):
        build(tmp_path / "store", source=(Source(name="text", form="jsonl", files=(str(path),), language="eng"),))


def test_impossible_recipes_are_refused(build: Any, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="languages: 'klingon'"):
        build(tmp_path, languages=("klingon",))
    with pytest.raises(RecipeError, match=r"source.0.language: is required"):
        build(tmp_path, source=(Source(name="text", form="jsonl", files=("package:data/sample/english.jsonl",)),))


def test_nothing_left_is_an_error(build: Any, tmp_path: Path, warc: Any) -> None:
    warc.page("https://a.example/", b"", status="404 Not Found")
    warc.page(
        "https://b.example/", b"<html><body>" + b"<div a " + b"b " * 9_000 + b">", WARC_Identified_Payload_Type="text/html"
    )
    with pytest.raises(SeaLionError, match=r"no document is left.*status_404"):
        build(tmp_path, source=(Source(name="web", form="warc", files=(str(warc.save()),)),))


@pytest.mark.parametrize(
    ("url", "domain"),
    [
        ("https://berita.com.my/a", "berita.com.my"),
        ("https://www.news.go.th:8080/", "news.go.th"),
        ("https://m.kedai.example/", "m.kedai.example"),
        ("http://192.0.2.1/", "192.0.2.1"),
        ("http://[bad", ""),
        ("", ""),
    ],
)
def test_domains(url: str, domain: str) -> None:
    assert domain_of(url) == domain
