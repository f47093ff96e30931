"""The figures of a merge, against the same figures worked out plainly over whole tensors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from sea_lion.catalog.recipes import read_table
from sea_lion.catalog.schema import tables
from sea_lion.merging.contract import MergedTensor, Meter
from sea_lion.merging.layers import layer_of
from sea_lion.merging.meter import PIECE, PIECES, SCHEMAS, Figures, TensorMeter, part_of, sample
from sea_lion.merging.recipe import MergeRecipe

STRETCH = PIECE * PIECES


def recipe(parents: int = 2, **fields: Any) -> MergeRecipe:
    given = [{"model": f"checkpoint/p{i}@1"} | fields for i in range(parents)]
    table = {"kind": "merge", "name": "checkpoint/m", "version": "1", "method": "dare_ties", "base": "checkpoint/b@1"}
    return read_table(table | {"parents": given}, MergeRecipe, "test")


class Whole:
    """A tensor of each model, with differences of every sort: none, equal, opposite, of one parent only."""

    def __init__(self, elements: int, parents: int, seed: int = 3) -> None:
        rng = np.random.default_rng(seed)
        self.base = rng.normal(size=elements).astype(np.float32)
        self.deltas = (rng.normal(size=(parents, elements)) * 1e-2).astype(np.float32)
        self.deltas *= rng.random((parents, elements)) < np.linspace(0.4, 0.9, parents)[:, None]
        self.deltas[-1] += np.float32(0.6) * self.deltas[0]
        self.chosen = ((rng.random((parents, elements)) < 0.7) & (self.deltas != 0)).astype(np.float32)
        self.merged = (self.deltas * self.chosen).sum(0)

    def show(self, meter: Meter, chunk: int, first: int = 0, last: int | None = None) -> None:
        """Let a meter see the elements from `first` to `last` in chunks."""
        last = len(self.base) if last is None else last
        for start in range(first, last, chunk):
            part = slice(start, min(last, start + chunk))
            meter.see_base(torch.from_numpy(self.base[part]))
            meter.see_deltas(torch.from_numpy(self.deltas[:, part].copy()))
            meter.see_chosen(torch.from_numpy(self.chosen[:, part].copy()))
            meter.see_merged(torch.from_numpy(self.merged[part]))


def merged(name: str, elements: int) -> MergedTensor:
    return MergedTensor(name=name, file="model.safetensors", dtype="BF16", shape=(elements,), xxh3_128="0" * 32)


def figures_of(whole: Whole, chunk: int) -> dict[str, list[dict[str, Any]]]:
    figures = Figures(recipe(len(whole.deltas)))
    whole.show(figures.meter("model.norm.weight"), chunk)
    return figures.rows([merged("model.norm.weight", len(whole.base))])


def in_sample(elements: int) -> Any:
    """Whether each element is in the sample, from the rule as it is written down."""
    stretch, piece = np.divmod(np.arange(elements) // PIECE, PIECES)
    return piece == (stretch + stretch // PIECES) % PIECES


@pytest.mark.parametrize("parents", [1, 2, 3, 5])
@pytest.mark.parametrize("elements", [7, PIECE, 3 * STRETCH + 1234])
def test_figures_are_those_of_plain_numpy(parents: int, elements: int) -> None:
    whole = Whole(elements, parents)
    rows = figures_of(whole, 100_000)
    seen = in_sample(elements)
    assert seen.all() == (elements <= PIECE)
    deltas, chosen = whole.deltas.astype(np.float64)[:, seen], whole.chosen[:, seen].astype(bool)
    (tensor,) = rows["merge_tensors"]
    conflict = (deltas > 0).any(0) & (deltas < 0).any(0)
    assert tensor["sign_conflict"] == pytest.approx(conflict.mean(), abs=1e-12)
    assert tensor["base_norm"] == pytest.approx(np.linalg.norm(whole.base.astype(np.float64)), rel=1e-6)
    assert tensor["merged_norm"] == pytest.approx(np.linalg.norm(whole.merged.astype(np.float64)), rel=1e-6)
    for i, row in enumerate(rows["merge_parents"]):
        assert row["parent"] == i + 1
        assert row["norm"] == pytest.approx(np.linalg.norm(whole.deltas[i].astype(np.float64)), rel=1e-6)
        assert row["changed"] == pytest.approx((deltas[i] != 0).mean(), abs=1e-12)
        assert row["kept"] == pytest.approx(chosen[i].mean(), abs=1e-12)
    pairs = list(combinations(range(parents), 2))
    assert [(row["one"] - 1, row["other"] - 1) for row in rows["merge_pairs"]] == pairs
    for (i, j), row in zip(pairs, rows["merge_pairs"], strict=True):
        cosine = deltas[i] @ deltas[j] / (np.linalg.norm(deltas[i]) * np.linalg.norm(deltas[j]))
        assert row["cosine"] == pytest.approx(cosine, abs=1e-6)
        either = (chosen[i] | chosen[j]).sum()
        assert row["overlap"] == (pytest.approx((chosen[i] & chosen[j]).sum() / either, abs=1e-12) if either else None)


def test_a_sample_says_what_all_elements_say() -> None:
    whole = Whole(3 * STRETCH, 2)
    (tensor,) = figures_of(whole, STRETCH)["merge_tensors"]
    conflict = (whole.deltas[0] * whole.deltas[1] < 0).mean()
    assert tensor["sign_conflict"] == pytest.approx(conflict, abs=0.005)


def test_no_place_of_a_row_is_left_out_for_its_number() -> None:
    places = [piece.start // PIECE % PIECES for piece in sample(0, PIECES**2 * STRETCH)]
    assert len(places) == PIECES**2
    assert all(sorted(places[i::PIECES]) == list(range(PIECES)) for i in range(PIECES))


@pytest.mark.parametrize("chunk", [1, 999])
def test_chunks_of_a_small_tensor_change_nothing(chunk: int) -> None:
    whole = Whole(1_500, 3)
    assert_alike(figures_of(whole, chunk), figures_of(whole, 1_500))


@pytest.mark.parametrize("chunk", [PIECE - 1, STRETCH, 5 * PIECE])
def test_chunks_of_a_large_tensor_change_nothing(chunk: int) -> None:
    whole = Whole(2 * STRETCH + 77, 2)
    assert_alike(figures_of(whole, chunk), figures_of(whole, len(whole.base)))


def assert_alike(one: dict[str, list[dict[str, Any]]], other: dict[str, list[dict[str, Any]]]) -> None:
    """The same counts, and norms and cosines but for the rounding of float32."""
    for table, rows in one.items():
        for mine, theirs in zip(rows, other[table], strict=True):
            for key, value in mine.items():
                loose = key in ("norm", "base_norm", "merged_norm", "cosine")
                assert theirs[key] == (pytest.approx(value, rel=2e-6, abs=2e-6) if loose else value), (table, key)


def test_a_meter_goes_on_from_its_state_as_if_nothing_had_been() -> None:
    whole, half = Whole(STRETCH + 4 * PIECE, 3), STRETCH // 2
    straight, first, second = (TensorMeter(parents=3) for _ in range(3))
    whole.show(straight, half)
    whole.show(first, half, 0, half)
    written = json.dumps(first.state())
    second.restore(json.loads(written))
    whole.show(second, half, half)
    assert second.state() == straight.state()
    assert json.dumps(first.state()) == written, "the meter that was restored has its own lists"


@pytest.mark.parametrize("change", [{"parents": 3}, {"more": 1}, {"seen": None}])
def test_a_state_of_something_else_is_refused(change: dict[str, Any]) -> None:
    state = TensorMeter(parents=2).state() | change
    if change == {"seen": None}:
        del state["seen"]
    with pytest.raises(ValueError, match="not the figures of a tensor with 2 parents"):
        TensorMeter(parents=2).restore(state)


def test_restored_figures_make_the_same_rows() -> None:
    whole, done = Whole(500, 2), [merged("model.embed_tokens.weight", 500), merged("model.norm.weight", 500)]
    figures, again = Figures(recipe()), Figures(recipe())
    for tensor in done:
        whole.show(figures.meter(tensor.name), 500)
        again.restore(tensor.name, json.loads(json.dumps(figures.meters[tensor.name].state())))
    assert again.rows(done) == figures.rows(done)


def test_threads_do_not_share_anything() -> None:
    wholes = {f"model.layers.{i}.mlp.up_proj.weight": Whole(40_000, 2, seed=i) for i in range(8)}
    done = [merged(name, 40_000) for name in wholes]
    alone, together = Figures(recipe()), Figures(recipe())
    for name, whole in wholes.items():
        whole.show(alone.meter(name), 5_000)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda item: item[1].show(together.meter(item[0]), 5_000), wholes.items()))
    assert together.rows(done) == alone.rows(done)


def test_what_the_engine_hands_over_is_left_as_it_is() -> None:
    whole, again = Whole(3 * PIECE, 3), Whole(3 * PIECE, 3)
    whole.show(TensorMeter(parents=3), 3 * PIECE)
    assert (whole.deltas == again.deltas).all() and (whole.chosen == again.chosen).all()


def test_rows_say_the_weight_of_each_layer_and_whose_it_is() -> None:
    names = ["lm_head.weight", *(f"model.layers.{i}.self_attn.q_proj.weight" for i in range(4)), "model.norm.weight"]
    figures = Figures(recipe(2, weight=0.5, layer_weights=[1.0, 2.0]))
    whole = Whole(64, 2)
    for name in names:
        whole.show(figures.meter(name), 64)
    rows = figures.rows([merged(name, 64) for name in names], models=["checkpoint/a@2", "checkpoint/b@3"])
    first = [row for row in rows["merge_parents"] if row["parent"] == 1]
    assert [row["weight"] for row in first] == [0.5, 1.0, 1.0, 2.0, 2.0, 0.5]
    assert [row["layer"] for row in first] == [None, 0, 1, 2, 3, None]
    assert [row["part"] for row in first] == ["lm_head", "q_proj", "q_proj", "q_proj", "q_proj", "norm"]
    assert {row["model"] for row in rows["merge_parents"]} == {"checkpoint/a@2", "checkpoint/b@3"}


def test_tensors_that_no_meter_saw_have_their_digest_and_no_figures() -> None:
    rows = Figures(recipe()).rows([merged("model.norm.weight", 64)])
    (tensor,) = rows["merge_tensors"]
    assert (tensor["elements"], tensor["xxh3_128"]) == (64, "0" * 32)
    assert tensor["base_norm"] is tensor["merged_norm"] is tensor["sign_conflict"] is None
    assert rows["merge_parents"] == rows["merge_pairs"] == []


def test_a_method_that_chooses_nothing_has_no_overlap() -> None:
    meter = TensorMeter(parents=2)
    meter.see_deltas(torch.tensor([[1.0, 0.0, -1.0, 2.0], [1.0, 1.0, 1.0, 0.0]]))
    assert meter.cosine(0, 1) == pytest.approx(0.0) and meter.overlap(0, 1) is None
    assert (meter.changed, meter.conflicts, meter.sampled) == ([3, 3], 1, 4)


def test_models_that_are_equal_have_no_direction() -> None:
    meter = TensorMeter(parents=2)
    meter.see_deltas(torch.zeros(2, 8))
    assert meter.cosine(0, 1) is None and (meter.changed, meter.conflicts) == ([0, 0], 0)


def test_the_tables_are_those_of_the_catalog() -> None:
    for name, schema in SCHEMAS.items():
        assert tables()[name] == pa.schema([("ref", pa.string()), *schema]), name
        whole = Whole(16, 2)
        pa.Table.from_pylist(figures_of(whole, 16)[name], schema=schema).validate(full=True)


@pytest.mark.parametrize(
    ("name", "layer", "part"),
    [
        ("model.embed_tokens.weight", None, "embed_tokens"), ("lm_head.weight", None, "lm_head"),
        ("model.layers.7.post_feedforward_layernorm.weight", 7, "post_feedforward_layernorm"),
        ("model.layers.31.self_attn.k_proj.bias", 31, "k_proj.bias"), ("transformer.h.0.mlp.c_fc.weight", 0, "c_fc"),
        ("odd", None, "odd"),
    ],
)  # fmt: skip
def test_a_name_says_the_layer_and_the_part(name: str, layer: int | None, part: str) -> None:
    assert (layer_of(name), part_of(name)) == (layer, part)


def covered(chunks: Sequence[int]) -> int:
    start, found = 0, 0
    for length in chunks:
        found += sum(piece.stop - piece.start for piece in sample(start, length))
        start += length
    return found


def test_the_sample_of_chunks_is_the_sample_of_the_whole() -> None:
    rng = np.random.default_rng(0)
    for _ in range(12):
        chunks = rng.integers(1, 3 * PIECE, size=20).tolist()
        assert covered(chunks) == covered([sum(chunks)]) == in_sample(sum(chunks)).sum()
