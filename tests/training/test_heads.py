"""The chunked head against the plain computation in float64, and how much of the logits it ever holds."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig

from sea_lion.training.attention import register
from sea_lion.training.batches import IGNORED, batch_of
from sea_lion.training.heads import Head, LogProbabilities, label_logp

POSITIONS, WIDTH, VOCABULARY = 50, 16, 301


class Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The elements of the largest tensor that any operation gives."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.elements = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        sizes = [
            leaf.untyped_storage().nbytes() // leaf.element_size() for leaf in tree_leaves(out) if isinstance(leaf, Tensor)
        ]
        self.elements = max([self.elements, *sizes])
        return out


def inputs(*, all_trained: bool) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Hidden states, weights, bias, labels, positions; logits large enough for a cap of 30 to bend them."""
    torch.manual_seed(4)
    labels = torch.randint(0, VOCABULARY, (POSITIONS,))
    if not all_trained:
        labels[torch.rand(POSITIONS) < 0.4] = IGNORED
    trained = (labels != IGNORED).nonzero().flatten()
    return torch.randn(POSITIONS, WIDTH), 5 * torch.randn(VOCABULARY, WIDTH), torch.randn(VOCABULARY), labels, trained


def plain(hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, cap: float | None) -> Tensor:
    logits = hidden @ weight.T + (0 if bias is None else bias)
    logits = cap * torch.tanh(logits / cap) if cap else logits
    logp = logits.log_softmax(1).gather(1, labels.clamp_min(0)[:, None]).squeeze(1)
    return torch.where(labels == IGNORED, 0, logp)


@pytest.mark.parametrize("all_trained", [True, False])
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("cap", [None, 30.0])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)], ids=["fp32", "bf16"])
def test_logp_and_gradients_are_those_of_float64(
    dtype: torch.dtype, tolerance: float, cap: float | None, has_bias: bool, all_trained: bool
) -> None:
    hidden, weight, bias, labels, trained = inputs(all_trained=all_trained)
    sources = [hidden, weight, bias] if has_bias else [hidden, weight]
    rounded = [source.to(dtype).requires_grad_() for source in sources]
    exact = [source.detach().double().requires_grad_() for source in rounded]
    ours = label_logp(rounded[0], rounded[1], rounded[2] if has_bias else None, labels, trained, cap=cap, chunk=7)
    truth = plain(exact[0], exact[1], exact[2] if has_bias else None, labels, cap)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours.double(), truth, atol=tolerance * truth.abs().max().item(), rtol=0)
    pull = torch.randn(POSITIONS)
    torch.autograd.backward(ours, pull)
    torch.autograd.backward(truth, pull.double())
    for got, expected in zip(rounded, exact, strict=True):
        assert got.grad is not None and expected.grad is not None and got.grad.dtype == dtype
        torch.testing.assert_close(got.grad.double(), expected.grad, atol=tolerance * expected.grad.abs().max().item(), rtol=0)


def test_the_weights_gradient_is_summed_in_fp32_over_chunks() -> None:
    hidden, weight, _, labels, trained = inputs(all_trained=True)
    gradients = []
    for chunk in (POSITIONS, 1):
        leaf = weight.bfloat16().requires_grad_()
        torch.autograd.backward(label_logp(hidden.bfloat16(), leaf, None, labels, trained, chunk=chunk).sum())
        assert leaf.grad is not None
        gradients.append(leaf.grad.float())
    exact = weight.bfloat16().float().requires_grad_()
    torch.autograd.backward(label_logp(hidden.bfloat16().float(), exact, None, labels, trained).sum())
    assert exact.grad is not None
    one, many = (float((gradient - exact.grad).norm()) for gradient in gradients)
    assert many < 2 * one  # a sum in bf16 of 50 terms would be several times as far off


def test_a_gradient_is_the_slope_of_the_log_probabilities() -> None:
    hidden, weight, _, labels, trained = inputs(all_trained=False)
    step = 1e-2
    leaf = hidden.clone().requires_grad_()
    torch.autograd.backward(label_logp(leaf, weight, None, labels, trained, cap=30.0, chunk=8).sum())
    assert leaf.grad is not None
    nudge = torch.zeros_like(hidden)
    nudge[trained[0], 3] = step
    up, down = (plain((hidden + sign * nudge).double(), weight.double(), None, labels, 30.0).sum() for sign in (1, -1))
    assert float((up - down) / (2 * step)) == pytest.approx(float(leaf.grad[trained[0], 3]), rel=1e-2)


@pytest.mark.parametrize("chunk", [5, 1000])
def test_no_more_than_a_chunk_of_logits_exists(chunk: int) -> None:
    hidden, weight, _, labels, trained = inputs(all_trained=True)
    weight.requires_grad_()
    with Largest() as largest:
        torch.autograd.backward(label_logp(hidden, weight, None, labels, trained, cap=30.0, chunk=chunk).sum())
    assert largest.elements == max(min(chunk, POSITIONS) * VOCABULARY, weight.numel())


def test_positions_without_a_label_cost_no_logits() -> None:
    hidden, weight, _, labels, _ = inputs(all_trained=True)
    labels[3:] = IGNORED
    with Largest() as largest:
        label_logp(hidden, weight, None, labels, torch.arange(3)).sum()
    assert largest.elements == weight.numel() < POSITIONS * VOCABULARY


def test_a_batch_without_labels_still_has_gradients_of_zero() -> None:
    hidden, weight, _, labels, _ = inputs(all_trained=True)
    hidden.requires_grad_()
    weight.requires_grad_()
    logp = label_logp(hidden, weight, None, torch.full_like(labels, IGNORED), torch.empty(0, dtype=torch.int64))
    torch.autograd.backward(logp.sum())
    assert not logp.any()
    assert hidden.grad is not None and weight.grad is not None
    assert not hidden.grad.any() and not weight.grad.any()


@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
def test_a_model_gives_the_log_probabilities_of_its_logits(architecture: str) -> None:
    sizes: dict[str, Any] = {
        "vocab_size": 61,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "initializer_range": 0.5,
        "tie_word_embeddings": True,
    }
    config = LlamaConfig(**sizes) if architecture == "llama" else Gemma2Config(**sizes, final_logit_softcapping=2.0)
    torch.manual_seed(1)
    build: Any = AutoModelForCausalLM.from_config
    model = build(config, attn_implementation="eager")
    draw = np.random.default_rng(2)
    ids, labels = draw.integers(0, 61, (2, 2, 11))
    labels[0, :6] = IGNORED
    batch = batch_of(ids, labels, np.zeros_like(ids), np.zeros(ids.shape, np.bool_))
    logits = model(input_ids=batch.input_ids_RT).logits
    names = [name for name, _ in model.named_parameters()]
    model.set_attn_implementation(register())
    module = LogProbabilities(model, chunk=4)
    expected = logits.log_softmax(-1).gather(2, batch.labels_RT.clamp_min(0)[..., None]).squeeze(2)
    expected = torch.where(batch.labels_RT == IGNORED, 0, expected)
    torch.testing.assert_close(module(batch), expected, atol=1e-6, rtol=1e-6)
    assert isinstance(model.lm_head, Head)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert [name for name, _ in model.named_parameters()] == names
