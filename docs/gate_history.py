"""The paper's Table 1 through the shipped policies: `python docs/gate_history.py` prints each verdict and writes page and plot.

The tests run this file's functions and compare what they say with the page.
"""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sea_lion.catalog.markup import Child, tag
from sea_lion.catalog.records import GateDecision, Loan
from sea_lion.eval.loans import outstanding
from sea_lion.eval.objective import suite_mean
from sea_lion.eval.policy import Policy, read_policy
from sea_lion.eval.score_gate import Scores, judge_scores

HERE = Path(__file__).parent
PAGE, PLOT, TABLE = HERE / "gate-history.md", HERE / "gate-history" / "plot.svg", HERE / "gate-history" / "table-1.csv"
POLICIES = HERE.parent / "eval" / "policies" / "sea-lion"
BLOCK = re.compile(r"(```\n\$ python docs/gate_history\.py\n).*?(^```$)", re.MULTILINE | re.DOTALL)
"""Where the page shows what this file prints."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One stage of a published lineage: its model, its policy and those of its parents that the table has."""

    stage: str
    model: str
    policy: str
    parents: tuple[str, ...]


LINEAGES: dict[str, tuple[Step, ...]] = {
    "llama": (
        Step(stage="llama/instruct-2", model="Stage-2-Llama", policy="instruct", parents=("Stage-1-Llama",)),
        Step(stage="llama/merge-1", model="Merge-1-Llama", policy="merge", parents=("Stage-2-Llama", "Stage-1-Llama")),
        Step(stage="llama/merge-2", model="Merge-2-Llama", policy="merge", parents=("Merge-1-Llama", "Llama-3.1-8B-Instruct")),
        Step(stage="llama/align", model="Aligned-SimPO-Llama", policy="align", parents=("Merge-2-Llama",)),
        Step(
            stage="llama/final",
            model="Llama-SEA-LION-v3-8B-IT",
            policy="final",
            parents=("Merge-2-Llama", "Aligned-SimPO-Llama"),
        ),
    ),
    "gemma": (
        Step(stage="gemma/instruct-2", model="Stage-2-Gemma", policy="instruct", parents=("Stage-1-Gemma",)),
        Step(stage="gemma/merge-1", model="Merge-1-Gemma", policy="merge", parents=("Stage-2-Gemma", "Gemma-2-9B-IT")),
        Step(stage="gemma/align", model="Aligned-SimPO-Gemma", policy="align", parents=("Merge-1-Gemma",)),
        Step(
            stage="gemma/final",
            model="Gemma-SEA-LION-v3-9B-IT",
            policy="final",
            parents=("Merge-1-Gemma", "Aligned-SimPO-Gemma"),
        ),
    ),
}
"""The lineages as the paper and the model cards tell them, less parents that Table 1 has no row for."""


