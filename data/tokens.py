"""Tokens of every document of some corpora: what mixtures are planned with and the catalog's token counts are made of.

Counted with BPE-dropout off, so that a count is a property of text and tokenizer. Every shard's digest is verified before it is
read: a mixture planned on a damaged shard would be wrong without anyone noticing. Counts per document are kept too, for
questions like "how long are our documents", in a file beside the index table.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tokenizers import Tokenizer
from tqdm import tqdm

from ..catalog.errors import CorruptInput, RecipeError
from ..catalog.records import Artifact, Corpus, Shard, TokenCounts, TokenizerBody
from ..catalog.store import Job, Made, verify_files, write_rows
from .recipe import TokensRecipe

log = logging.getLogger(__name__)

COUNTS = "token_counts.parquet"
DOCUMENTS = "document_tokens.parquet"
BATCH = 256
"""Documents tokenized at once: bounds the memory."""

COUNTS_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("corpus", "shard", "tokenizer", "language", "source", "split")]
    + [(name, pa.int64()) for name in ("documents", "bytes", "tokens")]
)
DOCUMENTS_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("corpus", "shard", "id", "language", "source", "split")] + [("tokens", pa.int64())]
)


def count_tokens(job: Job[TokensRecipe]) -> Made:
    """Count the tokens of every document of the recipe's corpora, special tokens left out.

    Writes the table `token_counts` (one row a shard) and `document_tokens.parquet` (one row a document). Raises CorruptInput
    for a shard that is not what its corpus wrote and RecipeError for an input of another kind.
    """
    recipe = job.recipe
    tokenizer = load_tokenizer(job.folder_of(recipe.tokenizer), _of_kind(job, "tokenizer", recipe.tokenizer, TokenizerBody))
    tokenizer_ref = str(job.inputs[recipe.tokenizer].ref)
    shards = list(_shards(job))
    rows: list[dict[str, Any]] = []
    with pq.ParquetWriter(job.folder / DOCUMENTS, DOCUMENTS_SCHEMA, compression="zstd") as writer:
        for ref, artifact, shard in tqdm(shards, desc="count tokens", unit="shard", disable=not job.options.show_progress):
            folder = job.folder_of(ref)
            verify_files(folder, artifact, iter([shard.path]))
            counts = document_tokens(folder / shard.path, tokenizer)
            if len(counts) != shard.documents:
                raise CorruptInput(
                    folder / shard.path, "", f"holds {len(counts)} documents, {artifact.ref} says {shard.documents}"
                )
            shared = {"corpus": str(artifact.ref), "shard": shard.path, "language": shard.language}
            shared |= {"source": shard.source, "split": shard.split}
            documents = [{**shared, "id": name, "tokens": tokens} for name, tokens in counts]
            writer.write_table(pa.Table.from_pylist(documents, schema=DOCUMENTS_SCHEMA))
            total = sum(tokens for _, tokens in counts)
            rows.append({**shared, "tokenizer": tokenizer_ref, "documents": len(counts), "bytes": shard.bytes, "tokens": total})
    write_rows(job.folder / COUNTS, rows, COUNTS_SCHEMA)
    documents_all, tokens_all = sum(row["documents"] for row in rows), sum(row["tokens"] for row in rows)
    log.info("%s: %d documents, %d tokens in %d shards", recipe.ref, documents_all, tokens_all, len(rows))
    body = TokenCounts(tokenizer=tokenizer_ref, documents=documents_all, tokens=tokens_all)
    return Made(body=body, tables={"token_counts": COUNTS})


def load_tokenizer(folder: Path, artifact: Artifact) -> Any:
    """The `tokenizers.Tokenizer` of a tokenizer artifact, with dropout, truncation and padding off."""
    path = folder / "tokenizer.json"
    verify_files(folder, artifact, iter([path.name]))
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the Rust side raises plain Exception
        raise CorruptInput(path, "", f"is not a tokenizer: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if getattr(tokenizer.model, "dropout", None):
        tokenizer.model.dropout = None
    return tokenizer


def document_tokens(shard: Path, tokenizer: Any) -> list[tuple[str, int]]:
    """Id and number of tokens of every document of a shard, in its order."""
    counts: list[tuple[str, int]] = []
    try:
        for batch in pq.ParquetFile(shard).iter_batches(batch_size=BATCH, columns=["id", "text"]):
            ids, texts = batch.column("id").to_pylist(), batch.column("text").to_pylist()
            if None in ids or None in texts:
                raise CorruptInput(shard, f"row {len(counts) + 1} or later", "a document has no id or no text")
            encodings = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
            counts += [(name, len(encoding)) for name, encoding in zip(ids, encodings, strict=True)]
    except (pa.ArrowException, OSError, KeyError) as error:
        raise CorruptInput(shard, "", f"cannot be read as a shard: {str(error).splitlines()[0]}") from error
    return counts


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


def _of_kind(job: Job[TokensRecipe], key: str, ref: str, body: type[Any]) -> Artifact:
    artifact = job.inputs[ref]
    if not isinstance(artifact.body, body):
        raise RecipeError(str(job.recipe.ref), key, f"{ref} is a {artifact.kind}, not a {body.__name__}")
    return artifact
