"""Scores of tasks whose answer is one of a few options.

What counts is the balanced accuracy: the mean over the classes *that occur in the references* of the share of their items
answered rightly, then normalised with chance at one over the number of classes. 2025 takes that number from the language's
table of options, 2026 from the data. Written out here rather than taken from scikit-learn (a test holds the two together):
labels of mixed types and the null label need no coding, and there is no warning to silence.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from .normalise import chance, normalised


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What the answers to a label task come to, in percent."""

    accuracy: float
    """Balanced accuracy."""
    normalised_accuracy: float
    """The same with chance at 0: the task's score."""
    macro_f1: float
    """Mean F1 over the classes of references and answers, the null label among them; enters no average."""
    null_weighted_f1: float
    """Mean F1 over the classes of the references, times the share of readable answers; enters no average."""
    nulls: int
    """Unreadable answers; they count as wrong."""


def measured(answers: Sequence[Hashable], references: Sequence[Hashable], null: Hashable, classes: int) -> Measured:
    """Scores of `answers`; `classes` sets the chance level. Raises ValueError without items or with unequal lengths."""
    if not references or len(answers) != len(references):
        raise ValueError(f"{len(references)} references and {len(answers)} answers cannot be scored")
    rights = Counter(gold for answer, gold in zip(answers, references, strict=True) if answer == gold)
    golds, given = Counter(references), Counter(answers)
    f1 = {label: 2 * rights[label] / (golds[label] + given[label]) for label in golds.keys() | given.keys()}
    accuracy = math.fsum(rights[label] / count for label, count in golds.items()) / len(golds)
    nulls = given[null]
    return Measured(
        accuracy=100 * accuracy,
        normalised_accuracy=100 * normalised(accuracy, chance(classes)),
        macro_f1=100 * math.fsum(f1.values()) / len(f1),
        null_weighted_f1=100 * math.fsum(f1[label] for label in golds) / len(golds) * (1 - nulls / len(answers)),
        nulls=nulls,
    )
