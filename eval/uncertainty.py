"""How sure a paired comparison is: intervals and one-sided tests for one node of a suite.

A node is a task, a language (the plain mean of its tasks) or the suite (the plain mean of its languages). Differences are
paired item by item and signed so that higher is better. Three methods, each where it holds:

* Right-or-wrong items: Tango's score interval for paired proportions (https://doi.org/10.1002/(SICI)1097-0258(19980430)17:8%3C891::AID-SIM780%3E3.0.CO;2-B).
  The t interval is refused here: with 44 items and few changed answers it has zero width far too often.
* Graded or clustered items: the cluster-robust t interval, clusters less one degrees of freedom; a mean over independent tasks
  adds their variances and takes Satterthwaite's degrees of freedom.
* Beside the t test, a sign-flip test of the same mean. A t statistic can call a *raised* score a worse one (lifting a low
  outlier shrinks the error faster than it lifts the mean); the sign-flip test cannot: every subset of the differences only
  grows. A gate that asks for both can therefore never turn a pass into a fail because a score was raised.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

Floats = NDArray[np.float64]

EXACT_CLUSTERS = 13
"""Up to here all sign flips are enumerated (8,192); above, `FLIPS` of them are drawn."""
FLIPS = 9_999
"""Sign flips drawn, from a fixed seed: the resolution of the p value is 1e-4, below any threshold of our policies."""
CHUNK = 1_000
"""Sign flips held in memory at a time."""
ROUNDING = 1e-12
"""What a sum of differences may be off by: sums this close to zero are ties."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The paired items of one task in one language under one metric."""

    differences: Floats
    """Candidate less baseline per item, signed so that higher is better."""
    clusters: NDArray[np.str_]
    """Cluster of each item; the same name in two samples is the same cluster (parallel sets)."""
    is_binary: bool
    """Whether the items are right-or-wrong (0 or 1) and each its own cluster."""
    weight: float
    """Share of the node's mean; a node's shares add up to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What the items say about one node."""

    delta: float
    """Weighted mean of the samples' mean differences."""
    lower: float
    """One-sided lower confidence bound."""
    upper: float
    """One-sided upper confidence bound."""
    p_value: float
    """Of the hypothesis that the drop is at most the tolerance: small means that it is larger."""
    flip_p_value: float
    """The same by the sign-flip test, 0 when no flip reaches the observed sum; equal to `p_value` for Tango's method."""
    items: int
    """Paired items."""
    clusters: int
    """Distinct clusters."""


def estimate(samples: Sequence[Sample], tolerance: float, confidence: float) -> Estimate:
    """Compare the weighted mean of the samples' mean differences with `-tolerance`.

    `confidence` (above 0.5, below 1) is one-sided. Raises ValueError when a sample has fewer than two clusters: it has no
    error that could be estimated.
    """
    if not samples or any(len(np.unique(sample.clusters)) < 2 for sample in samples):
        raise ValueError("every sample needs at least two clusters")
    shares = {round(sample.weight / len(sample.differences), 15) for sample in samples}
    clusters = len({str(name) for sample in samples for name in np.unique(sample.clusters)})
    items = sum(len(sample.differences) for sample in samples)
    # Only when all items weigh the same is the node's mean the pooled proportion that Tango's interval is about.
    if all(sample.is_binary for sample in samples) and len(shares) == 1 and clusters == items:
        delta, lower, upper, p_value = _tango(samples, tolerance, confidence)
        flip = p_value
    else:
        delta, lower, upper, p_value = _cluster_t(samples, tolerance, confidence)
        flip = flip_p_value(_contributions(samples, tolerance))
    return Estimate(delta=delta, lower=lower, upper=upper, p_value=p_value, flip_p_value=flip, items=items, clusters=clusters)


def tango_z(wins: int, losses: int, items: int, delta: float) -> float:
    """Tango's score statistic of the hypothesis that P(win) - P(loss) is `delta` (above -1, below 1)."""
    b = (2 * items - wins + losses) * delta - wins - losses
    c = -losses * delta * (1 - delta)
    # The likelihood's maximum under the hypothesis, for P(loss).
    loss = (np.sqrt(max(b * b - 8 * items * c, 0.0)) - b) / (4 * items)
    variance = items * (2 * loss + delta * (1 - delta))
    distance = wins - losses - items * delta
    if variance <= 0:
        return 0.0 if distance == 0 else float(np.copysign(np.inf, distance))
    return float(distance / np.sqrt(variance))


def tango_bounds(wins: int, losses: int, items: int, confidence: float) -> tuple[float, float]:
    """One-sided lower and upper bound, each at `confidence`, of P(win) - P(loss)."""
    z = float(stats.norm.ppf(confidence))
    edge = 1 - 1e-9

    def bound(sign: int, end: float) -> float:
        if sign * tango_z(wins, losses, items, end) >= -z:  # not excluded even at the very end
            return float(np.sign(end))
        middle = (wins - losses) / items
        start = min(max(middle, -edge), edge)
        found = optimize.root_scalar(lambda x: sign * tango_z(wins, losses, items, x) + z, bracket=(start, end), xtol=1e-12)
        return float(found.root)

    return bound(-1, -edge), bound(1, edge)


