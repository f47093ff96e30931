"""Thresholds of the language gate and the quality rules: a table a language, read from TOML files.

A file's table `every` holds what all its languages share, and a language's own values go before it. There is no built-in
language: English numbers are never a default, and a wanted language without a table is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..catalog.errors import RecipeError
from ..catalog.languages import LANGUAGES
from ..catalog.recipes import read_table, read_toml
from ..catalog.records import STRICT

CODE = "code"
"""The language of source code."""
EVERY = "every"
"""The table that the languages of a file share."""
TOP, REPEATED = (2, 3, 4), (5, 6, 7, 8, 9, 10)
"""Words a sequence, of the two n-gram rules."""
UNLIMITED = float(1 << 40)


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """What a document of a language must meet; shares are 0 to 1, and the defaults let everything pass."""

    __pydantic_config__ = STRICT

    min_characters: int
    """Unicode code points."""
    max_characters: int
    """Unicode code points."""
    language_score: float = 0.0
    """Least probability of the language classifier, 0 to 1."""
    min_words: float = 0.0
    """ICU's words."""
    max_words: float = UNLIMITED
    """ICU's words."""
    min_letters: float = 0.0
    """Share of letters and marks in the characters that are no spaces."""
    min_script: float = 0.0
    """Share of the letters in the language's own script."""
    max_repeated_lines: float = 1.0
    """Share of lines that occurred before."""
    max_repeated_line_characters: float = 1.0
    """Share of characters in such lines."""
    max_repeated_paragraphs: float = 1.0
    """Share of paragraphs, set apart by empty lines, that occurred before."""
    max_repeated_paragraph_characters: float = 1.0
    """Share of characters in such paragraphs."""
    max_repeated_ngrams: tuple[float, ...] = ()
    """Share of characters in sequences of 5, 6, … 10 words that occurred before."""
    max_top_ngrams: tuple[float, ...] = ()
    """Share of characters in the most frequent sequence of 2, 3, 4 words."""
    min_distinct: float = 0.0
    """Distinct word pairs per word pair in the first 1,000 words: keyword lists have few."""
    stop_words: tuple[str, ...] = ()
    """Function words of the language, lower case, each a word to ICU."""
    min_stop_words: int = 0
    """Different ones of them in the text."""
    min_alphabetic: float = 0.0
    """Share of words that begin with a letter and not with a digit."""
    min_word_length: float = 0.0
    """Mean characters a word."""
    max_word_length: float = UNLIMITED
    """Mean characters a word."""
    max_symbols: float = UNLIMITED
    """Hash signs, or ellipses, a word."""
    max_new_lines: float = UNLIMITED
    """Line ends a word."""
    line_endings: tuple[str, ...] = ()
    """Marks with which a sentence of the language, or a quotation, may end."""
    min_punctuated_lines: float = 0.0
    """Share of lines that end with one of them."""
    max_bullet_lines: float = 1.0
    """Share of lines that begin with a bullet."""
    max_ellipsis_lines: float = 1.0
    """Share of lines that end with an ellipsis."""
    short_line: int = 0
    """Most characters of a short line."""
    max_short_lines: float = 1.0
    """Share of short lines."""
    boilerplate: tuple[str, ...] = ()
    """Lower-case marks of scripts, filler and English notices, which are the same in all languages."""
    notices: tuple[str, ...] = ()
    """Lower-case phrases of cookie and privacy notices in the language."""
    max_boilerplate_lines: float = 1.0
    """Share of lines that hold one of them."""

    def __post_init__(self) -> None:
        for name, sizes in (("max_top_ngrams", TOP), ("max_repeated_ngrams", REPEATED)):
            if len(getattr(self, name)) not in (0, len(sizes)):
                raise ValueError(f"{name} has one number for each of {', '.join(map(str, sizes))} words")


def read_thresholds(paths: Sequence[Path], languages: Sequence[str]) -> dict[str, Thresholds]:
    """Language to thresholds; raises RecipeError for an unknown key, a language twice, or a wanted one that has none."""
    if not paths:
        raise RecipeError("(recipe)", "thresholds", "names no file")
    found: dict[str, Thresholds] = {}
    for path in paths:
        tables = read_toml(path)
        for language, table in tables.items():
            if not isinstance(table, dict):
                raise RecipeError(path, language, "is no table of thresholds")
        shared = tables.pop(EVERY, {})
        for language, table in tables.items():
            if language in found:
                raise RecipeError(path, language, "has thresholds in another file already")
            if language not in LANGUAGES and language != CODE:
                raise RecipeError(
                    path, language, f"is not a language code; the languages are {', '.join(LANGUAGES)} and {CODE}"
                )
            found[language] = read_table(table if language == CODE else shared | table, Thresholds, path)
    for language in languages:
        if language not in found:
            raise RecipeError(paths[0], language, "has no thresholds; add a table for it")
    return found
