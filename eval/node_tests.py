"""The tests of a gate: one a node of the suite and rule, floor or claim, the correction for their number, and the verdicts.

A level's tests share its part of the error rate by Holm's method. A regression needs both its tests (see `uncertainty` for why
the t test alone would be wrong); claims are the mirror image, with an error rate of their own, for they can make nothing fail.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ..catalog.records import Loan, Outcome, Verdict
from .earlier import Earlier
from .loans import LoanRule, due_stage, loan_for, unpaid_words
from .pairing import Cell, Items, Node, cells_of, chosen, nodes
from .policy import ANY_METRIC, AUTO_ERRORS, CLAIM, FLAG, FLOOR, LEVELS, Bounds, Claim, Floor, Level, Noise, Policy, Rule
from .resampling import ROUNDING
from .selection import selection_of
from .uncertainty import Estimate, estimate, holm, mirrored

NAMED = 3
"""Tests named in a decision's reason."""
NOTHING = Earlier()
"""A lineage's first stage: nothing came before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Test:
    """One node before the verdict: what was found there and what is asked of it."""

    family: str
    """`suite`, `language`, `task`, `floor`, `flag` or `claim`: the tests that share an error rate."""
    baseline: str
    """Reference of the baseline checkpoint, empty for a floor."""
    node: Node
    estimate: Estimate
    bounds: Bounds | None = None
    """What the node may lose; None for a floor or a claim."""
    margin: float = 0.0
    """The margin in force: the bounds' own, or a larger one that the declared churn supports."""
    p_value: float = 1.0
    """Of the test as a whole, before the correction."""
    is_required: bool = True
    """Whether the verdict counts; false for a claim or a floor that is only reported."""
    loan: LoanRule | None = None
    """What may be borrowed here; `estimate` then tests a drop beyond its limit, `own` one beyond the rule's tolerance."""
    own: Estimate | None = None
    is_lent: bool = False
    """Whether the node passed on its loan."""
    debt: Loan | None = None
    """The outstanding loan whose repayment this tests."""
    lender: str = ""
    """Reference of the baseline's scorecard."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """The answer to a candidate's scorecard, before it is put on record."""

    verdict: Verdict
    reason: str
    """One sentence."""
    outcomes: tuple[Outcome, ...]
    notes: tuple[str, ...] = ()
    """What a reader should know beside the outcomes: the tier, effective margins, noise, claims that were not shown."""
    loans: tuple[Loan, ...] = ()
    """Losses that pass on loan."""
    repaid: tuple[Loan, ...] = ()
    """Loans of earlier stages that were due and are repaid."""

    def noted(self, note: str) -> Compared:
        """The same with a note before the others."""
        return replace(self, notes=(note, *self.notes))


def tested(
    policy: Policy,
    candidate: Items,
    baselines: Sequence[Items],
    parent: str,
    alpha: float,
    whole: Items | None = None,
    earlier: Earlier = NOTHING,
) -> Compared:
    """Make every test of a policy on comparable scorecards, at a family-wise error rate of `alpha`.

    `whole` is a scorecard of all items where these are a first tier: margins are what all items support, so that a first tier
    passes nothing that all items would not.
    """
    tests = [
        *_against_baselines(policy, candidate, baselines, parent, whole or candidate, earlier),
        *_settlement_tests(policy, candidate, whole or candidate, earlier),
        *_floor_tests(policy, candidate),
    ]
    judged = list(_judged(policy, tests, alpha))
    counted = [outcome.verdict for test, outcome in judged if test.is_required]
    # Where nothing was tested, nothing is shown: the first model of a stage needs a floor, or a signature.
    verdict: Verdict = "fail" if "fail" in counted else "hold" if "hold" in counted or not counted else "pass"
    outcomes = tuple(outcome for test, outcome in judged if test.is_required or outcome.verdict == "pass")
    deciding = [outcome for test, outcome in judged if test.is_required and not test.debt]
    unpaid = [unpaid_words(test.debt, o, earlier.stage) for test, o in judged if test.debt and o.verdict != "pass"]
    is_unpaid_alone = unpaid and verdict not in {outcome.verdict for outcome in deciding}
    return Compared(
        verdict=verdict,
        reason="; ".join([*unpaid, *([] if is_unpaid_alone else [_reason(verdict, deciding)])]),
        outcomes=outcomes,
        notes=(*_notes(policy, judged), *_absent(policy, earlier)),
        loans=tuple(_lent(test, outcome, earlier.stage) for test, outcome in judged if test.is_lent),
        repaid=tuple(test.debt for test, outcome in judged if test.debt and outcome.verdict == "pass"),
    )


