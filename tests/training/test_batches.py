"""Rows of a batch, and how the processes share a step."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sea_lion.training.batches import BLANK, IGNORED, batch_of, shares


@given(data=st.data(), rows=st.integers(1, 4), length=st.integers(1, 9))
def test_positions_and_ends_keep_documents_apart(data: st.DataObject, rows: int, length: int) -> None:
    marks = data.draw(st.lists(st.booleans(), min_size=rows * length, max_size=rows * length))
    starts = np.array(marks).reshape(rows, length)
    labels = np.where(starts, IGNORED, 7)
    ids = np.arange(rows * length).reshape(rows, length)
    batch = batch_of(ids, labels, np.zeros_like(ids), starts)
    position, begins = 0, []
    for place, (mark, found) in enumerate(zip(marks, batch.position_ids_RT.flatten().tolist(), strict=True)):
        position = 0 if mark or place % length == 0 else position + 1
        assert found == position
        begins += [place] if position == 0 else []
    assert list(batch.documents.ends) == [*begins[1:], rows * length]
    assert batch.documents.offsets.tolist() == [0, *batch.documents.ends]
    assert batch.documents.longest == int(np.diff(batch.documents.offsets.numpy()).max())
    assert batch.trained_N.tolist() == np.flatnonzero(labels.flatten() == 7).tolist()
    assert starts.flatten().tolist() == marks


@given(examples=st.integers(1, 17), world=st.integers(1, 4), micro=st.integers(0, 5))
def test_processes_share_a_step(examples: int, world: int, micro: int) -> None:
    step = np.arange(examples)
    all_shares = [shares(step, rank, world, micro) for rank in range(world)]
    assert len({tuple(map(len, share)) for share in all_shares}) == 1
    flat = [example for share in all_shares for batch in share for example in batch]
    assert sorted(example for example in flat if example != BLANK) == list(range(examples))
    assert all(len(batch) <= micro for share in all_shares for batch in share) or not micro
