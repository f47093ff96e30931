"""Raw scores onto the benchmark's scale, where chance is 0 and the best possible 1.

Below chance is 0 and above the maximum is left as it is: so the benchmark does it, and a mean over tasks would move otherwise.
A minimum above the maximum turns the scale round (MetricX: 25 is worst, 0 is best).
"""

from __future__ import annotations

METRICX_WORST = 25.0
"""Raw MetricX-24 of a translation that has nothing to do with its source; 0 is a perfect one."""


def normalised(score: float, minimum: float, maximum: float = 1.0) -> float:
    """`score` as a share of the way from `minimum` to `maximum`, 0 below; 0 where the two are the same."""
    if minimum == maximum:
        return 0.0
    return max((score - minimum) / (maximum - minimum), 0.0)


def chance(classes: int) -> float:
    """Balanced accuracy of a constant answer; raises ValueError without classes."""
    if classes < 1:
        raise ValueError("a task needs at least one class")
    return 1.0 / classes
