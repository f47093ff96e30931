"""The ways to merge that `merging.py` compares, and the measuring of one of them in a process of its own.

    python benchmarks/merging_ways.py WAY METHOD CATALOG OUT --models REF... --into FILE

Imports and a merge of tiny models come before the clock starts, so that a figure is the merge's own. CPU seconds are user and
system time of the process and its descendants. Writes one JSON object to FILE.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

PIECE = 1 << 18
"""Bytes that the copy reads at a time, which stay in a core's cache: with 4 MiB it takes six times as long."""
Work = Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One merge."""

    method: str
    """A merge recipe's."""
    catalog: Path
    """Of the models."""
    models: Sequence[str]
    """References: the base, then the parents."""
    out: Path
    """An empty folder for the result."""
    threads: int = 2
    """That may be used."""
    warm: Sequence[str] = ()
    """Another catalog and its models, to be merged before the clock starts."""

    @property
    def folders(self) -> list[Path]:
        """Where the models are."""
        from sea_lion.catalog.store import Store

        store = Store(self.catalog)
        return [store.folder(store.require(ref).ref) for ref in self.models]

    @property
    def read(self) -> list[Path]:
        """Where the models are whose weights the method needs: `linear` takes none of the base's."""
        return self.folders[self.method == "linear" :]

    def recipe(self, name: str = "checkpoint/merged") -> Any:
        """All weights and densities 1, everything else left to the defaults."""
        from sea_lion.merging.recipe import MergeRecipe, Parent

        base, *parents = self.models
        return MergeRecipe(
            kind="merge", name=name, version="1", licence="", method=self.method, base=base,  # type: ignore[arg-type]
            parents=tuple(Parent(model=parent) for parent in parents),
        )  # fmt: skip


def weight_files(folder: Path) -> list[Path]:
    """A checkpoint's safetensors files."""
    return sorted(folder.glob("*.safetensors"))


def copy(task: Task, *, is_synced: bool = False) -> Work:
    """Read what a merge reads and write what it writes, the first model's bytes, with plain system calls."""
    folders = task.read
    opened: list[int] = []

    def pieces() -> Iterator[tuple[list[int], int, int]]:
        for path in weight_files(folders[0]):
            inputs = [os.open(folder / path.name, os.O_RDONLY) for folder in folders]
            output = os.open(task.out / path.name, os.O_WRONLY | os.O_CREAT, 0o644)
            opened.extend([output, *inputs])
            for offset in range(0, path.stat().st_size, PIECE):
                yield inputs, output, offset

    waiting, lock = pieces(), threading.Lock()

    def through() -> None:
        buffer = memoryview(bytearray(PIECE))
        while True:
            with lock:
                taken = next(waiting, None)
            if taken is None:
                return
            inputs, output, offset = taken
            read = [os.preadv(file, [buffer], offset) for file in reversed(inputs)]
            os.pwrite(output, buffer[: read[-1]], offset)

    def run() -> None:
        with ThreadPoolExecutor(task.threads) as pool:
            for future in [pool.submit(through) for _ in range(task.threads)]:
                future.result()
        for file in opened:
            if is_synced:
                os.fsync(file)
            os.close(file)

    return run


def average(task: Task) -> Work:
    """What one writes in a minute: load all parents, average, save."""
    import torch
    from safetensors.torch import load_file, save_file

    torch.set_num_threads(task.threads)

    def run() -> None:
        states = [{name: t for path in weight_files(f) for name, t in load_file(path).items()} for f in task.read]
        merged = {
            name: torch.stack([state[name].float() for state in states]).mean(0).to(first.dtype)
            for name, first in states[0].items()
        }
        save_file(merged, task.out / "model.safetensors", metadata={"format": "pt"})

    return run


