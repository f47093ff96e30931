"""Corpora as files of tokens, which training reads: BPE-dropout frozen in, each document encoded once for each planned epoch.

To encode while training was refused: a run would need cores for it on every machine, and what it trained on could not be known
before it. Here the tokens are counted when a mixture is planned, the same files serve every run, and a window of a file is read
without the ones before it. The layout is datatrove's: token ids (`.ds`) and the end of each document (`.ds.index`), so that
its readers and nanotron's can use them; beside them `.ds.documents` says which document each is.

A unit of the work is a shard and variant (`rounds`). Its documents are encoded in the shard's order into a scratch file, then
copied in an order that the seed, the shard's digest and the variant draw. In memory is one batch of texts and the list of one
shard's documents. What a document becomes depends on its text and id, seed and variant only.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tokenizers

from ..catalog.errors import CorruptInput, RecipeError
from ..catalog.fingerprint import fingerprint
from ..catalog.records import Artifact, Corpus, Shard, TokenFiles
from ..catalog.store import Job, Made, verify_files, write_rows
from .encoder import RULE, Encoder, Ends, document_ends, seed_of
from .executors import executor
from .recipe import TokenFilesRecipe
from .reporting import reporting
from .rounds import run_round
from .tokens import TokenizerFile, tokenizer_file

log = logging.getLogger(__name__)

TABLE = "token_files.parquet"
FORM = 1
"""Raised when the same text would become other files, so that the scratch of an older version is not used."""
BATCH = 64
"""Documents encoded at once."""
FEW_BYTES = 2_000_000
"""Text that is encoded in this process: it takes less time than worker processes take to start."""
SCRATCH = ".scratch"
TOKENS, INDEX, DOCUMENTS, COUNTS = "tokens.ds", "tokens.ds.index", "tokens.ds.documents", "counts.json"
SUFFIXES = {TOKENS: "", INDEX: ".index", DOCUMENTS: ".documents"}
"""File of a unit to what ends its name in the artifact."""

TOKEN_FILES_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("corpus", "language", "source", "split")]
    + [("variant", pa.int64()), ("shard", pa.string()), ("path", pa.string())]
    + [(name, pa.int64()) for name in ("documents", "bytes", "tokens", "tokens_plain")]
)
DOCUMENTS_SCHEMA = pa.schema([("id", pa.string()), ("crawl", pa.string()), ("bytes", pa.int64()), ("tokens_plain", pa.int64())])


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardVariant:
    """One shard encoded once: a unit of `rounds`."""

    key: str
    """Digest of all that the files depend on, and of where they belong."""
    folder: Path
    """The corpus'."""
    corpus: str
    """Its reference."""
    shard: Shard
    variant: int
    path: str
    """Of the token file, in the artifact."""

    @property
    def label(self) -> str:
        """The shard and the variant."""
        return f"{self.corpus} {self.shard.path}, variant {self.variant}"


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeShard:
    """Encodes one shard and variant into a folder; it crosses to worker processes."""

    tokenizer: TokenizerFile
    ends: Ends
    token_bytes: int
    dropout: float
    seed: int

    def __call__(self, unit: ShardVariant, folder: Path) -> None:
        """Write the three files, and their counts."""
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
        spool, kind = folder / "in-order", np.dtype(f"<u{self.token_bytes}")
        documents: list[dict[str, Any]] = []
        ends = [0]
        with spool.open("wb") as file:
            for row, tokens in self._encoded(unit):
                file.write(np.array(tokens, kind).tobytes())
                documents.append(row)
                ends.append(ends[-1] + len(tokens))
        draw = np.random.Generator(np.random.PCG64(seed_of(self.seed, unit.shard.sha256, unit.variant)))
        order = draw.permutation(len(documents))
        places = np.array(ends, np.uint64)
        np.cumsum(np.diff(places)[order], dtype="<u8").tofile(folder / INDEX)
        _copy(spool, folder / TOKENS, [(ends[i] * kind.itemsize, ends[i + 1] * kind.itemsize) for i in order.tolist()])
        spool.unlink()
        write_rows(folder / DOCUMENTS, [documents[i] for i in order.tolist()], DOCUMENTS_SCHEMA)
        counts = {name: sum(row[name] for row in documents) for name in ("bytes", "tokens_plain")}
        (folder / COUNTS).write_text(json.dumps({"documents": len(documents), "tokens": ends[-1], **counts}))

    def _encoded(self, unit: ShardVariant) -> Iterator[tuple[dict[str, Any], list[int]]]:
        """Row and tokens of each document that has text, in the shard's order."""
        encoder = _encoder(self.tokenizer)
        opening, end = [] if self.ends.begin is None else [self.ends.begin], self.ends.end
        for ids, texts, crawls in _batches(unit.folder / unit.shard.path):
            for name, text, crawl, plain in zip(ids, texts, crawls, encoder.plain(texts), strict=True):
                tokens = encoder.encode(text, self.dropout, (self.seed, name, unit.variant)) if self.dropout else plain
                row = {"id": name, "crawl": crawl or "", "bytes": len(text.encode())}
                yield row | {"tokens_plain": len(plain) + len(opening) + 1}, [*opening, *tokens, end]


