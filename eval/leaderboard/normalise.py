"""From lm-eval's samples to the leaderboard's numbers: raw scores, the same after normalisation, and the averages.

The formulas are those of https://huggingface.co/docs/leaderboards/open_llm_leaderboard/normalization: a score below chance is
0, a perfect one 100, and the line between them straight. lm-eval has none of this; the averages that it prints for the group
`leaderboard` mix families and are refused here. Where ports of the formulas disagree, the leaderboard's own notebook is
followed: GPQA and MATH are the mean over all items of their tasks, BBH and MuSR the mean of their normalised tasks.

Both scales stand side by side: `raw` is lm-eval's metric, 0 to 1, and is what the items hold, so that a gate sees a model that
falls from 20% to 10% where chance is 25%; `score` is the leaderboard's, 0 to 100, which is 0 for both.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...catalog.records import Aggregate, Score
from ..family import ItemScore, TaskScores
from ..metrics import ItemValue, weighted_score
from .definition import LANGUAGE, FamilyDefinition, Rule, families

NORMALISED = "normalised"
"""Metric of a task's score on the leaderboard's scale, in every family."""
OVERALL = "overall"
LEADERBOARD, HARNESS = "leaderboard", "lm-eval"
INSTRUCTION_LISTS = ("inst_level_strict_acc", "inst_level_loose_acc")
"""lm-eval gives these as a list an item, one truth value an instruction."""

Sample = Mapping[str, Any]


def normalised(value: float, choices: int) -> float:
    """A raw score (0 to 1) on the leaderboard's scale (0 to 100), where one in `choices` is had by chance; 0: nothing is."""
    chance = 1 / choices if choices else 0.0
    return 0.0 if value < chance else 100 * (value - chance) / (1 - chance)


def task_scores(family: FamilyDefinition, task: str, samples: Sequence[Sample]) -> TaskScores:
    """What lm-eval's samples of one task come to; raises ValueError without samples."""
    if not samples:
        raise ValueError(f"no samples of {task}")
    samples = [sample for sample in samples if sample["filter"] == samples[0]["filter"]]
    clusters = [_cluster(family, task, sample) for sample in samples]
    items: list[ItemScore] = []
    raw: list[Score] = []
    for metric in (*family.metrics, *family.diagnostics):
        values = _values(samples, metric)
        value, stderr = weighted_score(
            ItemValue(value=value, weight=1, cluster=cluster) for value, cluster in zip(values, clusters, strict=True)
        )
        raw.append(_score(family, task, metric, value, stderr, samples))
        if metric in family.metrics:
            items += [
                ItemScore(
                    item=str(sample["doc_id"]),
                    metric=metric,
                    value=value,
                    cluster=cluster,
                    is_null=_is_null(sample),
                    extracted=_answer(sample, metric),
                )
                for sample, value, cluster in zip(samples, values, clusters, strict=True)
            ]
    return TaskScores(items=tuple(items), scores=(_normalised_score(family, task, raw, samples, clusters), *raw))


def _score(family: FamilyDefinition, task: str, metric: str, value: float, stderr: float, samples: Sequence[Sample]) -> Score:
    return Score(
        task=task,
        language=LANGUAGE,
        metric=metric,
        value=value,
        stderr=stderr,
        items=len(samples),
        higher_is_better=True,
        role="raw" if metric in family.metrics else "diagnostic",
        source=HARNESS,
        nulls=sum(map(_is_null, samples)),
    )


def _normalised_score(
    family: FamilyDefinition, task: str, raw: Sequence[Score], samples: Sequence[Sample], clusters: Sequence[str]
) -> Score:
    """The task on the leaderboard's scale: the mean of the metrics that count, less chance."""
    columns = [_values(samples, metric) for metric in family.metrics]
    means = [sum(values) / len(columns) for values in zip(*columns, strict=True)]
    value, stderr = weighted_score(
        ItemValue(value=mean, weight=1, cluster=cluster) for mean, cluster in zip(means, clusters, strict=True)
    )
    choices = family.choices[task]
    slope = 100 / (1 - 1 / choices) if choices else 100
    return Score(
        task=task,
        language=LANGUAGE,
        metric=NORMALISED,
        value=normalised(value, choices),
        stderr=slope * stderr,
        items=len(samples),
        higher_is_better=True,
        role="score",
        source=LEADERBOARD,
        nulls=raw[0].nulls,
    )


