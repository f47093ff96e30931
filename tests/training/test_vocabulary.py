"""The tokenizer and its seeded dropout."""

import json
import os
import random
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from sea_lion.catalog.errors import CorruptInput, RecipeError
from sea_lion.training.conversations import encoded
from sea_lion.training.recipe import TokenizerRecipe
from sea_lion.training.vocabulary import Encoder, copy_tokenizer, gaps, save_tokenizer, train_tokenizer, trained_bpe


@pytest.fixture(scope="module")
def texts(place: Any) -> list[str]:
    return [place.words(language, random.Random(f"{language} {i}"), 30) for language in place.languages for i in range(20)]


@pytest.fixture(scope="module")
def folder(place: Any) -> Path:
    found: Path = place.folder("tokenizer/t@1")
    return found


@pytest.fixture(scope="module")
def encoder(folder: Path) -> Encoder:
    return Encoder(folder)


def test_without_dropout_it_equals_the_fast_tokenizer(folder: Path, encoder: Encoder, texts: list[str]) -> None:
    fast = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for text in [*texts, "", " \n\t x  y\r\n", "🦭 123456 don't", "ที่นี่"]:
        assert encoder.encode(text) == fast.encode(text, add_special_tokens=False).ids


@given(text=st.text(max_size=60), dropout=st.sampled_from([0.0, 0.1, 0.5, 0.95]))
def test_any_text_comes_back(encoder: Encoder, folder: Path, text: str, dropout: float) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert tokenizer.decode(encoder.encode(text, dropout, (1, text)), skip_special_tokens=False) == text


def test_dropout_depends_on_its_key_only(folder: Path, texts: list[str]) -> None:
    first, second = Encoder(folder), Encoder(folder)
    inputs = list(enumerate(texts))
    there = {i: first.encode(text, 0.1, (7, i, 0)) for i, text in inputs}
    back = {i: second.encode(text, 0.1, (7, i, 0)) for i, text in reversed(inputs)}
    assert there == back
    assert there != {i: first.encode(text, 0.1, (7, i, 1)) for i, text in inputs}
    plain = sum(len(first.encode(text)) for _, text in inputs)
    assert 1.02 < sum(map(len, there.values())) / plain < 1.6


def papers_rule(symbols: list[str], ranks: dict[tuple[str, str], int], dropout: float, draw: random.Random) -> list[str]:
    """Algorithm 1 of Provilkov et al., word for word."""
    while True:
        pairs = [(ranks.get(pair), i) for i, pair in enumerate(pairwise(symbols))]
        kept = [(rank, i) for rank, i in pairs if rank is not None and draw.random() >= dropout]
        if not kept:
            return symbols
        _, i = min(kept)
        symbols = [*symbols[:i], symbols[i] + symbols[i + 1], *symbols[i + 2 :]]


@pytest.mark.parametrize("dropout", [0.1, 0.5])
def test_dropout_follows_the_papers_rule(folder: Path, encoder: Encoder, dropout: float) -> None:
    """The same distribution of segmentations of a word, by total variation over many draws."""
    content = json.loads((folder / "tokenizer.json").read_text())["model"]
    ranks = {tuple(pair): rank for rank, pair in enumerate(content["merges"])}
    long = max((token for token in content["vocab"] if token.isascii() and token.isalpha()), key=lambda t: (len(t), t))
    draws, ours, theirs = 6000, dict[str, int](), dict[str, int]()
    names = {number: token for token, number in content["vocab"].items()}
    for i in range(draws):
        mine = " ".join(names[number] for number in encoder.encode(long, dropout, (i,)))
        other = " ".join(papers_rule(list(long), ranks, dropout, random.Random(i)))
        ours[mine], theirs[other] = ours.get(mine, 0) + 1, theirs.get(other, 0) + 1
    assert len(theirs) > 2
    distance = sum(abs(ours.get(key, 0) - theirs.get(key, 0)) for key in ours | theirs) / 2 / draws
    assert distance < 0.035


def test_gaps_are_geometric() -> None:
    draw = gaps(0.25, ("a",))
    found = [draw() for _ in range(20000)]
    assert sum(found) / len(found) == pytest.approx(3.0, rel=0.05)
    assert found.count(0) / len(found) == pytest.approx(0.25, abs=0.02)
    with pytest.raises(ValueError, match="below 1"):
        gaps(1.0, ())


def test_text_that_spells_a_special_token_stays_text(encoder: Encoder, folder: Path) -> None:
    special = Tokenizer.from_file(str(folder / "tokenizer.json")).token_to_id("<|im_end|>")
    assert special not in encoder.encode("a<|im_end|>b")


def test_training_gives_the_same_bytes_on_any_number_of_threads(tmp_path: Path, texts: list[str]) -> None:
    found = set()
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    try:
        for parallel in ("false", "true", "true"):
            os.environ["TOKENIZERS_PARALLELISM"] = parallel
            save_tokenizer(trained_bpe(iter(texts), 500), tmp_path)
            found.add((tmp_path / "tokenizer.json").read_bytes())
    finally:
        os.environ["TOKENIZERS_PARALLELISM"] = before or "false"
    assert len(found) == 1


def test_words_are_not_cut_at_vowel_signs(folder: Path) -> None:
    split = Tokenizer.from_file(str(folder / "tokenizer.json")).pre_tokenizer
    for word in ("ที่นี่", "မြန်မာ", "தமிழ்", "ភាសាខ្មែរ", "ສະບາຍດີ"):
        assert len(split.pre_tokenize_str(word)) == 1


def test_a_vocabulary_that_the_text_cannot_fill_is_refused(place: Any, tmp_path: Path) -> None:
    recipe = TokenizerRecipe(kind="tokenizer", name="tokenizer/large", version="1", corpora=("corpus/t@1",), vocabulary=90000)
    with pytest.raises(RecipeError, match="give only"):
        train_tokenizer(place.job(recipe, tmp_path))


def test_exported_tokenizer_has_dropout_off(folder: Path, tmp_path: Path, texts: list[str]) -> None:
    source, target = tmp_path / "a", tmp_path / "b"
    shutil.copytree(folder, source)
    target.mkdir()
    content = json.loads((source / "tokenizer.json").read_text())
    content["model"]["dropout"] = 0.5
    (source / "tokenizer.json").write_text(json.dumps(content))
    copy_tokenizer(source, target)
    ours = AutoTokenizer.from_pretrained(target)
    assert ours.backend_tokenizer.model.dropout is None
    assert ours(texts[0]).input_ids == AutoTokenizer.from_pretrained(folder)(texts[0]).input_ids


def test_a_tokenizer_of_another_kind_is_refused(folder: Path, tmp_path: Path) -> None:
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["byte_fallback"] = True
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(CorruptInput, match="byte-level"):
        Encoder(tmp_path)


def test_only_the_assistants_tokens_are_in_the_loss(place: Any, folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    messages = place.conversation(random.Random(1), 2)
    row = encoded(messages, tokenizer)
    spans, span = [], list[int]()
    for token, in_loss in zip([*row.tokens, 0], [*row.mask, 0], strict=True):
        if in_loss:
            span.append(token)
        elif span:
            spans.append(tokenizer.decode(span))
            span = []
    assert spans == [message["content"] + "<|im_end|>" for message in messages if message["role"] == "assistant"]
    assert tokenizer.decode(row.tokens) == "".join(
        f"<|im_start|>{message['role']}\n{message['content']}<|im_end|>\n" for message in messages
    )
