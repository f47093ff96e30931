"""The streaming engine: merges models tensor by tensor, chunk by chunk, in memory that does not grow with them.

Where each tensor of the result will lie is known from the headers before any data is read. So the files are made at their full
size at once (a full disk fails before the work, not after it), every chunk is written to its place as soon as it is computed,
and nothing is kept. Threads share the work by tensors and not by chunks: pruning draws random numbers in a tensor's order, and
a digest is computed in it. So nothing in the result depends on their number.

What has been done before an interruption is kept by whole files of the result, each beside a note of its tensors.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import xxhash

from ..catalog.files import SCRATCH, sync_folder, write_atomically
from .chunks import TensorMerge, Workspace, pruning_of, result_dtype
from .contract import MergedTensor, Meter, Source
from .layers import layer_count
from .recipe import MergeRecipe
from .weights import DTYPE_NAMES, INDEX, SINGLE

PROGRESS = f"{SCRATCH}/merging"
"""Folder, within that of the result, of the unfinished files and the notes on finished ones; no part of an artifact."""


@dataclass(slots=True, kw_only=True)
class Shard:
    """One file of the result."""

    name: str
    """Of the file."""
    header: bytes
    """The first bytes, up to the data."""
    offsets: dict[str, int]
    """Tensor to the place of its first byte, from the file's start."""
    size: int
    """Of the file."""
    tensors: dict[str, MergedTensor] = field(default_factory=dict)
    """Those that are done."""
    states: dict[str, Any] = field(default_factory=dict)
    """Tensor to what its meter took down."""
    descriptor: int = -1
    """Of the open file."""


def merge_weights(
    recipe: MergeRecipe,
    base: Source,
    parents: Sequence[Source],
    folder: Path,
    *,
    threads: int = 2,
    shard_bytes: int = 5_000_000_000,
    meter: Callable[[str], Meter] | None = None,
    config: Mapping[str, Any] = {},
    inputs: str = "",
) -> list[MergedTensor]:
    """Merge all tensors into safetensors files in `folder`; returns them in the base's order.

    The sources hold the same tensors, compared before; a tied head that is stored again is left out by `fit.Part`. `config` is
    the base's configuration, `inputs` says which models these are, by fingerprints, say. Files that an earlier call finished in
    `folder` are kept if it was the same, by notes in `PROGRESS`. Raises SeaLionError for NaN or infinity in the result,
    CorruptInput for a source that fails, OSError for a disk that does (a full one at once); the unfinished files are then gone.
    """
    shards = planned_shards(recipe, base, shard_bytes)
    progress = folder / PROGRESS
    progress.mkdir(parents=True, exist_ok=True)
    _clear(folder, {shard.name for shard in shards})
    key = _key(recipe, [base, *parents], shards, inputs)
    open_shards = [shard for shard in shards if not _taken_up(shard, folder, key, meter)]
    try:
        _allocate(open_shards, progress)
        _Run(recipe, base, parents, folder, key, open_shards, meter, layer_count(config, base.tensors)).work(threads)
    except BaseException:
        for shard in open_shards:
            (progress / shard.name).unlink(missing_ok=True)
        raise
    finally:
        for shard in open_shards:
            if shard.descriptor >= 0:
                os.close(shard.descriptor)
    if len(shards) > 1:
        write_atomically(folder / INDEX, _index(shards))
    sync_folder(folder)
    done = {name: tensor for shard in shards for name, tensor in shard.tensors.items()}
    return [done[name] for name in base.tensors if name in done]


def tensor_digest(recipe: MergeRecipe, base: Source, parents: Sequence[Source], name: str, *, layers: int) -> str:
    """XXH3-128 of one tensor of the result, merged again without writing it; `layers` is the model's number of them."""
    digest = xxhash.xxh3_128()
    with single_threaded():
        merge = TensorMerge(recipe, base, parents, name, layers=layers, pruning=pruning_of(recipe))
        for view in merge.chunks(Workspace()):
            digest.update(view)
    return digest.hexdigest()


