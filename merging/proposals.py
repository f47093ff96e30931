"""What a merge search tries next, from what it has tried: Optuna's tree-structured Parzen estimator, asked anew each time.

Trial n is proposed by a fresh study that is told the results of the trials before it, with a sampler sown by (seed, n): a
function of the recipe and of what is on record, so that an interrupted search goes on as if it had not been. Optuna's own
storage was refused: a second truth beside the catalog. Its Gaussian-process sampler comes closer in fewer trials where a score
has no noise (0.005 against 0.03 after 30 trials in two dimensions), but does not take axes that only some methods have.
The estimator: Bergstra et al. 2011, https://proceedings.neurips.cc/paper/2011/hash/86e8f7ab32cfd12577bc2619bc635690-Abstract.html.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from .recipe import StreamedMethod
from .search_recipe import DIGITS, Axis, MergeSearchRecipe, Values

RANDOM = 4
"""So many trials after the usual ones are drawn at random before results guide the draws."""
METHOD = "method"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One merge: what it tried, and what came of it."""

    number: int
    """0 for the first."""
    method: StreamedMethod
    """Its method."""
    values: Values = field(default_factory=dict)
    """Axis to value."""
    run: str = ""
    """Reference of its checkpoint; empty when there is none."""
    value: float | None = None
    """Its score, higher is better; None when it failed."""
    failed: str = ""
    """Why it failed."""


def proposed(recipe: MergeSearchRecipe, number: int, earlier: Sequence[Trial]) -> Trial:
    """Trial `number` of a search, from the trials before it, by number: the usual point of each method first."""
    if number < len(recipe.methods):
        usual = recipe.methods[number]
        return Trial(number=number, method=usual, values={axis.name: axis.usual for axis in recipe.axes(usual)})
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # it warns of axes that only some methods have
    sampler = optuna.samplers.TPESampler(
        seed=int(np.random.SeedSequence([recipe.seed, number]).generate_state(1)[0]),
        n_startup_trials=len(recipe.methods) + RANDOM,
        multivariate=True,
    )
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for trial in earlier:
        study.add_trial(_told(recipe, trial))
    asked = study.ask()
    method = cast(StreamedMethod, asked.suggest_categorical(METHOD, recipe.methods))
    return Trial(number=number, method=method, values={axis.name: _value(asked, method, axis) for axis in recipe.axes(method)})


def _value(asked: optuna.trial.Trial, method: str, axis: Axis) -> float | bool:
    name = _name(method, axis)
    if axis.form == "choice":
        return bool(asked.suggest_categorical(name, (False, True)))
    if axis.form == "whole":
        return asked.suggest_int(name, int(axis.low), int(axis.high))
    return min(max(round(asked.suggest_float(name, axis.low, axis.high), DIGITS), axis.low), axis.high)


def _told(recipe: MergeSearchRecipe, trial: Trial) -> FrozenTrial:
    """A trial as Optuna takes it; one that failed is told as pruned, which ranks below all that have a value."""
    axes = recipe.axes(trial.method)
    return create_trial(
        state=TrialState.COMPLETE if trial.value is not None else TrialState.PRUNED,
        value=trial.value,
        params={METHOD: trial.method} | {_name(trial.method, axis): trial.values[axis.name] for axis in axes},
        distributions={METHOD: CategoricalDistribution(recipe.methods)}
        | {_name(trial.method, axis): _distribution(axis) for axis in axes},
    )


def _distribution(axis: Axis) -> BaseDistribution:
    if axis.form == "choice":
        return CategoricalDistribution((False, True))
    if axis.form == "whole":
        return IntDistribution(int(axis.low), int(axis.high))
    return FloatDistribution(axis.low, axis.high)


def _name(method: str, axis: Axis) -> str:
    """Methods learn of each other, but for `linear`: its weights are of models, not of differences."""
    return f"{method}.{axis.name}" if method == "linear" else axis.name
