"""Rounds of tasks: the same work on many units of input, each done whole or not at all, by any of datatrove's executors.

datatrove marks a task as completed by its number, so that a changed input list, or another number of tasks, silently runs
nothing or the wrong thing; and one failing task ends its pool. Here a unit is known by its `key`, a digest of what goes into
it. It works in a folder of its own, which one rename puts in place: a rerun skips what is there, and of two attempts at the
same unit (a task given up as lost, two machines) the first one counts and the other is thrown away. An executor only has to
call `Perform` with every number below the count of units that are left; what it misses (a killed worker) it is given again.

A round can report to the catalog: each unit is a slot of its plan, and has a manifest as soon as it is in place. So the catalog
counts what is done while the round goes on, and says what is missing when it does not go on.
"""

from __future__ import annotations

import errno
import logging
import pickle
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from traceback import format_exception
from typing import Any, Protocol

import duckdb
import loguru
from datatrove.pipeline.base import PipelineStep
from tqdm import tqdm

from ..catalog import progress
from ..catalog.errors import SeaLionError, Unfinished
from ..catalog.fingerprint import file_digest, fingerprint
from ..catalog.slots import Count, Flow, Manifest, SlotSet

log = logging.getLogger(__name__)

# datatrove adds its log to standard error in every task; failures are recorded and raised here.
# At import, because worker processes import this module and nothing above it.
loguru.logger.disable("datatrove")

REPORT_SECONDS = 5
"""Between two looks at a round under way, for its progress file."""
LINE_SECONDS = 30
"""Between two lines about a round under way, where no progress bar is shown."""
PASSES = 3
"""How often a unit is given to the executor: one that its workers die of is then recorded as failed."""
FAILED = ".failed"
"""Ends the name of a unit's record of its failure."""
FAILURE = "failed"
"""There once any unit of the round has failed: to look for the records would list the folder for each task."""


class Unit(Protocol):
    """What one task does."""

    @property
    def key(self) -> str:
        """Digest of everything that its output depends on; names its folder."""
        ...

    @property
    def label(self) -> str:
        """For messages: a file's name, a language."""
        ...


Work = Callable[[Any, Path], None]
"""Does one unit, writing into a folder that is empty; picklable."""


Executor = Callable[["Perform", int], None]
"""Runs `Perform` for every rank below a number; may miss some, may raise when one of its processes dies."""


Described = tuple[Sequence[Count], Sequence[Flow]]
"""What a unit's folder holds, and what was removed on the way."""


def undescribed(unit: Any, folder: Path) -> Described:
    """Nothing, for units that make no documents."""
    return (), ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reporting:
    """Where a round reports its units. Goes to the workers as it is."""

    slots: SlotSet
    """The set of its slots."""
    fingerprint: str
    """Of all that the output depends on beside the units' keys: recipe and code."""
    describe: Callable[[Any, Path], Described] = undescribed
    """Says what a unit's folder holds; picklable."""

    def report(self, unit: Unit, folder: Path, seconds: float = 0.0) -> None:
        """Report what is in a unit's folder."""
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        listed = [[path.relative_to(folder).as_posix(), path.stat().st_size, file_digest(path)] for path in files]
        counts, flow = self.describe(unit, folder)
        manifest = Manifest(
            slot=unit.key, sha256=fingerprint(listed), bytes=sum(path.stat().st_size for path in files),
            documents=sum(row.documents for row in counts), seconds=seconds, counts=tuple(counts), flow=tuple(flow),
        )  # fmt: skip
        self.slots.report(manifest)


@dataclass(frozen=True, slots=True)
class Reported:
    """Work that is reported."""

    work: Work
    """Does one unit."""
    reporting: Reporting
    """Where to."""

    def __call__(self, unit: Any, folder: Path) -> None:
        """Do the unit."""
        self.work(unit, folder)


class Perform(PipelineStep):  # type: ignore[misc]  # datatrove is untyped
    """The one step of a round's pipelines: the unit with the task's rank."""

    type, name = "task", "unit"

    def __init__(self, work: Work, units: Sequence[Unit], folder: Path) -> None:
        super().__init__()
        self.work, self.units, self.folder = work, list(units), folder

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Any]:
        """Do the unit; what it raises is recorded beside its folder, and no other is begun after that."""
        unit = self.units[rank]
        if not is_settled(self.folder, unit) and not (self.folder / FAILURE).exists():
            try:
                _do(self.work, unit, self.folder)
            except Exception as error:
                _record(self.folder, unit, _named(error, unit))
        yield from ()


