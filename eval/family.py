"""What a suite is made of: families of tasks that the runner takes one after the other, and how they are scored.

A suite says what to ask and how to score the answers; the runner (`evaluate`) knows models, caches and tables. Three kinds of
family meet it: texts to be scored by likelihood (`LikelihoodFamily`, the built-in suite), answers to be generated
(`GenerationFamily`, SEA-HELM) and lm-eval's own tasks (`HarnessFamily`, the Open LLM Leaderboard). Scoring is a function of
questions and answers alone, so a scorecard can be made again from stored answers, without the model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from ..catalog.records import Aggregate, Score
from .suite import LanguageTask

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One item that is answered by generation."""

    id: str
    """Unique within task and language."""
    cluster: str
    """Items of one cluster are not independent of each other (one passage, one source sentence over languages)."""
    messages: tuple[Message, ...]
    """The conversation up to the answer; for a base model the benchmark's plain template is laid over it."""
    follow_ups: tuple[str, ...] = ()
    """Further user turns, each asked after the model's answer to the one before."""
    target: Any = None
    """What the scorer compares with: JSON."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """What else the scorer needs: JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """How answers of a task are generated."""

    max_tokens: int
    """Longest answer."""
    stop: tuple[str, ...] = ()
    """Texts that end it."""
    temperature: float = 0.0
    """0: greedy."""
    top_k: int = 50
    """Of sampling, when the temperature is above 0."""
    seed: int = 1234
    """Of sampling; the answer to an item depends on this and the item alone, not on its batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemScore:
    """One item under one metric."""

    item: str
    metric: str
    value: float
    """In the metric's own unit."""
    stratum: str = ""
    """A task's score is the plain mean over its strata of their items' means (the classes of a balanced accuracy, the
    categories of a win rate); empty where the score is the plain mean of the items."""
    is_null: bool = False
    """Whether no answer could be read out of the model's text."""
    extracted: str = ""
    """What was read out of it."""
    cluster: str = ""
    """Where there is no `Question` that names it (lm-eval's own tasks); empty: the question's, or the item alone."""
    filter: str = "none"
    """lm-eval's name of what was done to the answer before it was scored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskScores:
    """What the answers to one task in one language come to."""

    items: tuple[ItemScore, ...]
    """One an item and gated metric."""
    scores: tuple[Score, ...]
    """The metric that counts first; its raw form and diagnostics after it, each under its own name."""
    warnings: tuple[str, ...] = ()
    """What a reader of the numbers should know, one sentence each."""
    chance: float = 0.0
    """Share that guessing gets of the gated metric (0 to 1, below 1): `points` are counted from it."""
    incomplete: str = ""
    """Why the task has no score (no judge, say), else empty; its scores are then empty and averages are marked."""
    is_open: bool = False
    """Whether a task without a score may get one when the same is run again (the judge was down): no scorecard is made then,
    as a scorecard is not made twice."""


class Scorer(Protocol):
    """Scores one task; `answers[i][turn]` is the text answered to `task.questions[i]`, empty where there was none."""

    def __call__(self, task: GenerationTask, answers: Sequence[Sequence[str]]) -> TaskScores: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationTask:
    """One task in one language, answered by generation."""

    name: str
    """`sentiment`."""
    language: str
    """ISO 639-3; for translation the language that is not English (or not Indonesian)."""
    questions: tuple[Question, ...]
    generation: Generation
    scorer: Scorer
    version: str = "1"
    """Raised when prompts or scoring change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationFamily:
    """Tasks answered by generation: one task of a suite in all its languages."""

    name: str
    tasks: tuple[GenerationTask, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LikelihoodFamily:
    """Tasks whose texts are scored by likelihood."""

    name: str
    tasks: tuple[LanguageTask, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HarnessFamily:
    """lm-eval's own tasks."""

    name: str
    build: Callable[[], Mapping[str, Any]]
    """Makes lm-eval's task objects, by task name; called once, in the main thread."""
    read: Callable[[Mapping[str, Sequence[Mapping[str, Any]]]], Mapping[tuple[str, str], TaskScores]]
    """Scores, by (task, language), from lm-eval's samples by task name (one sample an item and filter)."""


Family = GenerationFamily | LikelihoodFamily | HarnessFamily


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """A suite, opened: its data are read, checked and ready to ask."""

    name: str
    profile: str
    """What its numbers may be compared with: scorecards of two profiles never are (`sea_helm_2025`, `smoke`)."""
    families: tuple[Family, ...]
    window_tokens: int = 0
    """Longest window of a text scored by likelihood; 0: the model's own maximum."""
    render: Callable[[Sequence[Message], str], str] | None = None
    """The benchmark's plain template for base models: the text of a conversation that begins with the second argument, the
    tokenizer's token for a beginning. Without it a recipe cannot ask for `prompts = "base"`."""
    aggregate: Callable[[Sequence[Score]], tuple[Aggregate, ...]] = lambda scores: ()
    """Averages over the scores, each with the set of what it is over."""
    warnings: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    """Tasks that cannot be asked, each with the reason (a file that the mirror has not); they make averages incomplete."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """What else must be equal for two scorecards to be compared: the judge, the scorer of translations."""
