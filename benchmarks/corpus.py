"""What a crawl costs by this project and by datatrove's own order: CPU, memory, what is kept, what a month of crawl comes to.

    python benchmarks/corpus.py [--responses 3000] [--repeats 3] [--only stock default] [--builds 3000 9000 30000]

`crawl.py` makes one WARC file, 95% of it in languages that nobody wants. Each way through it (`ways.py`) runs in a process of
its own that is bound to one core; the ways take turns in every round, and a ratio is that of two CPU times of the same round,
as a shared machine is faster in one minute than in the next. Starting up is left out. Memory is that of the whole tree of
processes, what several of them share counted once. Then whole builds (`sea-lion build`) of crawls of several sizes. Prints
Markdown tables and a JSON line. `--keep FOLDER` keeps the crawls, and finds them again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import pyarrow.parquet as pq

# the folder of a script is on its path
from corpus_tables import print_builds, print_costs, print_recall, table  # type: ignore[import-not-found]
from crawl import CRAWL as MONTH  # type: ignore[import-not-found]
from crawl import write_crawl, write_samples
from pages import real_pages  # type: ignore[import-not-found]
from ways import CRAWL, FLOORS, WARM, WAYS, wanted  # type: ignore[import-not-found]

from sea_lion.data.columnar import write_index
from sea_lion.data.fetch import fetch
from sea_lion.data.language import claimed
from sea_lion.data.plan import Selection, plan_rows
from sea_lion.data.urls import BUNDLED, UrlList
from sea_lion.data.warc import responses

FILE_RESPONSES = 3_000
"""Responses a WARC file of the builds."""
SAMPLE_SECONDS = 0.2
MONTH_PAGES, MONTH_TERABYTES, MONTH_WANTED = 2.5e9, 80, 0.0755
"""A monthly crawl: CC-MAIN-2024-42 has 2.495 G pages, 7.55% of them in the ten languages by CLD2."""

RECIPE = """kind = "corpus"
name = "corpus/benchmark"
version = "1"
licence = "Apache-2.0"
languages = {languages}
[[source]]
name = "web"
form = "warc"
files = ["{folder}/*.warc.gz"]
crawl = "{crawl}"
"""


@dataclass(slots=True)
class Memory:
    """The largest memory of a tree of processes, looked at five times a second, in bytes."""

    pid: int
    tree: int = 0
    """All of it, shared pages counted once."""
    process: int = 0
    """Resident memory of the largest process."""
    ended: threading.Event = field(default_factory=threading.Event)

    def watch(self) -> None:
        """Look until `ended`."""
        while not self.ended.wait(SAMPLE_SECONDS):
            try:
                root = psutil.Process(self.pid)
                found = [process.memory_full_info() for process in [root, *root.children(recursive=True)]]
            except psutil.Error:  # one has ended
                continue
            self.tree = max(self.tree, sum(each.pss for each in found))
            self.process = max(self.process, *(each.rss for each in found))


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A command that has ended."""

    output: str
    cpu_s: float
    """Of the command and all its descendants."""
    memory: Memory


def run(command: Sequence[str], **environment: str) -> Run:
    """Run a command to its end."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | environment) as process:
        memory = Memory(process.pid)
        watcher = threading.Thread(target=memory.watch)
        watcher.start()
        assert process.stdout is not None
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        memory.ended.set()
        watcher.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return Run(output=output, cpu_s=usage.ru_utime + usage.ru_stime, memory=memory)


def prepare(folder: Path, cache: Path, count: int) -> None:
    """The crawl, the warm-up file, the index and plan of each, and the compiled URL lists; made once."""
    if (folder / "index.parquet").is_file():
        return
    pages = real_pages(cache)
    write_crawl(folder, pages, count)
    assert f"{MONTH}-00000" == CRAWL
    write_samples(folder / f"{WARM}.warc.gz", pages)
    for name in (WARM, CRAWL):
        write_index([folder / f"{name}.warc.gz"], folder, folder / f"{name}.index", MONTH)
        plan_rows([str(folder / f"{name}.index")], folder / f"{name}.plan.parquet", Selection(languages=wanted()))
    for bundled in BUNDLED:
        UrlList.compiled(bundled, folder / "urls")
    (folder / f"{CRAWL}.index").rename(folder / "index.parquet")


def rounds(folder: Path, names: Sequence[str], repeats: int, core: int) -> dict[str, list[dict[str, float]]]:
    """The figures of every way, round by round."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for number in range(repeats):
        for name in names:
            command = [sys.executable, str(Path(__file__).with_name("ways.py")), name, str(folder), "--core", str(core)]
            done = run([*command, "--into", str(folder / f"{name}.jsonl")], HF_ASSETS_CACHE=str(folder / "assets"))
            figures = json.loads(done.output.splitlines()[-1])
            found[name].append(figures | {"tree_bytes": done.memory.tree, "process_bytes": done.memory.process})
            print(f"round {number + 1}: {name}, {figures['cpu_s']:.2f} s, load {os.getloadavg()[0]:.1f}", file=sys.stderr)
    return found


def costs(found: dict[str, list[dict[str, float]]], count: int) -> list[dict[str, Any]]:
    """CPU and memory of every way; ratios to the stock order within a round."""
    rows = []
    for name, runs in found.items():
        times = [each["cpu_s"] for each in runs]
        ratios = [base["cpu_s"] / seconds for base, seconds in zip(found.get("stock", ()), times, strict=False)]
        rows.append(
            {
                "way": name,
                "ms": 1000 * min(times) / count,
                "ms_all": [1000 * seconds / count for seconds in times],
                "ratio": [min(ratios), median(ratios), max(ratios)] if ratios else [],
                "kept": int(runs[0]["kept"]),
                "ms_kept": 1000 * min(times) / runs[0]["kept"] if runs[0]["kept"] else None,
                "start_s": min(each["start_cpu_s"] for each in runs),
                "tree_mb": max(each["tree_bytes"] for each in runs) / 1e6,
                "process_mb": max(each["process_bytes"] for each in runs) / 1e6,
            }
        )
    return rows


def kept(folder: Path, name: str) -> dict[str, dict[str, str]]:
    """What a way kept in the last round, by address."""
    rows = map(json.loads, (folder / f"{name}.jsonl").read_text("utf-8").splitlines())
    return {row["url"]: row for row in rows}


def recall(folder: Path, names: Iterable[str]) -> list[dict[str, Any]]:
    """What each way keeps beside the stock order, and beside what is in the crawl."""
    truth = {row["url"]: row["language"] for row in pq.read_table(folder / "truth.parquet").to_pylist()}
    right = {url for url, language in truth.items() if language in wanted()}
    stock, rows = kept(folder, "stock"), []
    for name in names:
        ours = kept(folder, name)
        both = stock.keys() & ours.keys()
        lost, beyond = stock.keys() - ours.keys(), ours.keys() - stock.keys()
        rows.append(
            {
                "way": name,
                "of_stock": len(both) / len(stock),
                "lost": reasons(folder, name, lost) if name != "stock" else {},
                "beyond": dict(Counter(truth[url] for url in sorted(beyond)).most_common()),
                "of_wanted": len(right & ours.keys()) / len(right),
                "missed": reasons(folder, name, right - ours.keys()) if name != "stock" else {},
                "unwanted": len(ours.keys() - right),
                "identical": sum(stock[url]["text"] == ours[url]["text"] for url in both) / len(both),
                "overlap": sum(overlap(stock[url]["text"], ours[url]["text"]) for url in both) / len(both),
                "length": sum(len(ours[url]["text"]) for url in both) / sum(len(stock[url]["text"]) for url in both),
            }
        )
    return rows


def overlap(one: str, other: str) -> float:
    """How much two texts share: F1 of their runs of five characters."""
    bags = [Counter(text[i : i + 5] for i in range(len(text) - 4)) for text in (one, other)]
    total = bags[0].total() + bags[1].total()
    return 2 * (bags[0] & bags[1]).total() / total if total else 1.0


def reasons(folder: Path, name: str, urls: Iterable[str]) -> dict[str, int]:
    """Why a way dropped pages: stage and reason, as its ledger has them, and as the reader and the gate say again."""
    why = {row["url"]: f"{row['stage']}: {row['reason']}" for row in pq.read_table(folder / f"{name}.removals").to_pylist()}
    missing = set(urls) - why.keys()
    for response in responses(folder / f"{CRAWL}.warc.gz") if missing else ():
        if response.url in missing:
            gate = claimed(response.claim, wanted())[1]
            last = "not planned" if name == "index" else "sample"
            why[response.url] = f"read: {response.fault}" if response.fault else f"gate: {gate}" if gate else last
    return dict(Counter(why[url] for url in sorted(urls)).most_common())


def index_first(folder: Path) -> dict[str, float]:
    """Bytes that the plan's records take, and bytes that are fetched for them."""
    plan = plan_rows([str(folder / "index.parquet")], folder / "again.plan", Selection(languages=wanted()))
    with tempfile.TemporaryDirectory(dir=folder) as fetched:
        tally = sum((Counter(batch.tally) for batch in fetch(plan.batches(), str(folder), Path(fetched))), Counter[str]())
    whole = (folder / f"{CRAWL}.warc.gz").stat().st_size
    return {
        "records": plan.records,
        "planned": plan.bytes,
        "fetched": tally["bytes"],
        "requests": tally["requests"],
        "file": whole,
    }


