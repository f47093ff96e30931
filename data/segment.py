"""Words of a text in any of our languages, and the classes of its characters, by ICU.

One library for all: ICU's word BreakIterator has dictionaries for Thai, Lao, Khmer, Burmese and Chinese, and is 12 to 100 times
faster than the tokenizer that datatrove picks for each language. It finds up to 24% more words than these, so thresholds made
for theirs are rescaled (`thresholds/web.toml`). Texts are expected in NFC. The last text's words are remembered, so that rules
and signatures which look at the same text share them.

The boundaries are taken in bulk and sorted out by numpy: no Python runs per character.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
from icu import BreakIterator, Locale, UnicodeSet  # type: ignore[import-untyped, unused-ignore]
from numpy.typing import NDArray

from ..catalog.languages import LANGUAGES

LETTER, NUMBER, SPACE = 1, 2, 4
"""Bits of a character's class; marks count as letters."""
SCRIPTS = {"Mymr": 8, "Hans": 16, "Khmr": 32, "Laoo": 64, "Latn": 128, "Taml": 256, "Thai": 512}
"""ISO 15924 to the bit of its letters; a mark that several scripts share has the bits of all."""

_SETS = {
    LETTER: r"[\p{L}\p{M}]",
    NUMBER: r"\p{N}",
    SPACE: r"\p{White_Space}",
    **{
        bit: rf"[[\p{{L}}\p{{M}}]&[\p{{Script={'Hani' if script == 'Hans' else script}}}\p{{Script=Inherited}}]]"
        for script, bit in SCRIPTS.items()
    },
}


@dataclass(frozen=True, slots=True, eq=False)
class Pieces:
    """A text cut at every word boundary: words, and between them spaces and punctuation marks."""

    text: str
    """The whole text."""
    classes: NDArray[np.uint16]
    """Bits of each character's class."""
    starts: NDArray[np.int64]
    """Index of each piece's first character."""
    ends: NDArray[np.int64]
    """Index behind each piece's last character."""
    is_word: NDArray[np.bool_]
    """Whether a piece begins with a letter, a mark or a digit."""

    def words(self) -> list[str]:
        """The pieces that are words, as they are written."""
        text = self.text
        starts, ends = self.starts[self.is_word].tolist(), self.ends[self.is_word].tolist()
        return [text[start:end] for start, end in zip(starts, ends, strict=True)]


def words(text: str, language: str) -> list[str]:
    """The words of a text, without spaces and punctuation.

    `language` is an ISO 639-3 code; ICU's general rules serve for one that is not ours.

    >>> words("ตลาดเช้าเปิดทุกวัน", "tha")
    ['ตลาด', 'เช้า', 'เปิด', 'ทุก', 'วัน']
    """
    return list(_words(text, language))


@lru_cache(maxsize=1)
def _words(text: str, language: str) -> tuple[str, ...]:
    return tuple(pieces(text, language).words())


@lru_cache(maxsize=1)
def pieces(text: str, language: str) -> Pieces:
    """Cut a text at its word boundaries; the last one cut is remembered."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    known = LANGUAGES.get(language)
    # made anew each time, which costs 3 µs: an iterator shared by threads would mix up their texts
    iterator = BreakIterator.createWordInstance(Locale(known.short) if known else Locale.getRoot())
    iterator.setText(text)
    ends = np.fromiter(iterator, np.int64)
    if len(text) and ends[-1] != len(text):  # ICU counts in UTF-16: a character above U+FFFF is two units
        ends = np.searchsorted(np.cumsum(1 + (codes > 0xFFFF)), ends, side="right")
    starts = np.concatenate((np.zeros(min(1, len(ends)), np.int64), ends[:-1]))
    classes = character_classes()[codes]
    return Pieces(text, classes, starts, ends, (classes[starts] & (LETTER | NUMBER)) != 0)


@cache
def character_classes() -> NDArray[np.uint16]:
    """The class of every code point: 2.2 MB, made in 30 ms at first use."""
    table = np.zeros(0x110000, np.uint16)
    for bit, pattern in _SETS.items():
        characters = UnicodeSet(pattern)
        for i in range(characters.getRangeCount()):
            table[ord(characters.getRangeStart(i)) : ord(characters.getRangeEnd(i)) + 1] |= bit
    return table
