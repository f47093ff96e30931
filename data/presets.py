"""Sources that others publish, as presets: which form and columns they have, their languages and licences.

A preset is a table of `presets/sources.toml`; a recipe names one and may change any field. Facts about a data set are data, so
that a team adds or corrects one without touching code. The refused alternative, guessing columns from the data, reads something
for any file and says nothing when it is the wrong thing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from functools import cache
from importlib.resources import as_file, files
from typing import Any, Literal

from ..catalog.errors import RecipeError
from ..catalog.recipes import read_table, read_toml
from ..catalog.records import STRICT

Form = Literal["parquet", "jsonl", "wet", "wikipedia", "hub"]
Trust = Literal["believed", "verified", "ignored"]
FILE = "FILE"
"""Instead of a column of the language: the file's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Which column holds what; empty: none does. Dots lead into structures, `?` at the end: the column may be missing."""

    __pydantic_config__ = STRICT

    text: str = "text"
    """The document."""
    id: str = ""
    """Its name in the source; without one, the digest of its text."""
    url: str = ""
    """Where it was published."""
    title: str = ""
    """A title that the text does not repeat: it becomes the first line."""
    language: str = ""
    """What the source says about its language, or `FILE`."""
    licence: str = ""
    """Its own licence, or a list of them."""
    crawl: str = ""
    """The crawl it was found in."""
    date: str = ""
    """When it was found or written, as the source writes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """How one source is read, and what is known about it."""

    __pydantic_config__ = STRICT

    about: str
    """What the source is, in a sentence."""
    form: Form
    """`parquet`, `jsonl`, `wet`, `wikipedia` (XML dump) or `hub` (by name through `datasets`, or a local folder)."""
    columns: Columns = field(default_factory=Columns)
    """Where the values are."""
    language: str = ""
    """Language of every document, ISO 639-3 or `code`; empty: a column says it, or nothing does."""
    language_pattern: str = ""
    """Regular expression whose first group is the language's code in the column; empty: the whole value is."""
    language_map: dict[str, str] = field(default_factory=dict)
    """The source's codes to ours, where `language_code` does not know them."""
    trust: Trust = "verified"
    """`believed`: identification is skipped; `verified`: it must agree; `ignored`: what the source says is not passed on."""
    only: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Column to the values that are wanted; other documents are removed as `other_<column>`."""
    licence: str = "NOASSERTION"
    """SPDX expression, for documents without one of their own."""
    caveat: str = ""
    """What the licence does not say."""
    hub: str = ""
    """Name on the Hugging Face hub."""
    config: str = ""
    """Subset, for form `hub`."""
    split: str = "train"
    """Split, for form `hub`."""
    revision: str = ""
    """Commit on the hub; without one, a later build may read something else."""
    hint: str = ""
    """What to do when the text's column is missing."""
    checked: str = ""
    """Where the schema was read; `not read`: it is from memory."""

    def __post_init__(self) -> None:
        try:
            groups = re.compile(self.language_pattern).groups
        except re.error as error:
            raise ValueError(f"language_pattern is not a regular expression: {error}") from error
        if self.language_pattern and groups < 1:
            raise ValueError("language_pattern needs a group around the code: ^mc4-([a-z]+)-")
        if self.form in ("parquet", "jsonl", "hub") and not self.columns.text.strip("?"):
            raise ValueError("columns.text must name a column")
        if self.form == "hub" and not self.hub:
            raise ValueError("form 'hub' needs a name in hub")


def named_columns(preset: Preset) -> dict[str, tuple[list[str], bool]]:
    """What is held to the keys that lead to it, and whether it may be missing; `only`'s columns under their own names."""
    columns = {each.name: getattr(preset.columns, each.name) for each in fields(Columns)} | {name: name for name in preset.only}
    return {
        role: (column.removesuffix("?").split("."), column.endswith("?"))
        for role, column in columns.items()
        if column and column != FILE
    }


@cache
def presets() -> dict[str, Preset]:
    """Every preset by its name."""
    with as_file(files(__package__ or "") / "presets" / "sources.toml") as path:
        return {name: read_table(table, Preset, f"{path.name}: {name}") for name, table in read_toml(path).items()}


def preset_of(name: str, changes: Mapping[str, Any] | None = None, file: str = "recipe", key: str = "preset") -> Preset:
    """The preset of a name, with the fields (of `columns`: the columns) that `changes` names changed.

    `file` and `key` say where a recipe names it. Raises RecipeError for an unknown name or field, or an impossible value.
    """
    if name not in presets():
        near = get_close_matches(name, presets(), n=1, cutoff=0.0)
        raise RecipeError(file, key, f"{name!r} is not a preset; did you mean {near[0]!r}? All: {', '.join(presets())}")
    chosen, changed = presets()[name], dict(changes or {})
    columns = {each.name: getattr(chosen.columns, each.name) for each in fields(Columns)} | dict(changed.get("columns", {}))
    table = {each.name: getattr(chosen, each.name) for each in fields(Preset)} | changed | {"columns": columns}
    return read_table(table, Preset, f"{file}: {key}")
