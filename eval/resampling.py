"""Sign flips and the paired bootstrap: the tests of a mean difference that no raised score can turn against a model.

Both look at sums of the differences with weights that are never negative and never depend on the differences, so that raising
any score raises every sum. A t statistic has no such property, see `uncertainty`. The bootstrap draws one cluster less than
there are within each group of strata (Rao and Wu, https://doi.org/10.1080/01621459.1988.10478591): drawing as many as there
are would understate the error by 1/n, and stretching the replicates to mend that would give some items negative weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

EXACT_CLUSTERS = 13
"""Up to here all sign flips are enumerated (8,192); above, `FLIPS` of them are drawn."""
FLIPS = 9_999
"""Sign flips and bootstrap replicates, from a fixed seed: the resolution of a p value is 1e-4."""
DRAWS = 8_000_000
"""Clusters drawn for one node: wide nodes make do with fewer replicates, but never with fewer than `LEAST`."""
LEAST = 1_999
CELLS = 2_000_000
"""Numbers drawn at a time: bounds the memory."""
ROUNDING = 1e-12
"""What a sum of differences may be off by: sums this close to zero are ties."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stratum:
    """Clusters of one stratum, as sums: its mean is `sums.sum() / counts.sum()`."""

    sums: Floats
    """Sum of the differences of each cluster of the group (0 where it has no item here)."""
    counts: Floats
    """Items of each cluster."""
    weight: float
    """Share of the node's mean."""


def flip_p_value(values: Floats, noise: float = 0.0) -> float:
    """Share of the sign flips whose sum is at most the observed one: small when the values are below zero.

    A flip of the subset A changes the sum by minus twice the sum of A, so the share counts subsets with a sum of at least 0.
    When none but the empty one has, the answer is 0, the smallest this test can say: with few clusters its exact value would
    be larger than any useful threshold. A sum of at least 0 is no evidence at all (of every subset and its complement one has
    such a sum) and is answered with 1 without drawing. `noise` is the variance of what else moves the sum, drawn as normal.
    Raising a value never lowers the answer.
    """
    if values.sum() >= -ROUNDING:
        return 1.0
    count = len(values)
    if count <= EXACT_CLUSTERS and noise == 0:
        codes = np.arange(1, 2**count)
        reached = int(((codes[:, None] >> np.arange(count) & 1) @ values >= -ROUNDING).sum())
        return (reached + 1) / 2**count if reached else 0.0
    generator, other = np.random.default_rng(0), np.random.default_rng(1)
    reached, chunk = 0, 1_000
    for start in range(0, FLIPS, chunk):
        size = min(chunk, FLIPS - start)
        sums = generator.integers(0, 2, size=(size, count), dtype=np.int8).astype(np.float64) @ values
        if noise:
            sums -= other.standard_normal(size) * np.sqrt(noise) / 2
        reached += int((sums >= -ROUNDING).sum())
    return (reached + 1) / (FLIPS + 1) if reached else 0.0


def bootstrapped(groups: Sequence[Sequence[Stratum]], noise: float = 0.0) -> Floats:
    """Replicates (`FLIPS`, for many clusters fewer) of the weighted mean of the strata.

    Groups have no cluster in common and are drawn one by one.

    The caller orders groups and clusters by something that no relabelling of tasks changes. `noise` is a variance, as above.
    """
    clusters = sum(len(group[0].sums) for group in groups)
    total = np.zeros(min(FLIPS, max(LEAST, DRAWS // clusters)))
    for seed, group in zip(np.random.SeedSequence(0).spawn(len(groups)), groups, strict=True):
        total += _drawn(group, np.random.default_rng(seed), len(total))
    if noise:
        total += np.random.default_rng(1).standard_normal(len(total)) * np.sqrt(noise)
    return total


def _drawn(strata: Sequence[Stratum], generator: np.random.Generator, replicates: int) -> Floats:
    """Replicates of one group's part of the mean."""
    clusters = len(strata[0].sums)
    columns = np.column_stack([column for stratum in strata for column in (stratum.sums, stratum.counts)])
    found = np.zeros(replicates)
    chunk = max(1, CELLS // clusters)
    for start in range(0, replicates, chunk):
        size = min(chunk, replicates - start)
        drawn = generator.integers(0, clusters, size=(size, clusters - 1)) + clusters * np.arange(size)[:, None]
        times = np.bincount(drawn.ravel(), minlength=size * clusters).reshape(size, clusters).astype(np.float64)
        sums = times @ columns
        for place, stratum in enumerate(strata):
            top, bottom = sums[:, 2 * place], sums[:, 2 * place + 1]
            # A stratum of which nothing was drawn keeps its mean: rare, and only where clusters span strata.
            plain = float(stratum.sums.sum() / stratum.counts.sum())
            means = np.divide(top, bottom, out=np.full(size, plain), where=bottom > 0)
            found[start : start + size] += stratum.weight * means
    return found
