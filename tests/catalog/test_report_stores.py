"""The report of stores that hold little or very much, do not add up, are damaged, or try to break out."""

from __future__ import annotations

import re
from typing import Any

import pytest

from sea_lion.catalog import index
from sea_lion.catalog.lineage import read_graph
from sea_lion.catalog.pages.lineage import DRAWN, towards_stages
from sea_lion.catalog.pages.questions import QUESTIONS
from sea_lion.catalog.pages.source import opened
from sea_lion.catalog.records import Checkpoint, Conversations, Corpus, Score, Scorecard, Shard, TokenCounts, TokenizerBody
from sea_lion.catalog.report import site
from sea_lion.data.chat_recipe import ConversationsRecipe
from sea_lion.data.recipe import CorpusRecipe, TokensRecipe
from sea_lion.eval.recipe import EvaluationRecipe
from sea_lion.training.recipe import InitRecipe, TokenizerRecipe, TrainRecipe

from .page_reader import checked


@pytest.mark.parametrize("what", ["nothing", "corpus", "data", "one model"])
def test_a_store_with_little_in_it_still_gives_a_site(filler: Any, what: str) -> None:
    if what == "corpus":
        filler.corpus()
    if what in ("data", "one model"):
        filler.data()
    if what == "one model":
        filler.put(InitRecipe, INIT | {"name": "checkpoint/a"}, INIT_BODY)
    read = checked(site(filler.store))
    title = {"nothing": "Nothing made yet", "one model": "Models made, none promoted yet"}
    assert title.get(what, "Data, on the way to a model") in read["index.html"].text
    assert ("removal ledger" in read["corpus.html"].text) == (what != "nothing")
    assert "No model has been scored yet." in read["evaluation.html"].text
    with opened(filler.store) as source:
        for name in QUESTIONS:
            source.ask(name)
        assert source.refused == {}


SIZES = ("hidden_size", "intermediate_size", "layers", "heads", "key_value_heads", "head_dim", "max_length")
INIT: dict[str, Any] = {"kind": "init", "tokenizer": "tokenizer/tiny@1", "architecture": "llama"} | dict.fromkeys(SIZES, 8)
INIT_BODY = Checkpoint(stage="init", architecture="LlamaForCausalLM", parameters=1)
HOSTILE = """</style></title><script>alert(1)</script><img src="http://x.test/a.png" onerror='x'>&'; DROP TABLE artifacts; --"""
UNSEEN = "\x1b[31m\x00\u202eevil\u2066\x85"


def test_hostile_strings_stay_strings(filler: Any) -> None:
    hostile_catalog(filler)
    read = checked(site(filler.store, models=("checkpoint/tiny-llama-it@1", "checkpoint/tiny-llama-cpt@1")))
    for page in read.values():
        assert not {"script", "img"} & set(page.elements)
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", page.text)
    for name in ("corpus.html", "gates.html", "evaluation.html", "lineage.html", "index.html"):
        assert "<script>alert(1)</script>" in read[name].text, name
    assert "\\x1b[31m\\x00\\u202eevil\\u2066\\x85" in read["corpus.html"].text
    assert "\\u202e" in read["gates.html"].text
    assert index.query(filler.store, "SELECT count(*) FROM artifacts")[1][0][0] > 10


