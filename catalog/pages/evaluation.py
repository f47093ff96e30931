"""The evaluations: one heat table a metric, models side by side with their errors."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import hypot

from ..lineage import MODEL
from ..markup import Child, Html, inside, tag
from .parts import clipped, empty, figure, folded, grouped, language_name, language_order, left_out, ref, section
from .plots import SERIES, Line, dot, key, legend, plot, reach, scale_of
from .source import Row, Source

METRICS = {
    "bits_per_byte": ("Bits per byte", "How many bits the model needs for a byte of text it has not seen. Lower is better."),
    "acc": ("Accuracy", "Share of multiple-choice items answered rightly. Higher is better."),
    "margin": ("Margin", "Log-probability of the right answer among the choices, nats: 0 at best. Higher is better."),
}
"""Metric to its heading and what it says; others go by their own name."""
MODELS = 40
"""Rows of a heat table: those that stand for a stage, then the last ones."""
BESIDE = 4
"""Models drawn side by side."""
MOST_METRICS = 12
SHADES = 8


def metric_name(metric: str) -> str:
    """A metric's heading."""
    return METRICS[metric][0] if metric in METRICS else metric.replace("_", " ")


def compared_to(before: Row, after: Row) -> str:
    """What a score's change means, as far as the standard errors of two independent scores let one say."""
    change = after["value"] - before["value"]
    if not change:
        return "same"
    error = hypot(before["stderr"] or 0.0, after["stderr"] or 0.0)
    if abs(change) < 2 * error:
        return "within error"
    return "better" if (change > 0) == bool(after["higher_is_better"]) else "worse"


def evaluation_page(source: Source) -> list[Html]:
    """One section a suite, task and metric."""
    groups = grouped(source.ask("scores"), "suite", "task", "metric")
    if not groups:
        return [empty("No model has been scored yet.", "sea-lion evaluate evaluation.toml scores one.")]
    first = list(METRICS)
    keys = sorted(groups, key=lambda key: (first.index(key[2]) if key[2] in first else len(first), key))
    shown = [_scores(source, key, groups[key], f"scores-{i}") for i, key in enumerate(keys[:MOST_METRICS])]
    note = left_out(len(keys), MOST_METRICS)
    return shown + ([note] if note else [])


def made_in_order(source: Source) -> list[str]:
    """The models, each after those it was made from, otherwise in the order of their making: times may be equal, or wrong."""
    parents = {str(row["ref"]): json.loads(row["parents"] or "[]") for row in source.ask("models")}
    ordered: dict[str, None] = {}
    for name in parents:
        waiting = [name]
        while waiting:
            behind = [other for other in parents[waiting[-1]] if other in parents and other not in ordered]
            if behind and behind[0] not in waiting:  # a record that names itself as its past is forged, and must not hang us
                waiting.append(behind[0])
            else:
                ordered[waiting.pop()] = None
    return list(ordered)


def parents_of(source: Source) -> dict[str, str]:
    """Model to the one it was trained from or merged onto; the first models have none."""
    found: dict[str, dict[str, str]] = {}
    kinds = {row["ref"] for row in source.ask("models")}
    for row in source.ask("lineage"):
        if row["kind"] == MODEL and row["input_ref"] in kinds:
            found.setdefault(row["ref"], {})[row["role"]] = row["input_ref"]
    return {name: roles.get("model") or roles.get("base") or next(iter(roles.values())) for name, roles in found.items()}


def _scores(source: Source, key: tuple[str, ...], found: Sequence[Row], anchor: str) -> Html:
    suite, task, metric = key
    higher = bool(found[0]["higher_is_better"])
    meaning = METRICS[metric][1] if metric in METRICS else "Higher is better." if higher else "Lower is better."
    codes = language_order({str(row["language"]) for row in found})
    models = _models(source, {str(row["model"]) for row in found})
    score = {(row["model"], row["language"]): row for row in found}
    return section(
        anchor,
        inside(clipped(metric_name(metric)), ", by language"),
        inside(meaning, " Suite ", clipped(suite), ", task ", clipped(task), "."),
        _heat(source, score, models[:MODELS], codes, higher),
        left_out(len(models), MODELS),
        _beside(source, score, models, codes, metric_name(metric)),
    )


def _models(source: Source, scored: set[str]) -> list[str]:
    """The scored models in the order of their making, but when they are many, those of the stages before all others."""
    made = [name for name in made_in_order(source) if name in scored]
    made += sorted(scored - set(made))
    if len(made) <= MODELS:
        return made
    standing = {row["model"] for row in source.ask("stages")}
    return [name for name in made if name in standing] + [name for name in reversed(made) if name not in standing]


