"""Tokens of every document of some corpora: what mixtures are planned with and the catalog's token counts are made of.

Counted with BPE-dropout off, so that a count is a property of text and tokenizer. That makes counts reusable: a shard that an
earlier count of this store has under the same tokenizer (both known by their digests) is not counted again, and its words are
not under another one. Every shard's digest is verified before it is read: a mixture planned on a damaged shard would be wrong
without anyone noticing. Counts per document are kept too, for questions like "how long are our documents", in a file beside
the index table.

The work is cut into parts of shards, which worker processes take (`rounds`): one process a core, each encoding batches on the
Rust side. One process with Rust's own threads was refused: Python would count the words of all of them on a single core.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import tokenizers

from ..catalog.errors import CorruptInput, RecipeError
from ..catalog.fingerprint import file_digest, fingerprint
from ..catalog.records import Artifact, Corpus, Shard, TokenCounts, TokenizerBody
from ..catalog.store import Job, Made, verify_files, write_rows
from .counted import COUNTS, DOCUMENTS, Counted, counted_before
from .executors import executor
from .recipe import TokensRecipe
from .reporting import reporting
from .rounds import run_round
from .segment import pieces
from .thresholds import CODE

log = logging.getLogger(__name__)

BATCH = 64
"""Documents tokenized at once: bounds the memory."""
PART = 4_000
"""Documents of a part: enough work for a process, small enough that all cores end at about the same time."""
FEW_DOCUMENTS = 5_000
"""Up to here all is counted in this process: it takes less time than worker processes take to start."""
SCRATCH = ".scratch"
PART_FILE = "part.parquet"

COUNTS_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("corpus", "shard", "tokenizer", "language", "source", "split", "crawl")]
    + [(name, pa.int64()) for name in ("documents", "bytes", "words", "tokens")]
    + [(name, pa.string()) for name in ("shard_sha256", "tokenizer_sha256")]
)
DOCUMENTS_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("corpus", "shard", "id", "language", "source", "split")]
    + [(name, pa.int64()) for name in ("words", "tokens")]
)
PART_SCHEMA = pa.schema([DOCUMENTS_SCHEMA.field(name) for name in ("id", "words", "tokens")])


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerFile:
    """The tokenizer to count with."""

    name: str
    """Reference of its artifact, or `file:` and its digest."""
    path: Path
    sha256: str
    """Digest of the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartOfShard:
    """Some row groups of a shard: a unit of `rounds`."""

    key: str
    """Digest of the shard's and the tokenizer's content, and of which part it is."""
    path: Path
    """The shard."""
    language: str
    """The shard's."""
    first: int
    """Row group it begins with."""
    last: int
    """Row group it ends before."""
    documents: int
    has_words: bool
    """Whether the words are known, and only tokens are counted."""

    @property
    def label(self) -> str:
        """The shard's file name and the row groups."""
        return f"{self.path.name}, row groups {self.first} to {self.last - 1}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CountPart:
    """Counts one part, into a file; it crosses to worker processes."""

    tokenizer: Path

    def __call__(self, part: PartOfShard, folder: Path) -> None:
        """Write id, words and tokens of the part's documents."""
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
        tokenizer, groups = _loaded(self.tokenizer), range(part.first, part.last)
        counts = document_counts(part.path, tokenizer, None if part.has_words else part.language, groups)
        rows = [dict(zip(PART_SCHEMA.names, row, strict=True)) for row in counts]
        write_rows(folder / PART_FILE, rows, PART_SCHEMA)


def count_tokens(job: Job[TokensRecipe]) -> Made:
    """Count the tokens of every document of the recipe's corpora, special tokens left out, and its words.

    Writes the table `token_counts` (one row a shard and crawl) and `document_tokens.parquet` (one row a document). Raises
    CorruptInput for a shard that is not what its corpus wrote and RecipeError for an input of another kind.
    """
    recipe, scratch = job.recipe, job.folder / SCRATCH
    tokenizer = tokenizer_file(job)
    shards = list(_shards(job))
    counted = counted_before(job.store, {shard.sha256 for _, _, shard in shards})
    parts: dict[str, list[PartOfShard]] = {}
    for ref, artifact, shard in shards:
        known, folder = counted.get(shard.sha256), job.folder_of(ref)
        verify_files(folder, artifact, iter([shard.path]))
        if shard.sha256 not in parts and not (known and known.tokens_of(tokenizer.sha256)):
            parts[shard.sha256] = _parts(folder / shard.path, shard, tokenizer, known is not None)
    _count(job, tokenizer, [part for some in parts.values() for part in some], scratch)
    rows = []
    with pq.ParquetWriter(job.folder / DOCUMENTS, DOCUMENTS_SCHEMA, compression="zstd") as writer:
        for ref, artifact, shard in shards:
            table = _table(parts.get(shard.sha256), scratch / "parts", counted.get(shard.sha256), tokenizer)
            rows += _written(writer, table, artifact, shard, tokenizer, job.folder_of(ref))
    write_rows(job.folder / COUNTS, rows, COUNTS_SCHEMA)
    shutil.rmtree(scratch)
    documents, tokens = sum(row["documents"] for row in rows), sum(row["tokens"] for row in rows)
    log.info("%s: %d documents, %d tokens in %d shards", recipe.ref, documents, tokens, len(rows))
    body = TokenCounts(tokenizer=tokenizer.name, documents=documents, tokens=tokens)
    return Made(body=body, tables={"token_counts": COUNTS})


