"""Scorers of SEA-HELM's tasks that need nothing but the answers: options, short answers and summaries.

An item's value is always a share, 0 to 1, under the raw metric's name, so that right-or-wrong items stay right or wrong for the
gate; scores are percentages, as the benchmark's are. Items of a balanced accuracy carry their class, those of LINDSEA their
phenomenon, as the stratum: the plain mean over strata of the items' means is the raw score. Errors of scores are
cluster-robust over items (stratum means linearised); the benchmark states none. What it gets wrong is reproduced and said.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from ...catalog.errors import CorruptInput, SeaLionError
from ...catalog.records import Score
from ..family import GenerationTask, ItemScore, Question, Scorer, TaskScores
from ..metrics import stratified_stderr
from . import extraction
from .averages import ANSWERED
from .classification import measured
from .diagnostics import counts, diagnosed
from .labels import LABEL_TASKS, NULL_2026, PRAGMATICS, Label, gold_2025, null_2025, options_2025, tag_of
from .profile import profile_of, short_code
from .question_answering import answered
from .summaries import corpus, rouge_l

SOURCE = "sea-helm"
Role = Literal["score", "raw", "diagnostic"]
Answers = Sequence[Sequence[str]]
KNOWLEDGE = ("global_mmlu_lite", *(f"thai_exam_{exam}" for exam in ("a_level", "ic", "onet", "tgat", "tpat1")))
"""Tasks of 2026 alone, answered with a letter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What a scorer is made for."""

    task: str
    profile: str
    language: str
    """The benchmark's code."""

    @property
    def is_2025(self) -> bool:
        """Whether release v1.0.0 is reproduced, else v1.2.1."""
        return self.profile == "sea_helm_2025"


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """Answers to a task with options, read."""

    given: tuple[Label, ...]
    golds: tuple[Label, ...]
    null: Label
    classes: int
    """They set the chance level."""
    warnings: tuple[str, ...]

    @property
    def rights(self) -> tuple[bool, ...]:
        """Whether each answer is the right one."""
        return tuple(given == gold for given, gold in zip(self.given, self.golds, strict=True))


def scorer(task_name: str, profile: str, language: str) -> Scorer:
    """The scorer of a task in an ISO 639-3 language; raises SeaLionError for a task, profile or language there is not.

    `Question.target` is the row's `label`; `details` its `metadata`, with the row's `choices_translated` for pragmatics.
    """
    profile_of(profile)
    setting = Setting(task=task_name, profile=profile, language=short_code(language))
    if task_name not in SCORERS:
        raise SeaLionError(f"no scorer of answers alone for {task_name!r}; there are {', '.join(SCORERS)}")
    tag_of(profile, "summary" if task_name == "abssum" else "answer", setting.language)
    if setting.is_2025 and task_name in KNOWLEDGE:
        raise SeaLionError(f"{task_name!r} is no task of {profile}")
    if setting.is_2025 and task_name in LABEL_TASKS:
        options_2025(task_name, setting.language)
    score = SCORERS[task_name]
    return lambda task, answers: score(setting, task, _last_turns(task, answers))


def _labels(setting: Setting, task: GenerationTask, answers: Sequence[str]) -> TaskScores:
    read = _read(setting, task.questions, answers)
    result = measured(read.given, read.golds, read.null, read.classes)
    strata = [str(gold) for gold in read.golds]
    raw = 100 * _stderr(read.rights, strata, task.questions)
    values: tuple[tuple[str, float, float, Role], ...] = (
        ("normalized_accuracy", result.normalised_accuracy, raw / (1 - 1 / read.classes) if read.classes > 1 else 0.0, "score"),
        ("accuracy", result.accuracy, raw, "raw"),
        ("macro_f1", result.macro_f1, 0.0, "diagnostic"),
        ("null_weighted_f1", result.null_weighted_f1, 0.0, "diagnostic"),
    )
    return TaskScores(
        items=_option_items(read, strata, task.questions),
        scores=tuple(_score(task, *value, nulls=result.nulls) for value in values),
        warnings=read.warnings,
        chance=1 / read.classes if read.classes > 1 else 0.0,
    )


def _phenomena(setting: Setting, task: GenerationTask, answers: Sequence[str]) -> TaskScores:
    """Minimal pairs and pragmatics: a mean over phenomena, whose counts travel beside it for pooling."""
    read = _read(setting, task.questions, answers)
    strata = [_phenomenon(setting, question) for question in task.questions]
    found = counts(read.rights, strata)
    result = diagnosed(found)
    raw = 100 * _stderr(read.rights, strata, task.questions)
    nulls = read.given.count(read.null)
    values: list[tuple[str, float, float, Role]] = [
        ("normalized_accuracy", result.normalised_accuracy, 2 * raw, "score"),
        ("accuracy", result.accuracy, raw, "raw"),
    ]
    scores = [_score(task, *value, nulls=nulls) for value in values]
    scores += [
        _score(task, ANSWERED + phenomenon, 100 * count.share, 0.0, "diagnostic", items=count.total)
        for phenomenon, count in found.items()
    ]
    return TaskScores(
        items=_option_items(read, strata, task.questions), scores=tuple(scores), warnings=read.warnings, chance=0.5
    )


