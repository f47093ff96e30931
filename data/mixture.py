"""Plans a mixture: how many packed sequences to take from each part, language, corpus and source.

A part's sequences are its weight times all sequences, rounded by largest remainder, so every part is within one sequence of its
exact share. Within a part the languages share by their available tokens to the power `smoothing`
(temperature sampling, https://arxiv.org/abs/1901.07291 section 3.1). A language that would be read more often than `max_epochs`
stops there, and what it leaves goes to the others of the part; only a part that cannot fill its share at all is refused. The
refused alternative, to lower the budget silently, would change what a run means.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..catalog.errors import CorruptInput, RecipeError
from ..catalog.records import Mixture, MixturePart, TokenCounts
from ..catalog.store import Job, Made, verify_files
from .recipe import MixtureRecipe, Part

log = logging.getLogger(__name__)

K = TypeVar("K")


@dataclass(frozen=True, slots=True, kw_only=True)
class Available:
    """What a corpus has of one language and source."""

    corpus: str
    """Reference of the corpus."""
    language: str
    """ISO 639-3, or `code`."""
    source: str
    """The corpus' source."""
    tokens: int
    """Tokens of the training split."""


def plan_mixture(job: Job[MixtureRecipe]) -> Made:
    """Plan the recipe's mixture from its token counts.

    Raises RecipeError naming the part when it draws on nothing, on an unknown language, on what another part takes too, or when
    its share cannot be met within the epoch cap; the last names the largest budget that can.
    """
    recipe = job.recipe
    artifact = job.inputs[recipe.tokens]
    if not isinstance(artifact.body, TokenCounts):
        raise RecipeError(str(recipe.ref), "tokens", f"{recipe.tokens} is a {artifact.kind}, not token counts")
    folder = job.folder_of(recipe.tokens)
    table = artifact.tables["token_counts"]
    verify_files(folder, artifact, iter([table]))
    body = plan(recipe, read_available(folder / table), artifact.body.tokenizer)
    for part in body.parts:
        log.info(
            "%s %s %s %s: %d sequences, %d of %d tokens, %.2f epochs", part.part, part.language, part.source, part.corpus,
            part.sequences, part.tokens_planned, part.tokens_available, part.epochs,
        )  # fmt: skip
    return Made(body=body)


def read_available(path: Path) -> list[Available]:
    """The training split of a table of token counts, summed per corpus, language and source."""
    keys = ["corpus", "language", "source"]
    try:
        rows = pq.ParquetFile(path).read(columns=[*keys, "split", "tokens"]).filter(pc.field("split") == "train")
        summed = rows.group_by(keys).aggregate([("tokens", "sum")]).sort_by([(key, "ascending") for key in keys])
    except (pa.ArrowException, KeyError, OSError) as error:
        raise CorruptInput(path, "", f"cannot be read as token counts: {str(error).splitlines()[0]}") from error
    return [
        Available(corpus=row["corpus"], language=row["language"], source=row["source"], tokens=row["tokens_sum"])
        for row in summed.to_pylist()
    ]


def plan(recipe: MixtureRecipe, available: Sequence[Available], tokenizer: str) -> Mixture:
    """The mixture of a recipe over what is available; see `plan_mixture` for what it raises."""
    sequences = recipe.token_budget // recipe.sequence_length
    drawn = _drawn(recipe, available)
    capacities = [sum(_capacity(recipe, group) for group in groups) for groups in drawn]
    shares = part_sequences(recipe.part, sequences)
    for part, groups, capacity, share in zip(recipe.part, drawn, capacities, shares, strict=True):
        if share > capacity:
            raise _too_much(recipe, part, groups, share, capacity, largest_sequences(recipe.part, capacities))
    rows = [
        row
        for part, groups, share in zip(recipe.part, drawn, shares, strict=True)
        for row in _part_rows(recipe, part, groups, share)
    ]
    return Mixture(
        tokenizer=tokenizer,
        sequence_length=recipe.sequence_length,
        sequences=sequences,
        tokens=sequences * recipe.sequence_length,
        parts=tuple(rows),
    )


def part_sequences(parts: Iterable[Part], sequences: int) -> list[int]:
    """Whole sequences of each part, in order; they sum to `sequences` and each is within one of its exact share."""
    return list(rounded({number: part.weight * sequences for number, part in enumerate(parts)}, sequences).values())


def largest_sequences(parts: Sequence[Part], capacities: Sequence[int]) -> int:
    """The most sequences for which no part needs more than its capacity."""
    most = min(math.floor((capacity + 1) / part.weight) for part, capacity in zip(parts, capacities, strict=True))
    while most > 0 and any(share > cap for share, cap in zip(part_sequences(parts, most), capacities, strict=True)):
        most -= 1
    return most


def rounded(shares: Mapping[K, float], total: int) -> dict[K, int]:
    """Largest remainder: whole numbers that sum to `total`, each within one of its share (shares sum to `total`)."""
    whole = {key: math.floor(share) for key, share in shares.items()}
    missing = total - sum(whole.values())
    assert 0 <= missing <= len(whole), "the shares do not sum to the total"
    by_remainder = sorted(shares, key=lambda key: whole[key] - shares[key])  # stable: ties go to the first
    for key in by_remainder[:missing]:
        whole[key] += 1
    return whole


