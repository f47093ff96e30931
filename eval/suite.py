"""Suites: what a model is asked, read from one TOML file and the item files beside it.

Four forms of task. `documents`: the text of held-out documents, scored in bits per byte. `word-order`: the beginning of a
sentence, and its end in the right order or with its words (segments, where words are written without spaces) so ordered that
no two former neighbours follow each other; small models learn this within minutes, where questions of knowledge leave them at
chance. Wrong orders come from hashes of the item, not from a random generator: they are the same on every machine and every
version of Python, and editing one item changes no other. A sentence's last mark stays at its end in every choice, so that the
mark does not give the answer away, and all choices of an item are the same words: equally many bytes, so plain log-likelihoods
compare and no length norm is needed. `choices`: a sentence with a gap or a question, with or without a passage, and what fills
the gap or answers, right and wrong. `instructions`: requests whose fulfilment code can check (`constraints`).

Choices of a word or a number are compared by the log-likelihoods of the whole texts: by how likely each sentence is. Answers of
several words differ more in length, and a sum would go to the shortest; they are compared per byte of the answer, after the
log-likelihood of what stands before it is taken off (`norm = "byte"`). Dividing a whole text's log-likelihood by the whole
text's bytes is refused: what is the same in every choice, a passage, would then outweigh the answer.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from ..catalog.errors import CorruptInput, RecipeError
from ..catalog.fingerprint import fingerprint
from ..catalog.languages import LANGUAGES
from ..catalog.recipes import read_table, read_toml
from ..catalog.records import STRICT

Form = Literal["documents", "word-order", "choices"]
"""What is scored by likelihood."""
Norm = Literal["sum", "byte"]
GAP = "___"
"""Where a choice goes in a text of the form `choices`; without it the choice stands on the line after."""

ATTEMPTS = 1000
"""Orders tried before an item is refused; of four segments every second order or so is a wrong one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskDefinition:
    """One task of a suite, asked in each of its languages."""

    __pydantic_config__ = STRICT

    name: str
    """Name in scores and items."""
    form: Form | Literal["instructions"]
    """What an item is."""
    source: str = ""
    """`documents`: the corpus' source that they come from."""
    items: str = ""
    """All other forms: the folder of the item files `<language>.jsonl`."""
    choices: int = 4
    """`word-order`, `choices`: the right one and `choices - 1` wrong ones; at least 2."""
    seed: str = ""
    """`word-order`, `choices`: another seed gives other wrong orders, and another place to the first item's right choice."""
    norm: Norm = "sum"
    """`choices`: `sum` compares how likely the whole texts are, `byte` the choices' log-likelihoods per byte."""
    max_tokens: int = 96
    """`instructions`: longest answer."""

    def __post_init__(self) -> None:
        needed = "source" if self.form == "documents" else "items"
        if not getattr(self, needed):
            raise ValueError(f"a task of form {self.form!r} needs {needed!r}")
        if self.choices < 2:
            raise ValueError(f"choices must be at least 2, not {self.choices}")
        if self.norm != "sum" and self.form != "choices":
            raise ValueError(f"norm is for tasks of form 'choices', not {self.form!r}")
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, not {self.max_tokens}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteDefinition:
    """A suite as its TOML file has it."""

    __pydantic_config__ = STRICT

    name: str
    """The suite's name; the recipe's `suite` must be the same."""
    languages: tuple[str, ...]
    """ISO 639-3."""
    window_tokens: int
    """Longest window of a document that a model sees at once; a model with less context sees its own maximum."""
    task: tuple[TaskDefinition, ...]
    """The tasks, in order."""

    def __post_init__(self) -> None:
        unknown = [language for language in self.languages if language not in LANGUAGES]
        if unknown or not self.languages or len(set(self.languages)) != len(self.languages):
            raise ValueError(f"languages must be different ISO 639-3 codes of {', '.join(LANGUAGES)}")
        if self.window_tokens < 2:
            raise ValueError(f"window_tokens must be at least 2, not {self.window_tokens}")
        if len({task.name for task in self.task}) != len(self.task) or not self.task:
            raise ValueError("a suite has tasks, and their names differ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One thing to score: a text, or several of which one is right."""

    id: str
    """Unique within task and language."""
    cluster: str
    """Items of one cluster are not independent of each other."""
    texts: tuple[str, ...]
    """The whole texts to score, one for a document."""
    gold: int = 0
    """Index of the right text."""
    context: str = ""
    """What all texts begin with, where they are compared per byte of what follows it; else empty."""

    @property
    def asked(self) -> tuple[str, ...]:
        """What a model's log-likelihoods are needed of: the texts, and after them the context where there is one."""
        return (*self.texts, self.context) if self.context else self.texts

    @property
    def digest(self) -> str:
        """Compact digest (16 hex digits) of what is asked and of which one is right."""
        return fingerprint([list(self.asked), self.gold])[:16]


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageTask:
    """One task in one language."""

    name: str
    """The task's name in the suite."""
    language: str
    """ISO 639-3."""
    form: Form
    """What an item is."""
    items: tuple[Item, ...]
    """At least one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentence:
    """A line of an item file of the form `word-order`."""

    __pydantic_config__ = STRICT

    context: str
    """The beginning of the sentence, the same in every choice."""
    ending: tuple[str, ...]
    """The rest, in segments, in the right order."""

    def __post_init__(self) -> None:
        if not self.context.strip() or not self.ending or not all(segment.strip() for segment in self.ending):
            raise ValueError("context and every segment of the ending must hold text")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceQuestion:
    """A line of an item file of the form `choices`, or one question on a passage."""

    __pydantic_config__ = STRICT

    text: str
    """The question, or a sentence with one gap."""
    choices: tuple[str, ...]
    """The right one first."""
    check: str = ""
    """The arithmetic that leads to the right number; the suite's tests compute it."""

    def __post_init__(self) -> None:
        if not self.text.strip() or not all(choice.strip() for choice in self.choices):
            raise ValueError("text and every choice must hold text")
        if len(set(self.choices)) != len(self.choices):
            raise ValueError("the choices must differ")
        if self.text.count(GAP) > 1:
            raise ValueError(f"text must have one gap {GAP} at most")


@dataclass(frozen=True, slots=True, kw_only=True)
class PassageQuestions:
    """A line of an item file of the form `choices`: a passage and what is asked about it."""

    __pydantic_config__ = STRICT

    passage: str
    """The text to understand."""
    questions: tuple[ChoiceQuestion, ...]
    """At least one; they are one cluster."""

    def __post_init__(self) -> None:
        if not self.passage.strip() or not self.questions:
            raise ValueError("passage must hold text, and there must be questions")


def read_suite(name: str, files: Sequence[Path]) -> SuiteDefinition:
    """The suite's definition, the one TOML file of `files`; raises RecipeError when it is not the suite `name`."""
    definitions = [path for path in files if path.suffix == ".toml"]
    if len(definitions) != 1:
        raise RecipeError("suite_files", "", f"needs exactly one TOML file, the suite's definition, not {len(definitions)}")
    suite = read_table(read_toml(definitions[0]), SuiteDefinition, definitions[0])
    if suite.name != name:
        raise RecipeError(definitions[0], "name", f"is {suite.name!r}, the recipe asks for {name!r}")
    return suite


def word_order_task(task: TaskDefinition, language: str, files: Sequence[Path]) -> LanguageTask:
    """The task's items in one language; raises CorruptInput when their file is missing or a line cannot be used."""
    path = item_file(task, language, files)
    items = tuple(
        _word_order_item(read_table(row, Sentence, f"{path}:{number}"), task, language, number, path)
        for number, row in item_rows(path)
    )
    return LanguageTask(name=task.name, language=language, form="word-order", items=items)


def choice_task(task: TaskDefinition, language: str, files: Sequence[Path]) -> LanguageTask:
    """The task's items in one language; raises CorruptInput when their file is missing or a line cannot be used."""
    path = item_file(task, language, files)
    items: list[Item] = []
    for number, row in item_rows(path):
        where = f"{path}:{number}"
        is_passage = "passage" in row
        passage = read_table(row, PassageQuestions, where) if is_passage else None
        for question in passage.questions if passage else (read_table(row, ChoiceQuestion, where),):
            if len(question.choices) != task.choices:
                raise CorruptInput(path, f"line {number}", f"needs {task.choices} choices, not {len(question.choices)}")
            name = f"{language}-{len(items) + 1:03d}"
            cluster = f"{language}-p{number:03d}" if passage else name
            items.append(_choice_item(question, task, passage.passage if passage else "", name, cluster, len(items)))
    return LanguageTask(name=task.name, language=language, form="choices", items=tuple(items))


def _choice_item(question: ChoiceQuestion, task: TaskDefinition, passage: str, name: str, cluster: str, turn: int) -> Item:
    text = f"{passage}\n{question.text}" if passage else question.text
    before, after = text.split(GAP) if GAP in text else (f"{text}\n", "")
    choices = list(question.choices)
    # By turns, as above; each language begins at another place.
    gold = (int(fingerprint([task.seed, task.name, name.split("-")[0]])[:8], 16) + turn) % len(choices)
    choices.insert(gold, choices.pop(0))
    context = before if task.norm == "byte" else ""
    return Item(
        id=name, cluster=cluster, texts=tuple(before + choice + after for choice in choices), gold=gold, context=context
    )


def item_file(task: TaskDefinition, language: str, files: Sequence[Path]) -> Path:
    """The task's file of one language; raises CorruptInput when `files` has it not."""
    wanted = [path for path in files if (path.parent.name, path.name) == (task.items, f"{language}.jsonl")]
    if len(wanted) != 1:
        raise CorruptInput(f"{task.items}/{language}.jsonl", "", f"is needed by task {task.name!r}; suite_files has it not")
    return wanted[0]


def item_rows(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """The objects of an item file with the numbers of their lines; raises CorruptInput for a bad line and for none."""
    rows: list[tuple[int, dict[str, Any]]] = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row: Any = json.loads(line)
        except json.JSONDecodeError as error:
            raise CorruptInput(path, f"line {number}", f"is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise CorruptInput(path, f"line {number}", "is not an object")
        rows.append((number, row))
    if not rows:
        raise CorruptInput(path, "", "holds no item")
    return rows


def _word_order_item(sentence: Sentence, task: TaskDefinition, language: str, number: int, path: Path) -> Item:
    segments, mark = _segments(sentence.ending, LANGUAGES[language].is_spaced)
    glue = " " if LANGUAGES[language].is_spaced else ""
    right, seen = tuple(range(len(segments))), {glue.join(segments)}
    orders = [right]
    for order in _hashed_orders(len(segments), fingerprint([task.seed, language, sentence.context, list(sentence.ending)])):
        text = glue.join(segments[i] for i in order)
        if text not in seen and all(b != a + 1 for a, b in pairwise(order)):
            seen.add(text)
            orders.append(order)
        if len(orders) == task.choices:
            break
    else:
        problem = f"its {len(segments)} segments have no {task.choices - 1} clearly wrong orders; use more segments"
        raise CorruptInput(path, f"line {number}", problem)
    # By turns: a model that always takes one place scores exactly chance.
    gold = (int(fingerprint([task.seed, language])[:8], 16) + number) % task.choices
    name = f"{language}-{number:03d}"
    orders[0], orders[gold] = orders[gold], orders[0]
    texts = tuple(sentence.context + glue + glue.join(segments[i] for i in order) + mark for order in orders)
    return Item(id=name, cluster=name, texts=texts, gold=gold)


def _segments(ending: Sequence[str], is_spaced: bool) -> tuple[list[str], str]:
    """The words (the segments where words are written without spaces), and the marks that close the sentence."""
    bare = " ".join(ending) if is_spaced else ending[-1]
    text = bare
    while bare and unicodedata.category(bare[-1]).startswith("P"):
        bare = bare[:-1]
    segments = bare.split() if is_spaced else [*ending[:-1], bare]
    return [segment for segment in segments if segment], text[len(bare) :]


def _hashed_orders(length: int, seed: str) -> Iterator[tuple[int, ...]]:
    for attempt in range(ATTEMPTS):
        keys = [hashlib.sha256(f"{seed}/{attempt}/{i}".encode()).digest() for i in range(length)]
        yield tuple(sorted(range(length), key=keys.__getitem__))
