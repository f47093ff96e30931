"""Mixtures: the budget is met, parts are within one sequence of their share, no language is read too often."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sea_lion.catalog.errors import CorruptInput, RecipeError
from sea_lion.catalog.recipes import Recipe
from sea_lion.catalog.records import Mixture, TokenCounts, TokenFiles
from sea_lion.catalog.store import Job, Made, Options, Store, write_rows
from sea_lion.data.counted import COUNTS
from sea_lion.data.mixture import (
    Available,
    largest_sequences,
    part_sequences,
    plan,
    plan_mixture,
    read_available,
    read_encoded,
    rounded,
    waterfilled,
)
from sea_lion.data.recipe import MixtureRecipe, Part
from sea_lion.data.token_files import TABLE, TOKEN_FILES_SCHEMA
from sea_lion.data.tokens import COUNTS_SCHEMA

SEA = ("tha", "vie", "lao")


def recipe_of(budget: int, *, length: int = 100, smoothing: float = 0.5, max_epochs: float = 4.0) -> MixtureRecipe:
    """55% of three languages, 25% English, 20% code."""
    return MixtureRecipe(
        kind="mixture",
        name="mixture/three",
        version="1",
        tokens="tokens/three@1",
        token_budget=budget,
        sequence_length=length,
        max_epochs=max_epochs,
        part=(
            Part(name="sea", weight=0.55, languages=SEA, smoothing=smoothing),
            Part(name="english", weight=0.25, languages=("eng",), sources=("web", "text")),
            Part(name="code", weight=0.2, languages=("code",), sources=("code",)),
        ),
    )


def available_of(tha: int, vie: int, lao: int, eng: tuple[int, int], code: int) -> list[Available]:
    """One corpus with these tokens."""
    rows = [("code", "code", code), ("eng", "text", eng[0]), ("eng", "web", eng[1])]
    rows += [("lao", "web", lao), ("tha", "web", tha), ("vie", "web", vie)]
    return [Available(corpus="corpus/c@1", language=lang, source=source, tokens=tokens) for lang, source, tokens in rows]


tokens = st.integers(min_value=1, max_value=10**7)


@given(
    counts=st.tuples(tokens, tokens, tokens, st.tuples(tokens, tokens), tokens),
    sequences=st.integers(min_value=1, max_value=5000),
    length=st.integers(min_value=2, max_value=300),
    smoothing=st.floats(min_value=0, max_value=1),
    max_epochs=st.floats(min_value=0.1, max_value=10),
)
def test_a_plan_keeps_its_promises(counts: Any, sequences: int, length: int, smoothing: float, max_epochs: float) -> None:
    recipe = recipe_of(sequences * length + length - 1, length=length, smoothing=smoothing, max_epochs=max_epochs)
    available = available_of(*counts)
    try:
        body = plan(recipe, available, "tokenizer/t@1")
    except RecipeError as error:
        largest = int(str(error).rpartition(" is ")[2].replace(",", "")) if "largest" in str(error) else 0
        assert largest < recipe.token_budget, "a budget that fits was refused"
        if largest:
            assert plan(replace(recipe, token_budget=largest), available, "t").tokens == largest
        return
    assert body.sequences == sequences == sum(part.sequences for part in body.parts)
    assert body.tokens == sequences * length == sum(part.tokens_planned for part in body.parts)
    for part in recipe.part:
        rows = [row for row in body.parts if row.part == part.name]
        assert abs(sum(row.sequences for row in rows) - part.weight * sequences) < 1
        assert sum(row.weight for row in rows) == pytest.approx(part.weight)
    for row in body.parts:
        assert row.epochs <= max_epochs
        assert row.epochs == row.tokens_planned / row.tokens_available
    assert {row.tokens_available for row in body.parts} == {group.tokens for group in available}


@given(
    weights=st.lists(st.floats(min_value=0.01, max_value=1e6), min_size=1, max_size=8),
    total=st.integers(min_value=0, max_value=10_000),
    data=st.data(),
)
def test_waterfilled_shares_hold_the_caps(weights: list[float], total: int, data: st.DataObject) -> None:
    caps = [data.draw(st.integers(min_value=0, max_value=10_000)) for _ in weights]
    assume(sum(caps) >= total)
    by_key, cap_of = dict(enumerate(weights)), dict(enumerate(caps))
    shares = waterfilled(by_key, cap_of, total)
    assert sum(shares.values()) == pytest.approx(total)
    assert all(shares[key] <= cap_of[key] for key in by_key)
    whole = rounded(shares, total)
    assert sum(whole.values()) == total
    assert all(whole[key] <= cap_of[key] and abs(whole[key] - shares[key]) < 1 for key in by_key)
    open_ratios = [shares[key] / by_key[key] for key in by_key if shares[key] < cap_of[key]]
    assert open_ratios == pytest.approx(open_ratios[:1] * len(open_ratios)), "below the cap shares follow the weights"


def test_waterfilled_refuses_caps_that_are_too_small() -> None:
    with pytest.raises(ValueError, match="caps of 3 cannot hold 4"):
        waterfilled({"a": 1.0, "b": 1.0}, {"a": 1, "b": 2}, 4)


def test_largest_remainder_by_hand() -> None:
    assert rounded({"a": 1.5, "b": 2.25, "c": 0.25}, 4) == {"a": 2, "b": 2, "c": 0}
    assert rounded({"a": 0.5, "b": 0.5}, 1) == {"a": 1, "b": 0}, "ties go to the first"
    assert part_sequences(recipe_of(100).part, 10) == [6, 2, 2]
    assert part_sequences(recipe_of(100).part, 100) == [55, 25, 20]


def test_smoothing_by_hand() -> None:
    available = available_of(90_000, 10_000, 40_000, (50_000, 50_000), 100_000)
    flat, square, plain = (
        {row.language: row.sequences for row in plan(recipe_of(60_000, smoothing=s), available, "t").parts if row.part == "sea"}
        for s in (0.0, 0.5, 1.0)
    )
    assert flat == {"tha": 110, "vie": 110, "lao": 110}
    assert square == {"tha": 165, "vie": 55, "lao": 110}  # 300 : 100 : 200
    assert plain == {"tha": 212, "vie": 24, "lao": 94}  # 9 : 1 : 4 of 330, the largest remainders rounded up


def test_a_small_language_stops_at_the_cap_and_the_others_take_over() -> None:
    available = available_of(100_000, 100_000, 1_000, (50_000, 50_000), 100_000)
    body = plan(recipe_of(100_000, smoothing=0.0, max_epochs=2.0), available, "t")
    sea = {row.language: row.sequences for row in body.parts if row.part == "sea"}
    assert sea == {"tha": 265, "vie": 265, "lao": 20}


def test_sources_of_a_language_share_by_their_tokens() -> None:
    body = plan(recipe_of(100_000), available_of(10**6, 10**6, 10**6, (30_000, 10_000), 10**6), "t")
    english = {row.source: row.sequences for row in body.parts if row.part == "english"}
    assert english == {"text": 188, "web": 62} or english == {"text": 187, "web": 63}


def test_a_budget_beyond_the_cap_is_refused_with_figures() -> None:
    available = available_of(10**6, 10**6, 10**6, (10**6, 10**6), 5_000)
    with pytest.raises(RecipeError) as raised:
        plan(recipe_of(1_000_000), available, "t")
    message = str(raised.value)
    assert message.startswith(
        "mixture/three@1: token_budget: part code needs 200,000 tokens, 40.00 epochs of the 5,000 available"
    )
    assert "(code 5,000)" in message and "max_epochs 4 allows 20,000" in message
    largest = int(message.rpartition(" is ")[2].replace(",", ""))
    assert plan(recipe_of(largest), available, "t").tokens == largest
    with pytest.raises(RecipeError):
        plan(recipe_of(largest + 100), available, "t")


def test_no_budget_fits_a_part_of_almost_nothing() -> None:
    with pytest.raises(RecipeError, match=r"part sea needs .* No token_budget fits"):
        plan(recipe_of(10_000, length=10_000), available_of(10, 10, 10, (10**6, 10**6), 10**6), "t")


def test_largest_sequences_is_the_largest() -> None:
    parts = recipe_of(100).part
    for capacities in ([55, 25, 20], [7, 100, 100], [100, 3, 100], [0, 5, 5]):
        most = largest_sequences(parts, capacities)
        assert all(share <= cap for share, cap in zip(part_sequences(parts, most), capacities, strict=True))
        beyond = range(most + 1, most + 30)
        assert all(any(s > c for s, c in zip(part_sequences(parts, n), capacities, strict=True)) for n in beyond)


def test_a_language_that_is_not_there_is_refused() -> None:
    available = [group for group in available_of(1000, 1000, 1000, (1000, 1000), 1000) if group.language != "lao"]
    with pytest.raises(RecipeError, match=r"part\.0\.languages: part sea has no training tokens in lao.*vie/web"):
        plan(recipe_of(100), available, "t")


def test_a_source_that_is_not_there_is_refused() -> None:
    available = [group for group in available_of(1000, 1000, 1000, (1000, 1000), 1000) if group.source != "code"]
    available.append(Available(corpus="corpus/c@1", language="code", source="web", tokens=10))
    with pytest.raises(RecipeError, match="part code has no training tokens in code of sources code"):
        plan(recipe_of(100), available, "t")


def test_two_parts_cannot_draw_on_the_same_text() -> None:
    recipe = recipe_of(100)
    overlapping = replace(recipe, part=(*recipe.part[:2], replace(recipe.part[2], languages=("code", "tha"), sources=())))
    with pytest.raises(RecipeError, match=r"part\.2: tha/web of corpus/c@1 is drawn on twice \(sea, code\)"):
        plan(overlapping, available_of(1000, 1000, 1000, (1000, 1000), 1000), "t")


def test_only_the_training_split_counts(tmp_path: Path) -> None:
    row = {"corpus": "corpus/c@1", "tokenizer": "t", "language": "tha", "source": "web", "documents": 1, "bytes": 1}
    rows = [
        {**row, "shard": "a", "split": "train", "tokens": 70},
        {**row, "shard": "b", "split": "train", "tokens": 5},
        {**row, "shard": "c", "split": "heldout", "tokens": 1000},
    ]
    path = tmp_path / "token_counts.parquet"
    write_rows(path, rows, COUNTS_SCHEMA)
    assert read_available(path) == [Available(corpus="corpus/c@1", language="tha", source="web", tokens=75)]
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CorruptInput, match=r"token_counts\.parquet: cannot be read as token counts"):
        read_available(path)


def make_counts(job: Job[Recipe]) -> Made:
    row = {"corpus": "corpus/c@1", "tokenizer": "tokenizer/t@1", "documents": 1, "bytes": 1, "split": "train"}
    groups = available_of(5000, 4000, 3000, (2000, 1000), 6000)
    rows = [
        {**row, "shard": str(i), "language": g.language, "source": g.source, "tokens": g.tokens} for i, g in enumerate(groups)
    ]
    write_rows(job.folder / COUNTS, rows, COUNTS_SCHEMA)
    return Made(body=TokenCounts(tokenizer="tokenizer/t@1", documents=6, tokens=21_000), tables={"token_counts": COUNTS})


def test_through_the_store(tmp_path: Path) -> None:
    store = Store(tmp_path / "artifacts")
    store.make(Recipe(kind="tokens", name="tokens/three", version="1"), tmp_path, make_counts, Options())
    artifact = store.make(recipe_of(10_000), tmp_path, plan_mixture, Options())
    assert isinstance(artifact.body, Mixture)
    assert (artifact.body.tokenizer, artifact.body.tokens) == ("tokenizer/t@1", 10_000)
    assert artifact.body.token_files == "", "one cannot train on counts"
    assert {row.part: row.weight for row in artifact.body.parts}.keys() == {"sea", "english", "code"}
    with pytest.raises(RecipeError, match="mixture/three@1 is a mixture, not token files or token counts"):
        store.make(
            replace(recipe_of(10_000), name="mixture/wrong", tokens="mixture/three@1"), tmp_path, plan_mixture, Options()
        )
    counts = store.root / "tokens/three/1" / COUNTS
    counts.write_bytes(counts.read_bytes() + b" ")
    with pytest.raises(CorruptInput, match="is not what tokens/three@1 wrote"):
        store.make(replace(recipe_of(10_000), version="2"), tmp_path, plan_mixture, Options())


ENCODED = {
    "tha": (5200, 5300, 5250),
    "vie": (4100, 4200, 4300),
    "lao": (3000, 3003, 3001),
    "eng": (3300,),
    "code": (6600, 6603),
}
"""Tokens of each variant; with dropout they differ."""


def encoded_rows() -> list[dict[str, Any]]:
    """The table of token files: the first language's in two shards."""
    rows = []
    for language, variants in ENCODED.items():
        source = "code" if language == "code" else "web"
        shared: dict[str, Any] = {"corpus": "corpus/c@1", "language": language, "source": source}
        shared |= {"split": "train", "documents": 1, "bytes": 1, "tokens_plain": 1}
        for variant, tokens in enumerate(variants):
            for shard, part in (("a", tokens - 500), ("b", 500)):
                path = f"c/{language}-{shard}-v{variant}.ds"
                rows.append({**shared, "variant": variant, "shard": f"{shard}.parquet", "path": path, "tokens": part})
    return rows


