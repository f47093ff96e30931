"""Places: only paths below the root, whole files only, and one first among many; on a file system and over S3."""

from __future__ import annotations

import os
import pickle
import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sea_lion.catalog.errors import CorruptInput, SeaLionError, Unfinished
from sea_lion.catalog.paths import checked_path
from sea_lion.catalog.places import Bucket, Folder, Place
from sea_lion.catalog.slot_rows import set_rows
from sea_lion.catalog.slots import Manifest, SlotSet

BAD_PATHS = [
    "", "..", "../etc/passwd", "a/../../etc/passwd", "/etc/passwd", "a//b", "a/./b", "./a", "a/", "file:///etc/passwd",
    "s3://bucket/key", "zip::file", "*.parquet", "a/[ab].parquet", "a/?.parquet", "a/{b,c}", "a\0b", "a\nb", "~/a", "a\\b",
    "a/\udcff", "x" * 2000,
]  # fmt: skip


@pytest.mark.parametrize("path", BAD_PATHS, ids=ascii)
def test_paths_that_could_lead_elsewhere_are_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(CorruptInput, match="this path"):
        checked_path(path)
    place = Folder(str(tmp_path))
    for verb in (place.read, place.open, place.found, place.remove, place.local):
        with pytest.raises(CorruptInput):
            verb(path)
    with pytest.raises(CorruptInput):
        place.create(path, b"")
    assert list(tmp_path.iterdir()) == []


def test_plain_paths_are_taken() -> None:
    for path in ("a", "slots/corpus/tiny-x/2026.11.1/clean/0123.json", "a..b/c", "ชื่อ/ไฟล์.parquet"):
        assert checked_path(path) == path


