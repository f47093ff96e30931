"""The leaderboard's formulas, against numbers computed by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from sea_lion.catalog.records import Score
from sea_lion.eval.leaderboard.definition import FamilyDefinition, families
from sea_lion.eval.leaderboard.normalise import aggregates, normalised, task_scores

FAMILIES = {family.name: family for family in families()}


@pytest.mark.parametrize(
    ("value", "choices", "expected"),
    [
        (0.2849, 10, 20.5444),  # a published model card's MMLU-PRO
        (0.7, 2, 40.0),  # the three of the leaderboard's own example for MuSR
        (0.4, 5, 25.0),
        (0.6, 3, 40.0),
        (0.25, 4, 0.0),
        (0.1, 4, 0.0),
        (1.0, 19, 100.0),
        (0.37, 0, 37.0),
    ],
)
def test_normalised(value: float, choices: int, expected: float) -> None:
    assert normalised(value, choices) == pytest.approx(expected, abs=1e-4)


def samples(metrics: dict[str, list[Any]], docs: list[dict[str, Any]] | None = None) -> list[dict[str, Any]]:
    """lm-eval's samples as far as they are read, with answers of the kind that the metric has."""
    count = len(next(iter(metrics.values())))
    return [
        {
            "doc_id": i,
            "filter": "none",
            "doc": docs[i] if docs else {"Question": f"q{i}", "narrative": f"n{i}"},
            "filtered_resps": ["text"],
            "arguments": [("prompt", {})],
        }
        | {metric: values[i] for metric, values in metrics.items()}
        for i in range(count)
    ]


def scored(family: FamilyDefinition, task: str, metrics: dict[str, list[Any]]) -> list[Score]:
    return list(task_scores(family, task, samples(metrics)).scores)


def right(count: int, of: int) -> list[float]:
    return [1.0] * count + [0.0] * (of - count)


def by_name(scores: list[Score]) -> dict[str, float]:
    return {aggregate.name: aggregate.value for aggregate in aggregates(scores)}


def test_the_whole_leaderboard_by_hand() -> None:
    scores: list[Score] = []
    # IFEval: 2 of 4 prompts in full; 5 of 8 instructions -> (50 + 62.5) / 2
    ifeval: dict[str, list[Any]] = {
        "prompt_level_strict_acc": [True, False, True, False],
        "inst_level_strict_acc": [[True], [True, False, False], [True, True], [True, False]],
        "prompt_level_loose_acc": [True, True, True, False],
        "inst_level_loose_acc": [[True], [True, True, True], [True, True], [True, False]],
    }
    scores += scored(FAMILIES["ifeval"], "leaderboard_ifeval", ifeval)
    # BBH: navigate 7 of 10 at 2 choices -> 40; object_counting 1 of 19 is chance -> 0; 22 others perfect
    for task in FAMILIES["bbh"].tasks:
        values = (
            right(7, 10) if task.endswith("navigate") else right(1, 19) if task.endswith("object_counting") else right(3, 3)
        )
        scores += scored(FAMILIES["bbh"], task, {"acc_norm": values})
    # MATH: 3 of 4, then 0 of 6, nothing of the other five with 2 each -> 3 of 20
    for number, task in enumerate(FAMILIES["math_hard"].tasks):
        values = [right(3, 4), right(0, 6)][number] if number < 2 else right(0, 2)
        scores += scored(FAMILIES["math_hard"], task, {"exact_match": values, "exact_match_original": values})
    # GPQA: 2 of 2, 3 of 6, 1 of 4 -> 6 of 12, normalised (0.5 - 0.25) / 0.75
    for task, values in zip(FAMILIES["gpqa"].tasks, (right(2, 2), right(3, 6), right(1, 4)), strict=True):
        scores += scored(FAMILIES["gpqa"], task, {"acc_norm": values})
    # MuSR: 7 of 10, 2 of 5, 3 of 5 -> 40, 25, 40
    for task, values in zip(FAMILIES["musr"].tasks, (right(7, 10), right(2, 5), right(3, 5)), strict=True):
        scores += scored(FAMILIES["musr"], task, {"acc_norm": values})
    scores += scored(FAMILIES["mmlu_pro"], "leaderboard_mmlu_pro", {"acc": right(19, 100)})

    expected = {"IFEval": 56.25, "BBH": 2240 / 24, "MATH": 15.0, "GPQA": 100 / 3, "MuSR": 35.0, "MMLU-PRO": 10.0}
    expected["overall"] = sum(expected.values()) / 6
    assert by_name(scores) == pytest.approx(expected, abs=1e-9)
    assert all(aggregate.missing == () for aggregate in aggregates(scores))
    found = {(score.task, score.metric): score for score in scores}
    assert found["leaderboard_ifeval", "inst_level_strict_acc"].value == pytest.approx(5 / 8)
    assert found["leaderboard_ifeval", "inst_level_loose_acc"].role == "diagnostic"


