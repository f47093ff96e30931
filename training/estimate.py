"""What a run will need before it is paid for: memory of a device, steps, tokens, hours and disk.

Sizes follow from the configuration alone. What a layer keeps for its backward pass is not a formula of ours, which would know
two families: one layer is built on the meta device, without memory, and what autograd saves there is summed up. Attention
stands in as a kernel that keeps queries, keys, values, its result and one number a query and head, as flash attention does.
Bytes are sums of what lives at the worst moment, when the backward pass begins; what an allocator wastes, and a device's own
context (about 1 GB with CUDA), come on top. GB are 1e9 bytes. Speed is measured or given, never invented.

The worst moment in bytes, for N parameters over G devices that share them, L layers of P parameters, an output layer and an
embedding of E parameters (a tied one once), W bytes of an element and M tokens on a device:

- states: 16 N / G, the fp32 weights, gradients and two moments;
- buffers, where weights are divided: W (E + 2 P) brought together, the next layer early, and W E of gradients not yet divided;
- activations: M L times what a layer keeps, or, recomputed, M L times its input and one layer's share;
- head: the fp32 sum of its gradient and one product to add, and the logits of one chunk with their gradient.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..catalog.errors import SeaLionError
from .flops import flops_per_token
from .system import System

GB = 1e9
LEAN = 0.55
"""Share of a layer's saved bytes that is left when kernels are fused, by Liger or the compiler: measured on Llama-3.1-8B's and
Gemma-2-9B's layers with the fp32 copies in norms and two of four feed-forward tensors taken away (0.551 and 0.543)."""
MOST_DEVICES = 4096
PROBED = 64
"""Tokens of the probe; what a layer keeps is proportional to them."""

Precision = Literal["fp32", "bf16"]
WIDTH: dict[Precision, int] = {"fp32": 4, "bf16": 2}
DTYPE: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """The sizes of a model that memory and speed depend on."""

    parameters: int
    """Distinct ones."""
    matrix_parameters: int
    """In matrix products: the head's too, the embedding's not."""
    layers: int
    width: int
    """Of the hidden states."""
    vocabulary: int
    layer_parameters: int
    """Of the largest layer."""
    outer_parameters: int
    """Of embedding and output layer, a tied one once."""
    is_capped: bool
    """Whether the logits have a soft-cap."""
    layer_bytes: dict[Precision, int]
    """Precision to the bytes that a layer keeps of a token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What a device computes at a time."""

    rows: int
    """Sequences of a forward pass on a device."""
    length: int
    """Tokens of a sequence."""
    devices: int
    precision: Precision

    @property
    def tokens(self) -> int:
        """Of a forward pass on a device."""
        return self.rows * self.length


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes of a device at the worst moment of a step."""

    states: float
    """Weights, gradients and moments in fp32, this device's share."""
    buffers: float
    """Weights brought together, and gradients not yet divided."""
    activations: float
    """What the layers keep for the backward pass."""
    head: float
    """Logits of a chunk, and the gradient of the output layer."""

    @property
    def total(self) -> float:
        """All of it."""
        return self.states + self.buffers + self.activations + self.head

    @property
    def largest(self) -> str:
        """Name of the largest part."""
        return max(("states", "buffers", "activations", "head"), key=lambda name: getattr(self, name))


def model_shape(config: Any) -> ModelShape:
    """The sizes of a causal model of transformers, by its configuration; nothing is allocated.

    Raises SeaLionError for a model without `model.layers` and `lm_head`.
    """
    model = _on_meta(config, "bf16")
    if not (hasattr(model, "lm_head") and hasattr(getattr(model, "model", None), "layers")):
        raise SeaLionError(f"{type(model).__name__} has no model.layers and lm_head, which training needs")
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    outer = {id(weight): weight.numel() for part in (model.model.embed_tokens, model.lm_head) for weight in part.parameters()}
    if config.tie_word_embeddings:  # on the meta device the two may be apart
        outer = {0: model.lm_head.weight.numel()}
    layers = [sum(weight.numel() for weight in layer.parameters()) for layer in model.model.layers]
    rest = sum(weight.numel() for weight in model.model.norm.parameters())
    return ModelShape(
        parameters=sum(layers) + sum(outer.values()) + rest,
        matrix_parameters=sum(module.weight.numel() for module in linear),
        layers=len(layers),
        width=config.hidden_size,
        vocabulary=config.vocab_size,
        layer_parameters=max(layers),
        outer_parameters=sum(outer.values()),
        is_capped=bool(getattr(config, "final_logit_softcapping", None)),
        layer_bytes={precision: layer_bytes(config, precision) for precision in DTYPE},
    )


