"""SEA-HELM opened from a mirror: every task of a profile in its languages, ready to ask and to score.

Which tasks a language has is read from the benchmark's own list. What the mirror lacks does not vanish: it is named in
`Suite.missing`, and the averages that need it are incomplete.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ...catalog.errors import CorruptInput, SeaLionError
from ...catalog.fingerprint import fingerprint
from ..family import GenerationFamily, GenerationTask, Scorer, Suite
from ..points import with_points
from .generation import SEED, examples_asked, generation, sampling
from .mirror import TASKS, OpenMirror, recorded
from .profile import Profile, profile_of, short_code
from .prompts import base_text, fields_of
from .questions import questions
from .templates import TaskSettings, TaskTexts, read_generation, read_suites, read_tasks

SPLITS = {"thai_exam": ("test", "test")}
"""Splits of items and of examples in data sets of the hub, where they are not `eval` and `examples`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """A mirror's settings, read."""

    profile: Profile
    mirror: OpenMirror
    tasks: Mapping[str, TaskSettings]
    suites: Mapping[str, Mapping[str, tuple[str, ...] | str]]
    shared: Mapping[str, float]
    """Of `generation_config.yaml`; empty where the release has none."""

    def tasks_of(self, language: str, selection: str = "") -> tuple[str, ...]:
        """The tasks of a language in a suite of the benchmark, or in the profile's first one that has the language."""
        short = short_code(language)
        wanted = (selection,) if selection else self.profile.suites
        for suite in wanted:
            if suite not in self.suites:
                raise SeaLionError(f"{suite!r} is no suite of SEA-HELM {self.profile.tag}; there are {', '.join(self.suites)}")
            listed = self.suites[suite].get(short)
            if listed is not None:
                return self._all_of(short) if isinstance(listed, str) else self._expanded(listed, short)
        raise SeaLionError(f"SEA-HELM {self.profile.tag} has no tasks for {language!r} in {' or '.join(wanted)}")

    def _all_of(self, short: str) -> tuple[str, ...]:
        return tuple(name for name, task in self.tasks.items() if short in task.languages)

    def _expanded(self, listed: Sequence[str], short: str) -> tuple[str, ...]:
        """A group's name stands for its tasks."""
        names: list[str] = []
        for name in listed:
            group = [task.name for task in self.tasks.values() if task.group == name and short in task.languages]
            names += [name] if name in self.tasks or not group else group
        return tuple(dict.fromkeys(names))


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """How a suite is asked; of the whole suite, not of a task."""

    is_base: bool = False
    """Few-shot, and without the tasks that base models are not asked."""
    is_reasoning: bool = False
    """Longer answers."""
    limit: int = 0
    """Items of each task; 0: all."""
    temperature: float = 0.0
    """Of 2026, which leaves it to the model."""
    seed: int = SEED
    """Of 2026, which has eight runs."""
    judge: Any = None
    """Compares conversations (`mt-bench`); None: those tasks are asked and stay incomplete."""
    judgements: Any = None
    """Where judgements are kept and found again; None: in memory."""
    translation: Any = None
    """Scores translations (MetricX); None: likewise."""


def read_benchmark(profile: str, mirror_folder: Path) -> Benchmark:
    """The settings in a mirror; raises CorruptInput for a mirror of another profile, or whose settings cannot be read."""
    about, mirror = profile_of(profile), OpenMirror(mirror_folder)
    if mirror.record.profile != profile:
        raise CorruptInput(mirror_folder, "", f"is a mirror of {mirror.record.profile}, not of {profile}")
    settings = mirror.settings()
    tasks: dict[str, TaskSettings] = {}
    for path, text in settings.items():
        if path.endswith("/config.yaml"):
            tasks |= read_tasks(text, profile, f"{TASKS}/{path}")
    for needed in ("task_config.yaml", *(("generation_config.yaml",) if about.reads_temperature else ())):
        if needed not in settings:
            raise CorruptInput(mirror_folder, f"{TASKS}/{needed}", "is missing: make the mirror from a whole checkout")
    shared = read_generation(settings["generation_config.yaml"], "generation_config.yaml") if about.reads_temperature else {}
    suites = read_suites(settings["task_config.yaml"], "task_config.yaml")
    return Benchmark(profile=about, mirror=mirror, tasks=tasks, suites=suites, shared=shared)


