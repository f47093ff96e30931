"""The chain: a folder of recipes, sorted by inputs, made where missing; every model scored, gated and promoted or held.

Only this module and the command line know all areas. A folder holds one TOML file per artifact and at most one of kind
`lineage`, which says which model is the candidate of which stage, what it is compared with and under which policy. From it the
chain derives, for every checkpoint of the folder, a scorecard, and for every stage a gate decision and a promotion, all of them
artifacts like the rest. A refused candidate does what its policy says: `stop` ends the chain, `keep-parent` leaves the parent
in the stage's place (see `Store.stage_model`), and a signed waiver named in the lineage promotes it all the same.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from importlib.resources import files as package_files
from pathlib import Path
from typing import Literal, cast

from .catalog import progress
from .catalog.errors import MissingArtifact, RecipeError
from .catalog.recipes import STAGE_PREFIX, Files, Recipe, external_files, read_recipe, references
from .catalog.records import STRICT, Artifact, ArtifactRef, GateDecision, Scorecard
from .catalog.store import Job, Made, Maker, Options, Store
from .data.chat_recipe import ConversationsRecipe, SynthesisRecipe
from .data.recipe import CorpusRecipe, MixtureRecipe, NgramsRecipe, OverlapRecipe, PlanRecipe, TokenFilesRecipe, TokensRecipe
from .eval.history import History, history_of, last_promotion, require_collectors
from .eval.mirror_recipe import MirrorRecipe
from .eval.objective import gain
from .eval.policy import Policy, read_policy
from .eval.questions import QuestionsRecipe
from .eval.recipe import EvaluationRecipe, GateRecipe, PromotionRecipe
from .merging.recipe import MergeRecipe
from .merging.search_recipe import MergeSearchRecipe
from .training.recipe import InitRecipe, OutsideRecipe, TokenizerRecipe, TrainRecipe
from .training.search_recipe import MixtureSearchRecipe

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of recipe: how it is read, by which verb it is made and by which function."""

    recipe: type[Recipe]
    verb: str
    maker: str
    """`area.module:function`, imported when first needed: torch and lm-eval take seconds."""


KINDS: dict[str, Kind] = {
    "corpus": Kind(recipe=CorpusRecipe, verb="build", maker="data.build:build_corpus"),
    "plan": Kind(recipe=PlanRecipe, verb="build", maker="data.planning:make_plan"),
    "tokens": Kind(recipe=TokensRecipe, verb="build", maker="data.tokens:count_tokens"),
    "token-files": Kind(recipe=TokenFilesRecipe, verb="build", maker="data.token_files:write_token_files"),
    "mixture": Kind(recipe=MixtureRecipe, verb="build", maker="data.mixture:plan_mixture"),
    "conversations": Kind(recipe=ConversationsRecipe, verb="build", maker="data.conversations:gather_conversations"),
    "synthesis": Kind(recipe=SynthesisRecipe, verb="build", maker="data.synthesis:make_synthesis"),
    "ngrams": Kind(recipe=NgramsRecipe, verb="build", maker="data.decontaminate:index_suites"),
    "tokenizer": Kind(recipe=TokenizerRecipe, verb="train", maker="training.vocabulary:train_tokenizer"),
    "init": Kind(recipe=InitRecipe, verb="train", maker="training.model:init_model"),
    "train": Kind(recipe=TrainRecipe, verb="train", maker="training.train:train_model"),
    "outside": Kind(recipe=OutsideRecipe, verb="train", maker="training.outside:import_model"),
    "mixture-search": Kind(recipe=MixtureSearchRecipe, verb="train", maker="training.search:search_mixture"),
    "merge": Kind(recipe=MergeRecipe, verb="merge", maker="merging.merge:merge_models"),
    "merge-search": Kind(recipe=MergeSearchRecipe, verb="merge", maker="chain:search_merges"),
    "overlap": Kind(recipe=OverlapRecipe, verb="build", maker="data.overlap:find_overlaps"),
    "mirror": Kind(recipe=MirrorRecipe, verb="build", maker="eval.mirror:make_mirror"),
    "questions": Kind(recipe=QuestionsRecipe, verb="build", maker="eval.questions:write_questions"),
    "evaluation": Kind(recipe=EvaluationRecipe, verb="evaluate", maker="eval.evaluate:evaluate_model"),
    "gate": Kind(recipe=GateRecipe, verb="gate", maker="eval.gate:decide"),
    "promotion": Kind(recipe=PromotionRecipe, verb="promote", maker="eval.promote:promote"),
}
"""Every kind of recipe."""

