"""Points: every task's gated metric on one scale, 0 for guessing and 100 for all right, so that one rule holds for all of them.

The same affine map as the benchmark's normalisation but without its clamp at 0: a clamp would hide what happens below chance,
and a gate needs a value an item, not one a task.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..catalog.records import Score
from .family import GenerationTask, Scorer, TaskScores
from .metrics import mean_over_strata

POINTS = "points"
"""Name of the metric."""


def in_points(value: float, chance: float) -> float:
    """Points of a share (0 to 1) where guessing gets `chance` (below 1)."""
    return 100 * (value - chance) / (1 - chance)


def with_points(scorer: Scorer) -> Scorer:
    """The scorer, whose items have a second row in `POINTS` and whose scores have their mean as a diagnostic."""

    def score(task: GenerationTask, answers: Sequence[Sequence[str]]) -> TaskScores:
        scored = scorer(task, answers)
        if scored.incomplete or not scored.items:
            return scored
        assert len({item.metric for item in scored.items}) == 1, f"{task.name}: items of several metrics have no one scale"
        return with_rows(task.name, task.language, scored)

    return score


def with_rows(task: str, language: str, scored: TaskScores) -> TaskScores:
    """`scored` with its points."""
    rows = [replace(item, metric=POINTS, value=in_points(item.value, scored.chance)) for item in scored.items]
    main = next(score for score in scored.scores if score.role == "score")
    mean = Score(
        task=task,
        language=language,
        metric=POINTS,
        value=mean_over_strata((row.stratum, row.value) for row in rows),
        stderr=main.stderr,
        items=len(rows),
        higher_is_better=True,
        role="diagnostic",
        source=main.source,
        nulls=main.nulls,
    )
    return replace(scored, items=(*scored.items, *rows), scores=(*scored.scores, mean))
