"""How sure a paired comparison is: intervals and one-sided tests for one node of a suite.

A node is a task, a language (the plain mean of its tasks) or the suite (the plain mean of its languages). Differences are
paired item by item and signed so that higher is better. Five methods, each where it holds:

* Right-or-wrong items: Tango's score interval for paired proportions (https://doi.org/10.1002/(SICI)1097-0258(19980430)17:8%3C891::AID-SIM780%3E3.0.CO;2-B).
  The t interval is refused here: with 44 items and few changed answers it has zero width far too often.
* A mean over tasks of right-or-wrong items that do not weigh the same: the tasks' Tango bounds by squares added (MOVER,
  https://doi.org/10.1002/sim.2919). Both parts only grow with every score, so the bound of the mean does too.
* Graded or clustered items: the cluster-robust t interval, clusters less one degrees of freedom; a mean over independent tasks
  adds their variances and takes Satterthwaite's degrees of freedom.
* Corpus metrics (a mean over strata, as balanced accuracy is one): the paired bootstrap over clusters within strata
  (`resampling`), whose bounds no raised score can lower. Policies with two tiers use it for all graded items.
* Beside the t test, a sign-flip test of the same mean. A t statistic can call a *raised* score a worse one (lifting a low
  outlier shrinks the error faster than it lifts the mean); the sign-flip test cannot: every subset of the differences only
  grows. A gate that asks for both can therefore never turn a pass into a fail because a score was raised.

What differs between two runs of one model (`noise`, a variance) widens every interval: no number of items removes it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from .resampling import ROUNDING, Floats, Stratum, bootstrapped, flip_p_value

Method = Literal["tango", "mover", "cluster-t", "bootstrap"]
Names = NDArray[Any]
"""Names of clusters: text, or numbers in the order of the names."""
FAR = 38.0
"""Standard errors beyond which a p value is 0 in double precision."""

MAX_RESAMPLED = 5_000
"""Clusters above which a node is not resampled unless it must be: the t interval says the same, in a hundredth of the time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The paired items of one task in one language under one metric, or of one of its strata."""

    differences: Floats
    """Candidate less baseline per item, signed so that higher is better."""
    clusters: Names
    """Cluster of each item; the same name in two samples is the same cluster (parallel sets)."""
    is_binary: bool
    """Whether the items are right-or-wrong (0 or 1) and each its own cluster."""
    weight: float
    """Share of the node's mean; a node's shares add up to 1."""
    shares: Floats | None = None
    """Share of each item in the sample's mean, adding up to 1; None: all the same."""

    def mean(self) -> float:
        """The sample's mean difference."""
        return float(self.differences.mean() if self.shares is None else self.differences @ self.shares)

    def item_shares(self) -> Floats:
        """Share of each item in the sample's mean."""
        count = len(self.differences)
        return np.full(count, 1 / count) if self.shares is None else self.shares


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
    method: Method
    """Where bounds and p value come from."""


def estimate(
    samples: Sequence[Sample],
    tolerance: float,
    confidence: float,
    *,
    noise: float = 0.0,
    resample: Literal["never", "small", "always"] = "never",
    clusters: int | None = None,
) -> Estimate:
    """Compare the weighted mean of the samples' mean differences with `-tolerance`.

    `confidence` (above 0.5, below 1) is one-sided; `noise` is the variance of the difference between two runs of one model;
    `resample` says whether bounds are bootstrapped where they are not Tango's (`small`: up to `MAX_RESAMPLED` clusters);
    `clusters` is the number of distinct clusters where the caller knows it. Raises ValueError when a sample has fewer than two
    clusters: it has no error that could be estimated.
    """
    distinct = (
        len(np.unique(np.concatenate([sample.clusters for sample in samples])))
        if samples and clusters is None
        else clusters or 0
    )
    items = sum(len(sample.differences) for sample in samples)
    if not samples or any(not _has_two(sample) for sample in samples):
        raise ValueError("every sample needs at least two clusters")
    method: Method = "cluster-t"
    if _is_independent(samples, distinct, items):
        is_pooled = len({round(sample.weight / len(sample.differences), 15) for sample in samples}) == 1
        method = "tango" if is_pooled else "mover"
        delta, lower, upper, p_value = (_tango if is_pooled else _mover)(samples, tolerance, confidence, noise)
        flip = p_value
    else:
        flip = flip_p_value(_contributions(samples, tolerance), noise)
        if resample == "always" or (resample == "small" and distinct <= MAX_RESAMPLED):
            method = "bootstrap"
            delta, lower, upper, p_value = _bootstrap(samples, tolerance, confidence, noise)
        else:
            delta, lower, upper, p_value = _cluster_t(samples, tolerance, confidence, noise)
    return Estimate(
        delta=delta, lower=lower, upper=upper, p_value=p_value, flip_p_value=flip, items=items, clusters=distinct, method=method
    )  # fmt: skip


