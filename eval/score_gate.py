"""The gate on scores alone: published tables and leaderboards, where nobody has the items.

The same policies, loans, floors and objectives as `gate`, but without items there is no error, and so no test and no hold: each
margin decides as it stands, and the decision says so. Made-up error bars were refused. Such a decision promotes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..catalog.fingerprint import canonical_json, fingerprint
from ..catalog.records import GateDecision, Loan, Outcome
from .loans import due, due_stage, loan_for, unpaid_words
from .objective import SCORE, Values
from .pairing import Incomparable
from .policy import CLAIM, FLOOR, LEVELS, Bounds, Claim, Floor, Level, Policy, Rule
from .selection import node_name, selection_of, selects

NOTE = "scores alone, without items: no errors and no p values; each margin decides as it stands"
"""What every such decision says."""
DIGITS = 9
"""Decimals after which two printed scores are the same."""
NAMED = 3
"""Outcomes named in a decision's reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """What is known of a model."""

    model: str
    """Its name or reference."""
    values: Values
    """By metric, language and task; higher is better."""
    scorecard: str = ""
    """Where they stand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A node of the suite with both models' means there."""

    level: Level
    name: str
    metric: str
    cells: tuple[tuple[str, str], ...]
    """Language and task of each score."""
    mine: float
    other: float

    @property
    def delta(self) -> float:
        """Candidate less other."""
        return round(self.mine - self.other, DIGITS)


def judge_scores(
    policy: Policy,
    stage: str,
    candidate: Scores,
    baselines: Sequence[Scores],
    *,
    parent: str = "",
    last: Scores | None = None,
    best: Scores | None = None,
    debts: Sequence[tuple[Loan, Scores]] = (),
) -> GateDecision:
    """Apply a policy to a candidate's scores.

    `parent` is the model of the baseline that rules `against = "parent"` and the objective mean (the first one unless given);
    `debts` are the outstanding loans with the lenders' scores. Raises Incomparable for a score that a rule is about and one of
    the models lacks.
    """
    parent = parent or (baselines[0].model if baselines else "")
    sides = {"all": list(baselines), "parent": [one for one in baselines if one.model == parent]}
    sides |= {"last": [last] if last else [], "best": [best] if best else []}
    outcomes, loans, notes = [], [], [NOTE]
    for rule in policy.rules:
        for baseline in sides[rule.against]:
            for outcome, loan in _rule_outcomes(policy, rule, stage, candidate, baseline):
                outcomes.append(outcome)
                loans += [loan] if loan else []
    for claim in (*policy.aims(), *policy.claims):
        for baseline in sides[claim.against]:
            shown = list(_claim_outcomes(policy, claim, candidate, baseline))
            outcomes += [outcome for outcome in shown if claim.required or outcome.verdict == "pass"]
            notes += [f"claimed and not shown: {_figures(o)}" for o in shown if o.verdict != "pass" and not claim.required]
    for floor in policy.floors:
        for outcome in _floor_outcomes(floor, candidate):
            is_flag = floor.on_breach == "flag" and outcome.verdict != "pass"
            notes += [f"flag: {_figures(outcome)}"] if is_flag else []
            outcomes += [] if is_flag else [outcome]
    owed = due([loan for loan, _ in debts], stage, policy.settles_all)
    settled = [(loan, _settled(policy, loan, candidate, lender)) for loan, lender in debts if loan in owed]
    unpaid = [unpaid_words(loan, outcome, stage) for loan, outcome in settled if outcome.verdict == "fail"]
    failed = [_figures(outcome) for outcome in sorted(outcomes, key=lambda o: o.delta) if outcome.verdict == "fail"]
    outcomes += [outcome for _, outcome in settled]
    refusals = [*unpaid, *failed]
    return GateDecision(
        stage=stage,
        model=candidate.model,
        scorecard=candidate.scorecard,
        baselines=tuple(one.model for one in baselines),
        policy=policy.name,
        policy_fingerprint=fingerprint(policy),
        policy_text=canonical_json(policy),
        verdict="fail" if refusals else "pass",
        reason=_reason(refusals, len(outcomes)),
        on_refusal=policy.on_refusal,
        kept=parent if refusals and policy.on_refusal == "keep-parent" else "",
        waivers=policy.waivers,
        outcomes=tuple(outcomes),
        loans=tuple(loans),
        repaid=tuple(loan for loan, outcome in settled if outcome.verdict == "pass"),
        notes=tuple(notes),
    )


def _rule_outcomes(
    policy: Policy, rule: Rule, stage: str, candidate: Scores, baseline: Scores
) -> Iterator[tuple[Outcome, Loan | None]]:
    levels: list[Level] = [level for level in LEVELS if rule.bounds(level)]
    for place in _places(policy, rule, levels, candidate, baseline):
        bounds = rule.bounds(place.level)
        assert bounds is not None
        loan = loan_for(policy.loans, place.metric, place.level, place.cells) if rule.may_lend(place.level) else None
        is_lent = loan is not None and not _is_enough(place, bounds) and place.delta > -loan.limit
        is_pass = is_lent or _is_enough(place, bounds)
        margin = loan.limit if loan and is_lent else bounds.margin
        yield (
            _outcome(place, place.level, baseline.model, margin, is_pass),
            Loan(
                stage=stage, node=place.name, metric=place.metric, level=place.level, lender=baseline.model,
                scorecard=baseline.scorecard, lost=place.delta, lent=loan.limit, within=loan.within,
                repay_by=due_stage(loan.repay_by, stage),
            ) if loan and is_lent else None,
        )  # fmt: skip


