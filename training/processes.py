"""The processes that train together: who they are, fixed arithmetic, and what they agree on.

Accelerate only tells who is who: its FSDP is silently plain data parallelism on a CPU, so that a test there would test
something else. Sharding is torch's `fully_shard` (see `sharding`), the same code on both.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from ..catalog.errors import SeaLionError

T = TypeVar("T")

THREADS = 2
"""Of a process that trains alone on a CPU: fixed, because sums depend on how they are divided among threads."""
PATIENCE = timedelta(minutes=30)
"""How long the processes wait for each other on the host: rank 0 may be preparing data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Processes:
    """This process among those that train together."""

    rank: int
    """0 to `world - 1`; only rank 0 writes records."""
    world: int
    """Number of processes."""
    device: str
    """Torch device of this process."""
    host: dist.ProcessGroup | None = None
    """Group (gloo) for what the hosts agree on beside the training; None for a process alone."""
    saving: dist.ProcessGroup | None = None
    """Group (gloo) of the checkpoints, which are written while training goes on."""

    def barrier(self) -> None:
        """Wait for all, on the host."""
        if self.world > 1:
            dist.barrier(self.host)

    def total(self, value: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        if self.world > 1:
            dist.all_reduce(value)
        return value

    def gathered(self, value: object) -> list[object]:
        """A small value of every process, by rank, over the hosts."""
        if self.world == 1:
            return [value]
        values: list[object] = [None] * self.world
        dist.all_gather_object(values, value, group=self.host)
        return values

    def together(self, made: Callable[[], T]) -> T:
        """What `made` gives; a SeaLionError in one process is raised in all, so that none waits for the others."""
        result, problem = cast(T, None), None
        try:
            result = made()
        except SeaLionError as error:
            problem = error
        found = next((each for each in self.gathered(problem) if isinstance(each, SeaLionError)), None)
        if found is not None:
            raise found
        return result


def check_device(device: str) -> None:
    """Raise SeaLionError when there is no such device here."""
    if device == "cuda" and not torch.cuda.is_available():
        raise SeaLionError("--device cuda: torch finds no CUDA device here")


def join_processes(device: str) -> Processes:
    """Join the processes that a launcher started with this one (environment `WORLD_SIZE`), or stay alone.

    Raises SeaLionError for `cuda` where there is none.
    """
    check_device(device)
    if int(os.environ.get("WORLD_SIZE", "1")) <= 1:
        return Processes(rank=0, world=1, device=device)
    from accelerate import PartialState

    state = PartialState(cpu=device == "cpu")
    new_group: Any = dist.new_group  # its type allows for a process that is in no group; this one is in both
    host, saving = (new_group(backend="gloo", timeout=PATIENCE) for _ in range(2))
    return Processes(
        rank=state.process_index, world=state.num_processes, device=str(state.device), host=host, saving=saving
    )  # fmt: skip


@contextmanager
def fixed_arithmetic(processes: Processes) -> Iterator[None]:
    """A fixed number of threads and deterministic algorithms, so that losses are the same to the last bit on every run."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(THREADS if processes.world == 1 else 1)
    torch.use_deterministic_algorithms(True, warn_only=processes.device != "cpu")
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)
