"""The 2026 log-probability variants: how probable the model finds the right answer, on average.

Options are not compared with one another and chance is not taken off, so this is no accuracy. An item without a log-probability
counts as improbable.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Probabilities:
    """What the right answers' log-probabilities (nats) come to."""

    items: tuple[float, ...]
    """Probability of each item's right answer, percent, 0 without one."""
    mean: float
    """Of the items: the task's score."""
    stderr: float
    """Of `mean`."""
    mean_logprob: float
    """Over the items that have one."""
    stderr_logprob: float
    """Of `mean_logprob`."""
    nulls: int
    """Items without one."""


def probabilities(logprobs: Sequence[float | None]) -> Probabilities:
    """Scores from the summed log-probabilities of the right answers; raises ValueError without items."""
    if not logprobs:
        raise ValueError("no log-probabilities to average")
    known = [value for value in logprobs if value is not None]
    items = tuple(0.0 if value is None else 100 * math.exp(value) for value in logprobs)
    return Probabilities(
        items=items,
        mean=statistics.fmean(items),
        stderr=_stderr(items),
        mean_logprob=statistics.fmean(known) if known else 0.0,
        stderr_logprob=_stderr(known),
        nulls=len(logprobs) - len(known),
    )


def _stderr(values: Sequence[float]) -> float:
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