def write_token_files(job: Job[TokenFilesRecipe]) -> Made:
    """Encode the documents of the recipe's corpora and split, each as often as its language has variants.

    Writes `<corpus>/<language>/<source>/<shard>-v<variant>.ds`, its two companions and the table `token_files`. Raises
    CorruptInput for a shard that is not what its corpus wrote or a tokenizer that cannot be used, RecipeError for an input of
    another kind, a language that is not there and a corpus without documents of the split.
    """
    recipe, scratch = job.recipe, job.folder / SCRATCH
    tokenizer = tokenizer_file(job)  # of both kinds of recipe that name a tokenizer
    ends, encoder = _ends(job, tokenizer), _encoder(tokenizer)
    shards = list(_shards(job))
    variants = _variants(recipe, sorted({shard.language for _, shard in shards}))
    token_bytes = 2 if encoder.tokens <= 1 << 16 else 4
    units = _units(job, shards, variants, [tokenizer.sha256, ends.begin, ends.end, token_bytes])
    for artifact, shard in shards:
        verify_files(job.store.folder(artifact.ref), artifact, iter([shard.path]))
    work = EncodeShard(
        tokenizer=tokenizer, ends=ends, token_bytes=token_bytes, dropout=recipe.dropout, seed=recipe.seed
    )  # fmt: skip
    _encode(job, work, units, scratch)
    rows = [row for unit in units if (row := _placed(job.folder, scratch / "units" / unit.key, unit, recipe.split))]
    if not rows:
        raise RecipeError(str(recipe.ref), "corpora", f"no {recipe.split} document has any text")
    write_rows(job.folder / TABLE, rows, TOKEN_FILES_SCHEMA)
    shutil.rmtree(scratch)
    body = _body(recipe, tokenizer, encoder, variants, rows, token_bytes)
    log.info("%s: %d documents, %d tokens in %d files", recipe.ref, body.documents, body.tokens, len(rows))
    return Made(body=body, tables={"token_files": TABLE})


def _body(
    recipe: TokenFilesRecipe, tokenizer: TokenizerFile, encoder: Encoder, variants: dict[str, int], rows: list[dict[str, Any]],
    token_bytes: int,
) -> TokenFiles:  # fmt: skip
    first = [row for row in rows if row["variant"] == 0]
    return TokenFiles(
        tokenizer=tokenizer.name,
        tokenizer_sha256=tokenizer.sha256,
        vocabulary=encoder.tokens,
        token_bytes=token_bytes,
        split=recipe.split,
        dropout=recipe.dropout,
        rule=RULE if recipe.dropout else "",
        seed=recipe.seed,
        variants=variants,
        documents=sum(row["documents"] for row in first),
        tokens=sum(row["tokens"] for row in rows),
        tokens_plain=sum(row["tokens_plain"] for row in first),
    )


def _encode(job: Job[TokenFilesRecipe], work: EncodeShard, units: Sequence[ShardVariant], scratch: Path) -> None:
    options = job.options
    if sum(unit.shard.bytes for unit in units) <= FEW_BYTES:
        options = replace(options, workers=1, executor="local", executor_settings={})
    run, told = executor(options, scratch / "logs"), reporting(job, "encode")
    run_round("token files", work, units, scratch / "units", run, shows_progress=options.show_progress, reporting=told)


def _placed(folder: Path, made: Path, unit: ShardVariant, split: str) -> dict[str, Any] | None:
    """Move a unit's files to their place, unless an earlier attempt did; its row of the table, None without documents."""
    counts: dict[str, int] = json.loads((made / COUNTS).read_text())
    if not counts["documents"]:
        return None
    target = folder / unit.path
    target.parent.mkdir(parents=True, exist_ok=True)
    for name, suffix in SUFFIXES.items():
        if (made / name).exists():
            (made / name).replace(target.with_name(target.name + suffix))
    shared = {"corpus": unit.corpus, "language": unit.shard.language, "source": unit.shard.source, "split": split}
    return {**shared, "variant": unit.variant, "shard": unit.shard.path, "path": unit.path, **counts}


