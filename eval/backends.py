"""The model behind lm-eval: transformers on one device, in single precision.

lm-eval's `HFLM` is kept as it is but for two things: how many sequences go into one forward pass follows from a memory budget
instead of being one number for windows of documents and for short sentences alike, and progress is one bar of ours.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer

from ..catalog.errors import CorruptInput

LOGITS_BUDGET = 1 << 24
"""Logits of one forward pass: 64 MiB in single precision, and as much again for their log-softmax."""

logging.getLogger("lm_eval.models.huggingface").setLevel(logging.ERROR)  # warns that a loaded model was given: it is meant


Harness: Any = HFLM  # untyped, and its registering decorator hides its class from type checkers


class BudgetedHFLM(Harness):  # type: ignore[misc]
    """`HFLM` whose batches keep to `LOGITS_BUDGET`; `bar` counts sequences."""

    def __init__(self, *args: Any, bar: tqdm[Any], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.bar = bar

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        self.batch_size_per_gpu = self._batch_size(self.max_length)
        return list(super().loglikelihood_rolling(requests, disable_tqdm=True))

    def _loglikelihood_tokens(self, requests: list[Any], **kwargs: Any) -> list[tuple[float, bool]]:
        if "override_bs" not in kwargs:  # not one batch of windows, but all the sentences: the longest decides
            self.batch_size_per_gpu = self._batch_size(max(len(context) + len(text) for _, context, text in requests))
        return list(super()._loglikelihood_tokens(requests, **{**kwargs, "disable_tqdm": True}))

    def _model_call(self, inps: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        self.bar.update(len(inps))
        logits: torch.Tensor = super()._model_call(inps, *args, **kwargs)
        return logits

    def _batch_size(self, length: int) -> int:
        return max(1, LOGITS_BUDGET // (length * int(self.model.config.vocab_size)))


def load_model(folder: Path, device: str, window_tokens: int, bar: tqdm[Any]) -> BudgetedHFLM:
    """The checkpoint in `folder` as lm-eval calls it, looking at no more than `window_tokens` tokens at once.

    Reads local files only. Raises CorruptInput when transformers cannot load it, or when its tokenizer has neither a token for
    the beginning nor one for the end of a text: the first token of a text is scored given one of them.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, dtype=torch.float32, output_loading_info=True
        )
    except Exception as error:
        raise CorruptInput(folder, "", f"is not a checkpoint that transformers can load: {_first_line(error)}") from error
    model, found = loaded
    missing = sorted(found["missing_keys"])
    if missing:  # transformers fills them with random numbers and goes on
        raise CorruptInput(folder, "", f"lacks {len(missing)} of the model's tensors, {missing[0]} first")
    if tokenizer.bos_token_id is None and tokenizer.eos_token_id is None:
        raise CorruptInput(folder, "", "its tokenizer has neither a token for the beginning nor one for the end of a text")
    longest = getattr(model.config, "max_position_embeddings", window_tokens)
    return BudgetedHFLM(
        pretrained=model.to(device),
        tokenizer=tokenizer,
        backend="causal",
        max_length=min(window_tokens, longest),
        add_bos_token=False,  # the first token of a text is put before it by lm-eval; the tokenizer would put it there twice
        logits_cache=False,
        bar=bar,
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
