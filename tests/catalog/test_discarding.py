"""An artifact whose files were deleted on purpose: known as such everywhere, remade on demand, never promoted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from sea_lion.catalog import index
from sea_lion.catalog.discarding import DISCARDED, REMAKE, FilesDiscarded, recipe_toml
from sea_lion.catalog.errors import CorruptInput, SeaLionError
from sea_lion.catalog.files import write_rows
from sea_lion.catalog.fingerprint import plain
from sea_lion.catalog.fsck import Finding, fsck
from sea_lion.catalog.lineage import graph_around, read_graph
from sea_lion.catalog.recipes import read_recipe
from sea_lion.catalog.records import ArtifactRef, Checkpoint, GateDecision, Promotion, Scorecard
from sea_lion.catalog.report import artifact_summary
from sea_lion.catalog.store import Job, Made, Options, Store, verify_files
from sea_lion.eval.promote import promote
from sea_lion.eval.recipe import EvaluationRecipe, GateRecipe, PromotionRecipe
from sea_lion.merging.recipe import MergeRecipe, Parent
from sea_lion.training.recipe import InitRecipe

INIT = InitRecipe(
    kind="init", name="checkpoint/base", version="1", tokenizer="", architecture="llama", hidden_size=8, intermediate_size=8,
    layers=1, heads=1, key_value_heads=1, head_dim=8, max_length=8,
)  # fmt: skip
MERGED = MergeRecipe(
    kind="merge", name="checkpoint/merged", version="1", method="dare_ties", base="checkpoint/base@1",
    parents=(Parent(model="checkpoint/base@1", weight=0.5, layer_weights=(0.25, 1e-7)),), description='a "quoted" merge',
    assumed={"parents.0.weight": "nobody says"},
)  # fmt: skip
REF = MERGED.ref
REASON = "after a search had scored it"


def weights(job: Job[Any]) -> Made:
    """Two shards of weights, an index of them, and a table."""
    for number in (1, 2):
        (job.folder / f"model-0000{number}-of-00002.safetensors").write_bytes(bytes(range(100 * number)))
    (job.folder / "model.safetensors.index.json").write_text("{}")
    write_rows(job.folder / "training_log.parquet", [{"step": 1}], pa.schema([("step", pa.int64())]))
    body = Checkpoint(stage="merge", architecture="LlamaForCausalLM", parameters=1, method="dare_ties")
    return Made(body=body, tables={"training_log": "training_log.parquet"})


@pytest.fixture
def catalog(tmp_path: Path) -> Store:
    """A base and a merge."""
    store = Store(tmp_path / "artifacts")
    store.make(INIT, Path(), weights, Options())
    store.make(MERGED, Path(), weights, Options())
    return store


def discard(store: Store) -> Path:
    """Discard the merge's weights; returns its folder."""
    store.discard(REF, ["*.safetensors"], reason=REASON, verb="merge")
    return store.path(REF)


def errors(findings: list[Finding]) -> list[str]:
    return [finding.problem for finding in findings if finding.severity == "error"]


def test_the_record_stays_and_everybody_knows(catalog: Store) -> None:
    before = catalog.require(str(REF))
    folder = discard(catalog)
    assert not list(folder.glob("*.safetensors")) and (folder / "model.safetensors.index.json").is_file()
    assert catalog.require(str(REF)) == before
    assert catalog.discarded(INIT.ref) is None
    said = r"checkpoint/merged@1: 2 files \(model-00001.* discarded after a search .* remake it with: sea-lion merge .*\.toml$"
    with pytest.raises(FilesDiscarded, match=said):
        verify_files(folder, before)
    with pytest.raises(FilesDiscarded):
        verify_files(folder, before, ["model-00002-of-00002.safetensors"])
    verify_files(folder, before, ["training_log.parquet"])
    (finding,) = fsck(catalog, deep=True)
    assert (finding.severity, finding.path) == ("note", "checkpoint/merged/1")
    assert finding.problem.startswith(f"2 discarded {REASON}: model-00001")
    assert f"(discarded {REASON})" in artifact_summary(catalog, before)
    index.refresh(catalog)
    for graph in (read_graph(catalog), graph_around(catalog, str(REF))):
        assert graph.nodes[str(REF)].what == "merge, dare_ties, weights discarded"
        assert graph.nodes["checkpoint/base@1"].what == "merge, dare_ties"


