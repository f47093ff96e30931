"""A scorecard in a few lines: its widest averages, and beside each what it is over, what it lacks and how answers went wrong.

A number alone invites comparison with another that is over other competencies, or whose model was cut off before it answered.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..catalog.records import Aggregate, Score, Scorecard

MOST_NAMED = 9
"""Of what an average is over, and of what it lacks; the scorecard names all."""


def overview(card: Scorecard) -> Iterator[str]:
    """A line for each language's average, or for each group's where there are none, and for the suite's."""
    per_language = [one for one in card.aggregates if one.level == "language" and one.name == one.language]
    groups = [one for one in card.aggregates if one.level == "group"] if not per_language else []
    for average in (*per_language, *groups, *(one for one in card.aggregates if one.level == "suite")):
        yield _line(card, average)


def _line(card: Scorecard, average: Aggregate) -> str:
    error = f" ± {average.stderr:.2f}" if average.stderr else ""
    lacks = f"; without {_named(average.missing)}" if average.missing else ""
    return f"{average.name} {average.value:.2f}{error} over {_named(average.members)}{lacks}; {_rates(card, average)}"


def _named(names: Sequence[str]) -> str:
    more = len(names) - MOST_NAMED
    return ", ".join((*names[:MOST_NAMED], *([f"{more} more"] if more > 0 else [])))


def _rates(card: Scorecard, average: Aggregate) -> str:
    """Shares of the answers that an average is over."""
    scores = _counted(card, average)
    answers = sum(score.items for score in scores)
    nulls, truncated = sum(score.nulls for score in scores), sum(score.truncated for score in scores)
    return f"{nulls / answers:.1%} of {answers:,} answers unreadable, {truncated / answers:.1%} truncated" if answers else ""


def _counted(card: Scorecard, average: Aggregate) -> list[Score]:
    scores = [score for score in card.scores if score.role == "score" and average.language in ("", score.language)]
    if any(score.metric == average.name for score in scores):
        return [score for score in scores if score.metric == average.name]
    return [score for score in scores if score.task in average.members] if average.level == "group" else scores