def _count(job: Job[TokensRecipe], tokenizer: TokenizerFile, parts: list[PartOfShard], scratch: Path) -> None:
    options = job.options
    if sum(part.documents for part in parts) <= FEW_DOCUMENTS:
        options = replace(options, workers=1, executor="local", executor_settings={})
    run, count = executor(options, scratch / "logs"), CountPart(tokenizer=tokenizer.path)
    told = reporting(job, "count") if parts else None
    run_round("count tokens", count, parts, scratch / "parts", run, shows_progress=options.show_progress, reporting=told)


def tokenizer_file(job: Job[Any]) -> TokenizerFile:
    """The file of the recipe's tokenizer, an artifact's or one of your own, digests verified."""
    recipe = job.recipe
    if files := job.files.get("tokenizer_file", []):
        if len(files) > 1:
            raise RecipeError(str(recipe.ref), "tokenizer_file", f"matches {len(files)} files, one is needed")
        digest = file_digest(files[0])
        return TokenizerFile(name=f"file:{digest}", path=files[0], sha256=digest)
    artifact, folder = _of_kind(job, "tokenizer", recipe.tokenizer, TokenizerBody), job.folder_of(recipe.tokenizer)
    path = folder / "tokenizer.json"
    verify_files(folder, artifact, iter([path.name]))
    return TokenizerFile(name=str(artifact.ref), path=path, sha256=file_digest(path))