def _is_enough(place: Place, bounds: Bounds) -> bool:
    return place.delta > (0 if bounds.improve else -bounds.margin)


def _claim_outcomes(policy: Policy, claim: Claim, candidate: Scores, baseline: Scores) -> Iterator[Outcome]:
    for place in _places(policy, claim, [claim.level], candidate, baseline):
        is_shown = place.delta > claim.min_gain
        yield _outcome(place, CLAIM, baseline.model, -claim.min_gain, is_shown)


def _floor_outcomes(floor: Floor, candidate: Scores) -> Iterator[Outcome]:
    limit = Scores(model="", values=dict.fromkeys(candidate.values, floor.value))
    languages, tasks = floor.about()
    cells = _cells(candidate, limit, floor.metric, languages, tasks, {})
    for place in _nodes(cells, floor.metric, languages, tasks, [floor.level]):
        yield _outcome(place, FLOOR, "", 0.0, place.delta >= 0)


def _settled(policy: Policy, loan: Loan, candidate: Scores, lender: Scores) -> Outcome:
    metric, languages, tasks = selection_of(loan.node, {language for _, language, _ in candidate.values})
    cells = _cells(candidate, lender, metric, languages, tasks, policy.scale)
    (place,) = list(_nodes(cells, metric, languages, tasks, ["suite"]))
    return _outcome(place, loan.level, lender.model, loan.within, place.delta > -loan.within, name=loan.node)


Cells = list[tuple[str, str, float, float]]
"""Language, task, the candidate's score and the other's."""


def _places(
    policy: Policy, part: Rule | Claim, levels: Sequence[Level], candidate: Scores, baseline: Scores
) -> Iterator[Place]:
    cells = _cells(candidate, baseline, part.metric, part.languages, part.tasks, policy.scale)
    return _nodes(cells, part.metric, part.languages, part.tasks, levels)


def _cells(
    candidate: Scores, other: Scores, metric: str, languages: Sequence[str], tasks: Sequence[str], scale: dict[str, float]
) -> Cells:
    found = []
    for key in sorted({*candidate.values, *other.values}):
        name, language, task = key
        if metric not in (name, SCORE) or not selects(languages, language) or not selects(tasks, task):
            continue
        for one in (candidate, other):
            if key not in one.values:
                raise Incomparable(f"{one.model} has no score for {'/'.join(key)}")
        factor = scale.get(name, 1.0) if metric == SCORE else 1.0
        found.append((language, task, candidate.values[key] * factor, other.values[key] * factor))
    if not found:
        raise Incomparable(f"the policy asks for the metric {metric!r}, which {candidate.model} does not have there")
    return found


def _nodes(
    cells: Cells, metric: str, languages: Sequence[str], tasks: Sequence[str], levels: Sequence[Level]
) -> Iterator[Place]:
    """Where a metric is compared, widest first; what is the same at two levels stays with the wider one."""
    parts: list[tuple[Level, str, Cells]] = [("suite", node_name(metric, tasks, languages=languages), cells)]
    for language in dict.fromkeys(cell[0] for cell in cells):
        mine = [cell for cell in cells if cell[0] == language]
        parts.append(("language", node_name(metric, tasks, language), mine))
        parts.extend(("task", node_name(metric, (), language, cell[1]), [cell]) for cell in mine)
    seen = set()
    for level, name, members in sorted(parts, key=lambda part: LEVELS.index(part[0])):
        places = tuple((language, task) for language, task, _, _ in members)
        if level in levels and places not in seen:
            seen.add(places)
            count = Counter(language for language, _ in places)
            weights = [1 / (len(count) * count[language]) for language, _ in places]
            yield Place(
                level=level, name=name, metric=metric, cells=places,
                mine=sum(weight * cell[2] for weight, cell in zip(weights, members, strict=True)),
                other=sum(weight * cell[3] for weight, cell in zip(weights, members, strict=True)),
            )  # fmt: skip


def _outcome(place: Place, family: str, baseline: str, margin: float, is_pass: bool, name: str = "") -> Outcome:
    return Outcome(
        baseline=baseline, level=family, node=name or place.name, metric=place.metric, candidate_value=place.mine,
        baseline_value=place.other, delta=place.delta, lower=place.delta, upper=place.delta, tolerance=0.0, margin=margin,
        p_value=1.0, items=0, clusters=0, verdict="pass" if is_pass else "fail",
    )  # fmt: skip


def _figures(outcome: Outcome) -> str:
    if outcome.level == FLOOR:
        return f"{outcome.node} {outcome.candidate_value:.2f} is below the floor of {outcome.baseline_value:g}"
    asked = f"needed above {-outcome.margin:g}" if outcome.margin else "needed above 0"
    return (
        f"{outcome.node} {outcome.baseline_value:.2f} -> {outcome.candidate_value:.2f} against {outcome.baseline} "
        f"({outcome.delta:+.2f}, {asked})"
    )


def _reason(refusals: Sequence[str], count: int) -> str:
    if not refusals:
        return f"passed all {count} comparisons"
    more = f"; and {len(refusals) - NAMED} more" if len(refusals) > NAMED else ""
    return f"refused at {len(refusals)} of {count} comparisons: {'; '.join(refusals[:NAMED])}{more}"
