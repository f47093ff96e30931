"""The benchmark's own `config.yaml` files, read strictly: what is asked, of which rows, with how many tokens.

Prompts stand in these files and nowhere in this repository. Every key that decides what a model is asked must be there, must
have its type and no neighbour that is not known: a new key could change prompts without a word. Keys about metrics and judges
are the scorers' own and are passed over. YAML, because the benchmark writes it; no tag that builds objects is read.
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ...catalog.errors import CorruptInput

LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's, where PyYAML was built with it: a tenth of the time."""
LANGUAGE_KEYS = ("filepath", "example_filepath", "max_tokens", "prompt_template")
TEMPLATE_KEYS = {
    "sea_helm_2025": ("template", "fewshot_example", "fewshot_label"),
    "sea_helm_2026": ("preamble", "task_template", "answer_template", "answer_tag", "answer_tag_separator"),
}
REQUIRED_KEYS = {
    "sea_helm_2025": ("template",),
    "sea_helm_2026": ("preamble", "task_template", "answer_template", "answer_tag"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskTexts:
    """A task in one language: its files and templates."""

    source: str
    """The configuration it was read from, for messages."""
    file: str
    """Rows to ask: a path of the repository, or a data set of the hub."""
    example_file: str
    """Few-shot rows, empty where there are none."""
    max_tokens: int
    """Longest answer."""
    parts: Mapping[str, str]
    """Template name to its text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSettings:
    """One task of the benchmark."""

    name: str
    """The key of its configuration: `sentiment`."""
    competency: str
    metric: str
    """The metric that counts."""
    group: str = ""
    """Tasks of a group are averaged before their competency is."""
    version: str = "1"
    temperature: float | None = None
    """None: the release leaves it to the model."""
    examples: Mapping[str, int] = field(default_factory=dict)
    """`instruct` and `base` to the number of few-shot examples, where the release says so."""
    languages: Mapping[str, TaskTexts]
    """By SEA-HELM's own codes."""


def read_tasks(text: str, profile: str, source: Path | str) -> dict[str, TaskSettings]:
    """The tasks of one `config.yaml`; raises CorruptInput, naming the key, for what is not as the release has it.

    Entries that refer to other ones (`${…}`, the log-probability twins of v1.2.1) are left out.
    """
    table = _yaml(text, source)
    if not isinstance(table, dict) or not table:
        raise CorruptInput(source, "", "is no table of tasks")
    twins = {name for name, entry in table.items() if isinstance(entry, dict) and _refers(entry.get("languages"))}
    return {name: _task(name, entry, profile, str(source)) for name, entry in table.items() if name not in twins}


def read_suites(text: str, source: Path | str) -> dict[str, dict[str, tuple[str, ...] | str]]:
    """Suite to language to its tasks, or `all`, from `task_config.yaml`."""
    table = _yaml(text, source)
    if not isinstance(table, dict) or not all(isinstance(entry, dict) for entry in table.values()):
        raise CorruptInput(source, "", "is no table of suites")
    suites: dict[str, dict[str, tuple[str, ...] | str]] = {}
    for suite, entry in table.items():
        for language, tasks in entry.items():
            listed = isinstance(tasks, list) and all(isinstance(task, str) for task in tasks)
            if not listed and tasks != "all":
                raise CorruptInput(source, f"{suite}.{language}", "is neither a list of tasks nor 'all'")
            suites.setdefault(str(suite), {})[str(language)] = tuple(tasks) if listed else "all"
    return suites


def read_generation(text: str, source: Path | str) -> dict[str, float]:
    """The settings of sampling that all tasks share, from `generation_config.yaml`; only what changes nothing may differ."""
    table = _yaml(text, source)
    found = table.get("generation_kwargs") if isinstance(table, dict) else None
    if not isinstance(found, dict) or {"top_p", "top_k", "repetition_penalty", "seed"} - found.keys():
        raise CorruptInput(source, "generation_kwargs", "must set top_p, top_k, repetition_penalty and seed")
    for key, value in found.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise CorruptInput(source, f"generation_kwargs.{key}", f"is no number but {value!r}")
        if key in ("top_p", "repetition_penalty") and value != 1.0:
            raise CorruptInput(source, f"generation_kwargs.{key}", f"is {value}; only 1.0, which changes nothing, is supported")
    return dict(found)


def fill(template: str, values: Mapping[str, Any], source: str) -> str:
    """A template with its fields filled in; raises CorruptInput for a field that the row has not.

    As `str.format` does it, but a field is a plain name: no attribute, index or conversion is followed.

    >>> fill("{text}: {label}", {"text": "{x}", "label": 1}, "")
    '{x}: 1'
    """
    made = []
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise CorruptInput(source, "prompt_template", f"is not a template: {error}") from error
    for literal, name, form, conversion in parts:
        made.append(literal)
        if name is None:
            continue
        if not name.isidentifier() or form or conversion:
            raise CorruptInput(source, "prompt_template", f"{{{name}}} is no plain field")
        if name not in values:
            raise CorruptInput(source, "prompt_template", f"asks for {name!r}, which the row has not ({', '.join(values)})")
        made.append(str(values[name]))
    return "".join(made)


def _yaml(text: str, source: Path | str) -> Any:
    try:
        return yaml.load(text, Loader=LOADER)
    except yaml.YAMLError as error:
        raise CorruptInput(source, "", f"is not YAML: {str(error).splitlines()[0]}") from error


def _refers(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("${")


def _task(name: str, entry: Any, profile: str, source: str) -> TaskSettings:
    where = f"{source}: {name}"
    languages = _of(entry, "languages", dict, where)
    version = entry.get("metadata", {}).get("version", 1) if isinstance(entry.get("metadata"), dict) else 1
    temperature = entry.get("temperature")
    if temperature is not None and (isinstance(temperature, bool) or not isinstance(temperature, (int, float))):
        raise CorruptInput(where, "temperature", f"is no number but {temperature!r}")
    examples = entry.get("fewshot_num_examples") or {}
    if not isinstance(examples, dict):
        raise CorruptInput(where, "fewshot_num_examples", "is no table")
    return TaskSettings(
        name=name,
        competency=_of(entry, "competency", str, where),
        metric=_of(entry, "metric", str, where),
        group=entry.get("aggregation_group") or "",
        version=str(version),
        temperature=temperature,
        examples={kind: int(number or 0) for kind, number in examples.items()},
        languages={str(code): _texts(content, profile, f"{where}.{code}") for code, content in languages.items()},
    )


def _texts(content: Any, profile: str, where: str) -> TaskTexts:
    _known(content, LANGUAGE_KEYS, where)
    parts = _of(content, "prompt_template", dict, where)
    _known(parts, TEMPLATE_KEYS[profile], f"{where}.prompt_template")
    for key in REQUIRED_KEYS[profile]:
        _of(parts, key, str, f"{where}.prompt_template")
    if wrong := [key for key, part in parts.items() if not isinstance(part, str)]:
        raise CorruptInput(f"{where}.prompt_template", wrong[0], "is no text")
    max_tokens = _of(content, "max_tokens", int, where)
    if max_tokens < 1:
        raise CorruptInput(where, "max_tokens", f"must be at least 1, not {max_tokens}")
    return TaskTexts(
        source=where,
        file=_of(content, "filepath", str, where),
        example_file=content.get("example_filepath") or "",
        max_tokens=max_tokens,
        parts=parts,
    )


def _known(table: Any, keys: tuple[str, ...], where: str) -> None:
    if not isinstance(table, dict):
        raise CorruptInput(where, "", "is no table")
    if unknown := [str(key) for key in table if key not in keys]:
        raise CorruptInput(where, unknown[0], f"is a key that this platform does not know; it knows {', '.join(keys)}")


def _of(table: Any, key: str, kind: type, where: str) -> Any:
    value = table.get(key) if isinstance(table, dict) else None
    if not isinstance(value, kind) or isinstance(value, bool):
        problem = "is missing" if value is None else f"is {type(value).__name__}, not {kind.__name__}"
        raise CorruptInput(where, key, problem)
    return value
