"""The merge methods as one table: what each is, and how a recipe's fields are called in mergekit.

The table is written out here, and compared with mergekit's own by a test, because importing mergekit takes seconds: a plan, a
merge by the streaming engine and the command line do without it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from .recipe import MergeRecipe, Parent

Values = dict[str, Any]
MOST = 3.4e38
"""The largest number in float32, about."""
SEEDS = 2**32
"""mergekit's generators are sown with less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """How one of our methods is put to mergekit, which calls it by the same name."""

    mergekit: str
    """Its name there."""
    reference: str
    """The paper, or where it is described."""
    takes_base: bool
    """Whether the base's weights take part: as what differences are taken from, or as the one end of an arc. Without, the base
    gives only what is beside the weights."""
    base_optional: bool = False
    """Whether `settings.base_model = false` makes mergekit leave the base out."""
    fewest: int = 1
    """Parents that it needs."""
    most: int | None = None
    """Parents that it takes, None for any number."""
    shared_fields: Mapping[str, str] = field(default_factory=dict)
    """mergekit's parameter of the whole merge -> our field of the recipe."""
    parent_fields: Mapping[str, str] = field(default_factory=dict)
    """mergekit's parameter of one parent -> our field of the parent, or of the recipe where a parent has none of that name."""
    fixed: Mapping[str, bool] = field(default_factory=dict)
    """mergekit's parameters that a recipe cannot set."""

    def shared(self, recipe: MergeRecipe) -> Values:
        """mergekit's parameters of the whole merge, except its own `settings`."""
        return {name: getattr(recipe, ours) for name, ours in self.shared_fields.items()} | dict(self.fixed)

    def per_parent(self, recipe: MergeRecipe, parent: Parent) -> Values:
        """mergekit's parameters of one parent, except its own `settings`."""
        return {name: getattr(parent if hasattr(parent, ours) else recipe, ours) for name, ours in self.parent_fields.items()}


_ARITHMETIC: dict[str, Any] = {
    "takes_base": True,
    "shared_fields": {"normalize": "normalize", "rescale": "rescale", "lambda": "scale"},
    "parent_fields": {"weight": "weight", "density": "density"},
    "fixed": {"int8_mask": False},
}
_DELLA: dict[str, Any] = _ARITHMETIC | {"parent_fields": {"weight": "weight", "density": "density", "epsilon": "epsilon"}}
_BREADCRUMBS: dict[str, Any] = _ARITHMETIC | {"parent_fields": {"weight": "weight"}, "fixed": {}}

