"""Where an artifact comes from and what became of it: the graph of artifacts, as a tree of text and as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from . import index
from .store import Store

SOURCES = ("corpus", "tokenizer", "tokens", "mixture", "conversations")
MODEL = "checkpoint"
EVIDENCE = ("scorecard", "decision", "promotion")
"""Kinds that speak about a model and do not go into one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One artifact in the graph."""

    ref: str
    kind: str
    what: str
    """What it is in a few words: `merge, dare_ties`."""
    stage: str = ""
    """The stage it was last a candidate for."""
    verdict: str = ""
    """The gate's last verdict on it, empty when no gate saw it."""
    stages: tuple[str, ...] = ()
    """The stages whose alias points to it now."""

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

    def into(self, ref: str) -> list[Edge]:
        """What it was made from, in the order of its recipe."""
        return [edge for edge in self.edges if edge.target == ref]

    def out_of(self, ref: str) -> list[Edge]:
        """What was made from it."""
        return [edge for edge in self.edges if edge.source == ref]

    def without(self, kinds: Sequence[str]) -> Graph:
        """The graph without some kinds of artifact."""
        kept = {ref: node for ref, node in self.nodes.items() if node.kind not in kinds}
        return Graph(kept, tuple(edge for edge in self.edges if edge.source in kept and edge.target in kept))

    def order(self) -> list[str]:
        """The references, each after what it was made from, otherwise in the order of their making."""
        ordered: dict[str, None] = {}

        def visit(ref: str) -> None:
            if ref not in ordered:
                for edge in self.into(ref):
                    visit(edge.source)
                ordered[ref] = None

        for ref in self.nodes:
            visit(ref)
        return list(ordered)


def read_graph(store: Store) -> Graph:
    """The whole catalog as a graph, from the index."""
    _, artifacts = index.query(store, "SELECT ref, kind, body FROM artifacts ORDER BY created, ref")
    _, inputs = index.query(
        store, "SELECT input_ref, ref, role, via FROM inputs WHERE input_ref IN (SELECT ref FROM artifacts) ORDER BY ref, role"
    )
    _, decided = index.query(
        store,
        """SELECT d.model, d.stage, d.verdict FROM decisions d JOIN artifacts a USING (ref)
        ORDER BY a.created, d.ref""",
    )
    _, aliases = index.query(store, "SELECT stage, model FROM stages")
    verdicts = {model: (stage, verdict) for model, stage, verdict in decided}
    nodes = {}
    for ref, kind, body in artifacts:
        stage, verdict = verdicts.get(ref, ("", ""))
        stages = tuple(name for name, model in aliases if model == ref)
        nodes[ref] = Node(
            ref=ref, kind=kind, what=description(kind, json.loads(body)), stage=stage, verdict=verdict, stages=stages
        )
    edges = tuple(Edge(source=source, target=target, role=role, via=via) for source, target, role, via in inputs)
    return Graph(nodes, edges)


def description(kind: str, body: dict[str, Any]) -> str:
    """An artifact in a few words, from its record's body."""
    if kind == "corpus":
        return f"{body['documents_out']:,} of {body['documents_in']:,} documents"
    if kind == "tokenizer":
        return f"{body['vocabulary']:,} entries"
    if kind in ("tokens", "mixture"):
        return f"{body['tokens']:,} tokens"
    if kind == "conversations":
        return f"{body['rows']:,} {'pairs' if body['form'] == 'preference' else 'conversations'}"
    if kind == MODEL:
        return f"merge, {body['method']}" if body["method"] else str(body["stage"])
    if kind == "scorecard":
        return f"{body['suite']} on {body['model']}"
    return f"{body['verdict']}: {body['model']} for {body['stage']}"


def lineage_text(store: Store, ref: str) -> str:
    """A tree of what an artifact was made from, and one of what was made from it, for people."""
    graph = read_graph(store)
    lines = [_line(graph.nodes[ref]), "", "made from"]
    lines += _tree(graph, ref, lambda r: [(edge, edge.source) for edge in graph.into(r)], set(), "") or [
        "  nothing in the catalog"
    ]
    models = graph.without(("scorecard", "decision", "promotion"))
    lines += ["", "went into"]
    lines += _tree(models, ref, lambda r: [(edge, edge.target) for edge in models.out_of(r)], set(), "") or ["  nothing"]
    return "\n".join(lines)


def _tree(graph: Graph, ref: str, follow: Callable[[str], list[tuple[Edge, str]]], seen: set[str], indent: str) -> list[str]:
    lines = []
    branches = follow(ref)
    for i, (edge, other) in enumerate(branches):
        is_last = i == len(branches) - 1
        again = other in seen and bool(follow(other))
        notes = (f"  [{edge.via}]" if edge.via else "") + ("  (shown above)" if again else "")
        lines.append(f"{indent}{'└─ ' if is_last else '├─ '}{edge.role}: {_line(graph.nodes[other])}{notes}")
        if not again:
            seen.add(other)
            lines += _tree(graph, other, follow, seen, indent + ("   " if is_last else "│  "))
    return lines


def _line(node: Node) -> str:
    notes = [node.what]
    if node.verdict:
        notes.append(f"gate {node.stage}: {node.verdict}")
    notes += [f"promoted: stage:{stage}" for stage in node.stages]
    return f"{node.ref} ({'; '.join(notes)})"


def lineage_json(store: Store, ref: str) -> str:
    """Every ancestor and descendant of an artifact with the edges between them, as JSON for programs."""
    graph = read_graph(store)
    around = {ref}
    for step in (lambda r: [edge.source for edge in graph.into(r)], lambda r: [edge.target for edge in graph.out_of(r)]):
        around.update(_reached(ref, step))
    table = {
        "ref": ref,
        "nodes": [
            {
                "ref": node.ref, "kind": node.kind, "what": node.what, "stage": node.stage, "verdict": node.verdict,
                "promoted_to": list(node.stages),
            }
            for node in (graph.nodes[name] for name in graph.order() if name in around)
        ],
        "edges": [
            {"from": edge.source, "to": edge.target, "role": edge.role, "via": edge.via}
            for edge in graph.edges
            if edge.source in around and edge.target in around
        ],
    }  # fmt: skip
    return json.dumps(table, ensure_ascii=False, indent=1)


def _reached(ref: str, step: Callable[[str], list[str]]) -> Iterator[str]:
    seen, waiting = set[str](), [ref]
    while waiting:
        for other in step(waiting.pop()):
            if other not in seen:
                seen.add(other)
                waiting.append(other)
                yield other
