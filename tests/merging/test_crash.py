"""The short form of the acceptance run (`crash_merging.py --kills 10`)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def test_a_killed_merge_ends_as_an_undisturbed_one(forked: Any, tmp_path: Path) -> None:
    script = Path(__file__).with_name("crash_merging.py")
    codes = forked.exit_codes([forked.started(script, "--kills", "3", "--width", "128", says=tmp_path)], 300)
    assert codes == [0], (tmp_path / "stdout").read_text()[-3000:] + (tmp_path / "stderr").read_text()[-3000:]
    found = json.loads((tmp_path / "stdout").read_text().splitlines()[-1])
    assert found["wrong"] == []
    assert sum(count for key, count in found.items() if key.startswith("killed ")) == 3
    assert all("no space left on the device" in said[-1] for said in found["full_disk"]["said"])
