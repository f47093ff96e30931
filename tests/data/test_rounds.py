"""Rounds of tasks: each unit once, whatever dies; by every executor."""

from __future__ import annotations

import errno
import os
import pickle
import signal
import stat
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pytest

from sea_lion.catalog.errors import CorruptInput, SeaLionError, Unfinished
from sea_lion.catalog.places import Place
from sea_lion.catalog.slot_rows import set_rows
from sea_lion.catalog.slots import Count, Flow, SlotSet
from sea_lion.catalog.store import Options
from sea_lion.data.executors import _in_processes, _only, executor
from sea_lion.data.rounds import Described, Perform, Reported, Reporting, Unit, _do, _named, run_round


@dataclass(frozen=True)
class Number:
    """A unit of the tests."""

    key: str
    value: int

    @property
    def label(self) -> str:
        return f"number {self.value}"


@dataclass(frozen=True)
class Square:
    """Writes a square, leaves a trace of each attempt, and does to some numbers what crawls do to workers."""

    traces: Path
    dies_of: tuple[int, ...] = ()
    dies_once_of: tuple[int, ...] = ()
    fails_for: tuple[int, ...] = ()

    def __call__(self, unit: Number, folder: Path) -> None:
        trace = self.traces / f"{unit.key}-{time.monotonic_ns()}"
        trace.touch()
        attempts = len(list(self.traces.glob(f"{unit.key}-*")))
        (folder / "half").write_text("half")
        if unit.value in self.dies_of or (unit.value in self.dies_once_of and attempts == 1):
            os.kill(os.getpid(), signal.SIGKILL)
        if unit.value in self.fails_for:
            raise CorruptInput("file", "byte 3", "is no number")
        (folder / "half").unlink()
        (folder / "square").write_text(str(unit.value**2))


UNITS = [Number(f"u{i:02}", i) for i in range(12)]


def squares(folder: Path) -> dict[str, str]:
    return {path.parent.name: path.read_text() for path in folder.glob("*/square")}


EXPECTED = {unit.key: str(unit.value**2) for unit in UNITS}


@pytest.fixture
def traces(tmp_path: Path) -> Path:
    folder = tmp_path / "traces"
    folder.mkdir()
    return folder


def local(tmp_path: Path, workers: int) -> Callable[[Perform, int], None]:
    return executor(Options(workers=workers), tmp_path / "logs")


@pytest.mark.parametrize("workers", [1, 3])
def test_every_unit_is_done_once(tmp_path: Path, traces: Path, workers: int) -> None:
    run_round("squares", Square(traces), UNITS, tmp_path / "round", local(tmp_path, workers))
    assert squares(tmp_path / "round") == EXPECTED and len(list(traces.iterdir())) == len(UNITS)
    run_round("squares", Square(traces), UNITS, tmp_path / "round", local(tmp_path, workers))
    assert len(list(traces.iterdir())) == len(UNITS), "what is done is not done again"


def test_what_is_done_is_known_by_its_key_not_its_number(tmp_path: Path, traces: Path) -> None:
    run_round("squares", Square(traces), UNITS[6:], tmp_path / "round", local(tmp_path, 1))
    run_round("squares", Square(traces), UNITS, tmp_path / "round", local(tmp_path, 1))
    assert squares(tmp_path / "round") == EXPECTED and len(list(traces.iterdir())) == len(UNITS)


def test_a_killed_worker_costs_nothing(tmp_path: Path, traces: Path) -> None:
    run_round("squares", Square(traces, dies_once_of=(2, 7)), UNITS, tmp_path / "round", local(tmp_path, 2))
    assert squares(tmp_path / "round") == EXPECTED
    assert [path.name for path in (tmp_path / "round").iterdir() if path.name.startswith(".")] == []


