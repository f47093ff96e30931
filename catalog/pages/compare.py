"""Side by side: two catalogs, or two models, each figure beside its counterpart and their difference with its sign."""

from __future__ import annotations

from collections.abc import Mapping
from math import hypot

from ..markup import Child, Html, inside, tag
from .evaluation import MOST_METRICS, beside, compared_to, metric_name
from .parts import (
    brief,
    clipped,
    completeness,
    empty,
    figure,
    folded,
    grouped,
    language_name,
    language_order,
    ref,
    section,
    signed,
    table,
)  # fmt: skip
from .plots import HEIGHT, Line, legend, plot, scale_of, span
from .source import Row, Source

PAIRS = 6
"""Pairs of corpora, and of models, that are drawn."""
Pair = tuple[str, str]


def catalogs_page(a: Source, b: Source) -> list[Html]:
    """Two catalogs: sizes, tokens, funnels, and the models that hold the same stage in both."""
    corpora = _corpora(a, b)
    parts: list[Html | None] = [_sizes(a, b)]
    for pair in corpora[:PAIRS]:
        parts += [_tokens(a, b, pair), _funnel(a, b, pair)]
    if not corpora:
        parts.append(empty("No corpus is in both catalogs.", "Corpora are paired by name, the last version of each."))
    held = {row["stage"]: row["model"] for row in b.ask("stages")}
    stages = [(row["stage"], (row["model"], held[row["stage"]])) for row in a.ask("stages") if row["stage"] in held]
    for stage, pair in stages[-PAIRS:]:
        parts.append(_scores(a, b, pair, inside("Scores at the stage ", clipped(stage)), f"scores-{len(parts)}"))
    return [part for part in parts if part]


def models_page(a: Source, b: Source, models: Pair) -> list[Html]:
    """Two models: scores with errors, the data that each consumed, what only one comes from, licences."""
    parts = [
        _scores(a, b, models, "Scores", "scores"), _consumed(a, b, models), _ancestry(a, b, models), _licences(a, b, models),
    ]  # fmt: skip
    return [part for part in parts if part]


def _sides(a: Child, b: Child) -> Html:
    return legend([("bk1", inside("A: ", a)), ("bk3", inside("B: ", b))])


def _sizes(a: Source, b: Source) -> Html:
    size = [{row["kind"]: row for row in source.ask("totals")} for source in (a, b)]
    body: list[list[Child]] = []
    for kind in sorted({*size[0], *size[1]}):
        ours, theirs = ((one[kind]["artifacts"] if kind in one else 0) for one in size)
        body.append([f"{kind}: artifacts", ours, theirs, signed(theirs - ours)])
    for words, column in (("documents read", "documents_in"), ("documents kept", "documents_out")):
        ours, theirs = ((one["corpus"][column] or 0 if "corpus" in one else 0) for one in size)
        body.append([words, ours, theirs, signed(theirs - ours)])
    chart = table(["What", "A", "B", "B − A"], body)
    return section("sizes", "What is in them", "A is this catalog, B the other one.", figure(None, chart, queries=["totals"]))


def _corpora(a: Source, b: Source) -> list[Pair]:
    """The last version of each corpus that both have, by name; the only ones, whatever they are called."""
    last = [{str(row["ref"]).partition("@")[0]: str(row["ref"]) for row in source.ask("corpora")} for source in (a, b)]
    both = [(last[0][name], last[1][name]) for name in last[0] if name in last[1]]
    if not both and len(last[0]) == len(last[1]) == 1:
        return list(zip(last[0].values(), last[1].values(), strict=True))
    return both


def _pairs(values: Mapping[str, tuple[float, float]], names: Mapping[str, str], title: str, *, form: str = "") -> Html:
    """One line a key: A above B, and the difference."""
    scale = scale_of([number for pair in values.values() for number in pair], zero=True)
    lines = []
    for name, (ours, theirs) in values.items():
        words = [f"{number:{form}}" if form else f"{number:,.0f}" for number in (ours, theirs)]
        points = f"{signed(100 * (theirs - ours), '.1f')} points" if form else signed(theirs - ours)
        share = f" ({signed(100 * (theirs - ours) / ours, '.1f')} %)" if ours and not form else ""
        amounts = " → ".join(words) if form else f"{brief(ours)} → {brief(theirs)}{share}" if ours != theirs else brief(ours)
        lines.append(
            Line(
                label=clipped(names.get(name, name)),
                about=f"{names.get(name, name)}: {words[0]} in A, {words[1]} in B",
                marks=[span("k1", scale, 0, ours, top=2, thick=7), span("k3", scale, 0, theirs, top=HEIGHT - 9, thick=7)],
                figures=inside(points if ours != theirs else "same", tag("small", amounts)),
            )
        )
    return plot(title, lines, scale, form=form)