def _short_answers(setting: Setting, task: GenerationTask, answers: Sequence[str]) -> TaskScores:
    read_text = extraction.text_2025 if setting.is_2025 else extraction.text_2026
    texts = [read_text(answer, "answer", setting.language) for answer in answers]
    references = [_references(setting, question) for question in task.questions]
    results = [
        answered(text, wanted, setting.language, setting.profile) for text, wanted in zip(texts, references, strict=True)
    ]
    f1, exact, found = ([getattr(result, name) for result in results] for name in ("f1", "exact_match", "found"))
    stderr, nulls = 100 * _stderr(f1, [""] * len(f1), task.questions), texts.count("")
    values: tuple[tuple[str, float, float, Role], ...] = (
        ("normalized_f1", 100 * _mean(f1), stderr, "score"),
        ("f1", 100 * _mean(f1), stderr, "raw"),
        ("exact_match", 100 * _mean(exact), 0.0, "diagnostic"),
        ("found_in_prediction", 100 * _mean(found), 0.0, "diagnostic"),
    )
    return TaskScores(
        items=_text_items("f1", f1, texts, task.questions),
        scores=tuple(_score(task, *value, nulls=nulls) for value in values),
        warnings=tuple(_answer_warnings(setting, references)),
    )


def _summaries(setting: Setting, task: GenerationTask, answers: Sequence[str]) -> TaskScores:
    read_text = extraction.text_2025 if setting.is_2025 else extraction.text_2026
    texts = [read_text(answer, "summary", setting.language) for answer in answers]
    overlaps = [
        rouge_l(text, _reference(setting, question), setting.language, setting.profile)
        for text, question in zip(texts, task.questions, strict=True)
    ]
    f1 = [overlap.f1 for overlap in overlaps]
    whole, plain = corpus(overlaps), 100 * _mean(f1)
    stderr, nulls = 100 * _stderr(f1, [""] * len(f1), task.questions), texts.count("")
    values: tuple[tuple[str, float, float, Role], ...] = (
        ("normalized_rougel_f1", 100 * whole.f1, stderr, "score"),
        ("rougel_f1", 100 * whole.f1, stderr, "raw"),
        ("rougel_precision", 100 * whole.precision, 0.0, "diagnostic"),
        ("rougel_recall", 100 * whole.recall, 0.0, "diagnostic"),
        ("rougel_f1_mean", plain, stderr, "diagnostic"),
    )
    warnings = [
        f"ROUGE-L is the benchmark's median of 1,000 bootstrap means, {100 * whole.f1:.3f}; the plain mean is {plain:.3f}"
    ]
    if setting.language == "th":
        warnings.append("ROUGE-L counts blanks as words in Thai, as the benchmark does, which raises it")
    return TaskScores(
        items=_text_items("rougel_f1", f1, texts, task.questions),
        scores=tuple(_score(task, *value, nulls=nulls) for value in values),
        warnings=tuple(warnings),
    )


SCORERS: dict[str, Callable[[Setting, GenerationTask, Sequence[str]], TaskScores]] = {
    **dict.fromkeys(LABEL_TASKS, _labels),
    **dict.fromkeys(KNOWLEDGE, _labels),
    "mp-r": _phenomena,
    **dict.fromkeys(PRAGMATICS, _phenomena),
    "qa": _short_answers,
    "abssum": _summaries,
}
"""Task to how its answers are scored."""


def _last_turns(task: GenerationTask, answers: Answers) -> list[str]:
    if not task.questions or len(answers) != len(task.questions):
        raise ValueError(f"{task.name}: {len(task.questions)} questions and {len(answers)} answers cannot be scored")
    return [turns[-1] or "" if turns else "" for turns in answers]


def _read(setting: Setting, questions: Sequence[Question], answers: Sequence[str]) -> Read:
    return (_read_2025 if setting.is_2025 else _read_2026)(setting, questions, answers)


def _read_2025(setting: Setting, questions: Sequence[Question], answers: Sequence[str]) -> Read:
    task, language = setting.task, setting.language
    golds = tuple(gold_2025(task, question.target, question.id) for question in questions)
    given = tuple(
        extraction.label_2025(answer, task, language, _choices(question))
        for answer, question in zip(answers, questions, strict=True)
    )
    classes = len(options_2025(task, language))
    null = null_2025(task)
    warnings = []
    if lost := sum(value == null and bool(answer.strip()) for value, answer in zip(given, answers, strict=True)):
        warnings.append(f"strict extraction could read no option in {lost} of {len(given)} answers; they count as wrong")
    if len(set(golds)) < classes and task not in PRAGMATICS:
        warnings.append(f"only {len(set(golds))} of {classes} classes occur, and chance is still taken to be 1/{classes}")
    return Read(given=given, golds=golds, null=null, classes=classes, warnings=tuple(warnings))


