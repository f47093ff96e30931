"""Whole merges by the streaming engine: recorded reference values through files, resuming, and what it refuses."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xxhash
from safetensors.torch import load_file, save_file

from sea_lion.catalog.errors import CorruptInput, SeaLionError
from sea_lion.catalog.files import SCRATCH
from sea_lion.merging import chunks, streaming
from sea_lion.merging.contract import MergedTensor, Stored
from sea_lion.merging.meter import Figures
from sea_lion.merging.recipe import MergeRecipe, Parent
from sea_lion.merging.streaming import merge_weights, tensor_digest
from sea_lion.merging.weights import Weights

ORACLE = Path(__file__).parents[3] / "shared" / "oracles" / "merge_vectors.json"
needs_oracle = pytest.mark.skipif(not ORACLE.is_file(), reason=f"recorded reference values are not there: {ORACLE.name}")
VECTORS: dict[str, Any] = json.loads(ORACLE.read_text("utf-8")) if ORACLE.is_file() else {"cases": {}}
STEADY = [name for name, case in VECTORS["cases"].items() if "masks_packbits_hex" not in case]
Tensors = Mapping[str, torch.Tensor]
NAMES = ("model.embed_tokens.weight", "model.layers.0.mlp.weight", "model.layers.1.mlp.weight", "model.norm.weight")
SHAPES = ((50, 16), (16, 24), (16, 24), (16,))


def recipe_of(method: str, parents: Sequence[Parent] | int = 2, **changes: Any) -> MergeRecipe:
    if isinstance(parents, int):
        parents = [Parent(model=f"checkpoint/p{i}@1") for i in range(parents)]
    values: dict[str, Any] = {"kind": "merge", "name": "checkpoint/m", "version": "1", "base": "checkpoint/b@1"}
    return MergeRecipe(**values | {"method": method, "parents": tuple(parents)} | changes)


def models_of(count: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> list[dict[str, torch.Tensor]]:
    """A base and so many fine-tuned models."""
    generator = torch.Generator().manual_seed(seed)
    base = {name: torch.randn(shape, generator=generator) for name, shape in zip(NAMES, SHAPES, strict=True)}
    others = [
        {name: tensor + 0.1 * torch.randn(tensor.shape, generator=generator) for name, tensor in base.items()}
        for _ in range(count)
    ]
    return [{name: tensor.to(dtype) for name, tensor in model.items()} for model in (base, *others)]


def saved(folder: Path, tensors: Tensors, *, shards: int = 1) -> Weights:
    """A model on disk, in one file or several."""
    folder.mkdir(parents=True)
    names = list(tensors)
    if shards == 1:
        save_file(dict(tensors), folder / "model.safetensors", metadata={"format": "pt"})
        return Weights(folder)
    weight_map: dict[str, str] = {}
    for number in range(shards):
        file = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: tensors[name] for name in names[number::shards]}
        save_file(part, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return Weights(folder)


class Models:
    """Models on disk and merges of them."""

    def __init__(self, root: Path, models: Sequence[Tensors], *, shards: int = 1) -> None:
        self.root = root
        self.base, *self.parents = [saved(root / f"m{i}", model, shards=shards) for i, model in enumerate(models)]

    def merge(
        self, recipe: MergeRecipe, name: str = "out", **options: Any
    ) -> tuple[dict[str, torch.Tensor], list[MergedTensor]]:
        """The merged tensors, as safetensors reads them, and the rows."""
        folder = self.root / name
        folder.mkdir(exist_ok=True)
        rows = merge_weights(recipe, self.base, self.parents, folder, **options)
        return loaded(folder), rows


def loaded(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(path).items()}


def files_of(folder: Path) -> dict[str, bytes]:
    """What belongs to the artifact."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def vector_models(names: Sequence[str]) -> list[dict[str, torch.Tensor]]:
    made = VECTORS["how_to_make_inputs"]

    def noise(seed: int) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
        state = np.random.RandomState(seed)
        return {name: state.standard_normal(made["shapes"][name]).astype(np.float32) for name in sorted(made["shapes"])}

    base = noise(made["base_seed"])
    models = {f"model{i}": noise(seed) for i, seed in enumerate(made["model_seeds"])}
    parents = [
        {name: (base[name] + np.float32(0.05) * models[model][name]).astype(np.float32) for name in base} for model in names
    ]
    return [{name: torch.from_numpy(tensor) for name, tensor in model.items()} for model in (base, *parents)]


