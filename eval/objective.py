"""What a stage is for: the one metric that it must bring, and that says which earlier model of the lineage was the best.

Alignment is judged on SEA-MTBench, a merge on the whole suite. The gain is shown by the mirror image of a regression's test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..catalog.records import STRICT, Scorecard
from .selection import selects

SCORE = "score"
"""As a metric: whatever each task counts by."""
Values = Mapping[tuple[str, str, str], float]
"""By metric, language and task: a model's scores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """The metric that a stage is for, on the mean over languages."""

    __pydantic_config__ = STRICT

    metric: str
    """The metric, as scorecards name it, or `score`."""
    languages: tuple[str, ...] = ()
    """ISO 639-3 of the languages it is about, `!tam` for all but that; empty: all."""
    tasks: tuple[str, ...] = ()
    """Tasks it is about, `!mt-bench` for all but that; empty: all."""
    min_gain: float = 0.0
    """The gain over the parent must be shown to be above this; below 0, a loss must be shown to be smaller."""


def suite_mean(
    values: Values,
    metric: str,
    languages: Sequence[str] = (),
    tasks: Sequence[str] = (),
    scale: Mapping[str, float] | None = None,
) -> float | None:
    """The plain mean over languages of the plain mean over tasks, None without any score there; `score` takes all metrics."""
    by_language: dict[str, list[float]] = {}
    for (name, language, task), value in values.items():
        if metric in (name, SCORE) and selects(languages, language) and selects(tasks, task):
            factor = (scale or {}).get(name, 1.0) if metric == SCORE else 1.0
            by_language.setdefault(language, []).append(value * factor)
    means = [sum(found) / len(found) for found in by_language.values()]
    return sum(means) / len(means) if means else None


def card_values(card: Scorecard, metric: str) -> dict[tuple[str, str, str], float]:
    """A scorecard's scores, signed so that higher is better; for `score` only those that count."""
    return {
        (score.metric, score.language, score.task): score.value if score.higher_is_better else -score.value
        for score in card.scores
        if score.metric == metric or (metric == SCORE and score.role == "score")
    }


def best_of(
    cards: Sequence[Scorecard],
    metric: str,
    languages: Sequence[str] = (),
    tasks: Sequence[str] = (),
    scale: Mapping[str, float] | None = None,
) -> int | None:
    """Place of the scorecard with the highest mean, the later one of equals; None where none has such scores."""
    means = [suite_mean(card_values(card, metric), metric, languages, tasks, scale) for card in cards]
    ranked = [(mean, place) for place, mean in enumerate(means) if mean is not None]
    return max(ranked)[1] if ranked else None


def gain(card: Scorecard, over: Scorecard, metric: str, languages: Sequence[str] = ()) -> float | None:
    """How much higher the mean of a scorecard is than that of another one, signed so that higher is better.

    For `score` every metric counts in units of its mean in `over`, so that bits and percentages can be added. None without any
    such score in `over`, or when the two have scores of different tasks and languages.
    """
    new, old = card_values(card, metric), card_values(over, metric)
    if new.keys() != old.keys():
        return None
    sizes: dict[str, list[float]] = {}
    for (name, _, _), value in old.items():
        sizes.setdefault(name, []).append(abs(value))
    scale = {name: len(found) / sum(found) for name, found in sizes.items() if sum(found) > 0}
    means = [suite_mean(values, metric, languages, (), scale) for values in (new, old)]
    return None if means[0] is None or means[1] is None else means[0] - means[1]
