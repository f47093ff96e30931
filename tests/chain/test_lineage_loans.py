"""Loans through a whole lineage: real plan, gates and promotions; only models and their answers are made up."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sea_lion import chain
from sea_lion.catalog.errors import RecipeError
from sea_lion.catalog.recipes import Recipe
from sea_lion.catalog.records import Checkpoint, GateDecision, Score, Scorecard
from sea_lion.catalog.store import Job, Made, Maker, Options, Store
from sea_lion.eval.recipe import GateRecipe

COUNT = 100
RIGHT = {
    "sft": {"qa": 60, "chat": 40},
    "align": {"qa": 40, "chat": 60},
    "it": {"qa": 58, "chat": 55},
    "weak": {"qa": 45, "chat": 60},
    "calm": {"qa": 60, "chat": 60},
}
"""Right answers of each model, of a hundred."""
MODEL = """
kind = "init"
name = "checkpoint/{name}"
version = "1"
tokenizer = "tokenizer/t@1"
architecture = "llama"
hidden_size = 8
intermediate_size = 8
layers = 1
heads = 1
key_value_heads = 1
head_dim = 8
max_length = 8
seed = {seed}
"""
RULE = '[[rules]]\nmetric = "acc"\ntasks = ["qa"]\nsuite = { tolerance = 0.02, margin = 0.1 }\n'
POLICIES = {
    "sft": f'name = "sft"\n{RULE}',
    "align": f"""
name = "align"
{RULE}
[objective]
metric = "acc"
tasks = ["chat"]
[[loans]]
metric = "acc"
level = "suite"
tasks = ["qa"]
limit = 0.4
within = 0.08
repay_by = "final"
""",
    "final": f"""
name = "final"
settles_all = true
{RULE}
[[rules]]
metric = "acc"
against = "best"
suite = {{ tolerance = 0.02, margin = 0.3 }}
[[rules]]
metric = "acc"
against = "last"
tasks = ["qa"]
suite = {{ tolerance = 0.02, margin = 0.05 }}
""",
}


FLOOR = '[[floors]]\nmetric = "acc"\nlevel = "suite"\nvalue = 0.9\n'


@dataclass(frozen=True, slots=True, kw_only=True)
class Thing(Recipe):
    """Whatever the lineage names and nobody reads."""


def lineage(folder: Path, version: str, final: str, align: str = "align") -> None:
    """Write the lineage's file: two instruction baselines, alignment, and a last stage."""
    stages = [
        ("sft", "sft", 'baselines = ["checkpoint/sft@1"]'),
        ("align", align, 'baselines = ["stage:x/sft"]'),
        ("final", final, 'baselines = ["stage:x/align"]'),
    ]
    text = f'kind = "lineage"\nname = "lineage/x"\nversion = "{version}"\nsuite = "smoke"\nheldout = "corpus/c@1"\n'
    for stage, model, baselines in stages:
        text += f'[[stage]]\nname = "x/{stage}"\nmodel = "checkpoint/{model}@1"\npolicy = ["{stage}.policy"]\n{baselines}\n'
    (folder / "lineage.toml").write_text(text)


def answers(job: Job[Any]) -> Made:
    """A scorecard with as many right answers as the model is said to have."""
    model = str(job.inputs[job.recipe.model].ref)
    rows, scores = [], []
    for task, right in RIGHT[model.removeprefix("checkpoint/").partition("@")[0]].items():
        scores.append(
            Score(task=task, language="tha", metric="acc", value=right / COUNT, stderr=0, items=COUNT, higher_is_better=True)
        )
        rows += [
            {"task": task, "language": "tha", "metric": "acc", "item": f"{task}-{i:03d}", "cluster": f"{task}-{i:03d}",
             "value": float(i < right), "doc_hash": "d", "prompt_hash": "p", "target_hash": "t"}
            for i in range(COUNT)
        ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), job.folder / "items.parquet")
    card = Scorecard(model=model, suite="smoke", suite_fingerprint="f" * 64, harness="none", scores=tuple(scores))
    return Made(body=card, tables={"items": "items.parquet"})


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Store]:
    """The folder of recipes and a store with the tokenizer and corpus that they name."""
    folder, store = tmp_path / "recipes", Store(tmp_path / "artifacts")
    folder.mkdir()
    body = Checkpoint(stage="init", architecture="LlamaForCausalLM", parameters=1)
    for name in ("tokenizer/t", "corpus/c"):
        store.make(Thing(kind="thing", name=name, version="1"), folder, lambda job: Made(body=body), Options())
    for seed, name in enumerate(RIGHT):
        (folder / f"{name}.toml").write_text(MODEL.format(name=name, seed=seed))
    for name, text in POLICIES.items():
        (folder / f"{name}.policy").write_text(text)
    real = chain.maker

    def maker(kind: str) -> Maker:
        return {"init": lambda job: Made(body=body), "evaluation": answers}.get(kind) or real(kind)

    monkeypatch.setattr(chain, "maker", maker)
    return folder, store


def decided(store: Store, stage: str, version: str) -> GateDecision:
    body = store.require(f"decision/x/{stage}@{version}").body
    assert isinstance(body, GateDecision)
    return body


