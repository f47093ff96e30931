"""One question to one engine in a process of its own: `catalog.py` starts it and reads the JSON line it prints.

    python benchmarks/catalog_questions.py FOLDER QUESTION ENGINE

CPU seconds are those of the answer, of all threads; what the engine's own import costs is left out. Bytes are those that read
calls brought (not those of mapped files).
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import catalog_sqlite  # type: ignore[import-not-found]  # the folder of a script is on its path
import pyarrow.parquet as pq
from catalog_peers import (  # type: ignore[import-not-found]
    ANSWERS,
    MIXTURE,
    NEW,
    OLD,
    PROMOTED,
    TOP,
    Files,
    Rows,
)  # fmt: skip
from catalog_rows import LANGUAGES  # type: ignore[import-not-found]

from sea_lion.catalog import difference, documents, index, lineage, questions
from sea_lion.catalog.store import Store
from sea_lion.data.mixture import read_available

ALL = ("*",)
"""All columns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A question of the benchmark."""

    title: str
    """In a few words."""
    target: float | None
    """CPU seconds that it may take, at any number of documents."""
    ours: Callable[[Store, Files], Rows]
    """Our answer, by the function behind the command."""
    needs: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = ()
    """Files (property of `Files`, or pattern in the corpus), columns, and columns whose value picks the row groups."""


def columns(found: tuple[list[str], Rows], *wanted: str) -> Rows:
    """Some columns of an answer."""
    places = [found[0].index(name) for name in wanted]
    return [tuple(row[place] for place in places) for row in found[1]]


def asked(store: Store, question: questions.Question) -> tuple[list[str], Rows]:
    """Our answer to a query."""
    return index.query(store, question.sql, question.parameters)


def our_tokens(store: Store, files: Files) -> Rows:
    by = ("language", "crawl", "tokenizer")
    return columns(asked(store, questions.tokens(by, corpus=NEW)), *by, "documents", "tokens")


def our_funnel(store: Store, files: Files) -> Rows:
    found = asked(store, questions.funnel(("language", "reason"), corpus=NEW))
    return columns(found, "step", "stage", "language", "reason", "documents_removed", "documents_in")


def our_mixture(store: Store, files: Files) -> Rows:
    return columns(asked(store, questions.mixture(MIXTURE)), "run", "language", "source", "tokens_planned", "tokens_consumed")


def our_available(store: Store, files: Files) -> Rows:
    return [(each.corpus, each.language, each.source, each.tokens) for each in read_available(Path(files.counts[-1]))]


def our_lineage(store: Store, files: Files) -> Rows:
    graph = lineage.graph_around(store, PROMOTED, down=False)
    return [(crawl.name, crawl.files, crawl.documents) for crawl in graph.nodes[NEW].crawls]


def our_files(store: Store, files: Files) -> Rows:
    graph = lineage.graph_around(store, PROMOTED, down=False, with_files=True)
    return [(crawl.name, *path) for crawl in graph.nodes[NEW].crawls for path in crawl.paths]


def our_opening(store: Store, files: Files) -> Rows:
    return index.query(store, "SELECT 1")[1]


def our_diff(store: Store, files: Files) -> Rows:
    counted = columns(asked(store, difference.counts(OLD, NEW)), "language", "documents_a", "documents_b", "bytes_a", "bytes_b")
    tokens = columns(asked(store, difference.tokens(OLD, NEW)), "tokenizer", "language", "tokens_a", "tokens_b")
    shards = columns(asked(store, difference.shards(OLD, NEW)), "shards_of", "shards", "documents")
    removed = columns(asked(store, difference.removals(OLD, NEW)), "step", "stage", "reason", "documents_a", "documents_b")
    of = {"both": (OLD, NEW), "only a": (OLD, OLD), "only b": (NEW, NEW)}
    found: Rows = [("counts", language, a, size_a, b, size_b) for language, a, b, size_a, size_b in counted]
    found += [("shards", *of[name], *row) for name, *row in shards]
    return found + [("tokens", *row) for row in tokens] + [("removed", *row) for row in removed]


def our_domain(store: Store, files: Files) -> Rows:
    found = documents.documents(store, domain=files.domain, limit=TOP)
    return columns((found.columns, found.rows), "url", "id", "shard")


def our_find(store: Store, files: Files) -> Rows:
    found = documents.find(store, files.id)
    return columns((found.columns, found.rows), "id", "url", "shard", "file", "bytes")


def our_domains(store: Store, files: Files) -> Rows:
    """The command answers for one language."""
    rows: Rows = []
    for language in LANGUAGES:
        found = documents.domains(store, language, limit=TOP)
        rows += [(language, *row) for row in columns((found.columns, found.rows), "domain", "documents")]
    return rows


QUESTIONS = {
    "opening": Asked(title="opening the index, part of each below", target=None, ours=our_opening),
    "tokens": Asked(
        title="tokens by language, crawl, tokenizer", target=0.2, ours=our_tokens,
        needs=(("counts", ("language", "crawl", "tokenizer", "documents", "tokens"), ()),),
    ),
    "funnel": Asked(
        title="funnel by language and reason", target=0.2, ours=our_funnel,
        needs=(("flow.parquet", ("step", "stage", "language", "reason", "outcome", "documents"), ()),),
    ),
    "mixture": Asked(title="mixture, planned against consumed", target=0.2, ours=our_mixture),
    "available": Asked(
        title="mixture planning: what there is", target=0.2, ours=our_available,
        needs=(("largest_count", ("corpus", "language", "source", "split", "tokens"), ()),),
    ),
    "diff": Asked(title="diff of two corpora: counts, tokens, shards, reasons (four commands)", target=0.8, ours=our_diff),
    "domain": Asked(
        title=f"{TOP} documents of a domain", target=0.5, ours=our_domain,
        needs=(("documents", tuple(name for name in documents.SHOWN if name != "ref"), ("domain",)),),
    ),
    "find": Asked(
        title="a document by its id", target=0.5, ours=our_find,
        needs=(("ids", ("id", "domain", "url", "language", "source"), ("id",)), ("documents", ALL, ("domain", "language"))),
    ),
    "domains": Asked(
        title=f"{TOP} largest domains of each language", target=10.0, ours=our_domains,
        needs=(("documents", ("language", "domain", "bytes"), ()),),
    ),
    "lineage": Asked(
        title="lineage of the promoted model, WARC files counted", target=0.5, ours=our_lineage,
        needs=(("origins.parquet", ("crawl", "file", "documents"), ()),),
    ),
    "files": Asked(
        title="the same, WARC files listed", target=0.5, ours=our_files,
        needs=(("origins.parquet", ("crawl", "file", "documents"), ()),),
    ),
}  # fmt: skip


def needed(files: Files, question: Asked) -> int:
    """Bytes of the column chunks that hold the answer, where statistics cannot rule a row group out."""
    total = 0
    for name, wanted, keys in question.needs:
        values = {key: getattr(files, key) for key in keys}
        paths = sorted(map(str, files.corpus.glob(name))) if "." in name else getattr(files, name)
        for path in paths:
            total += sum(_chunk_bytes(pq.read_metadata(path), set(wanted), values))
    return total


def _chunk_bytes(metadata: Any, wanted: set[str], values: dict[str, str]) -> list[int]:
    found = []
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        chunks = {group.column(i).path_in_schema.partition(".")[0]: group.column(i) for i in range(group.num_columns)}
        if all(chunks[key].statistics.min <= value <= chunks[key].statistics.max for key, value in values.items()):
            found.append(sum(chunk.total_compressed_size for name, chunk in chunks.items() if wanted & {name, "*"}))
    return found


def measure(answer: Callable[[], Rows]) -> dict[str, Any]:
    """What one answer costs."""
    before, start, began = bytes_read(), cpu_seconds(), time.perf_counter()
    found = answer()
    cost = {"cpu_s": cpu_seconds() - start, "wall_s": time.perf_counter() - began, "read_bytes": bytes_read() - before}
    digest = sha256(json.dumps(sorted(found)).encode()).hexdigest()
    return cost | {"rows": len(found), "digest": digest, "peak_mb": peak_megabytes()}


def cpu_seconds() -> float:
    """Of this process, and of its children that ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def bytes_read() -> int:
    """By read calls."""
    return int(Path("/proc/self/io").read_text().split()[1])


def peak_megabytes() -> float:
    """Largest resident memory of this process: what the kernel kept of its children's includes this one's."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1e3


def main() -> None:
    """Ask, print."""
    folder, name, engine = sys.argv[1:4]
    files = Files(**json.loads((Path(folder) / "probes.json").read_text()), root=Path(folder))
    store, question = Store(files.catalog), QUESTIONS[name]
    if engine == "ours":
        print(json.dumps(measure(lambda: question.ours(store, files))))
    else:
        answer = catalog_sqlite.ANSWERS[name] if engine == "sqlite" else ANSWERS[name][engine]
        print(json.dumps(measure(lambda: answer(files))))


if __name__ == "__main__":
    main()
