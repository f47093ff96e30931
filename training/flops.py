"""Floating-point operations of training a token, and what share of a device's peak a run reaches (MFU).

A token takes `6 * N` operations in the matrices, two for each weight in the forward pass and four in the backward pass; `N` are
the weights of all matrix products: the layers' and the head's, also a tied one, but not the embedding, which is a look-up.
Attention adds `12 * H * E * K` for each layer: H heads of width E, and K keys that a token attends to. Two conventions differ
in K for sequences of S tokens:

- full (PaLM's, https://arxiv.org/abs/2204.02311, appendix B): K = S in every layer, as if nothing were masked. Most published
  figures.
- causal: the keys that are left by the causal mask, S / 2 on average, and with a window of W < S tokens W * (1 - W / 2S).

`MFU = flops_per_token * tokens_per_second / (devices * peak)`. Documents that are packed into a sequence attend to less still,
which neither convention takes into account, and what is computed twice to save memory is not counted. Counting with a profiler
was refused: it sees operations that a kernel avoids, and cannot be checked by hand.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn

PEAKS = {
    r"NVIDIA H100 80GB HBM3|NVIDIA H200": 989e12,
    r"NVIDIA H100 PCIe": 756e12,
    r"NVIDIA A100-(SXM4|PCIE)-\d0GB|NVIDIA A100 80GB PCIe": 312e12,
}
"""Names of devices, by CUDA, to their dense bf16 peak in operations a second, by NVIDIA's data sheets."""


def flops_per_token(config: Any, sequence_length: int, *, causal: bool) -> float:
    """Operations of training one token, forward and backward, in either convention.

    `config` is the configuration of any dense causal model of transformers.
    """
    head_dim: int = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    window = getattr(config, "sliding_window", None) or sequence_length
    keys = 0.0
    for kind in kinds:
        seen = min(window, sequence_length) if kind == "sliding_attention" else sequence_length
        keys += seen * (1 - seen / (2 * sequence_length)) if causal else sequence_length
    heads: int = config.num_attention_heads
    return 6.0 * matrix_weights(config) + 12.0 * heads * head_dim * keys


def matrix_weights(config: Any) -> int:
    """Weights of all matrix products of a token: those of every linear layer, the head's among them."""
    from transformers import AutoModelForCausalLM

    auto: Any = AutoModelForCausalLM
    with torch.device("meta"):
        model: nn.Module = auto.from_config(config)
    return sum(module.weight.numel() for module in model.modules() if isinstance(module, nn.Linear))


def peak_flops(device: str, peak_tflops: float = 0.0) -> float | None:
    """Peak of a torch device in bf16, operations a second: `peak_tflops` if given, else by its name; None if unknown."""
    if peak_tflops:
        return peak_tflops * 1e12
    if not device.startswith("cuda"):
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for pattern, peak in PEAKS.items() if re.fullmatch(pattern, name)), None)