def _values(samples: Sequence[Sample], metric: str) -> list[float]:
    """One value an item, whose plain mean is lm-eval's score.

    Instruction-level accuracy is a ratio of totals over instructions: an item's value is the number of its instructions that
    were followed, in units of the mean number of instructions an item. Data alone decide that number, not the model.
    """
    if metric not in INSTRUCTION_LISTS:
        return [float(sample[metric]) for sample in samples]
    mean = sum(len(sample[metric]) for sample in samples) / len(samples)
    return [sum(map(bool, sample[metric])) / mean for sample in samples]


def _cluster(family: FamilyDefinition, task: str, sample: Sample) -> str:
    if not family.cluster:
        return f"{task}/{sample['doc_id']}"
    digest = hashlib.sha256(str(sample["doc"][family.cluster]).encode("utf-8", "surrogatepass")).hexdigest()
    return f"{family.name}/{digest[:16]}"


def _is_null(sample: Sample) -> bool:
    """Whether a generated answer is empty; choices by likelihood are always answered."""
    answer = sample["filtered_resps"][0]
    return isinstance(answer, str) and not answer.strip()


def _answer(sample: Sample, metric: str) -> str:
    """The choice that the metric takes for the model's, empty for a generated answer (its text is stored as such)."""
    likelihoods, arguments = sample["filtered_resps"], sample["arguments"]
    if isinstance(likelihoods[0], str):
        return ""
    texts = [str(asked[1]).removeprefix(" ") for asked in arguments]
    weights = [len(text) if metric == "acc_norm" else 1 for text in texts]
    values = [float(answer[0]) / weight for answer, weight in zip(likelihoods, weights, strict=True)]
    return texts[max(range(len(texts)), key=values.__getitem__)]


def aggregates(scores: Sequence[Score]) -> tuple[Aggregate, ...]:
    """The six families and their plain mean, on the leaderboard's scale; each says what it lacks."""
    groups = [group for family in families() for group in [_family(family, scores)] if group]
    if not groups:
        return ()
    incomplete = {group.name for group in groups if group.missing}
    overall = Aggregate(
        level="suite",
        name=OVERALL,
        language="",
        value=sum(group.value for group in groups) / len(groups),
        stderr=math.sqrt(math.fsum(group.stderr**2 for group in groups)) / len(groups),
        members=tuple(group.name for group in groups),
        missing=tuple(
            family.title
            for family in families()
            if family.title in incomplete or family.title not in {group.name for group in groups}
        ),
    )
    return (*groups, overall)


def _family(family: FamilyDefinition, scores: Sequence[Score]) -> Aggregate | None:
    found = {(score.task, score.metric): score for score in scores}
    present = [task for task in family.tasks if (task, NORMALISED) in found]
    if not present:
        return None
    value, stderr = _RULES[family.rule](family, present, found)
    return Aggregate(
        level="group",
        name=family.title,
        language=LANGUAGE,
        value=value,
        stderr=stderr,
        members=tuple(present),
        missing=tuple(task for task in family.tasks if task not in present),
    )


Found = Mapping[tuple[str, str], Score]


def _mean(family: FamilyDefinition, tasks: Sequence[str], found: Found) -> tuple[float, float]:
    """Normalise first, then average: the plain mean over independent tasks."""
    scores = [found[task, NORMALISED] for task in tasks]
    stderr = math.sqrt(math.fsum(score.stderr**2 for score in scores)) / len(scores)
    return math.fsum(score.value for score in scores) / len(scores), stderr


def _pooled(family: FamilyDefinition, tasks: Sequence[str], found: Found) -> tuple[float, float]:
    """Average over items first, then normalise.

    GPQA's diamond questions are also in main, and main's in extended: their errors add up as if the three agreed fully, which
    is the most that they can be.
    """
    scores = [found[task, family.metrics[0]] for task in tasks]
    total = sum(score.items for score in scores)
    value = math.fsum(score.value * score.items for score in scores) / total
    errors = [score.stderr * score.items / total for score in scores]
    stderr = math.fsum(errors) if family.cluster else math.sqrt(math.fsum(error**2 for error in errors))
    choices = family.choices[tasks[0]]
    return normalised(value, choices), stderr * (100 / (1 - 1 / choices) if choices else 100)


def _strict(family: FamilyDefinition, tasks: Sequence[str], found: Found) -> tuple[float, float]:
    """The mean of prompt-level and instruction-level accuracy, which is what the task's own score is."""
    score = found[tasks[0], NORMALISED]
    return score.value, score.stderr


_RULES: dict[Rule, Callable[[FamilyDefinition, Sequence[str], Found], tuple[float, float]]] = {
    "mean": _mean,
    "pooled": _pooled,
    "strict": _strict,
}
