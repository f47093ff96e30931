"""A store with a corpus, a tokenizer and checkpoints, and a small suite of every form: what tests of evaluation run on."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from sea_lion.catalog.fingerprint import file_digest
from sea_lion.catalog.records import Artifact, Checkpoint, Corpus, Scorecard, Shard, TokenizerBody
from sea_lion.catalog.store import Job, Made, Options, Store, write_rows
from sea_lion.data.recipe import CorpusRecipe, Source
from sea_lion.eval.evaluate import evaluate_model
from sea_lion.eval.family import LikelihoodFamily
from sea_lion.eval.recipe import SUITES, EvaluationRecipe
from sea_lion.eval.smoke import open_suite
from sea_lion.eval.suite import LanguageTask, read_suite
from sea_lion.training.recipe import InitRecipe, TokenizerRecipe

SAMPLE = Path(__file__).parents[2] / "data" / "sample" / "articles"
WINDOW = 96
LANGUAGES = ("eng", "tha", "mya")
SUITE = f"""
name = "small"
languages = {list(LANGUAGES)}
window_tokens = 512
[[task]]
name = "heldout"
form = "documents"
source = "web"
[[task]]
name = "word-order"
form = "word-order"
items = "sentences"
seed = "x"
"""


def texts(language: str, start: int, stop: int) -> list[str]:
    rows = [json.loads(line) for line in (SAMPLE / f"{language}.jsonl").read_text("utf-8").splitlines()]
    return ["\n".join([row["title"], *row["paragraphs"]]) for row in rows[start:stop]]


def write_model(folder: Path, window: int = WINDOW) -> None:
    """A random Llama whose context is shorter than the documents."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator([text for language in LANGUAGES for text in texts(language, 0, 4)], trainer)
    wrap: Any = PreTrainedTokenizerFast
    wrap(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>").save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=400,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=window,
        initializer_range=0.3,  # answers that differ from each other
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def make_corpus(job: Job[CorpusRecipe]) -> Made:
    shards = []
    for language in job.recipe.languages:
        for split, start, stop in (("heldout", 18, 21), ("train", 0, 2)):
            rows = [
                {"id": hashlib.sha256(text.encode()).hexdigest()[:16], "text": text} for text in texts(language, start, stop)
            ]
            path = job.folder / f"{language}-{split}.parquet"
            write_rows(path, rows, pa.schema([("id", pa.string()), ("text", pa.string())]))
            count = {"documents": len(rows), "characters": 1, "bytes": 1}
            shards.append(
                Shard(path=path.name, language=language, source="web", split=split, sha256=file_digest(path), **count)
            )
    return Made(body=Corpus(shards=tuple(shards), documents_in=1, documents_out=1))


RECIPE = EvaluationRecipe(
    kind="evaluation",
    name="scorecard/test",
    version="1",
    model="checkpoint/test@1",
    suite="small",
    suite_files=("small.toml", "sentences/*.jsonl"),
    heldout="corpus/test@1",
)


class World:
    """A store with a held-out corpus, a tokenizer and one checkpoint, and the recipe that evaluates it."""

    def __init__(self, root: Path) -> None:
        self.store, self.base, self.models = Store(root / "store"), root, 0
        sentences = root / "sentences"
        sentences.mkdir(parents=True)
        for language in LANGUAGES:
            source = SUITES / "smoke" / "sentences" / f"{language}.jsonl"
            rows = source.read_text("utf-8").splitlines()[:6]
            (sentences / source.name).write_text("\n".join(rows), "utf-8")
        (root / "small.toml").write_text(SUITE, "utf-8")
        self.corpus("corpus/test", LANGUAGES)
        self.store.make(
            TokenizerRecipe(kind="tokenizer", name="tokenizer/test", version="1", corpora=("corpus/test@1",), vocabulary=400),
            root,
            lambda job: Made(body=TokenizerBody(algorithm="byte-level-bpe", vocabulary=400)),
            Options(),
        )
        self.checkpoint("checkpoint/test", write_model)
        self.recipe = RECIPE

    @classmethod
    def at(cls, root: Path) -> World:
        """The world that was made in a folder."""
        world = cls.__new__(cls)
        world.store, world.base, world.models, world.recipe = Store(root / "store"), root, 1, RECIPE
        return world

    def corpus(self, name: str, languages: tuple[str, ...]) -> None:
        source = Source(name="web", form="jsonl", files=("small.toml",))
        recipe = CorpusRecipe(
            kind="corpus", name=name, version="1", languages=languages, source=(source,), thresholds=("small.toml",)
        )
        self.store.make(recipe, self.base, make_corpus, Options())

    def checkpoint(self, name: str, write: Callable[[Path], None]) -> None:
        def make(job: Job[InitRecipe]) -> Made:
            write(job.folder)
            return Made(body=Checkpoint(stage="init", architecture="LlamaForCausalLM", parameters=1))

        self.models += 1
        sizes: Any = {"hidden_size": 32, "intermediate_size": 64, "layers": 2, "heads": 2, "key_value_heads": 1, "head_dim": 16}
        recipe = InitRecipe(
            kind="init",
            name=name,
            version="1",
            tokenizer="tokenizer/test@1",
            architecture="llama",
            max_length=WINDOW,
            seed=self.models,
            **sizes,
        )
        self.store.make(recipe, self.base, make, Options())

    def folder(self, ref: str) -> Path:
        return self.store.folder(self.store.require(ref).ref)

    def evaluate(self, **changes: Any) -> tuple[Artifact, Scorecard, list[dict[str, Any]]]:
        artifact = self.store.make(replace(self.recipe, **changes), self.base, evaluate_model, Options())
        assert isinstance(artifact.body, Scorecard)
        return artifact, artifact.body, pq.read_table(self.store.folder(artifact.ref) / artifact.tables["items"]).to_pylist()

    def tasks(self) -> list[LanguageTask]:
        files = [self.base / "small.toml", *sorted((self.base / "sentences").iterdir())]
        definition = read_suite("small", files)
        suite = open_suite(definition, files, self.store.require("corpus/test@1"), self.folder("corpus/test@1"))
        return [task for family in suite.families if isinstance(family, LikelihoodFamily) for task in family.tasks]

    def variant(self, name: str, change: Callable[[Path], None]) -> str:
        """Reference of a copy of the checkpoint, changed before it was recorded."""

        def write(folder: Path) -> None:
            shutil.copytree(self.folder("checkpoint/test@1"), folder, dirs_exist_ok=True)
            (folder / "artifact.json").unlink()
            change(folder)

        self.checkpoint(name, write)
        return f"{name}@1"

    def variant_of(self, name: str, ref: str, seed: int) -> str:
        """Reference of a copy of a checkpoint with other weights."""
        from safetensors.torch import load_file, save_file

        def write(folder: Path) -> None:
            shutil.copytree(self.folder(ref), folder, dirs_exist_ok=True)
            (folder / "artifact.json").unlink()
            weights = load_file(folder / "model.safetensors")
            torch.manual_seed(seed)
            changed = {key: weight + 0.2 * torch.randn_like(weight) for key, weight in weights.items()}
            save_file(changed, folder / "model.safetensors", metadata={"format": "pt"})

        self.checkpoint(name, write)
        return f"{name}@1"


def noted(monkeypatch: pytest.MonkeyPatch, kind: type[Any], method: str) -> list[Any]:
    """What a method is called with from now on: each call's first argument."""
    calls: list[Any] = []
    original = getattr(kind, method)

    def called(self: Any, *given: Any, **named: Any) -> Any:
        calls.append(given[0])
        return original(self, *given, **named)

    monkeypatch.setattr(kind, method, called)
    return calls
