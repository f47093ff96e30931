"""Progress files: written while something is made, gone when it is, telling when it was not; they never fail a run."""

from __future__ import annotations

import json
import logging
import math
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sea_lion import chain
from sea_lion.catalog import progress
from sea_lion.catalog.errors import SeaLionError, Unfinished
from sea_lion.catalog.progress import PROGRESS, Progress, read_progress, reported
from sea_lion.catalog.store import Options, Store
from sea_lion.training.batches import Part, batch_of
from sea_lion.training.meters import POINTS, Meter
from sea_lion.training.processes import Processes
from sea_lion.training.system import System


def only(root: Path) -> Progress:
    """The one report there is."""
    (found,) = read_progress(root)
    return found


def test_a_report_is_there_while_the_work_lasts(tmp_path: Path) -> None:
    with reported(tmp_path, "corpus/x@1", "corpus"):
        progress.update(stage="read", done=0, total=4, unit="tasks")
        found = only(tmp_path)
        assert (found.ref, found.kind, found.stage, found.total, found.state) == ("corpus/x@1", "corpus", "read", 4, "running")
        assert found.pid == os.getpid() and found.seconds_left is None
    assert read_progress(tmp_path) == [] and list((tmp_path / PROGRESS).iterdir()) == []
    assert progress.current() is None
    progress.update(done=1)  # nobody has opened a report: nothing happens


def test_at_most_one_write_a_second_but_a_new_stage_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    with reported(tmp_path, "corpus/x@1", "corpus") as report:
        report.update(stage="read", done=0, total=100)
        for done in range(1, 50):
            clock[0] += 0.01
            report.update(done=done)
        assert only(tmp_path).done == 0 and report.latest.done == 49
        clock[0] += 1
        assert report.is_due()
        report.update(done=50)
        assert only(tmp_path).done == 50 and not report.is_due()
        report.update(stage="write")
        found = only(tmp_path)
        assert (found.stage, found.done, found.total) == ("write", 0, 0)


def test_time_left_is_that_of_this_attempts_pace(tmp_path: Path) -> None:
    with reported(tmp_path, "checkpoint/x@1", "train") as report:
        report.update(stage="train", done=50, total=100, unit="steps")  # resumed: these took no time now
        report.latest = replace(report.latest, stage_started=report.latest.stage_started - 10)
        report.update(done=60)
        assert report.latest.first == 50 and report.latest.seconds_left == pytest.approx(40, abs=1)


@pytest.mark.parametrize(
    ("error", "state"),
    [(SeaLionError("bad\nfile"), "failed"), (Unfinished("disk full"), "interrupted"), (KeyboardInterrupt(), "interrupted")],
)
def test_what_did_not_end_well_says_so_until_it_is_tried_again(tmp_path: Path, error: BaseException, state: str) -> None:
    with pytest.raises(type(error)), reported(tmp_path, "corpus/x@1", "corpus"):
        raise error
    found = only(tmp_path)
    assert found.state == state and found.problem in ("bad file", "disk full", "KeyboardInterrupt")
    with reported(tmp_path, "corpus/x@1", "corpus"):
        assert only(tmp_path).state == "running"
    assert read_progress(tmp_path) == []


def test_reports_are_nested(tmp_path: Path) -> None:
    with reported(tmp_path, "tiny", "chain") as outer:
        with reported(tmp_path, "corpus/x@1", "corpus") as inner:
            assert progress.current() is inner and len(read_progress(tmp_path)) == 2
        assert progress.current() is outer


