"""Merges beside a bare copy of the same bytes, torch and mergekit: speed, memory, and whether the results are the same bits.

    python benchmarks/merging.py [--size 1b] [--methods linear della_linear dare_ties consensus_ta] [--scratch DIR]

Synthetic Llamas in bfloat16 (see `merging_models.py`): a base and `--parents` parents, kept in `--scratch` for the next run or
made in a temporary folder. Of each method every way merges in a process of its own, in turn, the order rotated from round to
round; inputs are read once before each, so that they come from the page cache where it is large enough. Ways: a bare copy that
reads what the merge reads and writes as much as it writes; torch's load, average and save (of `linear`); mergekit as it is and
with malloc told to keep its memory; our engine, without and with the figures of the report; the whole verb. Seconds are the
median over the rounds, ratios the median of a round's. Memory is the largest resident size, of which `anonymous` is what the
process allocated itself: the rest are libraries and inputs mapped from the page cache. Elements of our results that differ
from mergekit's are counted; there must be none. At `4b` only the copy and ours run. Prints tables and a JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import torch
from merging_models import SIZES, make_models  # type: ignore[import-not-found, unused-ignore]  # a script's folder is on its path
from merging_ways import WAYS, Task, emptied, measured, weight_files  # type: ignore[import-not-found, unused-ignore]
from safetensors import safe_open

from sea_lion.catalog.store import Store

METHODS = ("linear", "della_linear", "dare_ties", "consensus_ta")
MALLOC = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40), "MALLOC_TOP_PAD_": str(1 << 28),
          "MALLOC_ARENA_MAX": "1"}  # fmt: skip
"""glibc's malloc keeps what is freed: mergekit spends half of its time on new pages."""
KEPT = ("mergekit", "tuned", "ours", "metered", "verb")
"""Ways whose results must be the same bits."""
SPARE = 2_000_000_000
"""Bytes of the disk that stay free."""


def ways_of(method: str, size: str, wanted: Sequence[str]) -> list[str]:
    """The ways that a method is measured in."""
    large = ("copy", "synced", "ours", "metered", "verb")
    return [way for way in wanted if (way != "average" or method == "linear") and (size != "4b" or way in large)]


def check_disk(scratch: Path, needed: int) -> None:
    """End the run when the disk has too little room."""
    free = shutil.disk_usage(scratch).free
    if free < needed + SPARE:
        raise SystemExit(
            f"{scratch}: {needed / 1e9:.0f} GB and {SPARE / 1e9:.0f} to spare are needed, {free / 1e9:.0f} are free"
        )


