"""Everything is looked at before anything is generated, and all problems are told at once."""

from __future__ import annotations

import shutil
import threading
from importlib import metadata
from pathlib import Path

import pytest

from sea_lion.catalog.errors import CorruptInput
from sea_lion.eval.leaderboard import preflight as module
from sea_lion.eval.leaderboard.definition import sources
from sea_lion.eval.leaderboard.mirror import PUNKT, PUNKT_FILES, MirroredFiles, mirror_files, open_mirror
from sea_lion.eval.leaderboard.preflight import preflight
from sea_lion.eval.leaderboard.suite import open_suite

from .conftest import gpqa_rows, ifeval_rows, math_rows, mmlu_pro_rows, write_csv, write_jsonl, write_parquet

Mirrored = tuple[Path, MirroredFiles]


def test_a_whole_mirror_is_ready(mirrored: Mirrored) -> None:
    ready = preflight(open_mirror(mirrored[0]))
    assert ready.tasks == tuple(sources()) and ready.missing == ready.warnings == ()
    assert ready.items["leaderboard_mmlu_pro"] == 6 and ready.items["leaderboard_gpqa_extended"] == 5
    assert ready.items["leaderboard_math_algebra_hard"] == 3  # of four rows: one is easy, and not asked


def test_all_problems_are_told_at_once(mirrored: Mirrored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "m"
    shutil.copytree(mirrored[0], folder)
    shutil.rmtree(folder / PUNKT)
    (folder / "TIGER-Lab/MMLU-Pro/data/validation-00000-of-00001.parquet").unlink()
    altered = folder / "SaylorTwift/bbh/snarks/test-00000-of-00001.parquet"
    altered.write_bytes(altered.read_bytes() + b" ")
    really = metadata.version

    def version(name: str) -> str:
        if name == "langdetect":
            raise metadata.PackageNotFoundError(name)
        return "4.9.3" if name == "antlr4-python3-runtime" else really(name)

    monkeypatch.setattr(module, "version", version)
    with pytest.raises(CorruptInput) as raised:
        open_suite(folder)
    line = str(raised.value)
    assert "\n" not in line and "8 problems before anything was generated" in line
    assert "langdetect is not installed, IFEval needs it: pip install 'langdetect>=1.0.9'" in line
    assert "antlr4-python3-runtime 4.9.3 is installed, MATH needs it: pip install 'antlr4-python3-runtime==4.11.*'" in line
    assert all(path in line for path in PUNKT_FILES)
    assert "validation-00000-of-00001.parquet: cannot be read" in line and "bbh/snarks" in line and "its sha256 is" in line


def test_a_splitter_that_nltk_cannot_read_is_a_problem(downloads: Path, tmp_path: Path) -> None:
    shutil.copytree(downloads / "wis-k", tmp_path / "d/wis-k")
    shutil.copytree(downloads / PUNKT, tmp_path / "d" / PUNKT)
    (tmp_path / "d" / PUNKT_FILES[2]).write_text("a word without its number\n", "utf-8")
    mirror_files(tmp_path / "d", tmp_path / "m")
    with pytest.raises(CorruptInput, match="punkt_tab: NLTK cannot read it"):
        preflight(open_mirror(tmp_path / "m"))


def test_math_is_not_scored_in_a_thread(mirrored: Mirrored) -> None:
    errors: list[str] = []

    def look() -> None:
        try:
            preflight(open_mirror(mirrored[0]))
        except CorruptInput as error:
            errors.append(str(error))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert len(errors) == 1 and "main thread" in errors[0]


def test_columns_splits_and_rows_that_are_not_there(tmp_path: Path) -> None:
    source = tmp_path / "d"
    easy = [{**row, "level": "Level 1"} for row in math_rows("algebra")]
    write_parquet(source / "DigitalLearningGmbH/MATH-lighteval/algebra/test-0.parquet", easy)
    nameless = [{key: row[key] for key in row if key != "Correct Answer"} for row in gpqa_rows(2)]
    write_csv(source / "Idavidrein/gpqa/gpqa_main.csv", nameless)
    odd = [*mmlu_pro_rows(1), {**mmlu_pro_rows(1)[0], "answer": None}]
    write_parquet(source / "TIGER-Lab/MMLU-Pro/data/test-0.parquet", odd)
    write_parquet(source / "TIGER-Lab/MMLU-Pro/data/validation-0.parquet", mmlu_pro_rows(5))
    mirror_files(source, tmp_path / "m")
    with pytest.raises(CorruptInput) as raised:
        preflight(open_mirror(tmp_path / "m"))
    line = str(raised.value)
    assert "leaderboard_math_algebra_hard, split 'test': has no row of Level 5" in line
    assert "gpqa_main.csv: lacks the column 'Correct Answer' that leaderboard_gpqa_main reads" in line
    assert "leaderboard_mmlu_pro, asked row 1: is not as lm-eval needs it (TypeError" in line


@pytest.mark.parametrize("change", [{"instruction_id_list": ["punctuation:no_such_rule"]}, {"kwargs": []}])
def test_prompts_that_lm_eval_would_fail_to_score_after_generation(
    downloads: Path, tmp_path: Path, change: dict[str, list[str]]
) -> None:
    shutil.copytree(downloads / PUNKT, tmp_path / "d" / PUNKT)
    rows = [ifeval_rows()[1], {**ifeval_rows()[1], **change}]
    write_jsonl(tmp_path / "d/wis-k/instruction-following-eval/train.jsonl", rows)
    mirror_files(tmp_path / "d", tmp_path / "m")
    with pytest.raises(CorruptInput, match="leaderboard_ifeval, asked row 1: is not as lm-eval needs it"):
        preflight(open_mirror(tmp_path / "m"))


def test_items_without_a_sure_right_answer_are_a_warning(tmp_path: Path) -> None:
    rows = [{"input": "Sail or oar?", "target": target} for target in ("Yes", "No", "Perhaps")]
    write_parquet(tmp_path / "d/SaylorTwift/bbh/navigate/test-0.parquet", rows)
    twice = gpqa_rows(2)
    twice[1]["Incorrect Answer 2"] = twice[1]["Correct Answer"]
    write_csv(tmp_path / "d/Idavidrein/gpqa/gpqa_main.csv", twice)
    mirror_files(tmp_path / "d", tmp_path / "m")
    suite = open_suite(tmp_path / "m")
    assert suite.warnings == (
        "leaderboard_bbh_navigate: 1 of 3 items cannot be answered rightly for sure: the right answer is not among the choices",
        "leaderboard_gpqa_main: 1 of 2 items cannot be answered rightly for sure: the right answer is also a wrong one",
    )
    assert [family.name for family in suite.families] == ["bbh", "gpqa"]
    assert len(suite.missing) == 37