CHECKPOINT_KINDS = ("init", "train", "outside", "merge", "merge-search")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One stage of a lineage: a candidate and what it must stand up to."""

    __pydantic_config__ = STRICT

    name: str
    """The alias, `tiny-llama/cpt`."""
    model: str
    """The candidate checkpoint."""
    policy: Files
    """The policy file, `package:eval/policies/cpt.toml`."""
    baselines: tuple[str, ...] = ()
    """Checkpoints, or `stage:NAME`, it is compared with."""
    parent: str = ""
    """What stays in the stage's place after a refusal under `keep-parent`, and what its objective must gain over; the first
    baseline unless said otherwise."""
    waiver: Files = ()
    """A signed waiver file, used when the candidate is refused."""
    licence: str = ""
    """What the promoted model's card claims; refused when it asks for less than a parent does. Empty: all that is inherited."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LineageRecipe(Recipe):
    """The stages of a model's making. Its version is that of every scorecard, decision and promotion derived from it."""

    kind: Literal["lineage"]
    suite: str
    """Suite that every checkpoint of the folder is scored on."""
    heldout: str
    """Corpus whose held-out documents the suite uses."""
    tasks: tuple[str, ...] = ()
    """Tasks of the suite that are asked; empty: all."""
    stage: tuple[Stage, ...]


RECIPES: dict[str, type[Recipe]] = {name: kind.recipe for name, kind in KINDS.items()} | {"lineage": LineageRecipe}


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One step of a chain."""

    key: str
    """The artifact it makes; `stage:NAME` for a stage's decision and promotion."""
    verb: str
    needs: frozenset[str]
    """Keys of the nodes of this chain that come first, and without which this one is not made."""
    make: Callable[[Store, Options], Artifact]
    is_made: Callable[[Store], bool]
    """Whether nothing is left to do; False as well while its inputs are missing."""
    refusal: Callable[[Store], GateDecision | None] = lambda store: None
    """The decision under which, by its policy, nothing that needs this node may be made."""
    after: frozenset[str] = frozenset()
    """Keys of nodes that come first as well, but whose refusal does not end this one: stages whose loans may be due here."""


def recipe_folder(name: str) -> Path:
    """A folder of recipes: a path, or the name of one that comes with the package (`tiny`)."""
    path = Path(name)
    if path.is_dir():
        return path
    built_in = Path(str(package_files("sea_lion"))) / "recipes" / name
    if built_in.is_dir():
        return built_in
    known = sorted(folder.name for folder in built_in.parent.iterdir() if folder.is_dir())
    raise RecipeError(name, "", f"is neither a folder nor one of the built-in ones: {', '.join(known)}")


def read_folder(folder: Path) -> list[Recipe]:
    """Every recipe of a folder, by file name; raises RecipeError for two of the same artifact or none at all."""
    recipes: list[Recipe] = []
    for path in sorted(folder.glob("*.toml")):
        recipe = read_recipe(path, RECIPES)
        if any(other.ref == recipe.ref for other in recipes):
            raise RecipeError(path, "name", f"{recipe.ref} is made by another file of this folder as well")
        recipes.append(recipe)
    if not recipes:
        raise RecipeError(folder, "", "holds no recipe (*.toml)")
    return recipes


def maker(kind: str) -> Maker:
    """The function that makes a kind of recipe."""
    module, function = KINDS[kind].maker.split(":")
    return cast(Maker, getattr(import_module(f"{__package__}.{module}"), function))


def make(recipe: Recipe, base: Path, store: Store, options: Options) -> Artifact:
    """Make one recipe, or find it made. The area's code is imported only when there is something to do."""
    planned = store.plan(recipe, base)
    if planned.made:
        return planned.made
    with progress.reported(store.root, str(recipe.ref), recipe.kind):
        return store.make(recipe, base, maker(recipe.kind), options)


def plan(folder: Path) -> list[Node]:
    """The folder's nodes, sorted so that each comes after what it needs; raises RecipeError for a circle."""
    recipes = read_folder(folder)
    nodes = {str(recipe.ref): recipe_node(recipe, folder) for recipe in recipes if not isinstance(recipe, LineageRecipe)}
    for lineage in recipes:
        if isinstance(lineage, LineageRecipe):
            for node in lineage_nodes(lineage, recipes, folder):
                nodes[node.key] = node
    order = TopologicalSorter({key: sorted((node.needs | node.after) & nodes.keys()) for key, node in nodes.items()})
    try:
        return [nodes[key] for key in order.static_order()]
    except CycleError as error:
        raise RecipeError(folder, "", f"these wait for each other: {' -> '.join(error.args[1])}") from error


