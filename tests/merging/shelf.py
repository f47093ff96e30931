"""A store of tiny models and the ways to spoil them, for the tests of `merging.fit`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import Gemma2Config, Gemma2ForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from sea_lion.catalog.errors import SeaLionError
from sea_lion.catalog.records import Checkpoint
from sea_lion.catalog.store import Job, Made, Options, Store
from sea_lion.merging.fit import Fit, compare
from sea_lion.merging.parents import models_of
from sea_lion.merging.recipe import MergeRecipe, Parent
from sea_lion.training.recipe import InitRecipe

Edit = Callable[[Path], object]
SIZES: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 32,
}  # fmt: skip
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


class Shelf:
    """A store of tiny models, each a changed copy of one of two."""

    def __init__(self, root: Path, originals: Path) -> None:
        self.store, self.originals = Store(root), originals

    def put(
        self, name: str, *edits: Edit, original: str = "llama", licence: str = "Apache-2.0", adapter_of: str = ""
    ) -> str:  # fmt: skip
        """Store a copy, or an adapter with the weights that `edits` write; returns its reference."""

        def copy(job: Job[InitRecipe]) -> Made:
            if not adapter_of:
                shutil.copytree(self.originals / original, job.folder, dirs_exist_ok=True)
            for edit in edits:
                edit(job.folder)
            return Made(body=Checkpoint(stage="init", architecture=original, parameters=1, adapter_of=adapter_of))

        recipe = InitRecipe(
            kind="init", name=f"checkpoint/{name}", version="1", tokenizer="", architecture="llama", hidden_size=16,
            intermediate_size=32, layers=2, heads=2, key_value_heads=1, head_dim=8, max_length=32, licence=licence,
        )  # fmt: skip
        return str(self.store.make(recipe, self.store.root, copy, Options()).ref)

    def fit(self, *refs: str, **changes: Any) -> Fit:
        """Compare models, the first the base."""
        recipe = merge_of(*refs, **changes)
        return compare(recipe, models_of(recipe, self.store))

    def refusal(self, *refs: str, **changes: Any) -> str:
        """What is said of models that do not fit: one line, and no file has come or gone."""
        before = sorted(self.store.root.rglob("*"))
        with pytest.raises(SeaLionError) as caught:
            self.fit(*refs, **changes)
        assert sorted(self.store.root.rglob("*")) == before
        text = str(caught.value)
        assert "\n" not in text
        assert len(text) < 500
        return text


def merge_of(base: str, *parents: str, **changes: Any) -> MergeRecipe:
    """A recipe over these models."""
    fields: dict[str, Any] = {"kind": "merge", "name": "checkpoint/merged", "version": "1", "method": "dare_ties", "base": base}
    fields["parents"] = tuple(Parent(model=ref) for ref in parents)
    return MergeRecipe(**fields | changes)


def config(**changes: Any) -> Edit:
    """Change keys of `config.json`; None takes one away."""

    def edit(folder: Path) -> None:
        table = json.loads((folder / "config.json").read_text("utf-8")) | changes
        table = {key: value for key, value in table.items() if value is not None}
        (folder / "config.json").write_text(json.dumps(table), "utf-8")

    return edit


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Edit:
    """Change the weights."""

    def edit(folder: Path) -> None:
        table = load_file(folder / "model.safetensors")
        change(table)
        save_file(table, folder / "model.safetensors", metadata={"format": "pt"})

    return edit


def tokenizer(change: Callable[[dict[str, Any]], object]) -> Edit:
    """Change `tokenizer.json`."""

    def edit(folder: Path) -> None:
        table = json.loads((folder / "tokenizer.json").read_text("utf-8"))
        change(table)
        (folder / "tokenizer.json").write_text(json.dumps(table), "utf-8")

    return edit


def seeded(folder: Path) -> None:
    """Other weights, of the same shapes."""
    generator = torch.Generator().manual_seed(1)
    tensors(lambda table: table.update({n: torch.randn(t.shape, generator=generator) for n, t in table.items()}))(folder)


def resized(rows: int) -> Edit:
    """Embedding and head with so many rows."""
    return tensors(lambda table: table.update({name: torch.zeros(rows, 16) for name in (EMBEDDING, HEAD)}))


def swapped(table: dict[str, Any]) -> None:
    """Two tokens change places."""
    vocab = table["model"]["vocab"]
    vocab["a"], vocab["d"] = vocab["d"], vocab["a"]


def template(text: str) -> Edit:
    """Another chat template, or none."""

    def edit(folder: Path) -> None:
        (folder / "chat_template.jinja").unlink()
        if text:
            (folder / "chat_template.jinja").write_text(text, "utf-8")

    return edit


def removed(name: str) -> Edit:
    """A file is missing from the start."""
    return lambda folder: (folder / name).unlink()


def pickled(folder: Path) -> None:
    """Weights as a pickle."""
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def sharded(folder: Path) -> None:
    """Two shards named by an index, one of them there."""
    table = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    save_file({HEAD: table.pop(HEAD)}, folder / "model-00001-of-00002.safetensors")
    weight_map = dict.fromkeys(table, "model-00002-of-00002.safetensors") | {HEAD: "model-00001-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama and a tiny Gemma 2 with tied embeddings, each with a tokenizer and a chat template."""
    folder = tmp_path_factory.mktemp("originals")
    bpe = Tokenizer(models.BPE(unk_token="<unk>"))
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    bpe.train_from_iterator(["satu dua tiga empat lima"], trainers.BpeTrainer(vocab_size=60, special_tokens=["<unk>", "</s>"]))
    fast: Any = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=bpe, unk_token="<unk>", eos_token="</s>", chat_template="{{ messages[0].content }}"
    )
    torch.manual_seed(0)
    for name, model in (
        ("llama", LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=False, bos_token_id=0, eos_token_id=1))),
        ("gemma2", Gemma2ForCausalLM(Gemma2Config(**SIZES, sliding_window=16))),
    ):
        model.save_pretrained(folder / name)
        fast.save_pretrained(folder / name)
    return folder


@pytest.fixture
def shelf(tmp_path: Path, originals: Path) -> Shelf:
    """An empty shelf."""
    return Shelf(tmp_path / "store", originals)
