"""From tasks to competencies, languages and the overall score, each a plain mean of what it is over.

Task, then group (both directions of translation; the exams), then competency, language, overall: no step weighs by items, so a
task of 80 items counts as much as one of 1,000. LINDSEA is the exception: the mean of the normalised minimal pairs and of the
pragmatics, whose counts are pooled over two tasks first; `syntax-criteria` (2026) enters nothing.

The benchmark averages over what is *there*: a task that failed vanishes (2025) or is a zero (2026), and languages with other
sets of competencies look alike. Here every average names its members and what is missing; nothing is filled in.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from ...catalog.errors import SeaLionError
from ...catalog.records import Aggregate, Score
from .diagnostics import Count, diagnosed, pooled
from .labels import PRAGMATICS
from .profile import profile_of

LINDSEA = "linguistic-diagnostics"
ANSWERED = "accuracy:"
"""Prefix of the diagnostic scores that carry a pragmatics task's percentage right, and its items, per phenomenon."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a task belongs."""

    competency: str
    metric: str
    """The one that counts."""
    group: str = ""
    """Averaged before the competency."""


def _place(competency: str, metric: str = "normalized_accuracy", group: str = "") -> Place:
    return Place(competency=competency, metric=metric, group=group)


_TRANSLATION = _place("nlg", "normalized_metricx_wmt24_scores", "translations")
_EXAMS = {f"thai_exam_{exam}": _place("knowledge", group="thai_exam") for exam in ("a_level", "ic", "onet", "tgat", "tpat1")}
_TASKS_2025 = {
    "sentiment": _place("nlu"), "qa": _place("nlu", "normalized_f1"), "qa-mc": _place("nlu"), "metaphor": _place("nlu"),
    "belebele-qa-mc": _place("nlu"), "paraphrase": _place("nlu"), "toxicity": _place("safety"),
    "abssum": _place("nlg", "normalized_rougel_f1"),
    "translation-en-xx": _TRANSLATION, "translation-xx-en": _TRANSLATION,
    "translation-id-xx": _TRANSLATION, "translation-xx-id": _TRANSLATION,
    "causal": _place("nlr"), "nli": _place("nlr"),
    "mp-r": _place(LINDSEA), "pragmatic-single": _place(LINDSEA, group="pragmatics"),
    "pragmatic-pair": _place(LINDSEA, group="pragmatics"),
    "if-eval": _place("instruction-following", "overall_lang_normalized_acc"),
    "mt-bench": _place("multi-turn", "weighted_win_rate"), "kalahi-mc": _place("cultural"),
}  # fmt: skip
PLACES: dict[str, dict[str, Place]] = {
    "sea_helm_2025": _TASKS_2025,
    "sea_helm_2026": _TASKS_2025
    | _EXAMS
    | {
        "mt-bench-judge": _place("multi-turn", "average_criteria_score"),
        "kalahi-judge": _place("cultural", "average_criteria_score"),
        "syntax-criteria": _place(LINDSEA, "average_criteria_score"),
        "global_mmlu_lite": _place("knowledge"),
    },
}
"""Profile and task to where it belongs."""


def place_of(profile: str, task: str) -> Place:
    """Where a task belongs, also a log-probability variant's; raises SeaLionError for one that the profile has not."""
    places = PLACES[profile]
    if task in places:
        return places[task]
    plain = task.removesuffix("-logprobs")
    if profile == "sea_helm_2026" and plain in places and plain != task:
        return replace(places[plain], metric="average_cumulative_probabilities")
    raise SeaLionError(f"{profile} has no task {task!r}; it has {', '.join(places)}")


_COMMON = ("sentiment", "translation-en-xx", "translation-xx-en", "abssum", "causal", "nli")
_TALK = ("if-eval", "mt-bench")
_SYNTAX = ("mp-r", *PRAGMATICS)
_ISLANDS = ("sentiment", "qa-mc", "metaphor", "translation-id-xx", "translation-xx-id", *_TALK)
_MORE = ("if-eval", "mt-bench-judge")
_MALAY = ("sentiment", "belebele-qa-mc", "toxicity", "translation-en-xx", "translation-xx-en", "global_mmlu_lite", *_MORE)

