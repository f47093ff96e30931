"""`gate simulate`: how often a policy is wrong, for the user's own number of items and churn.

A policy is trusted by its error rates, not by its looks. Pairs of scorecards are drawn with a known true change and decided by
the gate's own code: not by a model of it, which would be right about another gate. What is drawn: right-or-wrong items of
which a share changes (`churn`), losses and wins apart by the true change; graded metrics as `GRADED` says.
"""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ..catalog.errors import SeaLionError
from ..catalog.records import Score, Scorecard
from .earlier import Earlier
from .gate import compare
from .pairing import HASHES, Asked, Block, Items, Place, asked_of
from .policy import ANY_METRIC, Claim, Floor, Noise, Policy, Rule, read_policy
from .resampling import Floats
from .simulation_flags import LANGUAGES, TASKS

OLD, NEW = "checkpoint/old@1", "checkpoint/new@1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Graded:
    """How the items of a metric that is not right-or-wrong are drawn."""

    level: float
    """Mean of the baseline's items."""
    spread: float
    """Standard deviation of the baseline's items."""
    change: float
    """Standard deviation of an item's difference between the models."""
    higher_is_better: bool


GRADED: dict[str, Graded] = {
    "bits_per_byte": Graded(level=2.0, spread=0.2, change=0.04, higher_is_better=False),
    "margin": Graded(level=-0.9, spread=0.9, change=0.8, higher_is_better=True),
}
"""The smoke suite's own, as the tiny models of the demo show them; every other metric is right-or-wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A true change, in the metric's own unit and signed so that higher is better."""

    name: str
    everywhere: float = 0.0
    """Of every task that the next two do not name."""
    language: float | None = None
    """Of all tasks of the first language."""
    task: float | None = None
    """Of the first task of the first language."""

    def shift(self, language: int, task: int) -> float:
        """The change of one task, by the places of its language and itself."""
        if self.task is not None and (language, task) == (0, 0):
            return self.task
        return self.language if self.language is not None and language == 0 else self.everywhere


