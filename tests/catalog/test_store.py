"""The store: made once and whole or not at all, found again as it was made, and the index that follows it."""

import errno
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from sea_lion.catalog import index
from sea_lion.catalog.errors import CorruptInput, DriftError, MissingArtifact, SeaLionError, Unfinished
from sea_lion.catalog.files import parse_record
from sea_lion.catalog.fingerprint import canonical_json
from sea_lion.catalog.records import (
    ArtifactRef,
    Conversations,
    Corpus,
    Shard,
)
from sea_lion.catalog.store import RECORD, Job, Made, Options, Store, read_artifact, verify_files, write_rows
from sea_lion.data.chat_recipe import ConversationsRecipe
from sea_lion.data.recipe import CorpusRecipe, Source

from .conftest import conversations, make_conversations

FLOW = pa.schema(
    [
        ("step", pa.int32()),
        *((name, pa.string()) for name in ("stage", "source", "language", "outcome", "reason")),
        ("documents", pa.int64()),
        ("bytes", pa.int64()),
    ]
)


def test_made_once_then_found(store: Store, tmp_path: Path) -> None:
    recipe = conversations(tmp_path)
    made = store.make(recipe, tmp_path, make_conversations, Options())

    def never(job: Job[Any]) -> Made:
        raise AssertionError("made twice")

    again = Store(store.root).make(recipe, tmp_path, never, Options())
    assert again == made == read_artifact(store.folder(recipe.ref) / RECORD)
    assert [file.path for file in made.files] == ["conversations.txt"]
    assert not list((store.root / ".work").iterdir())


def test_the_place_is_not_part_of_the_identity(tmp_path: Path) -> None:
    prints = set()
    for name in ("here", "there"):
        folder = tmp_path / name
        folder.mkdir()
        recipe = replace(conversations(folder), description=name)
        prints.add(Store(folder / "artifacts").make(recipe, folder, make_conversations, Options()).fingerprint)
    assert len(prints) == 1


def test_a_changed_recipe_or_file_needs_a_new_version(store: Store, tmp_path: Path) -> None:
    recipe = conversations(tmp_path)
    store.make(recipe, tmp_path, make_conversations, Options())
    with pytest.raises(DriftError, match=r'form: "messages" -> "preference".*raise the version'):
        store.make(replace(recipe, form="preference"), tmp_path, make_conversations, Options())
    with pytest.raises(DriftError, match="files"):
        store.make(conversations(tmp_path, "other"), tmp_path, make_conversations, Options())
    newer = store.make(replace(conversations(tmp_path, "other"), version="2"), tmp_path, make_conversations, Options())
    assert newer.ref.version == "2"


def test_version_dev_is_rebuilt(store: Store, tmp_path: Path) -> None:
    first = store.make(replace(conversations(tmp_path), version="dev"), tmp_path, make_conversations, Options())
    second = store.make(replace(conversations(tmp_path, "bb"), version="dev"), tmp_path, make_conversations, Options())
    assert first.fingerprint != second.fingerprint
    assert (store.folder(second.ref) / "conversations.txt").read_text() == "bb"


def test_bad_input_leaves_nothing(store: Store, tmp_path: Path) -> None:
    def broken(job: Job[Any]) -> Made:
        (job.folder / "half.txt").write_text("half")
        raise CorruptInput("x.jsonl", "line 3", "is not JSON")

    with pytest.raises(CorruptInput, match=r"x\.jsonl: line 3: is not JSON"):
        store.make(conversations(tmp_path), tmp_path, broken, Options())
    assert [path for path in store.root.rglob("*") if path.is_file()] == []


def killed_maker(job: Job[Any]) -> Made:
    marker = job.folder / "begun.txt"
    if not marker.exists():
        marker.write_text("1")
        os.kill(os.getpid(), signal.SIGKILL)
    (job.folder / "done.txt").write_text("resumed")
    return Made(body=Conversations(form="messages", rows=1, languages={}))


def _make_in_child(root: Path, folder: Path) -> None:
    Store(root).make(conversations(folder), folder, killed_maker, Options())


def test_a_killed_making_leaves_no_artifact_and_is_taken_up(store: Store, tmp_path: Path) -> None:
    child = multiprocessing.get_context("fork").Process(target=_make_in_child, args=(store.root, tmp_path))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert store.all() == []
    made = store.make(conversations(tmp_path), tmp_path, killed_maker, Options())
    assert [file.path for file in made.files] == ["begun.txt", "done.txt"]


def slow_maker(job: Job[Any]) -> Made:
    with (job.folder / "makers.txt").open("a") as file:
        file.write("one\n")
    time.sleep(0.3)
    return Made(body=Conversations(form="messages", rows=1, languages={}))