def recipe_node(recipe: Recipe, base: Path) -> Node:
    """The node of one recipe."""

    def is_made(store: Store) -> bool:
        try:
            return store.plan(recipe, base).made is not None
        except MissingArtifact:
            return False

    return Node(
        key=str(recipe.ref),
        verb=KINDS[recipe.kind].verb,
        needs=frozenset(ref for _, ref in references(recipe)),
        make=lambda store, options: make(recipe, base, store, options),
        is_made=is_made,
    )


def lineage_nodes(lineage: LineageRecipe, recipes: Iterable[Recipe], base: Path) -> list[Node]:
    """A scorecard for every checkpoint of the folder, and a decision with its promotion for every stage."""
    names = [stage.name for stage in lineage.stage]
    for place, stage in enumerate(lineage.stage):
        require_collectors(_policy(stage, base), stage.policy[0], stage.name, names[place + 1 :])
    checkpoints = [recipe for recipe in recipes if recipe.kind in CHECKPOINT_KINDS]
    scorecards = [recipe_node(scorecard_recipe(lineage, str(recipe.ref)), base) for recipe in checkpoints]
    return scorecards + [stage_node(lineage, stage, base) for stage in lineage.stage]


def scorecard_recipe(lineage: LineageRecipe | MergeSearchRecipe, model: str) -> EvaluationRecipe:
    """The evaluation of a checkpoint under the suite of a lineage or a search; the checkpoint's version is part of the name."""
    name, version = model.removeprefix("checkpoint/").split("@")
    try:
        return EvaluationRecipe(
            kind="evaluation", name=f"scorecard/{name}-{version}-{lineage.suite}", version=lineage.version, model=model,
            suite=lineage.suite, tasks=lineage.tasks, heldout=lineage.heldout,
        )  # fmt: skip
    except ValueError as error:
        raise RecipeError(str(lineage.ref), "suite", str(error)) from error


def search_merges(job: Job[MergeSearchRecipe]) -> Made:
    """The verb of a merge search: a trial's score is its gain over the base, on scorecards made as a lineage's are."""
    from .merging import search

    recipe = job.recipe

    def scorecard(model: str) -> Scorecard:
        plain = scorecard_recipe(recipe, model)
        name = plain.name.removeprefix("scorecard/").removeprefix(f"{recipe.stem}-trials/")
        asked = replace(
            plain, name=f"scorecard/{recipe.stem}-trials/{name}", version=recipe.version_of_trials, limit=recipe.limit
        )
        return cast(Scorecard, job.store.make(asked, Path(), maker("evaluation"), job.options).body)

    base = scorecard(str(job.inputs[recipe.base].ref))
    if gain(base, base, recipe.metric, recipe.languages) is None:
        problem = f"{recipe.base} has no {recipe.metric!r} in these tasks and languages of {recipe.suite}"
        raise RecipeError(str(recipe.ref), "metric", problem)
    return search.search_merges(job, lambda model: gain(scorecard(model), base, recipe.metric, recipe.languages))


def stage_node(lineage: LineageRecipe, stage: Stage, base: Path) -> Node:
    """The node that decides on a stage's candidate and moves the stage's alias when it may."""

    def scorecard_of(ref: str) -> str:
        return str(scorecard_recipe(lineage, ref).ref)

    def gate_recipe(store: Store) -> GateRecipe:
        history, _ = stage_history(lineage, stage, base, store)
        return GateRecipe(
            kind="gate",
            name=f"decision/{stage.name}",
            version=lineage.version,
            stage=stage.name,
            candidate=scorecard_of(stage.model),
            baselines=tuple(dict.fromkeys(scorecard_of(str(store.require(ref).ref)) for ref in stage.baselines)),
            policy=stage.policy,
            parent=stage.parent or (stage.baselines[0] if stage.baselines else ""),
            debts=history.debts,
            lenders=history.lenders,
            last=history.last,
            best=history.best,
        )

    def make_stage(store: Store, options: Options) -> Artifact:
        _, unscored = stage_history(lineage, stage, base, store)
        if unscored:
            make(unscored, base, store, options)
        decision = make(gate_recipe(store), base, store, options)
        body = cast(GateDecision, decision.body)
        log.info("gate %s: %s (%s)", stage.name, body.verdict, body.reason)
        if body.verdict == "pass" or stage.waiver:
            return make(promotion_recipe(lineage, stage, body), base, store, options)
        return decision

    def is_made(store: Store) -> bool:
        try:
            decided = store.plan(gate_recipe(store), base).made
            if decided is None:
                return False
            body = cast(GateDecision, decided.body)
            if body.verdict == "pass" or stage.waiver:
                return store.plan(promotion_recipe(lineage, stage, body), base).made is not None
            return True
        except MissingArtifact:
            return False

    def refusal(store: Store) -> GateDecision | None:
        body = cast(GateDecision, store.require(f"decision/{stage.name}@{lineage.version}").body)
        return body if body.verdict != "pass" and body.on_refusal == "stop" and not stage.waiver else None

    needs = {scorecard_of(stage.model)} | {
        ref if ref.startswith(STAGE_PREFIX) else scorecard_of(ref) for ref in stage.baselines
    }
    needs |= {stage.parent} if stage.parent else set()
    names = [other.name for other in lineage.stage]
    after = frozenset(f"{STAGE_PREFIX}{name}" for name in names[: names.index(stage.name)])
    key = f"{STAGE_PREFIX}{stage.name}"
    return Node(
        key=key, verb="gate", needs=frozenset(needs), make=make_stage, is_made=is_made, refusal=refusal, after=after
    )  # fmt: skip


