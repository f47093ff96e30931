"""Fetching a plan from a mirror that fails in every way: each record ends once, as fetched or with a reason."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from sea_lion.catalog.errors import CorruptInput, SeaLionError, Unfinished
from sea_lion.data.fetch import FETCHED, Batch, Fetching, fetch
from sea_lion.data.plan import Plan, Selection, Wanted, plan_rows, read_plan
from sea_lion.data.remote import Manners, Trouble, open_mirror
from sea_lion.data.warc import Response, responses

from .crawl_server import MirrorServer, make_crawl, mirror_of, random_faults

QUICK = Manners(requests_per_second=2000, backoff=0.002, max_wait=2.0, stall_timeout=5.0)


@dataclass
class Crawl:
    """A crawl on disk and the plan of its wanted pages."""

    root: Path
    plan: Plan

    def rows(self) -> list[Wanted]:
        """All rows of the plan."""
        return [row for batch in self.plan.batches() for row in batch]


@pytest.fixture(scope="session")
def crawl(tmp_path_factory: pytest.TempPathFactory) -> Crawl:
    """Three files of 48 pages, 48 of the pages wanted, 35 KB each."""
    root = tmp_path_factory.mktemp("crawl")
    source = str(make_crawl(root, files=3, captures=48))
    selection = Selection(languages=("tha", "lao", "zsm", "fil"))
    return Crawl(root, plan_rows([source], root.with_name("crawl.plan.parquet"), selection))


@pytest.fixture
def server(crawl: Crawl) -> Iterator[MirrorServer]:
    """A mirror of the crawl."""
    with mirror_of(crawl.root) as mirror:
        yield mirror


def quick(**manners: Any) -> Fetching:
    """Settings that lose no time."""
    return Fetching(manners=replace(QUICK, **manners))


def results(batches: list[Batch]) -> Counter[str]:
    """Outcomes of all rows; also checks that each batch adds up and holds what it says."""
    found: Counter[str] = Counter()
    for batch in batches:
        assert batch.planned == batch.fetched + sum(batch.failed.values())
        outcomes = Counter(outcome for _, outcome, _ in batch.rows())
        assert outcomes == Counter(batch.failed) + Counter({FETCHED: batch.fetched})
        assert sum(1 for _ in responses(batch.warc)) == batch.fetched
        found += outcomes
    return found


def tally(batches: list[Batch]) -> Counter[str]:
    """The batches' tallies added up."""
    return sum((Counter(batch.tally) for batch in batches), Counter())


def fetched(batches: list[Batch]) -> list[tuple[str, int, Response]]:
    """Every fetched response with the file and offset that the crawl has it at."""
    found = []
    for batch in batches:
        origins = batch.origins()
        for response in responses(batch.warc):
            row = origins[response.offset]
            found.append((row.file, row.offset, replace(response, offset=row.offset)))
    return found


def test_what_is_fetched_is_what_reading_the_whole_crawl_gives(crawl: Crawl, server: MirrorServer, tmp_path: Path) -> None:
    batches = list(fetch(crawl.plan.batches(20), server.address, tmp_path, quick()))
    assert [batch.planned for batch in batches] == [20, 20, 8] and results(batches) == {FETCHED: 48}
    assert [(file, offset) for file, offset, _ in fetched(batches)] == [(row.file, row.offset) for row in crawl.rows()]
    wanted_at = {(row.file, row.offset) for row in crawl.rows()}
    whole = {
        (name, response.offset): response
        for path in crawl.root.rglob("*.warc.gz")
        for response in responses(path)
        if ((name := path.relative_to(crawl.root).as_posix()), response.offset) in wanted_at
    }
    assert {(file, offset): response for file, offset, response in fetched(batches)} == whole
    assert all(response.claim is not None for response in whole.values()), "the metadata records came with their pages"
    received = tally(batches)["bytes"]
    assert crawl.plan.bytes < received <= 1.1 * crawl.plan.bytes and received == server.sent


