"""The built-in suite, and any suite of one's own in the same forms, opened: item files and held-out documents become families.

Averages are plain: over the tasks of a language, then over languages, one metric at a time, as bits and shares do not add up.
Errors of an average add up as those of independent things; many sums and instructions stand in several languages, so the
suite's own error is a little larger than said.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ..catalog.errors import CorruptInput
from ..catalog.recipes import read_table
from ..catalog.records import STRICT, Aggregate, Artifact, Corpus, Score
from ..catalog.store import verify_files
from .constraints import Argument, met, problem_of
from .family import (
    Family,
    Generation,
    GenerationFamily,
    GenerationTask,
    ItemScore,
    LikelihoodFamily,
    Message,
    Question,
    Suite,
    TaskScores,
)
from .metrics import ItemValue, weighted_score
from .suite import (
    Item,
    LanguageTask,
    SuiteDefinition,
    TaskDefinition,
    choice_task,
    item_file,
    item_rows,
    word_order_task,
)

FOLLOWED = "followed"
"""1 when an answer meets every check of its instruction, else 0."""
CHECKS = "checks"
"""Share of the checks that are met: a diagnostic."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """A line of an item file of the form `instructions`."""

    __pydantic_config__ = STRICT

    prompt: str
    """The request."""
    checks: dict[str, int | str | list[str | int]]
    """Names of constraints to what they are told."""
    example: str
    """An answer that meets them all."""

    def __post_init__(self) -> None:
        if not self.prompt.strip():
            raise ValueError("prompt must hold text")
        if problem := problem_of(self.checks):
            raise ValueError(problem)
        if failed := [name for name, is_met in met(self.example, self.checks).items() if not is_met]:
            raise ValueError(f"the example does not meet {', '.join(failed)}")


def open_suite(definition: SuiteDefinition, files: Sequence[Path], heldout: Artifact | None, folder: Path) -> Suite:
    """The suite with its items read and checked: a family a task, in the definition's order, in every language.

    `files` are the suite's files, `heldout` the corpus (in `folder`) whose held-out documents are scored; a suite that asks for
    documents needs one. Raises CorruptInput and RecipeError for a file that is missing or holds what cannot be asked, and for a
    language without held-out documents.
    """
    families: list[Family] = []
    for task in definition.task:
        if task.form == "instructions":
            asked = tuple(instruction_task(task, language, files) for language in definition.languages)
            families.append(GenerationFamily(name=task.name, tasks=asked))
        else:
            read = tuple(_likelihood_task(task, language, files, heldout, folder) for language in definition.languages)
            families.append(LikelihoodFamily(name=task.name, tasks=read))
    return Suite(
        name=definition.name,
        profile=definition.name,
        families=tuple(families),
        window_tokens=definition.window_tokens,
        aggregate=averages,
    )


def _likelihood_task(
    task: TaskDefinition, language: str, files: Sequence[Path], heldout: Artifact | None, folder: Path
) -> LanguageTask:
    if task.form == "documents":
        if heldout is None:
            raise ValueError(f"task {task.name!r} scores documents and needs a corpus with held-out ones")
        return document_task(task, language, heldout, folder)
    return word_order_task(task, language, files) if task.form == "word-order" else choice_task(task, language, files)


def document_task(task: TaskDefinition, language: str, heldout: Artifact, folder: Path) -> LanguageTask:
    """The held-out documents of one language as items; raises CorruptInput when there are none or their files changed."""
    if not isinstance(heldout.body, Corpus):
        raise CorruptInput(str(heldout.ref), "", f"is a {heldout.kind}, not a corpus with held-out documents")
    paths = [
        shard.path
        for shard in heldout.body.shards
        if (shard.split, shard.source, shard.language) == ("heldout", task.source, language) and shard.documents
    ]
    if not paths:
        problem = (
            f"has no held-out documents of source {task.source!r}; build it with heldout_documents above 0 and enough pages"
        )
        raise CorruptInput(str(heldout.ref), language, problem)
    verify_files(folder, heldout, iter(paths))
    items = tuple(
        Item(id=row["id"], cluster=row["id"], texts=(row["text"],)) for path in paths for row in _documents(folder / path)
    )
    return LanguageTask(name=task.name, language=language, form="documents", items=items)


def _documents(path: Path) -> list[dict[str, str]]:
    try:
        rows: list[dict[str, str]] = pq.read_table(path, columns=["id", "text"]).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise CorruptInput(path, "", f"is not a Parquet file of documents: {str(error).splitlines()[0]}") from error
    if not all(row["text"] for row in rows):
        raise CorruptInput(path, "", "holds a document without text")
    return rows


def instruction_task(task: TaskDefinition, language: str, files: Sequence[Path]) -> GenerationTask:
    """The task's requests in one language; raises CorruptInput or RecipeError for a missing file or a line of no use."""
    path = item_file(task, language, files)
    questions = []
    for number, row in item_rows(path):
        line = read_table(row, Instruction, f"{path}:{number}")
        name = f"{language}-{number:03d}"
        message = Message(role="user", content=line.prompt)
        details: dict[str, dict[str, Argument]] = {"checks": dict(line.checks)}
        questions.append(Question(id=name, cluster=name, messages=(message,), target=line.example, details=details))
    return GenerationTask(
        name=task.name,
        language=language,
        questions=tuple(questions),
        generation=Generation(max_tokens=task.max_tokens),
        scorer=score_instructions,
    )


