"""A gate decision as one self-contained page: the verdict, the evidence as forest plots, what broke with both answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..catalog.fingerprint import plain
from ..catalog.markup import Child, Html, inside, tag
from ..catalog.pages.frame import framed
from ..catalog.pages.gates import counted, evidence
from ..catalog.pages.parts import badge, clipped, language_name, ref, section, table
from ..catalog.records import GateDecision
from .broken import some_of_each
from .decision_report import loan_line

LISTED = 60
"""Items in the page's table, some of every task and language; `broken.parquet` has more."""


def decision_page(decision: GateDecision, broken: Sequence[Mapping[str, Any]]) -> str:
    """The page's HTML; a model's words are shown as text, whatever they hold."""
    outcomes = [plain(outcome) for outcome in decision.outcomes]
    against = [inside(", " if i else "", ref(name)) for i, name in enumerate(decision.baselines)]
    lead = inside(badge(decision.verdict), " ", ref(decision.model), " for ", tag("strong", decision.stage))
    parts = [
        section(
            "verdict",
            "The verdict",
            f"{decision.reason[:1].upper()}{decision.reason[1:]}.",
            tag("p", "Policy ", tag("strong", decision.policy), f" ({decision.policy_fingerprint[:12]}), compared with ",
                against or "nothing but floors", "."),
            tag("p", f"Tests: {counted(outcomes)}." if outcomes else "No test was made."),
            _list("Notes", decision.notes),
            _list("Loans taken", [loan_line(loan) for loan in decision.loans]),
            _list("Loans repaid", [loan_line(loan) for loan in decision.repaid]),
        ),
        section(
            "evidence",
            "The evidence",
            "Each line is a difference between candidate and baseline on the same items, turned so that right of zero is "
            "better, with its confidence bounds; the dotted tick is the margin.",
            evidence(outcomes),
        ),
        section("broken", "Newly broken items", _intro(broken), _broken(broken)),
    ]  # fmt: skip
    return framed("decision.html", f"Gate {decision.stage}", lead, parts, ())


def _list(heading: str, entries: Sequence[str]) -> Html | None:
    return inside(tag("h3", heading), tag("ul", [tag("li", entry) for entry in entries])) if entries else None


def _intro(broken: Sequence[Mapping[str, Any]]) -> str:
    if not broken:
        return "No item is answered worse than by a baseline."
    counts = {(row["baseline"], row["task"], row["language"], row["metric"]): row["worse"] for row in broken}
    return f"{sum(counts.values()):,} answers score below a baseline's; the worst of each task are listed."


def _broken(broken: Sequence[Mapping[str, Any]]) -> Html | None:
    shown = some_of_each(broken, LISTED)
    is_among_several = len({row["baseline"] for row in broken}) > 1
    body: list[list[Child]] = [
        [
            row["task"], language_name(row["language"]), _short(row["item"]), row["metric"], float(row["was"]),
            float(row["now"]), *([row["baseline"].partition("/")[2]] if is_among_several else []),
            clipped(row["baseline_answer"]), clipped(row["candidate_answer"]), clipped(row["target"]),
        ]
        for row in shown
    ]  # fmt: skip
    answers = [*(["Baseline"] if is_among_several else []), "Baseline answered", "Candidate answered", "Right"]
    headings = ["Task", "Language", "Item", "Metric", "Was", "Now", *answers]
    more = tag("p", f"{len(broken) - LISTED} more are in broken.parquet.") if len(broken) > LISTED else None
    return inside(table(headings, body, listed=LISTED), more) if body else None


def _short(name: str, longest: int = 12) -> Child:
    """A name that leaves room for the answers; whole where it is short, and on asking."""
    return name if len(name) <= longest else tag("span", f"{name[: longest - 4]}…", title=name)
