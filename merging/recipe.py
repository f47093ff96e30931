"""The recipe of a merge."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from ..catalog.recipes import Recipe, Reference
from ..catalog.records import STRICT

PRUNING_METHODS = ("dare_ties", "della_linear")
"""The methods for which a parent's `density` and the `seed` mean something."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parent:
    """One model that goes into a merge."""

    __pydantic_config__ = STRICT

    model: Reference
    weight: float = 1.0
    """Factor on its difference from the base."""
    density: float = 1.0
    """Share of the difference that is kept; 1 switches DARE's and DELLA's pruning off."""

    def __post_init__(self) -> None:
        if not 0 < self.density <= 1:
            raise ValueError(f"density must be above 0 and at most 1, not {self.density:g}")


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeRecipe(Recipe):
    """A merge of checkpoints onto a base."""

    kind: Literal["merge"]
    method: Literal["linear", "dare_ties", "della_linear", "consensus_ta"]
    base: Reference
    """The checkpoint that differences are taken from (for `linear` only the tokenizer's and config's source)."""
    parents: tuple[Parent, ...]
    normalize: bool
    """Divide by the sum of the weights (True) or sum the differences (False). mergekit's default is False for these methods;
    the paper does not say, so a recipe must."""
    scale: float = 1.0
    """mergekit's `lambda` (Consensus-TA's `alpha`): factor on the merged difference."""
    agreement: int = 1
    """Consensus-TA's `k`: parents that must hold an element important for it to be kept."""
    tall_lambda: float = 1.0
    """Consensus-TA: an element matters to a parent when `|tau_i| > tall_lambda * |tau_mt - tau_i|`."""
    epsilon: float = 0.0
    """DELLA: spread of the keep probabilities around the density; unused at density 1."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the arithmetic and of the result."""
    seed: int = 0
    """Of the pruning, where density < 1."""

    def __post_init__(self) -> None:
        super(MergeRecipe, self).__post_init__()
        if not self.parents:
            raise ValueError("parents must name at least one model")
        for problem in self._problems():
            raise ValueError(problem)

    def _problems(self) -> Iterator[str]:
        """What mergekit would refuse late, or ignore without a word."""
        densities = [parent.density for parent in self.parents if parent.density < 1]
        if densities and self.method not in PRUNING_METHODS:
            yield f"density below 1 prunes only under {' or '.join(PRUNING_METHODS)}; {self.method} would ignore it"
        if self.method == "della_linear" and any(not 0 < d - self.epsilon <= d + self.epsilon < 1 for d in densities):
            yield f"density - epsilon and density + epsilon must lie between 0 and 1; epsilon is {self.epsilon:g}"
        if self.method == "linear" and self.scale != 1:
            yield f"scale is a factor on a difference from the base, which linear does not take; not {self.scale:g}"
        if not 1 <= self.agreement <= len(self.parents):
            yield f"agreement must be between 1 and the number of parents ({len(self.parents)}), not {self.agreement}"
        if self.tall_lambda < 0:
            yield f"tall_lambda must not be negative, not {self.tall_lambda:g}"
