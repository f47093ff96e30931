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
"""Below the catalog's folder: what judges said, by the content they were shown."""


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
    files = job.files["suite_files"]
    definition = read_suite(recipe.suite, files)
    names = [task.name for task in definition.task]
    for name in recipe.tasks:
        if name not in names:
            raise RecipeError(
                str(recipe.ref), "tasks", f"{name!r} is no task of {definition.name}; there are {', '.join(names)}"
            )
    if recipe.tasks:
        definition = replace(definition, task=tuple(task for task in definition.task if task.name in recipe.tasks))
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
    judge, metricx = _one_file(job, "judge"), _one_file(job, "metricx")
    return open_suite(
        recipe.suite,
        _mirror(job),
        languages=recipe.languages,
        is_base=recipe.prompts == "base",
        limit=recipe.limit,
        judge=read_judge(judge) if judge else None,
        translation=read_metricx(metricx) if metricx else None,
        judgements=Judgements(job.store.root / JUDGEMENTS),
    )


def open_leaderboard(job: Job[EvaluationRecipe]) -> Suite:
    """The Open LLM Leaderboard v2, from a mirror of its data sets."""
    from .leaderboard.suite import open_suite

    return open_suite(_mirror(job), job.recipe.limit)


def open_questions(job: Job[Any]) -> Suite:
    """A suite for its texts alone (recipe of kind `questions`): no held-out documents, no judge, no examples."""
    recipe = job.recipe
    if recipe.suite_files:
        from .smoke import open_suite
        from .suite import read_suite

        definition = read_suite(recipe.suite, job.files["suite_files"])
        asked = tuple(task for task in definition.task if task.form != "documents")
        return open_suite(replace(definition, task=asked), job.files["suite_files"], None, Path())
    if recipe.suite == "leaderboard":
        from .leaderboard.suite import open_suite as open_leaderboard_suite

        return open_leaderboard_suite(_mirror(job))
    from .sea_helm.suite import open_suite as open_sea_helm_suite

    return open_sea_helm_suite(recipe.suite, _mirror(job), languages=recipe.languages)


def _mirror(job: Job[EvaluationRecipe]) -> Path:
    recipe = job.recipe
    if not recipe.mirror:
        problem = (
            f"is required: suite {recipe.suite!r} is read from a mirror of the benchmark; make one with sea-lion eval mirror"
        )
        raise RecipeError(str(recipe.ref), "mirror", problem)
    return job.folder_of(recipe.mirror)


def _one_file(job: Job[EvaluationRecipe], key: str) -> Path | None:
    files = job.files.get(key, [])
    if len(files) > 1:
        raise RecipeError(str(job.recipe.ref), key, f"names {len(files)} files; one is used")
    return files[0] if files else None
