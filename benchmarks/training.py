"""A step of our trainer on a CPU, beside a loop written by hand, transformers' Trainer and TRL's SFTTrainer.

    python benchmarks/training.py [--repeats 2] [--shapes tiny 100m] [--lengths 128 512 2048]

Each runs in a process of its own with one thread, in turns and back (A B C D D C B A); a figure is the least over the repeats
of the median step, in CPU seconds: on a busy machine wall time says little. A row whose losses are not the bare loop's to
1e-4, at step 1 and over each interval after it, is void. The second table is the tiny shape at growing lengths. The goals: at
most 1.05 of the bare loop, and below both others. Prints tables and a JSON line.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from trainers import Settings, run  # type: ignore[import-not-found]  # the folder of a script is on its path

NAMES = ("bare", "ours", "hf", "trl")
SIZES = {"tiny": Settings(shape="tiny", sequence=256, batch=8, steps=65, warm=5),
         "100m": Settings(shape="100m", sequence=256, batch=2, steps=10, warm=4)}  # fmt: skip
SAME = 1e-4
"""Largest difference of two losses that are the same."""


def best(names: Sequence[str], settings: Settings, repeats: int) -> dict[str, dict[str, Any]]:
    """Each contender's figures: the repeat with the fewest CPU seconds a step."""
    order = [name for repeat in range(repeats) for name in (names if repeat % 2 == 0 else reversed(names))]
    found: dict[str, dict[str, Any]] = {}
    for name in order:
        row = run(name, settings)
        if name not in found or row.get("cpu_seconds", 1e9) < found[name].get("cpu_seconds", 1e9):
            found[name] = row
    return found


def void(row: dict[str, Any], reference: dict[str, Any], same: float = SAME) -> str:
    """Why a row does not count; empty when it does."""
    if "not_run" in row:
        return str(row["not_run"])
    if "not_run" in reference:
        return "void: there is nothing to compare its losses with"
    pairs = list(zip(row["losses"], reference["losses"], strict=False))
    apart = max(abs(one - other) for one, other in pairs) if len(row["losses"]) == len(reference["losses"]) else float("inf")
    return "" if apart <= same else f"void: losses differ by {apart:.1g}"


def step_table(title: str, rows: dict[str, dict[str, Any]]) -> None:
    """Print a table of steps."""
    print(f"\n{title}\n\n| | CPU ms a step | of the bare loop | ms a step | peak memory, MB | first loss |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, row in rows.items():
        problem = void(row, rows["bare"])
        if problem:
            print(f"| {name} | {problem} | | | | |")
            continue
        print(f"| {name} | {1e3 * row['cpu_seconds']:.1f} | {row['cpu_seconds'] / rows['bare']['cpu_seconds']:.3f} | "
              f"{1e3 * row['seconds']:.1f} | {row['peak_rss'] / 1e6:.0f} | {row['losses'][0]:.6f} |")  # fmt: skip


def growth_table(lengths: Sequence[int], rows: dict[str, dict[int, dict[str, Any]]]) -> None:
    """Print microseconds of a token, and memory over that of the shortest length."""
    print("\nTiny, one row: CPU microseconds of a token, and peak memory in MB, at a length of\n")
    print("| | " + " | ".join(f"{length:,}" for length in lengths) + " |\n|---|" + "---:|" * len(lengths))
    for name, of_length in rows.items():
        cells = [
            problem
            if (problem := void(row, rows["bare"][length]))
            else f"{1e6 * row['cpu_seconds'] / length:.1f}, {row['peak_rss'] / 1e6:.0f}"
            for length, row in of_length.items()
        ]
        print(f"| {name} | " + " | ".join(cells) + " |")


def main() -> None:
    """Run all and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--shapes", nargs="*", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--lengths", type=int, nargs="*", default=[128, 512, 2048])
    parser.add_argument("--contenders", nargs="*", default=list(NAMES), choices=list(NAMES))
    given = parser.parse_args()
    names = ["bare", *(name for name in given.contenders if name != "bare")]
    steps = {shape: best(names, SIZES[shape], given.repeats) for shape in given.shapes}
    for shape, rows in steps.items():
        settings = SIZES[shape]
        step_table(f"{shape}, {settings.batch} rows of {settings.sequence} tokens, fp32, one thread", rows)
    growth: dict[str, dict[int, dict[str, Any]]] = {name: {} for name in names}
    for length in given.lengths:
        settings = Settings(shape="tiny", sequence=length, batch=1, steps=25, warm=5)
        for name, row in best(names, settings, given.repeats).items():
            growth[name][length] = row
    if given.lengths:
        growth_table(given.lengths, growth)
    print("\n" + json.dumps({"steps": steps, "growth": growth}))


if __name__ == "__main__":
    main()
