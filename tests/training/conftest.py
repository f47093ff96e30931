"""A small store: a corpus of made-up words in four scripts, its tokenizer, a mixture, conversations, pairs and tiny models."""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sea_lion.catalog.fingerprint import file_digest, plain
from sea_lion.catalog.records import Artifact, Conversations, Corpus, Shard
from sea_lion.catalog.store import Job, Made, Options, Store, write_rows
from sea_lion.data.chat_recipe import ConversationsRecipe
from sea_lion.data.mixture import plan_mixture
from sea_lion.data.recipe import CorpusRecipe, MixtureRecipe, Part, TokenFilesRecipe
from sea_lion.data.token_files import write_token_files
from sea_lion.training import processes
from sea_lion.training.model import init_model
from sea_lion.training.recipe import InitRecipe, TokenizerRecipe, TrainRecipe
from sea_lion.training.train import train_model
from sea_lion.training.vocabulary import train_tokenizer

LETTERS = {"eng": "abcdefgh", "tha": "กขคงจชาิี่้", "mya": "ကခဂငစညာိုေး်", "tam": "கஙசஞடணாிுெ்"}
LENGTH = 48
SEQUENCES = {"eng": 30, "tha": 26, "mya": 14, "tam": 10}


def words(language: str, draw: random.Random, count: int) -> str:
    """Made-up text: few words, so that it can be learnt; spaces in English and Tamil only."""
    known = random.Random(language)
    vocabulary = ["".join(known.choices(LETTERS[language], k=known.randint(2, 5))) for _ in range(40)]
    return (" " if language in ("eng", "tam") else "").join(draw.choices(vocabulary, k=count)) + ".\n"


def _corpus(job: Job[CorpusRecipe]) -> Made:
    shards = list[Shard]()
    for language in sorted(LETTERS):
        draw = random.Random(f"corpus {language}")
        for split, documents in (("train", 24), ("heldout", 3)):
            rows = [
                {"id": f"{language}-{split}-{i:02d}", "text": words(language, draw, draw.randint(20, 60))}
                for i in range(documents)
            ]
            path = job.folder / f"{language}-{split}.parquet"
            write_rows(path, rows, pa.schema([("id", pa.string()), ("text", pa.string())]))
            shards.append(
                Shard(
                    path=path.name,
                    language=language,
                    source="web",
                    split=split,
                    documents=len(rows),
                    characters=sum(len(row["text"]) for row in rows),
                    bytes=sum(len(row["text"].encode()) for row in rows),
                    sha256=file_digest(path),
                )
            )
    return Made(body=Corpus(shards=tuple(shards), documents_in=108, documents_out=108))


def _conversations(job: Job[ConversationsRecipe]) -> Made:
    draw, text = random.Random(5), pa.string()
    message = pa.struct([("role", text), ("content", text)])
    if job.recipe.form == "messages":
        schema = pa.schema([("id", text), ("language", text), ("messages", pa.list_(message))])
        rows = [{"id": str(i), "language": "eng", "messages": conversation(draw, 1 + i % 2)} for i in range(20)]
    else:
        schema = pa.schema([(name, text) for name in ("id", "language", "prompt", "chosen", "rejected")])
        rows = [
            {
                "id": str(i),
                "language": "tha",
                "prompt": words("tha", draw, 3),
                "chosen": words("tha", draw, 2 + i % 3),
                "rejected": words("eng", draw, 3),
            }
            for i in range(9)
        ]
    write_rows(job.folder / "conversations.parquet", rows, schema)
    return Made(body=Conversations(form=job.recipe.form, rows=len(rows), languages={"eng": len(rows)}))


def conversation(draw: random.Random, turns: int) -> list[dict[str, str]]:
    """A system message and some turns of made-up English."""
    messages = [{"role": "system", "content": words("eng", draw, 2)}]
    for _ in range(turns):
        messages.append({"role": "user", "content": words("eng", draw, 3)})
        messages.append({"role": "assistant", "content": words("eng", draw, draw.randint(1, 6))})
    return messages


