"""`gate`: may a candidate become a stage's model? Pass, fail, hold or error, with every figure.

Regressions are tested as "the drop is at most the tolerance", so that a fail has shown a drop and is not noise; the error rate
over all tests of a decision is the policy's, divided between suite, languages, tasks and floors, with Holm's correction within
each. A pass is not the absence of a fail: it needs the lower bound of every difference above minus its margin. What is neither
holds. Rules of the kind "no task may drop by more than its standard error", which raise a false alarm nine times in ten on
twenty tasks, are refused, and so are comparisons of means that are not paired.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from ..catalog.errors import RecipeError
from ..catalog.fingerprint import fingerprint
from ..catalog.records import Checkpoint, GateDecision, Outcome, Verdict
from ..catalog.store import Job, Made, write_atomically
from .decision_report import junit, markdown
from .pairing import Incomparable, Items, Node, floor_cells, nodes, paired_cells, read_items, require_sound
from .policy import FLOOR, LEVELS, Bounds, Policy, read_policy
from .recipe import GateRecipe
from .uncertainty import ROUNDING, Estimate, estimate, holm

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Test:
    """One node before the verdict: what was found there and what is asked of it."""

    family: str
    """`suite`, `language`, `task` or `floor`: the tests that share an error rate."""
    baseline: str
    """Reference of the baseline checkpoint, empty for a floor."""
    node: Node
    bounds: Bounds | None
    """What the node may lose; None for a floor."""
    estimate: Estimate
    floor: float = 0.0
    """The floor's value, where it is one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """The answer to a candidate's scorecard, before it is put on record."""

    verdict: Verdict
    reason: str
    """One sentence."""
    outcomes: tuple[Outcome, ...]


def decide(job: Job[GateRecipe]) -> Made:
    """Gate a candidate: a `GateDecision`, and for people and CI `decision.md` and `junit.xml`.

    Scorecards that cannot be compared give the verdict `error`. Raises RecipeError for a policy that cannot be read or asks for
    a baseline or parent that the recipe does not name, and CorruptInput for scorecards whose items are missing or changed.
    """
    recipe = job.recipe
    policy = _policy(job)
    candidate = read_items(job.inputs[recipe.candidate], job.folder_of(recipe.candidate))
    baselines = [read_items(job.inputs[ref], job.folder_of(ref)) for ref in recipe.baselines]
    parent = _parent(job)
    _check_recipe(recipe, policy, baselines, parent)
    answer = compare(policy, candidate, baselines, parent)
    refused = answer.verdict != "pass"
    decision = GateDecision(
        stage=recipe.stage,
        model=candidate.card.model,
        scorecard=candidate.ref,
        baselines=tuple(items.card.model for items in baselines),
        policy=policy.name,
        policy_fingerprint=fingerprint(policy),
        verdict=answer.verdict,
        reason=answer.reason,
        on_refusal=policy.on_refusal,
        kept=parent if refused and policy.on_refusal == "keep-parent" else "",
        waivers=policy.waivers,
        outcomes=answer.outcomes,
    )
    write_atomically(job.folder / "decision.md", markdown(decision))
    write_atomically(job.folder / "junit.xml", junit(decision))
    log.info("%s: %s: %s", recipe.ref, decision.verdict, decision.reason)
    return Made(body=decision)


def compare(policy: Policy, candidate: Items, baselines: Sequence[Items], parent: str) -> Compared:
    """Apply a policy to a candidate's items; `parent` is the checkpoint that rules `against = "parent"` mean."""
    try:
        for items in (candidate, *baselines):
            require_sound(items)
        tests = [*_rule_tests(policy, candidate, baselines, parent), *_floor_tests(policy, candidate)]
    except Incomparable as problem:
        return Compared(verdict="error", reason=f"the scores cannot be compared: {problem}", outcomes=())
    outcomes = tuple(_outcomes(policy, tests))
    verdicts = [outcome.verdict for outcome in outcomes]
    verdict: Verdict = "fail" if "fail" in verdicts else "hold" if "hold" in verdicts else "pass"
    return Compared(verdict=verdict, reason=_reason(verdict, outcomes), outcomes=outcomes)


def _policy(job: Job[GateRecipe]) -> Policy:
    paths = job.files["policy"]
    if len(paths) != 1:
        raise RecipeError(str(job.recipe.ref), "policy", f"must name one file, not {len(paths)}")
    return read_policy(paths[0])


def _parent(job: Job[GateRecipe]) -> str:
    if not job.recipe.parent:
        return ""
    artifact = job.inputs[job.recipe.parent]
    if not isinstance(artifact.body, Checkpoint):
        raise RecipeError(str(job.recipe.ref), "parent", f"{artifact.ref} is a {artifact.kind}, not a checkpoint")
    return str(artifact.ref)


