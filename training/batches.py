"""What a run trains on, and in which order: packing, the index plan, and the tensors of a batch.

Every batch is a pure function of (plan, step), so the state of the data is one whole number and any number of processes sees
the same batches. A loader with workers and buffers was refused: it has a state that must be saved, and loses it when the
number of processes changes.

Documents are packed end to end and kept apart by position ids that start anew with each; the models see no attention mask at
all, because transformers finds the documents from the positions only where the mask is None. Shapes: R rows, T tokens a row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .vocabulary import seed_of

IGNORED = -100
BLANK = -1
"""In place of an example: rows that fill up a process' share and are in no loss."""

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """The rows of one forward pass."""

    input_ids_RT: Tensor
    position_ids_RT: Tensor
    """0 at the first token of each document."""
    labels_RT: Tensor
    """The next token, `IGNORED` where it is not in the loss."""

    def to(self, device: str) -> Batch:
        """The same batch on a device."""
        return Batch(
            input_ids_RT=self.input_ids_RT.to(device),
            position_ids_RT=self.position_ids_RT.to(device),
            labels_RT=self.labels_RT.to(device),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The examples of a run and the order in which they are trained on; an example is a sequence, a conversation or a pair."""

    order: Integers
    """Example of each place of the run; an optimizer step takes the next `batch_sequences` places."""
    tokens: Integers
    """Tokens of each example that are in the loss."""
    units: Integers
    """What each example adds to the divisor of a step's loss: its tokens, or 1 for a pair."""
    collate: Callable[[Sequence[int]], Batch]
    """The rows of some examples, `BLANK` allowed."""
    digest: str
    """Hex digest of order and content."""
    parts: tuple[dict[str, Any], ...] = ()
    """Rows of the table `training_parts`."""

    def steps(self, batch_sequences: int) -> int:
        """Optimizer steps; the last may be smaller."""
        return -(-len(self.order) // batch_sequences)

    def step_examples(self, step: int, batch_sequences: int) -> Integers:
        """The examples of step `step` (from 1)."""
        return self.order[(step - 1) * batch_sequences : step * batch_sequences]


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """Sequences cut from documents laid end to end."""

    tokens: npt.NDArray[np.int32]
    """(sequences, length + 1): the last token of a row is only a label, and the first of the next row."""
    starts: npt.NDArray[np.bool_]
    """Same shape: whether the token is the first of its document."""
    documents: int
    """Documents taken, repeated ones counted each time."""


def generator(*key: int | str) -> np.random.Generator:
    """A random generator for one purpose, named by its key."""
    return np.random.Generator(np.random.PCG64(seed_of(*key)))


def pack(documents: Iterable[Sequence[int]], sequences: int, length: int) -> Packed:
    """Cut `sequences` sequences of `length` tokens (and one label more) from documents laid end to end.

    No token is lost or repeated between sequences; what is left of the last document is not used. Raises ValueError when the
    documents end too early.
    """
    if sequences == 0:
        return Packed(tokens=np.empty((0, length + 1), np.int32), starts=np.empty((0, length + 1), np.bool_), documents=0)
    wanted = sequences * length + 1
    tokens, starts = np.empty(wanted, np.int32), np.zeros(wanted, np.bool_)
    filled = count = 0
    for document in documents:
        taken = min(len(document), wanted - filled)
        if taken:
            tokens[filled : filled + taken] = document[:taken]
            starts[filled] = True
            filled, count = filled + taken, count + 1
        if filled == wanted:
            break
    if filled < wanted:
        raise ValueError(f"the documents hold {filled} tokens, {wanted} are needed")
    return Packed(tokens=_windows(tokens, length), starts=_windows(starts, length), documents=count)


def _windows(stream: npt.NDArray[Any], length: int) -> npt.NDArray[Any]:
    return np.lib.stride_tricks.sliding_window_view(stream, length + 1)[::length]


def interleaved(counts: Sequence[int], seed: int) -> Integers:
    """The order in which the sequences of several parts are taken: examples numbered part after part.

    Each part is spread evenly over the run (its j-th sequence falls at random into the j-th of its equal slots) and keeps the
    order of its own sequences.
    """
    draw = generator(seed, "interleave")
    times = [(np.arange(count) + draw.random(count)) / max(count, 1) for count in counts]
    return np.argsort(np.concatenate(times), kind="stable").astype(np.int64) if times else np.empty(0, np.int64)


def repeated(examples: int, epochs: float, seed: int) -> Integers:
    """`epochs` passes over some examples, each in a new order; a broken last pass takes the first of its order."""
    total = round(examples * epochs)
    passes = [generator(seed, "examples", epoch).permutation(examples) for epoch in range(-(-total // max(examples, 1)))]
    return np.concatenate(passes)[:total].astype(np.int64) if passes else np.empty(0, np.int64)


def packed_labels(packed: Packed) -> npt.NDArray[np.int32]:
    """(sequences, length): the next token, `IGNORED` where that is the first of another document."""
    return np.where(packed.starts[:, 1:], IGNORED, packed.tokens[:, 1:]).astype(np.int32)


def packed_positions(starts: npt.NDArray[np.bool_]) -> Integers:
    """(sequences, length): position in the document, counted from the row's start where the document began before it."""
    place = np.arange(starts.shape[1] - 1)
    began = np.where(starts[:, :-1], place, 0)
    return np.asarray(place - np.maximum.accumulate(began, axis=1), dtype=np.int64)


def packed_collate(packed: Packed) -> Callable[[Sequence[int]], Batch]:
    """The collate function of packed sequences."""

    def collate(examples: Sequence[int]) -> Batch:
        index = np.maximum(np.asarray(examples), 0)
        rows = Packed(tokens=packed.tokens[index], starts=packed.starts[index], documents=0)
        labels = packed_labels(rows)
        labels[np.asarray(examples) == BLANK] = IGNORED
        return Batch(
            input_ids_RT=torch.from_numpy(rows.tokens[:, :-1].astype(np.int64)),
            position_ids_RT=torch.from_numpy(packed_positions(rows.starts)),
            labels_RT=torch.from_numpy(labels.astype(np.int64)),
        )

    return collate


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One conversation as tokens."""

    tokens: list[int]
    mask: list[int]
    """1 where the token is in the loss; the first never is, nothing predicts it."""

    @property
    def trained(self) -> int:
        """Tokens in the loss."""
        return sum(self.mask[1:])


def padded_collate(examples: Sequence[Sequence[Row]], padding: int) -> Callable[[Sequence[int]], Batch]:
    """The collate function of conversations (one row an example) and pairs (two: chosen, rejected), padded on the right.

    A causal model's earlier tokens do not see the padding, so that it needs no mask.
    """

    def collate(wanted: Sequence[int]) -> Batch:
        rows = [row if i != BLANK else None for i in wanted for row in examples[max(i, 0)]]
        longest = max((len(row.tokens) for row in rows if row is not None), default=2) - 1
        input_ids = np.full((len(rows), longest), padding, np.int64)
        labels = np.full((len(rows), longest), IGNORED, np.int64)
        for r, row in enumerate(rows):
            if row is not None:
                tokens, mask = np.asarray(row.tokens), np.asarray(row.mask, dtype=bool)
                input_ids[r, : len(tokens) - 1] = tokens[:-1]
                labels[r, : len(tokens) - 1] = np.where(mask[1:], tokens[1:], IGNORED)
        positions = np.broadcast_to(np.arange(longest), input_ids.shape).copy()
        return Batch(
            input_ids_RT=torch.from_numpy(input_ids),
            position_ids_RT=torch.from_numpy(positions),
            labels_RT=torch.from_numpy(labels),
        )

    return collate


def shares(examples: Integers, rank: int, world: int, micro_batch: int) -> list[list[int]]:
    """A process' examples of a step, in micro-batches; every process gets as many, of the same size, filled up with `BLANK`."""
    share = -(-len(examples) // world)
    mine = [int(example) for example in examples[rank::world]]
    mine += [BLANK] * (share - len(mine))
    size = micro_batch or share
    return [mine[start : start + size] for start in range(0, share, size)]


def digest_of(*arrays: npt.NDArray[Any]) -> str:
    """Hex sha256 of arrays: shapes, types and values."""
    state = hashlib.sha256()
    for array in arrays:
        state.update(f"{array.shape}{array.dtype.str}".encode())
        state.update(np.ascontiguousarray(array).tobytes())
    return state.hexdigest()
