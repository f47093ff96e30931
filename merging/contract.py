"""What the streaming engine's parts hand each other.

A tensor is never whole in memory. It is read in chunks of its flattened elements, from the lowest to the highest, each model's
part of a chunk converted to float32: `base_C` of the base, `deltas_PC` the parents' differences from it. Shape suffixes: C the
elements of a chunk, P parents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """Where a tensor lies in a safetensors file."""

    file: Path
    """The file."""
    offset: int
    """Of the first byte, from the file's start."""
    dtype: torch.dtype
    """As stored."""
    shape: tuple[int, ...]
    """As stored; () is a single number."""

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return torch.Size(self.shape).numel()


class Source(Protocol):
    """The weights of one model, read in place: a checkpoint's files, or those under a LoRA adapter."""

    @property
    def tensors(self) -> Mapping[str, Stored]:
        """By name; for an adapted tensor where the tensor under the adapter lies."""
        ...

    def read(self, name: str, start: int, out_C: torch.Tensor) -> None:
        """Fill `out_C` (float32) with the tensor's elements from number `start` on; any thread may call."""
        ...


class Pruner(Protocol):
    """Takes away a share of one parent's difference, in one tensor.

    First the engine shows it the whole difference `passes` times, chunk by chunk in order (parent after parent, so that random
    numbers are drawn in the parents' order); then it gives it the chunks once more, in order, to prune.
    """

    passes: int
    """How often it must see the difference first."""

    def look(self, number: int, delta_C: torch.Tensor) -> None:
        """See the next chunk of pass `number`, from 0; leaves it as it is."""
        ...

    def prune(self, delta_C: torch.Tensor) -> None:
        """Prune the next chunk in place."""
        ...


class Meter(Protocol):
    """Takes down what a merge does to one tensor: for each chunk once, in order, what follows, from the base to the merged.

    All it is given is float32 and must be left as it is.
    """

    def see_base(self, base_C: torch.Tensor) -> None:
        """The base in a chunk."""
        ...

    def see_deltas(self, deltas_PC: torch.Tensor) -> None:
        """The parents' differences from the base in a chunk, before pruning and weighing."""
        ...

    def see_chosen(self, chosen_PC: torch.Tensor) -> None:
        """Which of them count (1) in a chunk, or not (0): what pruning left and the elected sign or the consensus lets through.
        Not called by methods that choose nothing."""
        ...

    def see_merged(self, merged_C: torch.Tensor) -> None:
        """The difference from the base that the merged model has in that chunk."""
        ...

    def state(self) -> dict[str, Any]:
        """What it has taken down so far, as JSON has it, to go on from after an interruption."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave; raises ValueError for anything else."""
        ...


class Pruning(Protocol):
    """Makes the pruners of a tensor."""

    def __call__(self, shape: Sequence[int]) -> Sequence[Pruner | None]:
        """One for each parent, None for a density of 1; they share the tensor's random numbers."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class MergedTensor:
    """One tensor of the result."""

    name: str
    """Of the tensor."""
    file: str
    """Name of the safetensors file that holds it."""
    dtype: str
    """As safetensors writes it: F32, BF16, F16."""
    shape: tuple[int, ...]
    """Of the tensor."""
    xxh3_128: str
    """XXH3-128 of its little-endian bytes, hexadecimal; the file's sha256 is in the record."""
