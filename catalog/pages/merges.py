"""The merges: parents, method and parameters, and what each language's score was before and after."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ..markup import Child, Html, inside, tag
from .evaluation import MOST_METRICS, compared_to, metric_name
from .parts import clipped, empty, figure, grouped, language_name, language_order, left_out, ref, section, signed, table
from .plots import SERIES, Line, Scale, dot, key, plot, reach, scale_of
from .source import Row, Source

MERGES = 12
"""Merges that are drawn, the last ones."""
HEIGHT = 28.0
Scores = dict[tuple[str, str], Row]
"""Model and language to their score."""
PLAIN = frozenset({"kind", "name", "version", "description", "licence", "method", "parents", "base"})
"""Fields of a merge's recipe that are no parameter of its method, or that are shown elsewhere."""


def merges_page(source: Source) -> list[Html]:
    """One section a merge, the last one first."""
    merges = [row for row in source.ask("models") if row["method"]]
    if not merges:
        return [empty("No models have been merged yet.", "sea-lion merge merge.toml merges checkpoints.")]
    note = left_out(len(merges), MERGES)
    return [_merge(source, row) for row in reversed(merges[-MERGES:])] + ([note] if note else [])


def _merge(source: Source, row: Row) -> Html:
    recipe: dict[str, Any] = json.loads(row["merge_recipe"] or "{}")
    named = {role["role"]: role["input_ref"] for role in source.ask("lineage") if role["ref"] == row["ref"]}
    base, parents = named.get("base", ""), [named[role] for role in named if role.startswith("parents")]
    parents = parents or [name for name in json.loads(row["parents"] or "[]") if name != base]
    given = recipe.get("parents") or []
    settings = [sorted(set(one) - {"model"}) for one in given if isinstance(one, dict)]
    columns = sorted({name for one in settings for name in one})
    body: list[list[Child]] = [[ref(base), "base", *["" for _ in columns]]] if base else []
    for i, parent in enumerate(parents):
        own = given[i] if i < len(given) and isinstance(given[i], dict) else {}
        body.append([ref(parent), f"parent {i + 1}", *[_value(own.get(name, "")) for name in columns]])
    return section(
        row["ref"].replace("/", "-").replace("@", "-"),
        ref(row["ref"]),
        inside(
            "Merged by ", tag("strong", row["method"]), f" from {len(parents)} parents", " onto a base" if base else "", "."
        ),
        tag("div", table(["Model", "Role", *columns], body), class_="card"),
        _parameters(recipe),
        _before_after(source, row["ref"], base, parents),
    )


def _value(value: Any) -> str:
    return clipped(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _parameters(recipe: dict[str, Any]) -> Html | None:
    shown = [(name, value) for name, value in sorted(recipe.items()) if name not in PLAIN and value not in (None, "", [], {})]
    if not shown:
        return None
    return tag("dl", [tag("div", tag("dt", name), tag("dd", _value(value))) for name, value in shown], class_="parameters")


def _before_after(source: Source, model: str, base: str, parents: Sequence[str]) -> list[Html]:
    compared = list(dict.fromkeys([*parents, base]))[: SERIES - 1]
    compared = [name for name in compared if name]
    charts = []
    for (suite, task, metric), rows in grouped(source.ask("scores"), "suite", "task", "metric").items():
        value = {(r["model"], r["language"]): r for r in rows if r["model"] in (model, *compared)}
        codes = language_order({code for name, code in value if name == model})
        if codes and any((name, code) in value for name in compared for code in codes):
            charts.append(_slopes(f"{metric_name(metric)}, {suite}/{task}", value, codes, model, compared, rows[0]))
    return charts[:MOST_METRICS]


def _slopes(title: str, value: Scores, codes: Sequence[str], model: str, compared: Sequence[str], first: Row) -> Html:
    """The merge as a filled mark, its parents as hollow ones; the line goes from the parents' best to the merge."""
    scale = scale_of(row["value"] for row in value.values())
    higher = bool(first["higher_is_better"])
    lines = [_before_line(code, value, model, compared, higher, scale) for code in codes]
    entries: list[tuple[int, Child]] = [(0, inside(ref(model), " merged"))]
    entries += [(i + 1, ref(name)) for i, name in enumerate(compared)]
    return figure(
        title,
        [plot(title, lines, scale, form="g", height=HEIGHT), key(entries, hollow=frozenset(range(1, SERIES)))],
        "The line and the figure are the change from the best parent; one below two standard errors is no evidence.",
        queries=["scores", "lineage"],
    )


def _before_line(code: str, value: Scores, model: str, compared: Sequence[str], higher: bool, scale: Scale) -> Line:
    mine = value[model, code]
    before = [value[name, code] for name in compared if (name, code) in value]
    marks: list[Child] = []
    figures: Child = f"{mine['value']:.3f}"
    if before:
        best = (max if higher else min)(before, key=lambda row: row["value"])
        change = mine["value"] - best["value"]
        marks.append(reach("better" if (change > 0) == higher else "worse", scale, best["value"], mine["value"], y=HEIGHT / 2))
        figures = inside(figures, tag("small", f"{signed(change, '.3f')} {compared_to(best, mine)}"))
    # Above and below the merge in turn, so that models that score alike stay apart.
    for i, name in enumerate(compared):
        y = HEIGHT / 2 + (6 + 2.5 * (i // 2)) * (1 if i % 2 else -1)
        marks.append(dot(i + 1, scale, value[name, code]["value"], hollow=True, y=y) if (name, code) in value else None)
    marks.append(dot(0, scale, mine["value"], y=HEIGHT / 2))
    about = f"{language_name(code)}: {mine['value']:.4f} merged" + "".join(
        f"; {value[name, code]['value']:.4f} {name}" for name in compared if (name, code) in value
    )
    return Line(label=language_name(code), about=about, marks=marks, figures=figures)