def test_instruction_level_values_of_items_average_to_the_share_of_instructions() -> None:
    lists = [[True], [True, False, False], [True, True], [True, False]]
    metrics: dict[str, list[Any]] = {"prompt_level_strict_acc": [1, 0, 1, 0], "inst_level_strict_acc": lists}
    metrics |= {"prompt_level_loose_acc": [1, 0, 1, 0], "inst_level_loose_acc": lists}
    items = task_scores(FAMILIES["ifeval"], "leaderboard_ifeval", samples(metrics)).items
    values = [item.value for item in items if item.metric == "inst_level_strict_acc"]
    assert values == pytest.approx([1 / 2, 1 / 2, 2 / 2, 1 / 2])  # two instructions an item on average
    assert {item.metric for item in items} == {"prompt_level_strict_acc", "inst_level_strict_acc"}


def test_errors_of_pooled_families_know_what_is_shared() -> None:
    gpqa = [score for task in FAMILIES["gpqa"].tasks for score in scored(FAMILIES["gpqa"], task, {"acc_norm": right(5, 10)})]
    each = next(score.stderr for score in gpqa if score.role == "raw")
    assert each == pytest.approx(math.sqrt(10 / 9 * 0.25 / 10))
    shared = next(group for group in aggregates(gpqa) if group.name == "GPQA")
    assert shared.stderr == pytest.approx(each * 100 / 0.75)
    hard = [
        score
        for task in FAMILIES["math_hard"].tasks
        for score in scored(FAMILIES["math_hard"], task, {"exact_match": right(5, 10), "exact_match_original": right(5, 10)})
    ]
    apart = next(group for group in aggregates(hard) if group.name == "MATH")
    assert apart.stderr == pytest.approx(each * 100 / math.sqrt(7))


def test_two_questions_about_one_story_count_as_one_for_the_error() -> None:
    family = FAMILIES["musr"]
    stories = [{"narrative": f"story {i // 2}"} for i in range(8)]
    values = [1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0]
    together = task_scores(family, family.tasks[0], samples({"acc_norm": values}, stories)).scores[1]
    alone = task_scores(family, family.tasks[0], samples({"acc_norm": values})).scores[1]
    assert together.value == alone.value == 0.5
    assert together.stderr == pytest.approx(math.sqrt(4 / 3 * 4 * (2 * 0.5) ** 2) / 8)
    assert together.stderr > 1.4 * alone.stderr


def test_the_choice_that_counts_is_the_one_by_length_where_the_metric_says_so() -> None:
    sample = {
        "doc_id": 0,
        "filter": "none",
        "doc": {},
        "filtered_resps": [(-4.0, False), (-6.0, False)],
        "arguments": [("q", " ab"), ("q", " abcd")],
        "acc_norm": 1.0,
        "acc": 0.0,
    }
    by_length = task_scores(FAMILIES["bbh"], "leaderboard_bbh_snarks", [sample]).items[0]
    plain = task_scores(FAMILIES["mmlu_pro"], "leaderboard_mmlu_pro", [sample]).items[0]
    assert (by_length.extracted, plain.extracted) == ("abcd", "ab")
    with pytest.raises(ValueError, match="no samples"):
        task_scores(FAMILIES["bbh"], "leaderboard_bbh_snarks", [])
