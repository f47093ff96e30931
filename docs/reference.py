"""Writes docs/recipes.md, the recipe reference, from the recipe dataclasses: `python docs/reference.py`; a test compares."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import sys
import textwrap
from pathlib import Path
from typing import Any, get_args, get_type_hints

from sea_lion import chain
from sea_lion.catalog.recipes import Recipe

TARGET = Path(__file__).parent / "recipes.md"
HEAD = """# Recipe reference

Generated from the recipe dataclasses by `python docs/reference.py`. A recipe is a TOML file, read strictly: an unknown key, a
wrong type or an impossible value is an error that names file, key and the nearest valid key. *Reference*: another artifact
(`corpus/tiny@1`) or the model of a stage (`stage:tiny-llama/cpt`). *Files*: glob patterns relative to the recipe's file, or
`package:…` relative to the installed package.

Every recipe has `kind`, `name` (`corpus/tiny`), `version` (raise it when the recipe changes; `dev` may be rebuilt freely and is
never promotable), `licence` (SPDX, added to the inputs' licences) and, outside the identity, `description` and `assumed`: a
table of key paths (`normalize`, `parents.0.weight`) to the reason for a value that the recipe's source leaves open.
"""


def field_notes(cls: type[Any]) -> dict[str, str]:
    """The line below each field of a dataclass."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(body, ast.ClassDef)
    notes = {}
    for field, note in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            is_note = isinstance(note, ast.Expr) and isinstance(note.value, ast.Constant)
            notes[field.target.id] = str(note.value.value) if is_note else ""  # type: ignore[attr-defined]
    return notes


def annotation(cls: type[Any], name: str) -> str:
    """A field's type as its source writes it."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(body, ast.ClassDef)
    for node in body.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == name:
            return ast.unparse(node.annotation)
    return ""


def default(field: dataclasses.Field[Any]) -> str:
    """A field's default as TOML would write it, empty when it is required."""
    if field.default is not dataclasses.MISSING:
        value = field.default
        if isinstance(value, bool):
            return f"`{str(value).lower()}`"
        return f"`{list(value)}`" if isinstance(value, tuple) else f"`{value!r}`"
    return "see the table" if field.default_factory is not dataclasses.MISSING else "**required**"


def table(cls: type[Any], seen: set[type[Any]]) -> list[str]:
    """The Markdown table of a dataclass' own fields, and those of the dataclasses inside it."""
    common = {field.name for field in dataclasses.fields(Recipe)} if issubclass(cls, Recipe) else set()
    notes, lines = field_notes(cls), ["| key | type | default | meaning |", "|---|---|---|---|"]
    inner: list[Any] = []
    for field in dataclasses.fields(cls):
        if field.name in common:
            continue
        kind = annotation(cls, field.name).replace("|", "\\|")
        note = " ".join(notes.get(field.name, "").split()).replace("|", "\\|")
        lines.append(f"| `{field.name}` | `{kind}` | {default(field)} | {note} |")
        hint = get_type_hints(cls)[field.name]
        inner += [part for part in (hint, *get_args(hint)) if dataclasses.is_dataclass(part) and part not in seen]
    for part in inner:
        seen.add(part)
        lines += ["", f"### {part.__name__}", "", inspect.getdoc(part) or "", "", *table(part, seen)]
    return lines


def reference() -> str:
    """The whole page."""
    parts = [HEAD]
    for kind, cls in chain.RECIPES.items():
        verb = f"made by `sea-lion {chain.KINDS[kind].verb}`" if kind in chain.KINDS else "read by `sea-lion run`"
        parts.append("\n".join([f"## {kind}", "", f"{inspect.getdoc(cls)} ({verb})", "", *table(cls, set()), ""]))
    return "\n".join(parts)


if __name__ == "__main__":
    TARGET.write_text(reference(), encoding="utf-8")
    print(f"{TARGET} written", file=sys.stderr)
