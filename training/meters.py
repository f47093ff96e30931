"""What one sees of a run: its figures are kept on the device and brought down in one copy every few steps.

Summing on the host as the steps go was refused: every copy from a device waits until the device has done all its work. So
losses, norms and the sums of each part stay where they are made, and an interval of the log is one sum over the processes, one
copy and one word between the hosts.

The tables do not depend on how often one looks: losses of parts are summed over intervals that the number of steps decides, and
a run that was resumed has the same rows, but for its pace. Shapes: R rows, T tokens a row, P parts, V vocabulary.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor
from tqdm import tqdm

from ..catalog import progress
from ..catalog.errors import SeaLionError
from .batches import Batch, Part
from .pace import Pace
from .part_losses import PartLosses
from .processes import Processes
from .sinks import Sinks
from .system import System

log = logging.getLogger(__name__)

MOST_SKIPPED = 10
"""Steps in a row that may be skipped before the run is given up."""
QUIET = 30.0
"""Seconds between two lines of the log; every interval is in the JSON lines."""
POINTS = 240
"""Of the loss curve while it runs."""
CURVE = 200
"""Intervals, at most, over which the losses of parts are summed."""
SHORTEST = 10
"""Steps of such an interval, at least: fewer hold too little of a language."""

LOG_SCHEMA = pa.schema(
    [
        ("step", pa.int64()),
        ("loss", pa.float64()),
        ("lr", pa.float64()),
        ("grad_norm", pa.float64()),
        ("tokens", pa.int64()),
        ("skipped", pa.bool_()),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """A step whose figures are still on the device."""

    step: int
    lr: float
    labels: int
    """Of this process."""
    figures_3: Tensor


class Meter:
    """Collects the figures of a run; every process of a launch has one and gives it the same steps.

    A step is `begin_step`, `add_batch` for each micro-batch, `end_step`.
    """

    def __init__(
        self,
        *,
        steps: int,
        title: str,
        parts: Sequence[Part],
        processes: Processes,
        system: System,
        folder: Path,
        byte_length_V: Tensor | None = None,
        flops: tuple[float, float] | None = None,
        planned_P: Sequence[int] | None = None,
        state: dict[str, Any] | None = None,
        show_progress: bool = False,
    ) -> None:
        """Measure a run of `steps` steps, whose log goes to `folder`; with the `state` of an earlier attempt, go on from there.

        `byte_length_V` is what `byte_lengths` gives, `flops` the operations of a token in both conventions, `planned_P` the
        labels of each part that the loss is to see. Raises MissingDependency where TensorBoard is wished for and not installed.
        """
        self.rows: list[dict[str, Any]] = list(state["rows"]) if state else []
        """Of the table `training_log`: each step."""
        self.pace_rows: list[dict[str, Any]] = list(state["pace_rows"]) if state else []
        """Of the table `training_pace`: each interval of the log."""
        self._losses = PartLosses(parts, processes.device, byte_length_V, state["losses"] if state else None)
        self._pace = Pace(processes, system, flops)
        self._steps, self._title, self._processes, self._planned_P = steps, title, processes, planned_P
        self._log_steps, self._loss_steps = system.log_steps, max(SHORTEST, -(-steps // CURVE))
        is_first, done = processes.rank == 0, self.rows[-1]["step"] if self.rows else 0
        self._step, self._labels, self._pending = done, 0, list[_Step]()
        self._told = 0
        self._attempt, self._tokens, self._seconds, self._last_line = len(self.rows), 0, 0.0, time.monotonic()
        self._sinks = Sinks(folder, done, has_tensorboard=system.tensorboard) if is_first else None
        self._bar = tqdm(
            total=steps, initial=done, desc=title, unit="step", disable=not (show_progress and is_first), leave=False
        )  # fmt: skip
        progress.update(stage="train", done=done, total=steps, unit="steps", losses=_curve(self.rows))

    @property
    def loss_rows(self) -> list[dict[str, Any]]:
        """Of the table `language_losses`, split `train`: each part and interval of its own."""
        return self._losses.rows

    @property
    def labels_P(self) -> list[int]:
        """Labels of each part that the loss saw, on all processes, as far as they were brought down."""
        return self._losses.labels_P

    def begin_step(self, step: int, waited: float = 0.0) -> None:
        """Begin a step, for whose data this process waited so many seconds."""
        self._step, self._labels = step, 0
        self._pace.begin_step(waited)

    def add_batch(self, batch: Batch, logp_RT: Tensor) -> None:
        """Take the log-probabilities of a batch's labels."""
        self._losses.add_batch(batch, logp_RT)
        self._labels += batch.trained_N.numel()
        self._pace.add(batch.input_ids_RT.numel())

    def end_step(self, lr: float, figures_3: Tensor) -> None:
        """Take a step's figures, on the device: loss, gradient norm, and 1 where it was skipped or 0, of all processes.

        Once an interval all is brought down; raises SeaLionError after too many skipped steps in a row.
        """
        self._pending.append(_Step(step=self._step, lr=lr, labels=self._labels, figures_3=figures_3))
        self._losses.end_step(figures_3[2])
        is_last = self._step == self._steps
        if is_last or self._step % self._loss_steps == 0:
            self._losses.end_interval(self._step)
        if is_last or self._pace.steps >= self._log_steps:
            self._end_interval()

    def state(self) -> dict[str, Any]:
        """Plain values that a later attempt goes on from; every process asks for it after the same step, and gets the same."""
        self._bring_down()
        return {"rows": list(self.rows), "pace_rows": list(self.pace_rows), "losses": self._losses.state()}

    def check_ledger(self) -> None:
        """End the log; raises SeaLionError when the labels that the loss saw are not those that the plan gave."""
        if self._step != self._steps:  # the recipe leaves the last step out, which would have ended it
            self._losses.end_interval(self._step)
            if self._pace.steps:
                self._end_interval()
            else:
                self._bring_down()
        for part, seen, planned in zip(self._losses.parts, self.labels_P, self._planned_P or self.labels_P, strict=True):
            if seen != planned:
                name = " ".join(word for word in part if word)
                raise SeaLionError(f"{self._title}: the loss saw {seen:,} tokens of {name}, the plan gave {planned:,}")

    def close(self) -> None:
        """Take the bar away, log the last line and close the files; asks nothing of other processes."""
        self._bar.close()
        if self._sinks is not None:
            self._sinks.close()
            if len(self.rows) > self._attempt and self.pace_rows and self._told != self._step:
                log.info(self._line())

    def _bring_down(self) -> None:
        """Bring all figures down, by one sum over the processes and one copy."""
        steps, losses = self._pending, self._losses.pending()
        labels = torch.tensor([each.labels for each in steps], dtype=torch.float64).to(self._processes.device)
        summed = self._processes.total(torch.cat([labels, losses]))
        values: list[float] = torch.cat([*(each.figures_3.double() for each in steps), summed]).tolist()
        for i, each in enumerate(steps):
            loss, norm, skipped = values[3 * i : 3 * i + 3]
            row = {"step": each.step, "loss": loss, "lr": each.lr, "grad_norm": norm, "tokens": int(values[3 * len(steps) + i])}
            self.rows.append(row | {"skipped": bool(skipped)})
        self._losses.take(values[4 * len(steps) :])
        self._pending = []

    def _end_interval(self) -> None:
        """Bring the figures down and tell them to whoever looks."""
        told = len(self.loss_rows)
        self._bring_down()
        self.pace_rows.append(self._pace.row(self._step))
        self._tokens += self.pace_rows[-1]["tokens"]
        self._seconds += self.pace_rows[-1]["seconds"]
        if self._sinks is not None:
            self._sinks.write(self._figures(), self.loss_rows[told:])
            self._bar.set_postfix(loss=f"{self.rows[-1]['loss']:.3f}", refresh=False)
            self._bar.update(self._step - self._bar.n)
            self._report()
            if time.monotonic() - self._last_line > QUIET:
                self._last_line, self._told = time.monotonic(), self._step
                log.info(self._line())
        self._refuse_divergence()

    def _figures(self) -> dict[str, Any]:
        """What is told of the last interval: means over its steps, and its pace."""
        pace = self.pace_rows[-1]
        rows = self.rows[-pace["steps"] :]
        good = [row for row in rows if not row["skipped"]] or rows
        means = {name: math.fsum(row[name] for row in good) / len(good) for name in ("loss", "grad_norm")}
        return {
            "step": pace["step"], "loss": means["loss"], "lr": rows[-1]["lr"], "grad_norm": means["grad_norm"],
            "skipped": sum(row["skipped"] for row in rows), **pace,
        }  # fmt: skip

    def _line(self) -> str:
        """The figures in words, always in this order."""
        at = self._figures()
        mfu = "unknown" if at["mfu"] is None else f"{at['mfu']:.1%} ({at['mfu_causal']:.1%} causal)"
        skipped = f", {at['skipped']} of {at['steps']} steps skipped" if at["skipped"] else ""
        return (
            f"{self._title} step {at['step']} of {self._steps}, loss {at['loss']:.4f}, lr {at['lr']:.2e}, "
            f"gradient norm {at['grad_norm']:.3f}, {at['tokens_per_second']:,.0f} tokens/s, MFU {mfu}, "
            f"peak memory {at['peak_memory'] / 1e9:.2f} GB, data wait {at['data_wait']:.2f} s, "
            f"slowest/fastest {at['slowest_over_fastest']:.2f}{skipped}"
        )

    def _report(self) -> None:
        """Tell who watches the catalog."""
        report = progress.current()
        if report is not None and report.is_due():
            row = self.rows[-1]
            report.update(
                done=row["step"], loss=row["loss"], lr=row["lr"], tokens=self._tokens, losses=_curve(self.rows),
                tokens_per_second=self._tokens / self._seconds,
            )  # fmt: skip

    def _refuse_divergence(self) -> None:
        run = 0
        for row in self.rows[-self._log_steps - MOST_SKIPPED :]:
            run = run + 1 if row["skipped"] else 0
            if run >= MOST_SKIPPED:
                raise SeaLionError(
                    f"{self._title}: loss or gradient was not finite in {run} steps in a row up to step {row['step']}; "
                    "lower lr, look at the data of these steps, or leave them out (skip_steps)"
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
