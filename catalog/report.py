"""`sea-lion report`: one self-contained HTML page about a catalog, from its index alone.

No script, no font, no request: the page opens from a mail attachment or a build server as it does here, and its content policy
forbids it to load anything.
"""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from .fingerprint import plain
from .lineage import MODEL, Graph, read_graph
from .markup import Child, Html, inside, tag
from .records import Artifact
from .report_data import funnel_section, mixture_section, rows, section, table, tokens_section
from .report_models import decided, gates_section, lineage_section, losses_section, scores_sections, stages_section
from .store import Store, write_atomically
from .tables import cell

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
LISTED = 12
"""Records of a list that `artifact_summary` prints."""
QUESTIONS = (
    ("Tokens by language", "sea-lion catalog tokens --by language,source"),
    (
        "What was removed, and why",
        "sea-lion catalog sql 'SELECT stage, reason, sum(documents) FROM ledger GROUP BY ALL ORDER BY 3 DESC'",
    ),
    ("Does everything add up?", "sea-lion catalog sql 'SELECT * FROM balance WHERE NOT balances'"),
    ("Where a model comes from", "sea-lion catalog lineage REF"),
    ("Items a model got wrong", "sea-lion catalog sql \"SELECT language, item FROM items WHERE metric = 'acc' AND value = 0\""),
    ("Everything on record about one artifact", "sea-lion catalog show REF"),
)


def write_report(store: Store, path: Path) -> Path:
    """Write the page about everything in the store, an empty one too; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, page(store))
    return path


def page(store: Store) -> str:
    """The page's HTML."""
    graph = read_graph(store)
    decisions = decided(store, graph)
    sections = [
        lineage_section(graph),
        stages_section(decisions),
        tokens_section(store),
        funnel_section(store),
        mixture_section(store),
        losses_section(store, graph),
        *scores_sections(store, graph),
        gates_section(store, decisions),
        _provenance(store),
        _further(),
    ]
    shown = [part for part in sections if part]
    title, lead = _headline(graph, decisions)
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", f"{title} · SEA-LION"),
        tag("style", Html(files(__package__ or "").joinpath("report.css").read_text("utf-8"))),
    )
    top = tag(
        "header",
        tag("p", "SEA-LION, on record", class_="eyebrow"),
        tag("h1", title),
        tag("p", lead, class_="lead"),
        _figures(store, graph, decisions),
        tag("nav", [_link(part) for part in shown], aria_label="Sections"),
        class_="top",
    )
    foot = tag(
        "footer",
        tag("p", "Written by sea-lion report from the catalog’s index. Nothing in this page was loaded from elsewhere."),
    )
    return f"<!doctype html>\n{tag('html', head, tag('body', top, tag('main', shown), foot), lang='en')}\n"


def _link(part: Html) -> Html:
    anchor = part.split('id="', 1)[1].split('"', 1)[0]
    heading = part.split("<h2>", 1)[1].split("</h2>", 1)[0]
    return tag("a", Html(heading), href=f"#{anchor}")


def _headline(graph: Graph, decisions: list[dict[str, Any]]) -> tuple[str, Child]:
    models = [node for node in graph.nodes.values() if node.kind == MODEL]
    if not graph.nodes:
        return "Nothing made yet", "The catalog is empty; sea-lion run tiny makes a whole lineage in minutes."
    if not models:
        return "Data, on the way to a model", "No model has been made from this catalog yet; what there is, is below."
    promoted = [row for row in decisions if row["promotion"]]
    if not promoted:
        return (
            "Models made, none promoted yet",
            f"{len(models)} models are in the catalog; no stage’s alias points to one of them yet.",
        )
    last = promoted[-1]
    merges = sum(node.what.startswith("merge") for node in models)
    passed = sum(row["verdict"] == "pass" for row in decisions)
    lead = inside(
        tag("strong", last["model"], class_="ref"),
        f" is what the stage {last['stage']} stands for. The catalog holds {len(models)} models, {merges} of them merged. ",
        f"{passed} of {len(decisions)} candidates passed their gate; ",
        "each verdict, with the figures behind it, is below.",
    )
    family = last["stage"].split("/")[0]
    return f"{family}: from a crawl to a promoted model", lead


