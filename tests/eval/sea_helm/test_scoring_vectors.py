"""SEA-HELM's own scoring code, run on made-up answers, said what each function must return: 1e-9, group by group.

Vectors of data that are not here are skipped with the reason; `pytest -rs -s` prints the tally.
"""

from __future__ import annotations

import importlib.util
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sea_lion.eval.sea_helm import averages, criteria, extraction, replicates, summaries, translation
from sea_lion.eval.sea_helm.classification import measured
from sea_lion.eval.sea_helm.diagnostics import Count, counts, diagnosed
from sea_lion.eval.sea_helm.labels import PRAGMATICS, gold_2025, null_2025, options_2025
from sea_lion.eval.sea_helm.normalise import normalised
from sea_lion.eval.sea_helm.probabilities import probabilities
from sea_lion.eval.sea_helm.question_answering import answered, f1, is_exact_match, segmented

SHARED = Path(__file__).parents[4] / "shared"
VECTORS = SHARED / "oracles" / "sea_helm_vectors.json"
DATA = SHARED / "data" / "sea-helm-v1.0.0"
PROFILE = {"v1.0.0": "sea_helm_2025", "v1.2.1": "sea_helm_2026"}

Vector = Mapping[str, Any]
pytestmark = pytest.mark.skipif(not VECTORS.exists(), reason=f"the reference vectors are not here: {VECTORS}")


class Absent(Exception):
    """A vector whose inputs are not here."""


@lru_cache(maxsize=1)
def vectors() -> dict[str, list[Vector]]:
    """Vectors by group."""
    found: dict[str, list[Vector]] = {}
    for vector in json.loads(VECTORS.read_text("utf-8"))["vectors"]:
        found.setdefault(vector["group"], []).append(vector)
    return found


def agree(got: Any, wanted: Any, where: str) -> None:
    """Assert equality, of numbers within 1e-9, and that nothing wanted is missing."""
    if isinstance(wanted, (bool, str)) or wanted is None:
        assert got == wanted, f"{where}: {got!r} is not {wanted!r}"
    elif isinstance(wanted, (int, float)):
        assert math.isclose(got, wanted, rel_tol=0, abs_tol=1e-9), f"{where}: {got!r} is not {wanted!r}"
    elif isinstance(wanted, Mapping):
        for key, value in wanted.items():
            assert key in got, f"{where}: no {key}"
            agree(got[key], value, f"{where}.{key}")
    else:
        assert len(got) == len(wanted), f"{where}: {len(got)} values for {len(wanted)}"
        for i, (one, other) in enumerate(zip(got, wanted, strict=True)):
            agree(one, other, f"{where}[{i}]")


def items(values: Sequence[float], metric: str) -> list[dict[str, float]]:
    """Per-item scores as the benchmark states them."""
    return [{metric: value} for value in values]


def read_texts(vector: Vector, kind: Any) -> list[str]:
    """Extracted answers."""
    read = extraction.text_2025 if vector["version"] == "v1.0.0" else extraction.text_2026
    return [read(response, kind, vector["lang"]) for response in vector["input"]["responses"]]


def normalise(vector: Vector) -> Any:
    """Scores on the scale."""
    return normalised(vector["input"]["score"], vector["input"]["min"], vector["input"]["max"])


def extract(vector: Vector) -> Any:
    """One answer read."""
    task, language, response = vector["task"], vector["lang"], vector["input"]["response"]
    kinds = {"qa": "answer", "abssum": "summary", "translation": "translation"}
    if kind := kinds.get(task.partition("-")[0] if task.startswith("translation") else task):
        return read_texts({**vector, "input": {"responses": [response]}}, kind)[0]
    if vector["version"] == "v1.0.0":
        return extraction.label_2025(response, task, language, vector["input"].get("choices", ""))
    return extraction.label_2026(response, language, vector["input"]["labels"])