def mirrored(samples: Sequence[Sample]) -> list[Sample]:
    """The same samples with losses for wins: a test of a drop becomes one of a gain."""
    return [replace(sample, differences=-sample.differences) for sample in samples]


def standard_error(samples: Sequence[Sample]) -> float:
    """Cluster-robust standard error of the weighted mean, of the items alone."""
    return math.sqrt(_variance(samples, 0.0)[0])


def _has_two(sample: Sample) -> bool:
    return len(sample.differences) > 1 if sample.is_binary else len(np.unique(sample.clusters)) > 1


def _is_independent(samples: Sequence[Sample], clusters: int, items: int) -> bool:
    """Whether the node is made of proportions of independent items; if all weigh the same, it is itself one."""
    return clusters == items and all(sample.is_binary and sample.shares is None for sample in samples)


def tango_z(wins: int, losses: int, items: int, delta: float, noise: float = 0.0) -> float:
    """Tango's score statistic of the hypothesis that P(win) - P(loss) is `delta` (above -1, below 1).

    `noise`, a variance of the mean, widens it. It keeps the statistic monotone: where the squared statistic without noise is
    ordered, and the squared distance is, so is their mediant.
    """
    b = (2 * items - wins + losses) * delta - wins - losses
    c = -losses * delta * (1 - delta)
    # The likelihood's maximum under the hypothesis, for P(loss).
    loss = (math.sqrt(max(b * b - 8 * items * c, 0.0)) - b) / (4 * items)
    variance = items * (2 * loss + delta * (1 - delta)) + noise * items * items
    distance = wins - losses - items * delta
    if variance <= 0:
        return 0.0 if distance == 0 else math.copysign(math.inf, distance)
    return distance / math.sqrt(variance)


def tango_bounds(wins: int, losses: int, items: int, confidence: float, noise: float = 0.0) -> tuple[float, float]:
    """One-sided lower and upper bound, each at `confidence`, of P(win) - P(loss)."""
    z = NormalDist().inv_cdf(confidence)
    return _tango_limit(wins, losses, items, z, -1, noise), _tango_limit(wins, losses, items, z, 1, noise)


@lru_cache(maxsize=16_384)
def _tango_limit(wins: int, losses: int, items: int, z: float, sign: int, noise: float = 0.0) -> float:
    """Where the score statistic is `z` from the observed difference, below it (`sign` -1) or above."""
    edge = 1 - 1e-9
    middle, end = min(max((wins - losses) / items, -edge), edge), sign * edge
    if sign * tango_z(wins, losses, items, end, noise) >= -z:  # not excluded even at the very end
        return float(sign)
    if sign * tango_z(wins, losses, items, middle, noise) <= -z:  # z is 0, or so close to it that rounding decides
        return middle
    low, high = min(middle, end), max(middle, end)
    return _root(lambda x: sign * tango_z(wins, losses, items, x, noise) + z, low, high, 1e-12)


def _root(function: Callable[[float], float], low: float, high: float, tolerance: float) -> float:
    """Where a function is 0 between two places where its signs differ."""
    return float(optimize.brentq(function, low, high, xtol=tolerance))  # pyright: ignore[reportArgumentType]


def _counts(sample: Sample) -> tuple[int, int, int]:
    """Wins, losses and items."""
    wins, losses = np.count_nonzero(sample.differences > 0), np.count_nonzero(sample.differences < 0)
    return int(wins), int(losses), len(sample.differences)


def _tango(samples: Sequence[Sample], tolerance: float, confidence: float, noise: float) -> tuple[float, float, float, float]:
    wins, losses, items = (sum(column) for column in zip(*map(_counts, samples), strict=True))
    lower, upper = tango_bounds(wins, losses, items, confidence, noise)
    if tolerance == 0 and wins == losses == 0:
        return 0.0, lower, upper, 1.0
    p_value = float(special.ndtr(tango_z(wins, losses, items, max(-tolerance, 1e-9 - 1), noise)))
    return (wins - losses) / items, lower, upper, p_value


