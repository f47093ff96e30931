"""Losses by part of the data: sums that stay on the device until somebody brings them down.

The mean loss of a run says little about a language that is a hundredth of it. Kept for each part are the negative
log-likelihood, the labels, and the UTF-8 bytes that these stand for, so that languages and tokenizers can be compared:
`bits per byte = nll / ln 2 / bytes`. Shapes: R rows, T tokens a row, N labels, P parts, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from .batches import Batch, Part

LOSS_SCHEMA = pa.schema(
    [("split", pa.string()), ("step", pa.int64())]
    + [(name, pa.string()) for name in ("part", "corpus", "language", "source")]
    + [("tokens", pa.int64()), ("bytes", pa.int64()), ("loss", pa.float64()), ("bits_per_byte", pa.float64())]
)


def loss_rows(split: str, step: int, parts: Sequence[Part], sums: Sequence[float]) -> list[dict[str, Any]]:
    """Rows of the table `language_losses` from each part's negative log-likelihood, then each one's labels, then bytes.

    A part without labels has no row, one without bytes no bits per byte.
    """
    count, rows = len(parts), []
    for part, nll, tokens, size in zip(parts, sums[:count], sums[count : 2 * count], sums[2 * count :], strict=True):
        if tokens:
            bits = nll / math.log(2) / size if size else None
            row = {"split": split, "step": step, **part._asdict(), "tokens": int(tokens), "bytes": int(size)}
            rows.append(row | {"loss": nll / tokens, "bits_per_byte": bits})
    return rows


def label_sums(sums_3P: Tensor, batch: Batch, logp_RT: Tensor, byte_length_V: Tensor | None) -> None:
    """Add a batch's negative log-likelihood, labels and bytes to the sums (float64) of its parts, in place, on the device."""
    labels_N = batch.labels_RT.flatten()[batch.trained_N]
    parts_N = batch.parts_RT.flatten()[batch.trained_N]
    nll_N = -logp_RT.detach().flatten()[batch.trained_N].double()
    bytes_N = torch.zeros_like(nll_N) if byte_length_V is None else byte_length_V[labels_N].double()
    sums_3P.index_add_(1, parts_N, torch.stack([nll_N, torch.ones_like(nll_N), bytes_N]))


class PartLosses:
    """The sums of a run over intervals of steps, and the labels that the loss saw."""

    def __init__(self, parts: Sequence[Part], device: str, byte_length_V: Tensor | None, state: dict[str, Any] | None) -> None:
        """Begin with nothing, or go on from a `state`."""
        self.parts = tuple(parts)
        self.labels_P: list[int] = list(state["labels"]) if state else [0] * len(self.parts)
        """Of all processes, those of skipped steps too, as far as `take` was given them."""
        self.rows: list[dict[str, Any]] = list(state["rows"]) if state else []
        """Of the intervals that ended, split `train`."""
        self._rest: list[float] = list(state["rest"]) if state else [0.0] * 3 * len(self.parts)
        self._byte_length_V = None if byte_length_V is None else byte_length_V.to(device)
        self._step_3P, self._open_3P = (torch.zeros((3, len(self.parts)), dtype=torch.float64, device=device) for _ in range(2))
        self._seen_P = torch.zeros(len(self.parts), dtype=torch.float64, device=device)
        self._closed: list[tuple[int, Tensor]] = []

    def add_batch(self, batch: Batch, logp_RT: Tensor) -> None:
        """Take the log-probabilities of the labels of a step's batch."""
        label_sums(self._step_3P, batch, logp_RT, self._byte_length_V)

    def end_step(self, skipped: Tensor) -> None:
        """Add the step to its interval, unless `skipped` (a scalar on the device) is not 0: its sums may be no numbers."""
        self._seen_P += self._step_3P[1]
        self._open_3P += torch.where(skipped == 0, self._step_3P, 0.0)
        self._step_3P.zero_()

    def end_interval(self, step: int) -> None:
        """End an interval with the step."""
        self._closed.append((step, self._open_3P.clone()))
        self._open_3P.zero_()

    def pending(self) -> Tensor:
        """What `take` wants to have, after it was summed over the processes."""
        return torch.cat([self._seen_P, *(sums_3P.flatten() for _, sums_3P in self._closed), self._open_3P.flatten()])

    def take(self, values: Sequence[float]) -> None:
        """Take the sums that were brought down, and begin new ones on the device."""
        count = len(self.parts)
        self.labels_P = [known + int(seen) for known, seen in zip(self.labels_P, values, strict=False)]
        for i, step in enumerate([*(step for step, _ in self._closed), None]):
            place = count + 3 * count * i
            self._rest = [a + b for a, b in zip(self._rest, values[place : place + 3 * count], strict=True)]
            if step is not None:
                self.rows += loss_rows("train", step, self.parts, self._rest)
                self._rest = [0.0] * 3 * count
        self._closed.clear()
        self._seen_P.zero_()
        self._open_3P.zero_()

    def state(self) -> dict[str, Any]:
        """What is known after `take`, plain values."""
        return {"labels": list(self.labels_P), "rows": list(self.rows), "rest": list(self._rest)}
