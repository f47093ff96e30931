"""Training under fire: killed at random moments and started again, also inside a save; the weights must not tell.

    python tests/training/crash_training.py --kills 20                  # sea-lion train, one process
    python tests/training/crash_training.py --kills 20 --processes 2    # torchrun -m sea_lion.training.launch

A stage is trained undisturbed, then again under another name, killed with SIGKILL over and over: a third while a checkpoint is
being written, a third at a moment of the training, a third at any moment from the start on. Of several processes one is killed,
or all and their launcher. Where a stage is made before all kills are spent, the next one follows. Prints one JSON line; exit
code 1 when a file of a killed stage differs from the undisturbed one's.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import runpy
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil

from sea_lion.training.recipe import TrainRecipe

COMPARED = ("model.safetensors", "training_log.parquet", "training_parts.parquet", "consumed.parquet")
"""Files of the trained stage; its tables of pace hold times."""
PATIENCE = 120.0
"""Seconds that an attempt may take."""
FORKED: Any = SimpleNamespace(**runpy.run_path(str(Path(__file__).parent.parent / "forked.py")))


@dataclass
class Attempts:
    """How a stage is attempted, and what came of it."""

    place: Any
    """`conftest.Place`."""
    processes: int
    draw: random.Random
    counts: Counter[str] = field(default_factory=Counter)
    started: float = 1.0
    """Seconds from the start of an attempt to its first step, measured on the undisturbed one."""
    trained: float = 1.0
    """Seconds from there to its end."""

    def undisturbed(self, recipe: TrainRecipe) -> dict[str, str]:
        """Make the stage without a kill; returns the digests of its files."""
        start = time.monotonic()
        attempt = self._start(recipe)
        while attempt.is_running() and not self._has_begun(recipe):
            time.sleep(0.001)
        begun = time.monotonic()
        self._finish(attempt)
        self.started, self.trained = begun - start, time.monotonic() - begun
        return self._digests(recipe)

    def killed(self, recipe: TrainRecipe, kills: int) -> dict[str, str]:
        """Make the stage with at most so many kills; returns the digests of its files."""
        for _ in range(kills):
            attempt = self._start(recipe)
            kind = self.draw.choice(("in a save", "in training", "anywhere"))
            if self._wait(attempt, recipe, kind):
                self._kill(attempt, kind, recipe)
            self._finish(attempt)
            if self._is_made(recipe):
                break
        if not self._is_made(recipe):
            self._finish(self._start(recipe))
        return self._digests(recipe)

    def _wait(self, attempt: psutil.Process, recipe: TrainRecipe, kind: str) -> bool:
        """Wait for the moment of a kill; returns whether it came before the end."""
        before, until = self._saves(recipe), time.monotonic() + PATIENCE
        pause = self.draw.uniform(0, self.started) if kind == "anywhere" else self.draw.uniform(0, self.trained / 8)
        if kind == "anywhere":
            time.sleep(pause)
            return bool(attempt.is_running())
        while attempt.is_running() and time.monotonic() < until:
            now = self._saves(recipe)
            if kind == "in a save" and any(name.endswith(".partial") for name in now - before):
                return True
            if kind == "in training" and now - before:
                time.sleep(pause)
                return bool(attempt.is_running())
            time.sleep(0.0005)
        return False

    def _kill(self, attempt: psutil.Process, kind: str, recipe: TrainRecipe) -> None:
        try:
            children = [child for child in attempt.children(recursive=True) if self.processes > 1]
            workers = [child for child in children if "sea_lion.training.launch" in child.cmdline()]
            doomed = [self.draw.choice(workers)] if workers and self.draw.random() < 0.5 else [attempt, *children]
        except psutil.NoSuchProcess:
            return
        for process in doomed:
            try:
                process.kill()
                self.counts["processes killed"] += 1
            except psutil.NoSuchProcess:
                pass
        self.counts[f"killed {kind}"] += 1
        if any(name.endswith(".partial") for name in self._saves(recipe)):
            self.counts["saves torn"] += 1

    def _start(self, recipe: TrainRecipe) -> psutil.Process:
        file = self.place.file(recipe, self.place.base / f"{recipe.name.replace('/', '-')}.toml")
        self.counts["attempts"] += 1
        if self.processes == 1:
            process = FORKED.started("sea_lion.cli", "train", str(file), "--catalog", str(self.place.store.root))
            return psutil.Process(process.pid)
        launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={self.processes}"]
        module = ["-m", "sea_lion.training.launch", str(file), str(self.place.store.root)]
        with (self.place.base / "attempts.log").open("ab") as log:
            return psutil.Popen(
                [sys.executable, *launch, *module], stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"}
            )

    def _finish(self, attempt: psutil.Process) -> None:
        until = time.monotonic() + PATIENCE
        while attempt.is_running() and attempt.status() != psutil.STATUS_ZOMBIE and time.monotonic() < until:
            time.sleep(0.005)
        if self.processes > 1:
            attempt.wait(1)

    def _resume(self, recipe: TrainRecipe) -> Path:
        folder: Path = self.place.store.resume_folder(recipe.ref)
        return folder

    def _saves(self, recipe: TrainRecipe) -> set[str]:
        """The checkpoints that there are or that are being written."""
        return {path.name for path in self._resume(recipe).glob("*/step-*")}

    def _has_begun(self, recipe: TrainRecipe) -> bool:
        return bool(self._saves(recipe))

    def _is_made(self, recipe: TrainRecipe) -> bool:
        return self.place.store.get(recipe.ref) is not None

    def _digests(self, recipe: TrainRecipe) -> dict[str, str]:
        if not self._is_made(recipe):
            raise SystemExit(f"{recipe.ref} was not made, though nothing killed its last attempt")
        folder = self.place.store.path(recipe.ref)
        return {name: sha256((folder / name).read_bytes()).hexdigest() for name in COMPARED if (folder / name).is_file()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    conftest = runpy.run_path(str(Path(__file__).with_name("conftest.py")))
    FORKED.preload()
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="crash-training-") as scratch:
        counts, wrong = under_fire(conftest["fill"](Path(scratch)), given.processes, given.kills, given.seed)
    print(json.dumps({"seconds": round(time.monotonic() - start), **counts, "wrong": wrong}))
    return 1 if wrong else 0


def under_fire(place: Any, processes: int, kills: int, seed: int) -> tuple[Counter[str], list[str]]:
    """Train with so many kills; returns what happened, and what differs from the undisturbed stage."""
    recipe = place.cpt("calm", batch_sequences=2, checkpoint_steps=2, permanent_steps=9)
    attempts = Attempts(place=place, processes=processes, draw=random.Random(seed))
    expected = attempts.undisturbed(recipe)
    wrong = [f"{recipe.name}: has no {name}" for name in COMPARED if name not in expected]
    while (left := kills - sum(count for key, count in attempts.counts.items() if key.startswith("killed "))) > 0:
        attempts.counts["stages"] += 1
        name = f"model/under-fire-{attempts.counts['stages']}"
        found = attempts.killed(replace(recipe, name=name), left)
        wrong += [f"{name}: {file} differs" for file in COMPARED if expected.get(file) != found.get(file)]
    return attempts.counts, wrong


if __name__ == "__main__":
    sys.exit(main())
