"""What the leaderboard consists of: its families (`leaderboard.toml`), and the data that lm-eval's task files ask for.

Data sets, configurations and splits are read out of lm-eval's own files, so that a mirror can never hold other data than the
tasks will look for; a copy of these names in this repository is refused. What lm-eval does not know, the leaderboard's
normalisation, is in the TOML file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from ...catalog.errors import MissingDependency
from ...catalog.recipes import read_table, read_toml
from ...catalog.records import STRICT

Rule = Literal["mean", "pooled", "strict"]

DEFINITION = Path(__file__).with_name("leaderboard.toml")
LANGUAGE = "eng"
"""All of the leaderboard is English."""
HARD_LEVEL = "Level 5"
"""lm-eval asks only the problems of this level of MATH."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyDefinition:
    """One of the six families."""

    __pydantic_config__ = STRICT

    name: str
    """`bbh`."""
    title: str
    """What the leaderboard calls it: `BBH`."""
    rule: Rule
    """How raw scores become the family's: see `normalise`."""
    metrics: tuple[str, ...]
    """lm-eval's metrics that count."""
    columns: tuple[str, ...]
    """Columns that every one of its data files has."""
    choices: dict[str, int]
    """Task to the number of its answers to choose from; 0: nothing is to be had by chance."""
    diagnostics: tuple[str, ...] = ()
    """lm-eval's metrics that are reported beside them."""
    requires: tuple[str, ...] = ()
    """Packages that it needs beyond lm-eval's own, as pip writes them."""
    cluster: str = ""
    """Column whose equal values make items depend on each other, over all tasks of the family; empty: no two do."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """lm-eval's names of its tasks."""
        return tuple(self.choices)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Definition:
    __pydantic_config__ = STRICT
    family: tuple[FamilyDefinition, ...] = field(default_factory=tuple)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSource:
    """The data that one task reads."""

    family: FamilyDefinition
    """The family it belongs to."""
    task: str
    """lm-eval's name."""
    dataset: str
    """Name on the hub, `org/name`."""
    config: str
    """Configuration of the data set, empty for its only one."""
    splits: tuple[str, ...]
    """The split it asks, then the one that its examples come from, if they come from one."""
    answers: tuple[str, ...] = ()
    """The answers to choose from, where all its items have the same."""


@lru_cache(maxsize=1)
def families() -> tuple[FamilyDefinition, ...]:
    """The six families, in the leaderboard's order."""
    return read_table(read_toml(DEFINITION), _Definition, DEFINITION).family


def stock_folder() -> Path:
    """lm-eval's own folder of the leaderboard's task files; raises MissingDependency without lm-eval."""
    spec = find_spec("lm_eval")
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependency("lm-eval", "for the Open LLM Leaderboard")
    return Path(spec.submodule_search_locations[0]) / "tasks" / "leaderboard"


@lru_cache(maxsize=1)
def sources() -> dict[str, TaskSource]:
    """All 39 tasks by lm-eval's names; raises MissingDependency when the installed lm-eval does not register one of them."""
    from lm_eval.tasks import TaskManager

    index: dict[str, Any] = TaskManager(include_path=str(stock_folder()), include_defaults=False).task_index
    expected = [(family, task) for family in families() for task in family.tasks]
    absent = [task for _, task in expected if task not in index]
    if absent:  # lm-eval skips a task file that it cannot read without a word
        raise MissingDependency("'lm-eval>=0.4.13,<0.5'", f"(the installed one does not register {', '.join(absent)})")
    return {task: _source(family, task, index[task].cfg) for family, task in expected}


def _source(family: FamilyDefinition, task: str, config: dict[str, Any]) -> TaskSource:
    asked = config.get("test_split") or config["validation_split"]
    examples = [split for split in [config.get("fewshot_split")] if split and split != asked]
    answers = config.get("doc_to_choice")
    return TaskSource(
        family=family,
        task=task,
        dataset=config["dataset_path"],
        config=config.get("dataset_name") or "",
        splits=(asked, *examples),
        answers=tuple(answers) if isinstance(answers, list) else (),
    )


def datasets_needed() -> Iterator[tuple[str, list[TaskSource]]]:
    """Every data set with the tasks that read it, in the leaderboard's order."""
    for dataset in dict.fromkeys(source.dataset for source in sources().values()):
        yield dataset, [source for source in sources().values() if source.dataset == dataset]
