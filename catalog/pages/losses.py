"""What the training runs did to each language: losses over the steps, held-out text, and the pace of the runs.

Each language has a strip of its own, drawn on a scale of its own: in one picture eleven curves hide each other, and what
counts is whether a language still gets better, and how far it is.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..markup import Child, Html, tag
from .parts import brief, figure, grouped, language_name, language_order, left_out, ref, section, table
from .plots import SERIES, Line, Scale, curve, dot, key, plot, scale_of
from .source import Row, Source, asked

RUNS = 6
"""Runs that are drawn, the last ones."""


def language_parts(source: Source, runs: Sequence[str]) -> list[Html]:
    """The sections of the runs (in the order of their making) that there are figures for."""
    parts = [_by_language(source, runs), _heldout(source, runs), _pace(source, runs)]
    return [part for part in parts if part is not None]


def _by_language(source: Source, runs: Sequence[str]) -> Html | None:
    found = grouped(source.ask("language-losses"), "ref")
    drawn = [name for name in runs if (name,) in found]
    if not drawn:
        return None
    return section(
        "language-losses",
        "Loss by language",
        "Nats a token over the steps, each language on a scale of its own; beside it the first and the last, and the last in "
        "bits per byte, which can be compared between languages and tokenizers. Of the last runs.",
        [_run(name, found[name,]) for name in reversed(drawn[-RUNS:])],
        left_out(len(drawn), RUNS),
    )


def _run(name: str, rows: Sequence[Row]) -> Html:
    by_code = grouped(rows, "language")
    lines = []
    for code in language_order(code for (code,) in by_code):
        own = by_code[code,]
        first, last = own[0]["loss"], own[-1]["loss"]
        bits = own[-1]["bits_per_byte"]
        about = f"{language_name(code)}: {first:.3f} at first, {last:.3f} nats a token at step {own[-1]['step']:,}"
        lines.append(
            Line(
                label=language_name(code),
                about=about,
                marks=[curve("k1", [row["step"] for row in own], [row["loss"] for row in own], height=28)],
                figures=tag("span", f"{first:.2f} → {last:.2f}", tag("small", f"{bits:.3f} bits/byte" if bits else "")),
            )
        )
    title = f"Training loss of each language, {name}"
    return figure(ref(name), plot(title, lines, height=28), queries=["language-losses"])


def _heldout(source: Source, runs: Sequence[str]) -> Html | None:
    measured = [row for row in source.ask("heldout") if row["bits_per_byte"] is not None]
    latest: dict[tuple[str, str, str], Row] = {}
    for row in measured:  # in the order of their steps
        latest[row["language"], row["source"], row["ref"]] = row
    drawn = [name for name in runs if any(row["ref"] == name for row in measured)]
    if not drawn:
        return None
    shown = drawn[-RUNS:]
    own = {place: row for place, row in latest.items() if place[2] in shown}
    scale = scale_of(row["bits_per_byte"] for row in own.values())
    codes = language_order({code for code, _, _ in own})
    height = 14.0 * max(2, len(shown))
    lines = [
        _heldout_line(code, name, [(i, run, own.get((code, name, run))) for i, run in enumerate(shown)], scale, height)
        for code in codes
        for name in sorted({name for known, name, _ in own if known == code})
    ]
    chart = [
        tag("div", plot("Bits per byte of held-out text", lines, scale, form="g", height=height), class_="tall"),
        key([(i, ref(run)) for i, run in enumerate(shown)]),
    ]
    return section(
        "heldout",
        "Held-out text",
        "Bits per byte of text that no run trained on, after the last step; less is better.",
        figure("Bits per byte by language and source", chart, queries=["heldout"]),
        left_out(len(drawn), RUNS),
    )


def _heldout_line(code: str, name: str, own: Sequence[tuple[int, str, Row | None]], scale: Scale, height: float) -> Line:
    known = [(i, run, row) for i, run, row in own if row is not None]
    marks: list[Child] = [
        dot(i % SERIES, scale, row["bits_per_byte"], y=height * (place + 1) / (len(known) + 1))
        for place, (i, _, row) in enumerate(known)
    ]
    about = f"{language_name(code)} {name}: " + "; ".join(f"{run} {row['bits_per_byte']:.4f}" for _, run, row in known)
    each = [tag("small", f"{row['bits_per_byte']:.3f}") for _, _, row in known]
    label = tag("span", language_name(code), tag("small", name) if name else None)
    return Line(label=label, about=about, marks=marks, figures=tag("span", each, class_="each"))


def _pace(source: Source, runs: Sequence[str]) -> Html | None:
    found = {row["ref"]: row for row in source.ask("pace")}
    shown = [found[name] for name in runs if name in found]
    if not shown:
        return None
    headings = ["Run", "Processes", "Tokens/s", "MFU", "MFU, causal", "Peak memory", "Waiting for data", "Slowest/fastest"]
    return section(
        "pace",
        "Pace",
        "While training, loading and export left out; every position counts as a token. MFU is the share of the devices' bf16 "
        "peak (unknown where the device is), with all of the attention or only what the causal mask leaves of it. Memory is of "
        "the fullest process; the last column compares the processes' own work, at its worst.",
        table(headings, [_pace_line(row) for row in reversed(shown)]),
        tag("p", asked("pace"), class_="small"),
    )


def _pace_line(row: Row) -> list[Child]:
    def share(value: float | None) -> str:
        return "–" if value is None else f"{100 * value:.1f}%"

    return [
        ref(row["ref"]), row["processes"], brief(row["tokens_per_second"]), share(row["mfu"]), share(row["mfu_causal"]),
        f"{(row['peak_memory'] or 0) / 1e9:.2f} GB", share(row["waiting"]), f"{row['spread'] or 1.0:.2f}",
    ]  # fmt: skip
