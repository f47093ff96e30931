"""The tables of `corpus.py`, in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from ways import WAYS  # type: ignore[import-not-found]  # the folder of a script is on its path


def table(title: str, head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table in Markdown."""
    print(f"\n**{title}**\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(str(cell) for cell in row)} |")


def listed(counts: dict[str, int]) -> str:
    """Counts in a cell."""
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or "none"


def print_costs(rows: Sequence[dict[str, Any]]) -> None:
    """CPU, ratio and memory of the ways."""
    table(
        "CPU and memory",
        ("way", "ms a response", "times the stock order: least, median, most", "kept", "ms a document", "start s", "MB, tree"),
        (
            (
                WAYS[row["way"]][0],
                f"{row['ms']:.2f}",
                " / ".join(f"{ratio:.1f}" for ratio in row["ratio"]),
                row["kept"] or "",
                f"{row['ms_kept']:.1f}" if row["ms_kept"] else "",
                f"{row['start_s']:.1f}",
                f"{row['tree_mb']:,.0f}",
            )
            for row in rows
        ),
    )


def print_recall(rows: Sequence[dict[str, Any]]) -> None:
    """What is kept, and how the texts differ."""
    table(
        "Documents, beside those that the stock order keeps and beside the pages in wanted languages",
        ("way", "of the stock order's", "the rest of them", "beyond them", "of the wanted", "the rest of these", "unwanted"),
        (
            (
                WAYS[row["way"]][0], f"{row['of_stock']:.1%}", listed(row["lost"]), listed(row["beyond"]),
                f"{row['of_wanted']:.1%}", listed(row["missed"]) if row["way"] != "stock" else "", row["unwanted"],
            )
            for row in rows
        ),
    )  # fmt: skip
    table(
        "Texts of the same pages, beside the stock order's",
        ("way", "identical", "runs of five characters in common, F1", "length"),
        (
            (WAYS[row["way"]][0], f"{row['identical']:.0%}", f"{row['overlap']:.3f}", f"{row['length']:.2f}")
            for row in rows
            if row["way"] != "stock"
        ),
    )


def print_builds(rows: Sequence[dict[str, float]]) -> None:
    """Whole builds of crawls of several sizes; what a further response costs is beside the size before."""
    steps = [
        1000 * (row["cpu_s"] - before["cpu_s"]) / (row["responses"] - before["responses"])
        for before, row in pairwise([{"cpu_s": 0.0, "responses": 0}, *rows])
    ]
    table(
        "Whole builds, one worker",
        ("responses", "documents", "CPU s", "ms a response", "ms a further response", "MB, tree", "MB, largest process"),
        (
            (
                f"{row['responses']:,}", f"{row['documents']:,}", f"{row['cpu_s']:.1f}", f"{row['ms']:.2f}",
                f"{step:.2f}" if number else "", f"{row['tree_mb']:,.0f}", f"{row['process_mb']:,.0f}",
            )
            for number, (row, step) in enumerate(zip(rows, steps, strict=True))
        ),
    )  # fmt: skip
