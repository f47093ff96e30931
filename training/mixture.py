"""The plan of a `cpt` run: a mixture's documents, encoded with BPE-dropout and packed part by part.

Each part is packed on its own to exactly the sequences that the mixture plans, so that its share of the trained tokens is exact
by construction, whatever dropout does to the number of tokens of its language. What is read is counted where it is read, by
crawl: to work it out later from the mixture was refused, as dropout, epochs and the cut at the end make it another number.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from tqdm import tqdm

from ..catalog.errors import CorruptInput, RecipeError
from ..catalog.records import Artifact, Corpus, Mixture, MixturePart
from ..catalog.store import Job, verify_files
from .batches import Packed, Plan, digest_of, generator, interleaved, pack, packed_collate, packed_labels
from .recipe import TrainRecipe
from .vocabulary import Encoder, shard_documents

log = logging.getLogger(__name__)

Document = tuple[str, str, str]
"""Id, text and crawl."""


def mixture_plan(job: Job[TrainRecipe], begin: int | None, end: int) -> tuple[Plan, list[dict[str, Any]]]:
    """Encode and pack the recipe's mixture; `begin` and `end` are the tokens around each document.

    Also gives the rows of the table `consumed`, see `counted`.

    Raises CorruptInput for a shard that changed or holds no text, and RecipeError for a mixture planned with another tokenizer.
    """
    recipe, mixture = job.recipe, _mixture(job)
    encoder = Encoder(job.folder_of(recipe.model))
    packed: list[Packed] = []
    consumed: list[dict[str, Any]] = []
    for part in tqdm(mixture.parts, desc="encode", disable=not job.options.show_progress, leave=False):
        documents, read = part_documents(job, part), dict[str, list[int]]()
        stream = counted(_epochs(documents, part, recipe, encoder, begin, end), part.sequences * mixture.sequence_length, read)
        packed.append(pack(stream, part.sequences, mixture.sequence_length))
        consumed += _consumed(part, read)
        log.info("%s %s %s: %d sequences", part.part, part.language, part.source, part.sequences)
    order = interleaved([part.sequences for part in mixture.parts], recipe.seed)
    together = Packed(
        tokens=np.concatenate([part.tokens for part in packed]),
        starts=np.concatenate([part.starts for part in packed]),
        documents=sum(part.documents for part in packed),
    )
    in_loss = (packed_labels(together) >= 0).sum(1)
    plan = Plan(
        order=order,
        tokens=in_loss,
        units=in_loss,
        collate=packed_collate(together),
        digest=digest_of(order, together.tokens, together.starts),
        parts=tuple(_row(part, found.documents, mixture) for part, found in zip(mixture.parts, packed, strict=True)),
    )
    return plan, consumed


def counted(stream: Iterator[tuple[str, list[int]]], tokens: int, read: dict[str, list[int]]) -> Iterator[list[int]]:
    """Pass on the tokens of documents; what is taken is added to `read`: crawl to documents and tokens.

    A document counts each time that it is read, its tokens with those around it, and only as far as the first `tokens` of the
    stream go: what is taken beyond them is a label and no input, so that the counts add up to the tokens trained on.
    """
    for crawl, document in stream:
        count = read.setdefault(crawl, [0, 0])
        used = min(len(document), tokens)
        count[0] += 1
        count[1] += used
        tokens -= used
        yield document


def _consumed(part: MixturePart, read: dict[str, list[int]]) -> list[dict[str, Any]]:
    shared = {name: getattr(part, name) for name in ("part", "corpus", "language", "source")}
    return [shared | {"crawl": crawl, "documents": read[crawl][0], "tokens": read[crawl][1]} for crawl in sorted(read)]


def _row(part: MixturePart, documents: int, mixture: Mixture) -> dict[str, object]:
    return {
        "part": part.part,
        "language": part.language,
        "source": part.source,
        "sequences": part.sequences,
        "tokens": part.sequences * mixture.sequence_length,
        "documents": documents,
    }


def _mixture(job: Job[TrainRecipe]) -> Mixture:
    recipe = job.recipe
    body = job.inputs[recipe.mixture].body
    if not isinstance(body, Mixture):
        raise RecipeError(str(recipe.ref), "mixture", f"{recipe.mixture} is not a mixture")
    ours = _digest(job.inputs[recipe.model], "tokenizer.json")
    planned = body.tokenizer.removeprefix("file:")
    if planned == body.tokenizer:
        planned = _digest(job.store.require(body.tokenizer), "tokenizer.json")
    if planned != ours:
        raise RecipeError(
            str(recipe.ref), "mixture", f"was planned with {body.tokenizer}, which is not the tokenizer of {recipe.model}"
        )
    return body


def _digest(artifact: Artifact, path: str) -> str:
    return next((file.sha256 for file in artifact.files if file.path == path), f"no {path} in {artifact.ref}")


def part_documents(job: Job[TrainRecipe], part: MixturePart) -> list[Document]:
    """The training documents of a mixture's part, in the order of the shards; raises CorruptInput for none."""
    artifact = job.store.require(part.corpus)
    folder: Path = job.store.folder(artifact.ref)
    assert isinstance(artifact.body, Corpus)
    shards = [
        shard
        for shard in artifact.body.shards
        if (shard.language, shard.source, shard.split) == (part.language, part.source, "train")
    ]
    verify_files(folder, artifact, (shard.path for shard in shards))
    documents = [
        (name, text, crawl)
        for shard in shards
        for (name, text), crawl in zip(shard_documents(folder, shard), shard_crawls(folder / shard.path), strict=True)
        if text
    ]
    if not documents:
        raise CorruptInput(folder, "", f"{part.corpus} has no training documents of {part.language} from {part.source}")
    return documents


def shard_crawls(path: Path) -> Iterator[str]:
    """The crawl of each document of a shard, '' where it has none or does not say."""
    file = pq.ParquetFile(path)
    if "crawl" not in file.schema_arrow.names:
        return repeat("", file.metadata.num_rows)
    # One text for all documents of a crawl, not one for each.
    return (sys.intern(crawl or "") for crawl in file.read(columns=["crawl"])["crawl"].to_pylist())


def _epochs(
    documents: list[Document], part: MixturePart, recipe: TrainRecipe, encoder: Encoder, begin: int | None, end: int
) -> Iterator[tuple[str, list[int]]]:
    """Crawl and tokens of the documents without end: every epoch in a new order and, with dropout, a new segmentation."""
    opening = [] if begin is None else [begin]
    epoch = 0
    while True:
        order = generator(recipe.seed, "documents", part.corpus, part.language, part.source, epoch)
        for i in order.permutation(len(documents)):
            name, text, crawl = documents[i]
            yield crawl, [*opening, *encoder.encode(text, recipe.bpe_dropout, (recipe.seed, name, epoch)), end]
        epoch += 1
