"""Recipes of the eval area: a scorecard, a gate decision, a promotion."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..catalog.recipes import Files, Recipe, Reference

SUITES = Path(__file__).parent / "suites"
"""Definitions and items of the built-in suites that a TOML file defines."""
OPENERS: dict[str, str] = {
    "sea_helm_2025": "suites_index:open_sea_helm",
    "sea_helm_2026": "suites_index:open_sea_helm",
    "leaderboard": "suites_index:open_leaderboard",
}
"""Further suites to the function that opens each, `module:function` within this area, called with the job."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationRecipe(Recipe):
    """A suite run on a model."""

    kind: Literal["evaluation"]
    model: Reference
    """The checkpoint."""
    suite: str
    """Name of the suite: `smoke`, `sea_helm_2025`, `sea_helm_2026`, `leaderboard`, or one of your own."""
    suite_files: Files = ()
    """Its definition (one TOML file) and items: part of the identity; empty: the built-in suite of that name."""
    heldout: Reference = ""
    """The corpus whose held-out documents bits per byte are measured on; a suite with such documents needs it."""
    mirror: Reference = ""
    """The mirror that a benchmark's prompts and data are read from."""
    languages: tuple[str, ...] = ()
    """ISO 639-3; empty: all that the suite has."""
    tasks: tuple[str, ...] = ()
    """Tasks of the suite to ask; empty: all. Scorecards of other tasks are another suite to a gate."""
    prompts: Literal["bare", "chat", "base"] = "bare"
    """What stands around a question: nothing, the model's chat template, or the benchmark's plain template for base models."""
    judge: Files = ()
    """The judge of open answers, one TOML file."""
    metricx: Files = ()
    """The scorer of translations, one TOML file."""
    limit: int = 0
    """Most items asked of each task, the same ones each time; 0: all. A scorecard with a limit is never gated."""
    backend: Literal["hf", "vllm", "endpoint"] = "hf"
    """What runs the model: transformers, vLLM, or an endpoint that speaks OpenAI's protocol."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the weights."""
    batch_size: int = 0
    """Requests of a forward pass; 0: as many as the memory budget allows."""
    max_length: int = 0
    """Longest context in tokens; 0: the model's own, or the suite's window where that is shorter."""
    overlap: Reference = ""
    """Which of the suite's items training corpora hold (kind `overlap`): scores are then told with and without them."""
    answers: Reference = ""
    """A scorecard of the same model whose stored answers are scored anew; the model is then not asked."""

    def __post_init__(self) -> None:
        super(EvaluationRecipe, self).__post_init__()
        for name in ("limit", "batch_size", "max_length"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more, not {getattr(self, name)}")
        if not self.suite_files and self.suite not in OPENERS:
            object.__setattr__(self, "suite_files", built_in_suite_files(self.suite))


def built_in_suite_files(suite: str) -> tuple[str, ...]:
    """Patterns of a built-in suite's files; raises ValueError, with the names there are, for a suite that is not built in."""
    if not (SUITES / f"{suite}.toml").is_file():
        known = ", ".join(sorted(path.stem for path in SUITES.glob("*.toml")))
        also = ", ".join(sorted(OPENERS))
        raise ValueError(f"suite {suite!r} is not built in (there is: {known}); name its files in suite_files, or take {also}")
    return (f"package:eval/suites/{suite}.toml", f"package:eval/suites/{suite}/*/*.jsonl")


@dataclass(frozen=True, slots=True, kw_only=True)
class GateRecipe(Recipe):
    """A candidate's scorecard against its baselines' ones under a policy."""

    kind: Literal["gate"]
    stage: str
    """The stage the candidate is for, `tiny-llama/cpt`."""
    candidate: Reference
    """Its scorecard."""
    baselines: tuple[Reference, ...] = ()
    """Scorecards of what it must not be worse than."""
    policy: Files
    """The policy file, `package:eval/policies/cpt.toml`."""
    parent: Reference = ""
    """The checkpoint that stays in the stage's place when the candidate is refused and the policy says `keep-parent`."""
    debts: tuple[Reference, ...] = ()
    """Decisions of the lineage's earlier stages whose loans may be due here."""
    lenders: tuple[Reference, ...] = ()
    """Scorecards of the models that lent."""
    last: Reference = ""
    """Scorecard of the model last promoted to the stage, for rules against `last`."""
    best: Reference = ""
    """Scorecard of the best model that the lineage has promoted so far, for rules against `best`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromotionRecipe(Recipe):
    """A stage's alias moved to the model of a gate decision; its `licence` is what the model's card claims."""

    kind: Literal["promotion"]
    decision: Reference
    """The gate decision; must be a pass, unless there is a waiver."""
    waiver: Files = ()
    """A signed waiver file, for a decision that is not a pass."""
    rolls_back: Reference = ""
    """The promotion that this one takes back; `sea-lion promote --rollback STAGE` writes it."""
    person: str = ""
    """Who takes it back."""
    reason: str = ""
    """Why it is taken back."""
