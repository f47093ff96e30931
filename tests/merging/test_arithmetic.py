"""The kernels against mergekit's own merge functions and Consensus-TA's formula, bit by bit, and the methods' invariants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sea_lion.catalog.errors import SeaLionError
from sea_lion.merging.arithmetic import ALIGNMENT, Chunk, kernel, summed
from sea_lion.merging.recipe import NORMALIZED, MergeRecipe, Parent

METHODS = ["linear", "task_arithmetic", "ties", "dare_linear", "dare_ties", "della", "della_linear", "consensus_ta"]
WEIGHTS = [(1.0, 1.0, 1.0, 1.0, 1.0, 1.0), (0.4, 1.3, 0.7, 0.1, 2.0, 1.0), (1.0, -0.5, 0.3, -1.0, 0.0, 1.0)]
TALL_LAMBDA = 0.4


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    """mergekit's sums over five parents and more depend on how torch shares them between threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def recipe_of(method: str, weights: Sequence[float], **changes: Any) -> MergeRecipe:
    parents = tuple(Parent(model=f"checkpoint/p{i}@1", weight=weight) for i, weight in enumerate(weights))
    values: dict[str, Any] = {"kind": "merge", "name": "checkpoint/m", "version": "1", "base": "checkpoint/b@1"}
    return MergeRecipe(**values | {"method": method, "parents": parents} | changes)


class Recorder:
    """A meter that keeps what it is shown."""

    def __init__(self) -> None:
        self.seen: dict[str, torch.Tensor] = {}

    def see_base(self, base_C: torch.Tensor) -> None:
        self.seen["base"] = base_C.clone()

    def see_deltas(self, deltas_PC: torch.Tensor) -> None:
        self.seen["deltas"] = deltas_PC.clone()

    def see_chosen(self, chosen_PC: torch.Tensor) -> None:
        self.seen["chosen"] = chosen_PC.clone()

    def see_merged(self, merged_C: torch.Tensor) -> None:
        self.seen["merged"] = merged_C.clone()

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: Any) -> None:
        pytest.fail("a kernel takes no meter up again")


def merged(
    recipe: MergeRecipe, base: torch.Tensor, models: Sequence[torch.Tensor], *, step: int = 10**9, meter: Recorder | None = None
) -> torch.Tensor:
    """A tensor merged by the kernel, in chunks of `step` elements."""
    size, result = base.numel(), torch.empty(base.numel())
    run = kernel(recipe, [parent.weight for parent in recipe.parents], is_pruned=False)
    for start in range(0, size, step):
        part = slice(start, min(start + step, size))
        rows = torch.stack([model.reshape(-1)[part] for model in models])
        deltas_PC = rows - base.reshape(-1)[part] if run.takes_base else rows
        chunk = Chunk(
            base_C=base.reshape(-1)[part].clone(),
            deltas_PC=deltas_PC,
            rows=deltas_PC.unbind(),
            merged_C=torch.empty(rows.shape[1]),
            spare_C=torch.empty(rows.shape[1]),
            spare_PC=torch.empty(rows.shape),
        )
        run(chunk, meter)
        result[part] = chunk.base_C
    return result.view(base.shape)


def by_mergekit(recipe: MergeRecipe, base: torch.Tensor, models: Sequence[torch.Tensor]) -> torch.Tensor:
    """The same by mergekit's merge function, Consensus-TA by the formula that is registered with it."""
    from mergekit.merge_methods import get
    from mergekit.merge_methods.api import merge_tensors

    weights = {i + 1: parent.weight for i, parent in enumerate(recipe.parents)}
    if recipe.method == "consensus_ta":
        from sea_lion.merging.plugin import consensus

        return consensus(
            base, models, weights=list(weights.values()), tall_lambdas=[recipe.tall_lambda] * len(models),
            agreement=recipe.agreement, scale=recipe.scale, normalize=bool(recipe.normalize),
        )  # fmt: skip
    parameters: dict[str, Any] = {"weight": weights, "normalize": recipe.normalize}
    if recipe.method == "linear":
        tensors, ids, place = list(models), list(weights), None
    else:
        parameters |= {"lambda": recipe.scale}
        tensors, ids, place = [base, *models], [0, *weights], 0
    result = merge_tensors(tensors, get(recipe.method), parameters=parameters, ids=ids, base_index=place)
    assert isinstance(result, torch.Tensor)
    return result