def _heat(source: Source, score: dict[tuple[str, str], Row], models: Sequence[str], codes: Sequence[str], higher: bool) -> Html:
    parents = parents_of(source)
    mean: dict[str, float] = {}
    for name in models:
        own = [score[name, code]["value"] for code in codes if (name, code) in score]
        mean[name] = sum(own) / len(own)
    change = {
        (name, code): score[name, code]["value"] - score[parents[name], code]["value"]
        for name in models
        for code in codes
        if name in parents and (name, code) in score and (parents[name], code) in score
    }
    change |= {(name, ""): mean[name] - mean[parents[name]] for name in models if parents.get(name) in mean}
    # The largest changes come with the first training; a bent scale keeps the later ones visible beside them.
    most = max((abs(value) for value in change.values()), default=0.0) or 1.0

    def cell(name: str, code: str) -> Html:
        if code and (name, code) not in score:
            return tag("td", "–", class_="quiet", title="not scored")
        value = score[name, code]["value"] if code else mean[name]
        error = (
            f" ± {score[name, code]['stderr']:.3f}, {score[name, code]['items']:,} items" if code else ", mean of the languages"
        )
        about = f"{value:.4f}{error}"
        moved = change.get((name, code))
        if moved is None:
            return tag("td", f"{value:.3f}", title=about)
        tone = "better" if (moved > 0) == higher else "worse"
        shade = round(SHADES * (abs(moved) / most) ** 0.4)
        arrow = "▲" if moved > 0 else "▼" if moved < 0 else "="
        about += f"; {moved:+.4f} from {parents[name]}"
        return tag("td", f"{value:.3f}", tag("small", f"{arrow} {abs(moved):.3f}"), class_=f"{tone[0]}{shade}", title=about)

    columns = ["", *codes] if len(codes) > 1 else list(codes)
    head = tag("tr", tag("th", "Model", scope="col"), [tag("th", _column(code), scope="col") for code in columns])
    body = [
        tag("tr", tag("th", ref(name.partition("/")[2] or name), scope="row"), [cell(name, code) for code in columns])
        for name in models
    ]
    return figure(
        None,
        [
            tag("div", tag("table", tag("thead", head), tag("tbody", body), class_="heat"), class_="scroll", tabindex="0"),
            legend([("bbetter", "better than the parent"), ("bworse", "worse than the parent")]),
        ],
        "The small figure is the change from the model it was trained from or merged onto; point at a cell for its error.",
        queries=["scores", "lineage"],
    )


def _column(code: str) -> Child:
    return "Mean" if not code else tag("abbr", code, title=language_name(code))


def _beside(
    source: Source, score: dict[tuple[str, str], Row], models: Sequence[str], codes: Sequence[str], title: str
) -> Html | None:
    """The models that stand for stages, the last of them, on one scale with a standard error either side."""
    standing = {row["model"] for row in source.ask("stages")}
    shown = [name for name in models if name in standing][-BESIDE:] or list(models)[-BESIDE:]
    if len(shown) < 2:
        return None
    chart = beside(title, {(name, code): score[name, code] for name in shown for code in codes if (name, code) in score}, shown)
    return folded(inside("Side by side, with standard errors: ", ", ".join(shown)), chart)


def beside(
    title: str, score: Mapping[tuple[str, str], Row], models: Sequence[str], figures: Mapping[str, Child] | None = None
) -> Html:
    """Scores of a few models by language, each a mark of its own with a standard error either side.

    `figures` are what stands beside each language's marks, else the scores.
    """
    scale = scale_of([row["value"] + side * (row["stderr"] or 0.0) for row in score.values() for side in (-1, 1)])
    height, lines = 14.0 * max(2, len(models)), []
    for code in language_order({code for _, code in score}):
        own = [(i, name, score[name, code]) for i, name in enumerate(models) if (name, code) in score]
        marks: list[Child] = []
        for place, (i, _, row) in enumerate(own):
            y = height * (place + 1) / (len(own) + 1)
            error = row["stderr"] or 0.0
            marks += [reach(f"k{i % SERIES + 1}", scale, row["value"] - error, row["value"] + error, y=y)]
            marks += [dot(i, scale, row["value"], y=y)]
        about = f"{language_name(code)}: " + "; ".join(f"{n} {r['value']:.4f} ± {r['stderr'] or 0.0:.4f}" for _, n, r in own)
        each = [tag("small", f"{r['value']:.3f} ± {r['stderr'] or 0.0:.3f}") for _, _, r in own]
        lines.append(
            Line(
                label=language_name(code),
                about=about,
                marks=marks,
                figures=(figures or {}).get(code, tag("span", each, class_="each")),
            )
        )
    chart = [
        tag("div", plot(title, lines, scale, form="g"), class_="tall"),
        key([(i, ref(name)) for i, name in enumerate(models)]),
    ]
    return figure(title, chart, queries=["scores"])