def classification(vector: Vector) -> Any:
    """Balanced accuracy and what stands beside it."""
    task, language, golds = vector["task"], vector["lang"], vector["input"]["labels"]
    responses = vector["input"]["responses"]
    if vector["version"] == "v1.0.0":
        given: list[Any] = [extraction.label_2025(response, task, language) for response in responses]
        null, classes = null_2025(task), len(options_2025(task, language))
    else:
        given = [extraction.label_2026(response, language, golds) for response in responses]
        null, classes = "null", len(set(golds))
    result = measured(given, golds, null, classes)
    metrics = {
        "accuracy": result.accuracy, "macro_f1": result.macro_f1, "null_weighted_f1": result.null_weighted_f1,
        "normalized_accuracy": result.normalised_accuracy, "null_count": result.nulls,
    }  # fmt: skip
    rights = [int(answer == gold) for answer, gold in zip(given, golds, strict=True)]
    return {"metrics": metrics, "cleaned": given, "individual_scores": items(rights, "normalized_accuracy")}


def lindsea(vector: Vector) -> Any:
    """Minimal pairs and pragmatics."""
    task, language = vector["task"], vector["lang"]
    rows = [dict(zip(vector["input"]["row_fields"], row, strict=True)) for row in vector["input"]["rows"]]
    choices = [str(row.get("choices_translated") or row.get("choices") or "") for row in rows]
    given = [extraction.label_2025(row["response"], task, language, c) for row, c in zip(rows, choices, strict=True)]
    rights = [answer == gold_2025(task, row["label"], "row") for answer, row in zip(given, rows, strict=True)]
    found = counts(rights, [row["linguistic_phenomenon"] for row in rows])
    if task in PRAGMATICS:
        return {"metrics": {"subcategories": {k: [c.right, c.total] for k, c in found.items()}}, "cleaned": given}
    result = diagnosed(found)
    metrics = {
        "accuracy": result.accuracy, "normalized_accuracy": result.normalised_accuracy,
        "subcategories": {name: 100 * count.share for name, count in found.items()},
    }  # fmt: skip
    return {"metrics": metrics, "cleaned": given}


def qa(vector: Vector) -> Any:
    """Short answers."""
    profile, language, given = PROFILE[vector["version"]], vector["lang"], vector["input"]
    if "prediction" in given:
        measure: Callable[[str, str], Any] = f1 if "f1" in vector["function"] else is_exact_match
        return measure(given["prediction"], given["ground_truth"])
    if language == "zh" and importlib.util.find_spec("jieba") is None:
        raise Absent("jieba is not installed")
    texts = read_texts(vector, "answer")
    wanted = [[r] if isinstance(r, str) and profile == "sea_helm_2025" else r for r in given["labels"]]
    results = [answered(text, references, language, profile) for text, references in zip(texts, wanted, strict=True)]
    metrics = {
        "exact_match": 100 * np.mean([r.exact_match for r in results]), "f1": 100 * np.mean([r.f1 for r in results]),
        "normalized_f1": 100 * np.mean([r.f1 for r in results]), "null_count": texts.count(""),
        "found_in_prediction": 100 * np.mean([r.found for r in results]),
    }  # fmt: skip
    return {
        "metrics": metrics, "cleaned": texts, "individual_scores": items([r.f1 for r in results], "normalized_f1"),
        "tokens_pred": [segmented(text, language, profile) for text in texts],
        "tokens_ref": [segmented(references[0], language, profile) for references in wanted],
    }  # fmt: skip


def rouge(vector: Vector) -> Any:
    """Tokens, items, and the corpus' bootstrap median."""
    profile, given = PROFILE[vector["version"]], vector["input"]
    if "text" in given:
        named = vector["function"] + str(given.get("lang"))
        language = next((code for name, code in (("thai", "th"), ("burmese", "my")) if name in named), "id")
        return summaries.tokens(given["text"], language, profile)
    texts = read_texts(vector, "summary")
    overlaps = [
        summaries.rouge_l(text, label, vector["lang"], profile) for text, label in zip(texts, given["labels"], strict=True)
    ]
    whole, chrf = summaries.corpus(overlaps), translation.chrf(texts, given["labels"])
    metrics = {
        "null_count": texts.count(""), "chrf_score": chrf, "normalized_chrf_score": chrf,
        "rougel_precision": 100 * whole.precision, "rougel_recall": 100 * whole.recall, "rougel_f1": 100 * whole.f1,
        "normalized_rougel_f1": 100 * whole.f1,
    }  # fmt: skip
    return {
        "metrics": metrics, "cleaned": texts,
        "individual_scores": items([100 * overlap.f1 for overlap in overlaps], "normalized_rougel_f1"),
        "per_sample_rougeL_0_1": [{"precision": o.precision, "recall": o.recall, "fmeasure": o.f1} for o in overlaps],
    }  # fmt: skip


