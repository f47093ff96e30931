"""The short form of the acceptance run (`crash_evaluation.py --kills 10`)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def test_a_killed_evaluation_ends_as_an_undisturbed_one(forked: Any, tmp_path: Path) -> None:
    script = Path(__file__).with_name("crash_evaluation.py")
    codes = forked.exit_codes([forked.started(script, "--kills", "3", says=tmp_path)], 300)
    assert codes == [0], (tmp_path / "stderr").read_text()[-3000:]
    found = json.loads((tmp_path / "stdout").read_text().splitlines()[-1])
    assert found["same"] and found["again"] == 0
    assert sum(found["per_run"]) >= found["batches"]
