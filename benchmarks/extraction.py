"""What extraction costs and finds: the modes of `data/extract.py` beside Trafilatura's own settings, on real pages.

Run: `python benchmarks/extraction.py --cache FOLDER`; the folder keeps the pages (see `pages.py`). Each way runs in processes
of its own, as the platform changes Trafilatura where it is imported; they take turns, and a page counts with the CPU time of
its fastest turn. A turn starts cold, as every page of a crawl is new. Then what the ways differ in: texts, pages kept by one
alone, and F1 on gold texts by runs of four words. Prints a table and a JSON line.
"""

from __future__ import annotations

import argparse
import json
import pickle
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import mean, quantiles
from typing import Any

import regex  # type: ignore[import-untyped]
from pages import gold_pages, real_pages  # type: ignore[import-not-found]  # the folder of a script is on its path

PLAIN: dict[str, dict[str, Any]] = {
    "plain fast": {"fast": True},
    "plain precision": {"favor_precision": True},
    "plain fast+precision": {"fast": True, "favor_precision": True},
    "plain balanced": {},
}
OURS = ("trafilatura", "trafilatura-precision", "resiliparse")
WAYS = (*PLAIN, *OURS, "sandbox: trafilatura")


def extractor(way: str) -> Callable[[str], str]:
    """The function that this way calls."""
    if way in PLAIN:
        from trafilatura import extract

        settings: dict[str, Any] = {"include_comments": False, "include_tables": False, "deduplicate": False, **PLAIN[way]}
        return lambda html: extract(html, **settings) or ""
    from sea_lion.data.extract import TooComplex, article
    from sea_lion.data.sandbox import Sandbox

    if way.startswith("sandbox: "):
        sandbox = Sandbox(way.removeprefix("sandbox: "))
        return lambda html: sandbox.article(html)[0]

    def text(html: str) -> str:
        try:
            return article(html, way)
        except TooComplex:
            return ""

    return text


def turn(way: str) -> None:
    """One turn in this process: pages in pickled on standard input, texts and seconds out on standard output."""
    pages = pickle.load(sys.stdin.buffer)
    find = extractor(way)
    # wall time sees the other process; the fastest of several turns is nearly free of other load
    clock = time.perf_counter if way.startswith("sandbox") else time.process_time
    find("<html><body><p>A page, so that everything is loaded.</p></body></html>")
    results = []
    for page in pages:
        start = clock()
        text = find(page)
        results.append((text, clock() - start))
    sys.stdout.buffer.write(pickle.dumps(results))


def turns(pages: list[str], rounds: int) -> dict[str, tuple[list[str], list[float]]]:
    """Texts and seconds of each page, for each way."""
    results: dict[str, tuple[list[str], list[float]]] = {}
    for _ in range(rounds):
        for way in WAYS:
            command = [sys.executable, __file__, "--turn", way]
            done = subprocess.run(command, input=pickle.dumps(pages), stdout=subprocess.PIPE, check=True)
            texts, seconds = zip(*pickle.loads(done.stdout), strict=True)
            before = results[way][1] if way in results else seconds
            results[way] = (list(texts), list(map(min, before, seconds)))
    return results


_WORD = regex.compile(r"[\p{Han}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Hiragana}\p{Katakana}]|[\p{L}\p{M}\p{N}]+")


def words(text: str) -> list[str]:
    """Words in lower case; a character each where no spaces are written."""
    return list(_WORD.findall(text.lower()))


def shared(text: str, gold: str, run: int = 4) -> tuple[int, int, int]:
    """Runs of words in both, in the text, in the gold."""
    counts = [Counter(zip(*(tokens[shift:] for shift in range(run)), strict=False)) for tokens in map(words, (text, gold))]
    return (counts[0] & counts[1]).total(), counts[0].total(), counts[1].total()


def quality(texts: list[str], golds: list[str]) -> dict[str, float]:
    """Mean precision, recall and their F1 over the pages; an empty text has neither."""
    rows = [shared(text, gold) for text, gold in zip(texts, golds, strict=True)]
    precision = mean(both / max(found, 1) for both, found, _ in rows)
    recall = mean(both / max(wanted, 1) for both, _, wanted in rows)
    return {"precision": precision, "recall": recall, "f1": 2 * precision * recall / max(precision + recall, 1e-9)}


def difference(one: list[str], other: list[str]) -> dict[str, float]:
    """How two ways differ: pages with text in one only, equal texts, and words shared of all words, where both have text."""
    both = [(a, b) for a, b in zip(one, other, strict=True) if a and b]
    counts = [(Counter(words(a)), Counter(words(b))) for a, b in both]
    return {
        "only_first": sum(bool(a) and not b for a, b in zip(one, other, strict=True)) / len(one),
        "only_second": sum(bool(b) and not a for a, b in zip(one, other, strict=True)) / len(one),
        "equal": mean(a == b for a, b in zip(one, other, strict=True)),
        "overlap": mean((a & b).total() / max((a | b).total(), 1) for a, b in counts),
        "words_ratio": sum(b.total() for _, b in counts) / sum(a.total() for a, _ in counts),
    }


def decoded(pages: list[bytes]) -> list[str]:
    """Pages as the platform decodes them."""
    from sea_lion.data.charset import decode

    return [found.text if (found := decode(page)) else page.decode("utf-8", "replace") for page in pages]


def report(cache: Path, rounds: int) -> dict[str, Any]:
    """All figures."""
    from sea_lion.data.extract import tidy

    pages, gold = decoded(real_pages(cache)), gold_pages(cache)
    gold_html, golds = decoded([page for page, _ in gold]), [text for _, text in gold]
    timed = turns(pages, rounds)
    judged = turns(gold_html, 1)
    tidied = {way: [tidy(text) for text in texts] for way, (texts, _) in timed.items()}
    rows = {
        way: {
            "ms": mean(seconds) * 1_000,
            "p99_ms": quantiles(seconds, n=100)[98] * 1_000,
            "empty": texts.count(""),
            **quality([tidy(text) for text in judged[way][0]], golds),
        }
        for way, (texts, seconds) in timed.items()
    }
    return {
        "pages": len(pages),
        "kB": mean(len(page.encode()) for page in pages) / 1_000,
        "gold": len(golds),
        "ways": rows,
        "plain fast, trafilatura": difference(tidied["plain fast"], tidied["trafilatura"]),
        "plain precision, trafilatura-precision": difference(tidied["plain precision"], tidied["trafilatura-precision"]),
        "trafilatura, resiliparse": difference(tidied["trafilatura"], tidied["resiliparse"]),
        "trafilatura, trafilatura-precision": difference(tidied["trafilatura"], tidied["trafilatura-precision"]),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=Path("benchmarks/cache"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--turn", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.turn:
        return turn(options.turn)
    figures = report(options.cache, options.rounds)
    print(f"{figures['pages']} pages of {figures['kB']:.0f} kB, {figures['gold']} gold texts")
    print("| way | ms a page | p99 | empty | precision | recall | F1 |\n|---|---|---|---|---|---|---|")
    for way, row in figures["ways"].items():
        scores = " | ".join(f"{row[key]:.3f}" for key in ("precision", "recall", "f1"))
        print(f"| {way} | {row['ms']:.1f} | {row['p99_ms']:.0f} | {row['empty']} | {scores} |")
    for name, row in figures.items():
        if isinstance(row, dict) and name != "ways":
            print(f"{name}: " + ", ".join(f"{key} {value:.3f}" for key, value in row.items()))
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
