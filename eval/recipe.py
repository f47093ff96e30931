"""Recipes of the eval area: a scorecard, a gate decision, a promotion."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..catalog.recipes import Files, Recipe, Reference

SUITES = Path(__file__).parent / "suites"
"""Definitions and items of the built-in suites."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationRecipe(Recipe):
    """A suite run on a model."""

    kind: Literal["evaluation"]
    model: Reference
    """The checkpoint."""
    suite: str
    """Name of the suite."""
    suite_files: Files = ()
    """Its definition (one TOML file) and items: part of the identity; empty: the built-in suite of that name."""
    heldout: Reference
    """The corpus whose held-out documents bits per byte are measured on."""

    def __post_init__(self) -> None:
        super(EvaluationRecipe, self).__post_init__()
        if not self.suite_files:
            object.__setattr__(self, "suite_files", built_in_suite_files(self.suite))


def built_in_suite_files(suite: str) -> tuple[str, ...]:
    """Patterns of a built-in suite's files; raises ValueError, with the names there are, for a suite that is not built in."""
    if not (SUITES / f"{suite}.toml").is_file():
        known = ", ".join(sorted(path.stem for path in SUITES.glob("*.toml")))
        raise ValueError(f"suite {suite!r} is not built in (there is: {known}); name its files in suite_files")
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


@dataclass(frozen=True, slots=True, kw_only=True)
class PromotionRecipe(Recipe):
    """A stage's alias moved to the model of a gate decision; its `licence` is what the model's card claims."""

    kind: Literal["promotion"]
    decision: Reference
    """The gate decision; must be a pass, unless there is a waiver."""
    waiver: Files = ()
    """A signed waiver file, for a decision that is not a pass."""
