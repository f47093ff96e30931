"""What is being made now, and how far it is: a small file a task in the catalog's folder `.progress`, for `sea-lion serve`.

Whoever makes something opens a report (`reported`); the code below it says how far it is (`update`) without knowing who reads
that, as it would write to a log. Files are chosen over a socket or a database: runs on several machines share nothing but the
folder, and a killed run leaves a file that says when it was last heard of. A report never fails a run: one that cannot be
written is logged once. Not evidence and not part of any artifact: the file goes when the work is done.
"""

from __future__ import annotations

import json
import logging
import math
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from .errors import Unfinished
from .fingerprint import fingerprint, plain
from .recipes import adapter
from .records import STRICT

log = logging.getLogger(__name__)

PROGRESS = ".progress"
INTERVAL = 1.0
"""Seconds between two writes of one report."""
SILENT = 900.0
"""Seconds without a word after which a run on another machine counts as stopped."""
KEPT = 7 * 86_400.0
"""Seconds that the report of a run that failed or was killed stays."""
LARGEST = 1 << 20
"""Bytes of a report that are read; ours have some thousands."""

State = Literal["running", "failed", "interrupted", "stopped"]
"""`stopped`: the run was killed, or has not been heard of for long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far one task is. Times are seconds since 1970, UTC."""

    __pydantic_config__ = STRICT
    ref: str
    """The artifact that is being made; for a chain, its folder of recipes."""
    kind: str
    """Kind of recipe, or `chain`."""
    stage: str = ""
    """What is being done: a step of a corpus, the artifact that a chain is at."""
    done: int = 0
    total: int = 0
    """0 while nobody knows."""
    unit: str = ""
    """Of `done` and `total`: `steps`, `tasks`."""
    first: int = 0
    """`done` at this attempt's first word: the pace is that of what came after."""
    loss: float | None = None
    lr: float | None = None
    tokens: int = 0
    """Tokens trained on in this attempt."""
    tokens_per_second: float | None = None
    losses: tuple[tuple[int, float], ...] = ()
    """The loss curve so far, thinned: step and loss."""
    started: float
    """When this attempt began."""
    stage_started: float
    """When the stage it is in began."""
    updated: float
    """When this was written."""
    pid: int
    born: str
    """When the process started, in the kernel's ticks: process ids are used again. Empty where that is not known."""
    host: str
    state: State = "running"
    problem: str = ""
    """Why it failed or was interrupted."""

    @property
    def seconds_left(self) -> float | None:
        """At the pace so far, None where there is none."""
        covered = self.done - self.first
        if self.state != "running" or covered <= 0 or self.total <= self.done:
            return None
        return (self.updated - self.stage_started) / covered * (self.total - self.done)


@dataclass(slots=True)
class Report:
    """One task's progress, and the file it goes to."""

    path: Path
    latest: Progress
    written: float = -math.inf
    """When it was last written, on the monotonic clock."""
    is_broken: bool = False
    """Whether the last write failed."""

    def is_due(self) -> bool:
        """Whether figures given now would be written."""
        return time.monotonic() - self.written >= INTERVAL

    def update(self, **fields: Any) -> None:
        """Take new figures (fields of `Progress`) and write them: at most once a second, a new stage at once.

        A stage counts from the first `done` that is given with it.
        """
        now = time.time()
        is_new = fields.get("stage", self.latest.stage) != self.latest.stage
        if is_new:
            fields = {"done": 0, "total": 0, "unit": "", "first": fields.get("done", 0), "stage_started": now} | fields
        self.latest = replace(self.latest, **fields, updated=now)
        if is_new or self.is_due():
            self.write()

    def write(self) -> None:
        """Write the file, whole or not at all."""
        self.written = time.monotonic()
        partial = self.path.with_name(f".{self.path.stem}.{os.getpid()}.partial")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(json.dumps(plain(_finite(self.latest))), "utf-8")
            os.replace(partial, self.path)
            self.is_broken = False
        except OSError as error:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            if not self.is_broken:
                log.warning("progress of %s cannot be shown: %s", self.latest.ref, error)
            self.is_broken = True


_CURRENT: ContextVar[Report | None] = ContextVar("progress", default=None)


def current() -> Report | None:
    """The report of what is being made here; a thread of its own has none and must be given one."""
    return _CURRENT.get()


def update(**fields: Any) -> None:
    """Say how far the task being made here is; nothing happens when nobody opened a report."""
    report = _CURRENT.get()
    if report is not None:
        report.update(**fields)


@contextmanager
def reported(root: Path, ref: str, kind: str) -> Iterator[Report]:
    """Report the making of `ref` while the block runs; the file goes when it ends well, and says why when it does not."""
    now, pid = time.time(), os.getpid()
    latest = Progress(
        ref=ref, kind=kind, started=now, stage_started=now, updated=now, pid=pid, born=_born(pid), host=socket.gethostname()
    )
    report = Report(root / PROGRESS / f"{fingerprint([kind, ref])[:16]}.json", latest)
    report.write()
    _sweep(report.path.parent)
    token = _CURRENT.set(report)
    try:
        yield report
    except BaseException as error:
        is_outside = isinstance(error, (Unfinished, KeyboardInterrupt, SystemExit, GeneratorExit))
        problem = " ".join(str(error).split())[:500] or type(error).__name__
        report.latest = replace(
            report.latest, state="interrupted" if is_outside else "failed", problem=problem, updated=time.time()
        )
        report.write()
        raise
    else:
        with suppress(OSError):
            report.path.unlink(missing_ok=True)
    finally:
        _CURRENT.reset(token)


def read_progress(root: Path) -> list[Progress]:
    """What is being made below a catalog's folder, and what failed or was killed lately, the latest first.

    A file that is no report is passed over.
    """
    found = []
    for path in (root / PROGRESS).glob("[!.]*.json"):
        if not path.is_file():  # a pipe would be waited for
            continue
        try:
            with path.open("rb") as file:
                progress: Progress = adapter(Progress).validate_json(file.read(LARGEST))
        except (OSError, ValueError):
            continue
        if progress.state == "running" and not _is_alive(progress):
            progress = replace(progress, state="stopped")
        if progress.state == "running" or time.time() - progress.updated < KEPT:
            found.append(progress)
    return sorted(found, key=lambda progress: (progress.state != "running", -progress.started, progress.ref))


def _is_alive(progress: Progress) -> bool:
    if progress.host != socket.gethostname():
        return time.time() - progress.updated < SILENT
    return progress.born == _born(progress.pid) and _exists(progress.pid)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return True


def _born(pid: int) -> str:
    """The start time in Linux's `/proc/PID/stat`, whose second field may hold spaces and brackets."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _finite(progress: Progress) -> Progress:
    def figure(value: float | None) -> float | None:
        return value if value is not None and math.isfinite(value) else None

    loss, lr, pace = figure(progress.loss), figure(progress.lr), figure(progress.tokens_per_second)
    return replace(progress, loss=loss, lr=lr, tokens_per_second=pace)


def _sweep(folder: Path) -> None:
    """Delete what is too old to be shown."""
    with suppress(OSError):
        for path in folder.iterdir():
            if time.time() - path.stat().st_mtime > KEPT:
                path.unlink(missing_ok=True)