def _against_baselines(
    policy: Policy, candidate: Items, baselines: Sequence[Items], parent: str, whole: Items, earlier: Earlier
) -> Iterator[Test]:
    sides = [(items, {"all", "parent"} if items.card.model == parent else {"all"}) for items in baselines]
    sides += [(items, {name}) for items, name in ((earlier.last, "last"), (earlier.best, "best")) if items]
    for baseline, roles in sides:
        rules = [rule for rule in policy.rules if rule.against in roles]
        claims = [claim for claim in (*policy.aims(), *policy.claims) if claim.against in roles]
        cells = cells_of(candidate, baseline) if rules or claims else []
        for rule in rules:
            yield from _rule_tests(policy, rule, _cells(policy, candidate, cells, rule), baseline, whole)
        for claim in claims:
            yield from _claim_tests(policy, claim, _cells(policy, candidate, cells, claim), baseline.card.model, whole)


def _cells(policy: Policy, candidate: Items, cells: Sequence[Cell], part: Rule | Claim) -> list[Cell]:
    return chosen(cells, candidate.card, part.metric, part.languages, part.tasks, policy.scale)


def _rule_tests(policy: Policy, rule: Rule, cells: Sequence[Cell], baseline: Items, whole: Items) -> Iterator[Test]:
    levels: list[Level] = [level for level in LEVELS if rule.bounds(level)]
    for node in nodes(cells, rule.metric, levels, rule.languages, rule.tasks):
        bounds = rule.bounds(node.level)
        assert bounds is not None
        own = _estimate(policy, node, bounds.tolerance)
        places = [(cell.language, cell.task) for cell in node.cells]
        loan = loan_for(policy.loans, rule.metric, node.level, places) if rule.may_lend(node.level) else None
        # What may be borrowed is no drop to fail for: the test of this node is of a drop beyond the loan's limit.
        found = _estimate(policy, node, max(bounds.tolerance, loan.limit)) if loan else own
        margin = bounds.margin if bounds.improve else _margin(policy, node, bounds.margin, whole)
        yield Test(
            family=node.level, baseline=baseline.card.model, node=node, bounds=bounds, estimate=found, margin=margin,
            p_value=max(found.p_value, found.flip_p_value), loan=loan, own=own, lender=baseline.ref,
        )  # fmt: skip


def _settlement_tests(policy: Policy, candidate: Items, whole: Items, earlier: Earlier) -> Iterator[Test]:
    """For every loan that is due, whether the candidate has come back to the lender's score."""
    known = {language for _, language, _ in candidate.blocks}
    for debt, lender in earlier.due(policy):
        metric, languages, tasks = selection_of(debt.node, known)
        cells = chosen(cells_of(candidate, lender), candidate.card, metric, languages, tasks, policy.scale)
        (found_at,) = nodes(cells, metric, ["suite"])
        node = replace(found_at, level=_level(debt), name=debt.node)
        within = _margin(policy, node, debt.within, whole)
        found = _estimate(policy, node, within)
        yield Test(
            family=node.level, baseline=debt.lender, node=node, bounds=None, estimate=found, margin=within,
            p_value=max(found.p_value, found.flip_p_value), debt=debt, lender=lender.ref,
        )  # fmt: skip


def _level(debt: Loan) -> Level:
    return next(level for level in LEVELS if level == debt.level)


def _floor_tests(policy: Policy, candidate: Items) -> Iterator[Test]:
    for floor in policy.floors:
        cells = _floor_cells(candidate, floor)
        for node in nodes(cells, floor.metric, [floor.level], *floor.about()):
            found = _estimate(policy, node, 0.0)
            is_flag = floor.on_breach == "flag"
            yield Test(
                family=FLAG if is_flag else FLOOR, baseline="", node=node, estimate=found, is_required=not is_flag,
                p_value=max(found.p_value, found.flip_p_value),
            )  # fmt: skip


def _floor_cells(candidate: Items, floor: Floor) -> list[Cell]:
    languages, tasks = floor.about()
    cells = [cell for cell in cells_of(candidate, None, floor.value) if cell.metric == floor.metric]
    return chosen(cells, candidate.card, floor.metric, languages, tasks, {})


def _claim_tests(policy: Policy, claim: Claim, cells: Sequence[Cell], baseline: str, whole: Items) -> Iterator[Test]:
    for node in nodes(cells, claim.metric, [claim.level], claim.languages, claim.tasks):
        found = _estimate(policy, node, 0.0)
        # A loss that is tolerated is a margin, and widened like one; a gain that is asked for is not.
        gain = claim.min_gain if claim.min_gain >= 0 else -_margin(policy, node, -claim.min_gain, whole)
        mirror = _estimate(policy, node, gain, is_mirrored=True)
        p_value = max(mirror.p_value, mirror.flip_p_value)
        yield Test(
            family=CLAIM, baseline=baseline, node=node, estimate=found, p_value=p_value, is_required=claim.required,
            margin=-gain,
        )  # fmt: skip