def memory(shape: ModelShape, work: Workload, system: System) -> Memory:
    """Bytes of a device at the worst moment of a step; raises SeaLionError when `replicas` does not divide the devices."""
    if work.devices % system.replicas:
        raise SeaLionError(f"--set replicas={system.replicas}: does not divide {work.devices} devices")
    width, sharing = WIDTH[work.precision], work.devices // system.replicas
    is_divided = work.devices > 1 or work.precision == "bf16"
    brought = width * (2 * shape.outer_parameters + 2 * shape.layer_parameters)
    layer = shape.layer_bytes[work.precision] * (LEAN if system.liger or system.compile else 1)
    kept = layer * shape.layers
    if system.recompute == "layers":
        kept = width * shape.width * shape.layers + layer
    head, chunk = shape.width * shape.vocabulary, min(system.chunk, work.tokens)
    logits = 4 + (width if width < 4 else 4) + (4 if shape.is_capped else 0)
    return Memory(
        states=16 * shape.parameters / sharing,
        buffers=brought if is_divided else 0,
        activations=work.tokens * kept,
        head=head * (4 + width) + chunk * shape.vocabulary * logits,
    )


def whole_logits(shape: ModelShape, tokens: int) -> float:
    """Bytes of the logits of all positions in bf16, in fp32, capped and with their gradient: what the chunks avoid."""
    return tokens * shape.vocabulary * (14 if shape.is_capped else 10)


def check_fits(shape: ModelShape, work: Workload, system: System, limit: float) -> None:
    """Raise SeaLionError when a device of `limit` bytes is too small: which part is the largest, and what would fit."""
    needed = memory(shape, work, system)
    if needed.total <= limit:
        return
    part = f"{needed.largest} alone {getattr(needed, needed.largest) / GB:.3g} GB"
    fitting = [f"{name} ({found / GB:.3g} GB)" for name, found in _remedies(shape, work, system) if found <= limit]
    hint = f"it would fit with {', or '.join(fitting)}" if fitting else "no setting makes it fit: take a larger device"
    raise SeaLionError(
        f"does not fit: {needed.total / GB:.3g} GB on each of {work.devices} devices of {limit / GB:.3g} GB, {part}; {hint}"
    )


def _remedies(shape: ModelShape, work: Workload, system: System) -> Iterator[tuple[str, float]]:
    """What one could set, the cheapest first, and the bytes it leads to; one larger number of devices."""
    lean = replace(system, recompute="layers")
    if system.recompute != "layers":
        yield "--set recompute=layers", memory(shape, work, lean).total
    if work.rows > 1:
        yield "micro_batch = 1", memory(shape, replace(work, rows=1), system).total
        yield "micro_batch = 1 and --set recompute=layers", memory(shape, replace(work, rows=1), lean).total
    now = memory(shape, work, lean)
    devices = work.devices * 2
    while devices <= MOST_DEVICES:
        more = memory(shape, replace(work, devices=devices), replace(lean, replicas=1))
        if more.states < now.states / 4 or devices >= work.devices * 8:
            yield f"--devices {devices} and --set recompute=layers", more.total
            return
        devices *= 2


def tokens_per_second(config: Any, length: int, *, flops: float) -> float:
    """Tokens that a device trains in a second when it does `flops` operations a second (MFU times peak; full convention)."""
    return flops / flops_per_token(config, length, causal=False)


def layer_bytes(config: Any, precision: Precision) -> int:
    """Bytes that one layer keeps of a token for its backward pass, measured on the meta device; weights do not count."""
    model = _on_meta(config, precision, layers=1)
    owned = {weight.untyped_storage()._cdata for weight in model.parameters()}
    kept: dict[int, Tensor] = {}  # the tensors too: a freed storage's address would be used again
    layer, is_inside = model.model.layers[0], [False]

    def keep(tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage()._cdata
        if is_inside[0] and place not in owned:
            kept[place] = tensor
        return tensor

    layer.register_forward_pre_hook(lambda *_: is_inside.__setitem__(0, True))
    layer.register_forward_hook(lambda *_: is_inside.__setitem__(0, False))
    ids_RT = torch.zeros((1, PROBED), dtype=torch.long, device="meta")
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.model(input_ids=ids_RT, position_ids=ids_RT, use_cache=False)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values()) // PROBED


def _on_meta(config: Any, precision: Precision, layers: int = 0) -> Any:
    from transformers import AttentionInterface, AutoModelForCausalLM

    AttentionInterface.register(_STAND_IN, _attention)
    config = deepcopy(config)
    if layers:
        config.num_hidden_layers = layers
        if getattr(config, "layer_types", None):
            config.layer_types = config.layer_types[:layers]
    build: Any = AutoModelForCausalLM.from_config
    with torch.device("meta"):
        return build(config, dtype=DTYPE[precision], attn_implementation=_STAND_IN).train()


_STAND_IN = "sea_lion_counted"


def _attention(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **settings: Any) -> tuple[Tensor, None]:
    apply: Any = _Kept.apply
    return apply(query, key, value), None


class _Kept(torch.autograd.Function):
    """Attention as far as memory is concerned."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        batch, heads, length, width = query.shape
        result = query.new_empty((batch, length, heads, width))
        ctx.save_for_backward(query, key, value, result, query.new_empty((batch, heads, length), dtype=torch.float32))
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """Gradients of the right sizes; nothing is computed on the meta device."""
        return tuple(torch.empty_like(saved) for saved in ctx.saved_tensors[:3])
