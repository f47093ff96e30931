"""The loader: the same batches for any number of processes and from any step, and errors where they belong."""

import runpy
import threading
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sea_lion.catalog.errors import CorruptInput
from sea_lion.catalog.store import Store
from sea_lion.training.batches import IGNORED, Batch, Integers, Part, batch_of
from sea_lion.training.loader import AHEAD, step_data
from sea_lion.training.mixture import MixturePlan, mixture_plan
from sea_lion.training.processes import Processes

WRITER: Any = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("token_writer.py"))))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    found: Store = WRITER.filled(tmp_path_factory.mktemp("store"))
    return found


class Numbers:
    """A plan of two examples a step; step 3 is skipped, and one example cannot be read."""

    steps = 6
    parts = (Part(part="", corpus="", language="", source=""),)

    def __init__(self, bad: int = -2) -> None:
        self.bad = bad
        self.collated: list[int] = []

    def examples(self, step: int) -> Integers:
        return np.array([] if step == 3 else [2 * step, 2 * step + 1], np.int64)

    def units(self, examples: Integers) -> int:
        return 10 * len(examples)

    def collate(self, examples: Sequence[int]) -> Batch:
        if self.bad in examples:
            raise CorruptInput("file", "", "is bad")
        self.collated += examples
        ids = np.array(examples, np.int64)[:, None]
        return batch_of(ids, np.where(ids < 0, IGNORED, ids), np.zeros_like(ids), np.ones(ids.shape, np.bool_))

    def digest(self, step: int) -> str:
        return ""


def process(rank: int = 0, world: int = 1) -> Processes:
    return Processes(rank=rank, world=world, device="cpu")


def rows(plan: MixturePlan, steps: range, rank: int, world: int, micro: int) -> dict[int, list[tuple[list[int], ...]]]:
    """Of each step, the rows that are in the loss: tokens, labels, positions, parts."""
    return {
        data.step: [
            tuple(
                tensor[row].tolist() for tensor in (batch.input_ids_RT, batch.labels_RT, batch.position_ids_RT, batch.parts_RT)
            )
            for batch in data.micro
            for row in range(len(batch.labels_RT))
            if (batch.labels_RT[row] != IGNORED).any()
        ]
        for data in step_data(plan, steps, process(rank, world), micro)
    }


def test_any_number_of_processes_sees_the_same_rows(store: Store) -> None:
    plan = mixture_plan(WRITER.job_of(store, skip_steps=((4, 4),)))
    steps = range(1, plan.steps + 1)
    alone = rows(plan, steps, 0, 1, 0)
    assert list(alone) == [step for step in steps if step != 4]
    for world, micro in ((2, 1), (4, 2), (3, 0)):
        together = [rows(plan, steps, rank, world, micro) for rank in range(world)]
        assert all(sorted(alone[step]) == sorted(row for each in together for row in each[step]) for step in alone)


def test_a_run_goes_on_from_any_step(store: Store) -> None:
    plan = mixture_plan(WRITER.job_of(store))
    whole = rows(plan, range(1, plan.steps + 1), 0, 1, 2)
    for first in range(1, plan.steps + 2):
        again = mixture_plan(WRITER.job_of(store))
        assert rows(again, range(first, plan.steps + 1), 0, 1, 2) == {step: whole[step] for step in whole if step >= first}


def test_units_are_the_labels_in_the_loss(store: Store) -> None:
    plan = mixture_plan(WRITER.job_of(store))
    for data in step_data(plan, range(1, plan.steps + 1), process(), 2):
        assert data.units == sum(len(batch.trained_N) for batch in data.micro)


def test_steps_come_in_order_in_micro_batches_and_skipped_ones_not_at_all() -> None:
    found = list(step_data(Numbers(), range(2, 7), process(1, 2), 1))
    assert [data.step for data in found] == [2, 4, 5, 6]
    assert [[batch.input_ids_RT.tolist() for batch in data.micro] for data in found] == [[[[5]]], [[[9]]], [[[11]]], [[[13]]]]
    assert {data.units for data in found} == {20}
    assert all(data.waited >= 0 for data in found)


def test_an_error_is_raised_at_its_step_and_the_thread_ends() -> None:
    data = step_data(Numbers(bad=8), range(1, 7), process(), 0)
    assert [next(data).step, next(data).step] == [1, 2]
    with pytest.raises(CorruptInput, match="is bad"):
        next(data)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("data")]


def test_closing_ends_the_thread_and_it_is_never_far_ahead() -> None:
    plan = Numbers()
    data = step_data(plan, range(1, 7), process(), 0)
    assert next(data).step == 1
    data.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("data")]
    assert max(plan.collated) <= 2 * (1 + AHEAD) + 1
