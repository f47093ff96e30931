"""`promote`: a stage's alias moves to the model of a gate decision.

The only way to a `Promotion` is `promotion_of`, which takes the `GateDecision` and checks it: an ungated promotion cannot be
written. A licence that the recipe claims for the model's card must give no more than the model inherits. Moving back is another
promotion, so that the stage's history stays whole.
"""

from __future__ import annotations

import logging
from datetime import UTC, date, datetime

from ..catalog.errors import GateRefused, RecipeError, SeaLionError
from ..catalog.inheritance import check_claim
from ..catalog.records import ArtifactRef, GateDecision, Promotion
from ..catalog.store import Job, Made
from .recipe import PromotionRecipe
from .waiver import Waiver, read_waiver, verify_waiver

log = logging.getLogger(__name__)

DEV = "dev"
"""The version that may be rebuilt freely."""


class NotPromotable(SeaLionError):
    """A promotion that rests on something that can still change."""

    def __init__(self, ref: str, what: str) -> None:
        super().__init__(f"{ref}: {what} of version {DEV!r} may be rebuilt and is never promoted; give it a version of its own")


def promote(job: Job[PromotionRecipe]) -> Made:
    """Promote the model of a gate decision: a `Promotion`.

    Raises GateRefused for a decision that is no pass and has no waiver, WaiverRefused for a waiver that does not hold,
    NotPromotable for version `dev`, and LicenceRefused for a claimed licence above what the model's parents give.
    """
    recipe = job.recipe
    artifact = job.inputs[recipe.decision]
    decision = artifact.body
    if not isinstance(decision, GateDecision):
        raise RecipeError(str(recipe.ref), "decision", f"{artifact.ref} is a {artifact.kind}, not a gate decision")
    today = datetime.now(UTC).date()
    waiver = None
    paths = job.files.get("waiver", [])
    if len(paths) > 1:
        raise RecipeError(str(recipe.ref), "waiver", f"must name one file, not {len(paths)}")
    if paths:
        waiver = read_waiver(paths[0], decision, artifact.fingerprint, today)
    bodies = [other.body for other in job.store.promotions(decision.stage) if other.ref != recipe.ref]
    earlier = [body.sequence for body in bodies if isinstance(body, Promotion)]
    body = promotion_of(
        decision,
        ref=artifact.ref,
        fingerprint=artifact.fingerprint,
        sequence=1 + max(earlier, default=0),
        waiver=waiver,
        today=today,
    )
    if recipe.licence:
        check_claim(job.store, decision.model, recipe.licence)
    by = f", on a waiver of {body.waiver_by}" if body.waiver_by else ""
    log.info("%s: %s is now %s (promotion %d%s)", recipe.ref, body.stage, body.model, body.sequence, by)
    return Made(body=body)


def promotion_of(
    decision: GateDecision, *, ref: ArtifactRef, fingerprint: str, sequence: int, waiver: Waiver | None, today: date
) -> Promotion:
    """The promotion that a decision carries; `ref` and `fingerprint` are those of its artifact, `sequence` counts from 1.

    A waiver beside a pass is checked like any other but leaves no trace. Raises as `promote` does.
    """
    for what, version_of in (("a model", decision.model), ("a scorecard", decision.scorecard), ("a decision", str(ref))):
        if ArtifactRef.parse(version_of).version == DEV:
            raise NotPromotable(version_of, what)
    if waiver is not None:
        verify_waiver(waiver, decision, fingerprint, today)
    is_pass = decision.verdict == "pass"
    if not is_pass and waiver is None:
        raise GateRefused(decision)
    return Promotion(
        stage=decision.stage,
        model=decision.model,
        decision=str(ref),
        verdict=decision.verdict,
        sequence=sequence,
        waiver_by=waiver.person if waiver and not is_pass else "",
        waiver_reason=waiver.reason if waiver and not is_pass else "",
        waiver_expires=waiver.expires if waiver and not is_pass else "",
    )
