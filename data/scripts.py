"""Encodings and scripts that Unicode hides: Burmese typed for the font Zawgyi, and Chinese in traditional characters.

Zawgyi puts glyphs of its own on the code points of Burmese, Mon and Karen, so such a page is valid Unicode and no language
identification sees that it is not: it must be found and converted before anything counts, filters or tokenizes it. A test of
code points that hardly any Burmese text in Unicode uses is enough for most texts (nothing found: Unicode); the Markov model
of myanmartools decides about the rest, ICU's transliterator converts. A home-made table of replacements was refused: the
order of marks needs rules, and ICU keeps them.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from typing import Any

MIN_ZAWGYI = 0.9
"""Probability from which a text counts as Zawgyi: myanmartools is rarely between 0.01 and 0.99."""
MIN_BURMESE = 20
"""Burmese characters from which a line is judged by itself; shorter ones are what their text is."""
MAX_OTHER_LETTERS = 0.02
"""Share of letters of Burma's other languages in a Burmese text: none in Burmese, 10% of Mon and 40% of Shan (the Universal
Declaration of Human Rights in each)."""
MIN_TRADITIONAL = 0.02
"""Share of Chinese characters that simplification changes, above which a text is traditional. It changes a quarter to
a third of a text in traditional characters and next to nothing of a simplified one (quotations, names)."""
WINDOW = 2000
"""Characters of a text from which its script is told."""

_BURMESE = re.compile("[\u1000-\u109f]")
_ZAWGYI_ONLY = re.compile(
    "[\u1033\u1034\u105a\u1060-\u1097]|(?<![\u1000-\u102a\u103b-\u103e\u200b-\u200d])\u1031|\u1039(?![\u1000-\u1021])"
)
"""Mon, Karen and Shan letters where Burmese is expected, a vowel sign `e` before its consonant, a sign that stacks nothing."""
_OTHER_LETTERS = re.compile("[\u1022\u1028\u1033-\u1035\u1050-\u109f]")
_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff]")


def unicode_burmese(text: str) -> tuple[str, bool]:
    """A Burmese text in Unicode (NFC), and whether any of it was in Zawgyi; judged line by line, as pages quote each other."""
    if not _ZAWGYI_ONLY.search(text):
        return unicodedata.normalize("NFC", text), False
    whole = zawgyi_probability(text) >= MIN_ZAWGYI
    lines = text.split("\n")
    are_zawgyi = [_is_zawgyi(line, whole) for line in lines]
    converted = (_zawgyi_to_unicode().transliterate(line) if is_ else line for line, is_ in zip(lines, are_zawgyi, strict=True))
    return unicodedata.normalize("NFC", "\n".join(converted)), any(are_zawgyi)


def is_burmese(text: str) -> bool:
    """Whether a text in Unicode that passes for Burmese is Burmese, and not Shan, Mon or Karen, which no classifier knows."""
    others = len(_OTHER_LETTERS.findall(text[:WINDOW]))
    return others <= MAX_OTHER_LETTERS * len(_BURMESE.findall(text[:WINDOW]))


def zawgyi_probability(text: str) -> float:
    """Probability that the Burmese in a text is in Zawgyi; 0 where there is none."""
    return max(0.0, float(_detector().get_zawgyi_probability(text[:WINDOW])))  # -inf: no Burmese


def traditional_share(text: str) -> float:
    """Share of a text's Chinese characters that are traditional: those that simplification changes; 0 without any."""
    characters = _HAN.findall(text[:WINDOW])
    return sum(map(_traditional_characters().__contains__, characters)) / max(1, len(characters))


def is_traditional(text: str) -> bool:
    """Whether a Chinese text is in traditional characters; of Japanese, which shares some of them, it says nothing."""
    return traditional_share(text) > MIN_TRADITIONAL


def simplified(text: str) -> str:
    """A Chinese text in simplified characters, in NFC, by ICU's rules: words such as 著名 stay, words of a region do too."""
    return unicodedata.normalize("NFC", _traditional_to_simplified().transliterate(text))


def _is_zawgyi(line: str, whole: bool) -> bool:
    count = len(_BURMESE.findall(line))
    return zawgyi_probability(line) >= MIN_ZAWGYI if count >= MIN_BURMESE else whole and count > 0


@cache
def _detector() -> Any:
    from myanmartools import ZawgyiDetector  # type: ignore[import-untyped, unused-ignore]

    return ZawgyiDetector()


@cache
def _zawgyi_to_unicode() -> Any:
    from icu import Transliterator  # type: ignore[import-untyped, attr-defined, unused-ignore]

    return Transliterator.createInstance("Zawgyi-my")


@cache
def _traditional_characters() -> frozenset[str]:
    """Those that ICU simplifies, asked once: it takes a millisecond a text."""
    characters = [chr(code) for code in (*range(0x3400, 0x4DC0), *range(0x4E00, 0xA000))]
    changed = _traditional_to_simplified().transliterate("\n".join(characters)).split("\n")
    return frozenset(old for old, new in zip(characters, changed, strict=True) if old != new)


@cache
def _traditional_to_simplified() -> Any:
    from icu import Transliterator  # type: ignore[import-untyped, attr-defined, unused-ignore]

    return Transliterator.createInstance("Traditional-Simplified")