def waterfilled(weights: Mapping[K, float], caps: Mapping[K, int], total: int) -> dict[K, float]:
    """Shares of `total` by weight, none above its cap: what a full one leaves goes to the others by their weights.

    Raises ValueError when the caps sum to less than `total`.
    """
    if sum(caps.values()) < total:
        raise ValueError(f"caps of {sum(caps.values())} cannot hold {total}")
    shares: dict[K, float] = {}
    open_keys, left = list(weights), float(total)
    while True:
        scale = left / max(sum(weights[key] for key in open_keys), 1e-300)
        full = [key for key in open_keys if weights[key] * scale >= caps[key]]
        if not full:
            break
        shares |= {key: float(caps[key]) for key in full}
        open_keys = [key for key in open_keys if key not in shares]
        left = total - sum(shares.values())
    shares |= {key: weights[key] * scale for key in open_keys}
    return {key: shares[key] for key in weights}


def _drawn(recipe: MixtureRecipe, available: Sequence[Available]) -> list[list[Available]]:
    """What each part draws on; refuses what is not there and what two parts would both take."""
    known = sorted({group.language for group in available if group.tokens})
    taken: dict[Available, str] = {}
    drawn = []
    for number, part in enumerate(recipe.part):
        groups = []
        for language in part.languages:
            wanted = [
                g for g in available if g.language == language and g.tokens and (not part.sources or g.source in part.sources)
            ]
            if not wanted:
                of = f" of sources {', '.join(part.sources)}" if part.sources else ""
                exists = ", ".join(f"{g.language}/{g.source}" for g in available if g.tokens) or "nothing"
                near = "" if language in known else "; no such language"
                problem = f"part {part.name} has no training tokens in {language}{of}{near}; {recipe.tokens} has {exists}"
                raise RecipeError(str(recipe.ref), f"part.{number}.languages", problem)
            groups += wanted
        for group in groups:
            if group in taken:
                problem = f"{group.language}/{group.source} of {group.corpus} is drawn on twice ({taken[group]}, {part.name})"
                raise RecipeError(str(recipe.ref), f"part.{number}", problem)
            taken[group] = part.name
        drawn.append(groups)
    return drawn


def _capacity(recipe: MixtureRecipe, group: Available) -> int:
    """The most sequences of a group within the epoch cap."""
    return math.floor(recipe.max_epochs * group.tokens / recipe.sequence_length)


def _part_rows(recipe: MixtureRecipe, part: Part, groups: Sequence[Available], sequences: int) -> list[MixturePart]:
    """Divide a part's sequences among its languages, and each language's among its corpora and sources."""
    tokens = {language: sum(g.tokens for g in groups if g.language == language) for language in part.languages}
    caps = {language: sum(_capacity(recipe, g) for g in groups if g.language == language) for language in part.languages}
    weights = {language: float(count) ** part.smoothing for language, count in tokens.items()}
    shares = waterfilled(weights, caps, sequences)
    whole = rounded(shares, sequences)
    rows = []
    for language in part.languages:
        own = {group: float(group.tokens) for group in groups if group.language == language}
        split = waterfilled(own, {group: _capacity(recipe, group) for group in own}, whole[language])
        exact = shares[language] / sequences if sequences else weights[language] / sum(weights.values())
        for group, count in rounded(split, whole[language]).items():
            rows.append(_row(recipe, part, group, count, part.weight * exact * own[group] / tokens[language]))
    return rows


def _row(recipe: MixtureRecipe, part: Part, group: Available, sequences: int, weight: float) -> MixturePart:
    planned = sequences * recipe.sequence_length
    return MixturePart(
        part=part.name,
        corpus=group.corpus,
        language=group.language,
        source=group.source,
        weight=weight,
        tokens_available=group.tokens,
        tokens_planned=planned,
        sequences=sequences,
        epochs=planned / group.tokens,
    )


def _too_much(
    recipe: MixtureRecipe, part: Part, groups: Sequence[Available], share: int, capacity: int, largest: int
) -> RecipeError:
    """The refusal of a budget: what was wanted, what is there, what would fit."""
    length = recipe.sequence_length
    tokens: dict[str, int] = {}
    for group in groups:
        tokens[group.language] = tokens.get(group.language, 0) + group.tokens
    there = ", ".join(f"{language} {count:,}" for language, count in tokens.items())
    need = share * length / sum(tokens.values())
    problem = (
        f"part {part.name} needs {share * length:,} tokens, {need:.2f} epochs of the {sum(tokens.values()):,} available "
        f"({there}); max_epochs {recipe.max_epochs:g} allows {capacity * length:,}. "
        + (f"The largest token_budget that fits is {largest * length:,}" if largest else "No token_budget fits")
    )
    return RecipeError(str(recipe.ref), "token_budget", problem)