def stage_history(lineage: LineageRecipe, stage: Stage, base: Path, store: Store) -> tuple[History, EvaluationRecipe | None]:
    """What a stage's candidate is held to beside its baselines, and the recipe of the last model's scorecard if none is made.

    A scorecard of another version serves where it is of the same model, suite and held-out documents.
    """
    policy, names = _policy(stage, base), [other.name for other in lineage.stage]
    decided = store.get(ArtifactRef.parse(f"decision/{stage.name}@{lineage.version}"))
    until = decided.provenance.created if decided else ""
    history = history_of(store, policy, names[: names.index(stage.name)], lineage.version, until)
    last = last_promotion(store, stage.name, f"decision/{stage.name}@{lineage.version}")
    if last is None or all(rule.against != "last" for rule in policy.rules):
        return history, None
    recipe = scorecard_recipe(lineage, last.model)
    planned = store.plan(recipe, base)
    known = store.get(ArtifactRef.parse(cast(GateDecision, store.require(last.decision).body).scorecard))
    if not planned.made and known and known.fingerprint == planned.fingerprint:
        return replace(history, last=str(known.ref)), None
    return replace(history, last=str(recipe.ref)), None if planned.made else recipe


def _policy(stage: Stage, base: Path) -> Policy:
    # A stage names files as recipes do; it is a part of one.
    return read_policy(external_files(cast(Recipe, stage), base)["policy"][0])


def promotion_recipe(lineage: LineageRecipe, stage: Stage, decision: GateDecision) -> PromotionRecipe:
    """The promotion a decision leads to; a waiver is used only where the decision is not a pass."""
    return PromotionRecipe(
        kind="promotion",
        name=f"promotion/{stage.name}",
        version=lineage.version,
        decision=f"decision/{stage.name}@{lineage.version}",
        licence=stage.licence,
        waiver=() if decision.verdict == "pass" else stage.waiver,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOutcome:
    """What a run of a folder came to."""

    made: list[Artifact]
    """Artifacts made now."""
    refused: list[GateDecision]
    """Decisions that, by their policies, stopped what needs their stages."""
    stopped: list[str]
    """Keys of the nodes that were therefore not made."""


def run(folder: Path, store: Store, options: Options) -> RunOutcome:
    """Make every node of a folder that is not made yet; a stage refused under the policy `stop` ends what needs it."""
    nodes = plan(folder)
    outcome, blocked = RunOutcome(made=[], refused=[], stopped=[]), set[str]()
    with progress.reported(store.root, folder.name, "chain") as report:
        for number, node in enumerate(nodes, 1):
            report.update(stage=node.key, done=number - 1, total=len(nodes), unit="steps")
            _make_node(node, f"[{number:2d}/{len(nodes)}] {node.verb:8s} {node.key}", store, options, outcome, blocked)
    return outcome


def _make_node(node: Node, label: str, store: Store, options: Options, outcome: RunOutcome, blocked: set[str]) -> None:
    """Make one node unless it is made or `blocked` holds what it needs; adds to the outcome and to what is blocked."""
    if node.needs & blocked:
        log.info("%s: not made, a stage it needs was refused", label)
        outcome.stopped.append(node.key)
        blocked.add(node.key)
        return
    if node.is_made(store):
        log.info("%s: done before", label)
    else:
        log.info("%s ...", label)
        start = time.perf_counter()
        outcome.made.append(node.make(store, options))
        log.info("%s: made in %.1f s", label, time.perf_counter() - start)
    refusal = node.refusal(store)
    if refusal is not None:
        outcome.refused.append(refusal)
        blocked.add(node.key)
