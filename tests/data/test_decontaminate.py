"""Documents that hold items of evaluation suites are found, others stay."""

from __future__ import annotations

import json
import pickle
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sea_lion.catalog.errors import CorruptInput
from sea_lion.data.decontaminate import FILES, Item, NgramIndex, items_of, ngrams
from sea_lion.data.sample_crawl import SAMPLE

SEA_HELM = Path(__file__).parents[3] / "shared" / "data" / "sea-helm-v1.0.0" / "seahelm_tasks"

INDONESIAN = (
    "Pasar terapung itu buka sejak subuh, dan para pedagang datang dengan perahu kecil yang penuh sayuran, buah, ikan asin "
    "serta kue basah untuk dijual kepada warga di sepanjang sungai yang lebar dan tenang"
)
THAI = "ตลาดน้ำแห่งนี้เปิดตั้งแต่เช้ามืดและพ่อค้าแม่ค้าพายเรือลำเล็กที่เต็มไปด้วยผักผลไม้ปลาแห้งและขนมมาขายให้แก่ชาวบ้านริมแม่น้ำ"
SHORT = "Mengapa air laut terasa asin tetapi air sungai tidak?"
SHORT_THAI = "ทำไมน้ำทะเลจึงมีรสเค็มแต่แม่น้ำไม่"
NOISE = "Kami berangkat pagi hari. "


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> NgramIndex:
    """A small index."""
    folder = tmp_path_factory.mktemp("index")
    items = [
        Item("floating", "q/1", INDONESIAN, "id"), Item("floating", "q/2", THAI, "tha"), Item("brief", "b/1", SHORT, "ind"),
        Item("brief", "b/2", SHORT_THAI, "tha"), Item("brief", "b/3", "Ya, benar sekali"), Item("brief", "b/4", "ใช่"),
        Item("floating", "q/9", INDONESIAN.upper(), "ind"),
    ]  # fmt: skip
    indexed = NgramIndex.build(items, folder)
    assert (indexed.texts, indexed.too_short) == (4, 2)
    return NgramIndex(folder)


@pytest.mark.parametrize("item", [INDONESIAN, THAI, SHORT, SHORT_THAI])
@pytest.mark.parametrize("around", ["{}", NOISE * 20 + "{} " + NOISE * 20, "ข่าววันนี้ {} จบ", "“{}”"])
def test_a_document_that_holds_an_item_is_found(index: NgramIndex, item: str, around: str) -> None:
    found = index.hits(around.format(item))
    assert found and found.matched == found.ngrams
    suite = "floating" if item in (INDONESIAN, THAI) else "brief"
    assert found.reason == f"contaminated_{suite}" and found.detail.endswith(f"{found.matched}/{found.ngrams}")


@pytest.mark.parametrize("change", [str.upper, lambda text: text.replace(",", " ;"), lambda text: text.replace(" ", "\n  ")])
def test_case_punctuation_and_spaces_do_not_hide_an_item(index: NgramIndex, change: Callable[[str], str]) -> None:
    for text in (INDONESIAN, SHORT):
        assert index.hits(change(text))
    assert index.hits("\u200b".join(THAI)) and index.hits(" ".join(THAI))


def test_the_first_of_equal_texts_is_named_with_its_language(index: NgramIndex) -> None:
    found = index.hits(INDONESIAN)
    assert found and (found.suite, found.item, found.language) == ("floating", "q/1", "ind")


def test_a_third_of_an_item_is_enough_and_a_citation_is_not(index: NgramIndex) -> None:
    words = INDONESIAN.split()
    assert len(words) == 33 and index.hits(" ".join(words[5:24])) is not None  # 7 of 21 n-grams
    assert index.hits(" ".join(words[5:23])) is None
    assert index.hits(" ".join([*words[:12], "dan", *words[12:20], "lalu", *words[20:]])) is None


def test_a_short_item_counts_as_a_whole_only(index: NgramIndex) -> None:
    words = SHORT.split()
    assert len(words) == 9 and index.hits(" ".join(words[1:])) is None
    assert index.hits(SHORT_THAI[:-1]) is None


def test_short_texts_prove_nothing(index: NgramIndex) -> None:
    for text in ("", " ", "Ya, benar sekali", "ใช่", NOISE, "?!", "\ud800", "a" * 10_000, "ก" * 10_000):
        assert index.hits(text) is None


