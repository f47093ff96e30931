"""Which items of evaluation suites some corpora hold, and in which documents.

Looks up every document in the n-gram index that decontamination uses, by the same rule, so that "held" means the same in both.
A corpus that was built with the index has none of its items; one that was not, or a suite that came later, is told apart here.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ..catalog.errors import CorruptInput, RecipeError
from ..catalog.fingerprint import fingerprint
from ..catalog.records import Corpus, Ngrams, Overlaps
from ..catalog.store import SCRATCH, Job, Made, verify_files, write_rows
from .decontaminate import NgramIndex
from .executors import executor
from .recipe import OverlapRecipe
from .rounds import run_round

log = logging.getLogger(__name__)

TABLE = "overlaps.parquet"
SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("suite", "item", "language", "corpus", "document")]
    + [("matched", pa.int64()), ("ngrams", pa.int64())]
)
BATCH = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardUnit:
    """One shard of a corpus: a unit of `rounds`."""

    key: str
    path: Path
    corpus: str

    @property
    def label(self) -> str:
        """The shard's file name."""
        return self.path.name


@dataclass(frozen=True, slots=True, kw_only=True)
class FindItems:
    """Looks through one shard; it crosses to worker processes."""

    index: Path

    def __call__(self, unit: ShardUnit, folder: Path) -> None:
        """Write a row for every document and text of an item that it holds."""
        write_rows(folder / TABLE, list(_overlaps(_opened(self.index), unit)), SCHEMA)


@cache
def _opened(folder: Path) -> NgramIndex:
    return NgramIndex(folder)


def _overlaps(index: NgramIndex, unit: ShardUnit) -> Iterator[dict[str, object]]:
    try:
        with pq.ParquetFile(unit.path, pre_buffer=False) as file:
            for batch in file.iter_batches(batch_size=BATCH, columns=["id", "text"], use_threads=False):
                for row in batch.to_pylist():
                    for found in index.held(row["text"]):
                        yield {
                            "suite": found.suite, "item": found.item, "language": found.language, "corpus": unit.corpus,
                            "document": row["id"], "matched": found.matched, "ngrams": found.ngrams,
                        }  # fmt: skip
    except (pa.ArrowException, OSError, KeyError) as error:
        raise CorruptInput(unit.path, "", f"cannot be read as a shard: {str(error).splitlines()[0]}") from error


def find_overlaps(job: Job[OverlapRecipe]) -> Made:
    """Look through the recipe's corpora for items of evaluation suites: `Overlaps`, and the table `item_overlaps`.

    Raises RecipeError for inputs of other kinds and CorruptInput for a shard that is not what its corpus wrote.
    """
    recipe, scratch = job.recipe, job.folder / SCRATCH
    index = job.inputs[recipe.ngrams]
    if not isinstance(index.body, Ngrams):
        raise RecipeError(str(recipe.ref), "ngrams", f"{index.ref} is a {index.kind}, not an n-gram index")
    verify_files(job.folder_of(recipe.ngrams), index)
    units, documents = list[ShardUnit](), 0
    for ref in recipe.corpora:
        corpus, folder = job.inputs[ref], job.folder_of(ref)
        if not isinstance(corpus.body, Corpus):
            raise RecipeError(str(recipe.ref), "corpora", f"{corpus.ref} is a {corpus.kind}, not a corpus")
        verify_files(folder, corpus)
        for shard in corpus.body.shards:
            documents += shard.documents
            key = fingerprint([str(corpus.ref), shard.path, shard.sha256, index.fingerprint])[:32]
            units.append(ShardUnit(key=key, path=folder / shard.path, corpus=str(corpus.ref)))
    find = FindItems(index=job.folder_of(recipe.ngrams))
    run = executor(job.options, scratch / "logs")
    run_round("look for items", find, units, scratch / "parts", run, shows_progress=job.options.show_progress)
    table = pa.concat_tables([SCHEMA.empty_table()] + [pq.read_table(scratch / "parts" / u.key / TABLE) for u in units])
    pq.write_table(table.sort_by([(name, "ascending") for name in SCHEMA.names]), job.folder / TABLE, compression="zstd")
    shutil.rmtree(scratch)
    items = len(set(zip(table["suite"].to_pylist(), table["item"].to_pylist(), strict=True)))
    corpora = tuple(str(job.inputs[ref].ref) for ref in recipe.corpora)
    log.info("%s: %d items of suites found in %d documents of %s", recipe.ref, items, documents, ", ".join(corpora))
    return Made(body=Overlaps(corpora=corpora, documents=documents, items=items), tables={"item_overlaps": TABLE})
