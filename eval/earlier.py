"""What a lineage did before the stage that is being decided: its open loans, its best model, the one last promoted here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from ..catalog.records import Loan
from .loans import due
from .pairing import Items
from .policy import Policy
from .tiers import restricted


@dataclass(frozen=True, slots=True, kw_only=True)
class Earlier:
    """What a candidate is held to beside its baselines."""

    stage: str = ""
    """The stage that is decided on."""
    last: Items | None = None
    """The model last promoted to it."""
    best: Items | None = None
    """The best model promoted to the lineage's earlier stages."""
    debts: tuple[tuple[Loan, Items], ...] = ()
    """The lineage's outstanding loans, each with its lender."""

    def due(self, policy: Policy) -> list[tuple[Loan, Items]]:
        """The loans that must be settled here."""
        owed = due([loan for loan, _ in self.debts], self.stage, policy.settles_all)
        return [(loan, lender) for loan, lender in self.debts if loan in owed]

    def compared(self, policy: Policy) -> list[Items]:
        """Every scorecard that a policy compares the candidate with beside the baselines, each once."""
        return list({items.ref: items for items in self._compared(policy)}.values())

    def restricted(self, policy: Policy, count: int) -> Earlier:
        """The first tier of all that a policy compares with; what it does not compare with is left out."""
        parts = {items.ref: restricted(items, count) for items in self.compared(policy)}
        return replace(
            self,
            last=parts.get(self.last.ref) if self.last else None,
            best=parts.get(self.best.ref) if self.best else None,
            debts=tuple((loan, parts[lender.ref]) for loan, lender in self.due(policy)),
        )

    def mapped(self, change: Callable[[Items], Items]) -> Earlier:
        """The same with every scorecard changed."""
        return replace(
            self,
            last=change(self.last) if self.last else None,
            best=change(self.best) if self.best else None,
            debts=tuple((loan, change(lender)) for loan, lender in self.debts),
        )

    def _compared(self, policy: Policy) -> Iterator[Items]:
        asked = {rule.against for rule in policy.rules}
        yield from (items for name, items in (("last", self.last), ("best", self.best)) if items and name in asked)
        yield from (lender for _, lender in self.due(policy))
