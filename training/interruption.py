"""An interruption that all processes obey at the same step.

SIGTERM (a scheduler that takes the machine back) and SIGUSR1 (Slurm's warning, `--signal=USR1@120`) only set a flag. Once a
step the processes take the largest of their flags over the hosts, and read it one step later, so that nobody waits and the
device is not touched. Refused: a flag on the all-reduce of the loss, which had to be copied from the device in every step.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from ..catalog.errors import Unfinished
from .processes import Processes

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
RESUME_ME = 75
"""Exit code of an interrupted run (EX_TEMPFAIL of sysexits.h): the same command goes on from there."""


class Interrupted(Unfinished):
    """A run that was told to stop and has saved all it did."""

    exit_code = RESUME_ME


class Interruption:
    """Hears the signals while it is entered; every process of a launch enters it and asks `agreed` once a step."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._is_asked = False
        self._before: dict[signal.Signals, Any] = {}
        self._flags = np.zeros(1, np.int64)
        self._flags_1 = torch.from_numpy(self._flags)  # read through numpy: a tensor's `.item()` counts as a copy from a device
        self._agreeing: Any = None

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python forbids it
            self._before = {name: signal.signal(name, self._hear) for name in SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for name, handler in self._before.items():
            signal.signal(name, handler)
        if kind is None and self._agreeing is not None:  # after an error the others may be gone
            self._agreeing.wait()

    def agreed(self) -> bool:
        """Whether to stop, the same on every process; a process alone hears at once, several one step later."""
        if self._processes.world == 1:
            return self._is_asked
        said = False
        if self._agreeing is not None:
            self._agreeing.wait()
            said = bool(self._flags[0])
        self._flags[0] = self._is_asked or said
        self._agreeing = dist.all_reduce(self._flags_1, dist.ReduceOp.MAX, group=self._processes.host, async_op=True)
        return said

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self._is_asked = True
