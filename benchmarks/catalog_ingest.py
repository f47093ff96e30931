"""One step of the ingest of slots in a process of its own: `catalog.py` starts it and reads the JSON line it prints.

python benchmarks/catalog_ingest.py CATALOG refresh|rebuild|fold|funnel|tokens
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from catalog_questions import measure  # type: ignore[import-not-found]  # the folder of a script is on its path

from sea_lion.catalog import index, questions
from sea_lion.catalog.slot_rows import fold
from sea_lion.catalog.slots import slot_sets
from sea_lion.catalog.store import Store

RUNNING = "corpus/running@1"


def refresh(store: Store) -> list[tuple[int, ...]]:
    """Take in what is new."""
    done = index.refresh(store)
    return [(done.artifacts, done.slots, len(done.problems))]


def rebuild(store: Store) -> list[tuple[int, ...]]:
    """Make the index anew."""
    return [(index.rebuild(store).stat().st_size,)]


def folded(store: Store) -> list[tuple[int, ...]]:
    """Write the ledgers."""
    return [(sum(fold(store.place, folder) for folder, _, _ in slot_sets(store.place)),)]


def funnel(store: Store) -> list[tuple[object, ...]]:
    """What the running build removed so far."""
    asked = questions.funnel(("language", "reason"), corpus=RUNNING)
    return index.query(store, asked.sql, asked.parameters)[1]


def tokens(store: Store) -> list[tuple[object, ...]]:
    """What the running build has so far."""
    asked = questions.tokens(("language", "crawl", "tokenizer"), corpus=RUNNING)
    return index.query(store, asked.sql, asked.parameters)[1]


STEPS = {"refresh": refresh, "rebuild": rebuild, "fold": folded, "funnel": funnel, "tokens": tokens}

if __name__ == "__main__":
    found: list[object] = []

    def step() -> list[tuple[object, ...]]:
        """The step, its rows kept."""
        found[:] = STEPS[sys.argv[2]](Store(Path(sys.argv[1])))  # type: ignore[operator]
        return found  # type: ignore[return-value]

    print(json.dumps(measure(step) | {"answer": found[:1]}))
