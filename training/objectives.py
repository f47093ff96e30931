"""The objectives: what a step's log-probabilities are worth.

All three read the same thing, the log-probability of each label, so that one trainer, one head and one memory profile serve
them. Each gives a sum; the trainer divides it by the units (tokens, pairs) of the whole step over all processes. The mean of
per-micro-batch means, the usual alternative, weighs a token by how many others happen to be in its micro-batch.
Shapes: R rows, T tokens a row, N tokens in the loss, V vocabulary, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from .batches import IGNORED, Batch
from .recipe import TrainRecipe


class LogProbabilities(nn.Module):
    """A causal language model whose forward gives the log-probability of each label, 0 where there is none.

    The head is run on the positions in the loss only. Gemma-2's soft-cap on the logits is applied.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self._cap: float | None = getattr(model.config, "final_logit_softcapping", None)

    def forward(self, batch: Batch) -> Tensor:
        """(R, T) log-probabilities, fp32, nats."""
        hidden_RTD = self.model.model(
            input_ids=batch.input_ids_RT, position_ids=batch.position_ids_RT, attention_mask=None, use_cache=False
        )[0]
        labels = batch.labels_RT.flatten()
        index_N = torch.nonzero(labels != IGNORED).flatten()
        logits_NV = self.model.lm_head(hidden_RTD.flatten(0, 1).index_select(0, index_N)).float()
        if self._cap:
            logits_NV = self._cap * torch.tanh(logits_NV / self._cap)
        labels_N = labels.index_select(0, index_N)
        logp_N = logits_NV.gather(1, labels_N[:, None])[:, 0] - torch.logsumexp(logits_NV, 1)
        return torch.zeros_like(labels, dtype=torch.float32).index_copy(0, index_N, logp_N).view_as(batch.labels_RT)


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
    return (-logsigmoid(recipe.beta * (mean_R[0::2] - mean_R[1::2]) - recipe.gamma) * is_pair).sum()


Objective = Callable[[Tensor, Batch, TrainRecipe], Tensor]

OBJECTIVES: dict[str, Objective] = {"cpt": next_token, "sft": next_token, "simpo": simpo}
"""The recipe's objective to its loss, summed over the batch's units."""