def models_of(seed: int, count: int, shape: tuple[int, ...], dtype: torch.dtype) -> list[torch.Tensor]:
    """A base and models with equal elements, zeros of both signs and opposite differences among them, in float32."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(shape, generator=generator).to(dtype)
    models = [(base + 0.05 * torch.randn(shape, generator=generator)).to(dtype) for _ in range(count)]
    chance = torch.rand(shape, generator=generator)
    base[chance < 0.1] = 0.0
    base[chance < 0.05] = -0.0
    for model in models:
        chance = torch.rand(shape, generator=generator)
        model[chance < 0.2] = base[chance < 0.2]
        model[chance > 0.95] = 0.0
        model[chance > 0.97] = -0.0
    if count > 1:
        opposite = torch.rand(shape, generator=generator) < 0.1
        models[1][opposite] = (2 * base.float() - models[0].float()).to(dtype)[opposite]
    return [tensor.float() for tensor in (base, *models)]


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.equal(one.view(torch.int32), other.view(torch.int32))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("count", [1, 2, 3, 5, 6])
def test_bits_are_those_of_mergekit(method: str, count: int) -> None:
    for number, weights in enumerate(WEIGHTS):
        for normalize in (False, True):
            recipe = recipe_of(
                method, weights[:count], normalize=normalize, scale=1.0 if method == "linear" else (1.0, 0.3, 1.7)[number],
                tall_lambda=TALL_LAMBDA, agreement=1 + number % count,
            )  # fmt: skip
            base, *models = models_of(number, count, (37, 61), torch.bfloat16 if normalize else torch.float32)
            expected = by_mergekit(recipe, base, models)
            assert same_bits(merged(recipe, base, models), expected), (weights, normalize)
            assert same_bits(merged(recipe, base, models, step=5 * ALIGNMENT), expected), (weights, normalize)


def test_weights_that_cancel_are_not_divided_by() -> None:
    for method in ("task_arithmetic", "dare_ties", "consensus_ta"):
        recipe = recipe_of(method, (1.0, -1.0), normalize=True)
        base, *models = models_of(3, 2, (11, 13), torch.float32)
        assert same_bits(merged(recipe, base, models), by_mergekit(recipe, base, models))
    with pytest.raises(SeaLionError, match="sum to 0"):
        kernel(recipe_of("linear", (1.0, -1.0)), (1.0, -1.0), is_pruned=False)


@pytest.mark.parametrize("rows", range(1, 10))
def test_summed_has_the_bits_of_torchs_sum(rows: int) -> None:
    block = torch.randn(rows, 1003, generator=torch.Generator().manual_seed(rows))
    block[:, ::5] = -0.0
    out = torch.empty(1003)
    summed(block, block.unbind(), out)
    assert same_bits(out, block.sum(dim=0))


def test_sign_election_by_hand() -> None:
    base = torch.tensor([10.0, 10.0, 10.0])
    models = [torch.tensor([11.0, 9.0, 11.0]), torch.tensor([12.0, 13.0, 9.0])]
    # Deltas [1, -1, 1] and [2, 3, -1]: signs of the sums + + (0 counts as +): kept 1 + 2, 3, 1.
    meter = Recorder()
    assert merged(recipe_of("dare_ties", (1, 1)), base, models, meter=meter).tolist() == [13, 13, 11]
    assert meter.seen["chosen"].tolist() == [[1, 0, 1], [1, 1, 0]]
    assert meter.seen["merged"].tolist() == [3, 3, 1]
    # Divided by the weights of those that agree: 3 / 2, 3 / 1, 1 / 1.
    assert merged(recipe_of("ties", (1, 1)), base, models).tolist() == [11.5, 13, 11]


def test_consensus_tells_who_was_heard() -> None:
    base = torch.zeros(3)
    models = [torch.tensor([1.0, -1.0, 1.0]), torch.tensor([1.0, 1.0, 0.25])]
    meter = Recorder()
    assert merged(recipe_of("consensus_ta", (1, 1), tall_lambda=0.5), base, models, meter=meter).tolist() == [2, 0, 1.25]
    assert meter.seen["chosen"].tolist() == [[1, 1, 1], [1, 1, 0]]
    both = recipe_of("consensus_ta", (1, 1), tall_lambda=0.5, agreement=2)
    assert merged(both, base, models, meter=meter).tolist() == [2, 0, 0]
    assert meter.seen["chosen"].tolist() == [[1, 1, 0], [1, 1, 0]]


def test_meter_of_linear_sees_differences() -> None:
    meter = Recorder()
    base, models = torch.tensor([1.0, 2.0]), [torch.tensor([2.0, 2.0]), torch.tensor([4.0, 0.0])]
    assert merged(recipe_of("linear", (1, 1)), base, models, meter=meter).tolist() == [3, 1]
    assert meter.seen["deltas"].tolist() == [[1, 0], [3, -2]]
    assert meter.seen["merged"].tolist() == [2, -1]


VALUES = st.floats(-4, 4, width=32, allow_subnormal=False)


@given(st.data(), st.sampled_from(METHODS), st.integers(1, 6), st.integers(1, 6))
@settings(max_examples=50)
def test_merging_equal_models_is_the_identity(data: st.DataObject, method: str, count: int, size: int) -> None:
    model = torch.tensor(data.draw(st.lists(VALUES, min_size=size, max_size=size)))
    base = torch.tensor(data.draw(st.lists(VALUES, min_size=size, max_size=size)))
    recipe = recipe_of(method, [1.0] * count, normalize=True, tall_lambda=0.0)
    torch.testing.assert_close(merged(recipe, base, [model] * count), model, rtol=1e-6, atol=2e-6)
    on_itself = recipe_of(method, [0.7] * count, normalize=method in NORMALIZED)
    if method != "linear":
        assert torch.equal(merged(on_itself, model, [model] * count), model)


@given(st.data(), st.sampled_from(["ties", "dare_ties", "della"]), st.integers(1, 6))
@settings(max_examples=30)
def test_election_among_one_model_is_that_model(data: st.DataObject, method: str, size: int) -> None:
    base, model = (torch.tensor(data.draw(st.lists(VALUES, min_size=size, max_size=size))) for _ in range(2))
    expected = base + (model - base)
    assert torch.equal(merged(recipe_of(method, [1.0]), base, [model]), expected)
    assert torch.equal(merged(recipe_of("task_arithmetic", [1.0]), base, [model]), expected)


@given(st.data(), st.sampled_from(METHODS), st.integers(2, 5), st.booleans())
@settings(max_examples=50)
def test_order_of_the_parents_does_not_matter(data: st.DataObject, method: str, count: int, normalize: bool) -> None:
    """On multiples of 1/8 of moderate size every sum is exact, so that the order changes not one bit."""
    exact = st.integers(-64, 64).map(lambda number: number / 8)
    models = [torch.tensor(data.draw(st.lists(exact, min_size=8, max_size=8))) for _ in range(count + 1)]
    weights = data.draw(st.lists(st.sampled_from([0.5, 1.0, 2.0, -1.0]), min_size=count, max_size=count))
    if normalize and sum(weights) == 0:
        weights = [1.0] * count
    order = data.draw(st.permutations(range(count)))
    changes: dict[str, Any] = {"normalize": normalize, "agreement": data.draw(st.integers(1, count))}
    one = merged(recipe_of(method, weights, **changes), models[0], models[1:])
    permuted = recipe_of(method, [weights[i] for i in order], **changes)
    assert torch.equal(merged(permuted, models[0], [models[1 + i] for i in order]), one)


@given(st.data(), st.integers(1, 4))
@settings(max_examples=30)
def test_density_one_and_weight_one_reduce_as_derived(data: st.DataObject, count: int) -> None:
    """At density 1 and weight 1 della_linear is task arithmetic, dare_ties is TIES' election with the same `normalize`."""
    models = [torch.tensor(data.draw(st.lists(VALUES, min_size=8, max_size=8))) for _ in range(count + 1)]
    ones = [1.0] * count
    task = merged(recipe_of("task_arithmetic", ones), models[0], models[1:])
    for method in ("della_linear", "dare_linear"):
        assert same_bits(merged(recipe_of(method, ones), models[0], models[1:]), task)
    election = merged(recipe_of("ties", ones, normalize=False), models[0], models[1:])
    for method in ("dare_ties", "della"):
        assert same_bits(merged(recipe_of(method, ones, normalize=False), models[0], models[1:]), election)


def test_float64_agrees() -> None:
    """No error that float32 does not explain: TIES against numpy in float64."""
    base, *models = models_of(9, 3, (40, 50), torch.float32)
    result = merged(recipe_of("ties", (0.4, 1.3, 0.7)), base, models)
    weights = np.array([0.4, 1.3, 0.7]).reshape(3, 1, 1)
    deltas = np.stack([model.double().numpy() - base.double().numpy() for model in models]) * weights
    sign = np.where(deltas.sum(0) >= 0, 1, -1)
    mask = np.sign(deltas) == sign
    divisor = (weights * mask).sum(0)
    expected = base.double().numpy() + (deltas * mask).sum(0) / np.where(divisor == 0, 1, divisor)
    is_near_tie = np.abs(deltas.sum(0)) < 1e-6
    assert np.abs(result.double().numpy() - expected)[~is_near_tie].max() < 1e-6
