"""Scores of translations: MetricX-24 from given raw scores, which counts, and chrF++ beside it, which never does.

The two live on different scales; a total in which one stands for the other would be neither. MetricX itself is computed
elsewhere (a 13B model): this module knows what its numbers mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .normalise import METRICX_WORST, normalised


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricX:
    """MetricX-24 of a corpus."""

    raw: float
    """Mean, 25 worst to 0 best."""
    normalised: float
    """Mean of the items' normalised scores, 0 to 100: the task's score."""
    items: tuple[float, ...]
    """Normalised, 0 to 100."""


def normalised_metricx(raw: float) -> float:
    """A raw MetricX-24 score (25 worst, 0 best) as 0 to 100."""
    return 100 * normalised(raw, METRICX_WORST, 0.0)


def metricx(raw: Sequence[float]) -> MetricX:
    """Scores of a corpus from its items' raw scores; raises ValueError without any."""
    if not raw:
        raise ValueError("no MetricX scores to average")
    items = tuple(normalised_metricx(score) for score in raw)
    return MetricX(raw=sum(raw) / len(raw), normalised=sum(items) / len(items), items=items)


def chrf(translations: Sequence[str], references: Sequence[str]) -> float:
    """Corpus chrF++ (characters up to six, words up to two), 0 to 100; raises ValueError with unequal lengths or none."""
    if not references or len(translations) != len(references):
        raise ValueError(f"{len(references)} references and {len(translations)} translations cannot be scored")
    from sacrebleu.metrics.chrf import CHRF

    return float(CHRF(word_order=2).corpus_score(list(translations), [list(references)]).score)
