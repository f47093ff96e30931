"""What SEA-HELM tells its judges, read out of the benchmark's own files at run time: no prompt is written down here.

Release v1.0.0 keeps its pairwise prompts in a Python module, of which only the literals of two assignments are read: the module
is never imported or run. v1.2.1 keeps all of them in its configurations. Everything that is read is checked strictly, since a
prompt that lacks an answer would be judged without complaint.
"""

from __future__ import annotations

import ast
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ...catalog.errors import CorruptInput

PAIRWISE = "seahelm_tasks/multi_turn/mt_bench"
CRITERIA = {
    "mt-bench-judge": "seahelm_tasks/multi_turn/mt_bench_judge/config.yaml",
    "kalahi-judge": "seahelm_tasks/cultural/kalahi_judge/config.yaml",
    "syntax-criteria": "seahelm_tasks/lindsea/syntax_criteria/config.yaml",
}
"""Tasks of 2026 that are judged criterion by criterion, and where their prompts are."""
JUDGE_FILES: dict[str, tuple[str, ...]] = {
    "sea_helm_2025": (f"{PAIRWISE}/config.yaml", f"{PAIRWISE}/mt_bench_prompts.py"),
    "sea_helm_2026": (f"{PAIRWISE}/config.yaml", *CRITERIA.values()),
}
"""Profile to the files of the repository that the judges' prompts are read from: a mirror must hold them."""

LABELS = {"A_wins": "[[A]]", "B_wins": "[[B]]", "Tie": "[[C]]"}
"""Outcome, as the configurations call it, to what the judge writes: release v1.0.0 has them in its code."""
TURNS = 2
_PAIR = ("question", "answer_a", "answer_b")
_REFERENCE = "ref_answer"
_CRITERION = {"transcript", "prompt", "response", "keyPointText", "reference_text_block"}


@dataclass(frozen=True, slots=True, kw_only=True)
class PairwisePrompt:
    """What a judge is shown of one turn."""

    system: str
    """The system text, the outcomes' names filled in."""
    template: str
    """The user's message, with fields `question_1`, `answer_a_1`, `answer_b_1`, `ref_answer_1`, and those of a second turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairwisePrompts:
    """How a model's answers are compared with a baseline's."""

    plain: tuple[PairwisePrompt, ...]
    """By turn."""
    guided: tuple[PairwisePrompt, ...]
    """By turn, for the categories with references."""
    guided_categories: tuple[str, ...]
    """Categories, as they are spelt, that are judged beside a reference."""
    labels: Mapping[str, str]
    """`A_wins`, `B_wins` and `Tie` to what the judge writes."""
    ties_allowed: bool
    """Whether two verdicts that differ are a tie, and not an error."""
    baseline: str
    """The model whose answers stand in the rows."""
    judge: str
    """The judge that the profile names."""
    drawn: Mapping[str, float]
    """How it draws its text: `temperature`, `max_tokens`, and `seed` where the release sets one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CriteriaPrompts:
    """How answers are held against criteria."""

    task: str
    system: str
    templates: tuple[str, ...]
    """The user's message, by turn."""
    reference: str
    """What is said about a reference answer, empty where there is none."""
    classes: Mapping[str, float]
    """Class to score, 0 to 1."""
    questions: Mapping[str, str]
    """The benchmark's language code to the template of a user's turn as the judge is shown it."""
    judge: str
    """The judge that the profile names."""
    drawn: Mapping[str, float]


def judge_prompts(mirror: Path, profile: str) -> PairwisePrompts:
    """The pairwise prompts of `mt-bench`; raises CorruptInput for files that are absent or not as the release has them."""
    path = mirror / PAIRWISE / "config.yaml"
    task = _task(path, "mt-bench")
    return _prompts_2025(mirror, path, task) if profile == "sea_helm_2025" else _prompts_2026(path, task)


def _prompts_2025(mirror: Path, path: Path, task: Mapping[str, Any]) -> PairwisePrompts:
    module = mirror / PAIRWISE / "mt_bench_prompts.py"
    found = _literals(module, ("JUDGE_PROMPTS", "CATEGORIES_WITH_REFERENCE"))
    categories = found["CATEGORIES_WITH_REFERENCE"]
    if not isinstance(categories, (set, list, tuple)) or not all(isinstance(name, str) for name in categories):
        raise CorruptInput(module, "CATEGORIES_WITH_REFERENCE", "is no collection of names")
    settings = {"temperature": "judge_temperature", "max_tokens": "judge_max_tokens", "seed": "judge_seed"}
    return PairwisePrompts(
        plain=_turns(found["JUDGE_PROMPTS"], "without-reference", None, module),
        guided=_turns(found["JUDGE_PROMPTS"], "with-reference", None, module),
        guided_categories=tuple(sorted(categories)),
        labels=LABELS,
        ties_allowed=True,
        baseline=_of(task, "baseline_model", str, path),
        judge=_of(task, "judge_model", str, path),
        drawn={name: float(_of(task, key, (int, float), path)) for name, key in settings.items()},
    )


def _prompts_2026(path: Path, task: Mapping[str, Any]) -> PairwisePrompts:
    judge = _of(task, "judge", dict, path)
    labels = _of(task, "judgement_labels", dict, path)
    ties_allowed = _of(task, "ties_allowed", bool, path) if "ties_allowed" in task else True
    wanted = {"A_wins", "B_wins"} | ({"Tie"} if ties_allowed else set())
    if not wanted <= set(labels) <= set(LABELS) or not all(isinstance(text, str) and text for text in labels.values()):
        raise CorruptInput(path, "judgement_labels", f"must name {', '.join(sorted(wanted))}, each with a text")
    prompts = _of(judge, "judge_prompts", dict, path)
    categories = _of(task, "categories_with_reference", list, path)
    return PairwisePrompts(
        plain=_turns(prompts, "without-reference", labels, path),
        guided=_turns(prompts, "with-reference", labels, path),
        guided_categories=tuple(str(name) for name in categories),
        labels=labels,
        ties_allowed=ties_allowed,
        baseline=_of(task, "baseline_model", str, path),
        judge=_of(judge, "judge_model_name", str, path),
        drawn=_drawn(judge, path),
    )