def warm(task: Task) -> None:
    """Read the models' weights."""
    buffer = bytearray(8 << 20)
    for folder in task.read:
        for path in weight_files(folder):
            with path.open("rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass


def child(way: str, task: Task, into: Path) -> dict[str, float]:
    """One way in a process of its own; beside its own figures the largest anonymous memory, looked at 50 times a second."""
    script = str(Path(__file__).with_name("merging_ways.py"))
    command = [sys.executable, script, way, task.method, str(task.catalog), str(task.out), "--threads", str(task.threads)]
    command += ["--models", *task.models, "--warm", *task.warm, "--into", str(into)]
    environment = os.environ | {"OMP_NUM_THREADS": str(task.threads)} | (MALLOC if way == "tuned" else {})
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        largest: list[float] = [0.0]
        watcher = threading.Thread(target=_watch, args=(process.pid, largest))
        watcher.start()
        said = process.stderr.read() if process.stderr else b""
        code = process.wait()
        watcher.join()
    if code:
        raise SystemExit(f"{WAYS[way][0]}, {task.method}: {said.decode(errors='replace')[-2000:]}")
    return {**json.loads(into.read_text("utf-8")), "anonymous_mb": largest[0] / 1e6}


def _watch(process: int, largest: list[float]) -> None:
    try:
        watched = psutil.Process(process)
        while watched.is_running() and watched.status() != psutil.STATUS_ZOMBIE:
            memory = watched.memory_info()
            largest[0] = max(largest[0], memory.rss - getattr(memory, "shared", 0))
            time.sleep(0.02)
    except psutil.Error:
        return


def differing(one: Path, other: Path) -> int:
    """How many elements of two models differ in a bit, all of them when their tensors are not the same."""
    places = [{name: path for path in weight_files(folder) for name in _names(path)} for folder in (one, other)]
    count = 0
    for name in sorted(places[0].keys() | places[1].keys()):
        if not all(name in place for place in places):
            raise SystemExit(f"{name} is not in both {one} and {other}")
        tensors = []
        for place in places:
            with safe_open(place[name], framework="pt") as file:
                tensors.append(file.get_tensor(name))
        first, second = tensors
        if first.dtype != second.dtype or first.shape != second.shape:
            raise SystemExit(
                f"{name} is {first.dtype} {list(first.shape)} in {one}, {second.dtype} {list(second.shape)} in {other}"
            )
        bits = torch.int32 if first.element_size() == 4 else torch.int16
        first, second = first.view(bits), second.view(bits)
        count += 0 if torch.equal(first, second) else int((first != second).sum())
    return count


def _names(path: Path) -> list[str]:
    with safe_open(path, framework="pt") as file:
        return list(file.keys())


def compared(task: Task, ways: Sequence[str], repeats: int, is_alone: bool) -> dict[str, Any]:
    """Every way of one method, by turns."""
    rounds: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    scratch, reference = task.out, task.out.with_name("reference")
    differ: dict[str, int] = {}
    shutil.rmtree(reference, ignore_errors=True)
    order = sorted(ways, key=lambda way: way not in ("mergekit", "tuned"))  # the first result is what others are compared with
    for turn in range(repeats):
        shift = turn % len(order)
        for way in order[shift:] + order[:shift]:
            warm(task)
            if is_alone:
                found = child(way, task, task.out.with_name("figures.json"))
            else:
                emptied(task.out)
                found = {**measured(way, replace(task, warm=())), "anonymous_mb": 0.0}
            rounds[way].append(found)
            sys.stderr.write(f"{task.method}, {WAYS[way][0]}: {found['wall_s']:.1f} s, {found['cpu_s']:.1f} CPU s\n")
            if turn == 0 and way in KEPT and reference.exists():
                differ[way] = differing(reference, scratch)
            elif turn == 0 and way in KEPT:
                scratch.rename(reference)
            shutil.rmtree(scratch, ignore_errors=True)
    shutil.rmtree(reference, ignore_errors=True)
    moved = sum(path.stat().st_size for folder in [*task.read, task.read[0]] for path in weight_files(folder))
    rows = {way: _row(way, rounds, moved) for way in ways}
    for way, count in differ.items():
        rows[way]["differing"] = count
    return {"method": task.method, "bytes": moved, "rows": rows}


def _row(way: str, rounds: dict[str, list[dict[str, float]]], moved: int) -> dict[str, Any]:
    row: dict[str, Any] = {key: median(found[key] for found in rounds[way]) for key in rounds[way][0]}
    row["gb_per_s"] = moved / 1e9 / row["wall_s"]
    row["rounds"] = [[round(found["wall_s"], 2), round(found["cpu_s"], 2)] for found in rounds[way]]
    for other in ("copy", "mergekit", "tuned"):
        if other in rounds and way != other:
            for key in ("wall_s", "cpu_s"):
                pairs = zip(rounds[way], rounds[other], strict=True)
                row[f"{key[:-2]}_of_{other}"] = median(mine[key] / theirs[key] for mine, theirs in pairs)
    return row


def show(found: dict[str, Any], models: int) -> None:
    """Print the table of a method."""
    print(f"\n**{found['method']}**, {models} models, {found['bytes'] / 1e9:.2f} GB read and written\n")
    print("| way | s | CPU s | GB/s | of the copy | mergekit over it | tuned mergekit | peak MB | anonymous | differ |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    for way, row in found["rows"].items():
        of_copy = f"{row['wall_of_copy']:.2f}" if "wall_of_copy" in row else ""
        over = [f"{1 / row[f'wall_of_{other}']:.1f}" if f"wall_of_{other}" in row else "" for other in ("mergekit", "tuned")]
        cells = [f"{row['wall_s']:.1f}", f"{row['cpu_s']:.1f}", f"{row['gb_per_s']:.2f}", of_copy, *over]
        cells += [f"{row['peak_mb']:.0f}", f"{row['anonymous_mb']:.0f}", str(row.get("differing", ""))]
        print(f"| {WAYS[way][0]} | " + " | ".join(cells) + " |", flush=True)


def run(given: argparse.Namespace, scratch: Path) -> int:
    """Make the models, measure, print; returns the exit code."""
    size = SIZES[given.size]
    store, model = Store(scratch / given.size), 2 * size.parameters
    store.root.mkdir(parents=True, exist_ok=True)
    made = len(list(store.root.glob("checkpoint/*/*/artifact.json")))
    check_disk(scratch, model * (max(0, given.parents + 1 - made) + (2 if given.size != "4b" else 1)))
    models = make_models(store, size, given.parents)
    tiny = make_models(Store(scratch / "warm"), SIZES["tiny"], 2)
    results = []
    for method in given.methods:
        task = Task(method=method, catalog=store.root, models=models, out=scratch / "merged", threads=given.threads,
                    warm=(str(scratch / "warm"), *tiny))  # fmt: skip
        ways = ways_of(method, given.size, given.ways)
        results.append(compared(task, ways, given.repeats, not given.in_process))
        show(results[-1], len(task.read))
    machine = {"cores": os.cpu_count(), "load": os.getloadavg()[0], "threads": given.threads, "repeats": given.repeats}
    print(
        "\n"
        + json.dumps({"benchmark": "merging", "size": given.size, "parameters": size.parameters, **machine, "results": results})
    )
    return int(any(row.get("differing") for found in results for row in found["rows"].values()))


def main() -> int:
    """Measure; exit code 1 when a bit differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=[size for size in SIZES if size != "tiny"], default="1b")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--parents", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--scratch", type=Path, help="where the models are kept for the next run, on a disk")
    parser.add_argument(
        "--in-process", action="store_true", help="for the tests: no processes of their own, memory means nothing"
    )
    given = parser.parse_args()
    if given.scratch:
        given.scratch.mkdir(parents=True, exist_ok=True)
        return run(given, given.scratch)
    with tempfile.TemporaryDirectory(prefix="merging-", dir="/var/tmp") as scratch:  # /tmp is memory on some systems
        return run(given, Path(scratch))


if __name__ == "__main__":
    sys.exit(main())
