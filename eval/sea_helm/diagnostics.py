"""LINDSEA: linguistic phenomena, each of which counts the same however many items it has.

Minimal pairs: accuracy per phenomenon, their mean, then chance (one half) at 0. Pragmatics: single sentences and pairs are
counted together per phenomenon before the mean over phenomena is taken, so the score belongs to neither task alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .normalise import normalised


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """Right answers to the items of one phenomenon."""

    right: float
    total: int

    @property
    def share(self) -> float:
        """Right answers per item."""
        return self.right / self.total


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosed:
    """A mean over phenomena, in percent."""

    accuracy: float
    normalised_accuracy: float
    phenomena: Mapping[str, Count]


def counts(rights: Sequence[bool], phenomena: Sequence[str]) -> dict[str, Count]:
    """Right answers per phenomenon, in the order in which they come."""
    found: dict[str, Count] = {}
    for right, phenomenon in zip(rights, phenomena, strict=True):
        before = found.get(phenomenon, Count(right=0.0, total=0))
        found[phenomenon] = Count(right=before.right + right, total=before.total + 1)
    return found


def pooled(*parts: Mapping[str, Count]) -> dict[str, Count]:
    """The counts of several tasks, phenomenon by phenomenon."""
    found: dict[str, Count] = {}
    for part in parts:
        for phenomenon, count in part.items():
            before = found.get(phenomenon, Count(right=0.0, total=0))
            found[phenomenon] = Count(right=before.right + count.right, total=before.total + count.total)
    return found


def diagnosed(phenomena: Mapping[str, Count]) -> Diagnosed:
    """The mean over phenomena, with chance at one half; raises ValueError without phenomena."""
    if not phenomena:
        raise ValueError("no phenomena to average")
    accuracy = sum(count.share for count in phenomena.values()) / len(phenomena)
    return Diagnosed(accuracy=100 * accuracy, normalised_accuracy=100 * normalised(accuracy, 0.5), phenomena=dict(phenomena))