def hostile_catalog(filler: Any) -> None:
    """A whole lineage in which every name that somebody else chose is an attack."""
    bad = HOSTILE + UNSEEN
    fields: dict[str, Any] = {"kind": "conversations", "name": "conversations/x", "form": "messages"}
    fields |= {"files": [filler.file("x.jsonl")], "licence": HOSTILE}
    filler.put(ConversationsRecipe, fields, Conversations(form="messages", rows=1, languages={HOSTILE: 1}))
    filler.data()
    hostile_corpus(filler)
    tokens = [
        {"corpus": "corpus/zz@1", "shard": "a", "tokenizer": bad, "language": bad, "source": bad, "split": "train",
         "documents": 2, "bytes": 10, "words": 2, "tokens": 4}
    ]  # fmt: skip
    recipe: dict[str, Any] = {
        "kind": "tokens",
        "name": "tokens/zz",
        "corpora": ["corpus/zz@1"],
        "tokenizer": "tokenizer/tiny@1",
    }
    filler.put(TokensRecipe, recipe, TokenCounts(tokenizer="tokenizer/tiny@1", documents=2, tokens=4), {"token_counts": tokens})
    filler.models()
    score = Score(task=HOSTILE, language=HOSTILE, metric=HOSTILE, value=1.0, stderr=0.1, items=1, higher_is_better=True)
    for i, model in enumerate(("checkpoint/tiny-llama-it@1", "checkpoint/tiny-llama-cpt@1")):
        card: dict[str, Any] = {"kind": "evaluation", "name": f"scorecard/z{i}", "model": model, "suite": "smoke"}
        card |= {"suite_files": [filler.file("suite.toml")], "heldout": "corpus/tiny@1"}
        body = Scorecard(model=model, suite=HOSTILE, suite_fingerprint="f", harness="h", scores=(score,))
        filler.put(EvaluationRecipe, card, body)
    final, cpt = "checkpoint/tiny-llama-it@1", "checkpoint/tiny-llama-cpt@1"
    filler.gated("tiny-llama/late", final, cpt, "hold", shift=0, reason=bad, waiver=bad)


def hostile_corpus(filler: Any) -> None:
    """A corpus whose languages, sources, reasons, sites, crawls and files are attacks."""
    bad = HOSTILE + UNSEEN
    hostile = {"language": bad, "source": bad, "bytes": 10}
    flow = [
        hostile | {"step": 0, "stage": bad, "outcome": "in", "reason": "", "documents": 5},
        hostile | {"step": 0, "stage": bad, "outcome": "removed", "reason": bad, "documents": 3},
        hostile | {"step": 0, "stage": bad, "outcome": "out", "reason": "", "documents": 2},
        hostile | {"step": 0, "stage": bad, "outcome": "removed", "reason": bad, "documents": 0, "language": "tha"},
    ]
    documents = [{"shard": "a", "id": "1", "url": bad, "domain": bad, "language": bad, "source": bad, "bytes": 10}]
    counts = [hostile | {"shard": "a", "split": "train", "crawl": bad, "documents": 2, "characters": 9}]
    origins = [{"source": bad, "crawl": bad, "file": bad, "documents": 2, "bytes": 10}]
    failures = [{"source": bad, "file": bad, "problem": bad}]
    tables = {"flow": flow, "documents": documents, "shard_counts": counts, "origins": origins, "failures": failures}
    recipe: dict[str, Any] = {"kind": "corpus", "name": "corpus/zz", "languages": ["tha"], "licence": "MIT"}
    recipe |= {"source": [{"name": "web", "form": "warc", "files": [filler.file("b.warc.gz")]}]}
    recipe |= {"thresholds": [filler.file("t.toml")]}
    fields = {"path": "a", "language": HOSTILE, "source": HOSTILE, "split": "train", "sha256": "0" * 64}
    shard = Shard(documents=2, characters=9, bytes=10, **fields)
    filler.put(CorpusRecipe, recipe, Corpus(shards=(shard,), documents_in=5, documents_out=2), tables)


def test_a_ledger_that_does_not_add_up_is_said_to(filler: Any) -> None:
    filler.corpus(lost=1)
    text = checked(site(filler.store))["corpus.html"].text
    assert "✕ does not balance" in text and "It does not add up." in text and "It adds up." not in text