@dataclass
class Place:
    """The store and the ways to make things in it; tests reach this file's functions through it."""

    store: Store
    base: Path
    languages = tuple(LETTERS)
    sequences = SEQUENCES
    length = LENGTH
    words = staticmethod(words)
    conversation = staticmethod(conversation)

    @staticmethod
    def cpt(name: str, **changes: Any) -> TrainRecipe:
        return cpt_recipe(name, **changes)

    @staticmethod
    def talk(name: str, objective: str, **changes: Any) -> TrainRecipe:
        return talk_recipe(name, objective, **changes)

    @staticmethod
    def token_files(name: str, **changes: Any) -> TokenFilesRecipe:
        return token_files_recipe(name, **changes)

    @staticmethod
    def mixture(name: str, **changes: Any) -> MixtureRecipe:
        return mixture_recipe(name, **changes)

    def make(self, recipe: Any, maker: Any) -> Artifact:
        return self.store.make(recipe, self.base, maker, Options())

    def folder(self, ref: str) -> Path:
        return self.store.folder(self.store.require(ref).ref)

    def train(self, recipe: TrainRecipe) -> Artifact:
        return self.make(recipe, train_model)

    def log(self, artifact: Artifact) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = pq.read_table(self.store.folder(artifact.ref) / "training_log.parquet").to_pylist()
        return rows

    def file(self, recipe: TrainRecipe, path: Path) -> Path:
        """The recipe as a TOML file."""
        flat = {key: value for key, value in plain(recipe).items() if not isinstance(value, dict) and value is not None}
        tables = {key: value for key, value in plain(recipe).items() if isinstance(value, dict)}
        lines = [f"{key} = {json.dumps(value)}" for key, value in flat.items()]
        for name, table in tables.items():
            lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items())]
        path.write_text("\n".join(lines))
        return path

    def job(self, recipe: Any, folder: Path) -> Job[Any]:
        """A job outside of the store's care, as an attempt that can be killed and taken up again."""
        planned = self.store.plan(recipe, self.base)
        folder.mkdir(parents=True, exist_ok=True)
        return Job(recipe=recipe, inputs=planned.inputs, files=planned.files, folder=folder, store=self.store)


def fill(root: Path) -> Place:
    """Make the inputs of all tests below `root`."""
    place = Place(Store(root / "artifacts"), root)
    (root / "c.jsonl").write_text("{}\n")
    corpus = CorpusRecipe(kind="corpus", name="corpus/t", version="1", languages=(), source=(), thresholds=())
    place.make(corpus, _corpus)
    place.make(
        TokenizerRecipe(kind="tokenizer", name="tokenizer/t", version="1", corpora=("corpus/t@1",), vocabulary=400),
        train_tokenizer,
    )
    for split, dropout in (("train", 0.1), ("heldout", 0.0)):
        place.make(token_files_recipe("t" if split == "train" else "heldout", split=split, dropout=dropout), write_token_files)
    place.make(mixture_recipe("t"), plan_mixture)
    talk = ConversationsRecipe(kind="conversations", name="conversations/sft", version="1", form="messages", files=("c.jsonl",))
    place.make(talk, _conversations)
    place.make(replace(talk, name="conversations/pairs", form="preference"), _conversations)
    for architecture in ("llama", "gemma2"):
        place.make(init_recipe(architecture), init_model)
    return place


def token_files_recipe(name: str, **changes: Any) -> TokenFilesRecipe:
    """The corpus under its tokenizer, twice."""
    recipe = TokenFilesRecipe(
        kind="token-files",
        name=f"token-files/{name}",
        version="1",
        corpora=("corpus/t@1",),
        tokenizer="tokenizer/t@1",
        variants=2,
        seed=11,
    )
    return replace(recipe, **changes)


def mixture_recipe(name: str, **changes: Any) -> MixtureRecipe:
    """`SEQUENCES` of the token files."""
    total = sum(SEQUENCES.values())
    recipe = MixtureRecipe(
        kind="mixture",
        name=f"mixture/{name}",
        version="1",
        tokens="token-files/t@1",
        token_budget=total * LENGTH,
        sequence_length=LENGTH,
        part=tuple(
            Part(name="english" if language == "eng" else language, weight=count / total, languages=(language,))
            for language, count in SEQUENCES.items()
        ),
    )
    return replace(recipe, **changes)


def init_recipe(architecture: Any) -> InitRecipe:
    """A tiny model of two layers."""
    return InitRecipe(
        kind="init",
        name=f"model/{architecture}",
        version="1",
        tokenizer="tokenizer/t@1",
        architecture=architecture,
        hidden_size=32,
        intermediate_size=64,
        layers=2,
        heads=4,
        key_value_heads=2,
        head_dim=8,
        max_length=128,
        seed=3,
    )


def cpt_recipe(name: str, **changes: Any) -> TrainRecipe:
    """Twenty steps on the mixture."""
    recipe = TrainRecipe(
        kind="train",
        objective="cpt",
        name=f"model/{name}",
        version="1",
        model="model/llama@1",
        mixture="mixture/t@1",
        lr=3e-3,
        batch_sequences=4,
        seed=11,
        checkpoint_steps=6,
    )
    return replace(recipe, **changes)


def talk_recipe(name: str, objective: Any, **changes: Any) -> TrainRecipe:
    """A short run on the conversations or the pairs."""
    recipe = TrainRecipe(
        kind="train",
        objective=objective,
        name=f"model/{name}",
        version="1",
        model="model/llama@1",
        conversations="conversations/sft@1" if objective == "sft" else "conversations/pairs@1",
        lr=1e-3,
        batch_sequences=5,
        sequence_length=100,
        epochs=2.0,
    )
    return replace(recipe, **changes)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Two threads wait for each other on a loaded machine; each number of threads gives its own bits."""
    before, processes.THREADS = processes.THREADS, 1
    yield
    processes.THREADS = before


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    yield fill(tmp_path_factory.mktemp("training"))
