"""The benchmark of merges at its smallest size: mergekit's result and ours are the same bits, and the line can be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def test_the_benchmark_runs_and_finds_no_bit_that_differs(forked: Any, tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "benchmarks" / "merging.py"
    ways = ["--ways", "copy", "mergekit", "ours", "verb"]
    given = ["--size", "small", "--methods", "linear", "--repeats", "1", "--in-process", "--scratch", str(tmp_path / "scratch")]
    codes = forked.exit_codes([forked.started(script, *given, *ways, says=tmp_path)], 300)
    assert codes == [0], (tmp_path / "stderr").read_text()[-3000:]
    rows = json.loads((tmp_path / "stdout").read_text().splitlines()[-1])["results"][0]["rows"]
    assert {way: row["differing"] for way, row in rows.items() if "differing" in row} == {"ours": 0, "verb": 0}
    assert all(row["wall_s"] > 0 and row["gb_per_s"] > 0 for row in rows.values())
