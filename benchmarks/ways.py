"""The ways through a crawl that `corpus.py` compares, and the measuring of one of them in a process of its own.

    python benchmarks/ways.py WAY FOLDER --into FILE --core N

The folder holds what `corpus.py` puts there. The process is bound to one core. It works on a file of ten pages first, so that
imports, models, URL lists and the start of the extraction's child are no part of the figure; that is then the CPU time, system
time included, of this process and all its descendants. Prints a JSON line.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import psutil

WARM, CRAWL = "warm", "CC-MAIN-2024-18-00000"
"""Names, without endings, of the two WARC files and their plans."""
PIECE = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A document that a way keeps."""

    url: str
    language: str
    """As the way calls it."""
    text: str


Between = Callable[[], None]
"""To be called when the first file has gone through."""
Extractor = Literal["trafilatura", "trafilatura-precision", "resiliparse"]


def cpu() -> float:
    """CPU seconds so far of this process and its descendants, living or reaped."""
    me = psutil.Process()
    return sum(sum(process.cpu_times()[:4]) for process in [me, *me.children(recursive=True)])


def wanted() -> tuple[str, ...]:
    """The languages of SEA-LION-Pile-v2."""
    from sea_lion.catalog.languages import LANGUAGES

    return tuple(code for code in LANGUAGES if code != "eng")


def stock_order(folder: Path, between: Between) -> Iterator[Kept]:
    """datatrove's blocks in FineWeb's order."""
    from stock import stock  # type: ignore[import-not-found]  # the folder of a script is on its path

    from sea_lion.catalog.languages import LANGUAGES

    labels = tuple(LANGUAGES[code].fasttext for code in wanted())
    for doc in stock(folder / f"{WARM}.warc.gz", folder / f"{CRAWL}.warc.gz", between, labels):
        yield Kept(url=doc.metadata["url"], language=doc.metadata["language"], text=doc.text)


def ours(
    folder: Path,
    between: Between,
    *,
    form: Literal["warc", "plan"] = "warc",
    gate: Literal["cld2", "fasttext"] = "cld2",
    extractor: Extractor = "trafilatura",
) -> Iterator[Kept]:
    """The stages of a build up to the language of the text, with the URL lists that the stock order has; lists removals."""
    import sea_lion
    from sea_lion.data import stages
    from sea_lion.data.language import lid176
    from sea_lion.data.ledger import Tally
    from sea_lion.data.planned import Where
    from sea_lion.data.recipe import Source
    from sea_lion.data.sandbox import Sandbox
    from sea_lion.data.sources import Task
    from sea_lion.data.thresholds import read_thresholds
    from sea_lion.data.urls import BUNDLED, UrlList

    languages = wanted()
    thresholds = read_thresholds([Path(sea_lion.__file__).parent / "data/thresholds/web.toml"], languages)
    lists = [UrlList.load(UrlList.compiled(name, folder / "urls")) for name in BUNDLED]
    source = Source(name="web", form=form, files=("-",), crawl="CC-MAIN-2024-18")
    ending, batch = ("plan.parquet", 0) if form == "plan" else ("warc.gz", -1)
    with Sandbox(extractor) as sandbox:
        for name in (WARM, CRAWL):
            tally = Tally(folder)
            task = Task(source=source, key=name, paths=(str(folder / f"{name}.{ending}"),), root=str(folder), batch=batch)
            with tempfile.TemporaryDirectory(dir=folder) as fetched:
                data = stages.Read(tally, task, Where(mirror=str(folder), folder=Path(fetched)), True).run()
                for stage in (
                    stages.Usable(tally),
                    stages.Gate(tally, languages, gate == "cld2"),
                    stages.Urls(tally, lists),
                    stages.Decode(tally),
                    stages.Sample(tally, languages, lid176(), True),
                    stages.Extract(tally, sandbox),
                    stages.Identify(tally, languages, thresholds, lid176(), "convert", "keep"),
                ):
                    data = stage.run(data)
                for doc in data:
                    yield Kept(url=doc.metadata["url"], language=doc.metadata["language"], text=doc.text)
            tally.save()
            if name == WARM:
                between()


