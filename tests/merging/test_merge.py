"""Merges of tiny models through mergekit and the store."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)  # fmt: skip

from sea_lion.catalog.errors import CorruptInput, SeaLionError
from sea_lion.catalog.records import Artifact, Checkpoint
from sea_lion.catalog.store import Job, Made, Options, Store
from sea_lion.merging.merge import merge_models
from sea_lion.merging.recipe import MergeRecipe, Parent
from sea_lion.training.recipe import InitRecipe

SIZES: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 32,
}  # fmt: skip

Edit = Callable[[torch.nn.Module], object]


class Zoo:
    """Makes and merges tiny models in one store."""

    def __init__(self, root: Path) -> None:
        self.store = Store(root)
        self.base = root
        self.options = Options()

    def model(
        self, name: str, *, architecture: str = "llama", seed: int = 0, edit: Edit | None = None, text: str = "satu dua tiga",
        sizes: dict[str, Any] | None = None,
    ) -> str:  # fmt: skip
        """Store a random model; `edit` changes it before it is saved. Returns its reference."""

        def save(job: Job[InitRecipe]) -> Made:
            _tokenizer(text).save_pretrained(job.folder)
            torch.manual_seed(seed)
            model = _random(architecture, SIZES | (sizes or {}))
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(0.05 * torch.randn_like(parameter))
                if edit:
                    edit(model)
            model.save_pretrained(job.folder)
            count = sum(parameter.numel() for parameter in model.parameters())
            return Made(body=Checkpoint(stage="init", architecture=type(model).__name__, parameters=count))

        return str(self.store.make(self.init(name, seed), self.base, save, Options()).ref)

    def init(self, name: str, seed: int = 0) -> InitRecipe:
        """A recipe that stands for the making of a model."""
        return InitRecipe(
            kind="init", name=f"checkpoint/{name}", version="1", tokenizer="", architecture="llama", hidden_size=16,
            intermediate_size=32, layers=2, heads=2, key_value_heads=1, head_dim=8, max_length=32, seed=seed,
        )  # fmt: skip

    def merge(self, recipe: MergeRecipe) -> Artifact:
        """Merge through the store."""
        return self.store.make(recipe, self.base, merge_models, Options())

    def folder(self, artifact: Artifact) -> Path:
        """Where it is."""
        return self.store.folder(artifact.ref)

    def state(self, ref: str) -> dict[str, torch.Tensor]:
        """A checkpoint's weights, as transformers loads them."""
        folder = self.store.folder(self.store.require(ref).ref)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        return {name: parameter.detach() for name, parameter in model.named_parameters()}


def merge_recipe(
    base: str, parents: list[Parent], method: str = "dare_ties", name: str = "merged", **changes: object
) -> MergeRecipe:
    """A merge recipe with the usual settings."""
    fields: dict[str, object] = {"kind": "merge", "name": f"checkpoint/{name}", "version": "1", "normalize": False}
    return MergeRecipe(**(fields | {"method": method, "base": base, "parents": tuple(parents)} | changes))  # type: ignore[arg-type]


def _random(architecture: str, sizes: dict[str, Any]) -> Any:
    if architecture == "gemma2":
        return Gemma2ForCausalLM(Gemma2Config(**sizes, sliding_window=16))
    return LlamaForCausalLM(LlamaConfig(**sizes))


def _tokenizer(text: str) -> Any:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    tokenizer.train_from_iterator([text], trainers.BpeTrainer(vocab_size=64, special_tokens=["<unk>", "</s>"]))
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>", chat_template="{{ messages[0].content }}"
    )


@pytest.fixture
def zoo(tmp_path: Path) -> Zoo:
    """An empty store of tiny models."""
    return Zoo(tmp_path / "store")


@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
@pytest.mark.parametrize("method", ["linear", "dare_ties", "della_linear", "consensus_ta"])
def test_a_merge_is_what_its_formula_says_and_loads(zoo: Zoo, architecture: str, method: str) -> None:
    base, p, q = (zoo.model(name, architecture=architecture, seed=seed) for seed, name in enumerate("bpq"))
    artifact = zoo.merge(merge_recipe(base, [Parent(model=p), Parent(model=q, weight=0.5)], method))
    states = [zoo.state(ref) for ref in (base, p, q, str(artifact.ref))]
    for name in states[0]:
        start, first, second, result = (state[name] for state in states)
        a, b = first - start, 0.5 * (second - start)
        if method == "linear":
            expected = first + 0.5 * second
        elif method == "della_linear":
            expected = start + a + b
        elif method == "dare_ties":
            sign = torch.where(a + b >= 0, 1.0, -1.0)
            expected = start + a * (a.sign() == sign) + b * (b.sign() == sign)
        else:
            kept = (a.abs() > b.abs()) | ((2 * b).abs() > (a - b).abs())
            expected = start + (a + b) * kept
        torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-6)
    tokenizer = AutoTokenizer.from_pretrained(zoo.folder(artifact))
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(zoo.folder(zoo.store.require(base))).chat_template
    model = AutoModelForCausalLM.from_pretrained(zoo.folder(artifact))
    ids = tokenizer("satu dua", return_tensors="pt").input_ids
    assert torch.isfinite(model(ids).logits).all()
    body = artifact.body
    assert isinstance(body, Checkpoint)
    assert (body.stage, body.method, body.parents) == ("merge", method, (base, p, q))
    assert body.architecture == type(model).__name__
    assert body.parameters == sum(parameter.numel() for parameter in model.parameters())


