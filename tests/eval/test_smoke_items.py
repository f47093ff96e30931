"""The built-in suite's own items: balanced, well-formed, right where code can tell, and not in the sample corpus."""

from __future__ import annotations

import ast
import json
import operator
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from sea_lion.catalog.errors import CorruptInput, RecipeError
from sea_lion.catalog.languages import LANGUAGES
from sea_lion.catalog.records import Score
from sea_lion.data.decontaminate import Item as SuiteText
from sea_lion.data.decontaminate import NgramIndex
from sea_lion.eval.constraints import CONSTRAINTS, met
from sea_lion.eval.family import GenerationFamily, GenerationTask, LikelihoodFamily, Suite
from sea_lion.eval.metrics import choice_values
from sea_lion.eval.recipe import SUITES
from sea_lion.eval.smoke import averages, instruction_task, open_suite
from sea_lion.eval.suite import GAP, Item, LanguageTask, SuiteDefinition, TaskDefinition, read_suite

SAMPLE = Path(__file__).parents[2] / "data" / "sample"
KINDS = ("cloze", "reading", "arithmetic")
SCRIPTS = {"Mymr": "MYANMAR", "Hans": "CJK", "Khmr": "KHMER", "Laoo": "LAO", "Taml": "TAMIL", "Thai": "THAI", "Latn": "LATIN"}
OPERATIONS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.FloorDiv: operator.floordiv}


@cache
def suite() -> Suite:
    """The suite's four kinds of items, without the held-out documents."""
    files = [SUITES / "smoke.toml", *sorted((SUITES / "smoke").glob("*/*.jsonl"))]
    whole = read_suite("smoke", files)
    tasks = tuple(task for task in whole.task if task.form in ("choices", "instructions"))
    kept = SuiteDefinition(name="smoke", languages=whole.languages, window_tokens=whole.window_tokens, task=tasks)
    return open_suite(kept, files, None, Path())


def choice_tasks(*names: str) -> Iterator[LanguageTask]:
    for family in suite().families:
        if isinstance(family, LikelihoodFamily) and family.name in (names or KINDS):
            yield from family.tasks


def instruction_tasks() -> tuple[GenerationTask, ...]:
    (family,) = (family for family in suite().families if isinstance(family, GenerationFamily))
    return family.tasks


def rows(kind: str, language: str) -> list[dict[str, Any]]:
    """The lines of an item file; a passage's questions one by one."""
    lines = (SUITES / "smoke" / kind / f"{language}.jsonl").read_text("utf-8").splitlines()
    found = [json.loads(line) for line in lines]
    return [question for row in found for question in row["questions"]] if kind == "reading" else found


def ends(item: Item) -> list[str]:
    """The choices alone, the right one first."""
    start = len(item.context) if item.context else _common(item.texts)
    texts = [text[start:] for text in item.texts]
    return [texts[item.gold], *(text for i, text in enumerate(texts) if i != item.gold)]


def _common(texts: tuple[str, ...]) -> int:
    return next((i for i, chars in enumerate(zip(*texts, strict=False)) if len(set(chars)) > 1), min(map(len, texts)))


def test_every_language_has_a_hundred_items_of_four_kinds() -> None:
    counts: Counter[str] = Counter()
    sizes = [(task.name, task.language, len(task.items)) for task in choice_tasks()]
    sizes += [(task.name, task.language, len(task.questions)) for task in instruction_tasks()]
    for name, language, number in sizes:
        assert 22 <= number <= 28, (name, language)
        counts[language] += number
    assert set(counts) == set(LANGUAGES)
    assert min(counts.values()) >= 100
    assert [family.name for family in suite().families] == [*KINDS, "instructions"]


def test_no_item_is_asked_twice() -> None:
    for task in choice_tasks():
        assert len({frozenset(item.texts) for item in task.items}) == len(task.items)
        assert len({item.id for item in task.items}) == len(task.items)
    prompts = [question.messages[0].content for task in instruction_tasks() for question in task.questions]
    assert len(set(prompts)) == len(prompts)


def test_right_places_are_balanced() -> None:
    for task in choice_tasks():
        places = Counter(item.gold for item in task.items)
        assert all(abs(places[place] - len(task.items) / 4) <= 1 for place in range(4)), (task.name, task.language, places)