def _tokens(a: Source, b: Source, pair: Pair) -> Html | None:
    rows = [[row for row in source.ask("tokens") if row["corpus"] == name] for source, name in zip((a, b), pair, strict=True)]
    shared = [one for one in grouped(rows[0], "tokenizer") if one in grouped(rows[1], "tokenizer")]
    if not rows[0] or not rows[1]:
        return None
    chosen = shared[0][0] if shared else ""
    sums: list[dict[str, int]] = [{}, {}]
    for side, found in enumerate(rows):
        tokenizer = chosen or str(found[0]["tokenizer"])
        for row in found:
            if row["tokenizer"] == tokenizer:
                sums[side][row["language"]] = sums[side].get(row["language"], 0) + row["tokens"]
    codes = language_order({*sums[0], *sums[1]})
    values = {code: (float(sums[0].get(code, 0)), float(sums[1].get(code, 0))) for code in codes}
    note = "" if chosen else "The two were counted with different tokenizers: compare shares, not numbers."
    return section(
        f"tokens-{_anchor(pair)}",
        "Tokens by language",
        inside(ref(pair[0]), " and ", ref(pair[1]), "."),
        figure(
            None,
            [_pairs(values, {code: language_name(code) for code in codes}, "Tokens by language"), _sides(*map(ref, pair))],
            note,
            inside("A ", completeness(a, pair[0])),
            inside("B ", completeness(b, pair[1])),
            queries=["tokens", "completeness"],
        ),
    )


def _anchor(pair: Pair) -> str:
    return pair[0].replace("/", "-").replace("@", "-")


def _funnel(a: Source, b: Source, pair: Pair) -> Html | None:
    removed: list[dict[str, float]] = []
    for source, name in zip((a, b), pair, strict=True):
        rows = [row for row in source.ask("funnel") if row["ref"] == name]
        read = rows[0]["documents_in"] if rows else 0
        removed.append({row["stage"]: row["removed"] / (read or 1) for row in rows})
    stages = [stage for stage in dict.fromkeys([*removed[0], *removed[1]]) if any(one.get(stage) for one in removed)]
    if not removed[0] or not removed[1] or not stages:
        return None
    values = {stage: (removed[0].get(stage, 0.0), removed[1].get(stage, 0.0)) for stage in stages}
    return section(
        f"funnel-{_anchor(pair)}",
        "Removed by each stage",
        inside("As shares of all documents read for ", ref(pair[0]), " and ", ref(pair[1]), "."),
        figure(None, [_pairs(values, {}, "Share removed by stage", form=".1%"), _sides(*map(ref, pair))], queries=["funnel"]),
    )


def _scores(a: Source, b: Source, pair: Pair, heading: Child, anchor: str) -> Html | None:
    """One plot a metric: both models with errors, and a table of the differences."""
    sides = [
        {(*key, row["language"]): row for key, rows in grouped(
            [row for row in source.ask("scores") if row["model"] == name], "suite", "task", "metric").items() for row in rows}
        for source, name in zip((a, b), pair, strict=True)
    ]  # fmt: skip
    names = [f"A: {pair[0]}", f"B: {pair[1]}"]
    charts: list[Html] = []
    for suite, task, metric in dict.fromkeys(key[:3] for key in sides[0] if key in sides[1]):
        codes = language_order(str(key[3]) for key in sides[0] if key[:3] == (suite, task, metric) and key in sides[1])
        found = {
            (name, code): side[suite, task, metric, code] for name, side in zip(names, sides, strict=True) for code in codes
        }
        title = f"{metric_name(metric)}, {suite}/{task}"
        body = [_difference(code, found[names[0], code], found[names[1], code]) for code in codes]
        figures = {code: inside(line[3], tag("small", line[5])) for code, line in zip(codes, body, strict=True)}
        columns = ["Language", "A", "B", "B − A", "In standard errors", ""]
        charts.append(beside(title, found, names, figures))
        charts.append(folded("Scores and differences as a table", table(columns, body)))
    if not charts:
        return None
    words = inside(ref(pair[0]), " and ", ref(pair[1]), ". A difference below two standard errors may be chance.")
    return section(anchor, heading, words, charts[: 2 * MOST_METRICS])


