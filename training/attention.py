"""Attention within documents that lie end to end, for any model that asks transformers' registry for its attention.

Registered without a mask function, so that transformers builds no mask (64 MB at 8k tokens, and a question to the device);
where documents end comes beside the batch, from the host. transformers' own detection of packed rows was refused: it copies
from the device, and an all-ones mask silently turns it off.

What runs: on CUDA in bf16 torch's `varlen_attn` (FlashAttention), or FlexAttention for a model with a soft-cap (Gemma-2), whose
mask is made once a batch; everywhere else torch's `scaled_dot_product_attention` on each document, or explicit scores in blocks
of queries where a soft-cap or a window shorter than the document asks for it. The CUDA ways have not run on a GPU yet.

Shapes: R rows, H heads, G key-value heads, T tokens a row, E width of a head, M = R * T, Q queries and K keys of a block.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from .batches import Batch, Documents

NAME = "within_documents"
"""In transformers' registry. A name with `sdpa`, `flash` or `flex` in it would get a mask."""
BLOCK = 512
"""Queries whose explicit scores exist at the same time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What attention knows of a batch; goes through a model to its layers as keyword `layout`."""

    documents: Documents
    masks: dict[int | None, Any] = field(default_factory=dict)
    """FlexAttention's mask of each window (None: no window); empty where FlexAttention does not run."""


def register() -> str:
    """Make `within_document` known to transformers; returns the name to ask for it by.

    A compiled layer breaks its graph there: documents differ from batch to batch and would have it compiled again and again.
    """
    from transformers import AttentionInterface

    opaque: Any = torch.compiler.disable
    AttentionInterface.register(NAME, opaque(within_document))
    return NAME


def batch_layout(batch: Batch, config: Any) -> Layout:
    """The layout of a batch for a model of configuration `config`."""
    device = batch.input_ids_RT.device
    if device.type != "cuda" or not getattr(config, "attn_logit_softcapping", None):
        return Layout(documents=batch.documents)
    windows = {None, getattr(config, "sliding_window", None)}
    return Layout(documents=batch.documents, masks={window: _flex_mask(batch, window) for window in windows})


def within_document(
    module: Any,
    query_RHTE: Tensor,
    key_RGTE: Tensor,
    value_RGTE: Tensor,
    attention_mask: Tensor | None = None,
    *,
    layout: Layout,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention of each token to its own document, (R, T, H, E); transformers' interface.

    A window of `sliding_window` tokens holds the token itself. Raises ValueError for dropout, a mask or sinks.
    """
    if dropout or attention_mask is not None or s_aux is not None:
        raise ValueError("attention within documents knows no dropout, mask or sinks")
    scale = query_RHTE.shape[-1] ** -0.5 if scaling is None else scaling
    if layout.masks:
        out_RHTE = _flex()(
            query_RHTE,
            key_RGTE,
            value_RGTE,
            score_mod=_capped(softcap) if softcap else None,
            block_mask=layout.masks[sliding_window],
            scale=scale,
            enable_gqa=query_RHTE.shape[1] != key_RGTE.shape[1],
        )
        return out_RHTE.transpose(1, 2), None
    if query_RHTE.is_cuda and not softcap and query_RHTE.dtype in (torch.bfloat16, torch.float16):
        return _varlen(query_RHTE, key_RGTE, value_RGTE, layout.documents, scale, sliding_window), None
    out_RHTE = _each(query_RHTE, key_RGTE, value_RGTE, layout.documents, scale, sliding_window, softcap)
    return out_RHTE.transpose(1, 2), None


def _each(
    query_RHTE: Tensor,
    key_RGTE: Tensor,
    value_RGTE: Tensor,
    documents: Documents,
    scale: float,
    window: int | None,
    softcap: float | None,
) -> Tensor:
    """One document after the other; rows that are whole documents go together."""
    rows, _, length, _ = query_RHTE.shape
    if len(documents.ends) == rows:
        return _whole(query_RHTE, key_RGTE, value_RGTE, scale, window, softcap)
    sizes: list[list[int]] = [[] for _ in range(rows)]
    for start, end in pairwise((0, *documents.ends)):
        sizes[start // length].append(end - start)
    # Split, not sliced: the gradient of each slice would be as large as the row that it is a part of.
    outputs = []
    rows_of = [torch.split(each, 1) for each in (query_RHTE, key_RGTE, value_RGTE)]
    for query, key, value, own in zip(*rows_of, sizes, strict=True):
        queries, keys, values = (torch.split(each, own, 2) for each in (query, key, value))
        pieces = zip(queries, keys, values, strict=True)
        outputs.append(torch.cat([_whole(q, k, v, scale, window, softcap) for q, k, v in pieces], 2))
    return torch.cat(outputs)


def _whole(query: Tensor, key: Tensor, value: Tensor, scale: float, window: int | None, softcap: float | None) -> Tensor:
    """Causal attention of one document a row."""
    length, groups = query.shape[2], query.shape[1] // key.shape[1]
    if not softcap and (window is None or length <= window):
        return scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale, enable_gqa=groups > 1)
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    reach, places = min(window or length, length), torch.arange(length, device=query.device)
    outputs = []
    for start in range(0, length, BLOCK):
        end, first = min(start + BLOCK, length), max(0, start - reach + 1)
        scores_RHQK = (query[:, :, start:end] * scale) @ key[:, :, first:end].mT
        if softcap:
            scores_RHQK = softcap * torch.tanh(scores_RHQK / softcap)
        distance_QK = places[start:end, None] - places[first:end]
        hidden_QK = (distance_QK < 0) | (distance_QK >= reach)
        weights_RHQK = scores_RHQK.masked_fill(hidden_QK, -torch.inf).float().softmax(-1).to(query.dtype)
        outputs.append(weights_RHQK @ value[:, :, first:end])
    return torch.cat(outputs, 2)


def _varlen(
    query_RHTE: Tensor, key_RGTE: Tensor, value_RGTE: Tensor, documents: Documents, scale: float, window: int | None
) -> Tensor:
    """FlashAttention over all rows laid end to end (CUDA, 16 bits)."""
    from torch.nn.attention.varlen import varlen_attn

    query_MHE, key_MGE, value_MGE = (tensor.transpose(1, 2).flatten(0, 1) for tensor in (query_RHTE, key_RGTE, value_RGTE))
    out_MHE = varlen_attn(
        query_MHE,
        key_MGE,
        value_MGE,
        documents.offsets,
        documents.offsets,
        documents.longest,
        documents.longest,
        scale=scale,
        window_size=(-1 if window is None else window - 1, 0),
        enable_gqa=query_MHE.shape[1] != key_MGE.shape[1],
    )
    assert isinstance(out_MHE, Tensor)
    rows, heads, length, width = query_RHTE.shape
    return out_MHE.view(rows, length, heads, width)


@cache
def _flex() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)


@cache
def _capped(softcap: float) -> Any:
    def capped(score: Tensor, row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return softcap * torch.tanh(score / softcap)

    return capped


def _flex_mask(batch: Batch, window: int | None) -> Any:
    """The blocks of keys that each block of queries of a batch looks at."""
    from torch.nn.attention.flex_attention import create_block_mask

    device, (rows, length) = batch.input_ids_RT.device, batch.input_ids_RT.shape
    places_M = torch.arange(rows * length, device=device)
    document_RT = torch.searchsorted(batch.documents.offsets, places_M, right=True).view(rows, length)

    def is_seen(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        seen = (query >= key) & (document_RT[row, query] == document_RT[row, key])
        return seen if window is None else seen & (query - key < window)

    return create_block_mask(is_seen, rows, None, length, length, device=str(device))
