from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sea_lion import chain
from sea_lion.catalog.errors import CorruptInput, RecipeError
from sea_lion.catalog.fingerprint import canonical_json, difference, fingerprint
from sea_lion.catalog.recipes import external_files, read_recipe, references
from sea_lion.data.chat_recipe import ConversationsRecipe
from sea_lion.merging.recipe import MergeRecipe, Parent
from sea_lion.training.recipe import TrainRecipe

TRAIN = """
kind = "train"
name = "checkpoint/x"
version = "1"
objective = "cpt"
model = "checkpoint/base@1"
mixture = "mixture/m@1"
lr = 1e-3
batch_sequences = 4
"""


def recipe_file(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text)
    return path


def test_a_recipe_is_a_frozen_value(tmp_path: Path) -> None:
    recipe = read_recipe(recipe_file(tmp_path, TRAIN), chain.RECIPES)
    assert isinstance(recipe, TrainRecipe)
    assert (recipe.lr, recipe.optimizer.eps, str(recipe.ref)) == (1e-3, 1e-15, "checkpoint/x@1")
    assert replace(recipe, lr=2e-3).lr == 2e-3


@pytest.mark.parametrize(
    ("change", "key", "said"),
    [
        (("lr = 1e-3", "lr = 1e-3\nwarmpup = 1"), "warmpup", "did you mean"),
        (("batch_sequences", "batch_sequence"), "batch_sequence", "did you mean 'batch_sequences'"),
        (("lr = 1e-3", 'lr = "1e-3"'), "lr", "valid number"),
        (("lr = 1e-3", "lr = -1.0"), "", "lr must be above 0, not -1"),
        (("lr = 1e-3", ""), "lr", "is required"),
        (('"train"', '"tran"'), "kind", "did you mean 'train'"),
        (('kind = "train"', ""), "kind", "is required"),
        (('"checkpoint/x"', '"Checkpoint X"'), "", "not a reference"),
        (("batch_sequences = 4", "batch_sequences = 4\n[optimizer]\nepz = 1e-8"), "optimizer.epz", "did you mean 'eps'"),
        (('mixture = "mixture/m@1"', ""), "", "either a mixture or conversations"),
    ],
)
def test_a_bad_recipe_names_file_key_and_what_is_valid(tmp_path: Path, change: tuple[str, str], key: str, said: str) -> None:
    path = recipe_file(tmp_path, TRAIN.replace(*change))
    with pytest.raises(RecipeError) as error:
        read_recipe(path, chain.RECIPES)
    message = str(error.value)
    assert str(path) in message and key in message and said in message and "\n" not in message


def test_not_toml_and_no_file_are_one_line(tmp_path: Path) -> None:
    for path in (recipe_file(tmp_path, "lr: 1e-5\n"), tmp_path, tmp_path / "none.toml"):
        with pytest.raises(RecipeError) as error:
            read_recipe(path, chain.RECIPES)
        assert "\n" not in str(error.value)


def test_references_are_found_at_every_depth() -> None:
    recipe = MergeRecipe(
        kind="merge",
        name="checkpoint/m",
        version="1",
        method="dare_ties",
        base="checkpoint/a@1",
        parents=(Parent(model="checkpoint/b@1"), Parent(model="stage:s/x")),
        normalize=True,
    )
    assert references(recipe) == [
        ("base", "checkpoint/a@1"),
        ("parents.0.model", "checkpoint/b@1"),
        ("parents.1.model", "stage:s/x"),
    ]


def conversations(pattern: str) -> ConversationsRecipe:
    return ConversationsRecipe(kind="conversations", name="conversations/x", version="1", form="messages", files=(pattern,))


def test_file_patterns(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_text("1")
    (tmp_path / "a.jsonl").write_text("2")
    found = external_files(conversations("*.jsonl"), tmp_path)
    assert [path.name for path in found["files"]] == ["a.jsonl", "b.jsonl"]
    (tmp_path / "empty.txt").touch()
    (tmp_path / "folder").mkdir()
    for pattern, problem in [
        ("*.warc", "no file matches"),
        ("none.jsonl", "no such file"),
        ("empty.txt", "is empty"),
        ("folder", "is a folder"),
    ]:
        with pytest.raises(CorruptInput, match=problem):
            external_files(conversations(pattern), tmp_path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.dictionaries(st.text(), JSON))
def test_the_fingerprint_does_not_depend_on_the_order_of_keys(table: dict[str, object]) -> None:
    turned = dict(reversed(list(table.items())))
    assert fingerprint(table) == fingerprint(turned)
    assert difference(table, turned) == []


@pytest.mark.parametrize("value", [{"a": object()}, {"a": float("nan")}, {1: 2}, {"a": {1, 2}}])
def test_values_without_one_form_are_refused(value: object) -> None:
    with pytest.raises(TypeError):
        canonical_json(value)


def test_a_difference_names_the_field() -> None:
    old, new = {"lr": 1e-3, "optimizer": {"eps": 1e-15}, "l": [1, 2]}, {"lr": 2e-3, "optimizer": {"eps": 1e-8}, "l": [1, 3]}
    assert difference(old, new) == ["l.1: 2 -> 3", "lr: 0.001 -> 0.002", "optimizer.eps: 1e-15 -> 1e-08"]


def test_a_file_whose_name_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a\udcff.jsonl").write_text("{}")
    recipe = ConversationsRecipe(kind="conversations", name="conversations/x", version="1", form="messages", files=("*.jsonl",))
    with pytest.raises(CorruptInput, match="its name is not UTF-8"):
        external_files(recipe, tmp_path)
