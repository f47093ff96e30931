"""Rows of the benchmark as questions: an id, a cluster, the conversation, and what its scorer needs.

Items that share a source (a passage with several questions, a sentence translated into several languages, a pair of choices
asked both ways) share a cluster: they are not independent, and an interval that took them to be would be too narrow. Parallel
sets share clusters across languages; FLORES by its English sentence, because the Filipino file is another selection.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from ...catalog.errors import CorruptInput
from ..family import Question
from .prompts import conversations, fields_of, label_of
from .templates import TaskTexts

Row = Mapping[str, Any]

XCOPA_ROWS, BELEBELE_ROWS = 500, 895
"""Rows of the parallel sets; a file with other rows is a selection of its own."""


def questions(
    profile: str, task: str, language: str, texts: TaskTexts, rows: Sequence[Row], examples: Sequence[Row] = ()
) -> tuple[Question, ...]:
    """One question a row, in the file's order; raises CorruptInput for a row that its template or scorer cannot read."""
    ids = _ids(rows)
    clusters = _clusters(task, language, rows, ids, texts.source)
    made = []
    for row, identity, cluster in zip(rows, ids, clusters, strict=True):
        first, *later = conversations(profile, texts, row, examples)
        question = Question(
            id=identity,
            cluster=cluster,
            messages=first,
            follow_ups=tuple(messages[-1].content for messages in later),
            target=label_of(row),
            details=_details(task, row, texts.source),
        )
        made.append(question)
    return tuple(made)


def _ids(rows: Sequence[Row]) -> list[str]:
    """The rows' own ids where they tell them apart, else their places in the file."""
    own = [row.get("id", row.get("question_id")) for row in rows]
    texts = [str(identity) for identity in own]
    return texts if None not in own and len(set(texts)) == len(texts) else [str(i) for i in range(len(rows))]


def _clusters(task: str, language: str, rows: Sequence[Row], ids: Sequence[str], source: str) -> list[str]:
    if task.startswith("belebele"):
        first: dict[str, int] = {}
        passages = [first.setdefault(_text(row, "text", source), i) for i, row in enumerate(rows)]
        prefix = "belebele" if len(rows) == BELEBELE_ROWS else f"belebele-{language}"
        return [f"{prefix}-{passage}" for passage in passages]
    if task == "causal" and len(rows) == XCOPA_ROWS:
        return [f"xcopa-{i}" for i in range(len(rows))]
    return [_cluster(task, language, row, identity, source) for row, identity in zip(rows, ids, strict=True)]


def _cluster(task: str, language: str, row: Row, identity: str, source: str) -> str:
    fields = fields_of(row, source)[0]
    if task in ("translation-en-xx", "translation-xx-en"):
        english = fields.get("text") if task == "translation-en-xx" else label_of(row)
        return f"flores-{_digest(english)}"
    if "id" in row and (task.startswith("translation-") or (task == "sentiment" and language in ("ind", "jav", "sun"))):
        return f"nusax-{row['id']}"
    if task == "if-eval":
        return f"ifeval-{identity}"
    if task.startswith("mt-bench"):  # the Thai set is another one
        return f"mtbench-tha-{identity}" if language == "tha" else f"mtbench-{identity}"
    metadata = row.get("metadata") or {}
    shared: dict[str, Any] = {
        "qa": fields.get("text"),
        "qa-mc": fields.get("text"),
        "nli": fields.get("sentence1"),
        "causal": _pair(fields),
        "metaphor": _pair(fields),
        "pragmatic-pair": fields.get("text"),
        "pragmatic-single": metadata.get("lexical_item"),
    }
    return f"{task}-{_digest(shared.get(task) or dict(fields))}"


def _pair(fields: Row) -> list[str] | None:
    """The choices of two, in an order of their own: benchmarks ask a pair both ways round."""
    pair = [fields.get("choice1"), fields.get("choice2")]
    return sorted(map(str, pair)) if None not in pair else None


def _digest(value: Any) -> str:
    text = value.strip() if isinstance(value, str) else repr(sorted(value.items()) if isinstance(value, dict) else value)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def _text(row: Row, field: str, source: str) -> str:
    return str(fields_of(row, source)[0].get(field, ""))


def _details(task: str, row: Row, source: str) -> dict[str, Any]:
    """The row's metadata, and what the task's scorer reads beside them."""
    fields = fields_of(row, source)[0]
    details = dict(row.get("metadata") or {})
    if task.startswith("translation"):
        details["source"] = fields.get("text", "")
    if "choices_translated" in fields:
        details["choices_translated"] = fields["choices_translated"]
    if task == "if-eval":
        kwargs = row.get("kwargs")
        if not isinstance(kwargs, list) or len(kwargs) != 1 or not isinstance(kwargs[0], dict) or "subcategory" not in details:
            raise CorruptInput(source, "kwargs", f"of row {row.get('id')} do not belong to one instruction")
        details["instruction"] = details["subcategory"]
        details["kwargs"] = {key: value for key, value in kwargs[0].items() if value is not None}
    for key in ("baselines", "references", "criteria"):
        if row.get(key) is not None:
            details[key] = row[key]
    if "criteria" in details:  # the judge is shown the row's own texts
        details["prompts"] = [dict(turn) for turn in fields_of(row, source)]
    return details
