"""What the quality rules and the URL lists cost, and thresholds from a reference corpus.

Run: `python benchmarks/quality.py` prints, for each language, the CPU time of segmentation and of all rules on documents of
4,400 characters made of the sample articles, the least of five rounds. `--urls` adds the largest list inside datatrove: time to
compile, time an address, growth of resident memory. `--derive tha mine.jsonl` prints the table of thresholds under which each
rule loses 1% of the texts (`text` in each line) of a reference corpus, beside the median of what it measures.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.resources import as_file, files
from pathlib import Path

import psutil

from sea_lion.catalog.languages import LANGUAGES
from sea_lion.data import segment
from sea_lion.data.quality import PROBABILITIES, RULES, derived, judge, measured
from sea_lion.data.thresholds import Thresholds, read_thresholds
from sea_lion.data.urls import BUNDLED, UrlList

CHARACTERS = 4_400
"""Of a document: a long news article."""
LOST = 0.01
PACKAGE = files("sea_lion").joinpath("data")


def thresholds() -> dict[str, Thresholds]:
    """Those of the package."""
    with as_file(PACKAGE.joinpath("thresholds/web.toml")) as path:
        return read_thresholds([path], list(LANGUAGES))


def documents(language: str) -> list[str]:
    """The sample articles of a language, joined and cut into documents of one length."""
    rows = PACKAGE.joinpath(f"sample/articles/{language}.jsonl").read_text("utf-8").splitlines()
    text = "\n".join("\n".join(json.loads(row)["paragraphs"]) for row in rows)
    return [text[i : i + CHARACTERS] for i in range(0, len(text) - CHARACTERS + 1, CHARACTERS)]


def cut(text: str, language: str) -> list[str]:
    """The words, not remembered."""
    return segment.pieces(text, language).words()


def least_seconds(work: Callable[[str], object], texts: list[str]) -> float:
    """CPU seconds a text, the least of five rounds, nothing remembered from one text to the next."""
    rounds = []
    for _ in range(5):
        start = time.process_time()
        for text in texts:
            segment.pieces.cache_clear()
            work(text)
        rounds.append(time.process_time() - start)
    return min(rounds) / len(texts)


def print_costs() -> None:
    """A row a language."""
    print("| language | segmentation, MB/s | segmentation, ms | all rules, ms | documents/s |")
    print("|---|---|---|---|---|")
    for language, limits in thresholds().items():
        if language in LANGUAGES:
            texts = documents(language)
            words = least_seconds(partial(cut, language=language), texts)
            rules = least_seconds(partial(judge, language=language, thresholds=limits), texts)
            size = sum(len(text.encode()) for text in texts) / len(texts) / 1e6
            print(f"| {language} | {size / words:.1f} | {words * 1e3:.2f} | {rules * 1e3:.2f} | {1 / rules:,.0f} |")


def print_urls() -> None:
    """The largest list of datatrove."""
    memory = psutil.Process().memory_info
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        path = UrlList.compiled(BUNDLED[0], Path(folder))
        compiling = time.process_time() - start
        before = memory().rss
        urls = UrlList.load(path)
        addresses = [f"https://news{i}.example{i % 97}.co.th/local/{i}/market-{i * 7}.html?page={i}" for i in range(50_000)]
        start = time.process_time()
        blocked = sum(bool(urls.reason(address)) for address in addresses)
        each = (time.process_time() - start) / len(addresses)
        growth = (memory().rss - before) / 1e6
        size = path.stat().st_size / 1e6
        print(
            f"\n{len(urls):,} entries: {size:.1f} MB, compiled in {compiling:.1f} s; {each * 1e6:.1f} µs an address ({blocked} "
            f"blocked); resident memory grew by {growth:.0f} MB, of which the file's part is shared"
        )


def print_thresholds(language: str, path: Path) -> None:
    """A table for a thresholds file."""
    quantiles = measured(reference(path), language, thresholds()[language])
    middle = PROBABILITIES.index(0.5)
    medians = {rule.limit: quantiles[rule.measure][middle] for rule in reversed(RULES)}
    print(f"[{language}]  # each rule loses {LOST:.0%} of {path.name}")
    for limit, value in derived(quantiles, LOST).items():
        shown = [round(number, 4) for number in value] if isinstance(value, tuple) else round(value, 4)
        print(f"{limit} = {shown}  # median {medians[limit]:.4g}")


def reference(path: Path) -> Iterator[str]:
    """The texts of a JSON Lines file."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)["text"]


def main() -> None:
    """Read the arguments and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--urls", action="store_true", help="also time the largest URL list inside datatrove")
    parser.add_argument("--derive", nargs=2, metavar=("LANGUAGE", "FILE"), help="print thresholds from a reference corpus")
    arguments = parser.parse_args()
    if arguments.derive:
        print_thresholds(arguments.derive[0], Path(arguments.derive[1]))
        return
    print_costs()
    if arguments.urls:
        print_urls()


if __name__ == "__main__":
    main()
