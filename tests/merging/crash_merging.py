"""Kill `sea-lion merge` with SIGKILL at random moments, run it again each time, compare with an undisturbed one; fill its disk.

    python tests/merging/crash_merging.py --kills 10 --seed 1

Three synthetic models (of 40 MB at the default width) are merged into several files, with random pruning. A third of the kills
comes while a file is being written, a third when a further one has just become whole, a third at any moment from the start to
the end; where an artifact is made before all kills are spent, the next one follows. After each kill an artifact must be whole
or absent. Then the disk is full, in a small file system of memory of its own where the system lets us mount one (else
`posix_fallocate` fails as on a full disk): before the first byte, and when room for the weights has been taken and nothing more
goes. All work is done in children, which the parent forks once it has imported what they need. Prints one JSON line; exit code
1 when a file differs, when anything is left behind, or when a full disk is not told in one line. `test_crash` runs the short
form.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import mergekit.merge  # noqa: F401  # or every child would import it
import torch

from sea_lion import cli
from sea_lion.catalog.files import SCRATCH
from sea_lion.catalog.records import ArtifactRef
from sea_lion.catalog.store import RECORD, WORK, Store, verify_files
from sea_lion.merging import merge

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from merging_models import Size, make_models  # type: ignore[import-not-found, unused-ignore]

FILES = 6
"""Of the result, about."""
KINDS = ("in a file", "after a file", "anywhere")
PATIENCE = 120.0
"""Seconds that an attempt may take."""
NEW_MOUNTS, NEW_USERS = 0x00020000, 0x10000000
PRIVATE, RECURSIVE, REMOUNT = 1 << 18, 1 << 14, 1 << 5
"""Flags of unshare(2) and mount(2)."""


@dataclass
class Attempts:
    """Merges in one catalog, and what came of them."""

    root: Path
    """The catalog, with the models in it."""
    draw: random.Random
    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    started: float = 0.0
    """Seconds from the start of an attempt to its first file, measured on the undisturbed one."""
    merged: float = 0.0
    """Seconds from there to its end."""

    @property
    def kills(self) -> int:
        """So many so far."""
        return sum(count for key, count in self.counts.items() if key.startswith("killed "))

    def undisturbed(self, name: str) -> dict[str, str]:
        """Merge without a kill; returns the digests of the artifact's files."""
        start = time.monotonic()
        child = start_child(partial(self._merge, name))
        while not self._files(whole=False) and not is_over(child):
            time.sleep(0.001)
        begun = time.monotonic()
        finish(child)
        self.started, self.merged = begun - start, time.monotonic() - begun
        return self.digests(name)

    def killed(self, name: str, kills: int) -> dict[str, str]:
        """Merge with at most so many kills; returns the digests of the artifact's files."""
        for _ in range(kills):
            child = start_child(partial(self._merge, name))
            kind = KINDS[self.kills % len(KINDS)]
            if self._wait(child, kind):
                os.kill(child, signal.SIGKILL)
                self.counts[f"killed {kind}"] += 1
                self.counts["files torn"] += len(self._files(whole=False))
                self.counts["files to go on from"] += len(self._files(whole=True))
            finish(child, may_be_killed=True)
            if self._is_whole(name):
                break
        if not self._is_whole(name):
            finish(start_child(partial(self._merge, name)))
        return self.digests(name)

    def _wait(self, child: int, kind: str) -> bool:
        """Wait for the moment of a kill; returns whether it came before the end."""
        before, until = len(self._files(whole=True)), time.monotonic() + PATIENCE
        if kind == "anywhere":
            time.sleep(self.draw.uniform(0, self.started + self.merged))
            return not is_over(child)
        while time.monotonic() < until and not is_over(child):
            if kind == "in a file" and self._files(whole=False):
                time.sleep(self.draw.uniform(0, self.merged / 2))
                return not is_over(child)
            if kind == "after a file" and len(self._files(whole=True)) > before:
                return True
            time.sleep(0.0005)
        return False

    def _files(self, whole: bool) -> list[Path]:
        """The files of weights that are whole, or being written, in the work folder."""
        return list((self.root / WORK).glob(f"*/{'' if whole else SCRATCH + '/**/'}model*.safetensors"))

    def _merge(self, name: str) -> int:
        return command(self.root, name)

    def _is_whole(self, name: str) -> bool:
        """Whether there is an artifact; one that is there must be whole."""
        store, ref = Store(self.root), ArtifactRef(name=name, version="1")
        artifact = store.get(ref)
        if artifact is not None:
            verify_files(store.folder(ref), artifact)
        elif store.path(ref).exists():
            self.wrong.append(f"{ref}: a folder without a record")
        return artifact is not None

    def digests(self, name: str) -> dict[str, str]:
        """File to sha256 of an artifact, the record left out: it tells the time."""
        folder = Store(self.root).path(ArtifactRef(name=name, version="1"))
        return {
            path.relative_to(folder).as_posix(): sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.name != RECORD
        }


