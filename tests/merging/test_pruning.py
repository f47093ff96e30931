"""Pruning against recorded masks and values, against mergekit on whole tensors, and its own invariants.

A small driver stands for the engine: it shows whole tensors in chunks, parent after parent, then prunes all parents' chunks in
turn.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mergekit.sparsify import RescaleNorm, SparsificationMethod, sparsify

from sea_lion.catalog.errors import SeaLionError
from sea_lion.merging import pruning
from sea_lion.merging.contract import Pruner
from sea_lion.merging.pruning import MASK_BYTES, SUMMED_WHOLE, prunings
from sea_lion.merging.recipe import MergeRecipe, Parent

ORACLE = Path(__file__).parents[3] / "shared" / "oracles" / "merge_vectors.json"
needs_oracle = pytest.mark.skipif(not ORACLE.is_file(), reason=f"recorded reference values are not there: {ORACLE.name}")
FORMS = {
    "dare_linear": SparsificationMethod.random,
    "della_linear": SparsificationMethod.della_magprune,
    "ties": SparsificationMethod.magnitude,
}
WHOLE = 1 << 40
NEAR = 5e-7
"""How far, of the value, those that were rescaled may lie from mergekit's, whose sums are in float32."""


def recipe_of(method: Any, densities: Sequence[float], **changes: Any) -> MergeRecipe:
    parents = tuple(Parent(model=f"checkpoint/p{i}@1", density=density) for i, density in enumerate(densities))
    return MergeRecipe(
        kind="merge", name="checkpoint/m", version="1", method=method, base="checkpoint/b@1", parents=parents, **changes
    )  # fmt: skip


def pruned(
    recipe: MergeRecipe, deltas: Sequence[torch.Tensor], *, chunk: int = WHOLE, mask_bytes: int = MASK_BYTES
) -> list[torch.Tensor]:
    """What the pruners leave of the parents' differences in one tensor, shown in chunks of so many elements."""
    pruners = prunings(recipe, mask_bytes=mask_bytes)(deltas[0].shape)
    return driven(pruners, deltas, chunk)


def driven(pruners: Sequence[Pruner | None], deltas: Sequence[torch.Tensor], chunk: int) -> list[torch.Tensor]:
    whole = [delta.reshape(-1).clone() for delta in deltas]
    starts = range(0, max(1, whole[0].numel()), chunk)
    for pruner, delta_C in zip(pruners, whole, strict=True):
        for number in range(pruner.passes if pruner else 0):
            for start in starts:
                before_C = delta_C[start : start + chunk].clone()
                assert pruner is not None
                pruner.look(number, delta_C[start : start + chunk])
                assert torch.equal(before_C, delta_C[start : start + chunk])
    for start in starts:
        for pruner, delta_C in zip(pruners, whole, strict=True):
            if pruner:
                pruner.prune(delta_C[start : start + chunk])
    return [result.view(delta.shape) for result, delta in zip(whole, deltas, strict=True)]


