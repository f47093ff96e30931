"""Items and answers of a scorecard as tables, and a model that answers with what was stored.

Items have a row for each item, filter and metric; answers one for each item and turn. Both are small: of what was asked they
hold digests, as the texts are in the suite, and lm-eval's samples, which repeat a prompt with every choice, would be gigabytes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
from lm_eval.api.model import LM

from ..catalog.errors import CorruptInput
from ..catalog.fingerprint import canonical_json, fingerprint
from ..catalog.records import Score
from .family import GenerationTask, ItemScore, Question, TaskScores
from .metrics import METRICS, ItemValue, bits_per_byte, choice_values, weighted_score
from .response_cache import Answer
from .suite import Item, LanguageTask

Row = dict[str, Any]

HASHES = [(name, pa.string()) for name in ("doc_hash", "prompt_hash", "target_hash")]
ITEMS_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("task", "language", "metric", "item", "cluster")]
    + [("value", pa.float64()), *HASHES, ("filter", pa.string()), ("stratum", pa.string()), ("is_null", pa.bool_())]
)
ASKED = ("task", "language", "metric", "item", "cluster", "doc_hash", "target_hash", "filter")
"""Columns that do not depend on the model; `prompt_hash` is one more, where no chat template stands between."""
ANSWERS_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("task", "language", "item")),
        ("turn", pa.int32()),
        ("text", pa.string()),
        ("loglikelihoods", pa.list_(pa.float64())),
        ("extracted", pa.string()),
        ("target", pa.string()),
        ("truncated", pa.bool_()),
        ("doc_hash", pa.string()),
        ("prompt_hash", pa.string()),
    ]
)


def short_hash(value: Any) -> str:
    """Compact digest (16 hex digits) of a JSON value."""
    return fingerprint(value)[:16]


def prompt_hash(sample: Mapping[str, Any]) -> str:
    """Digest of everything that lm-eval sent to the model for an item."""
    return short_hash([list(arguments) for arguments in sample["arguments"]])


def question_hash(question: Question) -> str:
    """Digest of what is asked, before any template."""
    return short_hash([question.messages, question.follow_ups, question.target, dict(question.details)])


# -- texts scored by likelihood --------------------------------------------------------------------------------------------


def likelihoods(sample: Mapping[str, Any], model: str, where: str) -> list[float]:
    """The log-likelihoods of a sample; raises CorruptInput for any that is not finite."""
    answers = [answer[0] if isinstance(answer, (list, tuple)) else answer for answer in sample["filtered_resps"]]
    if not all(math.isfinite(answer) for answer in answers):
        raise CorruptInput(model, where, f"answers with log-likelihoods {answers}")
    return [float(answer) for answer in answers]


def likelihood_rows(task: LanguageTask, samples: Sequence[Mapping[str, Any]], model: str) -> tuple[list[Row], list[Row]]:
    """Item rows and answer rows of a task from lm-eval's samples, in the order of its items."""
    items, answers = [], []
    for item, sample in paired(task.items, samples, task.name):
        values = likelihoods(sample, model, f"{task.name}/{task.language}/{item.id}")
        place = {"task": task.name, "language": task.language, "item": item.id}
        hashes = {"doc_hash": item.digest, "prompt_hash": prompt_hash(sample)}
        target = short_hash(item.texts[item.gold])
        for metric, value in item_values(task, item, values):
            row = place | hashes | {"metric": metric, "cluster": item.cluster, "value": value, "target_hash": target}
            items.append(row | {"filter": "none", "stratum": "", "is_null": False})
        answers.append(
            place | hashes | {"turn": 0, "loglikelihoods": values, "target": json.dumps(item.gold), "truncated": False}
        )
    return items, answers


def paired(items: Sequence[Any], samples: Sequence[Mapping[str, Any]], name: str) -> Iterator[tuple[Any, Mapping[str, Any]]]:
    """Each item with its sample."""
    if [sample["doc"]["id"] for sample in samples] != [item.id for item in items]:
        raise AssertionError(f"lm-eval lost or reordered items of {name}")
    return zip(items, samples, strict=True)


def item_values(task: LanguageTask, item: Item, values: Sequence[float]) -> Iterator[tuple[str, float]]:
    """Metric and value of one item, from its log-likelihoods."""
    if task.form == "documents":
        yield "bits_per_byte", bits_per_byte(values[0], len(item.texts[0].encode()))
        return
    found = choice_values(item, values)
    for metric in METRICS[task.form]:
        yield metric.name, found[metric.name]


def likelihood_scores(task: LanguageTask, rows: Sequence[Row]) -> Iterator[Score]:
    """The task's scores from its item rows."""
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


# -- generated answers -----------------------------------------------------------------------------------------------------


def generation_rows(
    task: GenerationTask, answers: Sequence[Sequence[str]], prompts: Sequence[str], scored: TaskScores
) -> tuple[list[Row], list[Row]]:
    """Item rows and answer rows; `prompts` are digests of what was sent first for each question."""
    known = {question.id: (question, prompt) for question, prompt in zip(task.questions, prompts, strict=True)}
    items = []
    for score in scored.items:
        question, prompt = known[score.item]
        hashes = {"doc_hash": question_hash(question), "prompt_hash": prompt, "target_hash": short_hash(question.target)}
        items.append(_score_row(task.name, task.language, score, question.cluster) | hashes)
    return items, list(_answer_rows(task, answers, prompts, {score.item: score.extracted for score in reversed(scored.items)}))


