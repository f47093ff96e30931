"""Mirrors made: a benchmark's own files, checked and copied into the catalog."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ..catalog.errors import CorruptInput
from ..catalog.store import Job, Made
from .mirror_recipe import Benchmark, Mirror, MirrorFile, MirrorRecipe

PROFILES: dict[Benchmark, str] = {"sea-helm": "sea_helm_2025", "leaderboard": "leaderboard"}
"""The profile that a mirror is made of unless another is named."""


def mirror_files_of(benchmark: Benchmark, profile: str, source: Path) -> tuple[str, ...]:
    """The files of a folder, relative to it, that belong to a mirror; raises CorruptInput where there is none."""
    if not source.is_dir():
        raise CorruptInput(source, "", "no such folder")
    if benchmark == "sea-helm":
        from .sea_helm.mirror import source_files

        return source_files(source, profile)
    found = tuple(sorted(path.relative_to(source).as_posix() for path in _leaderboard_files(source)))
    if not found:
        raise CorruptInput(source, "", "holds none of the leaderboard's data sets, neither as org/name nor as the hub's cache")
    return found


def make_mirror(job: Job[MirrorRecipe]) -> Made:
    """Check the recipe's files and copy them; raises CorruptInput for one that is not as the benchmark published it."""
    recipe, files = job.recipe, job.files["files"]
    if recipe.benchmark == "sea-helm":
        from .sea_helm.mirror import write_mirror

        body = write_mirror(files, job.folder, recipe.profile)
    else:
        body = _leaderboard(recipe, files, job.folder)
    return Made(body=body, licences=tuple(sorted({file.licence for file in body.files if file.licence})))


def _leaderboard(recipe: MirrorRecipe, files: Sequence[Path], target: Path) -> Mirror:
    from .leaderboard.mirror import mirror_files

    made = mirror_files(_source_of(files), target)
    return Mirror(
        benchmark=recipe.benchmark,
        profile=recipe.profile,
        revision="",
        files=tuple(
            MirrorFile(path=file.path, sha256=file.sha256, bytes=file.bytes, rows=file.rows, licence="") for file in made.files
        ),
        missing=made.missing,
    )


def _names() -> list[str]:
    """How a data set's folder is called in a folder of downloads and in the hub's cache."""
    from .leaderboard.definition import datasets_needed

    datasets = [dataset for dataset, _ in datasets_needed()]
    cached = [f"datasets--{dataset.replace('/', '--')}" for dataset in datasets]
    return [*datasets, *cached, *(f"hub/{name}" for name in cached), "nltk_data/tokenizers"]


def _leaderboard_files(source: Path) -> Iterator[Path]:
    for name in _names():
        for path in (source / name).rglob("*"):
            if path.is_file() and path.stat().st_size and "blobs" not in path.relative_to(source).parts:
                yield path


def _source_of(files: Sequence[Path]) -> Path:
    """The folder of downloads that the files lie in: a recipe names files, and they may all be of one data set."""
    for file in files:
        for name in _names():
            before, found, _ = file.as_posix().partition(f"/{name}/")
            if found:
                return Path(before.removesuffix("/hub") if name.startswith("datasets--") else before)
    raise CorruptInput(files[0], "", "is no file of the leaderboard's data sets")
