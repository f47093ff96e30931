"""The mixture search: its fit against optima that are known, its trials, and what it writes."""

import os
import signal
import sys
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sea_lion.catalog.errors import RecipeError, SeaLionError, Unfinished
from sea_lion.catalog.recipes import read_recipe, read_table
from sea_lion.catalog.records import Checkpoint, MixtureSearch, TokenFiles
from sea_lion.catalog.store import Job, Made, Options, Store, write_rows
from sea_lion.data.recipe import MixtureRecipe, TokenFilesRecipe
from sea_lion.training import search, search_fit
from sea_lion.training.recipe import InitRecipe, TrainRecipe
from sea_lion.training.search import Trial, in_turn, search_mixture
from sea_lion.training.search_fit import Floats, design, diverged, feasible, suggest
from sea_lion.training.search_recipe import MixtureSearchRecipe

LOWER, UPPER = np.zeros(4), np.ones(4)
SEARCH: dict[str, Any] = {
    "kind": "mixture-search",
    "name": "search/t",
    "version": "1",
    "tokens": "token-files/t@1",
    "model": "checkpoint/t@1",
    "heldout": "token-files/t-heldout@1",
    "trials": 8,
    "token_budget": 6400,
    "sequence_length": 16,
    "lr": 1e-3,
    "batch_sequences": 4,
    "part": [
        {"name": "sea", "languages": ["tha", "mya"], "smoothing": 0.5},
        {"name": "english", "languages": ["eng"], "min_weight": 0.1, "max_weight": 0.7},
        {"name": "code", "languages": ["code"], "max_weight": 0.5},
    ],
}


def recipe(**changes: Any) -> MixtureSearchRecipe:
    """The recipe of the tests, read as from a file."""
    return read_table(SEARCH | changes, MixtureSearchRecipe, "search.toml")


# -- the fit ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Law:
    """Six languages whose bits per byte fall as a power of the tokens that serve them: mostly one part, the others a little."""

    seed: int

    def bits(self, weights_CP: Floats) -> Floats:
        """Bits per byte of each language, (C, L)."""
        draw = np.random.default_rng(self.seed)
        floor_L, scale_L, power_L = draw.uniform(0.5, 0.9, 6), draw.uniform(0.05, 0.2, 6), draw.uniform(0.2, 0.4, 6)
        serves_LP = np.abs(draw.normal(0, 0.05, (6, 4)))
        serves_LP[np.arange(6), np.arange(6) % 4] = 1
        found: Floats = floor_L + scale_L * (0.01 + weights_CP @ serves_LP.T) ** -power_L
        return found

    def observed(self, weights_TP: Floats, noise: float) -> Floats:
        """The same with chance, half of which moves all languages of a run alike."""
        draw = np.random.default_rng(self.seed + 100)
        bits_TL = self.bits(weights_TP)
        shared_T1 = draw.standard_normal((len(bits_TL), 1))
        return bits_TL + noise * (0.5 * shared_T1 + 0.87 * draw.standard_normal(bits_TL.shape))


def test_known_optimum_is_recovered() -> None:
    """16 runs of four parts, noise 0.005: the loss within 0.01 of the optimum's, weights within 0.2, intervals that hold it."""
    lost, held, widths = [], [], []
    everything_CP = feasible(LOWER, UPPER, 20_000, seed=77)
    for seed in range(3):
        law = Law(seed)
        goal_C = law.bits(everything_CP).mean(1)
        best_P = everything_CP[goal_C.argmin()]
        tried_TP = design(LOWER, UPPER, 16, seed)
        found = suggest(tried_TP, law.observed(tried_TP, 0.005), np.full(6, 1 / 6), LOWER, UPPER, seed)
        assert found.weights_P.sum() == pytest.approx(1)
        assert np.abs(found.weights_P - best_P).max() < 0.2
        assert found.rank_correlation > 0.5
        truth = float(law.bits(found.weights_P[None]).mean())
        assert abs(found.goal - truth) < 0.02
        lost.append(truth - float(goal_C.min()))
        held.append((found.lower_P - 0.01 <= best_P) & (best_P <= found.upper_P + 0.01))
        widths.append(found.upper_P - found.lower_P)
    assert max(lost) < 0.01
    assert np.mean(held) > 0.7  # nominally 0.9
    assert 0.02 < np.mean(widths) < 0.6  # an interval of everything would hold it too


def test_languages_that_count_more_pull_the_suggestion() -> None:
    law, tried_TP = Law(0), design(LOWER, UPPER, 16, 0)
    bits_TL = law.observed(tried_TP, 0.002)
    only = [suggest(tried_TP, bits_TL, np.eye(6)[language], LOWER, UPPER, 0) for language in (0, 1)]
    assert only[0].weights_P[0] > 0.6 and only[1].weights_P[1] > 0.6
    assert only[0].bits_L[0] == pytest.approx(only[0].goal, abs=0.01)