def _difference(code: str, ours: Row, theirs: Row) -> list[Child]:
    change = theirs["value"] - ours["value"]
    error = hypot(ours["stderr"] or 0.0, theirs["stderr"] or 0.0)
    return [
        language_name(code),
        *[f"{row['value']:.4f} ± {row['stderr'] or 0.0:.4f}" for row in (ours, theirs)],
        signed(change, ".4f"),
        signed(change / error, ".1f") if error else "–",
        compared_to(ours, theirs),
    ]


def ancestors(source: Source, model: str) -> dict[str, None]:
    """The model and everything it was made from, nearest first."""
    into: dict[str, list[str]] = {}
    for row in source.ask("lineage"):
        into.setdefault(row["ref"], []).append(row["input_ref"])
    found = {model: None}
    for name in (waiting := [model]):
        for other in into.get(name, []):
            if other not in found:
                found[other] = None
                waiting.append(other)
    return found


def _consumed(a: Source, b: Source, models: Pair) -> Html | None:
    """Tokens of every language that the runs behind each model trained on; a repeated text counts each time."""
    sums: list[dict[str, float]] = []
    for source, name in zip((a, b), models, strict=True):
        behind, own = ancestors(source, name), dict[str, float]()
        for row in source.ask("trained"):
            if row["ref"] in behind:
                own[row["language"]] = own.get(row["language"], 0.0) + row["tokens"]
        sums.append(own)
    codes = language_order({*sums[0], *sums[1]})
    if not codes:
        return None
    values = {code: (sums[0].get(code, 0.0), sums[1].get(code, 0.0)) for code in codes}
    chart = [
        _pairs(values, {code: language_name(code) for code in codes}, "Tokens consumed by language"), _sides(*map(ref, models)),
    ]  # fmt: skip
    words = "Tokens of mixtures that all runs behind each model trained on, repeats included."
    return section("consumed", "Data consumed", words, figure(None, chart, queries=["trained", "lineage"]))


def _ancestry(a: Source, b: Source, models: Pair) -> Html:
    behind = [list(ancestors(source, name)) for source, name in zip((a, b), models, strict=True)]
    both = [name for name in behind[0] if name in behind[1]]
    only = [[name for name in side if name not in both] for side in behind]
    how = [{row["ref"]: row["method"] or row["stage"] for row in source.ask("models")} for source in (a, b)]
    body: list[list[Child]] = [
        [ref(name), "A" if side == 0 else "B", how[side].get(name, name.partition("/")[0])]
        for side in (0, 1)
        for name in only[side]
    ]
    words = (
        f"{len(both):,} artifacts are behind both models, {len(only[0]):,} behind A only, {len(only[1]):,} behind B only"
        f"{': the same recipe' if not only[0] and not only[1] else ''}. Same references in two catalogs may differ."
    )
    chart = table(["Artifact", "Only behind", "How it was made"], body) if body else tag("p", "Nothing differs.")
    return section("lineage", "What only one of them comes from", words, figure(None, chart, queries=["lineage", "models"]))


def _licences(a: Source, b: Source, models: Pair) -> Html:
    sides: list[dict[str, str]] = []
    for source, name in zip((a, b), models, strict=True):
        behind = ancestors(source, name)
        sides.append({row["licence"]: row["given_by"] for row in source.ask("own-licences") if row["ref"] in behind})
    body: list[list[Child]] = [
        [clipped(licence), *[ref(side[licence]) if licence in side else "–" for side in sides]]
        for licence in sorted({*sides[0], *sides[1]})
    ]
    chart = table(["Licence", "A has it from", "B has it from"], body) if body else tag("p", "None is stated.")
    words = "Licences that what went into each model brought in."
    return section("licences", "Licences inherited", words, figure(None, chart, queries=["own-licences", "lineage"]))
