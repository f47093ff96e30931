"""Kill the demo with SIGKILL at random moments, rerun it each time, and compare the final catalog with an undisturbed run's.

    python tests/kill_demo.py --kills 10 --seed 1 --folder tiny

Prints one line per kill and exits 1 when any artifact, fingerprint, file digest or token count differs. Takes about three times
as long as the demo. It is a script and not a test: `make test` has the same check on a folder that takes seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import runpy
import signal
import tempfile
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from sea_lion.catalog import index
from sea_lion.catalog.fingerprint import plain
from sea_lion.catalog.store import Store

FORKED: Any = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("forked.py"))))
COUNTS = "SELECT corpus, tokenizer, language, source, split, documents, bytes, tokens FROM tokens ORDER BY ALL"


def start(folder: str, catalog: Path) -> BaseProcess:
    """A demo in a session of its own, so that a kill takes its workers too; what it says goes beside the catalog."""
    says = catalog.with_name(f"{catalog.name}-says")
    says.mkdir(parents=True, exist_ok=True)
    process: BaseProcess = FORKED.started("sea_lion.cli", "run", folder, "--catalog", str(catalog), says=says)
    return process


def finished(folder: str, catalog: Path) -> float:
    """Let a run end by itself; returns its seconds."""
    begin = time.perf_counter()
    process = start(folder, catalog)
    process.join()
    if process.exitcode != 0:
        said = (catalog.with_name(f"{catalog.name}-says") / "stderr").read_text("utf-8", "replace")
        raise SystemExit(f"the run into {catalog} failed (exit code {process.exitcode}):\n{said[-2000:]}")
    return time.perf_counter() - begin


TIMES = ("log.jsonl", "training_pace.parquet")
"""Files that tell how fast a run was."""


def timeless(body: Any) -> Any:
    """A body without the digests of other artifacts' records, which tell when each was made."""
    if isinstance(body, dict):
        return {key: timeless(value) for key, value in body.items() if key != "record_sha256"}
    return [timeless(value) for value in body] if isinstance(body, (list, tuple)) else body


def content(catalog: Path) -> dict[str, object]:
    """What must be the same: artifacts, fingerprints, bodies, file digests and token counts."""
    store = Store(catalog)
    artifacts = {
        str(artifact.ref): [
            artifact.fingerprint,
            timeless(plain(artifact.body)),
            plain([file for file in artifact.files if file.path not in TIMES]),
        ]
        for artifact in store.all()
    }
    return {"artifacts": artifacts, "tokens": index.query(store, COUNTS)[1], "stages": store.stages()}


def killed_at_random(folder: str, catalog: Path, kills: int, longest: float, rng: random.Random) -> None:
    """Start the run again and again, killing it after a random time, until it has been killed `kills` times."""
    for number in range(1, kills + 1):
        process, lifetime = start(folder, catalog), rng.uniform(1.0, longest)
        process.join(lifetime)
        if process.exitcode is not None:
            print(f"kill {number}: the run had ended before {lifetime:.1f} s (exit code {process.exitcode})", flush=True)
            continue
        os.killpg(process.pid or 0, signal.SIGKILL)
        process.join()
        done = len(list(catalog.glob("**/artifact.json")))
        print(f"kill {number}: after {lifetime:.1f} s, {done} artifacts on record", flush=True)


def differences(calm: dict[str, object], killed: dict[str, object]) -> list[str]:
    """Names of what differs."""
    lines = [key for key in calm if key != "artifacts" and calm[key] != killed[key]]
    one, two = calm["artifacts"], killed["artifacts"]
    assert isinstance(one, dict) and isinstance(two, dict)
    return lines + [ref for ref in sorted(one.keys() | two.keys()) if one.get(ref) != two.get(ref)]


def main() -> int:
    """Run the comparison; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", default="tiny", help="recipes to run")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--longest", type=float, help="longest life of a killed run, seconds (default: a fifth of a whole run)")
    parser.add_argument("--undisturbed", type=Path, help="a finished catalog to compare with, instead of making one")
    arguments = parser.parse_args()
    FORKED.preload()
    with tempfile.TemporaryDirectory() as scratch:
        calm, killed = arguments.undisturbed or Path(scratch, "calm"), Path(scratch, "killed")
        seconds = finished(arguments.folder, calm)
        longest = arguments.longest or max(seconds / 5, 15.0)
        killed_at_random(arguments.folder, killed, arguments.kills, longest, random.Random(arguments.seed))
        finished(arguments.folder, killed)
        different = differences(content(calm), content(killed))
        total = len(content(calm)["artifacts"])  # type: ignore[arg-type]
    print(json.dumps({"kills": arguments.kills, "artifacts": total, "different": different}))
    return 1 if different else 0


if __name__ == "__main__":
    raise SystemExit(main())
