"""A model that is always right scores 100 and one that is always wrong 0, on every task of every suite where that can be.

Where it cannot, the reason is printed (`pytest -s`) and what is scored beside it stands in. The answers have the form that the
benchmark asks for, so a zero is a wrong answer and not an unreadable one.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.instance import Instance

from sea_lion.catalog.records import Score
from sea_lion.eval import smoke
from sea_lion.eval.family import (
    Family,
    Generation,
    GenerationFamily,
    GenerationTask,
    LikelihoodFamily,
    Message,
    Question,
    Scorer,
    Suite,
    TaskScores,
)
from sea_lion.eval.metrics import choice_values
from sea_lion.eval.points import POINTS
from sea_lion.eval.recipe import SUITES
from sea_lion.eval.sea_helm.averages import EXPECTED, aggregate
from sea_lion.eval.sea_helm.instruction_scores import instruction_scorer
from sea_lion.eval.sea_helm.instructions import INSTRUCTIONS, is_checkable, rules_of
from sea_lion.eval.sea_helm.labels import PRAGMATICS, options_2025
from sea_lion.eval.sea_helm.metricx import translation_scorer
from sea_lion.eval.sea_helm.mirror import source_files, write_mirror
from sea_lion.eval.sea_helm.profile import SHORT
from sea_lion.eval.sea_helm.prompts import base_text
from sea_lion.eval.sea_helm.scorers import SCORERS, scorer
from sea_lion.eval.sea_helm.suite import open_suite
from sea_lion.eval.suite import Item, LanguageTask, TaskDefinition, choice_task, read_suite, word_order_task

from .instruction_answers import SENTENCES
from .oracle_models import (
    ExactTranslations,
    OracleModel,
    PerfectModel,
    WrongModel,
    has_options,
    impossible,
    perfect_answer,
    sampled,
    wrong_answer,
)

SHARED = Path(__file__).parents[3] / "shared"
DATA = SHARED / "data" / "sea-helm-v1.0.0"
LANGUAGES = ("ind", "vie", "tha", "tam", "fil", "jav", "sun")
needs_data = pytest.mark.skipif(not DATA.exists(), reason="the benchmark's data are not here: they lie in ../shared")

SMOKE_FILES = [SUITES / "smoke.toml", *sorted((SUITES / "smoke").glob("*/*.jsonl"))]
TEXT = "The small library near the harbour keeps many books."


def smoke_family(task: TaskDefinition, languages: Sequence[str]) -> Family:
    if task.form == "instructions":
        asked = tuple(smoke.instruction_task(task, language, SMOKE_FILES) for language in languages)
        return GenerationFamily(name=task.name, tasks=asked)
    if task.form == "documents":
        item = Item(id="d", cluster="d", texts=(TEXT,))
        documents = tuple(
            LanguageTask(name=task.name, language=language, form="documents", items=(item,)) for language in languages
        )
        return LikelihoodFamily(name=task.name, tasks=documents)
    read = word_order_task if task.form == "word-order" else choice_task
    return LikelihoodFamily(name=task.name, tasks=tuple(read(task, language, SMOKE_FILES) for language in languages))


@pytest.fixture(scope="module")
def smoke_suite() -> Suite:
    definition = read_suite("smoke", SMOKE_FILES)
    families = tuple(smoke_family(task, definition.languages) for task in definition.task)
    return Suite(name="smoke", profile="smoke", families=families)


@pytest.fixture(scope="module")
def sea_helm(tmp_path_factory: pytest.TempPathFactory) -> Suite:
    """The paper's profile on the data that are here, some 30 questions a task, every class among them."""
    folder = tmp_path_factory.mktemp("mirror")
    write_mirror([DATA / path for path in source_files(DATA, "sea_helm_2025")], folder, "sea_helm_2025")
    suite = open_suite("sea_helm_2025", folder, languages=LANGUAGES, translation=ExactTranslations())
    families = tuple(
        replace(family, tasks=tuple(map(sampled, family.tasks)))
        for family in suite.families
        if isinstance(family, GenerationFamily)
    )
    for missing in suite.missing:
        print(missing)
    return replace(suite, families=families)


def tasks_of(suite: Suite) -> Iterator[GenerationTask]:
    for family in suite.families:
        assert isinstance(family, GenerationFamily)
        yield from family.tasks


def asked(model: OracleModel, texts: Sequence[str]) -> list[float]:
    """Log-likelihoods of texts, as lm-eval asks for them."""
    requests = [Instance(request_type="loglikelihood", doc={}, arguments=("", text), idx=i) for i, text in enumerate(texts)]
    return [loglikelihood for loglikelihood, _ in model.loglikelihood(requests)]


