"""The suite: its items are what the rules say, the same everywhere, and bad files are named."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from sea_lion.catalog.errors import CorruptInput, RecipeError
from sea_lion.catalog.fingerprint import fingerprint
from sea_lion.catalog.languages import LANGUAGES
from sea_lion.catalog.recipes import external_files, read_table
from sea_lion.eval.recipe import EvaluationRecipe
from sea_lion.eval.suite import LanguageTask, SuiteDefinition, TaskDefinition, choice_task, read_suite, word_order_task

ORDER = TaskDefinition(name="order", form="word-order", items="sentences", seed="s")
SENTENCE = {"context": "The children", "ending": ["walk", "to school", "along", "the road."]}


def recipe(suite: str = "smoke") -> EvaluationRecipe:
    return EvaluationRecipe(
        kind="evaluation", name="scorecard/x", version="1", model="checkpoint/x@1", suite=suite, heldout="corpus/x@1"
    )


def smoke() -> tuple[SuiteDefinition, list[LanguageTask]]:
    files = external_files(recipe(), Path("/nowhere"))["suite_files"]
    suite = read_suite("smoke", files)
    order = next(task for task in suite.task if task.form == "word-order")
    return suite, [word_order_task(order, language, files) for language in suite.languages]


def item_file(folder: Path, *lines: str, language: str = "eng") -> Path:
    path = folder / "sentences" / f"{language}.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(lines), "utf-8")
    return path


def test_smoke_asks_every_language_44_different_items() -> None:
    suite, tasks = smoke()
    assert set(suite.languages) == set(LANGUAGES)
    assert [len(task.items) for task in tasks] == [44] * 11
    items = [item for task in tasks for item in task.items]
    assert len({item.id for item in items}) == len({item.texts[item.gold] for item in items}) == 484


def test_choices_differ_in_order_only() -> None:
    for task in smoke()[1]:
        for item in task.items:
            assert len(set(item.texts)) == 4
            assert len({len(text.encode()) for text in item.texts}) == 1
            if item.texts[0][-1] in ".?!។။。":  # the mark at a sentence's end is no clue
                assert len({text[-1] for text in item.texts}) == 1
            if LANGUAGES[task.language].is_spaced:
                assert len({tuple(sorted(text.rstrip(".?!").split())) for text in item.texts}) == 1


def test_right_places_are_balanced() -> None:
    for task in smoke()[1]:
        assert Counter(item.gold for item in task.items) == {0: 11, 1: 11, 2: 11, 3: 11}


def test_items_are_the_same_on_every_machine() -> None:
    # Changes with any text, order or place: scores made before and after such a change must not be compared.
    digests = [item.digest for task in smoke()[1] for item in task.items]
    assert fingerprint(digests)[:16] == "30d058cbc56bd69f"


def test_wrong_orders_keep_no_neighbours(tmp_path: Path) -> None:
    path = item_file(tmp_path, json.dumps(SENTENCE))
    (item,) = word_order_task(ORDER, "eng", [path]).items
    assert item.texts[item.gold] == "The children walk to school along the road."
    right = ["walk", "to", "school", "along", "the", "road"]
    for text in item.texts:
        words = text.removeprefix("The children ").removesuffix(".").split()
        kept = sum(pair in set(pairwise(right)) for pair in pairwise(words))
        assert kept == (len(right) - 1 if text == item.texts[item.gold] else 0)


def test_languages_without_spaces_are_joined_without(tmp_path: Path) -> None:
    path = item_file(tmp_path, json.dumps({"context": "每天", "ending": ["妈妈", "都", "去", "巴刹。"]}), language="cmn")
    (item,) = word_order_task(ORDER, "cmn", [path]).items
    assert item.texts[item.gold] == "每天妈妈都去巴刹。"
    assert all(" " not in text and text.endswith("。") for text in item.texts)


def test_an_item_does_not_depend_on_the_others(tmp_path: Path) -> None:
    other = {"context": "My uncle", "ending": ["drinks", "hot", "black", "coffee."]}
    one = word_order_task(ORDER, "eng", [item_file(tmp_path, json.dumps(SENTENCE))]).items[0]
    two = word_order_task(ORDER, "eng", [item_file(tmp_path, json.dumps(SENTENCE), json.dumps(other))]).items[0]
    assert one == two


def test_another_seed_gives_other_orders(tmp_path: Path) -> None:
    path = item_file(tmp_path, json.dumps(SENTENCE))
    other = TaskDefinition(name="order", form="word-order", items="sentences", seed="t")
    assert set(word_order_task(ORDER, "eng", [path]).items[0].texts) != set(
        word_order_task(other, "eng", [path]).items[0].texts
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1: is not JSON"),
        ("[]", "line 1: is not an object"),
        ('{"context": "A", "endings": []}', "did you mean 'ending'"),
        ('{"context": "", "ending": ["a", "b", "c", "d"]}', "must hold text"),
        ('{"context": "A", "ending": ["b", "c"]}', "no 3 clearly wrong orders"),
        ("", "holds no item"),
    ],
)
def test_bad_items_are_named(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises((CorruptInput, RecipeError), match=message):
        word_order_task(ORDER, "eng", [item_file(tmp_path, line)])


def test_a_language_without_items_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorruptInput, match=r"sentences/tha\.jsonl: is needed by task 'order'"):
        word_order_task(ORDER, "tha", [item_file(tmp_path, json.dumps(SENTENCE))])


CHOICES = TaskDefinition(name="gap", form="choices", items="sentences", seed="s")
CLOZE = {"text": "Two ___ of bread.", "choices": ["loaves", "drops", "herds", "sheets"]}
QUESTIONS = [
    {"text": "Who?", "choices": ["Ann", "Bob", "Cy", "Di"]},
    {"text": "When?", "choices": ["now", "then", "soon", "later"]},
]


def test_a_choice_fills_the_gap_or_stands_on_the_next_line(tmp_path: Path) -> None:
    question = {"text": "2 + 2 = ?", "choices": ["4", "5", "6", "7"], "check": "2+2"}
    gap, line = choice_task(CHOICES, "eng", [item_file(tmp_path, json.dumps(CLOZE), json.dumps(question))]).items
    assert gap.texts[gap.gold] == "Two loaves of bread."
    assert set(gap.texts) == {f"Two {word} of bread." for word in CLOZE["choices"]}
    assert line.texts[line.gold] == "2 + 2 = ?\n4"
    assert (line.gold - gap.gold) % 4 == 1  # by turns
    assert gap.asked == gap.texts
    assert gap.cluster != line.cluster


def test_questions_on_a_passage_are_one_cluster_and_compared_per_byte(tmp_path: Path) -> None:
    path = item_file(tmp_path, json.dumps({"passage": "Ann came now.", "questions": QUESTIONS}))
    task = TaskDefinition(name="read", form="choices", items="sentences", norm="byte")
    who, when = choice_task(task, "eng", [path]).items
    assert who.cluster == when.cluster != who.id
    assert (who.texts[who.gold], who.context) == ("Ann came now.\nWho?\nAnn", "Ann came now.\nWho?\n")
    assert who.asked == (*who.texts, who.context)
    plain = choice_task(CHOICES, "eng", [path]).items[0]
    assert (set(plain.texts), plain.context) == (set(who.texts), "")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"text": "Two ___ of ___.", "choices": ["a", "b", "c", "d"]}, "one gap"),
        ({"text": "Two ___.", "choices": ["a", "b", "b", "c"]}, "must differ"),
        ({"text": "Two ___.", "choices": ["a", "b", "c"]}, "line 1: needs 4 choices, not 3"),
        ({"text": "Two ___.", "choices": ["a", "b", " ", "c"]}, "must hold text"),
        ({"passage": "P.", "questions": []}, "there must be questions"),
        ({"text": "Two ___.", "choice": ["a"]}, "did you mean 'choices'"),
    ],
)
def test_bad_choices_are_named(tmp_path: Path, line: object, message: str) -> None:
    with pytest.raises((CorruptInput, RecipeError), match=message):
        choice_task(CHOICES, "eng", [item_file(tmp_path, json.dumps(line))])


def test_an_unknown_suite_is_refused_with_the_known_ones() -> None:
    table = {"kind": "evaluation", "name": "scorecard/x", "version": "1", "model": "m/x@1", "suite": "smok", "heldout": "c/x@1"}
    with pytest.raises(RecipeError, match=r"suite 'smok' is not built in \(there is: smoke\)"):
        read_table(table, EvaluationRecipe, "x.toml")


def definition(name: str = "x", language: str = "eng", task: str = 'name = "a"\nform = "documents"\nsource = "web"') -> str:
    return f'name = "{name}"\nlanguages = ["{language}"]\nwindow_tokens = 8\n[[task]]\n{task}\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (definition(name="other"), "is 'other', the recipe asks for 'x'"),
        (definition(task='name = "a"\nform = "documents"'), "needs 'source'"),
        (definition(task='name = "a"\nform = "word-order"\nitems = "s"\nchoices = 1'), "choices must be at least 2"),
        (definition(task='name = "a"\nform = "word-order"\nitems = "s"\nnorm = "byte"'), "norm is for tasks of form 'choices'"),
        (definition(task='name = "a"\nform = "instructions"'), "needs 'items'"),
        (definition(language="en"), "ISO 639-3"),
        (definition().replace("window_tokens = 8", "window_tokens = 1"), "window_tokens must be at least 2"),
        (definition() + '[[task]]\nname = "a"\nform = "documents"\nsource = "text"\n', "their names differ"),
    ],
)
def test_bad_definitions_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "x.toml"
    path.write_text(text, "utf-8")
    with pytest.raises(RecipeError, match=message):
        read_suite("x", [path])