def vector_recipe(case: Mapping[str, Any]) -> MergeRecipe:
    parameters = dict(case["parameters"])
    density, weight = parameters.pop("density", 1.0), parameters.pop("weight")
    fields = {"k": "agreement", "alpha": "scale", "tall_lambda": "tall_lambda", "epsilon": "epsilon", "rescale": "rescale"}
    changes = {fields[name]: value for name, value in parameters.items()}
    parents = [Parent(model=f"checkpoint/{name}@1", weight=weight, density=density) for name in case["models"]]
    return recipe_of(case["method"], parents, seed=case.get("seed") or 0, **changes)


@needs_oracle
def test_some_vectors_are_deterministic() -> None:
    assert len(STEADY) >= 14


@needs_oracle
@pytest.mark.parametrize("name", STEADY)
@pytest.mark.parametrize("chunk", [64, 65_536])
def test_recorded_values_through_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, chunk: int) -> None:
    case = VECTORS["cases"][name]
    monkeypatch.setattr(chunks, "CHUNK", chunk)
    models = Models(tmp_path, vector_models(case["models"]), shards=3)
    result, rows = models.merge(vector_recipe(case), shard_bytes=2000)
    assert set(result) == set(case["expected"])
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 1
    for tensor, expected in case["expected"].items():
        digest = hashlib.sha256(result[tensor].contiguous().numpy().tobytes()).hexdigest()
        assert digest == expected["sha256_f32le"], tensor
    for row in rows:
        assert row.xxh3_128 == xxhash.xxh3_128(result[row.name].numpy().tobytes()).hexdigest()


@needs_oracle
@pytest.mark.parametrize("name", [name for name in VECTORS["cases"] if name not in STEADY])
def test_recorded_values_of_random_methods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    case = VECTORS["cases"][name]
    monkeypatch.setattr(chunks, "CHUNK", 64)
    result, _ = Models(tmp_path, vector_models(case["models"])).merge(vector_recipe(case))
    for tensor, expected in case["expected"].items():
        np.testing.assert_allclose(result[tensor].view(-1)[:8], expected["first8"], rtol=2e-7, atol=3e-8)
        assert float(result[tensor].double().norm()) == pytest.approx(expected["l2_f64"], rel=1e-7)


PRUNED = [Parent(model="checkpoint/p0@1", density=0.5), Parent(model="checkpoint/p1@1", density=0.7, weight=0.6)]
EVERY = [
    recipe_of("linear"), recipe_of("task_arithmetic", scale=0.3), recipe_of("consensus_ta", tall_lambda=0.4),
    *(recipe_of(method, PRUNED) for method in ("ties", "dare_linear", "dare_ties", "della", "della_linear")),
]  # fmt: skip


@pytest.mark.parametrize("recipe", EVERY, ids=lambda recipe: recipe.method)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_bits_do_not_depend_on_threads_shards_or_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: MergeRecipe, dtype: torch.dtype
) -> None:
    tensors = models_of(2, dtype)
    models = Models(tmp_path, tensors)
    one, rows = models.merge(recipe, "one", threads=1)
    three, _ = models.merge(recipe, "three", threads=3)
    assert files_of(tmp_path / "one") == files_of(tmp_path / "three")
    monkeypatch.setattr(chunks, "CHUNK", 64)
    small, small_rows = models.merge(recipe, "small", shard_bytes=900, threads=2)
    assert {name: tensor.dtype for name, tensor in one.items()} == dict.fromkeys(NAMES, dtype)
    assert [row.xxh3_128 for row in rows] == [row.xxh3_128 for row in small_rows]
    for name in NAMES:
        assert torch.equal(one[name], three[name])
        assert torch.equal(one[name], small[name])
    for row in rows:
        assert tensor_digest(recipe, models.base, models.parents, row.name, layers=2) == row.xxh3_128
        assert (row.file, row.shape, row.dtype) == (
            "model.safetensors", tuple(one[row.name].shape), {torch.bfloat16: "BF16", torch.float16: "F16"}[dtype],
        )  # fmt: skip


