"""What a merge needs: bytes to read and write, memory, time.

Memory: each thread of the streaming engine holds two chunks a parent and four more in float32; beside them stands what Python
and the libraries take, and under pruning the masks that wait. mergekit holds a tensor of every model, and what it computes of
them, in float32, so that the largest tensor decides; how many copies was measured (1.24B parameters, mergekit 0.1.5: `linear`
of two models 4.5 GB, `della_linear` 9.0 and `dare_ties` 12.5 of base and two, `consensus_ta` 7.6 of base and three). Time is
that of measured speeds, never a promise: a cold disk, or one that other programs use, takes longer. GB are 1e9 bytes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from .chunks import chunk_size
from .contract import Stored
from .pruning import MASK_BYTES, prunings
from .recipe import PRUNING, MergeRecipe
from .streaming import planned_shards

GB = 1e9
THREADS = 2
SHARD_BYTES = 5_000_000_000
PROCESS = 0.44 * GB
"""What Python, torch, transformers and the catalog's libraries take beside the chunks (whole merges peaked at 0.45)."""
SINGLE_CHUNKS = 4
"""A thread's chunks beside those of the parents: base, sum, one to work in, and the result with what was read."""
WHERE = "estimated from runs on two shared cores, warm cache"
STREAMED = {"linear": 1.1, "task_arithmetic": 2.2, "dare_linear": 2.2, "della_linear": 2.2, "consensus_ta": 1.6}
STREAMED_SIGNS = 1.7
"""GB read and written a second by two threads with figures, this for methods that elect a sign. Measured were `linear`,
`della_linear`, `dare_ties` and `consensus_ta` at density 1; others are taken to be as fast as the most similar one."""
MERGEKIT = {"linear": 0.6, "della_linear": 0.44, "dare_ties": 0.17, "consensus_ta": 0.18}
MERGEKIT_OTHERS = 0.17
"""The same of mergekit 0.1.5: measured for those four; the others are taken to be about as slow as the slowest of them."""
AUDIT = 1.2
"""GB a second of one thread that digests files (sha256 takes nearly all of it); threads add up while cores do."""


def threads(workers: int = 1) -> int:
    """Threads of the audit and of the streaming engine: the workers asked for, else the cores, four at most."""
    return workers if workers > 1 else min(4, os.cpu_count() or 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What a merge needs."""

    audited: int
    """Bytes read once before the merge, for digests and to find NaN."""
    read: int
    """Bytes of weights that the merge then reads."""
    written: int
    """Bytes of the result's weights."""
    shards: int
    """Files that they are in."""
    memory: float
    """Bytes at the peak."""
    memory_formula: str
    """How that comes about."""
    seconds: float
    """Of audit and merge."""
    speeds: str
    """By which speeds."""


class Placed:
    """Tensors without data, as a `Source` for whoever asks only where they lie."""

    def __init__(self, tensors: Mapping[str, Stored]) -> None:
        self.tensors = tensors

    def read(self, name: str, start: int, out_C: torch.Tensor) -> None:
        """There is nothing to read."""
        raise ValueError(f"{name} has no data")


def costs_of(
    recipe: MergeRecipe,
    result: Mapping[str, Stored],
    models: Mapping[str, Mapping[str, Stored]],
    *,
    held: int = 0,
    threads: int = THREADS,
    shard_bytes: int = SHARD_BYTES,
) -> Costs:
    """What it takes to merge the different `models`, by name and the base first, into the base's tensors `result`.

    `held` are the bytes of adapters.
    """
    shards = planned_shards(recipe, Placed(result), shard_bytes)
    written = sum(shard.size - len(shard.header) for shard in shards)
    places = {(stored.file, stored.offset): stored for tensors in models.values() for stored in tensors.values()}
    audited = size_of(places.values()) + held  # an adapter's model may be there by itself too
    read = _read(recipe, result, list(models.values()))
    memory, formula = _memory(recipe, result, held, threads)
    speed = _speed(recipe)
    return Costs(
        audited=audited,
        read=read,
        written=written,
        shards=len(shards),
        memory=memory,
        memory_formula=formula,
        seconds=audited / GB / (AUDIT * threads) + (read + written) / GB / speed,
        speeds=f"audit {AUDIT * threads:g} GB/s, merge {speed:g} GB/s, {WHERE}",
    )


def size_of(tensors: Iterable[Stored]) -> int:
    """Bytes of stored tensors."""
    return sum(stored.elements * stored.dtype.itemsize for stored in tensors)


def _read(recipe: MergeRecipe, result: Mapping[str, Stored], models: Sequence[Mapping[str, Stored]]) -> int:
    """Bytes of the weights that a merge reads: base and parents once, and both again for each look before pruning."""
    base = size_of(result.values())
    other = max((size_of(tensors[name] for name in result if name in tensors) for tensors in models[1:]), default=base)
    is_pruned = recipe.engine == "streaming" and any(parent.density < 1 for parent in recipe.parents)
    looks = sum(pruner.passes for pruner in prunings(recipe)((8, 8)) if pruner) if is_pruned else 0
    return base + len(recipe.parents) * other + looks * (base + other)


def _memory(recipe: MergeRecipe, result: Mapping[str, Stored], held: int, threads: int) -> tuple[float, str]:
    parents, largest = len(recipe.parents), max((stored.elements for stored in result.values()), default=0)
    process = f"{PROCESS / GB:g} GB of Python and its libraries"
    if recipe.engine == "mergekit":
        copies = _copies(recipe.method, parents)
        said = f"about {copies} copies in float32 of the largest tensor ({largest:,} numbers) + {process}"
        return PROCESS + copies * largest * 4, said
    chunk = max((min(stored.elements, chunk_size(recipe, stored.shape)) for stored in result.values()), default=0)
    chunks = SINGLE_CHUNKS + 2 * parents
    said = f"{process} + {threads} threads x {chunks} chunks x {chunk:,} numbers x 4 bytes"
    masks = MASK_BYTES if PRUNING.get(recipe.method) and any(parent.density < 1 for parent in recipe.parents) else 0
    said += f" + at most {masks / GB:.2g} GB of masks" if masks else ""
    said += f" + {2 * held / GB:.2g} GB of adapters" if held else ""
    return PROCESS + threads * chunks * chunk * 4 + masks + 2 * held, said


def _copies(method: str, parents: int) -> int:
    """Of the largest tensor in float32 that mergekit holds at a time."""
    if method == "linear":
        return 2 * parents
    if method == "consensus_ta":
        return parents + 4
    elects = method in ("ties", "dare_ties", "della", "breadcrumbs_ties", "sce")
    return 1 + parents + (4 if elects else 2) * parents + 1


def _speed(recipe: MergeRecipe) -> float:
    if recipe.engine == "mergekit":
        return MERGEKIT.get(recipe.method, MERGEKIT_OTHERS)
    return STREAMED.get(recipe.method, STREAMED_SIGNS)