@contextmanager
def single_threaded() -> Iterator[None]:
    """Let torch compute in the calling thread alone: several wait for each other over chunks as small as these."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def planned_shards(recipe: MergeRecipe, base: Source, shard_bytes: int) -> list[Shard]:
    """The files of the result, at most `shard_bytes` of tensors in each (one tensor at least), in the base's order."""
    groups: list[list[str]] = [[]]
    filled = 0
    for name in in_order(base):
        size = _bytes(recipe, base, name)
        if groups[-1] and filled + size > shard_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += size
    count = len(groups)
    names = [SINGLE] if count == 1 else [f"model-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]
    return [_shard(recipe, base, name, group) for name, group in zip(names, groups, strict=True)]


def in_order(base: Source) -> list[str]:
    """The tensors in the order in which the base's files hold them."""
    return sorted(base.tensors, key=lambda name: (base.tensors[name].file, base.tensors[name].offset, name))


def _shard(recipe: MergeRecipe, base: Source, name: str, tensors: Sequence[str]) -> Shard:
    table: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in sorted(tensors, key=lambda tensor: -result_dtype(recipe, base, tensor).itemsize):  # keeps all of them aligned
        start, end = end, end + _bytes(recipe, base, tensor)
        dtype = DTYPE_NAMES[result_dtype(recipe, base, tensor)]
        table[tensor] = {"dtype": dtype, "shape": list(base.tensors[tensor].shape), "data_offsets": [start, end]}
    text = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    header = len(text).to_bytes(8, "little") + text
    offsets = {tensor: len(header) + table[tensor]["data_offsets"][0] for tensor in tensors}
    return Shard(name=name, header=header, offsets=offsets, size=len(header) + end)


def _bytes(recipe: MergeRecipe, base: Source, name: str) -> int:
    return base.tensors[name].elements * result_dtype(recipe, base, name).itemsize


def _index(shards: Sequence[Shard]) -> str:
    weight_map = {name: shard.name for shard in shards for name in shard.offsets}
    total = sum(shard.size - len(shard.header) for shard in shards)
    table = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    return json.dumps(table, indent=2, ensure_ascii=False) + "\n"


def _key(recipe: MergeRecipe, sources: Sequence[Source], shards: Sequence[Shard], inputs: str) -> str:
    """What the result depends on, as far as it can be told without reading it."""
    digest = hashlib.sha256(repr((recipe, inputs, [shard.name for shard in shards])).encode())
    for shard in shards:
        digest.update(shard.header)
    for source in sources:
        for path in sorted({stored.file for stored in source.tensors.values()}):
            state = path.stat()
            digest.update(repr((path.name, state.st_size, state.st_mtime_ns)).encode())
    return digest.hexdigest()


def _clear(folder: Path, names: set[str]) -> None:
    """Remove unfinished files, and what is left of a merge into other files."""
    for path in [*folder.glob("model*.safetensors"), *(folder / PROGRESS).glob("*.json")]:
        if path.name.removesuffix(".json") not in names:
            path.unlink()
    for path in [folder / INDEX, *(folder / PROGRESS).glob("*.safetensors"), *(folder / PROGRESS).glob("*.partial")]:
        path.unlink(missing_ok=True)


def _taken_up(shard: Shard, folder: Path, key: str, meter: Callable[[str], Meter] | None) -> bool:
    """Whether an earlier call has finished this file; its tensors and figures are then taken from the note."""
    path, note = folder / shard.name, folder / PROGRESS / f"{shard.name}.json"
    table: dict[str, Any] = {}
    try:
        table = json.loads(note.read_bytes())
        is_done = table["key"] == key and path.stat().st_size == shard.size
        if is_done and meter is not None:
            for name in shard.offsets:
                meter(name).restore(table["states"][name])
    except (FileNotFoundError, ValueError, KeyError):
        is_done = False
    if not is_done:
        path.unlink(missing_ok=True)
        note.unlink(missing_ok=True)
        return False
    shard.tensors = {row["name"]: MergedTensor(**row | {"shape": tuple(row["shape"])}) for row in table["tensors"]}
    return True


def _allocate(shards: Sequence[Shard], progress: Path) -> None:
    """Make the files at their full size, so that a full disk fails now."""
    for shard in shards:
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        shard.descriptor = os.open(progress / shard.name, flags, 0o644)
        os.posix_fallocate(shard.descriptor, 0, shard.size)
        _write(shard.descriptor, memoryview(shard.header), 0)


def _write(descriptor: int, view: memoryview, offset: int) -> None:
    while view:
        count = os.pwrite(descriptor, view, offset)
        view, offset = view[count:], offset + count


class _Run:
    """The threads' shared state."""

    def __init__(
        self, recipe: MergeRecipe, base: Source, parents: Sequence[Source], folder: Path, key: str, shards: Sequence[Shard],
        meter: Callable[[str], Meter] | None, layers: int,
    ) -> None:  # fmt: skip
        self.recipe, self.base, self.parents, self.layers = recipe, base, parents, layers
        self.folder, self.key, self.meter, self.pruning = folder, key, meter, pruning_of(recipe)
        self.lock, self.stop = threading.Lock(), threading.Event()
        self.jobs = iter([(shard, name) for shard in shards for name in self._largest_first(shard)])

    def _largest_first(self, shard: Shard) -> list[str]:
        """One file after the other, so that files get done; the largest tensors first, so that threads end together."""
        return sorted(shard.offsets, key=lambda name: (-self.base.tensors[name].elements, name))

    def work(self, threads: int) -> None:
        """Merge all tensors; the first error of a thread stops the others and is raised."""
        with single_threaded(), ThreadPoolExecutor(threads, thread_name_prefix="merge") as pool:
            futures = [pool.submit(self._worker) for _ in range(threads)]
            try:
                for future in futures:
                    future.result()
            finally:
                self.stop.set()
            for future in futures:
                future.result()

    def _worker(self) -> None:
        torch.set_num_threads(1)  # of this thread
        workspace = Workspace()
        try:
            while not self.stop.is_set():
                with self.lock:
                    job = next(self.jobs, None)
                if job is None:
                    return
                self._merge(*job, workspace)
        except BaseException:
            self.stop.set()
            raise

    def _merge(self, shard: Shard, name: str, workspace: Workspace) -> None:
        meter = self.meter(name) if self.meter else None
        merge = TensorMerge(self.recipe, self.base, self.parents, name, layers=self.layers, pruning=self.pruning, meter=meter)
        digest, offset = xxhash.xxh3_128(), shard.offsets[name]
        for view in merge.chunks(workspace):
            digest.update(view)
            _write(shard.descriptor, view, offset)
            offset += len(view)
            if self.stop.is_set():
                return
        shape, dtype = self.base.tensors[name].shape, DTYPE_NAMES[merge.dtype]
        row = MergedTensor(name=name, file=shard.name, dtype=dtype, shape=shape, xxh3_128=digest.hexdigest())
        with self.lock:
            shard.tensors[name] = row
            if meter is not None:
                shard.states[name] = meter.state()
            is_whole = len(shard.tensors) == len(shard.offsets)
        if is_whole:
            self._finish(shard)

    def _finish(self, shard: Shard) -> None:
        """Make a whole file one of the result; the note comes first, it counts only beside the file."""
        os.fsync(shard.descriptor)
        tensors = [dataclasses.asdict(shard.tensors[name]) for name in shard.offsets]
        note = {"key": self.key, "tensors": tensors, "states": shard.states}
        write_atomically(self.folder / PROGRESS / f"{shard.name}.json", json.dumps(note))
        os.replace(self.folder / PROGRESS / shard.name, self.folder / shard.name)
