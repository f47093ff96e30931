"""The weights of a checkpoint, read in place from its safetensors files.

The headers are read and checked whole before any data: a file cut short, a missing shard or a tensor of another type is one
line now and not half a merge. The safetensors library checks the same, but tells no offsets, without which a part of a tensor
cannot be read into memory that is there already. Data is read with `preadv` and not mapped: a mapped page counts as this
process's memory, and a file that fails while it is read would kill the process where here it raises an error.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeGuard

import torch

from ..catalog.errors import CorruptInput
from .contract import Stored

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
"""What can be merged, as safetensors names it."""
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
PICKLES = ("*model*.bin", "*model*.pt", "*.pth", "*.ckpt")
MOST_HEADER_BYTES = 100_000_000
"""What the safetensors library accepts."""
Header = dict[str, dict[str, Any]]


class Weights:
    """A `Source` over the safetensors files of one folder; a context manager that closes them.

    Raises CorruptInput for anything that the headers, the index and the files' sizes disagree about.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = weight_files(folder)
        self.tensors: Mapping[str, Stored] = {
            name: stored for path in self.files for name, stored in stored_tensors(path).items()
        }
        self._local = threading.local()
        self._descriptors: dict[Path, int] = {}
        try:
            for path in self.files:
                self._descriptors[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Weights:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files; a second call changes nothing."""
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])

    def read(self, name: str, start: int, out_C: torch.Tensor) -> None:
        """Fill `out_C` (float32, contiguous) with the tensor's elements from number `start` on; any thread may call."""
        stored = self.tensors[name]
        offset = stored.offset + start * stored.dtype.itemsize
        if stored.dtype == torch.float32:
            self._fill(stored.file, offset, as_bytes(out_C))
            return
        raw_C, view = self._buffer(out_C.numel(), stored.dtype)
        self._fill(stored.file, offset, view)
        out_C.copy_(raw_C)

    def _buffer(self, elements: int, dtype: torch.dtype) -> tuple[torch.Tensor, memoryview]:
        """This thread's memory for what is not float32 yet: as a tensor and as bytes."""
        key = (elements, dtype)
        if getattr(self._local, "key", None) != key:
            raw_C = torch.empty(elements, dtype=dtype)
            self._local.key, self._local.buffer = key, (raw_C, as_bytes(raw_C))
        buffer: tuple[torch.Tensor, memoryview] = self._local.buffer
        return buffer

    def _fill(self, path: Path, offset: int, view: memoryview) -> None:
        done = 0
        while done < len(view):
            count = os.preadv(self._descriptors[path], [view[done:]], offset + done)
            if count == 0:
                raise CorruptInput(path, "", "was cut short while it was read")
            done += count


def as_bytes(values_C: torch.Tensor) -> memoryview:
    """A contiguous tensor's memory."""
    array: Any = values_C.view(torch.uint8).numpy()
    return memoryview(array)


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint, in the order of their names, checked against its index where it has one."""
    found = {path.name for path in folder.glob("model*.safetensors")}
    if (folder / INDEX).is_file():
        weight_map = _weight_map(folder / INDEX)
        named = set(weight_map.values())
        for name in sorted(named - found):
            raise CorruptInput(folder / INDEX, name, "the shard is not there; fetch the model anew")
        for name in sorted(found - named):
            raise CorruptInput(folder / name, "", f"is not named by {INDEX}; remove it, or the index if that is left over")
        files = [folder / name for name in sorted(named)]
        _check_index(folder / INDEX, weight_map, files)
        return files
    if found == {SINGLE}:
        return [folder / SINGLE]
    if found:
        raise CorruptInput(folder, "", f"{INDEX} is missing: nothing says which of {_listed(found)} belong together")
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if pickles:
        problem = f"holds pickles ({_listed(pickles)}), which can run code; convert them with `sea-lion merge --convert`"
        raise CorruptInput(folder, "", problem)
    raise CorruptInput(folder, "", f"holds no {SINGLE} and no {INDEX}")


def stored_tensors(path: Path) -> dict[str, Stored]:
    """Where each tensor of a safetensors file lies; raises CorruptInput for a file that is not whole."""
    header, first = _header(path)
    tensors: dict[str, Stored] = {}
    end = 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        low, high = entry["data_offsets"]
        if entry["dtype"] not in DTYPES:
            raise CorruptInput(path, name, f"is of type {entry['dtype']}; only {', '.join(DTYPES)} can be merged")
        stored = Stored(file=path, offset=first + low, dtype=DTYPES[entry["dtype"]], shape=tuple(entry["shape"]))
        if low != end:
            problem = "overlaps the tensor before it" if low < end else "leaves a gap before it"
            raise CorruptInput(path, name, f"starts at byte {low} and {problem}, which ends at {end}")
        if high - low != stored.elements * stored.dtype.itemsize:
            problem = f"{entry['dtype']} of shape {list(stored.shape)} is not the {high - low} bytes that it is given"
            raise CorruptInput(path, name, problem)
        tensors[name], end = stored, high
    _check_size(path, first + end)
    return tensors


def _check_size(path: Path, expected: int) -> None:
    size = path.stat().st_size
    if size != expected:
        what = "is cut short" if size < expected else "is longer than it says"
        raise CorruptInput(path, "", f"{what}: {size:,} bytes, {expected:,} by its header; fetch it anew")


def _header(path: Path) -> tuple[Header, int]:
    """The tensors' entries of a file's header, and where the data begins."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, MOST_HEADER_BYTES):
            problem = f"is not a safetensors file, or cut short: its header would be {length:,} bytes long of {size:,}"
            raise CorruptInput(path, "", problem)
        text = file.read(length)
    try:
        table = json.loads(text, object_pairs_hook=_without_repetition)
    except (ValueError, RecursionError) as error:
        raise CorruptInput(path, "header", f"cannot be read as JSON: {error}") from error
    if not isinstance(table, dict):
        raise CorruptInput(path, "header", "is not a table of tensors")
    table.pop("__metadata__", None)
    for name, entry in table.items():
        if not _is_entry(entry):
            raise CorruptInput(path, name, "the header's entry is not dtype, shape and data_offsets")
    if not table:
        raise CorruptInput(path, "", "holds no tensor")
    return table, 8 + length


def _is_entry(entry: object) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("dtype"), str):
        return False
    shape, offsets = entry.get("shape"), entry.get("data_offsets")
    if not _are_counts(shape) or not _are_counts(offsets):
        return False
    return len(offsets) == 2 and offsets[0] <= offsets[1]


def _are_counts(values: object) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 1 << 62 for value in values)


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        raise ValueError("a name stands there twice")
    return table


def _weight_map(path: Path) -> dict[str, str]:
    try:
        weight_map = json.loads(path.read_bytes())["weight_map"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CorruptInput(path, "", f"is no index of shards: {type(error).__name__}: {error}") from error
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise CorruptInput(path, "weight_map", "is not a table of tensors and their files")
    for name in weight_map.values():
        if Path(name).name != name:
            raise CorruptInput(path, "weight_map", f"{name!r} is not the name of a file beside the index")
    return weight_map


def _check_index(path: Path, weight_map: Mapping[str, str], files: Iterable[Path]) -> None:
    """Compare the index with the shards' headers."""
    held = {(tensor, file.name) for file in files for tensor in _header(file)[0]}
    named = set(weight_map.items())
    for tensor, file in sorted(named - held):
        raise CorruptInput(path, tensor, f"{file} does not hold this tensor")
    for tensor, file in sorted(held - named):
        raise CorruptInput(path, tensor, f"{file} holds this tensor, the index does not say so")


def _listed(names: Iterable[str]) -> str:
    first, *others = sorted(names)
    return f"{first} and {len(others)} more" if others else first
