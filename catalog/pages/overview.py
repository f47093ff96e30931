"""The first page: what there is, what state it is in, and where to read on."""

from __future__ import annotations

from ..markup import Child, Html, inside, tag
from .gates import counted, decided, standing
from .parts import badge, brief, clipped, completeness, duration, ref, section, table, tiles
from .source import Row, Source, asked

FURTHER = (
    ("Tokens by language and crawl", "sea-lion catalog tokens --by language,crawl"),
    ("Where a model comes from", "sea-lion catalog lineage REF"),
    ("Examples of a language’s documents", "sea-lion catalog documents --language khm"),
    ("Everything on record about one artifact", "sea-lion catalog show REF"),
    ("The model card", "sea-lion catalog card REF"),
)
LISTED = 30


def headline(source: Source) -> tuple[str, Child]:
    """The page's title and its first sentences."""
    kinds = {row["kind"]: row["artifacts"] for row in source.ask("totals")}
    if not kinds:
        return "Nothing made yet", "The catalog is empty; sea-lion run tiny makes a whole lineage in minutes."
    models = source.ask("models")
    if not models:
        return "Data, on the way to a model", "No model has been made from this catalog yet; what there is, is in these pages."
    decisions = decided(source)
    promoted = [row for row in decisions if row["promotion"]]
    if not promoted:
        words = f"{len(models):,} models are in the catalog; no stage’s alias points to one of them yet."
        return "Models made, none promoted yet", words
    last = promoted[-1]
    merges = sum(bool(row["method"]) for row in models)
    passed = sum(row["verdict"] == "pass" for row in decisions)
    lead = inside(
        ref(last["model"]),
        " is what the stage ",
        clipped(last["stage"]),
        f" stands for. The catalog holds {len(models):,} models, {merges:,} of them merged; ",
        f"{passed:,} of {len(decisions):,} candidates passed their gate.",
    )
    return f"{last['stage'].split('/')[0]}: from a crawl to a promoted model", lead


def overview_page(source: Source) -> list[Html]:
    """Tiles, problems, completeness, the stages and where to read on."""
    parts = [_tiles(source), _problems(source), _state(source), _stages(source), _further()]
    return [part for part in parts if part]


def _tiles(source: Source) -> Html | None:
    totals = {row["kind"]: row for row in source.ask("totals")}
    figures: list[tuple[str, str, Child]] = []
    corpora = totals.get("corpus")
    if corpora and corpora["documents_in"]:
        figures.append(("Documents kept", brief(corpora["documents_out"]), f"of {corpora['documents_in']:,} read"))
    largest = _largest(source.ask("tokens"))
    if largest:
        (_, tokenizer), rows = largest
        languages = {row["language"] for row in rows} - {"code"}
        tokens = sum(row["tokens"] for row in rows)
        code = ", and code" if any(row["language"] == "code" for row in rows) else ""
        note = inside(f"in {len(languages)} language{'s' * (len(languages) != 1)}{code}")
        figures.append(("Tokens counted", brief(tokens), tag("span", note, title=f"counted with {tokenizer}")))
    models = source.ask("models")
    if models:
        standing_now = len({row["model"] for row in source.ask("stages")})
        figures.append(("Models", f"{len(models):,}", f"{standing_now} stand for a stage"))
    decisions = decided(source)
    if decisions:
        figures.append(("Gates", f"{len(decisions):,}", counted(decisions)))
    if totals:
        seconds = sum(row["seconds"] or 0.0 for row in totals.values())
        figures.append(
            ("Making it took", duration(seconds), f"for {sum(row['artifacts'] for row in totals.values()):,} artifacts")
        )
    shown = tiles(figures)
    return inside(shown, tag("p", asked("totals", "tokens", "models", "decisions"), class_="small")) if shown else None


def _largest(tokens: list[Row]) -> tuple[tuple[str, str], list[Row]] | None:
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in tokens:
        groups.setdefault((row["corpus"], row["tokenizer"]), []).append(row)
    return max(groups.items(), key=lambda item: sum(row["tokens"] for row in item[1]), default=None)


def _problems(source: Source) -> Html | None:
    problems, failures = source.ask("problems"), source.ask("failures")
    if not (problems or failures or source.damaged or source.refused):
        return None
    found: list[tuple[str, Child, str]] = [(row["path"], "not in any count", row["problem"]) for row in problems]
    for line in source.damaged:
        path, _, why = line.partition(": ")
        found.append((path, "left out of the figures about documents", why))
    found += [(f"query {name}", "its figures are left out", why) for name, why in source.refused.items()]
    found += [(row["file"], inside("read in part by ", ref(row["ref"])), row["problem"]) for row in failures]
    root = f"{source.store.root}/"  # a machine's path is nobody's business who reads the report
    body = [[ref(what), meaning, clipped(why.replace(root, ""))] for what, meaning, why in found]
    return section(
        "problems",
        f"{len(body):,} problem{'s' * (len(body) != 1)} found",
        "What could not be read costs itself only: everything else is answered without it.",
        tag("div", table(["File", "What that means", "Problem"], body, listed=LISTED), class_="card warned"),
        tag("p", asked("problems", "failures"), class_="small"),
    )


def _state(source: Source) -> Html | None:
    sets = source.ask("completeness")
    corpora = source.ask("corpora")
    if not sets and not corpora:
        return None
    refs = list(dict.fromkeys([row["ref"] for row in corpora] + [row["ref"] for row in sets]))
    conflicts = {row["ref"]: 0 for row in sets}
    for row in sets:
        conflicts[row["ref"]] += row["conflicts"]
    documents = {row["ref"]: row["documents"] for row in corpora}
    body: list[list[Child]] = [
        [ref(name), completeness(source, name), _count(documents.get(name)), conflicts.get(name, 0)] for name in refs[-LISTED:]
    ]
    return section(
        "completeness",
        "How complete the counts are",
        "Every count rests on the slots that were reported of those that were planned. Attempts that lost against an earlier "
        "one are kept as conflicts and counted nowhere.",
        tag("div", table(["Artifact", "Slots", "Documents", "Conflicts"], body), class_="card"),
        tag("p", asked("completeness", "corpora"), class_="small"),
    )


def _count(number: int | None) -> Child:
    return number if number is not None else "–"


def _stages(source: Source) -> Html | None:
    decisions = decided(source)
    if not decisions:
        return None
    last = {row["stage"]: row for row in decisions}
    now = {row["stage"]: row["model"] for row in source.ask("stages")}
    body: list[list[Child]] = [
        [clipped(stage), ref(now[stage]) if stage in now else "–", badge(row["verdict"]), clipped(standing(row))]
        for stage, row in list(last.items())[-LISTED:]
    ]
    return section(
        "stages",
        "Where the stages stand",
        inside("The last verdict of each; ", tag("a", "the evidence", href="gates.html"), " is a page of its own."),
        tag("div", table(["Stage", "Stands for", "Last verdict", "What became of the candidate"], body), class_="card"),
        tag("p", asked("stages", "decisions"), class_="small"),
    )


def _further() -> Html:
    commands = [
        tag("div", tag("p", what, class_="small quiet ask"), tag("pre", tag("code", command))) for what, command in FURTHER
    ]
    words = inside(
        "Every figure in these pages is the answer to ",
        tag("a", "a query that you can run again", href="questions.html"),
        ", and more can be asked.",
    )
    return section("further", "Ask for more", words, tag("div", commands, class_="commands"))
