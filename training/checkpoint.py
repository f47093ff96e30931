"""Checkpoints to resume from: written behind the training, whole on all processes or not there, bound to a plan.

A checkpoint is a folder `step-000000123`. Torch's distributed checkpoint holds weights and moments in it, each process its own
shards, so that another number of processes can read them; `progress.pt` holds what else the run knows and the random state of
every process; `progress.json`, written last, names the plan's digest and every file with its sha256. It is written to a folder
`….partial` and renamed when every process has synced its files. Settings of the optimizer are the recipe's and are not stored.

`save` copies the tensors to the host and returns; a thread writes them, with a group of processes of its own. Torch's
`async_save` was refused: it ends with torch's files, but the digests, the agreement that all is well and the renaming belong
behind the training too. Refused as well was to trust what can be parsed: a flipped bit would be trained on.
"""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import shutil
import time
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict import get_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from ..catalog.errors import CorruptInput, Unfinished
from ..catalog.files import sync_folder, write_atomically
from ..catalog.fingerprint import file_digest
from .processes import Processes

log = logging.getLogger(__name__)

FORMAT = 1
SEAL = "progress.json"
"""Written last; without it a folder is no checkpoint."""
PROGRESS = "progress.pt"
PARTIAL = ".partial"


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a run was, beside its weights and moments."""

    step: int
    """Optimizer steps done."""
    state: dict[str, Any]
    """What `Checkpoints.save` was given on rank 0: plain values and tensors (these on the host)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """A whole checkpoint on disk."""

    path: Path
    step: int
    digest: str
    """Of the plan up to that step."""
    files: dict[str, str]
    """Name to sha256."""


