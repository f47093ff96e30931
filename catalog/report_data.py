"""The report's sections on data: what was read, removed, kept, counted and mixed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from . import index
from .languages import LANGUAGES, UNKNOWN
from .markup import Child, Html, inside, tag
from .store import Store
from .tables import cell

Row = dict[str, Any]
COLOURS = 6
"""Colour classes `k1` to `k6`."""


def rows(store: Store, sql: str) -> list[Row]:
    """The rows of a query over the index, by column."""
    columns, found = index.query(store, sql)
    return [dict(zip(columns, values, strict=True)) for values in found]


def language_name(code: str) -> str:
    """The language's English name, also of what is not a language."""
    named = {"code": "Source code", UNKNOWN: "Not yet identified", "": "All"}
    return LANGUAGES[code].name if code in LANGUAGES else named.get(code, code)


def language_order(codes: set[str]) -> list[str]:
    """Codes in the platform's order of languages, the others after them by name."""
    known = [code for code in LANGUAGES if code in codes]
    return known + sorted(codes - set(known))


def section(anchor: str, heading: str, intro: Child, *children: Child) -> Html:
    """One section of the page."""
    return tag("section", tag("h2", heading), tag("p", intro, class_="intro"), *children, id=anchor)


def table(headings: Sequence[str], body: Sequence[Sequence[Child]], total: Sequence[Child] = ()) -> Html:
    """A table whose first column heads its rows; numbers are set to the right, thousands apart."""
    numeric = [any(isinstance(line[i], (int, float)) for line in body) for i in range(len(headings))]

    def line(cells: Sequence[Child]) -> Html:
        first, *others = cells
        return tag("tr", tag("th", first, scope="row"), [_cell(value) for value in others])

    head = tag("tr", [tag("th", text, scope="col", class_="n" if numeric[i] else None) for i, text in enumerate(headings)])
    parts = [tag("thead", head), tag("tbody", [line(cells) for cells in body])]
    return tag("div", tag("table", parts, tag("tfoot", line(total)) if total else None), class_="scroll")


def _cell(value: Child) -> Html:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return tag("td", cell(value), class_="n")
    return tag("td", value, class_="barcell" if isinstance(value, Html) and value.startswith('<div class="bar') else None)


def bar(parts: Sequence[tuple[str, float]], *, tall: bool = False, labels: Sequence[str] = ()) -> Html:
    """A bar of parts: colour class and share of the whole width, 0 to 1."""
    pieces = [
        tag("i", labels[i] if labels else None, class_=name, style=f"width:{share:.2%}")
        for i, (name, share) in enumerate(parts)
        if share > 0
    ]
    return tag("div", pieces, class_="bar tall" if tall else "bar")


def legend(entries: Sequence[tuple[str, str]]) -> Html:
    """What the colours stand for: colour class and words."""
    return tag("ul", [tag("li", tag("i", class_=name), text) for name, text in entries], class_="legend")


def tokens_section(store: Store) -> Html | None:
    """Documents, bytes and tokens per language and source, one figure per tokenizer and corpus."""
    counts = rows(
        store,
        """SELECT tokenizer, corpus, language, source, sum(documents)::BIGINT AS documents, sum(bytes)::BIGINT AS bytes,
            sum(tokens)::BIGINT AS tokens FROM (SELECT DISTINCT * EXCLUDE (ref) FROM tokens) GROUP BY ALL ORDER BY ALL""",
    )
    if not counts:
        return None
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in counts:
        groups.setdefault((row["corpus"], row["tokenizer"]), []).append(row)
    return section(
        "tokens",
        "Tokens, by language and source",
        "Counted with the named tokenizer, BPE-dropout off, without special tokens; training and held-out documents together. "
        "Bytes a token compare tokenizers on one language, not languages with each other: scripts differ in bytes a letter.",
        [_tokens_of(corpus, tokenizer, group) for (corpus, tokenizer), group in groups.items()],
    )


