"""lm-eval's models behind OpenAI-compatible endpoints, which say how an answer ended and begin a text with one token.

lm-eval's own drop `finish_reason` and turn an answer of null into a placeholder text that is then scored.
"""

from __future__ import annotations

import logging
from operator import itemgetter
from typing import Any

from lm_eval.models.openai_completions import LocalChatCompletion, LocalCompletionsAPI

from .response_cache import Answer

# A line of some kilobytes for each try that fails, and one more for each that nobody waits for any longer.
for noisy in ("lm_eval.models.api_models", "asyncio"):
    logging.getLogger(noisy).setLevel(logging.CRITICAL + 1)

Completions: Any = LocalCompletionsAPI
Chat: Any = LocalChatCompletion


def _answers(outputs: Any, text_of: Any) -> list[Answer]:
    answers = []
    for output in outputs if isinstance(outputs, list) else [outputs]:
        for choice in sorted(output["choices"], key=itemgetter("index")):
            answers.append(Answer(text_of(choice) or "", is_truncated=choice.get("finish_reason") == "length"))
    return answers


class CompletionsEndpoint(Completions):  # type: ignore[misc]
    """Completions of tokens; the beginning's token stands once before a text, where the tokenizer wants it."""

    def __init__(self, window: int, **kwargs: Any) -> None:
        """`window`: tokens of a window of a long text; two fewer than the server takes, as it must say one more."""
        super().__init__(tokenizer_backend="huggingface", add_bos_token=None, **kwargs)  # None: see tok_encode
        self.max_length: int
        self._is_rolling, self._window = False, window

    @staticmethod
    def parse_generations(outputs: Any, **kwargs: Any) -> list[Answer]:
        return _answers(outputs, itemgetter("text"))

    def tok_encode(self, string: Any, add_special_tokens: bool | None = None, **kwargs: Any) -> Any:
        if not isinstance(string, str):
            return [self.tok_encode(text, **kwargs) for text in string]
        if add_special_tokens is None:
            bos = self.tokenizer.bos_token
            add_special_tokens = not self._is_rolling and not (bos and string.startswith(bos))
        tokens = self.tokenizer(string, add_special_tokens=add_special_tokens).input_ids
        limit = kwargs.get("left_truncate_len")
        return tokens[-limit:] if limit else tokens

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> Any:
        longest: int = self.max_length
        self._is_rolling = True  # lm-eval puts the beginning's token before the first window
        self.max_length = self._window + 1
        try:
            return super().loglikelihood_rolling(requests, disable_tqdm=disable_tqdm)
        finally:
            self._is_rolling, self.max_length = False, longest


class ChatEndpoint(Chat):  # type: ignore[misc]
    """Chat completions, which are sent as messages."""

    def __init__(self, window: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def parse_generations(self, outputs: Any, **kwargs: Any) -> list[Answer]:
        return _answers(outputs, lambda choice: choice["message"]["content"])