def test_tied_embeddings_of_gemma_stay_tied(zoo: Zoo) -> None:
    base, p = (zoo.model(name, architecture="gemma2", seed=seed) for seed, name in enumerate("bp"))
    folder = zoo.folder(zoo.merge(merge_recipe(base, [Parent(model=p)], "della_linear")))
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    original = AutoModelForCausalLM.from_pretrained(zoo.folder(zoo.store.require(base)))
    assert model.get_input_embeddings().weight.shape == original.get_input_embeddings().weight.shape


@pytest.mark.parametrize("method", ["linear", "dare_ties", "della_linear", "consensus_ta"])
def test_merging_equal_models_is_the_identity(zoo: Zoo, method: str) -> None:
    base = zoo.model("base")
    artifact = zoo.merge(merge_recipe(base, [Parent(model=base), Parent(model=base)], method, normalize=True))
    assert isinstance(artifact.body, Checkpoint)
    assert artifact.body.parents == (base,)
    for name, weights in zoo.state(base).items():
        torch.testing.assert_close(zoo.state(str(artifact.ref))[name], weights, rtol=0, atol=0)


def test_two_runs_give_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    digests = []
    for run, seed in (("a@b+c", 3), ("second", 3), ("third", 4)):
        zoo = Zoo(tmp_path / run)
        base, p, q = (zoo.model(name, seed=i) for i, name in enumerate("bpq"))
        torch.manual_seed(len(run))
        parents = [Parent(model=p, density=0.5), Parent(model=q, density=0.5)]
        artifact = zoo.merge(merge_recipe(base, parents, "della_linear", epsilon=0.1, seed=seed))
        digests.append({file.path: file.sha256 for file in artifact.files})
    assert digests[0] == digests[1]
    assert digests[0]["model.safetensors"] != digests[2]["model.safetensors"]


