"""ROUGE-L of summaries, with words that fit the script.

The stock `rouge_score` deletes every letter that is not ASCII and is refused. The tokens here are those of the benchmark's fork
of XL-Sum's scorer: lower case, control characters dropped, punctuation turned into blanks; then Thai is cut into words (its
*blanks are tokens* and take part in the match, which flatters Thai summaries), Burmese (in 2026) into syllables, and all others
wherever letters, numbers and other characters meet.

The corpus value is not the mean of the items but the median of 1,000 bootstrap means from a fixed seed.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from .segmentation import burmese_syllables, thai_words

RESAMPLES = 1_000
SEED = 4156
"""Of numpy's legacy generator."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """ROUGE-L of one summary, each value 0 to 1."""

    precision: float
    recall: float
    f1: float


def rouge_l(summary: str, reference: str, language: str, profile: str) -> Overlap:
    """ROUGE-L of `summary` against `reference`; raises MissingDependency for Thai without pythainlp."""
    given, wanted = tokens(summary, language, profile), tokens(reference, language, profile)
    common = _longest_common(given, wanted)
    if not common:
        return Overlap(precision=0.0, recall=0.0, f1=0.0)
    precision, recall = common / len(given), common / len(wanted)
    return Overlap(precision=precision, recall=recall, f1=2 * precision * recall / (precision + recall))


def corpus(overlaps: Sequence[Overlap]) -> Overlap:
    """Medians of the bootstrap means; raises ValueError without summaries."""
    if not overlaps:
        raise ValueError("no summaries to score")
    values = np.array([(o.precision, o.recall, o.f1) for o in overlaps])
    random = np.random.RandomState(SEED)
    means = np.array([values[random.choice(len(values), size=len(values))].mean(axis=0) for _ in range(RESAMPLES)])
    precision, recall, f1 = (float(value) for value in np.percentile(means, 50, axis=0))
    return Overlap(precision=precision, recall=recall, f1=f1)


def tokens(text: str, language: str, profile: str) -> list[str]:
    """The tokens that are matched."""
    clean = _clean(text.lower())
    if language == "th":
        return [word for word in thai_words(" ".join(clean.split())) if word]
    if language == "my" and profile == "sea_helm_2026":
        return burmese_syllables(clean)
    return [token for piece in clean.split() for token in _runs(piece)]


@lru_cache(maxsize=4096)
def _kind(character: str) -> str:
    """What a character is to the tokens: `drop`, `blank`, `letter`, `number`, `mark` or `single`."""
    category = unicodedata.category(character)
    if character in "\t\n\r" or category == "Zs":
        return "blank"
    if category.startswith("C") or character == "\ufffd":
        return "drop"
    if category.startswith("P") or (character.isascii() and not character.isalnum()):
        return "blank"
    if category.startswith("L"):
        return "single" if unicodedata.name(character, "").startswith("CJK ") else "letter"
    return {"N": "number", "M": "mark"}.get(category[0], "single")


def _clean(text: str) -> str:
    kinds = ((character, _kind(character)) for character in text)
    return "".join(" " if kind == "blank" else character for character, kind in kinds if kind != "drop")


def _runs(piece: str) -> list[str]:
    found: list[str] = []
    before = ""
    for character in piece:
        kind = _kind(character)
        if found and (kind == "mark" or (kind == before and kind != "single")):
            found[-1] += character
        else:
            found.append(character)
        before = before if kind == "mark" else kind
    return found


def _longest_common(given: Sequence[str], wanted: Sequence[str]) -> int:
    """Length of the longest common subsequence, in bit-parallel form (Crochemore et al. 2001, Hyyrö 2004)."""
    places: dict[str, int] = {}
    for i, token in enumerate(wanted):
        places[token] = places.get(token, 0) | 1 << i
    full = (1 << len(wanted)) - 1
    row = full
    for token in given:
        matched = row & places.get(token, 0)
        row = (row + matched | row - matched) & full
    return len(wanted) - row.bit_count()
