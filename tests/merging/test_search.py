"""A search on a toy with a known best finds it, goes on after a kill, and keeps the disk's cap. See `search_toy`."""

from __future__ import annotations

import runpy
import signal
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file

from sea_lion import chain
from sea_lion.catalog import index
from sea_lion.catalog.discarding import FilesDiscarded
from sea_lion.catalog.errors import CorruptInput, DriftError, RecipeError, SeaLionError, Unfinished
from sea_lion.catalog.fsck import fsck
from sea_lion.catalog.recipes import read_recipe, read_table
from sea_lion.catalog.records import Artifact, Checkpoint, Score, Scorecard
from sea_lion.catalog.store import Job, Made, Options, Store, verify_files
from sea_lion.eval.recipe import EvaluationRecipe
from sea_lion.merging import search
from sea_lion.merging.proposals import Trial, proposed
from sea_lion.merging.recipe import MergeRecipe
from sea_lion.merging.search_recipe import MergeSearchRecipe

TOY: Any = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("search_toy.py"))))
recipe = TOY.recipe


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A catalog with the toy's models."""
    store = Store(tmp_path / "catalog")
    TOY.models(store)
    return store


def rows(store: Store, search: MergeSearchRecipe, table: str = "merge_trials") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(store.path(search.ref) / f"{table}.parquet").to_pylist()
    return found


def winner(store: Store, search: MergeSearchRecipe) -> MergeRecipe:
    return read_recipe(store.path(search.ref) / "merge.toml", {"merge": MergeRecipe})  # type: ignore[return-value]


def test_the_known_best_is_found_in_forty_trials_within_a_tenth(store: Store) -> None:
    """Both weights within 0.1 of the best; a merge and a scorecard a trial, and the winner's; never two trials' weights."""
    search = recipe()
    toy = TOY.Toy(store, search)
    artifact = toy.run()
    assert (len(toy.merged), len(set(toy.merged)), len(toy.scored), toy.most_kept) == (41, 41, 40, 1)
    best = winner(store, search)
    assert [parent.weight for parent in best.parents] == pytest.approx(TOY.BEST, abs=0.1)
    (row,) = [row for row in rows(store, search) if row["is_best"]]
    assert row["value"] == max(row["value"] for row in rows(store, search))
    assert rows(store, search)[0]["value"] < row["value"] / 3  # the usual point, weight 1
    found = load_file(store.path(search.ref) / "model.safetensors")
    target = load_file(store.root / TOY.TARGET)
    distance = sum(float((found[name] - target[name]).square().sum()) for name in target) ** 0.5
    assert -row["value"] == pytest.approx(distance)
    assert isinstance(artifact.body, Checkpoint)
    assert (artifact.body.stage, artifact.body.parents) == ("merge", ("checkpoint/p@1", "checkpoint/q@1"))
    assert TOY.Toy(store, search).run() == artifact


def test_trials_are_nodes_whose_weights_are_gone(store: Store) -> None:
    search = recipe(trials=6)
    TOY.Toy(store, search).run()
    assert [f.severity for f in fsck(store, deep=True)] == ["note"] * 6
    trial = store.require("checkpoint/toy-trials/3@1")
    assert [given.ref for given in trial.inputs] == ["checkpoint/base@1", "checkpoint/p@1", "checkpoint/q@1"]
    with pytest.raises(FilesDiscarded, match=r"after checkpoint/toy@1 had scored it; remake it with: sea-lion merge "):
        verify_files(store.path(trial.ref), trial)
    again = read_recipe(store.path(trial.ref) / "recipe.toml", {"merge": MergeRecipe})
    verify_files(store.path(trial.ref), store.make(again, Path(), TOY.Toy(store, search).merge, Options()))
    index.refresh(store)
    sql = """SELECT p.parameter, p.value, t.value > -1000 FROM merge_trials t
        JOIN merge_trial_parameters p USING (ref, trial, run) WHERE trial = 0 ORDER BY 1"""
    assert index.query(store, sql)[1] == [("weight.0", 1.0, True), ("weight.1", 1.0, True)]
    best = winner(store, search)
    made = store.make(best, Path(), TOY.Toy(store, search).merge, Options())
    assert [f.sha256 for f in made.files if f.path == "model.safetensors"] == [
        f.sha256 for f in store.require("checkpoint/toy@1").files if f.path == "model.safetensors"
    ]


