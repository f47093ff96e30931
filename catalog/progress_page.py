"""The page of what runs now: bars, the loss so far, pace and time left. It asks for itself again, without a script."""

from __future__ import annotations

import math
import time
from importlib.resources import files

from .charts import line_chart
from .markup import Child, Html, inside, tag
from .progress import Progress

BUSY, IDLE = 2, 10
"""Seconds until the page asks for itself again, while something runs and while nothing does."""
STYLE = """
header.top { padding-top: 40px; } article { margin: 20px 0; } article h2 { font-size: 22px; overflow-wrap: anywhere; }
progress { width: 100%; height: 14px; accent-color: var(--accent); }
dl.now { display: flex; flex-wrap: wrap; gap: 4px 32px; margin: 12px 0; }
dl.now dt { color: var(--soft); font-size: 13px; } dl.now dd { margin: 0; } article svg { max-width: 560px; width: 100%; }
"""
MARKS = {"running": "▶", "failed": "✕", "interrupted": "◐", "stopped": "■"}


def progress_page(found: list[Progress], problem: str) -> str:
    """The page's HTML; `problem` is what keeps the other pages from being brought up to date, or nothing."""
    running = [progress for progress in found if progress.state == "running"]
    tasks = [progress for progress in running if progress.kind != "chain"]
    title = "Nothing runs now" if not running else f"{len(tasks) or len(running)} in the making"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="refresh", content=BUSY if running else IDLE),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", f"{title} · SEA-LION"),
        tag("style", Html(files(__package__ or "").joinpath("report.css").read_text("utf-8") + STYLE)),
    )
    body = tag(
        "body",
        tag(
            "header",
            tag("p", "SEA-LION, as it happens", class_="eyebrow"),
            tag("h1", title),
            tag("p", f"The report could not be brought up to date: {problem}", class_="lead") if problem else None,
            tag("nav", tag("a", "The report", href="index.html"), tag("a", "as JSON", href="api/progress")),
            class_="top",
        ),
        tag("main", [_article(progress) for progress in found]),
    )
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def _article(progress: Progress) -> Html:
    share = min(1.0, progress.done / progress.total) if progress.total > 0 else None
    facts: list[tuple[str, Child]] = [("Doing", progress.stage or "begun")]
    if progress.total > 0:
        facts.append(("Done", f"{progress.done:,} of {progress.total:,} {progress.unit}"))
    if progress.loss is not None:
        facts.append(("Loss", f"{progress.loss:.4f}"))
    if progress.lr is not None:
        facts.append(("Learning rate", f"{progress.lr:.2e}"))
    if progress.tokens_per_second is not None:
        facts.append(("Tokens a second", f"{progress.tokens_per_second:,.0f}"))
    if progress.seconds_left is not None:
        facts.append(("Left, about", span(progress.seconds_left)))
    facts += [("Since", span(progress.updated - progress.started)), ("Heard of", f"{span(time.time() - progress.updated)} ago")]
    facts.append(("Process", f"{progress.pid} on {progress.host}"))
    return tag(
        "article",
        tag("p", f"{MARKS[progress.state]} {progress.state} · {progress.kind}", class_="small quiet"),
        tag("h2", progress.ref),
        tag("p", progress.problem) if progress.problem else None,
        tag("progress", value=f"{share:.4f}", max=1, aria_label=f"{progress.ref}: {share:.0%}") if share is not None else None,
        tag("dl", [tag("div", tag("dt", name), tag("dd", value)) for name, value in facts], class_="now"),
        _curve(progress),
        class_="card",
    )


def _curve(progress: Progress) -> Html | None:
    points = [(step, loss) for step, loss in progress.losses if math.isfinite(loss)]
    if len(points) < 2:
        return None
    return inside(line_chart(f"Loss of {progress.ref}", [step for step, _ in points], [loss for _, loss in points]))


def span(seconds: float) -> str:
    """A time for people.

    >>> span(4.2), span(131), span(7300), span(-3)
    ('4 s', '2 min 11 s', '2 h 1 min', '0 s')
    """
    minutes, rest = divmod(max(0, round(seconds)), 60)
    if not minutes:
        return f"{rest} s"
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
