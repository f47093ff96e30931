"""A LoRA adapter of another trainer becomes a checkpoint that only merging takes."""

from __future__ import annotations

import argparse
import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from sea_lion import cli
from sea_lion.catalog.adapters import check_whole
from sea_lion.catalog.errors import CorruptInput, RecipeError, SeaLionError
from sea_lion.catalog.records import Artifact, Checkpoint, TokenizerBody
from sea_lion.catalog.store import Job, Made, Options, Store
from sea_lion.data.chat_recipe import SynthesisRecipe
from sea_lion.data.synthesis import make_synthesis
from sea_lion.eval.evaluate import evaluate_model
from sea_lion.eval.recipe import EvaluationRecipe
from sea_lion.merging.adapter import source_of, tokenizer_folder
from sea_lion.training.commands import other_command
from sea_lion.training.model import init_model
from sea_lion.training.outside import import_model, model_files
from sea_lion.training.recipe import InitRecipe, OutsideRecipe, TokenizerRecipe, TrainRecipe
from sea_lion.training.train import train_model
from sea_lion.training.vocabulary import TOKENIZER_FILES, save_tokenizer, trained_bpe

SETTINGS, FILE = "adapter_config.json", "adapter_model.safetensors"


def tokenizer(job: Job[TokenizerRecipe]) -> Made:
    save_tokenizer(trained_bpe(iter(["makan nasi goreng di kota besar"] * 4), 300), job.folder)
    return Made(body=TokenizerBody(algorithm="byte-level-bpe", vocabulary=300))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A catalog with two random models, one with a tied head."""
    root = tmp_path_factory.mktemp("adapters")
    made = Store(root / "artifacts")
    words = TokenizerRecipe(kind="tokenizer", name="tokenizer/t", version="1", corpora=(), vocabulary=300, licence="MIT")
    made.make(words, root, tokenizer, Options())
    models: list[tuple[Literal["llama", "gemma2"], bool]] = [("llama", False), ("gemma2", True)]
    for architecture, is_tied in models:
        init = InitRecipe(
            kind="init", name=f"checkpoint/{architecture}", version="1", tokenizer="tokenizer/t@1", architecture=architecture,
            hidden_size=16, intermediate_size=32, layers=2, heads=2, key_value_heads=1, head_dim=8, max_length=64,
            is_tied=is_tied,
        )  # fmt: skip
        made.make(init, root, init_model, Options())
    return made


def tuned(store: Store, ref: str, folder: Path, **settings: Any) -> Path:
    """An adapter of a checkpoint, as peft saves it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        base = AutoModelForCausalLM.from_pretrained(store.folder(store.require(ref).ref))
        configuration: Any = LoraConfig
        given = configuration(**{"r": 2, "target_modules": ["q_proj", "up_proj"]} | settings)
        model: Any = get_peft_model(base, given)
        torch.manual_seed(3)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data.normal_(0, 0.1)
        model.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(store: Store, tmp_path: Path) -> Path:
    made = tuned(store, "checkpoint/llama@1", tmp_path / "tuned")
    (made / "training_args.bin").write_bytes(b"\x80pickle")
    return made


def taken(store: Store, folder: Path, name: str, *parents: str) -> Artifact:
    recipe = OutsideRecipe(
        kind="outside", name=f"checkpoint/{name}", version="dev", model_files=model_files(folder), parents=parents,
        licence="MIT", stage="sft",
    )  # fmt: skip
    return store.make(recipe, folder, import_model, Options())


def flags(*given: str) -> argparse.Namespace:
    return cli._parser().parse_args(["train", *given])


@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
def test_it_is_recorded_beside_its_parent(store: Store, tmp_path: Path, architecture: str) -> None:
    parent = f"checkpoint/{architecture}@1"
    folder = tuned(store, parent, tmp_path / "tuned")
    given = (
        "--import", str(folder), "--name", f"checkpoint/{architecture}-tuned", "--parents", parent, "--stage", "sft",
        "--tokens", "99", "--licence", "Apache-2.0", "--catalog", str(store.root),
    )  # fmt: skip
    assert other_command(flags(*given)) == 0
    artifact = store.require(f"checkpoint/{architecture}-tuned@1")
    body, whole = artifact.body, store.require(parent)
    assert isinstance(body, Checkpoint) and isinstance(whole.body, Checkpoint)
    assert (body.stage, body.tokens_seen, body.parents, body.adapter_of) == ("sft", 99, (parent,), parent)
    assert body.architecture == whole.body.architecture and whole.body.adapter_of == ""
    assert body.parameters == sum(tensor.numel() for tensor in load_file(folder / FILE).values()) < whole.body.parameters
    assert "Apache-2.0" in artifact.licence and "MIT" in artifact.licence
    there = store.folder(artifact.ref)
    assert {path.name for path in there.iterdir()} == {SETTINGS, FILE, "artifact.json"}
    assert (there / FILE).read_bytes() == (folder / FILE).read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        base = AutoModelForCausalLM.from_pretrained(store.folder(whole.ref), dtype=torch.float32)
        loaded: Any = PeftModel.from_pretrained(base, folder)
        expected = loaded.merge_and_unload().state_dict()
    source = source_of(store, artifact)
    for name, stored in source.tensors.items():
        found = torch.empty(stored.elements)
        source.read(name, 0, found)
        torch.testing.assert_close(found.view(stored.shape), expected[name], rtol=1e-6, atol=1e-6)
    assert tokenizer_folder(store, artifact) == store.folder(whole.ref)


