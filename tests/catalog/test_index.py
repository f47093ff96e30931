"""The index follows the truth, whatever happens to files, processes, clocks and disks; and reads it wherever it lies."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sea_lion.catalog import index, schema
from sea_lion.catalog.errors import SeaLionError, Unfinished
from sea_lion.catalog.fingerprint import fingerprint
from sea_lion.catalog.records import Conversations
from sea_lion.catalog.slots import Count, Manifest, SlotSet
from sea_lion.catalog.store import Job, Made, Options, Store
from sea_lion.data.chat_recipe import ConversationsRecipe

PLACES = ("documents/language=tha/source=web/0.parquet", "documents/language=vie/source=text/0.parquet")
LOG = pa.table({"step": [1, 2], "loss": [3.5, 2.5], "tokens": [10, 10]})


def add(store: Store, name: str = "x", places: tuple[str, ...] = (), log: bool = False) -> Path:
    """Make one artifact, with a document table of one row a file and, if wished, a training log; returns its folder."""
    base = store.root.parent
    base.mkdir(parents=True, exist_ok=True)
    (base / f"{name}.jsonl").write_text(name)
    recipe = ConversationsRecipe(
        kind="conversations",
        name=f"conversations/{name}",
        version="1",
        form="messages",
        files=(f"{name}.jsonl",),
        licence="MIT",
    )

    def make(job: Job[ConversationsRecipe]) -> Made:
        for place in places:
            (job.folder / place).parent.mkdir(parents=True)
            pq.write_table(pa.table({"id": [place], "language": ["row"], "source": ["row"]}), job.folder / place)
        tables = {"documents": "documents/*/*/*.parquet"} if places or not log else {}
        if log:
            pq.write_table(LOG, job.folder / "training_log.parquet")
            tables["training_log"] = "training_log.parquet"
        body = Conversations(form="messages", rows=1, languages={"tha": 1})
        return Made(body=body, tables=tables)

    return store.folder(store.make(recipe, base, make, Options()).ref)


def names(store: Store) -> list[str]:
    """The artifacts that the index has."""
    return [row[0] for row in index.query(store, "SELECT name FROM artifacts ORDER BY name")[1]]


def problems(store: Store) -> list[tuple[str, str]]:
    """What could not be read."""
    return index.query(store, "SELECT path, problem FROM problems ORDER BY path")[1]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A catalog of two artifacts, indexed."""
    made = Store(tmp_path / "artifacts")
    add(made, "a", log=True)
    add(made, "b", PLACES)
    index.rebuild(made)
    return made


@pytest.mark.parametrize("place", ["run=7", "date=2024-05-01", "language=x/ref=y", "cat[1]", "st*r"])
def test_the_catalogs_own_path_is_no_column_and_no_pattern(tmp_path: Path, place: str) -> None:
    neighbour = place.translate({ord("["): "", ord("]"): "", ord("*"): "a", ord("?"): "x"})
    if neighbour != place:
        add(Store(tmp_path / neighbour / "artifacts"), places=PLACES[:1])
    store = Store(tmp_path / place / "artifacts")
    add(store, places=PLACES)
    _, rows = index.query(store, "SELECT ref, id, language, source, date FROM documents ORDER BY id")
    assert rows == [("conversations/x@1", name, "row", "row", None) for name in PLACES]


def test_a_question_mark_in_the_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SeaLionError, match="choose another folder"):
        index.rebuild(Store(tmp_path / "who?"))


def test_names_that_are_not_utf8_have_a_fingerprint() -> None:
    names = [b"caf\xe9.warc.gz".decode("utf-8", "surrogateescape"), b"caf\xe8.warc.gz".decode("utf-8", "surrogateescape")]
    assert fingerprint(names[0]) != fingerprint(names[1])
    assert fingerprint({"a": "ไทย"}) == hashlib.sha256('{"a":"ไทย"}'.encode()).hexdigest()


# -- following the truth -----------------------------------------------------------------------------------------------------


