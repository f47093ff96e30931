"""`evaluate`: a suite run on a checkpoint, with one row per item and all answers stored.

lm-eval asks the model; the scorecard is computed here from its answers, so that errors are clustered, and a score can be made
again from `answers.parquet` without the model. Everything that can be known to fail is looked at before the model is loaded:
the suite's data, the tokenizer and its template, packages, what a backend cannot answer.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ..catalog.adapters import check_whole
from ..catalog.errors import CorruptInput, RecipeError, Unfinished
from ..catalog.fingerprint import canonical_json
from ..catalog.records import Artifact, Checkpoint, Scorecard
from ..catalog.store import SCRATCH, Job, Made, verify_files
from .answers import ASKED, StoredLM
from .backends import Backing, answering, check_backend, endpoint_identity, load_model, tokenizer_of
from .contamination import TABLE as CONTAMINATED
from .contamination import looked_for, write_contamination
from .family import Family, GenerationFamily, GenerationTask, HarnessFamily, LikelihoodFamily, Suite
from .overview import overview
from .pace import Pace
from .recipe import EvaluationRecipe
from .rendering import ChatTemplate, Render, bare, history_of
from .response_cache import RememberingLM, ResponseCache
from .runner import KINDS, Asking, Done, FamilyResult, limited, merged, run_families
from .suites_index import open_suite

log = logging.getLogger(__name__)

HARNESS = f"lm-eval {version('lm-eval')}"
VERSIONS = ("torch", "transformers", "lm-eval")
ITEMS, ANSWERS = "items.parquet", "answers.parquet"
RESPONSES = ".cache/responses"
"""Folder below the catalog's where answers of models are kept; it may be deleted at any time."""


def evaluate_model(job: Job[EvaluationRecipe]) -> Made:
    """Score a checkpoint on a suite: a `Scorecard`, and the tables `items` and `answers`.

    Raises RecipeError for a suite that is not what its name says, and for what a backend or a template cannot do; CorruptInput
    for a checkpoint that cannot be loaded or answers with anything but finite log-likelihoods, a language without held-out
    documents, or files that changed since they were written; Unfinished when an endpoint does not answer.
    """
    recipe = job.recipe
    model = job.inputs[recipe.model]
    if not isinstance(model.body, Checkpoint):
        raise RecipeError(str(recipe.ref), "model", f"{model.ref} is a {model.kind}, not a checkpoint")
    check_whole(model)
    if recipe.answers:
        return _rescored(job, model)
    verify_files(job.folder_of(recipe.model), model)
    with contextlib.redirect_stderr(io.StringIO()):  # transformers and lm-eval draw some forty bars of their own
        suite, built = _opened(job)
    backing = Backing(
        folder=job.folder_of(recipe.model),
        owner=str(model.ref),
        backend=recipe.backend,
        dtype=recipe.dtype,
        device=job.options.device,
        rows=recipe.batch_size,
        max_length=min(filter(None, (recipe.max_length, suite.window_tokens)), default=0),
    )
    results, settings, warnings = _asked(job, suite, built, backing, model)
    return _made(job, suite, results, settings, warnings)


def _opened(job: Job[EvaluationRecipe]) -> tuple[Suite, dict[str, Mapping[str, Any]]]:
    """The suite, and lm-eval's own tasks by family."""
    if job.recipe.overlap:
        looked_for(job)
    suite = open_suite(job)
    suite = replace(suite, families=tuple(limited(family, job.recipe.limit) for family in suite.families))
    names = [family.name for family in suite.families]
    assert len(set(names)) == len(names), f"two families of {suite.name} have one name"
    if job.recipe.prompts == "base" and suite.render is None:
        problem = f"is 'base', and suite {suite.name!r} has no template for base models; ask with 'bare'"
        raise RecipeError(str(job.recipe.ref), "prompts", problem)
    built = {family.name: family.build() for family in suite.families if isinstance(family, HarnessFamily)}
    return suite, built


def _asked(
    job: Job[EvaluationRecipe], suite: Suite, built: dict[str, Mapping[str, Any]], backing: Backing, model: Artifact
) -> tuple[list[FamilyResult], dict[str, str], tuple[str, ...]]:
    """The results of all families, how they were had, and what there is to say about the template."""
    recipe = job.recipe
    check_backend(backing, needs_likelihood=needs_likelihood(suite, built), is_chat=recipe.prompts == "chat")
    tokenizer = tokenizer_of(backing.folder)
    template = ChatTemplate(tokenizer, backing.owner) if recipe.prompts == "chat" and backing.backend != "endpoint" else None
    settings = _settings(recipe, backing, template)
    kinds = {family.name: (KINDS[type(family)], _count(family, built)) for family in suite.families}
    pace = Pace(f"{recipe.suite} on {model.ref}", kinds, job.options.show_progress)
    cache = ResponseCache.at(job.store.root / RESPONSES, response_identity(model, settings))
    try:
        with contextlib.redirect_stderr(io.StringIO()), answering(backing):
            lm = RememberingLM(load_model(backing, tokenizer), cache, pace.answered, template)
            render = _render(recipe, suite, tokenizer, lm)
            asking = Asking(lm=lm, model=str(model.ref), render=render, is_chat=recipe.prompts == "chat", built=built)
            done = Done(job.folder / SCRATCH / "families", [settings, recipe.limit])
            results = run_families(asking, suite.families, done, pace)
    finally:
        pace.close()
        cache.close()
    return results, settings, template.warnings if template else ()


