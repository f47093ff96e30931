"""The quality rules and their thresholds."""

from __future__ import annotations

import json
from importlib.resources import as_file, files
from pathlib import Path

import pytest

from sea_lion.catalog.errors import RecipeError
from sea_lion.catalog.languages import LANGUAGES
from sea_lion.data.quality import Thresholds, fault, measure, read_thresholds

SAMPLE = files("sea_lion").joinpath("data")
with as_file(SAMPLE.joinpath("thresholds/web.toml")) as path:
    LIMITS = read_thresholds([path], list(LANGUAGES))


def article(language: str, row: int = 0) -> str:
    table = json.loads(SAMPLE.joinpath(f"sample/articles/{language}.jsonl").read_text("utf-8").splitlines()[row])
    return "\n".join(table["paragraphs"])


@pytest.mark.parametrize("language", LANGUAGES)
def test_articles_are_kept(language: str) -> None:
    assert {fault(article(language, row), language, LIMITS[language]) for row in range(24)} == {""}


@pytest.mark.parametrize("language", LANGUAGES)
def test_each_rule_removes_what_it_is_for(language: str) -> None:
    limits, text = LIMITS[language], article(language)
    lines = text.split("\n")
    other = article("eng" if language != "eng" else "tha")
    cases = {
        "too_short": text[: limits.min_characters - 1],
        "repeated_lines": "\n".join([*lines, *[lines[0]] * 6]),
        "repeated_ngrams": "\n".join(f"{i} {lines[0]}" for i in range(6)),
        "few_letters": text + " 12345 ★★★★★" * len(text),
        "foreign_script": text[:100] + other * 4,
    }
    if language in ("ind", "zsm", "fil", "vie", "eng"):  # their script is English's: take Thai
        cases["foreign_script"] = text[:100] + article("tha") * 4
    assert {name: fault(case, language, limits) for name, case in cases.items()} == {name: name for name in cases}


def test_long_texts_and_keyword_lists() -> None:
    words = ["cheap watches", "best price", "free shipping", "buy now"]
    spam = ", ".join(words[(i * i + i // 3) % 4] for i in range(120))
    assert fault(spam, "eng", LIMITS["eng"]) in ("keyword_spam", "repeated_ngrams")
    assert measure(spam, "eng").distinct < LIMITS["eng"].min_distinct
    assert fault("x" * 2_000_001, "eng", LIMITS["eng"]) == "too_long"


def test_distinct_does_not_fall_with_length() -> None:
    short, long = article("tha"), "".join(article("tha", row) for row in range(24))
    assert measure(long, "tha").distinct > 0.8 * measure(short, "tha").distinct


def test_measures_of_next_to_nothing() -> None:
    for text in ("", " ", "\n\n", "a"):
        seen = measure(text, "eng")
        assert 0 <= seen.repeated_ngrams <= 1 and seen.distinct == 1.0


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[eng]\nmin_characters = 1\nmax_characters = 2\nmin_leters = 0.5\n", "did you mean 'min_letters'"),
        ("[xyz]\nmin_characters = 1\nmax_characters = 2\n", "xyz"),
        ("[eng]\nmin_characters = 'many'\nmax_characters = 2\n", "min_characters"),
        ("eng = 1\n", "eng"),
        ("[tha]\nmin_characters = 1\nmax_characters = 2\n", "eng: has no thresholds"),
    ],
)
def test_wrong_thresholds_are_refused(tmp_path: Path, text: str, problem: str) -> None:
    file = tmp_path / "web.toml"
    file.write_text(text, "utf-8")
    with pytest.raises(RecipeError, match=problem):
        read_thresholds([file], ["eng"])


def test_a_language_in_two_files_is_refused(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).write_text("[eng]\nmin_characters = 1\nmax_characters = 2\n", "utf-8")
    with pytest.raises(RecipeError, match="another file"):
        read_thresholds([tmp_path / "a", tmp_path / "b"], ["eng"])
    assert read_thresholds([tmp_path / "a"], ["eng"]) == {"eng": Thresholds(min_characters=1, max_characters=2)}
