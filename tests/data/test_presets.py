"""Presets: every one on a small file of its schema, what a recipe changes in one, and those that cannot be."""

from __future__ import annotations

import bz2
import gzip
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from sea_lion.catalog.errors import CorruptInput, RecipeError
from sea_lion.data.presets import preset_of, presets
from sea_lion.data.readers import Row

from .source_files import ENGLISH, TEXT, digest, fineweb, jsonl, parquet, rows_of


def stack(**changes: Any) -> dict[str, Any]:
    return {
        "blob_id": "ab12", "directory_id": "d", "path": "/a.py", "content_id": "c", "detected_licenses": ["MIT", "Apache-2.0"],
        "license_type": "permissive", "repo_name": "x/y", "src_encoding": "UTF-8", "language": "Python", "is_generated": False,
        "content": "print('hello')\n",
    } | changes  # fmt: skip


def test_fineweb(tmp_path: Path) -> None:
    (row,) = rows_of("fineweb", parquet(tmp_path / "a.parquet", [fineweb()]))
    assert row == Row(
        id="<urn:uuid:1>", text=ENGLISH, url="https://example.com/a", language="eng", crawl="CC-MAIN-2024-18",
        date="2024-04-12T10:00:00Z", file="a.parquet", position=1, licence="ODC-By-1.0",
    )  # fmt: skip


def test_fineweb_edu_may_lack_the_date(tmp_path: Path) -> None:
    given = fineweb(score=3.4, int_score=3)
    del given["date"]
    (row,) = rows_of("fineweb-edu", parquet(tmp_path / "a.parquet", [given]))
    assert (row.language, row.date, row.fault) == ("eng", "", "")


def test_fineweb_2(tmp_path: Path) -> None:
    given = [
        fineweb(id=code, language=code, language_script="Thai", minhash_cluster_size=3, wordlist_ratio=0.1, top_langs="{}")
        for code in ("tha", "zsm", "cmn", "jav")
    ]
    assert [row.language for row in rows_of("fineweb-2", parquet(tmp_path / "a.parquet", given))] == [
        "tha",
        "zsm",
        "cmn",
        "jav",
    ]


def test_the_stack_v2_takes_permissive_files_with_their_licences(tmp_path: Path) -> None:
    given = [stack(), stack(blob_id="cd", license_type="no_license", detected_licenses=[])]
    good, other = rows_of("the-stack-v2", parquet(tmp_path / "a.parquet", given))
    assert (good.id, good.language, good.licence, good.fault) == ("ab12", "code", "Apache-2.0 AND MIT", "")
    assert (other.fault, other.text, other.licence) == ("other_license_type", "", "LicenseRef-The-Stack-v2-Terms")


def test_the_stack_v2_without_contents_says_what_to_do(tmp_path: Path) -> None:
    given = stack()
    del given["content"]
    with pytest.raises(
        CorruptInput, match=r"has no column 'content' for the text; .*fetch the contents from Software Heritage"
    ):
        rows_of("the-stack-v2", parquet(tmp_path / "a.parquet", [given]))


def test_a_licence_filter_whose_column_is_missing_is_refused(tmp_path: Path) -> None:
    given = stack()
    del given["license_type"]
    with pytest.raises(CorruptInput, match="has no column 'license_type'"):
        rows_of("the-stack-v2", parquet(tmp_path / "a.parquet", [given]))


def test_dolma(tmp_path: Path) -> None:
    given = [
        {
            "id": "d1",
            "text": ENGLISH,
            "source": "common-crawl",
            "added": "x",
            "created": "2020",
            "metadata": {"url": "https://a"},
        },
        {"id": "d2", "text": ENGLISH, "source": "pes2o", "metadata": {"year": 2020}},
    ]
    first, second = rows_of("dolma", jsonl(tmp_path / "a.jsonl.gz", given))
    assert (first.id, first.url, first.date, first.language) == ("d1", "https://a", "2020", "eng")
    assert (second.id, second.url, second.position, second.licence) == ("d2", "", 2, "ODC-By-1.0")


@pytest.mark.parametrize(("code", "language"), [("th", "tha"), ("ms", "zsm"), ("tl", "fil"), ("zh", "cmn")])
def test_sea_lion_pile_v1_has_its_language_in_the_file_name(tmp_path: Path, code: str, language: str) -> None:
    (row,) = rows_of("sea-lion-pile-v1", jsonl(tmp_path / f"mc4-{code}-00000-00004.jsonl.gz", [{"text": TEXT}]))
    assert (row.language, row.id, row.licence) == (language, digest(TEXT), "NOASSERTION")


def test_sea_lion_pile_v2(tmp_path: Path) -> None:
    (row,) = rows_of("sea-lion-pile-v2", parquet(tmp_path / "a.parquet", [{"text": TEXT}]))
    assert (row.text, row.language, row.id) == (TEXT, "", digest(TEXT))


