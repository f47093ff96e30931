"""AdamW over fp32 master weights, and the step that is skipped when a gradient is not finite.

Torch's fused AdamW is driven through its `found_inf` input: a bad step leaves weights, moments and step counters untouched
without a copy to the host. `eps` is 1e-15 (the paper's), which asks for fp32 moments: quantised ones would divide by it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from .recipe import Optimizer


def adamw(model: nn.Module, settings: Optimizer, peak: float) -> torch.optim.AdamW:
    """AdamW that decays matrices only; the learning rate is set before every step, `peak` is the largest.

    Torch scales weights by `1 - lr * weight_decay`; the decoupled form, `1 - lr / peak * weight_decay`, is the same with
    `weight_decay / peak`.
    """
    decay = settings.weight_decay / (peak if settings.decay_form == "decoupled" else 1.0)
    groups = [
        {"params": [parameter for _, parameter in decayed(model)], "weight_decay": decay},
        {"params": [parameter for _, parameter in undecayed(model)], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=0.0,
        betas=(settings.beta1, settings.beta2),
        eps=settings.eps,
        fused=True,
    )


def decayed(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The matrices: every parameter of two dimensions that is not an embedding."""
    return [(name, parameter) for name, parameter in model.named_parameters() if _is_matrix(name, parameter)]


def undecayed(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Norms, biases and embeddings (a tied head is the embedding)."""
    return [(name, parameter) for name, parameter in model.named_parameters() if not _is_matrix(name, parameter)]


def _is_matrix(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim >= 2 and "embed_tokens" not in name


def clipped_norm(model: nn.Module, largest: float) -> Tensor:
    """Scale the gradients so that their global norm is at most `largest`; returns the norm before, a scalar."""
    norm = nn.utils.clip_grad_norm_(model.parameters(), largest)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def step_if_finite(optimizer: torch.optim.AdamW, lr: float, loss: Tensor, norm: Tensor) -> Tensor:
    """Take one step at `lr` unless loss or gradient norm is not finite; returns 1.0 where it was skipped, a scalar."""
    for group in optimizer.param_groups:
        group["lr"] = lr
    skipped = (~(torch.isfinite(norm) & torch.isfinite(loss))).float()
    optimizer.grad_scale = None  # type: ignore[attr-defined]
    optimizer.found_inf = skipped  # type: ignore[attr-defined]
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return skipped
