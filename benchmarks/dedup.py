"""De-duplication: documents a second of CPU and peak memory, ours beside datatrove's MinHash stages, on the same documents.

The documents are made of the sample articles: spans of three words drawn at random, so that unrelated documents share no
shingle, 1,500 characters long in the mean, half of them in languages written without spaces. 10% are near duplicates (1 to 8%
of the words replaced in one place), 5% exact ones. Pairs found are compared with the pairs that were made.

datatrove gets its words from ICU, the fastest way (`cheap`), or from the tokenizers that it chooses by itself (`stock`, where
they are installed). Every run is a process of its own with one worker: its CPU seconds, and the resident memory of its tree.

    python benchmarks/dedup.py --documents 10000 100000 --datatrove-up-to 100000
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import redirect_stderr, suppress
from importlib.resources import files
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from sea_lion.catalog.languages import LANGUAGES
from sea_lion.catalog.tables import render
from sea_lion.data.segment import words

LANGUAGE_CODES = ("ind", "vie", "tam", "tha", "cmn", "khm")
STOCK = {"ind": "ind_Latn", "vie": "vie_Latn", "tam": "tam_Taml", "tha": "tha_Thai", "cmn": "cmn_Hani", "khm": "khm_Khmr"}
SPAN = 3
FILE_DOCUMENTS = 20_000
NEAR, EXACT = 0.10, 0.05
MEMORY_LIMIT = "600MB"


def vocabulary(code: str) -> list[str]:
    """All spans of `SPAN` words in the sample articles of a language."""
    text = files("sea_lion").joinpath(f"data/sample/articles/{code}.jsonl").read_text("utf-8")
    found = words(" ".join(part for line in text.splitlines() for part in json.loads(line)["paragraphs"]), code)
    glue = " " if LANGUAGES[code].is_spaced else ""
    return [glue.join(found[i : i + SPAN]) for i in range(len(found) - SPAN + 1)]


def near(original: Any, count_of_spans: int, generator: np.random.Generator) -> Any:
    """A copy of a document's spans with up to 8% of them replaced, in one place."""
    copy = original.copy()
    changed = max(1, int(len(copy) * generator.uniform(0.01, 0.08)))
    start = int(generator.integers(len(copy) - changed + 1))
    copy[start : start + changed] = generator.integers(count_of_spans, size=changed)
    return copy


def documents(code: str, count: int, generator: np.random.Generator) -> Iterator[dict[str, Any]]:
    """Documents of a language; `truth` is the number of the original. Originals of duplicates are among the first 50,000."""
    spans, glue = vocabulary(code), " " if LANGUAGES[code].is_spaced else ""
    length = float(np.mean([len(span) + len(glue) for span in spans]))
    originals: list[tuple[int, Any]] = []
    for i in range(count):
        kind, truth = generator.random(), i
        if originals and kind < NEAR + EXACT:
            truth, drawn = originals[int(generator.integers(len(originals)))]
            if kind < NEAR:
                drawn = near(drawn, len(spans), generator)
        else:
            size = max(8, int(generator.lognormal(7.19, 0.5) / length))
            drawn = generator.integers(len(spans), size=size).astype(np.uint16)
            if len(originals) < 50_000:
                originals.append((i, drawn))
        text = glue.join([spans[j] for j in drawn])
        yield {"id": generator.bytes(16).hex(), "source": "web", "file": code, "offset": i, "text": text, "truth": truth}