@pytest.mark.parametrize("seed", range(4))
def test_no_record_is_lost_or_had_twice_when_one_answer_in_seven_is_wrong(
    crawl: Crawl, server: MirrorServer, tmp_path: Path, seed: int
) -> None:
    server.fault = random_faults(0.15, seed)
    batches = list(fetch(crawl.plan.batches(20), server.address, tmp_path, quick(refused_tries=6)))
    assert results(batches) == {FETCHED: 48}
    assert [(file, offset) for file, offset, _ in fetched(batches)] == [(row.file, row.offset) for row in crawl.rows()]
    assert any(name.startswith(("failed_", "retry_")) for name in tally(batches)), "there were faults"


@pytest.mark.parametrize(
    ("fault", "reason", "tries"),
    [
        ("truncate", "short_body", 6),
        ("close", "short_body", 6),
        ("drop", "connection", 12),  # aiohttp itself asks once more after each
        ("503", "status_503", 6),
        ("429", "status_429", 6),
        ("500", "status_500", 6),
        ("403", "status_403", 2),
        ("404", "status_404", 2),
        ("416", "status_416", 2),
        ("elsewhere", "wrong_range", 6),
        ("no_content_range", "wrong_range", 6),
        ("whole", "range_ignored", 6),
        ("corrupt", "damaged_record", 2),
        ("stall", "timeout", 6),
    ],
)
def test_each_fault_is_tried_again_so_often_and_then_counted(
    crawl: Crawl, server: MirrorServer, tmp_path: Path, fault: str, reason: str, tries: int
) -> None:
    rows = crawl.rows()[5:8]
    bad = rows[1]
    server.fault = lambda file, start, nth: fault if (file, start) == (bad.file, bad.offset) else ""
    settings = quick(stall_timeout=0.06 if fault == "stall" else 5.0)
    (batch,) = fetch([rows], server.address, tmp_path / "always", settings)
    assert [outcome for _, outcome, _ in batch.rows()] == [FETCHED, reason, FETCHED]
    assert server.counts[bad.file, bad.offset] == tries
    assert set(batch.origins().values()) == {rows[0], rows[2]} and results([batch])[reason] == 1
    server.counts.clear()
    passing = server.fault
    server.fault = lambda file, start, nth: passing(file, start, nth) if nth == 0 else ""
    (batch,) = fetch([rows], server.address, tmp_path / "once", settings)
    assert results([batch]) == {FETCHED: 3} and server.counts[bad.file, bad.offset] == 2


def test_a_mirror_that_ignores_ranges_is_not_read_to_the_end(crawl: Crawl, server: MirrorServer, tmp_path: Path) -> None:
    server.fault = lambda file, start, nth: "whole"
    first, last = crawl.rows()[0], crawl.rows()[-1]
    (batch,) = fetch([[first, last]], server.address, tmp_path, quick(tries=3))
    assert [outcome for _, outcome, _ in batch.rows()] == [FETCHED, "range_ignored"], "little lies before the first record"
    assert batch.tally["range_ignored"] == 4 and batch.tally["bytes"] < first.stop + (1 << 17)


def test_a_mirror_that_sends_more_than_was_asked_for_is_read_to_there(
    crawl: Crawl, server: MirrorServer, tmp_path: Path
) -> None:
    server.fault = lambda file, start, nth: "more"
    assert results(list(fetch(crawl.plan.batches(), server.address, tmp_path, quick()))) == {FETCHED: 48}


def test_retry_after_and_the_rate_hold_for_all_requests(crawl: Crawl, server: MirrorServer, tmp_path: Path) -> None:
    server.retry_after = "1"
    server.fault = lambda file, start, nth: "503" if (start, nth) == (crawl.rows()[0].offset, 0) else ""
    rows = crawl.rows()[:10]
    settings = quick(requests_per_second=100, concurrency=1)
    (batch,) = fetch([rows], server.address, tmp_path, settings)
    times = [time for *_, time in server.asked]
    assert results([batch]) == {FETCHED: 10} and len(times) == 11
    assert times[1] - times[0] >= 0.95 and times[-1] - times[1] >= 0.08