def test_a_refresh_reads_what_is_new_and_forgets_what_is_gone(store: Store) -> None:
    folder = add(store, "c")
    done = index.refresh(store)
    assert (done.artifacts, done.gone, names(store)) == (1, 0, ["conversations/a", "conversations/b", "conversations/c"])
    assert index.refresh(store).artifacts == 0
    shutil.rmtree(folder)
    shutil.rmtree(store.root / "conversations/a")
    assert index.refresh(Store(store.root)).gone == 2
    assert names(store) == ["conversations/b"]
    assert index.query(store, "SELECT count(*) FROM training_log")[1] == [(0,)]


@pytest.mark.parametrize("time_of_change", [0.0, 4e9])
def test_a_clock_that_jumps_hides_nothing(store: Store, time_of_change: float) -> None:
    folder = add(store, "c")
    record = folder / "artifact.json"
    os.utime(record, (time_of_change, time_of_change))
    os.utime(store.root / index.INDEX, (2e9, 2e9))
    assert not index.is_current(store)
    assert "conversations/c" in names(store)
    assert index.is_current(store)


def test_a_refresh_and_a_rebuild_answer_the_same(store: Store) -> None:
    add(store, "c", PLACES, log=True)
    index.refresh(store)
    questions = [f'SELECT * FROM "{name}" ORDER BY ALL' for name in (*schema.tables(), *schema.views()) if name != "problems"]
    refreshed = [index.query(store, sql) for sql in questions]
    (store.root / index.INDEX).unlink()
    index.rebuild(store)
    assert [index.query(store, sql) for sql in questions] == refreshed


# -- damage ------------------------------------------------------------------------------------------------------------------


def test_one_altered_byte_of_a_record_costs_that_record(store: Store) -> None:
    record = store.root / "conversations/a/1/artifact.json"
    content = bytearray(record.read_bytes())
    place = content.index(b'"rows":1') + 7
    content[place : place + 1] = b"7"
    record.write_bytes(content)
    assert names(store) == ["conversations/b"]
    [(path, problem)] = problems(store)
    assert path == "conversations/a/1/artifact.json"
    assert "sha256" in problem
    assert index.is_current(store), "what cannot be read is not read again and again"
    content[place : place + 1] = b"1"
    record.write_bytes(content)
    assert names(store) == ["conversations/a", "conversations/b"]
    assert problems(store) == []


@pytest.mark.parametrize("change", [lambda b: b[:40], lambda b: b"", lambda b: b[:-30] + bytes([b[-30] ^ 1]) + b[-29:], None])
def test_a_side_table_that_is_not_as_written_costs_its_artifact(store: Store, change: Callable[[bytes], bytes] | None) -> None:
    path = store.root / "conversations/a/1/training_log.parquet"
    content = path.read_bytes()
    if change is not None:
        path.write_bytes(change(content))
    else:
        path.unlink()
    index.rebuild(store)
    assert names(store) == ["conversations/b"]
    [(_, problem)] = problems(store)
    assert "training_log.parquet" in problem
    path.write_bytes(content)
    index.rebuild(store)
    assert names(store) == ["conversations/a", "conversations/b"]


def rewritten(store: Store, change: dict[str, object], name: str = "a") -> None:
    """Change keys of a record as somebody would who knows how records are signed."""
    from sea_lion.catalog.files import parse_record, record_text

    record = store.root / f"conversations/{name}/1/artifact.json"
    table = json.loads(record.read_text("utf-8")) | change
    table.pop("sha256", None)
    record.write_text(record_text(parse_record(json.dumps(table).encode(), record)), "utf-8")


@pytest.mark.parametrize("place", ["../../../etc/passwd", "/etc/passwd", "a/../../x.parquet", "file:///etc/passwd", "x\0y", ""])
def test_a_table_outside_the_artifact_is_refused(store: Store, place: str) -> None:
    files = [{"path": place, "bytes": 1, "sha256": "0" * 64}]
    rewritten(store, {"files": files, "tables": {"training_log": place}})
    assert names(store) == ["conversations/b"]
    assert len(problems(store)) == 1


def test_a_link_out_of_the_catalog_is_not_followed(store: Store, tmp_path: Path) -> None:
    secret = tmp_path / "secret.parquet"
    pq.write_table(LOG, secret)
    inside = store.root / "conversations/a/1/training_log.parquet"
    inside.unlink()
    inside.symlink_to(secret)
    index.rebuild(store)
    assert names(store) == ["conversations/b"]