def command(root: Path, name: str) -> int:
    """`sea-lion merge`; returns its exit code."""
    module: Any = merge
    module.SHARD_BYTES = weight_bytes(root) // FILES
    torch.set_num_threads(1)
    return cli.main(["merge", str(root / f"{name.replace('/', '-')}.toml"), "--catalog", str(root)])


def weight_bytes(root: Path) -> int:
    """Of the base in a catalog."""
    return sum(path.stat().st_size for path in root.glob("checkpoint/base/*/*.safetensors"))


def write_recipe(root: Path, name: str, base: str, *parents: str) -> None:
    """A merge whose result depends on random numbers."""
    lines = ['kind = "merge"', f'name = "{name}"', 'version = "1"', 'method = "dare_ties"', f'base = "{base}"', "seed = 7"]
    for parent in parents:
        lines += ["[[parents]]", f'model = "{parent}"', "density = 0.6"]
    (root / f"{name.replace('/', '-')}.toml").write_text("\n".join(lines), "utf-8")


def start_child(work: Callable[[], int], says: Path | None = None) -> int:
    """Work in a child; what it says goes to a file, or nowhere. Returns its process number."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        with (says or Path(os.devnull)).open("wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            code = work()
            sys.stdout.flush()
            sys.stderr.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def is_over(child: int) -> bool:
    """Whether a child has ended; it is still to be finished."""
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def finish(child: int, may_be_killed: bool = False) -> int:
    """Wait for a child's end; returns its exit code, which must be 0, or minus the signal that ended it."""
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code != 0 and not (may_be_killed and code == -signal.SIGKILL):
        raise SystemExit(f"an attempt that nothing disturbed ended with {code}")
    return code


def debris(root: Path) -> list[str]:
    """What interrupted merges have left in a catalog."""
    left = list((root / WORK).rglob("*"))
    left += [path for path in root.rglob("*") if path.name.endswith((".partial", ".old")) or path.name == SCRATCH]
    return sorted({path.relative_to(root).as_posix() for path in left})


