"""The recipe of a merge: every setting has its value here, also those that were left to a default.

What a method does where a recipe is silent differs by method (`normalize` is False for DARE-TIES and True for TIES), and
decides the result; so the defaults, which are mergekit's, go into the recipe as it is read: the record holds what was done.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from ..catalog.recipes import Recipe, Reference
from ..catalog.records import STRICT

StreamedMethod = Literal[
    "linear", "task_arithmetic", "ties", "dare_linear", "dare_ties", "della", "della_linear", "consensus_ta"
]  # fmt: skip
MergekitMethod = Literal[
    "slerp", "nuslerp", "multislerp", "karcher", "model_stock", "breadcrumbs", "breadcrumbs_ties", "sce", "nearswap",
    "arcee_fusion", "ram", "ramplus_tl",
]  # fmt: skip
"""Methods that mergekit alone has."""
Pruned = Literal["magnitude", "random", "rank"]
PRUNING: dict[str, Pruned] = {
    "ties": "magnitude", "dare_linear": "random", "dare_ties": "random", "della": "rank", "della_linear": "rank",
}  # fmt: skip
"""Which elements of a difference the streamed methods keep at a density below 1: the largest, any, or rather the large ones."""
NORMALIZED = ("linear", "ties", "della")
"""The methods that divide by the weights unless the recipe says otherwise."""
RESCALED = ("dare_linear", "dare_ties", "della", "della_linear")
"""The methods that scale up what pruning has left unless the recipe says otherwise."""
DELLA_EPSILON = 0.15
Setting = float | int | bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Parent:
    """One model that goes into a merge."""

    __pydantic_config__ = STRICT

    model: Reference
    weight: float = 1.0
    """Factor on its difference from the base (`linear`: on the model)."""
    layer_weights: tuple[float, ...] = ()
    """A weight for each of so many equally large groups of layers, the lowest first, in place of `weight`, which then holds for
    what lies outside the layers: embeddings, the last norm, the head."""
    density: float = 1.0
    """Share of the difference that is kept; 1 switches pruning off."""
    settings: dict[str, Setting] = field(default_factory=dict)
    """mergekit's own settings of this parent, by their names there; only for the methods that mergekit alone has."""

    def __post_init__(self) -> None:
        if not 0 < self.density <= 1:
            raise ValueError(f"density must be above 0 and at most 1, not {self.density:g}")

    def weight_at(self, layer: int | None, layers: int) -> float:
        """The weight in a layer, from 0, of a model with so many; None is outside of the layers."""
        if layer is None or not self.layer_weights:
            return self.weight
        return self.layer_weights[layer * len(self.layer_weights) // layers]


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeRecipe(Recipe):
    """A merge of checkpoints onto a base."""

    kind: Literal["merge"]
    method: Literal[StreamedMethod, MergekitMethod]
    engine: Literal["streaming", "mergekit"] = "streaming"
    """`streaming`: this platform's, in little memory, for the methods that work element by element. `mergekit`: any method."""
    base: Reference
    """The checkpoint that differences are taken from (for `linear` only the source of what is beside the weights)."""
    parents: tuple[Parent, ...]
    normalize: bool | None = None
    """Divide by the sum of the weights (True) or sum the differences (False). Default: mergekit's, True for linear, ties and
    della, False for the others."""
    scale: float = 1.0
    """mergekit's `lambda` (Consensus-TA's `alpha`): factor on the merged difference."""
    rescale: bool | None = None
    """Scale what pruning has left so that the sum of magnitudes stays. Default: mergekit's, True for DARE and DELLA."""
    agreement: int = 1
    """Consensus-TA's `k`: parents that must hold an element important for it to be kept."""
    tall_lambda: float = 1.0
    """Consensus-TA: an element matters to a parent when `|tau_i| > tall_lambda * |tau_mt - tau_i|`."""
    epsilon: float | None = None
    """DELLA: spread of the keep probabilities around the density. Default: 0.15 where a density is below 1, else 0."""
    settings: dict[str, Setting] = field(default_factory=dict)
    """mergekit's own settings of the whole merge, by their names there; only for the methods that mergekit alone has."""
    dtype: Literal["base", "float32", "bfloat16", "float16"] = "base"
    """Of the result; the arithmetic is in float32. `base`: the dtype of each of the base's tensors."""
    tokenizer: str = "base"
    """Whose tokenizer, chat template and generation settings the result takes: `base`, a parent as `model` names it, or
    `union`, which lets mergekit make one vocabulary of all (engine `mergekit` only)."""
    may_differ: tuple[Literal["tokenizer", "config"], ...] = ()
    """Differences between the models that are no mistake: of the tokenizers (the rows of the embeddings are merged by number),
    of what the configurations say about the computation (RoPE scaling, ...; the base's is kept)."""
    seed: int = 0
    """Of random pruning, where a density is below 1."""

    def __post_init__(self) -> None:
        super(MergeRecipe, self).__post_init__()
        if not self.parents:
            raise ValueError("parents must name at least one model")
        is_pruned = any(parent.density < 1 for parent in self.parents)
        defaults = {
            "normalize": self.method in NORMALIZED,
            "rescale": self.method in RESCALED,
            "epsilon": DELLA_EPSILON if is_pruned and PRUNING.get(self.method) == "rank" else 0.0,
        }
        for name, value in defaults.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        for problem in self._problems():
            raise ValueError(problem)

    def _problems(self) -> Iterator[str]:
        """What an engine would refuse late, or ignore without a word."""
        is_streamed = self.method in StreamedMethod.__args__  # type: ignore[attr-defined]
        densities = [parent.density for parent in self.parents if parent.density < 1]
        epsilon = self.epsilon or 0.0
        if self.engine == "streaming" and not is_streamed:
            yield f'{self.method} works on whole tensors: say engine = "mergekit"'
        if self.engine == "streaming" and self.tokenizer == "union":
            yield 'a tokenizer of all models is made by mergekit: say engine = "mergekit"'
        if self.tokenizer not in ("base", "union", *(parent.model for parent in self.parents)):
            yield f"tokenizer must be base, union or the model of one of the parents, not {self.tokenizer!r}"
        if is_streamed and (self.settings or any(parent.settings for parent in self.parents)):
            yield f"settings are for the methods that mergekit alone has; {self.method} has fields of its own"
        if self.engine == "mergekit" and any(parent.layer_weights for parent in self.parents):
            yield 'layer_weights are for engine = "streaming"'
        if densities and self.method not in PRUNING:
            yield f"density below 1 prunes only under {', '.join(PRUNING)}; {self.method} would ignore it"
        if PRUNING.get(self.method) == "rank" and any(not 0 < d - epsilon <= d + epsilon < 1 for d in densities):
            yield f"density - epsilon and density + epsilon must lie between 0 and 1; epsilon is {epsilon:g}"
        if self.method == "linear" and self.scale != 1:
            yield f"scale is a factor on a difference from the base, which linear does not take; not {self.scale:g}"
        if not 1 <= self.agreement <= len(self.parents):
            yield f"agreement must be between 1 and the number of parents ({len(self.parents)}), not {self.agreement}"
        if self.tall_lambda < 0:
            yield f"tall_lambda must not be negative, not {self.tall_lambda:g}"
