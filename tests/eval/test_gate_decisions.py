"""A gate's decision in the store: what is recorded, what makes scores incomparable, what is refused."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pyarrow as pa
import pytest

from sea_lion.catalog.errors import CorruptInput, RecipeError
from sea_lion.catalog.recipes import Recipe
from sea_lion.catalog.records import Artifact, Checkpoint, GateDecision
from sea_lion.catalog.store import Made, Options, Store, write_rows
from sea_lion.eval.gate import compare, decide
from sea_lion.eval.policy import read_policy
from sea_lion.eval.recipe import GateRecipe

from .scorecards import BASE, POLICIES, Rows, changed, items, scorecard, suite_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Thing(Recipe):
    """A recipe for whatever a test needs in the store."""

    seed: int


class Shelf:
    """A store with checkpoints and scorecards made on demand."""

    def __init__(self, root: Path) -> None:
        self.store, self.root, self.seed = Store(root), root, 0

    def put(self, name: str, made: Any, version: str = "1") -> Artifact:
        self.seed += 1
        recipe = Thing(kind="thing", name=name, version=version, seed=self.seed)
        return self.store.make(recipe, self.root, made, Options())

    def model(self, name: str, rows: Rows, suite_fingerprint: str = "f" * 64) -> None:
        """Put `checkpoint/NAME@1` and its scorecard, `scorecard/NAME@1`."""
        body = Checkpoint(stage="init", architecture="LlamaForCausalLM", parameters=1)
        checkpoint = self.put(f"checkpoint/{name}", lambda job: Made(body=body))

        def score(job: Any) -> Made:
            text = ("task", "language", "metric", "item", "cluster", "doc_hash", "prompt_hash", "target_hash")
            schema = pa.schema([(column, pa.string()) for column in text] + [("value", pa.float64())])
            write_rows(job.folder / "items.parquet", rows, schema)
            return Made(body=scorecard(str(checkpoint.ref), rows, suite_fingerprint), tables={"items": "items.parquet"})

        self.put(f"scorecard/{name}", score)

    def recipe(self, policy: str = "instruct", **fields: Any) -> GateRecipe:
        given = {"candidate": "scorecard/new@1", "baselines": ("scorecard/old@1",), "parent": "checkpoint/old@1"} | fields
        path = (f"package:eval/policies/{policy}.toml",)
        return GateRecipe(kind="gate", name="decision/t", version="dev", stage="t/instruct", policy=path, **given)

    def decide(self, policy: str = "instruct", **fields: Any) -> GateDecision:
        artifact = self.store.make(self.recipe(policy, **fields), self.root, decide, Options())
        assert isinstance(artifact.body, GateDecision)
        return artifact.body


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "artifacts")


FEW = suite_rows(0, ("ind", "tha", "vie"))
"""Enough for what has no verdict."""


def broken(column: str, value: object) -> Rows:
    return [row | {column: value} if i == 100 else row for i, row in enumerate(FEW)]


@pytest.mark.parametrize(
    "rows,what",
    [
        (broken("doc_hash", "other"), "differ in doc_hash"),
        (broken("target_hash", "other"), "differ in target_hash"),
        (broken("prompt_hash", "other"), "differ in prompt_hash"),
        (broken("cluster", "other"), "differ in cluster"),
        (broken("value", float("nan")), "the value nan"),
        (broken("value", float("-inf")), "the value -inf"),
        (broken("value", None), "the value None"),
        (broken("item", "other"), "lacks 1 of the items"),
        (FEW[1:], "lacks 1 of the items"),
        ([*FEW, FEW[5]], "more than once"),
        ([row for row in FEW if row["metric"] != "margin"], "lacks 132"),
        ([], "has no items"),
        ([row | {"cluster": "one"} if row["language"] == "tha" else row for row in FEW], "differ in cluster"),
    ],
)
@pytest.mark.parametrize("is_candidate", [True, False])
def test_what_cannot_be_compared_is_an_error(shelf: Shelf, rows: Rows, what: str, is_candidate: bool) -> None:
    shelf.model("new", rows if is_candidate else FEW)
    shelf.model("old", FEW if is_candidate else rows)
    decision = shelf.decide()
    assert decision.verdict == "error" and what in decision.reason
    assert decision.outcomes == () and decision.kept == "checkpoint/old@1"
    cases = ElementTree.parse(shelf.root / "decision/t/dev/junit.xml").getroot()
    assert cases.attrib["errors"] == "1" and len(cases.findall("testcase/error")) == 1


def test_another_suite_or_harness_is_an_error(shelf: Shelf) -> None:
    shelf.model("new", BASE, suite_fingerprint="a" * 64)
    shelf.model("old", BASE)
    decision = shelf.decide()
    assert decision.verdict == "error" and "suite_fingerprint" in decision.reason
    old = items("old", BASE)
    other = replace(old, card=replace(old.card, harness="lm-eval 0.4.14"))
    answer = compare(read_policy(POLICIES / "merge.toml"), items("new", BASE), [other], "")
    assert answer.verdict == "error" and "harness" in answer.reason


def test_a_decision_is_recorded_with_its_reports(shelf: Shelf) -> None:
    shelf.model("new", changed(BASE, 8, bits_per_byte_tam=0.6))
    shelf.model("old", BASE)
    decision = shelf.decide()
    assert (decision.model, decision.scorecard) == ("checkpoint/new@1", "scorecard/new@1")
    assert decision.baselines == ("checkpoint/old@1",) and decision.policy == "instruct"
    assert decision.verdict == "fail" and decision.kept == "checkpoint/old@1"
    folder = shelf.root / "decision/t/dev"
    cases = ElementTree.parse(folder / "junit.xml").getroot()
    assert len(cases.findall("testcase")) == len(decision.outcomes) + 1 == int(cases.attrib["tests"])
    assert [case.attrib["name"] for case in cases.findall("testcase[failure]")] == [
        "bits_per_byte/tam against checkpoint/old@1"
    ]
    assert cases.attrib["failures"] == "1"
    lines = (folder / "decision.md").read_text("utf-8").splitlines()
    assert lines[0] == "## FAIL: checkpoint/new@1 for t/instruct"
    assert next(line for line in lines if line.startswith("| fail")).startswith(
        "| fail | bits_per_byte/tam | checkpoint/old@1 |"
    )


def test_a_pass_keeps_no_parent_and_a_stop_keeps_none_either(shelf: Shelf) -> None:
    shelf.model("new", changed(BASE, 9, margin=-1))
    shelf.model("old", BASE)
    assert shelf.decide("final").kept == "" and shelf.decide("final").on_refusal == "stop"
    assert shelf.decide(candidate="scorecard/old@1", baselines=("scorecard/new@1",), parent="checkpoint/new@1").kept == ""


def test_the_same_scorecards_give_the_same_bytes_in_any_order(shelf: Shelf, tmp_path: Path) -> None:
    candidate = changed(BASE, 10, margin=-0.05)
    shuffled = Shelf(tmp_path / "shuffled")
    generator = random.Random(0)
    for target in (shelf, shuffled):
        for name, rows in (("new", candidate), ("old", BASE)):
            order = list(rows)
            if target is shuffled:
                generator.shuffle(order)
            target.model(name, order)
    assert shelf.decide() == shuffled.decide()
    for file in ("decision.md", "junit.xml"):
        assert (shelf.root / "decision/t/dev" / file).read_bytes() == (shuffled.root / "decision/t/dev" / file).read_bytes()


@pytest.mark.parametrize(
    "policy,fields,key",
    [
        ("merge", {"baselines": ()}, "baselines"),
        ("merge", {"baselines": ("scorecard/old@1", "scorecard/twin@1")}, "baselines"),
        ("merge", {"parent": ""}, "parent"),
        ("merge", {"parent": "scorecard/old@1"}, "parent"),
        ("cpt", {"parent": ""}, "parent"),
        ("cpt", {"parent": "checkpoint/new@1"}, "parent"),
    ],
)
def test_a_gate_without_what_its_policy_needs_is_refused(shelf: Shelf, policy: str, fields: dict[str, Any], key: str) -> None:
    shelf.model("new", BASE)
    shelf.model("old", BASE)
    table = {"items": "items.parquet"}
    source = shelf.root / "scorecard/old/1/items.parquet"

    def twin(job: Any) -> Made:
        (job.folder / "items.parquet").write_bytes(source.read_bytes())
        return Made(body=scorecard("checkpoint/old@1", BASE), tables=table)

    shelf.put("scorecard/twin", twin)
    with pytest.raises(RecipeError) as caught:
        shelf.decide(policy, **fields)
    assert caught.value.key == key
    assert not (shelf.root / "decision").exists()


def test_a_policy_that_names_what_no_scorecard_has_is_refused(shelf: Shelf, tmp_path: Path) -> None:
    shelf.model("new", BASE)
    shelf.model("old", BASE)
    path = tmp_path / "mine.toml"
    path.write_text('name = "x"\n[[floors]]\nmetric = "acc"\nlevel = "language"\nlanguage = "xho"\nvalue = 0.2\n', "utf-8")
    recipe = replace(shelf.recipe(), policy=(str(path),))
    with pytest.raises(RecipeError, match="no scorecard has the language 'xho'") as caught:
        shelf.store.make(recipe, shelf.root, decide, Options())
    assert caught.value.key == "floors.0.language" and not (shelf.root / "decision").exists()


def test_changed_or_missing_items_are_refused(shelf: Shelf) -> None:
    shelf.model("new", BASE)
    shelf.model("old", BASE)
    path = shelf.root / "scorecard/new/1/items.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CorruptInput, match=r"items\.parquet"):
        shelf.decide()
    with pytest.raises(CorruptInput, match="not a scorecard"):
        shelf.decide(candidate="checkpoint/new@1")