def _figures(store: Store, graph: Graph, decisions: list[dict[str, Any]]) -> Html | None:
    totals = rows(store, "SELECT count(*) AS number, coalesce(sum(seconds), 0) AS seconds FROM artifacts")[0]
    found = rows(
        store,
        """SELECT (SELECT sum((body->>'$.documents_in')::BIGINT) FROM artifacts WHERE kind = 'corpus')::BIGINT AS documents_in,
            (SELECT sum((body->>'$.documents_out')::BIGINT) FROM artifacts WHERE kind = 'corpus')::BIGINT AS documents_out,
            (SELECT max((body->>'$.tokens')::BIGINT) FROM artifacts WHERE kind = 'tokens')::BIGINT AS tokens,
            (SELECT count(DISTINCT language) FROM shards WHERE language <> 'code')::BIGINT AS languages""",
    )[0]
    tiles: list[tuple[str, str, str]] = []
    if found["documents_in"]:
        tiles.append(("Documents kept", f"{found['documents_out']:,}", f"of {found['documents_in']:,} read"))
    if found["tokens"]:
        tiles.append(("Tokens counted", f"{found['tokens']:,}", f"in {found['languages']} languages, and code"))
    models = sum(node.kind == MODEL for node in graph.nodes.values())
    if models:
        tiles.append(("Models", str(models), f"{sum(bool(node.stages) for node in graph.nodes.values())} stand for a stage"))
    if decisions:
        verdicts = [row["verdict"] for row in decisions]
        count = ", ".join(f"{verdicts.count(name)} {name}" for name in ("pass", "hold", "fail", "error") if name in verdicts)
        tiles.append(("Gates", str(len(decisions)), count))
    if totals["number"]:
        tiles.append(("Making it took", duration(totals["seconds"]), f"for {totals['number']:,} artifacts"))
    if not tiles:
        return None
    return tag("dl", [tag("div", tag("dt", a), tag("dd", b, tag("small", c))) for a, b, c in tiles], class_="figures")


def duration(seconds: float) -> str:
    """A time for people.

    >>> duration(4.2), duration(131), duration(7300)
    ('4.2 s', '2 min 11 s', '2 h 1 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _provenance(store: Store) -> Html | None:
    made = rows(
        store,
        """SELECT ref, licence, seconds, peak_memory_bytes, bytes, commit, left(fingerprint, 12) AS fingerprint
        FROM artifacts ORDER BY created, ref""",
    )
    if not made:
        return None
    commits = sorted({row["commit"] for row in made})
    packages = store.require(made[-1]["ref"]).provenance
    versions = ", ".join(f"{name} {version}" for name, version in sorted(packages.packages.items()))
    body: list[list[Child]] = [
        [
            tag("span", row["ref"], class_="ref"),
            tag("code", row["fingerprint"]),
            duration(row["seconds"]),
            f"{row['peak_memory_bytes'] / 1e6:,.0f} MB",
            f"{row['bytes'] / 1e6:,.2f} MB",
            row["licence"],
        ]
        for row in made
    ]
    return section(
        "provenance",
        "Provenance",
        inside("Code at ", tag("code", ", ".join(commits)), f"; Python {packages.python}; {versions}."),
        tag(
            "details",
            tag("summary", f"All {len(made)} artifacts: time, memory, size, licence"),
            table(["Artifact", "Fingerprint", "Time", "Peak memory", "Size", "Licence"], body),
        ),
    )


def _further() -> Html:
    commands = [
        inside(tag("p", what, class_="small quiet", style="margin:0 0 4px"), tag("pre", tag("code", ask)))
        for what, ask in QUESTIONS
    ]
    return section(
        "further",
        "Where to read more",
        inside(
            "Every figure above is an answer of the catalog’s index, and more can be asked of it. The pages in ",
            tag("code", "docs/"),
            " explain each area; ",
            tag("code", "docs/catalog.md"),
            " lists the tables.",
        ),
        commands,
    )


def artifact_summary(store: Store, artifact: Artifact) -> str:
    """Everything on record about one artifact, as text."""
    made = artifact.provenance
    lines = [f"{artifact.ref}  ({artifact.kind})"]
    facts = {
        "description": artifact.recipe.get("description", ""), "fingerprint": artifact.fingerprint, "licence": artifact.licence,
        "folder": str(store.folder(artifact.ref)), "created": made.created, "took": duration(made.seconds),
        "peak memory": f"{made.peak_memory_bytes / 1e6:,.0f} MB", "commit": made.commit, "python": made.python,
        "packages": ", ".join(f"{name} {version}" for name, version in sorted(made.packages.items())),
    }  # fmt: skip
    lines += [f"{name:<12} {value}" for name, value in facts.items() if value]
    lines += ["", "inputs"] + [f"  {i.role}: {i.ref}" + (f"  [{i.via}]" if i.via else "") for i in artifact.inputs]
    for heading, value in (("recipe", artifact.recipe), (artifact.kind, plain(artifact.body))):
        lines += ["", heading, *_listing(value)]
    lines += ["", "files"] + [f"  {file.bytes:>14,}  {file.sha256[:12]}  {file.path}" for file in artifact.files]
    return "\n".join(lines)


def _listing(value: dict[str, Any]) -> list[str]:
    lines = []
    for name, item in value.items():
        if isinstance(item, list) and item and isinstance(item[0], dict):
            lines.append(f"  {name}: {len(item)}")
            lines += [f"    {', '.join(f'{k} {cell(v)}' for k, v in row.items())}" for row in item[:LISTED]]
            lines += [f"    … and {len(item) - LISTED} more"] * (len(item) > LISTED)
        else:
            lines.append(f"  {name}: {json.dumps(item, ensure_ascii=False)}")
    return lines