def test_a_loan_is_handed_to_the_stage_it_is_due_at_and_a_rerun_makes_nothing(world: tuple[Path, Store]) -> None:
    folder, store = world
    lineage(folder, "1", final="it")
    chain.run(folder, store, Options())
    align, final = decided(store, "align", "1"), decided(store, "final", "1")
    assert align.verdict == "pass" and [loan.repay_by for loan in align.loans] == ["x/final"]
    assert final.verdict == "pass" and final.repaid == align.loans, final.reason
    inputs = {given.role: given.ref for given in store.require("decision/x/final@1").inputs}
    assert inputs["debts.0"] == "decision/x/align@1" and inputs["lenders.0"] == "scorecard/sft-1-smoke@1"
    assert inputs["best"] == "scorecard/sft-1-smoke@1" and "last" not in inputs  # best by the policy's first rule
    assert any('against "last" compared nothing' in note for note in final.notes)
    assert chain.run(folder, store, Options()).made == []


def test_an_unpaid_loan_stops_the_last_stage_which_also_stands_against_the_last_model(
    world: tuple[Path, Store],
) -> None:
    folder, store = world
    lineage(folder, "1", final="it")
    chain.run(folder, store, Options())
    lineage(folder, "2", final="weak")
    outcome = chain.run(folder, store, Options())
    assert [decision.stage for decision in outcome.refused] == ["x/final"]
    reason = outcome.refused[0].reason
    assert "unpaid loan: acc(qa) -0.2 taken for x/align from checkpoint/sft@1, due at x/final" in reason
    inputs = {given.role: given.ref for given in store.require("decision/x/final@2").inputs}
    assert inputs["last"] == "scorecard/it-1-smoke@2"  # of this version, since the folder makes it
    assert store.stage_model("x/final")[0].ref.name == "checkpoint/it"
    assert chain.run(folder, store, Options()).made == []


@pytest.mark.parametrize("is_lost", [False, True])
def test_the_last_model_is_compared_even_when_the_folder_no_longer_makes_it(world: tuple[Path, Store], is_lost: bool) -> None:
    folder, store = world
    lineage(folder, "1", final="it")
    chain.run(folder, store, Options())
    (folder / "it.toml").unlink()
    if is_lost:
        shutil.rmtree(store.root / "scorecard" / "it-1-smoke")
    lineage(folder, "2", final="weak", align="calm")
    chain.run(folder, store, Options())
    inputs = {given.role: given.ref for given in store.require("decision/x/final@2").inputs}
    # The old scorecard serves, for the same recipe made it; one that is gone is made again.
    assert inputs["last"] == f"scorecard/it-1-smoke@{2 if is_lost else 1}"
    assert "debts.0" not in inputs  # version 2 lent nothing, and what version 1 owed was another model's debt
    assert "checkpoint/it@1" in decided(store, "final", "2").reason


def test_a_stage_that_promoted_nothing_in_this_version_still_owes_what_its_model_borrowed(world: tuple[Path, Store]) -> None:
    folder, store = world
    lineage(folder, "1", final="weak")
    assert [decision.stage for decision in chain.run(folder, store, Options()).refused] == ["x/final"]
    policy = folder / "align.policy"
    policy.write_text(policy.read_text().replace('name = "align"', 'name = "align"\non_refusal = "keep-parent"') + FLOOR)
    lineage(folder, "2", final="it")
    chain.run(folder, store, Options())
    assert decided(store, "align", "2").verdict == "fail"
    assert store.stage_model("x/align")[0].ref.name == "checkpoint/align"
    inputs = {given.role: given.ref for given in store.require("decision/x/final@2").inputs}
    assert inputs["debts.0"] == "decision/x/align@1"
    assert [loan.node for loan in decided(store, "final", "2").repaid] == ["acc(qa)"]
    assert chain.run(folder, store, Options()).made == []


def test_a_gate_written_by_hand_must_not_forget_a_loan(world: tuple[Path, Store]) -> None:
    folder, store = world
    lineage(folder, "1", final="weak")
    chain.run(folder, store, Options())
    recipe = GateRecipe(
        kind="gate", name="decision/by-hand", version="1", stage="x/final", candidate="scorecard/weak-1-smoke@1",
        baselines=("scorecard/align-1-smoke@1",), policy=("sft.policy",),
    )  # fmt: skip
    with pytest.raises(RecipeError, match=r"debts: decision/x/align@1 is missing: it lent acc\(qa\) to x/align"):
        chain.make(recipe, folder, store, Options())
    named = replace(recipe, debts=("decision/x/align@1",), lenders=("scorecard/sft-1-smoke@1",))
    body = chain.make(named, folder, store, Options()).body
    assert isinstance(body, GateDecision) and body.verdict == "fail" and "unpaid loan" in body.reason
    assert chain.make(replace(recipe, name="decision/elsewhere", stage="y/final"), folder, store, Options()).body


def test_a_loan_due_at_no_later_stage_is_refused_before_anything_is_made(world: tuple[Path, Store]) -> None:
    folder, store = world
    lineage(folder, "1", final="it")
    policy = folder / "align.policy"
    policy.write_text(policy.read_text().replace('"final"', '"finale"'))
    with pytest.raises(RecipeError, match=r"loans.0.repay_by.*'finale' is no later stage"):
        chain.run(folder, store, Options())
    assert not (store.root / "checkpoint").exists()
