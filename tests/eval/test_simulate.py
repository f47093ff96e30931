"""The gate's operating characteristics, by the real code: few decisions here, thousands in the benchmark."""

from __future__ import annotations

import argparse
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sea_lion.catalog.errors import SeaLionError
from sea_lion.eval.noise import NoNoiseFloor, as_toml, noise_floor
from sea_lion.eval.objective import Objective
from sea_lion.eval.policy import Noise, Policy, read_policy
from sea_lion.eval.simulate import SCENARIOS, Scenario, simulate, simulated
from sea_lion.eval.simulation_flags import add_simulate

from .scorecards import POLICIES, Rows, item_row, items

GRADE = read_policy(POLICIES / "leaderboard-grade.toml")
# Measured once with a prototype of the same rules: share that fails, 5 languages of 4 tasks, churn 15%.
FACTS = {
    ("no change", 500): 0.02,
    ("one language -5", 250): 0.89,
    ("one language -3", 500): 0.67,
    ("one task -5", 1000): 0.72,
    ("all tasks -1", 500): 0.57,
}


def scenario(name: str) -> Scenario:
    return next(one for one in SCENARIOS if one.name == name)


@pytest.mark.parametrize("name,items_per_task", FACTS)
def test_false_alarms_and_power_are_those_of_the_facts(name: str, items_per_task: int) -> None:
    decisions, fact = 120, FACTS[name, items_per_task]
    found = simulate(GRADE, [items_per_task], churn=0.15, scenarios=[scenario(name)], replications=decisions, seed=7)[0]
    # Two points, and three standard errors of so few decisions.
    allowed = 0.02 + 3 * math.sqrt(fact * (1 - fact) / decisions)
    assert abs(found.failed - fact) <= allowed
    assert found.failed + found.held + found.passed == pytest.approx(1)


def test_run_noise_raises_alarms_that_a_noise_floor_prevents() -> None:
    noise = Noise(sigma_run=0.01, sigma_common=0.004)
    null = [scenario("no change")]
    blind = simulate(GRADE, [1000], churn=0.15, scenarios=null, replications=60, noise=noise)[0]
    knowing = Policy(name="x", rules=GRADE.rules, split=GRADE.split, noise={"score": noise})
    aware = simulate(knowing, [1000], churn=0.15, scenarios=null, replications=60, noise=noise)[0]
    assert blind.failed > 0.2 and aware.failed <= 0.1


def test_the_same_seed_gives_the_same_figures_whatever_else_is_asked() -> None:
    both = simulate(GRADE, [50, 100], churn=0.3, scenarios=SCENARIOS[:2], replications=20, seed=3)
    alone = simulate(GRADE, [50, 100], churn=0.3, scenarios=SCENARIOS[1:2], replications=20, seed=3)
    assert both[1] == alone[0] and alone[0].error() > 0
    with pytest.raises(ValueError, match="churn"):
        simulate(GRADE, [50], churn=0.0)


def test_built_in_policies_can_be_simulated_by_name() -> None:
    parser = argparse.ArgumentParser()
    add_simulate(parser)
    text = simulated(parser.parse_args(["leaderboard-auto", "--items", "60,300", "--churn", "0.1", "--replications", "1"]))
    lines = text.splitlines()
    assert lines[0].startswith("policy leaderboard-auto: 5 languages of 4 tasks, 60/300 items each")
    assert [line[:28].strip() for line in lines[2:]] == [one.name for one in SCENARIOS]
    text = simulated(parser.parse_args([str(POLICIES / "merge.toml"), "--items", "12", "--tasks", "a", "--replications", "1"]))
    assert text.startswith("policy merge")


def noisy(seed: int, sigma_run: float, sigma_common: float, tasks: int = 12, count: int = 300) -> Rows:
    """A run of a model whose graded scores move by run noise."""
    generator = np.random.default_rng(seed)
    common = generator.normal(0, sigma_common)
    rows = []
    for task in range(tasks):
        shift = common + generator.normal(0, sigma_run)
        rows += [
            item_row("margin", "tha", i + 1000 * task, v, f"t{task}") for i, v in enumerate(generator.normal(shift, 0.3, count))
        ]
    return rows


