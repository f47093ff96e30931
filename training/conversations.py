"""The plans of `sft` and `simpo` runs: conversations rendered by the model's own chat template.

The loss falls on the assistant's tokens only, which the template marks with `{% generation %}`; a template without the marks
would silently train nothing, so rows without a token in the loss are dropped and counted, and none left is an error.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from ..catalog.errors import CorruptInput, RecipeError
from ..catalog.records import Conversations
from ..catalog.store import Job, verify_files
from .batches import Plan, Row, digest_of, padded_collate, repeated
from .recipe import TrainRecipe

log = logging.getLogger(__name__)

FILE = "conversations.parquet"
FORMS = {"sft": "messages", "simpo": "preference"}
COLUMNS = {"sft": ("messages",), "simpo": ("prompt", "chosen", "rejected")}

Messages = list[dict[str, str]]


def conversation_plan(job: Job[TrainRecipe], tokenizer: Any) -> Plan:
    """Render and mask the recipe's conversations or preference pairs; dropped rows are counted in the log.

    Raises RecipeError for a set of another form and CorruptInput when no row is left.
    """
    recipe = job.recipe
    examples: list[tuple[Row, ...]] = []
    dropped: Counter[str] = Counter()
    for record in _records(job):
        rows = tuple(encoded(messages, tokenizer) for messages in _conversations(record, recipe.objective))
        reason = _reason_to_drop(rows, recipe.sequence_length)
        if reason:
            dropped[reason] += 1
        else:
            examples.append(rows)
    log.info("%d rows, dropped %s", len(examples), dict(sorted(dropped.items())) or "none")
    if not examples:
        raise CorruptInput(recipe.conversations, "", f"no row can be trained on: {dict(sorted(dropped.items()))}")
    tokens = np.asarray([sum(row.trained for row in rows) for rows in examples], dtype=np.int64)
    order = repeated(len(examples), recipe.epochs, recipe.seed)
    return Plan(
        order=order,
        tokens=tokens,
        units=tokens if recipe.objective == "sft" else np.ones_like(tokens),
        collate=padded_collate(examples, tokenizer.pad_token_id or 0),
        digest=digest_of(order, *_arrays(examples)),
    )


def _arrays(examples: Iterable[Sequence[Row]]) -> Iterable[np.ndarray[Any, Any]]:
    for rows in examples:
        for row in rows:
            yield np.asarray([row.tokens, row.mask], dtype=np.int64)


def _records(job: Job[TrainRecipe]) -> list[dict[str, Any]]:
    recipe = job.recipe
    artifact = job.inputs[recipe.conversations]
    wanted = FORMS[recipe.objective]
    if not isinstance(artifact.body, Conversations) or artifact.body.form != wanted:
        raise RecipeError(
            str(recipe.ref), "conversations", f"{recipe.conversations} is not of form {wanted}, which {recipe.objective} needs"
        )
    path: Path = job.folder_of(recipe.conversations) / FILE
    verify_files(path.parent, artifact, iter([FILE]))
    try:
        rows: list[dict[str, Any]] = pq.read_table(path, columns=list(COLUMNS[recipe.objective])).to_pylist()
    except (OSError, ValueError, KeyError) as error:
        raise CorruptInput(path, "", f"has not the columns {', '.join(COLUMNS[recipe.objective])}: {error}") from error
    return rows


def _conversations(record: dict[str, Any], objective: str) -> list[Messages]:
    """The conversation of a row, or the chosen and the rejected one of a pair."""
    if objective == "sft":
        return [_messages(record["messages"], "user")]
    prompt = _messages(record["prompt"], "user")
    return [prompt + _messages(record[answer], "assistant") for answer in ("chosen", "rejected")]


def _messages(value: Any, role: str) -> Messages:
    """Messages as they are, as JSON, or one message of `role` from plain text."""
    if isinstance(value, str):
        if not value.lstrip().startswith('[{"'):
            return [{"role": role, "content": value}]
        value = json.loads(value)
    return [{"role": message["role"], "content": message["content"]} for message in value]


def encoded(messages: Messages, tokenizer: Any) -> Row:
    """A conversation's tokens and which of them are in the loss; one whose text spells a special token is left empty.

    Such text would become control tokens: a user could end their turn and speak as the assistant.
    """
    if any(special in message["content"] for message in messages for special in tokenizer.all_special_tokens):
        return Row(tokens=[], mask=[])
    rendered = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    return Row(tokens=list(rendered["input_ids"]), mask=list(rendered["assistant_masks"]))


def _reason_to_drop(rows: Sequence[Row], longest: int) -> str:
    """Why an example cannot be trained on; empty if it can."""
    if any(not row.tokens for row in rows):
        return "special_token_in_text"
    if any(len(row.tokens) > longest for row in rows):
        return "too_long"
    if any(row.trained == 0 for row in rows):
        return "no_assistant_token"
    return ""
