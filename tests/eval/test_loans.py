"""Loans, objectives, flags and the lineage's best: what may be lost now, and who is held to it later."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sea_lion.catalog.errors import RecipeError
from sea_lion.catalog.records import GateDecision, Loan, Promotion
from sea_lion.eval.decision_report import workflow_commands
from sea_lion.eval.earlier import Earlier
from sea_lion.eval.gate import compare
from sea_lion.eval.history import history_of, last_promotion, require_collectors
from sea_lion.eval.loans import LoanRule, due_stage, loan_for, outstanding
from sea_lion.eval.node_tests import Compared
from sea_lion.eval.objective import Objective, best_of
from sea_lion.eval.policy import Bounds, Floor, Policy, Rule, Tiers, check_names, read_policy
from sea_lion.eval.selection import node_name, selection_of, selects

from .scorecards import POLICIES, Rows, item_row, items, scorecard

COUNT = 120
"""Items of a task."""
PLACES = [("tam", "qa"), ("tha", "qa"), ("tam", "chat"), ("tha", "chat")]
RULE = Rule(
    metric="acc",
    tasks=("!chat",),
    suite=Bounds(tolerance=0.02, margin=0.1),
    language=Bounds(tolerance=0.03, margin=0.12),
)
LOAN = LoanRule(metric="acc", level="language", tasks=("!chat",), limit=0.4, within=0.12, repay_by="final")
ALIGN = Policy(
    name="align",
    rules=(RULE,),
    objective=Objective(metric="acc", tasks=("chat",)),
    loans=(LOAN, replace(LOAN, level="suite", limit=0.3, within=0.1)),
)
FINAL = Policy(name="final", rules=(RULE,), settles_all=True)


def rows(**right: float) -> Rows:
    """Items of two languages and two tasks; `right` is the share of right answers, by task or task and language."""
    out = []
    for place, (language, task) in enumerate(PLACES):
        share = right.get(f"{task}_{language}", right.get(task, 0.6))
        values = np.arange(COUNT) < round(share * COUNT)  # nested: a better model knows all that a worse one does
        out += [item_row("acc", language, i + 1000 * place, float(values[i]), task) for i in range(COUNT)]
    return out


def gate(policy: Policy, candidate: Rows, *baselines: tuple[str, Rows], **earlier: Any) -> Compared:
    others = [items(name, of) for name, of in baselines]
    return compare(policy, items("new", candidate), others, others[0].card.model, Earlier(**earlier))


PARENT = rows()
ALIGNED = rows(qa_tam=0.35, chat=0.8)


@pytest.fixture(scope="module")
def lent() -> Compared:
    return gate(ALIGN, ALIGNED, ("merged", PARENT), stage="x/align")


def test_a_loss_within_the_limit_passes_and_is_on_record(lent: Compared) -> None:
    assert lent.verdict == "pass", lent.reason
    by_level = {loan.level: loan for loan in lent.loans}
    assert replace(by_level["language"], lost=-0.25) == Loan(
        stage="x/align", node="acc(!chat)/tam", metric="acc", level="language", lender="checkpoint/merged@1",
        scorecard="scorecard/merged@1", lost=-0.25, lent=0.4, within=0.12, repay_by="x/final",
    )  # fmt: skip
    assert by_level["language"].lost == pytest.approx(-0.25)
    assert by_level["suite"].node == "acc(!chat)" and by_level["suite"].lost == pytest.approx(-0.125)
    outcome = next(o for o in lent.outcomes if o.node == "acc(!chat)/tam")
    assert outcome.verdict == "pass" and outcome.margin == 0.4 and outcome.lower > -0.4


def test_the_same_loss_without_a_loan_is_refused_and_no_loss_takes_none() -> None:
    assert gate(replace(ALIGN, loans=()), ALIGNED, ("merged", PARENT)).verdict == "fail"
    fine = gate(ALIGN, rows(chat=0.8), ("merged", PARENT), stage="x/align")
    assert fine.verdict == "pass" and fine.loans == ()


def test_a_loss_beyond_the_limit_fails_and_one_too_close_to_it_holds() -> None:
    fallen = gate(ALIGN, rows(qa_tam=0.05, chat=0.8), ("merged", PARENT), stage="x/align")
    assert fallen.verdict == "fail" and "acc(!chat)/tam" in fallen.reason
    assert all(loan.node != "acc(!chat)/tam" for loan in fallen.loans)
    near = gate(ALIGN, rows(qa_tam=0.23, chat=0.8), ("merged", PARENT), stage="x/align")  # 0.37 lost, 0.40 lent
    assert near.verdict == "hold"


def debts(answer: Compared, lender: Rows = PARENT) -> tuple[tuple[Loan, Any], ...]:
    return tuple((loan, items("merged", lender)) for loan in answer.loans)


def test_a_final_that_repays_passes(lent: Compared) -> None:
    answer = gate(FINAL, rows(chat=0.7), ("aligned", ALIGNED), stage="x/final", debts=debts(lent))
    assert answer.verdict == "pass" and answer.repaid == lent.loans and answer.loans == ()
    assert {o.baseline for o in answer.outcomes} == {"checkpoint/aligned@1", "checkpoint/merged@1"}


def test_a_final_that_does_not_is_refused_in_one_line_with_loan_lender_and_stage(lent: Compared) -> None:
    answer = gate(FINAL, ALIGNED, ("aligned", ALIGNED), stage="x/final", debts=debts(lent))
    assert answer.verdict == "fail" and "\n" not in answer.reason
    for part in ("unpaid loan: acc(!chat)/tam", "-0.25", "taken for x/align", "from checkpoint/merged@1", "due at x/final"):
        assert part in answer.reason
    assert "shown to be worse" not in answer.reason and len(answer.repaid) == 0


def test_a_repayment_that_is_not_shown_holds(lent: Compared) -> None:
    half = gate(FINAL, rows(qa_tam=0.5, chat=0.8), ("aligned", ALIGNED), stage="x/final", debts=debts(lent))
    assert half.verdict == "hold" and "unpaid loan: acc(!chat)/tam" in half.reason
    assert [loan.level for loan in half.repaid] == ["suite"]


def test_a_loan_is_settled_where_it_is_due_or_where_all_are(lent: Compared) -> None:
    policy = replace(FINAL, settles_all=False)
    elsewhere = gate(policy, ALIGNED, ("aligned", ALIGNED), stage="x/merge-3", debts=debts(lent))
    assert elsewhere.verdict == "pass" and elsewhere.repaid == ()
    assert gate(policy, ALIGNED, ("aligned", ALIGNED), stage="x/final", debts=debts(lent)).verdict == "fail"
    assert gate(FINAL, ALIGNED, ("aligned", ALIGNED), stage="y/final", debts=debts(lent)).verdict == "fail"


def test_a_lender_that_cannot_be_compared_is_an_error(lent: Compared) -> None:
    other = debts(lent, [row | {"target_hash": "other"} for row in PARENT])
    answer = gate(FINAL, rows(), ("aligned", ALIGNED), stage="x/final", debts=other)
    assert answer.verdict == "error" and "scorecard/merged@1" in answer.reason


def test_small_tolerated_losses_over_five_stages_are_seen_against_the_best_and_the_last() -> None:
    small = Bounds(tolerance=0.05, margin=0.15)
    policy = Policy(name="step", rules=(Rule(metric="acc", suite=small),))
    line = [rows(qa=share, chat=share) for share in (0.8, 0.76, 0.72, 0.68, 0.64, 0.6)]
    for before, after in pairwise(line):
        assert gate(policy, after, ("before", before)).verdict == "pass"
    for name in ("best", "last"):
        strict = replace(policy, rules=(*policy.rules, Rule(metric="acc", against=name, suite=small)))
        answer = gate(strict, line[-1], ("before", line[-2]), **{name: items("first", line[0])})
        assert answer.verdict == "fail" and "checkpoint/first@1" in answer.reason
        alone = gate(strict, line[-1], ("before", line[-2]))
        assert alone.verdict == "pass" and any(f'rules against "{name}" compared nothing' in note for note in alone.notes)


def test_no_loan_covers_a_loss_against_the_best() -> None:
    policy = replace(ALIGN, rules=(RULE, replace(RULE, against="best")))
    assert gate(policy, ALIGNED, ("merged", PARENT), stage="x/align", best=items("first", PARENT)).verdict == "fail"


def test_the_objective_must_gain_over_the_parent() -> None:
    idle = gate(ALIGN, PARENT, ("merged", PARENT), stage="x/align")
    assert idle.verdict == "hold" and "acc(chat)" in idle.reason
    patient = replace(ALIGN, objective=Objective(metric="acc", tasks=("chat",), min_gain=-0.1))
    assert gate(patient, PARENT, ("merged", PARENT), stage="x/align").verdict == "pass"
    greedy = replace(ALIGN, objective=Objective(metric="acc", tasks=("chat",), min_gain=0.19))
    assert gate(greedy, ALIGNED, ("merged", PARENT), stage="x/align").verdict == "hold"  # 0.20 gained


def test_a_floor_that_flags_lets_pass_and_says_so() -> None:
    floor = Floor(metric="acc", level="language", language="tam", tasks=("!chat",), value=0.5, on_breach="flag")
    answer = gate(replace(ALIGN, floors=(floor,)), ALIGNED, ("merged", PARENT), stage="x/align")
    assert answer.verdict == "pass"
    (flag,) = [note for note in answer.notes if note.startswith("flag: ")]
    assert "acc(!chat)/tam 0.350" in flag and "floor of 0.5" in flag and "shown" in flag
    (warning,) = workflow_commands(decision("x/align", notes=answer.notes))
    assert warning.startswith("::warning") and "acc(!chat)/tam 0.350" in warning
    fatal = gate(replace(ALIGN, floors=(replace(floor, on_breach="fail"),)), ALIGNED, ("merged", PARENT), stage="x/align")
    assert fatal.verdict == "fail"
    above = gate(replace(ALIGN, floors=(replace(floor, value=0.2),)), ALIGNED, ("merged", PARENT), stage="x/align")
    assert above.verdict == "pass" and not any(note.startswith("flag") for note in above.notes)


def test_the_first_tier_lends_and_settles_as_all_items_do(lent: Compared) -> None:
    tiers = Tiers(items=60, alpha=0.02)
    first = gate(replace(ALIGN, tiers=tiers), ALIGNED, ("merged", PARENT), stage="x/align")
    assert first.verdict == "pass" and {loan.node for loan in first.loans} == {loan.node for loan in lent.loans}
    final = replace(FINAL, tiers=tiers)
    assert gate(final, rows(chat=0.7), ("aligned", ALIGNED), stage="x/final", debts=debts(lent)).verdict == "pass"
    assert gate(final, ALIGNED, ("aligned", ALIGNED), stage="x/final", debts=debts(lent)).verdict == "fail"


@pytest.mark.parametrize("tiers", [None, Tiers(items=30, alpha=0.02)])
@given(seed=st.integers(0, 2**32 - 1), drop=st.sampled_from([0.05, 0.2, 0.3]))
@settings(max_examples=5, deadline=None)
def test_raising_any_score_never_turns_a_pass_into_a_fail(tiers: Tiers | None, seed: int, drop: float) -> None:
    generator = np.random.default_rng(seed)
    was = [row | {"value": float(generator.random() < 0.6)} for row in PARENT if row["task"] == "qa"]
    now = [row | {"value": 0.0} if generator.random() < drop else row for row in was]
    graded = [row | {"value": float(row["value"] + generator.normal(0, 0.1))} for row in now]
    policy = replace(ALIGN, objective=None, tiers=tiers, settles_all=True)
    for rows_now in (now, graded):
        lift = generator.exponential(1, len(now)) if rows_now is graded else np.ones(len(now))
        picked = generator.random(len(now)) < 0.1
        raised = [
            row | {"value": float(max(row["value"], 1.0) if rows_now is now else row["value"] + up)} if pick else row
            for row, pick, up in zip(rows_now, picked, lift, strict=True)
        ]
        lender = items("lender", [row | {"value": 0.0} if generator.random() < 0.08 else row for row in rows_now])
        loan = Loan(
            stage="x/merge", node="acc(!chat)/tam", metric="acc", level="language", lender="checkpoint/lender@1",
            scorecard="scorecard/lender@1", lost=-0.2, lent=0.4, within=0.12, repay_by="x/align",
        )  # fmt: skip
        for owed in ((), ((loan, lender),)):
            before, after = (gate(policy, of, ("merged", was), stage="x/align", debts=owed) for of in (rows_now, raised))
            assert (before.verdict, after.verdict) != ("pass", "fail")
            assert before.verdict == "pass" or tiers  # else this would show nothing: the losses here are lent and repaid


# -- what the records say ------------------------------------------------------------------------------------------------------


def decision(stage: str, loans: tuple[Loan, ...] = (), repaid: tuple[Loan, ...] = (), **fields: Any) -> GateDecision:
    known: dict[str, Any] = {
        "stage": stage, "model": f"checkpoint/{stage}@1", "scorecard": f"scorecard/{stage}@1", "baselines": (), "policy": "p",
        "policy_fingerprint": "c" * 64, "verdict": "pass", "reason": "", "on_refusal": "stop", "kept": "", "outcomes": (),
        "loans": loans, "repaid": repaid,
    }  # fmt: skip
    return GateDecision(**known | fields)


def test_a_loan_is_outstanding_until_some_decision_repaid_it(lent: Compared) -> None:
    first, second = decision("x/align", loans=lent.loans), decision("x/final", repaid=lent.loans[:1])
    assert outstanding([first]) == list(lent.loans) and outstanding([first, second]) == list(lent.loans[1:])
    assert outstanding([first, first]) == list(lent.loans)
    assert due_stage("y/final", "x/align") == "y/final" and due_stage("final", "align") == "final"


def test_selections_name_nodes_and_are_read_back_from_them() -> None:
    assert selects(("!a",), "b") and not selects(("!a",), "a") and selects((), "a") and not selects(("b",), "a")
    for languages, tasks, language, task in (
        (("tam",), ("!a", "!b"), "", ""), ((), ("a",), "tam", ""), ((), (), "tam", "a:strict"), ((), (), "", ""),
    ):  # fmt: skip
        name = node_name("points", tasks, language, task, languages)
        expected = ("points", (language,) if language else languages, (task,) if task else tasks)
        assert selection_of(name, {"tam", "tha"}) == expected, name
    assert loan_for([LOAN], "acc", "language", [("tam", "qa"), ("tam", "chat")]) is None
    assert loan_for([LOAN], "acc", "language", [("tam", "qa")]) is LOAN


def test_the_best_is_the_highest_on_what_the_policy_is_for() -> None:
    cards = [scorecard(name, rows()) for name in ("a", "b", "c")]
    valued = [
        replace(card, scores=tuple(replace(s, value=v if s.task == "chat" else -v) for s in card.scores))
        for card, v in zip(cards, (1.0, 3.0, 2.0), strict=True)
    ]
    assert best_of(valued, "acc", (), ("chat",)) == 1 and best_of(valued, "acc", (), ("qa",)) == 0
    assert best_of(valued, "chrf") is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("limit = 0.0\nwithin = 0.0", "limit must be above 0"),
        ("limit = 1.0\nwithin = 1.0", "nothing would be repaid"),
        ("limit = 1.0\nwithin = 0.5\nlanguages = ['xx']", "not an ISO 639-3"),
        ("limt = 1.0\nwithin = 0.5", "did you mean 'limit'"),
    ],
)
def test_a_bad_loan_is_one_line(tmp_path: Path, text: str, problem: str) -> None:
    file = tmp_path / "p.toml"
    rule = "[[rules]]\nmetric = 'acc'\nsuite = { tolerance = 0.0, margin = 0.1 }\n"
    file.write_text(f"name = 'p'\n{rule}[[loans]]\nmetric = 'acc'\nlevel = 'suite'\nrepay_by = 'final'\n{text}\n")
    with pytest.raises(RecipeError, match=problem) as error:
        read_policy(file)
    assert "\n" not in str(error.value)


def test_names_of_loans_objective_and_selections_are_checked() -> None:
    known: dict[str, Any] = {"metrics": ["acc"], "languages": ["tam", "tha"], "tasks": ["qa", "chat"]}
    check_names(ALIGN, "p", **known)
    for policy, key in (
        (replace(ALIGN, loans=(replace(LOAN, tasks=("!chta",)),)), "loans.0.tasks"),
        (replace(ALIGN, objective=Objective(metric="akk")), "objective.metric"),
        (replace(ALIGN, floors=(Floor(metric="acc", level="suite", value=0.1, tasks=("qaa",)),)), "floors.0.tasks"),
    ):
        with pytest.raises(RecipeError, match=key):
            check_names(policy, "p", **known)


def test_a_loan_that_nobody_would_collect_is_refused() -> None:
    require_collectors(ALIGN, "align.toml", "x/align", ["x/final"])
    for later in ([], ["x/merge-3"]):
        with pytest.raises(RecipeError, match=r"align.toml.*loans.0.repay_by.*nobody would collect"):
            require_collectors(ALIGN, "align.toml", "x/align", later)


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Any]:
    from .test_promote import Shelf

    yield Shelf(tmp_path)


def test_history_counts_what_was_promoted_and_is_the_same_after_the_stage_was(shelf: Any, lent: Compared) -> None:
    def promote(stage: str, body: GateDecision, sequence: int, version: str = "1", decided: str = "") -> None:
        if not decided:
            shelf.put(f"decision/{stage}", body, version)
        ref = decided or f"decision/{stage}@{version}"
        moved = Promotion(stage=stage, model=body.model, decision=ref, verdict="pass", sequence=sequence)
        shelf.put(f"promotion/{stage}", moved, f"{version}-{sequence}")

    policy = replace(FINAL, rules=(RULE, replace(RULE, against="best")))
    for name, right in (("x/sft", 0.9), ("x/align", 0.5)):
        card = scorecard(name, rows())
        valued = replace(card, scores=tuple(replace(score, value=right) for score in card.scores))
        shelf.put(f"scorecard/{name}", valued)
    promote("x/sft", decision("x/sft"), 1)
    shelf.put("decision/x/align", decision("x/align", loans=lent.loans, verdict="fail"))
    early = history_of(shelf.store, policy, ["x/sft", "x/align"], "1")
    assert early.debts == () and early.best == "scorecard/x/sft@1"  # refused: its loans do not count
    waived = Promotion(stage="x/align", model="m", decision="decision/x/align@1", verdict="fail", sequence=1, waiver_by="A")
    shelf.put("promotion/x/align", waived)
    found = history_of(shelf.store, policy, ["x/sft", "x/align"], "1")
    assert found.debts == ("decision/x/align@1",) and found.lenders == ("scorecard/merged@1",)
    assert history_of(shelf.store, FINAL, ["x/sft"], "1").best == ""  # no rule asks for it

    assert last_promotion(shelf.store, "x/final", "decision/x/final@1") is None
    promote("x/final", decision("x/final", model="checkpoint/one@1"), 1)
    assert last_promotion(shelf.store, "x/final", "decision/x/final@1") is None
    before = last_promotion(shelf.store, "x/final", "decision/x/final@2")
    assert before is not None and before.model == "checkpoint/one@1"
    promote("x/final", decision("x/final", model="checkpoint/two@1"), 2, "2")
    promote("x/final", decision("x/final", model="checkpoint/one@1"), 3, "back", "decision/x/final@1")
    assert last_promotion(shelf.store, "x/final", "decision/x/final@2") == before
    rolled = last_promotion(shelf.store, "x/final", "decision/x/final@3")
    assert rolled is not None and rolled.model == "checkpoint/one@1"


def test_the_shipped_policies_of_the_published_recipes_are_read_and_lend_to_final() -> None:
    for name in ("merge", "align"):
        policy = read_policy(POLICIES / "sea-lion" / f"{name}.toml")
        assert policy.loans and {loan.repay_by for loan in policy.loans} == {"final"} and not policy.settles_all
    final = read_policy(POLICIES / "sea-lion" / "final.toml")
    assert final.settles_all and not final.loans and {floor.on_breach for floor in final.floors} == {"fail"}
