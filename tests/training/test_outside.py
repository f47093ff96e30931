"""A model of another trainer becomes a checkpoint; what is not a whole model is refused in one line."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from sea_lion import cli
from sea_lion.catalog.errors import CorruptInput, DriftError, RecipeError, SeaLionError
from sea_lion.catalog.records import Artifact, Checkpoint, TokenizerBody
from sea_lion.catalog.store import Job, Made, Options, Store
from sea_lion.merging.convert import convert_pickles
from sea_lion.training.commands import other_command
from sea_lion.training.model import init_model
from sea_lion.training.outside import import_model, model_files
from sea_lion.training.recipe import InitRecipe, OutsideRecipe, TokenizerRecipe
from sea_lion.training.vocabulary import save_tokenizer, trained_bpe

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


def flags(*given: str) -> argparse.Namespace:
    return cli._parser().parse_args(["train", *given])


def tokenizer(job: Job[TokenizerRecipe]) -> Made:
    save_tokenizer(trained_bpe(iter(["makan nasi goreng di kota besar"] * 4), 300), job.folder)
    return Made(body=TokenizerBody(algorithm="byte-level-bpe", vocabulary=300))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A catalog with one random model."""
    root = tmp_path_factory.mktemp("outside")
    made = Store(root / "artifacts")
    words = TokenizerRecipe(kind="tokenizer", name="tokenizer/t", version="1", corpora=(), vocabulary=300, licence="MIT")
    made.make(words, root, tokenizer, Options())
    init = InitRecipe(
        kind="init", name="checkpoint/first", version="1", tokenizer="tokenizer/t@1", architecture="llama", hidden_size=16,
        intermediate_size=32, layers=2, heads=2, key_value_heads=1, head_dim=8, max_length=64,
    )  # fmt: skip
    made.make(init, root, init_model, Options())
    return made


@pytest.fixture
def folder(store: Store, tmp_path: Path) -> Path:
    """The model as a trainer elsewhere left it, weights changed, with that trainer's own files beside it."""
    made = tmp_path / "trained"
    shutil.copytree(store.folder(store.require("checkpoint/first@1").ref), made)
    weights = load_file(made / WEIGHTS)
    save_file({name: weight + 1 for name, weight in weights.items()}, made / WEIGHTS, {"format": "pt"})
    (made / "artifact.json").unlink()
    (made / "training_args.bin").write_bytes(b"\x80pickle")
    (made / "optimizer.pt").write_bytes(b"\x80pickle")
    return made


def recipe(**changes: Any) -> OutsideRecipe:
    made = OutsideRecipe(
        kind="outside", name="checkpoint/theirs", version="dev", model_files=("config.json",), licence="MIT", parents=()
    )
    return replace(made, **changes)


def taken(store: Store, folder: Path, **changes: Any) -> Artifact:
    files = changes.pop("model_files", None) or model_files(folder)
    return store.make(recipe(model_files=files, **changes), folder, import_model, Options())


def edited(file: Path, **changes: Any) -> None:
    content = json.loads(file.read_text("utf-8"))
    file.write_text(json.dumps(content | changes), "utf-8")