def test_symbolic_links_and_devices_are_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    root = tmp_path / "root"
    root.mkdir()
    (root / "file").symlink_to(outside / "secret")
    (root / "folder").symlink_to(outside)
    os.mkfifo(root / "pipe")
    place = Folder(str(root))
    for path in ("file", "folder/secret"):
        with pytest.raises(CorruptInput, match="symbolic link"):
            place.read(path)
        with pytest.raises(CorruptInput, match="symbolic link"):
            place.local(path)
    with pytest.raises(CorruptInput, match="is not a file"):
        place.read("pipe")
    with pytest.raises(CorruptInput):
        place.write("folder/new", b"")
    assert [name for name, data in place.read_all("", ["file", "pipe"]) if data == b"secret"] == []
    assert list(place.files("")) == [] and place.found("file") is None and place.listing("")[0] == []
    assert [path.name for path in outside.iterdir()] == ["secret"]


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """An S3 server that answers one request at a time: moto's own check and write of If-None-Match can interleave."""
    moto = pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    from werkzeug.serving import make_server

    server = make_server("127.0.0.1", 0, moto.DomainDispatcherApplication(moto.create_backend_app))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in {
        "AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    import s3fs

    name = f"catalog-{os.urandom(4).hex()}"
    s3fs.S3FileSystem(skip_instance_cache=True).mkdir(name)
    return f"s3://{name}/team"


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "folder":
        return Place.at(tmp_path / "root")
    return Place.at(str(request.getfixturevalue("bucket")))


def test_the_verbs_mean_the_same_everywhere(place: Place, tmp_path: Path) -> None:
    assert place.listing("") == ([], []) and place.names("a/b") == [] and list(place.files("")) == []
    assert place.create("a/b.json", b"1") and not place.create("a/b.json", b"2") and place.read("a/b.json") == b"1"
    before = place.found("a/b.json")
    place.write("a/b.json", b"333")
    after = place.found("a/b.json")
    assert before and after and (before.bytes, after.bytes) == (1, 3) and before.state != after.state
    (tmp_path / "local").write_bytes(b"local")
    place.put("a/c/d.bin", tmp_path / "local")
    place.put("a/c/d.bin", tmp_path / "local")
    place.get("a/c/d.bin", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b"local"
    with place.open("a/c/d.bin") as file:
        assert file.read(2) == b"lo" and file.read() == b"cal"
    assert place.listing("a") == (["c"], ["b.json"]) and place.listing("") == (["a"], [])
    assert {(found.path, found.bytes) for found in place.files("")} == {("a/b.json", 3), ("a/c/d.bin", 5)}
    assert {found.path for found in place.files("a/c")} == {"a/c/d.bin"}
    read = dict(place.read_all("a", ["b.json", "none.json"]))
    assert read["b.json"] == b"333" and isinstance(read["none.json"], FileNotFoundError)
    assert place.exists("a/b.json") and not place.exists("a") and not place.exists("b")
    place.remove("a/b.json")
    place.remove("a/b.json")
    assert place.names("a") == []
    with pytest.raises(FileNotFoundError):
        place.read("a/b.json")
    assert pickle.loads(pickle.dumps(place)).read("a/c/d.bin") == b"local"


def test_of_many_that_create_a_file_one_is_first(place: Place) -> None:
    with ThreadPoolExecutor(8) as pool:
        for round_ in range(4):
            path = f"race/{round_}"
            told = list(pool.map(lambda i, path=path: place.create(path, str(i).encode()), range(8)))
            assert told.count(True) == 1 and int(place.read(path)) == told.index(True)


def test_what_is_being_written_has_no_name_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Folder(str(tmp_path))
    place.write("a/old", b"old")
    (tmp_path / "a" / ".old.123456.partial").write_bytes(b"ha")  # of a writer that died
    assert place.names("a") == ["old"] and [found.path for found in place.files("")] == ["a/old"]

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for write in (place.write, place.create):
        with pytest.raises(OSError, match="No space"):
            write("a/new", b"new")
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [".old.123456.partial", "old"]


def test_a_file_system_without_hard_links_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    with pytest.raises(SeaLionError, match="has no hard links"):
        Folder(str(tmp_path)).create("a", b"")
    assert list(tmp_path.iterdir()) == []


def test_other_addresses_are_refused() -> None:
    for address in ("gs://bucket/x", "https://example.org", "s3://"):
        with pytest.raises(SeaLionError, match="a catalog is a folder or s3"):
            Place.at(address)


def test_an_object_store_that_refuses_or_is_gone_is_one_line(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SeaLionError, match="no such bucket"):
        Bucket("s3://no-such-bucket/x").read("a")
    with pytest.raises(SeaLionError, match="no such bucket"):
        Bucket("s3://no-such-bucket/x").listing("a")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(Bucket, "KEPT", Bucket.KEPT | {"endpoint_url": "http://127.0.0.1:1", "skip_instance_cache": True})
    with pytest.raises(Unfinished, match="does not answer") as raised:
        Bucket(bucket).read("a")
    assert "\n" not in str(raised.value)


def test_slots_on_s3_are_reported_once_by_many_writers(bucket: str) -> None:
    slots = SlotSet(place=Place.at(bucket), ref="corpus/a@1", stage="clean").plan(
        [(f"slot-{i}", "") for i in range(30)], "recipe"
    )
    tasks = [number for number in range(30) for _ in range(3)]
    random.Random(3).shuffle(tasks)

    def work(task: tuple[int, int]) -> tuple[int, str, int]:
        order, number = task
        documents = order % 2 * 10  # attempts come in two kinds
        said = slots.report(Manifest(slot=f"slot-{number}", documents=documents), b"%d" % documents)
        return number, said, documents

    with ThreadPoolExecutor(8) as pool:
        told = list(pool.map(work, enumerate(tasks)))
    rows = set_rows(slots.place, {})
    first = {number: documents for number, said, documents in told if said == "first"}
    assert sum(said == "first" for _, said, _ in told) == 30 and rows.problems == []
    assert {row["slot"]: row["documents"] for row in rows.tables["slots"].to_pylist()} == {
        f"slot-{n}": d for n, d in first.items()
    }
    second = {(number, documents) for number, said, documents in told if said == "conflict"}
    assert len(rows.tables["slot_conflicts"]) == len(second) and all(documents != first[n] for n, documents in second)