def test_a_killed_run_is_stopped_and_its_process_id_is_no_alibi(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from sea_lion.catalog.progress import reported\n"
        "with reported(Path(sys.argv[1]), 'corpus/x@1', 'corpus'): print('on', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"on\n"
        assert only(tmp_path).state == "running"
        process.kill()
        process.wait()
    assert only(tmp_path).state == "stopped"
    (file,) = (tmp_path / PROGRESS).glob("*.json")
    table = json.loads(file.read_text()) | {"pid": os.getpid()}  # the id was given to another process since
    file.write_text(json.dumps(table))
    assert only(tmp_path).state == "stopped"


def test_another_machine_is_believed_for_a_while(tmp_path: Path) -> None:
    with reported(tmp_path, "corpus/x@1", "corpus") as report:
        report.latest = replace(report.latest, host="elsewhere", pid=1)
        report.write()
        assert only(tmp_path).state == "running"
        report.latest = replace(report.latest, updated=time.time() - progress.SILENT - 1)
        report.write()
        assert only(tmp_path).state == "stopped"
        report.latest = replace(report.latest, updated=time.time() - progress.KEPT - 1)
        report.write()
        assert read_progress(tmp_path) == []


def test_files_that_are_no_reports_are_passed_over(tmp_path: Path) -> None:
    folder = tmp_path / PROGRESS
    folder.mkdir()
    (folder / "a.json").write_text("{")
    (folder / "b.json").write_text('{"ref": 1}')
    (folder / "c.json").write_bytes(b"[" * (progress.LARGEST + 10))
    (folder / "d.json").mkdir()
    (folder / "e.json").symlink_to("/dev/zero")
    os.mkfifo(folder / "f.json")
    with reported(tmp_path, "corpus/x@1", "corpus"):
        assert only(tmp_path).ref == "corpus/x@1"


def test_a_report_that_cannot_be_written_is_said_once_and_fails_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / PROGRESS).write_text("a file where the folder should be")
    monkeypatch.setattr(progress, "INTERVAL", 0.0)
    with caplog.at_level(logging.WARNING), reported(tmp_path, "corpus/x@1", "corpus") as report:
        for done in range(5):
            report.update(done=done)
    assert len([record for record in caplog.records if "progress of corpus/x@1" in record.message]) == 1


def test_training_reports_its_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "INTERVAL", 0.0)
    steps = 4 * POINTS
    with reported(tmp_path, "checkpoint/x@1", "train"):
        alone, parts = Processes(rank=0, world=1, device="cpu"), (Part("", "conversations/x@1", "tha", ""),)
        meter = Meter(steps=steps, title="x", parts=parts, processes=alone, system=System(), folder=tmp_path / "log")
        ids = np.zeros((1, 128), np.int64)
        batch = batch_of(ids, ids, ids, ids.astype(bool))
        for step in range(1, steps + 1):
            loss = math.nan if step == 4 else 9.0 / step
            meter.begin_step(step)
            meter.add_batch(batch, torch.zeros((1, 128)))
            meter.end_step(1e-3, torch.tensor([loss, 1.0, 0.0]))
        meter.close()
        found = only(tmp_path)
    assert (found.stage, found.done, found.total, found.unit, found.tokens) == ("train", steps, steps, "steps", 128 * steps)
    assert found.loss == pytest.approx(9.0 / steps) and found.lr == 1e-3 and (found.tokens_per_second or 0) > 0
    assert len(found.losses) <= POINTS and found.losses[-1][0] == steps
    assert all(math.isfinite(loss) for _, loss in found.losses)


def test_a_loss_that_is_not_finite_is_no_figure(tmp_path: Path) -> None:
    with reported(tmp_path, "checkpoint/x@1", "train") as report:
        report.update(stage="train", loss=math.inf, lr=math.nan)
        assert only(tmp_path).loss is None and only(tmp_path).lr is None


def test_a_chain_says_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, int, int]] = []

    def made(node: chain.Node, label: str, store: Store, *_: Any) -> None:
        found = only(store.root)
        assert found.kind == "chain" and found.ref == "tiny" and found.stage == node.key
        seen.append((found.stage, found.done, found.total))

    monkeypatch.setattr(chain, "_make_node", made)
    chain.run(chain.recipe_folder("tiny"), Store(tmp_path / "artifacts"), Options())
    assert len(seen) > 30 and [done for _, done, _ in seen] == list(range(len(seen)))
    assert {total for _, _, total in seen} == {len(seen)}
