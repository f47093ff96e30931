"""SEA-HELM's own scores of answers made by rule to its own rows, end to end: mirror, prompts, questions, scorers.

Of the translations one vector a language is scored, most of a second of a core each; `SEA_LION_ALL=1` scores every one.
"""

import json
import os
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from sea_lion.eval.family import GenerationFamily, GenerationTask, TaskScores
from sea_lion.eval.points import POINTS
from sea_lion.eval.sea_helm import extraction
from sea_lion.eval.sea_helm.averages import ANSWERED
from sea_lion.eval.sea_helm.labels import gold_2025, options_2025, tag_of
from sea_lion.eval.sea_helm.metricx import CHRF
from sea_lion.eval.sea_helm.mirror import source_files, write_mirror
from sea_lion.eval.sea_helm.mt_bench import Verdict, final_verdict, verdict, win_rates
from sea_lion.eval.sea_helm.profile import LONG
from sea_lion.eval.sea_helm.suite import open_suite
from sea_lion.eval.sea_helm.translation import chrf

SHARED = Path(__file__).parents[4] / "shared"
ORACLE = SHARED / "oracles" / "sea_helm_vectors.json"
DATA = SHARED / "data" / "sea-helm-v1.0.0"
PROFILE = "sea_helm_2025"
KINDS = {"abssum": "summary", "translation-en-xx": "translation", "translation-xx-en": "translation"}
OPTIONS = re.compile(r"(?:options=)?\[('[^\]]*')\]")


def vectors() -> list[Any]:
    if not ORACLE.exists():
        return [pytest.param({}, marks=pytest.mark.skip(reason=f"{ORACLE.name} is not here: it lies in ../shared"))]
    found = [vector for vector in json.loads(ORACLE.read_text("utf-8"))["vectors"] if vector["group"] == "realdata"]
    assert found
    firsts = {vector["lang"]: vector["id"] for vector in reversed(found) if KINDS.get(vector["task"]) == "translation"}
    rest = pytest.mark.skipif(os.environ.get("SEA_LION_ALL") != "1", reason="another translation; SEA_LION_ALL=1 scores it")
    is_more = [KINDS.get(vector["task"]) == "translation" and firsts[vector["lang"]] != vector["id"] for vector in found]
    return [pytest.param(one, id=one["id"], marks=[rest] * more) for one, more in zip(found, is_more, strict=True)]


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], GenerationTask]:
    """Task and language, as the benchmark names them, to the task as it is asked."""
    target = tmp_path_factory.mktemp("mirror")
    write_mirror([DATA / name for name in source_files(DATA, PROFILE)], target, PROFILE)
    opened: dict[tuple[str, str], GenerationTask] = {}

    def task(name: str, code: str) -> GenerationTask:
        if (name, code) not in opened:
            suite = open_suite(PROFILE, target, languages=(LONG[code],), selection="all_tasks", tasks=(name,))
            (family,) = suite.families
            assert isinstance(family, GenerationFamily)
            (opened[name, code],) = family.tasks
        return opened[name, code]

    return task


@pytest.mark.parametrize("vector", vectors())
def test_scores_of_answers_by_rule(vector: Any, asked: Callable[[str, str], GenerationTask]) -> None:
    given, wanted = vector["input"], vector["output"]
    settings = DATA / Path(given["filepath"]).parent.parent / "config.yaml"
    if not (DATA / given["filepath"]).is_file():
        pytest.skip(f"{given['filepath']} is not among the files in ../shared")
    if "flores200_dataset" not in given["filepath"] and not settings.is_file():
        pytest.skip(f"{settings.name} of {vector['task']} is not among the files in ../shared")
    task = asked(vector["task"], vector["lang"])
    assert len(task.questions) == given["rows"]
    if vector["task"] == "mt-bench":
        found = _win_rates(task, given["rule"])
    else:
        answers = [said(i, task, vector["lang"], given["rule"]) for i in range(len(task.questions))]
        result = task.scorer(task, [[answer] for answer in answers])
        found = _figures(task, result, answers, vector["lang"])
    compared = {key: found[key] for key in wanted}
    assert compared == {key: _close(value) for key, value in wanted.items()}


