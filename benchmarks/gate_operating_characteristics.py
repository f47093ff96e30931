"""How often a gate policy is wrong on a suite of the smoke suite's size, beside two rules that people use instead.

Pairs of scorecards are drawn: 11 languages with 44 right-or-wrong items, 44 graded ones and 6 documents each. Each pair is
gated by the real code under a built-in policy. Column `stderr`: some language's accuracy drops by more than its standard error;
column `unpaired`: the unpaired z test per task at 5% that lm-eval's comparator makes, without correction.

    python benchmarks/gate_operating_characteristics.py --policy merge --pairs 200 --churn 0.15
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sea_lion.catalog.languages import LANGUAGES
from sea_lion.catalog.records import Score, Scorecard
from sea_lion.eval import policy as policies
from sea_lion.eval.gate import compare
from sea_lion.eval.pairing import Items
from sea_lion.eval.policy import Policy, read_policy

Floats = NDArray[np.float64]
Values = dict[tuple[str, str], tuple[Floats, Floats]]
"""Metric and language to the baseline's and the candidate's values."""
ITEMS, DOCUMENTS = 44, 6
NATS, BITS = 0.8, 0.04
"""Standard deviation of the paired differences of `margin` (nats) and of `bits_per_byte` over items of one language."""

SCENARIOS: dict[str, dict[str, float]] = {
    "no change": {},
    "better: +3 points, +0.05 nats, -0.05 bits": {"acc": 0.03, "margin": 0.05, "bits_per_byte": -0.05},
    "all languages -5 points": {"acc": -0.05},
    "all languages -10 points": {"acc": -0.10},
    "all languages -0.2 nats": {"margin": -0.2},
    "all languages +0.1 bits": {"bits_per_byte": 0.1},
    "one language -30 points": {"acc_tam": -0.3},
    "one language -1.5 nats": {"margin_tam": -1.5},
    "one language +0.3 bits": {"bits_per_byte_tam": 0.3},
}
"""Name to the true change of a metric, or of a metric in one language."""


def drawn(generator: np.random.Generator, churn: float, shift: dict[str, float]) -> Values:
    """Baseline's and candidate's values per metric and language."""
    values = {}
    for language in LANGUAGES:
        right = (generator.random(ITEMS) < 0.5).astype(float)
        delta = shift.get("acc", 0.0) + shift.get(f"acc_{language}", 0.0)
        lost, won = (max(churn, abs(delta)) - delta) / 2, (max(churn, abs(delta)) + delta) / 2
        flips = generator.random(ITEMS) < np.where(right == 1, 2 * lost, 2 * won)
        values["acc", language] = right, np.where(flips, 1 - right, right)
        graded = -generator.exponential(0.9, ITEMS)
        delta = shift.get("margin", 0.0) + shift.get(f"margin_{language}", 0.0)
        values["margin", language] = graded, graded + generator.normal(delta, NATS, ITEMS)
        bits = generator.normal(2, 0.2, DOCUMENTS)
        delta = shift.get("bits_per_byte", 0.0) + shift.get(f"bits_per_byte_{language}", 0.0)
        values["bits_per_byte", language] = bits, bits + generator.normal(delta, BITS, DOCUMENTS)
    return values


def as_items(name: str, values: dict[tuple[str, str], Floats]) -> Items:
    """A scorecard's items from drawn values."""
    rows: dict[tuple[str, str, str, str], dict[str, Any]] = {}
    for (metric, language), numbers in sorted(values.items()):
        for i, value in enumerate(numbers):
            item = f"{language}-{i:03d}"
            same = {"cluster": item, "doc_hash": item, "prompt_hash": item, "target_hash": item}
            rows[metric, language, metric, item] = {"value": float(value), **same}
    scores = tuple(
        Score(task=m, language="und", metric=m, value=0, stderr=0, items=0, higher_is_better=m != "bits_per_byte")
        for m in ("acc", "bits_per_byte", "margin")
    )
    card = Scorecard(model=f"checkpoint/{name}@1", suite="s", suite_fingerprint="s", harness="h", scores=scores)
    return Items(ref=f"scorecard/{name}@1", card=card, rows=rows)


def any_drop_beyond_stderr(values: Values) -> bool:
    """Whether some language's accuracy drops by more than the candidate's own standard error."""
    pairs = [pair for (metric, _), pair in values.items() if metric == "acc"]
    return any(new.mean() < old.mean() - math.sqrt(new.mean() * (1 - new.mean()) / (ITEMS - 1)) for old, new in pairs)


def any_unpaired_z(values: Values) -> bool:
    """Whether some language's accuracy drops by an unpaired two-sample z test at two-sided 5%."""
    for (metric, _), (old, new) in values.items():
        error = math.sqrt(old.var(ddof=1) / ITEMS + new.var(ddof=1) / ITEMS)
        if metric == "acc" and (new.mean() - old.mean()) / max(error, 1e-9) < -1.96:
            return True
    return False


def rates(policy: Policy, churn: float, shift: dict[str, float], pairs: int, seed: int) -> dict[str, float]:
    """Share of the drawn pairs that fail, hold and pass, and on which the two other rules raise an alarm."""
    generator = np.random.default_rng(seed)
    count: Counter[str] = Counter()
    for _ in range(pairs):
        values = drawn(generator, churn, shift)
        old = as_items("old", {key: pair[0] for key, pair in values.items()})
        new = as_items("new", {key: pair[1] for key, pair in values.items()})
        count[compare(policy, new, [old], "checkpoint/old@1").verdict] += 1
        count["stderr"] += any_drop_beyond_stderr(values)
        count["unpaired"] += any_unpaired_z(values)
    return {name: round(count[name] / pairs, 3) for name in ("fail", "hold", "pass", "stderr", "unpaired")}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--policy", default="merge", help="a built-in policy")
    parser.add_argument("--pairs", type=int, default=200, help="pairs of scorecards per scenario")
    parser.add_argument("--churn", type=float, default=0.15, help="share of the answers that change")
    arguments = parser.parse_args()
    policy = read_policy(Path(policies.__file__).parent / "policies" / f"{arguments.policy}.toml")
    print(f"policy {policy.name}, churn {arguments.churn:g}, {arguments.pairs} pairs a line (the last two: accuracy only)")
    print(f"{'scenario':44} {'fail':>6} {'hold':>6} {'pass':>6} {'stderr':>8} {'unpaired':>9}")
    start, found = time.perf_counter(), {}
    for seed, (name, shift) in enumerate(SCENARIOS.items()):
        found[name] = row = rates(policy, arguments.churn, shift, arguments.pairs, seed)
        line = f"{row['fail']:6.3f} {row['hold']:6.3f} {row['pass']:6.3f} {row['stderr']:8.3f} {row['unpaired']:9.3f}"
        print(f"{name:44} {line}")
    seconds = round((time.perf_counter() - start) / (len(SCENARIOS) * arguments.pairs), 4)
    print(json.dumps({"policy": policy.name, "churn": arguments.churn, "seconds_a_decision": seconds, "rates": found}))


if __name__ == "__main__":
    main()