def test_an_adapter_of_an_adapter_brings_its_tokenizer(store: Store, folder: Path, tmp_path: Path) -> None:
    first = taken(store, folder, "first", "checkpoint/llama@1")
    second_folder = tuned(store, "checkpoint/llama@1", tmp_path / "second", target_modules=["v_proj"])
    for name in TOKENIZER_FILES:
        file = store.folder(store.require("checkpoint/llama@1").ref) / name
        if file.is_file():
            shutil.copy(file, second_folder)
    content = json.loads((second_folder / "tokenizer.json").read_text("utf-8"))
    content["model"]["dropout"] = 0.1
    (second_folder / "tokenizer.json").write_text(json.dumps(content), "utf-8")
    second = taken(store, second_folder, "second", str(first.ref))
    assert isinstance(second.body, Checkpoint) and second.body.adapter_of == str(first.ref)
    there = store.folder(second.ref)
    assert json.loads((there / "tokenizer.json").read_text("utf-8"))["model"]["dropout"] is None
    assert tokenizer_folder(store, second) == there
    source, whole = source_of(store, second), source_of(store, store.require("checkpoint/llama@1"))
    for part, is_changed in (("q_proj", True), ("v_proj", True), ("k_proj", False)):
        name = f"model.layers.0.self_attn.{part}.weight"
        one, other = (torch.empty(given.tensors[name].elements) for given in (source, whole))
        source.read(name, 0, one)
        whole.read(name, 0, other)
        assert torch.equal(one, other) is not is_changed


def nan(folder: Path) -> None:
    content = load_file(folder / FILE)
    next(iter(content.values()))[0, 0] = torch.nan
    save_file(content, folder / FILE)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "nan": (nan, "1 of .* elements are NaN or infinite"),
    "model beside it": (
        lambda folder: save_file({"w": torch.ones(1)}, folder / "model.safetensors"),
        r"model\.safetensors: lies beside adapter_config\.json",
    ),
    "pickle": (lambda folder: (folder / FILE).rename(folder / "adapter_model.bin"), "a pickle can run code"),
    "cut": (lambda folder: (folder / FILE).write_bytes((folder / FILE).read_bytes()[:-3]), "is not a whole safetensors file"),
    "kind": (lambda folder: (folder / SETTINGS).write_text('{"peft_type": "VERA"}'), "is VERA; only LORA"),
    "tokenizer": (lambda folder: (folder / "tokenizer.json").write_text("{}"), r"tokenizer\.json: cannot be loaded"),
}  # fmt: skip


@pytest.mark.parametrize("damage", list(DAMAGE))
def test_a_damaged_adapter_is_refused(store: Store, folder: Path, damage: str) -> None:
    change, message = DAMAGE[damage]
    change(folder)
    with pytest.raises(CorruptInput, match=message) as error:
        taken(store, folder, "damaged", "checkpoint/llama@1")
    assert "\n" not in str(error.value)
    assert not (store.root / "checkpoint" / "damaged").exists()


def test_it_has_the_one_parent_that_it_fits(store: Store, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="an adapter has one parent, the model it adapts; 0 are named"):
        taken(store, folder, "alone")
    with pytest.raises(RecipeError, match="2 are named"):
        taken(store, folder, "two", "checkpoint/llama@1", "checkpoint/gemma2@1")
    with pytest.raises(RecipeError, match="tokenizer/t@1 is a tokenizer, not a checkpoint"):
        taken(store, folder, "words", "tokenizer/t@1")
    tied = tuned(store, "checkpoint/gemma2@1", tmp_path / "tied", target_modules=["embed_tokens"])
    with pytest.raises(CorruptInput, match="changes an embedding that is the head as well"):
        taken(store, tied, "tied", "checkpoint/gemma2@1")
    head = tuned(store, "checkpoint/llama@1", tmp_path / "head", target_modules=["lm_head"])
    with pytest.raises(CorruptInput, match="changes an embedding that is the head as well"):
        taken(store, head, "head", "checkpoint/gemma2@1")


def test_whatever_loads_a_model_says_so(store: Store, folder: Path, tmp_path: Path) -> None:
    artifact = taken(store, folder, "parted", "checkpoint/llama@1")
    ref = str(artifact.ref)
    message = r"checkpoint/parted@dev is a LoRA adapter of checkpoint/llama@1, no whole model: merge it into checkpoint/llama@1"
    with pytest.raises(SeaLionError, match=message):
        check_whole(artifact)
    check_whole(store.require("checkpoint/llama@1"))
    train = TrainRecipe(
        kind="train", name="checkpoint/x", version="dev", objective="cpt", model=ref, mixture=ref, lr=1e-3, batch_sequences=1
    )
    with pytest.raises(SeaLionError, match=message):
        store.make(train, tmp_path, train_model, Options())
    evaluation = EvaluationRecipe(kind="evaluation", name="scorecard/x", version="dev", model=ref, suite="smoke")
    with pytest.raises(SeaLionError, match=message):
        store.make(evaluation, tmp_path, evaluate_model, Options())
    synthesis = SynthesisRecipe(
        kind="synthesis", name="synthesis/x", version="dev", model="m", checkpoint=ref, languages=("ind",), attempts=1,
        licence="MIT",
    )  # fmt: skip
    with pytest.raises(SeaLionError, match=message):
        store.make(synthesis, tmp_path, make_synthesis, Options())