def test_losses_that_are_no_numbers_are_counted_and_drawn_around(filler: Any) -> None:
    filler.data()
    model = filler.put(InitRecipe, INIT | {"name": "checkpoint/a"}, INIT_BODY)
    losses: list[float | None] = [9.0, float("nan"), 5.0, float("inf"), None, 4.0]
    for name, values in (("some", losses), ("all", [float("nan")] * 3)):
        log = [
            {"step": i, "loss": x, "lr": float("nan") if i == 2 else 0.1, "tokens": 10, "skipped": i == 3}
            for i, x in enumerate(values)
        ]
        recipe = {
            "kind": "train",
            "name": f"checkpoint/{name}",
            "objective": "cpt",
            "model": model,
            "lr": 1e-3,
            "batch_sequences": 8,
        }
        body = Checkpoint(stage="cpt", architecture="L", parameters=1, parents=(model,), step=len(values), tokens_seen=60)
        filler.put(TrainRecipe, recipe | {"mixture": "mixture/tiny@1"}, body, {"training_log": log})
    page = site(filler.store)["training.html"]
    assert "3 steps whose loss is no number" in page and page.count('class="cross"') == 3
    assert page.count("✕ 3") == 2 and "nan" not in re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL).lower()


def test_a_table_of_documents_that_is_damaged_costs_its_figures_only(filler: Any) -> None:
    hostile_corpus(filler)
    assert "Sites that gave most" in site(filler.store)["corpus.html"]
    (filler.store.root / "corpus/zz/1/documents.parquet").write_bytes(b"PAR1 no longer PAR1")
    read = checked(site(filler.store))
    assert "Sites that gave most" not in read["corpus.html"].text
    assert "documents.parquet" in read["index.html"].text
    assert "Why documents were removed" in read["corpus.html"].text


def test_three_hundred_artifacts_in_forty_languages(filler: Any) -> None:
    codes = [f"l{i:02}" for i in range(40)]
    tokenizer = {"kind": "tokenizer", "name": "tokenizer/tiny", "corpora": [filler.corpus()], "vocabulary": 900}
    filler.put(TokenizerRecipe, tokenizer, TokenizerBody(algorithm="byte-level-bpe", vocabulary=900))
    previous = filler.put(InitRecipe, INIT | {"name": "checkpoint/m0"}, INIT_BODY)
    for i in range(1, 126):
        fields = {"kind": "conversations", "name": f"conversations/c{i}", "form": "messages", "files": [filler.file("x.jsonl")]}
        data = filler.put(ConversationsRecipe, fields, Conversations(form="messages", rows=i, languages={"tha": i}))
        recipe = {"kind": "train", "name": f"checkpoint/m{i}", "objective": "sft", "model": previous, "lr": 1e-3}
        recipe |= {"batch_sequences": 8, "conversations": data, "epochs": 1.0, "sequence_length": 256}
        body = Checkpoint(stage="sft", architecture="L", parameters=1, parents=(previous,), step=2, tokens_seen=9)
        log = [{"step": step, "loss": 2.0, "lr": 0.1, "tokens": 4, "skipped": False} for step in (1, 2)]
        previous = filler.put(TrainRecipe, recipe, body, {"training_log": log})
    for i in range(78, 126):
        fixed: dict[str, Any] = {"task": "t", "metric": "acc", "stderr": 0.1, "items": 9, "higher_is_better": True}
        scores = tuple(Score(language=code, value=0.5 + i / 1000, **fixed) for code in codes)
        card: dict[str, Any] = {
            "kind": "evaluation",
            "name": f"scorecard/m{i}",
            "model": f"checkpoint/m{i}@1",
            "suite": "smoke",
        }
        card |= {"suite_files": [filler.file("suite.toml")], "heldout": "corpus/tiny@1"}
        body_ = Scorecard(model=f"checkpoint/m{i}@1", suite="smoke", suite_fingerprint="f", harness="h", scores=scores)
        filler.put(EvaluationRecipe, card, body_)
    made = site(filler.store)
    read = checked(made)
    assert "more are left out" in read["training.html"].text and "more are left out" in read["evaluation.html"].text
    assert "m125@1" in read["lineage.html"].text and "nearest first" in read["lineage.html"].text
    assert len(towards_stages(read_graph(filler.store)).nodes) == DRAWN
    assert max(len(text) for text in made.values()) < 1_000_000
