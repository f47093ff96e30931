"""A conversation as tokens: the chat template's text, and which of its tokens the loss falls on.

The template marks what the assistant says with `{% generation %}`; a token is in the loss when it begins within such a part.
transformers' `apply_chat_template` was refused: one conversation at a time in Python, and where a template has no marks it says
so in a warning and gives masks of zeros. A token is 32 bits, of which the highest says that the loss falls on it: no vocabulary
needs that bit, and a mask beside the tokens would be one more file to read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from jinja2 import TemplateError

from ..catalog.errors import RecipeError

Messages = list[dict[str, str]]
Form = Literal["messages", "preference"]
IN_LOSS = np.uint32(1 << 31)
MARK = re.compile(r"\{%[-+]?\s*generation\b")
TEMPLATES = {
    "llama-3.1": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "gemma-2": ("<start_of_turn>", "<end_of_turn>"),
}
"""Our chat templates (`templates/*.jinja`), and the special tokens that they need beside the first of a document."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendering:
    """What conversations become; all that rows depend on beside the conversations."""

    form: Form
    template: str
    """Text of the chat template."""
    model_folder: Path
    """Where the tokenizer is."""
    tokenizer_sha256: str
    """Of its `tokenizer.json`."""
    longest: int
    """Rows of more tokens are dropped."""


def template_text(name: str, tokenizer: Any, recipe: str = "recipe") -> str:
    """The chat template of a recipe's `template`, or the tokenizer's own for an empty name; `recipe` is for messages.

    Raises RecipeError, which names the special tokens that the tokenizer lacks, or says that a template marks no answer.
    """
    if not name:
        own = tokenizer.chat_template or ""
        if not MARK.search(own):
            problem = "marks no answer with {% generation %}" if own else "is missing"
            raise RecipeError(recipe, "template", f"the model's own {problem}; name one of {', '.join(TEMPLATES)}")
        return str(own)
    missing = [token for token in TEMPLATES[name] if token not in tokenizer.added_tokens_encoder]
    missing += [] if tokenizer.bos_token else ["a token that begins a document"]
    if missing:
        raise RecipeError(recipe, "template", f"{name} needs special tokens that the tokenizer lacks: {', '.join(missing)}")
    return files(__package__ or "").joinpath("templates", f"{name}.jinja").read_text("utf-8")


class Renderer:
    """A tokenizer with a chat template: conversations to marked tokens, or why not."""

    def __init__(self, tokenizer: Any, template: str, longest: int) -> None:
        """`tokenizer` is one of transformers; rows of more than `longest` tokens are dropped."""
        from transformers.utils.chat_template_utils import render_jinja_template

        self._template, self._longest = template, longest
        self._render: Any = render_jinja_template
        self._encoder = tokenizer.backend_tokenizer
        self._encoder.no_padding()
        self._encoder.no_truncation()
        if getattr(self._encoder.model, "dropout", None):
            self._encoder.model.dropout = None
        control = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
        control |= set(tokenizer.all_special_tokens)
        self._control = re.compile("|".join(map(re.escape, sorted(control))) or "(?!)")
        self._names = {name: str(token) for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}

    def rendered(self, examples: Sequence[Sequence[Messages]]) -> list[list[npt.NDArray[np.uint32]] | str]:
        """The rows of each example, a conversation or the two of a pair; or the reason why it cannot be trained on.

        Text that spells a special token would become that token: a user could end their turn and speak as the assistant.
        """
        texts, spans = list[str](), list[Any]()
        places: list[range | str] = []
        for conversations in examples:
            found = [self._text(messages) for messages in conversations]
            reason = next((text for text in found if isinstance(text, str)), None)
            places.append(reason or range(len(texts), len(texts) + len(found)))
            if not reason:
                texts += [text[0] for text in found]
                spans += [text[1] for text in found]
        encodings = self._encoder.encode_batch(texts, add_special_tokens=False)
        rows = [_marked(encoding, span) for encoding, span in zip(encodings, spans, strict=True)]
        return [place if isinstance(place, str) else self._checked([rows[i] for i in place]) for place in places]

    def _text(self, messages: Messages) -> tuple[str, list[tuple[int, int]]] | str:
        """The rendered text and where the assistant speaks in it; or a reason."""
        answers = [message["content"] for message in messages if message["role"] == "assistant"]
        if not messages or (answers and not all(answer.strip() for answer in answers)):
            return "empty"
        if not answers:
            return "no_assistant_turn"
        if any(self._control.search(message["content"]) for message in messages):
            return "special_token_in_text"
        try:
            texts, spans = self._render(
                [messages], chat_template=self._template, return_assistant_tokens_mask=True, **self._names
            )
        except TemplateError:
            return "refused_by_template"
        return texts[0], spans[0]

    def _checked(self, rows: list[npt.NDArray[np.uint32]]) -> list[npt.NDArray[np.uint32]] | str:
        if any(len(row) > self._longest for row in rows):
            return "too_long"
        return rows if all((row >= IN_LOSS).any() for row in rows) else "no_assistant_token"


def _marked(encoding: Any, spans: Sequence[tuple[int, int]]) -> npt.NDArray[np.uint32]:
    """A row's tokens, with `IN_LOSS` on those that begin within one of the spans of characters."""
    tokens = np.array(encoding.ids, np.uint32)
    begins = np.array([begin for begin, _ in encoding.offsets], np.int64)
    is_within = np.searchsorted(np.array(spans, np.int64).reshape(-1), begins, side="right") % 2 == 1
    is_within[:1] = False
    return np.where(is_within, tokens | IN_LOSS, tokens)


def conversations_of(record: dict[str, Any], form: Form) -> list[Messages]:
    """The conversation of a record, or the chosen and the rejected one of a pair."""
    if form == "messages":
        return [_messages(record["messages"], "user")]
    prompt = _messages(record["prompt"], "user")
    return [prompt + _messages(record[answer], "assistant") for answer in ("chosen", "rejected")]


def _messages(value: Any, role: str) -> Messages:
    """Messages as they are, as JSON, or one message of `role` from plain text."""
    if isinstance(value, str):
        if not value.startswith('[{"role"'):
            return [{"role": role, "content": value}]
        try:
            value = json.loads(value)
        except ValueError:  # a text that begins like one, no list of messages
            return [{"role": role, "content": value}]
    return [{"role": message["role"], "content": message["content"] or ""} for message in value or ()]