def make(folder: Path, count: int) -> None:
    """Write the documents as `spool/<language>/<number>.parquet`."""
    for seed, code in enumerate(LANGUAGE_CODES):
        made, number = documents(code, count // len(LANGUAGE_CODES), np.random.default_rng(seed)), 0
        (folder / "spool" / code).mkdir(parents=True)
        while rows := list(islice(made, FILE_DOCUMENTS)):
            rows.sort(key=lambda row: str(row["id"]))
            path = folder / "spool" / code / f"{number:06}.parquet"
            pq.write_table(pa.Table.from_pylist(rows), path, compression="zstd", row_group_size=1_000)
            number += 1


def spools(folder: Path) -> list[Path]:
    """The files of documents, in order."""
    return sorted(folder.glob("spool/*/*.parquet"))


def run_ours(folder: Path) -> dict[str, float]:
    """Signatures and verdicts; CPU seconds of both."""
    from sea_lion.data.dedup import resolve, write_signatures
    from sea_lion.data.recipe import Deduplication

    settings, paths = Deduplication(), []
    begin = time.process_time()
    for spool in spools(folder):
        paths.append(folder / "signatures" / spool.parent.name / spool.name)
        paths[-1].parent.mkdir(parents=True, exist_ok=True)
        write_signatures(spool, paths[-1], spool.parent.name, settings)
    between = time.process_time()
    resolve(paths, folder / "verdicts.parquet", settings, memory_limit=MEMORY_LIMIT, temp=folder / "temp")
    return {"sign": between - begin, "resolve": time.process_time() - between}


def run_datatrove(folder: Path, tokenizer: str) -> dict[str, float]:
    """datatrove's four stages, one task a file; CPU seconds of the first, and of the others."""
    from datatrove.data import Document
    from datatrove.pipeline.dedup.minhash import (
        MinhashConfig,
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )  # fmt: skip
    from datatrove.utils.hashing import HashConfig
    from datatrove.utils.word_tokenizers import WhitespaceTokenizer, load_word_tokenizer

    class Cheap(WhitespaceTokenizer):  # type: ignore[misc]  # datatrove is untyped
        def __init__(self, code: str) -> None:
            super().__init__()
            self.code = code

        def word_tokenize(self, text: str) -> list[str]:
            return words(text, self.code)

    def read(path: Path) -> Iterator[Document]:
        for batch in pq.ParquetFile(path).iter_batches(1_000, columns=["id", "text"]):
            for row in batch.to_pylist():
                yield Document(text=row["text"], id=row["id"])

    def tokenizer_of(code: str) -> Any:
        return load_word_tokenizer(STOCK[code]) if tokenizer == "stock" else Cheap(code)

    config = MinhashConfig(hash_config=HashConfig(precision=64, hash_fc="sha1"))
    signed, pairs, removed = (str(folder / name) for name in ("signed", "pairs", "removed"))
    begin = time.process_time()
    stage = MinhashDedupSignature(output_folder=signed, config=config, language=tokenizer_of(LANGUAGE_CODES[0]))
    for rank, path in enumerate(spools(folder)):
        if path.name == "000000.parquet":
            stage.word_tokenizer = tokenizer_of(path.parent.name)
        stage.run(read(path), rank)
    between = time.process_time()
    for bucket in range(config.num_buckets):
        MinhashDedupBuckets(signed, pairs, config=config, lines_to_buffer=1_000).run(None, bucket, config.num_buckets)
    with redirect_stderr(StringIO()):  # it draws a progress bar, terminal or not
        MinhashDedupCluster(pairs, removed, config=config, save_cluster_id=True, lines_to_buffer=1_000).run(None, 0, 1)
    for rank, path in enumerate(spools(folder)):
        for _ in MinhashDedupFilter(removed, load_cluster_ids=True, lines_to_buffer=1_000).run(read(path), rank):
            pass
    return {"sign": between - begin, "resolve": time.process_time() - between}


def found_clusters(folder: Path, kind: str) -> Iterator[str]:
    """The cluster of each document, in the order of `spools`; unique where it is alone."""
    if kind == "ours":
        yield from pq.read_table(folder / "verdicts.parquet", columns=["cluster"])["cluster"].to_pylist()
        return
    for rank, path in enumerate(spools(folder)):
        names = [f"{rank} {i}" for i in range(pq.read_metadata(path).num_rows)]
        clusters = folder / "removed" / f"{rank:06}.clusters"
        if clusters.exists():
            for row, cluster in np.fromfile(clusters, "<u4").reshape(-1, 2).tolist():
                names[row] = f"cluster {cluster}"
        yield from names


def quality(folder: Path, kind: str) -> dict[str, float]:
    """Precision and recall of the pairs of documents in one cluster."""
    truths = [
        f"{path.parent.name} {truth}" for path in spools(folder)
        for truth in pq.read_table(path, columns=["truth"])["truth"].to_pylist()
    ]  # fmt: skip
    clusters = list(found_clusters(folder, kind))
    assert len(clusters) == len(truths), "a document has no verdict, or two"
    both, found, true = (
        sum(n * (n - 1) // 2 for n in Counter(keys).values()) for keys in (zip(clusters, truths, strict=True), clusters, truths)
    )
    return {"precision": both / max(found, 1), "recall": both / max(true, 1)}


def measured(kind: str, folder: Path) -> dict[str, Any] | None:
    """CPU seconds, peak bytes and quality of one run in a process of its own; None where a tokenizer is not installed."""
    command = [sys.executable, __file__, "--run", kind, "--folder", str(folder)]
    process, peak = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True), 0
    tree = psutil.Process(process.pid)
    while process.poll() is None:
        with suppress(psutil.NoSuchProcess):
            peak = max(peak, sum(member.memory_info().rss for member in [tree, *tree.children(recursive=True)]))
        time.sleep(0.05)
    out, errors = process.communicate()
    if process.returncode and "ImportError" in errors:
        return None
    if process.returncode:
        raise SystemExit(errors)
    return {**json.loads(out.splitlines()[-1]), "peak_mb": peak // 1_000_000, **quality(folder, kind)}


def row_of(kind: str, count: int, figures: dict[str, Any]) -> dict[str, Any]:
    """A row of the table."""
    total = figures["sign"] + figures["resolve"]
    return {
        "documents": count, "what": kind, "documents_a_second": round(count / total), "sign_s": round(figures["sign"], 1),
        "resolve_s": round(figures["resolve"], 1), "peak_mb": figures["peak_mb"],
        "precision": round(figures["precision"], 4), "recall": round(figures["recall"], 4),
    }  # fmt: skip


def main() -> None:
    """Measure every size, and print a table and a line of JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--documents", type=int, nargs="+", default=[10_000], help="sizes")
    parser.add_argument("--datatrove-up-to", type=int, default=10_000, help="largest size that datatrove is run with")
    parser.add_argument("--stock-up-to", type=int, default=2_000, help="largest size with its own tokenizers")
    parser.add_argument("--run", choices=["ours", "cheap", "stock"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        found = run_ours(arguments.folder) if arguments.run == "ours" else run_datatrove(arguments.folder, arguments.run)
        print(json.dumps(found))
        return
    limits = {"ours": max(arguments.documents), "cheap": arguments.datatrove_up_to, "stock": arguments.stock_up_to}
    rows = []
    for count in arguments.documents:
        with tempfile.TemporaryDirectory() as scratch:
            make(Path(scratch), count)
            for kind, limit in limits.items():
                figures = measured(kind, Path(scratch)) if count <= limit else None
                if figures:
                    rows.append(row_of(kind if kind == "ours" else f"datatrove, {kind}", count, figures))
                    print(f"{count} {kind}: {rows[-1]}", file=sys.stderr, flush=True)
    print(render(list(rows[0]), [tuple(row.values()) for row in rows], "markdown"))
    print(json.dumps({"benchmark": "dedup", "rows": rows}))


if __name__ == "__main__":
    main()
