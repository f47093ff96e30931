"""Synthetic checkpoints for `merging.py`: Llama's tensors, random, in sharded safetensors, as artifacts of a catalog.

The base is normal with a standard deviation of 0.02 in bfloat16; a parent is the base plus noise so small that a difference is
a few units in the last place, or, as for most weights of a real fine-tune, zero. Written chunk by chunk: generating 8 GB takes
less than a hundred megabytes.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from sea_lion.catalog.records import Checkpoint
from sea_lion.catalog.store import Job, Made, Options, Store
from sea_lion.training.recipe import InitRecipe

CHUNK = 1 << 22
"""Elements that are drawn at a time."""
DEVIATION, NOISE = 0.02, 5e-5
"""Standard deviation of the base, and of what a parent adds before it is rounded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """A Llama with tied embeddings."""

    vocabulary: int
    hidden: int
    layers: int
    intermediate: int
    heads: int
    key_value_heads: int
    shard_bytes: int
    """Largest file of weights."""

    @property
    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Name to shape, in transformers' order."""
        of_keys = self.hidden // self.heads * self.key_value_heads
        layer: dict[str, tuple[int, ...]] = {
            "self_attn.q_proj": (self.hidden, self.hidden),
            "self_attn.k_proj": (of_keys, self.hidden),
            "self_attn.v_proj": (of_keys, self.hidden),
            "self_attn.o_proj": (self.hidden, self.hidden),
            "mlp.gate_proj": (self.intermediate, self.hidden),
            "mlp.up_proj": (self.intermediate, self.hidden),
            "mlp.down_proj": (self.hidden, self.intermediate),
            "input_layernorm": (self.hidden,),
            "post_attention_layernorm": (self.hidden,),
        }
        layers = {f"model.layers.{i}.{name}.weight": shape for i in range(self.layers) for name, shape in layer.items()}
        return {"model.embed_tokens.weight": (self.vocabulary, self.hidden), **layers, "model.norm.weight": (self.hidden,)}

    @property
    def parameters(self) -> int:
        """Numbers in the model."""
        return sum(math.prod(shape) for shape in self.tensors.values())


SIZES = {
    "tiny": Size(vocabulary=256, hidden=64, layers=1, intermediate=128, heads=4, key_value_heads=2, shard_bytes=50_000),
    "small": Size(
        vocabulary=2048, hidden=256, layers=4, intermediate=1024, heads=4, key_value_heads=2, shard_bytes=4_000_000
    ),
    "1b": Size(
        vocabulary=128_256, hidden=2048, layers=16, intermediate=8192, heads=32, key_value_heads=8, shard_bytes=1_000_000_000
    ),
    "4b": Size(
        vocabulary=128_256, hidden=3072, layers=36, intermediate=8192, heads=24, key_value_heads=8, shard_bytes=2_000_000_000
    ),
}  # fmt: skip
"""`1b` has the shapes of Llama-3.2-1B (1.24 billion parameters), `4b` those of Llama-3.2-3B with 36 layers (4.02 billion)."""


def make_models(store: Store, size: Size, parents: int) -> list[str]:
    """References of the base and of the parents, made unless they are there."""
    return [
        str(store.make(_recipe(size, number), store.root, partial(_write, size, number), Options()).ref)
        for number in range(parents + 1)
    ]


def _recipe(size: Size, number: int) -> InitRecipe:
    return InitRecipe(
        kind="init", name=f"checkpoint/{f'parent-{number}' if number else 'base'}", version="1", licence="Apache-2.0",
        tokenizer="", architecture="llama", hidden_size=size.hidden, intermediate_size=size.intermediate, layers=size.layers,
        heads=size.heads, key_value_heads=size.key_value_heads, head_dim=size.hidden // size.heads, max_length=2048,
        seed=number,
    )  # fmt: skip


def _write(size: Size, number: int, job: Job[InitRecipe]) -> Made:
    """A store's maker of one model; 0 is the base."""
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": size.vocabulary, "dtype": "bfloat16",
        "hidden_size": size.hidden, "intermediate_size": size.intermediate, "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads, "num_key_value_heads": size.key_value_heads, "max_position_embeddings": 2048,
        "head_dim": size.hidden // size.heads, "hidden_act": "silu", "rms_norm_eps": 1e-5, "tie_word_embeddings": True,
        "bos_token_id": 0, "eos_token_id": 0, "rope_theta": 500_000.0,
    }  # fmt: skip
    (job.folder / "config.json").write_text(json.dumps(config, indent=2), "utf-8")
    _write_tokenizer(job.folder)
    shards = list(_shards(size))
    index: dict[str, str] = {}
    with ExitStack() as opened, ThreadPoolExecutor(2) as pool:
        tasks: list[Callable[[], None]] = []
        for place, tensors in enumerate(shards, 1):
            name = f"model-{place:05d}-of-{len(shards):05d}.safetensors"
            index |= dict.fromkeys(tensors, name)
            file = opened.enter_context((job.folder / name).open("wb", buffering=0))
            tasks += _drawing(file.fileno(), tensors, list(size.tensors), number)
        for task in [pool.submit(task) for task in tasks]:
            task.result()
    listed = {"metadata": {"total_size": 2 * size.parameters}, "weight_map": index}
    (job.folder / "model.safetensors.index.json").write_text(json.dumps(listed, indent=2), "utf-8")
    return Made(body=Checkpoint(stage="init", architecture="LlamaForCausalLM", parameters=size.parameters))


def _write_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({token: place for place, token in enumerate(["</s>", *alphabet])}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    wrap: Any = PreTrainedTokenizerFast
    wrap(tokenizer_object=tokenizer, eos_token="</s>").save_pretrained(folder)


def _shards(size: Size) -> Iterator[dict[str, tuple[int, ...]]]:
    """The tensors of each file."""
    shard: dict[str, tuple[int, ...]] = {}
    used = 0
    for name, shape in size.tensors.items():
        taken = 2 * math.prod(shape)
        if shard and used + taken > size.shard_bytes:
            yield shard
            shard, used = {}, 0
        shard[name] = shape
        used += taken
    yield shard


def _drawing(file: int, tensors: dict[str, tuple[int, ...]], names: list[str], number: int) -> Iterator[Callable[[], None]]:
    """Write a file's header; what is to be done for each chunk of its tensors."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in tensors.items():
        start, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    os.write(file, struct.pack("<Q", len(text)) + text)
    for name, shape in tensors.items():
        for start in range(0, count := math.prod(shape), CHUNK):
            offset = 8 + len(text) + header[name]["data_offsets"][0] + 2 * start
            seed = (names.index(name) << 16) + start // CHUNK  # torch takes its lowest 32 bits
            yield partial(_draw, file, offset, min(CHUNK, count - start), seed, number)


def _draw(file: int, offset: int, elements: int, seed: int, number: int) -> None:
    """One chunk of one model: the base's, with noise on it for a parent."""
    values = torch.randn(elements, generator=torch.Generator().manual_seed(seed)).mul_(DEVIATION).to(torch.bfloat16)
    if number:
        noise = torch.randn(elements, generator=torch.Generator().manual_seed(seed + (number << 25)))
        values = noise.mul_(NOISE).add_(values).to(torch.bfloat16)
    os.pwrite(file, values.view(torch.uint8).numpy().data, offset)
