"""Step 0 of the gate: unlike things are never compared, and the verdict says what differs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from sea_lion.catalog.records import Scorecard
from sea_lion.eval.gate import compare
from sea_lion.eval.objective import Objective
from sea_lion.eval.policy import Bounds, Claim, Floor, Limits, Policy, Rule
from sea_lion.eval.tiers import first_tier

from .scorecards import Rows, item_row, items, scorecard

BOUNDS = Bounds(tolerance=0.05, margin=0.5)
POLICY = Policy(name="x", rules=(Rule(metric="acc", suite=BOUNDS),), limits=Limits(nulls=0.1, truncated=0.05))
ROWS = [item_row("acc", language, i, float(i % 2), "qa") for language in ("ind", "tha") for i in range(20)]


def verdict(
    change: Callable[[Scorecard], Scorecard], policy: Policy = POLICY, rows: Rows = ROWS, both: bool = False
) -> tuple[str, str]:
    """The verdict when the candidate's scorecard (or both) was changed."""
    new, old = items("new", rows), items("old", ROWS)
    old = replace(old, card=change(old.card)) if both else old
    answer = compare(policy, replace(new, card=change(new.card)), [old], "checkpoint/old@1")
    return answer.verdict, answer.reason


def with_scores(**fields: Any) -> Callable[[Scorecard], Scorecard]:
    return lambda card: replace(card, scores=tuple(replace(score, **fields) for score in card.scores))


def test_the_unchanged_scorecard_passes() -> None:
    assert verdict(lambda card: card)[0] == "pass"


@pytest.mark.parametrize(
    "change,what",
    [
        (lambda card: replace(card, profile="sea_helm_2026"), "profile of scorecard/new@1 is sea_helm_2026"),
        (lambda card: replace(card, suite="other"), "suite of"),
        (lambda card: replace(card, suite_fingerprint="0" * 64), "suite_fingerprint"),
        (lambda card: replace(card, harness="lm-eval 0.4.14"), "harness"),
        (lambda card: replace(card, settings={"backend": "vllm"}), "backend of scorecard/new@1 is vllm"),
        (lambda card: replace(card, settings={"dtype": "bfloat16"}), "dtype"),
        (lambda card: replace(card, settings={"batch_size": "8"}), "batch_size"),
        (lambda card: replace(card, settings={"world_size": "2"}), "world_size"),
        (lambda card: replace(card, limit=20), "limit of 20"),
        (with_scores(items=20, nulls=3), "15.0% of the answers of acc/ind/qa said nothing readable, the policy allows 10.0%"),
        (with_scores(items=20, truncated=2), "10.0% of the answers of acc/ind/qa were cut off"),
        (lambda card: replace(card, scores=(*card.scores, replace(card.scores[0], task="nli"))), "only scorecard/new@1 has"),
        (with_scores(higher_is_better=False), "(lower is better)"),
        (lambda card: replace(card, incomplete=("mt-bench/tha: no judge",)), "no score for mt-bench/tha: no judge"),
        (lambda card: replace(card, settings={"tier": "20"}), "only the items of a first tier"),
    ],
)  # fmt: skip
def test_every_difference_between_two_runs_is_an_error(change: Callable[[Scorecard], Scorecard], what: str) -> None:
    found, reason = verdict(change)
    assert found == "error" and what in reason, reason


@pytest.mark.parametrize("column,value", [("stratum", "a"), ("filter", "strict")])
def test_items_of_another_stratum_or_filter_are_not_the_same(column: str, value: str) -> None:
    rows = [row | {column: value} if i == 3 else row for i, row in enumerate(ROWS)]
    assert verdict(lambda card: card, rows=rows)[0] == "error"


def test_unreadable_answers_in_the_item_table_count_too() -> None:
    rows = [row | {"is_null": i % 5 == 0} for i, row in enumerate(ROWS)]
    found, reason = verdict(lambda card: card, rows=rows)
    assert found == "error" and "20.0%" in reason


def test_equal_settings_and_a_task_that_no_rule_needs_are_compared() -> None:
    assert verdict(lambda card: replace(card, settings={"backend": "hf", "dtype": "bfloat16"}), both=True)[0] == "pass"
    selective = replace(POLICY, rules=(replace(POLICY.rules[0], tasks=("qa",)),))
    assert verdict(lambda card: replace(card, incomplete=("mt-bench/tha: no judge",)), selective)[0] == "pass"
    assert verdict(lambda card: replace(card, incomplete=("qa/tha: no mirror",)), selective)[0] == "error"
    elsewhere = replace(POLICY, rules=(replace(POLICY.rules[0], languages=("ind",)),))
    assert verdict(lambda card: replace(card, incomplete=("qa/tha: no mirror",)), elsewhere)[0] == "pass"


@pytest.mark.parametrize(
    "tasks,languages,found",
    [
        (("!if-eval",), (), "error"),  # all but if-eval, hence also the task that is missing
        (("!mt-bench",), (), "pass"),
        ((), ("!ind",), "error"),
        ((), ("!tha",), "pass"),
    ],
)
def test_a_rule_for_all_but_one_is_about_every_other(tasks: tuple[str, ...], languages: tuple[str, ...], found: str) -> None:
    policy = replace(POLICY, rules=(replace(POLICY.rules[0], tasks=tasks, languages=languages),))
    assert verdict(lambda card: replace(card, incomplete=("mt-bench/tha: no judge",)), policy)[0] == found
    aim = replace(POLICY, rules=(replace(POLICY.rules[0], tasks=("qa",)),), objective=Objective(metric="acc", tasks=tasks))
    assert verdict(lambda card: replace(card, incomplete=("mt-bench: no judge",)), aim)[0] != "pass" or found == "pass"