def gunzip(folder: Path, between: Between, *, is_isal: bool) -> Iterator[Kept]:
    """Inflating alone."""
    from isal import igzip

    for name in (WARM, CRAWL):
        path = folder / f"{name}.warc.gz"
        opened: Any = igzip.open if is_isal else gzip.open
        with opened(path) as file:
            while file.read(PIECE):
                pass
        if name == WARM:
            between()
    yield from ()


def fastwarc(folder: Path, between: Between) -> Iterator[Kept]:
    """FastWARC's iterator, HTTP headers unread."""
    from fastwarc.stream_io import GzipReader
    from fastwarc.warc import ArchiveIterator

    for name in (WARM, CRAWL):
        with (folder / f"{name}.warc.gz").open("rb") as file:
            for _ in ArchiveIterator(GzipReader(file), parse_http=False):
                pass
        if name == WARM:
            between()
    yield from ()


def reader(folder: Path, between: Between, *, with_gate: bool) -> Iterator[Kept]:
    """Our reader, and the gate on the annotation behind it."""
    from sea_lion.data.language import claimed
    from sea_lion.data.warc import responses

    languages = frozenset(wanted())
    for name in (WARM, CRAWL):
        for response in responses(folder / f"{name}.warc.gz"):
            if with_gate and not response.fault:
                claimed(response.claim, languages)
        if name == WARM:
            between()
    yield from ()


WAYS: dict[str, tuple[str, Callable[[Path, Between], Iterator[Kept]]]] = {
    "stock": ("datatrove's order", stock_order),
    "default": ("ours, default recipe", ours),
    "precision": ("ours, Trafilatura's precise mode", partial(ours, extractor="trafilatura-precision")),
    "resiliparse": ("ours, Resiliparse", partial(ours, extractor="resiliparse")),
    "unannotated": ("ours, no annotation used", partial(ours, gate="fasttext")),
    "index": ("ours, index first", partial(ours, form="plan")),
    "gate": ("our reader and the gate", partial(reader, with_gate=True)),
    "reader": ("our reader", partial(reader, with_gate=False)),
    "fastwarc": ("FastWARC's iterator", fastwarc),
    "isal": ("gunzip, ISA-L", partial(gunzip, is_isal=True)),
    "zlib": ("gunzip, zlib", partial(gunzip, is_isal=False)),
}
"""Name to what it is, and the way; those from `gate` on keep nothing, they are floors."""
FLOORS = ("gate", "reader", "fastwarc", "isal", "zlib")


def measured(way: str, folder: Path, into: Path) -> dict[str, float]:
    """Run a way; writes what it keeps as JSON lines, and beside them what its stages list as removed."""
    begun: list[float] = []
    kept: list[Kept] = []

    def between() -> None:
        kept.clear()
        begun.extend((cpu(), time.perf_counter()))

    for document in WAYS[way][1](folder, between):
        kept.append(document)
    ended, wall = cpu(), time.perf_counter()
    lines = (json.dumps({"url": each.url, "language": each.language, "text": each.text}) for each in kept)
    into.write_text("\n".join(lines), "utf-8")
    if (listed := folder / "removals.parquet").is_file():
        listed.rename(into.with_suffix(".removals"))
    return {"cpu_s": ended - begun[0], "wall_s": wall - begun[1], "start_cpu_s": begun[0], "kept": len(kept)}


def main() -> None:
    """Measure one way in this process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("way", choices=WAYS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--into", type=Path, required=True, help="where the documents that are kept are written")
    parser.add_argument("--core", type=int, required=True)
    options = parser.parse_args()
    os.sched_setaffinity(0, {options.core})
    print(json.dumps(measured(options.way, options.folder, options.into)))


if __name__ == "__main__":
    main()