def translated(vector: Vector) -> Any:
    """MetricX from raw scores, chrF++ beside it."""
    given, texts = vector["input"], read_texts(vector, "translation")
    result, chrf = translation.metricx(given["raw_metricx"]), translation.chrf(texts, given["labels"])
    metrics = {
        "metricx_wmt24_scores": result.raw, "normalized_metricx_wmt24_scores": result.normalised,
        "metricx_wmt24_wo_ref_scores": result.raw, "normalized_metricx_wmt24_wo_ref_scores": result.normalised,
        "chrf_score": chrf, "normalized_chrf_score": chrf, "null_count": texts.count(""),
    }  # fmt: skip
    return {
        "metrics": metrics, "cleaned": texts,
        "individual_scores": items(result.items, "normalized_metricx_wmt24_scores"),
    }  # fmt: skip


def aggregated(vector: Vector) -> Any:
    """Totals of competencies, languages and all."""
    profile = PROFILE[vector["version"]]
    members: dict[str, dict[str, averages.Member]] = {}
    tree: dict[str, Any] = {}
    for language, competencies in vector["input"]["metrics"].items():
        tree[language] = {name: dict(tasks) for name, tasks in competencies.items()}
        members[language] = {}
        for task, metrics in (pair for tasks in competencies.values() for pair in tasks.items()):
            phenomena = metrics.get("subcategories", {}) if task in PRAGMATICS else {}
            members[language][task] = averages.Member(
                value=metrics.get(averages.place_of(profile, task).metric, 0.0),
                phenomena={name: Count(right=right, total=total) for name, (right, total) in phenomena.items()},
            )
    nodes = averages.nodes(members, profile)
    try:
        for language, competencies in tree.items():
            for name, tasks in competencies.items():
                tasks["total"] = averages.total(nodes, "competency", name, language)
            competencies["total"] = averages.total(nodes, "language", language, language)
        for node in nodes:
            if node.level == "group" and node.name == "pragmatics":
                pooled = {"normalized_accuracy": node.value}
                tree[node.language][averages.LINDSEA] |= {"pragmatics": pooled, "lindsea": tree[node.language]}
            elif node.level == "group":
                competency = averages.place_of(profile, node.members[0]).competency
                tree[node.language][competency][node.name] = node.value
        return {**tree, "total": averages.total(nodes, "suite", "overall", "")}
    except ValueError:
        return {"exception": True}


def expected_totals(output: Any) -> Any:
    """The benchmark's totals without what it repeats of its input; an exception only has to be one."""
    if "exception" in output:
        return {"exception": True}
    kept = json.loads(json.dumps(output))
    for language in kept.values():
        if isinstance(language, dict) and averages.LINDSEA in language:
            part = language[averages.LINDSEA]
            part.pop("lindsea", None)
            part["pragmatics"] = {"normalized_accuracy": part["pragmatics"]["normalized_accuracy"]}
    return kept


def bootstrap(vector: Vector) -> Any:
    """The notebook's table, laid out as the notebook does."""
    given = vector["input"]
    if "values" in given:
        return replicates.published_stderr(given["values"])
    tasks: dict[str, dict[str, replicates.Runs]] = {}
    for language, competencies in given["data"].items():
        for task, data in (pair for parts in competencies.values() for pair in parts.items()):
            labels = data["labels"][0] if data["labels"] else []
            tasks.setdefault(language, {})[task] = replicates.Runs(
                scores=tuple(tuple(row) for row in data["scores"]),
                labels=tuple(label if isinstance(label, (str, int)) else tuple(label) for label in labels),
                is_logprob=bool(given["configs"][0]["tasks"][task].get("use_logprobs")),
            )
    board = replicates.leaderboard(tasks, given["n_bootstraps"])

    def stated(language: str, name: str) -> dict[str, Any]:
        score = board.levels[language, name]
        return {"mean": score.mean, "stderr": score.stderr, "mean_list": score.draws}

    tree: dict[str, Any] = stated("", "")
    tree |= {f"sea_{key}": value for key, value in tree.items()}
    for language, runs in tasks.items():
        tree[language] = stated(language, "")
        for task in runs:
            place = averages.place_of("sea_helm_2026", task)
            part = tree[language].setdefault(
                place.competency, {"tasks": {}, "aggregation_groups": {}} | stated(language, place.competency)
            )
            part["tasks"][task] = stated(language, task)
            if place.group:
                part["aggregation_groups"][place.group] = stated(language, place.group)
    lost = [[lang, averages.place_of("sea_helm_2026", task).competency, task] for lang, task in board.incomplete]
    return {"scores": tree, "incomplete": lost}