METHODS: dict[str, Method] = {
    "linear": Method(
        mergekit="linear",
        reference="https://arxiv.org/abs/2203.05482",
        takes_base=False,
        shared_fields={"normalize": "normalize"},
        parent_fields={"weight": "weight"},
    ),
    "task_arithmetic": Method(mergekit="task_arithmetic", reference="https://arxiv.org/abs/2212.04089", **_ARITHMETIC),
    "ties": Method(mergekit="ties", reference="https://arxiv.org/abs/2306.01708", **_ARITHMETIC),
    "dare_linear": Method(mergekit="dare_linear", reference="https://arxiv.org/abs/2311.03099", **_ARITHMETIC),
    "dare_ties": Method(mergekit="dare_ties", reference="https://arxiv.org/abs/2311.03099", **_ARITHMETIC),
    "della": Method(mergekit="della", reference="https://arxiv.org/abs/2406.11617", **_DELLA),
    "della_linear": Method(mergekit="della_linear", reference="https://arxiv.org/abs/2406.11617", **_DELLA),
    "consensus_ta": Method(
        mergekit="consensus_ta",
        reference="https://arxiv.org/abs/2405.07813",
        takes_base=True,
        shared_fields={"normalize": "normalize", "k": "agreement", "alpha": "scale"},
        parent_fields={"weight": "weight", "tall_lambda": "tall_lambda"},
    ),
    "slerp": Method(mergekit="slerp", reference="https://en.wikipedia.org/wiki/Slerp", takes_base=True, most=1),
    "nuslerp": Method(
        mergekit="nuslerp",
        reference="https://github.com/arcee-ai/mergekit",
        takes_base=True,
        base_optional=True,
        fewest=2,
        most=2,
        parent_fields={"weight": "weight"},
    ),
    "multislerp": Method(
        mergekit="multislerp",
        reference="https://goddard.blog/posts/multislerp-wow-what-a-cool-idea",
        takes_base=True,
        base_optional=True,
        parent_fields={"weight": "weight"},
    ),
    "karcher": Method(mergekit="karcher", reference="https://arxiv.org/abs/2603.04972", takes_base=False),
    "model_stock": Method(mergekit="model_stock", reference="https://arxiv.org/abs/2403.19522", takes_base=True, fewest=2),
    "breadcrumbs": Method(mergekit="breadcrumbs", reference="https://arxiv.org/abs/2312.06795", **_BREADCRUMBS),
    "breadcrumbs_ties": Method(mergekit="breadcrumbs_ties", reference="https://arxiv.org/abs/2312.06795", **_BREADCRUMBS),
    "sce": Method(mergekit="sce", reference="https://arxiv.org/abs/2408.07990", takes_base=True),
    "nearswap": Method(
        mergekit="nearswap",
        reference="https://huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001",
        takes_base=True,
        most=1,
    ),
    "arcee_fusion": Method(mergekit="arcee_fusion", reference="https://arcee.ai", takes_base=True, most=1),
    "ram": Method(mergekit="ram", reference="https://arxiv.org/abs/2601.13572", takes_base=True),
    "ramplus_tl": Method(mergekit="ramplus_tl", reference="https://arxiv.org/abs/2601.13572", takes_base=True),
}
"""Every method a merge recipe may name."""

NEUTRAL: dict[str, float | bool] = {
    "normalize": False, "rescale": False, "scale": 1.0, "epsilon": 0.0, "agreement": 1, "tall_lambda": 1.0,
}  # fmt: skip
"""Fields of a recipe that some methods do not have, with the value that asks for nothing."""


def ignored(recipe: MergeRecipe) -> Iterator[tuple[str, str]]:
    """Key and value of each field by which a recipe asks for what its method does not do."""
    method = METHODS[recipe.method]
    taken = {*method.shared_fields.values(), *method.parent_fields.values()}
    for name, neutral in NEUTRAL.items():
        value = getattr(recipe, name)
        if name not in taken and value is not None and value != neutral:
            yield name, str(value).lower()
    for i, parent in enumerate(recipe.parents):
        if "weight" not in taken and (parent.weight != 1 or parent.layer_weights):
            yield f"parents.{i}.weight", f"{parent.weight:g}"


def unusable(recipe: MergeRecipe) -> Iterator[tuple[str, str]]:
    """Key and problem of each value with which no method makes a model."""
    if not 0 <= recipe.seed < SEEDS:
        yield "seed", f"must be at least 0 and below {SEEDS:,}, not {recipe.seed}"
    if not 0 < abs(recipe.scale) <= MOST:
        yield "scale", f"must be a number of float32 and not 0, which gives the base again; not {recipe.scale:g}"
    weights = [weight for parent in recipe.parents for weight in (parent.weight, *parent.layer_weights)]
    for i, parent in enumerate(recipe.parents):
        large = [weight for weight in (parent.weight, *parent.layer_weights) if abs(weight) > MOST]
        if large:
            yield f"parents.{i}.weight", f"{large[0]:g} is too large for float32"
    if not any(weights):
        yield "parents", "all weights are 0: nothing of a parent would be in the result"
    if recipe.method == "linear" and recipe.normalize and sum(parent.weight for parent in recipe.parents) == 0:
        yield "parents", "the weights sum to 0 and cannot be normalized; change one of them"
