"""The gates: where every stage stands, when each verdict fell and who signed for it, and the evidence as forest plots."""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import isfinite

from ..charts import MARKS
from ..markup import Child, Html, inside, tag
from .evaluation import made_in_order, metric_name
from .parts import badge, clipped, empty, figure, folded, grouped, language_name, language_order, left_out, ref, section, table
from .plots import Line, dot, notch, plot, reach, scale_of
from .source import Row, Source, asked

DRAWN = ("suite", "language")
"""Levels of a gate's tests that are drawn; single tasks are only counted."""
DECISIONS = 40
"""Decisions whose evidence is drawn, the last ones."""


def gates_page(source: Source) -> list[Html]:
    """Every part of the page that there are figures for."""
    decisions = decided(source)
    if not decisions:
        return [empty("No gate has been asked yet.", "sea-lion gate gate.toml decides whether a model may stand for a stage.")]
    outcomes = grouped(source.ask("outcomes"), "ref")
    shown = list(reversed(decisions))[:DECISIONS]
    return [
        _timeline(decisions),
        *[part for part in [_waivers(decisions)] if part],
        section(
            "evidence",
            "The evidence",
            "Each line is a difference between candidate and baseline on the same items, turned so that right of zero is "
            "better, with its confidence bounds. The dotted tick is the margin: to pass, the lower bound must stay to the "
            "right of it.",
            [_gate(row, outcomes.get((row["ref"],), [])) for row in shown],
            left_out(len(decisions), DECISIONS),
            tag("p", asked("outcomes"), class_="small"),
        ),
    ]


def decided(source: Source) -> list[Row]:
    """Every gate decision once, in the order of time, and of the models' making where that is the same."""
    place = {name: i for i, name in enumerate(made_in_order(source))}
    rows = {row["ref"]: row for row in source.ask("decisions")}.values()
    return sorted(rows, key=lambda row: (str(row["created"]), place.get(row["model"], len(place)), row["ref"]))


def standing(row: Row) -> str:
    """What became of a decision's candidate, in words."""
    if row["promotion"] and row["waiver_by"]:
        return f"Promoted under a waiver signed by {row['waiver_by']}: {row['waiver_reason']}"
    if row["promotion"]:
        return "Promoted"
    if row["kept"]:
        return f"Not promoted; the stage keeps {row['kept']}"
    return "Not promoted; the policy stops the chain here" if row["on_refusal"] == "stop" else "Not promoted"


def _timeline(decisions: Sequence[Row]) -> Html:
    shown = decisions[-DECISIONS:]
    return section(
        "stages",
        "Stages and verdicts",
        "A model may stand for a stage only when its gate lets it pass, or when somebody signs for it.",
        tag("ol", [_event(row) for row in shown], class_="timeline"),
        left_out(len(decisions), DECISIONS),
        tag("p", asked("decisions", "stages"), class_="small"),
    )


def _event(row: Row) -> Html:
    baselines = json.loads(row["baselines"] or "[]")
    against = [inside(", " if i else "", ref(name)) for i, name in enumerate(baselines)] or [inside("absolute floors only")]
    reason = str(row["reason"] or "").rstrip(".")
    return tag(
        "li",
        tag(
            "p",
            tag("strong", clipped(row["stage"])),
            " ",
            badge(row["verdict"]),
            " ",
            tag("time", _moment(row)),
            class_="event",
        ),
        tag("p", tag("strong", clipped(standing(row)))),
        tag("p", clipped(f"{reason[:1].upper()}{reason[1:]}.")) if reason else None,
        tag("p", ref(row["model"]), " against ", against, f", policy {row['policy']}", class_="small quiet"),
        class_=f"at-{row['verdict']}" if row["verdict"] in MARKS else "at-error",
    )


def _moment(row: Row) -> str:
    return row["created"].strftime("%d %b %Y, %H:%M") if row["created"] else ""


