"""The lineage of an artifact for those who ask: as a tree of text, as JSON and as a picture (an SVG file of its own).

OpenLineage's events are in `openlineage`. Names and reasons come from outside: control characters are written as escapes in the
text, and are replaced in the picture, where XML does not allow them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from importlib.resources import files

from .charts import lineage_picture
from .lineage import EVIDENCE, Crawl, Edge, Graph, Node, graph_around
from .store import Store

NOT_IN_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
Branch = tuple[str, str, str]
"""A line, the artifact whose branches hang below it (or nothing), and the indentation of those."""


def lineage_text(
    store: Store, ref: str, *, up: bool = True, down: bool = True, depth: int | None = None, with_files: bool = False
) -> str:
    """A tree of what an artifact was made from, down to crawls and (`with_files`) WARC files, and one of what became of it."""
    graph = graph_around(store, ref, up=up, down=down, depth=depth, with_files=with_files)
    lines = [_line(graph.nodes[ref])]
    if up:
        lines += ["", "made from", *(list(_tree(graph, ref, _sources)) or ["  nothing in the catalog"])]
    if down:
        models = _models(graph, ref)
        lines += ["", "went into", *(list(_tree(models, ref, _uses)) or ["  nothing"])]
    return "\n".join(lines)


def _models(graph: Graph, ref: str) -> Graph:
    """The graph without what only speaks about models: a node says its verdict and its stages itself."""
    return graph.without([kind for kind in EVIDENCE if kind != graph.nodes[ref].kind])


def _sources(graph: Graph, ref: str) -> list[tuple[str, str]]:
    """What hangs below an artifact on the way up: a line each, and the artifact it speaks of."""
    inputs = [(_named(edge, graph.nodes[edge.source]), edge.source) for edge in graph.into(ref)]
    return inputs + [(line, "") for crawl in graph.nodes[ref].crawls for line in _crawl_lines(crawl)]


def _uses(graph: Graph, ref: str) -> list[tuple[str, str]]:
    return [(_named(edge, graph.nodes[edge.target]), edge.target) for edge in graph.out_of(ref)]


def _tree(graph: Graph, ref: str, below: Callable[[Graph, str], list[tuple[str, str]]]) -> Iterator[str]:
    """The lines below an artifact. What was shown before is not unfolded again; a loop, as a chain may be long."""
    seen = {ref}
    waiting = _branches(below(graph, ref), "")
    while waiting:
        line, other, indent = waiting.pop()
        branches = below(graph, other) if other else []
        again = other in seen and bool(branches)
        yield line + ("  (shown above)" if again else "")
        if branches and not again:
            seen.add(other)
            waiting += _branches(branches, indent)


def _branches(lines: Sequence[tuple[str, str]], indent: str) -> list[Branch]:
    """The branches below one place, the first one last."""
    found: list[Branch] = []
    for line, other in reversed(lines):
        is_last = not found
        found.append((f"{indent}{'└─ ' if is_last else '├─ '}{line}", other, indent + ("   " if is_last else "│  ")))
    return found


def _named(edge: Edge, node: Node) -> str:
    return _printable(f"{edge.role}: ") + _line(node) + _printable(f"  [{edge.via}]" if edge.via else "")


def _line(node: Node) -> str:
    notes = [node.what]
    if node.verdict:
        notes.append(f"gate {node.stage}: {node.verdict}")
    notes += [f"promoted: stage:{stage}" for stage in node.stages]
    return _printable(f"{node.ref} ({'; '.join(notes)})")


def _crawl_lines(crawl: Crawl) -> list[str]:
    head = f"from {crawl.name}: {crawl.documents:,} documents of {crawl.files:,} {'file' if crawl.files == 1 else 'files'}"
    return [_printable(line) for line in (head, *(f"  {path}: {documents:,}" for path, documents in crawl.paths))]


def _printable(text: str) -> str:
    """Text that cannot move a terminal's cursor or turn its direction around: other characters as Python writes them."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def lineage_json(
    store: Store, ref: str, *, up: bool = True, down: bool = True, depth: int | None = None, with_files: bool = False
) -> str:
    """Every ancestor and descendant of an artifact with the edges between them, as JSON for programs."""
    graph = graph_around(store, ref, up=up, down=down, depth=depth, with_files=with_files)
    table = {
        "ref": ref,
        "nodes": [_node_table(graph.nodes[name], with_files) for name in graph.order()],
        "edges": [{"from": edge.source, "to": edge.target, "role": edge.role, "via": edge.via} for edge in graph.edges],
    }
    return json.dumps(table, ensure_ascii=False, indent=1)


def _node_table(node: Node, with_files: bool) -> dict[str, object]:
    table: dict[str, object] = {
        "ref": node.ref, "kind": node.kind, "what": node.what, "stage": node.stage, "verdict": node.verdict,
        "promoted_to": list(node.stages),
    }  # fmt: skip
    if node.crawls:
        table["crawls"] = [
            {"crawl": crawl.name, "files": crawl.files, "documents": crawl.documents, "bytes": crawl.bytes}
            | ({"paths": dict(crawl.paths)} if with_files else {})
            for crawl in node.crawls
        ]
    return table


def lineage_svg(store: Store, ref: str, *, up: bool = True, down: bool = True, depth: int | None = None) -> str:
    """The graph around an artifact as an SVG file that needs nothing else: light or dark, as its reader's screen is."""
    graph = _models(graph_around(store, ref, up=up, down=down, depth=depth), ref)
    style = files(__package__ or "").joinpath("report.css").read_text("utf-8")
    style += "svg { background: var(--paper); width: 100%; }"
    picture = lineage_picture(f"Lineage of {ref}", graph)
    start = picture.index(">") + 1
    head = picture[: start - 1] + ' xmlns="http://www.w3.org/2000/svg">'
    return NOT_IN_XML.sub("\ufffd", f"{head}<style><![CDATA[{style}]]></style>{picture[start:]}") + "\n"
