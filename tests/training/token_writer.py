"""Token files as the tests of the data path want them: documents of given tokens, in the layout that `data` writes.

`filled` makes a store in which a mixture is planned with such files.
"""

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sea_lion.catalog.records import Checkpoint, Corpus, Mixture, TokenFiles, TokenizerBody
from sea_lion.catalog.store import Job, Made, Options, Store, write_rows
from sea_lion.data.mixture import plan_mixture
from sea_lion.data.recipe import CorpusRecipe, MixtureRecipe, Part, TokenFilesRecipe
from sea_lion.training.recipe import InitRecipe, TokenizerRecipe, TrainRecipe
from sea_lion.training.streams import TokenFile, TokenStream

TABLE = pa.schema(
    [(name, pa.string()) for name in ("corpus", "language", "source", "split")]
    + [("variant", pa.int64()), ("shard", pa.string()), ("path", pa.string())]
    + [(name, pa.int64()) for name in ("documents", "bytes", "tokens", "tokens_plain")]
)


def write_file(path: Path, documents: Sequence[Sequence[int]], crawls: Sequence[str] = (), token_bytes: int = 2) -> TokenFile:
    """One token file with its companions; a document's plain tokens are half of its tokens, rounded up."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sizes = [len(document) for document in documents]
    np.array([token for document in documents for token in document], f"<u{token_bytes}").tofile(path)
    np.cumsum(sizes, dtype="<u8").tofile(path.with_name(path.name + ".index"))
    table = pa.table(
        {
            "id": [f"{path.stem}-{i}" for i in range(len(sizes))],
            "crawl": pa.array(list(crawls) or [""] * len(sizes), pa.string()),
            "bytes": sizes,
            "tokens_plain": [(size + 1) // 2 for size in sizes],
        }
    )
    pq.write_table(table, path.with_name(path.name + ".documents"))
    return TokenFile(path=path, tokens=sum(sizes), documents=len(sizes))


def stream(folder: Path, files: Sequence[Sequence[Sequence[int]]], token_bytes: int = 2) -> TokenStream:
    """A stream of files, each a list of documents."""
    written = [write_file(folder / f"{i}.ds", documents, token_bytes=token_bytes) for i, documents in enumerate(files)]
    return TokenStream(written, token_bytes)


def row(file: TokenFile, folder: Path, **which: Any) -> dict[str, Any]:
    """The file's row of the table `token_files`."""
    plain = sum(pq.ParquetFile(f"{file.path}.documents").read()["tokens_plain"].to_pylist())
    shared = {"split": "train", "shard": f"{file.path.stem}.parquet", "path": file.path.relative_to(folder).as_posix()}
    sizes = {"documents": file.documents, "bytes": file.tokens, "tokens": file.tokens, "tokens_plain": plain}
    return {**shared, **sizes, **which}


CORPUS, TOKENIZER, FILES, MIXTURE, MODEL = "corpus/w@1", "tokenizer/w@1", "token-files/w@1", "mixture/w@1", "model/w@1"
LENGTH, VOCABULARY = 24, 100
SHARES = {"eng": 0.5, "tha": 0.3, "code": 0.2}


