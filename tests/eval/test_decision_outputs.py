"""What a gate leaves for people and CI: workflow_commands, summary, JSON, the page, and the items that broke."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sea_lion.catalog.records import GateDecision, Loan, Outcome, Score, Scorecard, Verdict
from sea_lion.eval.broken import Side, broken_items, write_broken
from sea_lion.eval.decision_page import decision_page
from sea_lion.eval.decision_report import ANNOTATIONS, SUMMARY_BYTES, as_json, markdown, workflow_commands


def outcome(node: str, verdict: Verdict, level: str = "language") -> Outcome:
    return Outcome(
        baseline="checkpoint/old@1", level=level, node=node, metric=node.split("/")[0], candidate_value=0.4, baseline_value=0.5,
        delta=-0.1, lower=-0.15, upper=-0.05, tolerance=0.02, margin=0.06, p_value=0.001, items=100, clusters=90,
        verdict=verdict,
    )  # fmt: skip


def decision(*outcomes: Outcome, verdict: Verdict = "fail", reason: str = "acc/tha fell", **more: Any) -> GateDecision:
    return GateDecision(
        stage="t/cpt", model="checkpoint/new@1", scorecard="scorecard/new@1", baselines=("checkpoint/old@1",), policy="cpt",
        policy_fingerprint="c" * 64, policy_text='{"name":"cpt"}', verdict=verdict, reason=reason, on_refusal="stop", kept="",
        outcomes=outcomes, **more,
    )  # fmt: skip


LOAN = Loan(
    stage="t/align", node="acc/tam", metric="acc", level="language", lender="checkpoint/old@1", scorecard="scorecard/old@1",
    lost=-0.05, lent=0.1, within=0.03, repay_by="t/final",
)  # fmt: skip


def test_annotations_escape_what_github_reads_and_say_what_they_leave_out() -> None:
    made = workflow_commands(decision(outcome("acc/tha", "fail"), outcome("acc/vie", "hold"), outcome("acc", "pass")))
    assert [line.split(" ")[0] for line in made] == ["::error", "::warning"]
    assert made[0].startswith("::error title=gate t/cpt%3A acc/tha::against checkpoint/old@1: difference -0.1000")
    many = workflow_commands(decision(*(outcome(f"acc/{i}", "fail") for i in range(30))))
    assert len(many) == ANNOTATIONS and many[-1].endswith("21 more nodes; the step's summary lists them")
    wrong = workflow_commands(decision(verdict="error", reason="50% of\nthe items, are: lost"))
    assert wrong == ["::error title=gate t/cpt::50%25 of%0Athe items, are: lost"]


def test_the_summary_stays_below_githubs_limit() -> None:
    text = markdown(decision(outcome("acc", "fail"), notes=("ü" * 2_000_000,)))
    assert len(text.encode()) < SUMMARY_BYTES + 100 and text.endswith("Cut here; `artifact.json` has all of it.\n")


def test_loans_and_notes_are_told_everywhere() -> None:
    made = decision(outcome("acc/tam", "pass"), verdict="pass", loans=(LOAN,), repaid=(LOAN,), notes=("no noise floor",))
    for text in (markdown(made), decision_page(made, [])):
        assert "acc/tam -0.050 against" in text and "due at t/final to within 0.03" in text and "no noise floor" in text
    read = json.loads(as_json(made, {"scorecard/new@1": "ab"}))
    assert read["loans"][0]["repay_by"] == "t/final" and read["policy_text"] == {"name": "cpt"}
    assert read["runs"] == {"scorecard/new@1": "ab"} and read["policy_fingerprint"] == "c" * 64


class Card:
    """A scorecard's tables in a folder."""

    def __init__(self, folder: Path, name: str, values: dict[str, float], answers: dict[str, str] | None = None) -> None:
        self.folder = folder / name
        self.folder.mkdir()
        rows = [{"task": "qa", "language": "ind", "metric": "acc", "item": i, "value": v} for i, v in values.items()]
        pq.write_table(pa.Table.from_pylist(rows), self.folder / "items.parquet")
        self.tables = {"items": "items.parquet"}
        if answers is not None:
            said = [
                {"task": "qa", "language": "ind", "item": i, "turn": 0, "text": a, "target": "B"} for i, a in answers.items()
            ]
            pq.write_table(pa.Table.from_pylist(said), self.folder / "answers.parquet")
            self.tables["answers"] = "answers.parquet"
        score = Score(task="qa", language="ind", metric="acc", value=0.5, stderr=0.1, items=3, higher_is_better=True)
        self.body = Scorecard(model=f"checkpoint/{name}@1", suite="s", suite_fingerprint="f", harness="h", scores=(score,))

    def side(self) -> Side:
        return Side(artifact=self, folder=self.folder)  # type: ignore[arg-type]


def test_broken_items_come_with_both_answers_worst_first_and_counted(tmp_path: Path) -> None:
    new = Card(tmp_path, "new", {"a": 0, "b": 1, "c": 0.5, "d": 0}, {"a": "A|<b>", "c": "C", "d": ""})
    old = Card(tmp_path, "old", {"a": 1, "b": 0, "c": 0.75, "d": 1}, {"a": "B", "c": "B", "d": "B"})
    rows = broken_items(new.side(), old.side(), listed=2)
    assert [(row["item"], row["was"], row["now"], row["worse"]) for row in rows] == [("a", 1, 0, 3), ("d", 1, 0, 3)]
    assert (rows[0]["baseline_answer"], rows[0]["candidate_answer"], rows[0]["target"]) == ("B", "A|<b>", "B")
    write_broken(tmp_path / "broken.parquet", rows)
    assert pq.read_table(tmp_path / "broken.parquet").num_rows == 2
    text = markdown(decision(outcome("acc", "fail")), rows)
    assert "A\\|&lt;b&gt;" in text and "<b>" not in text
    page = decision_page(decision(outcome("acc", "fail")), rows)
    assert "A|&lt;b&gt;" in page and "3 answers score below a baseline" in page


def test_cards_of_before_answers_were_kept_still_tell_the_items(tmp_path: Path) -> None:
    rows = broken_items(Card(tmp_path, "new", {"a": 0}).side(), Card(tmp_path, "old", {"a": 1}).side())
    assert [(row["item"], row["candidate_answer"]) for row in rows] == [("a", "")]
    lower = Card(tmp_path, "low", {"a": 3.0})
    lower.body = replace(lower.body, scores=(replace(lower.body.scores[0], higher_is_better=False),))
    assert [row["now"] for row in broken_items(lower.side(), Card(tmp_path, "base", {"a": 2.0}).side())] == [3.0]