def test_two_artifacts_that_claim_one_version(store: Store) -> None:
    copy = store.root / "conversations/copy/1"
    shutil.copytree(store.root / "conversations/a/1", copy)
    assert names(store) == ["conversations/a", "conversations/b"]
    [(path, problem)] = problems(store)
    assert path == "conversations/copy/1/artifact.json"
    assert "conversations/a@1" in problem


def test_a_parquet_bomb_is_refused_by_what_it_would_decode_to(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sea_lion.catalog.ingest.MOST_BYTES", 1 << 20)
    path = store.root / "conversations/a/1/training_log.parquet"
    pq.write_table(pa.table({"step": pa.array([1] * 1_000_000), "loss": pa.array([0.0] * 1_000_000)}), path)
    assert path.stat().st_size < 100_000
    digest = {"path": path.name, "bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    rewritten(store, {"files": [digest]})
    assert names(store) == ["conversations/b"]
    assert "decodes to more than" in problems(store)[0][1]


# -- the file ----------------------------------------------------------------------------------------------------------------


def test_an_index_that_is_no_database_is_made_anew(store: Store) -> None:
    (store.root / index.INDEX).write_bytes(os.urandom(20_000))
    assert names(store) == ["conversations/a", "conversations/b"]


def test_an_older_catalog_opens(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = schema.migrations()
    monkeypatch.setattr(index, "migrations", lambda: {1: everything[1]})
    monkeypatch.setattr(index, "views", dict)
    old = store.root / index.INDEX
    old.unlink()
    with duckdb.connect(str(old)) as connection:
        index.DuckTarget(connection).migrate()
        assert connection.execute("SELECT value FROM index_meta WHERE name = 'schema'").fetchone() == ("1",)
        connection.execute("INSERT INTO artifacts (ref, name) VALUES ('old/x@1', 'old/x')")
    monkeypatch.undo()
    assert names(store) == ["conversations/a", "conversations/b"]
    assert index.query(store, "SELECT value FROM index_meta WHERE name = 'schema'")[1] == [(str(max(everything)),)]


def test_an_index_from_before_migrations_is_made_anew(store: Store) -> None:
    old = store.root / index.INDEX
    old.unlink()
    with duckdb.connect(str(old)) as connection:
        connection.execute("CREATE TABLE artifacts (ref VARCHAR)")
    assert names(store) == ["conversations/a", "conversations/b"]


def test_an_index_of_a_newer_version_is_refused_with_what_to_do(store: Store) -> None:
    with duckdb.connect(str(store.root / index.INDEX)) as connection:
        connection.execute("UPDATE index_meta SET value = '99' WHERE name = 'schema'")
    with pytest.raises(SeaLionError, match=r"newer version \(schema 99.*delete the file"):
        index.query(store, "SELECT 1")


def test_a_full_disk_keeps_the_old_index(store: Store, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(disk)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        shutil.copytree(store.root, disk / "artifacts")
        full = Store(disk / "artifacts")
        before = (full.root / index.INDEX).read_bytes()
        add(full, "c")
        free = shutil.disk_usage(disk).free
        (disk / "filler").write_bytes(bytes(free - 100_000))
        with pytest.raises(Unfinished, match="no space left"):
            index.refresh(full)
        assert (full.root / index.INDEX).read_bytes() == before
        assert not list(full.root.glob(".catalog*.partial"))
        (disk / "filler").unlink()
        assert "conversations/c" in names(full)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


REFRESH = """
import sys
from pathlib import Path
from sea_lion.catalog import index
from sea_lion.catalog.store import Store
print("ready", flush=True)
while True:
    index.rebuild(Store(Path(sys.argv[1])))
"""


def test_kills_and_readers_during_rebuilds(store: Store) -> None:
    """A reader always finds a whole index; a killed rebuild leaves the old one and no lock behind."""
    chance = random.Random(3)
    wrong: list[object] = []
    ended = threading.Event()

    def read() -> None:
        while not ended.is_set():
            try:
                with duckdb.connect(str(store.root / index.INDEX), read_only=True) as connection:
                    if connection.execute("SELECT count(*) FROM artifacts").fetchone() != (2,):
                        wrong.append("half an index")
            except duckdb.Error as error:
                wrong.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        for _ in range(4):
            with subprocess.Popen([sys.executable, "-c", REFRESH, str(store.root)], stdout=subprocess.PIPE) as process:
                assert process.stdout is not None
                process.stdout.readline()
                time.sleep(chance.uniform(0.05, 0.8))
                process.send_signal(signal.SIGKILL)
    finally:
        ended.set()
        thread.join()
    assert wrong == []
    add(store, "c")
    assert names(store) == ["conversations/a", "conversations/b", "conversations/c"]
    assert not list(store.root.glob(".catalog*.partial"))


def test_hostile_names_are_text(store: Store) -> None:
    rewritten(store, {"recipe": {"description": "'; DROP TABLE artifacts; -- <script>\x1b[31m"}})
    index.rebuild(store)
    found = index.query(store, "SELECT description FROM artifacts WHERE name = $1", ["conversations/a"])[1]
    assert found == [("'; DROP TABLE artifacts; -- <script>\x1b[31m",)]


def slot_counts(store: Store) -> list[tuple[str, int, int, int]]:
    """Artifact, slots planned and reported, documents of the slots."""
    sql = """SELECT c.ref, c.planned::BIGINT, c.reported::BIGINT, coalesce(sum(s.documents), 0)::BIGINT FROM completeness c
        LEFT JOIN slot_counts s USING (ref, stage) WHERE c.stage = 'clean' GROUP BY ALL ORDER BY ALL"""
    return index.query(store, sql)[1]


def test_slots_that_are_planned_anew_count_once_and_those_that_are_gone_not_at_all(store: Store) -> None:
    slots = SlotSet(place=store.place, ref="corpus/made@dev", stage="clean")
    for attempt in ("first", "second"):  # a version `dev` that is made again
        now = slots.plan([("s1", ""), ("s2", "")], attempt, replaces=True)
        now.report(Manifest(slot="s1", sha256="a" * 64, documents=5, counts=(Count(language="tha", documents=5),)))
        assert slot_counts(store) == [("corpus/made@dev", 2, 1, 5)]
    shutil.rmtree(store.root / slots.folder)
    assert slot_counts(store) == []


def test_a_damaged_manifest_costs_no_refresh_at_each_question_and_is_read_once_it_is_mended(store: Store) -> None:
    for name in ("corpus/a@1", "corpus/b@1"):
        slots = SlotSet(place=store.place, ref=name, stage="clean")
        now = slots.plan([(f"{name[7]}1", ""), ("s2", "")], "recipe")
        now.report(Manifest(slot=f"{name[7]}1", sha256="a" * 64, counts=(Count(language="tha", documents=5),)))
    path = next((store.root / "slots/corpus/b/1/clean").glob("*/b1.json"))
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"tha", b"vie"))
    index.refresh(store)
    assert index.is_current(store)
    assert slot_counts(store) == [("corpus/a@1", 2, 1, 5), ("corpus/b@1", 2, 0, 0)]
    assert problems(store) == [(path.relative_to(store.root).as_posix(), "is not what was written (its digest differs)")]
    path.write_bytes(whole)
    assert not index.is_current(store)
    assert slot_counts(store) == [("corpus/a@1", 2, 1, 5), ("corpus/b@1", 2, 1, 5)] and problems(store) == []


def test_a_catalog_that_one_may_only_read_is_answered_from_its_last_refresh(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(store: Store) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "catalog.duckdb.lock")

    monkeypatch.setattr(index, "refresh", refused)  # root, who runs tests in a container, may write everywhere
    assert names(store) == ["conversations/a", "conversations/b"] and caplog.messages == []
    add(store, "c")
    assert names(store) == ["conversations/a", "conversations/b"]
    assert "is not up to date and cannot be written to: the answer is from its last refresh" in caplog.text
    (store.root / index.INDEX).unlink()
    with pytest.raises(SeaLionError, match="have its owner run 'sea-lion catalog refresh'"):
        names(store)