def test_rounding_is_once_from_float32(tmp_path: Path) -> None:
    tensors = models_of(2, torch.bfloat16)
    result, _ = Models(tmp_path, tensors).merge(recipe_of("task_arithmetic", scale=0.3))
    base, *parents = tensors
    for name in NAMES:
        deltas = torch.stack([parent[name].float() - base[name].float() for parent in parents])
        assert torch.equal(result[name], (base[name].float() + deltas.sum(0) * 0.3).to(torch.bfloat16))


def test_dtype_of_the_recipe_and_of_each_tensor(tmp_path: Path) -> None:
    tensors = [dict(model) for model in models_of(2, torch.bfloat16)]
    for model in tensors:
        model["model.norm.weight"] = model["model.norm.weight"].float()
    models = Models(tmp_path, tensors)
    mixed, rows = models.merge(recipe_of("linear"), "mixed")
    assert {row.name: row.dtype for row in rows} == dict.fromkeys(NAMES, "BF16") | {"model.norm.weight": "F32"}
    assert mixed["model.norm.weight"].dtype == torch.float32
    full, _ = models.merge(recipe_of("linear", dtype="float32"), "full")
    assert {tensor.dtype for tensor in full.values()} == {torch.float32}
    assert torch.equal(full["model.embed_tokens.weight"].bfloat16(), mixed["model.embed_tokens.weight"])


def test_layers_have_weights_of_their_own(tmp_path: Path) -> None:
    tensors = models_of(1)
    parents = [Parent(model="checkpoint/p0@1", weight=0.25, layer_weights=(1.0, 0.0))]
    models = Models(tmp_path, tensors)
    result, _ = models.merge(recipe_of("task_arithmetic", parents), config={"num_hidden_layers": 2})
    base, parent = tensors
    for name, weight in zip(NAMES, (0.25, 1.0, 0.0, 0.25), strict=True):
        assert torch.equal(result[name], base[name] + weight * (parent[name] - base[name]))
    by_names, _ = models.merge(recipe_of("task_arithmetic", parents), "by-names")
    assert torch.equal(by_names[NAMES[1]], result[NAMES[1]])


def test_result_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    tensors = models_of(2)
    tensors[0][NAMES[1]][3, 5] = 40_000.0
    tensors[1][NAMES[1]][3, 5] = tensors[2][NAMES[1]][3, 5] = 60_000.0
    models = Models(tmp_path, tensors)
    whole, _ = models.merge(recipe_of("task_arithmetic"), "float32")
    assert whole[NAMES[1]][3, 5] == 80_000.0
    with pytest.raises(SeaLionError, match=rf"{NAMES[1]} would hold inf at element {3 * 24 + 5}.*float16"):
        models.merge(recipe_of("task_arithmetic", dtype="float16"), "float16")
    assert files_of(tmp_path / "float16") == {}
    assert not list((tmp_path / "float16").rglob("*.safetensors"))


def test_large_sums_of_finite_numbers_are_let_through(tmp_path: Path) -> None:
    tensors = [{"w": torch.full((100,), 3e38)}] * 2
    result, _ = Models(tmp_path, tensors).merge(recipe_of("task_arithmetic", 1))
    assert torch.equal(result["w"], tensors[0]["w"])


class Failing:
    """A model of which one tensor cannot be read, at first."""

    def __init__(self, weights: Weights, name: str) -> None:
        self.tensors: Mapping[str, Stored] = weights.tensors
        self.weights, self.name, self.fails = weights, name, True
        self.reads: set[str] = set()
        self.lock = threading.Lock()

    def read(self, name: str, start: int, out_C: torch.Tensor) -> None:
        with self.lock:
            self.reads.add(name)
        if self.fails and name == self.name:
            raise CorruptInput("m1", name, "the disk is gone")
        self.weights.read(name, start, out_C)


@pytest.mark.parametrize("threads", [1, 3])
def test_finished_files_are_kept_and_the_figures_with_them(tmp_path: Path, threads: int) -> None:
    recipe = recipe_of("ties", PRUNED)
    models = Models(tmp_path, models_of(2))
    whole = Figures(recipe)
    models.merge(recipe, "whole", shard_bytes=1500, meter=whole.meter)
    failing = Failing(models.parents[0], NAMES[3])
    models.parents[0] = failing  # type: ignore[call-overload]
    out = tmp_path / "out"
    figures = Figures(recipe)
    with pytest.raises(CorruptInput, match="the disk is gone"):
        models.merge(recipe, shard_bytes=1500, meter=figures.meter, threads=threads)
    finished = set(files_of(out))
    assert not list((out / SCRATCH).rglob("*.safetensors"))
    if threads == 1:
        assert finished == {f"model-0000{i}-of-00004.safetensors" for i in (1, 2, 3)}
    failing.fails, failing.reads = False, set()
    figures = Figures(recipe)
    _, rows = models.merge(recipe, shard_bytes=1500, meter=figures.meter, threads=threads)
    assert failing.reads == {row.name for row in rows if row.file not in finished}
    assert files_of(out) == files_of(tmp_path / "whole")
    assert figures.rows(rows) == whole.rows(rows)


