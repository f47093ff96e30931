"""Comparing without contaminated items: what a policy's `[clean]` table asks of scorecards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from .contamination import Clean, Named
from .pairing import HASHES, Block, Incomparable, Items, asked_of


def found_items(clean: Clean | None, scorecards: Sequence[Items]) -> frozenset[Named]:
    """The items to leave out: those that any of the scorecards found in its training corpora.

    Raises Incomparable for a scorecard of whose contamination nothing is known, or with more of it than allowed.
    """
    if clean is None:
        return frozenset()
    for items in scorecards:
        require_clean(items, clean)
    return frozenset[Named]().union(*(items.contaminated for items in scorecards)) if clean.exclude else frozenset()


def require_clean(items: Items, clean: Clean) -> None:
    """Raise Incomparable for a scorecard of whose contamination nothing is known, or with too much of it."""
    if not items.card.corpora:
        problem = "was made without an overlap with its training corpora, and the policy asks for clean items"
        raise Incomparable(f"{items.ref} {problem}: name one in the evaluation's recipe")
    for cell in items.card.contamination:
        if cell.found > clean.max_share * cell.items:
            share = f"{cell.found} of {cell.items} items of {cell.task}/{cell.language}"
            raise Incomparable(f"{items.ref}: training corpora hold {share}, the policy allows {clean.max_share:.1%}")


def without(items: Items, found: frozenset[Named]) -> Items:
    """A scorecard's items but for those found; raises Incomparable when nothing is left of a task."""
    blocks = {}
    for place, block in items.blocks.items():
        metric, language, task = place
        kept = np.array([(task, language, item) not in found for item in block.asked.items], dtype=np.bool_)
        if kept.all():
            blocks[place] = block
            continue
        if not kept.any():
            raise Incomparable(f"{items.ref}: training corpora hold every item of {metric}/{language}/{task}")
        places = np.flatnonzero(kept)
        columns = {name: block.asked.columns[name][places] for name in HASHES}
        asked = asked_of(tuple(block.asked.items[i] for i in places), columns)
        blocks[place] = Block(asked=asked, values=block.values[places], nulls=0)
    return replace(items, blocks=blocks)
