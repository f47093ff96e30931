"""Packing, the index plan and the rows of a batch."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sea_lion.training.batches import (
    BLANK,
    IGNORED,
    Row,
    interleaved,
    pack,
    packed_collate,
    packed_labels,
    packed_positions,
    padded_collate,
    repeated,
    shares,
)

documents = st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=30), min_size=1, max_size=20)


@given(documents=documents, length=st.integers(1, 9))
def test_packing_loses_no_token(documents: list[list[int]], length: int) -> None:
    stream = [token for document in documents for token in document]
    sequences = (len(stream) - 1) // length
    packed = pack(documents, sequences, length)
    assert packed.tokens[:, :-1].flatten().tolist() == stream[: sequences * length]
    assert packed.tokens[:, 1:].flatten().tolist() == stream[1 : sequences * length + 1] if sequences else True
    first = np.cumsum([0] + [len(document) for document in documents])[:-1]
    flat = packed.starts[:, :-1].flatten()
    assert np.flatnonzero(flat).tolist() == [i for i in first if i < sequences * length]


@given(documents=documents, length=st.integers(1, 9))
def test_labels_and_positions_keep_documents_apart(documents: list[list[int]], length: int) -> None:
    owner = [i for i, document in enumerate(documents) for _ in document]
    packed = pack(documents, (len(owner) - 1) // length, length)
    labels, positions = packed_labels(packed), packed_positions(packed.starts)
    for row in range(len(packed.tokens)):
        for t in range(length):
            at = row * length + t
            crosses = owner[at + 1] != owner[at]
            assert labels[row, t] == (IGNORED if crosses else packed.tokens[row, t + 1])
            is_first = t == 0 or owner[at - 1] != owner[at]
            assert positions[row, t] == (0 if is_first else positions[row, t - 1] + 1)


def test_too_few_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match="hold 5 tokens, 9 are needed"):
        pack([[1, 2, 3], [4, 5]], 2, 4)


def test_a_part_without_sequences_is_empty() -> None:
    assert pack([[1]], 0, 4).tokens.shape == (0, 5)


@given(counts=st.lists(st.integers(0, 60), min_size=1, max_size=5), seed=st.integers(0, 9))
def test_parts_are_interleaved_evenly_and_in_their_own_order(counts: list[int], seed: int) -> None:
    order = interleaved(counts, seed)
    assert sorted(order) == list(range(sum(counts)))
    part = np.repeat(np.arange(len(counts)), counts)[order]
    for k, count in enumerate(counts):
        mine = order[part == k]
        assert (np.diff(mine) == 1).all()
        for half in range(len(order)):
            planned = count * half / len(order)
            assert abs((part[:half] == k).sum() - planned) <= 1 + len(counts)


@given(examples=st.integers(1, 30), epochs=st.floats(0.1, 4), seed=st.integers(0, 3))
def test_every_epoch_takes_each_example_once(examples: int, epochs: float, seed: int) -> None:
    order = repeated(examples, epochs, seed)
    assert len(order) == round(examples * epochs)
    for start in range(0, len(order) - examples + 1, examples):
        assert sorted(order[start : start + examples]) == list(range(examples))


@given(examples=st.integers(1, 17), world=st.integers(1, 4), micro=st.integers(0, 5))
def test_processes_share_a_step(examples: int, world: int, micro: int) -> None:
    step = np.arange(examples)
    all_shares = [shares(step, rank, world, micro) for rank in range(world)]
    assert len({tuple(map(len, share)) for share in all_shares}) == 1
    flat = [example for share in all_shares for batch in share for example in batch]
    assert sorted(example for example in flat if example != BLANK) == list(range(examples))
    assert all(len(batch) <= micro for share in all_shares for batch in share) or not micro


def test_blank_examples_have_no_label() -> None:
    packed = packed_collate(pack([list(range(20))], 3, 4))([1, BLANK])
    assert packed.labels_RT.tolist() == [[5, 6, 7, 8], [IGNORED] * 4]
    rows = [(Row(tokens=[5, 6, 7], mask=[0, 0, 1]),), (Row(tokens=[8, 9], mask=[0, 1]),)]
    padded = padded_collate(rows, padding=2)([1, 0, BLANK])
    assert padded.input_ids_RT.tolist() == [[8, 2], [5, 6], [2, 2]]
    assert padded.labels_RT.tolist() == [[9, IGNORED], [IGNORED, 7], [IGNORED, IGNORED]]
