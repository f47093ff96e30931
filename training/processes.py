"""The processes that train together, and the arithmetic they share.

`accelerate launch` (or torchrun) starts them and Accelerate's `PartialState` joins them; with one process nothing is joined.
Sharding is torch's own `fully_shard`: Accelerate never turns it on for CPU, so that a test there would test something else.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

THREADS = 2
"""Of a process that trains alone on a CPU: fixed, because sums depend on how they are divided among threads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Processes:
    """This process among those that train together."""

    rank: int
    """0 to `world - 1`; only rank 0 writes records."""
    world: int
    """Number of processes."""
    device: str
    """Torch device of this process."""

    def barrier(self) -> None:
        """Wait for all."""
        if self.world > 1:
            dist.barrier()

    def total(self, value: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        if self.world > 1:
            dist.all_reduce(value)
        return value


def join_processes(device: str) -> Processes:
    """Join the processes that a launcher started with this one (environment `WORLD_SIZE`), or stay alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) <= 1:
        return Processes(rank=0, world=1, device=device)
    from accelerate import PartialState

    state = PartialState(cpu=device == "cpu")
    return Processes(rank=state.process_index, world=state.num_processes, device=str(state.device))


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


def shard(module: nn.Module, layers: nn.ModuleList, processes: Processes) -> None:
    """Divide parameters, gradients and optimizer state of a module among the processes, layer by layer.

    Embedding, last norm and head stay in the outer group, as a tied weight may be seen by one group only. Gradients come out
    as means over the processes (a sum would need PREMUL_SUM, which gloo lacks): the loss has to be scaled by `world`.
    """
    if processes.world == 1:
        return
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(torch.device(processes.device).type, (processes.world,))
    for layer in layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(module, mesh=mesh)