def test_noise_alone_is_called_noise() -> None:
    tried_TP = design(LOWER, UPPER, 16, 0)
    found = [
        suggest(tried_TP, 1 + 0.01 * np.random.default_rng(seed).standard_normal((16, 1)), np.ones(1), LOWER, UPPER, 0)
        for seed in range(3)
    ]
    assert np.median([suggestion.rank_correlation for suggestion in found]) < 0.3
    assert np.mean([suggestion.upper_P - suggestion.lower_P for suggestion in found]) > 0.35


def test_equal_losses_do_not_break_the_fit() -> None:
    tried_TP = design(LOWER, UPPER, 8, 0)
    found = suggest(tried_TP, np.ones((8, 2)), np.full(2, 0.5), LOWER, UPPER, 0)
    assert found.goal == pytest.approx(1) and found.rank_correlation == 0


def test_design_stays_in_bounds_and_grows_without_changing() -> None:
    lower_P, upper_P = np.array([0.5, 0.2, 0.0, 0.0]), np.array([0.6, 0.3, 0.15, 0.05])
    long_TP = design(lower_P, upper_P, 20, 5)
    assert np.array_equal(design(lower_P, upper_P, 9, 5), long_TP[:9])
    assert ((lower_P <= long_TP) & (long_TP <= upper_P)).all()
    assert np.allclose(long_TP.sum(1), 1, atol=1e-9)
    assert len({tuple(weights_P) for weights_P in long_TP}) == 20
    assert np.ptp(long_TP[:, 2]) > 0.08 and np.ptp(long_TP[:, 0]) > 0.09  # it reaches the bounds
    with pytest.raises(ValueError, match="no mixture"):
        design(np.array([0.6, 0.6]), np.ones(2), 4, 0)
    with pytest.raises(ValueError, match="different mixtures"):
        design(np.array([0.5, 0.499]), np.ones(2), 4, 0)


def test_samples_are_uniform_over_the_simplex() -> None:
    drawn_CP = feasible(LOWER, UPPER, 20_000, 1)
    assert np.allclose(drawn_CP.mean(0), 0.25, atol=0.01)
    assert np.allclose(drawn_CP.var(0), 3 / 80, atol=0.002)  # of Dirichlet(1, 1, 1, 1)


def test_diverged_runs_are_told_from_poor_ones() -> None:
    bits_TL = np.array([[1.0, 1.0], [1.2, 2.5], [np.nan, 1.0], [1.0, 9.0], [1.1, 1.0], [1.0, np.inf]])
    assert diverged(bits_TL).tolist() == [False, False, True, True, False, True]
    assert diverged(np.full((2, 2), np.nan)).all()


