"""SEA-IFEval's score: the share of answers that follow their instruction *and* are in the language asked for, in percent.

Answers in the wrong language are counted as failures, not left out. Left out, numerator and denominator, are the questions on
numbers of words in languages whose words are not counted (5 of 105 in Thai). SEA-HELM stops with an error when every answer
passes or none does, and its caller then drops or zeroes the task; here these are 100 and 0, as any other score.

An item's value is 0 or 1, so that a gate knows it for right or wrong; scores are percentages, as the benchmark's are.

A question that cannot be checked makes the task incomplete: an average over what happens to be known would look like the
official number and not be it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ...catalog.errors import CorruptInput
from ...catalog.records import Score
from ..family import GenerationTask, ItemScore, Question, Scorer, TaskScores
from ..metrics import ItemValue, weighted_score
from .instructions import INSTRUCTIONS, Rules, follows, is_checkable, is_scored, rules_of
from .language_id import code_of, detected_language, is_language

METRIC, SOURCE = "overall_lang_normalized_acc", "sea-helm"


@dataclass(frozen=True, slots=True, kw_only=True)
class Obeyed:
    """What one answer comes to."""

    question: Question
    instruction: str
    """`keywords:existence`."""
    follows: bool
    """Whether it does what it was told, in whatever language."""
    in_language: bool
    """Whether it is in the task's language, or in the one that the instruction asks for."""
    label: str
    """The language it is in, by the classifier."""
    is_empty: bool
    """Whether there is no answer at all."""


def instruction_scorer(profile: str, language: str) -> Scorer:
    """The scorer of `if-eval` in one language (ISO 639-3 or SEA-HELM's code).

    A question's `details` are `instruction` (`keywords:existence`), `kwargs` (its arguments) and `language` (the row's, either
    code). Raises ValueError for an unknown profile; the scorer raises CorruptInput for details that it cannot read.
    """
    rules = rules_of(profile, language)

    def score(task: GenerationTask, answers: Sequence[Sequence[str]]) -> TaskScores:
        unknown = Counter(name for name in map(_instruction, task.questions) if not is_checkable(name, rules))
        if unknown:
            named = ", ".join(f"{count} of {name}" for name, count in unknown.items())
            return TaskScores(
                items=(),
                scores=(),
                incomplete=f"{sum(unknown.values())} questions cannot be checked in {task.language}: {named}",
            )
        obeyed = obedience(task, answers, rules)
        if not obeyed:
            return TaskScores(items=(), scores=(), incomplete="none of the questions is scored in this language")
        return TaskScores(items=tuple(map(_item, obeyed)), scores=_scores(task, obeyed), warnings=_warnings(task, obeyed))

    return score


def obedience(task: GenerationTask, answers: Sequence[Sequence[str]], rules: Rules) -> list[Obeyed]:
    """What the answers to the scored questions come to, in their order."""
    return [
        _obeyed(question, turns[0] if turns else "", rules)
        for question, turns in zip(task.questions, answers, strict=True)
        if is_scored(_instruction(question), rules)
    ]


def _obeyed(question: Question, answer: str, rules: Rules) -> Obeyed:
    instruction, kwargs = _instruction(question), question.details.get("kwargs") or {}
    label, _ = detected_language(answer)
    expected = code_of(str(question.details.get("language") or rules.language))
    if instruction.startswith("language:"):
        expected = code_of(str(kwargs.get("response_language", "")))
    try:
        is_followed = follows(instruction, answer, kwargs, rules)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CorruptInput(
            "if-eval",
            f"question {question.id}",
            f"{instruction} cannot be checked with the arguments {dict(kwargs)} ({error!r})",
        ) from None
    return Obeyed(
        question=question,
        instruction=instruction,
        follows=is_followed,
        in_language=is_language(label, expected, rules.profile),
        label=label,
        is_empty=not answer.strip(),
    )


def _instruction(question: Question) -> str:
    name = question.details.get("instruction")
    if name not in INSTRUCTIONS:
        raise CorruptInput("if-eval", f"question {question.id}", f"{name} is none of the {len(INSTRUCTIONS)} instructions")
    return str(name)


def _item(obeyed: Obeyed) -> ItemScore:
    return ItemScore(
        item=obeyed.question.id,
        metric=METRIC,
        value=float(obeyed.follows and obeyed.in_language),
        is_null=obeyed.is_empty,
        extracted=f"{obeyed.label}, {'followed' if obeyed.follows else 'not followed'}",
    )


def _scores(task: GenerationTask, obeyed: Sequence[Obeyed]) -> tuple[Score, ...]:
    nulls = sum(one.is_empty for one in obeyed)

    def score(metric: str, values: Sequence[float], role: Literal["score", "raw", "diagnostic"]) -> Score:
        items = (
            ItemValue(value=value, weight=1.0, cluster=one.question.cluster) for value, one in zip(values, obeyed, strict=True)
        )
        value, stderr = weighted_score(items)
        return Score(
            task=task.name,
            language=task.language,
            metric=metric,
            value=value,
            stderr=stderr,
            items=len(values),
            higher_is_better=True,
            role=role,
            source=SOURCE,
            nulls=nulls,
        )

    return (
        score(METRIC, [100.0 * (one.follows and one.in_language) for one in obeyed], "score"),
        score("overall_acc", [100.0 * one.follows for one in obeyed], "raw"),
        score("correct_language_rate", [float(one.in_language) for one in obeyed], "diagnostic"),
    )


def _warnings(task: GenerationTask, obeyed: Sequence[Obeyed]) -> tuple[str, ...]:
    left_out = len(task.questions) - len(obeyed)
    wrong = Counter(one.label for one in obeyed if one.follows and not one.in_language)
    found = []
    if left_out:
        found.append(
            f"{task.name} in {task.language}: {left_out} of {len(task.questions)} questions are left out, as SEA-HELM does: "
            "words are not counted in this language"
        )
    if wrong:
        named = ", ".join(f"{count} in {label}" for label, count in wrong.most_common(3))
        found.append(
            f"{task.name} in {task.language}: {sum(wrong.values())} answers follow their instruction and fail by their "
            f"language ({named})"
        )
    return tuple(found)
