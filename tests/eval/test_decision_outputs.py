"""What a gate leaves for people and CI: workflow_commands, summary, JSON, the page, and the items that broke."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sea_lion.catalog.errors import CorruptInput
from sea_lion.catalog.records import GateDecision, Loan, Outcome, Score, Scorecard, Verdict
from sea_lion.eval.broken import Side, broken_items, some_of_each, write_broken
from sea_lion.eval.commands import tell_github
from sea_lion.eval.decision_page import decision_page
from sea_lion.eval.decision_report import ANNOTATIONS, SUMMARY_BYTES, as_json, junit, markdown, workflow_commands
from sea_lion.eval.pairing import read_items

from .scorecards import item_row


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


def test_junit_can_be_parsed_whatever_a_name_holds() -> None:
    root = ElementTree.fromstring(
        junit(decision(outcome("acc/\x00\x1b<&>", "hold"), verdict="error", reason="item \x07 \ud800"))
    )
    assert [case.get("name") for case in root] == ["scores can be compared", "acc/\ufffd\ufffd<&> against checkpoint/old@1"]
    assert (root.get("tests"), root.get("errors"), root.get("skipped")) == ("2", "1", "1")


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
        self.tables, self.files = {"items": "items.parquet"}, ()
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


def test_answers_that_are_cut_off_are_one_line(tmp_path: Path) -> None:
    new, old = (Card(tmp_path, name, {"a": value}, {"a": "A"}) for name, value in (("new", 0), ("old", 1)))
    path = new.folder / "answers.parquet"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(CorruptInput, match=r"answers.parquet: is not a table of answers"):
        broken_items(new.side(), old.side())


@pytest.mark.parametrize(
    "column,problem", [("prompt_hash", "it has no column 'prompt_hash'"), ("value", "its values are string, not numbers")]
)
def test_a_table_that_holds_no_items_is_one_line(tmp_path: Path, column: str, problem: str) -> None:
    row = item_row("acc", "tha", 1, 0.5)
    table = pa.Table.from_pylist([{k: v for k, v in row.items() if k != column} if column != "value" else row | {"value": "1"}])
    card = Card(tmp_path, "new", {"a": 0})
    pq.write_table(table, card.folder / "items.parquet")
    with pytest.raises(CorruptInput, match=f"items.parquet: is not a table of items: {problem}"):
        read_items(card.side().artifact, card.folder)


def test_what_is_shown_has_some_of_every_task_and_language() -> None:
    places = [("qa", "ind")] * 30 + [("qa", "tha")] * 3 + [("nli", "tha")]
    rows = [{"task": task, "language": language, "item": i} for i, (task, language) in enumerate(places)]
    assert [row["item"] for row in some_of_each(rows, 6)] == [0, 1, 2, 30, 31, 33]
    assert some_of_each(rows, 100) == rows


def test_a_summary_that_cannot_be_written_does_not_change_the_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "gone" / "summary.md"))
    (tmp_path / "decision.md").write_text("## PASS")
    tell_github(tmp_path)
    assert "gone/summary.md: No such file or directory" in caplog.text


def test_cards_of_before_answers_were_kept_still_tell_the_items(tmp_path: Path) -> None:
    rows = broken_items(Card(tmp_path, "new", {"a": 0}).side(), Card(tmp_path, "old", {"a": 1}).side())
    assert [(row["item"], row["candidate_answer"]) for row in rows] == [("a", "")]
    lower = Card(tmp_path, "low", {"a": 3.0})
    lower.body = replace(lower.body, scores=(replace(lower.body.scores[0], higher_is_better=False),))
    assert [row["now"] for row in broken_items(lower.side(), Card(tmp_path, "base", {"a": 2.0}).side())] == [3.0]
