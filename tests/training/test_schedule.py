"""The schedule's closed form."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sea_lion.training.recipe import Schedule
from sea_lion.training.schedule import learning_rate, phase_steps

shares = st.floats(0.01, 0.45)


@given(steps=st.integers(2, 2000), warmup=shares, decay=shares, floor=st.floats(0, 1), peak=st.floats(1e-8, 1))
def test_peak_and_floor_are_exact_and_slopes_are_straight(
    steps: int, warmup: float, decay: float, floor: float, peak: float
) -> None:
    schedule = Schedule(warmup=warmup, decay=decay, floor=floor)
    lrs = [learning_rate(step, steps, peak, schedule) for step in range(1, steps + 1)]
    rise, fall = phase_steps(steps, schedule)
    assert lrs[-1] == peak * floor
    assert lrs[rise - 1] == peak
    assert all(lr == peak for lr in lrs[rise - 1 : steps - fall])
    for s in range(rise):
        assert math.isclose(lrs[s], peak * (s + 1) / rise)
    for s in range(fall):
        assert math.isclose(lrs[steps - fall + s], peak - (peak - floor * peak) * (s + 1) / fall, abs_tol=1e-15 * peak)


def test_the_papers_run_has_its_phases() -> None:
    assert phase_steps(1000, Schedule()) == (100, 100)
    assert learning_rate(1, 1000, 1e-5, Schedule()) == pytest.approx(1e-7)
    assert learning_rate(1000, 1000, 1e-5, Schedule()) == pytest.approx(1e-7, rel=1e-15)


def test_without_warmup_and_decay_the_rate_is_constant() -> None:
    flat = Schedule(warmup=0.0, decay=0.0)
    assert {learning_rate(step, 7, 0.5, flat) for step in range(1, 8)} == {0.5}


@pytest.mark.parametrize("step", [0, 11])
def test_a_step_outside_of_the_run_is_refused(step: int) -> None:
    with pytest.raises(ValueError, match="not one of 1 to 10"):
        learning_rate(step, 10, 1.0, Schedule())


def test_the_paper_by_hand() -> None:
    """47,684 steps, 1e-5 to 1e-7: every corner, from the formula in the documentation."""
    steps, peak, schedule = 47_684, 1e-5, Schedule(floor=0.01)
    assert phase_steps(steps, schedule) == (4768, 4768)
    by_hand = {
        1: peak / 4768,
        4767: peak * 4767 / 4768,
        4768: peak,
        4769: peak,
        42_916: peak,  # the last before the decay
        42_917: peak - (peak - 1e-7) / 4768,
        47_683: 1e-7 + (peak - 1e-7) / 4768,
        47_684: 1e-7,
    }
    for step, lr in by_hand.items():
        assert learning_rate(step, steps, peak, schedule) == pytest.approx(lr, rel=1e-12), step
    assert learning_rate(47_684, steps, peak, schedule) == peak * 0.01


@pytest.mark.parametrize(("steps", "phases"), [(1, (0, 1)), (2, (1, 1)), (3, (1, 1)), (20, (2, 2))])
def test_short_runs_still_warm_up_and_decay(steps: int, phases: tuple[int, int]) -> None:
    assert phase_steps(steps, Schedule()) == phases
    assert learning_rate(steps, steps, 1.0, Schedule()) == 0.01


def test_cosine_and_constant() -> None:
    cosine, constant = Schedule(form="cosine", floor=0.1), Schedule(form="constant")
    assert phase_steps(100, cosine) == (10, 90)
    assert learning_rate(10, 100, 1.0, cosine) == 1.0
    assert learning_rate(55, 100, 1.0, cosine) == pytest.approx(0.55)
    assert learning_rate(100, 100, 1.0, cosine) == pytest.approx(0.1, rel=1e-12)
    assert learning_rate(5, 100, 1.0, constant) == 0.5
    assert {learning_rate(step, 100, 1.0, constant) for step in range(10, 101)} == {1.0}
