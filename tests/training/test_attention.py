"""Documents laid end to end are worth what they are worth apart, and what transformers says of each alone."""

import runpy
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.attention.flex_attention import flex_attention
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from sea_lion.training import attention
from sea_lion.training.attention import Layout, register, within_document
from sea_lion.training.batches import Batch, Documents, batch_of
from sea_lion.training.heads import LogProbabilities

SMALL: Any = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("small_models.py"))))
CHANGES: dict[str, dict[str, float]] = {
    "llama": {},
    "gemma2": {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 30.0},
    "qwen2": {},
    "mistral": {},
}
CONFIGS = {name: SMALL.config_of(name, initializer_range=0.2, **changes) for name, changes in CHANGES.items()}
LENGTHS = ((20, 3, 1, 24), (48,), (40, 8))
"""Documents of three rows, some longer than every window."""


@pytest.fixture(params=CONFIGS, scope="module")
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[LogProbabilities, Any]]:
    """A model as it is trained, and transformers' own with the same weights."""
    own = SMALL.model_of(CONFIGS[request.param], attn_implementation="eager").eval()
    model = SMALL.model_of(CONFIGS[request.param], attn_implementation=register())
    model.load_state_dict(own.state_dict())
    yield LogProbabilities(model), own


def rows() -> Batch:
    draw, starts = np.random.default_rng(1), np.zeros((len(LENGTHS), 48), np.bool_)
    for row, lengths in enumerate(LENGTHS):
        starts[row, np.cumsum(lengths)[:-1]] = True
    ids = draw.integers(0, 97, starts.shape)
    return batch_of(ids, draw.integers(0, 97, starts.shape), np.zeros_like(ids), starts)


def apart(batch: Batch) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Tokens and labels of each document, (1, T)."""
    ids, labels, start, out = batch.input_ids_RT.flatten(), batch.labels_RT.flatten(), 0, []
    for end in batch.documents.ends:
        out.append((ids[None, start:end], labels[None, start:end]))
        start = end
    return out


def alone(ids_1T: torch.Tensor, labels_1T: torch.Tensor) -> Batch:
    return batch_of(ids_1T.numpy(), labels_1T.numpy(), np.zeros(ids_1T.shape, np.int64), np.zeros(ids_1T.shape, np.bool_))


def test_packed_documents_are_worth_the_same_apart_and_in_transformers(pair: tuple[LogProbabilities, Any]) -> None:
    module, own = pair
    batch = rows()
    packed = module(batch)
    separate = torch.cat([module(alone(*document)).flatten() for document in apart(batch)]).view_as(packed)
    torch.testing.assert_close(packed, separate, atol=1e-6, rtol=1e-6)
    logits = [own(input_ids=ids).logits.log_softmax(-1).gather(2, labels[..., None]) for ids, labels in apart(batch)]
    theirs = torch.cat([values.flatten() for values in logits]).view_as(packed)
    torch.testing.assert_close(packed, theirs, atol=2e-6, rtol=2e-6)


def test_gradients_of_packed_documents_are_the_sum_of_those_apart(pair: tuple[LogProbabilities, Any]) -> None:
    module, _ = pair
    batch = rows()
    gradients = []
    for batches in ([batch], [alone(*document) for document in apart(batch)]):
        module.zero_grad()
        for each in batches:
            module(each).sum().backward()
        gradients.append([parameter.grad.clone() for parameter in module.parameters() if parameter.grad is not None])
    for packed, separate in zip(*gradients, strict=True):
        torch.testing.assert_close(packed, separate, atol=2e-6 * separate.abs().max().item(), rtol=0)


def test_a_token_of_another_document_changes_nothing(pair: tuple[LogProbabilities, Any]) -> None:
    module, _ = pair
    batch = rows()
    before = module(batch).detach()
    batch.input_ids_RT[0, 5] = (batch.input_ids_RT[0, 5] + 1) % 97
    changed = (module(batch) != before).nonzero()
    assert set(changed[:, 0].tolist()) == {0}
    assert changed[:, 1].min() == 5
    assert changed[:, 1].max() < 20


def test_scores_in_blocks_are_those_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(1, 4, 48, 8), torch.randn(1, 2, 48, 8), torch.randn(1, 2, 48, 8)
    layout = Layout(documents=Documents(ends=(48,), offsets=torch.tensor([0, 48], dtype=torch.int32), longest=48))
    variants: list[dict[str, Any]] = [{"sliding_window": 9}, {"softcap": 3.0}, {"sliding_window": 20, "softcap": 3.0}]
    for changes in variants:
        whole, _ = within_document(None, query, key, value, layout=layout, **changes)
        with monkeypatch.context() as patch:
            patch.setattr(attention, "BLOCK", 7)
            blocks, _ = within_document(None, query, key, value, layout=layout, **changes)
        torch.testing.assert_close(blocks, whole, atol=1e-6, rtol=1e-6)


def test_whole_rows_cost_one_plain_attention() -> None:
    query, key = torch.randn(2, 4, 64, 8), torch.randn(2, 2, 64, 8)
    documents = Documents(ends=(64, 128), offsets=torch.tensor([0, 64, 128], dtype=torch.int32), longest=64)
    with FlopCounterMode(display=False) as ours:
        out, _ = within_document(None, query, key, key, layout=Layout(documents=documents))
    with FlopCounterMode(display=False) as plain:
        expected = scaled_dot_product_attention(query, key, key, is_causal=True, enable_gqa=True)
    assert ours.get_flop_counts() == plain.get_flop_counts()
    assert torch.equal(out.transpose(1, 2), expected)


def test_nothing_is_asked_of_the_device(pair: tuple[LogProbabilities, Any]) -> None:
    class Questions(TorchDispatchMode):  # type: ignore[no-untyped-call]
        asked: list[str]

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if function.name() in (
                "aten::_local_scalar_dense",
                "aten::nonzero",
                "aten::item",
                "aten::equal",
                "aten::masked_select",
            ):
                self.asked.append(function.name())
            return function(*args, **(kwargs or {}))

    module, own = pair
    batch, questions = rows(), Questions()  # type: ignore[no-untyped-call]
    questions.asked = []
    with questions:
        module(batch).sum().backward()
    assert questions.asked == []
    with questions:
        own(input_ids=batch.input_ids_RT).logits.sum().item()
    assert questions.asked  # what counts them does


def test_flex_attention_is_told_the_same_documents_window_and_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as a CPU can run it: forward, not compiled."""
    monkeypatch.setattr(attention, "_flex", lambda: flex_attention)
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 4, 48, 8), torch.randn(3, 2, 48, 8), torch.randn(3, 2, 48, 8)
    batch = rows()
    masks = {window: attention._flex_mask(batch, window) for window in (None, 9)}
    for window in masks:
        changes: dict[str, Any] = {"softcap": 3.0, "sliding_window": window, "scaling": 0.7}
        flex, _ = within_document(None, query, key, value, layout=Layout(documents=batch.documents, masks=masks), **changes)
        each, _ = within_document(None, query, key, value, layout=Layout(documents=batch.documents), **changes)
        torch.testing.assert_close(flex, each, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("changes", [{"dropout": 0.1}, {"attention_mask": torch.ones(1)}, {"s_aux": torch.ones(4)}])
def test_what_it_does_not_know_is_refused(changes: Any) -> None:
    with pytest.raises(ValueError, match="no dropout, mask or sinks"):
        within_document(
            None, *[torch.ones(1, 1, 1, 1)] * 3, layout=Layout(documents=alone(*[torch.zeros(1, 1)] * 2).documents), **changes
        )