def criteria_prompts(mirror: Path, task: str) -> CriteriaPrompts:
    """The prompts of a task of 2026 that is judged by criteria; raises CorruptInput, ValueError for no such task."""
    if task not in CRITERIA:
        raise ValueError(f"{task!r} is not judged by criteria; there are {', '.join(CRITERIA)}")
    path = mirror / CRITERIA[task]
    entry = _task(path, task)
    judge = _of(entry, "judge", dict, path)
    prompts = _of(judge, "judge_prompts", dict, path)
    asked = prompts.get("criteria_prompt")
    by_turn = [asked] if isinstance(asked, str) else [_of(asked, f"turn_{turn}", str, path) for turn in range(1, TURNS + 1)]
    for template in by_turn:
        _check_fields(template, _CRITERION, {"response", "keyPointText"}, path, "criteria_prompt")
    classes = _of(judge, "classifications", dict, path)
    if not classes or not all(_is_number(value) and 0 <= value <= 1 for value in classes.values()):
        raise CorruptInput(path, "classifications", "must give every class a score from 0 to 1")
    languages = _of(entry, "languages", dict, path)
    questions = {
        code: _of(_of(table, "prompt_template", dict, path), "task_template", str, path) for code, table in languages.items()
    }
    return CriteriaPrompts(
        task=task,
        system=_of(prompts, "system_prompt", str, path),
        templates=tuple(by_turn),
        reference=prompts.get("reference_prompt") or "",
        classes={str(name): float(value) for name, value in classes.items()},
        questions=questions,
        judge=_of(judge, "judge_model_name", str, path),
        drawn=_drawn(judge, path),
    )


def _drawn(judge: Mapping[str, Any], path: Path) -> dict[str, float]:
    settings = _of(judge, "judge_generation_kwargs", dict, path)
    return {
        name: float(value) for name, value in settings.items() if name in ("temperature", "max_tokens") and _is_number(value)
    }


def _turns(prompts: Any, key: str, labels: Mapping[str, str] | None, source: Path) -> tuple[PairwisePrompt, ...]:
    turns = _of(prompts, key, list, source)
    if len(turns) != TURNS:
        raise CorruptInput(source, key, f"has {len(turns)} prompts, not one for each of {TURNS} turns")
    return tuple(_turn(table, key, turn, labels, source) for turn, table in enumerate(turns, 1))


def _turn(table: Any, key: str, turn: int, labels: Mapping[str, str] | None, source: Path) -> PairwisePrompt:
    system, template = _of(table, "system_prompt", str, source), _of(table, "prompt_template", str, source)
    names = (*_PAIR, _REFERENCE) if key == "with-reference" else _PAIR
    wanted = {f"{name}_{number}" for name in names for number in range(1, turn + 1)}
    _check_fields(template, wanted, wanted, source, f"{key}.{turn}")
    if labels is not None:
        _check_fields(system, set(labels), set(labels) - {"Tie"}, source, f"{key}.{turn}")
        system = system.format(**labels)
    return PairwisePrompt(system=system, template=template)


def _check_fields(template: str, allowed: set[str], needed: set[str], source: Path, where: str) -> None:
    try:
        fields = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
    except ValueError as error:
        raise CorruptInput(source, where, f"is not a template: {error}") from error
    if unknown := sorted(fields - allowed):
        raise CorruptInput(source, where, f"has a field {unknown[0]!r} that nothing fills; known: {', '.join(sorted(allowed))}")
    if missing := sorted(needed - fields):
        raise CorruptInput(source, where, f"shows the judge no {missing[0]!r}")


def _literals(path: Path, names: Sequence[str]) -> dict[str, Any]:
    """The values of a module's assignments of literals, without running it."""
    try:
        tree = ast.parse(_text(path))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise CorruptInput(path, "", f"is not a Python module: {error}") from error
    found = {}
    for node in tree.body:
        target = node.targets[0] if isinstance(node, ast.Assign) and len(node.targets) == 1 else None
        if isinstance(node, ast.Assign) and isinstance(target, ast.Name) and target.id in names:
            try:
                found[target.id] = ast.literal_eval(node.value)
            except (ValueError, TypeError, RecursionError, MemoryError) as error:
                raise CorruptInput(path, target.id, "is no literal: it cannot be read without running the module") from error
    if missing := [name for name in names if name not in found]:
        raise CorruptInput(path, missing[0], "is not assigned in this module")
    return found


def _task(path: Path, task: str) -> Mapping[str, Any]:
    try:
        table = yaml.safe_load(_text(path))
    except yaml.YAMLError as error:
        raise CorruptInput(path, "", f"is not YAML: {str(error).splitlines()[0]}") from error
    return dict(_of(table, task, dict, path))


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except OSError as error:
        raise CorruptInput(path, "", "the judge's prompts are not here: mirror the benchmark again, with this file") from error
    except UnicodeDecodeError as error:
        raise CorruptInput(path, "", "is not UTF-8") from error


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _of(table: Any, key: str, kind: type | tuple[type, ...], path: Path) -> Any:
    value = table.get(key) if isinstance(table, dict) else None
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise CorruptInput(path, key, "is absent" if value is None else f"is not as the release has it: {value!r:.60}")
    return value
