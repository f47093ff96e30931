"""The lineage as text and as JSON."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from string import Formatter
from typing import Any
from xml.etree import ElementTree

import pytest

from sea_lion.catalog.errors import MissingArtifact, SeaLionError
from sea_lion.catalog.lineage import WHAT, description, graph_around, read_graph
from sea_lion.catalog.lineage_tree import lineage_json, lineage_svg, lineage_text
from sea_lion.catalog.records import BODIES, Checkpoint, Conversations
from sea_lion.catalog.seen import seen_by
from sea_lion.catalog.store import Store
from sea_lion.data.chat_recipe import ConversationsRecipe


def test_text_goes_up_to_the_sources_and_down_to_what_it_went_into(filled: Store) -> None:
    text = lineage_text(filled, "checkpoint/tiny-llama-merge-1@1")
    first, up, down = text.split("\n\n")
    assert first == (
        "checkpoint/tiny-llama-merge-1@1 (merge, dare_ties; gate tiny-llama/merge-1: fail; promoted: stage:tiny-llama/merge-1)"
    )
    assert up.startswith("made from\n├─ base: checkpoint/tiny-llama-cpt@1 (cpt; gate tiny-llama/cpt: pass; promoted: ")
    assert "corpora.0: corpus/tiny@1 (218 of 418 documents)" in up
    assert "[stage tiny-llama/cpt: promotion/tiny-llama/cpt@1]" in up
    assert "parents.1.model: checkpoint/tiny-llama-sft-2@1 (sft; gate tiny-llama/instruct-2: hold)" in up
    assert "tiny-llama-it" not in up
    assert down.startswith("went into\n└─ base: checkpoint/tiny-llama-merge-2@1")
    assert (
        "checkpoint/tiny-llama-it@1 (merge, della_linear; gate tiny-llama/final: pass; promoted: stage:tiny-llama/final)"
        in down
    )
    assert "scorecard" not in text


def test_what_was_shown_is_not_unfolded_again(filled: Store) -> None:
    text = lineage_text(filled, "checkpoint/tiny-llama-it@1")
    assert "(shown above)" in text
    assert text.count("base: checkpoint/tiny-llama-cpt@1") == 1
    assert text.count("conversations: conversations/tiny-instruct-2@1") == 2  # two models were trained on it


def test_the_ends_say_so(filled: Store) -> None:
    assert "made from\n  nothing" in lineage_text(filled, "corpus/tiny@1")
    assert lineage_text(filled, "checkpoint/tiny-llama-it@1").endswith("went into\n  nothing")


def test_json_holds_ancestors_descendants_and_the_edges_between(filled: Store) -> None:
    table = json.loads(lineage_json(filled, "checkpoint/tiny-llama-sft-2@1"))
    refs = [node["ref"] for node in table["nodes"]]
    assert {
        "corpus/tiny@1",
        "checkpoint/tiny-llama-init@1",
        "checkpoint/tiny-llama-it@1",
        "decision/tiny-llama/final@1",
    } <= set(refs)
    assert "checkpoint/tiny-llama-peer-nova@1" not in refs
    assert all(edge["from"] in refs and edge["to"] in refs for edge in table["edges"])
    for edge in table["edges"]:
        assert refs.index(edge["from"]) < refs.index(edge["to"])
    final = next(node for node in table["nodes"] if node["ref"] == "checkpoint/tiny-llama-it@1")
    assert final["promoted_to"] == ["tiny-llama/final"]
    assert final["verdict"] == "pass"


def test_graph_is_ordered_and_can_leave_kinds_out(filled: Store) -> None:
    graph = read_graph(filled)
    order = graph.order()
    assert sorted(order) == sorted(graph.nodes)
    assert all(order.index(edge.source) < order.index(edge.target) for edge in graph.edges)
    models = graph.without(("corpus", "scorecard"))
    assert {node.kind for node in models.nodes.values()} & {"corpus", "scorecard"} == set()
    assert all(edge.source in models.nodes and edge.target in models.nodes for edge in models.edges)


@pytest.mark.parametrize("ref", ["tokens/tiny@1", "mixture/tiny@1", "conversations/tiny-preference@1"])
def test_data_leads_to_models(filled: Store, ref: str) -> None:
    assert "checkpoint/tiny-llama-align@1" in lineage_text(filled, ref)


def forged(root: Path, ref: str, inputs: list[str], kind: str = "checkpoint", **body: Any) -> None:
    """A record as somebody could have written it, whatever its inputs are."""
    name, _, version = ref.partition("@")
    fields: dict[str, Any] = {"stage": "cpt", "architecture": "L", "parameters": 1} if kind == "checkpoint" else {}
    record = {
        "ref": {"name": name, "version": version}, "kind": kind, "fingerprint": ref, "recipe": {}, "identity": {},
        "inputs": [{"role": f"parents.{i}", "ref": given, "fingerprint": "f"} for i, given in enumerate(inputs)],
        "licence": "MIT", "files": [], "tables": {}, "body": fields | body,
        "provenance": {
            "created": "2026-11-28T00:00:00+00:00", "seconds": 1.0, "peak_memory_bytes": 1, "commit": "c", "python": "3",
            "packages": {},
        },
    }  # fmt: skip
    folder = root / name / version
    folder.mkdir(parents=True)
    (folder / "artifact.json").write_text(json.dumps(record))


def test_every_kind_has_words_of_its_own_fields() -> None:
    assert WHAT.keys() == BODIES.keys()
    for kind, words in WHAT.items():
        names = {name for _, name, _, _ in Formatter().parse(words) if name}
        assert names <= {field.name for field in fields(BODIES[kind])}, kind


@pytest.mark.parametrize(
    ("kind", "body", "words"),
    [
        ("plan", {"records": "12000", "files": 3}, "12,000 records of 3 WARC files"),
        ("synthesis", {"generator": "gemma", "attempts": 5}, "5 attempts by gemma"),
        ("ngrams", {"ngrams": 1000, "texts": 9}, "1,000 n-grams of 9 texts"),
        ("conversations", {"rows": 2, "form": "preference"}, "2 pairs"),
        ("checkpoint", {"stage": "cpt", "method": ""}, "cpt"),
        ("checkpoint", {"stage": "cpt"}, "checkpoint"),
        ("corpus", {"documents_in": None, "documents_out": 1}, "corpus"),
        ("from-the-future", {}, "from-the-future"),
    ],
)
def test_words_about_an_artifact(kind: str, body: dict[str, Any], words: str) -> None:
    assert description(kind, body) == words


def test_ways_and_depth_bound_the_graph(filled: Store) -> None:
    ref = "checkpoint/tiny-llama-cpt@1"
    up, down = graph_around(filled, ref, down=False), graph_around(filled, ref, up=False)
    assert "corpus/tiny@1" in up.nodes and "checkpoint/tiny-llama-it@1" not in up.nodes
    assert "corpus/tiny@1" not in down.nodes and "checkpoint/tiny-llama-it@1" in down.nodes
    near = graph_around(filled, ref, depth=1)
    assert {edge.source for edge in near.edges if edge.target == ref} == {"mixture/tiny@1", "checkpoint/tiny-llama-base@1"}
    assert "tokens/tiny@1" not in near.nodes and "checkpoint/tiny-llama-it@1" not in near.nodes
    assert (
        set(graph_around(filled, ref, depth=99).nodes)
        == set(graph_around(filled, ref).nodes)
        == up.nodes.keys() | down.nodes.keys()
    )
    text = lineage_text(filled, ref, down=False, depth=1)
    assert "went into" not in text and "tokens/tiny@1" not in text


def test_a_lineage_with_a_hole_shows_it(filler: Any) -> None:
    root = filler.store.root
    forged(root, "checkpoint/child@1", ["checkpoint/lost@1", "checkpoint/damaged@1"])
    forged(root, "checkpoint/damaged@1", [])
    (root / "checkpoint/damaged/1/artifact.json").write_text("{")
    text = lineage_text(filler.store, "checkpoint/child@1")
    assert "parents.0: checkpoint/lost@1 (not in the catalog)" in text
    assert "parents.1: checkpoint/damaged@1 (not in the catalog: " in text
    below = lineage_text(filler.store, "checkpoint/lost@1")
    assert below.startswith("checkpoint/lost@1 (not in the catalog)") and "checkpoint/child@1" in below
    assert {node.ref for node in read_graph(filler.store).nodes.values() if not node.kind} == {
        "checkpoint/lost@1",
        "checkpoint/damaged@1",
    }
    with pytest.raises(MissingArtifact, match=r"checkpoint/childe@1: no such artifact .* checkpoint/child@1"):
        graph_around(filler.store, "checkpoint/childe@1")


def test_a_forged_circle_ends(filler: Any) -> None:
    for name, parent in (("a", "b"), ("b", "c"), ("c", "a")):
        forged(filler.store.root, f"checkpoint/{name}@1", [f"checkpoint/{parent}@1"])
    for depth, down in ((None, True), (50, True), (None, False)):
        graph = graph_around(filler.store, "checkpoint/a@1", depth=depth, down=down)
        assert graph.nodes.keys() == {"checkpoint/a@1", "checkpoint/b@1", "checkpoint/c@1"}
        assert sorted(graph.order()) == sorted(graph.nodes)
    assert "(shown above)" in lineage_text(filler.store, "checkpoint/a@1")


def test_a_long_chain_is_walked_without_recursion(filler: Any) -> None:
    for i in range(1200):
        forged(filler.store.root, f"checkpoint/m{i}@1", [f"checkpoint/m{i - 1}@1"] if i else [])
    lines = lineage_text(filler.store, "checkpoint/m1199@1").splitlines()
    assert len(lines) > 1200 and "checkpoint/m0@1" in lines[1201]
    assert graph_around(filler.store, "checkpoint/m1199@1").order()[0] == "checkpoint/m0@1"


@pytest.fixture
def crawled(filler: Any) -> Store:
    """A corpus whose record says which WARC files its documents come from, and a model of it."""
    rows = [
        {"source": "web", "crawl": "CC-MAIN-2026-39", "file": f"crawl-data/{i}.warc.gz", "documents": 10 + i, "bytes": 1000}
        for i in range(3)
    ]
    rows.append({"source": "books", "crawl": "", "file": "a\x1b[31m\u202e<b>.txt", "documents": 1, "bytes": 9})
    fields = {"kind": "conversations", "name": "conversations/x", "form": "messages", "files": [filler.file("x.jsonl")]}
    filler.put(ConversationsRecipe, fields, Conversations(form="messages", rows=1, languages={"khm": 1}), {"origins": rows})
    store: Store = filler.store
    forged(store.root, "checkpoint/m@1", ["conversations/x@1"])
    return store


def test_lineage_ends_at_crawls_and_warc_files(crawled: Store) -> None:
    text = lineage_text(crawled, "checkpoint/m@1")
    assert "from CC-MAIN-2026-39: 33 documents of 3 files" in text and "from books: 1 documents of 1 file" in text
    assert "warc.gz" not in text
    text = lineage_text(crawled, "checkpoint/m@1", with_files=True)
    assert "crawl-data/2.warc.gz: 12" in text
    assert "\x1b" not in text and "\u202e" not in text and "a\\x1b[31m\\u202e<b>.txt: 1" in text
    table = json.loads(lineage_json(crawled, "checkpoint/m@1", with_files=True))
    (node,) = (node for node in table["nodes"] if node["kind"] == "conversations")
    assert [crawl["crawl"] for crawl in node["crawls"]] == ["CC-MAIN-2026-39", "books"]
    assert node["crawls"][0] == {
        "crawl": "CC-MAIN-2026-39", "files": 3, "documents": 33, "bytes": 3000,
        "paths": {"crawl-data/0.warc.gz": 10, "crawl-data/1.warc.gz": 11, "crawl-data/2.warc.gz": 12},
    }  # fmt: skip


def test_the_picture_is_a_file_of_its_own(filler: Any) -> None:
    forged(filler.store.root, "checkpoint/a@1", ["checkpoint/b@1"], method='"><script>\x07</style>]]>')
    forged(filler.store.root, "checkpoint/b@1", [])
    svg = ElementTree.fromstring(lineage_svg(filler.store, "checkpoint/a@1"))  # raises for what XML does not allow
    assert svg.tag == "{http://www.w3.org/2000/svg}svg" and svg.get("viewBox")
    words = "".join(svg.itertext())
    assert "checkpoint/a@1" in words and "checkpoint/b@1" in words and "prefers-color-scheme: dark" in words
    assert not [child for child in svg.iter() if child.tag.endswith("script")]


def test_seen_by_a_model_is_what_its_runs_and_its_parents_read(filled: Store) -> None:
    answers = {answer.heading: answer for answer in seen_by(filled, "stage:tiny-llama/final", "en")}
    read = answers["Tokens read"]
    assert read.columns == ["run", "source", "crawl", "documents", "tokens"]
    assert {row[0] for row in read.rows} == {"checkpoint/tiny-llama-base@1", "checkpoint/tiny-llama-cpt@1"}
    # the base model is an ancestor by six ways, and counts once: (1120 + 480 + 880 + 400 + 320) sequences of 256 tokens
    assert sum(row[-1] for row in read.rows) == 3200 * 256
    said = answers["Who said it may ship"]
    assert [row[:3] for row in said.rows] == [("tiny-llama/final", "no-regression", "pass")]
    assert answers["Conversations trained on"].rows == []
    removed = answers["Filters of its corpora"]
    assert {row[0] for row in removed.rows} == {"corpus/tiny@1"} and {row[3] for row in removed.rows} == {"eng"}
    thai = {answer.heading: answer for answer in seen_by(filled, "checkpoint/tiny-llama-sft-1@1", "th")}
    assert thai["Conversations trained on"].rows == [("checkpoint/tiny-llama-sft-1@1", "conversations/tiny-instruct-1@1", 420)]
    assert thai["Tokens read"].rows == []


def test_seen_by_tells_the_crawls_where_a_run_knows_them(filler: Any) -> None:
    fields = {"kind": "conversations", "name": "conversations/x", "form": "messages", "files": [filler.file("x.jsonl")]}
    rows = [
        {"part": "sea", "corpus": "corpus/k@1", "language": "khm", "source": "web", "crawl": f"CC-{i}", "documents": i,
         "tokens": 10 * i}
        for i in (1, 2)
    ]  # fmt: skip
    parts = [{"part": "sea", "language": "khm", "source": "web", "sequences": 1, "tokens": 30, "documents": 3}]
    body = Checkpoint(stage="cpt", architecture="L", parameters=1)
    filler.put(ConversationsRecipe, fields, body, {"consumed": rows, "training_parts": parts})
    forged(filler.store.root, "checkpoint/m@1", ["conversations/x@1"])
    (read, *_) = seen_by(filler.store, "checkpoint/m@1", "khm")
    assert read.rows == [("conversations/x@1", "web", "CC-1", 1, 10), ("conversations/x@1", "web", "CC-2", 2, 20)]


def test_seen_is_asked_of_models(filled: Store) -> None:
    with pytest.raises(SeaLionError, match="corpus/tiny@1 is a corpus; ask about a checkpoint"):
        seen_by(filled, "corpus/tiny@1", "khm")