def test_making_it_again_makes_the_files_again(catalog: Store) -> None:
    folder = discard(catalog)
    recipe = read_recipe(folder / REMAKE, {"merge": MergeRecipe})
    assert recipe == MERGED
    planned = catalog.plan(recipe, Path())
    assert planned.made is None and planned.fingerprint == catalog.require(str(REF)).fingerprint
    remade = catalog.make(recipe, Path(), weights, Options())
    verify_files(folder, remade)
    assert catalog.discarded(REF) is None and not (folder / REMAKE).exists() and fsck(catalog, deep=True) == []
    assert catalog.plan(recipe, Path()).made == remade


def test_a_discarding_that_was_killed_is_a_discarding(catalog: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mark is there before the first file goes; what is left is deleted by the next call."""

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            discard(catalog)
    folder = catalog.path(REF)
    assert len(list(folder.glob("*.safetensors"))) == 2
    with pytest.raises(FilesDiscarded):
        verify_files(folder, catalog.require(str(REF)))
    assert errors(fsck(catalog)) == [] and catalog.plan(MERGED, Path()).made is None
    discard(catalog)
    assert not list(folder.glob("*.safetensors")) and errors(fsck(catalog)) == []


def test_what_is_missing_beside_is_still_damage(catalog: Store) -> None:
    folder = discard(catalog)
    (folder / "training_log.parquet").unlink()
    assert errors(fsck(catalog)) == ["is missing"]
    (folder / DISCARDED).write_text(json.dumps({"files": ["other.bin"], "reason": "so", "verb": "merge"}))
    assert "names 'other.bin', no file of the record" in errors(fsck(catalog))
    assert errors(fsck(catalog)).count("is missing") == 3
    (folder / DISCARDED).write_text("{")
    assert any("does not say what was discarded" in problem for problem in errors(fsck(catalog)))
    with pytest.raises(CorruptInput, match="does not say what was discarded"):
        catalog.discarded(REF)


def promotion(store: Store) -> PromotionRecipe:
    """The recipe of the merge's promotion, its gate passed."""
    score = EvaluationRecipe(kind="evaluation", name="scorecard/m", version="1", model=str(REF), suite="smoke")
    card = Scorecard(model=str(REF), suite="smoke", suite_fingerprint="f", harness="h", scores=())
    store.make(score, Path(), lambda job: Made(body=card), Options())
    gate = GateRecipe(
        kind="gate", name="decision/t/merge", version="1", stage="t/merge", candidate="scorecard/m@1",
        policy=("package:eval/policies/merge.toml",),
    )  # fmt: skip
    decision = GateDecision(
        stage="t/merge", model=str(REF), scorecard="scorecard/m@1", baselines=(), policy="p", policy_fingerprint="f",
        verdict="pass", reason="", on_refusal="stop", kept="", outcomes=(),
    )  # fmt: skip
    store.make(gate, Path(), lambda job: Made(body=decision), Options())
    return PromotionRecipe(kind="promotion", name="promotion/t/merge", version="1", decision="decision/t/merge@1")


def test_the_discarded_is_not_promoted_and_the_promoted_not_discarded(catalog: Store) -> None:
    recipe = promotion(catalog)
    discard(catalog)
    with pytest.raises(FilesDiscarded, match="remake it with"):
        catalog.make(recipe, Path(), promote, Options())
    catalog.make(MERGED, Path(), weights, Options())
    assert isinstance(catalog.make(recipe, Path(), promote, Options()).body, Promotion)
    with pytest.raises(SeaLionError, match="promotion/t/merge@1 rests on its files"):
        discard(catalog)
    assert catalog.discarded(REF) is None


def test_only_files_of_the_record_and_no_tables_are_discarded(catalog: Store) -> None:
    with pytest.raises(SeaLionError, match=r"has no file like \*\.bin"):
        catalog.discard(REF, ["*.bin"], reason=REASON, verb="merge")
    with pytest.raises(SeaLionError, match=r"training_log\.parquet is the table training_log of the index"):
        catalog.discard(REF, ["*"], reason=REASON, verb="merge")
    with pytest.raises(SeaLionError, match="no such artifact"):
        catalog.discard(ArtifactRef.parse("checkpoint/none@1"), ["*"], reason=REASON, verb="merge")
    assert catalog.discarded(REF) is None and fsck(catalog) == []


def test_any_recipe_is_written_as_it_is_read(tmp_path: Path) -> None:
    texts = ("plain", 'with "quotes" and \\ and # and = and \x7f', "ไทย 😀", "line\nline", "")
    for text in texts:
        recipe = replace(MERGED, description=text, parents=(*MERGED.parents, Parent(model="checkpoint/other@1", density=0.9)))
        path = tmp_path / "recipe.toml"
        path.write_text(recipe_toml(plain(recipe), "two\nlines"), "utf-8")
        assert read_recipe(path, {"merge": MergeRecipe}) == recipe
