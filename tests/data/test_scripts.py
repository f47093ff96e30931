"""Zawgyi, and traditional characters."""

from __future__ import annotations

import json
import unicodedata
from importlib.resources import files

import pytest
from hypothesis import given
from hypothesis import strategies as st
from icu import Transliterator  # type: ignore[import-untyped, attr-defined, unused-ignore]

from sea_lion.data.scripts import is_burmese, is_traditional, simplified, traditional_share, unicode_burmese, zawgyi_probability

SIMPLIFIED = "早上五点，天还没亮，楼下的巴刹已经亮起了灯。卖菜的林阿姨把青菜一把一把地摆好。"
TRADITIONAL = "早上五點，天還沒亮，樓下的巴剎已經亮起了燈。賣菜的林阿姨把青菜一把一把地擺好。"


def articles(language: str) -> list[str]:
    lines = files("sea_lion").joinpath(f"data/sample/articles/{language}.jsonl").read_text("utf-8").splitlines()
    return ["\n".join(json.loads(line)["paragraphs"]) for line in lines]


def zawgyi(text: str) -> str:
    return str(Transliterator.createInstance("my-Zawgyi").transliterate(text))


def test_burmese_in_unicode_stays_as_it_is() -> None:
    texts = articles("mya")
    assert [unicode_burmese(text) for text in texts] == [(unicodedata.normalize("NFC", text), False) for text in texts]


def test_zawgyi_is_found_and_comes_back_as_unicode() -> None:
    texts = articles("mya")
    assert [unicode_burmese(zawgyi(text)) for text in texts] == [(unicodedata.normalize("NFC", text), True) for text in texts]


def test_a_page_that_quotes_zawgyi_keeps_its_own_lines() -> None:
    own, quoted = articles("mya")[0].split("\n")[:2]
    assert unicode_burmese(f"{own}\n{zawgyi(quoted)}") == (unicodedata.normalize("NFC", f"{own}\n{quoted}"), True)


def test_a_short_line_is_what_its_text_is() -> None:
    long, short = articles("mya")[0].split("\n")[0], "ဈေးဝယ်"
    assert unicode_burmese(zawgyi(f"{long}\n{short}")) == (unicodedata.normalize("NFC", f"{long}\n{short}"), True)


@pytest.mark.parametrize("text", ["", "no Burmese at all", "ตลาด", "ၵိၼ်းႁိၼ်း"])  # the last is Shan, in Unicode
def test_other_text_is_not_zawgyi(text: str) -> None:
    assert unicode_burmese(text) == (text, False)


def test_shan_and_mon_are_not_burmese() -> None:
    assert all(map(is_burmese, articles("mya"))) and is_burmese("")
    assert not is_burmese("ၵိၼ်းႁိၼ်း") and not is_burmese("အရေဝ်ဘာသာမန် ညးမဒၞာဲ")


def test_there_is_a_probability_where_there_is_no_burmese() -> None:
    assert zawgyi_probability("") == zawgyi_probability("plain") == 0


@given(st.text(st.characters(min_codepoint=0x1000, max_codepoint=0x109F), max_size=80))
def test_any_burmese_letters_come_out_in_normal_form(text: str) -> None:
    assert unicodedata.is_normalized("NFC", unicode_burmese(text)[0])


def test_traditional_and_simplified_are_told_apart() -> None:
    assert is_traditional(TRADITIONAL) and not is_traditional(SIMPLIFIED)
    assert not any(map(is_traditional, articles("cmn")))
    assert traditional_share(TRADITIONAL) > 0.2 and traditional_share("no Chinese") == traditional_share("") == 0


def test_a_quoted_name_does_not_make_a_text_traditional() -> None:
    assert not is_traditional(SIMPLIFIED * 3 + "（張藝）")


def test_simplification() -> None:
    assert simplified(TRADITIONAL) == SIMPLIFIED and simplified(SIMPLIFIED) == SIMPLIFIED
    assert simplified("著名的著作，顯著") == "著名的著作，显著"
    assert unicodedata.is_normalized("NFC", simplified("\uf900豈"))