def _tango(samples: Sequence[Sample], tolerance: float, confidence: float) -> tuple[float, float, float, float]:
    differences = np.concatenate([sample.differences for sample in samples])
    items, wins, losses = len(differences), int((differences > 0).sum()), int((differences < 0).sum())
    lower, upper = tango_bounds(wins, losses, items, confidence)
    if tolerance == 0 and wins == losses == 0:
        return 0.0, lower, upper, 1.0
    p_value = float(stats.norm.cdf(tango_z(wins, losses, items, max(-tolerance, 1e-9 - 1))))
    return (wins - losses) / items, lower, upper, p_value


def _cluster_t(samples: Sequence[Sample], tolerance: float, confidence: float) -> tuple[float, float, float, float]:
    delta = float(sum(sample.weight * sample.differences.mean() for sample in samples))
    variance, freedom = _variance(samples)
    error = float(np.sqrt(variance))
    if error == 0:
        return delta, delta, delta, 0.0 if delta < -tolerance - ROUNDING else 1.0
    reach = float(stats.t.ppf(confidence, freedom)) * error
    return delta, delta - reach, delta + reach, float(stats.t.cdf((delta + tolerance) / error, freedom))


def _variance(samples: Sequence[Sample]) -> tuple[float, float]:
    """Variance of the weighted mean, and its degrees of freedom.

    Samples that share clusters are one group, whose cluster sums are taken over all of them; groups are independent.
    """
    variances, freedoms = [], []
    for group in _groups(samples):
        sums: dict[str, float] = {}
        for sample in group:
            names, code = np.unique(sample.clusters, return_inverse=True)
            residuals = sample.weight * (sample.differences - sample.differences.mean()) / len(sample.differences)
            correction = np.sqrt(len(names) / (len(names) - 1))
            for name, value in zip(names, np.bincount(code, weights=residuals) * correction, strict=True):
                sums[str(name)] = sums.get(str(name), 0.0) + float(value)
        variances.append(sum(value * value for value in sums.values()))
        # With partly shared clusters the smallest sample's count is the cautious choice.
        freedoms.append(min(len(np.unique(sample.clusters)) for sample in group) - 1)
    total = sum(variances)
    if total == 0:
        return 0.0, float(sum(freedoms))
    return total, total**2 / sum(v * v / freedom for v, freedom in zip(variances, freedoms, strict=True))


def _groups(samples: Sequence[Sample]) -> list[list[Sample]]:
    """The samples, split into groups that have no cluster in common."""
    groups: list[tuple[set[str], list[Sample]]] = []
    for sample in samples:
        names = {str(name) for name in sample.clusters}
        members = [sample]
        apart = []
        for other_names, others in groups:
            if names & other_names:
                names |= other_names
                members = others + members
            else:
                apart.append((other_names, others))
        groups = [*apart, (names, members)]
    return [members for _, members in groups]


def _contributions(samples: Sequence[Sample], tolerance: float) -> Floats:
    """Each cluster's part of `mean difference + tolerance`, ordered by the cluster's name."""
    parts: dict[str, float] = {}
    for sample in samples:
        names, code = np.unique(sample.clusters, return_inverse=True)
        weights = sample.weight * (sample.differences + tolerance) / len(sample.differences)
        for name, value in zip(names, np.bincount(code, weights=weights), strict=True):
            parts[str(name)] = parts.get(str(name), 0.0) + float(value)
    return np.array([parts[name] for name in sorted(parts)])


def flip_p_value(values: Floats) -> float:
    """Share of the sign flips whose sum is at most the observed one: small when the values are below zero.

    A flip of the subset A changes the sum by minus twice the sum of A, so the share counts subsets with a sum of at least 0.
    When none but the empty one has, the answer is 0, the smallest this test can say: with few clusters its exact value would
    be larger than any useful threshold. A sum of at least 0 is no evidence at all (of every subset and its complement one has
    such a sum) and is answered with 1 without drawing. Raising a value never lowers the answer.
    """
    if values.sum() >= -ROUNDING:
        return 1.0
    count = len(values)
    if count <= EXACT_CLUSTERS:
        codes = np.arange(1, 2**count)
        reached = int(((codes[:, None] >> np.arange(count) & 1) @ values >= -ROUNDING).sum())
        return (reached + 1) / 2**count if reached else 0.0
    generator = np.random.default_rng(0)
    reached = 0
    for start in range(0, FLIPS, CHUNK):
        subsets = generator.integers(0, 2, size=(min(CHUNK, FLIPS - start), count), dtype=np.int8)
        reached += int((subsets.astype(np.float64) @ values >= -ROUNDING).sum())
    return (reached + 1) / (FLIPS + 1) if reached else 0.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p values, in the order given: at most alpha means rejected at family-wise level alpha."""
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted
