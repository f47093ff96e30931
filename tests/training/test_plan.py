"""The index plan: exact counts, small deviations, and what edits do to it."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sea_lion.training.plan import BLOCK, IndexPlan, divided

counts = st.lists(st.integers(0, 900), min_size=1, max_size=6).filter(any)


def every(plan: IndexPlan) -> list[tuple[int, int]]:
    """Part and window of all samples, skipped ones too."""
    parts, windows = plan.located(np.arange(plan.samples))
    return list(zip(parts.tolist(), windows.tolist(), strict=True))


def of_step(plan: IndexPlan, step: int) -> list[tuple[int, int]]:
    parts, windows = plan.located(plan.step_samples(step))
    return list(zip(parts.tolist(), windows.tolist(), strict=True))


@given(counts=counts, seed=st.integers(-5, 5))
def test_each_part_has_its_windows_once_and_in_order(counts: list[int], seed: int) -> None:
    found = every(IndexPlan(counts, 7, seed))
    for part, count in enumerate(counts):
        assert [window for each, window in found if each == part] == list(range(count))


@settings(max_examples=30)
@given(counts=st.lists(st.integers(1, 3000), min_size=1, max_size=6), seed=st.integers(0, 5))
def test_every_prefix_is_near_the_mixture(counts: list[int], seed: int) -> None:
    plan = IndexPlan(counts, 7, seed)
    parts, _ = plan.located(np.arange(plan.samples))
    for part, count in enumerate(counts):
        share = count / plan.samples
        seen = np.cumsum(parts == part)
        deviation = np.abs(seen - share * np.arange(1, plan.samples + 1)).max()
        assert deviation <= 1.5 + 1.5 * share * len(counts)
        assert seen[-1] == count


@given(counts=counts, data=st.data())
def test_windows_before_a_sample_are_those_of_the_samples_before_it(counts: list[int], data: st.DataObject) -> None:
    drops = {data.draw(st.integers(1, 20)): {0}} if any(counts[1:]) else {}
    plan = IndexPlan(counts, data.draw(st.integers(1, 60)), 3, drops=drops)
    sample = data.draw(st.integers(0, plan.samples))
    found = [part for part, _ in every(plan)[:sample]]
    assert plan.windows_before(sample).tolist() == [found.count(part) for part in range(len(counts))]


def test_a_seed_is_an_order_and_any_samples_can_be_asked_for() -> None:
    plan, other = IndexPlan([3000, 500], 8, 1), IndexPlan([3000, 500], 8, 2)
    assert every(plan) != every(other)
    some = np.array([3499, 0, BLOCK, BLOCK - 1, 17, 2 * BLOCK + 5])
    parts, windows = plan.located(some)
    assert list(zip(parts.tolist(), windows.tolist(), strict=True)) == [every(plan)[i] for i in some]


def test_skipped_steps_have_no_samples_and_the_others_keep_theirs() -> None:
    whole, edited = IndexPlan([40, 21], 4, 5), IndexPlan([40, 21], 4, 5, skips=[(9, 9), (3, 4), (4, 5)])
    assert whole.steps == edited.steps == 16
    for step in range(1, 17):
        assert of_step(edited, step) == ([] if step in (3, 4, 5, 9) else of_step(whole, step))
    assert len(of_step(whole, 16)) == 1
    for first in range(1, 17):
        for last in range(first, 17):
            samples = [sample for step in range(first, last + 1) for sample in of_step(edited, step)]
            spans = edited.spans(first, last)
            found = [(part, w) for low, high in spans for part in (0, 1) for w in range(low[part], high[part])]
            assert sorted(found) == sorted(samples)


def test_dropped_parts_are_replaced_in_proportion_each_from_its_next_window() -> None:
    whole, edited = IndexPlan([300, 200, 100, 0], 10, 5), IndexPlan([300, 200, 100, 0], 10, 5, drops={31: {0}, 46: [0, 2]})
    assert every(edited)[:300] == every(whole)[:300]
    middle, end = every(edited)[300:450], every(edited)[450:]
    assert [sum(part == each for part, _ in middle) for each in range(4)] == pytest.approx([0, 100, 50, 0], abs=3)
    assert {part for part, _ in end} == {1}
    for part in (1, 2):
        windows = [window for each, window in every(edited) if each == part]
        assert windows == list(range(len(windows)))
    assert len(every(edited)) == 600


def test_nothing_left_to_read_is_refused() -> None:
    with pytest.raises(ValueError, match="no part is left"):
        IndexPlan([5, 5], 2, 0, drops={2: {0}, 3: {1}})


@given(total=st.integers(0, 500), weights=st.lists(st.integers(0, 50), min_size=1, max_size=5).filter(any))
def test_a_division_is_exact_and_within_one(total: int, weights: list[int]) -> None:
    shares = divided(total, np.array(weights)).tolist()
    assert sum(shares) == total
    assert all(abs(share - Fraction(total * weight, sum(weights))) < 1 for share, weight in zip(shares, weights, strict=True))


edits = st.fixed_dictionaries(
    {
        "skips": st.lists(st.tuples(st.integers(1, 12), st.integers(0, 4)).map(lambda e: (e[0], e[0] + e[1])), max_size=2),
        "drops": st.dictionaries(st.integers(1, 14), st.sets(st.integers(1, 2), min_size=1), max_size=2),
    }
)


@given(one=edits, two=edits, step=st.integers(0, 12))
def test_plans_of_one_identity_have_the_same_steps(one: dict, two: dict, step: int) -> None:  # type: ignore[type-arg]
    a, b = IndexPlan([30, 20, 9], 5, 1, **one), IndexPlan([30, 20, 9], 5, 1, **two)
    if a.identity(step) == b.identity(step):
        assert [of_step(a, each) for each in range(1, step + 1)] == [of_step(b, each) for each in range(1, step + 1)]
    plain = IndexPlan([30, 20, 9], 5, 1)
    begin = min([first for first, _ in one["skips"]] + list(one["drops"]) + [99])
    assert (a.identity(step) == plain.identity(step)) == (begin > step)


def test_everything_that_decides_samples_is_in_the_identity() -> None:
    plans = [IndexPlan([30, 20], 5, 1), IndexPlan([30, 21], 5, 1), IndexPlan([30, 20], 6, 1), IndexPlan([30, 20], 5, 2)]
    assert len({str(plan.identity(1)) for plan in plans}) == len(plans)


def test_a_large_plan_is_small() -> None:
    plan = IndexPlan([11_000_000, 7_000_000, 6_400_000, 14_063], 2048, 0)
    assert plan.steps == 11_921
    parts, windows = plan.located(plan.step_samples(11_000))
    before, after = plan.windows_before(10_999 * 2048), plan.windows_before(11_000 * 2048)
    for part in range(4):
        assert windows[parts == part].tolist() == list(range(before[part], after[part]))
    assert sum(segment.offsets.nbytes for segment in plan._segments) < 1_000_000
