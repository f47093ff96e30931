"""A catalog in an object store, on a real S3 server on 127.0.0.1: two machines, empty caches, races and faults."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from threading import Barrier, Thread
from typing import Any
from urllib.request import Request, urlopen

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sea_lion.catalog import index
from sea_lion.catalog.discarding import Discarded
from sea_lion.catalog.errors import CorruptInput, DriftError, MissingArtifact, SeaLionError, Unfinished
from sea_lion.catalog.export import export
from sea_lion.catalog.fingerprint import file_digest
from sea_lion.catalog.records import Artifact, Conversations, Corpus, Shard, TokenizerBody
from sea_lion.catalog.remote import RemoteStore, push, store_at
from sea_lion.catalog.store import RECORD, Job, Made, Options, Store, verify_files
from sea_lion.data.chat_recipe import ConversationsRecipe
from sea_lion.data.recipe import CorpusRecipe, Source
from sea_lion.training.recipe import TokenizerRecipe

s3fs = pytest.importorskip("s3fs")
moto = pytest.importorskip("moto.server")
ADDRESS = "s3://catalogs/team"


class Cloud:
    """An S3 server, and machines that have nothing but its address."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.monkeypatch = root, monkeypatch
        self.server = moto.ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
        self.server.start()
        self.port = self.server.get_host_and_port()[1]
        values = {"ENDPOINT_URL": f"http://127.0.0.1:{self.port}", "ACCESS_KEY_ID": "x", "SECRET_ACCESS_KEY": "x"}
        for name, value in (values | {"DEFAULT_REGION": "us-east-1", "MAX_ATTEMPTS": "1"}).items():
            monkeypatch.setenv(f"AWS_{name}", value)
        urlopen(Request(f"http://127.0.0.1:{self.port}/moto-api/reset", method="POST")).close()
        self.files = s3fs.S3FileSystem(skip_instance_cache=True, use_listings_cache=False)
        self.files.mkdir("catalogs")

    def machine(self, name: str, address: str = ADDRESS) -> RemoteStore:
        self.monkeypatch.setenv("SEA_LION_CACHE", str(self.root / name))
        store = store_at(address)
        assert isinstance(store, RemoteStore)
        return store

    def stop(self) -> None:
        if self.server is not None:
            self.server.stop()
        self.server = None

    def start(self) -> None:
        self.server = moto.ThreadedMotoServer("127.0.0.1", port=self.port, verbose=False)
        self.server.start()

    def objects(self, folder: str = "") -> list[str]:
        return sorted(path.removeprefix("catalogs/team/") for path in self.files.find(f"catalogs/team/{folder}"))


@pytest.fixture
def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    s3fs.S3FileSystem.clear_instance_cache()
    cloud = Cloud(tmp_path, monkeypatch)
    yield cloud
    cloud.stop()
    s3fs.S3FileSystem.clear_instance_cache()


def recipe(version: str = "1", form: Any = "messages") -> ConversationsRecipe:
    return ConversationsRecipe(kind="conversations", name="conversations/x", version=version, form=form, files=("x.jsonl",))


def maker(*texts: str) -> Any:
    """Writes each text as a file."""

    def make(job: Job[Any]) -> Made:
        (job.folder / "parts").mkdir(exist_ok=True)
        for i, text in enumerate(texts):
            (job.folder / "parts" / f"{i}.txt").write_text(text)
        return Made(body=Conversations(form="messages", rows=len(texts), languages={"tha": len(texts)}))

    return make


def made(store: Store, folder: Path, *texts: str, version: str = "1", form: Any = "messages") -> Artifact:
    folder.mkdir(exist_ok=True)
    (folder / "x.jsonl").write_text("the same input")
    return store.make(recipe(version, form), folder, maker(*texts), Options())


