"""Step 0 of a gate: whether two scorecards may be compared at all, or the first reason why not.

Unlike things are never compared: a wrong answer to this question makes every figure after it worthless, so each check names
what differs and where, and the verdict is `error`, neither pass nor fail.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..catalog.records import Score, Scorecard
from .pairing import HASHES, Asked, Incomparable, Items
from .policy import Claim, Floor, Limits, Policy, Rule
from .selection import selects

SETTINGS = ("backend", "dtype", "batch_size", "world_size", "judge", "metricx")
"""Settings of a run that move scores and must be equal; a scorecard of before they were recorded has none."""
DIGEST = 64
"""Digits of a sha256, of which a message shows the first twelve."""
TIER = "tier"
"""The setting of a scorecard that asked only the first tier's items: how many a task."""


def require_sound(items: Items, policy: Policy) -> None:
    """Raise Incomparable for a scorecard that nothing may be concluded from."""
    require_whole(items)
    for place, block in items.blocks.items():
        share = block.nulls / max(len(block.values), 1)
        _within(items.ref, "/".join(place), "said nothing readable", share, policy.limits.nulls)
    for score in items.card.scores:
        _within_limits(items.ref, score, policy.limits)
    _require_complete(items, policy)


def require_whole(items: Items) -> None:
    """Raise Incomparable for items that are cut short by a limit, missing, repeated or without a finite value."""
    if items.card.limit:
        raise Incomparable(
            f"{items.ref} was made with a limit of {items.card.limit} items a task: such numbers are for looking at"
        )
    if not items.blocks:
        raise Incomparable(f"{items.ref} has no items")
    if items.repeated:
        raise Incomparable(f"{items.ref} has {items.repeated[0]} more than once")
    if items.empty:
        raise Incomparable(f"{items.ref}: {items.empty[0]} has the value None")
    for place, block in items.blocks.items():
        bad = np.flatnonzero(~np.isfinite(block.values))
        if len(bad):
            name = block.asked.items[bad[0]]
            raise Incomparable(f"{items.ref}: {'/'.join(place)}/{name} has the value {block.values[bad[0]]:g}")


def _within_limits(ref: str, score: Score, limits: Limits) -> None:
    place, asked = f"{score.metric}/{score.language}/{score.task}", max(score.items, 1)
    if score.role == "score":
        _within(ref, place, "said nothing readable", score.nulls / asked, limits.nulls)
        _within(ref, place, "were cut off at the limit of tokens", score.truncated / asked, limits.truncated)


def _within(ref: str, place: str, what: str, share: float, limit: float) -> None:
    if share > limit:
        raise Incomparable(f"{ref}: {share:.1%} of the answers of {place} {what}, the policy allows {limit:.1%}")


def _require_complete(items: Items, policy: Policy) -> None:
    """Raise Incomparable when a task without a score is one that a rule, floor or claim is about."""
    parts: tuple[Rule | Floor | Claim, ...] = (*policy.rules, *policy.floors, *policy.aims(), *policy.claims)
    for entry in items.card.incomplete:
        if any(_is_about(part, entry) for part in parts):
            raise Incomparable(f"{items.ref} has no score for {entry}")


def _is_about(part: Rule | Floor | Claim, entry: str) -> bool:
    """Whether a task without a score (`task: why`, `task/language: why`) may be among a rule's."""
    task, _, language = entry.partition(":")[0].strip().partition("/")
    languages, tasks = part.about() if isinstance(part, Floor) else (part.languages, part.tasks)
    # An entry that names no language is about all of them.
    return selects(tasks, task) and (not language or selects(languages, language))


def require_comparable(candidate: Items, baseline: Items, same_prompts: bool) -> None:
    """Raise Incomparable with the first difference between how, and what, the two were asked."""
    _require_equal("profile", candidate, baseline, lambda card: card.profile)
    _require_equal("suite", candidate, baseline, lambda card: card.suite)
    if same_prompts:  # prompts are part of the fingerprint, so it can only be asked for where they must be equal
        _require_equal("suite_fingerprint", candidate, baseline, lambda card: card.suite_fingerprint)
    _require_equal("harness", candidate, baseline, lambda card: card.harness)
    for name in SETTINGS:
        _require_equal(name, candidate, baseline, lambda card, name=name: card.settings.get(name, "unknown"))  # type: ignore[misc]
    _require_same_items(candidate, baseline)
    _require_same_scores(candidate, baseline)
    columns = HASHES if same_prompts else HASHES[:-1]
    for place, block in candidate.blocks.items():
        other = baseline.blocks[place].asked
        if block.asked is not other:
            _require_same_questions("/".join(place), block.asked, other, columns, candidate.ref, baseline.ref)


def _require_same_items(candidate: Items, baseline: Items) -> None:
    for mine, other in ((candidate, baseline), (baseline, candidate)):
        missing = [
            f"{'/'.join(place)}/{name}"
            for place, block in mine.blocks.items()
            for name in _lacking(block.asked, other.blocks[place].asked if place in other.blocks else None)
        ]
        if missing:
            problem = f"{other.ref} lacks {len(missing)} of the items of {mine.ref}, the first is {missing[0]}"
            raise Incomparable(problem)


def _lacking(mine: Asked, other: Asked | None) -> Sequence[str]:
    """The items of one cell that the other does not have."""
    if other is None:
        return mine.items
    if mine is other or mine.items == other.items:
        return ()
    known = set(other.items)
    return [name for name in mine.items if name not in known]


def _require_same_scores(candidate: Items, baseline: Items) -> None:
    def scores(card: Scorecard) -> set[tuple[str, str, str, bool]]:
        return {(s.metric, s.language, s.task, s.higher_is_better) for s in card.scores if s.role == "score"}

    only = sorted(scores(candidate.card) ^ scores(baseline.card))
    if only:
        metric, language, task, is_higher = only[0]
        owner = candidate if only[0] in scores(candidate.card) else baseline
        side = "higher" if is_higher else "lower"
        raise Incomparable(f"only {owner.ref} has the score {metric}/{language}/{task} ({side} is better)")


def _require_same_questions(place: str, mine: Asked, other: Asked, columns: Sequence[str], ref: str, baseline_ref: str) -> None:
    differs = {name: mine.columns[name] != other.columns[name] for name in columns}
    wrong = np.flatnonzero(np.any(list(differs.values()), axis=0))
    if len(wrong):
        names = [name for name in columns if differs[name][wrong[0]]]
        item = mine.items[wrong[0]]
        raise Incomparable(f"{place}/{item}: {ref} and {baseline_ref} differ in {' and '.join(names)}")


def _require_equal(what: str, candidate: Items, baseline: Items, value: Callable[[Scorecard], str]) -> None:
    mine, other = value(candidate.card), value(baseline.card)
    if mine != other:
        said, also = (value[:12] if len(value) == DIGEST else value or "none" for value in (mine, other))
        why = ": other items, prompts, tasks or settings" if what == "suite_fingerprint" else ""
        raise Incomparable(f"{what} of {candidate.ref} is {said}, of {baseline.ref} {also}{why}")