def score_instructions(task: GenerationTask, answers: Sequence[Sequence[str]]) -> TaskScores:
    """`followed` of every answer and its mean; the share of all checks met beside it."""
    followed, shares, nulls = [], [], 0
    for question, turns in zip(task.questions, answers, strict=True):
        answer = turns[0] if turns else ""
        results = met(answer, question.details["checks"])
        nulls += not answer.strip()
        followed.append(
            ItemScore(
                item=question.id,
                metric=FOLLOWED,
                value=float(all(results.values())),
                is_null=not answer.strip(),
                extracted=answer.strip(),
            )
        )
        shares.append(ItemValue(value=sum(results.values()) / len(results), weight=1, cluster=question.cluster))
    values = [
        ItemValue(value=score.value, weight=1, cluster=question.cluster)
        for score, question in zip(followed, task.questions, strict=True)
    ]
    scores = tuple(
        Score(
            task=task.name,
            language=task.language,
            metric=metric,
            value=value,
            stderr=stderr,
            items=len(task.questions),
            higher_is_better=True,
            role="score" if metric == FOLLOWED else "diagnostic",
            nulls=nulls,
        )
        for metric, (value, stderr) in ((FOLLOWED, weighted_score(values)), (CHECKS, weighted_score(shares)))
    )
    return TaskScores(items=tuple(followed), scores=scores)


def averages(scores: Sequence[Score]) -> tuple[Aggregate, ...]:
    """For every metric the mean over tasks in each language, then over languages; a metric of one task has only the latter."""
    counted = [score for score in scores if score.role == "score"]
    made: list[Aggregate] = []
    for metric in dict.fromkeys(score.metric for score in counted):
        made += _metric_averages(metric, [score for score in counted if score.metric == metric])
    return tuple(made)


def _metric_averages(metric: str, scores: Sequence[Score]) -> Iterator[Aggregate]:
    tasks = list(dict.fromkeys(score.task for score in scores))
    languages = []
    for language in dict.fromkeys(score.language for score in scores):
        found = {score.task: score for score in scores if score.language == language}
        value, stderr = _mean([(score.value, score.stderr) for score in found.values()])
        languages.append((language, value, stderr))
        if len(tasks) > 1:
            yield Aggregate(
                level="language",
                name=metric,
                language=language,
                value=value,
                stderr=stderr,
                members=tuple(found),
                missing=tuple(task for task in tasks if task not in found),
            )
    value, stderr = _mean([(value, stderr) for _, value, stderr in languages])
    members = tuple(language for language, *_ in languages)
    yield Aggregate(level="suite", name=metric, language="", value=value, stderr=stderr, members=members)


def _mean(values: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Mean of independent values, and its error."""
    count = len(values)
    return math.fsum(value for value, _ in values) / count, math.sqrt(math.fsum(error**2 for _, error in values)) / count
