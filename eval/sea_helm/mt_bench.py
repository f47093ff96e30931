"""SEA-MTBench: two turns, each compared with a baseline's by a judge, in both orders.

The judge sees the baseline's answer once first and once second; two verdicts that agree count, anything else is a tie (where
the configuration allows ties), so that a judge who always prefers the first answer moves nothing. A verdict that cannot be
read is an error; two of them are one, and count as a loss. The score is the plain mean of the categories' win rates.

Replicated: references are shown for the categories exactly spelt `math` and `reasoning`, so that the Thai set, which
capitalises its categories, never gets them. Not replicated: the benchmark leaves the task out when the judge cannot be
reached, and the average then covers fewer tasks in silence; here the task is incomplete and says why.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ...catalog.errors import CorruptInput
from ...catalog.records import Score
from ..endpoint import Unanswered
from ..family import GenerationTask, ItemScore, Message, Question, Scorer, TaskScores
from ..judge import Judge, judged
from ..judgements import Judgements
from ..metrics import stratified_stderr
from .judge_prompts import LABELS, TURNS, PairwisePrompts
from .templates import fill

Verdict = Literal["WIN", "LOSE", "TIE", "ERROR"]

METRIC = "weighted_win_rate"
SOURCE = "sea-helm"
BASELINE_FIRST = (True, False)
"""The two orders, as they are asked."""


def verdict(text: str, *, is_reversed: bool, ties_allowed: bool = True, labels: Mapping[str, str] = LABELS) -> Verdict:
    """What a judge's text says of the model: exactly one outcome must be named. `is_reversed`: the baseline was A."""
    wins, loses = labels["A_wins"] in text, labels["B_wins"] in text
    ties = ties_allowed and labels["Tie"] in text
    if wins + loses + ties != 1:
        return "ERROR"
    if ties:
        return "TIE"
    return "WIN" if wins != is_reversed else "LOSE"


def final_verdict(first: Verdict, second: Verdict, *, ties_allowed: bool = True) -> Verdict:
    """The verdict of both orders together."""
    if first == second:
        return first
    return "TIE" if ties_allowed else "ERROR"


