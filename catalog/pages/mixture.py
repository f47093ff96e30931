"""The mixtures: what each planned to take from every source and language, and what the runs consumed of it."""

from __future__ import annotations

from collections.abc import Sequence

from ..markup import Child, Html, inside, tag
from .parts import (
    LISTED,
    brief,
    clipped,
    empty,
    figure,
    folded,
    grouped,
    language_name,
    language_order,
    left_out,
    ref,
    section,
    table,
)
from .plots import SERIES, Line, Scale, dot, key, legend, notch, plot, reach, scale_of, span
from .source import Row, Source

MIXTURES = 8
"""Mixtures that are drawn, the last ones by name."""
RUNS = 6


def mixture_page(source: Source) -> list[Html]:
    """Every part of the page that there are figures for."""
    found = grouped(source.ask("mixture"), "mixture")
    if not found:
        return [empty("No mixture has been planned yet.", "sea-lion build mixture.toml plans one from counted corpora.")]
    names = list(found)[-MIXTURES:]
    parts = [part for (name,) in names for part in _mixture(source, name, found[name,])]
    note = left_out(len(found), MIXTURES)
    return ([note] if note else []) + parts + [part for part in [_crawls(source)] if part]


def _mixture(source: Source, name: str, rows: Sequence[Row]) -> list[Html]:
    runs = [run for (run,) in grouped(rows, "run") if run]
    planned = list({(r["part"], r["corpus"], r["language"], r["source"]): r for r in rows}.values())
    return [
        section(
            name.replace("/", "-").replace("@", "-"),
            ref(name),
            f"{sum(row['tokens_planned'] for row in planned):,} tokens planned"
            + (f", trained on by {len(runs)} run{'s' * (len(runs) > 1)}." if runs else "; no run has trained on it yet."),
            _shares(source, name, planned),
            _languages(rows, planned, runs[:RUNS]),
            left_out(len(runs), RUNS),
        )
    ]


def _shares(source: Source, name: str, planned: Sequence[Row]) -> Html:
    """Planned and trained shares of the parts, one bar below the other."""
    weight = {part: sum(row["weight"] for row in own) for (part,), own in grouped(planned, "part").items()}
    parts = sorted(weight, key=lambda part: (-weight[part], part))
    colour = {part: f"k{min(i, SERIES - 1) + 1}" for i, part in enumerate(parts)}
    lines = [_stack("planned", [(colour[part], part, weight[part]) for part in parts], "")]
    kept = grouped([row for row in source.ask("parts") if row["mixture"] == name], "ref")
    for (run,), own in list(kept.items())[:RUNS]:
        share = {row["part"]: row["share"] or 0.0 for row in own}
        off = max(row["off_by_sequences"] or 0.0 for row in own)
        pieces = [(colour[part], part, share.get(part, 0.0)) for part in parts]
        lines.append(_stack(run.partition("/")[2] or run, pieces, f"at most {off:.2f} sequences from the plan"))
    return figure(
        "Shares of the parts",
        [
            plot(f"Planned and trained shares of {name}", lines, Scale(0.0, 1.0), form=".0%"),
            legend([(f"b{colour[part]}", inside(part, f" {weight[part]:.1%}")) for part in parts]),
        ],
        "Training counts whole packed sequences, so it may miss a share by less than one sequence.",
        queries=["mixture", "parts"],
    )


def _stack(label: str, pieces: Sequence[tuple[str, str, float]], remark: str) -> Line:
    scale, reached, marks = Scale(0.0, 1.0), 0.0, []
    for colour, _, share in pieces:
        marks.append(span(colour, scale, reached, reached + share, top=2, thick=16))
        reached += share
    about = f"{label}: " + ", ".join(f"{part} {share:.1%}" for _, part, share in pieces)
    return Line(label=clipped(label), about=about, marks=marks, figures=tag("small", remark))


