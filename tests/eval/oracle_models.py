"""Two models that know a suite's answers: one gives them, the other never does. What they score, a suite's scale must say.

`perfect_answer` and `wrong_answer` are pure: an answer in the form that the benchmark asks for, and one that it must not accept
though it has that form, so that a zero means "scored as wrong" rather than "not understood". The models put them behind
lm-eval's interface, for whole runs (the Leaderboard, whose answers stand in lm-eval's documents, has models of its own in
`leaderboard/test_suite.py`). Where no such answer exists, `None`; `IMPOSSIBLE` says why for whole tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from sea_lion.eval.constraints import met
from sea_lion.eval.family import GenerationFamily, GenerationTask, LikelihoodFamily, Question, Suite
from sea_lion.eval.sea_helm.labels import LABEL_TASKS, Kind, gold_2025, options_2025, tag_of
from sea_lion.eval.sea_helm.metricx import Translation
from sea_lion.eval.sea_helm.normalise import METRICX_WORST
from sea_lion.eval.sea_helm.profile import SHORT

from .instruction_answers import example_answer, failing_answer

IMPOSSIBLE: Mapping[str, str] = {
    **dict.fromkeys(
        ("mt-bench", "mt-bench-judge", "kalahi-judge", "syntax-criteria"),
        "what an answer is worth is the judge's opinion, and so is the ceiling",
    ),
    "translation": "MetricX-24 is a model's opinion and gives less than 100 to a reference; a stand-in compares letters here",
}
"""Task (or what its name begins with) to why neither 100 nor 0 can be promised."""

NONSENSE = "Qxzv"
"""A word in no reference."""
UNLIKELY = -1000.0
"""Log-likelihood of what a model would never write, nats."""
ATTEMPTS = (NONSENSE, f"{NONSENSE} " * 200, "* a\n* b\n\n1. c\n\n{}", "")
"""Answers of which one breaks any instruction of the built-in suite; the empty one breaks all."""


def has_options(task: str) -> bool:
    """Whether an answer to the task is one of a few options."""
    return task in LABEL_TASKS or task.startswith(("global_mmlu", "thai_exam"))


def impossible(task: str) -> str:
    """Why the task has no certain best and worst score, empty where it has."""
    return next((reason for name, reason in IMPOSSIBLE.items() if task == name or task.startswith(f"{name}-")), "")


def perfect_answer(profile: str, task: GenerationTask, question: Question) -> str | None:
    """The best answer; `None` where there is none, or where a judge decides."""
    if "checks" in question.details:
        return str(question.target)
    if has_options(task.name):
        right, _ = _options(profile, task, question)
        return _tagged(profile, "answer", task, right)
    if task.name == "if-eval":
        return example_answer(*_instruction(question, task), question.messages[-1].content)
    if task.name == "qa":
        return _tagged(profile, "answer", task, _first(question.target))
    if task.name == "abssum":
        return _tagged(profile, "summary", task, _first(question.target))
    if task.name.startswith("translation"):
        return _tagged(profile, "translation", task, _first(question.target))
    return None


def wrong_answer(profile: str, task: GenerationTask, question: Question) -> str | None:
    """An answer in the required form that is wrong; `None` where every answer is right, or where a judge decides."""
    if "checks" in question.details:
        return next((text for text in ATTEMPTS if not all(met(text, question.details["checks"]).values())), None)
    if has_options(task.name):
        _, wrong = _options(profile, task, question)
        return _tagged(profile, "answer", task, wrong)
    if task.name == "if-eval":
        return failing_answer(*_instruction(question, task))
    kinds: Mapping[str, Kind] = {"qa": "answer", "abssum": "summary", "translation": "translation"}
    kind = kinds.get(task.name.partition("-")[0])
    return _tagged(profile, kind, task, NONSENSE) if kind else None


def _instruction(question: Question, task: GenerationTask) -> tuple[str, Mapping[str, Any], str]:
    return question.details["instruction"], question.details["kwargs"], task.language


def _first(target: Any) -> str:
    return str(target if isinstance(target, str) else target[0])


def _tagged(profile: str, kind: Kind, task: GenerationTask, text: str) -> str:
    """The answer behind its tag; bare where it has several lines, of which only the first would be read."""
    return text if "\n" in text.strip() else f"{tag_of(profile, kind, SHORT[task.language])} {text}"


def _options(profile: str, task: GenerationTask, question: Question) -> tuple[str, str]:
    """The right option's word and a wrong one's."""
    if profile == "sea_helm_2025":
        choices = str(question.details.get("choices_translated", ""))
        options: Mapping[str, Any] = options_2025(task.name, SHORT[task.language], choices)
        gold: Any = gold_2025(task.name, question.target, question.id)
    else:
        options, gold = {str(one.target): str(one.target) for one in task.questions}, str(question.target)
    words = list(options)
    right = next(word for word in words if options[word] == gold)
    return right, next(word for word in words if options[word] != gold)


def sampled(task: GenerationTask, size: int = 30) -> GenerationTask:
    """The task with at most about `size` questions, every class and phenomenon among them."""
    groups: dict[tuple[str, ...], list[Question]] = {}
    for question in task.questions:
        is_class = has_options(task.name)
        key = (repr(question.target), str(question.details.get("linguistic_phenomenon"))) if is_class else ("",)
        groups.setdefault(key, []).append(question)
    each = max(1, -(-size // max(1, len(groups))))
    return replace(task, questions=tuple(chain.from_iterable(group[:each] for group in groups.values())))


class ExactTranslations:
    """Where MetricX-24 would be: 0, the best, for the reference letter for letter, and 25 for all else."""

    name = "exact match"
    identity: Mapping[str, Any] = {"model": "exact match"}

    def score(self, rows: Sequence[Translation], keep: Callable[[int, float], None]) -> None:
        """Hand each row's score to `keep`."""
        for position, row in enumerate(rows):
            keep(position, 0.0 if row.candidate == row.reference.strip() else METRICX_WORST)


