"""Quality rules: a document's measures, compared with its language's thresholds.

Words are what stands between spaces; for languages written without spaces the unit is the character, and n-grams are longer.
English numbers are never the default: stock English rules reject 96 to 99% of Thai, Khmer and Burmese news, so each language
has its own table in `thresholds/web.toml`, and one without is refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import regex  # type: ignore[import-untyped]

from ..catalog.errors import RecipeError
from ..catalog.languages import LANGUAGES
from ..catalog.recipes import read_table, read_toml
from ..catalog.records import STRICT

CODE = "code"
"""The language of source code."""
WINDOW = 1_000
"""Units at a text's beginning in which distinct n-grams are counted: their share falls with length."""
SCRIPTS = {"Mymr": "Myanmar", "Hans": "Han", "Khmr": "Khmer", "Laoo": "Lao", "Latn": "Latin", "Taml": "Tamil", "Thai": "Thai"}
"""ISO 15924 to the script's name in regular expressions."""

_LETTERS = regex.compile(r"[\p{L}\p{M}]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """What a document of a language must meet."""

    __pydantic_config__ = STRICT

    min_characters: int
    """Unicode code points."""
    max_characters: int
    """Unicode code points."""
    language_score: float = 0.0
    """Least probability of the language classifier, 0 to 1."""
    max_repeated_lines: float = 1.0
    """Share of characters in lines that occurred before."""
    max_repeated_ngrams: float = 1.0
    """Share of 5-word (12-character) sequences that occurred before."""
    min_distinct: float = 0.0
    """Distinct word pairs (4-character sequences) per such pair: keyword lists have few."""
    min_letters: float = 0.0
    """Share of letters and marks in the characters that are no spaces."""
    min_script: float = 0.0
    """Share of the letters in the language's own script."""
    min_word_length: float = 0.0
    """Mean characters a word; spaced languages only."""
    max_word_length: float = float(1 << 20)
    """Mean characters a word; spaced languages only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measures:
    """What the rules look at; the fields are those of `Thresholds`."""

    characters: int
    repeated_lines: float
    repeated_ngrams: float
    distinct: float
    letters: float
    script: float
    word_length: float


def read_thresholds(paths: Sequence[Path], languages: Sequence[str]) -> dict[str, Thresholds]:
    """Language to thresholds; raises RecipeError for an unknown key, a language twice, or a wanted one that has none."""
    found: dict[str, Thresholds] = {}
    for path in paths:
        for language, table in read_toml(path).items():
            if language in found:
                raise RecipeError(path, language, "has thresholds in another file already")
            if language not in LANGUAGES and language != CODE:
                raise RecipeError(
                    path, language, f"is not a language code; the languages are {', '.join(LANGUAGES)} and {CODE}"
                )
            if not isinstance(table, dict):
                raise RecipeError(path, language, "is no table of thresholds")
            found[language] = read_table(table, Thresholds, path)
    for language in languages:
        if language not in found:
            raise RecipeError(paths[0], language, "has no thresholds; add a table for it")
    return found


def too_short_or_long(text: str, thresholds: Thresholds) -> str:
    """The reason to drop a text for its length, empty to keep it."""
    if len(text) < thresholds.min_characters:
        return "too_short"
    return "too_long" if len(text) > thresholds.max_characters else ""


def fault(text: str, language: str, thresholds: Thresholds) -> str:
    """The first rule that a text breaks, empty when it keeps them all."""
    if reason := too_short_or_long(text, thresholds):
        return reason
    seen = measure(text, language)
    is_spaced = LANGUAGES[language].is_spaced
    rules = (
        ("few_letters", seen.letters < thresholds.min_letters),
        ("foreign_script", seen.script < thresholds.min_script),
        ("repeated_lines", seen.repeated_lines > thresholds.max_repeated_lines),
        ("repeated_ngrams", seen.repeated_ngrams > thresholds.max_repeated_ngrams),
        ("keyword_spam", seen.distinct < thresholds.min_distinct),
        ("short_words", is_spaced and seen.word_length < thresholds.min_word_length),
        ("long_words", is_spaced and seen.word_length > thresholds.max_word_length),
    )
    return next((reason for reason, is_broken in rules if is_broken), "")


def measure(text: str, language: str) -> Measures:
    """Measure a text; shares of nothing are 0, except `distinct`, which is 1."""
    spaced = LANGUAGES[language].is_spaced
    lines = [line for line in text.split("\n") if line]
    words = text.split()
    units: list[str] = [word.casefold().strip(".,;:!?()\"'“”‘’") for word in words] if spaced else list("".join(words))
    letters = _LETTERS.findall(text)
    visible = sum(map(len, words))
    return Measures(
        characters=len(text),
        repeated_lines=_share(sum(map(len, lines)) - sum(map(len, set(lines))), sum(map(len, lines))),
        repeated_ngrams=1 - _distinct(units, 5 if spaced else 12),
        distinct=_distinct(units[:WINDOW], 2 if spaced else 4),
        letters=_share(len(letters), visible),
        script=_share(len(_script(language).findall(text)), len(letters)),
        word_length=_share(visible, len(words)),
    )


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _distinct(units: list[str], n: int) -> float:
    """Distinct n-grams per n-gram."""
    grams = Counter(zip(*(units[i:] for i in range(n)), strict=False))
    return len(grams) / sum(grams.values()) if grams else 1.0


@cache
def _script(language: str) -> Any:
    """Letters and marks of a language's script; marks shared by several scripts count for each."""
    name = SCRIPTS[LANGUAGES[language].script]
    return regex.compile(rf"(?V1)[[\p{{L}}\p{{M}}]&&[\p{{Script={name}}}\p{{Script=Inherited}}]]")
