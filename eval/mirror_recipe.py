"""The recipe of a benchmark's offline mirror.

A mirror is an artifact like a corpus: named, versioned, its files digested. Refused is reading a benchmark from wherever it was
downloaded to: a score could then not say what was asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..catalog.recipes import Files, Recipe
from ..catalog.records import Mirror as Mirror
from ..catalog.records import MirrorFile as MirrorFile

Benchmark = Literal["sea-helm", "leaderboard"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorRecipe(Recipe):
    """A benchmark's files, from a checkout or a folder of downloads."""

    kind: Literal["mirror"]
    benchmark: Benchmark
    """What is mirrored."""
    profile: str
    """Which release of it."""
    files: Files
    """The files to take; others of the benchmark are listed as missing."""

    def __post_init__(self) -> None:
        super(MirrorRecipe, self).__post_init__()
        if not self.files:
            raise ValueError("files must name the benchmark's files")
