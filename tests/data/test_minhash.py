"""What is compared: shingles, digests and minima, which are those of datatrove."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import regex  # type: ignore[import-untyped]

from sea_lion.catalog.languages import LANGUAGES
from sea_lion.data.minhash import CHARACTERS_A_WORD, MinHash, shingles, text_digest

from .alike_texts import Reference, long_text


@pytest.mark.parametrize("count", [1, 2, 511, 512, 513, 5_000])
def test_the_minima_are_those_of_datatrove(count: int, tmp_path: Path) -> None:
    values = np.random.default_rng(count).integers(0, 1 << 64, count, np.uint64)
    theirs = Reference(tmp_path, "ind").get_signature(values.reshape(-1, 1))
    assert MinHash(14, 8).minima(values).reshape(14, 8).tolist() == theirs


def test_two_bands_agree_where_datatrove_s_rows_do(tmp_path: Path) -> None:
    reference, minhash, agreements = Reference(tmp_path, "ind"), MinHash(14, 8), []
    generator = np.random.default_rng(0)
    for _ in range(40):
        values = generator.integers(0, 1 << 64, 200, np.uint64)
        other = np.concatenate([values[10:], generator.integers(0, 1 << 64, 10, np.uint64)])
        rows = [reference.get_signature(part.reshape(-1, 1)) for part in (values, other)]
        expected = [left == right for left, right in zip(*rows, strict=True)]
        assert (minhash.bands(values) == minhash.bands(other)).tolist() == expected
        agreements += expected
    assert 100 < sum(agreements) < 500


def plain_shingles(text: str, language: str) -> set[tuple[str, ...]]:
    """The slow way, as tuples of words or characters."""
    text = regex.sub(r"\p{Cf}", "", unicodedata.normalize("NFKC", text).casefold())
    text = regex.sub(r"[\p{P}\p{S}\p{Z}\p{C}]", " ", regex.sub(r"\p{Nd}+", "0", text))
    per_word = CHARACTERS_A_WORD.get(language)
    units = list("".join(text.split())) if per_word else text.split()
    length = 5 * (per_word or 1)
    return {tuple(units[i : i + length]) for i in range(len(units) - length + 1)}


@pytest.mark.parametrize("language", LANGUAGES)
def test_shingles_are_equal_where_the_units_are(language: str) -> None:
    first, second = long_text(language, 0, 6), long_text(language, 4, 6)
    plain, ours = (
        [make(text) for text in (first, second)] for make in (lambda t: plain_shingles(t, language), set_of(language))
    )
    counts = [[len(sets[0]), len(sets[1]), len(sets[0] & sets[1])] for sets in (ours, plain)]
    share = 1 / CHARACTERS_A_WORD.get(language, 1)
    tolerance = [6 * (count * share * (1 - share)) ** 0.5 for count in counts[1]]  # six standard deviations; 0 with spaces
    for ours_, plain_, most in zip(*counts, tolerance, strict=True):
        assert plain_ > 20 and abs(ours_ - plain_ * share) <= most


def set_of(language: str) -> Any:
    return lambda text: set(shingles(text, language, 5).tolist())


def test_every_language_without_spaces_is_measured_in_characters() -> None:
    assert set(CHARACTERS_A_WORD) == {code for code, language in LANGUAGES.items() if not language.is_spaced}


@pytest.mark.parametrize(
    "other",
    [
        "PASAR  pagi, dibuka pukul 5.30\nsetiap hari!",
        "pasar pagi dibuka pukul 14:05 setiap hari",
        "ｐａｓａｒ pa\u00adgi dibuka pukul 7 7 setiap hari",
    ],
)
def test_case_width_punctuation_and_numbers_do_not_make_a_shingle(other: str) -> None:
    expected = shingles("pasar pagi dibuka pukul 4.4 setiap hari", "ind", 5)
    assert len(expected) == 4
    assert shingles(other, "ind", 5).tolist() == expected.tolist()


def test_marks_that_tell_words_apart_do() -> None:
    assert not set_of("vie")("ma má mà mả mã") & set_of("vie")("ma ma ma ma ma")
    assert not set_of("tam")("கி கீ கு கூ கெ") & set_of("tam")("க க க க க")


def test_only_indonesian_and_malay_share_shingles() -> None:
    text = long_text("zsm")
    found = {code: set_of(code)(text) for code in ("ind", "zsm", "fil", "eng", "code")}
    assert found["ind"] == found["zsm"]
    assert not any(found["ind"] & found[code] for code in ("fil", "eng", "code")) and not found["eng"] & found["code"]
    assert not set_of("tha")(text) & set_of("lao")(text)


def test_a_digest_is_blind_to_what_an_exact_duplicate_may_differ_in() -> None:
    assert text_digest("Harga: RM5.50, pagi!") == text_digest("harga rm 5 50  ｐａｇｉ") != text_digest("harga rm 5 51 pagi")
    assert len(text_digest("")) == 16 and text_digest("...") != text_digest("!!!") != text_digest("")