def answered(model: OracleModel, task: GenerationTask) -> list[list[str]]:
    """Answers to every question and its follow-ups, as lm-eval asks for them."""
    answers: list[list[str]] = []
    for question in task.questions:
        turns = (question.messages[-1].content, *question.follow_ups)
        contexts = [model.apply_chat_template([{"role": "user", "content": turn}]) for turn in turns]
        requests = [Instance(request_type="generate_until", doc={}, arguments=(text, {}), idx=0) for text in contexts]
        answers.append(model.generate_until(requests))
    return answers


@pytest.mark.parametrize(("kind", "best"), [(PerfectModel, True), (WrongModel, False)])
def test_the_built_in_suite_s_scale_is_reached_at_both_ends(
    smoke_suite: Suite, kind: Callable[[Suite], OracleModel], best: bool
) -> None:
    model = kind(smoke_suite)
    assert model.ambiguous == []
    for family in smoke_suite.families:
        for task in family.tasks:  # type: ignore[union-attr]
            if isinstance(task, GenerationTask):
                scores = task.scorer(task, answered(model, task)).scores
                assert scores[0].value == float(best), (task.name, task.language)
            elif task.form == "documents":
                rolling = Instance(request_type="loglikelihood_rolling", doc={}, arguments=(TEXT,), idx=0)
                assert (model.loglikelihood_rolling([rolling])[0] == 0.0) == best
            else:
                values = {choice_values(item, asked(model, item.asked))["acc"] for item in task.items}
                assert values == {float(best)}, (task.name, task.language)


Answer = Callable[[str, GenerationTask, Question], str | None]
ENDS = pytest.mark.parametrize(("answer", "best"), [(perfect_answer, True), (wrong_answer, False)])


def check_end(profile: str, task: GenerationTask, answer: Answer, best: bool) -> TaskScores:
    """Score a task's best or worst answers, and see that they come to that; the reason is printed where they cannot."""
    reason = impossible(task.name)
    found = task.scorer(task, [[answer(profile, task, question) or ""] for question in task.questions])
    if reason:
        print(f"{profile} {task.name}/{task.language}: {reason}")
    if found.incomplete:
        assert reason and not found.items, (task.name, task.language, found.incomplete)
        return found
    counted = [score for score in found.scores if score.role == "score"]
    assert counted, (task.name, task.language)
    for score in counted:
        assert score.value == pytest.approx(100.0 * best, abs=1e-9), (profile, task.name, task.language, score.metric)
    values = {item.value for item in found.items if item.metric != POINTS}  # points of a wrong answer are below 0
    assert values <= ({1.0, 100.0} if best else {0.0}), (task.name, task.language)
    assert {score.nulls for score in found.scores} == {0}, (task.name, task.language)  # wrong answers are read, and found wrong
    return found


@needs_data
@ENDS
def test_sea_helm_s_scale_is_reached_at_both_ends(sea_helm: Suite, answer: Answer, best: bool) -> None:
    scores = [score for task in tasks_of(sea_helm) for score in check_end(sea_helm.profile, task, answer, best).scores]
    averages = sea_helm.aggregate(scores)
    assert {average.level for average in averages} == {"group", "competency", "language", "suite"}
    for average in averages:  # what is not here is named, and does not move the average of what is
        assert average.value == pytest.approx(100.0 * best, abs=1e-9), average
    assert any("toxicity" in name for name in averages[-1].missing)


@needs_data
@pytest.mark.parametrize("kind", [PerfectModel, WrongModel])
def test_the_models_give_these_answers_through_lm_eval(sea_helm: Suite, kind: Callable[[Suite], OracleModel]) -> None:
    model, answer = kind(sea_helm), perfect_answer if kind is PerfectModel else wrong_answer
    for place in model.ambiguous:
        print(f"{place}: the benchmark asks this twice and wants two answers")
    for task in tasks_of(sea_helm):
        for question, turns in zip(task.questions, answered(model, task), strict=True):
            if f"{task.name}/{task.language}/{question.id}" not in model.ambiguous:
                assert turns == [answer(sea_helm.profile, task, question)]
    assert model.asked == sum(len(task.questions) for task in tasks_of(sea_helm))
    assert len(model.ambiguous) < 5
    question = next(tasks_of(sea_helm)).questions[0]
    plain = base_text(sea_helm.profile, question.messages, "<s>")  # a base model's prompt ends with the same words
    request = Instance(request_type="generate_until", doc={}, arguments=(plain, {}), idx=0)
    assert model.generate_until([request]) == [answer(sea_helm.profile, next(tasks_of(sea_helm)), question)]
    with pytest.raises(LookupError, match="not in the suite"):
        model.generate_until([Instance(request_type="generate_until", doc={}, arguments=("?", {}), idx=0)])


