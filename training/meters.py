"""The log of a run: one row a step, brought down from the device in blocks so that no step waits for a copy."""

from __future__ import annotations

import logging
import math
import time
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ..catalog import progress
from ..catalog.errors import SeaLionError

log = logging.getLogger(__name__)

BLOCK = 10
"""Steps between two copies from the device."""
MOST_SKIPPED = 10
"""Steps in a row that may be skipped before the run is given up."""
QUIET = 30.0
"""Seconds between two lines where no bar is shown."""
POINTS = 240
"""Of the loss curve while it runs."""


class Meter:
    """Collects the figures of each step; `rows` are those of the table `training_log`."""

    def __init__(self, rows: list[dict[str, Any]], steps: int, title: str, show_progress: bool) -> None:
        self.rows = rows
        self._pending: list[tuple[int, float, int, Tensor]] = []
        self._steps, self._title = steps, title
        self._bar = tqdm(total=steps, initial=len(rows), desc=title, unit="step", disable=not show_progress, leave=False)
        self._last_line = time.monotonic()
        self._start, self._first, self._tokens = time.monotonic(), len(rows), 0
        progress.update(stage="train", done=len(rows), total=steps, unit="steps", losses=_curve(rows))

    def add(self, step: int, lr: float, tokens: int, figures: Tensor) -> None:
        """Take a step's figures: a tensor of loss, gradient norm and whether it was skipped. Raises as `drain` does."""
        self._pending.append((step, lr, tokens, figures))
        if len(self._pending) >= BLOCK or step == self._steps:
            self.drain()

    def drain(self) -> None:
        """Bring the pending figures down; raises SeaLionError after too many skipped steps in a row."""
        if not self._pending:
            return
        figures = torch.stack([figures for _, _, _, figures in self._pending]).tolist()
        for (step, lr, tokens, _), (loss, norm, skipped) in zip(self._pending, figures, strict=True):
            row = {"step": step, "loss": loss, "lr": lr, "grad_norm": norm, "tokens": tokens, "skipped": bool(skipped)}
            self.rows.append(row)
            self._tokens += tokens
        self._bar.update(len(self._pending))
        self._bar.set_postfix(loss=f"{self.rows[-1]['loss']:.3f}", refresh=False)
        self._pending.clear()
        self._report()
        self._refuse_divergence()
        if time.monotonic() - self._last_line > QUIET:
            self._line()

    def close(self) -> None:
        """Take the bar away and log the last line."""
        self._bar.close()
        if self.rows:
            self._line()

    def _report(self) -> None:
        """Tell who watches the catalog (rank 0 only: the other processes have no report)."""
        report = progress.current()
        if report is not None and report.is_due():
            row, pace = self.rows[-1], self._tokens / max(time.monotonic() - self._start, 1e-9)
            report.update(
                done=row["step"], loss=row["loss"], lr=row["lr"], tokens=self._tokens, tokens_per_second=pace,
                losses=_curve(self.rows),
            )  # fmt: skip

    def _line(self) -> None:
        self._last_line = time.monotonic()
        pace = (len(self.rows) - self._first) / max(self._last_line - self._start, 1e-9)
        row = self.rows[-1]
        log.info(
            "%s step %d of %d, loss %.4f, grad_norm %.3f, lr %.2e, %.2f steps/s",
            *(self._title, row["step"], self._steps, row["loss"], row["grad_norm"], row["lr"], pace),
        )

    def _refuse_divergence(self) -> None:
        run = 0
        for row in self.rows[-BLOCK - MOST_SKIPPED :]:
            run = run + 1 if row["skipped"] else 0
            if run >= MOST_SKIPPED:
                raise SeaLionError(
                    f"{self._title}: loss or gradient was not finite in {run} steps in a row up to step {row['step']}; "
                    "lower lr or look at the data of these steps"
                )


def last_loss(rows: list[dict[str, Any]]) -> float | None:
    """Mean loss over the last tenth of the steps, skipped ones left out; None when all were skipped."""
    tail = [row["loss"] for row in rows[-max(1, len(rows) // 10) :] if not row["skipped"]]
    return math.fsum(tail) / len(tail) if tail else None


def _curve(rows: list[dict[str, Any]]) -> tuple[tuple[int, float], ...]:
    """About `POINTS` steps and losses, evenly spread, the latest among them; those that are not finite are left out."""
    stride = -(-len(rows) // POINTS) or 1
    chosen = rows[(len(rows) - 1) % stride :: stride]
    return tuple((row["step"], row["loss"]) for row in chosen if math.isfinite(row["loss"]))