def full_disk(root: Path, name: str, place: Path) -> int:
    """Merge on a disk that is full, then on one that is not any more; `place` is an empty folder.

    Writes to `found.json` there what came of it. Runs in a process of its own, with whose end the file system is gone.
    """
    weights, enough = weight_bytes(root), 8 * weight_bytes(root) + (1 << 26)
    rows = []
    for number, spare in enumerate((weights // 2, weights + (1 << 16))):
        here, says = place / str(number), place / f"{number}.txt"
        here.mkdir()
        is_mounted = mount(here, enough)
        catalog = here / "catalog"
        shutil.copytree(root, catalog)
        if is_mounted:
            used = os.statvfs(here)
            mount(here, (used.f_blocks - used.f_bfree) * used.f_frsize + spare, REMOUNT)
        attempts = Attempts(root=catalog, draw=random.Random(0))
        code = os.waitstatus_to_exitcode(
            os.waitpid(start_child(partial(command if is_mounted else without_space, catalog, name), says), 0)[1]
        )
        said = [line for line in says.read_text("utf-8").splitlines() if "%|" not in line]
        half_made = ["artifact"] * attempts._is_whole(name) + [str(path) for path in attempts._files(whole=False)]
        if is_mounted:
            mount(here, enough, REMOUNT)
        finish(start_child(partial(command, catalog, name)))
        row = {"code": code, "said": said, "half_made": half_made, "debris": debris(catalog), "digests": attempts.digests(name)}
        rows.append(row | {"is_mounted": is_mounted})
    (place / "found.json").write_text(json.dumps(rows), "utf-8")
    return 0


def without_space(root: Path, name: str) -> int:
    """`command` where nothing can be allocated."""

    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    os.posix_fallocate = full
    return command(root, name)


def mount(folder: Path, size: int, flags: int = 0) -> bool:
    """Let a folder be a file system in memory with so many bytes, which this process and its children see; whether it is."""
    system = ctypes.CDLL(None, use_errno=True)
    if not flags and folder.name == "0":
        if system.unshare(NEW_MOUNTS) and system.unshare(NEW_MOUNTS | NEW_USERS):
            return False
        system.mount(b"none", b"/", None, PRIVATE | RECURSIVE, None)
    return not system.mount(b"tmpfs", str(folder).encode(), b"tmpfs", flags, f"size={size}".encode())


def problems(rows: list[dict[str, Any]], expected: dict[str, str]) -> list[str]:
    """What is wrong with merges on a full disk."""
    found = []
    for number, row in enumerate(rows):
        where = f"full disk {number}"
        if row["code"] != 2 or sum("no space left" in line for line in row["said"]) != 1 or "Traceback" in str(row["said"]):
            found.append(f"{where}: exit code {row['code']}, said {row['said']}")
        found += [f"{where}: left {path}" for path in row["half_made"] + row["debris"]]
        found += differing(f"{where}, run again", expected, row["digests"])
    return found


def differing(what: str, expected: dict[str, str], found: dict[str, str]) -> list[str]:
    """The files of two artifacts that are not the same."""
    files = sorted(expected.keys() | found.keys())
    return [f"{what}: {file} differs" for file in files if expected.get(file) != found.get(file)]


def under_fire(root: Path, place: Path, width: int, kills: int, seed: int) -> tuple[Attempts, list[dict[str, Any]]]:
    """Merge with so many kills, then on a full disk; returns what happened."""
    names = ["checkpoint/calm", *(f"checkpoint/under-fire-{number}" for number in range(1, 3 * kills + 1))]
    shape = {"hidden": width, "intermediate": 3 * width, "layers": 6, "heads": 8, "key_value_heads": 4}
    size = Size(vocabulary=4096, shard_bytes=1 << 30, **shape)
    finish(start_child(lambda: len(make_models(Store(root), size, 2)) - 3))
    for name in names:
        write_recipe(root, name, "checkpoint/base@1", "checkpoint/parent-1@1", "checkpoint/parent-2@1")
    before = shutil.copytree(root, place / "before")
    attempts = Attempts(root=root, draw=random.Random(seed))
    expected = attempts.undisturbed(names[0])
    if not any(file.endswith(".safetensors") for file in expected):
        attempts.wrong.append(f"{names[0]}: has no weights")
    for name in names[1:]:
        left = kills - attempts.kills
        if left:
            attempts.counts["artifacts"] += 1
            attempts.wrong += differing(name, expected, attempts.killed(name, left))
    attempts.wrong += [f"left {path}" for path in debris(root)]
    full = place / "full"
    full.mkdir()
    finish(start_child(partial(full_disk, before, names[0], full), place / "full.txt"))
    rows = json.loads((full / "found.json").read_text("utf-8"))
    attempts.wrong += problems(rows, expected)
    return attempts, rows


def main() -> int:
    """Run all; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--width", type=int, default=512, help="hidden size of the models")
    given = parser.parse_args()
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="crash-merging-") as scratch:
        root = Path(scratch, "catalog")
        root.mkdir()
        attempts, rows = under_fire(root, Path(scratch), given.width, given.kills, given.seed)
    found: dict[str, Any] = {"seconds": round(time.monotonic() - start), **attempts.counts}
    full = {"mounted": [row["is_mounted"] for row in rows], "said": [row["said"] for row in rows]}
    found |= {"started": round(attempts.started, 2), "merged": round(attempts.merged, 2)}
    found |= {"full_disk": full, "wrong": attempts.wrong}
    sys.stdout.write(json.dumps(found) + "\n")
    return 1 if attempts.wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
