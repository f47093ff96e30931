"""Token F1 and exact match of short answers, as SQuAD has them, the best of several references counting.

Answers and references are put in lower case, their ASCII punctuation is deleted (not turned into blanks) and blanks are
collapsed; articles stay. Thai and, in 2026, Chinese are cut into words first, and of Thai only the first reference counts.
"""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from .segmentation import chinese_words, thai_words

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """What one answer comes to, each value 0 to 1."""

    f1: float
    exact_match: float
    found: float
    """Whether a reference stands in the answer, letter for letter."""


def words(text: str) -> list[str]:
    """The words that F1 counts."""
    return text.lower().translate(_NO_PUNCTUATION).split()


def f1(answer: str, reference: str) -> float:
    """Harmonic mean of the shares of common words (as multisets), 0 where there are none."""
    given, wanted = words(answer), words(reference)
    common = (Counter(given) & Counter(wanted)).total()
    return 2 * common / (len(given) + len(wanted)) if common else 0.0


def is_exact_match(answer: str, reference: str) -> bool:
    """Whether the two are the same words in the same order."""
    return words(answer) == words(reference)


def answered(answer: str, references: Sequence[str], language: str, profile: str) -> Answered:
    """Scores of `answer`; `references` is a sequence of strings, and a bare string is one of single characters (as in 2026).

    Raises ValueError without references and MissingDependency where a language's segmenter is not installed.
    """
    if not references:
        raise ValueError("an answer cannot be scored without a reference")
    if language == "th":
        references = references[:1]
    answer = segmented(answer, language, profile)
    wanted = [segmented(reference, language, profile) for reference in references]
    return Answered(
        f1=max(f1(answer, reference) for reference in wanted),
        exact_match=float(any(is_exact_match(answer, reference) for reference in wanted)),
        found=float(any(reference in answer for reference in wanted)),
    )


def segmented(text: str, language: str, profile: str) -> str:
    """`text` with blanks between its words, where the release cuts the language into words; else as it is."""
    if language == "th":
        return " ".join(thai_words(text))
    if language.startswith("zh") and profile == "sea_helm_2026":
        return " ".join(chinese_words(text))
    return text