def _estimate(policy: Policy, node: Node, tolerance: float, is_mirrored: bool = False) -> Estimate:
    samples = mirrored(node.samples()) if is_mirrored else node.samples()
    is_corpus = any(cell.is_corpus for cell in node.cells)
    # One stratified task is a corpus metric, and so resampled, also where its strata could be added like tasks.
    if is_corpus and len(node.cells) == 1:
        samples = [replace(sample, is_binary=False) for sample in samples]
    return estimate(
        samples,
        tolerance,
        policy.confidence,
        noise=_noise(policy, node),
        # A pass at the first tier must stay one when a score is raised: only resampled bounds promise that for graded items.
        resample="always" if policy.tiers else "small" if is_corpus else "never",
        clusters=node.clusters(),
    )


def _noise(policy: Policy, node: Node) -> float:
    """Variance of the node's difference between two runs of one model: both runs have it."""
    noise = policy.noise.get(node.metric)
    if noise is None:
        return 0.0
    own = noise.sigma_run**2 * sum(weight * weight for weight in node.weights())
    return 2 * (own + noise.sigma_common**2)


def _margin(policy: Policy, node: Node, written: float, whole: Items) -> float:
    """The margin in force for a written one. Under `auto` its error is that of the declared churn: the data in hand must not
    widen it."""
    if policy.margin == "strict":
        return written
    churn = policy.noise.get(node.metric, Noise()).churn
    asked = [whole.blocks[cell.metric, cell.language, cell.task].asked for cell in node.cells]
    squares = sum(
        (weight * share) ** 2 / len(places)
        for one, weight in zip(asked, node.weights(), strict=True)
        for places, share in zip(one.strata, one.shares, strict=True)
    )
    return max(written, AUTO_ERRORS[node.level] * math.sqrt(churn * squares + _noise(policy, node)))


def _judged(policy: Policy, tests: Sequence[Test], alpha: float) -> Iterator[tuple[Test, Outcome]]:
    levels = {test.family for test in tests}
    alphas = policy.alphas(levels - {CLAIM, FLAG}, alpha) | {family: alpha for family in (CLAIM, FLAG) if family in levels}
    for family, level_alpha in alphas.items():
        members = [test for test in tests if test.family == family]
        p_values = holm([test.p_value for test in members])
        for test, p_value in zip(members, p_values, strict=True):
            outcome = _outcome(test, p_value, level_alpha, level_alpha / len(members))
            borrows = test.loan is not None and not _is_own_pass(test, level_alpha / len(members))
            yield replace(test, is_lent=borrows and outcome.verdict == "pass"), outcome


def _outcome(test: Test, p_value: float, alpha: float, alpha_each: float) -> Outcome:
    found, references = test.estimate, [cell.reference for cell in test.node.cells]
    is_floor, verdict = test.family in (FLOOR, FLAG), _verdict(test, p_value, alpha, alpha_each)
    borrows = test.loan is not None and not _is_own_pass(test, alpha_each)
    limit = test.loan.limit if test.loan else 0.0
    return Outcome(
        baseline=test.baseline,
        level=FLOOR if is_floor else test.family,
        node=test.node.name,
        metric=test.node.metric,
        candidate_value=_mean(test.node, [cell.candidate for cell in test.node.cells]),
        baseline_value=references[0] if is_floor else _mean(test.node, references),
        delta=found.delta,
        lower=found.lower,
        upper=found.upper,
        tolerance=max(test.bounds.tolerance, limit) if test.bounds else test.margin if test.debt else 0.0,
        margin=limit if borrows else test.margin,
        p_value=p_value,
        items=found.items,
        clusters=found.clusters,
        verdict=verdict,
    )


def _verdict(test: Test, p_value: float, alpha: float, alpha_each: float) -> Verdict:
    found = test.estimate
    if test.family == CLAIM:
        return "pass" if p_value <= alpha and found.delta > -test.margin else "hold"
    if p_value <= alpha:
        return "fail"
    if _is_own_pass(test, alpha_each) or (test.loan and found.lower > -test.loan.limit):
        return "pass"
    return "hold"


def _is_own_pass(test: Test, alpha_each: float) -> bool:
    """Whether a node needs no loan to pass."""
    found = test.own or test.estimate
    is_suspect = min(found.p_value, found.flip_p_value) <= alpha_each
    is_enough = found.lower > -test.margin if test.bounds or test.debt else found.delta >= -ROUNDING
    return is_enough and not is_suspect