def _score_row(task: str, language: str, score: ItemScore, cluster: str) -> Row:
    return {
        "task": task,
        "language": language,
        "metric": score.metric,
        "item": score.item,
        "cluster": score.cluster or cluster,
        "value": float(score.value),
        "filter": score.filter,
        "stratum": score.stratum,
        "is_null": score.is_null,
    }


def _answer_rows(
    task: GenerationTask, answers: Sequence[Sequence[str]], prompts: Sequence[str], extracted: Mapping[str, str]
) -> Iterator[Row]:
    for question, prompt, turns in zip(task.questions, prompts, answers, strict=True):
        for turn, text in enumerate(turns):
            yield {
                "task": task.name,
                "language": task.language,
                "item": question.id,
                "turn": turn,
                "text": str(text),
                "extracted": extracted.get(question.id, ""),
                "target": canonical_json(question.target),
                "truncated": is_truncated(text),
                "doc_hash": question_hash(question),
                "prompt_hash": prompt,
            }


def is_truncated(answer: Any) -> bool:
    """Whether a generated answer ended at the limit of tokens; False where nobody said."""
    return bool(getattr(answer, "is_truncated", False))


# -- lm-eval's own tasks ---------------------------------------------------------------------------------------------------


def harness_rows(
    task: str, language: str, samples: Sequence[Mapping[str, Any]], scored: TaskScores, model: str
) -> tuple[list[Row], list[Row]]:
    """Item rows and answer rows of one of lm-eval's tasks, whose items are lm-eval's documents by number."""
    first = {str(sample["doc_id"]): sample for sample in samples if sample["filter"] == samples[0]["filter"]}
    hashes = {item: {"doc_hash": sample["doc_hash"][:16], "prompt_hash": prompt_hash(sample)} for item, sample in first.items()}
    items = [
        _score_row(task, language, score, f"{task}/{score.item}")
        | hashes[score.item]
        | {"target_hash": first[score.item]["target_hash"][:16]}
        for score in scored.items
    ]
    extracted = {score.item: score.extracted for score in reversed(scored.items)}
    answers = []
    for item, sample in first.items():
        row = {"task": task, "language": language, "item": item, "turn": 0, "truncated": False} | hashes[item]
        response = sample["resps"][0][0]
        if isinstance(response, str):
            row |= {"text": str(response), "truncated": is_truncated(response)}
        else:
            row["loglikelihoods"] = likelihoods(
                {"filtered_resps": [given[0] for given in sample["resps"]]}, model, f"{task}/{item}"
            )
        answers.append(row | {"extracted": extracted.get(item, ""), "target": json.dumps(sample["target"], default=str)})
    return items, answers


def with_truncated(scores: Sequence[Score], answers: Sequence[Row]) -> tuple[Score, ...]:
    """The scores with the number of their task's answers that ended at the limit of tokens, where they do not say it."""
    counts: dict[tuple[str, str], int] = {}
    for row in answers:
        key = row["task"], row["language"]
        counts[key] = counts.get(key, 0) + bool(row["truncated"])
    return tuple(
        score if score.truncated else replace(score, truncated=counts.get((score.task, score.language), 0)) for score in scores
    )


# -- stored answers --------------------------------------------------------------------------------------------------------


class StoredLM(LM):  # type: ignore[misc]
    """Answers from a scorecard's table `answers`, for scoring anew without the model; `source` names it in errors."""

    def __init__(self, rows: Sequence[Row], source: str, max_length: int) -> None:
        super().__init__()
        self.source, self.max_length = source, max_length
        self.rows: dict[tuple[str, str, int], Row] = {}
        for row in rows:
            self.rows[f"{row['task']}_{row['language']}", row["item"], row["turn"]] = row
            self.rows.setdefault((row["task"], row["item"], row["turn"]), row)

    def row(self, request: Any) -> Row:
        """The stored answer to a request; raises CorruptInput when there is none."""
        is_ours = "id" in request.doc and "turn" in request.doc
        item, turn = (request.doc["id"], request.doc["turn"]) if is_ours else (str(request.doc_id), 0)
        row = self.rows.get((request.task_name, item, turn))
        if row is None:
            problem = "has no stored answer to this item: score with the suite that the model was asked"
            raise CorruptInput(self.source, f"{request.task_name}/{item}", problem)
        return row

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        return [(self.row(request)["loglikelihoods"][request.idx], False) for request in requests]

    def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
        return [self.row(request)["loglikelihoods"][0] for request in requests]

    def generate_until(self, requests: list[Any]) -> list[str]:
        rows = [self.row(request) for request in requests]
        return [Answer(row["text"], is_truncated=row["truncated"]) for row in rows]

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return canonical_json(chat_history)

    @property
    def tokenizer_name(self) -> str:
        return self.source
