"""`gate`: may a candidate become a stage's model? Pass, fail, hold or error, with every figure.

Regressions are tested as "the drop is at most the tolerance", so that a fail has shown a drop and is not noise; the error rate
over all tests of a decision is the policy's, divided between suite, languages, tasks and floors, with Holm's correction within
each. A pass is not the absence of a fail: it needs the lower bound of every difference above minus its margin. What is neither
holds. Rules of the kind "no task may drop by more than its standard error", which raise a false alarm nine times in ten on
twenty tasks, are refused, and so are comparisons of means that are not paired.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from ..catalog.errors import RecipeError
from ..catalog.fingerprint import canonical_json, fingerprint
from ..catalog.records import Checkpoint, GateDecision
from ..catalog.store import Job, Made, write_atomically
from .broken import Side, broken_items, write_broken
from .clean import found_items, without
from .comparability import require_comparable, require_sound
from .decision_page import decision_page
from .decision_report import as_json, junit, markdown, workflow_commands
from .earlier import Earlier
from .history import uncollected
from .loans import outstanding
from .node_tests import NOTHING, Compared, tested
from .pairing import Incomparable, Items, read_items
from .policy import Claim, Policy, Rule, check_names, read_policy
from .recipe import GateRecipe
from .tiers import is_first_tier_only, restricted

log = logging.getLogger(__name__)


def decide(job: Job[GateRecipe]) -> Made:
    """Gate a candidate: a `GateDecision`, and beside it the reports for people and CI and the items that broke.

    Scorecards that cannot be compared give the verdict `error`. Raises RecipeError for a policy that cannot be read, names what
    no scorecard has, or asks for a baseline, parent or loan that the recipe does not name, and CorruptInput for scorecards
    whose items or answers are missing or changed.
    """
    recipe = job.recipe
    policy = _policy(job)
    candidate = read_items(job.inputs[recipe.candidate], job.folder_of(recipe.candidate))
    baselines = [read_items(job.inputs[ref], job.folder_of(ref)) for ref in recipe.baselines]
    parent = _parent(job)
    _check_recipe(recipe, policy, baselines, parent)
    for ref, loan in uncollected(job.store, recipe.stage, recipe.debts):
        lent = f"it lent {loan.node} to {loan.stage}, due at {recipe.stage}; the lender is {loan.scorecard}"
        raise RecipeError(str(recipe.ref), "debts", f"{ref} is missing: {lent}")
    check_policy(policy, str(job.files["policy"][0]), [candidate, *baselines])
    answer = compare(policy, candidate, baselines, parent, earlier_of(job))
    refused = answer.verdict != "pass"
    decision = GateDecision(
        stage=recipe.stage,
        model=candidate.card.model,
        scorecard=candidate.ref,
        baselines=tuple(items.card.model for items in baselines),
        policy=policy.name,
        policy_fingerprint=fingerprint(policy),
        policy_text=canonical_json(policy),
        verdict=answer.verdict,
        reason=answer.reason,
        on_refusal=policy.on_refusal,
        kept=parent if refused and policy.on_refusal == "keep-parent" else "",
        waivers=policy.waivers,
        outcomes=answer.outcomes,
        loans=answer.loans,
        repaid=answer.repaid,
        notes=answer.notes,
    )
    _write_reports(job, decision)
    log.info("%s: %s: %s", recipe.ref, decision.verdict, decision.reason)
    return Made(body=decision, tables={"broken": "broken.parquet"})


def _write_reports(job: Job[GateRecipe], decision: GateDecision) -> None:
    """Everything for people and CI, beside the record."""
    recipe = job.recipe
    sides = [Side(artifact=job.inputs[ref], folder=job.folder_of(ref)) for ref in (recipe.candidate, *recipe.baselines)]
    broken = [row for baseline in sides[1:] for row in broken_items(sides[0], baseline)]
    write_broken(job.folder / "broken.parquet", broken)
    runs = {str(artifact.ref): artifact.fingerprint for artifact in job.inputs.values()}
    for name, text in (
        ("decision.json", as_json(decision, runs)),
        ("decision.md", markdown(decision, broken)),
        ("decision.html", decision_page(decision, broken)),
        ("junit.xml", junit(decision)),
        ("annotations.txt", "".join(f"{line}\n" for line in workflow_commands(decision))),
    ):
        write_atomically(job.folder / name, text)


def compare(policy: Policy, candidate: Items, baselines: Sequence[Items], parent: str, earlier: Earlier = NOTHING) -> Compared:
    """Apply a policy to a candidate's items; `parent` is the checkpoint that rules `against = "parent"` mean.

    With tiers, the first tier's items decide at its part of the error rate; only where they hold are all items asked.
    """
    try:
        others = [*baselines, *earlier.compared(policy)]
        for items in (candidate, *others):
            require_sound(items, policy)
        found = found_items(policy.clean, [candidate, *others])
        if found:
            candidate, baselines = without(candidate, found), [without(items, found) for items in baselines]
            earlier = earlier.mapped(lambda items: without(items, found))
        answer = _tiered(policy, candidate, baselines, parent, earlier)
        return answer.noted(f"{len(found)} items that training corpora hold are left out") if policy.clean else answer
    except Incomparable as problem:
        return Compared(verdict="error", reason=f"the scores cannot be compared: {problem}", outcomes=())


def _tiered(policy: Policy, candidate: Items, baselines: Sequence[Items], parent: str, earlier: Earlier) -> Compared:
    if policy.tiers is None:
        _require_all(candidate, [*baselines, *earlier.compared(policy)])
        return _compared(policy, candidate, baselines, parent, policy.alpha, None, earlier)
    return _escalated(policy, candidate, baselines, parent, earlier)


def check_policy(policy: Policy, file: str, scorecards: Sequence[Items]) -> None:
    """Raise RecipeError when the policy names a metric, language or task that none of the scorecards has."""
    scores = [score for items in scorecards for score in items.card.scores]
    places = [place for items in scorecards for place in items.blocks]
    check_names(
        policy,
        file,
        metrics={score.metric for score in scores} | {metric for metric, _, _ in places},
        languages={score.language for score in scores} | {language for _, language, _ in places},
        tasks={score.task for score in scores} | {task for _, _, task in places},
    )


def _escalated(policy: Policy, candidate: Items, baselines: Sequence[Items], parent: str, earlier: Earlier) -> Compared:
    """Decide on the first tier, and on all items where that holds and both sides have them."""
    tiers = policy.tiers
    assert tiers is not None
    others = [*baselines, *earlier.compared(policy)]
    for baseline in others:  # a scorecard that does not say it is a first tier must have all items
        if not is_first_tier_only(candidate) and not is_first_tier_only(baseline):
            require_comparable(candidate, baseline, policy.same_prompts)
    parts = [restricted(items, tiers.items) for items in baselines]
    whole = next((items for items in (candidate, *baselines) if not is_first_tier_only(items)), None)
    before = earlier.restricted(policy, tiers.items)
    first = _compared(policy, restricted(candidate, tiers.items), parts, parent, tiers.alpha, whole, before)
    asked = f"tier 1 of 2: {tiers.items} items a task, at {tiers.alpha:g} of the error rate of {policy.alpha:g}"
    if first.verdict in ("pass", "fail"):
        return first.noted(f"decided by {asked}")
    if any(is_first_tier_only(items) for items in (candidate, *others)):
        return first.noted(f"held by {asked}; the second tier needs scorecards of all items")
    second = _compared(policy, candidate, baselines, parent, policy.alpha - tiers.alpha, None, earlier)
    return second.noted(f"decided by all items, at {policy.alpha - tiers.alpha:g} of the error rate; held by {asked}")


def _compared(
    policy: Policy,
    candidate: Items,
    baselines: Sequence[Items],
    parent: str,
    alpha: float,
    whole: Items | None,
    earlier: Earlier,
) -> Compared:
    for baseline in (*baselines, *earlier.compared(policy)):
        require_comparable(candidate, baseline, policy.same_prompts)
    return tested(policy, candidate, baselines, parent, alpha, whole, earlier)


def _require_all(candidate: Items, baselines: Sequence[Items]) -> None:
    for items in (candidate, *baselines):
        if is_first_tier_only(items):
            raise Incomparable(f"{items.ref} asked only the items of a first tier, and the policy has no tiers")


def _policy(job: Job[GateRecipe]) -> Policy:
    paths = job.files["policy"]
    if len(paths) != 1:
        raise RecipeError(str(job.recipe.ref), "policy", f"must name one file, not {len(paths)}")
    return read_policy(paths[0])


def earlier_of(job: Job[GateRecipe]) -> Earlier:
    """What the recipe says of the lineage so far; raises RecipeError for a debt without its lender's scorecard."""
    recipe = job.recipe

    def items(ref: str) -> Items:
        return read_items(job.inputs[ref], job.folder_of(ref))

    lenders = {str(job.inputs[ref].ref): items(ref) for ref in recipe.lenders}
    debts = []
    for loan in outstanding(_promoted(job, ref) for ref in recipe.debts):
        if loan.scorecard not in lenders:
            raise RecipeError(str(recipe.ref), "lenders", f"{loan.scorecard} is missing: it lent {loan.node} to {loan.stage}")
        debts.append((loan, lenders[loan.scorecard]))
    return Earlier(
        stage=recipe.stage,
        last=items(recipe.last) if recipe.last else None,
        best=items(recipe.best) if recipe.best else None,
        debts=tuple(debts),
    )


