"""Policies: strictly read, and the built-in ones say what they must."""

from __future__ import annotations

from pathlib import Path

import pytest

from sea_lion.catalog.errors import RecipeError
from sea_lion.catalog.fingerprint import fingerprint
from sea_lion.eval.policy import Bounds, Claim, Floor, Noise, Policy, Rule, Split, check_names, read_policy

POLICIES = Path(__file__).parents[2] / "eval" / "policies"
BUILT_IN = ("base", "cpt", "instruct", "merge", "align", "final", "leaderboard-grade", "leaderboard-auto")
BOUNDS = Bounds(tolerance=0.1, margin=0.2)
RULE = """
[[rules]]
metric = "acc"
suite = { tolerance = 0.02, margin = 0.06 }
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "policy.toml"
    path.write_text(text, "utf-8")
    return path


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_policies_are_read_and_named_by_their_file(name: str) -> None:
    policy = read_policy(POLICIES / f"{name}.toml")
    assert policy.name == name
    assert policy.alpha == 0.05 and policy.waivers == ()


def test_every_policy_file_is_tested_here() -> None:
    assert {path.stem for path in POLICIES.glob("*.toml")} == set(BUILT_IN)


def test_continued_pre_training_must_improve_bits_per_byte_against_its_parent() -> None:
    rule = next(rule for rule in read_policy(POLICIES / "cpt.toml").rules if rule.metric == "bits_per_byte")
    assert rule.against == "parent"
    assert rule.suite and rule.suite.improve and rule.language and rule.language.improve


def test_only_stages_that_teach_something_else_may_cost_bits_per_byte() -> None:
    def margin(name: str) -> float:
        rule = next(rule for rule in read_policy(POLICIES / f"{name}.toml").rules if rule.metric == "bits_per_byte")
        assert rule.suite
        return rule.suite.margin

    assert margin("cpt") == 0 < margin("merge") == margin("final") < margin("instruct") < margin("align")


@pytest.mark.parametrize(
    "text,key,problem",
    [
        ('name = "x"\nalfa = 0.1' + RULE, "alfa", "did you mean 'alpha'"),
        ('name = "x"' + RULE.replace("margin", "margn"), "rules.0.suite.margn", "did you mean 'margin'"),
        ('name = "x"' + RULE.replace("0.06", "0.01"), "rules.0.suite", "at least the tolerance"),
        ('name = "x"' + RULE.replace("margin = 0.06", "improve = true, margin = 0.06"), "rules.0.suite", "no margin"),
        ('name = "x"' + RULE.replace("0.02", "-0.02"), "rules.0.suite", "at least 0"),
        ('name = "x"' + RULE + RULE, "(file)", "two rules"),
        ('name = "x"', "(file)", "let everything pass"),
        ('name = "x"\n[[rules]]\nmetric = "acc"', "rules.0", "at least one of suite, language and task"),
        ('name = "x"\non_refusal = "carry-on"' + RULE, "on_refusal", "stop"),
        ('name = "x"\nalpha = 0.7' + RULE, "(file)", "below 0.5"),
        ('name = "x"\nwaivers = ["abc"]' + RULE, "(file)", "64"),
        ('name = "x"\nalpha = "5%"' + RULE, "alpha", "number"),
        ('name = "x"\n[split]\nsuite = 0.9' + RULE, "split", "add up to 1"),
        ('name = "x"\nmargin = "auto"' + RULE, "(file)", "needs the churn of 'acc'"),
        ('name = "x"\n[noise.acc]\nsigma_run = -0.1' + RULE, "noise.acc", "at least 0"),
        ('name = "x"\n[noise.acc]\nsigma = 0.1' + RULE, "noise.acc.sigma", "did you mean 'sigma_run'"),
        ('name = "x"\n[tiers]\nitems = 250\nalpha = 0.05' + RULE, "(file)", "tiers.alpha must be below alpha"),
        ('name = "x"\n[limits]\nnulls = 5' + RULE, "limits", "shares"),
        ('name = "x"' + RULE + 'languages = ["ta"]', "rules.0", "'ta' is not an ISO 639-3 code; did you mean 'tam'"),
        ('name = "x"\n[[floors]]\nmetric = "acc"\nlevel = "suite"\nlanguage = "tam"\nvalue = 1', "floors.0", "not 'suite'"),
        ('name = "x"\n[[floors]]\nmetric = "score"\nlevel = "suite"\nvalue = 1', "floors.0", "name it, 'score' is none"),
        ('name = x"', "", "is not TOML"),
    ],
)
def test_a_wrong_policy_is_refused_by_file_and_key(tmp_path: Path, text: str, key: str, problem: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(RecipeError) as caught:
        read_policy(path)
    assert caught.value.key == key and problem in caught.value.problem and str(path) in str(caught.value)


@pytest.mark.parametrize(
    "policy,key,meant",
    [
        (Policy(name="x", floors=(Floor(metric="ac", level="suite", value=0.1),)), "floors.0.metric", "'acc'"),
        (
            Policy(name="x", floors=(Floor(metric="acc", level="language", language="tqm", value=0.1),)),
            "floors.0.language",
            "'tam'",
        ),
        (Policy(name="x", floors=(Floor(metric="acc", level="task", task="nlj", value=0.1),)), "floors.0.task", "'nli'"),
        (Policy(name="x", rules=(Rule(metric="score", languages=("thx",), suite=BOUNDS),)), "rules.0.languages", "'tha'"),
        (
            Policy(name="x", rules=(Rule(metric="acc", suite=BOUNDS),), claims=(Claim(metric="acb"),)),
            "claims.0.metric",
            "'acc'",
        ),
        (Policy(name="x", rules=(Rule(metric="acc", suite=BOUNDS),), noise={"aac": Noise()}), "noise.aac", "'acc'"),
        (Policy(name="x", rules=(Rule(metric="score", suite=BOUNDS),), scale={"acx": 0.1}), "scale.acx", "'acc'"),
    ],
)
def test_what_no_scorecard_has_is_named_with_the_nearest(policy: Policy, key: str, meant: str) -> None:
    with pytest.raises(RecipeError) as caught:
        check_names(policy, "p.toml", {"acc"}, {"tam", "tha"}, {"nli", "qa"})
    assert (
        caught.value.key == key
        and "no scorecard has the" in caught.value.problem
        and f"did you mean {meant}?" in str(caught.value)
    )


def test_the_fingerprint_is_of_the_rules_and_not_of_the_text(tmp_path: Path) -> None:
    plain = fingerprint(read_policy(written(tmp_path, 'name = "x"' + RULE)))
    assert fingerprint(read_policy(written(tmp_path, '# why\nname="x"\nalpha = 0.05' + RULE))) == plain
    assert fingerprint(read_policy(written(tmp_path, 'name = "x"' + RULE.replace("0.06", "0.07")))) != plain


def test_levels_without_tests_leave_their_error_rate_to_the_others() -> None:
    rule = Rule(metric="acc", suite=Bounds(tolerance=0.1, margin=0.2))
    policy = Policy(name="x", split=Split(suite=0.4, language=0.3, task=0.2, floor=0.1), rules=(rule,))
    assert policy.alphas({"suite"}) == {"suite": pytest.approx(0.05)}
    assert policy.alphas({"floor", "suite"}) == {"suite": pytest.approx(0.04), "floor": pytest.approx(0.01)}
    assert sum(policy.alphas({"suite", "language", "task", "floor"}).values()) == pytest.approx(0.05)
