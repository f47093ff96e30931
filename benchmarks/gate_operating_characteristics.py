"""How often the gate is wrong, by simulation with the gate's own code, beside three rules that people use instead.

Twenty tasks (five languages of four) of right-or-wrong items, 15% of which change between two models. Figures of the column
`facts` were measured once with a prototype of the same rules (8,000 to 20,000 decisions a cell); ours must come within two
points of them. The rules beside it: some task drops by more than its standard error, the unpaired z test per task that
lm-eval's comparator makes, and a mean that drops by more than half a point. `--tiers` and `--noise` add the two-tier gate and
what run noise does to a gate that does not know of it.

    python benchmarks/gate_operating_characteristics.py --decisions 8000 --processes 2
"""

from __future__ import annotations

import argparse
import json
import math
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from sea_lion.eval import policy as policies
from sea_lion.eval.pairing import Items
from sea_lion.eval.policy import Noise, Policy, read_policy
from sea_lion.eval.simulate import SCENARIOS, Figures, simulate

FACTS: dict[str, dict[int, float]] = {
    "no change": {250: 0.02, 500: 0.02, 1000: 0.01},
    "one language -3": {250: 0.34, 500: 0.67, 1000: 0.96},
    "one language -5": {250: 0.89, 500: 1.00, 1000: 1.00},
    "one language -5, others +1": {250: 0.87, 500: 1.00, 1000: 1.00},
    "one task -5": {250: 0.12, 500: 0.32, 1000: 0.72},
    "one task -10": {250: 0.84, 500: 1.00, 1000: 1.00},
    "all tasks -1": {250: 0.32, 500: 0.57, 1000: 0.86},
    "all tasks -2": {250: 0.91, 500: 1.00, 1000: 1.00},
}
"""Share that fails, by scenario and items per task."""


def shipped(name: str) -> Policy:
    """A built-in policy."""
    return read_policy(Path(policies.__file__).parent / "policies" / f"{name}.toml")


def drops(candidate: Items, baseline: Items) -> list[tuple[float, float, float, int]]:
    """Per task: the candidate's mean and the baseline's, the drop, and the items."""
    pairs = [(block.values, baseline.blocks[place].values) for place, block in candidate.blocks.items()]
    return [(float(new.mean()), float(old.mean()), float(old.mean() - new.mean()), len(new)) for new, old in pairs]


def any_drop_beyond_stderr(candidate: Items, baseline: Items) -> bool:
    """Whether some task drops by more than the candidate's own standard error."""
    return any(drop > math.sqrt(new * (1 - new) / (n - 1)) for new, _, drop, n in drops(candidate, baseline))


def any_unpaired_z(candidate: Items, baseline: Items) -> bool:
    """Whether some task drops by an unpaired two-sample z test at two-sided 5%."""
    found = drops(candidate, baseline)
    return any(drop / max(math.sqrt((new * (1 - new) + old * (1 - old)) / (n - 1)), 1e-9) > 1.96 for new, old, drop, n in found)


def mean_drop(candidate: Items, baseline: Items) -> bool:
    """Whether the mean of all tasks drops by more than half a point."""
    return float(np.mean([drop for _, _, drop, _ in drops(candidate, baseline)])) > 0.005


BESIDE = {"stderr": any_drop_beyond_stderr, "unpaired z": any_unpaired_z, "mean": mean_drop}


def cell(work: tuple[str, Policy, int, str, int, float, Noise]) -> tuple[str, int, Figures]:
    """One scenario at one size."""
    name, policy, items, scenario, decisions, churn, noise = work
    wanted = [one for one in SCENARIOS if one.name == scenario]
    found = simulate(policy, [items], churn=churn, scenarios=wanted, replications=decisions, noise=noise, beside=BESIDE)
    return name, items, found[0]


def works(arguments: argparse.Namespace) -> list[tuple[str, Policy, int, str, int, float, Noise]]:
    """Everything to simulate."""
    plain, silent, decisions, churn = shipped("leaderboard-grade"), Noise(), arguments.decisions, arguments.churn
    found = [("gate", plain, n, scenario, decisions, churn, silent) for n in arguments.items for scenario in FACTS]
    if arguments.tiers:
        tiers = shipped("leaderboard-auto")
        found += [("two tiers", tiers, 1000, scenario, decisions // 4, churn, silent) for scenario in FACTS]
    if arguments.noise:
        noise = Noise(sigma_run=0.007, sigma_common=0.002)
        knowing = replace(plain, noise={"score": noise})
        for n in (250, 1000):
            for name, policy in (("noise unknown", plain), ("noise floor", knowing)):
                found += [
                    (name, policy, n, scenario, decisions // 4, churn, noise) for scenario in ("no change", "all tasks -2")
                ]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--decisions", type=int, default=8000, help="per cell")
    parser.add_argument("--items", type=lambda text: [int(part) for part in text.split(",")], default=[250, 500, 1000])
    parser.add_argument("--churn", type=float, default=0.15, help="share of the answers that change")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--tiers", action="store_true", help="also the two-tier gate with auto margins")
    parser.add_argument("--noise", action="store_true", help="also run noise, with and without a noise floor")
    arguments = parser.parse_args()
    start, worst, rows = time.perf_counter(), 0.0, []
    head = f"{'gate':14} {'items':>5} {'true change':27} {'fail':>6} {'facts':>6} {'hold':>6} {'pass':>6} {'tier 2':>6}"
    print(head + "".join(f" {name:>10}" for name in BESIDE))
    with ProcessPoolExecutor(arguments.processes) as pool:
        for name, items, found in pool.map(cell, works(arguments)):
            fact = FACTS[found.scenario].get(items) if name == "gate" and arguments.churn == 0.15 else None
            if fact is not None:
                worst = max(worst, abs(found.failed - fact))
            rows.append(row(name, items, found, fact))
            print(line(name, items, found, fact), flush=True)
    seconds = time.perf_counter() - start
    decisions = sum(one["decisions"] for one in rows)
    print(f"largest distance from the facts: {100 * worst:.1f} points; {decisions:,} decisions in {seconds:.0f} s")
    print(json.dumps({"largest_distance": round(worst, 4), "decisions": decisions, "seconds": round(seconds, 1), "rows": rows}))


def row(name: str, items: int, found: Figures, fact: float | None) -> dict[str, Any]:
    """One line of the table as JSON."""
    return {"gate": name, "items": items, "facts": fact, **asdict(found)}


def line(name: str, items: int, found: Figures, fact: float | None) -> str:
    """One line of the table."""
    known = f"{fact:6.2f}" if fact is not None else f"{'':6}"
    figures = f"{found.failed:6.3f} {known} {found.held:6.3f} {found.passed:6.3f} {found.second_tier:6.3f}"
    return f"{name:14} {items:5} {found.scenario:27} {figures}" + "".join(f" {share:10.3f}" for share in found.alarms.values())


if __name__ == "__main__":
    main()