def made_up(profile: str, name: str, language: str) -> GenerationTask | None:
    """Questions of our own in the form of a task's rows, for the tasks whose data cannot be here; `None` for judged ones."""
    short, text = SHORT[language], SENTENCES[SHORT[language]]
    targets: list[Any] = [text] * 3
    scorer_of: Callable[[], Scorer]
    details: list[dict[str, Any]] = [{"source": text, "linguistic_phenomenon": "presuppositions"}] * 3
    if name.startswith("translation-"):
        direction = name.removeprefix("translation-")
        scorer_of = partial(translation_scorer, profile, language, direction, ExactTranslations())
    elif name == "if-eval":
        scorer_of = partial(instruction_scorer, profile, language)
        rules = rules_of(profile, language)
        kinds = [kind for kind in INSTRUCTIONS if is_checkable(kind, rules)]
        details = [{"instruction": kind, "kwargs": ARGUMENTS.get(kind, {}), "language": short} for kind in kinds]
        targets = [None] * len(kinds)
    elif name in SCORERS:
        scorer_of = partial(scorer, name, profile, language)
        if has_options(name):
            targets = options_of(profile, name, short) * 2
            details = [details[0]] * len(targets)
        elif name == "qa":
            targets = [[target] for target in targets]
    else:
        return None
    questions = tuple(
        Question(id=str(i), cluster=str(i), messages=(Message(role="user", content=f"{i}?"),), target=target, details=detail)
        for i, (target, detail) in enumerate(zip(targets, details, strict=True))
    )
    generation = Generation(max_tokens=32)
    return GenerationTask(name=name, language=language, questions=questions, generation=generation, scorer=scorer_of())


def options_of(profile: str, name: str, short: str) -> list[Any]:
    """The labels of a task's rows, one of each; those of 2026 are the options' own words, whatever they are."""
    if profile == "sea_helm_2026" or name == "mp-r":
        return ["A", "B"]
    return ["True", "False"] if name in PRAGMATICS else list(options_2025(name, short).values())


ARGUMENTS: dict[str, dict[str, Any]] = {
    "combination:repeat_prompt": {"prompt_to_repeat": "(…)"},
    "detectable_content:number_placeholders": {"num_placeholders": 2},
    "detectable_content:postscript": {"postscript_marker": "P.S."},
    "detectable_format:multiple_sections": {"section_title": "BAGIAN", "num_sections": 2},
    "detectable_format:number_bullet_lists": {"num_bullets": 3},
    "detectable_format:number_highlighted_sections": {"num_highlights": 2},
    "keywords:existence": {"keywords": ["Zelda"]},
    "keywords:forbidden_words": {"forbidden_words": ["Qxzv"]},
    "keywords:frequency": {"keyword": "Qxzv", "relation": "at least", "frequency": 2},
    "keywords:number_frequency": {"number": "7", "relation": "exactly", "frequency": 2},
    "language:response_language": {"response_language": "vi"},
    "length_constraints:number_paragraphs": {"num_paragraphs": 2},
    "length_constraints:number_sentences": {"relation": "less than", "num_sentences": 3},
    "length_constraints:number_words": {"relation": "less than", "num_words": 30},
    "startend:end_checker": {"end_phrase": "7."},
    "startend:first_word": {"first_word": "7"},
}


@ENDS
@pytest.mark.parametrize("profile", ["sea_helm_2025", "sea_helm_2026"])
def test_every_task_of_both_profiles_reaches_both_ends_on_made_up_rows(profile: str, answer: Answer, best: bool) -> None:
    scores: list[Score] = []
    judged = []
    for language, names in EXPECTED[profile].items():
        for name in names:
            task = made_up(profile, name, language)
            if task is None:
                judged.append(name)
                print(f"{profile} {name}/{language}: {impossible(name)}")
                continue
            scores += check_end(profile, task, answer, best).scores
    unexplained = {name for name in judged if not impossible(name)}
    assert not unexplained, unexplained
    for average in aggregate(scores, profile):
        assert average.value == pytest.approx(100.0 * best, abs=1e-9), average
