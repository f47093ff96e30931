"""Index-first on a mirror of this machine: what is fetched beyond the wanted records, in how many requests, at what CPU cost.

Run: `python benchmarks/fetch.py [--captures N]`. One generated crawl of N captures of about 35 KB (Common Crawl's mean), one in
twenty wanted; the mirror is another process, so that the CPU seconds are the fetch's own: requests, inflating, digests, files.
Ways: the records alone; our defaults, which have the `metadata` record with each and never exceed 10 %; neighbours up to 64 KB
apart joined at any cost. Beside them, making the plan of an index of 1,000,000 rows. Prints a table and a JSON line.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CRAWL = "tests.data.crawl_server"
SEA = ("tha",)
ROWS = 1_000_000


def cpu() -> float:
    """CPU seconds of this process so far."""
    times = os.times()
    return times.user + times.system


def serve(root: Path) -> None:
    """Be the mirror until standard input ends."""
    with import_module(CRAWL).mirror_of(root) as server:
        print(server.address, flush=True)
        sys.stdin.read()


def fetch_way(name: str, settings: Any, plan: Any, address: str, folder: Path) -> dict[str, Any]:
    """Fetch the plan in one way."""
    from sea_lion.data.fetch import fetch
    from sea_lion.data.warc import responses

    start, wall = cpu(), time.perf_counter()
    batches = list(fetch(plan.batches(), address, folder / name, settings))
    seconds, wall = cpu() - start, time.perf_counter() - wall
    tally = sum((Counter(batch.tally) for batch in batches), Counter())
    fetched = sum(batch.fetched for batch in batches)
    assert fetched == plan.records, "every record was to be had"
    noted = sum(response.claim is not None for batch in batches for response in responses(batch.warc))
    return {
        "way": name,
        "records": fetched,
        "requests": tally["requests"],
        "ratio": tally["bytes"] / plan.bytes,
        "with_metadata": noted / fetched,
        "cpu_ms_per_record": 1000 * seconds / fetched,
        "records_per_second": fetched / wall,
    }


def plan_cost(folder: Path) -> dict[str, Any]:
    """Make the plan of an index of `ROWS` rows like Common Crawl's, under 200 MB; then read and check it."""
    import duckdb

    from sea_lion.data.plan import Selection, plan_rows, read_plan

    index = folder / "large.parquet"
    duckdb.execute(
        f"""COPY (
            SELECT concat('https://host', hash(i) % 90000, '.example/', i) AS url, 200::SMALLINT AS fetch_status,
                translate(upper(md5(i::VARCHAR)), '0189', 'GHIJ') AS content_digest, 'text/html' AS content_mime_detected,
                CASE hash(i + 1) % 20 WHEN 0 THEN 'tha,eng' ELSE 'eng' END AS content_languages,
                concat('crawl-data/CC-MAIN-2024-18/segments/1/warc/', lpad((hash(i) % 900)::VARCHAR, 5, '0'), '.warc.gz')
                    AS warc_filename,
                i * 35000 AS warc_record_offset, 30000 AS warc_record_length FROM range({ROWS}) AS t(i)
        ) TO '{index}' (FORMAT parquet)"""
    )
    start, wall = cpu(), time.perf_counter()
    plan = plan_rows([str(index)], folder / "large.plan.parquet", Selection(languages=SEA, once=True), memory_limit="200MB")
    made, begun = cpu() - start, cpu()
    wall = time.perf_counter() - wall
    assert read_plan(plan.path) == plan
    return {
        "rows": ROWS,
        "planned": plan.records,
        "bytes_per_planned": plan.path.stat().st_size / plan.records,
        "make_cpu_s": made,
        "make_wall_s": wall,
        "read_cpu_s": cpu() - begun,
    }


def measure(captures: int, folder: Path) -> dict[str, Any]:
    """All figures."""
    from sea_lion.data.fetch import Fetching
    from sea_lion.data.plan import Selection, plan_rows
    from sea_lion.data.remote import Manners

    index = import_module(CRAWL).make_crawl(
        folder / "mirror", files=max(1, captures // 1000), captures=min(captures, 1000), thai=0.05
    )
    plan = plan_rows([str(index)], folder / "plan.parquet", Selection(languages=SEA))
    manners = Manners(requests_per_second=5000)
    ways = {
        "alone": Fetching(gap=0, tail=0, manners=manners),
        "defaults": Fetching(manners=manners),
        "gap 64 KB": Fetching(gap=64 << 10, overhead=math.inf, manners=manners),
    }
    command = [sys.executable, __file__, "--serve", str(folder / "mirror")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as mirror:
        assert mirror.stdout is not None and mirror.stdin is not None
        address = mirror.stdout.readline().strip()
        fetch_way("warm", ways["alone"], plan, address, folder)
        rows = [fetch_way(name, settings, plan, address, folder) for name, settings in ways.items()]
        mirror.stdin.close()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    return {"captures": captures, "planned_bytes": plan.bytes, "peak_mb": peak, "ways": rows, "plan": plan_cost(folder)}


FORMATS: dict[str, Callable[[Any], str]] = {
    "way": str, "records": str, "requests": str, "ratio": "{:.3f}".format, "with_metadata": "{:.0%}".format,
    "cpu_ms_per_record": "{:.2f}".format, "records_per_second": "{:.0f}".format,
}  # fmt: skip


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--captures", type=int, default=6000)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    if options.serve:
        serve(options.serve)
        return
    with tempfile.TemporaryDirectory() as folder:
        found = measure(options.captures, Path(folder))
    print("| way | records | requests | fetched / wanted | with metadata | CPU ms a record | records a second |")
    print("|---|---|---|---|---|---|---|")
    for row in found["ways"]:
        print("| " + " | ".join(show(row[key]) for key, show in FORMATS.items()) + " |")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
