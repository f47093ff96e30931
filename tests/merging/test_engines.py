"""Two engines, one result: what the streaming engine writes is mergekit's, bit for bit, wherever no random number decides."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import Gemma2Config, Gemma2ForCausalLM, LlamaConfig, LlamaForCausalLM

from sea_lion.catalog.recipes import read_table
from sea_lion.merging.mergekit_engine import run_mergekit
from sea_lion.merging.recipe import NORMALIZED, MergeRecipe, StreamedMethod
from sea_lion.merging.streaming import merge_weights
from sea_lion.merging.weights import Weights

METHODS: tuple[str, ...] = StreamedMethod.__args__  # type: ignore[attr-defined]
SIZES: dict[str, Any] = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 32,
}  # fmt: skip
KINDS: dict[str, Any] = {"llama": (LlamaForCausalLM, LlamaConfig), "gemma2": (Gemma2ForCausalLM, Gemma2Config)}
ONES: list[dict[str, Any]] = [{}, {}, {}]
OTHERS: list[dict[str, Any]] = [{"weight": 0.3}, {"weight": -0.7}, {"weight": 1.9}]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """Base and three parents of each architecture and dtype; the parents lie near the base, as fine-tuned models do."""
    root = tmp_path_factory.mktemp("models")
    return {
        f"{kind} {dtype}": [_model(root / f"{kind}-{dtype}-{seed}", kind, seed, getattr(torch, dtype)) for seed in range(4)]
        for kind in KINDS
        for dtype in ("float32", "bfloat16")
    }


def _model(folder: Path, kind: str, seed: int, dtype: torch.dtype) -> Path:
    maker, config = KINDS[kind]
    torch.manual_seed(0)
    model = maker(config(**SIZES))
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    model.to(dtype).save_pretrained(folder, max_shard_size="20KB" if seed == 1 else "1GB")
    return folder


def recipe_of(method: str, parents: list[dict[str, Any]], **changes: object) -> MergeRecipe:
    table: dict[str, Any] = {
        "kind": "merge",
        "name": "checkpoint/m",
        "version": "1",
        "base": "checkpoint/b@1",
        "method": method,
    }
    table |= {"parents": [{"model": f"checkpoint/p{i}@1"} | parent for i, parent in enumerate(parents)]}
    return read_table(table | changes, MergeRecipe, "test.toml")


def assert_one_result(recipe: MergeRecipe, folders: list[Path], scratch: Path) -> None:
    """Both engines' tensors are equal in name, dtype and every bit."""
    folders = folders[: len(recipe.parents) + 1]
    theirs: dict[str, torch.Tensor] = {}
    for path in run_mergekit(recipe, folders, scratch, show_progress=False).glob("*.safetensors"):
        theirs |= load_file(path)
    base, *parents = (Weights(folder) for folder in folders)
    ours_at = scratch / "streamed"
    ours_at.mkdir()
    config = json.loads((folders[0] / "config.json").read_text("utf-8"))
    merge_weights(recipe, base, parents, ours_at, config=config)
    ours = load_file(ours_at / "model.safetensors")
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert tensor.dtype == theirs[name].dtype, name
        integers = torch.int32 if tensor.dtype == torch.float32 else torch.int16
        assert torch.equal(tensor.view(integers), theirs[name].view(integers)), name


@pytest.mark.parametrize("models_of", ["llama float32", "gemma2 bfloat16"])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_at_weight_and_density_one(
    models: dict[str, list[Path]], tmp_path: Path, method: str, normalize: bool, models_of: str
) -> None:
    assert_one_result(recipe_of(method, ONES, normalize=normalize), models[models_of], tmp_path)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_with_other_weights_and_settings(models: dict[str, list[Path]], tmp_path: Path, method: str, normalize: bool) -> None:
    changes: dict[str, Any] = {} if method == "linear" else {"scale": 0.37}
    changes |= {"agreement": 2, "tall_lambda": 0.35} if method == "consensus_ta" else {}
    recipe = recipe_of(method, OTHERS, normalize=normalize, **changes)
    assert_one_result(recipe, models["gemma2 float32"], tmp_path)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("models_of", ["llama float32", "llama bfloat16"])
def test_the_dtype_of_the_result(models: dict[str, list[Path]], tmp_path: Path, models_of: str, dtype: str) -> None:
    assert_one_result(recipe_of("dare_ties", OTHERS, dtype=dtype), models[models_of], tmp_path)


@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("density", [0.2, 0.7])
def test_ties_with_a_density(models: dict[str, list[Path]], tmp_path: Path, density: float, rescale: bool) -> None:
    parents = [parent | {"density": density} for parent in OTHERS]
    assert_one_result(recipe_of("ties", parents, rescale=rescale), models["llama float32"], tmp_path)


@pytest.mark.parametrize("method", ["linear", "ties", "consensus_ta"])
def test_one_parent(models: dict[str, list[Path]], tmp_path: Path, method: str) -> None:
    assert_one_result(recipe_of(method, [{"weight": 0.5}]), models["llama bfloat16"], tmp_path)


def test_opposite_weights_are_not_divided_by_zero(models: dict[str, list[Path]], tmp_path: Path) -> None:
    for method in ("task_arithmetic", "ties", "consensus_ta"):
        recipe = recipe_of(method, [{"weight": 1.0}, {"weight": -1.0}], normalize=True)
        assert_one_result(recipe, models["llama float32"], tmp_path / method)


def test_layer_weights_are_what_mergekit_makes_of_a_weight_for_each_layer(
    models: dict[str, list[Path]], tmp_path: Path
) -> None:
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    from sea_lion.merging.mergekit_engine import configuration
    from sea_lion.merging.plugin import OrderedConfiguration

    folders = models["gemma2 bfloat16"][:3]
    recipe = recipe_of("dare_ties", [{"weight": 0.5, "layer_weights": [0.1, 2.0]}, {"layer_weights": [1.0, 0.3, 0.7]}])
    table = configuration(recipe, [{"model": {"path": str(folder)}} for folder in folders], dtype="bfloat16", layers=3)
    options = MergeOptions(device="cpu", copy_tokenizer=False, write_model_card=False, quiet=True)
    run_merge(OrderedConfiguration.model_validate(table), str(tmp_path / "merged"), options)
    base, *parents = (Weights(folder) for folder in folders)
    merge_weights(recipe, base, parents, tmp_path, config=json.loads((folders[0] / "config.json").read_text("utf-8")))
    ours, (path,) = load_file(tmp_path / "model.safetensors"), (tmp_path / "merged").glob("*.safetensors")
    theirs = load_file(path)
    assert all(torch.equal(ours[name].view(torch.int16), tensor.view(torch.int16)) for name, tensor in theirs.items())
    plain = recipe_of("dare_ties", [{"weight": 0.5}, {}])
    merge_weights(plain, base, parents, tmp_path, config=json.loads((folders[0] / "config.json").read_text("utf-8")))
    others = load_file(tmp_path / "model.safetensors")
    changed = {name for name in ours if not torch.equal(ours[name], others[name])}
    assert changed == {name for name in ours if ".layers." in name}


def test_normalize_is_by_default_what_mergekit_does() -> None:
    from mergekit.merge_methods import get

    from sea_lion.merging.plugin import register_methods

    register_methods()
    for method in METHODS:
        recipe, spec = recipe_of(method, ONES), {entry.name: entry.default for entry in get(method).spec.parameters}
        assert recipe.normalize is spec["normalize"] is (method in NORMALIZED)
        if "rescale" in spec:
            assert recipe.rescale is spec["rescale"]