def said(i: int, task: GenerationTask, code: str, rule: str) -> str:
    """The answer that a vector's rule makes for row `i`."""
    question = task.questions[i]
    tag = tag_of(PROFILE, KINDS.get(task.name, "answer"), code)  # type: ignore[arg-type]
    if options := OPTIONS.search(rule):
        names = [name.strip().strip("'") for name in options[1].split(",")]
        start = re.search(r"'([^']+: )' \+", rule)
        assert start
        is_sparse = "when i % 5 == 0" in rule
        return "" if is_sparse and i % 5 == 0 else start[1] + names[(i // 5 if is_sparse else i) % len(names)]
    if rule == "response = the prompt text itself":
        return question.messages[0].content
    if suffix := re.fullmatch(r"response = prompt text \+ this suffix \(\\n = newline\): (.*)", rule):
        return question.messages[0].content + suffix[1].replace("\\n", "\n")
    return f"{tag} {_text(i, task, code, rule)}"


def _text(i: int, task: GenerationTask, code: str, rule: str) -> str:
    question = task.questions[i]
    if "surface option" in rule:
        options = options_2025(task.name, code, str(question.details.get("choices_translated", "")))
        gold = gold_2025(task.name, question.target, question.id)
        return next(word for word, label in options.items() if label == gold)
    if rule.startswith(("gold: tag + ' ' + first reference", "gold: tag + ' ' + label")):
        return str(question.target[0] if isinstance(question.target, list) else question.target)
    if rule.startswith("tag + ' ' + source text"):
        return str(question.details["source"])
    if "first half" in rule:
        return str(question.target)[: len(str(question.target)) // 2]
    cut = re.search(r"first (\d+) characters of prompts\[0\]\.text", rule)
    assert cut, rule
    return _rows(task, code)[i]["prompts"][0]["text"].replace("\n", " ").strip()[: int(cut[1])]  # type: ignore[no-any-return]


def _rows(task: GenerationTask, code: str) -> list[dict[str, Any]]:
    place = {"qa": "nlu/question_answering", "abssum": "nlg/abstractive_summarization"}[task.name]
    (path,) = (
        path for path in (DATA / "seahelm_tasks" / place / "data").glob(f"{code}_*.jsonl") if "examples" not in path.name
    )
    return [json.loads(line) for line in path.read_text("utf-8").split("\n") if line.strip()]


def _figures(task: GenerationTask, result: TaskScores, answers: Sequence[str], code: str) -> dict[str, Any]:
    """The scorer's figures under the benchmark's names."""
    found: dict[str, Any] = {score.metric: score.value for score in result.scores}
    found["null_count"] = result.scores[0].nulls
    if CHRF in found:
        found["chrf_score"] = found["normalized_chrf_score"] = found[CHRF]
    if task.name == "abssum":  # of summaries the benchmark can report it, and the platform does not
        texts = [extraction.text_2025(answer, KINDS[task.name], code) for answer in answers]  # type: ignore[arg-type]
        found["chrf_score"] = found["normalized_chrf_score"] = chrf(texts, [str(asked.target) for asked in task.questions])
    diagnosed = {score.metric.removeprefix(ANSWERED): score for score in result.scores if score.metric.startswith(ANSWERED)}
    if task.name == "mp-r":
        found["subcategories"] = {name: score.value for name, score in diagnosed.items()}
    elif diagnosed:
        found["subcategories"] = {name: [score.value * score.items / 100, score.items] for name, score in diagnosed.items()}
    if task.name == "if-eval":
        of = {question.id: question.details["instruction"] for question in task.questions}
        passed: dict[str, list[float]] = defaultdict(list)
        items = [item for item in result.items if item.metric != POINTS]
        for item in items:
            passed[of[item.item]].append(item.value)
        found["subcategories"] = {name: sum(values) / len(values) for name, values in passed.items()}
        found |= {"overall_count": len(items), "overall_pass": sum(item.value for item in items)}
    return found


def _win_rates(task: GenerationTask, rule: str) -> dict[str, Any]:
    texts = [name.strip().strip("'") for name in rule.rpartition(" = [")[2].partition("][")[0].split(",")]
    assert len(texts) == 4

    def final(place: int) -> Verdict:
        first, second = texts[place % 4], texts[(place + 1) % 4]
        return final_verdict(verdict(first, is_reversed=True), verdict(second, is_reversed=False))

    finals: list[list[Verdict]] = [[final(i + 2 * turn) for turn in (1, 2)] for i in range(len(task.questions))]
    rates = win_rates(finals, [str(question.details["category"]) for question in task.questions])
    return {"categories": rates.categories, "win_rate": rates.win_rate, "weighted_win_rate": rates.weighted_win_rate}


def _close(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _close(each) for key, each in value.items()}
    return pytest.approx(value, rel=1e-9, abs=1e-9)