def make_encoded(job: Job[Recipe], dropout: float, split: str = "train") -> Made:
    write_rows(job.folder / TABLE, encoded_rows(), TOKEN_FILES_SCHEMA)
    body = TokenFiles(
        tokenizer="tokenizer/t@1", tokenizer_sha256="0", vocabulary=9, token_bytes=2, split=split, dropout=dropout,
        rule="provilkov-words", seed=0, variants={language: len(variants) for language, variants in ENCODED.items()},
        documents=10, tokens=1, tokens_plain=1,
    )  # fmt: skip
    return Made(body=body, tables={"token_files": TABLE})


def test_one_epoch_is_the_mean_of_the_variants(tmp_path: Path) -> None:
    write_rows(tmp_path / TABLE, encoded_rows(), TOKEN_FILES_SCHEMA)
    found = {group.language: (group.tokens, group.variants) for group in read_encoded(tmp_path / TABLE, True)}
    assert found == {"tha": (5250, 3), "vie": (4200, 3), "lao": (3001, 3), "eng": (3300, 1), "code": (6601, 2)}
    assert {group.variants for group in read_encoded(tmp_path / TABLE, False)} == {0}
    (tmp_path / TABLE).write_bytes(b"PAR1")
    with pytest.raises(CorruptInput, match=r"token_files\.parquet: cannot be read as token files"):
        read_encoded(tmp_path / TABLE, True)


