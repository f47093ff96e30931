"""Models: random initialisation, loading, export, always as a folder that transformers' Auto classes load.

The classes are transformers' own. Weights are fp32: bf16 weights do not move at the learning rates of continued pre-training.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..catalog.records import Checkpoint
from ..catalog.store import Job, Made
from .recipe import InitRecipe
from .vocabulary import copy_tokenizer

WEIGHTS = "model.safetensors"


def init_model(job: Job[InitRecipe]) -> Made:
    """Write a randomly initialised model with its tokenizer beside it; the same seed gives the same bytes."""
    import transformers

    recipe = job.recipe
    folder = job.folder_of(recipe.tokenizer)
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = new_model(recipe, tokenizer)
    ends = sorted({tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|im_end|>")} - {None, tokenizer.unk_token_id})
    settings: Any = transformers.GenerationConfig
    model.generation_config = settings(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=ends, pad_token_id=tokenizer.pad_token_id
    )
    export_model(model, model.state_dict(), folder, job.folder)
    body = Checkpoint(stage="init", architecture=type(model).__name__, parameters=parameters_of(model))
    return Made(body=body)


def new_model(recipe: InitRecipe, tokenizer: Any) -> Any:
    """A model of the recipe's sizes with random weights (torch's current seed)."""
    from transformers import Gemma2Config, Gemma2ForCausalLM, LlamaConfig, LlamaForCausalLM

    sizes: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": recipe.hidden_size,
        "intermediate_size": recipe.intermediate_size,
        "num_hidden_layers": recipe.layers,
        "num_attention_heads": recipe.heads,
        "num_key_value_heads": recipe.key_value_heads,
        "head_dim": recipe.head_dim,
        "max_position_embeddings": recipe.max_length,
        "tie_word_embeddings": recipe.is_tied,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "dtype": "float32",
    }
    if recipe.architecture == "llama":
        return LlamaForCausalLM(LlamaConfig(**sizes))
    window = max(1, recipe.max_length // 2)
    return Gemma2ForCausalLM(Gemma2Config(**sizes, query_pre_attn_scalar=recipe.head_dim, sliding_window=window))


def load_model(folder: Path, device: str = "cpu") -> Any:
    """A model for training: fp32, and the attention that applies Gemma-2's soft-cap (`eager`; `sdpa` has none)."""
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils import logging as messages

    quiet: Any = messages.disable_progress_bar
    quiet()
    config = AutoConfig.from_pretrained(folder)
    attention = "eager" if config.model_type == "gemma2" else "sdpa"
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation=attention)
    return model.to(device).train()


def export_model(model: Any, state: Mapping[str, Tensor], tokenizer_folder: Path, folder: Path) -> None:
    """Write weights (`state`, whole tensors; the file appears whole or not at all), configuration and tokenizer."""
    weights = {name: tensor.detach().to("cpu", torch.float32).contiguous().clone() for name, tensor in state.items()}
    if model.config.tie_word_embeddings:
        weights.pop("lm_head.weight", None)
    partial = folder / f"{WEIGHTS}.partial"
    save_file(weights, partial, metadata={"format": "pt"})
    os.replace(partial, folder / WEIGHTS)
    model.config.architectures = [type(model).__name__.removeprefix("FSDP")]
    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    copy_tokenizer(tokenizer_folder, folder)


def parameters_of(model: Any) -> int:
    """Number of distinct parameters: a tied weight counts once."""
    return sum(parameter.numel() for parameter in model.parameters())
