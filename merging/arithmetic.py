"""The arithmetic of the streamed methods: one chunk of one tensor, float32, in place in memory that is used again for the next.

Each method is a kernel: called with a `Chunk` that holds the base and the parents' differences, it leaves the merged elements
in `base_C`. The order of the operations is mergekit's (Consensus-TA: that of `plugin.consensus`), so the results are equal bit
by bit; each place where that needs care says so. Masks are float32 factors 0 and 1: torch is several times slower on booleans.
The papers are named in `methods.METHODS`.

Shape suffixes: C elements of a chunk, P parents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from ..catalog.errors import SeaLionError
from .contract import Meter
from .recipe import MergeRecipe

ALIGNMENT = 64
"""Chunks begin at multiples of it: torch sums five rows and more in another order in the last few elements of a block."""
PLAIN_ROWS = 4
"""So many rows torch sums one after the other, wherever an element lies."""
LEAST_DIVISOR = 1e-8
"""A sum of weights nearer to zero does not divide."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A chunk and the memory to work on it."""

    base_C: torch.Tensor
    """The base's elements; the kernel leaves the merged ones there."""
    deltas_PC: torch.Tensor
    """The parents' differences from it, pruned (`linear`: the parents themselves); the kernel leaves anything there."""
    rows: tuple[torch.Tensor, ...]
    """The rows of `deltas_PC`; a view costs as much as the work on a small chunk."""
    merged_C: torch.Tensor
    """Free to use."""
    spare_C: torch.Tensor
    """Free to use."""
    spare_PC: torch.Tensor
    """Free to use."""


class Kernel(Protocol):
    """The arithmetic of one method with its weights."""

    takes_base: bool
    """Whether it works on differences from the base."""

    def __call__(self, chunk: Chunk, meter: Meter | None) -> None:
        """Merge a chunk."""
        ...


def kernel(recipe: MergeRecipe, weights: Sequence[float], *, is_pruned: bool) -> Kernel:
    """The recipe's method with the parents' weights in one tensor; `is_pruned`: in which a difference was pruned.

    Raises SeaLionError for weights that `linear` cannot divide by.
    """
    match recipe.method:
        case "linear":
            return Linear(recipe, weights)
        case "task_arithmetic" | "dare_linear" | "della_linear":
            return Summed(recipe, weights, is_pruned=is_pruned)
        case "ties" | "dare_ties" | "della":
            return Elected(recipe, weights, is_pruned=is_pruned)
        case "consensus_ta":
            return Consensus(recipe, weights)
    raise ValueError(f"{recipe.method} does not work element by element")


def summed(block_PC: torch.Tensor, rows: Sequence[torch.Tensor], out_C: torch.Tensor) -> None:
    """The sum over a block's rows with the bits of `block_PC.sum(dim=0)`, in half its time for the usual numbers of parents."""
    if len(rows) > PLAIN_ROWS:
        torch.sum(block_PC, dim=0, out=out_C)
        return
    if len(rows) == 1:
        torch.add(rows[0], 0.0, out=out_C)
        return
    torch.add(rows[0], rows[1], out=out_C)
    for row_C in rows[2:]:
        out_C.add_(row_C)
    out_C.add_(0.0)  # torch's sum begins with 0, and 0 + -0 is 0


class Linear:
    """The weighted sum of the parents themselves."""

    takes_base = False

    def __init__(self, recipe: MergeRecipe, weights: Sequence[float]) -> None:
        self.weights = torch.tensor(list(weights), dtype=torch.float32).unsqueeze(1).unbind()
        self.divisor = _total(weights)
        self.is_divided = bool(recipe.normalize) and float(self.divisor) != 1
        if recipe.normalize and float(self.divisor) == 0:
            raise SeaLionError(f"{recipe.ref}: the parents' weights sum to 0 and cannot be normalized; change one of them")

    def __call__(self, chunk: Chunk, meter: Meter | None) -> None:
        """Merge; the chunk's base is read by the meter only."""
        merged_C = chunk.merged_C.zero_()
        for model_C, weight in zip(chunk.rows, self.weights, strict=True):
            merged_C.addcmul_(model_C, weight)
        if self.is_divided:
            merged_C.div_(self.divisor)
        if meter:
            meter.see_deltas(torch.sub(chunk.deltas_PC, chunk.base_C, out=chunk.spare_PC))
            meter.see_merged(torch.sub(merged_C, chunk.base_C, out=chunk.spare_C))
        chunk.base_C.copy_(merged_C)