def test_templates_are_left_out(tmp_path: Path) -> None:
    template = " ".join(f"instruksi{number}" for number in range(20))
    words = [f"kata{number}" for number in range(1200)]
    items = [Item("s", str(k), f"{template} {' '.join(words[k * 60 : k * 60 + 40])}") for k in range(20)]
    NgramIndex.build(items, tmp_path)
    index = NgramIndex(tmp_path)
    assert index.hits(template) is None and index.hits(items[7].text)
    NgramIndex.build(items, tmp_path, max_texts=20, min_share=0.1)
    assert NgramIndex(tmp_path).hits(template) is not None


def test_the_same_items_give_the_same_bytes(tmp_path: Path, index: NgramIndex) -> None:
    for name in ("one", "two"):
        NgramIndex.build([Item("s", "1", INDONESIAN), Item("s", "2", THAI)], tmp_path / name)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_an_empty_index_finds_nothing(tmp_path: Path) -> None:
    assert NgramIndex.build([], tmp_path).ngrams == 0
    assert NgramIndex(tmp_path).hits(INDONESIAN) is None


def test_other_processes_open_the_files_themselves(index: NgramIndex) -> None:
    dumped = pickle.dumps(index)
    assert len(dumped) < 1000 and pickle.loads(dumped).hits(THAI) == index.hits(THAI)


def test_a_damaged_index_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorruptInput, match="no n-gram index"):
        NgramIndex(tmp_path)
    NgramIndex.build([Item("s", "1", INDONESIAN)], tmp_path)
    path = tmp_path / FILES["hashes"]
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(CorruptInput, match="no n-gram index"):
        NgramIndex(tmp_path)


@given(st.lists(st.sampled_from(["kata", "ตลาด", "市场", "a", ".", "1", "é", "ពាក្យ", "மொழி", "\u200b"]), max_size=60))
def test_a_part_has_no_other_ngrams_than_the_whole(parts: list[str]) -> None:
    text = " ".join(parts)
    whole = np.concatenate(ngrams("sebelum " + text + " sesudah", every_kind=True))
    assert all(np.isin(hashes, whole).all() for hashes in ngrams(text, every_kind=True))


def test_different_ngrams_have_different_hashes() -> None:
    random_words = random.Random(3)
    text = " ".join(str(random_words.randrange(10**6)) for _ in range(50_000))
    hashes = ngrams(text, every_kind=True)[0]
    assert len(np.unique(hashes)) == len(hashes) == 50_000 - 12
    assert len(np.unique(hashes >> np.uint64(44))) > 45_000, "the high bits, which the filter uses, are spread"


def test_items_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "qa.jsonl"
    rows = [
        {"id": 7, "prompts": [{"text": "satu", "question": "dua"}], "metadata": {"language": "id"}, "label": 3},
        {"prompts": [{"text": "tiga"}, {"text": " "}]},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    items = list(items_of(path, "qa", ["prompts.*.*"], "id", "metadata.language"))
    assert items == [Item("qa", "qa/7", "satu", "id"), Item("qa", "qa/7", "dua", "id"), Item("qa", "qa/2", "tiga", "und")]
    assert [item.language for item in items_of(path, "qa", ["prompts.*.text"], language="ind")] == ["ind", "ind"]
    with pytest.raises(CorruptInput, match=r"no line has a text at label, prompts\.text"):
        list(items_of(path, "qa", ["prompts.*.text", "prompts.text", "label"]))
    path.write_text("[1]\n")
    with pytest.raises(CorruptInput, match="line 1: is no object"):
        list(items_of(path, "qa", ["a"]))
    path.write_bytes(b'{"a": "\xff"}\n')
    with pytest.raises(CorruptInput, match="line 1: is not JSON"):
        list(items_of(path, "qa", ["a"]))


@pytest.mark.skipif(not SEA_HELM.is_dir(), reason="SEA-HELM's data are not here")
def test_sea_helm_s_items_are_found_in_documents_and_the_sample_s_articles_are_clean(tmp_path: Path) -> None:
    paths = [SEA_HELM / "nlu" / "question_answering" / "data" / f"{name}_100sample.jsonl" for name in ("id_tydiqa", "th_xquad")]
    items = [
        item for path in paths for item in items_of(path, "sea-helm", ["prompts.*.text"], "id", "metadata.language")
        if len(item.text) > 200
    ]  # fmt: skip
    assert len(items) > 150 and {item.language for item in items} == {"id", "th"}
    NgramIndex.build(items, tmp_path)
    index = NgramIndex(tmp_path)
    for item in items[::5]:
        found = index.hits(NOISE * 9 + item.text + NOISE * 9)
        assert found and found.reason == "contaminated_sea-helm" and found.matched == found.ngrams
    for path in sorted((SAMPLE / "articles").glob("*.jsonl")):
        for line in path.read_text("utf-8").splitlines():
            assert index.hits(" ".join(str(value) for value in json.loads(line).values())) is None
