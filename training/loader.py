"""Brings the batches of a plan to the device while the step before them runs.

One thread prepares the next two steps: a batch is a few copies from files mapped into memory. Worker processes were refused:
they cost memory, a copy between processes and seconds at the start.
What a process gets depends on the plan, its rank and the number of processes only, so the thread has no state to save.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice

from .batches import Batch, Plan, shares
from .processes import Processes

AHEAD = 2
"""Steps that are prepared or wait to be taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepData:
    """What one process trains on in one optimizer step."""

    step: int
    units: int
    """The divisor of the step's loss, over all processes."""
    micro: tuple[Batch, ...]
    """The micro-batches of this process, on its device; every process has as many."""
    waited: float
    """Seconds that the step had to wait for its data."""


def step_data(plan: Plan, steps: Iterable[int], processes: Processes, micro_batch: int) -> Generator[StepData]:
    """The data of the steps that have examples, in order; of `micro_batch` examples a forward pass, 0: all of a process' share.

    Closing it stops the thread. What goes wrong while a step is prepared is raised when that step is asked for.
    """
    is_cuda = processes.device.startswith("cuda")

    def prepared(step: int) -> tuple[int, list[Batch]] | None:
        examples = plan.examples(step)
        if not len(examples):
            return None
        batches = [plan.collate(share) for share in shares(examples, processes.rank, processes.world, micro_batch)]
        return plan.units(examples), [_pinned(batch) for batch in batches] if is_cuda else batches

    upcoming, waiting = iter(steps), deque[tuple[int, Future[tuple[int, list[Batch]] | None]]]()
    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="data")
    try:
        waiting.extend((step, pool.submit(prepared, step)) for step in islice(upcoming, AHEAD))
        while waiting:
            begun = time.perf_counter()
            step, future = waiting.popleft()
            found = future.result()
            waited = time.perf_counter() - begun
            waiting.extend((step, pool.submit(prepared, step)) for step in islice(upcoming, 1))
            if found is not None:
                # Copied from this thread, in the stream that will read it: the copies wait for nobody.
                micro = tuple(batch.to(processes.device) for batch in found[1])
                yield StepData(step=step, units=found[0], micro=micro, waited=waited)
    finally:
        pool.shutdown(cancel_futures=True)


def _pinned(batch: Batch) -> Batch:
    """The batch in memory that a device can copy from by itself."""
    names = ("input_ids_RT", "position_ids_RT", "labels_RT", "parts_RT", "trained_N")
    tensors = {name: getattr(batch, name).pin_memory() for name in names}
    documents = replace(batch.documents, offsets=batch.documents.offsets.pin_memory())
    return replace(batch, documents=documents, **tensors)
