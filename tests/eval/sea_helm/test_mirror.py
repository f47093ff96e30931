"""Mirrors of SEA-HELM: every file checked when it is copied and when it is read, and what is absent is named."""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sea_lion.catalog.errors import CorruptInput, SeaLionError
from sea_lion.catalog.fingerprint import plain
from sea_lion.catalog.store import Job, Store
from sea_lion.eval.commands import add_eval
from sea_lion.eval.leaderboard.definition import datasets_needed
from sea_lion.eval.mirror import make_mirror, mirror_files_of
from sea_lion.eval.mirror_recipe import MirrorRecipe
from sea_lion.eval.sea_helm.mirror import MANIFEST, OpenMirror, recorded, source_files, write_mirror

SHARED = Path(__file__).parents[4] / "shared"
DATA = SHARED / "data" / "sea-helm-v1.0.0"
PROFILE = "sea_helm_2025"
ROWS = "seahelm_tasks/nlr/causal/data/id_xcopa.jsonl"

needs_data = pytest.mark.skipif(not DATA.exists(), reason="the benchmark's data are not here: they lie in ../shared")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A part of the real release: its settings and one language of one task."""
    for name in ("task_config.yaml", "generation_config.yaml", "nlr/causal/config.yaml", "nlr/causal/data/id_xcopa.jsonl"):
        target = tmp_path / "checkout" / "seahelm_tasks" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(DATA / "seahelm_tasks" / name, target)
    return tmp_path / "checkout"


def mirrored(source: Path, target: Path, profile: str = PROFILE) -> Any:
    target.mkdir()
    return write_mirror([source / name for name in source_files(source, profile)], target, profile)


def test_the_recorded_lists_are_whole() -> None:
    files = recorded(PROFILE)
    data = [file for path, file in files.items() if path.endswith(".jsonl")]
    assert len(data) == 151 and round(sum(file.bytes for file in data) / 1e6, 1) == 54.9
    assert all(file.rows > 0 and file.licence for file in data)
    assert {len(file.sha256) for file in files.values()} == {0, 64}
    assert {file.rows for path, file in recorded("sea_helm_2026").items() if path.endswith("_test.jsonl")} == {400}


@needs_data
def test_every_file_of_the_release_is_as_recorded(tmp_path: Path) -> None:
    mirror = mirrored(DATA, tmp_path / "mirror")
    assert len(mirror.files) + len(mirror.missing) == len(recorded(PROFILE))
    assert json.loads((tmp_path / "mirror" / MANIFEST).read_text("utf-8"))["revision"] == mirror.revision
    opened = OpenMirror(tmp_path / "mirror")
    assert opened.record == mirror
    assert len(opened.rows([ROWS])) == 500 and opened.has(file.path for file in mirror.files)
    assert any("CC-BY-NC-SA-4.0" in line and "xlsum" in line for line in mirror.missing)


@needs_data
def test_the_root_and_its_tasks_folder_give_the_same_mirror(checkout: Path, tmp_path: Path) -> None:
    whole = mirrored(checkout, tmp_path / "a")
    assert mirrored(checkout / "seahelm_tasks", tmp_path / "b") == whole
    assert [file.path for file in whole.files] == [
        "seahelm_tasks/generation_config.yaml",
        "seahelm_tasks/nlr/causal/config.yaml",
        ROWS,
        "seahelm_tasks/task_config.yaml",
    ]


@needs_data
@pytest.mark.parametrize("name", [ROWS, "seahelm_tasks/nlr/causal/config.yaml"])
def test_one_altered_byte_is_named_with_both_digests(checkout: Path, tmp_path: Path, name: str) -> None:
    mirror = mirrored(checkout, tmp_path / "mirror")
    expected = {file.path: file.sha256 for file in mirror.files}[name]
    for folder in (checkout, tmp_path / "mirror"):
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)
    with pytest.raises(CorruptInput, match=f"{Path(name).name}: was altered: its sha256 is [0-9a-f]{{64}}, not {expected}"):
        mirrored(checkout, tmp_path / "again")
    opened = OpenMirror(tmp_path / "mirror")
    with pytest.raises(CorruptInput, match=f"{Path(name).name}: was altered: its sha256 is [0-9a-f]{{64}}, not {expected}"):
        opened.rows([name]) if name == ROWS else opened.settings()


@needs_data
def test_a_file_without_a_digest_is_held_against_its_rows_and_bytes(checkout: Path, tmp_path: Path) -> None:
    path = checkout / "seahelm_tasks" / "nlr" / "nli" / "data" / "vi_xnli_examples.jsonl"
    known = recorded(PROFILE)["nlr/nli/data/vi_xnli_examples.jsonl"]
    assert not known.sha256
    path.parent.mkdir(parents=True)
    row = '{"label": "%s"}\n'
    filler = (known.bytes - known.rows * len(row % "")) // known.rows
    lines = [row % ("x" * filler) for _ in range(known.rows - 1)]
    lines.append(row % ("x" * (known.bytes - sum(map(len, lines)) - len(row % ""))))
    path.write_text("".join(lines), "utf-8")
    assert any(file.path.endswith(path.name) for file in mirrored(checkout, tmp_path / "mirror").files)
    path.write_text("".join(lines[1:]), "utf-8")
    with pytest.raises(CorruptInput, match=rf"bytes and 4 rows, not {known.bytes:,} and 5"):
        mirrored(checkout, tmp_path / "again")


def test_what_is_no_checkout_and_no_mirror_is_said(tmp_path: Path) -> None:
    with pytest.raises(CorruptInput, match="holds no checkout of SEA-HELM"):
        source_files(tmp_path, PROFILE)
    with pytest.raises(CorruptInput, match="no such folder"):
        mirror_files_of("sea-helm", PROFILE, tmp_path / "absent")
    with pytest.raises(CorruptInput, match=r"mirror\.json: is missing"):
        OpenMirror(tmp_path)
    (tmp_path / MANIFEST).write_text('{"benchmark": "sea-helm"}', "utf-8")
    with pytest.raises(CorruptInput, match="is no list of a mirror's files"):
        OpenMirror(tmp_path)


CONFIG_2026 = """
causal:
  competency: nlr
  metric: normalized_accuracy
  languages:
    id:
      filepath: org/Causal
      max_tokens: 8
      prompt_template: {preamble: "", task_template: "{text}", answer_template: "", answer_tag: ""}
