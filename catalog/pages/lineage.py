"""The lineage: the picture from the crawls' files down to the last model, what each model inherits, what everything took."""

from __future__ import annotations

from collections.abc import Sequence

from ..charts import lineage_picture
from ..lineage import EVIDENCE, MODEL, Edge, Graph, Node, read_graph
from ..markup import Child, Html, inside, tag
from .parts import LISTED, clipped, duration, empty, figure, folded, grouped, left_out, ref, section, table
from .plots import legend
from .source import Row, Source, asked

DRAWN = 80
"""Artifacts in the picture; a larger catalog is cut down to what the stages' models come from."""
WORDS = {
    "crawl": "files read", "plan": "crawl plan", "corpus": "corpus", "tokenizer": "tokenizer", "tokens": "token counts",
    "mixture": "mixture", "conversations": "conversations", "synthesis": "synthesis", "ngrams": "n-grams", MODEL: "model",
}  # fmt: skip


def lineage_page(source: Source) -> list[Html]:
    """Every part of the page that there are figures for."""
    graph = read_graph(source.store).without(EVIDENCE)
    if not graph.nodes:
        return [empty("Nothing has been made yet.", "sea-lion run tiny makes a whole lineage in minutes.")]
    return [part for part in [_picture(source, graph), _licences(source), _provenance(source)] if part]


def _picture(source: Source, graph: Graph) -> Html:
    note = ""
    if len(graph.nodes) > DRAWN:
        graph, note = towards_stages(graph), "Only what the stages’ models come from is drawn, the nearest first."
    graph = _with_origins(source, graph)
    present = {node.kind for node in graph.nodes.values()}
    chart = [
        tag("div", lineage_picture("Lineage: what was made from what", graph), class_="scroll wide", tabindex="0"),
        legend([(f"back-{kind}", WORDS[kind]) for kind in WORDS if kind in present]),
    ]
    words = (
        "Arrows point from what went in to what came out; a dashed one is a merge’s base. The outline and the words in a "
        "model’s box are its gate’s verdict; a thick outline is a model that a stage’s alias points to."
    )
    return section(
        "lineage",
        "Lineage",
        "From the crawls’ files at the top to the last model at the bottom.",
        figure(None, chart, words, note, queries=["lineage", "origins", "decisions"]),
    )


def towards_stages(graph: Graph) -> Graph:
    """At most `DRAWN` artifacts: the models that stages stand for or gates saw, and the nearest of what they come from."""
    into: dict[str, list[str]] = {}
    for edge in graph.edges:
        into.setdefault(edge.target, []).append(edge.source)
    judged = [ref for ref, node in graph.nodes.items() if node.stages or node.verdict]
    near = dict.fromkeys((judged or list(graph.nodes))[-DRAWN // 2 :])
    for name in (waiting := list(near)):
        for other in into.get(name, []):
            if other not in near and len(near) < DRAWN:
                near[other] = None
                waiting.append(other)
    nodes = {ref: node for ref, node in graph.nodes.items() if ref in near}
    return Graph(nodes, tuple(edge for edge in graph.edges if edge.source in nodes and edge.target in nodes))


def _with_origins(source: Source, graph: Graph) -> Graph:
    """The graph with one more node above each corpus and source: the files it read, as a count."""
    nodes, edges = dict(graph.nodes), list(graph.edges)
    for row in source.ask("origins"):
        if row["ref"] not in graph.nodes or not row["files"]:
            continue
        files = f"{row['files']:,} file{'s' * (row['files'] > 1)}"
        what = f"{files} of {row['crawls']} crawl{'s' * (row['crawls'] > 1)}" if row["crawls"] else files
        name = f"{row['source']} of {row['ref']}"
        nodes[name] = Node(ref=f"files/{row['source']}", kind="crawl", what=what)
        edges.append(Edge(source=name, target=row["ref"], role=f"source {row['source']}"))
    # The files come before what was made of them.
    first = {name: node for name, node in nodes.items() if name not in graph.nodes}
    return Graph(first | graph.nodes, tuple(edges))


def _licences(source: Source) -> Html | None:
    found = grouped(source.ask("licences"), "ref")
    if not found:
        return None
    body = [_inherited(name, rows) for (name,), rows in list(found.items())[:LISTED]]
    return section(
        "licences",
        "Licences inherited",
        "What the promoted and the last models inherit from everything they were made from. A model may claim no more than "
        "these allow.",
        tag("div", table(["Model", "Comes to", "Licence", "Brought in by"], body), class_="card"),
        left_out(len(found), LISTED),
        tag("p", asked("licences"), class_="small"),
    )


def _inherited(name: str, rows: Sequence[Row]) -> list[Child]:
    licences = grouped([row for row in rows if row["licence"]], "licence")
    each = [
        tag("div", tag("strong", clipped(licence)), tag("small", f" from {len(own)} artifact{'s' * (len(own) > 1)}"))
        for (licence,), own in licences.items()
    ]
    givers = [
        tag("div", ref(row["given_by"] or row["brought_in_by"]), class_="small") for own in licences.values() for row in own[:4]
    ]
    return [ref(name), clipped(rows[0]["combined"] or "none stated"), each or "none stated", givers[:12]]


def _provenance(source: Source) -> Html | None:
    made = source.ask("artifacts")
    total = sum(row["artifacts"] for row in source.ask("totals"))
    commits = sorted({str(row["commit"]) for row in made})
    body: list[list[Child]] = [
        [
            ref(row["ref"]), tag("code", row["fingerprint"]), duration(row["seconds"] or 0.0),
            f"{(row['peak_memory_bytes'] or 0) / 1e6:,.0f} MB", f"{(row['bytes'] or 0) / 1e6:,.2f} MB",
            clipped(row["licence"] or ""),
        ]
        for row in made
    ]  # fmt: skip
    return section(
        "provenance",
        "Provenance",
        inside(
            "Code at ", [inside(", " if i else "", tag("code", clipped(commit))) for i, commit in enumerate(commits[:6])], "."
        ),
        folded(
            f"The last {len(made):,} of {total:,} artifacts: time, memory, size, licence"
            if total > len(made)
            else f"All {total:,} artifacts: time, memory, size, licence",
            table(["Artifact", "Fingerprint", "Time", "Peak memory", "Size", "Licence"], body, listed=500),
        ),
        tag("p", asked("artifacts", "totals"), class_="small"),
    )
