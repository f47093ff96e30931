"""Gate policies: what a stage's model may cost and what it must bring, as strict TOML.

A rule compares one metric with baselines on up to three levels; a floor holds one metric of the candidate alone to a value.
Numbers stand in the policy and nowhere else: the gate has no defaults for them.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..catalog.recipes import read_table, read_toml
from ..catalog.records import STRICT

Level = Literal["suite", "language", "task"]

LEVELS: tuple[Level, ...] = ("suite", "language", "task")
"""Levels of a suite, widest first."""
FLOOR = "floor"
"""The absolute floors, a family of tests of their own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Shares of the family-wise error rate; a level without any test leaves its share to the others."""

    __pydantic_config__ = STRICT

    suite: float = 0.4
    language: float = 0.3
    task: float = 0.2
    floor: float = 0.1

    def __post_init__(self) -> None:
        shares = (self.suite, self.language, self.task, self.floor)
        if any(share <= 0 for share in shares) or abs(sum(shares) - 1) > 1e-9:
            raise ValueError("the shares must be above 0 and add up to 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What one level of a metric may lose, in the metric's own unit."""

    __pydantic_config__ = STRICT

    tolerance: float
    """A drop shown to be larger than this fails; at least 0."""
    margin: float = 0.0
    """A pass needs the lower bound of the difference above minus this; at least `tolerance`."""
    improve: bool = False
    """Whether the candidate must be shown to be better: the lower bound must be above 0 (then there is no margin)."""

    def __post_init__(self) -> None:
        if self.tolerance < 0:
            raise ValueError(f"tolerance must be at least 0, not {self.tolerance:g}")
        if self.improve and self.margin != 0:
            raise ValueError("improve = true takes no margin: the lower bound must be above 0")
        if not self.improve and (self.margin < self.tolerance or self.margin == 0):
            raise ValueError(f"margin must be above 0 and at least the tolerance, not {self.margin:g}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One metric of the candidate against baselines."""

    __pydantic_config__ = STRICT

    metric: str
    """The metric, as scorecards name it."""
    against: Literal["all", "parent"] = "all"
    """Every baseline of the recipe, or only the scorecard of its `parent`."""
    suite: Bounds | None = None
    """The plain mean over languages."""
    language: Bounds | None = None
    """Each language, the plain mean over its tasks."""
    task: Bounds | None = None
    """Each task of each language, where a language has more than one."""

    def __post_init__(self) -> None:
        if not any((self.suite, self.language, self.task)):
            raise ValueError("a rule needs bounds for at least one of suite, language and task")

    def bounds(self, level: Level) -> Bounds | None:
        """The bounds at a level."""
        found: Bounds | None = getattr(self, level)
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """One metric of the candidate alone against a fixed value.

    Shown to be worse than it: fail. On its wrong side, but within the error: hold.
    """

    __pydantic_config__ = STRICT

    metric: str
    """The metric, as scorecards name it."""
    level: Level
    """Where it is held: on the mean of the suite, or on each language or task."""
    value: float
    """The worst acceptable value: the least when higher is better, the most when lower is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What decides whether a candidate may become a stage's model."""

    __pydantic_config__ = STRICT

    name: str
    """Name, as decisions record it."""
    description: str = ""
    """For people."""
    alpha: float = 0.05
    """Highest probability that a candidate within all tolerances fails, over all tests of a decision."""
    split: Split = Split()
    """How `alpha` is divided between the levels."""
    confidence: float = 0.95
    """Of each one-sided bound. Every node must clear its margin, so no correction for their number is due."""
    same_prompts: bool = True
    """Whether both models must have seen the same prompts; false only where a chat template is meant to differ."""
    on_refusal: Literal["stop", "keep-parent"] = "stop"
    """What a chain does when the candidate is not promoted."""
    waivers: tuple[str, ...] = ()
    """Ed25519 public keys (64 hexadecimal digits) whose signed waivers are accepted; none: no waiver is."""
    rules: tuple[Rule, ...] = ()
    floors: tuple[Floor, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 0.5 or not 0.5 < self.confidence < 1:
            raise ValueError("alpha must be above 0 and below 0.5, confidence above 0.5 and below 1")
        if not self.rules and not self.floors:
            raise ValueError("a policy without a rule or a floor would let everything pass")
        for key in self.waivers:
            if len(key) != 64 or any(digit not in "0123456789abcdef" for digit in key):
                raise ValueError(f"waivers: {key!r} is not an Ed25519 public key of 64 lower-case hexadecimal digits")
        rules = [(rule.metric, rule.against) for rule in self.rules]
        floors = [(floor.metric, floor.level) for floor in self.floors]
        if len(set(rules)) < len(rules) or len(set(floors)) < len(floors):
            raise ValueError("two rules for one metric and `against`, or two floors for one metric and level")

    def alphas(self, levels: Collection[str]) -> dict[str, float]:
        """The error rate of each of the levels (`floor` is one) that have tests: they add up to `alpha`."""
        shares = {level: float(getattr(self.split, level)) for level in (*LEVELS, FLOOR) if level in levels}
        return {level: self.alpha * share / sum(shares.values()) for level, share in shares.items()}


def read_policy(path: Path) -> Policy:
    """Read a policy file; raises RecipeError naming file, key and problem."""
    return read_table(read_toml(path), Policy, path)