def test_length_does_not_give_the_right_choice_away() -> None:
    for task in choice_tasks():
        lengths = [[len(end.encode()) for end in ends(item)] for item in task.items]
        longest = sum(right > max(wrong) for right, *wrong in lengths)
        shortest = sum(right < min(wrong) for right, *wrong in lengths)
        assert max(longest, shortest) <= 0.36 * len(task.items), (task.name, task.language, longest, shortest)


def test_questions_on_one_passage_are_one_cluster() -> None:
    for task in choice_tasks("reading"):
        clusters = Counter(item.cluster for item in task.items)
        assert len(clusters) >= 8
        assert min(clusters.values()) >= 2
        assert all(item.context.startswith(item.texts[0].split("\n")[0]) for item in task.items)


def value(expression: ast.expr) -> int:
    """What an expression of whole numbers and + - * // comes to."""
    if isinstance(expression, ast.Constant) and isinstance(expression.value, int):
        return expression.value
    assert isinstance(expression, ast.BinOp)
    if isinstance(expression.op, ast.FloorDiv):
        assert value(expression.left) % value(expression.right) == 0
    return int(OPERATIONS[type(expression.op)](value(expression.left), value(expression.right)))


@pytest.mark.parametrize("language", LANGUAGES)
def test_sums_are_right_and_their_numbers_are_in_the_text(language: str) -> None:
    ranks: Counter[int] = Counter()
    for row in rows("arithmetic", language):
        choices = [int(choice) for choice in row["choices"]]
        assert choices[0] == value(ast.parse(row["check"], mode="eval").body), row
        in_text = Counter(int(number) for number in re.findall(r"\d+", row["text"]))
        assert Counter(int(number) for number in re.findall(r"\d+", row["check"])) == in_text, row
        assert len({len(choice) for choice in row["choices"]}) == 1, row
        assert min(choices) > 0
        ranks[sorted(choices).index(choices[0])] += 1
    assert all(ranks[rank] >= 4 for rank in range(4)), ranks  # neither the greatest nor the smallest is a good guess


@pytest.mark.parametrize("language", LANGUAGES)
def test_texts_are_normal_and_in_their_script(language: str) -> None:
    script = SCRIPTS[LANGUAGES[language].script]
    for kind in (*KINDS, "instructions"):
        text = (SUITES / "smoke" / kind / f"{language}.jsonl").read_text("utf-8")
        assert text == unicodedata.normalize("NFC", text)
        assert not re.search("[\u200b-\u200f\ufeff\ufffd\xa0]|  ", text), kind
        if kind == "instructions":
            text = " ".join(row["prompt"] for row in rows(kind, language))
        text = re.sub(r'"(text|choices|check|passage|questions)":', "", text)
        letters = [char for char in text if char.isalpha()]
        own = sum(unicodedata.name(char).startswith(script) for char in letters)
        assert own >= (0.96 if kind == "instructions" else 1) * len(letters), kind


def test_a_gap_is_filled_in_place() -> None:
    for task in choice_tasks("cloze"):
        assert all(GAP not in text and "\n" not in text for item in task.items for text in item.texts)
        assert all(GAP in row["text"] for row in rows("cloze", task.language))


def test_instructions_are_many_kinds_and_an_answer_to_one_seldom_meets_another() -> None:
    used: Counter[str] = Counter()
    for task in instruction_tasks():
        checks = [question.details["checks"] for question in task.questions]
        assert len({name for check in checks for name in check}) >= 15, task.language
        used.update(name for check in checks for name in check)
        met_elsewhere = sum(
            all(met(question.target, check).values())
            for i, question in enumerate(task.questions)
            for j, check in enumerate(checks)
            if i != j
        )
        assert met_elsewhere <= 0.12 * len(checks) * (len(checks) - 1), (task.language, met_elsewhere)
    assert set(used) == set(CONSTRAINTS)


def test_a_model_that_knows_all_scores_one_and_one_that_is_always_wrong_zero() -> None:
    for task in choice_tasks():
        for item in task.items:
            for is_right in (True, False):
                likely = [-21.0 if (i == item.gold) == is_right else -900.0 for i in range(len(item.texts))]
                assert choice_values(item, [*likely, -20.0][: len(item.asked)])["acc"] == float(is_right)
    for asked in instruction_tasks():
        perfect = asked.scorer(asked, [(question.target,) for question in asked.questions])
        assert [score.value for score in perfect.scores] == [1.0, 1.0]
        empty = asked.scorer(asked, [("",)] * len(asked.questions))
        assert [(score.value, score.nulls) for score in empty.scores] == [(0.0, len(asked.questions))] * 2
        assert all(item.is_null and item.value == 0 for item in empty.items)
        babble = asked.scorer(asked, [("Qxzv, and so on.\n\nI do not know",)] * len(asked.questions))
        assert babble.scores[0].value <= 0.05, asked.language


