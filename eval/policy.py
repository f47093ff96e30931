"""Gate policies: what a stage's model may cost and what it must bring, as strict TOML.

A rule compares one metric with baselines on up to three levels; a floor holds one metric of the candidate alone to a value; a
claim says where the candidate must be better. Numbers stand in the policy and nowhere else: the gate has no defaults for them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from ..catalog.errors import RecipeError
from ..catalog.languages import language_code
from ..catalog.recipes import read_table, read_toml
from ..catalog.records import STRICT
from .contamination import Clean as Clean
from .loans import LoanRule
from .objective import SCORE, Objective
from .selection import named

Level = Literal["suite", "language", "task"]

LEVELS: tuple[Level, ...] = ("suite", "language", "task")
"""Levels of a suite, widest first."""
FLOOR = "floor"
"""The absolute floors, a family of tests of their own."""
CLAIM = "claim"
"""The claims of improvement, a family of tests of their own."""
FLAG = "flag"
"""The floors whose breach is only told, a family of tests of their own."""
ANY_METRIC = SCORE
"""In a rule: whatever metric each task counts by, so that a suite of several metrics has one mean (see `Policy.scale`)."""
AUTO_ERRORS: dict[Level, float] = {"suite": 3.3, "language": 4.0, "task": 4.5}
"""`margin = "auto"`: standard errors that a margin spans. At 3.3 a node that did not change clears its bound 19 times in 20;
with many languages and tasks to clear, more is needed for the same."""


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
    """The metric, as scorecards name it, or `score`: the one that each task counts by."""
    against: Literal["all", "parent", "last", "best"] = "all"
    """Every baseline of the recipe, only its `parent`, the model last promoted to the stage, or the best that the lineage has
    promoted so far."""
    languages: tuple[str, ...] = ()
    """ISO 639-3 of the languages it is about, `!tam` for all but that; empty: all."""
    tasks: tuple[str, ...] = ()
    """Tasks it is about, `!mt-bench` for all but that; empty: all."""
    suite: Bounds | None = None
    """The plain mean over languages."""
    language: Bounds | None = None
    """Each language, the plain mean over its tasks."""
    task: Bounds | None = None
    """Each task of each language, where a language has more than one."""

    def __post_init__(self) -> None:
        _require_codes(self.languages)
        if not any((self.suite, self.language, self.task)):
            raise ValueError("a rule needs bounds for at least one of suite, language and task")

    def bounds(self, level: Level) -> Bounds | None:
        """The bounds at a level."""
        found: Bounds | None = getattr(self, level)
        return found

    def may_lend(self, level: Level) -> bool:
        """Whether a loan may cover a loss there: not against the lineage's best or the last, where losses would add up."""
        bounds = self.bounds(level)
        return self.against in ("all", "parent") and bounds is not None and not bounds.improve


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
    language: str = ""
    """The one language it is about, ISO 639-3; empty: all."""
    task: str = ""
    """The one task it is about; empty: all."""
    tasks: tuple[str, ...] = ()
    """Several tasks that it is about, `!mt-bench` for all but that; empty: all."""
    on_breach: Literal["fail", "flag"] = "fail"
    """`flag`: a breach is a note and a warning, and the candidate may pass."""

    def about(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Languages and tasks it is about, as a rule names them."""
        return (self.language,) if self.language else (), (self.task,) if self.task else self.tasks

    def __post_init__(self) -> None:
        _require_codes((self.language,) if self.language else ())
        if self.metric == ANY_METRIC:
            raise ValueError(f"a floor holds one metric to a value in its own unit: name it, {ANY_METRIC!r} is none")
        if self.task and self.tasks:
            raise ValueError("a floor is about one task or about tasks, not both")
        if self.language and self.level == "suite":
            raise ValueError("a floor for one language is held at level 'language' or 'task', not 'suite'")


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """An improvement that the candidate is meant to bring: the mirror image of a rule's test."""

    __pydantic_config__ = STRICT

    metric: str
    """The metric, as scorecards name it, or `score`."""
    level: Literal["suite", "language"] = "language"
    """Whether the mean over the languages must be better, or each of them."""
    languages: tuple[str, ...] = ()
    """ISO 639-3 of the languages it is about; empty: all."""
    tasks: tuple[str, ...] = ()
    """Tasks it is about; empty: all."""
    against: Literal["all", "parent"] = "parent"
    """Every baseline of the recipe, or only the scorecard of its `parent`."""
    required: bool = True
    """Whether a claim that is not shown holds the candidate; false: it is only reported."""
    min_gain: float = 0.0
    """The gain must be shown to be above this, in the metric's unit."""

    def __post_init__(self) -> None:
        _require_codes(self.languages)


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """What changes between two runs that should not differ; `sea-lion gate noise` measures it."""

    __pydantic_config__ = STRICT

    sigma_run: float = 0.0
    """Standard deviation of a task's score over runs of one model, in the metric's unit, each task on its own."""
    sigma_common: float = 0.0
    """The part that moves all tasks together."""
    churn: float = 0.0
    """Mean square of an item's difference between two such runs: for right-or-wrong items the share that changes."""

    def __post_init__(self) -> None:
        if min(self.sigma_run, self.sigma_common, self.churn) < 0:
            raise ValueError("sigma_run, sigma_common and churn must be at least 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiers:
    """Decide on a part of the items first, on all of them only where the part does not settle it."""

    __pydantic_config__ = STRICT

    items: int
    """Items of each task in the first tier, chosen by the hashes of their clusters."""
    alpha: float = 0.01
    """Part of the policy's `alpha` that the first tier spends; all items have the rest."""

    def __post_init__(self) -> None:
        if self.items < 2 or self.alpha <= 0:
            raise ValueError("items must be at least 2 and alpha above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Highest shares of answers that say nothing: above, a score is not a score and nothing is compared."""

    __pydantic_config__ = STRICT

    nulls: float = 1.0
    """Of a task's answers out of which nothing could be read."""
    truncated: float = 1.0
    """Of a task's answers that ended at the limit of tokens."""

    def __post_init__(self) -> None:
        if not 0 <= self.nulls <= 1 or not 0 <= self.truncated <= 1:
            raise ValueError("nulls and truncated are shares, 0 to 1")


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
    margin: Literal["strict", "auto"] = "strict"
    """`auto` raises each margin to what the declared churn and noise can support, and says which margins it used."""
    noise: dict[str, Noise] = field(default_factory=dict)
    """By metric (or `score`): run noise, which no number of items removes, and churn, for `auto` margins."""
    scale: dict[str, float] = field(default_factory=dict)
    """By metric: factor of its items' values in rules for `score`, so that metrics of different units can be averaged."""
    tiers: Tiers | None = None
    """Escalation from a part of the items to all of them."""
    limits: Limits = Limits()
    """When answers say too little to compare scores."""
    same_prompts: bool = True
    """Whether both models must have seen the same prompts; false only where a chat template is meant to differ."""
    on_refusal: Literal["stop", "keep-parent"] = "stop"
    """What a chain does when the candidate is not promoted."""
    waivers: tuple[str, ...] = ()
    """Ed25519 public keys (64 hexadecimal digits) whose signed waivers are accepted; none: no waiver is."""
    objective: Objective | None = None
    """What the stage is for: shown against the parent, and the measure of the lineage's best model."""
    rules: tuple[Rule, ...] = ()
    floors: tuple[Floor, ...] = ()
    clean: Clean | None = None
    """What is asked of items that training corpora hold; None: they are neither looked at nor left out."""
    claims: tuple[Claim, ...] = ()
    loans: tuple[LoanRule, ...] = ()
    """Losses that pass now and are due at a later stage."""
    settles_all: bool = False
    """Whether every outstanding loan of the lineage is due here, not only those that name this stage."""

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 0.5 or not 0.5 < self.confidence < 1:
            raise ValueError("alpha must be above 0 and below 0.5, confidence above 0.5 and below 1")
        if not self.rules and not self.floors:
            raise ValueError("a policy without a rule or a floor would let everything pass")
        for key in self.waivers:
            if len(key) != 64 or any(digit not in "0123456789abcdef" for digit in key):
                raise ValueError(f"waivers: {key!r} is not an Ed25519 public key of 64 lower-case hexadecimal digits")
        if self.tiers and self.tiers.alpha >= self.alpha:
            raise ValueError(f"tiers.alpha must be below alpha ({self.alpha:g}), not {self.tiers.alpha:g}")
        for metric in {rule.metric for rule in self.rules} if self.margin == "auto" else ():
            if self.noise.get(metric, Noise()).churn == 0:
                raise ValueError(f"margin = 'auto' needs the churn of {metric!r}: [noise.{metric}] churn = ...")
        rules = [(rule.metric, rule.against, rule.languages, rule.tasks) for rule in self.rules]
        floors = [(floor.metric, floor.level, floor.language, floor.task, floor.tasks) for floor in self.floors]
        for loan in self.loans:
            _require_codes(loan.languages)
        if self.objective:
            _require_codes(self.objective.languages)
        if len(set(rules)) < len(rules) or len(set(floors)) < len(floors):
            raise ValueError("two rules for the same metric, `against`, languages and tasks, or two floors for the same place")

    def aims(self) -> tuple[Claim, ...]:
        """The objective as the claim that it is."""
        aim = self.objective
        if aim is None:
            return ()
        return (Claim(metric=aim.metric, level="suite", languages=aim.languages, tasks=aim.tasks, min_gain=aim.min_gain),)

    def measure(self) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
        """Metric, languages and tasks by which the lineage's best model is found: the objective's, or the first rule's."""
        part = self.objective or (self.rules[0] if self.rules else None)
        return (part.metric, part.languages, part.tasks) if part else (ANY_METRIC, (), ())

    def alphas(self, levels: Collection[str], alpha: float | None = None) -> dict[str, float]:
        """The error rate of each of the levels (`floor` is one) that have tests: they add up to `alpha`.

        `alpha` stands in for the policy's own where a tier spends a part of it.
        """
        whole = self.alpha if alpha is None else alpha
        shares = {level: float(getattr(self.split, level)) for level in (*LEVELS, FLOOR) if level in levels}
        return {level: whole * share / sum(shares.values()) for level, share in shares.items()}


def _require_codes(languages: Collection[str]) -> None:
    for language in named(languages):
        known = language_code(language)
        if known != language or len(language) != 3:
            near = f"; did you mean {known!r}?" if known != language else ""
            raise ValueError(f"{language!r} is not an ISO 639-3 code{near}")


def read_policy(path: Path) -> Policy:
    """Read a policy file; raises RecipeError naming file, key and problem."""
    return read_table(read_toml(path), Policy, path)


def check_names(
    policy: Policy, file: Path | str, metrics: Collection[str], languages: Collection[str], tasks: Collection[str]
) -> None:
    """Raise RecipeError for a metric, language or task that the policy names and no scorecard has."""
    known = {"metric": {*metrics, ANY_METRIC}, "language": set(languages), "task": set(tasks)}
    for key, what, name in _names(policy):
        if name not in known[what]:
            near = get_close_matches(name, sorted(known[what]), n=1, cutoff=0.0)
            meant = f"; did you mean {near[0]!r}?" if near else ""
            raise RecipeError(file, key, f"no scorecard has the {what} {name!r}{meant}")


def _names(policy: Policy) -> Iterator[tuple[str, str, str]]:
    """Key in the file, kind and value of everything that a policy names."""
    entries: list[tuple[str, Rule | Claim | LoanRule | Objective]] = [
        *((f"rules.{place}", rule) for place, rule in enumerate(policy.rules)),
        *((f"claims.{place}", claim) for place, claim in enumerate(policy.claims)),
        *((f"loans.{place}", loan) for place, loan in enumerate(policy.loans)),
        *([("objective", policy.objective)] if policy.objective else []),
    ]
    for key, entry in entries:
        yield f"{key}.metric", "metric", entry.metric
        yield from ((f"{key}.languages", "language", name) for name in named(entry.languages))
        yield from ((f"{key}.tasks", "task", name) for name in named(entry.tasks))
    yield from ((f"{key}.{metric}", "metric", metric) for key in ("noise", "scale") for metric in getattr(policy, key))
    for place, floor in enumerate(policy.floors):
        yield f"floors.{place}.metric", "metric", floor.metric
        if floor.language:
            yield f"floors.{place}.language", "language", floor.language
        if floor.task:
            yield f"floors.{place}.task", "task", floor.task
        yield from ((f"floors.{place}.tasks", "task", name) for name in named(floor.tasks))