class Summed:
    """The weighted sum of the differences: task arithmetic, and DARE's and DELLA's linear forms."""

    takes_base = True

    def __init__(self, recipe: MergeRecipe, weights: Sequence[float], *, is_pruned: bool) -> None:
        self.weights = _factors(weights)
        total = _total(weights)
        self.divisor = total if recipe.normalize and float(total.abs()) >= LEAST_DIVISOR and float(total) != 1 else None
        self.scale = recipe.scale
        self.is_pruned = is_pruned

    def __call__(self, chunk: Chunk, meter: Meter | None) -> None:
        """Merge."""
        merged_C = chunk.merged_C
        if self.is_pruned and meter:
            meter.see_chosen(torch.ne(chunk.deltas_PC, 0.0, out=chunk.spare_PC))
        if self.weights is not None:
            chunk.deltas_PC.mul_(self.weights)
        summed(chunk.deltas_PC, chunk.rows, merged_C)
        if self.divisor is not None:
            merged_C.div_(self.divisor)
        _add(chunk, self.scale, meter)


class Elected:
    """TIES' sign election: of the weighted differences those count that have the sign of their sum.

    The differences are multiplied by the elected sign, +1 or -1, what is negative then becomes 0, and the sum is multiplied by
    the sign again; rounding is the same on both sides of zero, so the bits are those of summing the elected ones as they are.
    """

    takes_base = True

    def __init__(self, recipe: MergeRecipe, weights: Sequence[float], *, is_pruned: bool) -> None:
        self.weights = _factors(weights)
        self.divisor_weights = torch.tensor(list(weights), dtype=torch.float32).unsqueeze(1)
        self.is_divided = bool(recipe.normalize)
        self.scale = recipe.scale

    def __call__(self, chunk: Chunk, meter: Meter | None) -> None:
        """Merge."""
        deltas_PC, merged_C, sign_C = chunk.deltas_PC, chunk.merged_C, chunk.spare_C
        if self.weights is not None:
            deltas_PC.mul_(self.weights)
        summed(deltas_PC, chunk.rows, merged_C)
        torch.ge(merged_C, 0.0, out=sign_C).mul_(2.0).sub_(1.0)  # a sum of 0 elects the plus
        deltas_PC.mul_(sign_C).clamp_(min=0.0)
        summed(deltas_PC, chunk.rows, merged_C)
        merged_C.mul_(sign_C)
        if self.is_divided or meter:
            torch.gt(deltas_PC, 0.0, out=chunk.spare_PC)
            if meter:
                meter.see_chosen(chunk.spare_PC)
        if self.is_divided:
            self._divide(chunk)
        _add(chunk, self.scale, meter)

    def _divide(self, chunk: Chunk) -> None:
        """Divide by the weights of those that count; where they sum to 0, by 1."""
        divisor_C = chunk.spare_C
        if self.weights is not None:
            chunk.spare_PC.mul_(self.divisor_weights)
        summed(chunk.spare_PC, chunk.spare_PC.unbind(), divisor_C)
        is_zero_C = chunk.rows[0]
        torch.eq(divisor_C, 0.0, out=is_zero_C)
        chunk.merged_C.div_(divisor_C.add_(is_zero_C))


class Consensus:
    """Task arithmetic where at least `agreement` parents find an element important."""

    takes_base = True

    def __init__(self, recipe: MergeRecipe, weights: Sequence[float]) -> None:
        self.weights = [float(weight) for weight in weights]
        total = sum(self.weights)
        self.total = total if recipe.normalize and abs(total) >= LEAST_DIVISOR and total != 1 else None
        self.tall_lambda, self.agreement, self.scale = recipe.tall_lambda, recipe.agreement, recipe.scale

    def __call__(self, chunk: Chunk, meter: Meter | None) -> None:
        """Merge."""
        deltas_PC, merged_C, votes_C = chunk.deltas_PC, chunk.merged_C, chunk.spare_C
        merged_C.zero_()
        for delta_C, weight in zip(chunk.rows, self.weights, strict=True):
            merged_C.add_(delta_C if weight == 1 else torch.mul(delta_C, weight, out=votes_C))
        if self.total is not None:
            merged_C.div_(self.total)
        others_PC = torch.sub(merged_C, deltas_PC, out=chunk.spare_PC).abs_()
        if self.tall_lambda != 1:
            others_PC.mul_(self.tall_lambda)
        torch.gt(deltas_PC.abs_(), others_PC, out=deltas_PC)
        votes_C.copy_(chunk.rows[0])
        for important_C in chunk.rows[1:]:
            votes_C.add_(important_C)
        votes_C.ge_(self.agreement)
        merged_C.mul_(votes_C)
        if meter:
            meter.see_chosen(deltas_PC.mul_(votes_C))
        _add(chunk, self.scale, meter)


def _add(chunk: Chunk, scale: float, meter: Meter | None) -> None:
    if scale != 1:
        chunk.merged_C.mul_(scale)
    if meter:
        meter.see_merged(chunk.merged_C)
    chunk.base_C.add_(chunk.merged_C)


def _factors(weights: Sequence[float]) -> torch.Tensor | None:
    """The weights as a factor on the parents' rows; None when all are 1, which would change no bit."""
    if all(weight == 1 for weight in weights):
        return None
    return torch.tensor(list(weights), dtype=torch.float32).unsqueeze(1)


def _total(weights: Sequence[float]) -> torch.Tensor:
    return torch.tensor(list(weights), dtype=torch.float32).unsqueeze(1).sum(dim=0)