def test_killed_anywhere_and_resumed_it_is_as_if_undisturbed(store: Store, tmp_path: Path, forked: Any) -> None:
    """Events of a trial: merged but not recorded, scored. A kill at the first costs that merge, at the second nothing."""
    search = recipe(trials=12, keep_trials=2)
    other = Store(tmp_path / "undisturbed")
    TOY.models(other)
    TOY.Toy(other, search).run()
    half = 0
    for number, kill_at in enumerate((1, 2, 6)):
        says = tmp_path / f"run-{number}"
        says.mkdir()
        process = forked.started(str(Path(__file__).with_name("search_toy.py")), str(store.root), str(kill_at), says=says)
        assert forked.exit_codes([process], 60) == [-signal.SIGKILL], (says / "stderr").read_text()
        half += (store.root / TOY.LOG).read_text().splitlines()[-1].startswith("merge")
    toy = TOY.Toy(store, search)
    toy.run()
    begun = Counter((store.root / TOY.LOG).read_text().splitlines())
    scored = {line: count for line, count in begun.items() if line.startswith("score ")}
    merged = {line: count for line, count in begun.items() if line.startswith("merge ")}
    assert set(scored.values()) == {1} and len(scored) == 12
    assert len(merged) == 13 and sum(merged.values()) == 13 + half and half == 2
    assert len(toy.scored) < 12 and toy.most_kept == 2
    for table in ("merge_trials", "merge_trial_parameters"):
        assert rows(store, search, table) == rows(other, search, table)
    digests = [[(f.path, f.sha256) for f in each.require(str(search.ref)).files] for each in (store, other)]
    assert digests[0] == digests[1]


def test_trials_added_later_keep_the_first_ones(store: Store) -> None:
    TOY.Toy(store, recipe(trials=6)).run()
    more = recipe(trials=9, version="2", trial_version="1")
    toy = TOY.Toy(store, more)
    toy.run()
    assert len(toy.scored) == 3 and len(toy.merged) == 4
    assert rows(store, more)[:6] == [row | {"is_best": now["is_best"]} for row, now in
                                     zip(rows(store, recipe(trials=6)), rows(store, more), strict=False)]  # fmt: skip
    with pytest.raises(DriftError, match=r"toy-trials/1@1: made before from another recipe: .*raise the version"):
        TOY.Toy(store, recipe(trials=6, weights=(0.95, 1.0), version="3", trial_version="1")).run()


def test_what_is_on_record_counts_also_when_the_sampler_has_changed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    first = recipe(trials=8)
    TOY.Toy(store, first).run()
    monkeypatch.setattr(np.random, "SeedSequence", lambda entropy: SimpleNamespace(generate_state=lambda n: [9]))
    toy = TOY.Toy(store, recipe(trials=8, version="2", trial_version="1"))
    toy.run()
    assert toy.scored == [] and len(toy.merged) == 1


def test_a_trial_that_fails_costs_itself_and_is_not_tried_twice(store: Store) -> None:
    search = recipe(trials=14, description="overflows")

    class Stopped(TOY.Toy):  # type: ignore[misc]
        def score(self, ref: str) -> float | None:
            if len(self.scored) == 6:
                raise Unfinished("a signal came")
            value: float | None = super().score(ref)
            return value

    stopped = Stopped(store, search)
    with pytest.raises(Unfinished):
        stopped.run()
    toy = TOY.Toy(store, search)
    toy.run()
    failed = [row for row in rows(store, search) if row["value"] is None]
    assert failed[0] == {
        "trial": 0, "run": "", "method": "task_arithmetic", "value": None, "is_best": False,
        "failed": "checkpoint/toy-trials/0@1: embed: is infinite",
    }  # fmt: skip
    every = Counter(stopped.merged + toy.merged)
    assert set(every.values()) == {1} and len(every) == 15
    assert store.get(recipe().trial(0, "task_arithmetic", {}).ref) is None
    assert len(failed) + len(stopped.scored + toy.scored) == 14
    assert f"({len(failed)} failed)" in (store.path(search.ref) / "merge.toml").read_text()
    assert not list((store.root / ".work").rglob("*.safetensors"))


