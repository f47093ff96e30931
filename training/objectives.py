"""The objectives: what a step's log-probabilities are worth.

All read the same thing, the log-probability of each label, so that one trainer, one head and one memory profile serve them,
also one of somebody else's. Each gives a sum; the trainer divides it by the units (tokens, pairs) of the whole step over all
processes. The mean of per-micro-batch means, the usual alternative, weighs a token by how many others happen to be in its
micro-batch. Shapes: R rows, T tokens a row.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import cast

from torch import Tensor
from torch.nn.functional import logsigmoid

from ..catalog.errors import RecipeError
from .batches import IGNORED, Batch
from .recipe import TrainRecipe

Objective = Callable[[Tensor, Batch, TrainRecipe], Tensor]
"""From the log-probabilities (R, T) of a batch's labels, 0 where there is none, to the loss summed over its units, a scalar.

Units are labels; of preference pairs, whose rows are chosen, rejected, chosen, …, they are pairs. It must not copy from the
device.
"""


def next_token(logp_RT: Tensor, batch: Batch, recipe: TrainRecipe) -> Tensor:
    """Negative log-likelihood of all labels, summed: `cpt` and `sft`, which differ in their labels only."""
    return -logp_RT.sum()


def simpo(logp_RT: Tensor, batch: Batch, recipe: TrainRecipe) -> Tensor:
    """SimPO (https://arxiv.org/abs/2405.14734, eq. 6) summed over pairs: rows are chosen, rejected, chosen, ...

    `-logsigmoid(beta * (mean logp chosen - mean logp rejected) - gamma)`, the means over a row's labels; no reference model.
    """
    tokens_R = (batch.labels_RT != IGNORED).sum(1)
    mean_R = logp_RT.sum(1) / tokens_R.clamp_min(1)
    is_pair = (tokens_R[0::2] > 0).float()  # blank rows fill up a process' share
    return (-logsigmoid(recipe.beta * (mean_R[0::2] - mean_R[1::2]) - recipe.margin) * is_pair).sum()


OBJECTIVES: dict[str, Objective] = {"cpt": next_token, "sft": next_token, "simpo": simpo}
"""The recipe's objective to its loss, summed over the batch's units."""


def objective_of(recipe: TrainRecipe) -> Objective:
    """The recipe's objective, imported when it is `module:function`, also from the current folder.

    Raises RecipeError when there is no such function.
    """
    if recipe.objective in OBJECTIVES:
        return OBJECTIVES[recipe.objective]
    name, function = recipe.objective.split(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        found = getattr(import_module(name), function)
    except (ImportError, AttributeError) as error:
        raise RecipeError(str(recipe.ref), "objective", f"{recipe.objective} cannot be imported: {error}") from error
    finally:
        sys.path.pop(0)
    if not callable(found):
        raise RecipeError(str(recipe.ref), "objective", f"{recipe.objective} is not a function")
    return cast(Objective, found)
