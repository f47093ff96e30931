"""The gate: verdicts on synthetic scorecards, and properties that must always hold."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sea_lion.eval.gate import compare
from sea_lion.eval.node_tests import Compared
from sea_lion.eval.policy import Bounds, Floor, Policy, Rule, read_policy

from .scorecards import BASE, POLICIES, Rows, changed, item_row, items


def gate(policy: str | Policy, candidate: Rows, baseline: Rows) -> Compared:
    read = read_policy(POLICIES / f"{policy}.toml") if isinstance(policy, str) else policy
    return compare(read, items("new", candidate), [items("old", baseline)], "checkpoint/old@1")


def test_a_real_improvement_passes_the_policy_of_continued_pre_training() -> None:
    better = changed(BASE, 1, bits_per_byte=-0.3, acc=0.05, margin=0.1)
    answer = gate("cpt", better, BASE)
    assert answer.verdict == "pass", answer.reason
    assert "all" in answer.reason and "passed" in answer.reason
    worst = min((o for o in answer.outcomes if o.metric == "bits_per_byte" and o.baseline), key=lambda o: o.lower)
    assert worst.lower > 0 and worst.delta == pytest.approx(worst.baseline_value - worst.candidate_value)


def test_continued_pre_training_that_improves_all_but_one_language_is_not_promoted() -> None:
    answer = gate("cpt", changed(BASE, 1, bits_per_byte=-0.3, bits_per_byte_khm=0.3), BASE)
    held = {outcome.node for outcome in answer.outcomes if outcome.verdict != "pass"}
    assert answer.verdict == "hold" and held == {"bits_per_byte/khm"}
    assert "bits_per_byte/khm" in answer.reason


@pytest.mark.parametrize("policy", ["instruct", "merge", "align", "final"])
def test_identical_models_pass_every_policy_without_a_claim(policy: str) -> None:
    assert gate(policy, BASE, BASE).verdict == "pass"


def test_identical_models_do_not_pass_a_claim_of_improvement() -> None:
    assert gate("cpt", BASE, BASE).verdict == "hold"


@pytest.mark.parametrize(
    "shift,node",
    [
        ({"acc": -0.12}, "acc"),
        ({"acc_tam": -0.45, "churn": 0.5}, "acc/tam"),
        ({"margin": -0.3}, "margin"),
        ({"margin_tam": -1.5}, "margin/tam"),
        ({"bits_per_byte": 0.4}, "bits_per_byte"),
        ({"bits_per_byte_tam": 0.6}, "bits_per_byte/tam"),
    ],
)
def test_a_real_drop_fails_where_it_is(shift: dict[str, float], node: str) -> None:
    answer = gate("merge", changed(BASE, 2, **shift), BASE)
    assert answer.verdict == "fail"
    assert node in {outcome.node for outcome in answer.outcomes if outcome.verdict == "fail"}
    assert node in answer.reason and "p " in answer.reason


def test_a_drop_hidden_in_a_better_mean_is_found() -> None:
    answer = gate("merge", changed(BASE, 3, bits_per_byte=-0.1, bits_per_byte_tam=0.6), BASE)
    by_node = {outcome.node: outcome.verdict for outcome in answer.outcomes if outcome.baseline}
    assert answer.verdict == "fail" and by_node["bits_per_byte"] == "pass" and by_node["bits_per_byte/tam"] == "fail"


def test_the_tax_of_an_instruction_stage_is_not_a_merge_s() -> None:
    dearer, much_dearer = changed(BASE, 4, bits_per_byte=0.09), changed(BASE, 4, bits_per_byte=0.18)
    assert gate("merge", dearer, BASE).verdict == "fail"
    assert gate("instruct", dearer, BASE).verdict == "pass"
    assert gate("instruct", much_dearer, BASE).verdict == "fail"
    assert gate("align", much_dearer, BASE).verdict == "pass"


def test_too_much_change_without_direction_is_held() -> None:
    answer = gate("merge", changed(BASE, 5, churn=0.5, nats=2.5), BASE)
    assert answer.verdict == "hold" and "not enough evidence" in answer.reason


def test_floors_speak_of_the_candidate_alone() -> None:
    unknowing = [row | {"value": 8.6 if row["metric"] == "bits_per_byte" else row["value"]} for row in changed(BASE, 6)]
    answer = compare(read_policy(POLICIES / "base.toml"), items("new", unknowing), [], "")
    assert answer.verdict == "fail"
    outcome = answer.outcomes[0]
    assert (outcome.level, outcome.baseline, outcome.node, outcome.baseline_value) == ("floor", "", "bits_per_byte", 8.0)
    assert "8.600 for a floor of 8" in answer.reason
    assert compare(read_policy(POLICIES / "base.toml"), items("new", BASE), [], "").verdict == "pass"


def test_a_floor_missed_within_the_error_holds() -> None:
    floor = Policy(name="x", floors=(Floor(metric="acc", level="suite", value=0.25),))
    rows = [row for row in BASE if row["metric"] == "acc"]
    just_below = [row | {"value": float(i % 4 == 0 and i > 4)} for i, row in enumerate(rows)]
    assert compare(floor, items("new", just_below), [], "").verdict == "hold"


def test_a_language_with_one_task_is_one_test_and_one_with_two_is_three() -> None:
    rows = [item_row("acc", "tha", i, float(i % 2), "a") for i in range(20)]
    rows += [item_row("acc", "tha", i, float(i % 3 == 0), "b") for i in range(20, 50)]
    rows += [item_row("acc", "lao", i, float(i % 2), "a") for i in range(20)]
    bounds = Bounds(tolerance=0.1, margin=0.5)
    policy = Policy(name="x", rules=(Rule(metric="acc", suite=bounds, language=bounds, task=bounds),))
    answer = gate(policy, rows, rows)
    assert [o.node for o in answer.outcomes] == ["acc", "acc/lao", "acc/tha", "acc/tha/a", "acc/tha/b"]
    suite, tha = answer.outcomes[0], answer.outcomes[2]
    assert tha.candidate_value == pytest.approx((0.5 + 1 / 3) / 2)  # plain mean of tasks, not of items
    assert suite.candidate_value == pytest.approx((0.5 + tha.candidate_value) / 2)
    alone = [row for row in rows if row["language"] == "lao"]
    assert [o.node for o in gate(policy, alone, alone).outcomes] == ["acc"]


def test_every_baseline_counts_and_a_rule_may_be_the_parent_s_alone() -> None:
    worse, policy = changed(BASE, 7, margin=-0.5), read_policy(POLICIES / "merge.toml")
    answer = compare(policy, items("new", worse), [items("same", worse), items("old", BASE)], "checkpoint/same@1")
    assert answer.verdict == "fail"
    assert {o.baseline for o in answer.outcomes if o.verdict == "fail"} == {"checkpoint/old@1"}
    parent_only = replace(policy, rules=tuple(replace(rule, against="parent") for rule in policy.rules))
    answer = compare(parent_only, items("new", worse), [items("same", worse), items("old", BASE)], "checkpoint/same@1")
    assert answer.verdict == "pass" and {o.baseline for o in answer.outcomes} == {"checkpoint/same@1", ""}


def test_prompts_may_differ_only_where_the_policy_says_so() -> None:
    policy = read_policy(POLICIES / "merge.toml")
    other = items("old", [row | {"prompt_hash": "chat"} for row in BASE])
    assert compare(policy, items("new", BASE), [other], "").verdict == "error"
    other = replace(other, card=replace(other.card, suite_fingerprint="chat"))
    assert compare(replace(policy, same_prompts=False), items("new", BASE), [other], "").verdict == "pass"


def test_a_metric_that_nobody_measured_or_a_single_cluster_is_an_error() -> None:
    bounds = Bounds(tolerance=0.1, margin=0.5)
    policy = Policy(name="x", rules=(Rule(metric="chrf", suite=bounds),))
    assert "'chrf'" in gate(policy, BASE, BASE).reason
    one = [row | {"cluster": "one"} for row in BASE if row["metric"] == "acc"]
    answer = gate(Policy(name="x", rules=(Rule(metric="acc", suite=bounds),)), one, one)
    assert answer.verdict == "error" and "one cluster" in answer.reason


SMALL = Policy(
    name="small",
    rules=(
        Rule(metric="margin", suite=Bounds(tolerance=0.1, margin=4.0), language=Bounds(tolerance=0.2, margin=6.0)),
        Rule(metric="acc", suite=Bounds(tolerance=0.05, margin=0.8), language=Bounds(tolerance=0.05, margin=0.9)),
    ),
    floors=(Floor(metric="acc", level="suite", value=0.2), Floor(metric="margin", level="language", value=-3.0)),
)
ITEM_COUNT = 8
GRADED = st.lists(st.sampled_from((-6.0, -3.0, -2.0, -1.5, -1.3, -1.2, -1.1, -1.0)), min_size=16, max_size=16)
CHOICES = st.lists(st.booleans(), min_size=16, max_size=16)


def small_rows(graded: list[float], choices: list[bool]) -> Rows:
    places = [(language, i) for language in ("lao", "tha") for i in range(ITEM_COUNT)]
    rows = [item_row("margin", *place, value) for place, value in zip(places, graded, strict=True)]
    return rows + [item_row("acc", *place, float(value)) for place, value in zip(places, choices, strict=True)]


@given(graded=GRADED, choices=CHOICES, was=CHOICES, raised=CHOICES, lifts=st.lists(st.floats(0, 6), min_size=16, max_size=16))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_raising_a_score_never_turns_a_pass_into_a_fail(
    graded: list[float], choices: list[bool], was: list[bool], raised: list[bool], lifts: list[float]
) -> None:
    baseline = small_rows([-1.0] * 16, was)
    before = gate(SMALL, small_rows(graded, choices), baseline)
    lifted = [value + lift for value, lift in zip(graded, lifts, strict=True)]
    after = gate(SMALL, small_rows(lifted, [a or b for a, b in zip(choices, raised, strict=True)]), baseline)
    assert (before.verdict, after.verdict) != ("pass", "fail")


@given(lift_to=st.floats(-1.6, -1.0), outlier=st.floats(-9, -1.5), drop=st.floats(-1.5, -1.1))
@settings(max_examples=100, deadline=None)
def test_lifting_a_low_outlier_never_turns_a_pass_into_a_fail(lift_to: float, outlier: float, drop: float) -> None:
    """The case that defeats a t test by itself."""
    baseline, choices = small_rows([-1.0] * 16, [True] * 16), [True] * 16
    low = [drop] * 7 + [outlier] + [drop] * 7 + [outlier]
    lifted = [max(value, lift_to) for value in low]
    before, after = gate(SMALL, small_rows(low, choices), baseline), gate(SMALL, small_rows(lifted, choices), baseline)
    assert (before.verdict, after.verdict) != ("pass", "fail")


@given(graded=GRADED, choices=CHOICES, tolerance=st.floats(0, 0.3))
@settings(max_examples=60, deadline=None)
def test_identical_models_never_fail_against_each_other(graded: list[float], choices: list[bool], tolerance: float) -> None:
    rows = small_rows(graded, choices)
    bounds = Bounds(tolerance=tolerance, margin=0.5)
    policy = Policy(name="x", rules=tuple(Rule(metric=m, suite=bounds, language=bounds) for m in ("margin", "acc")))
    answer = gate(policy, rows, rows)
    assert answer.verdict in ("pass", "hold") and all(outcome.delta == 0 for outcome in answer.outcomes)


@given(seed=st.integers(0, 1000), order=st.randoms(use_true_random=False))
@settings(max_examples=6, deadline=None)
def test_the_verdict_is_deterministic_and_blind_to_the_order_of_items(seed: int, order: random.Random) -> None:
    candidate = changed(BASE, seed, margin=-0.1, bits_per_byte=0.05)
    shuffled = list(candidate)
    order.shuffle(shuffled)
    assert gate("merge", candidate, BASE) == gate("merge", shuffled, BASE)
