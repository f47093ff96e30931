"""The one head of all objectives: the log-probability of each label, without ever holding the logits of all positions.

A vocabulary of 256,000 makes the logits of a sequence of 8,192 tokens 8 GB in fp32, more than all else that is kept for it. So
logits exist for a chunk of positions at a time, and the backward pass computes them again: one more matrix product, 2 to 3% of
a step of an 8B model. Fused losses (Liger's) were refused: each serves one loss, runs on a GPU only, and knows no soft-cap.

With `z` the raw logits, `s = cap * tanh(z / cap)` the capped ones and `p = softmax(s)`, `logp = s[label] - logsumexp(s)` and
`dlogp / dz = (onehot(label) - p) * (1 - (s / cap)^2)`. Matrix products run in the weights' precision, all else, also the sum of
the weights' gradient over chunks, in fp32. Shapes: R rows, T tokens a row, M = R * T, N of them in the loss, C in a chunk, D
width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from .attention import batch_layout
from .batches import Batch


class Head(nn.Linear):
    """A language model's output layer that gives log-probabilities of labels instead of logits, when there are labels."""

    def __init__(self, layer: nn.Linear, cap: float | None, chunk: int) -> None:
        """Stand in for `layer`, with its own parameters; `cap` is the logits' soft-cap, `chunk` positions exist at a time."""
        super().__init__(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
        self.weight, self.bias = layer.weight, layer.bias
        self.cap, self.chunk = cap, chunk

    def forward(self, input: Tensor, labels_RT: Tensor | None = None, trained_N: Tensor | None = None) -> Tensor:
        """Logits, not capped, of hidden states (R, T, D); or the log-probabilities of labels, see `label_logp`."""
        if labels_RT is None or trained_N is None:
            return linear(input, self.weight, self.bias)
        return label_logp(input, self.weight, self.bias, labels_RT, trained_N, cap=self.cap, chunk=self.chunk)


class LogProbabilities(nn.Module):
    """A causal language model of transformers as a function from a batch to the log-probabilities of its labels.

    The head is called, not read, so that hooks that bring together its divided weights run.
    """

    def __init__(self, model: Any, chunk: int = 1024, precision: str = "fp32") -> None:
        """Wrap `model`, whose decoder is `model.model` and whose output layer `model.lm_head`.

        `chunk` bounds the logits; `precision` only says what whoever divides the model has the computation done in.
        """
        super().__init__()
        model.lm_head = Head(model.lm_head, getattr(model.config, "final_logit_softcapping", None), chunk)
        self.model, self.precision = model, precision

    def forward(self, batch: Batch) -> Tensor:
        """fp32 log-probabilities (R, T) of the batch's labels, 0 where there is none."""
        hidden_RTD = self.model.model(
            input_ids=batch.input_ids_RT,
            position_ids=batch.position_ids_RT,
            use_cache=False,
            layout=batch_layout(batch, self.model.config),
        ).last_hidden_state
        return cast(Tensor, self.model.lm_head(hidden_RTD, batch.labels_RT, batch.trained_N))


def label_logp(
    hidden_RTD: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    labels_RT: Tensor,
    trained_N: Tensor,
    *,
    cap: float | None = None,
    chunk: int = 1024,
) -> Tensor:
    """fp32 log-probabilities (R, T) of labels under a linear head; 0, and no gradient, at flat positions not in `trained_N`."""
    apply: Any = _LabelLogp.apply
    return cast(Tensor, apply(hidden_RTD, weight_VD, bias_V, labels_RT, trained_N, cap, chunk))


def _logits(hidden_CD: Tensor, weight_VD: Tensor, bias_V: Tensor | None, cap: float | None) -> Tensor:
    logits_CV = linear(hidden_CD, weight_VD, bias_V).float()
    return logits_CV.div_(cap).tanh_().mul_(cap) if cap else logits_CV


def _chunks(trained_N: Tensor, positions: int, chunk: int) -> Iterator[Tensor | slice]:
    """What to index with: slices, which copy nothing, where every position is in the loss."""
    if len(trained_N) == positions:
        return (slice(start, start + chunk) for start in range(0, positions, chunk))
    return (trained_N[start : start + chunk] for start in range(0, len(trained_N), chunk))


class _LabelLogp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_RTD: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        labels_RT: Tensor,
        trained_N: Tensor,
        cap: float | None,
        chunk: int,
    ) -> Tensor:
        hidden_MD, labels_M = hidden_RTD.flatten(0, -2), labels_RT.flatten()
        logp_RT = torch.zeros(labels_RT.shape, dtype=torch.float32, device=hidden_MD.device)
        logp_M = logp_RT.view(-1)  # what leaves must not be a view: hooks on it would not survive a change in place
        total_M = torch.zeros_like(logp_M)
        logits_CV: Tensor | None = None
        for place in _chunks(trained_N, len(labels_M), chunk):
            logits_CV = _logits(hidden_MD[place], weight_VD, bias_V, cap)
            total_M[place] = total_C = logits_CV.logsumexp(1)
            logp_M[place] = logits_CV.gather(1, labels_M[place, None]).squeeze(1) - total_C
        ctx.save_for_backward(hidden_RTD, weight_VD, bias_V, labels_RT, trained_N, total_M)
        ctx.cap, ctx.chunk = cap, chunk
        ctx.last_CV = logits_CV  # the backward pass begins where this one ends: one chunk less to compute again
        return logp_RT

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """The chunks' logits once more, and the gradients of hidden states, weight and bias from them."""
        hidden_RTD, weight_VD, bias_V, labels_RT, trained_N, total_M = ctx.saved_tensors
        hidden_MD, labels_M, grad_M = hidden_RTD.flatten(0, -2), labels_RT.flatten(), gradients[0].flatten()
        grad_hidden_MD = torch.zeros_like(hidden_MD)
        grad_weight_VD = torch.zeros_like(weight_VD, dtype=torch.float32)
        grad_bias_V = torch.zeros(len(weight_VD), dtype=torch.float32, device=weight_VD.device)
        for place in reversed(list(_chunks(trained_N, len(labels_M), ctx.chunk))):
            hidden_CD, grad_C1 = hidden_MD[place], grad_M[place, None]
            logits_CV = _logits(hidden_CD, weight_VD, bias_V, ctx.cap) if ctx.last_CV is None else ctx.last_CV
            ctx.last_CV = None
            slope_CV = (logits_CV / ctx.cap).square_().neg_().add_(1) if ctx.cap else None
            grad_CV = logits_CV.sub_(total_M[place, None]).exp_().mul_(-grad_C1)
            grad_CV.scatter_add_(1, labels_M[place, None], grad_C1)
            grad_CV = (grad_CV if slope_CV is None else grad_CV.mul_(slope_CV)).to(hidden_MD.dtype)
            grad_hidden_MD[place] = grad_CV @ weight_VD
            if hidden_CD.dtype == torch.float32:
                grad_weight_VD.addmm_(grad_CV.T, hidden_CD)
            else:
                grad_weight_VD += grad_CV.T @ hidden_CD
            if bias_V is not None:
                grad_bias_V += grad_CV.sum(0, dtype=torch.float32)
        grad_bias = None if bias_V is None else grad_bias_V.to(bias_V.dtype)
        return grad_hidden_MD.view_as(hidden_RTD), grad_weight_VD.to(weight_VD.dtype), grad_bias, None, None, None, None
