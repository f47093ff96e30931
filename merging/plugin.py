"""What is put into mergekit from outside: Consensus-TA, which it no longer has, and a configuration that keeps an order.

mergekit is used as an unmodified library (LGPL-3.0). It dropped Consensus-TA in February 2025; the method is short, so it is
written anew here from the paper instead of pinning an old mergekit beside a new one. Importing this module imports mergekit,
which takes seconds: import it inside functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mergekit.common import ModelReference
from mergekit.config import MergeConfiguration
from mergekit.merge_methods import register, registered_methods
from mergekit.merge_methods.base import (
    BasePolicy,
    GroupMergeMethod,
    InputContract,
    MergeMethodSpec,
    ParameterScope,
    ParameterSpec,
    TensorGroup,
)

from .methods import METHODS


def consensus(
    base: torch.Tensor,
    parents: Sequence[torch.Tensor],
    *,
    weights: Sequence[float],
    tall_lambdas: Sequence[float],
    agreement: int,
    scale: float = 1.0,
    normalize: bool = False,
) -> torch.Tensor:
    """Consensus task arithmetic of one tensor (Wang et al. 2024, https://arxiv.org/abs/2405.07813), in the base's dtype.

    With `tau_i = parent_i - base` and `tau_mt = sum_i weight_i tau_i` (divided by the sum of the weights if `normalize`), an
    element matters to parent i when `|tau_i| > tall_lambda_i |tau_mt - tau_i|`. Elements that matter to at least `agreement`
    parents take `base + scale * tau_mt`, the others stay the base's. The arithmetic is in float32 at least: differences of
    fine-tuned bfloat16 weights are a few units in the last place.
    """
    dtype = torch.promote_types(base.dtype, torch.float32)
    origin = base.to(dtype)
    merged = torch.zeros_like(origin)
    for parent, weight in zip(parents, weights, strict=True):
        merged += weight * (parent.to(dtype) - origin)
    total = sum(weights)
    if normalize and abs(total) >= 1e-8:
        merged /= total
    votes = torch.zeros_like(origin, dtype=torch.int32)
    for parent, tall_lambda in zip(parents, tall_lambdas, strict=True):
        difference = parent.to(dtype) - origin
        votes += difference.abs() > tall_lambda * (merged - difference).abs()
    merged *= votes >= agreement
    return (origin + scale * merged).to(base.dtype)


class ConsensusTA(GroupMergeMethod):  # type: ignore[misc]  # mergekit is untyped
    """`consensus` as a mergekit merge method."""

    spec = MergeMethodSpec(
        name="consensus_ta",
        pretty_name="Consensus Task Arithmetic",
        reference_url=METHODS["consensus_ta"].reference,
        contract=InputContract(base=BasePolicy.REQUIRED, min_non_base=1),
        parameters=(
            ParameterSpec("weight", float, ParameterScope.NON_BASE, default=1.0),
            ParameterSpec("tall_lambda", float, ParameterScope.NON_BASE, default=1.0),
            ParameterSpec("k", int, ParameterScope.SHARED, default=1),
            ParameterSpec("alpha", float, ParameterScope.SHARED, default=1.0),
            ParameterSpec("normalize", bool, ParameterScope.SHARED, default=False),
        ),
    )

    @torch.no_grad()
    def merge_group(self, group: TensorGroup, /, **parameters: Any) -> torch.Tensor:
        """Merge the tensors of one name."""
        base, parents = group.base, group.non_base
        assert base is not None  # the contract requires it
        return consensus(
            base.tensor,
            [entry.tensor for entry in parents],
            weights=parameters["weight"].values_for(parents),
            tall_lambdas=parameters["tall_lambda"].values_for(parents),
            agreement=parameters["k"],
            scale=parameters["alpha"],
            normalize=parameters["normalize"],
        )


class OrderedConfiguration(MergeConfiguration):  # type: ignore[misc]  # mergekit is untyped
    """mergekit's configuration, with its models in the order of their paths.

    mergekit lists them in the order of a set of texts, which differs from process to process, and takes the first one's
    configuration and tokenizer where the method has no base.
    """

    def referenced_models(self) -> list[ModelReference]:
        """Every model named, sorted."""
        return sorted(super().referenced_models(), key=str)


def register_methods() -> None:
    """Make our methods known to mergekit; a second call changes nothing."""
    if all(method.spec.name != ConsensusTA.spec.name for method in registered_methods()):
        register(ConsensusTA())