def _mover(samples: Sequence[Sample], tolerance: float, confidence: float, noise: float) -> tuple[float, float, float, float]:
    """Square-and-add bounds; the p value is that of the upper bound which touches the tolerance, 1 where there is no drop."""
    counts, weights = list(map(_counts, samples)), [sample.weight for sample in samples]
    deltas = [(wins - losses) / items for wins, losses, items in counts]
    delta = sum(weight * one for weight, one in zip(weights, deltas, strict=True))

    def limit(z: float, sign: int) -> float:
        reaches = [_tango_limit(*count, z, sign) - one for count, one in zip(counts, deltas, strict=True)]
        squares = sum((weight * reach) ** 2 for weight, reach in zip(weights, reaches, strict=True))
        return delta + sign * math.sqrt(squares + z * z * noise)

    z = NormalDist().inv_cdf(confidence)
    lower, upper = limit(z, -1), limit(z, 1)
    if delta >= -tolerance - ROUNDING:
        return delta, lower, upper, 1.0
    if limit(FAR, 1) < -tolerance:
        return delta, lower, upper, 0.0
    if limit(0.0, 1) >= -tolerance:  # apart by rounding alone
        return delta, lower, upper, 0.5
    far = _root(lambda z: limit(z, 1) + tolerance, 0.0, FAR, 1e-6)
    return delta, lower, upper, float(special.ndtr(-far))


def _cluster_t(
    samples: Sequence[Sample], tolerance: float, confidence: float, noise: float
) -> tuple[float, float, float, float]:
    delta = sum(sample.weight * sample.mean() for sample in samples)
    variance, freedom = _variance(samples, noise)
    error = math.sqrt(variance)
    if error == 0:
        return delta, delta, delta, 0.0 if delta < -tolerance - ROUNDING else 1.0
    reach = float(special.stdtrit(freedom, confidence)) * error
    return delta, delta - reach, delta + reach, float(special.stdtr(freedom, (delta + tolerance) / error))


def _bootstrap(
    samples: Sequence[Sample], tolerance: float, confidence: float, noise: float
) -> tuple[float, float, float, float]:
    """Percentile bounds, and the share of replicates whose drop is within the tolerance (0 when there is none)."""
    groups = []
    for group in _groups(samples):
        names = np.unique(np.concatenate([sample.clusters for sample in group]))
        strata = []
        for sample in group:
            places, shares = np.searchsorted(names, sample.clusters), sample.item_shares()
            sums: Floats = np.bincount(places, weights=shares * sample.differences, minlength=len(names)).astype(np.float64)
            counts: Floats = np.bincount(places, weights=shares, minlength=len(names)).astype(np.float64)
            strata.append(Stratum(sums=sums, counts=counts, weight=sample.weight))
        groups.append((names[0], strata))
    replicates = bootstrapped([strata for _, strata in sorted(groups, key=lambda group: group[0])], noise)
    delta = sum(sample.weight * sample.mean() for sample in samples)
    lower, upper = np.quantile(replicates, (1 - confidence, confidence))
    return delta, float(lower), float(upper), float((replicates >= -tolerance - ROUNDING).mean())


def _variance(samples: Sequence[Sample], noise: float) -> tuple[float, float]:
    """Variance of the weighted mean, and its degrees of freedom.

    Samples that share clusters are one group, whose cluster sums are taken over all of them; groups are independent.
    """
    variances, freedoms = [], []
    for group in _groups(samples):
        names, code = np.unique(np.concatenate([sample.clusters for sample in group]), return_inverse=True)
        distinct = [len(np.unique(sample.clusters)) for sample in group]
        residuals = [
            sample.weight * (sample.differences - sample.mean()) * sample.item_shares() * math.sqrt(count / (count - 1))
            for sample, count in zip(group, distinct, strict=True)
        ]
        sums = np.bincount(code, weights=np.concatenate(residuals), minlength=len(names))
        variances.append(float(sums @ sums))
        # With partly shared clusters the smallest sample's count is the cautious choice.
        freedoms.append(min(distinct) - 1)
    total = sum(variances)
    if total == 0:
        return noise, float(sum(freedoms))
    # The noise is known, not estimated here: it adds to the variance and takes no degrees of freedom.
    return total + noise, (total + noise) ** 2 / sum(v * v / freedom for v, freedom in zip(variances, freedoms, strict=True))


def _groups(samples: Sequence[Sample]) -> list[list[Sample]]:
    """The samples, split into groups that have no cluster in common."""
    parts = [np.unique(sample.clusters) for sample in samples]
    if len(np.unique(np.concatenate(parts))) == sum(map(len, parts)):
        return [[sample] for sample in samples]
    groups: list[tuple[set[Any], list[Sample]]] = []
    for sample, part in zip(samples, parts, strict=True):
        names = set(part.tolist())
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
    _, code = np.unique(np.concatenate([sample.clusters for sample in samples]), return_inverse=True)
    weights = [sample.weight * (sample.differences + tolerance) * sample.item_shares() for sample in samples]
    parts: Floats = np.bincount(code, weights=np.concatenate(weights)).astype(np.float64)
    return parts


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p values, in the order given: at most alpha means rejected at family-wise level alpha."""
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted
