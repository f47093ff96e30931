"""The short form of the acceptance run (`crash_evaluation.py --kills 10`)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def test_a_killed_evaluation_ends_as_an_undisturbed_one() -> None:
    script = Path(__file__).with_name("crash_evaluation.py")
    done = subprocess.run([sys.executable, str(script), "--kills", "3"], stdout=subprocess.PIPE, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 0 and found["same"] and found["again"] == 0
    assert sum(found["per_run"]) >= found["batches"]
