"""The methods against hand-computed values, recorded reference values and their own invariants."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mergekit.merge_methods import get as mergekit_method
from mergekit.merge_methods.api import merge_tensors

from sea_lion.catalog.errors import RecipeError
from sea_lion.catalog.recipes import read_table
from sea_lion.merging.mergekit_engine import configuration
from sea_lion.merging.methods import METHODS
from sea_lion.merging.plugin import consensus, register_methods
from sea_lion.merging.recipe import MergeRecipe, Parent, StreamedMethod
from sea_lion.merging.settings import check_groups, settings_of

register_methods()
STREAMED: tuple[str, ...] = StreamedMethod.__args__  # type: ignore[attr-defined]

ORACLE = Path(__file__).parents[2] / ".." / "shared" / "oracles" / "merge_vectors.json"
needs_oracle = pytest.mark.skipif(not ORACLE.is_file(), reason=f"recorded reference values are not there: {ORACLE.name}")


def recipe_of(method: str, count: int, **changes: object) -> MergeRecipe:
    table: dict[str, object] = {"kind": "merge", "name": "checkpoint/m", "version": "1", "base": "checkpoint/b@1"}
    table |= {"method": method, "parents": [{"model": f"checkpoint/p{i}@1"} for i in range(count)], "normalize": False}
    return read_table(table | changes, MergeRecipe, "test.toml")


def merged(recipe: MergeRecipe, base: torch.Tensor, parents: list[torch.Tensor]) -> torch.Tensor:
    """One tensor merged as the resolved configuration of a recipe says."""
    table = configuration(recipe, list(range(len(parents) + 1)), dtype="float32")
    per_parent = [entry["parameters"] for entry in table["models"]]
    has_base = "base_model" in table
    parameters = dict(table["parameters"])
    for name in per_parent[0]:
        values = [entry[name] for entry in per_parent]
        parameters[name] = {i + 1: value for i, value in enumerate(values)}
    tensors = [base, *parents] if has_base else parents
    ids = list(range(len(parents) + 1)) if has_base else list(range(1, len(parents) + 1))
    result = merge_tensors(
        tensors, mergekit_method(table["merge_method"]), parameters=parameters, ids=ids, base_index=0 if has_base else None
    )
    assert isinstance(result, torch.Tensor)
    return result


def test_consensus_by_hand() -> None:
    # tau = [1, -1, 1] and [1, 1, .25], their sum [2, 0, 1.25]. |tau_1| > |sum - tau_1|: 1 > 1 no, 1 > 1 no, 1 > .25 yes;
    # |tau_2| > |sum - tau_2|: 1 > 1 no, 1 > 1 no, .25 > 1 no. With tall_lambda .5: all but the last parent's last element.
    base = torch.tensor([10.0, 10.0, 10.0])
    parents = [torch.tensor([11.0, 9.0, 11.0]), torch.tensor([11.0, 11.0, 10.25])]
    ones = [1.0, 1.0]
    assert consensus(base, parents, weights=ones, tall_lambdas=ones, agreement=1).tolist() == [10, 10, 11.25]
    half = [0.5, 0.5]
    assert consensus(base, parents, weights=ones, tall_lambdas=half, agreement=1).tolist() == [12, 10, 11.25]
    assert consensus(base, parents, weights=ones, tall_lambdas=half, agreement=2).tolist() == [12, 10, 10]
    assert consensus(base, parents, weights=ones, tall_lambdas=half, agreement=1, scale=0.5).tolist() == [11, 10, 10.625]
    averaged = consensus(base, parents, weights=ones, tall_lambdas=half, agreement=1, normalize=True)
    assert averaged.tolist() == [11, 10, 10.625]


def test_dare_ties_at_density_one_is_the_sign_election_by_hand() -> None:
    base = torch.tensor([10.0, 10.0, 10.0])
    parents = [torch.tensor([11.0, 9.0, 11.0]), torch.tensor([12.0, 13.0, 9.0])]
    # Deltas [1, -1, 1] and [2, 3, -1]: signs of the sums + + (0 counts as +): kept 1 + 2, 3, 1.
    assert merged(recipe_of("dare_ties", 2), base, parents).tolist() == [13, 13, 11]
    # Divided by the weights that agree: 3 / 2, 3 / 1, 1 / 1.
    assert merged(recipe_of("dare_ties", 2, normalize=True), base, parents).tolist() == [11.5, 13, 11]


def test_della_linear_and_linear_by_hand() -> None:
    base = torch.tensor([10.0, 10.0])
    parents = [torch.tensor([11.0, 9.0]), torch.tensor([12.0, 13.0])]
    assert merged(recipe_of("della_linear", 2), base, parents).tolist() == [13, 12]
    assert merged(recipe_of("della_linear", 2, normalize=True, scale=2.0), base, parents).tolist() == [13, 12]
    weighted = [{"model": "checkpoint/p@1", "weight": 3.0}, {"model": "checkpoint/q@1", "weight": 1.0}]
    assert merged(recipe_of("linear", 2, parents=weighted, normalize=True), base, parents).tolist() == [11.25, 10]


VALUES = st.floats(-4, 4, width=32)


@given(st.data(), st.sampled_from(STREAMED), st.integers(1, 4), st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_merging_equal_models_is_the_identity(data: st.DataObject, method: str, parents: int, size: int) -> None:
    weights = torch.tensor(data.draw(st.lists(VALUES, min_size=size, max_size=size)))
    base = weights if METHODS[method].takes_base else torch.zeros(size)
    result = merged(recipe_of(method, parents, normalize=True), base, [weights.clone() for _ in range(parents)])
    torch.testing.assert_close(result, weights, rtol=1e-6, atol=1e-6)


@given(st.data(), st.integers(2, 4), st.floats(0, 2), st.booleans())
@settings(max_examples=60, deadline=None)
def test_consensus_keeps_or_drops_whole_elements(
    data: st.DataObject, parents: int, tall_lambda: float, normalize: bool
) -> None:
    draw = st.lists(VALUES, min_size=5, max_size=5)
    base, *others = (torch.tensor(data.draw(draw)) for _ in range(parents + 1))
    ones = [1.0] * parents
    kept_before = torch.ones(5, dtype=torch.bool)
    task = consensus(base, others, weights=ones, tall_lambdas=ones, agreement=0, normalize=normalize)
    for agreement in range(1, parents + 1):
        result = consensus(
            base, others, weights=ones, tall_lambdas=[tall_lambda] * parents, agreement=agreement, normalize=normalize
        )
        kept = result == task
        assert torch.equal(result[~kept], base[~kept])
        assert not (kept & ~kept_before & (task != base)).any()  # asking for more agreement never keeps more
        kept_before = kept


def _models(vectors: dict[str, Any]) -> dict[str, dict[str, torch.Tensor]]:
    """The inputs, made as the file says; their recorded checksums are checked."""
    how = vectors["how_to_make_inputs"]

    def draw(seed: int) -> dict[str, Any]:
        stream = np.random.RandomState(seed)
        return {name: stream.standard_normal(how["shapes"][name]).astype(np.float32) for name in sorted(how["shapes"])}

    base = draw(how["base_seed"])
    models = {"base": base}
    for i, seed in enumerate(how["model_seeds"]):
        models[f"model{i}"] = {name: base[name] + np.float32(0.05) * noise for name, noise in draw(seed).items()}
    for name, tensors in models.items():
        for key, value in tensors.items():
            assert hashlib.sha256(value.tobytes()).hexdigest() == vectors["inputs"][name][key]["sha256_f32le"]
    return {name: {key: torch.from_numpy(value) for key, value in tensors.items()} for name, tensors in models.items()}


def _recipe_of_case(case: dict[str, Any]) -> MergeRecipe:
    given = case["parameters"]
    parents = [
        {"model": f"checkpoint/{name}@1", "weight": given["weight"], "density": given.get("density", 1.0)}
        for name in case["models"]
    ]
    method = str(case["method"])
    return recipe_of(
        method, len(parents), parents=parents, epsilon=given.get("epsilon", 0.0), agreement=given.get("k", 1),
        tall_lambda=given.get("tall_lambda", 1.0), scale=given.get("alpha", 1.0),
    )  # fmt: skip


CASES = (
    "ta_w1", "ta_w0.4", "dareties_d1", "dareties_d.5", "della_lin_d1", "della_lin_d.6", "consensus_ta_lam0.4_k1_a1.0",
    "consensus_ta_lam0.4_k1_a0.3", "consensus_ta_lam0.4_k2_a1.0", "consensus_ta_lam0.4_k3_a1.0",
    "consensus_ta_lam1.0_k1_a1.0", "consensus_ta_lam1.0_k2_a1.0", "consensus_ta_lam1.0_k2_a0.3", "consensus_ta_lam1.0_k3_a0.3",
)  # fmt: skip


@needs_oracle
@pytest.mark.parametrize("name", CASES)
def test_recorded_reference_values(name: str) -> None:
    vectors = json.loads(ORACLE.read_text("utf-8"))
    models, case = _models(vectors), vectors["cases"][name]
    for tensor, expected in case["expected"].items():
        if case.get("seed") is not None:
            torch.manual_seed(case["seed"])
        result = merged(_recipe_of_case(case), models["base"][tensor], [models[model][tensor] for model in case["models"]])
        values = result.double().flatten()
        torch.testing.assert_close(values[:8], torch.tensor(expected["first8"]).double(), rtol=2e-7, atol=1e-7)
        assert float(values.sum()) == pytest.approx(expected["sum_f64"], abs=1e-4)
        assert float(values.norm()) == pytest.approx(expected["l2_f64"], rel=1e-7)
        digest = hashlib.sha256(result.numpy().tobytes()).hexdigest()
        assert digest == expected["sha256_f32le"]  # bit for bit


def test_consensus_of_bfloat16_is_computed_in_float32() -> None:
    base = torch.tensor([1.0], dtype=torch.bfloat16)
    parents = [base + torch.tensor([0.0078125], dtype=torch.bfloat16)] * 3
    result = consensus(base, parents, weights=[0.3] * 3, tall_lambdas=[0.1] * 3, agreement=3)
    assert result.dtype == torch.bfloat16
    assert float(result) == pytest.approx(1.0078125)


@pytest.mark.parametrize(
    ("method", "changes", "problem"),
    [
        ("linear", {"parents": [{"model": "checkpoint/p@1", "density": 0.5}]}, "density"),
        ("consensus_ta", {"parents": [{"model": "checkpoint/p@1", "density": 0.5}]}, "density"),
        ("della_linear", {"parents": [{"model": "checkpoint/p@1", "density": 0.9}], "epsilon": 0.2}, "epsilon"),
        ("linear", {"scale": 2.0}, "scale"),
        ("consensus_ta", {"agreement": 3}, "agreement"),
        ("consensus_ta", {"tall_lambda": -1.0}, "tall_lambda"),
        ("dare_ties", {"parents": []}, "at least one"),
    ],
)
def test_settings_that_would_be_ignored_or_refused_late(method: str, changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(RecipeError, match=problem):
        recipe_of(method, 2, **changes)


@pytest.mark.parametrize(
    ("method", "changes", "problem"),
    [
        ("dare_ties", {"seed": 2**64}, "seed: must be at least 0 and below 4,294,967,296"),
        ("dare_ties", {"seed": -1}, "seed: must be at least 0"),
        ("ties", {"scale": 0.0}, "scale: must be a number of float32 and not 0"),
        ("ties", {"scale": 1e300}, "scale: must be a number of float32"),
        ("ties", {"parents": [{"model": "checkpoint/p@1", "weight": 0.0}]}, "parents: all weights are 0"),
        (
            "ties",
            {"parents": [{"model": "checkpoint/p@1", "layer_weights": [1, 1e39]}]},
            "parents.0.weight: 1e.39 is too large",
        ),
        (
            "linear",
            {"normalize": True, "parents": [{"model": "checkpoint/p@1"}, {"model": "checkpoint/q@1", "weight": -1.0}]},
            "parents: the weights sum to 0 and cannot be normalized",
        ),
    ],
)
def test_values_that_make_no_model_are_refused_before_a_model_is_looked_at(
    method: str, changes: dict[str, Any], problem: str
) -> None:
    with pytest.raises(RecipeError, match=problem):
        settings_of(recipe_of(method, 2, **changes), {})


def test_more_groups_than_layers_are_refused() -> None:
    recipe = recipe_of("ties", 1, parents=[{"model": "checkpoint/p@1", "layer_weights": [1.0, 2.0, 3.0]}])
    check_groups(recipe, ["model.layers.0.w", "model.layers.2.w", "lm_head.weight"])
    with pytest.raises(RecipeError, match=r"parents\.0\.layer_weights: are 3, the model has only 2 layers"):
        check_groups(recipe, ["model.layers.0.w", "model.layers.1.w"])


def test_an_unknown_method_is_told_all_that_there_are() -> None:
    with pytest.raises(RecipeError, match=r"test\.toml: method: Input should be 'linear', .*'slerp'.* not 'magic'"):
        recipe_of("magic", 1)


def test_parent_is_exported_with_its_defaults() -> None:
    assert Parent(model="checkpoint/p@1").density == 1.0