def test_the_noise_floor_finds_the_noise_that_was_put_in(tmp_path: Path) -> None:
    runs = [items(f"r{seed}", noisy(seed, 0.1, 0.05)) for seed in range(8)]
    found = noise_floor(runs)
    assert set(found) == {"margin", "score"} and found["margin"] == found["score"]
    assert found["margin"].sigma_run == pytest.approx(0.1, rel=0.25)
    assert found["margin"].sigma_common == pytest.approx(0.05, abs=0.04)
    assert found["margin"].churn == pytest.approx(2 * (0.3**2 + 0.1**2 + 0.05**2), rel=0.1)
    path = tmp_path / "p.toml"
    path.write_text('name = "x"\n[[floors]]\nmetric = "acc"\nlevel = "suite"\nvalue = 0.1\n' + as_toml(found), "utf-8")
    assert read_policy(path).noise == found
    quiet = noise_floor([items(f"q{seed}", noisy(seed, 0.0, 0.0)) for seed in range(5)])["margin"]
    assert quiet.sigma_run < 0.012 and quiet.sigma_common < 0.012  # the items' own error is not noise


def test_a_noise_floor_needs_three_comparable_scorecards() -> None:
    runs = [items(f"r{seed}", noisy(seed, 0.1, 0.0, tasks=1, count=20)) for seed in range(3)]
    with pytest.raises(NoNoiseFloor, match="at least 3"):
        noise_floor(runs[:2])
    with pytest.raises(NoNoiseFloor, match="lacks"):
        noise_floor([*runs[:2], items("r9", noisy(9, 0.1, 0.0, tasks=2, count=20))])
    assert noise_floor(runs)["margin"].sigma_common == 0
    with pytest.raises(NoNoiseFloor, match="scorecard/r0@1 is named twice: a run does not differ from itself"):
        noise_floor([runs[0], runs[1], runs[0]])
    limited = replace(runs[0], card=replace(runs[0].card, limit=5))
    with pytest.raises(NoNoiseFloor, match="limit of 5 items"):
        noise_floor([limited, *runs[1:]])


@pytest.mark.parametrize(
    "flags,said",
    [
        (["--items", "1"], "every task needs two items"),
        (["--churn", "2"], "churn must be above 0 and at most 1"),
        (["--replications", "0"], "replications must be at least 1"),
        (["--seed", "-1"], "the seed at least 0"),
        (["--languages", "ind,ind"], "languages must be named, each once, not 'ind,ind'"),
        (["--tasks", ""], "tasks must be named"),
        (["--sigma-run", "-1"], "at least 0"),
        (
            ["--languages", "eng", "--replications", "1"],
            "simulated are the languages eng and the tasks causal,nli,qa,sentiment",
        ),
    ],
)
def test_flags_that_cannot_be_simulated_are_one_line(tmp_path: Path, flags: list[str], said: str) -> None:
    policy = tmp_path / "tha.toml"
    policy.write_text(
        'name = "tha"\n[[rules]]\nmetric = "acc"\nlanguages = ["tha"]\nsuite = { tolerance = 0.1, margin = 0.2 }\n'
    )
    parser = argparse.ArgumentParser()
    add_simulate(parser)
    with pytest.raises(SeaLionError, match=re.escape(said)):
        simulated(parser.parse_args([str(policy), *flags]))


def test_rules_against_the_last_and_the_best_model_are_simulated_too() -> None:
    rule = GRADE.rules[0]
    best = Policy(name="x", rules=(replace(rule, against="best"),), objective=Objective(metric="f1", min_gain=-0.5))
    found = simulate(best, [100], churn=0.1, scenarios=[scenario("all tasks -2")], replications=4)[0]
    assert found.failed + found.held > 0.5