def corpus(store: Store, folder: Path) -> Artifact:
    """A corpus of two shards with a side table."""
    (folder / "t.toml").write_text("1")
    source = Source(name="web", form="jsonl", files=("t.toml",))
    recipe = CorpusRecipe(
        kind="corpus", name="corpus/x", version="1", languages=("tha", "khm"), thresholds=("t.toml",), source=(source,)
    )  # fmt: skip

    def make(job: Job[CorpusRecipe]) -> Made:
        shards = []
        for language in recipe.languages:
            path = job.folder / "shards" / f"{language}.parquet"
            path.parent.mkdir(exist_ok=True)
            pq.write_table(pa.table({"id": ["1", "2"], "text": [language, "text"]}), path)
            counts: dict[str, Any] = {"documents": 2, "characters": 7, "bytes": 7, "sha256": file_digest(path)}
            shards.append(Shard(path=f"shards/{language}.parquet", language=language, source="web", split="train", **counts))
        flow = {"step": [1, 1], "stage": ["a", "a"], "outcome": ["in", "out"], "documents": [4, 4]}
        pq.write_table(pa.table(flow), job.folder / "flow.parquet")
        return Made(body=Corpus(shards=tuple(shards), documents_in=4, documents_out=4), tables={"flow": "flow.parquet"})

    return store.make(recipe, folder, make, Options())


def test_what_one_machine_made_another_asks_about_uses_and_publishes(cloud: Cloud, tmp_path: Path) -> None:
    first = cloud.machine("a")
    made_first = corpus(first, tmp_path)
    index.refresh(first)
    second = cloud.machine("b")
    for sql in ("FROM balance ORDER BY ALL", "FROM shards ORDER BY ALL", "SELECT ref, bytes, record_state FROM artifacts"):
        answer = index.query(second, sql)
        assert answer == index.query(first, sql) and answer[1]
    assert not list(second.root.rglob("*.parquet")), "the index came from the object store, nothing was read for it again"

    def train(job: Job[TokenizerRecipe]) -> Made:
        folder = job.folder_of("corpus/x@1")
        verify_files(folder, made_first)
        (job.folder / "words.txt").write_text("".join(pq.read_table(folder / "shards" / "khm.parquet")["text"].to_pylist()))
        return Made(body=TokenizerBody(algorithm="byte-level-bpe", vocabulary=300))

    recipe = TokenizerRecipe(kind="tokenizer", name="tokenizer/x", version="1", corpora=("corpus/x@1",), vocabulary=300)
    tokenizer = second.make(recipe, tmp_path, train, Options())
    assert first.require("tokenizer/x@1") == tokenizer
    assert (first.folder(tokenizer.ref) / "words.txt").read_text() == "khmtext"
    assert index.query(first, "SELECT ref FROM artifacts ORDER BY ref")[1] == [("corpus/x@1",), ("tokenizer/x@1",)]
    third, flow = cloud.machine("c"), index.query(first, "FROM flow ORDER BY ALL")
    index.rebuild(third)
    assert index.query(third, "FROM flow ORDER BY ALL") == flow and flow[1], "side tables are fetched where there is no index"
    export(third, "corpus/x@1", tmp_path / "published", "parquet")
    assert len(list(tmp_path.glob("published/data/**/*.parquet"))) == 2


def test_an_empty_cache_knows_everything_and_fetches_only_what_is_read(cloud: Cloud, tmp_path: Path) -> None:
    artifact = made(cloud.machine("a"), tmp_path / "in", "one", "two")
    second = cloud.machine("b")
    assert second.require("conversations/x@1") == artifact
    with pytest.raises(MissingArtifact, match="nearest are conversations/x@1"):
        second.require("conversations/y@1")
    here = second.path(artifact.ref)
    assert [path.name for path in here.rglob("*.*")] == [RECORD]
    assert (second.folder(artifact.ref, ["parts/1.txt"]) / "parts" / "1.txt").read_text() == "two"
    assert sorted(path.name for path in here.rglob("*.txt")) == ["1.txt"]
    verify_files(second.folder(artifact.ref), artifact)
    assert second.place.address == ADDRESS


