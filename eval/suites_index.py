"""The suites there are, each with the function that opens it for a recipe.

A suite of one's own in the built-in forms needs no entry: `suite_files` names its definition and items. Suites are imported
when they are asked for, since their metrics are slow to import.
"""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from ..catalog.errors import RecipeError
from ..catalog.store import Job
from .family import Suite
from .recipe import OPENERS, EvaluationRecipe

JUDGEMENTS = ".cache/judgements.sqlite"
"""Below the catalog's folder: what judges and scorers of translations have said; may be deleted at any time."""


def open_suite(job: Job[EvaluationRecipe]) -> Suite:
    """The recipe's suite, read and checked; raises RecipeError for a recipe that lacks what the suite needs."""
    opener = OPENERS.get(job.recipe.suite, "suites_index:open_definition")
    if job.recipe.suite_files:
        opener = "suites_index:open_definition"
    module, function = opener.split(":")
    opened: Suite = getattr(import_module(f".{module}", __package__), function)(job)
    return opened


def open_definition(job: Job[EvaluationRecipe]) -> Suite:
    """A suite that a TOML file defines: `smoke`, and suites of one's own."""
    from .smoke import open_suite
    from .suite import read_suite

    recipe = job.recipe
    _refuse(recipe, ("mirror", "judge", "metricx"))
    files = job.files["suite_files"]
    definition = read_suite(recipe.suite, files)
    names = tuple(task.name for task in definition.task)
    tasks = _chosen(recipe, "tasks", recipe.tasks, names)
    definition = replace(
        definition,
        task=tuple(task for task in definition.task if task.name in tasks),
        languages=_chosen(recipe, "languages", recipe.languages, definition.languages),
    )
    if not recipe.heldout:
        if any(task.form == "documents" for task in definition.task):
            problem = f"is required: suite {recipe.suite!r} measures bits per byte on held-out documents; name a corpus"
            raise RecipeError(str(recipe.ref), "heldout", problem)
        return open_suite(definition, files, None, Path())
    return open_suite(definition, files, job.inputs[recipe.heldout], job.folder_of(recipe.heldout))


def open_sea_helm(job: Job[EvaluationRecipe]) -> Suite:
    """A profile of SEA-HELM, from a mirror of the benchmark; judgements are kept below the catalog."""
    from .judge import read_judge
    from .judgements import Judgements
    from .sea_helm.metricx import read_metricx
    from .sea_helm.suite import open_suite

    recipe = job.recipe
    _refuse(recipe, ("heldout",))
    judge_file, metricx_file = _one_file(job, "judge"), _one_file(job, "metricx")
    judge = read_judge(judge_file) if judge_file else None
    translation = read_metricx(metricx_file) if metricx_file else None
    _require_named(job, "judge", judge)
    _require_named(job, "metricx", translation)
    return open_suite(
        recipe.suite,
        _mirror(job),
        languages=recipe.languages,
        tasks=recipe.tasks,
        is_base=recipe.prompts == "base",
        limit=recipe.limit,
        judge=judge,
        translation=translation,
        judgements=Judgements(job.store.root / JUDGEMENTS),
    )


def open_leaderboard(job: Job[EvaluationRecipe]) -> Suite:
    """The Open LLM Leaderboard v2, from a mirror of its data sets."""
    from .leaderboard.suite import open_suite

    recipe = job.recipe
    _refuse(recipe, ("heldout", "judge", "metricx", "languages"))
    suite = open_suite(_mirror(job), recipe.limit)
    names = tuple(family.name for family in suite.families)
    families = _chosen(recipe, "tasks", recipe.tasks, names)  # lm-eval's tasks of a family share their examples and rules
    return replace(suite, families=tuple(family for family in suite.families if family.name in families))


def open_questions(job: Job[Any]) -> Suite:
    """A suite for its texts alone (recipe of kind `questions`): no held-out documents, no judge, no examples."""
    recipe = job.recipe
    if recipe.suite_files:
        from .smoke import open_suite
        from .suite import read_suite

        definition = read_suite(recipe.suite, job.files["suite_files"])
        asked = tuple(task for task in definition.task if task.form != "documents")
        languages = _chosen(recipe, "languages", recipe.languages, definition.languages)
        return open_suite(replace(definition, task=asked, languages=languages), job.files["suite_files"], None, Path())
    if recipe.suite == "leaderboard":
        from .leaderboard.suite import open_suite as open_leaderboard_suite

        return open_leaderboard_suite(_mirror(job))
    from .sea_helm.suite import open_suite as open_sea_helm_suite

    return open_sea_helm_suite(recipe.suite, _mirror(job), languages=recipe.languages)


def _chosen(recipe: EvaluationRecipe, key: str, wanted: tuple[str, ...], known: tuple[str, ...]) -> tuple[str, ...]:
    """Those of `known` that are wanted, all when none is named; raises RecipeError for one that the suite has not."""
    if unknown := [name for name in wanted if name not in known]:
        what = {"tasks": "task", "languages": "language"}[key]
        problem = f"{unknown[0]!r} is no {what} of {recipe.suite}; there are {', '.join(known)}"
        raise RecipeError(str(recipe.ref), key, problem)
    return tuple(name for name in known if not wanted or name in wanted)


def _refuse(recipe: EvaluationRecipe, keys: tuple[str, ...]) -> None:
    """Raise RecipeError for settings that the suite would not look at: their author believes that they do something."""
    for key in keys:
        if getattr(recipe, key):
            raise RecipeError(str(recipe.ref), key, f"says nothing to suite {recipe.suite!r}; leave it out")


def _mirror(job: Job[EvaluationRecipe]) -> Path:
    recipe = job.recipe
    if not recipe.mirror:
        problem = (
            f"is required: suite {recipe.suite!r} is read from a mirror of the benchmark; make one with sea-lion eval mirror"
        )
        raise RecipeError(str(recipe.ref), "mirror", problem)
    return job.folder_of(recipe.mirror)


def _one_file(job: Job[EvaluationRecipe], key: str) -> Path | None:
    """The TOML file among those that a key names; None when it names none."""
    files = job.files.get(key, [])
    found = [file for file in files if file.suffix == ".toml"]
    if files and len(found) != 1:
        raise RecipeError(str(job.recipe.ref), key, f"names {len(found)} TOML files; one is used")
    return found[0] if found else None


def _require_named(job: Job[EvaluationRecipe], key: str, scorer: Any) -> None:
    """Raise RecipeError unless the recipe names the file of records that a scorer reads: its content decides on the scores."""
    path: Path | None = getattr(scorer, "path", None)
    if path is not None and not any(file.samefile(path) for file in job.files[key]):
        problem = f"must also name {path.name}, whose records the scores come from: else a change of it would not be noticed"
        raise RecipeError(str(job.recipe.ref), key, problem)
