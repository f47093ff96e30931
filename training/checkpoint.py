"""Checkpoints to resume from: written to a temporary folder, renamed when whole, the latest two kept.

Torch's distributed checkpoint holds weights and optimizer state (each process its own shards, so that another number of
processes can read them); a small file beside it holds the step, the log so far, the random state and the digest of the plan.
"""

from __future__ import annotations

import logging
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from .processes import Processes

log = logging.getLogger(__name__)

KEPT = 2
PROGRESS = "progress.pt"
PARTIAL = ".partial"


class Checkpoints:
    """The resumable checkpoints of one run."""

    def __init__(self, folder: Path, digest: str, processes: Processes) -> None:
        self._folder, self._digest, self._processes = folder, digest, processes

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[int, list[dict[str, Any]]]:
        """Load the latest checkpoint of this plan; returns its step and the log so far, (0, []) when there is none."""
        latest = next((path for path in reversed(self._complete()) if self._is_ours(path)), None)
        self._processes.barrier()  # all have looked before anyone writes
        self._delete_foreign()
        if latest is None:
            return 0, []
        weights, moments = get_state_dict(model, optimizer)
        state: dict[str, Any] = {"model": weights, "optimizer": moments}
        with _quiet():
            load(state, checkpoint_id=latest, no_dist=self._processes.world == 1)
        set_state_dict(model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
        progress = torch.load(latest / PROGRESS, weights_only=True)
        torch.set_rng_state(progress["random"])
        log.info("resumed after step %d", progress["step"])
        return progress["step"], progress["log"]

    def save(self, step: int, rows: list[dict[str, Any]], model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Write the state after step `step`; it exists whole or not at all."""
        final = self._folder / f"step-{step:09d}"
        partial = final.with_name(final.name + PARTIAL)
        if self._processes.rank == 0:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            progress = {"step": step, "log": rows, "random": torch.get_rng_state(), "digest": self._digest}
            with (partial / PROGRESS).open("wb") as file:
                torch.save(progress, file)
                file.flush()
                os.fsync(file.fileno())
        self._processes.barrier()
        weights, moments = get_state_dict(model, optimizer)
        state: dict[str, Any] = {"model": weights, "optimizer": moments}
        with _quiet():
            save(state, checkpoint_id=partial, no_dist=self._processes.world == 1)
        self._processes.barrier()
        if self._processes.rank == 0:
            os.replace(partial, final)
            for old in self._complete()[:-KEPT]:
                delete(old)

    def _complete(self) -> list[Path]:
        return sorted(path for path in self._folder.glob("step-*") if not path.name.endswith(PARTIAL))

    def _is_ours(self, path: Path) -> bool:
        digest: str = torch.load(path / PROGRESS, weights_only=True)["digest"]
        return digest == self._digest

    def _delete_foreign(self) -> None:
        if self._processes.rank == 0:
            for path in self._complete():
                if not self._is_ours(path):
                    log.warning("%s belongs to another plan: deleted", path.name)
                    delete(path)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the remark that one process saves for itself."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        yield


def delete(folder: Path) -> None:
    """Delete a folder so that a kill leaves it whole or under a name that nobody reads."""
    if folder.exists():
        doomed = folder.with_name(folder.name + PARTIAL)
        shutil.rmtree(doomed, ignore_errors=True)
        os.replace(folder, doomed)
        shutil.rmtree(doomed)