def _promoted(job: Job[GateRecipe], ref: str) -> GateDecision:
    """The decision whose loans count; raises RecipeError for what is none, and for one that promoted nothing."""
    artifact = job.inputs[ref]
    body = artifact.body
    if not isinstance(body, GateDecision):
        raise RecipeError(str(job.recipe.ref), "debts", f"{artifact.ref} is a {artifact.kind}, not a gate decision")
    promotions = [promotion.body for promotion in job.store.promotions(body.stage)]
    if body.verdict != "pass" and not any(getattr(p, "decision", "") == str(artifact.ref) for p in promotions):
        raise RecipeError(
            str(job.recipe.ref), "debts", f"{artifact.ref} is a {body.verdict} and promoted nothing: its loans do not count"
        )
    return body


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
    compared: tuple[Rule | Claim, ...] = (*policy.rules, *policy.aims(), *policy.claims)
    if compared and not models:
        raise RecipeError(ref, "baselines", f"policy {policy.name!r} compares with baselines; name their scorecards")
    if len(set(models)) < len(models):
        raise RecipeError(ref, "baselines", f"two scorecards of one model: {', '.join(sorted(models))}")
    if any(entry.against == "parent" for entry in compared) and parent not in models:
        problem = f"{parent or 'no parent'} is not among the models of the baselines ({', '.join(models)})"
        raise RecipeError(ref, "parent", f"policy {policy.name!r} compares with the parent, but {problem}")
    if policy.on_refusal == "keep-parent" and not parent:
        raise RecipeError(ref, "parent", f"is required: policy {policy.name!r} keeps it after a refusal")
