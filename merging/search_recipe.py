"""The recipe of a merge search, and the recipes of its trials: each an ordinary merge of the same models.

A search spans only what a method uses: densities where it prunes, agreement for Consensus-TA alone. Settings that a range pins
to one value are no dimension of it. So every trial is an artifact with a past, and the winner is a merge like any other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from ..catalog.recipes import Recipe, Reference
from .recipe import DELLA_EPSILON, PRUNING, MergeRecipe, Parent, StreamedMethod

Range = tuple[float, float]
Values = Mapping[str, float | bool]
DIGITS = 3
"""Places after the point that a searched value is rounded to: finer differences drown in a scorecard's error."""
ROOM = 0.9
"""DELLA's epsilon takes at most this share of the room between a density and 0 or 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One dimension of what is searched."""

    name: str
    """`weight.0`, with layer groups also `weight.0.2` (parent, group); `density.0`, `scale`, `normalize`, `tall_lambda`,
    `agreement`."""
    low: float
    """Its least value."""
    high: float
    """Its largest value."""
    form: Literal["real", "whole", "choice"] = "real"
    """`choice`: False or True."""

    @property
    def usual(self) -> float | bool:
        """The value nearest to 1, as in the paper; of a choice the first (`low`)."""
        if self.form == "choice":
            return bool(self.low)
        return min(max(1.0 if self.form == "real" else 1, self.low), self.high)


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeSearchRecipe(Recipe):
    """Many merges of the same models, each scored on a suite, and the best of them as a checkpoint."""

    kind: Literal["merge-search"]
    base: Reference
    """The checkpoint that differences are taken from; gains are counted from its scores."""
    parents: tuple[Reference, ...]
    """The checkpoints to merge onto it."""
    methods: tuple[StreamedMethod, ...]
    """Merge methods to try. The first trials are one of each with weight, density and scale 1, as in the paper, or as near to
    that as the ranges let."""
    weights: Range = (0.0, 1.0)
    """Least and largest weight of a parent."""
    layer_groups: int = 0
    """Give each parent a weight for each of so many equally large groups of layers, and one for what lies outside of them; 0:
    one weight a parent. Every group is a dimension more: 4 groups of 3 parents need hundreds of trials."""
    densities: Range = (1.0, 1.0)
    """Least and largest density of a parent, for the methods that prune."""
    epsilon: float = DELLA_EPSILON
    """DELLA's spread around the density, for densities below 1; less where a density leaves less room on either side."""
    scale: Range = (1.0, 1.0)
    """Least and largest factor on the merged difference; `linear` has none."""
    normalize: tuple[bool, ...] = (False,)
    """Whether the weights are divided by their sum; `[false, true]` tries both."""
    tall_lambda: Range = (1.0, 1.0)
    """Consensus-TA: least and largest threshold."""
    agreement: tuple[int, int] = (1, 1)
    """Consensus-TA: least and largest number of parents that an element must matter to."""
    trials: int
    """Merges to try. More can be added later: the first ones stay the same, see `trial_version`."""
    trial_version: str = ""
    """Version of the trials and their scorecards, empty: this recipe's. Who raises `trials`, and with it `version`, names the
    version before here and keeps the trials made then."""
    keep_trials: int = 1
    """Trials whose weights are on the disk at a time, the one being made among them: the best ones. Of the others only the
    record stays, with the recipe to make them again."""
    suite: str
    """Suite that every trial is scored on: a cheap one. The winner goes through the real gate as a lineage's candidate."""
    tasks: tuple[str, ...] = ()
    """Tasks of the suite that are asked; empty: all."""
    heldout: Reference = ""
    """Corpus whose held-out documents the suite uses."""
    limit: int = 0
    """Most items asked of each task; 0: all."""
    languages: tuple[str, ...] = ()
    """ISO 639-3 of the languages that count, `!tam` for all but that; empty: all."""
    metric: str = "score"
    """What is made large (small, where lower is better): the mean over languages of the mean over tasks of this metric.
    `score`: of what each task counts by, every metric in units of the base's mean."""
    dtype: Literal["base", "float32", "bfloat16", "float16"] = "base"
    """Of the trials and of the winner."""
    tokenizer: str = "base"
    """Whose tokenizer the result takes: `base`, or a parent as `parents` names it."""
    may_differ: tuple[Literal["tokenizer", "config"], ...] = ()
    """As in a merge."""
    seed: int = 0
    """Of the proposals, and of random pruning."""

    def __post_init__(self) -> None:
        super(MergeSearchRecipe, self).__post_init__()
        for problem in self._problems():
            raise ValueError(problem)
        for method in self.methods:  # a trial's own rules hold here already
            self.trial(0, method, {axis.name: axis.usual for axis in self.axes(method)})
            self.trial(0, method, {axis.name: axis.low for axis in self.axes(method)})

    def _problems(self) -> Iterator[str]:
        if not self.name.startswith("checkpoint/"):
            yield f"name must begin with checkpoint/, since a search makes one; not {self.name!r}"
        if len(self.parents) < 2 or len(set(self.parents)) < len(self.parents):
            yield "parents must name two different models or more"
        if not self.methods or len(set(self.methods)) < len(self.methods):
            yield "methods must name one method or more, each once"
        if self.trials < len(self.methods):
            yield f"trials must be at least one for each method ({len(self.methods)}), not {self.trials}"
        if self.keep_trials < 1:
            yield f"keep_trials must be at least 1, the trial that is being made, not {self.keep_trials}"
        for name in ("layer_groups", "limit", "seed"):
            if getattr(self, name) < 0:
                yield f"{name} must be 0 or more, not {getattr(self, name)}"
        for name in ("weights", "densities", "scale", "tall_lambda", "agreement"):
            low, high = getattr(self, name)
            if not (math.isfinite(low) and math.isfinite(high) and low <= high):
                yield f"{name} must be the least and the largest value, in this order, not [{low:g}, {high:g}]"
        if self.weights[1] == 0 == self.weights[0]:
            yield "weights must leave some weight above or below 0"
        if not 0 < self.densities[0] <= self.densities[1] <= 1:
            yield f"densities must be above 0 and at most 1, not [{self.densities[0]:g}, {self.densities[1]:g}]"
        if self.densities[0] < 1 and not any(method in PRUNING for method in self.methods):
            yield f"densities below 1 prune only under {', '.join(PRUNING)}; none of these methods would use them"
        if not 0 < self.epsilon < 1:
            yield f"epsilon must lie between 0 and 1, not {self.epsilon:g}"
        if not self.normalize or len(set(self.normalize)) < len(self.normalize):
            yield "normalize must be [false], [true] or both"
        if not 1 <= self.agreement[0] <= self.agreement[1] <= len(self.parents):
            yield f"agreement must lie between 1 and the number of parents ({len(self.parents)})"
        if "consensus_ta" not in self.methods and (self.agreement != (1, 1) or self.tall_lambda != (1.0, 1.0)):
            yield "agreement and tall_lambda are Consensus-TA's, and consensus_ta is not among the methods"
        if self.tokenizer not in ("base", *self.parents):
            yield f"tokenizer must be base or one of the parents, not {self.tokenizer!r}"
        if not any(self.axes(method) for method in self.methods) and self.trials > len(self.methods):
            yield f"trials beyond {len(self.methods)} have nothing to vary: every range is one value"

    @property
    def stem(self) -> str:
        """What the names of the trials begin with: `tiny-searched` of `checkpoint/tiny-searched`."""
        return self.name.partition("/")[2]

    @property
    def version_of_trials(self) -> str:
        """The version of the trials and their scorecards."""
        return self.trial_version or self.version

    def axes(self, method: str) -> tuple[Axis, ...]:
        """What is searched under a method, in a fixed order."""
        return tuple(axis for axis in self._axes(method) if axis.low != axis.high)

    def _axes(self, method: str) -> Iterator[Axis]:
        for number in range(len(self.parents)):
            yield Axis(name=f"weight.{number}", low=self.weights[0], high=self.weights[1])
            for group in range(self.layer_groups):
                yield Axis(name=f"weight.{number}.{group}", low=self.weights[0], high=self.weights[1])
            if method in PRUNING:
                yield Axis(name=f"density.{number}", low=self.densities[0], high=self.densities[1])
        if method != "linear":
            yield Axis(name="scale", low=self.scale[0], high=self.scale[1])
        yield Axis(name="normalize", low=self.normalize[0], high=self.normalize[-1], form="choice")
        if method == "consensus_ta":
            yield Axis(name="tall_lambda", low=self.tall_lambda[0], high=self.tall_lambda[1])
            yield Axis(name="agreement", low=self.agreement[0], high=self.agreement[1], form="whole")

    def trial(
        self, number: int | None, method: StreamedMethod, values: Values, artifacts: Mapping[str, str] | None = None
    ) -> MergeRecipe:
        """The merge of a trial, or with None of the winner, from the values of the method's axes.

        `artifacts` says what each reference of this recipe means, so that a stage's alias that moves changes no trial.
        """
        meaning = artifacts or {}
        all_values = {axis.name: axis.low for axis in self._axes(method)} | dict(values)
        parents = tuple(self._parent(number, meaning.get(ref, ref), all_values) for number, ref in enumerate(self.parents))
        is_consensus = method == "consensus_ta"
        return MergeRecipe(
            kind="merge",
            name=f"checkpoint/{self.stem}" + ("-winner" if number is None else f"-trials/{number}"),
            version=self.version if number is None else self.version_of_trials,
            description=f"The best trial of {self.name}." if number is None else f"Trial {number} of {self.name}.",
            licence=self.licence,
            method=method,
            base=meaning.get(self.base, self.base),
            parents=parents,
            normalize=bool(all_values["normalize"]),
            scale=float(all_values.get("scale", 1.0)),
            agreement=int(all_values["agreement"]) if is_consensus else 1,
            tall_lambda=float(all_values["tall_lambda"]) if is_consensus else 1.0,
            epsilon=self._epsilon(method, [parent.density for parent in parents]),
            dtype=self.dtype,
            tokenizer=meaning.get(self.tokenizer, self.tokenizer),
            may_differ=self.may_differ,
            seed=self.seed,
        )

    def values_of(self, merge: MergeRecipe) -> Values | None:
        """The values of the axes that lead to a merge of this search's models, None when they lie outside of its ranges."""
        if merge.method not in self.methods or len(merge.parents) != len(self.parents):
            return None
        found: dict[str, float | bool] = {"scale": merge.scale, "normalize": bool(merge.normalize)}
        found |= {"tall_lambda": merge.tall_lambda, "agreement": merge.agreement}
        for number, parent in enumerate(merge.parents):
            found |= {f"weight.{number}": parent.weight, f"density.{number}": parent.density}
            found |= {f"weight.{number}.{group}": weight for group, weight in enumerate(parent.layer_weights)}
        axes = self.axes(merge.method)
        if any(axis.name not in found or not axis.low <= found[axis.name] <= axis.high for axis in axes):
            return None
        return {axis.name: found[axis.name] for axis in axes}

    def _parent(self, number: int, model: str, values: Values) -> Parent:
        groups = tuple(float(values[f"weight.{number}.{group}"]) for group in range(self.layer_groups))
        density = float(values.get(f"density.{number}", 1.0))
        return Parent(model=model, weight=float(values[f"weight.{number}"]), layer_weights=groups, density=density)

    def _epsilon(self, method: str, densities: list[float]) -> float | None:
        """The recipe's epsilon, or what the densities leave room for; None where nothing is pruned by rank."""
        pruned = [min(density, 1 - density) for density in densities if density < 1]
        if PRUNING.get(method) != "rank" or not pruned:
            return None
        return min(self.epsilon, round(ROOM * min(pruned), DIGITS + 2))