def mergekits(recipe: MergeRecipe, deltas: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """mergekit's own pruning, its generator sown as the recipe says."""
    torch.manual_seed(recipe.seed)
    norm = RescaleNorm.l1 if recipe.rescale else None
    return [
        sparsify(delta, parent.density, FORMS[recipe.method], epsilon=recipe.epsilon or 0.0, rescale_norm=norm)
        for delta, parent in zip(deltas, recipe.parents, strict=True)
    ]


def normal_deltas(shape: Sequence[int], parents: int = 2, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed + 12345)  # not a recipe's seed: its numbers would be those of the masks
    return [torch.randn(*shape, generator=generator) * 0.05 for _ in range(parents)]


def bfloat16_deltas(shape: Sequence[int], parents: int = 2, seed: int = 0) -> list[torch.Tensor]:
    """Differences as fine-tuning leaves them: of bfloat16 weights, so of few distinct values, many of them zero."""
    generator = torch.Generator().manual_seed(seed)
    base = (torch.randn(*shape, generator=generator) * 0.02).bfloat16().float()
    tuned = [(base + torch.randn(*shape, generator=generator) * 1e-4).bfloat16().float() for _ in range(parents)]
    return [weights - base for weights in tuned]


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.view(torch.int32)


# The recorded cases.


def recorded_weights() -> tuple[dict[str, torch.Tensor], dict[str, dict[str, torch.Tensor]]]:
    """The base and the models, as `how_to_make_inputs` says."""
    how = json.loads(ORACLE.read_text())["how_to_make_inputs"]
    shapes = {name: how["shapes"][name] for name in sorted(how["shapes"])}

    def noise(seed: int) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
        generator = np.random.RandomState(seed)
        return {name: generator.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}

    base = noise(how["base_seed"])
    models = {}
    for number, seed in enumerate(how["model_seeds"]):
        own = noise(seed)
        models[f"model{number}"] = {name: torch.from_numpy(base[name] + np.float32(0.05) * own[name]) for name in shapes}
    return {name: torch.from_numpy(base[name]) for name in shapes}, models


def recorded_cases() -> dict[str, Any]:
    cases = json.loads(ORACLE.read_text())["cases"] if ORACLE.is_file() else {}
    return {name: case for name, case in cases.items() if case["parameters"].get("density", 1) < 1}


def summed(recipe: MergeRecipe, base: torch.Tensor, deltas: Sequence[torch.Tensor]) -> torch.Tensor:
    """The merge of pruned differences, whole tensors at once."""
    stacked = torch.stack(list(deltas))
    if recipe.method in ("ties", "dare_ties"):
        agrees = stacked.sign() == (stacked.sum(0) >= 0).float() * 2 - 1
        mixed, count = (stacked * agrees).sum(0), agrees.float().sum(0)
    else:
        mixed, count = stacked.sum(0), torch.full(base.shape, float(len(deltas)))
    return base + (mixed / torch.where(count == 0, 1.0, count) if recipe.normalize else mixed)


@needs_oracle
@pytest.mark.parametrize("name", recorded_cases())
@pytest.mark.parametrize("rows", [1, WHOLE])
def test_recorded_masks_and_values(name: str, rows: int) -> None:
    case = recorded_cases()[name]
    base, models = recorded_weights()
    known = {key: case["parameters"][key] for key in ("rescale", "epsilon", "normalize") if key in case["parameters"]}
    densities = [case["parameters"]["density"]] * len(case["models"])
    recipe = recipe_of(case["method"], densities, seed=case["seed"] or 0, **known)
    for tensor, expected in case["expected"].items():
        deltas = [models[model][tensor] - base[tensor] for model in case["models"]]
        results = pruned(recipe, deltas, chunk=rows * base[tensor].shape[-1])
        if "masks_packbits_hex" in case:
            for result, delta, recorded in zip(results, deltas, case["masks_packbits_hex"][tensor], strict=True):
                assert torch.all(delta != 0)
                assert np.packbits((result != 0).numpy().reshape(-1)).tobytes().hex() == recorded
        merged = summed(recipe, base[tensor], results)
        assert hashlib.sha256(merged.numpy().tobytes()).hexdigest() == expected["sha256_f32le"]
        exact = merged.double().reshape(-1)
        assert float(exact.sum()) == pytest.approx(expected["sum_f64"], rel=1e-12)
        assert float(exact.norm()) == pytest.approx(expected["l2_f64"], rel=1e-12)
        assert exact[:8].tolist() == expected["first8"]
        assert exact.tolist() == expected.get("values", exact.tolist())


# mergekit on whole tensors.

SHAPES = [(20, 48), (7, 33), (1, 100), (3, 2), (501,), (2, 1025)]


@pytest.mark.parametrize("mask_bytes", [0, 40, MASK_BYTES])
@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("method", ["dare_linear", "della_linear"])
@pytest.mark.parametrize("make", [normal_deltas, bfloat16_deltas])
def test_drawn_masks_are_mergekits(make: Any, method: str, rescale: bool, mask_bytes: int) -> None:
    for number, shape in enumerate(SHAPES):
        deltas = make(shape, 3, seed=number)
        recipe = recipe_of(method, [0.37, 1.0, 0.6], rescale=rescale, seed=2**40 + number)
        expected = mergekits(recipe, deltas)
        chunks = [shape[-1], 2 * shape[-1], WHOLE] if method == "della_linear" else [7, shape[-1], WHOLE]
        for chunk in chunks:
            results = pruned(recipe, deltas, chunk=chunk, mask_bytes=mask_bytes)
            assert torch.equal(results[1], deltas[1])
            for result, wanted in zip(results, expected, strict=True):
                assert torch.equal(bits(result), bits(wanted))


@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("density", [0.0001, 0.1, 0.99])
def test_the_largest_are_kept_as_in_mergekit(density: float, rescale: bool) -> None:
    for number, shape in enumerate(SHAPES):
        deltas = normal_deltas(shape, 2, seed=number)
        recipe = recipe_of("ties", [density, density], rescale=rescale)
        for chunk in (61, shape[-1], WHOLE):
            for result, wanted in zip(pruned(recipe, deltas, chunk=chunk), mergekits(recipe, deltas), strict=True):
                assert torch.equal(bits(result), bits(wanted))


@pytest.mark.parametrize("method", FORMS)
@pytest.mark.parametrize("rescale", [False, True])
def test_large_tensors_have_mergekits_masks_and_factors_up_to_the_rounding_of_sums(method: str, rescale: bool) -> None:
    deltas = normal_deltas((150, 257), 2)
    assert deltas[0].numel() > SUMMED_WHOLE
    recipe = recipe_of(method, [0.4, 0.7], rescale=rescale, seed=5)
    wholes = pruned(recipe, deltas)
    for chunk in (13 * 257, 257 * 80):
        for result, whole in zip(pruned(recipe, deltas, chunk=chunk, mask_bytes=6000), wholes, strict=True):
            assert torch.equal(bits(result), bits(whole))
    for result, wanted in zip(wholes, mergekits(recipe, deltas), strict=True):
        assert torch.equal(result == 0, wanted == 0)
        if rescale:
            assert torch.all((result - wanted).abs() <= NEAR * wanted.abs())
        else:
            assert torch.equal(bits(result), bits(wanted))


@pytest.mark.parametrize("density", [0.02, 0.3, 0.9])
def test_of_equal_magnitudes_as_many_are_kept_as_in_mergekit_the_first_ones(density: float) -> None:
    (delta,) = bfloat16_deltas((32, 128), 1)
    assert len(set(delta.abs().view(-1).tolist())) < delta.numel() / 8
    recipe = recipe_of("ties", [density])
    (wanted,) = mergekits(recipe, [delta])
    for chunk in (33, 128, 1000, WHOLE):
        (result,) = pruned(recipe, [delta], chunk=chunk)
        assert torch.equal(result.abs().reshape(-1).sort().values, wanted.abs().reshape(-1).sort().values)
        assert torch.equal(result[result != 0], delta[result != 0])
        edge = result.abs()[result != 0].min()
        at_edge = (result != 0)[delta.abs() == edge]
        assert torch.equal(at_edge, at_edge.sort(descending=True).values)


def test_subnormal_differences_are_told_apart() -> None:
    delta = torch.tensor([3, -2, 1, 0, 4, -5, 0, 2], dtype=torch.float64).mul(2.0**-149).float()
    (result,) = pruned(recipe_of("ties", [0.5]), [delta])
    assert (result.double() * 2.0**149).tolist() == [3, -2, 0, 0, 4, -5, 0, 0]


def test_nothing_is_scaled_where_nothing_differs() -> None:
    for method in FORMS:
        for result in pruned(recipe_of(method, [0.5, 0.5], rescale=True), [torch.zeros(4, 8)] * 2):
            assert torch.equal(result, torch.zeros(4, 8))


def test_rows_of_one_element_are_kept_with_the_density() -> None:
    column = torch.ones(4000, 1)
    recipe = recipe_of("della_linear", [0.3], rescale=False, epsilon=0.2)
    with pytest.raises(RuntimeError):
        mergekits(recipe, [column])  # 0 / 0
    (result,) = pruned(recipe, [column], chunk=100)
    assert float(result.mean()) == pytest.approx(0.3, abs=0.03)
    assert pruned(recipe, [torch.tensor(2.0)])[0].shape == ()


@pytest.mark.parametrize("method", FORMS)
def test_an_empty_tensor_stays_empty(method: str) -> None:
    assert [result.shape for result in pruned(recipe_of(method, [0.5, 0.5]), [torch.empty(0, 3)] * 2)] == [(0, 3)] * 2
    assert pruned(recipe_of(method, [0.5]), [torch.empty(2, 0)])[0].shape == (2, 0)


def test_more_than_two_dimensions_are_refused_only_by_rank() -> None:
    deltas = normal_deltas((3, 4, 5))
    with pytest.raises(SeaLionError, match=r"shape \[3, 4, 5\] cannot be pruned by rank.*density 1"):
        prunings(recipe_of("della_linear", [0.5, 0.5]))((3, 4, 5))
    for method in ("dare_linear", "ties"):
        recipe = recipe_of(method, [0.5, 0.5], rescale=False)
        for result, wanted in zip(pruned(recipe, deltas), mergekits(recipe, deltas), strict=True):
            assert torch.equal(result, wanted)


def test_parts_of_rows_are_a_callers_mistake() -> None:
    (pruner,) = prunings(recipe_of("della_linear", [0.5]))((4, 6))
    assert pruner is not None
    with pytest.raises(ValueError, match="9 elements does not consist of whole rows of 6"):
        pruner.look(0, torch.ones(9))


def test_who_has_no_pruner() -> None:
    assert prunings(recipe_of("task_arithmetic", [1, 1]))((2, 2)) == [None, None]
    assert prunings(recipe_of("dare_ties", [1, 1]))((2, 2)) == [None, None]
    first, second = prunings(recipe_of("dare_ties", [1, 0.5]))((2, 2))
    assert first is None
    assert second is not None


def test_looks_are_not_asked_for_in_vain() -> None:
    def passes(method: str, **changes: Any) -> list[int]:
        return [pruner.passes for pruner in prunings(recipe_of(method, [0.5, 0.5], **changes))((2, 2)) if pruner]

    assert passes("dare_ties") == [1, 1]  # for the factor
    assert passes("dare_ties", rescale=False) == [1, 0]  # the second's draws begin behind the first's
    assert passes("ties") == passes("ties", rescale=True) == [2, 2]


def test_each_tensor_has_the_seeds_numbers_whatever_other_threads_draw() -> None:
    deltas, recipe = normal_deltas((64, 48)), recipe_of("della_linear", [0.5, 0.5], seed=9)
    alone = pruned(recipe, deltas)
    made, found = prunings(recipe, mask_bytes=1000), {}  # room for the masks of one tensor only

    def work(number: int) -> None:
        found[number] = driven(made(deltas[0].shape), deltas, 480)

    threads = [threading.Thread(target=work, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [0, 1, 2, 3]
    for results in found.values():
        for result, wanted in zip(results, alone, strict=True):
            assert torch.equal(bits(result), bits(wanted))


def test_room_for_masks_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    claims, claim = [], pruning._Room.claim

    def noted(room: pruning._Room, size: int) -> bool:
        claims.append(claim(room, size))
        return claims[-1]

    monkeypatch.setattr(pruning._Room, "claim", noted)
    deltas, made = normal_deltas((8, 10)), prunings(recipe_of("dare_linear", [0.5, 0.5]), mask_bytes=19)
    for _ in range(3):
        driven(made((8, 10)), deltas, 13)
    assert claims == [True, False] * 3  # 80 bits each


# Properties.

VALUES = st.floats(-4, 4, width=32)


@given(
    st.lists(VALUES, min_size=1, max_size=60),
    st.floats(0.01, 0.99),
    st.integers(1, 60),
)
@settings(max_examples=50)
def test_ties_keeps_exactly_its_share_and_the_largest(values: list[float], density: float, chunk: int) -> None:
    delta = torch.tensor(values)
    (result,) = pruned(recipe_of("ties", [density]), [delta], chunk=chunk)
    keep = max(1, int(density * len(values)))
    assert torch.equal(result.abs().sort(descending=True).values[:keep], delta.abs().sort(descending=True).values[:keep])
    assert int((result != 0).sum()) == min(keep, int((delta != 0).sum()))
    assert torch.equal(result[result != 0], delta[result != 0])


@given(
    st.sampled_from(sorted(FORMS)),
    st.integers(1, 6),
    st.integers(1, 9),
    st.integers(1, 4),
    st.booleans(),
    st.integers(0, 2**63),
    st.integers(0, 3),
)
@settings(max_examples=60)
def test_chunks_and_waiting_masks_change_nothing(
    method: str, rows: int, columns: int, step: int, rescale: bool, seed: int, room: int
) -> None:
    deltas = normal_deltas((rows, columns), 3, seed=seed % 1000)
    recipe = recipe_of(method, [0.4, 0.8, 0.5], rescale=rescale, seed=seed)
    whole = pruned(recipe, deltas)
    parts = pruned(recipe, deltas, chunk=step * (columns if method == "della_linear" else 1), mask_bytes=room * 3)
    for one, other in zip(whole, parts, strict=True):
        assert torch.equal(bits(one), bits(other))


@given(st.sampled_from(sorted(FORMS)), st.floats(0.2, 0.8), st.integers(0, 2**32))
@settings(max_examples=40)
def test_the_share_is_kept_and_the_sum_of_magnitudes_restored(method: str, density: float, seed: int) -> None:
    deltas = normal_deltas((50, 40), 1, seed=seed % 1000)
    (result,) = pruned(recipe_of(method, [density], rescale=True, seed=seed), deltas, chunk=400)
    assert float((result != 0).float().mean()) == pytest.approx(density, abs=0.06)  # five standard errors
    assert float(result.double().abs().sum()) == pytest.approx(float(deltas[0].double().abs().sum()), rel=5e-7)


def test_della_prefers_the_large_ones() -> None:
    (delta,) = normal_deltas((400, 50), 1)
    (result,) = pruned(recipe_of("della_linear", [0.5], epsilon=0.4, rescale=False, seed=1), [delta])
    order = delta.abs().argsort(dim=1)
    kept_by_rank = (result != 0).gather(1, order).float().mean(0)
    assert float(kept_by_rank[:5].mean()) == pytest.approx(0.1 + 0.8 * 2 / 49, abs=0.03)
    assert float(kept_by_rank[-5:].mean()) == pytest.approx(0.9 - 0.8 * 2 / 49, abs=0.03)