def encoded_store(root: Path, dropout: float, split: str = "train") -> Store:
    store = Store(root / "artifacts")
    files = Recipe(kind="token-files", name="tokens/three", version="1")
    store.make(files, root, lambda job: make_encoded(job, dropout, split), Options())
    return store


def test_from_token_files(tmp_path: Path) -> None:
    store = encoded_store(tmp_path, 0.1)
    body = store.make(recipe_of(13_200), tmp_path, plan_mixture, Options()).body
    assert isinstance(body, Mixture)
    assert (body.tokenizer, body.token_files, body.tokens) == ("tokenizer/t@1", "tokens/three@1", 13_200)
    assert {row.language: row.tokens_available for row in body.parts} == {
        "tha": 5250, "vie": 4200, "lao": 3001, "eng": 3300, "code": 6601,
    }  # fmt: skip
    english = next(row for row in body.parts if row.language == "eng")
    assert (english.tokens_planned, english.epochs) == (3300, 1.0), "as many epochs as variants are allowed"


def test_more_epochs_than_variants_are_refused(tmp_path: Path) -> None:
    store = encoded_store(tmp_path, 0.1)
    with pytest.raises(RecipeError) as raised:
        store.make(recipe_of(13_600), tmp_path, plan_mixture, Options())
    assert str(raised.value) == (
        "mixture/three@1: token_budget: plans eng from web for 1.03 epochs of 1 variants; "
        "make tokens/three@1 with variants_of = { eng = 2 }, or plan for less"
    )
    with pytest.raises(RecipeError, match=r"variants_of = \{ .*eng = 7, code = 3 \}"):
        store.make(replace(recipe_of(80_000), max_epochs=9.0, version="3"), tmp_path, plan_mixture, Options())
    plain = encoded_store(tmp_path / "plain", 0.0)
    body = plain.make(recipe_of(13_600), tmp_path, plan_mixture, Options()).body
    assert isinstance(body, Mixture) and max(row.epochs for row in body.parts) > 1, "without dropout there is nothing to vary"


def test_held_out_token_files_are_refused(tmp_path: Path) -> None:
    store = encoded_store(tmp_path, 0.0, "heldout")
    with pytest.raises(RecipeError, match="tokens: tokens/three@1 holds heldout text, which no run may train on"):
        store.make(recipe_of(10_000), tmp_path, plan_mixture, Options())