def verdict_score(outcome: Verdict) -> float:
    """1 for a win, 0.5 for a tie, 0 for a loss or an error."""
    return {"WIN": 1.0, "TIE": 0.5}.get(outcome, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class WinRates:
    """What verdicts come to."""

    categories: Mapping[str, float]
    """Category to its win rate over all turns, 0 to 1."""
    win_rate: float
    """Over all turns of all categories, 0 to 1."""
    weighted_win_rate: float
    """Plain mean of the categories, 0 to 100."""


def win_rates(finals: Sequence[Sequence[Verdict]], categories: Sequence[str]) -> WinRates:
    """The win rates of questions' final verdicts, one a turn; raises ValueError without any."""
    if not any(finals):
        raise ValueError("no verdicts to average")
    by_category: defaultdict[str, list[float]] = defaultdict(list)
    for verdicts, category in zip(finals, categories, strict=True):
        by_category[category] += map(verdict_score, verdicts)
    rates = {category: math.fsum(values) / len(values) for category, values in by_category.items() if values}
    values = [value for category in by_category.values() for value in category]
    return WinRates(
        categories=rates,
        win_rate=math.fsum(values) / len(values),
        weighted_win_rate=100 * math.fsum(rates.values()) / len(rates),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Judged:
    """One question, and how its turns were judged."""

    question: Question
    is_null: bool
    """Whether a turn has no answer."""
    orders: tuple[tuple[Verdict, Verdict], ...]
    """Of each turn: the baseline first, and second."""
    finals: tuple[Verdict, ...]
    """Of each turn."""

    @property
    def category(self) -> str:
        return str(self.question.details["category"])

    @property
    def value(self) -> float:
        """Mean of its turns, 0 to 1."""
        return math.fsum(map(verdict_score, self.finals)) / len(self.finals)


def mt_bench_scorer(
    profile: str, language: str, judge: Judge | None, prompts: PairwisePrompts | None, judgements: Judgements | None = None
) -> Scorer:
    """Scores `mt-bench` in one language (ISO 639-3).

    Questions carry in `details`: `category`, `baselines` (model to its answers, by turn) and, where there are any,
    `references` (by turn). Without a judge, without prompts or when the judge fails, the task is incomplete; judgements that
    were made stay in `judgements`, and are not asked for again.
    """
    kept = judgements or Judgements()

    def score(task: GenerationTask, answers: Sequence[Sequence[str]]) -> TaskScores:
        if judge is None or prompts is None:
            return incomplete(no_judge(judge, "mt-bench"))
        if not task.questions:
            return incomplete("there are no questions")
        shown = [
            _conversations(question, said, turn, prompts)
            for question, said in zip(task.questions, answers, strict=True)
            for turn in range(1, TURNS + 1)
        ]
        try:
            texts = iter(judged(judge, [conversation for pair in shown for conversation in pair], kept))
        except Unanswered as error:
            return incomplete(str(error), is_open=not error.is_final)
        found = [
            _judged(question, said, [(next(texts), next(texts)) for _ in range(TURNS)], prompts)
            for question, said in zip(task.questions, answers, strict=True)
        ]
        warnings = (
            *_warnings(task, found, prompts),
            *judge_warnings(f"{task.name} in {language}", judge, prompts.judge, prompts.drawn),
        )
        return TaskScores(items=tuple(map(_item, found)), scores=_scores(task, found), warnings=warnings)

    return score


def incomplete(reason: str, *, is_open: bool = False) -> TaskScores:
    """No score, and why; `is_open`: asking again may give one."""
    return TaskScores(items=(), scores=(), incomplete=reason, is_open=is_open)


def no_judge(judge: Judge | None, task: str) -> str:
    """Why a task cannot be judged at all."""
    if judge is None:
        return f"no judge is set: name one in the evaluation's settings to score {task}"
    return f"the mirror holds no judge prompts for {task}: mirror the benchmark again, with its judges' files"


def judge_warnings(what: str, judge: Judge, named: str, drawn: Mapping[str, float]) -> tuple[str, ...]:
    """Says so where the judge, or how it draws its text, is not what the profile names."""
    found = []
    if judge.name.rsplit("/", 1)[-1] != named.rsplit("/", 1)[-1]:
        found.append(
            f"{what}: judged by {judge.name}, not by {named} as the profile has it: not comparable to published scores"
        )
    else:
        other = [
            f"{name} {judge.identity[name]:g}, not {value:g}"
            for name, value in drawn.items()
            if judge.identity.get(name) != value
        ]
        if other:
            found.append(f"{what}: the judge is asked otherwise than the profile has it: {'; '.join(other)}")
    return tuple(found)


def _conversations(
    question: Question, answers: Sequence[str], turn: int, prompts: PairwisePrompts
) -> list[tuple[Message, ...]]:
    """What the judge is shown of a turn: the baseline's answer as A, then as B."""
    if 1 + len(question.follow_ups) != TURNS:
        raise CorruptInput("mt-bench", f"question {question.id}", f"has {1 + len(question.follow_ups)} turns, not {TURNS}")
    category = _detail(question, "category", str)
    is_guided = category in prompts.guided_categories
    asked = [question.messages[-1].content, *question.follow_ups]
    ours = [answers[number] if number < len(answers) else "" for number in range(turn)]
    baselines = _detail(question, "baselines", dict).get(prompts.baseline)
    theirs = _by_turn(question, f"baselines.{prompts.baseline}", baselines, turn)
    references = _by_turn(question, "references", question.details.get("references"), turn) if is_guided else []
    prompt = (prompts.guided if is_guided else prompts.plain)[turn - 1]
    made: list[tuple[Message, ...]] = []
    for is_first in BASELINE_FIRST:
        columns = {"question": asked, "answer_a": theirs if is_first else ours, "answer_b": ours if is_first else theirs}
        columns |= {"ref_answer": references} if is_guided else {}
        fields = {f"{name}_{number + 1}": texts[number] for name, texts in columns.items() for number in range(turn)}
        user = fill(prompt.template, fields, "judge prompt")
        made.append((Message(role="system", content=prompt.system), Message(role="user", content=user)))
    return made


def _detail(question: Question, key: str, kind: type) -> Any:
    value = question.details.get(key)
    if not isinstance(value, kind):
        raise CorruptInput(
            "mt-bench", f"question {question.id}", f"{key} is {'absent' if value is None else 'of another type'}"
        )
    return value


def _by_turn(question: Question, key: str, texts: Any, turns: int) -> Sequence[str]:
    if not isinstance(texts, list) or len(texts) < turns or not all(isinstance(text, str) for text in texts[:turns]):
        raise CorruptInput("mt-bench", f"question {question.id}", f"{key} must hold a text for each of {turns} turns")
    return texts


def _judged(question: Question, answers: Sequence[str], texts: Sequence[tuple[str, str]], prompts: PairwisePrompts) -> _Judged:
    orders = []
    for pair in texts:
        first, second = (
            verdict(text, is_reversed=is_first, ties_allowed=prompts.ties_allowed, labels=prompts.labels)
            for text, is_first in zip(pair, BASELINE_FIRST, strict=True)
        )
        orders.append((first, second))
    return _Judged(
        question=question,
        is_null=len(answers) < TURNS or not all(text.strip() for text in answers[:TURNS]),
        orders=tuple(orders),
        finals=tuple(final_verdict(first, second, ties_allowed=prompts.ties_allowed) for first, second in orders),
    )


def _item(found: _Judged) -> ItemScore:
    """Both turns as one item, which is what the answers are stored by; every question has two, so the score is the same."""
    turns = zip(found.finals, found.orders, strict=True)
    return ItemScore(
        item=found.question.id,
        metric=METRIC,
        value=found.value,
        stratum=found.category,
        is_null=found.is_null,
        extracted=", ".join(f"{final} ({first}/{second})" for final, (first, second) in turns),
    )


def _scores(task: GenerationTask, found: Sequence[_Judged]) -> tuple[Score, ...]:
    rates = win_rates([one.finals for one in found], [one.category for one in found])
    weighted = stratified_stderr([(one.category, one.question.cluster, one.value) for one in found])
    plain = stratified_stderr([("", one.question.cluster, one.value) for one in found])

    def score(metric: str, value: float, stderr: float, role: Literal["score", "diagnostic"]) -> Score:
        return Score(
            task=task.name, language=task.language, metric=metric, value=value, stderr=stderr, items=len(found),
            higher_is_better=True, role=role, source=SOURCE, nulls=sum(one.is_null for one in found),
        )  # fmt: skip

    return (
        score(METRIC, rates.weighted_win_rate, 100 * weighted, "score"),
        score("win_rate", rates.win_rate, plain, "diagnostic"),
    )


def _warnings(task: GenerationTask, found: Sequence[_Judged], prompts: PairwisePrompts) -> tuple[str, ...]:
    what, warnings = f"{task.name} in {task.language}", []
    turns = [(final, orders) for one in found for final, orders in zip(one.finals, one.orders, strict=True)]
    unread = sum(outcome == "ERROR" for _, orders in turns for outcome in orders)
    if unread:
        lost = sum(final == "ERROR" and "ERROR" in orders for final, orders in turns)
        warnings.append(
            f"{what}: no verdict could be read out of {unread} of {2 * len(turns)} judgements; "
            f"{lost} of {len(turns)} turns count as lost for it, as SEA-HELM does"
        )
    unguided = sum(
        bool(one.question.details.get("references")) and one.category not in prompts.guided_categories for one in found
    )
    if unguided:
        warnings.append(
            f"{what}: {unguided} questions have references that the judge is not shown, as SEA-HELM does: "
            f"their categories are not spelt {' or '.join(prompts.guided_categories)}"
        )
    return tuple(warnings)