# -- the recipe -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"trials": 5}, "twice the parts"),
        ({"part": SEARCH["part"][:1]}, "two parts"),
        ({"part": [dict(part, max_weight=0.3) for part in SEARCH["part"][1:]]}, "no mixture lies within"),
        ({"part": [dict(part, min_weight=0.8, max_weight=0.5) for part in SEARCH["part"]]}, "in this order"),
        ({"goal": {"tha": 0.0}}, "above 0"),
        ({"token_budget": 15}, "at least one sequence"),
        ({"lr": 0.0}, "lr must be above 0"),
        ({"trails": 8}, "did you mean 'trials'"),
    ],
)
def test_impossible_recipes_are_refused(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(RecipeError, match=problem):
        recipe(**changes)


# -- the runs ---------------------------------------------------------------------------------------------------------------


def made_up(trial: Trial) -> Trial:
    """A run in no time: who made it and on which CUDA device, and figures that follow from the weights."""
    run = f"{os.getpid()} {os.environ.get('CUDA_VISIBLE_DEVICES', '')}"
    return replace(trial, run=run, bits_per_byte=(("tha", 1 - trial.weights[0] / 2),))


def killed(trial: Trial) -> Trial:
    """A run whose worker is killed, as by the kernel when memory runs out."""
    if trial.number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return trial


def test_runs_side_by_side() -> None:
    trials = [Trial(number=number, weights=(0.5, 0.5)) for number in range(6)]
    assert list(in_turn(made_up, trials, 1, [])) == [made_up(trial) for trial in trials]
    there = list(in_turn(made_up, trials, 2, ["3"]))
    assert sorted(trial.number for trial in there) == list(range(6))
    made = [trial.run.split() for trial in there]
    assert {device for _, device in made} == {"3"} and str(os.getpid()) not in {process for process, _ in made}
    with pytest.raises(Unfinished, match="killed"):
        list(in_turn(killed, trials, 2, []))


TYPES = {"split": pa.string(), "step": pa.int64(), "language": pa.string(), "source": pa.string(), "bytes": pa.int64()}
HELDOUT = pa.schema([*TYPES.items(), ("bits_per_byte", pa.float64())])
FILES = pa.schema([(name, pa.string()) for name in ("corpus", "language", "source", "split")]
                  + [(name, pa.int64()) for name in ("variant", "tokens")])  # fmt: skip


def token_files(job: Job[TokenFilesRecipe]) -> Made:
    """Token files without files: 1,000 tokens of each language a variant."""
    rows = [
        {"corpus": "corpus/t@1", "language": language, "source": "web", "split": "train", "variant": variant, "tokens": 1000}
        for language in ("tha", "mya", "eng", "code")
        for variant in range(2)
    ]
    write_rows(job.folder / "token_files.parquet", rows, FILES)
    body = TokenFiles(
        tokenizer="tokenizer/t@1", tokenizer_sha256="", vocabulary=9, token_bytes=2, split=job.recipe.split, dropout=0.0,
        rule="", seed=0, variants={}, documents=1, tokens=8000, tokens_plain=4000,
    )  # fmt: skip
    return Made(body=body, tables={"token_files": "token_files.parquet"})


def checkpoint(job: Job[Any]) -> Made:
    """A checkpoint of no weights."""
    body = Checkpoint(stage="init", architecture="llama", parameters=1, parents=(), step=0, tokens_seen=0)
    return Made(body=body)


@dataclass
class Trainer:
    """In place of training: losses that follow from the mixture, and a wish to fail."""

    fails: tuple[int, ...] = ()
    diverges: tuple[int, ...] = ()
    calls: int = 0

    def __call__(self, job: Job[TrainRecipe]) -> Made:
        self.calls += 1
        number = int(job.recipe.name.rpartition("-")[2])
        if number in self.fails:
            raise SeaLionError(f"{job.recipe.ref}: 10 steps in a row were not finite")
        mixture = read_recipe_of(job)
        weight = {part.name: part.weight for part in mixture.part}
        served = {"tha": weight.get("sea", 0.0), "eng": weight.get("english", 0.0)}
        rows = []
        for step in (1, 2):
            for language, share in served.items():
                for source, size in (("web", 300), ("news", 100)):
                    bits = 0.5 + 0.1 * (share + 0.02) ** -0.5 + 0.4 * (source == "news") + 50 * (step == 1)
                    bits = 99.0 if number in self.diverges else bits
                    rows.append({"split": "heldout", "step": step, "language": language, "source": source, "bytes": size,
                                 "bits_per_byte": bits})  # fmt: skip
        rows.append({"split": "train", "step": 2, "language": "tha", "bytes": 1, "bits_per_byte": 1e9})
        write_rows(job.folder / "language_losses.parquet", rows, HELDOUT)
        return replace(checkpoint(job), tables={"language_losses": "language_losses.parquet"})


def read_recipe_of(job: Job[TrainRecipe]) -> MixtureRecipe:
    """The recipe of the run's mixture, from its record."""
    content = job.inputs[job.recipe.mixture].identity
    parts = content["part"]
    fields = {key: content[key] for key in ("token_budget", "sequence_length", "max_epochs")}
    table = {"kind": "mixture", "name": "mixture/x", "version": "1", "tokens": "token-files/t@1", "part": parts}
    return read_table(table | fields, MixtureRecipe, "mixture")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A catalog with token files and a model; mixtures are planned by a stand-in that takes what it is given."""
    store = Store(tmp_path / "catalog")
    for name, split in (("t", "train"), ("t-heldout", "heldout")):
        table = {"kind": "token-files", "name": f"token-files/{name}", "version": "1", "corpora": [], "split": split}
        files = read_table(table | {"tokenizer_file": [Path(__file__).name], "variants_of": {"tha": 2}}, TokenFilesRecipe, "")
        store.make(files, Path(__file__).parent, token_files, Options())
    init = {"kind": "init", "name": "checkpoint/t", "version": "1", "tokenizer": "token-files/t@1", "architecture": "llama"}
    sizes = ("hidden_size", "intermediate_size", "layers", "heads", "key_value_heads", "max_length")
    recipe = read_table(init | dict.fromkeys(sizes, 2) | {"head_dim": 2}, InitRecipe, "init")
    store.make(recipe, tmp_path, checkpoint, Options())
    monkeypatch.setattr(search, "plan_mixture", checkpoint)
    return store


def searched(store: Store, trainer: Trainer, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> MixtureSearch:
    """The body of a search whose runs a stand-in trains."""
    monkeypatch.setitem(sys.modules, "sea_lion.training.train", SimpleNamespace(train_model=trainer))
    made = store.make(recipe(max_epochs=16.0, **changes), Path(), search_mixture, Options())
    assert isinstance(made.body, MixtureSearch)
    return made.body


def test_a_search_makes_nodes_and_suggests(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(fails=(3,), diverges=(5,))
    body = searched(store, trainer, monkeypatch, trials=12)
    assert trainer.calls == 12 and body.trials == 10
    assert body.weights["code"] < 0.1 and abs(body.weights["sea"] - 0.5) < 0.1
    assert body.bits_per_byte == pytest.approx(0.6 + 0.1 * 0.52**-0.5, abs=0.02)  # news, a quarter of the bytes, is 0.4 worse
    folder = store.path(recipe().ref)
    weights = pq.read_table(folder / "trial_weights.parquet").to_pylist()
    assert len(weights) == 36 and sum(row["weight"] for row in weights) == pytest.approx(12)
    assert {row["trial"] for row in weights if not row["run"]} == {3}
    assert {row["trial"] for row in pq.read_table(folder / "trial_losses.parquet").to_pylist()} == set(range(12)) - {3, 5}
    for row in pq.read_table(folder / "suggested_weights.parquet").to_pylist():
        assert 0 <= row["lower"] <= row["weight"] <= row["upper"] <= 1
    assert store.require("checkpoint/t-11@1").inputs[-1].ref and store.require("mixture/t-3@1")
    suggested = read_recipe(folder / "mixture.toml", {"mixture": MixtureRecipe})
    assert isinstance(suggested, MixtureRecipe)
    assert {part.name: part.weight for part in suggested.part} == {name: w for name, w in body.weights.items() if w}
    assert suggested.tokens == "token-files/t@1" and suggested.part[0].smoothing == 0.5


def test_what_is_made_is_taken_up(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A search that was stopped, and one to which trials are added, keep their runs."""

    class Stopped(Trainer):
        def __call__(self, job: Job[TrainRecipe]) -> Made:
            if self.calls == 4:
                raise Unfinished("a signal came")
            return super().__call__(job)

    with pytest.raises(Unfinished):
        searched(store, Stopped(), monkeypatch)
    again = Trainer()
    searched(store, again, monkeypatch)
    assert again.calls == 4
    more = Trainer()
    body = searched(store, more, monkeypatch, trials=10, version="2", trial_version="1")
    assert more.calls == 2 and body.trials == 10


def test_what_is_available_bounds_the_weights(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """56 sequences of each language can be had within 0.9 epochs, of 100 that a run has; the middle languages share."""
    monkeypatch.setitem(sys.modules, "sea_lion.training.train", SimpleNamespace(train_model=Trainer()))
    tight = replace(recipe(), token_budget=1600, max_epochs=0.9)
    store.make(tight, Path(), search_mixture, Options())
    rows = pq.read_table(store.path(tight.ref) / "trial_weights.parquet").to_pylist()
    largest = {name: max(row["weight"] for row in rows if row["part"] == name) for name in ("sea", "english", "code")}
    assert largest["code"] == 0.5 and largest["english"] <= 0.55 and largest["sea"] > 0.6
    with pytest.raises(RecipeError, match=r"no mixture lies within .*within the epochs"):
        store.make(replace(tight, name="search/u", max_epochs=0.2), Path(), search_mixture, Options())


def test_searches_that_cannot_work_are_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unfinished, match=r"7 of 8 runs failed or diverged"):
        searched(store, Trainer(fails=tuple(range(7))), monkeypatch)
    with pytest.raises(RecipeError, match=r"goal: khm is not held out; .* has eng, tha"):
        searched(store, Trainer(), monkeypatch, version="2", goal={"khm": 1.0})
    with pytest.raises(RecipeError, match="not a token-files of split 'heldout'"):
        searched(store, Trainer(), monkeypatch, version="3", heldout="token-files/t@1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SeaLionError, match="without a launcher"):
        searched(store, Trainer(), monkeypatch, version="4")


def test_grid_holds_the_bounds() -> None:
    lower_P, upper_P = np.array([0.1, 0.0, 0.0]), np.array([0.3, 0.45, 0.9])
    rounded_CP = search_fit.on_grid(feasible(lower_P, upper_P, 500, 0), lower_P, upper_P)
    assert ((lower_P <= rounded_CP) & (rounded_CP <= upper_P)).all()
    assert all(sum(round(weight * search_fit.GRID) for weight in weights_P) == search_fit.GRID for weights_P in rounded_CP)
    assert all(first >= second for first, second in pairwise(sorted(rounded_CP[:, 0], reverse=True)))