def _waivers(decisions: Sequence[Row]) -> Html | None:
    signed = [row for row in decisions if row["waiver_by"]]
    if not signed:
        return None
    body: list[list[Child]] = [
        [
            clipped(row["waiver_by"]), clipped(row["stage"]), ref(row["model"]), badge(row["verdict"]),
            clipped(row["waiver_reason"]), clipped(str(row["waiver_expires"] or "not stated")),
        ]
        for row in signed
    ]  # fmt: skip
    return section(
        "waivers",
        "Who signed for what",
        "Models that stand for a stage though their gate did not let them pass.",
        tag("div", table(["Signed by", "Stage", "Model", "Verdict", "Why", "Until"], body), class_="card"),
        tag("p", asked("decisions"), class_="small"),
    )


def _gate(decision: Row, outcomes: Sequence[Row]) -> Html:
    summary = inside(
        badge(decision["verdict"]),
        tag("strong", clipped(decision["stage"])),
        tag("span", f" {counted(outcomes)}" if outcomes else " no test was made", class_="quiet"),
    )
    if not outcomes:
        return folded(summary, tag("p", clipped(decision["reason"] or "")))
    return folded(summary, evidence(outcomes), is_open=decision["verdict"] != "pass")


def evidence(outcomes: Sequence[Row]) -> Html:
    """A decision's tests as forest plots, one a baseline and metric; its floors as a table."""
    plots = [
        _forest(baseline, metric, rows)
        for (baseline, metric), rows in grouped([o for o in outcomes if o["level"] in DRAWN], "baseline", "metric").items()
    ]
    floors = [o for o in outcomes if o["level"] == "floor"]
    tasks = [o for o in outcomes if o["level"] == "task"]
    return inside(
        plots,
        _floors(floors) if floors else None,
        tag("p", f"Tests of single tasks besides: {counted(tasks)}.", class_="small quiet") if tasks else None,
    )


def counted(outcomes: Sequence[Row]) -> str:
    """Tests by verdict, in words."""
    count = {verdict: sum(o["verdict"] == verdict for o in outcomes) for verdict in MARKS}
    return ", ".join(f"{number} {verdict}" for verdict, number in count.items() if number)


def _place(outcome: Row) -> str:
    """The language of a test's node, empty for the whole suite."""
    return str(outcome["node"]).partition("/")[2]


def _forest(baseline: str, metric: str, rows: Sequence[Row]) -> Html:
    title = f"{metric_name(metric)} against {baseline}"
    scale = scale_of([0.0, *(row[name] for row in rows for name in ("lower", "upper")), *(-row["margin"] for row in rows)])
    places = ["", *language_order({_place(row) for row in rows if _place(row)})]
    lines = []
    for row in sorted(rows, key=lambda row: places.index(_place(row))):
        verdict = row["verdict"] if row["verdict"] in MARKS else "error"
        about = (
            f"{row['node']}: {row['candidate_value']:.4f} against {row['baseline_value']:.4f}, "
            f"adjusted p {row['p_value']:.3g}, {row['items']} items in {row['clusters']} clusters: {row['verdict']}"
        )
        marks: list[Child] = [
            notch(scale, -row["margin"]) if row["margin"] and isfinite(row["margin"]) else None,
            reach(verdict, scale, row["lower"], row["upper"]),
            tag("g", dot(0, scale, row["delta"]), class_=f"mark-{verdict}"),
        ]
        figures = inside(
            tag("span", f"{MARKS[verdict]} {verdict}", class_=f"word {verdict}"),
            tag("small", f"{row['delta']:+.3f} [{row['lower']:+.3f}, {row['upper']:+.3f}]"),
        )
        label = language_name(_place(row)) if _place(row) else "Whole suite"
        lines.append(Line(label=clipped(label), about=about, marks=marks, figures=figures))
    return figure(title, plot(title, lines, scale, form="+g", strong=0.0), queries=["outcomes"])


def _floors(floors: Sequence[Row]) -> Html:
    body: list[list[Child]] = [
        [o["node"], o["candidate_value"], o["baseline_value"], o["lower"], badge(o["verdict"])] for o in floors
    ]
    return inside(tag("h3", "Floors"), table(["Node", "Score", "Floor", "Lower bound above the floor", "Verdict"], body))