def open_suite(
    profile: str,
    mirror_folder: Path,
    *,
    languages: tuple[str, ...] = (),
    tasks: tuple[str, ...] = (),
    selection: str = "",
    is_base: bool = False,
    limit: int = 0,
    **asked_as: Any,
) -> Suite:
    """The suite of a profile over languages (ISO 639-3; the profile's own unless named).

    `tasks` narrows it; `selection` is another suite of the benchmark's own (`seahelm_plus`, `batayan`, `all_tasks`); further
    keywords are those of `Asking`. Raises SeaLionError for a language, task or suite that the benchmark has not, CorruptInput
    for an altered file.
    """
    benchmark = read_benchmark(profile, mirror_folder)
    asking = Asking(is_base=is_base, limit=limit, **asked_as)
    languages = languages or benchmark.profile.languages
    asked = _asked(benchmark, languages, tasks, selection, asking)
    families: dict[str, list[GenerationTask]] = {}
    missing, warnings = [], list(_general_warnings(benchmark, asking))
    for name, language in asked:
        problem, score = _problem(benchmark, name, language), None
        if not problem:
            try:
                score = with_points(_scorer(benchmark, name, language, asking))
            except SeaLionError as error:
                problem = f"cannot be scored here: {error}"
        if score is None:
            missing.append(f"{name}/{language}: {problem}")
            continue
        task, warned = _task(benchmark, name, language, asking, score)
        families.setdefault(name, []).append(task)
        warnings += warned
    return Suite(
        name="sea_helm",
        profile=profile,
        families=tuple(GenerationFamily(name=name, tasks=tuple(found)) for name, found in families.items()),
        aggregate=_aggregate(benchmark, _asked(benchmark, languages, (), selection, asking), is_base=is_base),
        warnings=tuple(warnings),
        missing=tuple(missing),
        render=partial(base_text, profile),
        settings=_scored_by(asking),
    )


def _scored_by(asking: Asking) -> dict[str, str]:
    """The judge and the scorer of translations, by digest of what they are."""
    named = {"judge": asking.judge, "metricx": asking.translation}
    return {name: fingerprint(dict(scorer.identity))[:16] if scorer else "none" for name, scorer in named.items()}


def hub_config(task: str, short: str) -> str:
    """The configuration of a hub data set that holds a task's rows."""
    names = {
        "translation-en-xx": f"en_to_{short}",
        "translation-xx-en": f"{short}_to_en",
        "translation-id-xx": f"id_to_{short}",
        "translation-xx-id": f"{short}_to_id",
        "pragmatic-single": f"{short}_single",
        "pragmatic-pair": f"{short}_pair",
    }
    return task.removeprefix("thai_exam_") if task.startswith("thai_exam_") else names.get(task, short)


def _asked(
    benchmark: Benchmark, languages: Sequence[str], tasks: Sequence[str], selection: str, asking: Asking
) -> list[tuple[str, str]]:
    """Task and language of everything that is asked, task after task in the benchmark's order."""
    skipped = benchmark.profile.skipped_by_base if asking.is_base else ()
    listed = {language: benchmark.tasks_of(language, selection) for language in languages}
    known = dict.fromkeys(name for names in listed.values() for name in names)
    if unknown := [name for name in tasks if name not in known]:
        raise SeaLionError(f"{unknown[0]!r} is no task of SEA-HELM in {', '.join(languages)}; there are {', '.join(known)}")
    wanted = [name for name in known if name not in skipped and (not tasks or name in tasks)]
    return [(name, language) for name in wanted for language in languages if name in listed[language]]


def _problem(benchmark: Benchmark, name: str, language: str) -> str:
    """Why a task cannot be asked; empty when it can."""
    task, short = benchmark.tasks.get(name), short_code(language)
    if task is None:
        return "the mirror has no settings of this task: take them from a checkout of the benchmark"
    if short not in task.languages:
        return "the benchmark's settings have no such language"
    file = task.languages[short].file
    if _paths(benchmark, task, short, is_examples=False):
        return ""
    known = recorded(benchmark.profile.name).get(file.removeprefix(f"{TASKS}/"))
    licence = f" (licence {known.licence})" if known else ""
    return f"the mirror has no {file}{licence}"


def _paths(benchmark: Benchmark, task: TaskSettings, short: str, *, is_examples: bool) -> list[str]:
    texts = task.languages[short]
    file = texts.example_file if is_examples else texts.file
    splits = next((splits for start, splits in SPLITS.items() if task.name.startswith(start)), ("eval", "examples"))
    return benchmark.mirror.paths_of(file, hub_config(task.name, short), splits[is_examples]) if file else []


