"""Values of single items, and scores with their standard errors.

A mean's error is the cluster-robust one of Miller, "Adding Error Bars to Evals" (https://arxiv.org/abs/2411.00640), with the
small-sample factor G/(G-1); bits per byte is a ratio of totals and gets the linearised error of a ratio. The bootstrap of
lm-eval is refused: it costs minutes for some metrics and knows no clusters.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .suite import Form, Item


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """What is measured on the items of a form."""

    name: str
    """Name in scores and items."""
    higher_is_better: bool
    """Its direction."""


_CHOICE_METRICS = (Metric(name="acc", higher_is_better=True), Metric(name="margin", higher_is_better=True))
METRICS: dict[Form, tuple[Metric, ...]] = {
    "documents": (Metric(name="bits_per_byte", higher_is_better=False),),
    "word-order": _CHOICE_METRICS,
    "choices": _CHOICE_METRICS,
}
"""Form of a task to its metrics, in the order of a scorecard.

`acc`: 1 when the right text is the likeliest, else 0 (also on a tie). `margin`: log-probability of the right text among the
item's texts, nats: 0 at best, log(1 / choices) for a model that cannot tell them apart. It moves with every change of the
model, where `acc` moves only when an item tips over: a few dozen items can be gated on it.
"""


def bits_per_byte(loglikelihood: float, num_bytes: int) -> float:
    """Bits per byte of one text from its log-likelihood (nats); raises ValueError for a text without bytes."""
    if num_bytes < 1:
        raise ValueError("a text without bytes has no bits per byte")
    return -loglikelihood / (math.log(2) * num_bytes)


def accuracy(loglikelihoods: Sequence[float], gold: int) -> float:
    """1.0 when the right text is strictly the likeliest, else 0.0."""
    return float(all(loglikelihoods[gold] > value for i, value in enumerate(loglikelihoods) if i != gold))


def margin(loglikelihoods: Sequence[float], gold: int) -> float:
    """Log-probability (nats) of the right text under a softmax over the log-likelihoods of all."""
    top = max(loglikelihoods)
    return loglikelihoods[gold] - top - math.log(math.fsum(math.exp(value - top) for value in loglikelihoods))


def choice_values(item: Item, loglikelihoods: Sequence[float]) -> dict[str, float]:
    """`acc` and `margin` of an item from the log-likelihoods (nats) of the texts of `item.asked`.

    With a context, each text's log-likelihood is that of what follows the context, scaled by the mean number of bytes of these
    ends over its own: the order is the one per byte, and the margin stays in nats an item. Raises ValueError for other than one
    log-likelihood a text.
    """
    if len(loglikelihoods) != len(item.asked):
        raise ValueError(f"{item.id} needs {len(item.asked)} log-likelihoods, not {len(loglikelihoods)}")
    values = list(loglikelihoods[: len(item.texts)])
    if item.context:
        lengths = [len(text[len(item.context) :].encode()) for text in item.texts]
        mean = math.fsum(lengths) / len(lengths)
        values = [(value - loglikelihoods[-1]) * mean / length for value, length in zip(values, lengths, strict=True)]
    return {"acc": accuracy(values, item.gold), "margin": margin(values, item.gold)}


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemValue:
    """One item's value of one metric."""

    value: float
    """In the metric's unit."""
    weight: float
    """1 for a mean; the text's bytes for bits per byte."""
    cluster: str
    """Items of one cluster are not independent."""


def weighted_score(items: Iterable[ItemValue]) -> tuple[float, float]:
    """Weighted mean of the items and its standard error over clusters, 0 for a single cluster.

    With bytes as weights the mean is total bits by total bytes. Raises ValueError without items.
    """
    items = list(items)
    if not items:
        raise ValueError("no items to score")
    total = math.fsum(item.weight for item in items)
    mean = math.fsum(item.value * item.weight for item in items) / total
    residuals: defaultdict[str, list[float]] = defaultdict(list)
    for item in items:
        residuals[item.cluster].append(item.weight * (item.value - mean))
    count = len(residuals)
    if count == 1:
        return mean, 0.0
    squares = math.fsum(math.fsum(cluster) ** 2 for cluster in residuals.values())
    return mean, math.sqrt(count / (count - 1) * squares) / total


def mean_over_strata(values: Iterable[tuple[str, float]]) -> float:
    """Plain mean over strata of their items' means, from (stratum, value) of each item; raises ValueError without items."""
    strata: defaultdict[str, list[float]] = defaultdict(list)
    for stratum, value in values:
        strata[stratum].append(value)
    if not strata:
        raise ValueError("no items to score")
    return math.fsum(math.fsum(each) / len(each) for each in strata.values()) / len(strata)


def stratified_stderr(items: Sequence[tuple[str, str, float]]) -> float:
    """Standard error of `mean_over_strata`, from (stratum, cluster, value) of each item: over clusters, 0 for a single one.

    Stratum means are linearised, so a cluster may have items in several strata.
    """
    strata: defaultdict[str, list[float]] = defaultdict(list)
    for stratum, _, value in items:
        strata[stratum].append(value)
    means = {stratum: math.fsum(values) / len(values) for stratum, values in strata.items()}
    clusters: defaultdict[str, float] = defaultdict(float)
    for stratum, cluster, value in items:
        clusters[cluster] += (value - means[stratum]) / (len(strata) * len(strata[stratum]))
    count = len(clusters)
    return math.sqrt(count / (count - 1) * math.fsum(value**2 for value in clusters.values())) if count > 1 else 0.0