def filled(root: Path) -> Store:
    """A store with token files of three languages, two variants of different length each, a mixture and a model's files."""
    store = Store(root / "artifacts")

    def make(recipe: Any, made: Any) -> None:
        store.make(recipe, root, made, Options())

    make(
        CorpusRecipe(kind="corpus", name="corpus/w", version="1", languages=(), source=(), thresholds=()),
        lambda job: Made(body=Corpus(shards=(), documents_in=0, documents_out=0)),
    )
    make(
        TokenizerRecipe(kind="tokenizer", name="tokenizer/w", version="1", corpora=(CORPUS,), vocabulary=300),
        lambda job: _wrote(job, "tokenizer.json", "{}", TokenizerBody(algorithm="none", vocabulary=VOCABULARY)),
    )
    make(
        TokenFilesRecipe(
            kind="token-files",
            name="token-files/w",
            version="1",
            corpora=(CORPUS,),
            tokenizer=TOKENIZER,
            dropout=0.1,
            variants=2,
        ),
        write_files,
    )
    parts = tuple(Part(name=f"the {name}", weight=share, languages=(name,)) for name, share in SHARES.items())
    mixture = MixtureRecipe(
        kind="mixture",
        name="mixture/w",
        version="1",
        tokens=FILES,
        token_budget=80 * LENGTH,
        sequence_length=LENGTH,
        part=parts,
    )
    make(mixture, plan_mixture)
    make(replace(mixture, name="mixture/counted"), lambda job: _counted(plan_mixture(job)))
    for name, size, tokenizer in (("w", VOCABULARY, "{}"), ("small", VOCABULARY - 1, "{}"), ("other", VOCABULARY, "[]")):
        model = InitRecipe(
            kind="init", name=f"model/{name}", version="1", tokenizer=TOKENIZER, architecture="llama", hidden_size=8,
            intermediate_size=8, layers=1, heads=1, key_value_heads=1, head_dim=8, max_length=64,
        )  # fmt: skip
        make(model, lambda job, size=size, tokenizer=tokenizer: _model(job, size, tokenizer))
    return store


def write_files(job: Job[TokenFilesRecipe]) -> Made:
    """Token files of random documents."""
    draw, rows = random.Random(4), []
    for name in SHARES:
        for variant in (0, 1):
            for shard in range(2 if name == "eng" else 1):
                documents = [[draw.randrange(1, VOCABULARY) for _ in range(draw.randint(1, 60))] for _ in range(20)]
                crawls = draw.choices(["", "2024-10", "2024-18"], k=len(documents))
                file = write_file(job.folder / f"w/{name}/{shard}-v{variant}.ds", documents, crawls)
                source = "code" if name == "code" else "web"
                which = {"corpus": CORPUS, "language": name, "source": source, "variant": variant}
                rows.append(row(file, job.folder, **which))
    write_rows(job.folder / "token_files.parquet", rows, TABLE)
    sizes = {key: sum(each[key] for each in rows if not each["variant"]) for key in ("documents", "tokens_plain")}
    tokenizer = next(file.sha256 for file in job.inputs[TOKENIZER].files if file.path == "tokenizer.json")
    body = TokenFiles(
        tokenizer=TOKENIZER, tokenizer_sha256=tokenizer, vocabulary=VOCABULARY, token_bytes=2, split="train", dropout=0.1,
        rule="a rule", seed=0, variants=dict.fromkeys(SHARES, 2), tokens=sum(each["tokens"] for each in rows), **sizes,
    )  # fmt: skip
    return Made(body=body, tables={"token_files": "token_files.parquet"})


def job_of(store: Store, **changes: Any) -> Job[TrainRecipe]:
    """The job of a run on the mixture, of 16 steps."""
    settings: dict[str, Any] = {
        "kind": "train", "objective": "cpt", "name": "model/trained", "version": "1", "model": MODEL, "mixture": MIXTURE,
        "lr": 1e-3, "batch_sequences": 5, "seed": 3,
    }  # fmt: skip
    recipe = TrainRecipe(**{**settings, **changes})
    planned = store.plan(recipe, store.root)
    return Job(recipe=recipe, inputs=planned.inputs, files=planned.files, folder=store.root / "job", store=store)


def _wrote(job: Job[Any], name: str, text: str, body: Any) -> Made:
    (job.folder / name).write_text(text)
    return Made(body=body)


def _counted(made: Made) -> Made:
    assert isinstance(made.body, Mixture)
    return replace(made, body=replace(made.body, token_files=""))


def _model(job: Job[InitRecipe], size: int, tokenizer: str) -> Made:
    (job.folder / "tokenizer.json").write_text(tokenizer)
    (job.folder / "config.json").write_text(json.dumps({"vocab_size": size}))
    return Made(body=Checkpoint(stage="init", architecture="none", parameters=1))
