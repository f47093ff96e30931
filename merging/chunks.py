"""One tensor's way through a merge: read, prune, combine, check, round; chunk by chunk.

A chunk has so many elements that what is worked on stays in the processor's cache and that Python's part of the time is small.
For DELLA it is whole rows, whose ranks it needs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch

from ..catalog.errors import SeaLionError
from .arithmetic import ALIGNMENT, Chunk, kernel
from .contract import Meter, Pruning, Source
from .layers import layer_of
from .pruning import prunings
from .recipe import PRUNING, MergeRecipe
from .weights import as_bytes

CHUNK = 131_072
"""Elements of a chunk, unless a row has more of them."""
VIEWS = 16
"""Sizes of chunks whose views a thread keeps."""
DTYPES_BY_RECIPE = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
T = TypeVar("T")


class Workspace:
    """A thread's memory for chunks, used again from tensor to tensor; it grows to the largest chunk."""

    def __init__(self) -> None:
        self._room: dict[tuple[str, torch.dtype], torch.Tensor] = {}
        self._views: dict[Any, Any] = {}

    def take(self, name: str, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Contiguous memory of a shape, holding anything; the same name and dtype give the same memory."""
        elements = math.prod(shape)
        room = self._room.get((name, dtype))
        if room is None or room.numel() < elements:
            self._views.clear()
            room = self._room[name, dtype] = torch.empty(elements, dtype=dtype)
        return room[:elements].view(shape)

    def chunk(self, parents: int, elements: int) -> Chunk:
        """Memory for a chunk of so many elements."""
        return self._view((parents, elements), lambda: self._chunk(parents, elements))

    def result(self, elements: int, dtype: torch.dtype) -> tuple[torch.Tensor, memoryview]:
        """Memory for a rounded chunk, as a tensor and as bytes."""

        def views() -> tuple[torch.Tensor, memoryview]:
            result_C = self.take("result", elements, dtype=dtype)
            return result_C, as_bytes(result_C)

        return self._view((dtype, elements), views)

    def _chunk(self, parents: int, elements: int) -> Chunk:
        deltas_PC = self.take("deltas", parents, elements)
        return Chunk(
            base_C=self.take("base", elements),
            deltas_PC=deltas_PC,
            rows=deltas_PC.unbind(),
            merged_C=self.take("merged", elements),
            spare_C=self.take("spare", elements),
            spare_PC=self.take("spares", parents, elements),
        )

    def _view(self, key: tuple[Any, int], make: Callable[[], T]) -> T:
        """Views are made once for each of a few sizes: making them takes longer than a small chunk's arithmetic."""
        view: T | None = self._views.get(key)
        if view is None:
            if len(self._views) >= VIEWS:
                self._views.clear()
            view = make()
            self._views[key] = view
        return view


class TensorMerge:
    """The merge of one tensor."""

    def __init__(
        self, recipe: MergeRecipe, base: Source, parents: Sequence[Source], name: str, *, layers: int, pruning: Pruning,
        meter: Meter | None = None,
    ) -> None:  # fmt: skip
        self.recipe, self.base, self.parents, self.name, self.meter = recipe, base, parents, name, meter
        self.stored = base.tensors[name]
        self.dtype = result_dtype(recipe, base, name)
        self.pruners = pruning(self.stored.shape)
        self.size = chunk_size(recipe, self.stored.shape)
        layer = layer_of(name)
        weights = [parent.weight_at(layer, layers) for parent in recipe.parents]
        self.kernel = kernel(recipe, weights, is_pruned=any(self.pruners))
        self.reads_base = self.kernel.takes_base or meter is not None

    def chunks(self, workspace: Workspace) -> Iterator[memoryview]:
        """The merged tensor's bytes, in order; each part is good until the next.

        Raises SeaLionError when it holds NaN or infinity.
        """
        for parent, pruner in zip(self.parents, self.pruners, strict=True):
            for number in range(pruner.passes if pruner else 0):
                assert pruner is not None
                for start, size in self._places():
                    pruner.look(number, self._difference(parent, workspace, start, size))
        for start, size in self._places():
            yield self._merged(workspace, start, size)

    def _places(self) -> Iterator[tuple[int, int]]:
        elements = self.stored.elements
        for start in range(0, elements, self.size):
            yield start, min(self.size, elements - start)

    def _difference(self, parent: Source, workspace: Workspace, start: int, size: int) -> torch.Tensor:
        base_C, delta_C = workspace.take("base", size), workspace.take("deltas", size)
        self.base.read(self.name, start, base_C)
        parent.read(self.name, start, delta_C)
        return delta_C.sub_(base_C)

    def _merged(self, workspace: Workspace, start: int, size: int) -> memoryview:
        chunk = workspace.chunk(len(self.parents), size)
        if self.reads_base:
            self.base.read(self.name, start, chunk.base_C)
        for parent, row_C in zip(self.parents, chunk.rows, strict=True):
            parent.read(self.name, start, row_C)
        if self.meter:
            self.meter.see_base(chunk.base_C)
        if self.kernel.takes_base:
            chunk.deltas_PC.sub_(chunk.base_C)
            if self.meter:
                self.meter.see_deltas(chunk.deltas_PC)
            for pruner, delta_C in zip(self.pruners, chunk.rows, strict=True):
                if pruner:
                    pruner.prune(delta_C)
        self.kernel(chunk, self.meter)
        result_C, view = workspace.result(size, self.dtype)
        result_C.copy_(chunk.base_C)
        if not math.isfinite(float(result_C.sum(dtype=torch.float32))):
            self._check(result_C, start)
        return view

    def _check(self, result_C: torch.Tensor, start: int) -> None:
        """A sum that is not finite may have overflowed: look at each element."""
        wrong = (~torch.isfinite(result_C)).nonzero()
        if len(wrong):
            place = start + int(wrong[0])
            raise SeaLionError(
                f"{self.recipe.ref}: {self.name} would hold {float(result_C[wrong[0]])} at element {place:,}: a model holds "
                f"NaN or infinity, or the result is too large for {str(self.dtype).removeprefix('torch.')}"
            )


def pruning_of(recipe: MergeRecipe) -> Pruning:
    """What makes the pruners of the tensors of one merge; nothing is drawn when all densities are 1."""
    if all(parent.density == 1 for parent in recipe.parents):
        return lambda shape: [None for _ in recipe.parents]
    return prunings(recipe)


def chunk_size(recipe: MergeRecipe, shape: Sequence[int]) -> int:
    """Elements of a chunk of a tensor: a multiple of its rows' length where ranks within rows count."""
    if PRUNING.get(recipe.method) != "rank" or all(parent.density == 1 for parent in recipe.parents):
        return CHUNK
    row = max(1, math.prod(shape[1:]) if len(shape) > 1 else math.prod(shape))
    step = math.lcm(row, ALIGNMENT)
    return CHUNK // step * step or CHUNK // row * row or row


def result_dtype(recipe: MergeRecipe, base: Source, name: str) -> torch.dtype:
    """The dtype of a tensor of the result."""
    return DTYPES_BY_RECIPE.get(recipe.dtype, base.tensors[name].dtype)
