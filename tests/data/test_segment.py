"""Words and character classes by ICU."""

from __future__ import annotations

import json
from importlib.resources import files
from itertools import pairwise

import numpy as np
import pytest
import regex  # type: ignore[import-untyped]
from hypothesis import given, settings
from hypothesis import strategies as st
from icu import BreakIterator, Locale  # type: ignore[import-untyped, unused-ignore]

from sea_lion.catalog.languages import LANGUAGES
from sea_lion.data.segment import LETTER, NUMBER, SCRIPTS, SPACE, character_classes, pieces, words

SAMPLE = files("sea_lion").joinpath("data/sample/articles")
NUM_WORDS = {
    "mya": 3793, "cmn": 4335, "ind": 2724, "khm": 2778, "lao": 3142, "zsm": 2803, "fil": 2985, "tam": 2006, "tha": 3649,
    "vie": 4539, "eng": 3332,
}  # fmt: skip
"""Words in the articles of a language by ICU 77: thresholds are rescaled to its dictionaries."""


def articles(language: str) -> list[str]:
    rows = [json.loads(line) for line in SAMPLE.joinpath(f"{language}.jsonl").read_text("utf-8").splitlines()]
    return ["\n".join(row["paragraphs"]) for row in rows]


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("tha", "ตลาดเช้าเปิดทุกวัน", "ตลาด เช้า เปิด ทุก วัน"),
        ("lao", "ຂ້ອຍຢູ່ບ້ານ", "ຂ້ອຍ ຢູ່ ບ້ານ"),
        ("khm", "ខ្ញុំទៅសាលារៀន", "ខ្ញុំ ទៅ សាលារៀន"),
        ("mya", "သူတို့သည်ကျောင်းသို့သွားသည်။", "သူ တို့သည် ကျောင်း သို့ သွား သည်"),
        ("cmn", "我们喜欢学习。", "我们 喜欢 学习"),
        ("tam", "அவர் ஒரு ஆசிரியர்.", "அவர் ஒரு ஆசிரியர்"),
        ("vie", "Có một người đi chợ, 2 lần!", "Có một người đi chợ 2 lần"),
        ("ind", "“Anak-anak” itu pergi... 3,5 km/jam", "Anak anak itu pergi 3,5 km jam"),
        ("eng", "It isn't a_b; see http://x.org (C++) #1", "It isn't a_b see http x.org C 1"),
        ("fra", "une langue inconnue", "une langue inconnue"),
    ],
)
def test_words_of_each_language(language: str, text: str, expected: str) -> None:
    assert words(text, language) == expected.split()


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_number_of_words_is_what_the_thresholds_were_rescaled_for(language: str) -> None:
    assert sum(len(words(text, language)) for text in articles(language)) == pytest.approx(NUM_WORDS[language], rel=0.02)


@pytest.mark.parametrize("language", LANGUAGES)
def test_words_are_the_pieces_that_icu_calls_words(language: str) -> None:
    text = "\n".join(articles(language))
    iterator = BreakIterator.createWordInstance(Locale(LANGUAGES[language].short))
    iterator.setText(text)
    expected, start = [], 0
    while (end := iterator.nextBoundary()) != -1:
        if iterator.getRuleStatus() > 0:  # below 100: neither letters nor digits
            expected.append(text[start:end])
        start = end
    assert words(text, language) == expected


@settings(deadline=None)  # the machine may be busy
@given(st.text(st.characters() | st.sampled_from("ก็ကျកខ的😀𠀀\u200b\ud83d\ude00\x00 \n")), st.sampled_from([*LANGUAGES, "und"]))
def test_pieces_put_together_are_the_text(text: str, language: str) -> None:
    cut = pieces(text, language)
    spans = list(zip(cut.starts.tolist(), cut.ends.tolist(), strict=True))
    assert "".join(text[start:end] for start, end in spans) == text
    assert all(start < end for start, end in spans) and all(a[1] == b[0] for a, b in pairwise(spans))
    assert words(text, language) == [text[a:b] for (a, b), is_word in zip(spans, cut.is_word, strict=True) if is_word]


def test_characters_above_the_basic_plane_do_not_shift_what_follows() -> None:
    assert words("a😀b 😀😀 𠀀 ไปบ้าน", "tha") == ["a", "b", "𠀀", "ไป", "บ้าน"]


def test_the_remembered_words_cannot_be_changed() -> None:
    words("one two", "eng").clear()
    assert words("one two", "eng") == ["one", "two"]
    assert words("one two", "tha") == ["one", "two"] and words("three", "eng") == ["three"]


def test_classes_of_characters() -> None:
    text = "".join("\n".join(articles(language)) for language in LANGUAGES) + "ÀéЖ٣๓၄漢〇\u200d\u3000_+"
    characters = sorted(set(text))
    classes = character_classes()[np.array([ord(character) for character in characters])]
    for bit, pattern in {LETTER: r"[\p{L}\p{M}]", NUMBER: r"\p{N}", SPACE: r"\s"}.items():
        expected = [bool(regex.match(pattern, character)) for character in characters]
        assert ((classes & bit) != 0).tolist() == expected, pattern
    names = {"Mymr": "Myanmar", "Hans": "Han", "Khmr": "Khmer", "Laoo": "Lao", "Latn": "Latin", "Taml": "Tamil", "Thai": "Thai"}
    for script, bit in SCRIPTS.items():
        pattern = rf"(?V1)[[\p{{L}}\p{{M}}]&&[\p{{Script={names[script]}}}\p{{Script=Inherited}}]]"
        expected = [bool(regex.match(pattern, character)) for character in characters]
        assert ((classes & bit) != 0).tolist() == expected, script