@pytest.mark.parametrize("form", ["messages", "preference"])
def test_of_two_machines_that_make_one_version_one_is_first(cloud: Cloud, tmp_path: Path, form: str) -> None:
    barrier, outcomes = Barrier(2), dict[str, Any]()

    def run(name: str, form: Any) -> None:
        store = stores[name]
        send = store.send

        def together(artifact: Artifact, folder: Path, mark: Discarded | None = None) -> Artifact:
            barrier.wait()
            return send(artifact, folder, mark)

        store.send = together  # type: ignore[method-assign]
        try:
            outcomes[name] = made(store, tmp_path / name / "in", "same", f"other on {name}", form=form)
        except DriftError as error:
            outcomes[name] = error

    stores = {name: cloud.machine(name) for name in ("a", "b")}
    for name in stores:
        (tmp_path / name).mkdir(exist_ok=True)
    threads = [Thread(target=run, args=(name, form if name == "a" else "messages")) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    there = cloud.machine("c").require("conversations/x@1")
    if form == "messages":
        assert outcomes == {"a": there, "b": there}
        for store in stores.values():
            verify_files(store.folder(there.ref), there)
    else:
        drifted = [name for name, outcome in outcomes.items() if isinstance(outcome, DriftError)]
        assert len(drifted) == 1 and "form" in str(outcomes[drifted[0]])
        assert next(outcome for name, outcome in outcomes.items() if name not in drifted) == there
    assert len(cloud.objects("conversations")) == 2, "what the second sent is gone"
    assert all(not list((store.root / ".work").iterdir()) for store in stores.values())


def test_a_changed_recipe_needs_a_new_version_everywhere(cloud: Cloud, tmp_path: Path) -> None:
    made(cloud.machine("a"), tmp_path / "in", "one")
    with pytest.raises(DriftError, match="raise the version"):
        made(cloud.machine("b"), tmp_path / "in", "one", form="preference")


def test_version_dev_is_replaced(cloud: Cloud, tmp_path: Path) -> None:
    first, second = cloud.machine("a"), cloud.machine("b")
    old = made(first, tmp_path / "in", "one", "old", version="dev")
    assert (second.folder(old.ref) / "parts" / "1.txt").read_text() == "old"
    new = made(first, tmp_path / "in", "one", "new", version="dev", form="preference")
    assert second.require("conversations/x@dev") == new
    assert (second.folder(new.ref) / "parts" / "1.txt").read_text() == "new"
    assert len(cloud.objects("conversations")) == 2


def test_a_server_that_is_gone_mid_upload_is_one_line_and_the_rest_is_sent_later(
    cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, texts, sent = cloud.machine("a"), [f"part {i}" for i in range(20)], list[str]()
    put = store.place.put

    def counting(path: str, local: Path) -> None:
        if len(sent) == 9 and cloud.server is not None:
            cloud.stop()
        sent.append(path)
        put(path, local)

    monkeypatch.setattr(store.place, "put", counting)
    with pytest.raises(Unfinished, match=r"s3://catalogs/team: the object store does not answer") as error:
        made(store, tmp_path / "in", *texts)
    assert "\n" not in str(error.value)
    cloud.start()
    there = len(cloud.objects("conversations"))
    assert 0 < there < 20 and cloud.objects("records") == []
    sent.clear()
    again = cloud.machine("a")

    def also_counting(path: str, local: Path) -> None:
        sent.append(path)
        put(path, local)

    monkeypatch.setattr(again.place, "put", also_counting)

    def never(job: Job[Any]) -> Made:
        raise AssertionError("made twice")

    artifact = again.make(recipe(), tmp_path / "in", never, Options())
    assert len(sent) == 20 - there
    verify_files(cloud.machine("b").folder(artifact.ref), artifact)


def test_an_altered_object_is_named(cloud: Cloud, tmp_path: Path) -> None:
    artifact = made(cloud.machine("a"), tmp_path / "in", "one", "two")
    name = cloud.objects("conversations")[1]
    cloud.files.pipe_file(f"catalogs/team/{name}", b"owt")
    with pytest.raises(CorruptInput, match=r"s3://catalogs/team/conversations/x/1/parts/1-\w+\.txt.*sha256 differs"):
        cloud.machine("b").folder(artifact.ref)
    cloud.files.rm_file(f"catalogs/team/{name}")
    with pytest.raises(CorruptInput, match=r"1-\w+\.txt: is missing from conversations/x@1"):
        cloud.machine("b").folder(artifact.ref)
    record = "catalogs/team/records/conversations~x@1.json"
    cloud.files.pipe_file(record, cloud.files.cat_file(record).replace(b'"rows":2', b'"rows":3'))
    damaged = cloud.machine("c")
    with pytest.raises(CorruptInput, match=r"s3://catalogs/team/records/conversations~x@1\.json.*sha256 differs"):
        damaged.require("conversations/x@1")
    assert damaged.all() == []


def test_a_damaged_cache_is_mended(cloud: Cloud, tmp_path: Path) -> None:
    store = cloud.machine("a")
    artifact = made(store, tmp_path / "in", "one")
    (store.path(artifact.ref) / RECORD).write_text("{")
    assert cloud.machine("a").require("conversations/x@1") == artifact
    (store.root / ".remote.json").write_text("[")
    assert cloud.machine("a").require("conversations/x@1") == artifact


def test_hostile_names_in_the_object_store_are_passed_over(cloud: Cloud, tmp_path: Path) -> None:
    made(cloud.machine("a"), tmp_path / "in", "one")
    for name in ("..~..~etc@1", "x", "a/b@1", "UPPER~x@1", "a~b@..", "a~b@1\x1b[31m"):
        cloud.files.pipe_file(f"catalogs/team/records/{name}.json", b"{}")
    store = cloud.machine("b")
    assert [ref for ref, _, _ in store.records()] == ["conversations/x@1"]


def test_an_artifact_that_is_removed_is_gone_from_the_caches(cloud: Cloud, tmp_path: Path) -> None:
    artifact = made(cloud.machine("a"), tmp_path / "in", "one")
    second = cloud.machine("b")
    second.folder(artifact.ref)
    cloud.files.rm_file("catalogs/team/records/conversations~x@1.json")
    assert second.all() == []
    assert cloud.machine("b").get(artifact.ref) is None
    assert not second.path(artifact.ref).exists()


def test_the_published_index_is_fetched_when_it_changed(cloud: Cloud, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first, second = cloud.machine("a"), cloud.machine("b")
    (tmp_path / "index").write_text("1")
    second.fetch_index(tmp_path / "mine")
    assert not (tmp_path / "mine").exists(), "none is published yet"
    first.publish_index(tmp_path / "index")
    second.fetch_index(tmp_path / "mine")
    assert (tmp_path / "mine").read_text() == "1"
    (tmp_path / "mine").write_text("as it was")
    second.fetch_index(tmp_path / "mine")
    assert (tmp_path / "mine").read_text() == "as it was"
    (tmp_path / "index").write_text("2")
    first.publish_index(tmp_path / "index")
    second.fetch_index(tmp_path / "mine")
    assert (tmp_path / "mine").read_text() == "2"
    cloud.stop()
    first.publish_index(tmp_path / "index")
    assert "the index is not published: s3://catalogs/team" in caplog.text, "whoever cannot write can still ask"


def test_a_folder_is_pushed_once(cloud: Cloud, tmp_path: Path) -> None:
    local, remote = Store(tmp_path / "local"), cloud.machine("a")
    artifact = made(local, tmp_path / "in", "one", "two")
    assert push(local, remote) == [artifact.ref] and push(local, remote) == []
    verify_files(cloud.machine("b").folder(artifact.ref), artifact)
    other = Store(tmp_path / "other")
    made(other, tmp_path / "in", "one", form="preference")
    with pytest.raises(DriftError, match="form"):
        push(other, remote)
    shutil.rmtree(local.path(artifact.ref) / "parts")
    with pytest.raises(CorruptInput, match="is missing"):
        push(local, cloud.machine("c", "s3://catalogs/second"))


def test_who_is_refused_and_what_is_not_there_is_one_line(
    cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for address in ("s3://", "gopher://x/y", "http://127.0.0.1/x"):
        with pytest.raises(SeaLionError, match=r"a catalog is a folder or s3://"):
            store_at(address)
    assert not isinstance(store_at(str(tmp_path / "folder")), RemoteStore)
    with pytest.raises(SeaLionError, match="no such bucket") as error:
        made(cloud.machine("a", "s3://nowhere/team"), tmp_path / "in", "one")
    assert "\n" not in str(error.value)
    cloud.stop()
    with pytest.raises(Unfinished, match="does not answer"):
        cloud.machine("a").all()


def test_wrong_credentials_are_one_line(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moto.settings.INITIAL_NO_AUTH_ACTION_COUNT", 0)
    monkeypatch.setattr("moto.core.responses.settings.INITIAL_NO_AUTH_ACTION_COUNT", 0)
    store = cloud.machine("a")
    with pytest.raises(SeaLionError, match=r"the object store refuses: .*AWS_ACCESS_KEY_ID") as error:
        store.all()
    assert "\n" not in str(error.value)