def _check_recipe(recipe: GateRecipe, policy: Policy, baselines: Sequence[Items], parent: str) -> None:
    """Refuse what would leave a rule without anything to compare with: a gate that tests nothing must not pass."""
    ref, models = str(recipe.ref), [items.card.model for items in baselines]
    if policy.rules and not models:
        raise RecipeError(ref, "baselines", f"policy {policy.name!r} compares with baselines; name their scorecards")
    if len(set(models)) < len(models):
        raise RecipeError(ref, "baselines", f"two scorecards of one model: {', '.join(sorted(models))}")
    if any(rule.against == "parent" for rule in policy.rules) and parent not in models:
        problem = f"{parent or 'no parent'} is not among the models of the baselines ({', '.join(models)})"
        raise RecipeError(ref, "parent", f"policy {policy.name!r} compares with the parent, but {problem}")
    if policy.on_refusal == "keep-parent" and not parent:
        raise RecipeError(ref, "parent", f"is required: policy {policy.name!r} keeps it after a refusal")


def _rule_tests(policy: Policy, candidate: Items, baselines: Sequence[Items], parent: str) -> Iterator[Test]:
    for baseline in baselines:
        cells = paired_cells(candidate, baseline, policy.same_prompts)
        for rule in policy.rules:
            if rule.against == "parent" and baseline.card.model != parent:
                continue
            for node in nodes(cells, rule.metric, [level for level in LEVELS if rule.bounds(level)]):
                bounds = rule.bounds(node.level)
                assert bounds is not None
                found = _estimate(node, bounds.tolerance, policy.confidence)
                yield Test(family=node.level, baseline=baseline.card.model, node=node, bounds=bounds, estimate=found)


def _floor_tests(policy: Policy, candidate: Items) -> Iterator[Test]:
    for floor in policy.floors:
        for node in nodes(floor_cells(candidate, floor.metric, floor.value), floor.metric, [floor.level]):
            found = _estimate(node, 0.0, policy.confidence)
            yield Test(family=FLOOR, baseline="", node=node, bounds=None, estimate=found, floor=floor.value)


def _estimate(node: Node, tolerance: float, confidence: float) -> Estimate:
    samples = [cell.sample(weight) for cell, weight in zip(node.cells, node.weights(), strict=True)]
    return estimate(samples, tolerance, confidence)


def _outcomes(policy: Policy, tests: Sequence[Test]) -> Iterator[Outcome]:
    alphas = policy.alphas({test.family for test in tests})
    for family, alpha in alphas.items():
        members = [test for test in tests if test.family == family]
        # A drop needs both tests; see `uncertainty` for why the t test alone would be wrong.
        p_values = holm([max(test.estimate.p_value, test.estimate.flip_p_value) for test in members])
        for test, p_value in zip(members, p_values, strict=True):
            yield _outcome(test, p_value, alpha, alpha / len(members))


def _outcome(test: Test, p_value: float, alpha: float, alpha_each: float) -> Outcome:
    found, bounds = test.estimate, test.bounds
    tolerance, margin = (bounds.tolerance, bounds.margin) if bounds else (0.0, 0.0)
    is_suspect = min(found.p_value, found.flip_p_value) <= alpha_each
    is_enough = found.lower > -margin if bounds else found.delta >= -ROUNDING
    verdict: Verdict = "fail" if p_value <= alpha else "pass" if is_enough and not is_suspect else "hold"
    return Outcome(
        baseline=test.baseline,
        level=test.family,
        node=test.node.name,
        metric=test.node.cells[0].metric,
        candidate_value=_mean(test.node, "candidate"),
        baseline_value=_mean(test.node, "reference") if bounds else test.floor,
        delta=found.delta,
        lower=found.lower,
        upper=found.upper,
        tolerance=tolerance,
        margin=margin,
        p_value=p_value,
        items=found.items,
        clusters=found.clusters,
        verdict=verdict,
    )


def _mean(node: Node, side: Literal["candidate", "reference"]) -> float:
    return float(sum(w * getattr(cell, side).mean() for cell, w in zip(node.cells, node.weights(), strict=True)))


def _reason(verdict: Verdict, outcomes: Sequence[Outcome]) -> str:
    deciding = sorted((o for o in outcomes if o.verdict == verdict), key=_urgency)
    named = "; ".join(_figures(outcome) for outcome in deciding[:3])
    if verdict == "pass":
        passed = f"all {len(outcomes)} tests" if len(outcomes) > 1 else "its one test"
        return f"passed {passed}; the closest: {_figures(deciding[0])}"
    more = f"; and {len(deciding) - 3} more" if len(deciding) > 3 else ""
    what = "shown to be worse than tolerated" if verdict == "fail" else "not enough evidence"
    return f"{what} at {len(deciding)} of {len(outcomes)} tests: {named}{more}"


def _urgency(outcome: Outcome) -> tuple[float, float, str, str]:
    """Sorts the most telling outcome first: the smallest p value, then the least room between bound and margin."""
    room = (outcome.lower + outcome.margin) / (outcome.margin or 1.0)
    return (outcome.p_value if outcome.verdict == "fail" else 0.0, room, outcome.node, outcome.baseline)


def _figures(outcome: Outcome) -> str:
    if outcome.level == FLOOR:
        text = f"{outcome.node} {outcome.candidate_value:.3f} for a floor of {outcome.baseline_value:g}"
        return f"{text} (p {outcome.p_value:.2g})"
    asked = f"above {-outcome.margin:g}" if outcome.margin else "above 0"
    return (
        f"{outcome.node} {outcome.delta:+.3f} against {outcome.baseline} (lower bound {outcome.lower:+.3f}, needed {asked}; "
        f"drop beyond {outcome.tolerance:g}: p {outcome.p_value:.2g})"
    )