def test_what_is_written_beside_the_weights(zoo: Zoo, tmp_path: Path) -> None:
    base, p = (zoo.model(name, seed=seed) for seed, name in enumerate("bp"))
    recipe = merge_recipe(base, [Parent(model=p, weight=0.5)], "consensus_ta", dtype="bfloat16", tall_lambda=0.4, scale=0.3)
    artifact = zoo.merge(recipe)
    folder = zoo.folder(artifact)
    assert [file.path for file in artifact.files] == [
        "chat_template.jinja", "config.json", "generation_config.json", "merge_pairs.parquet", "merge_parents.parquet",
        "merge_tensors.parquet", "mergekit.yml", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    for file in artifact.files:
        assert str(tmp_path).encode() not in (folder / file.path).read_bytes()
    table = yaml.safe_load((folder / "mergekit.yml").read_text("utf-8"))
    assert table["base_model"] == base
    assert table["models"] == [{"model": p, "parameters": {"weight": 0.5, "tall_lambda": 0.4}}]
    assert table["parameters"] == {"normalize": False, "k": 1, "alpha": 0.3}
    assert json.loads((folder / "config.json").read_text("utf-8"))["dtype"] == "bfloat16"
    assert AutoModelForCausalLM.from_pretrained(folder, dtype="auto").dtype == torch.bfloat16


def test_an_interrupted_attempt_starts_again(zoo: Zoo) -> None:
    base, p = (zoo.model(name, seed=seed) for seed, name in enumerate("bp"))
    recipe = merge_recipe(base, [Parent(model=p)])

    def interrupted(job: Job[MergeRecipe]) -> None:
        (job.folder / "merging").mkdir()
        (job.folder / "merging" / "half").write_text("x")
        (job.folder / "model-00001-of-00002.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        zoo.store.make(recipe, zoo.base, interrupted, zoo.options)  # type: ignore[arg-type]
    artifact = zoo.store.make(recipe, zoo.base, merge_models, zoo.options)
    assert "model-00001-of-00002.safetensors" not in [file.path for file in artifact.files]
    assert AutoModelForCausalLM.from_pretrained(zoo.folder(artifact)) is not None


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("bad", ["base", "parent"])
def test_nan_and_infinity_are_refused_with_the_tensor_named(zoo: Zoo, value: float, bad: str) -> None:
    def spoil(model: torch.nn.Module) -> None:
        model.get_parameter("model.layers.1.mlp.down_proj.weight")[3, 5] = value

    base = zoo.model("base", edit=spoil if bad == "base" else None)
    parent = zoo.model("parent", seed=1, edit=spoil if bad == "parent" else None)
    with pytest.raises(CorruptInput, match=rf"checkpoint/{bad}@1: model.layers.1.mlp.down_proj.weight: 1 of 512 elements"):
        zoo.merge(merge_recipe(base, [Parent(model=parent)]))
    assert not list(zoo.store.root.glob("checkpoint/merged*"))


def test_a_result_that_overflows_is_refused(zoo: Zoo) -> None:
    def enlarge(model: torch.nn.Module) -> None:
        model.get_parameter("model.norm.weight").fill_(40_000.0)

    base, p = zoo.model("base"), zoo.model("parent", seed=1, edit=enlarge)
    recipe = merge_recipe(base, [Parent(model=p), Parent(model=p)], "della_linear", dtype="float16")
    with pytest.raises(SeaLionError, match=r"checkpoint/merged@1: model.norm.weight would hold inf .* too large for float16"):
        zoo.merge(recipe)
    with pytest.raises(CorruptInput, match=r"the result of checkpoint/merged@1: model.norm.weight: 16 of 16"):
        zoo.merge(replace(recipe, engine="mergekit"))
    assert not list(zoo.store.root.glob("checkpoint/merged*"))


@pytest.mark.parametrize(
    ("other", "problem"),
    [
        (
            {"architecture": "gemma2"},
            "architecture differs: LlamaForCausalLM in the base, Gemma2ForCausalLM in checkpoint/other",
        ),
        ({"text": "lima enam tujuh"}, "tokenizer.json differs"),
        (
            {"sizes": {"intermediate_size": 48}},
            "layers.0.mlp.down_proj.weight differs: .16, 32. in the base, .16, 48.",
        ),
        (
            {"sizes": {"num_hidden_layers": 1}},
            "layers.1.input_layernorm.weight differs: .16. in the base, missing",
        ),
        ({"sizes": {"vocab_size": 80}}, "vocabulary differs: embeddings of 64 rows in the base, 80 in checkpoint/other@1"),
    ],
)
def test_models_that_do_not_fit_are_refused_before_any_output(
    zoo: Zoo, other: dict[str, object], problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    base, wrong = zoo.model("base"), zoo.model("other", seed=1, **other)  # type: ignore[arg-type]
    with caplog.at_level(logging.INFO), pytest.raises(SeaLionError, match=problem):
        zoo.merge(merge_recipe(base, [Parent(model=wrong)]))
    assert "merged" not in caplog.text  # the refusal is the one line that is said
    assert not list(zoo.store.root.glob("checkpoint/merged*"))
    assert not [path for path in (zoo.store.root / ".work").iterdir() if path.is_dir()]


def test_a_truncated_parent_is_refused(zoo: Zoo) -> None:
    base, p = zoo.model("base"), zoo.model("parent", seed=1)
    weights = zoo.folder(zoo.store.require(p)) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CorruptInput, match="sha256 differs"):
        zoo.merge(merge_recipe(base, [Parent(model=p)]))


def test_a_file_that_no_record_names_does_not_get_into_the_result(zoo: Zoo) -> None:
    base, p = zoo.model("base"), zoo.model("parent", seed=1)
    (zoo.folder(zoo.store.require(base)) / "special_tokens_map.json").write_text('{"eos_token": "<unk>"}')
    with pytest.raises(CorruptInput, match=r"special_tokens_map\.json: is no file of checkpoint/base@1"):
        zoo.merge(merge_recipe(base, [Parent(model=p)]))


def test_other_differences_of_the_configurations_are_logged(zoo: Zoo, caplog: pytest.LogCaptureFixture) -> None:
    base, p = zoo.model("base"), zoo.model("parent", seed=1, sizes={"max_position_embeddings": 128})
    with caplog.at_level(logging.INFO):
        artifact = zoo.merge(merge_recipe(base, [Parent(model=p)]))
    assert "max_position_embeddings: 32 -> 128" in caplog.text
    assert json.loads((zoo.folder(artifact) / "config.json").read_text("utf-8"))["max_position_embeddings"] == 32


def test_a_tied_head_that_is_stored_again_does_not_grow_the_model(zoo: Zoo) -> None:
    base, p = (zoo.model(name, architecture="gemma2", seed=seed) for seed, name in enumerate("bp"))
    path = zoo.folder(zoo.store.require(base)) / "model.safetensors"
    weights = load_file(path)

    def save(job: Job[InitRecipe]) -> Made:
        shutil.copytree(path.parent, job.folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("artifact.json"))
        save_file(weights | {"lm_head.weight": weights["model.embed_tokens.weight"].clone()}, job.folder / "model.safetensors")
        return Made(body=Checkpoint(stage="init", architecture="Gemma2ForCausalLM", parameters=1))

    recipe = zoo.init("again")
    again = str(zoo.store.make(recipe, zoo.base, save, Options()).ref)
    merged = load_file(zoo.folder(zoo.merge(merge_recipe(again, [Parent(model=p)]))) / "model.safetensors")
    assert "lm_head.weight" not in merged and merged.keys() == weights.keys()