def mergekit(task: Task) -> Work:
    """mergekit, arithmetic in float32, the result in bfloat16.

    Its other flags change nothing here: `lazy_unpickle` is for pickles, `low_cpu_memory` and `read_to_gpu` for a GPU.
    """
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    if task.method == "consensus_ta":
        from sea_lion.merging.plugin import register_methods

        register_methods()
    base, *parents = ({"model": {"path": str(folder)}} for folder in task.folders)
    table: dict[str, Any] = {"merge_method": task.method, "dtype": "float32", "out_dtype": "bfloat16"}
    if task.method != "linear":
        table["base_model"] = base
    weight = {"weight": 1.0} | ({"density": 1.0} if task.method in ("dare_ties", "della_linear") else {})
    table["models"] = [{"model": parent, "parameters": weight} for parent in parents]
    flags: dict[str, Any] = {"num_threads": task.threads, "copy_tokenizer": False, "write_model_card": False, "quiet": True}
    return lambda: run_merge(MergeConfiguration.model_validate(table), str(task.out), MergeOptions(**flags))


def ours(task: Task, *, is_metered: bool = False) -> Work:
    """The streaming engine alone, or with the figures of the report taken down."""
    from sea_lion.merging.streaming import merge_weights
    from sea_lion.merging.weights import Weights

    recipe, config = task.recipe(), json.loads((task.folders[0] / "config.json").read_text("utf-8"))
    meter = None
    if is_metered:
        from sea_lion.merging.meter import Figures

        meter = Figures(recipe).meter

    def run() -> None:
        base, *parents = (Weights(folder) for folder in task.folders)
        merge_weights(recipe, base, parents, task.out, threads=task.threads, meter=meter, config=config)

    return run


def verb(task: Task) -> Work:
    """What `sea-lion merge` does: inputs verified, figures taken, files digested and recorded. The artifact moves to `out`."""
    from sea_lion.catalog.store import Options, Store
    from sea_lion.merging.merge import merge_models

    def run() -> None:
        store = Store(task.catalog)
        made = store.make(task.recipe(f"checkpoint/{task.out.name}"), task.catalog, merge_models, Options(workers=task.threads))
        task.out.rmdir()
        store.folder(made.ref).rename(task.out)

    return run


WAYS: dict[str, tuple[str, Callable[[Task], Work]]] = {
    "copy": ("bare copy", copy),
    "synced": ("bare copy, fsync", lambda task: copy(task, is_synced=True)),
    "average": ("torch: load, average, save", average),
    "mergekit": ("mergekit", mergekit),
    "tuned": ("mergekit, malloc tuned", mergekit),
    "ours": ("ours, engine", ours),
    "metered": ("ours, engine with figures", lambda task: ours(task, is_metered=True)),
    "verb": ("ours, whole verb", verb),
}
"""Name to what it is, and the way."""


def cpu() -> float:
    """CPU seconds so far of this process and of descendants that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def measured(way: str, task: Task) -> dict[str, float]:
    """Merge in this process, first the small models: libraries import parts of themselves when they are first used."""
    if task.warm:
        catalog, *models = task.warm
        out = emptied(task.out.with_name("warm-merged"))
        WAYS[way][1](replace(task, catalog=Path(catalog), models=models, out=out, warm=()))()
        shutil.rmtree(out)
    work = WAYS[way][1](task)
    begun, used = time.perf_counter(), cpu()
    work()
    wall, used = time.perf_counter() - begun, cpu() - used
    return {"wall_s": wall, "cpu_s": used, "peak_mb": peak() / 1e6}


def peak() -> int:
    """Bytes of this process's largest resident size; `ru_maxrss` is the parent's where that was larger when this one began."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return 1024 * next(int(line.split()[1]) for line in status.read_text("utf-8").splitlines() if line.startswith("VmHWM"))


def emptied(folder: Path) -> Path:
    """A folder with nothing in it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def main() -> None:
    """Measure one way in this process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("way", choices=WAYS)
    parser.add_argument("method")
    parser.add_argument("catalog", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--models", nargs="+", required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--warm", nargs="*", default=[], help="a catalog and its models, to be merged first")
    parser.add_argument("--into", type=Path, required=True)
    given = parser.parse_args()
    task = Task(method=given.method, catalog=given.catalog, models=given.models, out=emptied(given.out), threads=given.threads,
                warm=given.warm)  # fmt: skip
    given.into.write_text(json.dumps(measured(given.way, task)), "utf-8")


if __name__ == "__main__":
    main()