SCENARIOS = (
    Scenario(name="no change"),
    Scenario(name="+1 everywhere", everywhere=0.01),
    Scenario(name="one language -3", language=-0.03),
    Scenario(name="one language -5", language=-0.05),
    Scenario(name="one language -5, others +1", language=-0.05, everywhere=0.01),
    Scenario(name="one task -5", task=-0.05),
    Scenario(name="one task -10", task=-0.10),
    Scenario(name="all tasks -1", everywhere=-0.01),
    Scenario(name="all tasks -2", everywhere=-0.02),
)
"""What a gate must not cry wolf at, and what it must find: points are hundredths."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """How often each verdict was given when a scenario was true."""

    scenario: str
    decisions: int
    failed: float
    """Share of the decisions: the false-alarm rate where nothing is worse, the power where something is."""
    held: float
    passed: float
    second_tier: float
    """Share that needed all items; 0 without tiers."""
    alarms: Mapping[str, float] = field(default_factory=dict)
    """How often each rule that was watched beside the gate raised an alarm on the same draws."""

    def error(self) -> float:
        """Monte-Carlo error of `failed`: two standard errors, with half a count added so that it is never 0."""
        share = (self.failed * self.decisions + 0.5) / (self.decisions + 1)
        return 2 * math.sqrt(share * (1 - share) / self.decisions)


def simulate(
    policy: Policy,
    items_per_task: Sequence[int],
    *,
    churn: float,
    languages: Sequence[str] = LANGUAGES,
    tasks: Sequence[str] = TASKS,
    scenarios: Sequence[Scenario] = SCENARIOS,
    replications: int = 1_000,
    noise: Noise | None = None,
    seed: int = 0,
    beside: Mapping[str, Callable[[Items, Items], bool]] | None = None,
) -> list[Figures]:
    """Decide `replications` drawn pairs of scorecards per scenario.

    `items_per_task` is repeated over languages and tasks; `noise` shifts every run at random by its sigmas;
    `beside` are other rules, asked of the same candidates and baselines whether they raise an alarm. Rules against the last and
    the best model meet the baseline once more; nothing is contaminated. Raises ValueError for a churn that is no share, a task
    of fewer than two items, no or repeated languages or tasks, and a policy about what the drawn suite does not have.
    """
    _check(items_per_task, churn, languages, tasks, replications, seed)
    policy = replace(policy, clean=None)
    suite = _Suite.of(policy, items_per_task, languages, tasks)
    found = []
    for scenario in scenarios:
        # Named and not numbered: a scenario's figures do not depend on which others are asked for.
        generator = np.random.default_rng([seed, *scenario.name.encode()])
        count: Counter[str] = Counter()
        for _ in range(replications):
            candidate, baseline = suite.drawn(generator, scenario, churn, noise or Noise())
            answer = compare(policy, candidate, [baseline], OLD, Earlier(last=baseline, best=baseline))
            if answer.verdict == "error":
                raise ValueError(
                    f"{answer.reason}; simulated are the languages {','.join(languages)} and the tasks {','.join(tasks)}: "
                    "name the policy's own with --languages and --tasks"
                )
            count[answer.verdict] += 1
            count["second"] += any(note.startswith("decided by all items") for note in answer.notes)
            count.update(name for name, rule in (beside or {}).items() if rule(candidate, baseline))
        shares = {name: count[name] / replications for name in ("fail", "hold", "pass", "second")}
        found.append(
            Figures(
                scenario=scenario.name, decisions=replications, failed=shares["fail"], held=shares["hold"],
                passed=shares["pass"], second_tier=shares["second"],
                alarms={name: count[name] / replications for name in beside or {}},
            )
        )  # fmt: skip
    return found


def _check(
    items: Sequence[int], churn: float, languages: Sequence[str], tasks: Sequence[str], replications: int, seed: int
) -> None:
    if not 0 < churn <= 1 or not items or min(items) < 2:
        raise ValueError("churn must be above 0 and at most 1, and every task needs two items")
    if replications < 1 or seed < 0:
        raise ValueError("replications must be at least 1 and the seed at least 0")
    for what, names in (("languages", languages), ("tasks", tasks)):
        if not all(names) or not names or len(set(names)) < len(names):
            raise ValueError(f"{what} must be named, each once, not {','.join(names)!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Suite:
    """What all drawn scorecards were asked."""

    places: Mapping[Place, tuple[int, int, Asked]]
    """Each cell with the places of its language and task, and what it asks."""
    cards: tuple[Scorecard, Scorecard]
    """The candidate's and the baseline's."""

    @classmethod
    def of(cls, policy: Policy, items: Sequence[int], languages: Sequence[str], tasks: Sequence[str]) -> _Suite:
        """The suite that a policy's rules, floors and claims are about."""
        parts: tuple[Rule | Floor | Claim, ...] = (*policy.rules, *policy.floors, *policy.aims(), *policy.claims)
        metrics = sorted({"acc" if part.metric == ANY_METRIC else part.metric for part in parts})
        places: dict[Place, tuple[int, int, Asked]] = {}
        for metric in metrics:
            for i, language in enumerate(languages):
                for j, task in enumerate(tasks):
                    size = items[(i * len(tasks) + j) % len(items)]
                    places[metric, language, task] = (i, j, _asked(f"{language}-{task}", size))
        scores = tuple(
            Score(
                task=task, language=language, metric=metric, value=0.0, stderr=0.0, items=len(asked.items),
                higher_is_better=metric not in GRADED or GRADED[metric].higher_is_better,
            )
            for (metric, language, task), (_, _, asked) in places.items()
        )  # fmt: skip
        card = Scorecard(model=NEW, suite="simulated", suite_fingerprint="simulated", harness="none", scores=scores)
        return cls(places=dict(sorted(places.items())), cards=(card, replace(card, model=OLD)))

    def drawn(self, generator: np.random.Generator, scenario: Scenario, churn: float, noise: Noise) -> tuple[Items, Items]:
        """A candidate's and a baseline's items."""
        common = generator.normal(0, math.sqrt(2) * noise.sigma_common) if noise.sigma_common else 0.0
        blocks: tuple[dict[Place, Block], dict[Place, Block]] = ({}, {})
        for place, (language, task, asked) in self.places.items():
            shift = scenario.shift(language, task) + common
            shift += generator.normal(0, math.sqrt(2) * noise.sigma_run) if noise.sigma_run else 0.0
            count = len(asked.items)
            graded = GRADED.get(place[0])
            values = _graded(generator, count, shift, graded) if graded else _choices(generator, count, shift, churn)
            for side, mine in zip(blocks, values, strict=True):
                side[place] = Block(asked=asked, values=mine)
        new, old = self.cards
        return (
            Items(ref="scorecard/new@1", card=new, blocks=blocks[0]),
            Items(ref="scorecard/old@1", card=old, blocks=blocks[1]),
        )