EXPECTED: dict[str, dict[str, tuple[str, ...]]] = {
    "sea_helm_2025": {
        "ind": (*_COMMON, "qa", "metaphor", "toxicity", *_SYNTAX, *_TALK),
        "vie": (*_COMMON, "qa", "toxicity", *_TALK),
        "tha": (*_COMMON, "qa", "toxicity", *_TALK),
        "tam": (*_COMMON, "qa", *_SYNTAX),
        "fil": (*_COMMON, "belebele-qa-mc", "toxicity", *_TALK, "kalahi-mc"),
        "jav": _ISLANDS,
        "sun": _ISLANDS,
    },
    "sea_helm_2026": {
        "ind": (*_COMMON, "qa", "metaphor", "toxicity", *_SYNTAX, *_MORE, "global_mmlu_lite", "syntax-criteria"),
        "vie": (*_COMMON, "qa", "toxicity", *_MORE, "global_mmlu_lite"),
        "tha": (*_COMMON, "qa", "toxicity", *_MORE, *_EXAMS),
        "tam": (*_COMMON, "qa", *_SYNTAX, *_MORE),
        "fil": (*_COMMON, "belebele-qa-mc", "toxicity", *_MORE, "global_mmlu_lite", "kalahi-judge"),
        "zsm": _MALAY,
        "mya": (*_COMMON, "belebele-qa-mc", "toxicity", "if-eval", "global_mmlu_lite"),
    },
}
"""Profile and language to the tasks that belong to its score."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One average and what it is over."""

    level: Literal["group", "competency", "language", "suite"]
    name: str
    language: str
    value: float
    stderr: float
    members: tuple[str, ...]
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A task's score, or a part's, on its way into an average."""

    value: float
    stderr: float = 0.0
    phenomena: Mapping[str, Count] = field(default_factory=dict)
    """A pragmatics task's counts."""


def aggregate(
    scores: Sequence[Score], profile: str, *, expected: Mapping[str, Sequence[str]] | None = None, is_base: bool = False
) -> tuple[Aggregate, ...]:
    """Every average over `scores`, each with its members and what is missing.

    `expected` maps languages to the tasks that were to be run (default: the release's own suite; Javanese and Sundanese count
    once they have a score); a base model is not expected to have done what the release does not ask of it. Errors of averages
    take tasks to be independent. Raises SeaLionError for a task that the profile has not.
    """
    members = _members(scores, profile)
    languages = tuple(profile_of(profile).languages)
    wanted = dict(expected if expected is not None else EXPECTED[profile])
    skipped = profile_of(profile).skipped_by_base if is_base else ()
    if expected is None:
        wanted = {language: tasks for language, tasks in wanted.items() if language in languages or language in members}
    plan = {language: tuple(task for task in tasks if task not in skipped) for language, tasks in wanted.items()}
    return tuple(
        Aggregate(
            level=node.level,
            name=node.name,
            language=node.language,
            value=node.value,
            stderr=node.stderr,
            members=node.members,
            missing=node.missing,
        )
        for node in nodes(members, profile, plan)
    )


def nodes(
    members: Mapping[str, Mapping[str, Member]], profile: str, expected: Mapping[str, Sequence[str]] | None = None
) -> list[Node]:
    """The averages over `members` (language, then task), innermost first, one language after the other."""
    expected = expected or {}
    found: list[Node] = []
    totals: dict[str, Member] = {}
    incomplete: list[str] = []
    for language in dict.fromkeys((*expected, *members)):
        inner = _language(language, members.get(language, {}), profile, expected.get(language, ()))
        found += inner
        if inner:
            totals[language] = Member(value=inner[-1].value, stderr=inner[-1].stderr)
            incomplete += [f"{language}/{task}" for task in inner[-1].missing]
        else:
            incomplete.append(language)
    if totals:
        found.append(_node("suite", "overall", "", totals, incomplete))
    return found