def reweighted(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(folder / WEIGHTS)
    change(weights)
    save_file(weights, folder / WEIGHTS, {"format": "pt"})


def test_it_is_a_checkpoint_like_any(store: Store, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    content["model"]["dropout"] = 0.1
    (folder / "tokenizer.json").write_text(json.dumps(content), "utf-8")
    given = (
        "--import", str(folder), "--name", "checkpoint/llama-factory", "--parents", "checkpoint/first@1", "--stage", "sft",
        "--tokens", "1234", "--steps", "5", "--licence", "Apache-2.0", "--catalog", str(store.root),
    )  # fmt: skip
    assert other_command(flags(*given)) == 0
    artifact = store.require("checkpoint/llama-factory@1")
    assert isinstance(artifact.body, Checkpoint)
    assert (artifact.body.stage, artifact.body.step, artifact.body.tokens_seen) == ("sft", 5, 1234)
    assert artifact.body.parents == ("checkpoint/first@1",) and [given.ref for given in artifact.inputs] == [
        "checkpoint/first@1"
    ]
    assert "Apache-2.0" in artifact.licence and "MIT" in artifact.licence
    there = store.folder(artifact.ref)
    assert not list(there.glob("*.bin")) and not list(there.glob("*.pt"))
    assert json.loads((there / "tokenizer.json").read_text("utf-8"))["model"]["dropout"] is None
    model: Any = AutoModelForCausalLM.from_pretrained(there)
    expected = load_file(folder / WEIGHTS)
    assert torch.equal(model.lm_head.weight, expected["model.embed_tokens.weight"])
    assert sum(weight.numel() for weight in model.parameters()) == artifact.body.parameters
    assert len(AutoTokenizer.from_pretrained(there)) <= model.config.vocab_size
    created = artifact.provenance.created
    assert other_command(flags(*given)) == 0, "the same files again are found made"
    assert store.require("checkpoint/llama-factory@1").provenance.created == created
    reweighted(folder, lambda weights: weights["model.norm.weight"].add_(1))
    with pytest.raises(DriftError, match="raise the version"):
        other_command(flags(*given))
    assert capsys.readouterr().out.count("checkpoint/llama-factory@1") == 2


def test_a_later_write_does_not_reach_the_record(store: Store, folder: Path) -> None:
    artifact = taken(store, folder)
    before = (store.folder(artifact.ref) / WEIGHTS).read_bytes()
    with (folder / WEIGHTS).open("r+b") as file:
        file.seek(-4, 2)
        file.write(b"\0\0\0\0")
    assert (store.folder(artifact.ref) / WEIGHTS).read_bytes() == before


def test_shards_with_an_index(store: Store, folder: Path) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    (folder / WEIGHTS).unlink()
    model.save_pretrained(folder, max_shard_size="8KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    artifact = taken(store, folder)
    again: Any = AutoModelForCausalLM.from_pretrained(store.folder(artifact.ref))
    assert all(torch.equal(old, new) for old, new in zip(model.parameters(), again.parameters(), strict=True))
    shutil.copy(folder / "model-00001-of-00002.safetensors" if (folder / "model-00001-of-00002.safetensors").exists() else
                sorted(folder.glob("model-*.safetensors"))[0], folder / "extra.safetensors")  # fmt: skip
    with pytest.raises(CorruptInput, match=r"extra\.safetensors: is named there and missing, or there and not named"):
        taken(store, folder)


def nan(weights: dict[str, torch.Tensor]) -> None:
    weights["model.layers.1.mlp.up_proj.weight"][0, 0] = float("nan")


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "nan": (lambda folder: reweighted(folder, nan), r"layers\.1\.mlp\.up_proj\.weight: 1 of 512 elements are NaN"),
    "missing": (lambda folder: reweighted(folder, lambda w: w.pop("model.norm.weight")), r"model\.norm\.weight: is missing"),
    "unknown": (lambda folder: reweighted(folder, lambda w: w.update(x=torch.ones(1))), "x: is no tensor of this model"),
    "shape": (
        lambda folder: reweighted(folder, lambda w: w.update({"model.norm.weight": torch.ones(15)})),
        r"has shape \(15,\), the configuration says \(16,\)",
    ),
    "type": (
        lambda folder: reweighted(folder, lambda w: w.update({"model.norm.weight": torch.ones(16, dtype=torch.int8)})),
        "is of type I8",
    ),
    "untied": (
        lambda folder: reweighted(folder, lambda w: w.update({"lm_head.weight": torch.ones(286, 16)})),
        "differs from the embedding",
    ),
    "cut": (lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-9]), "not a whole safetensors"),
    "renamed": (lambda folder: (folder / WEIGHTS).rename(folder / "w.safetensors"), "weights lie in model.safetensors"),
    "pickle": (lambda folder: (folder / WEIGHTS).unlink(), "optimizer.pt: a pickle can run code"),
    "adapter": (lambda folder: (folder / "adapter_config.json").write_text("{}"), "a model and an adapter in one folder"),
    "no config": (lambda folder: (folder / "config.json").unlink(), r"config\.json: is missing"),
    "config": (lambda folder: (folder / "config.json").write_text("{"), r"config\.json: cannot be read as JSON"),
    "deep config": (lambda folder: (folder / "config.json").write_text("[" * 100_000), r"config\.json: cannot be read as JSON"),
    "no kind": (lambda folder: (folder / "config.json").write_text("{}"), "is not a configuration of transformers"),
    "heads": (lambda folder: edited(folder / "config.json", num_attention_heads=0), "is not a configuration of transformers"),
    "layers": (lambda folder: edited(folder / "config.json", num_hidden_layers="2"), "is not a configuration of transformers"),
    "many layers": (lambda folder: edited(folder / "config.json", num_hidden_layers=10**9), "has 1,000,000,000 layers"),
    "no rows": (lambda folder: edited(folder / "config.json", vocab_size=-5), "is not of a causal language model"),
    "name": (lambda folder: edited(folder / "config.json", architectures="LlamaForCausalLM"), "is a list of names"),
    "index": (lambda folder: (folder / INDEX).write_text('{"weight_map": {"a": 3}}'), "is not a table of tensors"),
    "deep index": (lambda folder: (folder / INDEX).write_text("[" * 100_000), "cannot be read as JSON"),
    "generation": (lambda folder: (folder / "generation_config.json").write_text("no"), "cannot be read as JSON"),
    "code": (lambda folder: edited(folder / "config.json", auto_map={"AutoModel": "x.Y"}), "asks for code of its own"),
    "quantised": (lambda folder: edited(folder / "config.json", quantization_config={"bits": 4}), "quantised"),
    "task": (
        lambda folder: edited(folder / "config.json", architectures=["LlamaForSequenceClassification"]),
        "not of a causal language model",
    ),
    "vocabulary": (lambda folder: edited(folder / "config.json", vocab_size=200), "286 entries, the model only 200"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), r"tokenizer\.json: is missing"),
    "tokenizer": (lambda folder: (folder / "tokenizer.json").write_text("{}"), "cannot be loaded"),
    "no folder": (lambda folder: shutil.rmtree(folder), "no such folder"),
}