def _languages(rows: Sequence[Row], planned: Sequence[Row], runs: Sequence[str]) -> Html:
    """Planned against consumed tokens of every language, source and corpus; epochs beside them."""
    consumed = {
        (row["run"], row["part"], row["corpus"], row["language"], row["source"]): row["tokens_consumed"] or 0
        for row in rows
        if row["run"]
    }
    order = language_order({str(row["language"]) for row in planned})
    planned = sorted(planned, key=lambda row: (order.index(row["language"]), row["part"], row["source"]))
    scale = scale_of([row["tokens_planned"] for row in planned] + list(consumed.values()), zero=True)
    lines = [_pair(row, [consumed.get((run, *_place(row)), 0) for run in runs], runs, scale) for row in planned[: 2 * LISTED]]
    body: list[list[Child]] = [
        [
            language_name(row["language"]), row["part"], row["source"], row["corpus"], f"{row['weight']:.2%}",
            row["tokens_available"], row["tokens_planned"], row["epochs_planned"],
            *[consumed.get((run, *_place(row)), 0) for run in runs],
        ]
        for row in planned
    ]  # fmt: skip
    return figure(
        "Planned and consumed, by language and source",
        [
            plot("Tokens planned and consumed", lines, scale),
            tag(
                "div",
                legend([("bplan", "planned")]),
                key([(i, inside("consumed by ", ref(run))) for i, run in enumerate(runs)]) if runs else None,
                class_="legends",
            ),
            folded(
                "As a table",
                table(
                    ["Language", "Part", "Source", "Corpus", "Share", "Available", "Planned", "Epochs", *runs], body, listed=400
                ),
            ),
        ],
        "The dotted tick is what the corpus has: a bar beyond it repeats text.",
        queries=["mixture"],
    )


def _place(row: Row) -> tuple[str, str, str, str]:
    return row["part"], row["corpus"], row["language"], row["source"]


def _pair(row: Row, consumed: Sequence[int], runs: Sequence[str], scale: Scale) -> Line:
    planned, available = row["tokens_planned"], row["tokens_available"]
    marks: list[Child] = [span("plan", scale, 0, planned)]
    marks += [notch(scale, available)] if available and available <= scale.high else []
    marks += [dot(i, scale, number) for i, number in enumerate(consumed)]
    if consumed:
        marks.insert(1, reach("quiet", scale, planned, consumed[0]))
    name = language_name(row["language"])
    figures = inside(brief(planned), tag("small", f"{row['epochs_planned']:.2f} epochs"))
    about = (
        f"{name}, {row['source']}: {planned:,} tokens planned of {available:,}, {row['epochs_planned']:.2f} epochs"
        + "".join(f"; {number:,} consumed by {run}" for run, number in zip(runs, consumed, strict=True))
    )
    label = inside(name, tag("small", f"{row['part']}, {row['source']}"))
    return Line(label=label, about=about, marks=marks, figures=figures)


def _crawls(source: Source) -> Html | None:
    """What the runs read, by crawl: known for runs that recorded the documents they read."""
    rows = source.ask("consumed")
    if not rows:
        return None
    runs = list(grouped(rows, "ref").items())[-MIXTURES:]
    boxes = []
    for (run,), own in runs:
        sums = {crawl: sum(row["tokens"] for row in some) for (crawl,), some in grouped(own, "crawl").items()}
        scale = scale_of(sums.values(), zero=True)
        lines = [
            Line(
                label=clipped(crawl or "no crawl"), about=f"{crawl or 'no crawl'}: {number:,} tokens",
                marks=[span("k1", scale, 0, number)], figures=brief(number),
            )
            for crawl, number in sorted(sums.items(), key=lambda item: (-item[1], item[0]))[:LISTED]
        ]  # fmt: skip
        boxes.append(figure(ref(run), plot(f"Tokens that {run} read, by crawl", lines, scale), queries=["consumed"]))
    return section(
        "consumed", "What the runs read, by crawl", "Tokens of the documents read, each as often as it was read.", boxes
    )
