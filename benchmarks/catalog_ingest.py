"""One step of the ingest of slots in a process of its own: `catalog.py` starts it and reads the JSON line it prints.

python benchmarks/catalog_ingest.py CATALOG refresh|rebuild|fold|funnel|tokens
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

from catalog_peers import Rows  # type: ignore[import-not-found]
from catalog_questions import measure  # type: ignore[import-not-found]  # the folder of a script is on its path

from sea_lion.catalog import index, questions
from sea_lion.catalog.slot_rows import fold
from sea_lion.catalog.slots import slot_sets
from sea_lion.catalog.store import Store

RUNNING = "corpus/running@1"


def refresh(store: Store) -> Rows:
    """Take in what is new."""
    done = index.refresh(store)
    return [(done.artifacts, done.slots, len(done.problems))]


def rebuild(store: Store) -> Rows:
    """Make the index anew."""
    return [(index.rebuild(store).stat().st_size,)]


def folded(store: Store) -> Rows:
    """Write the ledgers."""
    return [(sum(fold(store.place, folder) for folder, _, _ in slot_sets(store.place)),)]


def funnel(store: Store) -> Rows:
    """What the running build removed so far."""
    asked = questions.funnel(("language", "reason"), corpus=RUNNING)
    return index.query(store, asked.sql, asked.parameters)[1]


def tokens(store: Store) -> Rows:
    """What the running build has so far."""
    asked = questions.tokens(("language", "crawl", "tokenizer"), corpus=RUNNING)
    return index.query(store, asked.sql, asked.parameters)[1]


STEPS: dict[str, Callable[[Store], Rows]] = {
    "refresh": refresh, "rebuild": rebuild, "fold": folded, "funnel": funnel, "tokens": tokens,
}  # fmt: skip

if __name__ == "__main__":
    print(json.dumps(measure(lambda: STEPS[sys.argv[2]](Store(Path(sys.argv[1]))))))
