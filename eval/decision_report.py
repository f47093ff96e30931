"""A gate decision for people and CI: Markdown, JUnit, JSON and GitHub's annotations, the same bytes for the same decision."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

from ..catalog.fingerprint import plain
from ..catalog.records import GateDecision, Outcome
from .broken import some_of_each

ROWS = 400
"""Rows of the Markdown table: GitHub cuts a step's summary at 1 MiB. What does not pass comes first."""
BROKEN = 20
"""Newly broken items in the Markdown; the table `broken` has more."""
ANNOTATIONS = 10
"""GitHub shows so many of a kind for a step and drops the rest without a word."""
SUMMARY_BYTES = 1_000_000
"""GitHub refuses a summary above 1 MiB."""
_UNWRITABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_ORDER = {"error": 0, "fail": 1, "hold": 2, "pass": 3}


def markdown(decision: GateDecision, broken: Sequence[Mapping[str, Any]] = ()) -> str:
    """One table with a row a test, the failed and held ones first; made for a CI's step summary."""
    lines = [
        f"## {decision.verdict.upper()}: {decision.model} for {decision.stage}",
        "",
        f"{decision.reason[:1].upper()}{decision.reason[1:]}.",
        "",
        f"Policy `{decision.policy}` ({decision.policy_fingerprint[:12]}), compared with "
        f"{', '.join(f'`{ref}`' for ref in decision.baselines) or 'nothing but floors'}."
        + (f" In its place stands `{decision.kept}`." if decision.kept else ""),
    ]
    lines += _listed("Notes", decision.notes)
    lines += _listed("Loans taken", [loan_line(loan) for loan in decision.loans])
    lines += _listed("Loans repaid", [loan_line(loan) for loan in decision.repaid])
    if decision.outcomes:
        lines += ["", *_table(decision.outcomes)]
    if broken:
        lines += ["", *_broken(broken)]
    text = "\n".join(lines) + "\n"
    cut = text.encode()[:SUMMARY_BYTES].decode(errors="ignore")
    return text if len(cut) == len(text) else f"{cut.rpartition(chr(10))[0]}\n\nCut here; `artifact.json` has all of it.\n"


def loan_line(loan: Any) -> str:
    """A loan in one line."""
    return (
        f"{loan.node} {loan.lost:+.3f} against `{loan.lender}` (lent up to {loan.lent:g}), taken for {loan.stage}, "
        f"due at {loan.repay_by} to within {loan.within:g}"
    )


def _listed(heading: str, entries: Sequence[str]) -> list[str]:
    return ["", f"**{heading}**", "", *(f"- {entry}" for entry in entries)] if entries else []


def _table(outcomes: Sequence[Outcome]) -> list[str]:
    lines = [
        "| verdict | node | baseline | candidate | was | difference | bounds | tolerance | margin | p | items (clusters) |",
        "|---|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    shown = sorted(outcomes, key=lambda outcome: _ORDER[outcome.verdict])
    for o in shown[:ROWS]:
        cells = (
            o.verdict, o.node, o.baseline or "floor", f"{o.candidate_value:.3f}", f"{o.baseline_value:.3f}", f"{o.delta:+.3f}",
            f"{o.lower:+.3f} to {o.upper:+.3f}", f"{o.tolerance:g}", f"{o.margin:g}", f"{o.p_value:.2g}",
            f"{o.items} ({o.clusters})",
        )  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    if len(shown) > ROWS:
        lines += ["", f"{len(shown) - ROWS} more tests are in `artifact.json`."]
    return lines


def _broken(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [
        "<details><summary>Newly broken items</summary>", "",
        "| task | language | item | baseline | was | now | baseline answered | candidate answered | right |",
        "|---|---|---|---|---:|---:|---|---|---|",
    ]  # fmt: skip
    for row in some_of_each(rows, BROKEN):
        names = [_in_cell(str(row[name])) for name in ("task", "language", "item", "baseline")]
        words = [_in_cell(str(row[name])) for name in ("baseline_answer", "candidate_answer", "target")]
        figures = (f"{row['was']:.3g}", f"{row['now']:.3g}")
        lines.append(f"| {' | '.join((*names, *figures, *words))} |")
    if len(rows) > BROKEN:
        lines += ["", f"{len(rows) - BROKEN} more are in `broken.parquet`."]
    return [*lines, "", "</details>"]


def _in_cell(text: str, longest: int = 120) -> str:
    """A model's words, made harmless: no line, no column, no markup of their own."""
    short = " ".join(text.split())
    short = short if len(short) <= longest else short[:longest] + "…"
    for old, new in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "\\|"), ("`", "'")):
        short = short.replace(old, new)
    return short


