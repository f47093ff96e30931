"""The merges: parents, method and settings, what they did to the weights, and each language's score before and after."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ..markup import Child, Html, inside, tag
from .evaluation import MOST_METRICS, compared_to, metric_name
from .layers import layer_parts
from .parts import clipped, empty, figure, grouped, language_name, language_order, left_out, ref, section, signed, table
from .plots import SERIES, Line, Scale, dot, key, plot, reach, scale_of
from .questions import TRIALS
from .source import Row, Source

MERGES = 12
"""Merges that are drawn, the last ones."""
HEIGHT = 28.0
Scores = dict[tuple[str, str], Row]
"""Model and language to their score."""
PLAIN = frozenset({"kind", "name", "version", "description", "licence", "method", "parents", "base", "assumed"})
"""Fields of a merge's recipe that are no setting, or that are shown elsewhere."""
UNSET: tuple[Any, ...] = (None, "", [], {})
"""Values of fields that say nothing."""


def merges_page(source: Source) -> list[Html]:
    """One section a merge, the last one first; a search is one merge, its trials a table there."""
    merges = [row for row in source.ask("models") if row["method"] and TRIALS not in row["ref"]]
    if not merges:
        return [empty("No models have been merged yet.", "sea-lion merge merge.toml merges checkpoints.")]
    drawn = [row["ref"] for row in merges[-MERGES:]]
    note = left_out(len(merges), MERGES)
    return [_merge(source, row, drawn) for row in reversed(merges[-MERGES:])] + ([note] if note else [])


def _merge(source: Source, row: Row, drawn: Sequence[str]) -> Html:
    recipe: dict[str, Any] = json.loads(row["merge_recipe"] or "{}")
    named = {role["role"]: role["input_ref"] for role in source.ask("lineage") if role["ref"] == row["ref"]}
    base = named.get("base", "")
    parents = [named[role] for role in sorted(named, key=_place) if role.startswith("parents")]
    parents = parents or [name for name in json.loads(row["parents"] or "[]") if name != base]
    did = layer_parts(source, row["ref"], [linked(name, drawn) for name in parents])
    return section(
        _anchor(row["ref"]),
        ref(row["ref"]),
        inside(
            "Merged by ",
            tag("strong", row["method"]),
            f" from {len(parents)} parent{'s'[: len(parents) != 1]}",
            " onto a base" if base else "",
            ".",
        ),
        tag("div", _models(recipe, base, parents, drawn), _settings(recipe), class_="card"),
        _trials(source, row["ref"]),
        _unmeasured(recipe) if did is None else did,
        _before_after(source, row["ref"], base, parents),
    )


def _place(role: str) -> tuple[str, int]:
    """Orders roles by their number, so that the tenth parent is not the second."""
    name, _, number = role.partition(".")
    return name, int(number.partition(".")[0]) if number.partition(".")[0].isdigit() else 0


def _anchor(name: str) -> str:
    return name.replace("/", "-").replace("@", "-")


def linked(name: str, drawn: Sequence[str]) -> Html:
    """A model's reference, as a link to its own section or to the lineage that it is in."""
    return tag("a", ref(name), href=f"#{_anchor(name)}" if name in drawn else "lineage.html")


def _models(recipe: dict[str, Any], base: str, parents: Sequence[str], drawn: Sequence[str]) -> Html:
    """Base and parents with what the recipe says of each."""
    given = [one if isinstance(one, dict) else {} for one in recipe.get("parents") or []]
    own = [given[i] if i < len(given) else {} for i in range(len(parents))]
    columns = sorted({name for one in own for name, value in one.items() if name != "model" and value not in UNSET})
    assumed = _assumed(recipe)
    body: list[list[Child]] = [[linked(base, drawn), "base", *["" for _ in columns]]] if base else []
    for i, parent in enumerate(parents):
        cells = [_marked(own[i].get(name, ""), f"parents.{i}.{name}", assumed) for name in columns]
        body.append([linked(parent, drawn), f"parent {i + 1}", *cells])
    return table(["Model", "Role", *(name.replace("_", " ") for name in columns)], body)


def _assumed(recipe: dict[str, Any]) -> dict[str, str]:
    given = recipe.get("assumed")
    return {str(key): str(reason) for key, reason in given.items()} if isinstance(given, dict) else {}


def _marked(value: Any, key: str, assumed: dict[str, str]) -> Child:
    """A setting's value, with a mark and the reason as a tooltip where it is assumed."""
    shown = "" if value in UNSET else _value(value)
    return inside(shown, " ", tag("span", "assumed", class_="assumed", title=assumed[key])) if key in assumed else shown


def _trials(source: Source, search: str) -> Html | None:
    """The best trials of a search, the one that became its result first; None where there were none."""
    trials = [row for row in source.ask("merge-trials") if row["ref"] == search]
    if not trials:
        return None
    body: list[list[Child]] = []
    for row in trials:
        value = "" if row["value"] is None else f"{row['value']:.4g}"
        body.append(
            [f"trial {row['trial']}", row["method"], clipped(row["settings"] or ""), value, clipped(row["failed"] or "")]
        )
    return figure(
        f"The best of {trials[0]['tried']:,} trials",
        table(["Trial", "Method", "Settings", "Score", "Failed"], body),
        "The first one is this model. Higher scores are better.",
        queries=["merge-trials"],
    )


def _unmeasured(recipe: dict[str, Any]) -> Html:
    """Why there is nothing to see of what a merge did."""
    why = (
        "mergekit merged it, which does not measure that"
        if recipe.get("engine") == "mergekit"
        else "nothing measured that when it was made"
    )
    return tag("p", f"What it did to the weights is not on record: {why}.", class_="small quiet")


def _value(value: Any) -> Child:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return clipped(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _settings(recipe: dict[str, Any]) -> Html | None:
    """Every setting as it was used, the assumed ones marked, and why they are what they are."""
    assumed = _assumed(recipe)
    shown = [(name, value) for name, value in sorted(recipe.items()) if name not in PLAIN and value not in UNSET]
    if not shown:
        return None
    terms = [tag("div", tag("dt", name.replace("_", " ")), tag("dd", _marked(value, name, assumed))) for name, value in shown]
    reasons = [tag("li", tag("code", key), ": ", clipped(reason)) for key, reason in assumed.items()]
    return inside(
        tag("dl", terms, class_="parameters"),
        tag("div", tag("p", "Assumed, as no source says:", class_="small"), tag("ul", reasons), class_="reasons")
        if reasons
        else None,
    )


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
