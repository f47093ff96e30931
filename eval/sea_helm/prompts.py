"""Conversations as SEA-HELM holds them, from its own templates and rows, equal byte for byte (the digests are tested).

2025: one user message; few-shot examples stand inside it, where the template has `{fewshot_examples}`. 2026: examples are turns
of their own, and the preamble stands before the first user turn. Rendering for base models is SEA-HELM's plain template, kept
as a chat template: a base model's tokenizer has none, and lm-eval's few-shot joiner would use other separators.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...catalog.errors import CorruptInput
from ..family import Message
from .templates import TaskTexts, fill

Row = Mapping[str, Any]

BASE_TEMPLATES: dict[str, str] = {
    "sea_helm_2025": (
        "{{ bos_token or '' }}{% for message in messages %}{{ message['content'] | trim }}{{ '\\n' }}{% endfor %}"
    ),
    "sea_helm_2026": (
        "{{ bos_token or '' }}{% for message in messages %}{{ message['content'] | trim }}"
        "{% if not loop.last %}{{ '\\n\\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '\\n\\n' }}{% endif %}"
    ),
}
"""Profile to the chat template (Jinja) that is laid over the conversations of a base model."""


def base_text(profile: str, messages: Sequence[Message], bos: str = "") -> str:
    """What a base model sees of a conversation, `bos` before it; what `BASE_TEMPLATES` renders."""
    texts = [message.content.strip() for message in messages]
    if profile == "sea_helm_2025":
        return bos + "".join(f"{text}\n" for text in texts)
    return bos + "\n\n".join(texts) + "\n\n"


def conversations(
    profile: str, texts: TaskTexts, row: Row, examples: Sequence[Row] = (), *, as_turns: bool = False
) -> tuple[tuple[Message, ...], ...]:
    """The conversation of each turn of a row, without the answers between them: the first holds the examples.

    `as_turns`: examples of 2025 as turns of their own (the release's `--fewshot_as_multiturn`), which no score is made with.
    """
    form = _conversation_2025 if profile == "sea_helm_2025" else _conversation_2026
    if profile == "sea_helm_2025" and as_turns:
        form = _turns_2025
    return tuple(form(texts, fields, examples, turn == 0) for turn, fields in enumerate(fields_of(row, texts.source)))


def fields_of(row: Row, source: str) -> list[Mapping[str, Any]]:
    """The template fields of each turn: `prompts`, or the row itself where a data set is flat."""
    prompts = row.get("prompts")
    if prompts is None:
        return [row]
    if not isinstance(prompts, list) or not prompts or not all(isinstance(fields, dict) for fields in prompts):
        raise CorruptInput(source, "prompts", "of a row is no list of tables")
    return prompts


def label_of(row: Row) -> Any:
    """The answer of a row; None where there is none (instructions, multi-turn questions)."""
    return row["label"] if "label" in row else row.get("answer")


def _conversation_2025(texts: TaskTexts, fields: Row, examples: Sequence[Row], is_first: bool) -> tuple[Message, ...]:
    shots = []
    for example in examples if is_first else ():
        if "fewshot_example" not in texts.parts:
            raise CorruptInput(texts.source, "fewshot_example", "is missing, and examples are asked for")
        values = {**fields_of(example, texts.source)[0], "label": label_of(example)}
        shots.append(fill(texts.parts["fewshot_example"], values, texts.source))
    values = {**fields, "fewshot_examples": "".join(shots)}
    return (Message(role="user", content=fill(texts.parts["template"], values, texts.source)),)


def _turns_2025(texts: TaskTexts, fields: Row, examples: Sequence[Row], is_first: bool) -> tuple[Message, ...]:
    messages: list[Message] = []
    for example in examples if is_first else ():
        if "fewshot_label" not in texts.parts:
            raise CorruptInput(texts.source, "fewshot_label", "is missing, and examples are asked for")
        messages += _conversation_2025(texts, fields_of(example, texts.source)[0], (), False)
        answer = fill(texts.parts["fewshot_label"], {"label": label_of(example)}, texts.source)
        messages.append(Message(role="assistant", content=answer))
    return (*messages, *_conversation_2025(texts, fields, (), False))


def _conversation_2026(texts: TaskTexts, fields: Row, examples: Sequence[Row], is_first: bool) -> tuple[Message, ...]:
    tag = {"answer_tag": texts.parts["answer_tag"]}
    messages = []
    for example in examples if is_first else ():
        values = {**fields_of(example, texts.source)[0], **tag, "label": label_of(example)}
        messages.append(Message(role="user", content=fill(texts.parts["task_template"], values, texts.source)))
        messages.append(Message(role="assistant", content=fill(texts.parts["answer_template"], values, texts.source)))
    messages.append(Message(role="user", content=fill(texts.parts["task_template"], {**fields, **tag}, texts.source)))
    if is_first:
        preamble = fill(texts.parts["preamble"], {**fields, **tag}, texts.source)
        messages[0] = Message(role="user", content=f"{preamble}\n\n{messages[0].content}".strip())
    return tuple(messages)
