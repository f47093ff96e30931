"""What a lineage did before a stage, read from the catalog: decisions that lent, the best model so far, the stage's last model.

The answers are the same when they are asked again after the stage was decided and promoted; a rerun must find its own decision.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from ..catalog.errors import RecipeError
from ..catalog.records import GateDecision, Loan, Promotion, Scorecard
from ..catalog.store import Store
from .loans import due, due_stage, outstanding
from .objective import best_of
from .policy import Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What a stage's candidate is held to beside its baselines, as references for the recipe of its gate."""

    debts: tuple[str, ...] = ()
    """Decisions of the lineage's earlier stages that lent or were repaid."""
    lenders: tuple[str, ...] = ()
    """Scorecards of the models that lent."""
    last: str = ""
    """Scorecard of the model last promoted to the stage, where the policy asks for it."""
    best: str = ""
    """Scorecard of the best model promoted to an earlier stage, where the policy asks for it."""


def history_of(store: Store, policy: Policy, earlier: Sequence[str], version: str, until: str = "") -> History:
    """What the `earlier` stages of a lineage's version did, all but `last`: only decisions that led to a promotion count.

    A stage that promoted nothing in this version still stands for what it promoted before, and owes what that owes; `until`
    (ISO 8601) leaves out what was promoted later.
    """
    decided: list[tuple[str, GateDecision]] = []
    standing: list[tuple[str, GateDecision]] = []
    for stage in earlier:
        ref = f"decision/{stage}@{version}"
        if any(promoted.decision == ref for promoted in promotions(store, stage)):
            decided.append((ref, _decision(store, ref)))
            standing.append(decided[-1])
        elif before := promotions(store, stage, until):
            standing.append((before[-1].decision, _decision(store, before[-1].decision)))
    in_debt = [(ref, body) for ref, body in standing if body.loans or body.repaid]
    found = History(
        debts=tuple(ref for ref, _ in in_debt),
        lenders=tuple(dict.fromkeys(loan.scorecard for loan in outstanding(body for _, body in in_debt))),
    )
    if not any(rule.against == "best" for rule in policy.rules):
        return found
    refs = [body.scorecard for _, body in decided]
    cards = [body for body in (store.require(ref).body for ref in refs) if isinstance(body, Scorecard)]
    place = best_of(cards, *policy.measure(), policy.scale)
    return replace(found, best="" if place is None else refs[place])


def uncollected(store: Store, stage: str, debts: Collection[str]) -> Iterator[tuple[str, Loan]]:
    """The loans due at a stage that its lineage's promoted models owe and no decision of `debts` has, each with its decision.

    A gate's recipe that is written by hand must not forget a loan.
    """
    lineage = stage.rpartition("/")[0]
    others = [name for name in store.stages() if lineage and name != stage and name.rpartition("/")[0] == lineage]
    refs = [promotions(store, name)[-1].decision for name in others]
    standing = [(ref, _decision(store, ref)) for ref in refs]
    owed = due(outstanding(body for _, body in standing), stage, settles_all=False)
    yield from ((ref, loan) for ref, body in standing for loan in body.loans if loan in owed and ref not in debts)


def _decision(store: Store, ref: str) -> GateDecision:
    body = store.require(ref).body
    assert isinstance(body, GateDecision)
    return body


def promotions(store: Store, stage: str, until: str = "") -> list[Promotion]:
    """The promotions of a stage, earliest first; of those made up to a time when `until` gives one."""
    found = [artifact for artifact in store.promotions(stage) if not until or artifact.provenance.created <= until]
    return [body for body in (artifact.body for artifact in found) if isinstance(body, Promotion)]


def last_promotion(store: Store, stage: str, decision: str) -> Promotion | None:
    """The promotion of a stage that was in force before a decision of it: not that decision's own, nor a later one."""
    history = promotions(store, stage)
    own = min((promoted.sequence for promoted in history if promoted.decision == decision), default=None)
    before = [p for p in history if p.decision != decision and (own is None or p.sequence < own)]
    return before[-1] if before else None


def require_collectors(policy: Policy, file: str, stage: str, later: Sequence[str]) -> None:
    """Raise RecipeError for a loan that is due at none of the lineage's `later` stages: nobody would collect it."""
    for place, loan in enumerate(policy.loans):
        if due_stage(loan.repay_by, stage) not in later:
            known = f"after {stage} come {', '.join(later)}" if later else f"after {stage} comes none"
            raise RecipeError(
                file,
                f"loans.{place}.repay_by",
                f"{loan.repay_by!r} is no later stage of the lineage ({known}); nobody would collect",
            )
