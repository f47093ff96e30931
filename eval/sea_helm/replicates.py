"""The 2026 leaderboard's score out of several runs, as its notebook computes it and as it ought to be.

The notebook draws, 30 times, one run for every item and averages the 30 scores. `as_published` repeats it with the notebook's
generator, draw for draw, and with what is wrong in it: log-probability tasks are turned upside down, the error is that of the
mean of the draws (it shrinks with their number), and percentages that happen to be at most 1 are taken for shares. `measured`
is the estimate that the draws approximate (the mean over runs and items, in a unit that is said), with an error over items,
which holds both what a run and what an item contributes (https://arxiv.org/abs/2411.00640).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .averages import place_of
from .classification import measured as labels_measured
from .normalise import chance, normalised

Floats = NDArray[np.float64]
SEED = 94370244
DRAWS = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Runs:
    """One task's item scores in several runs."""

    scores: tuple[tuple[float, ...], ...]
    """One row a run, one column an item; an empty row is a run that is missing."""
    labels: tuple[Hashable, ...] = ()
    """The items' classes, for tasks with options; else empty."""
    is_logprob: bool = False
    """Whether the scores are probabilities of the right answer, in percent."""

    @property
    def is_complete(self) -> bool:
        """Whether there is a run and none is missing."""
        return bool(self.scores) and all(self.scores)


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A score as the notebook states it."""

    mean: float
    stderr: float
    """Of the mean of the draws: not of the score."""
    draws: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaderboard:
    """The notebook's table."""

    levels: Mapping[tuple[str, str], Published]
    """(language, task, group or competency); an empty name is the language's total, empty both the overall one."""
    incomplete: tuple[tuple[str, str], ...]
    """Language and task of which a run is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A score over runs and items, percent, with the standard error over items."""

    value: float
    stderr: float
    runs: int
    items: int


def as_published(runs: Runs, random: np.random.Generator, draws: int = DRAWS) -> Published:
    """The notebook's score of one task; `random` is its one generator, which tasks use up one after the other.

    A task without any run scores 0. Raises ValueError for runs of unequal length.
    """
    matrix = _matrix(runs)
    if not matrix.size:
        return published([0.0] * draws)
    chosen = random.integers(0, len(matrix), size=(draws, matrix.shape[1]))
    picked = matrix[chosen, np.arange(matrix.shape[1])]
    if runs.is_logprob:
        return published([float(100 * np.mean(random.random(len(row)) > row)) for row in picked])
    if len(set(runs.labels)) < len(runs.labels):
        return published([_balanced(row, runs.labels) for row in picked])
    unit = 100.0 if matrix.max() <= 1 else 1.0
    return published([float(unit * row.mean()) for row in picked])


def published(draws: Sequence[float]) -> Published:
    """Mean and error of a list of draws."""
    return Published(mean=float(np.mean(draws)), stderr=published_stderr(draws), draws=tuple(draws))


def published_stderr(draws: Sequence[float]) -> float:
    """The notebook's error: the square root of the draws' (sample) variance over their number, 0 for one draw."""
    return math.sqrt(float(np.var(draws, ddof=1)) / len(draws)) if len(draws) > 1 else 0.0


def averaged(parts: Sequence[Published]) -> Published:
    """A higher level: the parts' draws averaged one by one. Raises ValueError without parts."""
    if not parts:
        raise ValueError("no scores to average")
    return published([float(np.mean(values)) for values in zip(*(part.draws for part in parts), strict=True)])


def leaderboard(tasks: Mapping[str, Mapping[str, Runs]], draws: int = DRAWS) -> Leaderboard:
    """The notebook's whole table from the runs of each language and task, in their order, which the generator follows.

    LINDSEA is a competency as any other here, `syntax-criteria` included: the notebook's totals and the result files' differ.
    Raises ValueError for a language without tasks.
    """
    random = np.random.default_rng(SEED)
    levels: dict[tuple[str, str], Published] = {}
    for language, runs in tasks.items():
        scores = {task: as_published(of, random, draws) for task, of in runs.items()}
        levels |= {(language, task): score for task, score in scores.items()}
        places = {task: place_of("sea_helm_2026", task) for task in runs}
        parts: dict[str, dict[str, list[Published]]] = {}
        for task, score in scores.items():
            parts.setdefault(places[task].competency, {}).setdefault(places[task].group or task, []).append(score)
        for competency, groups in parts.items():
            levels |= {(language, name): averaged(inside) for name, inside in groups.items() if name not in scores}
            levels[language, competency] = averaged([averaged(inside) for inside in groups.values()])
        levels[language, ""] = averaged([levels[language, competency] for competency in parts])
    levels["", ""] = averaged([levels[language, ""] for language in tasks])
    lost = tuple((language, task) for language, runs in tasks.items() for task, of in runs.items() if not of.is_complete)
    return Leaderboard(levels=levels, incomplete=lost)


def measured(runs: Runs, unit: Literal["share", "percent"]) -> Estimate:
    """The mean over runs and items with an error over items; classes, where there are some, count alike and chance is 0.

    Raises ValueError without a run or with runs of unequal length.
    """
    matrix = _matrix(runs)
    if not matrix.size:
        raise ValueError("no run to average")
    items = matrix.mean(axis=0) * (1.0 if unit == "share" and not runs.is_logprob else 0.01)
    strata = runs.labels if runs.labels and not runs.is_logprob else ("",) * len(items)
    sizes = {label: strata.count(label) for label in strata}
    weights = np.array([1.0 / (len(sizes) * sizes[label]) for label in strata])
    means = {label: float(np.mean([v for v, s in zip(items, strata, strict=True) if s == label])) for label in sizes}
    residuals = weights * (items - np.array([means[label] for label in strata]))
    value = math.fsum(means.values()) / len(means)
    stderr = math.sqrt(len(items) / (len(items) - 1) * float(np.sum(residuals**2))) if len(items) > 1 else 0.0
    low = chance(len(sizes)) if len(sizes) > 1 else 0.0
    return Estimate(value=100 * normalised(value, low), stderr=100 * stderr / (1 - low), runs=len(matrix), items=len(items))


def _matrix(runs: Runs) -> Floats:
    rows = [row for row in runs.scores if row]
    if len({len(row) for row in rows}) > 1:
        raise ValueError(f"runs over {sorted({len(row) for row in rows})} items cannot be put together")
    return np.array(rows, dtype=np.float64)


def _balanced(hits: Floats, labels: Sequence[Hashable]) -> float:
    answers = [label if hit == 1 else "" for hit, label in zip(hits, labels, strict=True)]
    return labels_measured(answers, labels, "", len(set(labels))).normalised_accuracy
