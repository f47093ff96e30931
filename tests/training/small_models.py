"""Tiny models of two layers for the tests of attention, sharding, export and conversations, and a tokenizer of letters."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from tokenizers import Tokenizer, models
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

SIZES: dict[str, Any] = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "initializer_range": 0.1,
}  # fmt: skip
ARCHITECTURES: dict[str, tuple[Any, dict[str, Any]]] = {
    "llama": (LlamaConfig, {}),
    "tied": (LlamaConfig, {"tie_word_embeddings": True}),
    "gemma2": (Gemma2Config, {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 7, "final_logit_softcapping": 3.0}),
    "qwen2": (Qwen2Config, {}),
    "mistral": (MistralConfig, {"head_dim": 8, "sliding_window": 5}),
}
"""Name to the class of its configuration and what is its own; the windows are shorter than the tests' documents."""
LETTERS = {chr(97 + i): i for i in range(20)}


def config_of(architecture: str, **changes: Any) -> Any:
    """The configuration of a tiny model."""
    kind, own = ARCHITECTURES[architecture]
    return kind(**SIZES | own | changes)


def model_of(config: Any, **options: Any) -> Any:
    """A model with the same first weights every time."""
    torch.manual_seed(0)
    build: Any = AutoModelForCausalLM.from_config
    return build(deepcopy(config), **options)


def tokenizer_of(vocabulary: dict[str, int], merges: Sequence[tuple[str, str]] = (), dropout: float | None = None) -> Any:
    """A tokenizer in transformers' hands."""
    wrap: Any = PreTrainedTokenizerFast
    return wrap(tokenizer_object=Tokenizer(models.BPE(vocab=vocabulary, merges=list(merges), dropout=dropout)))
