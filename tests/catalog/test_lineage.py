"""The lineage as text and as JSON."""

from __future__ import annotations

import json

import pytest

from sea_lion.catalog.lineage import lineage_json, lineage_text, read_graph
from sea_lion.catalog.store import Store


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
