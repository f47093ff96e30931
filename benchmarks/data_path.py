"""The data path of `cpt`: the cost of a plan for 200 billion tokens, and of the batches, beside what one would else use.

Five sources in the proportions 25/15/15/25/20, windows of 8,192 tokens, documents of 20 to 4,000. The plan is made over sparse
files of the true size (200 billion tokens, 2 bytes each, no space taken), the batches are read from real ones. The peer reads
the same documents: `datasets` streams them from Parquet files of token lists, interleaves by probability and packs in Python,
as its users do; it draws documents, not tokens, so its mixture is another one. torchdata and MosaicML streaming are not
installed here (`shared/facts/training.md` measured 9 to 14 Mtok per CPU-second for the latter). Each way runs in a process of
its own. CPU seconds are those of all threads: on a busy machine they are the figure to compare.

    python benchmarks/data_path.py --megatokens 40
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

SOURCES = {"ind": 0.25, "tha": 0.15, "vie": 0.15, "eng": 0.25, "code": 0.20}
LENGTH, BATCH, MICRO = 8192, 64, 2
TOKENS = 200_000_000_000
WAYS = ("plan of 2 billion", "plan of 20 billion", "plan of 200 billion", "batches", "datasets, packed")


def sizes(tokens: int, seed: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Lengths of documents, `tokens` in all."""
    drawn = np.random.default_rng(seed).integers(20, 4000, tokens // 2000 + 1)
    ends = np.minimum(np.cumsum(drawn), tokens)
    return np.diff(np.unique(np.append(ends, tokens)), prepend=0)


def write_source(folder: Path, name: str, tokens: int) -> None:
    """A token file, its index, and the same documents as Parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    draw, lengths = np.random.default_rng(len(name)), sizes(tokens, len(name))
    ids = draw.integers(0, 60_000, int(lengths.sum()), np.uint16)
    ids.tofile(folder / f"{name}.ds")
    ends = np.cumsum(lengths, dtype="<u8")
    ends.tofile(folder / f"{name}.ds.index")
    offsets = pa.array(np.append(0, ends).astype(np.int32))
    lists = pa.ListArray.from_arrays(offsets, pa.array(ids.astype(np.int32)))
    pq.write_table(pa.table({"input_ids": lists}), folder / f"{name}.parquet", row_group_size=1000)


def plan_of(folder: Path, tokens: int, is_sparse: bool) -> Any:
    """Our plan over the folder's files, for `tokens` tokens."""
    from sea_lion.training.batches import Part
    from sea_lion.training.mixture import MixturePlan
    from sea_lion.training.plan import IndexPlan
    from sea_lion.training.streams import TokenFile, TokenStream

    streams = []
    for name in SOURCES:
        path = folder / f"{name}.ds"
        if is_sparse:
            count, documents = int(tokens * SOURCES[name]), 1
            for file, size in ((path, 2 * count), (path.with_name(f"{path.name}.index"), 8)):
                with file.open("wb") as out:
                    out.truncate(size)
            with path.with_name(f"{path.name}.index").open("r+b") as out:
                out.write(np.uint64(count).tobytes())
        else:
            count, documents = path.stat().st_size // 2, path.with_name(f"{path.name}.index").stat().st_size // 8
        streams.append(TokenStream([TokenFile(path=path, tokens=count, documents=documents)], 2))
    counts = [int(tokens * share) // LENGTH for share in SOURCES.values()]
    parts = [Part(part=name, corpus="", language=name, source="") for name in SOURCES]
    index = IndexPlan(counts, BATCH, 7)
    return MixturePlan(parts=parts, streams=streams, index=index, length=LENGTH, vocabulary=60_000, content="")


def planned(folder: Path, tokens: int) -> dict[str, float]:
    """Seconds and memory of a plan, its first and last step and what a run of it reads."""
    import sea_lion.training.mixture  # noqa: F401 - what importing costs is not the plan's

    before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    plan = plan_of(folder, tokens, is_sparse=True)
    made = time.process_time() - begun
    for step in (1, plan.steps):
        plan.collate(plan.examples(step)[:1].tolist())
    assert sum(row["tokens"] for row in plan.read(1, plan.steps)) // LENGTH == sum(
        int(tokens * s) // LENGTH for s in SOURCES.values()
    )
    seconds = time.process_time() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"plan_seconds": made, "seconds": seconds, "added_mb": (peak - before) / 1024, "peak_mb": peak / 1024}


def batches(folder: Path, tokens: int) -> Iterator[int]:
    """Tokens of each batch that the loader gives."""
    from sea_lion.training.loader import step_data
    from sea_lion.training.processes import Processes

    plan = plan_of(folder, tokens, is_sparse=False)
    for data in step_data(plan, range(1, plan.steps + 1), Processes(rank=0, world=1, device="cpu"), MICRO):
        yield sum(batch.input_ids_RT.numel() for batch in data.micro)


def streamed(folder: Path, tokens: int) -> Iterator[int]:
    """The same of `datasets`: interleaved by probability, packed to rows in Python."""
    import datasets
    import torch

    ways = [
        datasets.load_dataset("parquet", data_files=str(folder / f"{n}.parquet"), split="train", streaming=True)
        for n in SOURCES
    ]
    mixed = datasets.interleave_datasets(
        ways, probabilities=list(SOURCES.values()), seed=7, stopping_strategy="all_exhausted"
    )  # fmt: skip
    room: list[int] = []
    done = 0
    for row in mixed:
        room += row["input_ids"]
        while len(room) > MICRO * LENGTH:
            ids = torch.tensor(room[: MICRO * LENGTH]).view(MICRO, LENGTH)
            del room[: MICRO * LENGTH]
            yield ids.numel()
            done += ids.numel()
        if done >= tokens:
            return


def measured(way: str, folder: Path, tokens: int) -> dict[str, float]:
    """The figures of one way, in this process."""
    if way.startswith("plan"):
        return planned(folder, int(way.split()[2]) * 1_000_000_000)
    source = batches(folder, tokens) if way == "batches" else streamed(folder, tokens)
    count = next(source)  # the imports and the first files
    begun, wall = time.process_time(), time.perf_counter()
    count = sum(source)
    cpu = time.process_time() - begun
    return {"mtok_per_cpu_second": count / 1e6 / cpu, "mtok_per_second": count / 1e6 / (time.perf_counter() - wall)}


def main() -> None:
    """Measure all ways and print them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--megatokens", type=int, default=40)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    tokens = given.megatokens * 1_000_000
    if given.way:
        print(json.dumps(measured(given.way, given.folder, tokens)))
        return
    found = {}
    with tempfile.TemporaryDirectory() as base:
        real, sparse = Path(base) / "real", Path(base) / "sparse"
        real.mkdir()
        sparse.mkdir()
        for name, share in SOURCES.items():
            write_source(real, name, int(tokens * share))
        for way in WAYS:
            folder = sparse if way.startswith("plan") else real
            command = [sys.executable, __file__, "--way", way, "--folder", str(folder), "--megatokens", str(given.megatokens)]
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": f"{base}/hub"}
            out = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
            found[way] = json.loads(out.splitlines()[-1])
            print(f"{way:20}  " + ", ".join(f"{name} {value:.3g}" for name, value in found[way].items()), flush=True)
    print(json.dumps({"benchmark": "data_path", "tokens": tokens, "length": LENGTH, "ways": found}))


if __name__ == "__main__":
    main()
