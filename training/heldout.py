"""The loss on held-out text, by corpus, language and source: what a run and a mixture are judged by.

Every document is scored whole, with the weights as trained, in windows of the model's length that do not overlap: the first
tokens of a window have little context, in exchange each is computed once. Windows lie end to end in rows, in which attention
keeps them apart, so that short documents cost what they hold. Overlapping windows were refused: several times the work for a
figure that moves the same way. Bytes are those of the documents, less those of a first token that nothing predicts, where the
tokenizer has no token that begins a document. Shapes: R rows, T tokens a row, P parts, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from ..catalog.errors import CorruptInput, RecipeError
from ..catalog.records import Artifact, TokenFiles
from ..catalog.store import verify_files
from .batches import IGNORED, Batch, Part, batch_of
from .part_losses import label_sums, loss_rows
from .processes import Processes
from .recipe import TrainRecipe

COLUMNS = ("corpus", "language", "source", "split", "variant", "path", "documents", "bytes", "tokens")


class Window(NamedTuple):
    """A piece of a document: its tokens and the one after them."""

    part: int
    tokens: npt.NDArray[Any]
    """Inputs and labels in one, one token longer than either."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heldout:
    """Held-out text, ready to be scored."""

    parts: tuple[Part, ...]
    """Corpus, language and source; of no part of a mixture."""
    bytes_P: tuple[int, ...]
    """UTF-8 bytes that the labels of each part stand for."""
    rows: tuple[tuple[Window, ...], ...]
    """Windows that lie in a row together; the tokens stay in their files until they are read."""
    length: int
    """Tokens of a row."""


def heldout_text(
    recipe: TrainRecipe, artifact: Artifact, folder: Path, *, tokenizer_sha256: str, length: int, byte_length_V: Tensor
) -> Heldout:
    """The held-out text of the token files `artifact` in `folder`, in windows of up to `length` tokens.

    `tokenizer_sha256` and `byte_length_V` (see `byte_lengths`) are those of the model's tokenizer. Raises RecipeError for what
    is no token files of split `heldout` or made with another tokenizer, CorruptInput for files that changed.
    """
    body = artifact.body
    if not isinstance(body, TokenFiles) or body.split != "heldout":
        what = f"token files of split {body.split!r}" if isinstance(body, TokenFiles) else f"a {artifact.kind}"
        raise RecipeError(str(recipe.ref), "heldout", f"{artifact.ref} is {what}, not token files of split 'heldout'")
    if body.tokenizer_sha256 != tokenizer_sha256:
        problem = f"{artifact.ref} was made with {body.tokenizer}, which is not the tokenizer of {recipe.model}"
        raise RecipeError(str(recipe.ref), "heldout", problem)
    verify_files(folder, artifact)
    found = pq.read_table(folder / artifact.tables["token_files"], columns=list(COLUMNS)).to_pylist()
    files = [row for row in found if row["variant"] == 0 and row["documents"]]
    parts = sorted({_part(row) for row in files})
    windows: list[Window] = []
    bytes_P = [0] * len(parts)
    for row in files:
        number = parts.index(_part(row))
        tokens, ends = _tokens(folder / row["path"], row, body)
        starts = np.append(0, ends[:-1])
        windows += _windows(tokens, starts, ends, length, number)
        first = torch.from_numpy(tokens[starts[starts < ends]].astype(np.int64))
        bytes_P[number] += row["bytes"] - int(byte_length_V[first].sum())
    if not windows:
        raise RecipeError(str(recipe.ref), "heldout", f"{artifact.ref} holds no text")
    return Heldout(parts=tuple(parts), bytes_P=tuple(bytes_P), rows=tuple(_rows(windows, length)), length=length)


def heldout_losses(
    module: nn.Module, heldout: Heldout, processes: Processes, step: int, micro_batch: int = 1
) -> list[dict[str, Any]]:
    """Rows of `language_losses`, split `heldout`, after step `step`; the same on every process, each of which must call it.

    `module` gives log-probabilities of a batch's labels; every process scores a share of the rows, `micro_batch` at a time.
    """
    sums_3P = torch.zeros((3, len(heldout.parts)), dtype=torch.float64, device=processes.device)
    was_training = module.training
    module.eval()
    with torch.no_grad():
        for batch in _batches(heldout, processes, micro_batch):
            label_sums(sums_3P, batch, module(batch), None)
    module.train(was_training)
    for each in module.modules():
        if isinstance(each, FSDPModule):
            each.reshard()  # without a backward pass the weights would stay whole, also for a checkpoint
    nll_P, tokens_P, _ = processes.total(sums_3P).tolist()
    return loss_rows("heldout", step, heldout.parts, [*nll_P, *tokens_P, *heldout.bytes_P])


def _part(row: dict[str, Any]) -> Part:
    return Part(part="", corpus=row["corpus"], language=row["language"], source=row["source"])


def _tokens(path: Path, row: dict[str, Any], body: TokenFiles) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """A file's tokens, which stay on disk, and the end of each document."""
    tokens = np.memmap(path, dtype=f"<u{body.token_bytes}", mode="r")
    ends = np.fromfile(path.with_name(f"{path.name}.index"), dtype="<u8").astype(np.int64)
    if len(ends) != row["documents"] or len(tokens) != row["tokens"] or ends[-1] != len(tokens) or (np.diff(ends) < 0).any():
        problem = f"holds {len(tokens):,} tokens and {len(ends):,} documents, not {row['tokens']:,} and {row['documents']:,}"
        raise CorruptInput(path, "", problem)
    if int(tokens.max()) >= body.vocabulary:
        raise CorruptInput(path, "", f"holds token {int(tokens.max())}, the tokenizer has {body.vocabulary}")
    return tokens, ends


def _windows(
    tokens: npt.NDArray[Any], starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64], length: int, part: int
) -> Iterator[Window]:
    """The windows of a file's documents, each of at least one label."""
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        for place in range(start, end - 1, length):
            yield Window(part, tokens[place : min(place + length + 1, end)])


def _rows(windows: list[Window], length: int) -> Iterator[tuple[Window, ...]]:
    """Windows that fit into a row together; the longest first, so that little room is left."""
    row: list[Window] = []
    room = length
    for window in sorted(windows, key=lambda window: -len(window.tokens)):
        if len(window.tokens) - 1 > room:
            yield tuple(row)
            row, room = [], length
        row.append(window)
        room -= len(window.tokens) - 1
    yield tuple(row)


def _batches(heldout: Heldout, processes: Processes, micro_batch: int) -> Iterator[Batch]:
    """A process' share of the rows; all have as many batches, filled up with empty rows."""
    rounds = -(-len(heldout.rows) // (processes.world * micro_batch))
    mine = heldout.rows[processes.rank :: processes.world]
    for start in range(0, rounds * micro_batch, micro_batch):
        yield _batch(mine[start : start + micro_batch], micro_batch, heldout.length).to(processes.device)


def _batch(rows: tuple[tuple[Window, ...], ...], count: int, length: int) -> Batch:
    """A batch of `count` rows; what fills up a row is a document of its own, and in no loss."""
    ids, parts = (np.zeros((count, length), np.int64) for _ in range(2))
    labels, starts = np.full((count, length), IGNORED, np.int64), np.zeros((count, length), np.bool_)
    for r, row in enumerate(rows):
        place = 0
        for window in row:
            end = place + len(window.tokens) - 1
            ids[r, place:end], labels[r, place:end] = window.tokens[:-1], window.tokens[1:]
            parts[r, place:end], starts[r, place] = window.part, True
            place = end
        if place < length:
            starts[r, place] = True
    return batch_of(ids, labels, parts, starts)
