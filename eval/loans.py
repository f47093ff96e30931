"""Loans: a loss that a stage's policy allows now, on record, and that a named later stage must make good.

Alignment trades knowledge for manners and the last merge wins it back: a rule that knows no credit forbids the published
recipes, and a rule that forgives forgets. So a loss within a loan's limit passes as a `Loan` that names its lender (the model
whose score is missing), and the stage it is due at is held to that score. A margin wide enough for alignment was refused: it
would let the loss through for good, once a stage.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from ..catalog.records import STRICT, GateDecision, Loan, Outcome
from .selection import selects


@dataclass(frozen=True, slots=True, kw_only=True)
class LoanRule:
    """What may be lost now where a rule would refuse it, and when it must be back."""

    __pydantic_config__ = STRICT

    metric: str
    """The metric of the rules it relaxes, as they name it."""
    level: Literal["suite", "language", "task"]
    """The level of the nodes it relaxes."""
    limit: float
    """The most that may be lost, in the metric's unit: the lower bound must be above minus this; above 0."""
    within: float
    """How close to the lender's score the repayment must come: its lower bound must be above minus this; at least 0."""
    repay_by: str
    """The stage at which it is due: the last part of a name (`final` of the same lineage) or a whole one."""
    languages: tuple[str, ...] = ()
    """ISO 639-3 of the languages it is about, `!tam` for all but that; empty: all."""
    tasks: tuple[str, ...] = ()
    """Tasks it is about, `!mt-bench` for all but that; empty: all."""

    def __post_init__(self) -> None:
        if self.limit <= 0 or self.within < 0:
            raise ValueError("limit must be above 0 and within at least 0")
        if self.within >= self.limit:
            raise ValueError(f"within ({self.within:g}) must be below the limit ({self.limit:g}): nothing would be repaid")
        if not self.repay_by.strip("/"):
            raise ValueError("repay_by must name a stage")


def loan_for(loans: Sequence[LoanRule], metric: str, level: str, places: Iterable[tuple[str, str]]) -> LoanRule | None:
    """The first loan that covers a node: of its metric and level, and about each of its `places` (language, task)."""
    cells = list(places)
    for loan in loans:
        is_about = all(selects(loan.languages, language) and selects(loan.tasks, *_tasks(task)) for language, task in cells)
        if loan.metric == metric and loan.level == level and is_about:
            return loan
    return None


def _tasks(task: str) -> tuple[str, str]:
    """A cell's task with and without its filter."""
    return task, task.partition(":")[0]


def due_stage(repay_by: str, stage: str) -> str:
    """The whole name of the stage at which a loan of `stage` is due.

    >>> due_stage("final", "tiny-llama/align")
    'tiny-llama/final'
    """
    lineage = stage.rpartition("/")[0]
    return repay_by if "/" in repay_by or not lineage else f"{lineage}/{repay_by}"


def outstanding(decisions: Iterable[GateDecision]) -> list[Loan]:
    """The loans of some decisions that none of them repaid; one and the same is counted once."""
    taken: dict[tuple[str, str, str, str], Loan] = {}
    repaid = set()
    for decision in decisions:
        taken |= {_key(loan): loan for loan in decision.loans}
        repaid |= {_key(loan) for loan in decision.repaid}
    return [loan for key, loan in taken.items() if key not in repaid]


def _key(loan: Loan) -> tuple[str, str, str, str]:
    return loan.stage, loan.level, loan.node, loan.lender


def due(loans: Sequence[Loan], stage: str, settles_all: bool) -> list[Loan]:
    """Those of some loans that a stage must settle."""
    return [loan for loan in loans if settles_all or loan.repay_by == stage]


def unpaid_words(loan: Loan, outcome: Outcome, stage: str) -> str:
    """An unpaid loan in one line: what was lost, for which stage and from whom, and how far the candidate still is."""
    bound = f", lower bound {outcome.lower:+.3g}" if outcome.items else ""
    return (
        f"unpaid loan: {loan.node} {loan.lost:+.3g} taken for {loan.stage} from {loan.lender}, due at {stage}: now "
        f"{outcome.delta:+.3g} against the lender{bound}, needed above {-outcome.margin:g}"
    )