@pytest.mark.parametrize("damage", list(DAMAGE))
def test_what_is_no_whole_model_is_refused(store: Store, folder: Path, damage: str) -> None:
    change, message = DAMAGE[damage]
    change(folder)
    with pytest.raises(CorruptInput, match=message) as error:
        taken(store, folder, name=f"checkpoint/{damage.replace(' ', '-')}")
    assert "\n" not in str(error.value)
    assert store.root / "checkpoint" / damage not in list((store.root / "checkpoint").iterdir())


def test_a_pickled_model_is_imported_when_it_is_converted(store: Store, folder: Path, tmp_path: Path) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()
    with pytest.raises(CorruptInput, match=r"a pickle can run code .*sea-lion merge --convert"):
        taken(store, folder)
    convert_pickles(folder, tmp_path / "converted")
    artifact = taken(store, tmp_path / "converted", name="checkpoint/converted")
    again: Any = AutoModelForCausalLM.from_pretrained(store.folder(artifact.ref))
    assert all(torch.equal(old, new) for old, new in zip(model.parameters(), again.parameters(), strict=True))


def test_wrong_recipes(store: Store, folder: Path) -> None:
    with pytest.raises(RecipeError, match="tokenizer/t@1 is a tokenizer, not a checkpoint"):
        taken(store, folder, parents=("tokenizer/t@1",))
    with pytest.raises(CorruptInput, match="a pickle can run code"):
        taken(store, folder, model_files=("config.json", "tokenizer.json", "optimizer.pt"))
    with pytest.raises(ValueError, match="name its licence"):
        recipe(licence="")
    with pytest.raises(SeaLionError, match="name its licence"):
        other_command(flags("--import", str(folder), "--name", "checkpoint/x", "--catalog", str(store.root)))
    with pytest.raises(SeaLionError, match="--name"):
        other_command(flags("--import", str(folder)))
