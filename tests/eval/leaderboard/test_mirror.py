"""Mirrors: what is copied from which layout, what is missing, and files that are not what they were."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import pytest
from datasets import load_dataset

from sea_lion.catalog.errors import CorruptInput
from sea_lion.catalog.fingerprint import file_digest
from sea_lion.eval.leaderboard.definition import families, sources
from sea_lion.eval.leaderboard.mirror import (
    MANIFEST,
    PUNKT,
    PUNKT_FILES,
    MirroredFiles,
    checked_bytes,
    mirror_files,
    open_mirror,
    split_table,
)

from .conftest import gpqa_rows, mmlu_pro_rows, write_csv

Mirrored = tuple[Path, MirroredFiles]


def test_a_mirror_holds_the_bytes_of_every_layout(downloads: Path, mirrored: Mirrored) -> None:
    folder, made = mirrored
    assert made.missing == ()
    assert {file.path: file.sha256 for file in made.files} == {
        file.path: file_digest(folder / file.path) for file in made.files
    }
    written = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert written == {file.path for file in made.files} | {MANIFEST}
    blob = downloads / "hub/datasets--Idavidrein--gpqa/blobs/gpqa_main"
    assert (folder / "Idavidrein/gpqa/gpqa_main.csv").read_bytes() == blob.read_bytes()
    rows = {file.path: file.rows for file in made.files}
    assert rows["Idavidrein/gpqa/gpqa_main.csv"] == 4 and rows["TAUR-Lab/MuSR/team_allocation.csv"] == 4
    assert rows["wis-k/instruction-following-eval/ifeval_input_data.jsonl"] == 3 and rows[PUNKT_FILES[0]] == 0
    assert made.files[0].bytes == (folder / made.files[0].path).stat().st_size


def test_the_mirror_serves_every_split_that_lm_evals_tasks_ask_for(mirrored: Mirrored) -> None:
    mirror = open_mirror(mirrored[0])
    assert len(sources()) == 39 and set(mirror.splits) == set(sources())
    for task, source in sources().items():
        for split in source.splits:
            assert set(source.family.columns) <= set(split_table(mirror, task, split).column_names)
    two_files = split_table(mirror, "leaderboard_mmlu_pro", "test").to_pylist()
    assert [row["question"] for row in two_files] == [row["question"] for row in mmlu_pro_rows(6)]


def test_the_hubs_own_library_reads_the_mirror(mirrored: Mirrored, tmp_path: Path) -> None:
    folder = mirrored[0] / "Idavidrein" / "gpqa"
    loaded = load_dataset(str(folder), "gpqa_main", cache_dir=str(tmp_path))
    assert loaded["train"]["Question"] == [row["Question"] for row in gpqa_rows(4)]


def test_chances_are_those_of_lm_evals_own_choices() -> None:
    fixed = {task: len(source.answers) for task, source in sources().items() if source.answers}
    assert len(fixed) == 24 + 3
    assert all(family.choices[task] == fixed[task] for family in families() for task in family.tasks if task in fixed)


def test_what_is_not_there_is_named_and_the_rest_is_served(downloads: Path, tmp_path: Path) -> None:
    shutil.copytree(downloads, tmp_path / "d", symlinks=True)
    shutil.rmtree(tmp_path / "d/hub")
    (tmp_path / "d/SaylorTwift/bbh/navigate/test-00000-of-00001.parquet").unlink()
    shutil.rmtree(tmp_path / "d" / PUNKT)
    made = mirror_files(tmp_path / "d", tmp_path / "m")
    names = [line.partition(":")[0] for line in made.missing]
    gpqa = [f"leaderboard_gpqa_{name}" for name in ("diamond", "extended", "main")]
    assert sorted(names) == sorted(["leaderboard_bbh_navigate", "leaderboard_ifeval", *gpqa])
    assert "has no Idavidrein/gpqa" in next(line for line in made.missing if "gpqa_main" in line)
    assert "configuration 'navigate' and split 'test'" in next(line for line in made.missing if "navigate" in line)
    assert "nltk.downloader" in next(line for line in made.missing if "ifeval" in line)
    assert open_mirror(tmp_path / "m").missing == made.missing
    shutil.rmtree(tmp_path / "m")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CorruptInput, match="holds none of the leaderboard's data sets"):
        mirror_files(tmp_path / "empty", tmp_path / "m")


def test_the_splitter_comes_out_of_nltks_archive_too(downloads: Path, tmp_path: Path) -> None:
    source = tmp_path / "d"
    shutil.copytree(downloads / "wis-k", source / "wis-k")
    (source / PUNKT).parent.mkdir(parents=True)
    with zipfile.ZipFile(source / f"{PUNKT}.zip", "w") as archive:
        for path in PUNKT_FILES:
            archive.write(downloads / path, path.removeprefix("nltk_data/tokenizers/"))
    made = mirror_files(source, tmp_path / "m")
    assert set(PUNKT_FILES) <= {file.path for file in made.files}
    assert (tmp_path / "m" / PUNKT_FILES[0]).read_bytes() == (downloads / PUNKT_FILES[0]).read_bytes()
    (source / f"{PUNKT}.zip").write_bytes(b"not an archive")
    with pytest.raises(CorruptInput, match="is not NLTK's archive of punkt_tab"):
        mirror_files(source, tmp_path / "m2")


def test_the_hubs_cache_with_several_snapshots_needs_a_branch(tmp_path: Path) -> None:
    cache = tmp_path / "datasets--Idavidrein--gpqa"
    for number, revision in enumerate(("aaa", "bbb")):
        for config in ("gpqa_diamond", "gpqa_main", "gpqa_extended"):
            write_csv(cache / "snapshots" / revision / f"{config}.csv", gpqa_rows(2 + number))
    with pytest.raises(CorruptInput, match="2 snapshots and no refs/main"):
        mirror_files(tmp_path, tmp_path / "m")
    (cache / "refs").mkdir()
    (cache / "refs/main").write_text("bbb\n", "utf-8")
    rows = {file.path: file.rows for file in mirror_files(tmp_path, tmp_path / "m").files}
    assert rows["Idavidrein/gpqa/gpqa_diamond.csv"] == 3


@pytest.mark.parametrize(
    ("name", "data", "problem"),
    [
        ("test-0.parquet", b"PAR1 and then nothing", "is not a parquet file that can be read"),
        ("test-0.parquet", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a pointer of Git LFS"),
        ("test.jsonl", b'{"input": "a", "target"', "is not a jsonl file that can be read"),
    ],
)
def test_a_download_that_cannot_be_read_is_refused(tmp_path: Path, name: str, data: bytes, problem: str) -> None:
    path = tmp_path / "SaylorTwift/bbh/navigate" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    with pytest.raises(CorruptInput, match=problem) as raised:
        mirror_files(tmp_path, tmp_path / "m")
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)


def test_one_altered_byte_is_told_with_both_digests(mirrored: Mirrored, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    shutil.copytree(mirrored[0], folder)
    path = "TAUR-Lab/MuSR/team_allocation.csv"
    before = file_digest(folder / path)
    data = bytearray((folder / path).read_bytes())
    data[-3] ^= 1
    (folder / path).write_bytes(data)
    with pytest.raises(CorruptInput) as raised:
        checked_bytes(open_mirror(folder), path)
    assert all(part in str(raised.value) for part in (path, before, file_digest(folder / path)))
    (folder / path).unlink()
    with pytest.raises(CorruptInput, match=r"team_allocation\.csv: cannot be read"):
        checked_bytes(open_mirror(folder), path)
    with pytest.raises(CorruptInput, match="is not among the mirror's files"):
        checked_bytes(open_mirror(folder), "other.csv")


def test_a_folder_that_is_no_mirror_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorruptInput, match=r"it has no mirror.json; make it with `sea-lion eval mirror leaderboard`"):
        open_mirror(tmp_path)
    for text in ("{", json.dumps({"files": [{"path": "a"}], "splits": {}, "missing": []}), "[]"):
        (tmp_path / MANIFEST).write_text(text, "utf-8")
        with pytest.raises(CorruptInput, match="is not the list of a mirror's files"):
            open_mirror(tmp_path)
