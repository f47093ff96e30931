"""Models on disk: random initialisation and export, always as a folder that transformers' Auto classes load.

An export is read back and compared before it appears: every weight to the bit, and the log-probabilities that transformers'
own code gives on a few fixed tokens with those of the trained model. A wrong name, a lost tie or a configuration that says
something else than was trained is then found here, and not in an evaluation weeks later. Shapes: R rows, T tokens a row,
V vocabulary.
"""

from __future__ import annotations

import json
import os
import shutil
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.tensor import DTensor

from ..catalog.errors import SeaLionError, Unfinished
from ..catalog.records import Checkpoint
from ..catalog.store import Job, Made
from .batches import Batch, batch_of
from .heads import LogProbabilities
from .processes import Processes
from .recipe import InitRecipe
from .sharding import weights_of
from .vocabulary import copy_tokenizer

EXACT, ROUNDED = 1e-5, 0.05
"""Largest difference of a log-probability in fp32; where weights or computation are bf16, the mean difference as a share of
the log-probabilities' standard deviation: rounding makes 0.6 to 0.8% in tiny models, a soft-cap of 2 for 3 makes 11%."""
SHARD = "5GB"
"""Largest file of weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What was written."""

    architecture: str
    """transformers' class."""
    parameters: int
    """Distinct ones: a tied weight counts once."""


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
    generation = settings(bos_token_id=tokenizer.bos_token_id, eos_token_id=ends, pad_token_id=tokenizer.pad_token_id)
    generation.save_pretrained(job.folder)
    weights = dict(model.state_dict())
    if recipe.is_tied:
        del weights["lm_head.weight"]
    model.config.architectures = [type(model).__name__]
    _write(weights, model.config, folder, job.folder)
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


def export(
    module: LogProbabilities,
    source_folder: Path,
    folder: Path,
    *,
    dtype: Literal["float32", "bfloat16"],
    template: str,
    processes: Processes,
) -> Exported:
    """Write a trained model to `folder`, checked; every process calls it, rank 0 holds the weights in its memory and writes.

    Tokenizer and generation settings are those of `source_folder`, where training began; BPE-dropout is off, and `template`, if
    not empty, is the chat template. Raises SeaLionError when what was written is not the trained model, Unfinished when it
    cannot be written, in every process; `folder` is then as it was.
    """
    batch = _probe(module.model.config.vocab_size)
    with torch.no_grad():
        expected_RT = module(batch.to(processes.device)).cpu()
    weights = _gathered(module, getattr(torch, dtype), processes.rank == 0)
    exported = Exported(architecture=type(module.model).__name__, parameters=parameters_of(module))

    def write() -> None:
        if processes.rank == 0:
            try:
                _publish(module, weights, source_folder, folder, dtype, template, batch, expected_RT)
            except (OSError, SafetensorError) as error:
                raise Unfinished(f"{folder}: the trained model cannot be written: {error}") from error

    processes.together(write)
    return exported


def parameters_of(model: Any) -> int:
    """Number of distinct parameters: a tied weight counts once."""
    return sum(parameter.numel() for parameter in model.parameters())


def _probe(vocabulary: int) -> Batch:
    """Two rows of fixed tokens, each of which has a label."""
    ids = np.random.default_rng(0).integers(0, vocabulary, (2, 33))
    nothing = np.zeros((2, 32), np.int64)
    return batch_of(ids[:, :-1].copy(), ids[:, 1:].copy(), nothing, nothing.astype(np.bool_))


def _gathered(module: LogProbabilities, dtype: torch.dtype, is_kept: bool) -> dict[str, Tensor]:
    """The whole weights on the host where they are kept, brought together one by one."""
    whole: dict[str, Tensor] = {}
    for name, weight in weights_of(module).items():
        full = weight.full_tensor() if isinstance(weight, DTensor) else weight
        if is_kept:  # copied: what was brought together may be a view of more, which safetensors does not write
            whole[name] = torch.empty_like(full, dtype=dtype if full.is_floating_point() else None, device="cpu").copy_(full)
    return whole


def _publish(
    module: LogProbabilities,
    weights: dict[str, Tensor],
    source: Path,
    folder: Path,
    dtype: str,
    template: str,
    batch: Batch,
    expected_RT: Tensor,
) -> None:
    """Write the model beside `folder`'s files, check it there, then move it in."""
    partial = folder / "export.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        config = deepcopy(module.model.config)
        config.architectures, config.dtype = [type(module.model).__name__], dtype
        if (source / "generation_config.json").is_file():
            shutil.copyfile(source / "generation_config.json", partial / "generation_config.json")
        _write(weights, config, source, partial, template)
        is_exact = dtype == "float32" and module.precision == "fp32"
        _check_model(partial, weights, batch, expected_RT, is_exact)
        _check_tokenizer(partial, config.vocab_size, template)
        for stale in folder.glob("model*.safetensors*"):
            stale.unlink()
        for path in sorted(partial.iterdir()):
            os.replace(path, folder / path.name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write(weights: dict[str, Tensor], config: Any, tokenizer_folder: Path, folder: Path, template: str = "") -> None:
    """Weights, of which a large model's are several files, configuration and tokenizer."""
    from huggingface_hub import save_torch_state_dict

    save_torch_state_dict(weights, folder, max_shard_size=SHARD)
    config.save_pretrained(folder)
    copy_tokenizer(tokenizer_folder, folder)
    if template:
        (folder / "chat_template.jinja").write_text(template, "utf-8")


def _check_model(folder: Path, weights: dict[str, Tensor], batch: Batch, expected_RT: Tensor, is_exact: bool) -> None:
    """Raise SeaLionError unless transformers reads these weights, to the bit, and computes what training computed."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging as messages

    quiet: Any = messages.disable_progress_bar
    quiet()
    if not expected_RT.isfinite().all():
        raise SeaLionError(f"{folder.parent}: the trained model gives log-probabilities that are not finite")
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=next(iter(weights.values())).dtype)
    state = model.state_dict()
    for name, weight in weights.items():
        if name not in state or not torch.equal(state[name], weight):
            raise SeaLionError(f"{folder.parent}: weight {name} of the export does not read back as it was trained")
    with torch.no_grad():
        logits_RTV = model(input_ids=batch.input_ids_RT, use_cache=False).logits.float()
    logp_RT = logits_RTV.log_softmax(-1).gather(2, batch.labels_RT[..., None]).squeeze(2)
    difference_RT = (logp_RT - expected_RT).abs()
    largest, share = float(difference_RT.max()), float(difference_RT.mean() / expected_RT.std())
    if not (largest <= EXACT if is_exact else share <= ROUNDED):
        raise SeaLionError(
            f"{folder.parent}: the export is not the trained model: its log-probabilities differ by up to {largest:.2g}"
            f", on average by {share:.1%} of their standard deviation"
        )


def _check_tokenizer(folder: Path, vocabulary: int, template: str) -> None:
    """Raise SeaLionError unless the tokenizer loads, is not random, fits the model and holds the template."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    if json.loads((folder / "tokenizer.json").read_text("utf-8"))["model"].get("dropout"):
        raise SeaLionError(f"{folder.parent}: the exported tokenizer has BPE-dropout")
    if len(tokenizer) > vocabulary:
        raise SeaLionError(f"{folder.parent}: the tokenizer has {len(tokenizer)} tokens and the model's embedding {vocabulary}")
    if template and tokenizer.chat_template != template:
        raise SeaLionError(f"{folder.parent}: the exported chat template is not the one that was trained with")
