"""Plans a mixture: how many packed sequences to take from each part, language, corpus and source.

A part's sequences are its weight times all sequences, rounded by largest remainder, so every part is within one sequence of its
exact share. Within a part the languages share by their available tokens to the power `smoothing`
(temperature sampling, https://arxiv.org/abs/1901.07291 section 3.1). A language that would be read more often than `max_epochs`
stops there, and what it leaves goes to the others of the part; only a part that cannot fill its share at all is refused. The
refused alternative, to lower the budget silently, would change what a run means.

Planned from token files, weights, caps and epochs are about the tokens that are trained on, which BPE-dropout makes more of. An
epoch reads one variant of a language's files, so its tokens are the mean of the variants', rounded down; the epochs must not be
more than the variants, or the same skipped merges would come again. Planned from counts it is an estimate without dropout.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..catalog.errors import CorruptInput, RecipeError
from ..catalog.records import Artifact, Mixture, MixturePart, TokenCounts, TokenFiles
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
    """Tokens of the training split, of one epoch."""
    variants: int = 0
    """Epochs that were encoded apart; 0: each epoch is the same text, and there can be any number."""


def plan_mixture(job: Job[MixtureRecipe]) -> Made:
    """Plan the recipe's mixture from its token files or token counts.

    Raises RecipeError naming the part when it draws on nothing, on an unknown language, on what another part takes too, or when
    its share cannot be met within the epoch cap; the last names the largest budget that can. Also when a language is planned
    for more epochs than it was encoded for.
    """
    recipe, artifact = job.recipe, job.inputs[job.recipe.tokens]
    tokenizer = _tokenizer(recipe, artifact)
    is_encoded = isinstance(artifact.body, TokenFiles)
    folder, table = job.folder_of(recipe.tokens), artifact.tables["token_files" if is_encoded else "token_counts"]
    verify_files(folder, artifact, iter([table]))
    if isinstance(artifact.body, TokenFiles):
        available = read_encoded(folder / table, artifact.body.dropout > 0)
    else:
        available = read_available(folder / table)
    body = plan(recipe, available, tokenizer, str(artifact.ref) if is_encoded else "")
    for part in body.parts:
        log.info(
            "%s %s %s %s: %d sequences, %d of %d tokens, %.2f epochs", part.part, part.language, part.source, part.corpus,
            part.sequences, part.tokens_planned, part.tokens_available, part.epochs,
        )  # fmt: skip
    return Made(body=body)


def _tokenizer(recipe: MixtureRecipe, artifact: Artifact) -> str:
    """Reference of the tokenizer of the tokens; refuses what a mixture cannot be planned with."""
    body = artifact.body
    if isinstance(body, TokenFiles) and body.split != "train":
        raise RecipeError(str(recipe.ref), "tokens", f"{recipe.tokens} holds {body.split} text, which no run may train on")
    if not isinstance(body, (TokenFiles, TokenCounts)):
        raise RecipeError(str(recipe.ref), "tokens", f"{recipe.tokens} is a {artifact.kind}, not token files or token counts")
    return body.tokenizer


def read_available(path: Path) -> list[Available]:
    """The training split of a table of token counts, summed per corpus, language and source."""
    return [
        Available(corpus=row["corpus"], language=row["language"], source=row["source"], tokens=row["tokens"])
        for row in _summed(path, "token counts")
    ]


def read_encoded(path: Path, is_varied: bool) -> list[Available]:
    """The tokens of one epoch by a table of token files; `is_varied`: dropout made the variants differ."""
    variants: dict[tuple[str, str, str], list[int]] = {}
    for row in _summed(path, "token files", "variant"):
        variants.setdefault((row["corpus"], row["language"], row["source"]), []).append(row["tokens"])
    return [
        Available(
            corpus=corpus, language=language, source=source, tokens=sum(tokens) // len(tokens),
            variants=len(tokens) if is_varied else 0,
        )
        for (corpus, language, source), tokens in variants.items()
    ]  # fmt: skip


def _summed(path: Path, content: str, *further: str) -> list[dict[str, Any]]:
    """The tokens of a table's training split, summed per corpus, language and source."""
    keys = ["corpus", "language", "source", *further]
    try:
        rows = pq.ParquetFile(path).read(columns=[*keys, "split", "tokens"]).filter(pc.field("split") == "train")
        summed = rows.group_by(keys).aggregate([("tokens", "sum")]).sort_by([(key, "ascending") for key in keys])
    except (pa.ArrowException, KeyError, OSError) as error:
        raise CorruptInput(path, "", f"cannot be read as {content}: {str(error).splitlines()[0]}") from error
    found: list[dict[str, Any]] = summed.rename_columns([*keys, "tokens"]).to_pylist()
    return found


def plan(recipe: MixtureRecipe, available: Sequence[Available], tokenizer: str, token_files: str = "") -> Mixture:
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
    _refuse_repeats(recipe, available, rows)
    return Mixture(
        tokenizer=tokenizer,
        sequence_length=recipe.sequence_length,
        sequences=sequences,
        tokens=sequences * recipe.sequence_length,
        parts=tuple(rows),
        token_files=token_files,
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


def rounded(shares: Mapping[K, float] | Mapping[K, Fraction], total: int) -> dict[K, int]:
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


def _refuse_repeats(recipe: MixtureRecipe, available: Sequence[Available], rows: Sequence[MixturePart]) -> None:
    """Raise RecipeError when languages are planned for more epochs than they were encoded for, with what they need."""
    variants = {(group.corpus, group.language, group.source): group.variants for group in available}
    wanted: dict[str, int] = {}
    told = []
    for row in rows:
        there, needed = variants[row.corpus, row.language, row.source], -(-row.tokens_planned // row.tokens_available)
        if there and needed > there:
            wanted[row.language] = max(needed, wanted.get(row.language, 0))
            told.append(f"{row.language} from {row.source} for {row.epochs:.2f} epochs of {there} variants")
    if told:
        needs = ", ".join(f"{language} = {count}" for language, count in wanted.items())
        problem = f"plans {'; '.join(told)}; make {recipe.tokens} with variants_of = {{ {needs} }}, or plan for less"
        raise RecipeError(str(recipe.ref), "token_budget", problem)


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
