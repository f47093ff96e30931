"""Properties of the gate that no margin, stratum, tier or bootstrap may break."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sea_lion.eval.gate import compare
from sea_lion.eval.node_tests import Compared
from sea_lion.eval.policy import Bounds, Claim, Noise, Policy, Rule, Tiers
from sea_lion.eval.resampling import flip_p_value
from sea_lion.eval.uncertainty import Sample, estimate, tango_bounds, tango_z

from .scorecards import Rows, item_row, items

SUITE, LANGUAGE, TASK = (Bounds(tolerance=t, margin=m) for t, m in ((0.05, 0.6), (0.1, 0.8), (0.1, 0.9)))
PLAIN = Policy(name="plain", rules=tuple(Rule(metric=m, suite=SUITE, language=LANGUAGE, task=TASK) for m in ("acc", "margin")))
NOISE = {"acc": Noise(sigma_run=0.02, sigma_common=0.01, churn=0.2), "margin": Noise(sigma_run=0.02, churn=0.3)}
POLICIES = {
    "strict": PLAIN,
    "noise": replace(PLAIN, noise=NOISE),
    "auto": replace(PLAIN, noise=NOISE, margin="auto"),
    "tiers": replace(PLAIN, tiers=Tiers(items=12, alpha=0.02)),
    "claims": replace(PLAIN, claims=(Claim(metric="acc", level="suite", against="all", required=False),)),
}
COUNT = 24
"""Items of a task."""
PLACES = [("ind", "qa"), ("ind", "nli"), ("tha", "qa")]
QUICK = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def rows_of(choices: list[bool], graded: list[float], rename: dict[str, str] | None = None) -> Rows:
    """Three tasks: `acc` in two unequal strata for `nli`, `margin` graded; names of tasks and languages through `rename`."""
    names, rows = rename or {}, []
    for place, (language, task) in enumerate(PLACES):
        for i in range(COUNT):
            row = item_row("acc", language, i + 100 * place, float(choices[place * COUNT + i]), task)
            both = {"task": names.get(task, task), "language": names.get(language, language)}
            rows.append(row | both | {"stratum": ("minor" if i < 7 else "major") if task == "nli" else ""})
            rows.append(row | both | {"metric": "margin", "value": graded[place * COUNT + i]})
    return rows


def gate(policy: Policy, candidate: Rows, baseline: Rows) -> Compared:
    return compare(policy, items("new", candidate), [items("old", baseline)], "checkpoint/old@1")


CHOICES = st.lists(st.booleans(), min_size=3 * COUNT, max_size=3 * COUNT)
SEEDS = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize("name", POLICIES)
@given(seed=SEEDS, drop=st.sampled_from([0.0, 0.15, 0.3]))
@QUICK
def test_raising_any_score_never_turns_a_pass_into_a_fail(name: str, seed: int, drop: float) -> None:
    generator = np.random.default_rng(seed)
    was = generator.random(3 * COUNT) < 0.6
    now = np.where(generator.random(3 * COUNT) < drop, False, was)
    graded = generator.normal(-drop, 0.3, 3 * COUNT)
    baseline = rows_of(list(was), [0.0] * 3 * COUNT)
    before = gate(POLICIES[name], rows_of(list(now), list(graded)), baseline)
    raised, lift = (
        now | (generator.random(3 * COUNT) < 0.1),
        generator.exponential(1, 3 * COUNT) * (generator.random(3 * COUNT) < 0.1),
    )
    after = gate(POLICIES[name], rows_of(list(raised), list(graded + lift)), baseline)
    assert (before.verdict, after.verdict) != ("pass", "fail")
    if name == "tiers":  # all is resampled there: nothing that passed may even be held
        assert before.verdict != "pass" or after.verdict == "pass"


@pytest.mark.parametrize("name", POLICIES)
@given(seed=SEEDS)
@settings(max_examples=2, deadline=None)
def test_relabelling_tasks_and_languages_changes_nothing(name: str, seed: int) -> None:
    generator = np.random.default_rng(seed)
    was, now = list(generator.random(3 * COUNT) < 0.6), list(generator.random(3 * COUNT) < 0.5)
    graded = list(generator.normal(-0.1, 0.3, 3 * COUNT))
    rename = {"qa": "zz", "nli": "yy", "ind": "vie", "tha": "eng"}
    first = gate(POLICIES[name], rows_of(now, graded), rows_of(was, [0.0] * 3 * COUNT))
    second = gate(POLICIES[name], rows_of(now, graded, rename), rows_of(was, [0.0] * 3 * COUNT, rename))
    assert first.verdict == second.verdict
    for mine, other in zip(by_place(first), by_place(second, {v: k for k, v in rename.items()}), strict=True):
        assert mine[:2] == other[:2] and mine[2] == pytest.approx(other[2], abs=1e-9)


def by_place(answer: Compared, back: dict[str, str] | None = None) -> list[tuple[str, str, tuple[float, ...]]]:
    names = back or {}
    return sorted(
        (
            "/".join(names.get(part, part) for part in o.node.split("/")),
            o.verdict,
            (o.delta, o.lower, o.upper, o.p_value, o.margin),
        )
        for o in answer.outcomes
    )


@pytest.mark.parametrize("name", POLICIES)
@given(choices=CHOICES)
@settings(max_examples=2, deadline=None)
def test_identical_runs_pass(name: str, choices: list[bool]) -> None:
    rows = rows_of(choices, [0.1 * i for i in range(3 * COUNT)])
    answer = gate(POLICIES[name], rows, rows)
    assert answer.verdict == "pass" and all(outcome.delta == 0 for outcome in answer.outcomes)


@given(seed=SEEDS, clusters=st.sampled_from([1, 2, 3]), noise=st.sampled_from([0.0, 0.01]))
@settings(max_examples=25, deadline=None)
def test_bootstrap_and_flips_are_monotone_in_every_item(seed: int, clusters: int, noise: float) -> None:
    generator = np.random.default_rng(seed)
    values = [generator.normal(0, 1, 12), generator.normal(-0.3, 2, 7)]
    names = np.array([f"c{i // clusters}" for i in range(19)])
    places = [np.arange(12), np.arange(12, 19)]
    low = [Sample(differences=v, clusters=names[p], is_binary=False, weight=0.5) for v, p in zip(values, places, strict=True)]
    which, item = int(generator.integers(2)), int(generator.integers(7))
    lifted = [v.copy() for v in values]
    lifted[which][item] += generator.exponential(2)
    high = [replace(sample, differences=v) for sample, v in zip(low, lifted, strict=True)]
    before, after = (estimate(one, 0.2, 0.95, noise=noise, resample="always") for one in (low, high))
    assert before.method == "bootstrap" and after.delta > before.delta
    assert after.lower >= before.lower - 1e-12 and after.upper >= before.upper - 1e-12
    assert after.p_value >= before.p_value and after.flip_p_value >= before.flip_p_value


@pytest.mark.parametrize("noise", [1e-4, 1e-2])
def test_tango_with_noise_is_wider_and_still_monotone(noise: float) -> None:
    tables = [(wins, losses) for wins in range(13) for losses in range(13) if wins + losses <= 21]
    for wins, losses in tables:
        lower, upper = tango_bounds(wins, losses, 21, 0.95, noise)
        plain = tango_bounds(wins, losses, 21, 0.95)
        assert lower <= plain[0] + 1e-9 and upper >= plain[1] - 1e-9
        for better in ((wins + 1, losses), (wins, losses - 1), (wins + 1, losses - 1)):
            if better in tables:
                assert tango_bounds(*better, 21, 0.95, noise)[0] >= lower - 1e-9
                assert tango_z(*better, 21, -0.05, noise) >= tango_z(wins, losses, 21, -0.05, noise) - 1e-9


def test_noise_keeps_the_flip_test_from_certainty() -> None:
    values = np.full(40, -0.01 / 40)
    assert flip_p_value(values) == 0.0 and 0.1 < flip_p_value(values, noise=0.01**2) < 0.2  # one standard deviation: 0.16


def test_a_stratified_score_is_the_mean_of_its_strata_and_its_bootstrap_keeps_its_level() -> None:
    rows = rows_of([i % 24 < 7 for i in range(3 * COUNT)], [0.0] * 3 * COUNT)
    answer = gate(PLAIN, rows, rows)
    nli = next(o for o in answer.outcomes if o.node == "acc/ind/nli")
    assert nli.candidate_value == pytest.approx((1 + 0) / 2)  # and not 7 of 24
    generator, missed = np.random.default_rng(5), 0
    for _ in range(120):
        strata = [generator.choice([-1.0, 0.0, 1.0], size, p=[0.15, 0.7, 0.15]) for size in (15, 25)]
        names = iter(f"c{i}" for i in range(40))
        samples = [
            Sample(differences=v, clusters=np.array([next(names) for _ in v]), is_binary=False, weight=0.5) for v in strata
        ]
        missed += estimate(samples, 0.0, 0.95, resample="always").lower > 0
    assert 0.01 < missed / 120 < 0.11  # 5%, within three standard errors and what a percentile bootstrap is off by


def test_a_stratum_of_one_item_joins_another() -> None:
    rows = rows_of([True] * 3 * COUNT, [0.0] * 3 * COUNT)
    lone = [
        row | {"stratum": f"s{i % COUNT}"} if row["task"] == "nli" and row["metric"] == "acc" else row
        for i, row in enumerate(rows)
    ]
    assert gate(PLAIN, lone, lone).verdict == "pass"
    one = [row | {"stratum": "lone"} if row["item"] == "ind-100" and row["metric"] == "acc" else row for row in rows]
    assert gate(PLAIN, one, one).verdict == "pass"


def test_auto_margins_come_from_the_declared_churn_and_are_told() -> None:
    rows = rows_of([True] * 3 * COUNT, [0.0] * 3 * COUNT)
    answer = gate(POLICIES["auto"], rows, rows)
    task = next(o for o in answer.outcomes if o.node == "acc/ind/qa")
    assert task.margin == pytest.approx(max(0.9, 4.5 * np.sqrt(0.2 / COUNT + 2 * (0.02**2 + 0.01**2))))
    narrow = Bounds(tolerance=0.0, margin=0.01)
    policy = replace(POLICIES["auto"], rules=(Rule(metric="acc", suite=narrow, task=narrow),))
    answer = gate(policy, rows, rows)
    task = next(o for o in answer.outcomes if o.node == "acc/ind/qa")
    assert task.margin == pytest.approx(4.5 * np.sqrt(0.2 / COUNT + 2 * (0.02**2 + 0.01**2)))
    tiered = replace(policy, tiers=Tiers(items=12, alpha=0.02))
    margins = {o.node: o.margin for o in answer.outcomes}
    first_tier_only = gate(tiered, rows, rows)
    assert first_tier_only.notes[0].startswith("decided by tier 1")
    assert {o.node: o.margin for o in first_tier_only.outcomes} == margins  # those of all items, not of the part
    assert any("effective margins (auto): acc suite" in note for note in answer.notes)
    assert any("no run noise" in note for note in gate(PLAIN, rows, rows).notes)


def test_the_first_tier_settles_what_it_can_and_needs_no_more_than_its_own_items() -> None:
    policy = Policy(name="x", rules=(Rule(metric="acc", suite=Bounds(tolerance=0.0, margin=0.2)),), tiers=Tiers(items=20))
    good = [item_row("acc", "tha", i, 1.0, "qa") for i in range(60)]
    bad = [row | {"value": 0.0} for row in good]
    assert gate(policy, bad, good).verdict == "fail" and "tier 1" in gate(policy, bad, good).notes[0]
    mixed = [row | {"value": float(i % 5 > 0)} for i, row in enumerate(good)]  # one in five lost: too few to be sure at 1%
    assert gate(policy, mixed, good).notes[0].startswith("decided by all items") == (gate_first(policy, mixed, good) == "hold")
    few = [row for row, keep in zip(good, first(good, 20), strict=True) if keep]
    part = items("new", few)
    part = replace(part, card=replace(part.card, settings={"tier": "20"}))
    answer = compare(policy, part, [items("old", good)], "")
    assert answer.verdict == "pass" and answer.outcomes[0].items == 20
    assert compare(policy, items("new", few), [items("old", good)], "").verdict == "error"
    wrong = compare(replace(policy, tiers=Tiers(items=30)), part, [items("old", good)], "")
    assert wrong.verdict == "error" and "first tier of 20" in wrong.reason
    held = items("new", [row | {"value": float(i % 5 > 0)} for i, row in enumerate(few)])
    held = replace(held, card=replace(held.card, settings={"tier": "20"}))
    answer = compare(policy, held, [items("old", good)], "")
    assert answer.verdict == "hold" and "the second tier needs" in answer.notes[0]


def gate_first(policy: Policy, candidate: Rows, baseline: Rows) -> str:
    """The verdict of the first tier alone: as a policy without tiers, on its items, at its part of the error rate."""
    assert policy.tiers
    keep = first(baseline, policy.tiers.items)
    part = [[row for row, kept in zip(rows, keep, strict=True) if kept] for rows in (candidate, baseline)]
    return gate(replace(policy, tiers=None, alpha=policy.tiers.alpha), *part).verdict


def first(rows: Rows, count: int) -> list[bool]:
    from sea_lion.eval.tiers import first_tier

    return [bool(taken) for taken in first_tier([row["cluster"] for row in rows], [""] * len(rows), count)]
