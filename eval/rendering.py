"""Conversations as the text that a model is given: bare, in the model's chat template, or in a benchmark's plain template.

A chat template that knows no system role either raises or leaves the text out. lm-eval then drops the system message, and
with it the description of the task, with one line in a log. Here every template is tried once with a system message, and
where it does not come out again, descriptions stand at the beginning of the first user turn and the scorecard says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from jinja2 import TemplateError

from ..catalog.errors import CorruptInput, RecipeError
from ..catalog.fingerprint import fingerprint
from .family import Message

Prompts = Literal["bare", "chat", "base"]
"""`bare`: the texts, a blank line between them; `chat`: the model's chat template; `base`: the benchmark's plain template."""

Render = Callable[[Sequence[Message]], Any]
"""A conversation to what a backend takes: a text, or for a chat endpoint the messages."""

_SYSTEM, _USER = "A description of a task.", "A question."


class ChatTemplate:
    """A tokenizer's chat template that loses no message."""

    def __init__(self, tokenizer: Any, owner: str) -> None:
        """Try the template; raises RecipeError when the tokenizer has none, CorruptInput when it cannot render a question."""
        self._tokenizer, self._owner = tokenizer, owner
        if not getattr(tokenizer, "chat_template", None):
            problem = "is 'chat', and its tokenizer has no chat template; ask with 'bare' or 'base'"
            raise RecipeError(owner, "prompts", problem)
        self.digest = fingerprint(tokenizer.chat_template)[:16]
        self.has_folded = False
        """Whether a description was put into a user turn."""
        self._render([{"role": "user", "content": _USER}], True)
        try:
            tried = self._render([{"role": "system", "content": _SYSTEM}, {"role": "user", "content": _USER}], True)
        except CorruptInput:
            tried = ""
        self.takes_system = _SYSTEM in tried
        """Whether a system message comes out of it."""

    def apply(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The conversation as text (lm-eval's `apply_chat_template`)."""
        if not self.takes_system and any(message["role"] == "system" for message in chat_history):
            self.has_folded = True
            chat_history = folded(chat_history)
        return self._render(chat_history, add_generation_prompt)

    def _render(self, history: list[dict[str, str]], add_generation_prompt: bool) -> str:
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    history,
                    tokenize=False,
                    add_generation_prompt=add_generation_prompt,
                    continue_final_message=not add_generation_prompt,
                )
            )
        except TemplateError as error:
            raise CorruptInput(self._owner, "chat template", f"refuses the conversation: {error}") from error

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader of the numbers should know."""
        if not self.has_folded:
            return ()
        return (f"the chat template of {self._owner} takes no system message: descriptions stand in the first user turn",)


def folded(history: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """The conversation with its system messages put before the first user turn."""
    system = [message["content"] for message in history if message["role"] == "system"]
    rest = [dict(message) for message in history if message["role"] != "system"]
    for message in rest:
        if message["role"] == "user":
            message["content"] = "\n\n".join([*system, message["content"]])
            return rest
    return [{"role": "user", "content": "\n\n".join(system)}, *rest]


def bare(messages: Sequence[Message]) -> str:
    """The messages' texts, a blank line between them."""
    return "\n\n".join(message.content for message in messages)


def history_of(messages: Sequence[Message]) -> list[dict[str, str]]:
    """The messages as transformers and lm-eval take them."""
    return [{"role": message.role, "content": message.content} for message in messages]