def needs_likelihood(suite: Suite, built: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether any task is scored by likelihood."""
    if any(isinstance(family, LikelihoodFamily) for family in suite.families):
        return True
    return any(task.OUTPUT_TYPE != "generate_until" for tasks in built.values() for task in tasks.values())


def _render(recipe: EvaluationRecipe, suite: Suite, tokenizer: Any, lm: Any) -> Render:
    if recipe.prompts == "chat":
        return lambda messages: lm.apply_chat_template(history_of(messages))
    if recipe.prompts == "base" and suite.render is not None:
        plain, bos = suite.render, tokenizer.bos_token or ""
        return lambda messages: plain(messages, bos)
    return bare


def _count(family: Family, built: Mapping[str, Mapping[str, Any]]) -> int:
    """Answers that a family takes."""
    if isinstance(family, HarnessFamily):
        tasks = built[family.name].values()
        return sum(len(task.eval_docs) * _choices(task) for task in tasks)
    if isinstance(family, GenerationFamily):
        return sum(1 + len(question.follow_ups) for task in family.tasks for question in task.questions)
    return sum(len(item.asked) for task in family.tasks for item in task.items)


def _choices(task: Any) -> int:
    return len(task.doc_to_choice(task.eval_docs[0])) if task.OUTPUT_TYPE == "multiple_choice" else 1


def _settings(recipe: EvaluationRecipe, backing: Backing, template: ChatTemplate | None) -> dict[str, str]:
    device = torch.cuda.get_device_name() if backing.device.startswith("cuda") else backing.device
    settings = {
        "backend": recipe.backend,
        "dtype": recipe.dtype,
        "device": device if recipe.backend != "endpoint" else "",
        "batch_size": str(recipe.batch_size) if recipe.batch_size else "by budget",
        "world_size": "1",
        "prompts": recipe.prompts,
        "template": template.digest if template else "",
        "max_length": str(backing.longest()),
    }
    return settings | {package: version(package) for package in VERSIONS}


def response_identity(model: Artifact, settings: Mapping[str, str]) -> dict[str, Any]:
    """All that decides on a model's answer to a request: two models, or two ways to run one, never share a cache."""
    asked = {key: value for key, value in settings.items() if key not in ("prompts", "batch_size")}
    files = [[file.path, file.sha256] for file in model.files]
    endpoint = endpoint_identity() if settings["backend"] == "endpoint" else ""
    return {"model": str(model.ref), "files": files, "settings": asked, "endpoint": endpoint}


# -- the scorecard ---------------------------------------------------------------------------------------------------------


def _made(
    job: Job[EvaluationRecipe],
    suite: Suite,
    results: list[FamilyResult],
    settings: dict[str, str],
    warnings: tuple[str, ...],
) -> Made:
    recipe, model = job.recipe, job.inputs[job.recipe.model]
    if still := [line for result in results for line in result.open]:
        raise Unfinished(f"{recipe.ref}: {'; '.join(still)} (all answers are kept)")
    items = merged(results, job.folder, ITEMS, ANSWERS)
    scores = tuple(score for result in results for score in result.scores)
    corpora, contamination = write_contamination(job, items) if recipe.overlap else ((), ())
    told = (*suite.warnings, *warnings, *(line for result in results for line in result.warnings))
    card = Scorecard(
        model=str(model.ref),
        suite=suite.name,
        suite_fingerprint=suite_fingerprint(suite, items, settings),
        harness=HARNESS,
        scores=scores,
        profile=suite.profile,
        aggregates=suite.aggregate(scores),
        incomplete=(*suite.missing, *(line for result in results for line in result.incomplete)),
        warnings=tuple(dict.fromkeys(told)),
        settings={**settings, **suite.settings},
        limit=recipe.limit,
        corpora=corpora,
        contamination=contamination,
    )
    for line in (*card.warnings, *(f"no score for {line}" for line in card.incomplete)):
        log.warning("%s: %s", recipe.ref, line)
    for line in overview(card):
        log.info("%s: %s", recipe.ref, line)
    log.info("%s: %d items of %s scored on %s", recipe.ref, len(items), suite.name, model.ref)
    tables = {"items": ITEMS, "answers": ANSWERS} | ({"contaminated": CONTAMINATED} if recipe.overlap else {})
    return Made(body=card, tables=tables)


def suite_fingerprint(suite: Suite, items: pa.Table, settings: Mapping[str, str]) -> str:
    """Digest of all that must be equal for two scorecards to be compared: questions, metrics, settings of answers, window and
    harness. Prompts are in it as the model got them, unless they went through its chat template: two models have two."""
    columns = [*ASKED] if settings["prompts"] == "chat" else [*ASKED, "prompt_hash"]
    digest = hashlib.sha256()
    shared = {"harness": HARNESS, "prompts": settings["prompts"], "profile": suite.profile}
    window = settings["max_length"] if suite.window_tokens else ""
    digest.update(canonical_json([shared, window, [_form(family) for family in suite.families]]).encode())
    for batch in items.select(columns).to_batches(max_chunksize=10_000):
        for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            digest.update(canonical_json(row).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _form(family: Family) -> list[Any]:
    if isinstance(family, HarnessFamily):
        return [family.name]
    return [
        [task.name, task.language, task.version, task.generation]
        if isinstance(task, GenerationTask)
        else [task.name, task.language, task.form]
        for task in family.tasks
    ]


# -- stored answers --------------------------------------------------------------------------------------------------------


def _rescored(job: Job[EvaluationRecipe], model: Artifact) -> Made:
    """The scorecard that stored answers come to under the suite as it is now; the model's files are not read."""
    recipe, source = job.recipe, job.inputs[job.recipe.answers]
    card = source.body
    if not isinstance(card, Scorecard) or "answers" not in source.tables:
        raise RecipeError(str(recipe.ref), "answers", f"{source.ref} is no scorecard with stored answers")
    if card.model != str(model.ref):
        raise RecipeError(str(recipe.ref), "answers", f"{source.ref} holds answers of {card.model}, not of {model.ref}")
    if card.settings["prompts"] != recipe.prompts:
        raise RecipeError(
            str(recipe.ref), "prompts", f"is {recipe.prompts!r}, {source.ref} was asked with {card.settings['prompts']!r}"
        )
    folder = job.folder_of(recipe.answers)
    verify_files(folder, source, [source.tables["answers"]])
    rows = pq.read_table(folder / source.tables["answers"]).to_pylist()
    with contextlib.redirect_stderr(io.StringIO()):
        suite, built = _opened(job)
        _require_storable(recipe, built)
        lm = StoredLM(rows, str(source.ref), int(card.settings["max_length"]))
        asking = Asking(lm=lm, model=str(model.ref), render=_nothing, is_chat=recipe.prompts == "chat", built=built)
        pace = Pace(str(recipe.ref), {f.name: (KINDS[type(f)], 0) for f in suite.families}, False)
        done = Done(job.folder / SCRATCH / "families", source.fingerprint)
        results = [_as_asked(result, lm) for result in run_families(asking, suite.families, done, pace)]
    return _made(job, suite, results, card.settings, (*_kept_warnings(card), f"scored from the answers stored in {source.ref}"))


def _require_storable(recipe: EvaluationRecipe, built: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise RecipeError for a task whose score needs more than is stored: whether a text was the most probable one."""
    for name, task in ((name, task) for tasks in built.values() for name, task in tasks.items()):
        if task.OUTPUT_TYPE == "loglikelihood":
            problem = f"holds no answers that {name} can be scored from (it asks whether a text is the most probable one)"
            raise RecipeError(str(recipe.ref), "answers", f"{problem}; ask the model again")


def _nothing(messages: object) -> str:
    return ""


def _kept_warnings(card: Scorecard) -> Iterator[str]:
    """What the first scorecard says about asking, which scoring anew cannot find out."""
    return (line for line in card.warnings if "lost the beginning" in line or "system message" in line)


def _as_asked(result: FamilyResult, lm: StoredLM) -> FamilyResult:
    """The result with the prompts' digests of the run that asked; raises CorruptInput where the question is another one now."""
    known = {(row["task"], row["language"], row["item"]): row for row in lm.rows.values() if row["turn"] == 0}
    tables = []
    for table in (result.items, result.answers):
        rows = table.to_pylist()
        for row in rows:
            stored = known[row["task"], row["language"], row["item"]]
            if stored["doc_hash"] != row["doc_hash"]:
                problem = "is another question now than the one answered; ask the model again"
                raise CorruptInput(lm.source, f"{row['task']}/{row['language']}/{row['item']}", problem)
            row["prompt_hash"] = stored["prompt_hash"]
        tables.append(pa.Table.from_pylist(rows, schema=table.schema))
    return replace(result, items=tables[0], answers=tables[1])
