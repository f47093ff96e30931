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
