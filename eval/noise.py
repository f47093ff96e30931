"""The noise floor: how much scores differ between runs that should not differ, from three or more scorecards.

Re-evaluations of one model, runs with another seed, or neighbouring checkpoints late in training. Part of their difference is
that of the items, which the gate's intervals know; what is left over is the noise that no number of items removes. A gate that
does not know of it raises more false alarms the more items it has.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np

from ..catalog.errors import SeaLionError
from .comparability import require_comparable, require_whole
from .pairing import Cell, Incomparable, Items, cells_of, chosen
from .policy import ANY_METRIC, Noise
from .uncertainty import standard_error

LEAST = 3
"""Scorecards below which a standard deviation is a guess."""


class NoNoiseFloor(SeaLionError):
    """Scorecards out of which no noise floor can be estimated."""


def noise_floor(runs: Sequence[Items]) -> dict[str, Noise]:
    """Run noise and churn by metric, and under `score` over what each task counts by; raises NoNoiseFloor.

    A task's difference between two runs varies by the items' own error and twice `sigma_run` squared; the mean of all tasks,
    beside what is left of that, by twice `sigma_common` squared. What comes out below zero is zero: a floor of zero means that
    the items' error explains all that was seen.
    """
    if len(runs) < LEAST:
        raise NoNoiseFloor(
            f"a noise floor needs at least {LEAST} scorecards, not {len(runs)}: evaluate again, or earlier checkpoints"
        )
    refs = [items.ref for items in runs]
    if len(set(refs)) < len(refs):
        raise NoNoiseFloor(f"{max(refs, key=refs.count)} is named twice: a run does not differ from itself")
    try:
        for items in runs:
            require_whole(items)
        for one, other in combinations(runs, 2):
            require_comparable(one, other, same_prompts=True)
        pairs = [cells_of(one, other) for one, other in combinations(runs, 2)]
    except Incomparable as problem:
        raise NoNoiseFloor(f"the scorecards cannot be compared: {problem}") from problem
    card = runs[0].card
    metrics = [*sorted({cell.metric for cell in pairs[0]}), ANY_METRIC]
    by_metric = {metric: [chosen(cells, card, metric, (), (), {}) for cells in pairs] for metric in metrics}
    return {metric: _noise(cells) for metric, cells in by_metric.items() if cells[0]}


def _noise(pairs: Sequence[Sequence[Cell]]) -> Noise:
    """From the cells of every pair of runs."""
    own, common, churn = [], [], []
    for cells in pairs:
        differences = np.array([cell.candidate - cell.reference for cell in cells])
        items = float(np.mean([_item_error(cell) ** 2 for cell in cells]))
        if len(cells) > 1:
            spread = float(differences.var(ddof=1))
            own.append((spread - items) / 2)
            common.append((float(differences.mean()) ** 2 - spread / len(cells)) / 2)
        else:  # one task cannot tell the two apart
            own.append((float(differences[0]) ** 2 - items) / 2)
        churn.append(np.mean([np.mean(cell.differences**2) for cell in cells]))
    return Noise(sigma_run=_root(own), sigma_common=_root(common), churn=round(float(np.mean(churn)), 6))


def _item_error(cell: Cell) -> float:
    samples = [sample for sample in cell.samples(1.0, cell.asked.clusters) if len(np.unique(sample.clusters)) > 1]
    return standard_error(samples) if samples else 0.0


def _root(squares: Sequence[float]) -> float:
    return round(math.sqrt(max(float(np.mean(squares)), 0.0)), 6) if squares else 0.0


def as_toml(found: dict[str, Noise]) -> str:
    """The noise as tables of a policy: what `sea-lion gate noise` prints."""
    lines = []
    for metric, noise in found.items():
        lines += [f"[noise.{_key(metric)}]", f"sigma_run = {noise.sigma_run:.6g}", f"sigma_common = {noise.sigma_common:.6g}"]
        lines += [f"churn = {noise.churn:.6g}", ""]
    return "\n".join(lines)


def _key(metric: str) -> str:
    is_bare = all(character.isascii() and (character.isalnum() or character in "_-") for character in metric)
    return metric if is_bare else f'"{metric}"'
