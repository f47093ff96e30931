"""Asks a judge about criteria, one at a time: MT-Bench, Kalahi and Indonesian syntax of the 2026 profile.

No baseline: the judge puts each criterion of an answer into a class, and `criteria` says what classes are worth. As SEA-HELM
does it, a criterion of a question's second turn is judged with the model's own first answer before it, and a judge's text
without a class is worth nothing; how often that was is a warning.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from ...catalog.errors import CorruptInput
from ...catalog.records import Score
from ..endpoint import Unanswered
from ..family import GenerationTask, ItemScore, Message, Question, Scorer, TaskScores
from ..judge import Judge, judged
from ..judgements import Judgements
from ..metrics import stratified_stderr
from . import criteria
from .judge_prompts import CriteriaPrompts
from .mt_bench import SOURCE, incomplete, judge_warnings, no_judge
from .profile import short_code
from .templates import fill

METRIC = "average_criteria_score"
COUNTED_TAG: Mapping[str, Literal["first", "last"]] = {
    "mt-bench-judge": "last",
    "kalahi-judge": "first",
    "syntax-criteria": "last",
}
"""Task to the classification that counts where a judge names several."""

Criterion = Mapping[str, Any]


def criteria_scorer(
    language: str, judge: Judge | None, prompts: CriteriaPrompts | None, judgements: Judgements | None = None
) -> Scorer:
    """Scores a task of 2026 that is judged by criteria, in one language (ISO 639-3).

    Questions carry in `details`: `criteria` (each with `criterion`, and what the task adds: `turn`, `severity`,
    `include_reference`) and, where the user's turn has more than the row's text, `prompts` (the row's fields, by turn).
    Without a judge, without prompts or when the judge fails, the task is incomplete.
    """
    kept = judgements or Judgements()

    def score(task: GenerationTask, answers: Sequence[Sequence[str]]) -> TaskScores:
        if judge is None or prompts is None:
            return incomplete(no_judge(judge, task.name))
        if not task.questions:
            return incomplete("there are no questions")
        asked = [
            [_conversation(question, said, criterion, prompts, language) for criterion in _criteria(question)]
            for question, said in zip(task.questions, answers, strict=True)
        ]
        try:
            texts = iter(judged(judge, [conversation for each in asked for conversation in each], kept))
        except Unanswered as error:
            return incomplete(str(error), is_open=not error.is_final)
        which = COUNTED_TAG[prompts.task]
        found = [[criteria.judged(next(texts), which, prompts.classes) for _ in each] for each in asked]
        return _scores(task, answers, found, _warnings(task, found, judge, prompts), VALUES[prompts.task])

    return score


def _criteria(question: Question) -> Sequence[Criterion]:
    listed: Any = question.details.get("criteria")
    is_list = isinstance(listed, (list, tuple)) and bool(listed)
    if not is_list or not all(isinstance(one, dict) and isinstance(one.get("criterion"), str) for one in listed):
        raise CorruptInput("criteria", f"question {question.id}", "must have a list of criteria, each with a text")
    return list(listed)


def _conversation(
    question: Question, answers: Sequence[str], criterion: Criterion, prompts: CriteriaPrompts, language: str
) -> tuple[Message, ...]:
    turn = _turn(question, criterion) if len(prompts.templates) > 1 else 0
    asked = [_shown_question(question, number, prompts, language) for number in range(turn + 1)]
    said = [answers[number] if number < len(answers) else "" for number in range(turn + 1)]
    transcript = f"[User]\n{asked[0]}"
    for number in range(turn):
        transcript += f"\n\n[Assistant (fixed)]\n{said[number]}\n\n[User]\n{asked[number + 1]}"
    reference = ""
    if criterion.get("include_reference") and prompts.reference:
        reference = f"\n{fill(prompts.reference, {'reference': question.target}, prompts.task)}\n"
    fields = {
        "transcript": transcript,
        "prompt": asked[0],
        "response": said[turn],
        "keyPointText": _filled(criterion["criterion"], _fields(question, 0)),
        "reference_text_block": reference,
    }
    user = fill(prompts.templates[turn], fields, prompts.task)
    return Message(role="system", content=prompts.system), Message(role="user", content=user)


def _turn(question: Question, criterion: Criterion) -> int:
    """The turn, from 0, that a criterion is about."""
    turn: Any = criterion.get("turn")
    if turn not in range(1 + len(question.follow_ups)) or isinstance(turn, bool):
        raise CorruptInput("criteria", f"question {question.id}", f"a criterion is about turn {turn!r}, which there is not")
    return int(turn)


def _fields(question: Question, turn: int) -> Mapping[str, Any] | None:
    rows = question.details.get("prompts")
    return rows[turn] if isinstance(rows, list) and turn < len(rows) and isinstance(rows[turn], dict) else None


def _shown_question(question: Question, turn: int, prompts: CriteriaPrompts, language: str) -> str:
    """The user's turn without the preamble that only the model is given."""
    code = short_code(language)
    if code not in prompts.questions:
        raise CorruptInput(prompts.task, code, "is a language that its configuration has not")
    fields = _fields(question, turn)
    if fields is not None:
        return fill(prompts.questions[code], fields, prompts.task)
    return question.messages[-1].content if turn == 0 else question.follow_ups[turn - 1]


def _filled(criterion: str, fields: Mapping[str, Any] | None) -> str:
    """A criterion's text with the row's fields; as it stands where its braces are none."""
    try:
        return fill(criterion, fields or {}, "criterion")
    except CorruptInput:
        return criterion


def _mean(question: Question, values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _mean_of_turns(question: Question, values: Sequence[float]) -> float:
    turns = [_turn(question, criterion) for criterion in _criteria(question)]
    by_turn = [[value for value, turn in zip(values, turns, strict=True) if turn == number] for number in range(2)]
    return criteria.mean_of_turns(by_turn)


def _syntax(question: Question, values: Sequence[float]) -> float:
    severities = [str(criterion.get("severity", "")).lower() for criterion in _criteria(question)]
    # SEA-HELM sorts judgements by their names (`criteria10` before `criteria2`) and criteria not: kept, it is in its scores
    order = sorted(range(len(values)), key=lambda number: f"criteria{number}")
    try:
        return criteria.syntax_item([values[number] for number in order], severities).value
    except ValueError as error:
        raise CorruptInput("syntax-criteria", f"question {question.id}", str(error)) from error


VALUES: Mapping[str, Callable[[Question, Sequence[float]], float]] = {
    "mt-bench-judge": _mean_of_turns,
    "kalahi-judge": _mean,
    "syntax-criteria": _syntax,
}
"""Task to a question's score, 0 to 1, from its criteria's values."""


def _scores(
    task: GenerationTask,
    answers: Sequence[Sequence[str]],
    found: Sequence[Sequence[criteria.Judged]],
    warnings: tuple[str, ...],
    value_of: Callable[[Question, Sequence[float]], float],
) -> TaskScores:
    values = [value_of(question, [one.value for one in each]) for question, each in zip(task.questions, found, strict=True)]
    is_null = [not any(text.strip() for text in said) for said in answers]
    items = tuple(
        ItemScore(
            item=question.id,
            metric=METRIC,
            value=value,
            is_null=null,
            extracted=" ".join(one.classification or "-" for one in each),
        )
        for question, value, null, each in zip(task.questions, values, is_null, found, strict=True)
    )
    clustered = [("", question.cluster, value) for question, value in zip(task.questions, values, strict=True)]
    score = Score(
        task=task.name, language=task.language, metric=METRIC, value=100 * math.fsum(values) / len(values),
        stderr=100 * stratified_stderr(clustered), items=len(values), higher_is_better=True, source=SOURCE, nulls=sum(is_null),
    )  # fmt: skip
    return TaskScores(items=items, scores=(score,), warnings=warnings)


def _warnings(
    task: GenerationTask, found: Sequence[Sequence[criteria.Judged]], judge: Judge, prompts: CriteriaPrompts
) -> tuple[str, ...]:
    what = f"{task.name} in {task.language}"
    flat = [one for each in found for one in each]
    unread = sum(one.classification not in prompts.classes for one in flat)
    warnings = []
    if unread:
        warnings.append(
            f"{what}: no class could be read out of {unread} of {len(flat)} judgements; they count as unmet, as SEA-HELM does"
        )
    return (*warnings, *judge_warnings(what, judge, prompts.judge, prompts.drawn))
