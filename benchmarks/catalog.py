"""What the catalog's questions cost, beside polars, pyarrow and SQLite on the same files, and what taking in slots costs.

    python benchmarks/catalog.py [--documents 1000000] [--manifests 10000] [--repeats 3] [--folder FOLDER] [--keep]

`catalog_synthetic.py` makes a catalog of each number of documents; every question is then asked of every engine in a process of
its own, in turn, and all must give the same rows. Figures are CPU seconds of the answer, the least of the repeats; a shared
machine makes wall times worthless. With several `--documents` the table says how the cost grows from the first on. The table
of RESULTS.md: `--documents 10000000 100000000 --manifests 100000`; it takes half an hour and 20 GB. Prints tables and a JSON
line.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from catalog_ingest import RUNNING  # type: ignore[import-not-found]  # the folder of a script is on its path
from catalog_peers import ANSWERS, Files  # type: ignore[import-not-found]
from catalog_questions import QUESTIONS, needed  # type: ignore[import-not-found]
from catalog_slots import write_slots  # type: ignore[import-not-found]
from catalog_sqlite import OF_DOCUMENTS, load  # type: ignore[import-not-found]
from catalog_synthetic import make  # type: ignore[import-not-found]
from corpus_tables import table  # type: ignore[import-not-found]

ENGINES = ("ours", "polars", "pyarrow", "sqlite")
MOST_SHARDS = 100_000
SQLITE_DOCUMENTS = 10_000_000
"""Of more, SQLite is not asked: loading 10 million takes minutes, and its file is larger than the Parquet files."""
NEW_SLOTS = 1_000
MEMORY_MB = 2_000
INGEST = {
    "ingest": (5.0, "all manifests, no index and no ledger"),
    "again": (None, "again, nothing new"),
    "new": (1.0, f"{NEW_SLOTS:,} new manifests"),
    "fold": (None, "folding what is in no ledger yet"),
    "rebuild": (None, "rebuild from the ledgers"),
    "funnel": (0.2, "funnel of the running build"),
    "tokens": (0.2, "tokens of the running build"),
}
"""Step to its target in CPU seconds and its title."""


def run(script: str, *arguments: object) -> dict[str, Any]:
    """The JSON line of a script in a process of its own."""
    command = [sys.executable, str(Path(__file__).with_name(script)), *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def prepared(folder: Path, documents: int, workers: int) -> tuple[Files, dict[str, Any]]:
    """A catalog of so many documents with its index, and what making it came to."""
    started = time.perf_counter()
    make(folder, documents, min(MOST_SHARDS, documents // 100), workers)
    files = Files(root=folder)
    # The middle row of the largest file: a domain and an id that no engine has reason to meet early.
    path = max(files.documents, key=os.path.getsize)
    group = pq.ParquetFile(path).read_row_group(
        pq.read_metadata(path).num_row_groups // 2, columns=["domain", "id", "language"]
    )
    probes = group.slice(len(group) // 2, 1).to_pylist()[0]
    (folder / "probes.json").write_text(json.dumps(probes), "utf-8")
    files = Files(root=folder, **probes)
    made = {
        "documents": documents,
        "seconds": time.perf_counter() - started,
        "index": run("catalog_ingest.py", files.catalog, "rebuild"),
    }
    began = time.process_time()
    if not files.database.is_file():
        load(files, with_documents=documents <= SQLITE_DOCUMENTS)
    made |= {"sqlite_s": time.process_time() - began, "sqlite_bytes": files.database.stat().st_size}
    for name in ("documents", "ids"):
        made[f"{name}_bytes"] = sum(Path(path).stat().st_size for path in getattr(files, name))
    return files, made


def questioned(
    files: Files, documents: int, names: Sequence[str], engines: Sequence[str], repeats: int
) -> list[dict[str, Any]]:
    """The figures of every question and engine."""
    rows = []
    for name in names:
        asked = [engine for engine in engines if engine == "ours" or name in ANSWERS]
        if name in OF_DOCUMENTS and documents > SQLITE_DOCUMENTS:
            asked = [engine for engine in asked if engine != "sqlite"]
        found: dict[str, list[dict[str, Any]]] = {engine: [] for engine in asked}
        for _ in range(repeats):
            for engine in asked:
                found[engine].append(run("catalog_questions.py", files.root, name, engine))
        best = {engine: min(runs, key=lambda run: run["cpu_s"]) for engine, runs in found.items()}
        digests = {run["digest"] for runs in found.values() for run in runs}
        rows.append(
            {"question": name, "documents": documents, "needed": needed(files, QUESTIONS[name]), "agree": len(digests) == 1}
            | best
        )
        costs = ", ".join(f"{engine} {run['cpu_s']:.2f} s" for engine, run in best.items())
        print(f"{documents:,} documents: {name}: {costs}", file=sys.stderr)
    return rows


def ingested(root: Path, manifests: int, repeats: int) -> dict[str, dict[str, Any]]:
    """The figures of taking in slots, each the best of the repeats."""
    planned = manifests + repeats * NEW_SLOTS
    write_slots(root, RUNNING, planned, range(manifests))
    found: dict[str, list[dict[str, Any]]] = {step: [] for step in INGEST}
    for _ in range(repeats):
        (root / "catalog.duckdb").unlink(missing_ok=True)
        for ledgers in root.glob("slots/**/ledgers"):
            shutil.rmtree(ledgers)
        found["ingest"].append(run("catalog_ingest.py", root, "refresh"))
        found["again"].append(run("catalog_ingest.py", root, "refresh"))
    for number in range(repeats):
        write_slots(root, RUNNING, planned, range(manifests + number * NEW_SLOTS, manifests + (number + 1) * NEW_SLOTS))
        found["new"].append(run("catalog_ingest.py", root, "refresh"))
    found["fold"].append(run("catalog_ingest.py", root, "fold"))
    for step in ("rebuild", "funnel", "tokens"):
        found[step] = [run("catalog_ingest.py", root, step) for _ in range(repeats)]
    return {step: min(runs, key=lambda run: run["cpu_s"]) for step, runs in found.items()}


def met(figures: dict[str, Any], target: float | None) -> str:
    """Whether a target is kept, the one on memory as well."""
    if target is None:
        return ""
    return "yes" if figures["cpu_s"] < target and figures["peak_mb"] < MEMORY_MB else "**no**"


def print_questions(rows: Sequence[dict[str, Any]], first: int) -> None:
    """One table for each number of documents."""
    base = {row["question"]: row["ours"]["cpu_s"] for row in rows if row["documents"] == first}
    for documents in sorted({row["documents"] for row in rows}):
        chosen = [row for row in rows if row["documents"] == documents]
        table(
            f"{documents:,} documents",
            (
                "question",
                "target, CPU s",
                "ours",
                "met",
                "wall s",
                "peak MB",
                "MB needed",
                "MB read",
                "rows",
                "growth",
                *ENGINES[1:],
            ),
            (
                (
                    QUESTIONS[row["question"]].title,
                    QUESTIONS[row["question"]].target or "",
                    f"{row['ours']['cpu_s']:.3f}",
                    met(row["ours"], QUESTIONS[row["question"]].target),
                    f"{row['ours']['wall_s']:.2f}",
                    f"{row['ours']['peak_mb']:,.0f}",
                    f"{row['needed'] / 1e6:,.1f}" if row["needed"] else "",
                    f"{row['ours']['read_bytes'] / 1e6:,.1f}",
                    f"{row['ours']['rows']:,}" + ("" if row["agree"] else " **differ**"),
                    f"{row['ours']['cpu_s'] / base[row['question']]:.1f}x" if documents != first else "",
                    *(f"{row[engine]['cpu_s'] / row['ours']['cpu_s']:.2f}x" if engine in row else "" for engine in ENGINES[1:]),
                )
                for row in chosen
            ),
        )


def print_ingest(found: dict[str, dict[str, Any]], manifests: int) -> None:
    """What taking in slots costs."""
    table(
        f"{manifests:,} manifests of slots",
        ("step", "target, CPU s", "CPU s", "met", "wall s", "peak MB"),
        (
            (INGEST[step][1], INGEST[step][0] or "", f"{row['cpu_s']:.2f}", met(row, INGEST[step][0]), f"{row['wall_s']:.2f}",
             f"{row['peak_mb']:,.0f}")
            for step, row in found.items()
        ),
    )  # fmt: skip


def print_made(made: Sequence[dict[str, Any]]) -> None:
    """What the catalogs are."""
    table(
        "The catalogs",
        ("documents", "MB, documents", "MB, ids", "rebuild, CPU s", "peak MB", "SQLite: load, CPU s", "MB"),
        (
            (
                f"{one['documents']:,}", f"{one['documents_bytes'] / 1e6:,.0f}", f"{one['ids_bytes'] / 1e6:,.0f}",
                f"{one['index']['cpu_s']:.1f}", f"{one['index']['peak_mb']:,.0f}", f"{one['sqlite_s']:.0f}",
                f"{one['sqlite_bytes'] / 1e6:,.0f}",
            )
            for one in made
        ),
    )  # fmt: skip


def main() -> None:
    """Make, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, nargs="+", default=[1_000_000], help="a catalog of each size")
    parser.add_argument("--manifests", type=int, default=10_000, help="slots that are taken in; 0 for none")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="*", choices=QUESTIONS, default=list(QUESTIONS), help="questions")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes that make the documents")
    parser.add_argument("--folder", type=Path, help="where the catalogs are made; a temporary folder otherwise")
    parser.add_argument("--keep", action="store_true", help="leave them there, and use those that are there")
    options = parser.parse_args()
    loads = [os.getloadavg()[0]]
    made: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="sea-lion-benchmark-") as temporary:
        root = (options.folder or Path(temporary)).absolute()
        for documents in sorted(options.documents) if options.only else ():
            folder = root / f"catalog-{documents}"
            files, one = prepared(folder, documents, options.workers)
            made.append(one)
            rows += questioned(files, documents, options.only, options.engines, options.repeats)
            if not options.keep:
                shutil.rmtree(folder)
        found = ingested(Path(temporary) / "running", options.manifests, options.repeats) if options.manifests else {}
    if made:
        print_made(made)
        print_questions(rows, min(options.documents))
    if found:
        print_ingest(found, options.manifests)
    loads.append(os.getloadavg()[0])
    print(f"\nLoad average {loads[0]:.1f}, then {loads[1]:.1f}, on {os.cpu_count()} cores; best of {options.repeats}.\n")
    print(
        json.dumps(
            {"benchmark": "catalog", "made": made, "questions": rows, "ingest": found, "load": loads, "cores": os.cpu_count()}
        )
    )


if __name__ == "__main__":
    main()
