"""Words and syllables of languages that are written without spaces, as the benchmark cuts them.

Thai by PyThaiNLP's `newmm` (blanks are words too), Chinese by jieba, Burmese by the rule of Ding et al., "Towards Burmese
(Myanmar) Morphological Analysis" (https://doi.org/10.1145/3325885). Both dictionaries lie inside their packages; they are
imported when first needed, because that takes a second, and PyThaiNLP is kept from making a folder in the user's home.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from typing import cast

from ...catalog.errors import MissingDependency

ASAT, DOT_BELOW, VIRAMA = "\u103a", "\u1037", "\u1039"
_DEPENDENT = frozenset(map(chr, (*range(0x102B, 0x1033), *range(0x1036, 0x1039), *range(0x103A, 0x103F))))
"""Vowel signs, tone marks, asat and medials: they belong to the letter before them."""
_LONGEST_KILLED = 3
"""A letter with an asat ends the syllable before it; one of four characters or more is a syllable of its own (the vowel au)."""

_thai: Callable[[str], list[str]] | None = None
_chinese: Callable[[str], list[str]] | None = None


def thai_words(text: str) -> list[str]:
    """Words of Thai `text`, blanks among them; raises MissingDependency without pythainlp."""
    global _thai
    if _thai is None:
        _thai = _newmm()
    return _thai(text)


def chinese_words(text: str) -> list[str]:
    """Words of Chinese `text`; raises MissingDependency without jieba."""
    global _chinese
    if _chinese is None:
        try:
            jieba = import_module("jieba")
        except ImportError:
            raise MissingDependency("jieba", "to cut Chinese answers into words") from None
        jieba.setLogLevel("ERROR")
        _chinese = cast("Callable[[str], list[str]]", jieba.lcut)
    return _chinese(text)


def burmese_syllables(text: str) -> list[str]:
    """Syllables of Burmese `text`; blanks vanish, and letters of other scripts are tokens of one character."""
    units: list[str] = []
    for character in "".join(text.replace(DOT_BELOW + ASAT, ASAT + DOT_BELOW).split()):
        if units and character in _DEPENDENT:
            units[-1] += character
        else:
            units.append(character)
    return _stacked(_closed(units))


def _closed(units: list[str]) -> list[str]:
    """Killed letters joined to the syllable that they end; of two in a row the second is left alone."""
    syllables = units[:1]
    joined = False
    for unit in units[1:]:
        joined = ASAT in unit and len(unit) <= _LONGEST_KILLED and not joined
        if joined:
            syllables[-1] += unit
        else:
            syllables.append(unit)
    return syllables


def _stacked(units: list[str]) -> list[str]:
    """Syllables around a stacking sign glued together with it."""
    syllables: list[str] = []
    i = 0
    while i < len(units):
        if units[i] == VIRAMA and syllables and i + 1 < len(units):
            syllables[-1] += VIRAMA + units[i + 1]
            i += 2
        else:
            syllables.append(units[i])
            i += 1
    return syllables


def _newmm() -> Callable[[str], list[str]]:
    if "PYTHAINLP_READ_MODE" not in os.environ:
        os.environ.setdefault("PYTHAINLP_READ_ONLY", "1")
    try:
        from pythainlp.tokenize import word_tokenize
    except ImportError:
        raise MissingDependency("pythainlp", "to cut Thai answers into words") from None
    return lambda text: list(word_tokenize(text, engine="newmm"))