class Checkpoints:
    """The checkpoints of one run; every process of a launch makes the same calls at the same steps."""

    def __init__(
        self, folder: Path, permanent: Path, digest: Callable[[int], str], processes: Processes, keep: int = 2
    ) -> None:
        """`folder` holds the latest `keep`, `permanent` those that stay; `digest(step)` is of what decides steps 1 to it."""
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # one process saves for itself
        self._folder, self._permanent, self._digest, self._keep = folder, permanent, digest, keep
        self._processes, self._behind = processes, replace(processes, host=processes.saving)
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[None] | None = None
        self._abandoned: set[Path] = set()
        on_cuda = processes.device.startswith("cuda")
        self._stager = DefaultStager(
            StagingOptions(
                use_pinned_memory=on_cuda, use_shared_memory=False, use_async_staging=False, use_non_blocking_copy=on_cuda
            )
        )

    def restore(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> Progress | None:
        """Load the latest checkpoint of this plan that is whole, into the tensors there are; None when there is none.

        Others are passed over with a warning; they stay until the next one of this plan is written.
        """
        found = cast(list[Sealed], self._processes.gathered(self._sealed())[0])
        if self._processes.rank == 0:
            for folder in (self._folder, self._permanent):
                for stale in folder.glob(f"*{PARTIAL}"):
                    shutil.rmtree(stale, ignore_errors=True)
        for sealed in found:
            problem = self._damage(sealed) if self._is_ours(sealed) else "belongs to another plan"
            if not problem:
                progress = self._load(sealed.path, module, optimizer)
                log.info("resumed after step %d", progress.step)
                return progress
            if self._processes.rank == 0:
                log.warning("%s: %s; passed over", sealed.path.name, problem)
            self._abandoned.add(sealed.path)
        return None

    def restore_from(self, path: Path, module: nn.Module, optimizer: torch.optim.Optimizer) -> Progress:
        """Load a checkpoint of another run, whatever its plan; raises CorruptInput when it is not whole."""
        sealed = read_seal(path)
        problem = "is no whole checkpoint" if sealed is None else self._damage(sealed)
        if problem:
            raise CorruptInput(path, "", problem)
        return self._load(path, module, optimizer)

    def save(
        self, step: int, state: dict[str, Any], module: nn.Module, optimizer: torch.optim.Optimizer, *, permanent: bool
    ) -> float:
        """Take down the state after step `step` and write it behind the training; returns the seconds this took here.

        The tensors are copied before it returns. The one before is finished first: raises Unfinished, on all processes, when
        that could not be written.
        """
        start = time.perf_counter()
        self.wait()
        tensors = cast(dict[str, Any], self._stager.stage(_tensors(module, optimizer)))
        record = io.BytesIO()
        if self._processes.rank == 0:
            torch.save(state, record)
        digest = self._digest(step) if self._processes.rank == 0 else ""
        path = (self._permanent if permanent else self._folder) / f"step-{step:09d}"
        sealed = Sealed(path=path, step=step, digest=digest, files={})
        random = _random_state(self._processes.device)
        self._writing = self._thread.submit(self._write, sealed, tensors, record.getvalue(), random)
        return time.perf_counter() - start

    def wait(self) -> None:
        """Finish the checkpoint that is being written; raises Unfinished, on all processes, when it could not be."""
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()

    def keep_permanent(self, folder: Path) -> tuple[int, ...]:
        """Link the permanent checkpoints of this plan into a folder, to stay with what is made; returns their steps."""
        kept = [found for found in self._sealed() if found.path.parent == self._permanent and self._is_ours(found)]
        if self._processes.rank == 0:
            shutil.rmtree(folder, ignore_errors=True)
            for found in kept:
                shutil.copytree(found.path, folder / found.path.name, copy_function=_link)
        return cast(tuple[int, ...], self._processes.gathered(tuple(sorted(found.step for found in kept)))[0])

    # -- reading ---------------------------------------------------------------------------------------------------------

    def _sealed(self) -> list[Sealed]:
        """Every whole checkpoint, the latest first, as rank 0 sees them; the others see none."""
        if self._processes.rank > 0:
            return []
        paths = [path for folder in (self._folder, self._permanent) for path in folder.glob("step-*[0-9]")]
        found = [read_seal(path) for path in paths]
        for path, sealed in zip(paths, found, strict=True):
            if sealed is None:
                self._abandoned.add(path)
                log.warning("%s: is no whole checkpoint; passed over", path.name)
        return sorted(filter(None, found), key=lambda sealed: (sealed.step, sealed.path), reverse=True)

    def _is_ours(self, sealed: Sealed) -> bool:
        return sealed.digest == self._digest(sealed.step)

    def _damage(self, sealed: Sealed) -> str:
        """What is wrong with the files of a checkpoint, the same on all processes, which each read their share."""
        problem = ""
        for name in sorted(sealed.files)[self._processes.rank :: self._processes.world]:
            try:
                if file_digest(sealed.path / name) != sealed.files[name]:
                    problem = f"{name} is damaged"
            except OSError as error:
                problem = f"{name} cannot be read ({error.strerror})"
        return next((str(each) for each in self._processes.gathered(problem) if each), "")

    def _load(self, path: Path, module: nn.Module, optimizer: torch.optim.Optimizer) -> Progress:
        reader, alone = FileSystemReader(path), self._processes.world == 1
        try:
            load(_tensors(module, optimizer), storage_reader=reader, process_group=self._processes.saving, no_dist=alone)
        except CheckpointException as error:
            raise CorruptInput(path, "", f"does not fit the model: {_reason(error)}") from error
        record = torch.load(path / PROGRESS, map_location="cpu", weights_only=True)
        state = torch.load(io.BytesIO(record["state"]), map_location="cpu", weights_only=True)
        _set_random_state(record["random"], record["step"], self._processes)
        return Progress(step=record["step"], state=state)

    # -- writing, in the thread ------------------------------------------------------------------------------------------

    def _write(self, sealed: Sealed, tensors: dict[str, Any], state: bytes, random: dict[str, Any]) -> None:
        partial, rank = sealed.path.with_name(sealed.path.name + PARTIAL), self._processes.rank
        problem, files = "", dict[str, str]()
        try:
            writer = FileSystemWriter(partial, per_thread_copy_ahead=0)
            save(tensors, storage_writer=writer, process_group=self._processes.saving, no_dist=self._processes.world == 1)
            files = {path.name: file_digest(path) for path in partial.glob(f"__{rank}_*")}
        except (Exception, CheckpointException) as error:  # the others must hear of it
            problem = _reason(error)
        told = cast(list[tuple[str, dict[str, str], Any]], self._behind.gathered((problem, files, random)))
        problem = next((each for each, _, _ in told if each), "")
        if rank == 0 and not problem:
            try:
                files = {name: digest for _, theirs, _ in told for name, digest in theirs.items()}
                record = {"step": sealed.step, "state": state, "random": [each for _, _, each in told]}
                self._finish(replace(sealed, files=files), record, partial)
            except (OSError, RuntimeError) as error:  # torch's writer raises the latter
                problem = _reason(error)
        problem = str(self._behind.gathered(problem)[0])
        if problem:
            if rank == 0:
                shutil.rmtree(partial, ignore_errors=True)
            raise Unfinished(
                f"the checkpoint of step {sealed.step} could not be written ({problem}); those before it are whole: "
                "mend that, then the same command goes on from there"
            )

    def _finish(self, sealed: Sealed, record: dict[str, Any], partial: Path) -> None:
        with (partial / PROGRESS).open("wb") as file:
            torch.save(record, file)
            file.flush()
            os.fsync(file.fileno())
        files = sealed.files | {name: file_digest(partial / name) for name in (".metadata", PROGRESS)}
        content = {"format": FORMAT, "step": sealed.step, "processes": self._processes.world, "digest": sealed.digest}
        write_atomically(partial / SEAL, json.dumps(content | {"files": files}, indent=1, sort_keys=True))
        sync_folder(partial)
        if sealed.path.exists():  # damaged, or of another plan
            delete(sealed.path)
        os.replace(partial, sealed.path)
        sync_folder(sealed.path.parent)
        self._abandoned.discard(sealed.path)
        self._prune()

    def _prune(self) -> None:
        """Delete all but the latest of this plan; what was passed over is of no use now."""
        there = sorted(self._folder.glob("step-*[0-9]"))
        ours = [path for path in there if path not in self._abandoned]
        for path in {*there} - {*ours[-self._keep :]}:
            delete(path)


def read_seal(path: Path) -> Sealed | None:
    """What a folder says of the checkpoint in it; None when it says nothing that can be read."""
    try:
        content = json.loads((path / SEAL).read_bytes())
        if content["format"] != FORMAT:
            return None
        return Sealed(path=path, step=int(content["step"]), digest=str(content["digest"]), files=dict(content["files"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def delete(folder: Path) -> None:
    """Delete a folder so that a kill leaves it whole or under a name that nobody reads."""
    if folder.exists():
        doomed = folder.with_name(f"{folder.name}.old{PARTIAL}")
        shutil.rmtree(doomed, ignore_errors=True)
        os.replace(folder, doomed)
        shutil.rmtree(doomed)


def _link(source: str, target: str) -> None:
    """A second name of a file, or a copy where the disk has no such thing."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _tensors(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The weights and moments themselves, by the model's names; a tied weight once."""
    is_fresh = not optimizer.state
    weights, moments = get_state_dict(module, optimizer)
    if is_fresh:  # torch took a step of length 0 to have moments at all
        for moment in optimizer.state.values():
            moment["step"].zero_()
    every = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    tied = every - {name for name, _ in module.named_parameters()}
    return {"model": {name: weights[name] for name in weights if name not in tied}, "optimizer": moments["state"]}


def _random_state(device: str) -> dict[str, torch.Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if device.startswith("cuda"):
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def _set_random_state(states: list[dict[str, torch.Tensor]], step: int, processes: Processes) -> None:
    """A process that was not there when the checkpoint was written starts from a seed of step and rank."""
    if processes.rank >= len(states):
        torch.manual_seed((step << 16) + processes.rank)
        return
    own = states[processes.rank]
    torch.set_rng_state(own["cpu"])
    if "cuda" in own and processes.device.startswith("cuda"):
        torch.cuda.set_rng_state(own["cuda"], processes.device)


def _reason(error: BaseException) -> str:
    """In a few words, of the process that failed first."""
    if isinstance(error, CheckpointException):
        error = next(iter(error.failures.values()))[0]
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "no space left on the device"
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
