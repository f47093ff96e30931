"""Wall time and peak memory of the demo: a first run into an empty catalog and a second that finds everything made.

Memory is the resident memory of the whole process tree, sampled ten times a second. The claim it stands behind: at most four
minutes and 3 GB on two cores, and at most ten seconds for the second run.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil

from sea_lion.catalog import index
from sea_lion.catalog.store import Store
from sea_lion.catalog.tables import render

BY_VERB = """SELECT kind, count(*) AS artifacts, round(sum(seconds), 1) AS seconds, max(peak_memory_bytes) // 1000000 AS peak_mb
    FROM artifacts GROUP BY kind ORDER BY seconds DESC"""


def measured(command: list[str]) -> tuple[float, int]:
    """Seconds and peak bytes of a command and its children; raises SystemExit when it fails."""
    begin, peak = time.perf_counter(), 0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    tree = psutil.Process(process.pid)
    while process.poll() is None:
        with suppress(psutil.NoSuchProcess):
            peak = max(peak, sum(member.memory_info().rss for member in [tree, *tree.children(recursive=True)]))
        time.sleep(0.1)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} exited {process.returncode}")
    return time.perf_counter() - begin, peak


def main() -> None:
    """Run the demo twice and print what it took."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", default="tiny", help="recipes to run")
    folder = parser.parse_args().folder
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "sea_lion", "run", folder, "--catalog", str(Path(scratch, "artifacts"))]
        (first, peak), (second, second_peak) = measured(command), measured(command)
        columns, rows = index.query(Store(Path(scratch, "artifacts")), BY_VERB)
        print(render(columns, rows, "table"))
    result = {
        "benchmark": "demo",
        "first": {"seconds": round(first, 1), "peak_mb": peak // 1_000_000},
        "second": {"seconds": round(second, 1), "peak_mb": second_peak // 1_000_000},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
