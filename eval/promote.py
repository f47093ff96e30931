"""`promote`: a stage's alias moves to the model of a gate decision.

The only way to a `Promotion` is `promotion_of`, which takes the `GateDecision` and checks it: an ungated promotion cannot be
written. A licence that the recipe claims for the model's card must give no more than the model inherits. Moving back is another
promotion, with who and why, so that the stage's history stays whole. A promotion names everything it rests on with its digest
(`evidence`), and `verify` computes them again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, date, datetime

from ..catalog.discarding import check_whole
from ..catalog.errors import GateRefused, RecipeError, SeaLionError
from ..catalog.files import RECORD, verify_files
from ..catalog.fingerprint import file_digest
from ..catalog.inheritance import check_claim
from ..catalog.records import Artifact, ArtifactRef, Evidence, GateDecision, Promotion
from ..catalog.store import Job, Made, Store
from .recipe import PromotionRecipe
from .waiver import Waiver, read_waiver, verify_waiver

log = logging.getLogger(__name__)

ROLES = {"candidate": "candidate", "parent": "parent", "debts": "debt", "lenders": "lender"}
"""Field of a gate's recipe to what its scorecard, or decision, is to a promotion; the others are baselines."""
DEV = "dev"
"""The version that may be rebuilt freely."""


class NotPromotable(SeaLionError):
    """A promotion that rests on something that can still change."""

    def __init__(self, ref: str, what: str) -> None:
        super().__init__(f"{ref}: {what} of version {DEV!r} may be rebuilt and is never promoted; give it a version of its own")


def promote(job: Job[PromotionRecipe]) -> Made:
    """Promote the model of a gate decision: a `Promotion`.

    Raises GateRefused for a decision that is no pass and has no waiver, WaiverRefused for a waiver that does not hold,
    NotPromotable for version `dev`, FilesDiscarded for a model whose weights are deleted, and LicenceRefused for a claimed
    licence above what the model's parents give.
    """
    recipe = job.recipe
    artifact = job.inputs[recipe.decision]
    decision = artifact.body
    if not isinstance(decision, GateDecision):
        raise RecipeError(str(recipe.ref), "decision", f"{artifact.ref} is a {artifact.kind}, not a gate decision")
    earlier = [other for other in job.store.promotions(decision.stage) if other.ref != recipe.ref]
    today = datetime.now(UTC).date()
    body = promotion_of(
        decision,
        ref=artifact.ref,
        fingerprint=artifact.fingerprint,
        sequence=1 + max((promotion(other).sequence for other in earlier), default=0),
        waiver=_waiver(job, artifact, decision, today),
        today=today,
    )
    model = job.store.require(body.model)  # an alias stands for something that is there
    check_whole(job.store.path(model.ref), model)
    if recipe.licence:
        check_claim(job.store, decision.model, recipe.licence)
    taken_back = [other for other in earlier if str(other.ref) == recipe.rolls_back]
    if recipe.rolls_back and not taken_back:
        raise RecipeError(str(recipe.ref), "rolls_back", f"{recipe.rolls_back} is no promotion of {decision.stage}")
    body = replace(
        body,
        evidence=tuple(_evidence(job.store, artifact, taken_back)),
        policy=decision.policy_text,
        rolled_back=recipe.rolls_back,
        person=recipe.person,
        reason=recipe.reason,
    )
    by = f", on a waiver of {body.waiver_by}" if body.waiver_by else ""
    back = f", taken back by {recipe.person}: {recipe.reason}" if recipe.rolls_back else ""
    log.info("%s: %s is now %s (promotion %d%s%s)", recipe.ref, body.stage, body.model, body.sequence, by, back)
    return Made(body=body)


def _waiver(job: Job[PromotionRecipe], artifact: Artifact, decision: GateDecision, today: date) -> Waiver | None:
    paths = job.files.get("waiver", [])
    if len(paths) > 1:
        raise RecipeError(str(job.recipe.ref), "waiver", f"must name one file, not {len(paths)}")
    return read_waiver(paths[0], decision, artifact.fingerprint, today) if paths else None


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


def promotion(artifact: Artifact) -> Promotion:
    """The body of a promotion; raises SeaLionError for any other artifact."""
    if not isinstance(artifact.body, Promotion):
        raise SeaLionError(f"{artifact.ref} is a {artifact.kind}, not a promotion")
    return artifact.body