def _tokens_of(corpus: str, tokenizer: str, counts: Sequence[Row]) -> Html:
    sources = sorted({row["source"] for row in counts}, key=lambda s: -sum(r["tokens"] for r in counts if r["source"] == s))
    colour = {source: f"k{i % COLOURS + 1}" for i, source in enumerate(sources)}
    body: list[list[Child]] = []
    most = max(sum(r["tokens"] for r in counts if r["language"] == code) for code in {r["language"] for r in counts}) or 1
    for code in language_order({row["language"] for row in counts}):
        mine = [row for row in counts if row["language"] == code]
        documents, size, tokens = (sum(row[name] for row in mine) for name in ("documents", "bytes", "tokens"))
        parts = [(colour[source], sum(r["tokens"] for r in mine if r["source"] == source) / most) for source in sources]
        body.append([language_name(code), bar(parts), tokens, documents, size, size / tokens if tokens else 0.0])
    documents, size, tokens = (sum(row[name] for row in counts) for name in ("documents", "bytes", "tokens"))
    totals = {source: sum(row["tokens"] for row in counts if row["source"] == source) for source in sources}
    return inside(
        tag("h3", tag("span", corpus, class_="ref"), " counted with ", tag("span", tokenizer, class_="ref")),
        table(
            ["Language", "", "Tokens", "Documents", "Bytes", "Bytes a token"],
            body,
            ["All", "", tokens, documents, size, size / tokens if tokens else 0.0],
        ),
        legend([(colour[source], f"{source}: {totals[source]:,} tokens") for source in sources]),
    )


def funnel_section(store: Store) -> Html | None:
    """Documents at each stage of the corpora, and what was removed why."""
    corpora = rows(store, "SELECT DISTINCT ref FROM flow ORDER BY ref")
    if not corpora:
        return None
    return section(
        "funnel",
        "What was removed, and why",
        "Every record that was read either became a document of the corpus or stands in the removal ledger under its stage, "
        "language and reason.",
        [_funnel_of(store, row["ref"]) for row in corpora],
    )


def _funnel_of(store: Store, ref: str) -> Html:
    stages = [
        row
        for row in rows(
            store,
            """SELECT ref, step, stage, sum(documents_in)::BIGINT AS entered, sum(documents_out)::BIGINT AS left_over,
                sum(documents_removed)::BIGINT AS removed, bool_and(balances) AS balances
            FROM balance GROUP BY ALL ORDER BY step""",
        )
        if row["ref"] == ref
    ]
    ledger = [row for row in rows(store, "SELECT * FROM ledger ORDER BY step, documents DESC, reason") if row["ref"] == ref]
    most = max(row["entered"] for row in stages) or 1
    body = [
        [
            row["stage"],
            bar([("k1", row["left_over"] / most), ("gone", row["removed"] / most)]),
            row["entered"],
            row["removed"],
            row["left_over"],
            "✓ balances" if row["balances"] else "✕ does not balance",
        ]
        for row in stages
    ]
    return inside(
        tag("h3", tag("span", ref, class_="ref")),
        table(["Stage", "", "In", "Removed", "Out", "In = out + removed"], body),
        legend([("k1", "goes on"), ("gone", "removed here")]),
        tag("p", _balance(stages), class_="small", style="margin-top:16px"),
        _reasons(ledger) if ledger else None,
    )


def _balance(stages: Sequence[Row]) -> Html:
    first, last = stages[0]["entered"], stages[-1]["left_over"]
    removed = sum(row["removed"] for row in stages)
    complete = all(row["balances"] for row in stages) and first == last + removed
    return inside(
        tag("strong", "Complete. " if complete else "Not complete. "),
        f"{first:,} documents in {'=' if complete else '≠'} {last:,} out + {removed:,} in the ledger",
        ", in every stage and language." if complete else "; see the stages that do not balance.",
    )


