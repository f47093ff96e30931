"""What runs a round's tasks: datatrove's executors on this machine, on a Ray cluster or under Slurm.

datatrove's local executor hands tasks to a multiprocessing pool, which waits for ever for the result of a worker that was
killed (by the kernel, when memory runs out). Its tasks run here in a pool that notices. The workers end with the process that
started them, also when that was killed.
"""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

from datatrove.executor.local import LocalPipelineExecutor

from ..catalog.errors import MissingDependency, SeaLionError
from ..catalog.store import Options
from .rounds import Executor, Perform, Unit, is_settled

RAY_TASK_SECONDS = 6 * 3600
"""For one task: datatrove's actor does not notice when its own child process is killed, so a task needs an end."""
SLURM_POLL = 5.0
"""Seconds between two looks at a Slurm job."""


def executor(options: Options, logs: Path) -> Executor:
    """The executor that the command's flags ask for; raises SeaLionError for one that is not known or lacks a setting."""
    kinds: dict[str, Callable[[int, Mapping[str, str], Path], Executor]] = {"local": _Local, "ray": _Ray, "slurm": _Slurm}
    if options.executor not in kinds:
        raise SeaLionError(f"--executor {options.executor}: must be one of {', '.join(kinds)}")
    return kinds[options.executor](options.workers, options.executor_settings, logs)


class _Local:
    """datatrove's tasks in this process, or in worker processes of this machine."""

    def __init__(self, workers: int, settings: Mapping[str, str], logs: Path) -> None:
        _refuse_settings(settings, ())
        self.workers, self.logs = workers, logs

    def __call__(self, step: Perform, count: int) -> None:
        with tempfile.TemporaryDirectory(prefix="sea-lion-") as logs:
            if self.workers == 1:
                for unit in step.units:
                    _perform(_only(step, unit), logs)
                return
            left = deque(step.units)
            while left:
                # Which of the units under way killed its worker is not known: each of them runs alone now.
                for unit in _in_processes(step, left, min(self.workers, count), logs):
                    if not is_settled(step.folder, unit):
                        _in_processes(step, deque([unit]), 1, logs)  # run_round sees when it is not settled then


def _in_processes(step: Perform, left: deque[Unit], workers: int, logs: str) -> list[Unit]:
    """Do the units that are left until none is, or a worker dies; returns those that were under way then.

    The pool is never given more than its workers can begin, so that this is known.
    """
    under_way: dict[Future[None], Unit] = {}
    pool = ProcessPoolExecutor(workers, get_context("forkserver"), initializer=_end_with, initargs=(os.getpid(),))
    try:
        while left or under_way:
            while left and len(under_way) < workers:
                under_way[pool.submit(_perform, _only(step, left[0]), logs)] = left[0]
                left.popleft()  # not sooner: a pool that is found broken takes none
            for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                future.result()
                del under_way[future]
    except BaseException as error:
        for process in list((pool._processes or {}).values()):
            process.kill()
        if not isinstance(error, BrokenProcessPool):
            raise
    finally:
        pool.shutdown(cancel_futures=True)
    return list(under_way.values())


def _only(step: Perform, unit: Unit) -> Perform:
    """What is sent to a worker: all units for each of them would be their square."""
    return Perform(step.work, [unit], step.folder)


def _perform(step: Perform, logs: str) -> None:
    """Do the one unit of a step, as a datatrove task."""
    folder = f"{logs}/{step.units[0].key}"
    LocalPipelineExecutor([step], tasks=1, workers=1, logging_dir=folder, skip_completed=False)._run_for_rank(0)


def _end_with(driver: int) -> None:
    """End this worker when the process that started the pool is gone."""

    def watch() -> None:
        while True:
            time.sleep(0.5)
            try:
                os.kill(driver, 0)
            except OSError:
                os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class _Ray:
    """datatrove's Ray executor; the catalog's folder must be shared by the cluster's machines."""

    def __init__(self, workers: int, settings: Mapping[str, str], logs: Path) -> None:
        _refuse_settings(settings, ("address", "memory_gb", "time"))
        self.workers, self.settings, self.logs = workers, settings, logs
        self.memory_gb, self.seconds = _number(settings, "memory_gb", 1.5), _number(settings, "time", RAY_TASK_SECONDS)

    def __call__(self, step: Perform, count: int) -> None:
        try:
            import ray
        except ImportError as error:
            raise MissingDependency("ray", "for --executor ray") from error
        from datatrove.executor.ray import RayPipelineExecutor

        if not ray.is_initialized():
            ray.init(address=self.settings.get("address"), log_to_driver=False, include_dashboard=False)
        logs = _fresh(self.logs)
        RayPipelineExecutor(
            [step],
            tasks=count,
            workers=self.workers,
            mem_per_cpu_gb=self.memory_gb,
            time=int(self.seconds),
            logging_dir=str(logs),
            skip_completed=False,
        ).run()


class _Slurm:
    """datatrove's Slurm executor: an array job is submitted and waited for; the catalog's folder must be shared."""

    def __init__(self, workers: int, settings: Mapping[str, str], logs: Path) -> None:
        _refuse_settings(settings, ("partition", "time", "memory_gb", "qos", "env"))
        for name in ("partition", "time"):
            if name not in settings:
                raise SeaLionError(f"--executor slurm needs --set {name}=…, as sbatch does")
        self.memory_gb = math.ceil(_number(settings, "memory_gb", 2))
        self.workers, self.settings, self.logs = workers, settings, logs

    def __call__(self, step: Perform, count: int) -> None:
        from datatrove.executor.slurm import SlurmPipelineExecutor

        for command in ("sbatch", "squeue"):
            if shutil.which(command) is None:
                raise SeaLionError(f"--executor slurm: there is no {command} on this machine")
        logs = _fresh(self.logs)
        job = SlurmPipelineExecutor(
            [step],
            tasks=count,
            time=self.settings["time"],
            partition=self.settings["partition"],
            mem_per_cpu_gb=self.memory_gb,
            qos=self.settings.get("qos", ""),
            workers=self.workers,
            job_name="sea-lion",
            env_command=self.settings.get("env", f'export PATH="{Path(sys.executable).parent}:$PATH"'),
            logging_dir=str(logs),
            skip_completed=False,
            mail_type="NONE",
        )
        job.run()
        while not all(is_settled(step.folder, unit) for unit in step.units):
            time.sleep(float(os.environ.get("SEA_LION_SLURM_POLL", SLURM_POLL)))
            if not _is_queued(str(job.job_id)):
                return


def _is_queued(job: str) -> bool:
    """Whether Slurm still has the job; when it does not answer, the job is taken to be there."""
    found = subprocess.run(["squeue", "--noheader", "--job", job], capture_output=True, text=True, check=False)
    return bool(found.stdout.strip()) if found.returncode == 0 else "Invalid job id" not in found.stderr


def _number(settings: Mapping[str, str], name: str, default: float) -> float:
    try:
        number = float(settings.get(name, default))
    except ValueError:
        number = 0.0
    if not 0 < number < math.inf:
        raise SeaLionError(f"--set {name}={settings[name]}: must be a number above 0")
    return number


def _fresh(folder: Path) -> Path:
    """An empty folder for an executor's own logs: their marks of completion know only a task's number."""
    folder.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix="run-", dir=folder))


def _refuse_settings(settings: Mapping[str, str], known: tuple[str, ...]) -> None:
    for name in settings:
        if name not in known:
            raise SeaLionError(f"--set {name}: this executor knows {', '.join(known) or 'no settings'}")