def _make_slowly(root: Path, folder: Path, recipe: ConversationsRecipe) -> None:
    Store(root).make(recipe, folder, slow_maker, Options())


def test_two_at_once_make_it_once(store: Store, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    recipe = conversations(tmp_path)
    children = [context.Process(target=_make_slowly, args=(store.root, tmp_path, recipe)) for _ in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0, 0, 0]
    assert (store.folder(recipe.ref) / "makers.txt").read_text() == "one\n"


def test_a_changed_file_is_found(store: Store, tmp_path: Path) -> None:
    made = store.make(conversations(tmp_path), tmp_path, make_conversations, Options())
    folder = store.folder(made.ref)
    verify_files(folder, made)
    (folder / "conversations.txt").write_text("b")
    with pytest.raises(CorruptInput, match="sha256 differs"):
        verify_files(folder, made)
    (folder / "conversations.txt").unlink()
    with pytest.raises(CorruptInput, match="is missing"):
        verify_files(folder, made)


def test_a_missing_artifact_names_the_nearest(store: Store, tmp_path: Path) -> None:
    store.make(conversations(tmp_path), tmp_path, make_conversations, Options())
    with pytest.raises(MissingArtifact, match="conversations/x@1"):
        store.require("conversations/y@1")
    with pytest.raises(MissingArtifact):
        store.require("not a reference")


def test_a_damaged_record_is_one_clear_line(store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = store.make(conversations(tmp_path), tmp_path, make_conversations, Options())
    other = store.make(replace(conversations(tmp_path), version="2"), tmp_path, make_conversations, Options())
    record = store.folder(made.ref) / RECORD
    record.write_text(record.read_text()[:-20])
    again = Store(store.root)
    assert again.all() == again.all() == [other]
    assert [line.getMessage().partition(": ")[0] for line in caplog.records] == ["left out"], "one line, once"
    with pytest.raises(CorruptInput, match=r"artifact\.json: is not as it was written") as error:
        again.require(str(made.ref))
    assert "\n" not in str(error.value)
    with pytest.raises(CorruptInput):
        again.make(conversations(tmp_path), tmp_path, make_conversations, Options())


def test_one_altered_byte_anywhere_in_a_record_is_noticed(store: Store, tmp_path: Path) -> None:
    made = store.make(conversations(tmp_path), tmp_path, make_conversations, Options())
    data = (store.folder(made.ref) / RECORD).read_bytes()
    assert parse_record(data, "x") == made
    for i in range(len(data)):
        for other in (data[i] ^ 1, data[i] ^ 32, ord(" ")):
            if other != data[i]:
                with pytest.raises(CorruptInput):
                    parse_record(data[:i] + bytes([other]) + data[i + 1 :], "x")


def test_records_made_before_they_had_a_digest_still_open(store: Store, tmp_path: Path) -> None:
    made = store.make(conversations(tmp_path), tmp_path, make_conversations, Options())
    record = store.folder(made.ref) / RECORD
    without = json.loads(record.read_text())
    digest = without.pop("sha256")
    assert digest == hashlib.sha256(canonical_json(without).encode()).hexdigest()
    for text in (canonical_json(without), json.dumps(without, indent=1)):
        record.write_text(text)
        assert Store(store.root).require(str(made.ref)) == made


def test_two_artifacts_that_claim_one_version_are_told_apart(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = store.make(conversations(tmp_path), tmp_path, make_conversations, Options())
    shutil.copytree(store.folder(made.ref), store.root / "conversations" / "copy" / "1")
    assert store.all() == [made]
    assert "says it is conversations/x@1, but lies in the folder of conversations/copy@1" in caplog.text
    with pytest.raises(CorruptInput, match="says it is"):
        store.require("conversations/copy@1")


def test_a_record_that_is_replaced_is_read_again(store: Store, tmp_path: Path) -> None:
    dev = replace(conversations(tmp_path), version="dev")
    store.make(dev, tmp_path, make_conversations, Options())
    longer = Store(store.root).make(replace(dev, form="preference"), tmp_path, make_conversations, Options())
    assert store.require("conversations/x@dev") == longer


def test_only_folders_around_artifacts_are_listed(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = store.make(conversations(tmp_path), tmp_path, make_conversations, Options())
    (store.folder(made.ref) / "shards").mkdir()
    for place in ("slots/corpus/x/1/extract", "kind/empty", ".work/abc", "kind/odd/1/artifact.json"):
        (store.root / place).mkdir(parents=True)
    (store.root / "kind" / "loop").symlink_to(store.root)
    (store.root / RECORD).write_text("{}")
    listed: list[Path] = []
    scandir = os.scandir

    def watched(path: Any) -> Any:
        listed.append(Path(path).relative_to(store.root))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", watched)
    found = list(store.records())
    status = (store.folder(made.ref) / RECORD).stat()
    state = f"{status.st_mtime_ns}:{status.st_size}:{status.st_ino}"
    assert found == [("conversations/x@1", store.folder(made.ref) / RECORD, state)]
    assert {str(path) for path in listed} == {
        ".", "conversations", "conversations/x", "kind", "kind/empty", "kind/odd", "kind/odd/1", "kind/odd/1/artifact.json",
    }  # fmt: skip


@pytest.mark.parametrize("when", ["making", "recording"])
def test_a_full_disk_is_one_line_and_the_work_goes_on(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    def fill(*_: Any) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    maker = fill if when == "making" else make_conversations
    with monkeypatch.context() as patched:
        if when == "recording":
            patched.setattr("sea_lion.catalog.store.write_atomically", fill)
        with pytest.raises(Unfinished, match="conversations/x@1: no space left on the device"):
            store.make(conversations(tmp_path), tmp_path, maker, Options())
    made = store.make(conversations(tmp_path), tmp_path, make_conversations, Options())
    assert store.all() == [made]


# -- the index ---------------------------------------------------------------------------------------------------------------


def make_corpus(job: Job[CorpusRecipe]) -> Made:
    rows = [
        {
            "step": 1,
            "stage": "quality",
            "source": "web",
            "language": "tha",
            "outcome": outcome,
            "reason": reason,
            "documents": n,
            "bytes": n,
        }
        for outcome, reason, n in (("in", "", 5), ("removed", "short", 2), ("out", "", 3))
    ]
    write_rows(job.folder / "flow.parquet", rows, FLOW)
    shard = Shard(
        path="a.parquet", language="tha", source="web", split="train", documents=3, characters=9, bytes=27, sha256="0"
    )
    return Made(body=Corpus(shards=(shard,), documents_in=5, documents_out=3), tables={"flow": "flow.parquet"})


def corpus(tmp_path: Path) -> CorpusRecipe:
    (tmp_path / "t.toml").write_text("1")
    return CorpusRecipe(
        kind="corpus", name="corpus/x", version="1", languages=("tha",), thresholds=("t.toml",),
        source=(Source(name="web", form="jsonl", files=("t.toml",)),),
    )  # fmt: skip


def test_the_index_answers_the_same_after_it_is_deleted(store: Store, tmp_path: Path) -> None:
    store.make(corpus(tmp_path), tmp_path, make_corpus, Options())
    queries = [
        "FROM artifacts ORDER BY ref",
        "FROM shards",
        "FROM flow ORDER BY ALL",
        "FROM balance",
        "FROM ledger",
        "FROM inputs",
    ]
    before = [index.query(store, sql) for sql in queries]
    assert before[3][1] == [("corpus/x@1", 1, "quality", "tha", 5, 3, 2, True)]
    (store.root / index.INDEX).unlink()
    index.rebuild(store)
    assert [index.query(store, sql) for sql in queries] == before


def test_the_index_follows_new_records(store: Store, tmp_path: Path) -> None:
    store.make(conversations(tmp_path), tmp_path, make_conversations, Options())
    assert index.query(store, "SELECT count(*) FROM artifacts")[1] == [(1,)]
    store.make(corpus(tmp_path), tmp_path, make_corpus, Options())
    assert index.query(store, "SELECT count(*) FROM artifacts")[1] == [(2,)]


def test_the_record_is_plain_json(store: Store, tmp_path: Path) -> None:
    made = store.make(corpus(tmp_path), tmp_path, make_corpus, Options())
    record = json.loads((store.folder(made.ref) / RECORD).read_text())
    assert record["ref"] == {"name": "corpus/x", "version": "1"}
    assert str(tmp_path) not in json.dumps(record)
    assert ArtifactRef.parse("corpus/x@1") == made.ref


def test_an_artifact_inside_anothers_folder_is_never_deleted(store: Store, tmp_path: Path) -> None:
    inner = replace(conversations(tmp_path), name="conversations/x/1", version="2")
    store.make(inner, tmp_path, make_conversations, Options())
    with pytest.raises(SeaLionError, match="holds other artifacts"):
        store.make(conversations(tmp_path), tmp_path, make_conversations, Options())
    assert Store(store.root).get(inner.ref) is not None


def test_an_artifact_is_not_made_where_none_would_be_found(store: Store, tmp_path: Path) -> None:
    store.make(conversations(tmp_path), tmp_path, make_conversations, Options())

    def never(job: Job[Any]) -> Made:
        raise AssertionError("made for nothing")

    for name, inside in (("conversations/x/1/inner", "conversations/x/1"), ("slots/x", "slots")):
        with pytest.raises(SeaLionError, match=f"lies inside .*{inside}; choose another"):
            store.make(replace(conversations(tmp_path), name=name), tmp_path, never, Options())
    assert not list((store.root / ".work").iterdir())
