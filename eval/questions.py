"""`questions`: the texts of every item of a suite, so that corpora can be freed of them and scorecards say what is left.

Data may not know evaluation: what it indexes is this artifact. Held-out documents are left out, for they come from the corpus
itself. A prompt is taken whole, its instruction too: the index leaves out what stands in more than a few texts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ..catalog.errors import CorruptInput
from ..catalog.recipes import Files, Recipe, Reference
from ..catalog.records import QUESTIONS, Questions
from ..catalog.store import Job, Made
from .family import Family, GenerationFamily, HarnessFamily
from .recipe import OPENERS, built_in_suite_files

SHORTEST = 40
"""Characters: a field of a harness' document that is shorter (a letter, a number) says nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionsRecipe(Recipe):
    """The texts of a suite's items, for an n-gram index."""

    kind: Literal["questions"]
    suite: str
    """Name of the suite: `smoke`, `sea_helm_2025`, `sea_helm_2026`, `leaderboard`, or one of your own."""
    suite_files: Files = ()
    """Its definition and items; empty: the built-in suite of that name."""
    mirror: Reference = ""
    """The mirror that a benchmark's prompts and data are read from."""
    languages: tuple[str, ...] = ()
    """ISO 639-3; empty: all that the suite has."""

    def __post_init__(self) -> None:
        super(QuestionsRecipe, self).__post_init__()
        if not self.suite_files and self.suite not in OPENERS:
            object.__setattr__(self, "suite_files", built_in_suite_files(self.suite))


def write_questions(job: Job[QuestionsRecipe]) -> Made:
    """Write the texts of every item of the recipe's suite: `Questions`, and the file `QUESTIONS`."""
    from .suites_index import open_questions

    suite = open_questions(job)
    items = 0
    partial = job.folder / f"{QUESTIONS}.partial"
    with partial.open("w", encoding="utf-8") as file:
        for family in suite.families:
            for name, language, texts in item_texts(family):
                row = {"id": name, "spoken": {"language": language}, "texts": texts}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                items += 1
    if not items:
        raise CorruptInput(str(job.recipe.ref), "", f"suite {suite.name!r} has no item with a text")
    os.replace(partial, job.folder / QUESTIONS)
    return Made(body=Questions(suite=suite.name, items=items))


def item_texts(family: Family) -> Iterator[tuple[str, str, list[str]]]:
    """`task/language/item`, language and texts of every item of a family that has a text of its own."""
    if isinstance(family, HarnessFamily):
        yield from _harness_texts(family)
    elif isinstance(family, GenerationFamily):
        for asked in family.tasks:
            for question in asked.questions:
                texts = [question.messages[-1].content, *question.follow_ups]
                yield f"{asked.name}/{asked.language}/{question.id}", asked.language, texts
    else:
        for task in family.tasks:
            if task.form != "documents":
                for item in task.items:
                    yield f"{task.name}/{task.language}/{item.id}", task.language, [item.texts[item.gold]]


def _harness_texts(family: HarnessFamily) -> Iterator[tuple[str, str, list[str]]]:
    for name, task in family.build().items():
        for number, document in enumerate(task.eval_docs):
            texts = [text for text in _strings(document) if len(text) >= SHORTEST]
            if texts:
                yield f"{name}/eng/{number}", "eng", texts


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _strings(inner)
