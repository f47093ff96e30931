"""The first tier of a gate: a part of each task's items, the same for every model, chosen by hash.

The choice depends on the items' clusters alone: not on any answer, nor on names of tasks or their order. Whole clusters are
taken, and each stratum gives in proportion. Random choices are refused, they would differ from one scorecard to the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from .comparability import TIER
from .pairing import HASHES, Asked, Block, Incomparable, Items, asked_of


def first_tier(clusters: Sequence[str], strata: Sequence[str], items: int) -> NDArray[np.bool_]:
    """Which of a task's items are in the first tier of about `items`; those of an evaluator that asks no others are these."""
    count = len(clusters)
    ranks = [sha256(name.encode()).digest() for name in clusters]
    taken = np.zeros(count, dtype=np.bool_)
    for stratum in set(strata):
        members = sorted((ranks[i], i) for i in range(count) if strata[i] == stratum)
        quota = -(-items * len(members) // count)
        if quota < len(members):
            last = members[quota - 1][0]
            members = [member for member in members if member[0] <= last]
        taken[[place for _, place in members]] = True
    return taken


def is_first_tier_only(items: Items) -> bool:
    """Whether a scorecard says that it asked only the first tier's items."""
    return TIER in items.card.settings


def restricted(items: Items, count: int) -> Items:
    """The first tier of a scorecard: itself, when it asked no other items; raises Incomparable when it asked another number."""
    if is_first_tier_only(items):
        if items.card.settings[TIER] != str(count):
            number = items.card.settings[TIER]
            raise Incomparable(f"{items.ref} asked a first tier of {number} items a task, the policy's has {count}")
        return items
    blocks = {}
    for place, block in items.blocks.items():
        asked, places = _part(block.asked, count)
        # Answers that say nothing are limited on the whole table, which was checked before.
        blocks[place] = Block(asked=asked, values=block.values[places], nulls=0)
    return replace(items, blocks=blocks)


@lru_cache(maxsize=4096)
def _part(asked: Asked, count: int) -> tuple[Asked, NDArray[np.intp]]:
    """What the first tier asks of one cell, and where it stands there; kept, because cells are shared by many models."""
    taken = first_tier(asked.clusters.tolist(), asked.columns["stratum"].tolist(), count)
    if taken.all():
        return asked, np.arange(len(taken))
    places = np.flatnonzero(taken)
    columns = {name: asked.columns[name][places] for name in HASHES}
    return asked_of(tuple(asked.items[place] for place in places), columns), places