def test_a_gate_that_compares_nothing_holds() -> None:
    answer = compare(
        Policy(name="x", rules=(Rule(metric="acc", against="last", suite=BOUNDS),)),
        items("new", ROWS),
        [items("old", ROWS)],
        "",
    )
    assert (answer.verdict, answer.reason) == ("hold", "not enough evidence: no test was made, the notes say why")
    assert any("no model was promoted to the stage before" in note for note in answer.notes)


def test_two_filters_of_a_task_are_two_cells() -> None:
    rows = [row | {"filter": name} for row in ROWS for name in ("strict", "flexible")]
    new, old = items("new", rows), items("old", rows)
    answer = compare(replace(POLICY, rules=(Rule(metric="acc", task=BOUNDS),)), new, [old], "")
    assert [outcome.node for outcome in answer.outcomes] == [
        f"acc/{x}/qa:{f}" for x in ("ind", "tha") for f in ("flexible", "strict")
    ]


def test_selectors_say_what_a_rule_or_floor_is_about() -> None:
    rows = ROWS + [item_row("acc", "tha", 100 + i, float(i % 2), "nli") for i in range(20)]
    policy = Policy(
        name="x",
        rules=(
            Rule(metric="acc", tasks=("qa",), suite=BOUNDS, language=BOUNDS),
            Rule(metric="acc", languages=("tha",), task=BOUNDS),
        ),
        floors=(
            Floor(metric="acc", level="language", language="tha", value=0.2),
            Floor(metric="acc", level="task", task="nli", value=0.2),
        ),
    )
    answer = compare(policy, items("new", rows), [items("old", rows)], "")
    found = sorted((o.level, o.node) for o in answer.outcomes)
    assert found == [
        ("floor", "acc/tha"), ("floor", "acc/tha/nli"), ("language", "acc(qa)/ind"), ("language", "acc(qa)/tha"),
        ("suite", "acc(qa)"), ("task", "acc/tha/nli"), ("task", "acc/tha/qa"),
    ]  # fmt: skip


def test_a_floor_for_one_language_fails_that_language_alone() -> None:
    rows = [row | {"value": 0.0} if row["language"] == "tha" else row for row in ROWS]
    policy = Policy(name="x", floors=(Floor(metric="acc", level="language", language="tha", value=0.4),))
    answer = compare(policy, items("new", rows), [], "")
    assert answer.verdict == "fail" and [o.node for o in answer.outcomes] == ["acc/tha"]
    other = replace(policy, floors=(replace(policy.floors[0], language="ind"),))
    assert compare(other, items("new", rows), [], "").verdict != "fail"


def test_the_metric_score_is_what_each_task_counts_by_in_one_unit() -> None:
    rows = [item_row("acc", "tha", i, float(i % 2), "qa") for i in range(20)]
    rows += [item_row("margin", "tha", 50 + i, 100.0 * (i % 4 == 0), "abssum") for i in range(20)]
    rows += [item_row("bits_per_byte", "tha", 90 + i, 7.0, "heldout") for i in range(20)]
    card = scorecard("checkpoint/new@1", rows)
    roles = tuple(replace(s, role="diagnostic") if s.metric == "bits_per_byte" else s for s in card.scores)
    new = replace(items("new", rows), card=replace(card, scores=roles))
    policy = Policy(name="x", rules=(Rule(metric="score", suite=BOUNDS),), scale={"margin": 0.01})
    answer = compare(policy, new, [new], "")
    assert answer.outcomes[0].candidate_value == pytest.approx((0.5 + 0.25) / 2)
    assert answer.outcomes[0].items == 40


def test_a_claim_must_be_shown_and_an_optional_one_is_only_reported() -> None:
    wrong = [row | {"value": 0.0} for row in ROWS]
    claim = Claim(metric="acc", languages=("tha",))
    floor = Floor(metric="acc", level="suite", value=0.0)
    policy = Policy(name="x", claims=(claim,), floors=(floor,))
    assert compare(policy, items("new", ROWS), [items("old", wrong)], "checkpoint/old@1").verdict == "pass"
    unproven = compare(policy, items("new", ROWS), [items("old", ROWS)], "checkpoint/old@1")
    assert unproven.verdict == "hold" and "claimed to be better" in unproven.reason
    worse = compare(policy, items("new", wrong), [items("old", ROWS)], "checkpoint/old@1")
    assert worse.verdict == "hold"  # a claim has no power to fail: rules have
    optional = replace(POLICY, claims=(replace(claim, required=False),))
    answer = compare(optional, items("new", ROWS), [items("old", ROWS)], "checkpoint/old@1")
    assert answer.verdict == "pass" and any(note.startswith("claimed and not shown: acc/tha") for note in answer.notes)


def test_the_first_tier_is_a_fixed_part_of_whole_clusters() -> None:
    clusters = [f"c{i // 2}" for i in range(100)]
    taken = first_tier(clusters, ["a"] * 60 + ["b"] * 40, 30)
    assert 30 <= taken.sum() <= 32
    assert len({clusters[i] for i in taken.nonzero()[0]}) * 2 == taken.sum()
    assert 18 <= taken[:60].sum() <= 20 and 12 <= taken[60:].sum() <= 14
    assert first_tier(clusters, [""] * 100, 200).all()
    backwards = first_tier(clusters[::-1], ["b"] * 40 + ["a"] * 60, 30)
    assert (backwards[::-1] == taken).all()
