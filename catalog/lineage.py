"""Where an artifact comes from and what became of it: the graph around an artifact, or of the whole catalog.

The graph is read by one recursive query that starts at the artifact. The view `ancestors` was refused for it: it is the closure
of the whole catalog, and a question is about one artifact. What is named as an input but has no readable record stays in the
graph, marked as such: a lineage with a hole must show the hole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from string import Formatter
from typing import Any

import duckdb

from . import index
from .errors import MissingArtifact
from .recipes import STAGE_PREFIX
from .records import ArtifactRef
from .store import Store

SOURCES = ("corpus", "tokenizer", "tokens", "mixture", "conversations")
MODEL = "checkpoint"
EVIDENCE = ("scorecard", "decision", "promotion")
"""Kinds that speak about a model and do not go into one."""
MISSING = "not in the catalog"

WHAT = {
    "corpus": "{documents_out:,} of {documents_in:,} documents",
    "plan": "{records:,} records of {files:,} WARC files",
    "tokenizer": "{vocabulary:,} entries",
    "tokens": "{tokens:,} tokens",
    "token-files": "{tokens:,} tokens, dropout {dropout}",
    "mixture-search": "{trials} runs",
    "mixture": "{tokens:,} tokens",
    "conversations": "{rows:,} {form}",
    "synthesis": "{attempts:,} attempts by {generator}",
    "ngrams": "{ngrams:,} n-grams of {texts:,} texts",
    "checkpoint": "{stage}, {method}",
    "scorecard": "{suite} on {model}",
    "decision": "{verdict}: {model} for {stage}",
    "promotion": "{verdict}: {model} for {stage}",
    "mirror": "{benchmark}, profile {profile}",
    "questions": "{items:,} items of {suite}",
    "overlap": "{items:,} items found in {documents:,} documents",
}
"""Kind to a few words about an artifact, from the fields of its body."""
FIELDS = {kind: [name for _, name, _, _ in Formatter().parse(words) if name] for kind, words in WHAT.items()}
"""Kind to the fields of its body that these words take."""
VALUES = "CASE kind {} END".format(
    " ".join(
        "WHEN '{}' THEN json_extract_string(body, [{}])".format(kind, ", ".join(f"'$.{name}'" for name in names))
        for kind, names in FIELDS.items()
    )
)
"""The same as SQL. A body holds all shards of a corpus, all outcomes of a decision: it is not fetched whole."""
FORMS = {"messages": "conversations", "preference": "pairs"}

EVERYTHING = "SELECT ref FROM artifacts"
AROUND = """WITH RECURSIVE up(ref, depth) AS (
        SELECT CAST($1 AS VARCHAR), CAST($2 AS BIGINT)
        UNION SELECT i.input_ref, up.depth + 1 FROM up JOIN inputs i ON i.ref = up.ref WHERE coalesce(up.depth < $3, TRUE)
    ), down(ref, depth) AS (
        SELECT CAST($1 AS VARCHAR), CAST($4 AS BIGINT)
        UNION SELECT i.ref, down.depth + 1 FROM down JOIN inputs i ON i.input_ref = down.ref
        WHERE coalesce(down.depth < $5, TRUE)
    ) SELECT ref FROM up UNION SELECT ref FROM down"""
"""$1 is where to start; $2 is 0 and $3 how far to go up, or both are NULL: without a depth that counts up, `UNION` meets each
artifact once, and a circle, which only a forged record can make, ends. $4 and $5 are the same for the way down."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Crawl:
    """What a corpus kept of one crawl, or of one source that is no crawl."""

    name: str
    """`CC-MAIN-2026-39`, or the recipe's name of the source."""
    files: int
    """Files with a document that was kept."""
    documents: int
    """Documents kept."""
    bytes: int
    """UTF-8 bytes of their texts."""
    paths: tuple[tuple[str, int], ...] = ()
    """File to documents kept, when asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One artifact in the graph."""

    ref: str
    kind: str
    """Empty for what is named as an input and not in the catalog."""
    what: str
    """What it is in a few words: `merge, dare_ties`."""
    stage: str = ""
    """The stage it was last a candidate for."""
    verdict: str = ""
    """The gate's last verdict on it, empty when no gate saw it."""
    stages: tuple[str, ...] = ()
    """The stages whose alias points to it now."""
    crawls: tuple[Crawl, ...] = ()
    """Where a corpus' documents come from, as far as its record says."""

    @property
    def name(self) -> str:
        """The reference without its kind."""
        return self.ref.split("/", 1)[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """One artifact that went into another."""

    source: str
    target: str
    role: str
    """The field of the target's recipe, `parents.0`."""
    via: str = ""
    """How a stage's alias was resolved, empty when the recipe names the source outright."""


@dataclass(frozen=True, slots=True)
class Graph:
    """Artifacts and what went into what."""

    nodes: dict[str, Node]
    edges: tuple[Edge, ...]
    _into: dict[str, list[Edge]] = field(default_factory=dict, init=False, repr=False, compare=False)
    _out_of: dict[str, list[Edge]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for edge in self.edges:
            self._into.setdefault(edge.target, []).append(edge)
            self._out_of.setdefault(edge.source, []).append(edge)

    def into(self, ref: str) -> list[Edge]:
        """What it was made from, in the order of its recipe."""
        return self._into.get(ref, [])

    def out_of(self, ref: str) -> list[Edge]:
        """What was made from it."""
        return self._out_of.get(ref, [])

    def without(self, kinds: Sequence[str]) -> Graph:
        """The graph without some kinds of artifact."""
        kept = {ref: node for ref, node in self.nodes.items() if node.kind not in kinds}
        return Graph(kept, tuple(edge for edge in self.edges if edge.source in kept and edge.target in kept))

    def order(self) -> list[str]:
        """The references, each after what it was made from, otherwise in the order of their making."""
        ordered: dict[str, None] = {}
        begun = set[str]()
        for start in self.nodes:
            waiting = [start]
            while waiting:
                ref = waiting[-1]
                left = [] if ref in begun else [edge.source for edge in self.into(ref) if edge.source not in ordered]
                begun.add(ref)
                if left:
                    waiting += reversed(left)
                else:
                    ordered[waiting.pop()] = None
        return list(ordered)


def read_graph(store: Store) -> Graph:
    """The whole catalog as a graph, from the index."""
    with index.connect(store) as connection:
        return _with_discarded(store, _graph(connection, EVERYTHING, ()))


def graph_around(
    store: Store, ref: str, *, up: bool = True, down: bool = True, depth: int | None = None, with_files: bool = False
) -> Graph:
    """An artifact (`name@version`) with its ancestors and descendants, at most `depth` steps away.

    `with_files` lists the files of the crawls one by one. Raises MissingArtifact for what no record speaks of.
    """
    bounds = [depth if wanted else 0 for wanted in (up, down)]
    given = [value for bound in bounds for value in (None if bound is None else 0, bound)]
    with index.connect(store) as connection:
        graph = _graph(connection, AROUND, (ref, *given), with_files)
        if graph.nodes[ref].kind or graph.edges:
            return _with_discarded(store, graph)
        named = connection.execute("SELECT count(*) FROM inputs WHERE input_ref = $1", [ref]).fetchone()
        if named == (0,) and graph.nodes[ref].what == MISSING:
            raise MissingArtifact(ref, [name for (name,) in connection.execute("SELECT ref FROM artifacts").fetchall()])
    return graph


def resolved(store: Store, ref: str) -> str:
    """The artifact that a reference means: itself, or the model that `stage:NAME` stands for."""
    return str(store.require(ref).ref) if ref.startswith(STAGE_PREFIX) else ref


def _graph(connection: duckdb.DuckDBPyConnection, around: str, given: Sequence[Any], with_files: bool = False) -> Graph:
    connection.execute(f"CREATE TEMP TABLE around AS {around}", list(given))
    nodes = _nodes(connection, _crawls(connection, with_files))
    inputs = connection.execute(
        """SELECT input_ref, ref, role, via FROM inputs WHERE ref IN (SELECT ref FROM around)
        AND (input_ref IN (SELECT ref FROM around) OR input_ref NOT IN (SELECT ref FROM artifacts) AND $1)
        ORDER BY ref, role""",
        [not given],
    ).fetchall()
    edges = tuple(Edge(source=source, target=target, role=role, via=via or "") for source, target, role, via in inputs)
    for edge in edges:
        nodes.setdefault(edge.source, Node(ref=edge.source, kind="", what=MISSING))
    return Graph(_with_problems(connection, nodes), edges)


def _nodes(connection: duckdb.DuckDBPyConnection, crawls: Mapping[str, tuple[Crawl, ...]]) -> dict[str, Node]:
    decided = connection.execute(
        """SELECT d.model, d.stage, d.verdict FROM decisions d JOIN artifacts a USING (ref)
        WHERE d.model IN (SELECT ref FROM around) ORDER BY a.created, d.ref"""
    ).fetchall()
    verdicts = {model: (stage, verdict) for model, stage, verdict in decided}
    stages: dict[str, tuple[str, ...]] = {}
    for stage, model in connection.execute("SELECT stage, model FROM stages ORDER BY stage").fetchall():
        stages[model] = (*stages.get(model, ()), stage)
    found = connection.execute(
        f"SELECT ref, kind, {VALUES} FROM around LEFT JOIN artifacts USING (ref) ORDER BY created, ref"
    ).fetchall()
    nodes = {}
    for ref, kind, values in found:
        stage, verdict = verdicts.get(ref, ("", ""))
        what = description(kind, dict(zip(FIELDS.get(kind, ()), values or (), strict=True))) if kind else MISSING
        nodes[ref] = Node(
            ref=ref, kind=kind or "", what=what, stage=stage, verdict=verdict, stages=stages.get(ref, ()),
            crawls=crawls.get(ref, ()),
        )  # fmt: skip
    return nodes


def _with_problems(connection: duckdb.DuckDBPyConnection, nodes: dict[str, Node]) -> dict[str, Node]:
    """The nodes, and for those whose record is there and cannot be read, why."""
    holes = {ref.replace("@", "/"): ref for ref, node in nodes.items() if not node.kind}
    if holes:
        for path, problem in connection.execute("SELECT path, problem FROM problems").fetchall():
            ref = holes.get(path.removesuffix("/artifact.json"))
            if ref:
                nodes[ref] = Node(ref=ref, kind="", what=f"{MISSING}: {problem}")
    return nodes


def _with_discarded(store: Store, graph: Graph) -> Graph:
    """The graph, with a word on the models whose weights were deleted: the index is made from records, which do not change."""
    nodes = dict(graph.nodes)
    for ref, node in graph.nodes.items():
        if node.kind == MODEL and store.discarded(ArtifactRef.parse(ref)):
            nodes[ref] = replace(node, what=f"{node.what}, weights discarded")
    return Graph(nodes, graph.edges)


def _crawls(connection: duckdb.DuckDBPyConnection, with_files: bool) -> dict[str, tuple[Crawl, ...]]:
    """Corpus to its crawls, from the table `origins`."""
    files = ", list(file), list(documents)" if with_files else ", [], []"
    rows = connection.execute(
        f"""SELECT ref, name, count(*), CAST(sum(documents) AS BIGINT), CAST(sum(bytes) AS BIGINT){files}
        FROM (
            SELECT ref, coalesce(nullif(crawl, ''), source) AS name, file, CAST(sum(documents) AS BIGINT) AS documents,
                sum(bytes) AS bytes
            FROM origins WHERE ref IN (SELECT ref FROM around) GROUP BY ref, name, file
        ) GROUP BY ref, name ORDER BY ref, name"""
    ).fetchall()
    found: dict[str, tuple[Crawl, ...]] = {}
    for ref, name, number, documents, size, names, kept in rows:
        paths = tuple(sorted(zip(names, kept, strict=True)))
        crawl = Crawl(name=name, files=number, documents=documents, bytes=size, paths=paths)
        found[ref] = (*found.get(ref, ()), crawl)
    return found


def description(kind: str, body: Mapping[str, Any]) -> str:
    """An artifact in a few words, from the fields of its record's body (or their texts); the kind itself where they fail."""
    try:
        given = {name: body[name] for name in FIELDS[kind]}
        for name, value in given.items():
            if str(value).isdecimal():
                given[name] = int(value)
        if "form" in given:
            given["form"] = FORMS[given["form"]]
        return WHAT[kind].format_map(given).removesuffix(", ")
    except (KeyError, ValueError, TypeError):  # a record of another version
        return kind