def without_flags(output: Any) -> Any:
    """The notebook's numbers without its remarks, which are not scores (what is incomplete is listed beside them)."""
    flags = ("is_incomplete", "remarks", "ignore", "aggregation_group")
    if isinstance(output, dict):
        return {key: without_flags(value) for key, value in output.items() if key not in flags}
    return output


def logprob(vector: Vector) -> Any:
    """Probabilities of the right answers."""
    result = probabilities(vector["input"]["cumulative_logprobs"])
    metrics = {
        "null_count": result.nulls, "average_cumulative_logprobs": result.mean_logprob,
        "clt_se_cumulative_logprobs": result.stderr_logprob, "average_cumulative_probabilities": result.mean,
        "clt_se_cumulative_probabilities": result.stderr,
    }  # fmt: skip
    return {"metrics": metrics, "individual_scores": items(result.items, "probabilities_accuracy")}


def judge(vector: Vector) -> Any:
    """Judgements of criteria."""
    given = vector["input"]
    if "judge_response" in given:
        result = criteria.judged(given["judge_response"], "last" if vector["task"].startswith("mt-bench") else "first")
        return {"classification": result.classification, "score": result.value}
    if vector["task"] != "syntax-criteria":
        raise Absent(f"criteria totals of {vector['task']} are scored with their task")
    replies = {reply["custom_ids"]: reply["responses"] for reply in given["judgements"]}
    found = []
    for row in given["rows"]:
        values = [
            criteria.judged(replies.get(f"{row['id']}_c{i}"), "first", criteria.SYNTAX_CLASSES).value
            for i in range(len(row["criteria"]))
        ]
        found.append(criteria.syntax_item(values, [criterion["severity"] for criterion in row["criteria"]]))
    categories: dict[str, list[float]] = {}
    for row, item in zip(given["rows"], found, strict=True):
        categories.setdefault(row["metadata"]["category"], []).append(100 * item.value)
    metrics = {
        "average_criteria_score": 100 * np.mean([item.value for item in found]),
        "categories": {name: np.mean(values) for name, values in categories.items()},
    }
    return {
        "metrics": metrics, "generic_score": [item.generic for item in found],
        "criteria_score": [item.specific for item in found],
    }  # fmt: skip


GROUPS: dict[str, tuple[Callable[[Vector], Any], Callable[[Any], Any]]] = {
    "normalise": (normalise, lambda output: output),
    "extract": (extract, lambda output: output),
    "classification": (classification, lambda output: output),
    "lindsea": (lindsea, lambda output: output),
    "qa": (qa, lambda output: output),
    "rouge": (rouge, lambda output: output),
    "translation": (translated, lambda output: output),
    "aggregate": (aggregated, expected_totals),
    "bootstrap": (bootstrap, without_flags),
    "logprob": (logprob, lambda output: output),
    "criteria_judge": (judge, lambda output: output),
}


@pytest.mark.parametrize("group", GROUPS)
def test_every_vector_of_a_group_agrees(group: str, record_property: Callable[[str, object], None]) -> None:
    """All vectors of a group whose inputs are here; the tally is printed and stands in the JUnit report."""
    run, shape = GROUPS[group]
    passed, skipped, failed = 0, Counter[str](), []
    for vector in vectors()[group]:
        try:
            agree(run(vector), shape(vector["output"]), vector["id"])
            passed += 1
        except Absent as reason:
            skipped[str(reason)] += 1
        except AssertionError as error:
            failed.append(str(error))
    reasons = "".join(f", {count} skipped: {reason}" for reason, count in skipped.items())
    tally = f"{group}: {passed} passed{reasons}, {len(failed)} failed"
    record_property("vectors", tally)
    print(tally)
    assert not failed, "\n".join(failed[:10])
    assert passed, tally
