"""The gate on history: what the shipped policies, and the rule most teams start with, say of the paper's own Table 1."""

from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from sea_lion.catalog.records import GateDecision, Loan
from sea_lion.eval.decision_report import markdown, workflow_commands
from sea_lion.eval.pairing import Incomparable
from sea_lion.eval.policy import Bounds, Policy, Rule, read_policy
from sea_lion.eval.score_gate import NOTE, Scores, judge_scores

from .scorecards import POLICIES

DOCS = Path(__file__).parents[2] / "docs"
HISTORY: dict[str, Any] = runpy.run_path(str(DOCS / "gate_history.py"))
LLAMA, GEMMA = HISTORY["LINEAGES"]["llama"], HISTORY["LINEAGES"]["gemma"]
FACTS = Path(__file__).parents[3] / "shared" / "facts" / "sea-lion-v3.md"


def replay(steps: Any, **given: Any) -> list[GateDecision]:
    decided: list[GateDecision] = HISTORY["replayed"](steps, **given)
    return decided


def loan_at(decision: GateDecision, node: str) -> Loan:
    (found,) = [loan for loan in decision.loans if loan.node == node]
    return found


def test_the_naive_rule_blocks_llama_at_its_first_merge_and_forbids_the_final_gemma() -> None:
    llama, gemma = HISTORY["naive"](LLAMA), HISTORY["naive"](GEMMA)
    assert [decision.verdict for decision in llama] == ["pass", "fail", "fail", "fail", "pass"]
    assert [decision.verdict for decision in gemma] == ["pass", "pass", "pass", "fail"]
    assert llama[1].model == "Merge-1-Llama" and "59.49 -> 59.36" in llama[1].reason


@pytest.mark.parametrize("steps", [LLAMA, GEMMA], ids=["llama", "gemma"])
def test_the_shipped_policies_let_the_published_lineage_through_and_every_loan_is_repaid(steps: Any) -> None:
    decided = replay(steps)
    assert [decision.model for decision in decided] == [step.model for step in steps]
    assert {decision.verdict for decision in decided} == {"pass"}
    lent = [loan for decision in decided for loan in decision.loans]
    assert lent and set(decided[-1].repaid) == set(lent) and not decided[-1].loans
    assert all(loan.repay_by == steps[-1].stage for loan in lent)
    assert all(NOTE in decision.notes for decision in decided)


def test_merge_2_borrows_tamil_under_a_flag_and_align_borrows_core_and_instructions() -> None:
    *_, merge, align, final = replay(LLAMA)
    tamil = loan_at(merge, "points(!if-eval,!mt-bench)/tam")
    assert tamil.lender == "Merge-1-Llama" and tamil.lost == pytest.approx(-11.23)
    (flag,) = [note for note in merge.notes if note.startswith("flag: ")]
    assert "/tam 35.40 is below the floor of 41" in flag
    assert any(line.startswith("::warning") and "35.40" in line for line in workflow_commands(merge))
    assert loan_at(align, "points(if-eval)/tha").lost == pytest.approx(-10)
    assert not any(note.startswith("flag: ") for decision in replay(GEMMA) for note in decision.notes)
    assert tamil in final.repaid and "Loans repaid" in markdown(final)


def test_an_unpaid_loan_blocks_the_final_promotion() -> None:
    decided = replay(LLAMA, instead={"Llama-SEA-LION-v3-8B-IT": "Aligned-SimPO-Llama"})
    assert [decision.verdict for decision in decided] == ["pass"] * 4 + ["fail"]
    for part in ("unpaid loan", "llama/merge-2", "Merge-1-Llama", "due at llama/final"):
        assert part in decided[-1].reason
    again = replay(GEMMA, instead={"Gemma-SEA-LION-v3-9B-IT": "Stage-1-Gemma"})[-1]
    assert again.verdict == "fail" and again.repaid == ()


def test_an_unpaid_loan_blocks_even_where_no_rule_would() -> None:
    nothing = Rule(metric="points", suite=Bounds(tolerance=99, margin=99))
    final = read_policy(POLICIES / "sea-lion" / "final.toml")
    lax = replace(final, rules=(nothing,), floors=(), objective=None)
    instead = {"Llama-SEA-LION-v3-8B-IT": "Merge-2-Llama"}
    refused = replay(LLAMA, instead=instead, policies={"final": lax})[-1]
    assert refused.verdict == "fail" and {o.baseline for o in refused.outcomes if o.verdict == "fail"} == {"Merge-1-Llama"}


def test_without_loans_the_published_llama_stops_at_its_second_merge() -> None:
    policy = read_policy(POLICIES / "sea-lion" / "merge.toml")
    decided = replay(LLAMA, policies={"merge": replace(policy, loans=())})
    assert decided[-1].model == "Merge-2-Llama" and decided[-1].verdict == "fail"
    assert "/tam 46.63 -> 35.40" in decided[-1].reason


def test_scores_that_are_missing_are_not_compared() -> None:
    policy = Policy(name="x", rules=(Rule(metric="points", suite=Bounds(tolerance=0, margin=1)),))
    whole = Scores(model="a", values={("points", "tam", "qa"): 50.0, ("points", "tha", "qa"): 60.0})
    part = Scores(model="b", values={("points", "tam", "qa"): 50.0})
    with pytest.raises(Incomparable, match="b has no score for points/tha/qa"):
        judge_scores(policy, "x/s", whole, [part])
    with pytest.raises(Incomparable, match="does not have there"):
        judge_scores(replace(policy, rules=(replace(policy.rules[0], metric="acc"),)), "x/s", whole, [whole])


def test_raising_a_score_never_turns_a_pass_into_a_fail() -> None:
    policy, table = read_policy(POLICIES / "sea-lion" / "merge.toml"), HISTORY["table"]()
    merged, parent = table["Merge-2-Llama"], table["Merge-1-Llama"]
    for key in merged.values:
        for more in (0.5, 5.0, 40.0):
            raised = replace(merged, values={**merged.values, key: merged.values[key] + more})
            assert judge_scores(policy, "x/merge", raised, [parent]).verdict == "pass", (key, more)


def test_the_page_and_the_plot_are_current() -> None:
    page = (DOCS / "gate-history.md").read_text("utf-8")
    assert HISTORY["BLOCK"].search(page) and HISTORY["rewritten"](page) == page, "run python docs/gate_history.py"
    assert (DOCS / "gate-history" / "plot.svg").read_text("utf-8") == HISTORY["plot"](), "run python docs/gate_history.py"
    texts = [element.text for element in ElementTree.fromstring(HISTORY["plot"]()).iter() if element.text]
    assert {"35.4", "26.4", "9 repaid", "4 repaid"} <= set(texts)


@pytest.mark.skipif(not FACTS.exists(), reason="the facts pages are not here")
def test_the_table_is_the_paper_s() -> None:
    rows = [
        line.strip("| \n").replace("*", "").split(" | ")
        for line in FACTS.read_text("utf-8").splitlines()
        if line.startswith("| ")
    ]
    printed = {row[0]: [float(value) for value in row[1:]] for row in rows if row[0] in HISTORY["table"]() and len(row) == 12}
    assert len(printed) == 16
    assert {name: list(one.values.values()) for name, one in HISTORY["table"]().items()} == printed
