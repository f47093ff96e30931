"""Where, when and with what an artifact was made. Evidence for people; never part of an identity."""

from __future__ import annotations

import platform
import resource
import subprocess
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from .records import Provenance

PACKAGES = (
    "sea-lion-platform", "datatrove", "trafilatura", "warcio", "fasttext-predict", "torch", "transformers", "tokenizers",
    "accelerate", "mergekit", "lm_eval", "duckdb", "pyarrow",
)  # fmt: skip
"""Packages whose version can change a result."""


def provenance(seconds: float) -> Provenance:
    """The provenance of what has just been made, `seconds` being the wall time it took."""
    return Provenance(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(seconds, 3),
        peak_memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        commit=_commit(),
        python=platform.python_version(),
        packages=_versions(),
    )


@cache
def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


@cache
def _commit() -> str:
    """The checkout's commit, `unknown` for an installed wheel."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return "unknown"
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return commit + ("+dirty" if _git(root, "status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(root: Path, *arguments: str) -> str:
    run = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True)
    return run.stdout.strip()
