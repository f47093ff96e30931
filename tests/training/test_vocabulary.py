"""The tokenizer: the same bytes from the same documents, words with their vowel signs, dropout off in every copy."""

import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from sea_lion.catalog.errors import RecipeError
from sea_lion.training.recipe import TokenizerRecipe
from sea_lion.training.vocabulary import copy_tokenizer, save_tokenizer, train_tokenizer, trained_bpe


@pytest.fixture(scope="module")
def texts(place: Any) -> list[str]:
    return [place.words(language, random.Random(f"{language} {i}"), 30) for language in place.languages for i in range(20)]


@pytest.fixture(scope="module")
def folder(place: Any) -> Path:
    found: Path = place.folder("tokenizer/t@1")
    return found


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
