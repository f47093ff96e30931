"""Our trainer on one GPU beside transformers' Trainer, with and without Liger, TRL's SFTTrainer and torchtitan: about 1B, bf16.

    python benchmarks/training_gpu.py [--grid 4096x4 4096x8 8192x2] [--contenders ours hf hf_liger trl torchtitan] [--fit]
    python benchmarks/training_gpu.py --tiny        # on a CPU: that every contender runs, and nothing else

Random weights and made-up ids, the same for all; fp32 master weights, bf16 computation. Each runs in a process of its own, all
in one order and back (A B C C B A), and a figure is the mean of the two. The device is waited for at the two ends of the timed
steps only. MFU is given in both conventions (all of attention's products, or the causal half) over the rate of a large bf16
product, measured before and after on the same card. A row whose first loss is not the bare loop's to 1e-3, or whose later ones
not to 0.02, is void. `--fit` doubles the rows of a step until memory is full. Activations are the peak less 16 bytes a
parameter. Prints tables and a JSON line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from trainers import NEEDS, Settings, config_of, run  # type: ignore[import-not-found]  # the folder of a script is on its path

NAMES = ("ours", "hf", "hf_liger", "trl", "torchtitan")
FIRST, LATER = 1e-3, 0.02
"""Largest differences of the first loss, and of later ones, in bf16."""
STATES = 16
"""Bytes of a parameter: weight, gradient and two moments in fp32."""
MATMUL = """
import json, time, torch
a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
for _ in range(20): a @ b
torch.cuda.synchronize(); start = time.perf_counter()
for _ in range(100): a @ b
torch.cuda.synchronize()
print(json.dumps([2 * 8192**3 * 100 / (time.perf_counter() - start), torch.cuda.get_device_name(), torch.__version__]))
"""


def matmul_rate() -> tuple[float, str, str]:
    """Operations a second of a large bf16 product, the card's name and torch's version."""
    done = subprocess.run([sys.executable, "-c", MATMUL], capture_output=True, text=True, check=True)
    rate, card, version = json.loads(done.stdout.splitlines()[-1])
    return float(rate), str(card), str(version)


def there_and_back(names: Sequence[str], settings: Settings) -> dict[str, dict[str, Any]]:
    """Each contender twice, A B C C B A; speed is the mean of the two. One that did not run is not run again."""
    found: dict[str, list[dict[str, Any]]] = {}
    for name in (*names, *reversed(names)):
        if name not in found or "not_run" not in found[name][0]:
            found.setdefault(name, []).append(run(name, settings))
    return {
        name: runs[0] if "not_run" in runs[-1] else runs[0] | {"seconds": statistics.fmean(row["seconds"] for row in runs)}
        for name, runs in found.items()
    }


def void(row: dict[str, Any], reference: dict[str, Any]) -> str:
    """Why a row does not count; empty when it does."""
    if "not_run" in row:
        return f"not run: {row['not_run']}"
    if "not_run" in reference or len(row["losses"]) != len(reference["losses"]):
        return "void: there is nothing to compare its losses with"
    apart = [abs(one - other) for one, other in zip(row["losses"], reference["losses"], strict=True)]
    return f"void: losses differ by {max(apart):.1g}" if apart[0] > FIRST or max(apart) > LATER else ""


def largest_batch(name: str, settings: Settings) -> int:
    """The largest power of two of rows that a step can have; 0 for none."""
    rows = 1
    while "not_run" not in run(name, replace(settings, batch=rows, steps=3, warm=2)):
        rows *= 2
    return rows // 2


def table(settings: Settings, rows: dict[str, dict[str, Any]], rate: float) -> None:
    """Print the rows of one shape."""
    from sea_lion.training.flops import flops_per_token

    config, reference = config_of(settings), rows["bare"]
    print(
        f"\n{settings.shape}, {settings.batch} x {settings.sequence}, recompute {settings.recompute}, "
        f"compile {settings.compile}\n"
    )
    print("| | tokens/s | MFU all | MFU causal | peak, GB | activations, GB | reserved, GB |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name, row in rows.items():
        if problem := void(row, reference):
            print(f"| {name} | {problem} | | | | | |")
            continue
        pace = settings.batch * settings.sequence / row["seconds"]
        if "allocated" not in row:
            print(f"| {name} | {pace:,.0f} (CPU) | | | | | |")
            continue
        both = [flops_per_token(config, settings.sequence, causal=causal) * pace / rate for causal in (False, True)]
        peak = row.get("allocated", 0) / 1e9
        print(f"| {name} | {pace:,.0f} | {both[0]:.1%} | {both[1]:.1%} | {peak:.1f} | {peak - states_gb(config):.1f} | "
              f"{row.get('reserved', 0) / 1e9:.1f} |")  # fmt: skip


def states_gb(config: Any) -> float:
    """GB of weights, gradients and moments."""
    import torch
    from transformers import AutoModelForCausalLM

    build: Any = AutoModelForCausalLM.from_config
    with torch.device("meta"):
        model = build(config)
    return float(STATES * sum(parameter.numel() for parameter in model.parameters()) / 1e9)


def grid_of(given: argparse.Namespace, device: str) -> list[Settings]:
    """What is run: each length and batch, plain, with recomputation, and compiled."""
    if given.tiny:
        return [Settings(shape="tiny", sequence=128, batch=2, steps=15, warm=5, device=device, precision="bf16")]
    sizes = [tuple(map(int, size.split("x"))) for size in given.grid]
    plain = [
        Settings(shape="1b", sequence=length, batch=rows, steps=40, warm=10, device=device, precision="bf16")
        for length, rows in sizes
    ]
    ways = [{}, {"recompute": True}, {"compile": True}] if given.ways == "all" else [{}]
    return [replace(settings, **way) for settings in plain for way in ways]


def main() -> None:
    """Run all and print."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grid", nargs="*", default=["4096x4", "4096x8", "8192x2"], metavar="LENGTHxROWS")
    parser.add_argument("--contenders", nargs="*", default=list(NAMES), choices=list(NEEDS))
    parser.add_argument("--ways", choices=["plain", "all"], default="plain", help="all: with recomputation and compiled, too")
    parser.add_argument("--fit", action="store_true", help="find the largest batch of each")
    parser.add_argument("--tiny", action="store_true", help="a tiny model, on a CPU as well")
    given = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not given.tiny:
        print("not run: there is no GPU (--tiny runs every contender on a CPU)")
        return
    names = ["bare", *(name for name in given.contenders if name != "bare")]
    rate, card, version = matmul_rate() if device == "cuda" else (float("nan"), "CPU", torch.__version__)
    found = []
    for settings in grid_of(given, device):
        rows = there_and_back(names, settings)
        table(settings, rows, rate)
        found.append({"sequence": settings.sequence, "batch": settings.batch, "recompute": settings.recompute,
                      "compile": settings.compile, "rows": rows})  # fmt: skip
    largest = {}
    if given.fit:
        largest = {name: largest_batch(name, grid_of(given, device)[0]) for name in names}
        print("\nlargest batch: " + ", ".join(f"{name} {rows}" for name, rows in largest.items()))
    after = matmul_rate()[0] if device == "cuda" else rate
    if device == "cuda":
        print(f"\n{card}, torch {version}, bf16 product {rate / 1e12:.0f} TFLOP/s before and {after / 1e12:.0f} after")
    print(json.dumps({"card": card, "torch": version, "rate": rate, "after": after, "grid": found, "largest": largest}))


if __name__ == "__main__":
    main()