def test_a_unit_that_kills_its_workers_is_named_and_the_others_are_done(tmp_path: Path, traces: Path) -> None:
    with pytest.raises(Unfinished, match=r"number 5: its worker died"):
        run_round("squares", Square(traces, dies_of=(5,)), UNITS, tmp_path / "round", local(tmp_path, 2))
    assert squares(tmp_path / "round") == {key: value for key, value in EXPECTED.items() if key != "u05"}
    run_round("squares", Square(traces), UNITS, tmp_path / "round", local(tmp_path, 2))
    assert squares(tmp_path / "round") == EXPECTED


def test_the_others_run_in_a_pool_again_after_a_worker_was_killed(tmp_path: Path, traces: Path) -> None:
    run_round("pids", Pid(traces), UNITS, tmp_path / "round", local(tmp_path, 2))
    pids = [path.read_text() for path in (tmp_path / "round").glob("*/pid")]
    # The one or two that were under way have a process each; the first pool and the second have two at most.
    assert len(pids) == len(UNITS) and len(set(pids)) <= 6


@dataclass(frozen=True)
class Pid:
    """Writes who did it; the first worker is killed over its first unit."""

    traces: Path

    def __call__(self, unit: Number, folder: Path) -> None:
        try:
            (self.traces / "killed").touch(exist_ok=False)
        except FileExistsError:
            (folder / "pid").write_text(str(os.getpid()))
        else:
            os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_is_sent_its_own_unit_only(tmp_path: Path, traces: Path) -> None:
    left: deque[Unit] = deque(UNITS)
    step = Perform(Sent(), UNITS, tmp_path)
    assert _in_processes(step, left, 2, str(tmp_path / "logs")) == [] and not left
    assert {path.parent.name for path in tmp_path.glob("*/sent")} == set(EXPECTED)
    assert pickle.loads(pickle.dumps(_only(step, UNITS[3]))).units == [UNITS[3]]


@dataclass(frozen=True)
class Sent:
    """Writes a file."""

    def __call__(self, unit: Number, folder: Path) -> None:
        (folder / "sent").touch()


def test_a_record_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "round"

    def damaged(step: Perform, count: int) -> None:
        (folder / "u03.failed").touch()

    with pytest.raises(Unfinished, match=r"number 3: it failed, and the record .* \(EOFError\)"):
        run_round("squares", Square(tmp_path), UNITS, folder, damaged)