def _asked(name: str, size: int) -> Asked:
    names = tuple(f"{name}-{i:06d}" for i in range(size))
    return asked_of(names, {column: [""] * size if column == "stratum" else list(names) for column in HASHES})


def _choices(generator: np.random.Generator, count: int, shift: float, churn: float) -> tuple[Floats, Floats]:
    """Candidate's and baseline's right-or-wrong items: P(loss) and P(win) add up to the churn and differ by the shift."""
    changes = max(churn, abs(shift))
    drawn = generator.random(count)
    is_lost, is_won = drawn < (changes - shift) / 2, drawn >= 1 - (changes + shift) / 2
    old = (generator.random(count) < 0.5) & ~is_won | is_lost
    return ((old & ~is_lost) | is_won).astype(np.float64), old.astype(np.float64)


def _graded(generator: np.random.Generator, count: int, shift: float, graded: Graded) -> tuple[Floats, Floats]:
    old = generator.normal(graded.level, graded.spread, count)
    return old + generator.normal(shift if graded.higher_is_better else -shift, graded.change, count), old


def simulated(arguments: argparse.Namespace) -> str:
    """What `sea-lion gate simulate` prints; raises SeaLionError for a policy or flags that cannot be simulated."""
    path = Path(arguments.policy)
    built_in = Path(__file__).parent / "policies" / f"{arguments.policy}.toml"
    policy = read_policy(built_in if built_in.exists() and not path.suffix else path)
    try:
        figures = simulate(
            policy,
            arguments.items,
            churn=arguments.churn,
            languages=arguments.languages,
            tasks=arguments.tasks,
            replications=arguments.replications,
            noise=Noise(sigma_run=arguments.sigma_run, sigma_common=arguments.sigma_common),
            seed=arguments.seed,
        )
    except ValueError as error:
        raise SeaLionError(f"gate simulate {arguments.policy}: {error}") from error
    sizes = "/".join(map(str, arguments.items))
    head = (
        f"policy {policy.name}: {len(arguments.languages)} languages of {len(arguments.tasks)} tasks, {sizes} items each, "
        f"churn {arguments.churn:g}, {arguments.replications} decisions a line"
    )
    return "\n".join((head, *table(figures)))


def table(figures: Sequence[Figures]) -> Iterator[str]:
    """One line a scenario; `fail` is the false-alarm rate where nothing got worse and the power elsewhere."""
    yield f"{'true change (points)':28} {'fail':>6} {'+-':>5} {'hold':>6} {'pass':>6} {'tier 2':>7}"
    for row in figures:
        yield (
            f"{row.scenario:28} {row.failed:6.3f} {row.error():5.3f} {row.held:6.3f} {row.passed:6.3f} {row.second_tier:7.3f}"
        )