def _task(benchmark: Benchmark, name: str, language: str, asking: Asking, score: Scorer) -> tuple[GenerationTask, list[str]]:
    profile, task, short = benchmark.profile, benchmark.tasks[name], short_code(language)
    texts = task.languages[short]
    rows = benchmark.mirror.rows(_paths(benchmark, task, short, is_examples=False))
    count = examples_asked(profile.name, task, is_base=asking.is_base)
    examples = benchmark.mirror.rows(_paths(benchmark, task, short, is_examples=True))[:count] if count else []
    warnings = list(_example_warnings(f"{name}/{language}", texts, rows, examples, count))
    if name.startswith("thai_exam") and examples:
        rows = [row for row in rows if row not in examples]
        warnings.append(f"{name}/{language}: its few-shot examples are its first items; these are not asked")
    asked = questions(profile.name, name, language, texts, rows, examples)
    settings = sampling(
        profile.name,
        task,
        texts,
        benchmark.shared,
        is_base=asking.is_base,
        is_reasoning=asking.is_reasoning,
        seed=asking.seed,
    )
    made = GenerationTask(
        name=name,
        language=language,
        questions=asked[: asking.limit] if asking.limit else asked,
        generation=generation(settings, asking.temperature),
        scorer=score,
        version=f"{profile.tag}/{task.version}",
    )
    return made, warnings


def _scorer(benchmark: Benchmark, name: str, language: str, asking: Asking) -> Scorer:
    """Imported when a suite is opened: scorers load segmenters and classifiers."""
    from .instruction_scores import instruction_scorer
    from .judge_prompts import CRITERIA
    from .metricx import translation_scorer
    from .scorers import scorer

    profile = benchmark.profile.name
    if name == "if-eval":
        return instruction_scorer(profile, language)
    if name == "mt-bench" or name in CRITERIA:
        return _judged_scorer(benchmark, name, language, asking)
    if name.startswith("translation-"):
        direction = name.removeprefix("translation-")
        return translation_scorer(profile, language, direction, asking.translation, asking.judgements)
    return scorer(name, profile, language)


def _judged_scorer(benchmark: Benchmark, name: str, language: str, asking: Asking) -> Scorer:
    """Without a judge or its prompts the scorer says so."""
    from .criteria_judging import criteria_scorer
    from .judge_prompts import CRITERIA, PAIRWISE, criteria_prompts, judge_prompts
    from .mt_bench import mt_bench_scorer

    profile, mirror = benchmark.profile.name, benchmark.mirror
    if name in CRITERIA:
        rules = criteria_prompts(mirror.folder, name) if mirror.has([CRITERIA[name]]) else None
        return criteria_scorer(language, asking.judge, rules, asking.judgements)
    files = ("config.yaml", "mt_bench_prompts.py") if profile == "sea_helm_2025" else ("config.yaml",)
    prompts = judge_prompts(mirror.folder, profile) if mirror.has(f"{PAIRWISE}/{file}" for file in files) else None
    return mt_bench_scorer(profile, language, asking.judge, prompts, asking.judgements)


def _aggregate(benchmark: Benchmark, listed: Sequence[tuple[str, str]], *, is_base: bool) -> Callable[..., Any]:
    """The averages over all tasks of the languages asked: one without a score, or not asked, is missing and not forgotten."""
    from .averages import aggregate

    expected: dict[str, list[str]] = {}
    for name, language in listed:
        expected.setdefault(language, []).append(name)
    return partial(aggregate, profile=benchmark.profile.name, expected=expected, is_base=is_base)


def _general_warnings(benchmark: Benchmark, asking: Asking) -> list[str]:
    warnings = []
    if asking.limit:
        warnings.append(f"only the first {asking.limit} items of each task were asked")
    if not benchmark.profile.reads_temperature:
        how = f"temperature {asking.temperature:g}" if asking.temperature else "greedy decoding"
        warnings.append(
            f"{benchmark.profile.tag} leaves sampling to the model and averages eight runs; this is one, with {how}"
        )
        if asking.is_base:
            warnings.append(
                f"{benchmark.profile.tag} lets base models write up to the answer's tag, and then on from it; "
                "here they are asked once"
            )
    return warnings


def _example_warnings(
    where: str, texts: TaskTexts, rows: Sequence[Mapping[str, Any]], examples: Sequence[Mapping[str, Any]], count: int
) -> list[str]:
    """Too few examples, and passages of examples that are asked about as well."""
    warnings = []
    if len(examples) < count:
        warnings.append(f"{where}: {len(examples)} few-shot examples instead of {count}: the benchmark has no more")
    for field in ("text", "sentence1", "premise"):
        asked = {fields_of(row, texts.source)[0].get(field) for row in rows} - {None}
        shared = sum(fields_of(row, texts.source)[0].get(field) in asked for row in examples)
        if shared:
            warnings.append(f"{where}: {shared} of {len(examples)} few-shot examples share their passage with items")
    return warnings