def test_a_record_that_cannot_be_written_leaves_nothing_and_its_error_is_raised(
    tmp_path: Path, traces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> int:
        path.touch()
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(CorruptInput, match="is no number"):
        run_round("squares", Square(traces, fails_for=(0,)), UNITS, tmp_path / "round", local(tmp_path, 1))
    assert list((tmp_path / "round").glob("*failed")) == []


def test_no_other_unit_is_begun_after_a_failure_and_the_next_round_begins_anew(tmp_path: Path, traces: Path) -> None:
    for _ in range(2):
        with pytest.raises(CorruptInput):
            run_round("squares", Square(traces, fails_for=(1,)), UNITS, tmp_path / "round", local(tmp_path, 1))
    assert sorted(path.name[:3] for path in traces.iterdir()) == ["u00", "u01", "u01"]


def test_two_units_with_one_key_are_refused(tmp_path: Path, traces: Path) -> None:
    with pytest.raises(ValueError, match="same key"):
        run_round("squares", Square(traces), [UNITS[0], Number("u00", 5)], tmp_path, local(tmp_path, 1))


def test_duckdb_s_two_kinds_of_full_are_told_apart() -> None:
    memory = duckdb.OutOfMemoryException("Out of Memory Error: could not allocate block of size 256.0 KiB")
    disk = duckdb.OutOfMemoryException("Out of Memory Error: failed to offload data block of size 256.0 KiB")
    assert "more memory" in str(_named(memory, UNITS[0])) and "disk" not in str(_named(memory, UNITS[0]))
    assert "disk space" in str(_named(disk, UNITS[0]))


@pytest.mark.parametrize("workers", [1, 2])
def test_bad_input_is_raised_as_it_is(tmp_path: Path, traces: Path, workers: int) -> None:
    with pytest.raises(CorruptInput, match="file: byte 3: is no number"):
        run_round("squares", Square(traces, fails_for=(4,)), UNITS, tmp_path / "round", local(tmp_path, workers))
    assert not (tmp_path / "round" / "u04").exists()


def test_a_full_disk_is_one_line_and_keeps_what_is_done(tmp_path: Path, traces: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(disk)], check=False, capture_output=True
    ).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        (disk / "filler").write_bytes(bytes(1_000_000))
        with pytest.raises(Unfinished, match="no space left"):
            run_round("big", Big(), UNITS, disk / "round", local(tmp_path, 1))
        (disk / "filler").unlink()
        run_round("big", Big(), UNITS[:3], disk / "round", local(tmp_path, 1))
        assert sorted(path.name for path in (disk / "round").iterdir()) == ["u00", "u01", "u02"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@dataclass(frozen=True)
class Big:
    """Writes 200 kB."""

    def __call__(self, unit: Number, folder: Path) -> None:
        (folder / "big").write_bytes(bytes(200_000))


def test_workers_end_with_the_process_that_started_them(tmp_path: Path, traces: Path) -> None:
    code = f"""
import sys, time
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_rounds import Sleep, UNITS, local
from sea_lion.data.rounds import run_round
if __name__ == "__main__":
    here = Path({str(tmp_path)!r})
    run_round("sleep", Sleep(here / "traces"), UNITS, here / "round", local(here, 2))
"""
    script = tmp_path / "driver.py"
    script.write_text(code)
    driver = subprocess.Popen([sys.executable, str(script)], stderr=subprocess.DEVNULL)
    _wait(lambda: len(list(traces.iterdir())) >= 2)
    pids = [int(path.name) for path in traces.iterdir()]
    driver.kill()
    driver.wait()
    _wait(lambda: not any(_is_running(pid) for pid in pids))
    assert len(pids) >= 2 and not any(map(_is_running, pids))


@dataclass(frozen=True)
class Sleep:
    """Says who it is and sleeps."""

    traces: Path

    def __call__(self, unit: Number, folder: Path) -> None:
        (self.traces / str(os.getpid())).touch()
        time.sleep(60)


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _wait(is_so: Callable[[], bool]) -> None:
    for _ in range(600):
        if is_so():
            return
        time.sleep(0.1)
    raise AssertionError("it did not happen within a minute")


def described(unit: Number, folder: Path) -> Described:
    square = int((folder / "square").read_text())
    return (Count(language="tha", documents=square),), (Flow(step=1, step_name="square", outcome="out", documents=square),)


def reporting(tmp_path: Path) -> Reporting:
    slots = SlotSet(place=Place.at(tmp_path / "catalog"), ref="corpus/squares@1", stage="squares")
    return Reporting(slots=slots, fingerprint="recipe", describe=described)


def reported(tmp_path: Path) -> dict[str, int]:
    rows = set_rows(Place.at(tmp_path / "catalog"), {})
    assert rows.problems == []
    return {row["slot"]: row["documents"] for row in rows.tables["slot_counts"].to_pylist()}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_round_reports_what_is_in_place(tmp_path: Path, traces: Path, workers: int) -> None:
    work, run = Square(traces, dies_once_of=(2,) if workers > 1 else ()), local(tmp_path, workers)
    run_round("squares", work, UNITS, tmp_path / "round", run, reporting=reporting(tmp_path))
    assert reported(tmp_path) == {unit.key: unit.value**2 for unit in UNITS}
    rows = set_rows(Place.at(tmp_path / "catalog"), {})
    assert rows.tables["slots"]["label"].to_pylist()[0] == "number 0" and len(rows.tables["slot_flow"]) == len(UNITS)
    before = rows.tables["slots"]
    run_round("squares", work, UNITS, tmp_path / "round", run, reporting=reporting(tmp_path))
    assert set_rows(Place.at(tmp_path / "catalog"), {}).tables["slots"].equals(before)


def test_what_was_done_before_anyone_reported_is_reported_and_what_failed_is_missing(tmp_path: Path, traces: Path) -> None:
    run_round("squares", Square(traces), UNITS[:3], tmp_path / "round", local(tmp_path, 1))
    work, run = Square(traces, fails_for=(5,)), local(tmp_path, 1)
    with pytest.raises(CorruptInput, match="is no number"):
        run_round("squares", work, UNITS, tmp_path / "round", run, reporting=reporting(tmp_path))
    assert set(reported(tmp_path)) == {f"u{i:02}" for i in range(5)}
    assert set_rows(Place.at(tmp_path / "catalog"), {}).tables["slot_sets"]["planned"].to_pylist() == [len(UNITS)]


def test_a_later_attempt_is_a_conflict_and_what_is_in_place_counts(tmp_path: Path, traces: Path) -> None:
    """The first was killed after its folder was in place, before it could say so."""
    folder = tmp_path / "round"
    (folder / "u03").mkdir(parents=True)
    (folder / "u03" / "square").write_text("100")
    given = reporting(tmp_path)
    slots = given.slots.plan([(unit.key, unit.label) for unit in UNITS], "recipe")
    _do(Reported(Square(traces), Reporting(slots=slots, fingerprint="recipe", describe=described)), UNITS[3], folder)
    assert reported(tmp_path) == {"u03": 100}
    assert set_rows(slots.place, {}).tables["slot_conflicts"]["slot"].to_pylist() == ["u03"]


SBATCH = """#!/usr/bin/env python3
# A stand-in: reads the script's array, and runs each of its tasks, as Slurm would on its nodes.
import os, re, subprocess, sys
script = next(a for a in sys.argv[1:] if not a.startswith("-"))
text = open(script).read()
open(os.environ["FAKE_SLURM"] + "/scripts", "a").write(text)
if "merge_stats" not in text:
    last = int(re.search(r"--array=0-(\\d+)", text)[1])
    for task in range(last + 1):
        env = {**os.environ, "SLURM_ARRAY_TASK_ID": str(task), "SLURM_NODELIST": "node", "RUN_OFFSET": "0"}
        subprocess.run(["bash", script], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print("Submitted batch job 42")
"""
SRUN = """#!/usr/bin/env bash
while [[ "$1" == -* || "$1" =~ ^[0-9]+$ ]]; do shift; done
exec "$@"
"""
COMMANDS = {
    "sbatch": SBATCH,
    "srun": SRUN,
    "squeue": "#!/usr/bin/env bash\nexit 1\n",
    "scontrol": "#!/usr/bin/env bash\necho node\n",
}


def test_slurm_gets_a_script_that_does_the_units(tmp_path: Path, traces: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The submitted script is run as an array job would run it; no Slurm is at hand."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, text in COMMANDS.items():
        (commands / name).write_text(text)
        (commands / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SLURM", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))  # where the units are unpickled from
    monkeypatch.setenv("SEA_LION_SLURM_POLL", "0.1")
    settings = {"partition": "cpu", "time": "01:00:00", "memory_gb": "3"}
    run = executor(Options(workers=2, executor="slurm", executor_settings=settings), tmp_path / "logs")
    run_round("squares", Square(traces), UNITS[:3], tmp_path / "round", run)
    assert squares(tmp_path / "round") == {unit.key: EXPECTED[unit.key] for unit in UNITS[:3]}
    script = (tmp_path / "scripts").read_text()
    for line in ("--partition=cpu", "--time=01:00:00", "--mem-per-cpu=3G", "--array=0-2%2", "launch_pickled_pipeline"):
        assert line in script, script


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (Options(executor="lsf"), "must be one of local, ray, slurm"),
        (Options(executor="slurm"), "needs --set partition"),
        (Options(executor="slurm", executor_settings={"partition": "a", "time": "1", "gpu": "1"}), "--set gpu"),
        (Options(executor_settings={"partition": "a"}), "--set partition"),
        (Options(executor="ray", executor_settings={"time": "6h"}), "--set time=6h: must be a number"),
    ],
)
def test_wrong_settings_are_refused(tmp_path: Path, options: Options, problem: str) -> None:
    with pytest.raises(SeaLionError, match=problem):
        executor(options, tmp_path)