def test_finished_files_of_another_merge_are_not_kept(tmp_path: Path) -> None:
    models = Models(tmp_path, models_of(2))
    models.merge(recipe_of("linear"), shard_bytes=1500, inputs="a")
    failing = Failing(models.parents[0], "")
    models.parents[0] = failing  # type: ignore[call-overload]
    models.merge(recipe_of("linear"), shard_bytes=1500, inputs="a")
    assert failing.reads == set()
    models.merge(recipe_of("linear"), shard_bytes=1500, inputs="b")
    assert failing.reads == set(NAMES)
    expected, _ = models.merge(recipe_of("task_arithmetic"), "expected", shard_bytes=1500)
    result, _ = models.merge(recipe_of("task_arithmetic"), shard_bytes=1500, inputs="b")
    for name in NAMES:
        assert torch.equal(result[name], expected[name])


def test_what_another_merge_left_is_removed(tmp_path: Path) -> None:
    models = Models(tmp_path, models_of(2))
    models.merge(recipe_of("linear"), shard_bytes=1500)
    unfinished = tmp_path / "out" / SCRATCH / "merging" / "model-00009-of-00009.safetensors"
    unfinished.write_bytes(b"x")
    models.merge(recipe_of("linear"))
    assert set(files_of(tmp_path / "out")) == {"model.safetensors"}
    assert [path.name for path in unfinished.parent.iterdir()] == ["model.safetensors.json"]


def test_full_disk_fails_before_anything_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = Models(tmp_path, models_of(2))
    failing = Failing(models.parents[0], "")
    models.parents[0] = failing  # type: ignore[call-overload]
    allocate = os.posix_fallocate

    def full(descriptor: int, offset: int, length: int) -> None:
        if length > 1000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        allocate(descriptor, offset, length)

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        models.merge(recipe_of("linear"), shard_bytes=1000)
    assert failing.reads == set()
    assert files_of(tmp_path / "out") == {}
    assert not list((tmp_path / "out").rglob("*.safetensors"))


def test_torch_keeps_its_number_of_threads(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        models = Models(tmp_path, models_of(2))
        models.merge(recipe_of("linear"))
        tensor_digest(recipe_of("linear"), models.base, models.parents, NAMES[0], layers=2)
        assert torch.get_num_threads() == 2
        seen: list[int] = []
        thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert seen == [2]
    finally:
        torch.set_num_threads(before)


def test_chunks_are_whole_rows_where_ranks_count() -> None:
    ranked = recipe_of("della", PRUNED)
    assert chunks.chunk_size(ranked, (1000, 3000)) % 3000 == 0
    assert chunks.chunk_size(ranked, (2, chunks.CHUNK + 7)) == chunks.CHUNK + 7
    assert chunks.chunk_size(ranked, (chunks.CHUNK * 2,)) == chunks.CHUNK * 2
    assert chunks.chunk_size(ranked, ()) % 1 == 0
    assert chunks.chunk_size(recipe_of("della"), (1000, 3000)) == chunks.CHUNK
    assert chunks.chunk_size(recipe_of("dare_ties", PRUNED), (1000, 3000)) == chunks.CHUNK


def test_shards_are_filled_in_order(tmp_path: Path) -> None:
    base = saved(tmp_path / "m", models_of(0)[0])
    sizes = [50 * 16 * 4, 16 * 24 * 4, 16 * 24 * 4, 16 * 4]
    assert sum(sizes) == 6336
    for limit, count in ((6336, 1), (6335, 2), (3200, 2), (3135, 3), (1, 4)):
        shards = streaming.planned_shards(recipe_of("linear"), base, limit)
        assert len(shards) == count, limit
        assert [name for shard in shards for name in shard.offsets] == streaming.in_order(base)
