"""Scores of the 2026 criteria judges: each criterion of an answer is put into a class, and classes are worth a share.

Kalahi and MT-Bench use five classes; syntax uses met and unmet, weighs its criteria by severity and multiplies with what its
generic criteria say. Kalahi believes the judge's *first* class, MT-Bench and syntax the last. A judge that names no class, or
one that there is not, has given nothing; how often is reported by whoever calls.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

CLASSES = {
    "CLASS_UNMET": 0.0,
    "CLASS_SLIGHTLY_MET": 0.25,
    "CLASS_MODERATELY_MET": 0.5,
    "CLASS_MAJORLY_MET": 0.75,
    "CLASS_EXACTLY_MET": 1.0,
}
SYNTAX_CLASSES = {"CLASS_UNMET": 0.0, "CLASS_MET": 1.0}
SEVERITIES = {"high": 10.0, "medium": 5.0, "low": 1.0, "generic": 1.0}
GENERIC = "generic"

_TAG = re.compile(r"<classification>\s*(\w+)\s*</classification>")


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One judgement of one criterion."""

    classification: str | None
    """What stands in the judge's tag."""
    value: float
    """0 to 1; 0 without a class that there is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SyntaxItem:
    """One sentence of the syntax task, each value 0 to 1."""

    specific: float
    """Weighted share of its own criteria that are met."""
    generic: float
    """Share of the generic criteria that are met."""

    @property
    def value(self) -> float:
        """The item's score."""
        return self.specific * self.generic


def judged(reply: str | None, which: Literal["first", "last"], classes: Mapping[str, float] = CLASSES) -> Judged:
    """What a judge's reply says of one criterion; MT-Bench and syntax take the last tag, Kalahi the first."""
    found = _TAG.findall(reply or "")
    if not found:
        return Judged(classification=None, value=0.0)
    name = found[0 if which == "first" else -1].strip()
    return Judged(classification=name, value=classes.get(name, 0.0))


def syntax_item(values: Sequence[float], severities: Sequence[str]) -> SyntaxItem:
    """One sentence's scores from its criteria's values; without criteria of a kind that factor is 0, as the benchmark has it.

    Raises ValueError for a severity that there is not (the benchmark lets it weigh 1), and for an item without criteria.
    """
    unknown = set(severities) - SEVERITIES.keys()
    if unknown or not severities:
        raise ValueError(f"a syntax item's criteria cannot be weighed: {sorted(unknown) or 'it has none'}")
    pairs = list(zip(values, severities, strict=True))
    generic = [value for value, severity in pairs if severity == GENERIC]
    specific = [(value, SEVERITIES[severity]) for value, severity in pairs if severity != GENERIC]
    weight = sum(share for _, share in specific)
    return SyntaxItem(
        specific=sum(value * share for value, share in specific) / weight if specific else 0.0,
        generic=sum(generic) / len(generic) if generic else 0.0,
    )


def mean_of_turns(turns: Sequence[Sequence[float]]) -> float:
    """A question's score: the mean over its turns of their criteria's mean; a turn without judgements is 0."""
    if not turns:
        raise ValueError("a question needs at least one turn")
    return sum(sum(turn) / len(turn) if turn else 0.0 for turn in turns) / len(turns)
