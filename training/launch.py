"""Several processes make one checkpoint: `torchrun --nproc-per-node 2 -m sea_lion.training.launch recipe.toml artifacts`.

`accelerate launch` and Slurm's `srun` (see `launch_files`) start the same module. Rank 0 makes the artifact in the store as
ever (lock, record, rename); the others run the same training beside it and write nothing but their shards of the checkpoints.

The exit code is 0 when the checkpoint is made, 2 for what a person can mend (one line, not one a process), and 75 when the run
was told to stop and has saved what it did: the same command goes on. torchrun itself makes 1 of them all, so launch files start
it as `python -m sea_lion.training.launch torchrun …`, which passes the code on.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import multiprocessing

from ..catalog.commands import settings_of
from ..catalog.errors import SeaLionError
from ..catalog.progress import reported
from ..catalog.recipes import read_recipe
from ..catalog.remote import store_at
from ..catalog.store import Job, Options
from .interruption import RESUME_ME
from .processes import check_device
from .recipe import TrainRecipe
from .train import train_model

LAUNCHER = "SEA_LION_LAUNCHER"
"""Environment variable with the process that started the others."""
MENDABLE = 2
"""Exit code of a SeaLionError."""
PRECEDENCE = 5.0
"""Seconds that the other processes leave rank 0 to say what went wrong: mostly all of them know the same."""


def train_in_processes(file: Path, catalog: str, options: Options) -> None:
    """Make the checkpoint of a recipe's file in a catalog, a folder or an address; every process of the launch calls it."""
    check_device(options.device)
    recipe = read_recipe(file, {"train": TrainRecipe})
    assert isinstance(recipe, TrainRecipe)
    store = store_at(catalog)
    if int(os.environ.get("RANK", "0")) == 0:
        with reported(store.root, str(recipe.ref), recipe.kind):
            store.make(recipe, file.parent, train_model, options)
        return
    planned = store.plan(recipe, file.parent)
    if planned.made is None:
        folder = store.work_folder(planned)
        train_model(Job(recipe=recipe, inputs=planned.inputs, files=planned.files, folder=folder, store=store, options=options))


def main(arguments: Sequence[str]) -> int:
    """Train as one of several processes, or start these with torchrun; returns the exit code."""
    if arguments[:1] == ["torchrun"]:
        return _torchrun(arguments[1:])
    parser = argparse.ArgumentParser(prog="python -m sea_lion.training.launch", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("catalog", help="folder of the artifacts, or s3://bucket/prefix")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of training")
    given = parser.parse_args(arguments)
    rank = int(os.environ.get("RANK", "0"))
    if LAUNCHER in os.environ and not _ends_with(int(os.environ[LAUNCHER])):
        return RESUME_ME
    logging.basicConfig(level=logging.INFO if rank == 0 else logging.WARNING, format="%(message)s", stream=sys.stderr)
    try:
        options = Options(device=given.device, executor_settings=settings_of(given.set))
        train_in_processes(given.recipe, given.catalog, options)
    except SeaLionError as error:
        if rank:
            time.sleep(PRECEDENCE)
        print(f"sea-lion: {f'process {rank}: ' if rank else ''}{error}", file=sys.stderr, flush=True)
        return getattr(error, "exit_code", MENDABLE)
    return 0


def _ends_with(launcher: int) -> bool:
    """Have this process told to stop when its launcher ends, however it ends; whether that is still there.

    torchrun that is stopped while it starts its processes forgets some of them. They would wait for the others for half an
    hour, and rank 0 would hold the artifact's lock.
    """
    if sys.platform == "linux":
        tie: Any = multiprocessing
        tie._prctl_pr_set_pdeathsig(signal.SIGTERM)  # as torch does for the processes that it spawns
    return os.getppid() == launcher


def _torchrun(arguments: Sequence[str]) -> int:
    """Run torchrun: 75 when it or a process was told to stop, 2 for what a person can mend, 1 for all else."""
    from torch.distributed import run as elastic
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    os.environ[LAUNCHER] = str(os.getpid())
    try:
        command: Any = elastic  # torch leaves it untyped
        command.run(command.parse_args(list(arguments)))
    except SignalException:
        return RESUME_ME
    except ChildFailedError as error:
        code = error.get_first_failure()[1].exitcode
        if code not in (MENDABLE, RESUME_ME):
            print(error, file=sys.stderr)
        return code if code in (MENDABLE, RESUME_ME) else 1
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1:])
    if sys.argv[1:2] == ["torchrun"]:  # its keep-alive threads may abort an interpreter that ends: 75 would be lost
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
