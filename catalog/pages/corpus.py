"""The corpora: tokens by language, source and crawl, what every stage removed and why, sites, fertility."""

from __future__ import annotations

from collections.abc import Sequence

from ..markup import Child, Html, inside, tag
from .parts import (
    LISTED,
    brief,
    clipped,
    completeness,
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
from .plots import HEIGHT, SERIES, Line, Scale, dot, key, legend, plot, scale_of, span
from .source import Row, Source, asked

SHADES = 8
"""Colours `r1` to `r8` of the stages that remove documents, pale to strong."""
SITES = 5
"""Sites of a language that are drawn."""
CORPORA = 6
"""Corpora that are drawn, the last ones; the queries behind the figures have all."""
TOKENIZERS = 6


def corpus_page(source: Source) -> list[Html]:
    """Every part of the page that there are figures for."""
    corpora = [str(row["ref"]) for row in source.ask("corpora")]
    if not corpora:
        return [
            empty(
                "No corpus has been built yet.", "sea-lion build corpus.toml builds one; its counts and its ledger come here."
            )
        ]
    shown = corpora[-CORPORA:]
    parts = [
        _tokens(source, shown), _crawls(source, shown), _funnel(source, shown), _survival(source, shown),
        _reasons(source, shown), _domains(source, shown), _fertility(source),
    ]  # fmt: skip
    note = left_out(len(corpora), CORPORA)
    return [part for part in ([note] if note else []) + parts if part]


def _newest_first(rows: Sequence[Row], corpora: Sequence[str], *names: str) -> dict[tuple[str, ...], list[Row]]:
    """The rows of these corpora by the columns, the corpus in the first one; the last made comes first."""
    place = {corpus: i for i, corpus in enumerate(reversed(corpora))}
    groups = grouped([row for row in rows if row[names[0]] in place], *names)
    return dict(sorted(groups.items(), key=lambda item: place[item[0][0]]))


def _tokens(source: Source, corpora: Sequence[str]) -> Html | None:
    found = _newest_first(source.ask("tokens"), corpora, "corpus", "tokenizer")
    if not found:
        return None
    return section(
        "tokens",
        "Tokens, by language and source",
        "Counted with the named tokenizer, BPE-dropout off, without special tokens; training and held-out documents together.",
        [_tokens_of(source, corpus, tokenizer, rows) for (corpus, tokenizer), rows in found.items()],
    )


def _tokens_of(source: Source, corpus: str, tokenizer: str, rows: Sequence[Row]) -> Html:
    total = {name: sum(row["tokens"] for row in own) for (name,), own in grouped(rows, "source").items()}
    names = sorted(total, key=lambda name: (-total[name], name))
    colour = {name: f"k{min(i, SERIES - 1) + 1}" for i, name in enumerate(names)}
    by_language = grouped(rows, "language")
    scale = scale_of([sum(row["tokens"] for row in own) for own in by_language.values()], zero=True)
    lines = []
    for code in language_order(code for (code,) in by_language):
        own = by_language[code,]
        marks, reached = [], 0
        for name in names:
            part = sum(row["tokens"] for row in own if row["source"] == name)
            marks.append(span(colour[name], scale, reached, reached + part))
            reached += part
        documents = sum(row["documents"] or 0 for row in own)
        about = f"{language_name(code)}: {reached:,} tokens in {documents:,} documents"
        figures = inside(f"{reached:,}", tag("small", f"{documents:,} documents"))
        lines.append(Line(label=language_name(code), about=about, marks=marks, figures=figures))
    body: list[list[Child]] = [
        [language_name(r["language"]), r["source"], r["tokens"], r["documents"], r["bytes"], _ratio(r["bytes"], r["tokens"])]
        for r in sorted(rows, key=lambda r: (language_order(by_code(rows)).index(r["language"]), r["source"]))
    ]
    sums = [sum(row[name] or 0 for row in rows) for name in ("tokens", "documents", "bytes")]
    return figure(
        inside(ref(corpus), " counted with ", ref(tokenizer)),
        [
            plot(f"Tokens of {corpus} by language", lines, scale),
            legend([(f"b{colour[name]}", f"{name}: {total[name]:,} tokens") for name in names]),
            folded(
                "As a table",
                table(
                    ["Language", "Source", "Tokens", "Documents", "Bytes", "Bytes a token"],
                    body,
                    total=["All", "", *sums, _ratio(sums[2], sums[0])],
                    listed=400,
                ),
            ),
        ],
        completeness(source, corpus),
        "Bytes a token compare tokenizers on one language, not languages: scripts differ in bytes a letter.",
        queries=["tokens", "completeness"],
    )


def by_code(rows: Sequence[Row]) -> set[str]:
    """The languages of rows."""
    return {str(row["language"]) for row in rows}


def _ratio(number: int, of: int) -> float:
    return number / of if of else 0.0


def _crawls(source: Source, corpora: Sequence[str]) -> Html | None:
    found = _newest_first(source.ask("crawls"), corpora, "ref")
    if not found:
        return None
    return section(
        "crawls",
        "Documents, by crawl",
        "Where the documents that were kept come from. The darker a cell, the larger its share of its language.",
        [_crawls_of(source, corpus, rows) for (corpus,), rows in found.items()],
    )


def _crawls_of(source: Source, corpus: str, rows: Sequence[Row]) -> Html:
    crawls = sorted({str(row["crawl"]) for row in rows})
    codes = language_order(by_code(rows))
    count = {(row["language"], row["crawl"]): row["documents"] for row in rows}
    whole = {code: sum(count.get((code, crawl), 0) for crawl in crawls) for code in codes}
    most = max((number / (whole[code] or 1) for (code, _), number in count.items()), default=1.0)
    columns = [tag("abbr", code, title=language_name(code)) for code in codes]
    head = tag("tr", [tag("th", name, scope="col") for name in ["Crawl", *columns, "All"]])
    body = [
        tag(
            "tr",
            tag("th", clipped(crawl), scope="row", class_="ref"),
            [_share(count.get((code, crawl), 0), whole[code], most) for code in codes],
            tag("td", brief(sum(count.get((code, crawl), 0) for code in codes)), class_="n"),
        )
        for crawl in crawls[-LISTED:]
    ]
    grid = tag("table", tag("thead", head), tag("tbody", body), class_="heat")
    return figure(
        ref(corpus),
        [tag("div", grid, class_="scroll", tabindex="0"), left_out(len(crawls), LISTED)],
        completeness(source, corpus),
        queries=["crawls", "completeness"],
    )


def _share(number: int, whole: int, most: float) -> Html:
    if not number:
        return tag("td", "·", class_="quiet")
    share = number / (whole or 1)
    about = f"{number:,} documents, {share:.1%} of the language"
    return tag("td", brief(number), class_=f"d{min(8, 1 + int(8 * share / (most or 1)))}", title=about)


def _funnel(source: Source, corpora: Sequence[str]) -> Html | None:
    found = _newest_first(source.ask("funnel"), corpora, "ref")
    if not found:
        return None
    return section(
        "funnel",
        "What went in, what came out",
        "Every record that was read either became a document of the corpus or stands in the removal ledger under its stage, "
        "language and reason.",
        [_funnel_of(source, corpus, stages) for (corpus,), stages in found.items()],
    )


def _funnel_of(source: Source, corpus: str, stages: Sequence[Row]) -> Html:
    scale = scale_of([row["documents_in"] for row in stages], zero=True)
    lines = []
    for row in stages:
        entered, left, removed = row["documents_in"], row["documents_out"], row["removed"]
        sign = "" if row["balances"] else " ✕ does not balance"
        lines.append(
            Line(
                label=row["stage"],
                about=f"{row['stage']}: {entered:,} in, {removed:,} removed, {left:,} out{sign}",
                marks=[span("k1", scale, 0, left), span("gone", scale, left, left + removed)],
                figures=inside(f"{left:,}", tag("small", f"−{removed:,}" if removed else "all go on", sign)),
            )
        )
    return figure(
        ref(corpus),
        [
            plot(f"Documents of {corpus} at each stage", lines, scale),
            legend([("bk1", "goes on"), ("bgone", "removed here")]),
            tag("p", _balance(stages), class_="small"),
        ],
        completeness(source, corpus),
        queries=["funnel", "completeness"],
    )


def _balance(stages: Sequence[Row]) -> Html:
    first, last = stages[0]["documents_in"], stages[-1]["documents_out"]
    removed = sum(row["removed"] for row in stages)
    balances = all(row["balances"] for row in stages) and first == last + removed
    return inside(
        tag("strong", "It adds up. " if balances else "It does not add up. "),
        f"{first:,} documents in {'=' if balances else '≠'} {last:,} out + {removed:,} in the ledger",
        ", in every stage and language." if balances else "; see the stages that do not balance.",
    )


def _survival(source: Source, corpora: Sequence[str]) -> Html | None:
    found = _newest_first(source.ask("survival"), corpora, "ref")
    shown = [_survival_of(source, corpus, rows) for (corpus,), rows in found.items() if len(by_code(rows)) > 1]
    if not shown:
        return None
    return section(
        "survival",
        "What survives, by language",
        "Of all documents that ended under a language: the share that was kept, and the shares that each stage removed. Before "
        "identification a page has no language yet, so what the first stages removed has a row of its own.",
        shown,
    )


def _survival_of(source: Source, corpus: str, rows: Sequence[Row]) -> Html:
    stages = [stage for (_, stage), own in grouped(sorted(rows, key=lambda row: row["step"]), "step", "stage").items()
              if any(not row["is_kept"] for row in own)]  # fmt: skip
    stages = list(dict.fromkeys(stages))
    shade = {stage: f"r{1 + i * SHADES // len(stages)}" for i, stage in enumerate(stages)}
    scale = Scale(0.0, 1.0)
    lines = []
    for code, kept, ended in survivals(rows):
        gone = [row for row in rows if row["language"] == code and not row["is_kept"]]
        marks, reached = [span("k1", scale, 0.0, kept / ended)], kept / ended
        for row in gone:
            marks.append(span(shade[row["stage"]], scale, reached, reached + row["documents"] / ended))
            reached += row["documents"] / ended
        by_stage = ", ".join(f"{row['stage']} removed {row['documents']:,}" for row in gone)
        about = f"{language_name(code)}: {kept:,} of {ended:,} kept" + (f"; {by_stage}" if by_stage else "")
        figures = inside(f"{kept / ended:.1%}", tag("small", f"{kept:,} of {ended:,}"))
        lines.append(Line(label=language_name(code), about=about, marks=marks, figures=figures))
    return figure(
        ref(corpus),
        [
            plot(f"Share of documents kept of {corpus}, by language", lines, scale, form=".0%"),
            legend([("bk1", "kept"), *((f"b{shade[stage]}", f"removed by {stage}") for stage in stages)]),
        ],
        completeness(source, corpus),
        queries=["survival", "completeness"],
    )


def survivals(rows: Sequence[Row]) -> list[tuple[str, int, int]]:
    """Language, documents kept and documents that ended under it, the best survivors first, the unidentified last."""
    found = []
    for code in by_code(rows):
        own = [row for row in rows if row["language"] == code]
        ended = sum(row["documents"] for row in own)
        if ended:
            found.append((code, sum(row["documents"] for row in own if row["is_kept"]), ended))
    return sorted(found, key=lambda entry: (entry[0] == "und", -entry[1] / entry[2], entry[0]))


def _reasons(source: Source, corpora: Sequence[str]) -> Html | None:
    found = _newest_first(source.ask("reasons"), corpora, "ref")
    if not found:
        return None
    return section(
        "reasons",
        "Why documents were removed",
        "Each rule names its reason. The language is the one at the stage’s entry.",
        [_reasons_of(source, corpus, rows) for (corpus,), rows in found.items()],
    )


def _reasons_of(source: Source, corpus: str, rows: Sequence[Row]) -> Html:
    found = list(grouped(rows, "step", "stage", "reason").items())
    found.sort(key=lambda item: (-sum(row["documents"] for row in item[1]), item[0][2]))
    scale = scale_of([sum(row["documents"] for row in own) for _, own in found], zero=True)
    whole = sum(row["documents"] for row in rows) or 1
    lines = []
    for (_, stage, reason), own in found[:LISTED]:
        number = sum(row["documents"] for row in own)
        codes = language_order(by_code(own))
        count = {code: sum(row["documents"] for row in own if row["language"] == code) for code in codes}
        who = ", ".join(f"{language_name(code)} {count[code]:,}" for code in sorted(codes, key=lambda code: -count[code])[:12])
        label = inside(clipped(reason.replace("_", " ")), tag("small", stage))
        about = f"{reason}, {stage}: {number:,} documents; {who}"
        figures = inside(f"{number:,}", tag("small", f"{number / whole:.1%}"))
        lines.append(Line(label=label, about=about, marks=[span("gone", scale, 0, number)], figures=figures))
    return figure(
        ref(corpus),
        [plot(f"Documents of {corpus} removed, by reason", lines, scale), left_out(len(found), LISTED)],
        completeness(source, corpus),
        "Point at a bar for its languages.",
        queries=["reasons", "completeness"],
    )


def _domains(source: Source, corpora: Sequence[str]) -> Html | None:
    found = grouped([row for row in source.ask("domains") if row["ref"] == corpora[-1]], "language")
    if not found:
        return None
    boxes = [_domains_of(code, found[code,]) for code in language_order(code for (code,) in found)]
    return section(
        "domains",
        "Sites that gave most",
        inside("By documents kept, in ", ref(corpora[-1]), ". ", completeness(source, corpora[-1]), " ", asked("domains")),
        tag("div", boxes, class_="multiples"),
    )


def _domains_of(code: str, rows: Sequence[Row]) -> Html:
    scale = scale_of([row["documents"] for row in rows], zero=True)
    lines = [
        Line(
            label=clipped(row["domain"]),
            about=f"{row['domain']}: {row['documents']:,} documents, {row['bytes'] or 0:,} bytes",
            marks=[span("k1", scale, 0, row["documents"], top=HEIGHT - 5, thick=3)],
            figures=f"{row['documents']:,}",
        )
        for row in rows[:SITES]
    ]
    heading = language_name(code)
    return tag("figure", tag("h3", heading), tag("div", plot(f"Sites in {heading}", lines), class_="stacked"))


def _fertility(source: Source) -> Html | None:
    rows = [row for row in source.ask("fertility") if row["fertility"]]
    tokenizers = sorted({str(row["tokenizer"]) for row in rows})[-TOKENIZERS:]
    if not rows:
        return None
    value = {(row["tokenizer"], row["language"]): row["fertility"] for row in rows}
    size = {(row["tokenizer"], row["language"]): row["bytes_per_token"] for row in rows}
    scale = scale_of([value[pair] for pair in value if pair[0] in tokenizers])
    lines = []
    for code in language_order(by_code(rows)):
        own = [(i, name) for i, name in enumerate(tokenizers) if (name, code) in value]
        if not own:
            continue
        about = f"{language_name(code)}: " + ", ".join(
            f"{name} {value[name, code]:.2f} tokens a word, {size[name, code] or 0:.2f} bytes a token" for _, name in own
        )
        figures = ", ".join(f"{value[name, code]:.2f}" for _, name in own)
        marks = [dot(i, scale, value[name, code]) for i, name in own]
        lines.append(Line(label=language_name(code), about=about, marks=marks, figures=figures))
    return section(
        "fertility",
        "Tokens a word",
        "How many tokens each tokenizer needs for a word (words as ICU finds them, also where a script writes none apart). "
        "Fewer is cheaper to train and to serve.",
        figure(
            None,
            [plot("Tokens a word, by language", lines, scale, form="g"), key([(i, ref(t)) for i, t in enumerate(tokenizers)])],
            queries=["fertility"],
        ),
    )
