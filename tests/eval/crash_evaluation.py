"""Kill an evaluation with SIGKILL at random moments, go on each time, and compare its tables with an undisturbed run's.

    python tests/eval/crash_evaluation.py --kills 10 --seed 1

A real suite (documents, choices and generated answers) is asked of a tiny model in child processes. Each batch is written to
a log before the model works on it. Prints one JSON line and exits 1 when a table differs, or when anything was asked of the
model twice besides the one batch that was under way at a kill. `test_runner_crash` runs its short form.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from small_world import LANGUAGES, SUITE, World  # type: ignore[import-not-found, unused-ignore]

from sea_lion.catalog.store import Options
from sea_lion.eval import transformers_model
from sea_lion.eval.evaluate import evaluate_model
from sea_lion.eval.recipe import SUITES

INSTRUCTIONS = """
[[task]]
name = "instructions"
form = "instructions"
items = "instructions"
max_tokens = 24
"""


def prepared(root: Path) -> None:
    """Make a world, with a generated task added to its small suite."""
    World(root)
    (root / "instructions").mkdir()
    for language in LANGUAGES:
        rows = (SUITES / "smoke" / "instructions" / f"{language}.jsonl").read_text("utf-8").splitlines()[:8]
        (root / "instructions" / f"{language}.jsonl").write_text("\n".join(rows), "utf-8")
    (root / "small.toml").write_text(SUITE + INSTRUCTIONS, "utf-8")


def evaluated(world: World, log: Path, pause: float) -> None:
    """Run the evaluation, writing each batch to the log before the model sees it."""
    harness: Any = transformers_model.Harness
    model: Any = transformers_model.BudgetedHFLM
    likelihood, rolled, generate = harness._loglikelihood_tokens, model._rolled, model._generate

    def note(batch: list[Any]) -> None:
        line = json.dumps([hashlib.sha256(repr(request).encode()).hexdigest()[:16] for request in batch])
        with log.open("a") as file:
            file.write(f"{line}\n")
        time.sleep(pause)

    def noted_likelihood(self: Any, requests: list[Any], **kwargs: Any) -> Any:
        if requests[0][0] is not None:  # else windows of texts, which are noted as a whole
            note(requests)
        return likelihood(self, requests, **kwargs)

    def noted_rolled(self: Any, texts: list[Any]) -> Any:
        note(texts)
        return rolled(self, texts)

    def noted_generate(self: Any, prompts: list[list[int]], settings: list[dict[str, Any]]) -> Any:
        note(list(zip(prompts, settings, strict=True)))
        return generate(self, prompts, settings)

    harness._loglikelihood_tokens, model._rolled, model._generate = noted_likelihood, noted_rolled, noted_generate
    torch.set_num_threads(1)
    files = ("small.toml", "sentences/*.jsonl", "instructions/*.jsonl")
    world.store.make(replace(world.recipe, suite_files=files, batch_size=2), world.base, evaluate_model, Options())


def forked(work: Callable[[], None], until: Callable[[], None] | None = None) -> bool:
    """Work in a child that is killed when `until` returns, if given; whether it came to its end.

    A child of a process with threads may wait forever for what one of them held, so all work is done in children.
    """
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    if until is not None:
        until()
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status) and os.waitstatus_to_exitcode(status) != 0:
        raise SystemExit("the work failed")
    return not os.WIFSIGNALED(status)


def wait(log: Path, lines: int, delay: float) -> None:
    """Until a log has so many lines, and a little longer."""
    while lines and (not log.exists() or log.read_text().count("\n") < lines):
        time.sleep(0.005)
    time.sleep(delay)


def tables(world: World) -> dict[str, str]:
    """Digest of each table of the scorecard."""
    folder = world.folder("scorecard/test@1")
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in ("items.parquet", "answers.parquet")}


def asked_again(runs: list[list[list[str]]]) -> list[str]:
    """What was asked more than once without having been in the last batch of a run that was killed."""
    finished: set[str] = set()
    again = []
    for batches in runs:
        for place, batch in enumerate(batches):
            again += [request for request in batch if request in finished]
            if place + 1 < len(batches):
                finished.update(batch)
    return again


def main() -> int:
    """Run the comparison; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pause", type=float, default=0.05, help="seconds before each batch")
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as scratch:
        forked(lambda: prepared(Path(scratch, "calm")))
        shutil.copytree(Path(scratch, "calm"), Path(scratch, "killed"))
        calm, killed = World.at(Path(scratch, "calm")), World.at(Path(scratch, "killed"))
        calm_log = Path(scratch, "calm.log")
        forked(lambda: evaluated(calm, calm_log, 0.0))
        batches = len(calm_log.read_text().splitlines())
        runs: list[list[list[str]]] = []
        for number in range(arguments.kills + 1):
            is_last, log = number == arguments.kills, Path(scratch, f"{number}.log")
            lines, delay = rng.randint(0, max(0, batches // arguments.kills - 2)), rng.uniform(0, 2 * arguments.pause)
            until = partial(wait, log, lines, delay)
            ended = forked(partial(evaluated, killed, log, 0.0 if is_last else arguments.pause), None if is_last else until)
            runs.append([json.loads(line) for line in log.read_text().splitlines()] if log.exists() else [])
            if ended != is_last:
                raise SystemExit(f"run {number} came to its end before it was killed")
        again = asked_again(runs)
        same = tables(calm) == tables(killed)
    found = {"kills": arguments.kills, "batches": batches, "per_run": [len(run) for run in runs], "again": len(again)}
    sys.stdout.write(json.dumps(found | {"same": same}) + "\n")
    return 0 if same and not again else 1


if __name__ == "__main__":
    raise SystemExit(main())
