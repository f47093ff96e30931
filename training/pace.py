"""How fast a run goes: tokens a second, MFU, memory, waiting for data, and how far apart the processes are.

A process that is slow makes all others wait, so the wall time of a step is the same everywhere and names nobody. Compared is
each process' own work: its CPU time, and on CUDA the time that a fixed matrix product takes on its device.
"""

from __future__ import annotations

import resource
import time
from typing import Any, NamedTuple, cast

import pyarrow as pa
import torch

from .flops import peak_flops
from .processes import Processes
from .system import System

PACE_SCHEMA = pa.schema(
    [(name, pa.int64()) for name in ("step", "steps", "tokens")]
    + [(name, pa.float64()) for name in ("seconds", "tokens_per_second", "mfu", "mfu_causal")]
    + [("peak_memory", pa.int64())]
    + [("data_wait", pa.float64()), ("slowest_over_fastest", pa.float64()), ("processes", pa.int64())]
)
SIDE, PRODUCTS = 2048, 16
"""Of the matrix product that measures a device: less than a millisecond on an H100."""


class Own(NamedTuple):
    """What a process says of its interval."""

    work: float
    """Its own time."""
    waited: float
    """Seconds that it waited for data."""
    peak_memory: int
    """Bytes at most so far: of the device, or of the process."""


class Pace:
    """The clock of an interval of the log; all processes have the same steps."""

    def __init__(self, processes: Processes, system: System, flops: tuple[float, float] | None) -> None:
        """`flops`: operations of a token in both conventions; without them, or without a known peak, there is no MFU."""
        self.steps = 0
        """Of the interval so far."""
        self._processes, self._flops = processes, flops
        self._start: float | None = None
        self._cpu, self._positions, self._waited = time.process_time(), 0, 0.0
        self._peak = peak_flops(processes.device, system.peak_tflops)

    def begin_step(self, waited: float) -> None:
        """Count a step; the first of all starts the clock."""
        if self._start is None:
            self._start, self._cpu = time.monotonic(), time.process_time()
        self.steps += 1
        self._waited += waited

    def add(self, positions: int) -> None:
        """Count the positions of a batch."""
        self._positions += positions

    def row(self, step: int) -> dict[str, Any]:
        """End the interval: its row of the table `training_pace`. Asks the other processes."""
        seconds = max(time.monotonic() - (self._start or 0.0), 1e-9)
        device = self._processes.device
        own = Own(work=_work(device, self._cpu), waited=self._waited, peak_memory=_memory(device))
        everyone = [Own(*cast(Own, told)) for told in self._processes.gathered(tuple(own))]
        work = [told.work for told in everyone]
        tokens = self._positions * len(everyone)
        full, causal = (
            each * tokens / seconds / (self._peak * len(everyone)) if self._flops and self._peak else None
            for each in self._flops or (0.0, 0.0)
        )
        row = {"step": step, "steps": self.steps, "tokens": tokens, "seconds": seconds, "tokens_per_second": tokens / seconds,
            "mfu": full, "mfu_causal": causal, "peak_memory": max(told.peak_memory for told in everyone),
            "data_wait": max(told.waited for told in everyone),
            "slowest_over_fastest": max(work) / max(min(work), 1e-9) if len(work) > 1 else 1.0, "processes": len(everyone),
        }  # fmt: skip
        self._start, self._cpu = time.monotonic(), time.process_time()
        self.steps, self._positions, self._waited = 0, 0, 0.0
        return row


def _work(device: str, since: float) -> float:
    """A process' own seconds since a CPU time; on CUDA those of the fixed matrix product."""
    if not device.startswith("cuda"):
        return time.process_time() - since
    matrix = torch.ones((SIDE, SIDE), dtype=torch.bfloat16, device=device)
    event: Any = torch.cuda.Event
    start, end = (event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(PRODUCTS):
        torch.mm(matrix, matrix)
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3


def _memory(device: str) -> int:
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