def run_round(
    name: str,
    work: Work,
    units: Sequence[Unit],
    folder: Path,
    executor: Executor,
    *,
    shows_progress: bool = False,
    reporting: Reporting | None = None,
) -> None:
    """Do all units that have no folder yet, and report those that have one.

    The first unit that fails ends the round, and its error is raised; what is done stays, and a failure is tried again next
    time. Raises Unfinished when the disk is full or a unit's workers die again and again.
    """
    if len({unit.key for unit in units}) < len(units):
        raise ValueError(f"{name}: two units have the same key")
    folder.mkdir(parents=True, exist_ok=True)
    if reporting:
        planned = reporting.slots.plan([(unit.key, unit.label) for unit in units], reporting.fingerprint, replaces=True)
        reporting = replace(reporting, slots=planned)
        work = Reported(work, reporting)
    for failure in (*folder.glob(f"*{FAILED}"), folder / FAILURE):
        failure.unlink(missing_ok=True)
    broken = "no message"
    with _watched(name, units, folder, shows_progress):
        for _ in range(PASSES):
            left = [unit for unit in units if not is_settled(folder, unit)]
            if not left or (folder / FAILURE).exists():
                break
            try:
                executor(Perform(work, left, folder), len(left))
            except SeaLionError:
                raise
            except Exception as error:  # whatever an executor makes of a dead process
                broken = f"{type(error).__name__}: {error}"
                log.info("a worker was lost (%s); its tasks are tried again", broken)
    for partial in folder.glob(".*.partial"):  # of workers that died, now or in an earlier run
        shutil.rmtree(partial, ignore_errors=True)
    if reporting:
        _report_rest(reporting, units, folder)
    for unit in units:
        if _failed(folder, unit).is_file():
            raise _recorded(folder, unit)
    for unit in units:
        if not is_settled(folder, unit):
            raise Unfinished(f"{unit.label}: its worker died {PASSES} times ({broken}); the same command goes on from here")


def _report_rest(reporting: Reporting, units: Sequence[Unit], folder: Path) -> None:
    """Report the units that are in place but whose workers died before they said so, or that an earlier run did."""
    reported = reporting.slots.reported()
    for unit in units:
        if unit.key not in reported and (folder / unit.key).is_dir():
            reporting.report(unit, folder / unit.key)


@contextmanager
def _watched(name: str, units: Sequence[Unit], folder: Path, shows_progress: bool) -> Iterator[None]:
    """Show how many units have a folder: a bar, or a line now and then."""
    ended = threading.Event()
    report = progress.current()  # a thread has none of its own

    def watch() -> None:
        line = time.monotonic()
        with tqdm(total=len(units), desc=name, unit="task", disable=not shows_progress) as bar:
            while not ended.wait(0.5 if shows_progress else REPORT_SECONDS):
                done = _done(units, folder)
                bar.update(done - bar.n)
                if report:
                    report.update(stage=name, done=done, total=len(units), unit="tasks")
                if not shows_progress and time.monotonic() - line > LINE_SECONDS:
                    line = time.monotonic()
                    log.info("corpus: %s, %d of %d tasks done", name, done, len(units))
            bar.update(_done(units, folder) - bar.n)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _done(units: Sequence[Unit], folder: Path) -> int:
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    return sum(unit.key in there for unit in units)


def is_settled(folder: Path, unit: Unit) -> bool:
    """Whether a unit is done or has failed."""
    return (folder / unit.key).is_dir() or _failed(folder, unit).is_file()


def _failed(folder: Path, unit: Unit) -> Path:
    return folder / f"{unit.key}{FAILED}"


def _do(work: Work, unit: Unit, folder: Path) -> None:
    partial, final = folder / f".{unit.key}.{secrets.token_hex(4)}.partial", folder / unit.key
    partial.mkdir()
    try:
        start = time.perf_counter()
        work(unit, partial)
        is_first = _put_in_place(partial, final)
        if isinstance(work, Reported):
            # What is in place counts, whoever put it there: the first may have been killed before it could say so.
            work.reporting.report(unit, final, time.perf_counter() - start if is_first else 0.0)
            if not is_first:
                work.reporting.report(unit, partial)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _put_in_place(partial: Path, final: Path) -> bool:
    """Whether this attempt was the first."""
    try:
        partial.rename(final)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False
    return True


def _named(error: Exception, unit: Unit) -> Exception:
    """The error as a person should read it; one that is nobody's mistake keeps its traceback, and what is done stays."""
    if isinstance(error, SeaLionError):
        return error
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Unfinished(f"{unit.label}: no space left on the device; free some, then run the same command again")
    if isinstance(error, (duckdb.IOException, duckdb.OutOfMemoryException)):
        line = str(error).splitlines()[0]
        # A full disk is out of memory too for DuckDB, which then fails to move a block there.
        is_memory = isinstance(error, duckdb.OutOfMemoryException) and "offload" not in line
        advice = "give DuckDB more memory" if is_memory else "free some disk space"
        return Unfinished(f"{unit.label}: {line}; {advice}, then run the same command again")
    return RuntimeError(f"{unit.label} failed:\n{''.join(format_exception(error))}")


def _record(folder: Path, unit: Unit, error: Exception) -> None:
    """Write the error down, whole or not at all; raises it when there is no space for that."""
    partial = folder / f".{unit.key}.{secrets.token_hex(4)}{FAILED}"
    try:
        partial.write_bytes(pickle.dumps(error))
        partial.rename(_failed(folder, unit))
        (folder / FAILURE).touch()
    except OSError:
        partial.unlink(missing_ok=True)
        raise error from None


def _recorded(folder: Path, unit: Unit) -> Exception:
    try:
        error = pickle.loads(_failed(folder, unit).read_bytes())
    except Exception as problem:  # a damaged pickle can raise anything
        return Unfinished(
            f"{unit.label}: it failed, and the record of why cannot be read ({type(problem).__name__}); "
            "the same command tries it again"
        )
    assert isinstance(error, Exception)
    return error