def table() -> dict[str, Scores]:
    """Table 1: model to its scores; the columns are `points` of a task in a language, and the printed `average`."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    return {row["model"]: Scores(model=row["model"], values=dict(_cells(row))) for row in rows}


def _cells(row: Mapping[str, str]) -> Iterator[tuple[tuple[str, str, str], float]]:
    for column, value in row.items():
        task, _, language = column.partition("/")
        if column == "average":
            yield ("average", "mul", "average"), float(value)
        elif language:
            yield ("points", language, task), float(value)


def replayed(
    steps: Sequence[Step], policies: Mapping[str, Policy] | None = None, instead: Mapping[str, str] | None = None
) -> list[GateDecision]:
    """Decide on every stage in turn, each refusal ending the lineage; `instead` puts another row of the table for a model."""
    scores, decided = table(), list[GateDecision]()
    for step in steps:
        policy = (policies or {}).get(step.policy) or read_policy(POLICIES / f"{step.policy}.toml")
        promoted = [scores[decision.model] for decision in decided]
        debts = [(loan, scores[loan.lender]) for loan in outstanding(decided)]
        candidate = scores[(instead or {}).get(step.model, step.model)]
        parents = [scores[parent] for parent in step.parents]
        decided.append(
            judge_scores(policy, step.stage, candidate, parents, best=best(promoted, policy), debts=debts)
        )  # fmt: skip
        if decided[-1].verdict != "pass":
            break
    return decided


def best(promoted: Sequence[Scores], policy: Policy) -> Scores | None:
    """The best of some models by what a policy is for."""
    ranked = [(suite_mean(one.values, *policy.measure()) or 0.0, place) for place, one in enumerate(promoted)]
    return promoted[max(ranked)[1]] if ranked else None


def naive(steps: Sequence[Step]) -> list[GateDecision]:
    """Every step under "no average may fall", against the first of its parents."""
    policy, scores = read_policy(POLICIES / "naive.toml"), table()
    order = [steps[0].parents[0], *(step.model for step in steps)]
    return [
        judge_scores(policy, step.stage, scores[step.model], [scores[was]])
        for step, was in zip(steps, order[:-1], strict=True)
    ]  # fmt: skip


def lines() -> Iterator[str]:
    """What is printed: for each stage both verdicts, with loans, repayments and flags."""
    for name, steps in LINEAGES.items():
        yield f"{name}: shipped policies, and the naive rule on the same step"
        for decision, plain in zip(replayed(steps), naive(steps), strict=True):
            (average,) = plain.outcomes
            fall = f"average {average.baseline_value:.2f} -> {average.candidate_value:.2f}"
            yield f"  {decision.stage:17s}{decision.verdict:6s}naive: {plain.verdict:6s}{fall}  {decision.model}"
            yield from (f"    lent    {_loan(loan)}" for loan in decision.loans)
            yield from (f"    repaid  {_loan(loan)}, back to {_back(decision, loan):+.2f}" for loan in decision.repaid)
            yield from (f"    flag    {note.removeprefix('flag: ')}" for note in decision.notes if note.startswith("flag: "))
    (*_, refused) = replayed(LINEAGES["llama"], instead={"Llama-SEA-LION-v3-8B-IT": "Aligned-SimPO-Llama"})
    yield f"llama, with the aligned model sent out as it is: {refused.verdict}"
    yield from (f"    {part}" for part in refused.reason.split("; "))


def _loan(loan: Loan) -> str:
    return f"{_where(loan):22s}{loan.lost:+7.2f} against {loan.lender}"


def _where(loan: Loan) -> str:
    name = loan.node.removeprefix("points").replace("(!if-eval,!mt-bench)", "core").replace("(", "").replace(")", "")
    return name if loan.level != "suite" else f"{name}, the mean"


def _back(decision: GateDecision, loan: Loan) -> float:
    """How far from the lender the candidate is now."""
    return next(
        o.delta for o in decision.outcomes if o.node == loan.node and o.baseline == loan.lender and o.margin == loan.within
    )


# -- the plot ------------------------------------------------------------------------------------------------------------------

CURVES: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "instructions": ("#0072b2", (), ("if-eval",)),
    "conversation": ("#e69f00", (), ("mt-bench",)),
    "core, 4 languages": ("#333333", (), ("core",)),
    "core, Tamil": ("#c0392b", ("tam",), ("core",)),
}
"""Name to colour, languages and tasks of each curve."""
WIDTH, HEIGHT, LEFT, GAP, TOP, CHART = 980.0, 516.0, 52.0, 70.0, 66.0, 310.0
LOW, HIGH = 20.0, 95.0
SIGNS = {"pass": ("✓", "#1a7f37"), "fail": ("✕", "#c0392b")}


def plot() -> str:
    """The plot: both lineages, what each stage scored, and what the naive rule and the shipped policies say of it."""
    floor = next(f.value for f in read_policy(POLICIES / "final.toml").floors if f.language == "tam")
    width = (WIDTH - 2 * LEFT - GAP) / 2
    panels = [_panel(name, LEFT + place * (width + GAP), width, floor) for place, name in enumerate(LINEAGES)]
    title = "Scores of both published lineages stage by stage, with the verdicts of the naive rule and of the shipped policies"
    drawing = tag(
        "svg",
        tag("title", title),
        tag("rect", width="100%", height="100%", fill="#ffffff"),
        _legend(),
        *panels,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {WIDTH:.0f} {HEIGHT:.0f}",
        role="img",
        font_family="system-ui, sans-serif",
        font_size="12",
        fill="#333333",
    )
    return f"{drawing}\n"


def _legend() -> Child:
    parts: list[Child] = []
    x = LEFT
    for name, (colour, _, _) in CURVES.items():
        parts.append(tag("line", x1=x, x2=x + 22, y1=20, y2=20, stroke=colour, stroke_width="2.5"))
        parts.append(_text(x + 28, 24, name))
        x += 46 + 6.6 * len(name)
    parts.append(tag("line", x1=x, x2=x + 22, y1=20, y2=20, stroke="#c0392b", stroke_dasharray="3 3"))
    parts.append(_text(x + 28, 24, "floor for Tamil: flagged below it, fatal for the last stage"))
    return tag("g", *parts)


def _panel(name: str, left: float, width: float, floor: float) -> Child:
    steps, scores = LINEAGES[name], table()
    decided, plain = replayed(steps), naive(steps)
    models = [steps[0].parents[0], *(step.model for step in steps)]
    xs = [left + 14 + (width - 28) * place / (len(models) - 1) for place in range(len(models))]

    def y(value: float) -> float:
        return TOP + CHART * (HIGH - value) / (HIGH - LOW)

    parts: list[Child] = [_text(left, TOP - 12, f"{name.capitalize()} lineage", font_weight="bold", font_size="14")]
    for value in range(20, 100, 10):
        parts.append(tag("line", x1=left, x2=left + width, y1=y(value), y2=y(value), stroke="#e6e6e6"))
        parts.append(_text(left - 6, y(value) + 4, str(value), text_anchor="end", fill="#777777"))
    parts.append(tag("line", x1=left, x2=left + width, y1=y(floor), y2=y(floor), stroke="#c0392b", stroke_dasharray="3 3"))
    for colour, languages, tasks in CURVES.values():
        values = [suite_mean(scores[model].values, "points", languages, tasks) or 0.0 for model in models]
        points = " ".join(f"{x:.1f},{y(value):.1f}" for x, value in zip(xs, values, strict=True))
        parts.append(tag("polyline", points=points, fill="none", stroke=colour, stroke_width="2.5"))
        parts += [tag("circle", cx=x, cy=y(v), r="3.4", fill=colour) for x, v in zip(xs, values, strict=True)]
        if languages:
            flagged = zip(xs[1:], values[1:], decided, strict=True)
            parts += [
                _text(x - 4, y(v) + 16, f"{v:.1f}", fill=colour, text_anchor="end")
                for x, v, d in flagged
                if v < floor and d.notes
            ]
    return tag("g", *parts, *_verdicts(left, xs, decided, plain))


def _verdicts(
    left: float, xs: Sequence[float], decided: Sequence[GateDecision], plain: Sequence[GateDecision]
) -> Iterator[Child]:
    """Below a panel: the stages, and for each both verdicts, loans and repayments."""
    bottom = TOP + CHART
    labels = [
        "stage 1",
        *(decision.stage.partition("/")[2].replace("instruct-", "stage ").replace("-", " ") for decision in decided),
    ]
    for x, label in zip(xs, labels, strict=True):
        yield _text(x, bottom + 22, label, text_anchor="middle")
    for row, (what, decisions) in enumerate((("no average may fall", plain), ("shipped policies", decided))):
        top = bottom + 50 + 44 * row
        yield _text(left, top, what, fill="#777777", font_size="11")
        for x, decision in zip(xs[1:], decisions, strict=True):
            sign, colour = SIGNS[decision.verdict]
            yield _text(x, top + 19, sign, text_anchor="middle", fill=colour, font_size="17", font_weight="bold")
    for x, decision in zip(xs[1:], decided, strict=True):
        counts = ((len(decision.loans), "lent"), (len(decision.repaid), "repaid"))
        words = ", ".join(f"{count} {word}" for count, word in counts if count)
        yield _text(x, bottom + 128, words, text_anchor="middle", font_size="11")


def _text(x: float, y: float, words: str, **attributes: str) -> Child:
    return tag("text", words, x=f"{x:.1f}", y=f"{y:.1f}", **attributes)


def rewritten(page: str) -> str:
    """The page with what is printed now."""
    return BLOCK.sub(lambda found: f"{found[1]}{chr(10).join(lines())}\n{found[2]}", page)


if __name__ == "__main__":
    sys.stdout.write("\n".join(lines()) + "\n")
    PLOT.write_text(plot(), "utf-8")
    PAGE.write_text(rewritten(PAGE.read_text("utf-8")), "utf-8")