def as_json(decision: GateDecision, runs: Mapping[str, str]) -> str:
    """All figures, with the policy's digest and the fingerprints of the scorecards (`runs`: reference to fingerprint)."""
    policy = json.loads(decision.policy_text) if decision.policy_text else None
    body = {**plain(decision), "policy_text": policy, "runs": dict(runs)}
    return json.dumps(body, ensure_ascii=False, indent=1, sort_keys=True) + "\n"


def workflow_commands(decision: GateDecision) -> list[str]:
    """Workflow commands for GitHub: an error for a failed node, a warning for a held one or a flag, ten of a kind at most."""
    kinds = {"fail": "error", "hold": "warning"}
    lines = []
    if decision.verdict == "error":
        lines.append(_command("error", f"gate {decision.stage}", decision.reason))
    for verdict, kind in kinds.items():
        found = [outcome for outcome in decision.outcomes if outcome.verdict == verdict]
        shown = found if len(found) <= ANNOTATIONS else found[: ANNOTATIONS - 1]
        for outcome in shown:
            against = outcome.baseline or "floor"
            lines.append(_command(kind, f"gate {decision.stage}: {outcome.node}", f"against {against}: {_message(outcome)}"))
        if len(shown) < len(found):
            rest = f"{len(found) - len(shown)} more nodes; the step's summary lists them"
            lines.append(_command(kind, f"gate {decision.stage}", rest))
    room = ANNOTATIONS - sum(line.startswith("::warning") for line in lines)
    flags = [note for note in decision.notes if note.startswith("flag: ")]
    return lines + [_command("warning", f"gate {decision.stage}", note) for note in flags[: max(room, 0)]]


def _command(kind: str, title: str, message: str) -> str:
    text = _escaped(message)
    named = _escaped(title).replace(":", "%3A").replace(",", "%2C")
    return f"::{kind} title={named}::{text}"


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def junit(decision: GateDecision) -> str:
    """JUnit XML, one test case a node: `failure` is fail, `skipped` is hold, `error` is error."""
    count = {verdict: sum(o.verdict == verdict for o in decision.outcomes) for verdict in _ORDER}
    is_error = decision.verdict == "error"
    suite = ElementTree.Element(
        "testsuite",
        name=f"gate {decision.stage}",
        tests=str(len(decision.outcomes) + 1),
        failures=str(count["fail"]),
        skipped=str(count["hold"]),
        errors=str(int(is_error)),
    )
    comparability = ElementTree.SubElement(suite, "testcase", classname=decision.stage, name="scores can be compared")
    if is_error:
        ElementTree.SubElement(comparability, "error", message=decision.reason)
    for outcome in decision.outcomes:
        against = outcome.baseline or "floor"
        case = ElementTree.SubElement(
            suite, "testcase", classname=f"{decision.stage}.{outcome.level}", name=f"{outcome.node} against {against}"
        )
        element = {"fail": "failure", "hold": "skipped"}.get(outcome.verdict)
        if element:
            ElementTree.SubElement(case, element, message=_message(outcome))
    ElementTree.indent(suite)
    text = ElementTree.tostring(suite, encoding="unicode")
    # What XML 1.0 has no way to write, and a name or an item may hold.
    return '<?xml version="1.0" encoding="utf-8"?>\n' + _UNWRITABLE.sub("\ufffd", text) + "\n"


def _message(outcome: Outcome) -> str:
    return (
        f"difference {outcome.delta:+.4f}, lower bound {outcome.lower:+.4f}, tolerance {outcome.tolerance:g}, "
        f"margin {outcome.margin:g}, p {outcome.p_value:.3g}, {outcome.items} items in {outcome.clusters} clusters"
    )
