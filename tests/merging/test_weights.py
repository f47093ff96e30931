"""Reading weights in place, and each way in which a folder of them can be broken."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from sea_lion.catalog.errors import CorruptInput
from sea_lion.merging.weights import Weights, stored_tensors

TENSORS = {"a.weight": torch.arange(12.0).view(3, 4), "b.weight": torch.arange(6.0), "c.weight": torch.tensor(2.5)}


def write_header(path: Path, header: object, data: bytes = b"") -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def entry(dtype: str, shape: list[int], low: int, high: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [low, high]}


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """Two shards with an index."""
    names = list(TENSORS)
    shards = {"model-00001-of-00002.safetensors": names[:1], "model-00002-of-00002.safetensors": names[1:]}
    for file, members in shards.items():
        save_file({name: TENSORS[name] for name in members}, tmp_path / file, metadata={"format": "pt"})
    weight_map = {name: file for file, members in shards.items() for name in members}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return tmp_path


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_any_part_of_a_tensor_is_read(tmp_path: Path, dtype: torch.dtype) -> None:
    values = torch.randn(300, 7, generator=torch.Generator().manual_seed(0)).to(dtype)
    save_file({"w": values, "odd": torch.ones(3, dtype=dtype)}, tmp_path / "model.safetensors")
    with Weights(tmp_path) as weights:
        assert weights.tensors["w"].shape == (300, 7)
        assert weights.tensors["w"].dtype == dtype
        for start, size in ((0, 2100), (0, 1), (2099, 1), (13, 1000)):
            out = torch.empty(size)
            weights.read("w", start, out)
            assert torch.equal(out, values.view(-1)[start : start + size].float())


def test_shards_are_one_model(sharded: Path) -> None:
    with Weights(sharded) as weights:
        assert {name: stored.shape for name, stored in weights.tensors.items()} == {
            name: tuple(tensor.shape) for name, tensor in TENSORS.items()
        }
        for name, tensor in TENSORS.items():
            out = torch.empty(tensor.numel())
            weights.read(name, 0, out)
            assert torch.equal(out, tensor.view(-1))
        assert len(weights.files) == 2
    weights.close()


def test_threads_read_at_once(tmp_path: Path) -> None:
    values = torch.arange(65_536).to(torch.bfloat16)
    save_file({"w": values}, tmp_path / "model.safetensors")
    wrong: list[int] = []
    with Weights(tmp_path) as weights:

        def read(offset: int) -> None:
            out = torch.empty(256)
            for start in range(offset, 65_536 - 256, 1000):
                weights.read("w", start, out)
                if not torch.equal(out, values[start : start + 256].float()):
                    wrong.append(start)

        threads = [threading.Thread(target=read, args=(offset,)) for offset in (0, 3, 77)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


def test_closing_leaves_no_file_open(sharded: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").is_dir() else None
    for _ in range(3):
        Weights(sharded).close()
    if before is not None:
        assert len(list(Path("/proc/self/fd").iterdir())) == before


ONE, TWO, INDEX = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"
BREAKS: list[tuple[str, Callable[[Path], object], str]] = [
    ("cut", lambda f: os.truncate(f / TWO, (f / TWO).stat().st_size - 1), f"{TWO}: is cut short"),
    ("cut in its header", lambda f: os.truncate(f / ONE, 30), "cut short"),
    ("empty", lambda f: os.truncate(f / ONE, 0), "cut short"),
    ("too long", lambda f: (f / ONE).open("ab").write(b"x"), "longer than it says"),
    ("missing shard", lambda f: (f / TWO).unlink(), f"{TWO}: the shard is not there"),
    ("a third shard", lambda f: save_file(TENSORS, f / "model-00003-of-00003.safetensors"), f"is not named by {INDEX}"),
    ("a single file too", lambda f: save_file(TENSORS, f / "model.safetensors"), f"is not named by {INDEX}"),
    ("no index", lambda f: (f / INDEX).unlink(), f"{INDEX} is missing"),
    ("index lacks a tensor", lambda f: edit(f, lambda table: table.pop("c.weight")), "c.weight: .* the index does not say so"),
    ("index has one more", lambda f: edit(f, lambda table: table.update({"z": ONE})), "z: .* does not hold this tensor"),
    ("wrong shard", lambda f: edit(f, lambda table: table.update({"c.weight": ONE})), "c.weight: .* does not hold this tensor"),
    (
        "shard elsewhere",
        lambda f: edit(f, lambda table: table.update({"z": "../x"})),
        "not the name of a file beside the index",
    ),
    ("not an index", lambda f: (f / INDEX).write_text("{"), "is no index of shards"),
]


def edit(folder: Path, change: Callable[[dict[str, str]], object]) -> None:
    path = folder / INDEX
    table = json.loads(path.read_text())
    change(table["weight_map"])
    path.write_text(json.dumps(table))


@pytest.mark.parametrize(("break_it", "message"), [case[1:] for case in BREAKS], ids=[case[0] for case in BREAKS])
def test_broken_folders_are_refused_in_one_line(sharded: Path, break_it: Callable[[Path], object], message: str) -> None:
    break_it(sharded)
    with pytest.raises(CorruptInput, match=message) as caught:
        Weights(sharded)
    assert "\n" not in str(caught.value)
    assert str(sharded) in str(caught.value)


FILES: list[tuple[str, object, bytes, str]] = [
    ("absurd length", (1 << 60).to_bytes(8, "little") + b"{}", b"", "header would be"),
    ("no JSON", b"{'a': 1}", b"", "header: cannot be read as JSON"),
    ("no text", b"\xff\xfe", b"", "header: cannot be read as JSON"),
    ("a list", [], b"", "not a table of tensors"),
    ("an entry without offsets", {"a": {"dtype": "F32", "shape": [1]}}, b"", "a: the header's entry"),
    ("a negative size", {"a": entry("F32", [-1], 0, 4)}, b"0" * 4, "a: the header's entry"),
    ("no tensor", {"__metadata__": {"format": "pt"}}, b"", "holds no tensor"),
    ("a name twice", b'{"a": 1, "a": 2}', b"", "stands there twice"),
    ("whole numbers", {"ids": entry("I64", [1], 0, 8)}, b"0" * 8, "ids: is of type I64; only F32, BF16, F16"),
    ("eight bits", {"q": entry("F8_E4M3", [8], 0, 8)}, b"0" * 8, "q: is of type F8_E4M3"),
    ("another size", {"a": entry("F32", [2], 0, 4)}, b"0" * 4, "a: F32 of shape \\[2\\] is not the 4 bytes"),
    ("overlap", {"a": entry("F32", [2], 0, 8), "b": entry("F32", [2], 4, 12)}, b"0" * 12, "b: starts at byte 4 and overlaps"),
    ("gap", {"a": entry("F32", [1], 0, 4), "b": entry("F32", [1], 8, 12)}, b"0" * 12, "b: starts at byte 8 and leaves a gap"),
    ("backwards", {"a": entry("F32", [1], 4, 0)}, b"0" * 4, "a: the header's entry"),
]  # fmt: skip


@pytest.mark.parametrize(("header", "data", "message"), [case[1:] for case in FILES], ids=[case[0] for case in FILES])
def test_broken_files_are_refused_in_one_line(tmp_path: Path, header: object, data: bytes, message: str) -> None:
    path = tmp_path / "model.safetensors"
    write_header(path, header, data)
    if message == "header would be":
        path.write_bytes(bytes(header))  # type: ignore[call-overload]
    with pytest.raises(CorruptInput, match=message) as caught:
        Weights(tmp_path)
    assert "\n" not in str(caught.value)


def test_pickles_are_told_from_nothing(tmp_path: Path) -> None:
    with pytest.raises(CorruptInput, match=r"holds no model\.safetensors"):
        Weights(tmp_path)
    (tmp_path / "training_args.bin").write_bytes(b"x")  # no weights
    with pytest.raises(CorruptInput, match=r"holds no model\.safetensors"):
        Weights(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(CorruptInput, match=r"holds pickles \(pytorch_model.bin\).*sea-lion merge --convert"):
        Weights(tmp_path)


def test_other_models_files_do_not_disturb(tmp_path: Path) -> None:
    """Mistral's models have their weights a second time, under another name."""
    save_file(TENSORS, tmp_path / "model.safetensors")
    save_file(TENSORS, tmp_path / "consolidated.safetensors")
    (tmp_path / "training_args.bin").write_bytes(b"x")
    with Weights(tmp_path) as weights:
        assert [path.name for path in weights.files] == ["model.safetensors"]


def test_a_file_that_shrinks_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    save_file({"w": torch.ones(1000)}, tmp_path / "model.safetensors")
    with Weights(tmp_path) as weights:
        os.truncate(tmp_path / "model.safetensors", 500)
        with pytest.raises(CorruptInput, match="cut short while it was read"):
            weights.read("w", 0, torch.empty(1000))


def test_offsets_are_where_safetensors_puts_the_data(tmp_path: Path) -> None:
    mixed = {"x": torch.ones(3, dtype=torch.bfloat16), "y": torch.full((5,), 7.0), "empty": torch.empty(0)}
    save_file(mixed, tmp_path / "model.safetensors")
    stored = stored_tensors(tmp_path / "model.safetensors")
    data = (tmp_path / "model.safetensors").read_bytes()
    for name, tensor in mixed.items():
        part = data[stored[name].offset :][: tensor.numel() * tensor.itemsize]
        assert part == tensor.view(torch.uint8).numpy().tobytes()