def _reasons(ledger: Sequence[Row]) -> Html:
    """Stage and reason by language."""
    codes = language_order({row["language"] for row in ledger})
    keys = list(dict.fromkeys((row["step"], row["stage"], row["reason"]) for row in ledger))
    cells: dict[tuple[int, str, str], int] = {}
    totals: dict[tuple[int, str], int] = {}
    for row in ledger:
        key = row["step"], row["reason"], row["language"]
        cells[key] = cells.get(key, 0) + row["documents"]
        totals[row["step"], row["reason"]] = totals.get((row["step"], row["reason"]), 0) + row["documents"]
    most = max(totals.values())
    body: list[list[Child]] = []
    for step, stage, reason in keys:
        total = totals[step, reason]
        who = ", ".join(
            f"{language_name(code)} {cells[step, reason, code]:,}" for code in codes if (step, reason, code) in cells
        )
        body.append(
            [
                reason.replace("_", " ").replace("-", " "),
                stage,
                bar([("gone", total / most)]),
                total,
                tag("div", who, class_="prose small"),
            ]
        )
    return inside(tag("h3", "Reasons"), table(["Reason", "Stage", "", "Documents", "Languages at the stage’s entry"], body))


def mixture_section(store: Store) -> Html | None:
    """Planned against trained shares of every mixture, and what each took from where."""
    parts = rows(store, "SELECT * FROM mixture_parts ORDER BY ref, part, corpus, language, source")
    if not parts:
        return None
    trained = rows(store, "SELECT * FROM mixture_kept")
    refs = list(dict.fromkeys(row["ref"] for row in parts))
    weights: dict[str, float] = {}
    for row in parts:
        weights[row["part"]] = weights.get(row["part"], 0.0) + row["weight"]
    heaviest = sorted(weights, key=lambda name: (-weights[name], name))
    colour = {name: f"k{i % COLOURS + 1}" for i, name in enumerate(heaviest)}
    return section(
        "mixture",
        "The mixture, planned and trained",
        "Shares of the token budget. Training counts whole packed sequences, so it may miss a share by less than one sequence.",
        [
            _mixture_of(ref, [r for r in parts if r["ref"] == ref], [r for r in trained if r["mixture"] == ref], colour)
            for ref in refs
        ],
    )


def _mixture_of(ref: str, parts: Sequence[Row], trained: Sequence[Row], colour: dict[str, str]) -> Html:
    weights: dict[str, float] = {}
    for row in parts:
        weights[row["part"]] = weights.get(row["part"], 0.0) + row["weight"]
    names = sorted(weights, key=lambda name: -weights[name])
    runs = dict.fromkeys(row["ref"] for row in trained)
    return inside(
        tag("h3", tag("span", ref, class_="ref")),
        tag("p", "Planned", class_="small quiet", style="margin:0 0 4px"),
        bar(
            [(colour[name], weights[name]) for name in names],
            tall=True,
            labels=[f"{name} {weights[name]:.1%}" for name in names],
        ),
        [_trained_as(run, [row for row in trained if row["ref"] == run], names, colour) for run in runs],
        tag(
            "details",
            tag("summary", "What it takes from each language"),
            table(
                ["Language", "Part", "Source", "Share", "Tokens", "Available", "Epochs"],
                [
                    [
                        language_name(row["language"]), row["part"], row["source"], f"{row['weight']:.2%}",
                        row["tokens_planned"], row["tokens_available"], row["epochs"],
                    ]
                    for row in parts
                ],
            ),
            style="margin-top:18px",
        ),
    )  # fmt: skip


def _trained_as(run: str, trained: Sequence[Row], names: Sequence[str], colour: dict[str, str]) -> Iterator[Html]:
    share = {row["part"]: row["share"] or 0.0 for row in trained}
    off = max((row["off_by_sequences"] or 0.0) for row in trained)
    sequences = sum(row["sequences_trained"] or 0 for row in trained)
    yield tag(
        "p",
        "Trained by ",
        tag("span", run, class_="ref"),
        f": {sequences:,} sequences, at most {off:.2f} sequences from the plan",
        class_="small quiet",
        style="margin:12px 0 4px",
    )
    yield bar(
        [(colour[name], share.get(name, 0.0)) for name in names],
        tall=True,
        labels=[f"{name} {share.get(name, 0.0):.1%}" for name in names],
    )