class OracleModel(LM):  # type: ignore[misc]
    """A model made of the answers to a suite; what it is asked beyond the suite is an error, not a guess."""

    def __init__(self, suite: Suite, answer: Callable[[str, GenerationTask, Question], str | None], is_right: bool) -> None:
        super().__init__()
        self.is_right = is_right
        self.answers: dict[str, str] = {}
        """Last user message to answer, both without the blanks around them."""
        self.ambiguous: list[str] = []
        """Items asked in the same words as an earlier one that has another answer: no model can answer both."""
        self.asked = 0
        """Requests for an answer so far."""
        self.likely: dict[str, bool] = {}
        """Text to whether this model finds it likely."""
        for family in suite.families:
            if isinstance(family, GenerationFamily):
                self._learn_answers(family.tasks, lambda task, one: answer(suite.profile, task, one))
            elif isinstance(family, LikelihoodFamily):
                self._learn_texts(family)

    def _learn_answers(self, tasks: Iterable[GenerationTask], answer: Callable[[GenerationTask, Question], str | None]) -> None:
        for task in tasks:
            for question in task.questions:
                given = answer(task, question)
                text = NONSENSE if given is None else given
                prompts = (question.messages[-1].content, *question.follow_ups)
                for prompt in prompts:
                    if self.answers.setdefault(prompt.strip(), text) != text:
                        self.ambiguous.append(f"{task.name}/{task.language}/{question.id}")

    def _learn_texts(self, family: LikelihoodFamily) -> None:
        for task in family.tasks:
            for item in task.items:
                self.likely[item.context] = True
                for index, text in enumerate(item.texts):
                    is_likely = (index == item.gold) == self.is_right
                    if self.likely.setdefault(text, is_likely) != is_likely:
                        self.ambiguous.append(f"{task.name}/{task.language}/{item.id}")

    def generate_until(self, requests: list[Instance], **_: Any) -> list[str]:
        self.asked += len(requests)
        return [self._answer(str(request.args[0])) for request in requests]

    def _answer(self, context: str) -> str:
        prompt = context.strip()
        if prompt in self.answers:
            return self.answers[prompt]
        endings = [known for known in self.answers if prompt.endswith(known)]
        if not endings:
            raise LookupError(f"asked what is not in the suite: {prompt[-200:]!r}")
        return self.answers[max(endings, key=len)]

    def loglikelihood(self, requests: list[Instance], **_: Any) -> list[tuple[float, bool]]:
        self.asked += len(requests)
        return [self._likelihood("".join(request.args)) for request in requests]

    def loglikelihood_rolling(self, requests: list[Instance], **_: Any) -> list[float]:
        self.asked += len(requests)
        return [self._likelihood(str(request.args[0]))[0] for request in requests]

    def _likelihood(self, text: str) -> tuple[float, bool]:
        return (0.0, True) if self.likely[text] else (UNLIKELY, False)

    def apply_chat_template(self, chat_history: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> str:
        """What was said last: an oracle needs no more."""
        return chat_history[-1]["content"]

    @property
    def tokenizer_name(self) -> str:
        """What the requests are cached by."""
        return type(self).__name__

    def chat_template(self, chat_template: bool | str = False) -> str:
        """A name for the form of `apply_chat_template`."""
        return "last message"


class PerfectModel(OracleModel):
    """Answers everything rightly, in the form asked for, and finds the right text certain and all others all but impossible."""

    def __init__(self, suite: Suite) -> None:
        super().__init__(suite, perfect_answer, is_right=True)


class WrongModel(OracleModel):
    """Answers everything wrongly, in the form asked for, and finds the right text all but impossible."""

    def __init__(self, suite: Suite) -> None:
        super().__init__(suite, wrong_answer, is_right=False)