def _lent(test: Test, outcome: Outcome, stage: str) -> Loan:
    loan = test.loan
    assert loan is not None
    return Loan(
        stage=stage, node=outcome.node, metric=outcome.metric, level=outcome.level, lender=test.baseline, scorecard=test.lender,
        lost=outcome.delta, lent=loan.limit, within=loan.within, repay_by=due_stage(loan.repay_by, stage),
    )  # fmt: skip


def _mean(node: Node, values: Sequence[float]) -> float:
    return float(sum(weight * value for weight, value in zip(node.weights(), values, strict=True)))


def _notes(policy: Policy, judged: Sequence[tuple[Test, Outcome]]) -> Iterator[str]:
    unmeasured = sorted({rule.metric for rule in policy.rules} - set(policy.noise))
    if policy.rules and unmeasured:
        names = ", ".join(unmeasured)
        yield f"the policy has no run noise for {names}: a difference that a second run would not show counts like any other"
    if policy.margin == "auto":
        effective: dict[str, list[float]] = {}
        for test, _ in judged:
            if test.bounds and not test.bounds.improve:
                effective.setdefault(f"{test.node.metric} {test.family}", []).append(test.margin)
        yield "effective margins (auto): " + "; ".join(
            f"{name} {min(found):.3g}" + (f" to {max(found):.3g}" if max(found) > min(found) * 1.001 else "")
            for name, found in effective.items()
        )
    for test, outcome in judged:
        if test.family == FLAG and outcome.verdict != "pass":
            shown = "shown to be " if outcome.verdict == "fail" else ""
            yield (
                f"flag: {outcome.node} {outcome.candidate_value:.3f} is {shown}on the wrong side of the floor of "
                f"{outcome.baseline_value:g} (p {outcome.p_value:.2g})"
            )
        elif not test.is_required and outcome.verdict != "pass":
            figures = f"{outcome.node} {outcome.delta:+.3f} against {outcome.baseline} (p {outcome.p_value:.2g})"
            yield f"claimed and not shown: {figures}"
    mixed = {cell.metric for test, _ in judged if test.node.metric == ANY_METRIC for cell in test.node.cells}
    if len(mixed) > 1 and not mixed.intersection(policy.scale):
        yield f"{ANY_METRIC} averages {', '.join(sorted(mixed))} as they stand: the policy has no scale for any of them"
    resampled = sum(test.estimate.method == "bootstrap" for test, _ in judged)
    if resampled:
        yield f"bounds of {resampled} of {len(judged)} nodes are of a paired bootstrap over clusters"


def _absent(policy: Policy, earlier: Earlier) -> Iterator[str]:
    """Rules that had nothing to compare with: the first model of a stage or lineage replaces nothing."""
    for name, items, what in (
        ("last", earlier.last, "no model was promoted to the stage before"),
        ("best", earlier.best, "no stage before this one has a model"),
    ):
        if items is None and any(rule.against == name for rule in policy.rules):
            yield f'rules against "{name}" compared nothing: {what}'


def _reason(verdict: Verdict, outcomes: Sequence[Outcome]) -> str:
    if not outcomes:
        return "not enough evidence: no test was made, the notes say why"
    deciding = sorted((o for o in outcomes if o.verdict == verdict), key=_urgency)
    named = "; ".join(_figures(outcome) for outcome in deciding[:NAMED])
    if verdict == "pass":
        passed = f"all {len(outcomes)} tests" if len(outcomes) != 1 else "its one test"
        return f"passed {passed}" + (f"; the closest: {_figures(deciding[0])}" if deciding else "")
    more = f"; and {len(deciding) - NAMED} more" if len(deciding) > NAMED else ""
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
    if outcome.level == CLAIM:
        return f"{outcome.node} {outcome.delta:+.3f} against {outcome.baseline} claimed to be better (p {outcome.p_value:.2g})"
    asked = f"above {-outcome.margin:g}" if outcome.margin else "above 0"
    return (
        f"{outcome.node} {outcome.delta:+.3f} against {outcome.baseline} (lower bound {outcome.lower:+.3f}, needed {asked}; "
        f"drop beyond {outcome.tolerance:g}: p {outcome.p_value:.2g}{_settling(outcome)})"
    )


def _settling(outcome: Outcome) -> str:
    """For a held node: about how many times the items would settle it, if the difference stays what it is."""
    reach, room = outcome.delta - outcome.lower, outcome.delta + outcome.margin
    if outcome.verdict != "hold" or outcome.lower > -outcome.margin:
        return ""
    if room <= 0:
        return "; no number of items settles this unless the difference changes"
    return f"; about {math.ceil(outcome.items * (reach / room) ** 2):,} items would settle it, there are {outcome.items:,}"