def _shards(job: Job[TokenFilesRecipe]) -> Iterator[tuple[Artifact, Shard]]:
    """Every shard of the corpora with documents of the split."""
    recipe, named = job.recipe, set[str]()
    for number, ref in enumerate(recipe.corpora):
        key, artifact = f"corpora.{number}", job.inputs[ref]
        if not isinstance(artifact.body, Corpus):
            raise RecipeError(str(recipe.ref), key, f"{ref} is a {artifact.kind}, not a Corpus")
        if artifact.ref.name in named:
            raise RecipeError(str(recipe.ref), key, f"{artifact.ref.name} is named twice")
        named.add(artifact.ref.name)
        shards = [shard for shard in artifact.body.shards if shard.split == recipe.split and shard.documents]
        if not shards:
            raise RecipeError(str(recipe.ref), key, f"{ref} has no documents of split {recipe.split}")
        yield from ((artifact, shard) for shard in shards)


def _variants(recipe: TokenFilesRecipe, languages: Sequence[str]) -> dict[str, int]:
    for language in recipe.variants_of:
        if language not in languages:
            problem = f"the corpora have no {recipe.split} documents in {language}; they have {', '.join(languages)}"
            raise RecipeError(str(recipe.ref), f"variants_of.{language}", problem)
    return {language: recipe.variants_of.get(language, recipe.variants) for language in languages}


def _units(
    job: Job[TokenFilesRecipe], shards: Sequence[tuple[Artifact, Shard]], variants: dict[str, int], tokenizer: list[Any]
) -> list[ShardVariant]:
    """In the order of the table."""
    recipe, units, taken = job.recipe, list[ShardVariant](), dict[str, str]()
    shared = [FORM, tokenizers.__version__, *tokenizer, recipe.dropout, recipe.seed]
    for artifact, shard in shards:
        stem = f"{artifact.ref.name}/{shard.language}/{shard.source}/{Path(shard.path).stem}"
        if taken.setdefault(stem, shard.path) != shard.path:
            raise CorruptInput(job.store.folder(artifact.ref), "", f"{taken[stem]} and {shard.path} have the same name")
        for variant in range(variants[shard.language]):
            path = f"{stem}-v{variant}.ds"
            units.append(
                ShardVariant(
                    key=fingerprint([shard.sha256, path, variant, *shared])[:32], folder=job.store.folder(artifact.ref),
                    corpus=str(artifact.ref), shard=shard, variant=variant, path=path,
                )
            )  # fmt: skip
    return sorted(units, key=lambda u: (u.corpus, u.shard.language, u.shard.source, u.variant, u.shard.path))


def _ends(job: Job[TokenFilesRecipe], tokenizer: TokenizerFile) -> Ends:
    """The tokens around a document; what an artifact says about them is verified, a file of one's own says it itself."""
    if job.recipe.tokenizer_file:
        return document_ends(tokenizer.path)
    artifact, folder = job.inputs[job.recipe.tokenizer], job.folder_of(job.recipe.tokenizer)
    verify_files(folder, artifact)
    return document_ends(tokenizer.path, folder)


@cache
def _encoder(tokenizer: TokenizerFile) -> Encoder:
    """Once in a worker: a large vocabulary takes seconds."""
    return Encoder(tokenizer.path)


def _batches(shard: Path) -> Iterator[tuple[list[str], list[str], list[str | None]]]:
    """Ids, texts and crawls of the documents that have text, a few at a time."""
    seen = 0
    try:
        with pq.ParquetFile(shard, pre_buffer=False) as file:
            columns = [name for name in ("id", "text", "crawl") if name != "crawl" or name in file.schema_arrow.names]
            for batch in file.iter_batches(batch_size=BATCH, columns=columns, use_threads=False):
                rows = [row for row in batch.to_pylist() if row["text"]]
                seen += len(batch)
                if any(row["id"] is None for row in rows):
                    raise CorruptInput(shard, f"row {seen - len(batch) + 1} or later", "a document has no id")
                yield [row["id"] for row in rows], [row["text"] for row in rows], [row.get("crawl") for row in rows]
    except (pa.ArrowException, OSError, KeyError) as error:
        raise CorruptInput(shard, "", f"cannot be read as a shard: {str(error).splitlines()[0]}") from error


def _copy(source: Path, target: Path, spans: Sequence[tuple[int, int]]) -> None:
    """Copy spans of bytes in the order given."""
    with source.open("rb") as old, target.open("wb") as new:
        for start, end in spans:
            old.seek(start)
            new.write(old.read(end - start))