def build(root: Path, cache: Path, count: int) -> dict[str, float]:
    """A whole build of a crawl of `count` responses with one worker."""
    crawl, catalog = root / f"build-{count}", root / f"catalog-{count}"
    if not (crawl / "truth.parquet").is_file():
        write_crawl(crawl, real_pages(cache), count, files=max(1, round(count / FILE_RESPONSES)))
    recipe = root / f"build-{count}.toml"
    languages = json.dumps(wanted())
    recipe.write_text(RECIPE.format(languages=languages, folder=crawl, crawl=MONTH), "utf-8")
    shutil.rmtree(catalog, ignore_errors=True)
    done = run([sys.executable, "-m", "sea_lion", "build", str(recipe), "--catalog", str(catalog), "--workers", "1"])
    body = json.loads(next(catalog.glob("corpus/benchmark/1/artifact.json")).read_text("utf-8"))["body"]
    shutil.rmtree(catalog)
    return {
        "responses": count,
        "documents": body["documents_out"],
        "cpu_s": done.cpu_s,
        "ms": 1000 * done.cpu_s / count,
        "tree_mb": done.memory.tree / 1e6,
        "process_mb": done.memory.process / 1e6,
    }


def monthly(rows: Sequence[dict[str, Any]], share: float, dollars: float) -> list[dict[str, Any]]:
    """A monthly crawl by each way: core-hours and dollars, at the crawl's share of wanted pages and at Common Crawl's."""
    ms = {row["way"]: row["ms"] for row in rows}
    found = []
    for name in (name for name in ms if name not in FLOORS):
        like = "default" if name == "unannotated" else name
        is_known = name in ("stock", "index") or {"gate", like} <= ms.keys()
        # what grows with the wanted pages: of the stock order nothing, of the others all that comes behind the gate
        growing = 0.0 if name == "stock" else ms[name] if name == "index" else ms[like] - ms["gate"] if is_known else 0.0
        month = ms[name] + growing * (MONTH_WANTED / share - 1)
        hours = [each / 1000 * MONTH_PAGES / 3600 for each in (ms[name], month)]
        found.append({"way": name, "hours": hours, "dollars": [each * dollars for each in hours], "is_known": is_known})
    return found


def compared(root: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Measure the ways on one file, and print."""
    folder = root / f"ways-{options.responses}"
    prepare(folder, options.cache, options.responses)
    found = rounds(folder, options.only, options.repeats, options.core)
    rows = costs(found, options.responses)
    print_costs(rows)
    result: dict[str, Any] = {"costs": rows}
    names = [name for name in options.only if name not in FLOORS]
    if "stock" in names:
        result["recall"] = recall(folder, names)
        print_recall(result["recall"])
    if "index" in names:
        sizes = result["index"] = index_first(folder)
        ratio = sizes["fetched"] / sizes["planned"]
        print(
            f"\nIndex first: {sizes['records']} records of {sizes['planned']:,} bytes, fetched in {sizes['requests']} requests "
            f"of {sizes['fetched']:,} bytes ({ratio:.3f} times), from a file of {sizes['file']:,}."
        )
    truth = pq.read_table(folder / "truth.parquet", columns=["language"])["language"].to_pylist()
    share = sum(language in wanted() for language in truth) / len(truth)
    result["month"] = monthly(rows, share, options.dollars)
    table(
        f"A monthly crawl: {MONTH_PAGES / 1e9} G pages, about {MONTH_TERABYTES} TB; ${options.dollars} a core-hour",
        (
            "way",
            f"core-hours at {share:.1%} wanted, as here",
            "dollars",
            f"core-hours at {MONTH_WANTED:.2%}, as there",
            "dollars",
        ),
        (
            (WAYS[row["way"]][0], *(f"{row[key][i]:,.0f}" for i in (0, 1) for key in ("hours", "dollars")))
            for row in result["month"]
            if row["is_known"]
        ),
    )
    return result


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--responses", type=int, default=3_000, help="in the file that the ways go through")
    parser.add_argument("--repeats", type=int, default=2, help="rounds")
    parser.add_argument("--only", nargs="+", choices=WAYS, default=list(WAYS), help="ways to measure")
    parser.add_argument("--builds", type=int, nargs="*", default=[1_000, 3_000], help="responses of the crawls that are built")
    parser.add_argument("--cache", type=Path, default=Path("artifacts/.pages"), help="where the pages' packages are kept")
    parser.add_argument("--keep", type=Path, help="a folder for the crawls; a temporary one otherwise")
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)), help="the core that the ways are bound to")
    parser.add_argument("--dollars", type=float, default=0.04, help="price of a core-hour")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = (options.keep or Path(temporary)).absolute()
        root.mkdir(parents=True, exist_ok=True)
        loads = [os.getloadavg()[0]]
        result = compared(root, options) if options.only else {}
        result["builds"] = [build(root, options.cache, count) for count in sorted(set(options.builds))]
        if result["builds"]:
            print_builds(result["builds"])
        loads.append(os.getloadavg()[0])
    result |= {"benchmark": "corpus", "responses": options.responses, "load": loads, "cores": os.cpu_count()}
    print(f"\nLoad average {loads[0]:.1f}, then {loads[1]:.1f}, on {os.cpu_count()} cores; {options.repeats} rounds.\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
