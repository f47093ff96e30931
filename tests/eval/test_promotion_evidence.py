"""What a promotion keeps for a third person, and going back."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from sea_lion.catalog.errors import MissingArtifact, SeaLionError
from sea_lion.catalog.files import RECORD, read_artifact, record_text
from sea_lion.catalog.recipes import Recipe, Reference
from sea_lion.catalog.records import Artifact, Checkpoint, GateDecision, Promotion, Scorecard
from sea_lion.catalog.store import Job, Made, Options, Store
from sea_lion.eval.promote import promote, promotion, rollback_recipe, verify
from sea_lion.eval.recipe import PromotionRecipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Thing(Recipe):
    """A recipe for whatever a test needs in the store."""

    seed: str
    candidate: Reference = ""
    baselines: tuple[Reference, ...] = ()


class Shelf:
    """A store with a stage's models, scorecards and decisions."""

    def __init__(self, root: Path) -> None:
        self.root, self.store = root, Store(root)

    def put(self, name: str, body: Any, **fields: Any) -> Artifact:
        def maker(job: Job[Any]) -> Made:
            (job.folder / "weights.bin").write_text(name)
            return Made(body=body)

        return self.store.make(Thing(kind="thing", name=name, version="1", seed=name, **fields), self.root, maker, Options())

    def model(self, name: str, baseline: str = "") -> Artifact:
        model = str(self.put(f"checkpoint/{name}", Checkpoint(stage="cpt", architecture="LlamaForCausalLM", parameters=1)).ref)
        card = Scorecard(model=model, suite="smoke", suite_fingerprint="f", harness="h", scores=())
        self.put(f"scorecard/{name}", card)
        decision = GateDecision(
            stage="t/cpt", model=model, scorecard=f"scorecard/{name}@1", baselines=(), policy="cpt", policy_fingerprint="c",
            verdict="pass", reason="", on_refusal="stop", kept="", outcomes=(), policy_text='{"name":"cpt"}',
        )  # fmt: skip
        baselines = (f"scorecard/{baseline}@1",) if baseline else ()
        self.put(f"decision/{name}", decision, candidate=f"scorecard/{name}@1", baselines=baselines)
        return self.promote(
            PromotionRecipe(kind="promotion", name=f"promotion/{name}", version="1", decision=f"decision/{name}@1")
        )

    def promote(self, recipe: PromotionRecipe) -> Artifact:
        return self.store.make(recipe, self.root, promote, Options())


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


def test_a_promotion_names_all_it_rests_on_and_can_be_verified(shelf: Shelf) -> None:
    shelf.model("old")
    made = shelf.model("new", baseline="old")
    evidence = {item.role: item.artifact for item in promotion(made).evidence}
    assert evidence == {
        "model": "checkpoint/new@1", "decision": "decision/new@1", "candidate": "scorecard/new@1",
        "baseline": "scorecard/old@1",
    }  # fmt: skip
    assert promotion(made).policy == '{"name":"cpt"}'
    assert made.provenance.packages
    assert set(verify(shelf.store, made).values()) == {""}


def test_one_altered_byte_of_the_weights_is_named(shelf: Shelf) -> None:
    made = shelf.model("new")
    (shelf.root / "checkpoint/new/1/weights.bin").write_text("checkpoint/neW")
    found = verify(shelf.store, made)
    assert "sha256 differs" in found["checkpoint/new@1"]
    assert [ref for ref, problem in found.items() if problem] == ["checkpoint/new@1"]


def test_a_record_written_anew_is_noticed_though_it_agrees_with_itself(shelf: Shelf) -> None:
    made = shelf.model("new")
    record = shelf.root / "scorecard/new/1" / RECORD
    record.write_text(record_text(replace(read_artifact(record), licence="MIT")))
    assert "another one than the promotion saw" in verify(Store(shelf.root), made)["scorecard/new@1"]
    (shelf.root / "decision/new/1" / RECORD).unlink()
    assert verify(Store(shelf.root), made)["decision/new@1"] == "is not there any more"


def test_going_back_is_recorded_with_person_and_reason(shelf: Shelf) -> None:
    shelf.model("old")
    shelf.model("new", baseline="old")
    recipe = rollback_recipe(shelf.store, "t/cpt", to="", person="A. Tan", reason="answers in the wrong language")
    made = shelf.promote(recipe)
    body = promotion(made)
    assert (body.model, body.sequence, body.rolled_back) == ("checkpoint/old@1", 3, "promotion/new@1")
    assert (body.person, body.reason) == ("A. Tan", "answers in the wrong language")
    assert str(shelf.store.stage_model("t/cpt")[0].ref) == "checkpoint/old@1"
    assert {item.role for item in body.evidence} >= {"replaced", "model", "decision"}
    assert json.loads(record_text(made))["body"]["rolled_back"] == "promotion/new@1"
    assert isinstance(shelf.store.promotions("t/cpt")[-1].body, Promotion)


def test_going_back_twice_goes_two_models_back_and_forward_again_by_name(shelf: Shelf) -> None:
    for name in ("one", "two", "three"):
        shelf.model(name)

    def back(to: str = "") -> str:
        recipe = rollback_recipe(shelf.store, "t/cpt", to=to, person="A. Tan", reason="because")
        return promotion(shelf.promote(recipe)).model

    assert [back(), back()] == ["checkpoint/two@1", "checkpoint/one@1"]
    with pytest.raises(SeaLionError, match=r"nothing stood for it before checkpoint/one@1; .*three@1 \(name one with --to\)"):
        back()
    assert back("checkpoint/three@1") == "checkpoint/three@1"
    shelf.model("four")
    shutil.rmtree(shelf.root / "checkpoint/three")
    with pytest.raises(MissingArtifact, match="checkpoint/three@1"):
        back()
    assert str(Store(shelf.root).stage_model("t/cpt")[0].ref) == "checkpoint/four@1"


@pytest.mark.parametrize(
    ("stage", "to", "person", "said"),
    [
        ("t/sft", "", "A", "nothing was ever promoted; known stages: t/cpt"),
        (
            "t/cpt",
            "checkpoint/x@1",
            "A",
            "checkpoint/x@1 was not promoted before checkpoint/new@1; models promoted to it: checkpoint/old@1",
        ),
        ("t/cpt", "", " ", "needs --person and --reason"),
    ],
)
def test_a_roll_back_that_cannot_be_is_one_line(shelf: Shelf, stage: str, to: str, person: str, said: str) -> None:
    shelf.model("old")
    shelf.model("new")
    with pytest.raises(SeaLionError) as caught:
        rollback_recipe(shelf.store, stage, to=to, person=person, reason="because")
    assert said in str(caught.value)
