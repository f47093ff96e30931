"""The training runs: losses, also by language, learning rates, tokens, throughput."""

from __future__ import annotations

from collections.abc import Sequence

from ..charts import line_chart, running_mean
from ..markup import Child, Html, inside, tag
from .losses import language_parts
from .parts import brief, duration, empty, grouped, left_out, ref, section, table
from .source import Row, Source, asked

RUNS = 48
"""Runs that are drawn, the last ones."""


def training_page(source: Source) -> list[Html]:
    """Every part of the page that there are figures for."""
    runs = [row for row in source.ask("models") if row["steps"]]
    if not runs:
        return [empty("Nothing has been trained yet.", "sea-lion train run.toml trains a checkpoint and keeps its log.")]
    logs = grouped(source.ask("losses"), "ref")
    drawn = [row for row in runs if any(point["loss"] is not None for point in logs.get((row["ref"],), []))]
    return [
        _curves(drawn, {name: log for (name,), log in logs.items()}),
        *language_parts(source, [row["ref"] for row in runs]),
        section(
            "runs",
            "The runs",
            "Tokens are those in the loss. Tokens a second are over the whole making, loading and saving included.",
            table(
                [
                    "Run",
                    "Objective",
                    "Steps",
                    "Tokens",
                    "Tokens/s",
                    "Time",
                    "Peak memory",
                    "Last loss",
                    "Skipped",
                    "Not a number",
                ],
                [_run(row, logs.get((row["ref"],), [])) for row in reversed(runs)],
            ),
            tag("p", asked("models", "losses"), class_="small"),
        ),
    ]


def _run(row: Row, log: Sequence[Row]) -> list[Child]:
    losses = [point["loss"] for point in log if point["loss"] is not None]
    seconds = row["seconds"] or 0.0
    tail = losses[-max(1, len(losses) // 10) :]
    broken = sum(point["broken"] for point in log)
    return [
        ref(row["ref"]), row["stage"], row["steps"], row["tokens"] or 0, int((row["tokens"] or 0) / seconds) if seconds else 0,
        duration(seconds), f"{(row['peak_memory_bytes'] or 0) / 1e9:.2f} GB", f"{sum(tail) / len(tail):.3f}" if tail else "–",
        sum(point["skipped"] for point in log), tag("strong", f"✕ {broken}") if broken else "none",
    ]  # fmt: skip


def _curves(runs: Sequence[Row], logs: dict[str, list[Row]]) -> Html:
    return section(
        "losses",
        "Losses",
        "Nats a token (SimPO: its own loss, a pair) over the steps: the pale band is the lowest and the highest step, the "
        "strong line the running mean, the dashed one the learning rate on a scale of its own. Each run has its own scale; "
        "objectives differ, so compare shapes.",
        tag("div", [_curve(row, logs[row["ref"]]) for row in reversed(runs[-RUNS:])], class_="multiples"),
        left_out(len(runs), RUNS),
        tag("p", asked("losses", "models"), class_="small"),
    )


def _curve(row: Row, log: Sequence[Row]) -> Html:
    known = [point for point in log if point["loss"] is not None]
    broken = sum(point["broken"] for point in log)
    mean = running_mean([point["loss"] for point in known], max(1, len(known) // 25))
    name = row["ref"]
    title = f"Training loss of {name}: {known[0]['loss']:.3f} at first, {mean[-1]:.3f} at step {known[-1]['step']:,}"
    chart = line_chart(
        title,
        [point["step"] for point in known],
        mean,
        low=[point["lowest"] for point in known],
        high=[point["highest"] for point in known],
        rates=[point["lr"] for point in known],
        broken=[point["step"] for point in log if point["broken"]],
    )
    seconds = row["seconds"] or 0.0
    rate = f" · {brief((row['tokens'] or 0) / seconds)} tokens/s" if seconds and row["tokens"] else ""
    peak = max((point["lr"] or 0.0 for point in known), default=0.0)
    return tag(
        "figure",
        tag("h3", ref(name.partition("/")[2] or name)),
        tag("p", f"{row['stage']} · {known[0]['loss']:.2f} → {mean[-1]:.2f}", class_="small quiet"),
        chart,
        tag(
            "p",
            f"{brief(row['tokens'] or 0)} tokens in {row['steps']:,} steps{rate} · peak lr {peak:.2g}",
            class_="small quiet",
        ),
        tag("p", inside(tag("strong", "✕ "), f"{broken:,} steps whose loss is no number"), class_="small") if broken else None,
    )
