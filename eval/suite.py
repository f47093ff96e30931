"""Suites: what a model is asked, read from one TOML file and the item files beside it.

Two forms of task. `documents`: the text of held-out documents, scored in bits per byte. `word-order`: the beginning of a
sentence, and its end in the right order or with its words (segments, where words are written without spaces) so ordered that
no two former neighbours follow each other; small models learn this within minutes, where questions of knowledge leave them at
chance. Wrong orders come from hashes of the item, not from a random generator: they are the same on every machine and every
version of Python, and editing one item changes no other. A sentence's last mark stays at its end in every choice, so that the
mark does not give the answer away, and all choices of an item are the same words: equally many bytes, so plain log-likelihoods
compare and no length norm is needed.
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

Form = Literal["documents", "word-order"]

ATTEMPTS = 1000
"""Orders tried before an item is refused; of four segments every second order or so is a wrong one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskDefinition:
    """One task of a suite, asked in each of its languages."""

    __pydantic_config__ = STRICT

    name: str
    """Name in scores and items."""
    form: Form
    """What an item is."""
    source: str = ""
    """`documents`: the corpus' source that they come from."""
    items: str = ""
    """`word-order`: the folder of the item files `<language>.jsonl`."""
    choices: int = 4
    """`word-order`: the right order and `choices - 1` wrong ones; at least 2."""
    seed: str = ""
    """`word-order`: another seed gives other wrong orders."""

    def __post_init__(self) -> None:
        needed = "source" if self.form == "documents" else "items"
        if not getattr(self, needed):
            raise ValueError(f"a task of form {self.form!r} needs {needed!r}")
        if self.choices < 2:
            raise ValueError(f"choices must be at least 2, not {self.choices}")


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

    @property
    def digest(self) -> str:
        """Compact digest (16 hex digits) of the texts and of which one is right."""
        return fingerprint([list(self.texts), self.gold])[:16]


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
    wanted = [path for path in files if (path.parent.name, path.name) == (task.items, f"{language}.jsonl")]
    if len(wanted) != 1:
        raise CorruptInput(f"{task.items}/{language}.jsonl", "", f"is needed by task {task.name!r}; suite_files has it not")
    items = tuple(_word_order_item(sentence, task, language, number, wanted[0]) for number, sentence in _sentences(wanted[0]))
    if not items:
        raise CorruptInput(wanted[0], "", "holds no item")
    return LanguageTask(name=task.name, language=language, form=task.form, items=items)


def _sentences(path: Path) -> Iterator[tuple[int, Sentence]]:
    for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row: Any = json.loads(line)
        except json.JSONDecodeError as error:
            raise CorruptInput(path, f"line {number}", f"is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise CorruptInput(path, f"line {number}", "is not an object with 'context' and 'ending'")
        yield number, read_table(row, Sentence, f"{path}:{number}")


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