def _evidence(store: Store, decision: Artifact, taken_back: list[Artifact]) -> Iterator[Evidence]:
    body = decision.body
    assert isinstance(body, GateDecision)
    roles = {body.model: "model", str(decision.ref): "decision"}
    for given in decision.inputs:
        roles.setdefault(given.ref, ROLES.get(given.role.partition(".")[0], "baseline"))
    roles |= {str(other.ref): "replaced" for other in taken_back}
    for ref, role in roles.items():
        found = store.get(ArtifactRef.parse(ref))
        if found is not None:
            yield Evidence(
                role=role,
                artifact=ref,
                fingerprint=found.fingerprint,
                record_sha256=file_digest(store.path(found.ref) / RECORD),
                licence=found.licence,
            )


def rollback_recipe(store: Store, stage: str, *, to: str, person: str, reason: str) -> PromotionRecipe:
    """The recipe that moves a stage's alias back to what it stood for before, or to the model `to` if that was promoted once.

    Going back twice goes two models back: what was taken back stands before nothing and must be named. Raises SeaLionError when
    there is no such promotion to go back to, or nobody and no reason is given.
    """
    history = store.promotions(stage)
    if not history:
        raise SeaLionError(f"stage {stage}: nothing was ever promoted; known stages: {', '.join(store.stages()) or 'none'}")
    if not person.strip() or not reason.strip():
        raise SeaLionError("a roll-back needs --person and --reason: both are recorded")
    bodies = [promotion(other) for other in history]
    now = bodies[-1]
    before = [body for body in bodies[:-1] if body.model != now.model]
    wanted = [body for body in before if body.model == to] if to else _standing_before(bodies)
    if not wanted:
        earlier = ", ".join(dict.fromkeys(body.model for body in before)) or "none"
        problem = f"{to} was not promoted before {now.model}" if to else f"nothing stood for it before {now.model}"
        raise SeaLionError(f"stage {stage}: {problem}; models promoted to it: {earlier} (name one with --to)")
    last = wanted[-1]
    if last.verdict != "pass":
        raise SeaLionError(
            f"{last.model} stood for {stage} on a waiver that bound that decision; gate it again to go back to it"
        )
    return PromotionRecipe(
        kind="promotion",
        name=f"promotion/{stage}",
        version=f"back-{now.sequence + 1}",
        decision=last.decision,
        rolls_back=str(history[-1].ref),
        person=person,
        reason=reason,
    )


def _standing_before(history: list[Promotion]) -> list[Promotion]:
    """The promotions of other models that the last one stands on, without those that were taken back."""
    stack: list[Promotion] = []
    for body in history:
        if body.rolled_back:
            models = [standing.model for standing in stack]
            del stack[models.index(body.model) + 1 if body.model in models else -1 :]
        if not stack or stack[-1].model != body.model:
            stack.append(body)
    return stack[:-1]


def verify(store: Store, artifact: Artifact) -> Mapping[str, str]:
    """Compute every digest behind a promotion again: reference to `""` (as recorded) or what is wrong.

    Looks at the records and at every byte of every file of the model, the decision and the scorecards.
    """
    body, found = promotion(artifact), dict[str, str]()
    if not body.evidence:
        raise SeaLionError(f"{artifact.ref}: was made before promotions kept their evidence; promote again to record it")
    for evidence in body.evidence:
        found[evidence.artifact] = _difference(store, evidence)
    decision = store.get(ArtifactRef.parse(body.decision))
    if decision is not None and isinstance(decision.body, GateDecision):
        said = decision.body
        claimed = (body.stage, body.model, body.verdict, body.policy)
        if (said.stage, said.model, said.verdict, said.policy_text) != claimed:
            found[body.decision] = found.get(body.decision) or "says something else than the promotion"
    return found


def _difference(store: Store, evidence: Evidence) -> str:
    try:
        artifact = store.get(ArtifactRef.parse(evidence.artifact))
        if artifact is None:
            return "is not there any more"
        if artifact.fingerprint != evidence.fingerprint:
            return f"has the fingerprint {artifact.fingerprint[:12]}, recorded is {evidence.fingerprint[:12]}"
        if file_digest(store.path(artifact.ref) / RECORD) != evidence.record_sha256:
            return "its record is another one than the promotion saw"
        verify_files(store.folder(artifact.ref), artifact)
    except SeaLionError as error:
        return str(error)
    return ""