def test_a_trial_that_makes_no_model_costs_itself(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that sum to 0 are an error of a merge's recipe, but of a search's only one point."""
    search = recipe(methods=("linear",), weights=(-1.0, 1.0), normalize=(True,), trials=6)
    toy = TOY.Toy(store, search)

    def propose(given: MergeSearchRecipe, number: int, earlier: Any) -> Trial:
        trial = proposed(given, number, earlier)
        return replace(trial, values={"weight.0": 0.5, "weight.1": -0.5}) if number == 2 else trial

    monkeypatch.setattr("sea_lion.merging.search.proposed", propose)
    toy.run()
    (failed,) = [row for row in rows(store, search) if row["failed"]]
    assert failed["trial"] == 2 and "the weights sum to 0" in failed["failed"] and len(toy.merged) == 6


def test_when_all_fail_the_reason_is_said_and_the_next_try_tries_again(store: Store) -> None:
    class Blind(TOY.Toy):  # type: ignore[misc]
        def score(self, ref: str) -> float | None:
            super().score(ref)
            return float("nan")

    search = recipe(trials=3)
    with pytest.raises(SeaLionError, match=r"none of 3 trials has a score; the first: .*has no finite score"):
        Blind(store, search).run()
    toy = TOY.Toy(store, search)
    toy.run()
    assert toy.scored == [] and len(toy.merged) == 1


def test_a_damaged_parent_is_not_the_trials_fault(store: Store) -> None:
    search = recipe(trials=3)
    path = store.path(store.require("checkpoint/q@1").ref) / "model.safetensors"
    whole = path.read_bytes()

    class Reading(TOY.Toy):  # type: ignore[misc]
        def merge(self, job: Job[MergeRecipe]) -> Any:
            for ref in ("checkpoint/p@1", "checkpoint/q@1"):
                verify_files(job.folder_of(ref), job.inputs[ref])
            return super().merge(job)

    path.write_bytes(whole[:-1] + b"x")
    with pytest.raises(CorruptInput, match=r"q/1/model\.safetensors: is not what checkpoint/q@1 wrote"):
        Reading(store, search).run()
    path.write_bytes(whole)
    assert isinstance(Reading(store, search).run(), Artifact)


def test_a_winner_that_comes_out_otherwise_is_refused(store: Store) -> None:
    class Drifting(TOY.Toy):  # type: ignore[misc]
        def merge(self, job: Job[MergeRecipe]) -> Any:
            if job.recipe.name.endswith("-winner"):
                job = replace(job, recipe=replace(job.recipe, parents=job.recipe.parents[:1]))
            return super().merge(job)

    with pytest.raises(SeaLionError, match=r"merged anew, the best trial is not what was scored .*Raise the version"):
        Drifting(store, recipe(trials=3)).run()
    assert store.get(recipe().ref) is None


def test_layer_groups_reach_what_one_weight_cannot(tmp_path: Path) -> None:
    """The best weights differ by layer: of one weight a parent none is right, a weight for each of two groups comes close."""
    store = Store(tmp_path / "catalog")
    TOY.models(store, best={"layers.0": (0.9, 0.1), "layers.1": (0.1, 0.9)})
    flat, grouped = recipe(trials=10), recipe(trials=24, name="checkpoint/grouped", layer_groups=2)
    for each in (flat, grouped):
        TOY.Toy(store, each).run()
    values = [max(row["value"] for row in rows(store, search)) for search in (flat, grouped)]
    assert values[1] > values[0]
    first, second = (parent.layer_weights for parent in winner(store, grouped).parents)
    assert len(first) == 2 and first[0] > first[1] and second[0] < second[1]


def test_axes_are_what_a_method_uses() -> None:
    search = recipe(
        methods=("linear", "ties", "della_linear", "consensus_ta"), densities=(0.2, 1.0), scale=(0.5, 1.5),
        normalize=(False, True), tall_lambda=(0.5, 2.0), agreement=(1, 2),
    )  # fmt: skip
    names = {method: {axis.name for axis in search.axes(method)} for method in search.methods}
    weights = {"weight.0", "weight.1", "normalize"}
    assert names["linear"] == weights
    assert names["ties"] == names["della_linear"] == weights | {"density.0", "density.1", "scale"}
    assert names["consensus_ta"] == weights | {"scale", "tall_lambda", "agreement"}
    trials: list[Trial] = []
    for number in range(30):
        trial = proposed(search, number, trials)
        assert trial == proposed(search, number, trials)
        merge = search.trial(number, trial.method, trial.values)  # every proposal is a merge that may be made
        assert search.values_of(merge) == trial.values
        trials.append(replace(trial, value=-abs(number - 7.0) if number % 5 else None))
    assert [trial.method for trial in trials[:4]] == list(search.methods)
    assert all(value == 1 for name, value in trials[1].values.items() if name != "normalize")
    assert len({trial.method for trial in trials[4:]}) > 1
    pruned = search.trial(5, "della_linear", {"density.0": 0.96, "density.1": 0.5})
    assert pruned.epsilon == pytest.approx(0.036) and pruned.parents[0].density + pruned.epsilon < 1


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"name": "search/toy"}, "name must begin with checkpoint/"),
        ({"parents": ["checkpoint/p@1"]}, "two different models"),
        ({"methods": []}, "methods must name"),
        ({"methods": ["slerp"]}, "methods.0"),
        ({"methods": ["linear", "task_arithmetic", "dare_ties"], "trials": 2}, r"at least one for each method \(3\)"),
        ({"weights": [1.0, 0.0]}, r"weights must be the least and the largest value, in this order, not \[1, 0\]"),
        ({"weights": [0.0, 0.0]}, "some weight"),
        ({"weights": [0.0]}, "weights"),
        ({"densities": [0.0, 1.0], "methods": ["ties"]}, "densities must be above 0"),
        ({"densities": [0.5, 1.0]}, "densities below 1 prune only under ties"),
        ({"agreement": [1, 3], "methods": ["consensus_ta"]}, r"number of parents \(2\)"),
        ({"agreement": [1, 2]}, "agreement and tall_lambda are Consensus-TA's"),
        ({"normalize": []}, "normalize must be"),
        ({"keep_trials": 0}, "keep_trials must be at least 1"),
        ({"layer_groups": -1}, "layer_groups must be 0 or more"),
        ({"seed": -1}, "seed must be 0 or more"),
        ({"weights": [1.0, 1.0]}, "nothing to vary"),
        ({"tokenizer": "checkpoint/x@1"}, "tokenizer must be base or one of the parents"),
        ({"scale": [0.5, 1.0], "wieghts": [0.0, 1.0]}, "did you mean 'weights'"),
    ],
)
def test_wrong_recipes_are_refused_with_one_line(changes: dict[str, Any], problem: str) -> None:
    table = {
        "kind": "merge-search", "name": "checkpoint/toy", "version": "1", "base": "checkpoint/base@1",
        "parents": ["checkpoint/p@1", "checkpoint/q@1"], "methods": ["task_arithmetic"], "trials": 9, "suite": "smoke",
    }  # fmt: skip
    assert isinstance(read_table(table, MergeSearchRecipe, "search.toml"), MergeSearchRecipe)
    with pytest.raises(RecipeError, match=problem) as refused:
        read_table(table | changes, MergeSearchRecipe, "search.toml")
    assert "\n" not in str(refused.value)


def test_only_checkpoints_are_searched(store: Store) -> None:
    TOY.Toy(store, recipe(trials=1)).run()
    search = recipe(name="checkpoint/other", parents=("checkpoint/p@1", "scorecard/toy-trials/0@1"))
    with pytest.raises(RecipeError, match=r"parents\.1: scorecard/toy-trials/0@1 is a scorecard, only checkpoints"):
        TOY.Toy(store, search).run()


def test_the_chain_knows_the_kind_and_scores_its_trials_as_a_lineage_does() -> None:
    folder = chain.recipe_folder("merge-search")
    (node,) = chain.plan(folder)
    assert node.verb == "merge" and chain.maker("merge-search") is chain.search_merges
    (search,) = chain.read_folder(folder)
    assert isinstance(search, MergeSearchRecipe) and search.heldout and "merge-search" in chain.CHECKPOINT_KINDS


def test_trials_are_scored_by_their_gain_over_the_base(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the chain: scorecards under the search's name with its limit, and metrics of two units in one score."""
    search_recipe = recipe(trials=4, limit=7, heldout="", languages=("ind",))
    toy = TOY.Toy(store, search_recipe)
    asked: list[EvaluationRecipe] = []

    def evaluate(job: Job[EvaluationRecipe]) -> Made:
        asked.append(job.recipe)
        found = load_file(job.folder_of(job.recipe.model) / "model.safetensors")["embed"]
        bits, percent = 1 + float(found.abs().mean()), 50 + 10 * float(found.mean())
        given = (("bits_per_byte", "ind", bits, False), ("acc", "ind", percent, True), ("acc", "tha", -percent, True))
        scores = tuple(
            Score(task="t", language=language, metric=metric, value=value, stderr=0, items=1, higher_is_better=is_better)
            for metric, language, value, is_better in given
        )
        return Made(body=Scorecard(model=job.recipe.model, suite="smoke", suite_fingerprint="f", harness="toy", scores=scores))

    monkeypatch.setattr(chain, "maker", lambda kind: evaluate)
    monkeypatch.setattr(search, "search_merges", partial(search.search_merges, merge=toy.merge))
    store.make(search_recipe, Path(), chain.search_merges, Options())
    assert [card.name for card in asked] == ["scorecard/toy-trials/base-1-smoke"] + [
        f"scorecard/toy-trials/{number}-1-smoke" for number in range(4)
    ]
    assert {(card.limit, card.version) for card in asked} == {(7, "1")}
    cards = [store.require(f"{card.name}@1").body.scores for card in asked]  # type: ignore[union-attr]
    for row, (bits, percent, _) in zip(rows(store, search_recipe), cards[1:], strict=True):
        worse, better = bits.value / cards[0][0].value - 1, percent.value / abs(cards[0][1].value) - 1
        assert row["value"] == pytest.approx((better - worse) / 2)
    with pytest.raises(RecipeError, match=r"toy@2: suite: suite 'nope' is not built in \(there is: smoke\)"):
        store.make(recipe(trials=4, version="2", suite="nope"), Path(), chain.search_merges, Options())
    bad = recipe(trials=4, version="2", metric="bleu")
    with pytest.raises(RecipeError, match=r"metric: checkpoint/base@1 has no 'bleu' in these tasks and languages of smoke"):
        store.make(bad, Path(), chain.search_merges, Options())