"""


@pytest.mark.parametrize("place", ["org/Causal/id/eval-00000-of-00001.parquet", "org/Causal/data/id/eval.jsonl"])
def test_data_sets_of_the_hub_are_copied_and_found(tmp_path: Path, place: str) -> None:
    source = tmp_path / "source"
    for name, text in (("task_config.yaml", "seahelm: {id: [causal]}"), ("nlr/causal/config.yaml", CONFIG_2026)):
        path = source / "seahelm_tasks" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    rows = [{"label": "A", "prompts": [{"text": f"question {i}"}]} for i in range(3)]
    (source / place).parent.mkdir(parents=True)
    if place.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), source / place)
    else:
        (source / place).write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    mirror = mirrored(source, tmp_path / "mirror", "sea_helm_2026")
    opened = OpenMirror(tmp_path / "mirror")
    found = opened.paths_of("org/Causal", "id", "eval")
    assert found == [f"hub/{place}"] and opened.rows(found) == rows
    assert opened.paths_of("org/Causal", "vi", "eval") == opened.paths_of("org/Causal", "id", "examples") == []
    assert {file.rows for file in mirror.files if file.path.startswith("hub/")} == {3}


def test_rows_that_are_none_are_named_by_line(tmp_path: Path) -> None:
    with pytest.raises(CorruptInput, match="task_config"):
        write_mirror([], tmp_path, PROFILE)
    source = tmp_path / "seahelm_tasks"
    (source / "org").mkdir(parents=True)
    (source / "task_config.yaml").write_text("seahelm: {id: [causal]}", "utf-8")
    stranger = source / "org" / "rows.jsonl"
    stranger.write_text('{"a": 1}\n[]\n', "utf-8")
    with pytest.raises(CorruptInput, match="is no file of SEA-HELM"):
        write_mirror([source / "task_config.yaml", stranger], tmp_path, "sea_helm_2026")
    settings = source / "nlr" / "causal" / "config.yaml"
    settings.parent.mkdir(parents=True)
    settings.write_bytes(b"causal: \xff")
    with pytest.raises(CorruptInput, match=r"config\.yaml: byte 8: is not UTF-8"):
        source_files(tmp_path, "sea_helm_2026")
    settings.write_text(CONFIG_2026, "utf-8")
    rows = tmp_path / "org" / "Causal" / "id" / "eval.jsonl"
    rows.parent.mkdir(parents=True)
    rows.write_text('{"a": 1}\n[]\n', "utf-8")
    with pytest.raises(CorruptInput, match=r"eval\.jsonl: line 2: is no row"):
        mirrored(tmp_path, tmp_path / "mirror", "sea_helm_2026")


@needs_data
def test_the_maker_of_mirrors_is_asked_by_a_recipe(checkout: Path, tmp_path: Path) -> None:
    files = mirror_files_of("sea-helm", PROFILE, checkout)
    recipe = MirrorRecipe(kind="mirror", name="mirror/x", version="1", benchmark="sea-helm", profile=PROFILE, files=files)
    target = tmp_path / "work"
    target.mkdir()
    paths = sorted(checkout / name for name in files)
    made = make_mirror(Job(recipe=recipe, inputs={}, files={"files": paths}, folder=target, store=Store(tmp_path / "catalog")))
    assert plain(made.body) == plain(OpenMirror(target).record)
    assert made.licences == ("CC-BY-4.0", "MIT")
    with pytest.raises(ValueError, match="files must name"):
        MirrorRecipe(kind="mirror", name="mirror/x", version="1", benchmark="sea-helm", profile=PROFILE, files=())


@pytest.mark.parametrize("is_cache", [False, True])
def test_the_leaderboards_files_are_found_again_from_their_names(tmp_path: Path, is_cache: bool) -> None:
    dataset, (task, *_) = next(iter(datasets_needed()))
    cached = f"datasets--{dataset.replace('/', '--')}/snapshots/abc"
    folder = tmp_path / "source" / (cached if is_cache else dataset)
    for split in task.splits:
        path = folder / (task.config or "data") / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"input": ["a", "b"]}), path)
    files = mirror_files_of("leaderboard", "leaderboard", tmp_path / "source")
    assert len(files) == len(task.splits)
    recipe = MirrorRecipe(
        kind="mirror", name="mirror/x", version="1", benchmark="leaderboard", profile="leaderboard", files=files
    )
    target = tmp_path / "work"
    target.mkdir()
    paths = [tmp_path / "source" / name for name in files]
    job = Job(recipe=recipe, inputs={}, files={"files": paths}, folder=target, store=Store(tmp_path / "catalog"))
    body = plain(make_mirror(job).body)
    assert {file["rows"] for file in body["files"] if file["path"].endswith(".parquet")} == {2}
    assert body["benchmark"] == "leaderboard" and len(body["missing"]) > 30
    with pytest.raises(CorruptInput, match="holds none of the leaderboard's data sets"):
        mirror_files_of("leaderboard", "leaderboard", tmp_path)


@needs_data
def test_the_command_records_a_mirror(checkout: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    add_eval(parser.add_subparsers())
    words = ["eval", "mirror", "sea-helm", "--from", str(checkout), "--catalog", str(tmp_path / "catalog")]
    for _ in range(2):  # the second time it is made already
        arguments = parser.parse_args(words)
        assert arguments.command(arguments) == 0
        assert "mirror/sea-helm-2025@1  4 files, " in capsys.readouterr().out
    assert OpenMirror(tmp_path / "catalog" / "mirror" / "sea-helm-2025" / "1").rows([ROWS])
    with pytest.raises(SeaLionError, match="is no profile of SEA-HELM"):
        wrong = parser.parse_args([*words, "--profile", "sea_helm_2024"])
        wrong.command(wrong)
