"""The index reads side tables wherever the catalog lies, and fingerprints take every text."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sea_lion.catalog import index
from sea_lion.catalog.errors import CorruptInput
from sea_lion.catalog.fingerprint import fingerprint
from sea_lion.catalog.records import Conversations
from sea_lion.catalog.store import Job, Made, Options, Store
from sea_lion.data.chat_recipe import ConversationsRecipe

PLACES = ("documents/language=tha/source=web/0.parquet", "documents/language=vie/source=text/0.parquet")


def catalog(root: Path, places: tuple[str, ...] = PLACES) -> Store:
    """A catalog with one artifact that has a side table of one row a file."""
    store = Store(root)
    (root.parent / "x.jsonl").parent.mkdir(parents=True, exist_ok=True)
    (root.parent / "x.jsonl").write_text("a")
    recipe = ConversationsRecipe(kind="conversations", name="conversations/x", version="1", form="messages", files=("x.jsonl",))

    def make(job: Job[ConversationsRecipe]) -> Made:
        for place in places:
            (job.folder / place).parent.mkdir(parents=True)
            pq.write_table(pa.table({"id": [place], "language": ["row"], "source": ["row"]}), job.folder / place)
        body = Conversations(form="messages", rows=1, languages={"tha": 1})
        return Made(body=body, tables={"documents": "documents/*/*/*.parquet"}, licences=("MIT",))

    store.make(replace(recipe, licence="MIT"), root.parent, make, Options())
    return store


@pytest.mark.parametrize("place", ["run=7", "date=2024-05-01", "language=x/ref=y", "cat[1]", "st*r"])
def test_the_catalogs_own_path_is_no_column_and_no_pattern(tmp_path: Path, place: str) -> None:
    neighbour = place.translate({ord("["): "", ord("]"): "", ord("*"): "a"})
    if neighbour != place:
        catalog(tmp_path / neighbour / "artifacts", PLACES[:1])
    store = catalog(tmp_path / place / "artifacts")
    _, rows = index.query(store, "SELECT ref, id, language, source, date FROM documents")
    assert rows == [("conversations/x@1", name, "row", "row", None) for name in PLACES]


def test_a_pattern_may_match_nothing_a_named_file_must_be_there(tmp_path: Path) -> None:
    store = catalog(tmp_path / "artifacts", ())
    assert index.query(store, "SELECT * FROM documents")[1] == []
    record = store.folder(store.require("conversations/x@1").ref) / "artifact.json"
    record.write_text(record.read_text("utf-8").replace("documents/*/*/*.parquet", "documents.parquet"), "utf-8")
    with pytest.raises(CorruptInput, match=r"documents\.parquet.*cannot be read"):
        index.rebuild(Store(store.root))


def test_names_that_are_not_utf8_have_a_fingerprint() -> None:
    names = [b"caf\xe9.warc.gz".decode("utf-8", "surrogateescape"), b"caf\xe8.warc.gz".decode("utf-8", "surrogateescape")]
    assert fingerprint(names[0]) != fingerprint(names[1])
    assert fingerprint({"a": "ไทย"}) == hashlib.sha256('{"a":"ไทย"}'.encode()).hexdigest()
