"""A stage of the store is its latest promotion, or the parent that a policy keeps."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sea_lion.catalog.errors import MissingArtifact, SeaLionError
from sea_lion.catalog.recipes import Reference
from sea_lion.catalog.records import Artifact, Checkpoint, GateDecision, Promotion
from sea_lion.catalog.store import Job, Made, Options, Store, read_artifact
from sea_lion.eval.recipe import GateRecipe, PromotionRecipe
from sea_lion.training.recipe import TrainRecipe

from .conftest import conversations, make_conversations


def make_checkpoint(job: Job[TrainRecipe]) -> Made:
    (job.folder / "weights").write_text(job.recipe.name)
    return Made(body=Checkpoint(stage="cpt", architecture="Tiny", parameters=1, parents=(job.recipe.model,)))


def checkpoint(name: str, model: Reference, mixture: Reference) -> TrainRecipe:
    return TrainRecipe(
        kind="train",
        name=f"checkpoint/{name}",
        version="1",
        objective="cpt",
        model=model,
        mixture=mixture,
        lr=1.0,
        batch_sequences=1,
    )


def decision_maker(verdict: Any, kept: str) -> Any:
    def decide(job: Job[GateRecipe]) -> Made:
        body = GateDecision(
            stage=job.recipe.stage, model=job.recipe.candidate, scorecard=job.recipe.candidate, baselines=(), policy="p",
            policy_fingerprint="0", verdict=verdict, reason="because", on_refusal="keep-parent", kept=kept, outcomes=(),
        )  # fmt: skip
        return Made(body=body)

    return decide


def make_promotion(job: Job[PromotionRecipe]) -> Made:
    decision = job.inputs[job.recipe.decision].body
    assert isinstance(decision, GateDecision)
    sequence = len(job.store.promotions(decision.stage)) + 1
    body = Promotion(
        stage=decision.stage, model=decision.model, decision=job.recipe.decision, verdict="pass", sequence=sequence
    )
    return Made(body=body)


def gate(tmp_path: Path, store: Store, version: str, candidate: str, verdict: str, kept: str) -> Artifact:
    (tmp_path / "policy.toml").write_text(version)
    recipe = GateRecipe(
        kind="gate", name="decision/s", version=version, stage="s", candidate=candidate, policy=("policy.toml",)
    )
    return store.make(recipe, tmp_path, decision_maker(verdict, kept), Options())


def test_a_stage_is_its_latest_promotion_or_the_parent_kept(store: Store, tmp_path: Path) -> None:
    store.make(conversations(tmp_path), tmp_path, make_conversations, Options())
    given = "conversations/x@1"
    for name in ("a", "b"):
        store.make(checkpoint(name, given, given), tmp_path, make_checkpoint, Options())
    with pytest.raises(MissingArtifact):
        store.require("stage:s")
    gate(tmp_path, store, "1", "checkpoint/b@1", "fail", "checkpoint/a@1")
    assert str(store.require("stage:s").ref) == "checkpoint/a@1"
    assert "the policy keeps" in store.stage_model("s")[1]
    gate(tmp_path, store, "2", "checkpoint/b@1", "pass", "checkpoint/a@1")
    promotion = PromotionRecipe(kind="promotion", name="promotion/s", version="1", decision="decision/s@2")
    store.make(promotion, tmp_path, make_promotion, Options())
    assert str(store.require("stage:s").ref) == "checkpoint/b@1"
    assert store.stages() == {"s": "checkpoint/b@1"}
    child = store.make(checkpoint("c", "stage:s", given), tmp_path, make_checkpoint, Options())
    assert (child.inputs[0].ref, child.inputs[0].via) == ("checkpoint/b@1", "stage s: promotion/s@1")


def test_stages_are_found_without_reading_what_is_no_promotion(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.make(conversations(tmp_path), tmp_path, make_conversations, Options())
    given = "conversations/x@1"
    store.make(checkpoint("a", given, given), tmp_path, make_checkpoint, Options())
    gate(tmp_path, store, "1", "checkpoint/a@1", "pass", "")
    promotion = PromotionRecipe(kind="promotion", name="other/name", version="1", decision="decision/s@1")
    store.make(promotion, tmp_path, make_promotion, Options())
    again, read = Store(store.root), list[str]()

    def watched(path: Path) -> Artifact:
        read.append(path.parent.parent.name)
        return read_artifact(path)

    monkeypatch.setattr("sea_lion.catalog.store.read_artifact", watched)
    assert again.stages() == again.stages() == {"s": "checkpoint/a@1"}
    assert read == ["name"], "an artifact of any name can be a promotion; the others are not parsed, this one once"


def test_a_release_is_not_made_from_dev(store: Store, tmp_path: Path) -> None:
    store.make(replace(conversations(tmp_path), version="dev"), tmp_path, make_conversations, Options())
    given = "conversations/x@dev"
    with pytest.raises(SeaLionError, match="only version 'dev' is made from 'dev'"):
        store.make(checkpoint("a", given, given), tmp_path, make_checkpoint, Options())