def total(nodes: Sequence[Node], level: str, name: str, language: str) -> float:
    """The value of one average; raises ValueError where there is none (an average over nothing)."""
    for node in nodes:
        if (node.level, node.name, node.language) == (level, name, language):
            return node.value
    raise ValueError(f"nothing to average for {level} {name!r} in {language!r}")


def _language(language: str, tasks: Mapping[str, Member], profile: str, expected: Sequence[str]) -> list[Node]:
    places = {task: place_of(profile, task) for task in (*expected, *tasks)}
    found: list[Node] = []
    totals: dict[str, Member] = {}
    lost: list[str] = []
    for competency in dict.fromkeys(places[task].competency for task in (*expected, *tasks)):
        mine = {task: member for task, member in tasks.items() if places[task].competency == competency}
        wanted = [task for task in expected if places[task].competency == competency]
        inner = _competency(language, competency, mine, profile, wanted)
        found += inner
        lost += [task for task in wanted if task not in tasks and task != "syntax-criteria"]
        if inner:
            totals[competency] = Member(value=inner[-1].value, stderr=inner[-1].stderr)
    if totals:
        found.append(_node("language", language, language, totals, lost))
    return found


def _competency(language: str, name: str, tasks: Mapping[str, Member], profile: str, expected: Sequence[str]) -> list[Node]:
    """A competency's groups and, last, the competency itself; nothing where it has no score."""
    places = {task: place_of(profile, task) for task in (*expected, *tasks)}
    counted = {task: member for task, member in tasks.items() if task != "syntax-criteria"}
    wanted = [task for task in expected if task != "syntax-criteria"]
    found: list[Node] = []
    parts: dict[str, Member] = {}
    for task, member in counted.items():
        group = places[task].group
        if not group:
            parts[task] = member
        elif group not in parts:
            inside = {other: value for other, value in counted.items() if places[other].group == group}
            lost = [other for other in wanted if places[other].group == group and other not in counted]
            found.append(_group(group, language, inside, lost))
            parts[group] = Member(value=found[-1].value, stderr=found[-1].stderr)
    if parts:
        found.append(_node("competency", name, language, parts, [task for task in wanted if task not in counted]))
    return found


def _group(name: str, language: str, inside: Mapping[str, Member], missing: Sequence[str]) -> Node:
    if name != "pragmatics":
        return _node("group", name, language, inside, missing)
    result = diagnosed(pooled(*(member.phenomena for member in inside.values())))
    counts = result.phenomena.values()
    variance = math.fsum(count.share * (1 - count.share) / count.total for count in counts) / len(counts) ** 2
    return Node(
        level="group",
        name=name,
        language=language,
        value=result.normalised_accuracy,
        stderr=200 * math.sqrt(variance),
        members=tuple(inside),
        missing=tuple(missing),
    )


def _node(
    level: Literal["group", "competency", "language", "suite"],
    name: str,
    language: str,
    members: Mapping[str, Member],
    missing: Sequence[str],
) -> Node:
    return Node(
        level=level,
        name=name,
        language=language,
        value=math.fsum(member.value for member in members.values()) / len(members),
        stderr=math.sqrt(math.fsum(member.stderr**2 for member in members.values())) / len(members),
        members=tuple(members),
        missing=tuple(missing),
    )


def _members(scores: Sequence[Score], profile: str) -> dict[str, dict[str, Member]]:
    found: dict[str, dict[str, Member]] = {}
    for score in scores:
        if score.role != "score":
            continue
        if score.metric == place_of(profile, score.task).metric:
            member = Member(value=score.value, stderr=score.stderr, phenomena=_phenomena(scores, score))
            found.setdefault(score.language, {})[score.task] = member
    return found


def _phenomena(scores: Sequence[Score], of: Score) -> dict[str, Count]:
    if of.task not in PRAGMATICS:
        return {}
    return {
        score.metric.removeprefix(ANSWERED): Count(right=round(score.value * score.items / 100, 6), total=score.items)
        for score in scores
        if (score.task, score.language) == (of.task, of.language) and score.metric.startswith(ANSWERED)
    }
