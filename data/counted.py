"""What earlier token counts of a store know about shards: a count is a property of two contents, text and tokenizer.

Shards and tokenizers are recognised by the digests in the earlier tables, not by names: a shard that a new version of a corpus
shares with the old one is the same shard. An earlier count whose files are not what it wrote is passed over with a line in the
log: counting anew is always right.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..catalog.errors import CorruptInput
from ..catalog.records import Artifact, TokenCounts
from ..catalog.store import Store, verify_files

log = logging.getLogger(__name__)

COUNTS = "token_counts.parquet"
DOCUMENTS = "document_tokens.parquet"


@dataclass(slots=True)
class Counted:
    """One shard in earlier counts."""

    places: dict[str, tuple[Path, str, str]] = field(default_factory=dict)
    """Digest of the tokenizer to the file of documents, and the corpus and shard that select its rows."""

    def tokens_of(self, tokenizer: str) -> bool:
        """Whether it was counted with the tokenizer of this digest."""
        return tokenizer in self.places

    def documents(self, tokenizer: str = "") -> Any:
        """Table of id, words and tokens of its documents, by the tokenizer of this digest, or by any for the words."""
        path, corpus, shard = self.places[tokenizer] if tokenizer else next(iter(self.places.values()))
        chosen = (pc.field("corpus") == corpus) & (pc.field("shard") == shard)
        return pq.read_table(path, columns=["id", "words", "tokens"], filters=chosen)


def counted_before(store: Store, shards: Collection[str]) -> dict[str, Counted]:
    """Digest of a shard to what is known of it, for those of `shards` that a count of the store has."""
    found: dict[str, Counted] = {}
    for artifact in store.all():
        if not isinstance(artifact.body, TokenCounts):
            continue
        folder = store.folder(artifact.ref)
        for row in _rows(folder, artifact, shards):
            places = found.setdefault(row["shard_sha256"], Counted()).places
            places.setdefault(row["tokenizer_sha256"], (folder / DOCUMENTS, row["corpus"], row["shard"]))
    return found


def _rows(folder: Path, artifact: Artifact, shards: Collection[str]) -> list[dict[str, Any]]:
    """The rows of an earlier count about these shards; none when its files cannot be trusted or are of an older form."""
    table = artifact.tables.get("token_counts", COUNTS)
    try:
        verify_files(folder, artifact, iter([table]))
        if "shard_sha256" not in pq.read_schema(folder / table).names:
            return []
        rows = [row for row in pq.read_table(folder / table).to_pylist() if row["shard_sha256"] in shards]
        if rows:
            verify_files(folder, artifact, iter([DOCUMENTS]))
    except CorruptInput as error:
        log.warning("an earlier count is not used: %s", error)
        return []
    return rows