def test_no_more_requests_at_a_time_than_allowed(crawl: Crawl, server: MirrorServer, tmp_path: Path) -> None:
    server.delay = 0.02
    list(fetch(crawl.plan.batches(), server.address, tmp_path, quick(concurrency=3)))
    assert 1 < server.most_at_once <= 3


def test_a_mirror_that_fails_all_the_time_ends_the_run_and_keeps_what_is_done(
    crawl: Crawl, server: MirrorServer, tmp_path: Path
) -> None:
    served = {(row.file, row.offset) for row in crawl.rows()[:8]}
    server.fault = lambda file, start, nth: "" if (file, start) in served else "403"
    done = []
    with pytest.raises(Unfinished, match="10 ranges in a row failed, the last with status_403"):
        for batch in fetch(crawl.plan.batches(8), server.address, tmp_path, quick(give_up_after=10, concurrency=4)):
            done.append(batch)
    assert len(server.asked) < 8 + 2 * 32 and results(done)[FETCHED] == 8
    server.asked.clear()
    server.fault = lambda file, start, nth: ""
    assert results(list(fetch(crawl.plan.batches(8), server.address, tmp_path, quick()))) == {FETCHED: 48}
    assert len(server.asked) == 40


def test_what_failed_is_asked_for_again_by_the_next_run_only(crawl: Crawl, server: MirrorServer, tmp_path: Path) -> None:
    bad = {row.offset for row in crawl.rows()[3:40:9]}
    server.fault = lambda file, start, nth: "404" if start in bad else ""
    first = list(fetch(crawl.plan.batches(16), server.address, tmp_path / "a", quick()))
    assert results(first)["status_404"] >= 5
    server.asked.clear()
    server.fault = lambda file, start, nth: ""
    again = list(fetch(crawl.plan.batches(16), server.address, tmp_path / "a", quick()))
    assert results(again) == {FETCHED: 48} and {start for _, start, *_ in server.asked} <= bad
    assert tally(again)["failed_status_404"] == tally(first)["failed_status_404"], "what it took is kept"
    at_once = list(fetch(crawl.plan.batches(16), server.address, tmp_path / "b", quick()))
    assert [batch.warc.read_bytes() for batch in again] == [batch.warc.read_bytes() for batch in at_once]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"url": "https://other.example/"}, "other_record"),
        ({"digest": "A" * 32}, "digest_mismatch"),
        ({"length": 20_000_000}, "too_large"),
        ({"file": "crawl-data/none.warc.gz"}, "status_404"),
    ],
)
def test_a_plan_that_is_wrong_about_a_record_costs_that_record(
    crawl: Crawl, server: MirrorServer, tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    rows = crawl.rows()[:3]
    wrong = replace(rows[1], **change)
    (batch,) = fetch([[rows[0], wrong, rows[2]]], server.address, tmp_path, quick())
    assert [(row, outcome) for row, outcome, _ in batch.rows()] == [(rows[0], FETCHED), (wrong, reason), (rows[2], FETCHED)]
    results([batch])


@pytest.mark.parametrize("shift", [(1, 0), (0, 7), (0, -7), (-300, 0)])
def test_a_range_beside_its_record_is_no_record(crawl: Crawl, tmp_path: Path, shift: tuple[int, int]) -> None:
    row = crawl.rows()[3]
    moved = replace(row, offset=row.offset + shift[0], length=row.length + shift[1])
    (batch,) = fetch([[moved]], str(crawl.root), tmp_path, quick())
    assert batch.fetched == 0 and set(batch.failed) <= {"other_record", "damaged_record"}


def test_without_a_digest_the_address_decides(crawl: Crawl, tmp_path: Path) -> None:
    rows = [replace(row, digest="") for row in crawl.rows()[:2]]
    (batch,) = fetch([rows], str(crawl.root), tmp_path, quick())
    assert results([batch]) == {FETCHED: 2}


def test_neighbours_come_in_one_request_and_are_judged_one_by_one(crawl: Crawl, server: MirrorServer, tmp_path: Path) -> None:
    source = str(crawl.root / "index.parquet")
    every = plan_rows([source], tmp_path / "every.parquet", Selection(languages=("tha", "eng", "deu", "lao", "fra", "spa")))
    rows = next(every.batches())[:6]
    server.fault = lambda file, start, nth: "corrupt" if (start, nth) == (rows[0].offset, 0) else ""
    (batch,) = fetch([rows], server.address, tmp_path / "out", quick())
    assert results([batch]) == {FETCHED: 6} and batch.tally["requests"] == 2, "one for all, one for the damaged one"
    assert all(response.claim for response in responses(batch.warc))


def test_done_batches_are_not_fetched_again_and_damaged_ones_are(crawl: Crawl, server: MirrorServer, tmp_path: Path) -> None:
    first = list(fetch(crawl.plan.batches(16), server.address, tmp_path, quick()))
    content = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    server.asked.clear()
    assert list(fetch(crawl.plan.batches(16), server.address, tmp_path, quick())) == first and not server.asked
    first[0].warc.write_bytes(content["000000.warc.gz"][:-1])
    first[1].outcomes.write_bytes(content["000001.parquet"][:-50])
    first[2].warc.unlink()
    assert results(list(fetch(crawl.plan.batches(16), server.address, tmp_path, quick()))) == {FETCHED: 48}
    assert len(server.asked) == 48 and {path.name: path.read_bytes() for path in tmp_path.iterdir()} == content
    with pytest.raises(CorruptInput, match=r"000000.parquet: holds the records of another plan"):
        list(fetch(crawl.plan.batches(10), server.address, tmp_path, quick()))


def test_a_run_that_was_killed_goes_on_where_it_was(crawl: Crawl, server: MirrorServer, tmp_path: Path) -> None:
    later = {(row.file, row.offset) for row in crawl.rows()[32:]}
    server.fault = lambda file, start, nth: "503" if (file, start) in later else ""
    code = f"""
from pathlib import Path
from sea_lion.data.fetch import fetch, Fetching
from sea_lion.data.plan import read_plan
from sea_lion.data.remote import Manners
plan, settings = read_plan(Path({str(crawl.plan.path)!r})), Fetching(manners=Manners(backoff=30))
for batch in fetch(plan.batches(8), {server.address!r}, Path({str(tmp_path)!r}), settings):
    print(batch.warc.name, flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert [process.stdout.readline().strip() for _ in range(2)] == ["000000.warc.gz", "000001.warc.gz"]
        os.kill(process.pid, signal.SIGKILL)
    (tmp_path / ".000002.warc.gz.part").write_bytes(b"half a batch")
    done = {path.name for path in tmp_path.glob("[0-9]*.parquet")}
    assert {"000000.parquet", "000001.parquet"} <= done and len(done) <= 4
    server.fault = lambda file, start, nth: ""
    server.asked.clear()
    assert results(list(fetch(crawl.plan.batches(8), server.address, tmp_path, quick()))) == {FETCHED: 48}
    in_done = {(row.file, row.offset) for row in crawl.rows()[:16]}
    assert len(server.asked) == 48 - 8 * len(done) and not in_done & {(file, start) for file, start, *_ in server.asked}
    assert not list(tmp_path.glob("*.part"))


def test_stopping_early_stops_the_requests(crawl: Crawl, server: MirrorServer, tmp_path: Path) -> None:
    server.delay = 0.02
    batches = fetch(crawl.plan.batches(4), server.address, tmp_path, quick(concurrency=1))
    assert next(batches).fetched == 4
    batches.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name == "fetch"]
    asked = len(server.asked)
    assert asked < 48
    server.closing.wait(0.1)
    assert len(server.asked) <= asked + 1


def test_the_last_record_of_a_file_has_nothing_behind_it(crawl: Crawl, server: MirrorServer, tmp_path: Path) -> None:
    path = next(crawl.root.rglob("*.warc.gz"))
    content, last = path.read_bytes(), list(responses(path))[-1]
    cut = path.with_name("cut.warc.gz")
    cut.write_bytes(content[: last.offset + last.length])
    row = replace(crawl.rows()[0], url=last.url, digest=last.digest, offset=last.offset, length=last.length)
    rows = [replace(row, file=file.relative_to(crawl.root).as_posix()) for file in (path, cut)]
    for mirror in (server.address, str(crawl.root)):
        (batch,) = fetch([rows], mirror, tmp_path / mirror[-4:], quick())
        whole, alone = responses(batch.warc)
        assert results([batch]) == {FETCHED: 2} and whole.claim is not None and alone.claim is None
        assert batch.tally["requests"] == 2
    cut.unlink()


def test_local_folders_are_mirrors(crawl: Crawl, tmp_path: Path) -> None:
    rows = crawl.rows()
    rows[0] = replace(rows[0], file="crawl-data/a.warc.gz")
    batches = list(fetch([rows], str(crawl.root), tmp_path / "out", quick()))
    assert results(batches) == {FETCHED: 47, "missing_file": 1}
    with pytest.raises(CorruptInput, match="no such folder"):
        list(fetch([rows], str(tmp_path / "none"), tmp_path / "out2"))
    with pytest.raises(SeaLionError, match="no mirror"):
        list(fetch([rows], "gopher://127.0.0.1/", tmp_path / "out3"))


def test_s3_is_a_mirror(crawl: Crawl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    s3fs = pytest.importorskip("s3fs")
    moto = pytest.importorskip("moto.server")
    s3 = moto.ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    s3.start()
    try:
        host, port = s3.get_host_and_port()
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        store = s3fs.S3FileSystem(skip_instance_cache=True)
        store.mkdir("crawls")
        for path in crawl.root.rglob("*.*"):
            store.pipe_file(f"crawls/mirror/{path.relative_to(crawl.root)}", path.read_bytes())
        s3fs.S3FileSystem.clear_instance_cache()
        plan = plan_rows(["s3://crawls/mirror/*.parquet"], tmp_path / "p.parquet", Selection(languages=("tha", "lao")))
        rows = next(plan.batches())
        rows.append(replace(rows[-1], file="crawl-data/z.warc.gz"))
        batches = list(fetch([rows], "s3://crawls/mirror", tmp_path / "out", quick()))
        assert results(batches) == {FETCHED: 24, "missing_file": 1}
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
        s3.stop()


def test_an_address_where_nobody_answers_ends() -> None:
    async def read(address: str) -> str:
        async with open_mirror(address, QUICK) as mirror:
            try:
                await mirror.read("x", 0, 10, Counter())
            except Trouble as trouble:
                return trouble.reason
        return ""

    assert asyncio.run(read("http://127.0.0.1:1")) == "connection"
    with pytest.raises(SeaLionError, match=r"\[nonsense: no mirror"):
        asyncio.run(read("http://[nonsense"))


@pytest.mark.parametrize("wrong", [{"tries": 0}, {"requests_per_second": 0}, {"backoff": -1}, {"stall_timeout": 0}])
def test_manners_that_cannot_be(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        replace(QUICK, **wrong)


def test_the_outcomes_are_a_table_to_plan_the_rest_with(crawl: Crawl, tmp_path: Path) -> None:
    rows = [replace(crawl.rows()[0], file="crawl-data/a.warc.gz"), crawl.rows()[1]]
    (batch,) = fetch([rows], str(crawl.root), tmp_path, quick())
    table = pq.read_table(batch.outcomes)
    rest = table.filter([outcome != FETCHED for outcome in table["outcome"].to_pylist()]).drop_columns(
        ["outcome", "local_offset", "local_length"]
    )
    pq.write_table(rest, tmp_path / "rest.parquet")
    assert read_plan(tmp_path / "rest.parquet").records == 1