def load_tokenizer(path: Path) -> Any:
    """The `tokenizers.Tokenizer` of a file, with dropout, truncation and padding off."""
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the Rust side raises plain Exception
        raise CorruptInput(path, "", f"is not a tokenizer: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if getattr(tokenizer.model, "dropout", None):
        tokenizer.model.dropout = None
    return tokenizer


@cache
def _loaded(path: Path) -> Any:
    """Once in a worker: a large vocabulary takes seconds."""
    return load_tokenizer(path)


def document_counts(
    shard: Path, tokenizer: Any, language: str | None, groups: Sequence[int]
) -> Iterator[tuple[str, int | None, int]]:
    """Id, words and tokens of every document of some row groups, in order; without a language the words are None.

    Words are ICU's; of source code, what spaces separate.
    """
    seen = 0
    try:
        with pq.ParquetFile(shard, pre_buffer=False) as file:
            for batch in file.iter_batches(batch_size=BATCH, row_groups=groups, columns=["id", "text"], use_threads=False):
                ids, texts = batch.column("id").to_pylist(), batch.column("text").to_pylist()
                seen += len(ids)
                if None in ids or None in texts:
                    raise CorruptInput(shard, f"row {seen - len(ids) + 1} or later", "a document has no id or no text")
                encodings = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
                words = [None if language is None else num_words(text, language) for text in texts]
                yield from zip(ids, words, map(len, encodings), strict=True)
    except (pa.ArrowException, OSError, KeyError) as error:
        raise CorruptInput(shard, "", f"cannot be read as a shard: {str(error).splitlines()[0]}") from error


def num_words(text: str, language: str) -> int:
    """Words of a text."""
    return len(text.split()) if language == CODE else int(pieces(text, language).is_word.sum())


def _parts(path: Path, shard: Shard, tokenizer: TokenizerFile, has_words: bool) -> list[PartOfShard]:
    """A shard cut between row groups, `PART` documents or more a part."""
    try:
        metadata = pq.read_metadata(path)
    except (pa.ArrowException, OSError) as error:
        raise CorruptInput(path, "", f"cannot be read as a shard: {str(error).splitlines()[0]}") from error
    if metadata.num_rows != shard.documents:
        raise CorruptInput(path, "", f"holds {metadata.num_rows} documents, its corpus says {shard.documents}")
    parts, first, documents = [], 0, 0
    for group in range(metadata.num_row_groups):
        documents += metadata.row_group(group).num_rows
        if documents >= PART or group == metadata.num_row_groups - 1:
            key = fingerprint([shard.sha256, tokenizer.sha256, tokenizers.__version__, first, group, has_words])[:32]
            part = PartOfShard(
                key=key, path=path, language=shard.language, first=first, last=group + 1, documents=documents,
                has_words=has_words,
            )  # fmt: skip
            parts.append(part)
            first, documents = group + 1, 0
    return parts


def _table(parts: list[PartOfShard] | None, folder: Path, known: Counted | None, tokenizer: TokenizerFile) -> Any:
    """Id, words and tokens of a shard's documents, from what was counted now and before."""
    if parts is None:
        assert known is not None
        return known.documents(tokenizer.sha256)
    tables = [pq.read_table(folder / part.key / PART_FILE) for part in parts]
    table = pa.concat_tables([PART_SCHEMA.empty_table(), *tables])
    if known is not None:
        before = known.documents()
        assert before["id"].combine_chunks() == table["id"].combine_chunks(), "the same shard has other documents"
        table = table.set_column(1, "words", before["words"])
    return table


def _written(
    writer: Any, table: pa.Table, artifact: Artifact, shard: Shard, tokenizer: TokenizerFile, folder: Path
) -> list[dict[str, Any]]:
    """Write a shard's documents; its rows of the table `token_counts`, one a crawl."""
    shared = {"corpus": str(artifact.ref), "shard": shard.path, "language": shard.language}
    shared |= {"source": shard.source, "split": shard.split}
    columns = {name: pa.repeat(value, table.num_rows) for name, value in shared.items()}
    columns |= {name: table[name].combine_chunks() for name in ("id", "words", "tokens")}
    writer.write_table(pa.table(columns).select(DOCUMENTS_SCHEMA.names).cast(DOCUMENTS_SCHEMA))
    shared |= {"shard_sha256": shard.sha256, "tokenizer_sha256": tokenizer.sha256, "tokenizer": tokenizer.name}
    return [shared | row for row in _by_crawl(table, folder / shard.path, shard)]


def _by_crawl(table: pa.Table, path: Path, shard: Shard) -> list[dict[str, Any]]:
    """Documents, bytes, words and tokens of each crawl of a shard; shards of no crawl, or that do not say, have the crawl ''.

    The crawls come from the shard, whose documents a count, an earlier one too, has in the same order.
    """
    sums = ("bytes", "words", "tokens")
    if {"crawl", "bytes"} <= set(pq.read_schema(path).names):
        with pq.ParquetFile(path) as file:
            said = file.read(columns=["crawl", "bytes"])
        crawls, sizes = said["crawl"].fill_null(""), said["bytes"]
    else:
        total = {name: sum(table[name].to_pylist()) for name in sums[1:]}
        return [{"crawl": "", "documents": table.num_rows, "bytes": shard.bytes, **total}]
    counted = pa.table([crawls, sizes, table["words"], table["tokens"]], names=["crawl", *sums])
    summed = counted.group_by("crawl").aggregate([([], "count_all"), *((name, "sum") for name in sums)]).sort_by("crawl")
    rows: list[dict[str, Any]] = summed.rename_columns(["crawl", "documents", *sums]).to_pylist()
    return rows


def _shards(job: Job[TokensRecipe]) -> Iterator[tuple[str, Artifact, Shard]]:
    """Every shard of the corpora, with the reference and the artifact it belongs to."""
    seen: set[str] = set()
    for number, ref in enumerate(job.recipe.corpora):
        artifact = _of_kind(job, f"corpora.{number}", ref, Corpus)
        if str(artifact.ref) in seen:
            raise RecipeError(str(job.recipe.ref), f"corpora.{number}", f"{ref} is named twice")
        seen.add(str(artifact.ref))
        assert isinstance(artifact.body, Corpus)
        for shard in artifact.body.shards:
            yield ref, artifact, shard


def _of_kind(job: Job[Any], key: str, ref: str, body: type[Any]) -> Artifact:
    artifact = job.inputs[ref]
    if not isinstance(artifact.body, body):
        raise RecipeError(str(job.recipe.ref), key, f"{ref} is a {artifact.kind}, not a {body.__name__}")
    return artifact