def _read_2026(setting: Setting, questions: Sequence[Question], answers: Sequence[str]) -> Read:
    for question in questions:
        if not isinstance(question.target, str) or not question.target.strip():
            raise CorruptInput(setting.task, question.id, f"label {question.target!r} is no option's text")
    golds = tuple(question.target for question in questions)
    labels = tuple(dict.fromkeys(golds))
    given = tuple(extraction.label_2026(answer, setting.language, labels) for answer in answers)
    warnings = []
    if starts := sum(extraction.is_word_start(answer, setting.language, labels) for answer in answers):
        warnings.append(
            f"{starts} of {len(given)} answers were read by the first letters of a longer word (an echoed `ANSWER` counts "
            "as A), as the benchmark does"
        )
    if lost := sum(value == NULL_2026 and bool(answer.strip()) for value, answer in zip(given, answers, strict=True)):
        warnings.append(f"extraction could read no option in {lost} of {len(given)} answers; they count as wrong")
    return Read(given=given, golds=golds, null=NULL_2026, classes=len(labels), warnings=tuple(warnings))


def _choices(question: Question) -> str:
    """What a pragmatics row offers, by its own words or else by its label."""
    offered = question.details.get("choices_translated") or question.details.get("choices")
    return str(offered or ("yes no" if str(question.target).lower() in ("yes", "no") else ""))


def _phenomenon(setting: Setting, question: Question) -> str:
    phenomenon = question.details.get("linguistic_phenomenon")
    if not isinstance(phenomenon, str) or not phenomenon:
        raise CorruptInput(setting.task, question.id, "has no linguistic_phenomenon")
    return phenomenon


def _references(setting: Setting, question: Question) -> list[str]:
    target = [question.target] if setting.is_2025 and isinstance(question.target, str) else question.target
    if not isinstance(target, (list, tuple)) or not target or not all(isinstance(text, str) for text in target):
        raise CorruptInput(setting.task, question.id, f"label {question.target!r} is no list of answers")
    return list(target)


def _reference(setting: Setting, question: Question) -> str:
    if not isinstance(question.target, str):
        raise CorruptInput(setting.task, question.id, f"label {question.target!r} is no summary")
    return question.target


def _answer_warnings(setting: Setting, references: Sequence[Sequence[str]]) -> list[str]:
    warnings = []
    fused = sum(len(wanted) == 1 and ", " in wanted[0] for wanted in references)
    if setting.is_2025 and setting.language == "id" and fused:
        warnings.append(
            f"{fused} of {len(references)} references hold ', ': in release v1.0.0 thirteen are two answers fused, which keeps "
            "a right answer below 100"
        )
    if setting.language == "th":
        more = sum(len(wanted) > 1 for wanted in references)
        warnings.append("F1 is over words as PyThaiNLP's newmm cuts them; its versions differ on a few texts")
        warnings += [f"only the first of several references counts in {more} Thai items"] if more else []
    return warnings


def _option_items(read: Read, strata: Sequence[str], questions: Sequence[Question]) -> tuple[ItemScore, ...]:
    return tuple(
        ItemScore(
            item=question.id,
            metric="accuracy",
            value=float(right),
            stratum=stratum,
            is_null=given == read.null,
            extracted="" if given == read.null else str(given),
        )
        for question, right, stratum, given in zip(questions, read.rights, strata, read.given, strict=True)
    )


def _text_items(
    metric: str, values: Sequence[float], texts: Sequence[str], questions: Sequence[Question]
) -> tuple[ItemScore, ...]:
    return tuple(
        ItemScore(item=question.id, metric=metric, value=value, is_null=not text, extracted=text)
        for question, value, text in zip(questions, values, texts, strict=True)
    )


def _score(
    task: GenerationTask, metric: str, value: float, stderr: float, role: Role, *, nulls: int = 0, items: int | None = None
) -> Score:
    return Score(
        task=task.name,
        language=task.language,
        metric=metric,
        value=value,
        stderr=stderr,
        items=len(task.questions) if items is None else items,
        higher_is_better=True,
        role=role,
        source=SOURCE,
        nulls=nulls,
    )


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _stderr(values: Sequence[float], strata: Sequence[str], questions: Sequence[Question]) -> float:
    clusters = [question.cluster for question in questions]
    return stratified_stderr(list(zip(strata, clusters, values, strict=True)))
