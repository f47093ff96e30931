"""What a lineage did before a stage, read from the catalog: decisions that lent, the best model so far, the stage's last model.

The answers are the same when they are asked again after the stage was decided and promoted; a rerun must find its own decision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..catalog.errors import RecipeError
from ..catalog.records import GateDecision, Promotion, Scorecard
from ..catalog.store import Store
from .loans import due_stage, outstanding
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


def history_of(store: Store, policy: Policy, earlier: Sequence[str], version: str) -> History:
    """What the `earlier` stages of a lineage's version did, all but `last`: only decisions that led to a promotion count."""
    decided: list[tuple[str, GateDecision]] = []
    for stage in earlier:
        ref = f"decision/{stage}@{version}"
        if any(promoted.decision == ref for promoted in promotions(store, stage)):
            body = store.require(ref).body
            assert isinstance(body, GateDecision)
            decided.append((ref, body))
    in_debt = [(ref, body) for ref, body in decided if body.loans or body.repaid]
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


def promotions(store: Store, stage: str) -> list[Promotion]:
    """The promotions of a stage, earliest first."""
    return [body for body in (artifact.body for artifact in store.promotions(stage)) if isinstance(body, Promotion)]


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
