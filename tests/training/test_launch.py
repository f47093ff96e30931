"""Launch files: readable by bash, really run with two processes, and exit codes that say what to do next."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from sea_lion import cli
from sea_lion.catalog.commands import settings_of
from sea_lion.catalog.errors import SeaLionError
from sea_lion.training.commands import other_command
from sea_lion.training.launch import main
from sea_lion.training.processes import check_device

RECIPE = """
kind = "train"
name = "checkpoint/far"
version = "1"
objective = "cpt"
model = "checkpoint/none@1"
mixture = "mixture/none@1"
lr = 1e-5
batch_sequences = 4
"""


def flags(*given: str) -> argparse.Namespace:
    return cli._parser().parse_args(["train", *given])


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "far.toml").write_text(RECIPE)
    return Path("far.toml")


def written(form: str, *given: str) -> str:
    assert other_command(flags("far.toml", "--launch", form, "--output", f"{form}.sh", *given)) == 0
    subprocess.run(["bash", "-n", f"{form}.sh"], check=True)
    return Path(f"{form}.sh").read_text()


def environment(**more: str) -> dict[str, str]:
    """The test's Python as `python`."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", **more}


def test_scripts_name_no_machine(recipe: Path, tmp_path: Path) -> None:
    for form in ("torchrun", "slurm"):
        script = written(form, "--nodes", "4", "--devices-per-node", "8", "--device", "cuda", "--set", "recompute=layers")
        assert str(tmp_path) not in script and "far.toml" in script
        assert "--device cuda --set recompute=layers" in script
    assert "--nnodes 4 --nproc-per-node 8" in Path("torchrun.sh").read_text()
    assert "#SBATCH --gpus-per-node=8" in Path("slurm.sh").read_text()
    assert "standalone" in written("torchrun")


def test_wrong_flags(recipe: Path) -> None:
    with pytest.raises(SeaLionError, match="--output"):
        other_command(flags("far.toml", "--launch", "slurm"))
    for wrong in (("--nodes", "0"), ("--set", "recomputing=layers"), ("--set", "x")):
        with pytest.raises(SeaLionError, match=r"at least 1|--set"):
            written("slurm", *wrong)
    with pytest.raises(SeaLionError, match="write NAME=VALUE"):
        settings_of(["x"])


def test_torchrun_says_what_is_wrong_once(recipe: Path) -> None:
    """Both processes know that the model is missing; one says so, and nobody prints a traceback."""
    written("torchrun", "--devices-per-node", "2")
    done = subprocess.run(["bash", "torchrun.sh"], env=environment(), capture_output=True, text=True, timeout=300, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 2, said
    assert said.count("checkpoint/none@1: no such artifact") == 1 and "Traceback" not in said
    assert list(Path("logs").rglob("stderr.log"))


def test_torchrun_hands_on_that_it_was_stopped(tmp_path: Path, forked: Any) -> None:
    """One launch: a process that ends with 75, as an interrupted run does."""
    (tmp_path / "stopped.py").write_text("import os, sys, time\nos.environ['RANK'] == '0' or time.sleep(1)\nsys.exit(75)\n")
    (tmp_path / "broken.py").write_text("raise ZeroDivisionError\n")
    flags = ("torchrun", "--standalone", "--nproc-per-node", "2")
    scripts = [str(tmp_path / name) for name in ("stopped.py", "broken.py")]
    launched = [forked.started("sea_lion.training.launch", *flags, script) for script in scripts]
    assert forked.exit_codes(launched, 300) == [75, 1]


def test_torchrun_is_stopped_twice_and_goes_on(place: Any, recipe: Path) -> None:
    """Two processes are told to stop while they start, then in the middle; the same script makes the model, none is left."""
    train = place.cpt("launched", batch_sequences=2, checkpoint_steps=1000)
    place.file(train, recipe)
    written("torchrun", "--devices-per-node", "2", "--set", "log_steps=5")
    given = environment(SEA_LION_CATALOG=str(place.store.root))
    lines = place.store.resume_folder(train.ref) / "log.jsonl"

    def is_time(moment: str) -> bool:
        if moment == "starting":
            return bool(list(Path("logs").rglob("stderr.log")))
        return bool(lines.exists() and lines.stat().st_size)

    for moment in ("starting", "training"):
        with subprocess.Popen(["bash", "torchrun.sh"], env=given, stderr=subprocess.PIPE, text=True) as running:
            deadline = time.monotonic() + 200
            while not is_time(moment) and time.monotonic() < deadline:
                time.sleep(0.01)
            running.send_signal(signal.SIGTERM)
            _, said = running.communicate(timeout=200)
        assert running.returncode == 75, said
        assert place.store.get(train.ref) is None
        assert bool(list(lines.parent.glob("latest/step-*"))) == (moment == "training")
    done = subprocess.run(["bash", "torchrun.sh"], env=given, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert place.store.get(train.ref).body.step == 40
    assert not [
        each for each in psutil.process_iter(["cmdline"]) if str(place.store.root) in " ".join(each.info["cmdline"] or [])
    ]


@pytest.mark.parametrize("code", [0, 2, 75])
def test_slurm_requeues_what_was_stopped(recipe: Path, tmp_path: Path, code: int) -> None:
    """Stand-ins for Slurm's two commands, since there is no cluster here."""
    written("slurm", "--devices-per-node", "2")
    for name, line in (("srun", f"exit {code}"), ("scontrol", 'echo "$@" >> told; echo node1')):
        (tmp_path / name).write_text(f"#!/bin/bash\n{line}\n")
        (tmp_path / name).chmod(0o755)
    slurm = environment(PATH=f"{tmp_path}{os.pathsep}{os.environ['PATH']}", SLURM_JOB_ID="7", SLURM_JOB_NODELIST="node[1-2]")
    done = subprocess.run(["bash", "slurm.sh"], env=slurm, check=False)
    assert done.returncode == code
    assert ("requeue 7" in Path("told").read_text()) == (code == 75)


def test_the_recipe_must_be_found(recipe: Path, tmp_path: Path) -> None:
    written("torchrun")
    (tmp_path / "elsewhere").mkdir()
    done = subprocess.run(
        ["bash", "../torchrun.sh"], cwd="elsewhere", env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and "far.toml: no such file" in done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without CUDA")
def test_no_cuda_is_one_line(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SeaLionError, match="no CUDA device"):
        check_device("cuda")
    assert main(["far.toml", "artifacts", "--device", "cuda"]) == 2
    assert capsys.readouterr().err == "sea-lion: --device cuda: torch finds no CUDA device here\n"
