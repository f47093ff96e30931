"""What every source of training data gives: batches that are a pure function of a plan and a step.

The state of the data is therefore one whole number, and any number of processes sees the same batches. A loader with workers
and buffers was refused: it has a state that must be saved, and loses it when the number of processes changes.

Documents lie end to end in a row and are kept apart by position ids that start anew with each and by `Documents`, from which
attention takes their ends; no mask is ever built. Shapes: R rows, T tokens a row, N positions in the loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

IGNORED = -100
BLANK = -1
"""In place of an example: rows that fill up a process' share and are in no loss."""

Integers = npt.NDArray[np.int64]


class Part(NamedTuple):
    """What losses and tokens are reported for."""

    part: str
    """Part of the mixture, `sea`; empty for conversations."""
    corpus: str
    """Reference of the corpus, or of the conversations."""
    language: str
    """ISO 639-3, or `code`."""
    source: str
    """The corpus' source; empty for conversations."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Documents:
    """Where the documents of a batch end, its rows laid end to end: what attention needs to keep them apart."""

    ends: tuple[int, ...]
    """End of each document in tokens, on the host; the last is R * T. What fills up a row is a document too."""
    offsets: Tensor
    """(documents + 1,) int32: 0, then `ends`; on the device of the batch."""
    longest: int
    """Tokens of the longest document."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """The rows of one forward pass."""

    input_ids_RT: Tensor
    position_ids_RT: Tensor
    """0 at the first token of each document."""
    labels_RT: Tensor
    """The next token, `IGNORED` where it is not in the loss."""
    parts_RT: Tensor
    """Number (int64) of the `Part` of each label; any where there is none."""
    trained_N: Tensor
    """Flat positions of the labels in the loss, ascending: made on the host, so that the device need not look for them."""
    documents: Documents

    def to(self, device: str) -> Batch:
        """The same batch on a device; copies from pinned memory do not wait."""
        if device == "cpu":
            return self
        names = ("input_ids_RT", "position_ids_RT", "labels_RT", "parts_RT", "trained_N")
        moved = {name: getattr(self, name).to(device, non_blocking=True) for name in names}
        documents = replace(self.documents, offsets=self.documents.offsets.to(device, non_blocking=True))
        return replace(self, documents=documents, **moved)


class Plan(Protocol):
    """The examples of a run in their order; an example is a packed sequence or a pair, named by a whole number."""

    @property
    def steps(self) -> int:
        """Optimizer steps, 1 to `steps`."""
        ...

    @property
    def parts(self) -> tuple[Part, ...]:
        """What `Batch.parts_RT` numbers."""
        ...

    def examples(self, step: int) -> Integers:
        """The examples of step `step` over all processes; empty where the recipe skips the step."""
        ...

    def units(self, examples: Integers) -> int:
        """The divisor of a step's loss: labels in the loss, or pairs."""
        ...

    def collate(self, examples: Sequence[int]) -> Batch:
        """The rows of some examples, `BLANK` allowed; on the host."""
        ...

    def digest(self, step: int) -> str:
        """Hex digest of all that decides the batches of steps 1 to `step`; a checkpoint of another one is not resumed from."""
        ...


def batch_of(
    input_ids: npt.NDArray[np.int64], labels: npt.NDArray[np.int64], parts: npt.NDArray[np.int64], starts: npt.NDArray[np.bool_]
) -> Batch:
    """A batch from arrays of shape (R, T); `starts` says where documents begin, the first token of a row always does."""
    starts = starts.copy()
    starts[:, 0] = True
    first = np.flatnonzero(starts)
    ends = np.append(first[1:], starts.size)
    place = np.arange(starts.size)
    positions = place - np.repeat(first, ends - first)
    return Batch(
        input_ids_RT=torch.from_numpy(np.ascontiguousarray(input_ids)),
        position_ids_RT=torch.from_numpy(positions.reshape(starts.shape)),
        labels_RT=torch.from_numpy(np.ascontiguousarray(labels)),
        parts_RT=torch.from_numpy(np.ascontiguousarray(parts)),
        trained_N=torch.from_numpy(np.flatnonzero(labels != IGNORED)),
        documents=Documents(
            ends=tuple(ends.tolist()),
            offsets=torch.from_numpy(np.concatenate([[0], ends]).astype(np.int32)),
            longest=int((ends - first).max()),
        ),
    )


def shares(examples: Integers, rank: int, world: int, micro_batch: int) -> list[list[int]]:
    """A process' examples of a step, in micro-batches; every process gets as many, of the same size, filled up with `BLANK`."""
    share = -(-len(examples) // world)
    mine = [int(example) for example in examples[rank::world]]
    mine += [BLANK] * (share - len(mine))
    size = micro_batch or share
    return [mine[start : start + size] for start in range(0, share, size)]
