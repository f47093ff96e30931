"""A LoRA adapter as a parent: the weights of the model under it with what it adds, made chunk by chunk as they are read.

Merging the adapter first and the model then would write a whole model to the disk only to read it again. The product `B @ A`
is taken for blocks of rows at fixed places, whatever chunk asks for them, so that the same element has the same bits in every
chunk. What an adapter may hold, and what is refused, is in `catalog.adapters`. Shape suffixes: C the elements of a chunk, N and
M rows and columns of a weight as it is stored, K the rank.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from ..catalog.adapters import Adapter, Change, adapted, check_fit, read_adapter, tied_head
from ..catalog.errors import CorruptInput
from ..catalog.records import Artifact
from ..catalog.store import Store
from .contract import Source, Stored
from .weights import Weights

BLOCK = 2**16
"""Elements of a block of rows, about; at least one row is made at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LowRank:
    """`scaling * left_NK @ right_KM`, float32."""

    left_NK: torch.Tensor
    right_KM: torch.Tensor
    scaling: float

    def add(self, start: int, out_C: torch.Tensor) -> None:
        """Add the product's elements from number `start` on to `out_C`."""
        columns, end = self.right_KM.shape[1], start + len(out_C)
        rows = max(1, BLOCK // columns)
        for row in range(start // columns // rows * rows, -(-end // columns), rows):
            block_C = (self.left_NK[row : row + rows] @ self.right_KM).mul_(self.scaling).view(-1)
            begin = row * columns
            low, high = max(start, begin), min(end, begin + len(block_C))
            out_C[low - start : high - start] += block_C[low - begin : high - begin]


class AdaptedWeights:
    """A `Source`: the model under a LoRA adapter with the adapter merged in, in float32.

    Raises CorruptInput for an adapter that peft would read otherwise, or that does not fit the model; `is_tied` says that the
    model's head is its embedding (default: when it stores no head). The pairs are held in memory; tensors that stand in
    place of the model's are read where they lie.
    """

    def __init__(self, under: Source, folder: Path, *, is_tied: bool | None = None) -> None:
        self.under = under
        self.tensors: Mapping[str, Stored] = under.tensors
        self.adapter = read_adapter(folder)
        shapes = {name: stored.shape for name, stored in under.tensors.items()}
        check_fit(self.adapter, shapes, is_tied=tied_head({}, shapes) if is_tied is None else is_tied)
        self._file: Any = safe_open(self.adapter.file, framework="pt")
        self._pairs = {
            name: low_rank(self.adapter, change, self._file) for name, change in self.adapter.changes.items() if change.a
        }

    def read(self, name: str, start: int, out_C: torch.Tensor) -> None:
        """Fill `out_C` with the adapted tensor's elements from number `start` on."""
        change = self.adapter.changes.get(name)
        if change is not None and change.replaced:
            self._read_replaced(change.replaced, start, out_C)
        else:
            self.under.read(name, start, out_C)
        if name in self._pairs:
            self._pairs[name].add(start, out_C)

    def close(self) -> None:
        """Close the files, those of the model under it too."""
        self._file = None
        if isinstance(self.under, AdaptedWeights | Weights):
            self.under.close()

    def _read_replaced(self, name: str, start: int, out_C: torch.Tensor) -> None:
        shape = self.adapter.shapes[name]
        width = torch.Size(shape[1:]).numel()
        first, end = start // width, start + len(out_C)
        part = self._file.get_slice(name)[first : -(-end // width)] if shape else self._file.get_tensor(name)
        out_C.copy_(part.reshape(-1)[start - first * width : end - first * width])


def low_rank(adapter: Adapter, change: Change, file: Any) -> LowRank:
    """A pair of an opened adapter, turned as the model stores the weight; raises CorruptInput for NaN and overflow."""
    a_KM, b_NK = (file.get_tensor(name).float() for name in (change.a, change.b))
    for name, tensor in ((change.a, a_KM), (change.b, b_NK)):
        bad = int((~torch.isfinite(tensor)).sum())
        if bad:
            raise CorruptInput(adapter.file, name, f"{bad:,} of {tensor.numel():,} elements are NaN or infinite")
    largest = [float(tensor.abs().max()) if tensor.numel() else 0.0 for tensor in (a_KM, b_NK)]
    if largest[0] * largest[1] * a_KM.shape[0] * max(1.0, abs(change.scaling)) > torch.finfo(torch.float32).max:
        raise CorruptInput(
            adapter.file, change.a, f"and its lora_B are so large ({largest[0]:g}, {largest[1]:g}) that they may overflow"
        )
    left_NK, right_KM = (a_KM.T, b_NK.T) if change.is_transposed else (b_NK, a_KM)
    return LowRank(left_NK=left_NK.contiguous(), right_KM=right_KM.contiguous(), scaling=change.scaling)


def source_of(store: Store, artifact: Artifact) -> Source:
    """The weights of a checkpoint: its own files, or those of the model under it with one adapter after another added."""
    whole, *adapters = adapted(store, artifact)
    folder = store.folder(whole.ref)
    source: Source = Weights(folder)
    if adapters:
        is_tied = tied_head(json.loads((folder / "config.json").read_text("utf-8")), source.tensors.keys())
        for each in adapters:
            source = AdaptedWeights(source, store.folder(each.ref), is_tied=is_tied)
    return source


def tokenizer_folder(store: Store, artifact: Artifact) -> Path:
    """Where a checkpoint's tokenizer lies: an adapter may bring its own, else it is that of the model under it."""
    folders = [store.folder(each.ref) for each in reversed(adapted(store, artifact))]
    return next((folder for folder in folders if (folder / "tokenizer.json").is_file()), folders[-1])
