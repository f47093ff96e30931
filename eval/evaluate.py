"""`evaluate`: a suite run on a checkpoint, with one row per item.

lm-eval asks the model and scores it; the scorecard is computed here from its items, so that errors are clustered and a score
can be remade from `items.parquet`. Prompts are bare text without a chat template, for base and tuned models alike: what is
compared over the stages is the model, not its template.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from lm_eval.api.model import LM
from lm_eval.evaluator import evaluate
from tqdm import tqdm

from ..catalog.errors import CorruptInput, RecipeError
from ..catalog.fingerprint import fingerprint
from ..catalog.records import Artifact, Checkpoint, Corpus, Score, Scorecard
from ..catalog.store import Job, Made, verify_files, write_rows
from .backends import load_model
from .metrics import METRICS, ItemValue, bits_per_byte, weighted_score
from .recipe import EvaluationRecipe
from .suite import Item, LanguageTask, SuiteDefinition, TaskDefinition, read_suite, word_order_task
from .tasks import harness_name, harness_tasks

log = logging.getLogger(__name__)

HARNESS = f"lm-eval {version('lm-eval')}"
ITEMS = "items.parquet"
ITEMS_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("task", "language", "metric", "item", "cluster")]
    + [("value", pa.float64())]
    + [(name, pa.string()) for name in ("doc_hash", "prompt_hash", "target_hash")]
)


def evaluate_model(job: Job[EvaluationRecipe]) -> Made:
    """Score a checkpoint on a suite: a `Scorecard`, and one row per item and metric in the table `items`.

    Raises RecipeError for a suite that is not what its name says, and CorruptInput for a checkpoint that cannot be loaded or
    answers with anything but finite log-likelihoods, a language without held-out documents, or files that changed since they
    were written.
    """
    recipe = job.recipe
    model, heldout = job.inputs[recipe.model], job.inputs[recipe.heldout]
    if not isinstance(model.body, Checkpoint):
        raise RecipeError(str(recipe.ref), "model", f"{model.ref} is a {model.kind}, not a checkpoint")
    verify_files(job.folder_of(recipe.model), model)
    suite = read_suite(recipe.suite, job.files["suite_files"])
    tasks = list(suite_tasks(suite, job.files["suite_files"], heldout, job.folder_of(recipe.heldout)))
    with (
        tqdm(desc=f"{recipe.suite} on {model.ref}", unit="seq", disable=not job.options.show_progress) as bar,
        contextlib.redirect_stderr(io.StringIO()),  # transformers and lm-eval draw some forty bars of their own
    ):
        lm = load_model(job.folder_of(recipe.model), job.options.device, suite.window_tokens, bar)
        samples = ask(lm, tasks)
    rows = [row for task in tasks for row in _item_rows(task, samples[harness_name(task)], str(model.ref))]
    scores = tuple(score for task in tasks for score in _scores(task, rows))
    write_rows(job.folder / ITEMS, rows, ITEMS_SCHEMA)
    log.info("%s: %d items of %s scored on %s", recipe.ref, len(rows), suite.name, model.ref)
    card = Scorecard(
        model=str(model.ref),
        suite=suite.name,
        suite_fingerprint=_suite_fingerprint(tasks, rows, lm.max_length),
        harness=HARNESS,
        scores=scores,
    )
    return Made(body=card, tables={"items": ITEMS})


def suite_tasks(suite: SuiteDefinition, files: Sequence[Path], heldout: Artifact, folder: Path) -> Iterator[LanguageTask]:
    """Every task of the suite in every language, in the suite's order; `heldout` is the corpus in `folder`."""
    for task in suite.task:
        for language in suite.languages:
            if task.form == "documents":
                yield _document_task(task, language, heldout, folder)
            else:
                yield word_order_task(task, language, files)


def _document_task(task: TaskDefinition, language: str, heldout: Artifact, folder: Path) -> LanguageTask:
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
    return LanguageTask(name=task.name, language=language, form=task.form, items=items)


def _documents(path: Path) -> list[dict[str, str]]:
    try:
        rows: list[dict[str, str]] = pq.read_table(path, columns=["id", "text"]).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise CorruptInput(path, "", f"is not a Parquet file of documents: {str(error).splitlines()[0]}") from error
    if not all(row["text"] for row in rows):
        raise CorruptInput(path, "", "holds a document without text")
    return rows


def ask(lm: LM, tasks: Iterable[LanguageTask]) -> dict[str, list[dict[str, Any]]]:
    """lm-eval's record of every item, by `harness_name`: what was asked, and the model's answers."""
    task_dict: Any = {"tasks": harness_tasks(tasks), "groups": {}}
    results: Any = evaluate(lm=lm, task_dict=task_dict, bootstrap_iters=0)
    samples: dict[str, list[dict[str, Any]]] = results["samples"]
    return samples


def _item_rows(task: LanguageTask, samples: Sequence[dict[str, Any]], model: str) -> Iterator[dict[str, Any]]:
    if [sample["doc"]["id"] for sample in samples] != [item.id for item in task.items]:
        raise AssertionError(f"lm-eval lost or reordered items of {harness_name(task)}")
    for item, sample in zip(task.items, samples, strict=True):
        answers = [answer[0] if isinstance(answer, (list, tuple)) else answer for answer in sample["filtered_resps"]]
        if not all(math.isfinite(answer) for answer in answers):
            raise CorruptInput(model, f"{task.name}/{task.language}/{item.id}", f"answers with log-likelihoods {answers}")
        for metric in METRICS[task.form]:
            value = sample[metric.name]
            yield {
                "task": task.name,
                "language": task.language,
                "metric": metric.name,
                "item": item.id,
                "cluster": item.cluster,
                "value": bits_per_byte(*value) if metric.name == "bits_per_byte" else value,
                "doc_hash": item.digest,
                "prompt_hash": _prompt_hash(sample),
                "target_hash": fingerprint(item.texts[item.gold])[:16],
            }


def _prompt_hash(sample: dict[str, Any]) -> str:
    """Digest of everything that lm-eval sent to the model for an item."""
    return fingerprint([list(arguments) for arguments in sample["arguments"]])[:16]


def _scores(task: LanguageTask, rows: Sequence[dict[str, Any]]) -> Iterator[Score]:
    weights = {item.id: len(item.texts[0].encode()) if task.form == "documents" else 1 for item in task.items}
    for metric in METRICS[task.form]:
        items = [
            ItemValue(value=row["value"], weight=weights[row["item"]], cluster=row["cluster"])
            for row in rows
            if (row["task"], row["language"], row["metric"]) == (task.name, task.language, metric.name)
        ]
        value, stderr = weighted_score(items)
        yield Score(
            task=task.name,
            language=task.language,
            metric=metric.name,
            value=value,
            stderr=stderr,
            items=len(items),
            higher_is_better=metric.higher_is_better,
        )


def _suite_fingerprint(tasks: Sequence[LanguageTask], rows: Sequence[dict[str, Any]], window_tokens: int) -> str:
    """Digest of all that must be equal for two scorecards to be compared: questions as asked, metrics, window and harness."""
    asked = [[row[key] for key in ITEMS_SCHEMA.names if key != "value"] for row in rows]
    forms = [[task.name, task.language, task.form] for task in tasks]
    return fingerprint({"harness": HARNESS, "window_tokens": window_tokens, "tasks": forms, "items": asked})
