"""Rendered rows on disk: what is in them, what is left out and counted, and that a killed or torn rendering goes on."""

import json
import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch.distributed as dist

from sea_lion.catalog.errors import CorruptInput, Unfinished
from sea_lion.catalog.fingerprint import file_digest
from sea_lion.catalog.store import Options
from sea_lion.training import rows as rows_module
from sea_lion.training.processes import Processes
from sea_lion.training.rendering import IN_LOSS, Rendering, template_text
from sea_lion.training.rows import MARKER, Rows, first_alone, open_rows, write_rows_files
from sea_lion.training.vocabulary import save_tokenizer, trained_bpe

ALONE = Processes(rank=0, world=1, device="cpu")
GROUP = 3


def talk(number: int) -> dict[str, Any]:
    """A conversation; those of some numbers cannot be trained on."""
    user = {"role": "user", "content": f"say {number}"}
    said = {4: "long " * 90, 7: "x<|im_end|>", 8: " "}.get(number, f"number {number}, " * (1 + number % 3))
    turns = [user] if number == 5 else [user, {"role": "assistant", "content": said}]
    return {"id": str(number), "language": ("eng", "tha", "mya")[number % 3], "messages": turns}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer, and eleven conversations in row groups of three."""
    folder = tmp_path_factory.mktemp("rows")
    save_tokenizer(trained_bpe(iter(["say number one, two and 3. " * 9]), 280), folder)
    pq.write_table(pa.Table.from_pylist([talk(i) for i in range(11)]), folder / "talk.parquet", row_group_size=GROUP)
    pairs = [{"id": "0", "language": "tha", "prompt": "say one", "chosen": "one", "rejected": "two, three"}] * 3
    pq.write_table(pa.Table.from_pylist(pairs), folder / "pairs.parquet")
    return folder


def rendering(folder: Path, **changes: Any) -> Rendering:
    from transformers import AutoTokenizer

    load: Any = AutoTokenizer.from_pretrained
    settings: dict[str, Any] = {
        "form": "messages",
        "template": template_text("", load(folder)),
        "model_folder": folder,
        "tokenizer_sha256": file_digest(folder / "tokenizer.json"),
        "longest": 200,
    }
    return Rendering(**{**settings, **changes})


def written(folder: Path, out: Path, source: str = "talk.parquet", workers: int = 1, **changes: Any) -> Rows:
    return write_rows_files(folder / source, "origin", rendering(folder, **changes), out, Options(workers=workers), ALONE)


def content(rows: Rows) -> list[tuple[str, list[int], list[bool]]]:
    return [
        (rows.languages[rows.language[i]], tokens.tolist(), mask.tolist())
        for i, (tokens, mask) in enumerate(rows.row(i) for i in range(len(rows)))
    ]


def test_rows_are_the_conversations_in_order(folder: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    load: Any = AutoTokenizer.from_pretrained
    tokenizer = load(folder)
    rows = written(folder, tmp_path)
    kept = [talk(i) for i in range(11) if i not in (4, 5, 7, 8)]
    assert rows.dropped == {"empty": 1, "no_assistant_turn": 1, "special_token_in_text": 1, "too_long": 1}
    assert [row[0] for row in content(rows)] == [talk["language"] for talk in kept]
    for (_, tokens, mask), one in zip(content(rows), kept, strict=True):
        said = tokenizer.apply_chat_template(one["messages"], return_dict=True, return_assistant_tokens_mask=True)
        assert (tokens, mask) == (said["input_ids"], [bool(value) for value in said["assistant_masks"]])
    assert rows.trained.tolist() == [sum(mask) for _, _, mask in content(rows)]
    assert rows.sizes().tolist() == [len(tokens) for _, tokens, _ in content(rows)]


def test_a_pair_is_two_rows(folder: Path, tmp_path: Path) -> None:
    rows = written(folder, tmp_path, "pairs.parquet", form="preference")
    assert len(rows) == 6 and rows.form == "preference"
    assert content(rows)[0] == content(rows)[2] != content(rows)[1] == content(rows)[3]


def test_rows_are_reused_and_rendered_again_when_anything_differs(folder: Path, tmp_path: Path) -> None:
    first = written(folder, tmp_path)
    made = (tmp_path / MARKER).stat().st_mtime_ns
    assert content(written(folder, tmp_path)) == content(first)
    assert (tmp_path / MARKER).stat().st_mtime_ns == made
    longest = int(first.sizes().max())
    shorter = written(folder, tmp_path, longest=longest - 1)
    assert shorter.dropped["too_long"] > first.dropped["too_long"] and shorter.digest != first.digest
    assert len(written(folder, tmp_path, longest=longest)) == len(first)


def test_torn_files_are_no_rows(folder: Path, tmp_path: Path) -> None:
    first = content(written(folder, tmp_path))
    with (tmp_path / rows_module.TOKENS).open("r+b") as file:
        file.truncate(40)
    assert content(written(folder, tmp_path)) == first


def test_a_killed_rendering_goes_on_where_it_was(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    examples = rows_module._examples

    def counted(unit: Any, form: Any) -> Any:
        asked.append(unit.number)
        if asked == [0, 1, 2]:
            raise OSError(28, "No space left on device")
        return examples(unit, form)

    monkeypatch.setattr(rows_module, "_examples", counted)
    with pytest.raises(Unfinished, match="no space left on the device"):
        written(folder, tmp_path / "killed")
    assert not (tmp_path / "killed" / MARKER).exists()
    resumed = content(written(folder, tmp_path / "killed"))
    assert asked == [0, 1, 2, 2, 3]
    assert resumed == content(written(folder, tmp_path / "undisturbed"))


def test_worker_processes_write_the_same_bytes(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(folder, tmp_path / "one")
    monkeypatch.setattr(rows_module, "FEW_ROWS", 0)
    written(folder, tmp_path / "two", workers=2)
    names = sorted(path.name for path in (tmp_path / "one").iterdir() if path.is_file())
    assert names == sorted([*rows_module.KINDS, MARKER])
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in names)


def test_no_row_left_says_why(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CorruptInput, match=r"no row can be trained on; dropped: \{'empty': 1, .*'too_long': 8\}"):
        written(folder, tmp_path, longest=3)


@pytest.mark.parametrize("source", ["pairs.parquet", "tokenizer.json"])
def test_a_file_of_another_kind_is_named(source: str, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CorruptInput, match=source):
        written(folder, tmp_path, source)


def test_the_mark_is_no_part_of_the_token(tmp_path: Path) -> None:
    np.array([5, 7 | IN_LOSS, 255_999 | IN_LOSS, 3], "<u4").tofile(tmp_path / rows_module.TOKENS)
    np.array([3, 4], "<u8").tofile(tmp_path / rows_module.ENDS)
    np.array([2, 0], "<u4").tofile(tmp_path / rows_module.TRAINED)
    np.array([0, 0], "<u2").tofile(tmp_path / rows_module.LANGUAGES)
    rows_module.write_marker(tmp_path, "d", "messages", ["eng"], {})
    tokens, mask = open_rows(tmp_path).row(0)
    assert tokens.tolist() == [5, 7, 255_999] and mask.tolist() == [False, True, True]
    assert json.loads((tmp_path / MARKER).read_text())["sizes"][rows_module.ENDS] == 16


def _join(rank: int, out: Path) -> None:
    """A process of two: rank 0 works longer than they ask each other, then fails."""
    import time

    dist.init_process_group("gloo", init_method=f"file://{out}/meeting", rank=rank, world_size=2)
    processes = Processes(rank=rank, world=2, device="cpu", host=dist.group.WORLD)
    rows_module.ASKING = 0.05

    def work() -> None:
        time.sleep(0.3)
        (out / f"worked-{rank}").touch()

    def fail() -> None:
        raise CorruptInput("talk.parquet", "row 3", "is broken")

    first_alone(processes, work)
    assert (out / "worked-0").exists()
    try:
        first_alone(processes, fail)
    except CorruptInput as error:
        (out / f"told-{rank}").write_text(str(error))
    dist.destroy_process_group()


def test_others_wait_for_the_first_and_fail_with_it(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    started = [context.Process(target=_join, args=(rank, tmp_path)) for rank in range(2)]
    for process in started:
        process.start()
    for process in started:
        process.join(60)
    assert [process.exitcode for process in started] == [0, 0]
    assert not (tmp_path / "worked-1").exists()
    assert {(tmp_path / f"told-{rank}").read_text() for rank in range(2)} == {"talk.parquet: row 3: is broken"}