def strings(node: Any) -> Iterator[str]:
    """Every text in a JSON value."""
    if isinstance(node, str):
        yield node
    elif isinstance(node, (dict, list)):
        for inner in node.values() if isinstance(node, dict) else node:
            yield from strings(inner)


def documents() -> Iterator[str]:
    """Every document of the sample corpus: articles, conversations, preferences, strays, furniture of pages."""
    for path in sorted(SAMPLE.rglob("*.json*")):
        text = path.read_text("utf-8")
        for row in text.splitlines() if path.suffix == ".jsonl" else [text]:
            yield "\n".join(strings(json.loads(row)))


def test_no_item_is_in_the_sample_corpus(tmp_path: Path) -> None:
    texts = [
        SuiteText("smoke", item.id, text, task.language)
        for task in choice_tasks()
        for item in task.items
        for text in (item.texts[item.gold], item.context)
        if text
    ]
    texts += [
        SuiteText("smoke", question.id, question.messages[0].content, task.language)
        for task in instruction_tasks()
        for question in task.questions
    ]
    assert NgramIndex.build(texts, tmp_path).texts > 600
    index = NgramIndex(tmp_path)
    read = list(documents())
    assert len(read) > 300
    assert not [(overlap.item, text[:80]) for text in read if (overlap := index.hits(text))]
    planted = next(iter(choice_tasks("reading"))).items[0].context
    assert index.hits(f"Page one. {planted} The end.") is not None


INSTRUCTIONS = TaskDefinition(name="do", form="instructions", items="do")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"prompt": "A", "checks": {"wrds": 1}, "example": "a"}, "'wrds' is no constraint; did you mean 'words'"),
        ({"prompt": "A", "checks": {"words": "1"}, "example": "a"}, "words needs int, not '1'"),
        ({"prompt": "A", "checks": {"times": [2, "a"]}, "example": "a"}, "times needs a text and a number"),
        ({"prompt": "A", "checks": {"script": "Grek"}, "example": "a"}, "script must be one of"),
        ({"prompt": "A", "checks": {}, "example": "a"}, "at least one check"),
        ({"prompt": "A", "checks": {"words": 2, "contains": ["a"]}, "example": "a"}, "example does not meet words"),
        ({"prompt": " ", "checks": {"words": 1}, "example": "a"}, "prompt must hold text"),
    ],
)
def test_bad_instructions_are_named(tmp_path: Path, line: object, message: str) -> None:
    path = tmp_path / "do" / "eng.jsonl"
    path.parent.mkdir()
    path.write_text(json.dumps(line), "utf-8")
    with pytest.raises((CorruptInput, RecipeError), match=message):
        instruction_task(INSTRUCTIONS, "eng", [path])


def score(task: str, language: str, metric: str, number: float, role: Any = "score") -> Score:
    return Score(
        task=task, language=language, metric=metric, value=number, stderr=0.3, items=4, higher_is_better=True, role=role
    )


def test_averages_are_over_tasks_then_languages() -> None:
    made = averages(
        [
            score("a", "tha", "acc", 0.2),
            score("b", "tha", "acc", 0.4),
            score("a", "eng", "acc", 0.9),
            score("c", "eng", "followed", 0.5),
            score("c", "eng", "checks", 0.7, role="diagnostic"),
        ]
    )
    figures = {(one.level, one.name, one.language): (one.value, one.members, one.missing) for one in made}
    assert figures == {
        ("language", "acc", "tha"): (pytest.approx(0.3), ("a", "b"), ()),
        ("language", "acc", "eng"): (0.9, ("a",), ("b",)),
        ("suite", "acc", ""): (pytest.approx(0.6), ("tha", "eng"), ()),
        ("suite", "followed", ""): (0.5, ("eng",), ()),
    }
    assert made[0].stderr == pytest.approx(0.3 / 2**0.5)
