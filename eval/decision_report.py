"""A gate decision for people and CI: a Markdown summary and a JUnit file, the same bytes for the same decision."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree

from ..catalog.records import GateDecision, Outcome

ROWS = 400
"""Rows of the Markdown table: GitHub cuts a step's summary at 1 MiB. What does not pass comes first."""
_ORDER = {"error": 0, "fail": 1, "hold": 2, "pass": 3}


def markdown(decision: GateDecision) -> str:
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
    if decision.outcomes:
        lines += ["", *_table(decision.outcomes)]
    return "\n".join(lines) + "\n"


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
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(suite, encoding="unicode") + "\n"


def _message(outcome: Outcome) -> str:
    return (
        f"difference {outcome.delta:+.4f}, lower bound {outcome.lower:+.4f}, tolerance {outcome.tolerance:g}, "
        f"margin {outcome.margin:g}, p {outcome.p_value:.3g}, {outcome.items} items in {outcome.clusters} clusters"
    )
