"""The quality rules and their thresholds."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace
from importlib.resources import as_file, files
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from datatrove.pipeline.filters.gopher_repetition_filter import find_all_duplicate
from hypothesis import given, settings
from hypothesis import strategies as st

from sea_lion.catalog.errors import RecipeError
from sea_lion.catalog.languages import LANGUAGES
from sea_lion.data.quality import PROBABILITIES, RULES, derived, judge, measure, measured
from sea_lion.data.segment import words
from sea_lion.data.thresholds import REPEATED, TOP, Thresholds, read_thresholds

SAMPLE = files("sea_lion").joinpath("data")
with as_file(SAMPLE.joinpath("thresholds/web.toml")) as path:
    LIMITS = read_thresholds([path], [*LANGUAGES, "code"])
SPAM = [json.loads(line) for line in SAMPLE.joinpath("sample/strays/spam.jsonl").read_text("utf-8").splitlines()]
UNSHARED = {"characters", "words", "word_length", "stop_words", "symbols", "new_lines"}
"""Measures that are no share."""


def article(language: str, row: int = 0) -> str:
    table = json.loads(SAMPLE.joinpath(f"sample/articles/{language}.jsonl").read_text("utf-8").splitlines()[row])
    return "\n".join(table["paragraphs"])


def broken(text: str, language: str) -> tuple[str, ...]:
    return judge(text, language, LIMITS[language]).broken


def shuffled(phrases: list[str], count: int) -> list[str]:
    """A fixed sequence without a short period."""
    return [phrases[(i * i + i // 3) % len(phrases)] for i in range(count)]


@pytest.mark.parametrize("language", LANGUAGES)
def test_articles_are_kept(language: str) -> None:
    assert {broken(article(language, row), language) for row in range(24)} == {()}


def repeated(language: str) -> dict[str, str]:
    text = article(language)
    lines, found = text.split("\n"), words(article(language, 1) + article(language, 2), language)
    phrase = " ".join(words(text, language)[:4])
    return {
        "repeated_lines": "\n".join([*lines, *[lines[0]] * 6]),
        "repeated_paragraphs": "\n\n".join([text, *[lines[0]] * 6]),
        "repeated_ngrams": "\n".join(f"{i} {lines[0]}" for i in range(6)),
        "frequent_ngram": "\n".join(f"{phrase} {word}" for word in list(dict.fromkeys(found))[:60]),
        "keyword_spam": ", ".join(shuffled(sorted(set(found), key=len)[-4:], 400)),
    }


def ill_worded(language: str) -> dict[str, str]:
    text, limits = article(language), LIMITS[language]
    content = [word for word in words(text, language) if word.casefold() not in limits.stop_words]
    other = article("tha" if LANGUAGES[language].script == "Latn" else "eng")
    return {
        "few_letters": text + " 12345 ★★★★★" * len(text),
        "foreign_script": text[:100] + other * 4,
        "few_stop_words": " ".join(f"{word}{i}" for i, word in enumerate(content * 2)),
        "few_alphabetic": text + " 12" * 3 * len(words(text, language)),
        "long_words": text + f" {'x' * 60}" * 300,
        "many_symbols": text + "#" * len(text),
        "many_new_lines": "\n".join(content),
        **({"short_words": " ".join(text[i] + "." for i in range(len(text)))} if limits.min_word_length > 1 else {}),
    }


def ill_shaped(language: str) -> dict[str, str]:
    lines, limits = article(language).split("\n"), LIMITS[language]
    bare = "\n".join(line.rstrip("".join(limits.line_endings)) for line in lines)
    pairs = "\n".join(" ".join(pair) for pair in zip(*[iter(article(language).split())] * 3, strict=False))
    return {
        "bullet_lines": "\n".join(f"- {line}" for line in lines),
        "ellipsis_lines": "\n".join(f"{line}…" for line in lines),
        "boilerplate_lines": "\n".join(f"{line} (JavaScript)" for line in lines),
        **({"unpunctuated_lines": bare} if limits.min_punctuated_lines else {}),
        **({"short_lines": pairs} if limits.max_short_lines < 1 else {}),
    }


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("family", [repeated, ill_worded, ill_shaped])
def test_each_rule_removes_what_it_is_for(family: Any, language: str) -> None:
    cases = family(language)
    assert {name: name in broken(case, language) for name, case in cases.items()} == dict.fromkeys(cases, True)


@pytest.mark.parametrize("language", LANGUAGES)
def test_lengths(language: str) -> None:
    limits, text = LIMITS[language], article(language)
    short = judge(text[: limits.min_characters - 1], language, limits)
    assert short.broken == ("too_short",) and short.measures == {"characters": limits.min_characters - 1}
    assert judge(text, language, replace(limits, max_characters=300)).reason == "too_long"
    few = ("x" * limits.min_characters + " ") * 9
    assert judge(few, language, limits).reason == "too_short"  # enough characters, too few words
    assert judge(text, language, replace(limits, max_words=80)).reason == "too_long"


@pytest.mark.parametrize("language", LANGUAGES)
def test_notices_of_the_language_are_boilerplate(language: str) -> None:
    limits = LIMITS[language]
    assert limits.notices
    for phrase in limits.notices:
        assert phrase == phrase.lower()
        lines = [*article(language).split("\n")[:3], f"“{phrase.upper()}”"]
        assert measure("\n".join(lines), language, limits)["boilerplate_lines"] == pytest.approx(0.25)


@pytest.mark.parametrize("language", LANGUAGES)
def test_stop_words_are_words_and_common(language: str) -> None:
    limits = LIMITS[language]
    assert 10 <= len(limits.stop_words) == len(set(limits.stop_words))
    assert [words(word, language) for word in limits.stop_words] == [[word] for word in limits.stop_words]
    seen = [measure(article(language, row), language, limits)["stop_words"] for row in range(24)]
    assert sum(seen) / 24 >= 2 * limits.min_stop_words


@pytest.mark.parametrize("row", SPAM, ids=lambda row: row["language"])
def test_keyword_spam_of_the_sample_is_removed(row: dict[str, Any]) -> None:
    joint = "，" if row["language"] == "cmn" else " " if row["language"] == "tha" else ", "
    lines = [joint.join([*shuffled(row["keywords"], 30)[i:], str(100 + i)]) for i in range(5)]
    judged = judge("\n".join(lines), row["language"], LIMITS[row["language"]])
    assert judged.reason in ("repeated_ngrams", "keyword_spam") and "keyword_spam" in judged.broken


def test_a_judgement_names_every_broken_rule_and_the_first_one_s_value() -> None:
    text = article("eng").replace(" ", " # ")
    judged = judge(text, "eng", LIMITS["eng"])
    assert judged.broken == ("few_letters", "many_symbols") or judged.broken == ("many_symbols",)
    assert judged.value == judged.measures["letters" if judged.reason == "few_letters" else "symbols"]
    kept = judge(article("eng"), "eng", LIMITS["eng"])
    assert (kept.reason, kept.value) == ("", 0.0)


def test_what_equals_a_threshold_is_kept() -> None:
    text, limits = article("vie"), LIMITS["vie"]
    seen = measure(text, "vie", limits)
    for rule in RULES:
        if isinstance(getattr(limits, rule.limit), tuple):
            continue
        step = 1e-9 if rule.limit.startswith("min_") else -1e-9
        exact: dict[str, Any] = {rule.limit: seen[rule.measure]}
        beyond: dict[str, Any] = {rule.limit: seen[rule.measure] + step}
        assert not rule.is_broken(seen, replace(limits, **exact)) and rule.is_broken(seen, replace(limits, **beyond)), rule


def test_distinct_does_not_fall_with_length() -> None:
    short, long = article("tha"), "".join(article("tha", row) for row in range(24))
    limits = LIMITS["tha"]
    assert measure(long, "tha", limits)["distinct"] > 0.8 * measure(short, "tha", limits)["distinct"]


@settings(deadline=None)  # the machine may be busy
@given(st.lists(st.sampled_from(["one", "two", "three", "four", "five", "six", "seven"]), max_size=120), st.integers(0, 3))
def test_repetition_is_what_its_definition_says(found: list[str], width: int) -> None:
    text = " ".join(word * (1 + width) for word in found)
    found, seen = text.split(), measure(text, "eng", LIMITS["eng"])
    for n in TOP:
        counts = Counter(zip(*(found[i:] for i in range(n)), strict=False))
        most = max(counts.values(), default=0)
        longest = max((len("".join(gram)) for gram, count in counts.items() if count == most), default=0)
        assert seen[f"top_{n}gram"] == pytest.approx(min(1, most * longest / len(text)) if most > 1 else 0)
    for n in REPEATED:
        before, covered = set[tuple[str, ...]](), set[int]()
        for i in range(len(found) - n + 1):
            gram = tuple(found[i : i + n])
            covered |= set(range(i, i + n)) if gram in before else set()
            before.add(gram)
        share = seen[f"repeated_{n}grams"]
        assert share == pytest.approx(sum(len(found[i]) for i in covered) / len(text) if text else 0)
        # datatrove skips what follows a repeated sequence, so that it finds as much or less
        assert not text or share >= find_all_duplicate(found, n) / len(text) - 1e-9
    pairs = list(pairwise(found))
    assert seen["distinct"] == pytest.approx(len(set(pairs)) / len(pairs) if pairs else 1)


KEYS = measure(article("eng"), "eng", LIMITS["eng"]).keys()
ALPHABET = st.characters() | st.sampled_from("က္ျကខ្ញុំກໍก็ะ的，。😀𠀀\ud800\u200b\x00#….-•{ \n\n\n")


@settings(deadline=None)  # the machine may be busy
@given(st.text(ALPHABET, max_size=400), st.integers(1, 40), st.sampled_from(list(LANGUAGES)))
def test_any_text_is_judged(text: str, times: int, language: str) -> None:
    limits = replace(LIMITS[language], min_characters=0)
    judged = judge(text * times, language, limits)
    assert judged.measures.keys() == KEYS and {rule.measure for rule in RULES} <= KEYS
    for name, value in judged.measures.items():
        assert type(value) is float and math.isfinite(value) and value >= 0 and (name in UNSHARED or value <= 1), name


def test_shares_of_nothing() -> None:
    for text in ("", " ", "\n\n", "…"):
        seen = measure(text, "eng", LIMITS["eng"])
        assert seen["distinct"] == 1.0 and seen["repeated_5grams"] == seen["letters"] == seen["word_length"] == 0.0


def test_long_texts_are_measured_to_the_end() -> None:
    sentence = article("tha").split("\n")[0]
    numbered = "\n".join(f"{i} {chr(0xE01 + i % 40)}" for i in range(30_000))
    seen = measure(numbered + sentence + "\n" + sentence, "tha", LIMITS["tha"])
    assert seen["words"] > 60_000 and 0 < seen["repeated_10grams"] < 0.01


def test_thresholds_come_from_a_reference_corpus(tmp_path: Path) -> None:
    limits = LIMITS["khm"]
    texts = [article("khm", row) for row in range(24)]
    quantiles = measured(texts, "khm", limits)
    assert quantiles.keys() == KEYS and {len(values) for values in quantiles.values()} == {len(PROBABILITIES)}
    assert all(list(values) == sorted(values) for values in quantiles.values())
    found = derived(quantiles, 0.0)
    mine = replace(limits, **found)  # type: ignore[arg-type]
    assert {judge(text, "khm", mine).broken for text in texts} == {()}
    assert mine.min_word_length == min(measure(text, "khm", limits)["word_length"] for text in texts)
    stricter = replace(limits, **derived(quantiles, 0.05))  # type: ignore[arg-type]
    assert 1 <= sum("short_words" in judge(text, "khm", stricter).broken for text in texts) <= 3
    file = tmp_path / "derived.toml"
    file.write_text(
        "[khm]\nmin_characters = 1\nmax_characters = 2\n"
        + "".join(f"{limit} = {list(value) if isinstance(value, tuple) else value}\n" for limit, value in found.items())
    )
    assert read_thresholds([file], ["khm"])["khm"].max_top_ngrams == found["max_top_ngrams"]
    with pytest.raises(ValueError, match="at least one text"):
        measured([], "khm", limits)


def test_languages_share_the_table_every(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        "[every]\nmin_characters = 1\nmax_characters = 9\nmax_symbols = 0.5\n[eng]\nmax_characters = 7\n[tha]\n"
        "[code]\nmin_characters = 2\nmax_characters = 3\n",
        "utf-8",
    )
    found = read_thresholds([file], ["eng", "tha", "code"])
    assert found["eng"] == Thresholds(min_characters=1, max_characters=7, max_symbols=0.5)
    assert found["tha"].max_characters == 9 and found["code"] == Thresholds(min_characters=2, max_characters=3)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[eng]\nmin_characters = 1\nmax_characters = 2\nmin_leters = 0.5\n", "did you mean 'min_letters'"),
        ("[every]\nmin_leters = 1\n[eng]\nmin_characters = 1\nmax_characters = 2\n", "did you mean 'min_letters'"),
        ("[xyz]\nmin_characters = 1\nmax_characters = 2\n", "xyz"),
        ("[eng]\nmin_characters = 'many'\nmax_characters = 2\n", "min_characters"),
        ("[eng]\nmin_characters = 1\nmax_characters = 2\nmax_top_ngrams = [0.1, 0.2]\n", "2, 3, 4 words"),
        ("[eng]\nmin_characters = 1\nmax_characters = 2\nstop_words = 'the'\n", "stop_words"),
        ("eng = 1\n", "eng"),
        ("every = 1\n", "every"),
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