def test_culturax(tmp_path: Path) -> None:
    given = {"text": TEXT, "timestamp": datetime(2021, 5, 6, 7), "url": "https://a", "source": "mC4"}
    (row,) = rows_of("culturax", parquet(tmp_path / "th_part_00000.parquet", [given]))
    assert (row.language, row.url, row.date) == ("tha", "https://a", "2021-05-06T07:00:00")


def test_mc4(tmp_path: Path) -> None:
    given = [{"url": "https://a", "text": TEXT, "timestamp": "2019-04-25T12:57:54Z"}]
    assert [row.language for row in rows_of("mc4", jsonl(tmp_path / "c4-th.tfrecord-00000-of-01024.json.gz", given))] == ["tha"]
    assert [row.language for row in rows_of("mc4", jsonl(tmp_path / "c4-zh-Latn.tfrecord.json.gz", given))] == ["zh-latn"]


def test_wikipedia_of_the_hub(tmp_path: Path) -> None:
    given = [{"id": "7", "url": "https://ms.wikipedia.org/wiki/Pasar", "title": "Pasar", "text": "Pasar ialah tempat."}]
    given += [{"id": "8", "url": "https://simple.wikipedia.org/wiki/Market", "title": "Market", "text": ENGLISH}]
    first, second = rows_of("wikipedia", parquet(tmp_path / "a.parquet", given))
    assert (first.text, first.language) == ("Pasar\nPasar ialah tempat.", "zsm")
    assert second.language == "eng"


