"""The one pass over the models' files: digests, and numbers that are not finite, wherever a tensor lies."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from dataclasses import replace
from pathlib import Path
from threading import active_count

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from sea_lion.catalog.errors import CorruptInput
from sea_lion.catalog.records import FileDigest
from sea_lion.merging import audit as audits
from sea_lion.merging.audit import Subject, audit, check_finite
from sea_lion.merging.contract import Stored
from sea_lion.merging.weights import stored_tensors

NAN, INF = float("nan"), float("inf")


def subject(folder: Path, name: str = "checkpoint/x@1", *, recorded: bool = True) -> Subject:
    """A folder as it is now."""
    files = tuple(
        FileDigest(path=path.name, bytes=path.stat().st_size, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
        for path in sorted(folder.iterdir())
    )
    tensors = {name: place for path in sorted(folder.glob("*.safetensors")) for name, place in stored_tensors(path).items()}
    return Subject(name=name, folder=folder, files=files if recorded else (), tensors=tensors)


def saved(folder: Path, tensors: dict[str, torch.Tensor]) -> Path:
    """A checkpoint's folder with a configuration and one file of weights."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text("{}")
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces so small that tensors lie in many, and numbers across two; odd, so that nothing is aligned."""
    monkeypatch.setattr(audits, "PIECE", 1021)


def test_whole_files_pass_and_each_byte_is_read_once(tmp_path: Path) -> None:
    one = saved(tmp_path / "one", {"a": torch.randn(999), "b": torch.randn(1001).bfloat16(), "c": torch.randn(7).half()})
    two = saved(tmp_path / "two", {"a": torch.tensor(3.4e38), "b": torch.tensor([65504.0]).half(), "c": torch.zeros(0)})
    told: list[int] = []
    found = audit([subject(one, "one"), subject(two, "two"), subject(one, "one")], advance=told.append)
    sizes = [path.stat().st_size for folder in (one, two) for path in folder.iterdir()]
    assert (found.files, found.bytes) == (4, sum(sizes))
    assert sum(told) == sum(sizes)
    assert found.digests["one"]["model.safetensors"] == hashlib.sha256((one / "model.safetensors").read_bytes()).hexdigest()
    assert sorted(found.digests) == ["one", "two"]
    assert found.rate == pytest.approx(sum(sizes) / 1e9 / found.seconds)


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_nan_and_infinity_are_found_in_each_dtype(tmp_path: Path, value: float, dtype: torch.dtype) -> None:
    tensor = torch.randn(40, 50).to(dtype)
    tensor[3, 5] = tensor[39, 49] = value
    folder = saved(tmp_path / "x", {"a.weight": torch.randn(3), "model.layers.1.weight": tensor})
    for recorded in (True, False):
        with pytest.raises(CorruptInput) as caught:
            audit([subject(folder, recorded=recorded)])
        assert str(caught.value) == "checkpoint/x@1: model.layers.1.weight: 2 of 2,000 elements are NaN or infinite"
    with pytest.raises(CorruptInput, match=r"the result of y: model.layers.1.weight: 2 of 2,000"):
        check_finite("the result of y", folder, subject(folder).tensors)


def test_a_flipped_bit_is_the_digests_matter_before_it_is_a_nan(tmp_path: Path) -> None:
    folder = saved(tmp_path / "x", {"a": torch.ones(2000), "b": torch.ones(2000)})
    before = subject(folder)
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[before.tensors["a"].offset + 7] ^= 0x40  # 1.0 becomes infinite
    assert struct.unpack_from("<f", content, before.tensors["a"].offset + 4)[0] == INF
    path.write_bytes(content)
    with pytest.raises(CorruptInput, match=r"model.safetensors: is not what checkpoint/x@1 wrote \(sha256 differs\); restore"):
        audit([before])
    (folder / "config.json").write_text("[]")
    with pytest.raises(CorruptInput, match=r"config.json: is not what checkpoint/x@1 wrote \(sha256 differs\)"):
        audit([before])


def test_files_that_are_cut_short_missing_or_too_many_are_refused_unread(tmp_path: Path) -> None:
    folder = saved(tmp_path / "x", {"a": torch.ones(2000)})
    whole, told = subject(folder), list[int]()
    path = folder / "model.safetensors"
    save_file({"b": torch.ones(2)}, folder / "model-other.safetensors")
    with pytest.raises(CorruptInput, match=r"model-other.safetensors: is no file of checkpoint/x@1"):
        audit([replace(subject(folder), files=whole.files)], advance=told.append)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(
        CorruptInput, match=r"is not what checkpoint/x@1 wrote \(it has 7,9.. bytes, not 8,0..; its sha256 diff"
    ):
        audit([whole], advance=told.append)
    path.unlink()
    with pytest.raises(CorruptInput, match=r"model.safetensors: is missing from checkpoint/x@1"):
        audit([whole], advance=told.append)
    assert not told


def test_the_first_fault_in_order_is_told_whatever_the_threads(tmp_path: Path) -> None:
    """The small file's fault is found long before the large one's; the base's is told all the same."""
    base = saved(tmp_path / "base", {"a": torch.cat([torch.zeros(300_000), torch.tensor([NAN])])})
    other = saved(tmp_path / "other", {"a": torch.tensor([NAN])})
    for threads in (1, 2, 4):
        with pytest.raises(CorruptInput, match=r"base: a: 1 of 300,001"):
            audit([subject(base, "base"), subject(other, "other")], threads=threads)
        with pytest.raises(CorruptInput, match=r"other: a: 1 of 1 "):
            audit([subject(other, "other"), subject(base, "base")], threads=threads)
    assert active_count() < 20


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=5),
    gap=st.integers(0, 5),
    piece=st.integers(1, 64),
    bad=st.sets(st.integers(0, 199), max_size=4),
    seed=st.integers(0, 5),
)
def test_no_place_of_a_tensor_hides_a_number(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], gap: int, piece: int, bad: set[int], seed: int
) -> None:
    """Tensors of mixed types at any byte, pieces of any size: what torch finds is found."""
    folder = tmp_path_factory.mktemp("odd")
    path = folder / "model.safetensors"
    generator = torch.Generator().manual_seed(seed)
    content, tensors, expected, count = b"\xff" * gap, dict[str, Stored](), dict[str, int](), 0
    for i, length in enumerate(lengths):
        dtype = (torch.float32, torch.bfloat16, torch.float16, torch.float64)[(i + seed) % 4]
        values = torch.randn(length, generator=generator).to(dtype)
        for place in range(length):
            if count + place in bad:
                values[place] = (NAN, INF, -INF)[place % 3]
        count += length
        tensors[str(i)] = Stored(file=path, offset=len(content), dtype=dtype, shape=(length,))
        content += values.view(torch.uint8).numpy().tobytes() + b"\xff" * gap
        expected[str(i)] = int((~torch.isfinite(values)).sum())
    path.write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audits, "PIECE", piece)
        wrong = [name for name, number in expected.items() if number]
        if not wrong:
            check_finite("x", folder, tensors)
            return
        with pytest.raises(CorruptInput) as caught:
            check_finite("x", folder, tensors)
    name, elements = wrong[0], math.prod(tensors[wrong[0]].shape)
    assert str(caught.value) == f"x: {name}: {expected[name]} of {elements} elements are NaN or infinite"


def test_the_header_is_not_taken_for_numbers(tmp_path: Path) -> None:
    folder = tmp_path / "x"
    folder.mkdir()
    header = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, "__metadata__": {"note": "\u00ff" * 50}})
    text = header.encode() + b" " * (-len(header.encode()) % 8)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + struct.pack("<2f", 1.0, 2.0))
    assert audit([subject(folder)]).files == 1
