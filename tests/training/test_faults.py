"""What goes wrong on one process is answered by all of them at the same step."""

import json
import os
import runpy
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sea_lion.training.interruption import RESUME_ME, Interrupted, Interruption
from sea_lion.training.processes import Processes
from sea_lion.training.recipe import TrainRecipe

CRASH: Any = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("crash_training.py"))))
LOOP: Any = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("small_loop.py"))))


def told(folder: Path, name: str) -> list[dict[str, Any]]:
    """What each of two processes said in the end."""
    return [json.loads((folder / f"{name}-{rank}.json").read_text()) for rank in (0, 1)]


def test_a_step_that_is_not_finite_on_one_process_is_skipped_on_both(tmp_path: Path) -> None:
    assert LOOP.run(tmp_path, 2, name="before", steps=2) == [0, 0]
    assert LOOP.run(tmp_path, 2, name="bad", steps=3, at={"nan": [1, 3]}) == [0, 0]
    assert [each["skipped"] for each in told(tmp_path, "bad")] == [[3], [3]]
    before, after = (torch.load(tmp_path / f"{name}.pt")["tensors"] for name in ("before", "bad"))
    assert all(torch.equal(after[name], before[name]) for name in before)  # weights, moments and counters
    assert LOOP.run(tmp_path, 2, name="next", steps=4) == [0, 0]
    assert [each["skipped"] for each in told(tmp_path, "next")] == [[], []]


def test_a_stage_killed_three_times_ends_with_the_same_bytes(place: Any) -> None:
    """The short form of the acceptance run (`crash_training.py --kills 20`, and `--processes 2`)."""
    counts, wrong = CRASH.under_fire(place, processes=1, kills=3, seed=0)
    assert wrong == [] and counts["processes killed"] == 3


def ends(place: Any, recipe: TrainRecipe, world: int, until: Callable[[], bool] | None = None) -> list[int | None]:
    """Make a stage in `world` processes, the last of which gets SIGTERM when `until` says so; returns the exit codes."""
    file = str(place.file(recipe, place.base / f"{recipe.name.replace('/', '-')}.toml"))
    if world == 1:
        processes = [CRASH.FORKED.started("sea_lion.cli", "train", file, "--catalog", str(place.store.root))]
    else:
        processes = CRASH.FORKED.together(world, "sea_lion.training.launch", file, str(place.store.root))
    while until and not until() and processes[-1].is_alive():
        time.sleep(0.002)
    if until:
        os.kill(processes[-1].pid, signal.SIGTERM)
    codes: list[int | None] = CRASH.FORKED.exit_codes(processes, 60)
    return codes


def is_logged(lines: Path) -> bool:
    """Whether the training has come to the first line of its log."""
    return lines.exists() and lines.stat().st_size > 0


@pytest.mark.parametrize("world", [1, 2])
def test_a_stage_told_to_stop_says_resume_me_and_ends_with_the_same_bytes(place: Any, world: int) -> None:
    """One of two processes gets the signal; both save the same step."""
    recipe = place.cpt(f"told-{world}", batch_sequences=2, checkpoint_steps=1000)
    undisturbed = replace(recipe, name=f"model/not-told-{world}")
    assert ends(place, undisturbed, world) == [0] * world
    resume = place.store.resume_folder(recipe.ref)
    assert ends(place, recipe, world, lambda: is_logged(resume / "log.jsonl")) == [RESUME_ME] * world
    saved = [path.name for path in (resume / "latest").iterdir()]
    assert len(saved) == 1 and saved[0].startswith("step-0000000")
    assert ends(place, recipe, world) == [0] * world
    assert not resume.exists()
    folders = [place.store.path(each.ref) for each in (recipe, undisturbed)]
    for name in ("model.safetensors", "training_log.parquet"):
        one, other = ((folder / name).read_bytes() for folder in folders)
        assert one == other


def test_a_process_alone_hears_both_signals_and_gives_its_handlers_back() -> None:
    before = [signal.getsignal(name) for name in (signal.SIGTERM, signal.SIGUSR1)]
    for name in (signal.SIGTERM, signal.SIGUSR1):
        with Interruption(Processes(rank=0, world=1, device="cpu")) as interruption:
            assert not interruption.agreed()
            os.kill(os.getpid(), name)
            os.kill(os.getpid(), name)  # a launcher and a scheduler may both send one
            assert interruption.agreed()
    assert [signal.getsignal(name) for name in (signal.SIGTERM, signal.SIGUSR1)] == before


def test_a_thread_trains_without_hearing_signals() -> None:
    heard: list[bool] = []

    def train() -> None:
        with Interruption(Processes(rank=0, world=1, device="cpu")) as interruption:
            heard.append(interruption.agreed())

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert heard == [False]


def test_an_interrupted_run_says_resume_me() -> None:
    assert Interrupted.exit_code == RESUME_ME == 75