DUMP = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11" xml:lang="th"><siteinfo>
<sitename>W</sitename><dbname>{wiki}</dbname><base>https://th.wikipedia.org/wiki/Main</base><generator>M</generator>
<case>first-letter</case><namespaces><namespace key="0" case="first-letter" />
<namespace key="6" case="first-letter">ไฟล์</namespace>
<namespace key="14" case="first-letter">หมวดหมู่</namespace></namespaces></siteinfo>{pages}</mediawiki>"""
PAGE = """<page><title>{title}</title><ns>{ns}</ns><id>{id}</id>{redirect}<revision><id>9</id><parentid>8</parentid>
<timestamp>2024-01-02T03:04:05Z</timestamp><contributor><username>u</username></contributor><minor /><comment>c</comment>
<origin>9</origin><model>wikitext</model><format>text/x-wiki</format>
<text bytes="1" sha1="a" xml:space="preserve">{text}</text><sha1>a</sha1></revision></page>"""


def dump(path: Path, *pages: dict[str, Any], wiki: str = "thwiki") -> Path:
    plain = {"title": "ตลาด", "ns": 0, "id": 12, "redirect": "", "text": TEXT}
    xml = DUMP.format(wiki=wiki, pages="".join(PAGE.format(**(plain | page)) for page in pages)).encode()
    streams = (bz2.compress(xml[at : at + 200_000]) for at in range(0, len(xml), 200_000))
    path.write_bytes(b"".join(streams))  # as in multistream dumps
    return path


def test_wikipedia_dump(tmp_path: Path) -> None:
    text = (
        "{{กล่องข้อมูล|ชื่อ=ก}}'''ตลาด''' ({{lang-en|market}}) คือ[[สถานที่|ที่]]ขายของ"
        "&lt;ref&gt;อ้าง&lt;/ref&gt; [[ไฟล์:a.jpg|thumb|ภาพ]]\n"
        "== ประวัติ ==\n* หนึ่ง\n{| class=x\n| ก || ข\n|}\n== อ้างอิง ==\n{{รายการอ้างอิง}}\n[[หมวดหมู่:ตลาด]]"
    )
    pages: list[dict[str, Any]] = [{"text": text}, {"redirect": '<redirect title="x" />'}, {"ns": 10}, {"text": ""}]
    rows = rows_of("wikipedia-dump", dump(tmp_path / "th.xml.bz2", *pages))
    assert [row.fault for row in rows] == ["", "redirect", "not_an_article", "no_text"]
    assert rows[0].text == "ตลาด\nตลาด คือที่ขายของ\nประวัติ\nหนึ่ง"
    assert (rows[0].id, rows[0].url, rows[0].language) == ("12", "https://th.wikipedia.org/wiki/ตลาด", "tha")
    assert (rows[0].date, rows[0].licence, rows[3].position) == ("2024-01-02T03:04:05Z", "CC-BY-SA-4.0", 4)


def test_chinese_wikitext_in_mainland_forms(tmp_path: Path) -> None:
    text = "用-{zh-hans:计算机;zh-hant:電腦}-写-{字}-。-{H|zh-cn:甲;zh-tw:乙}-"
    (row,) = rows_of("wikipedia-dump", dump(tmp_path / "zh.xml.bz2", {"text": text}, wiki="zhwiki"))
    assert (row.text, row.language) == ("ตลาด\n用计算机写字。", "cmn")


@pytest.mark.parametrize("xml", [b"<html><body/></html>", b"hello", b"<mediawiki><siteinfo></siteinfo><pa"])
def test_what_is_no_dump_is_one_clear_line(tmp_path: Path, xml: bytes) -> None:
    (tmp_path / "a.xml.bz2").write_bytes(bz2.compress(xml))
    with pytest.raises(CorruptInput, match=r"a\.xml\.bz2: cannot be read as a Wikipedia dump: ") as raised:
        rows_of("wikipedia-dump", tmp_path / "a.xml.bz2")
    assert "\n" not in str(raised.value)


def test_a_dump_that_is_cut_short_names_the_last_page(tmp_path: Path) -> None:
    path = dump(tmp_path / "a.xml.bz2", *({"id": n, "text": f"{n} {TEXT * 900}"} for n in range(20)))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CorruptInput, match=r"after page \d+: cannot be read as a Wikipedia dump: Truncated"):
        rows_of("wikipedia-dump", path)


def wet(path: Path, *records: tuple[str, str, str]) -> Path:
    members = []
    for number, (url, languages, text) in enumerate(records):
        block = text.encode()
        head = (
            f"WARC/1.0\r\nWARC-Type: conversion\r\nWARC-Target-URI: {url}\r\nWARC-Date: 2024-04-12T10:00:00Z\r\n"
            f"WARC-Record-ID: <urn:uuid:{number}>\r\nWARC-Identified-Content-Language: {languages}\r\n"
            f"Content-Type: text/plain\r\nContent-Length: {len(block)}\r\n\r\n"
        )
        members.append(gzip.compress(head.encode() + block + b"\r\n\r\n"))
    path.write_bytes(b"".join(members))
    return path


def test_wet(tmp_path: Path) -> None:
    path = wet(
        tmp_path / "a.warc.wet.gz", ("https://a", "tha,eng", TEXT), ("https://b", "", ENGLISH), ("https://c", "eng", " ")
    )
    first, second, third = rows_of("wet", path)
    assert (first.text, first.url, first.language, first.position) == (TEXT, "https://a", "tha", 0)
    assert (second.language, second.date, second.id) == ("", "2024-04-12T10:00:00Z", "urn:uuid:1")
    assert second.position > 0 and third.fault == "empty"
    path.write_bytes(b"plain text")
    with pytest.raises(CorruptInput, match="is not a gzipped WARC file"):
        rows_of("wet", path)


def test_a_recipe_changes_columns_and_trust(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"body": TEXT, "about": {"lang": "th-TH", "by": "CC-BY-4.0"}, "head": "ตลาด"}])
    columns = {"text": "body", "title": "head", "language": "about.lang", "licence": "about.by"}
    changes: dict[str, Any] = {"columns": columns, "language_pattern": "^([a-z]+)", "trust": "believed"}
    (row,) = rows_of(preset_of("jsonl", changes), path)
    assert (row.text, row.language, row.licence) == (f"ตลาด\n{TEXT}", "tha", "CC-BY-4.0")
    (row,) = rows_of(preset_of("jsonl", changes | {"trust": "ignored"}), path)
    assert row.language == ""
    (row,) = rows_of(preset_of("jsonl", changes | {"language": "lao"}), path)
    assert row.language == "lao"
    (row,) = rows_of(preset_of("jsonl", changes | {"language_map": {"th": "xx"}}), path)
    assert row.language == "xx"


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("fineweb-ed", {}, "r.toml: source.0.preset: 'fineweb-ed' is not a preset; did you mean 'fineweb-edu'?"),
        ("jsonl", {"columns": {"txt": "a"}}, "columns.txt: unknown key; did you mean 'text'?"),
        ("jsonl", {"columns": {"text": ""}}, "columns.text must name a column"),
        ("jsonl", {"language_pattern": "("}, "language_pattern is not a regular expression"),
        ("jsonl", {"language_pattern": "abc"}, "language_pattern needs a group around the code"),
        ("jsonl", {"form": "hub"}, "form 'hub' needs a name in hub"),
        ("jsonl", {"trust": "perhaps"}, "trust: Input should be 'believed', 'verified' or 'ignored'"),
    ],
)
def test_a_preset_that_cannot_be(name: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError) as raised:
        preset_of(name, changes, "r.toml", "source.0.preset")
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_every_preset_states_its_licence_and_where_its_schema_was_read() -> None:
    assert len(presets()) == 14
    for name, preset in presets().items():
        assert preset.about.endswith(".") and preset.checked, name
        assert name in ("parquet", "jsonl") or (preset.licence and preset.caveat.endswith(".")), name
