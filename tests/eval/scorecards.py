"""Made-up scorecards: a smoke suite's items, and those of another model that differs as a test wants."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from sea_lion.catalog.records import Score, Scorecard
from sea_lion.eval.pairing import Items, items_of

POLICIES = Path(__file__).parents[2] / "eval" / "policies"
LANGUAGES = ("cmn", "eng", "fil", "ind", "khm", "lao", "mya", "tam", "tha", "vie", "zsm")
DIRECTIONS = {"bits_per_byte": False, "acc": True, "margin": True}
Rows = list[dict[str, Any]]


def suite_rows(seed: int, languages: tuple[str, ...] = LANGUAGES, documents: int = 6, items: int = 44) -> Rows:
    """A smoke scorecard's items: bits per byte about 2, half of the choices right."""
    generator = np.random.default_rng(seed)
    rows = []
    for language in languages:
        for metric, count in (("bits_per_byte", documents), ("acc", items), ("margin", items)):
            for i in range(count):
                value = {
                    "bits_per_byte": float(generator.normal(2, 0.2)),
                    "acc": float(generator.random() < 0.5),
                    "margin": float(-generator.exponential(0.9)),
                }[metric]
                rows.append(item_row(metric, language, i, value))
    return rows


def item_row(metric: str, language: str, number: int, value: float, task: str = "") -> dict[str, Any]:
    """One item of a scorecard."""
    item = f"{language}-{number:03d}"
    return {
        "task": task or ("heldout" if metric == "bits_per_byte" else "word-order"), "language": language, "metric": metric,
        "item": item, "cluster": item, "value": value, "doc_hash": f"d{item}", "prompt_hash": f"p{item}",
        "target_hash": f"t{item}",
    }  # fmt: skip


def changed(rows: Rows, seed: int, *, churn: float = 0.1, spread: float = 0.03, nats: float = 0.3, **shift: float) -> Rows:
    """Another model's items: `churn` of the choices flip, the graded values move; `shift` per metric or `metric_language`."""
    generator = np.random.default_rng(seed)
    out = []
    for row in rows:
        metric, value = row["metric"], row["value"]
        move = shift.get(metric, 0.0) + shift.get(f"{metric}_{row['language']}", 0.0)
        if metric == "acc":
            lost, won = (churn - move) / 2, (churn + move) / 2  # of all items; half of them are right
            value = 1 - value if generator.random() < 2 * (lost if value == 1 else won) else value
        else:
            value += float(generator.normal(move, spread if metric == "bits_per_byte" else nats))
        out.append(row | {"value": value})
    return out


def scorecard(model: str, rows: Rows, suite_fingerprint: str = "f" * 64) -> Scorecard:
    """A scorecard that has every cell of the items."""
    cells = sorted({(row["task"], row["language"], row["metric"]) for row in rows})
    scores = tuple(
        Score(task=t, language=x, metric=m, value=0, stderr=0, items=1, higher_is_better=DIRECTIONS[m]) for t, x, m in cells
    )
    return Scorecard(model=model, suite="smoke", suite_fingerprint=suite_fingerprint, harness="lm-eval 0.4.13", scores=scores)


def items(model: str, rows: Rows) -> Items:
    """A model's items as a gate compares them."""
    return items_of(f"scorecard/{model}@1", scorecard(f"checkpoint/{model}@1", rows), rows)


BASE = suite_rows(0)
