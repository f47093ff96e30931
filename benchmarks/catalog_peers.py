"""The benchmark's questions, answered by polars and pyarrow from the catalog's files.

Each answer is a list of rows, in any order, that must be the same for all engines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

NEW, OLD, PROMOTED, MIXTURE = "corpus/web@2", "corpus/web@1", "checkpoint/sea-lion@1", "mixture/run-7@1"
TOKENIZER = "tokenizer/sea-256k@1"
TOP = 10
Rows = list[tuple[Any, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """Where everything is, and what is asked for."""

    root: Path
    domain: str = ""
    """Its documents are asked for."""
    id: str = ""
    """This document is asked for."""
    language: str = ""
    """Its language."""

    @property
    def catalog(self) -> Path:
        """The catalog."""
        return self.root / "catalog"

    @property
    def corpus(self) -> Path:
        """The larger corpus."""
        return self.catalog / NEW.replace("@", "/")

    @property
    def counts(self) -> list[str]:
        """Its token counts, a file a tokenizer."""
        return sorted(map(str, self.catalog.glob("tokens/web-2-*/1/token_counts.parquet")))

    @property
    def largest_count(self) -> list[str]:
        """The token counts by one tokenizer."""
        return self.counts[-1:]

    @property
    def counts_before(self) -> str:
        """Token counts of the version before."""
        return str(next(self.catalog.glob("tokens/web-1-*/1/token_counts.parquet")))

    @property
    def flows(self) -> dict[str, str]:
        """Corpus to its ledger."""
        return {ref: str(self.catalog / ref.replace("@", "/") / "flow.parquet") for ref in (OLD, NEW)}

    @property
    def documents(self) -> list[str]:
        """The documents, by domain."""
        return sorted(map(str, self.corpus.glob("documents/*/*/*.parquet")))

    @property
    def ids(self) -> list[str]:
        """The documents, by id."""
        return sorted(map(str, self.corpus.glob("document_ids/*/*/*.parquet")))

    def peer(self, name: str) -> str:
        """What records hold in their bodies."""
        return str(self.root / "peers" / f"{name}.parquet")

    @property
    def database(self) -> Path:
        """SQLite's."""
        return self.root / "peers.sqlite"


def rows(frame: pl.DataFrame | pa.Table, *columns: str) -> Rows:
    """Columns as rows."""
    table: Any = frame.to_arrow() if isinstance(frame, pl.DataFrame) else frame
    return list(zip(*(table[name].to_pylist() for name in columns), strict=True))


def ancestors(edges: Iterable[tuple[str, str]], start: str) -> set[str]:
    """Everything that something was made from, itself included."""
    into: dict[str, list[str]] = {}
    for ref, given in edges:
        into.setdefault(ref, []).append(given)
    found, waiting = {start}, [start]
    while waiting:
        for given in into.get(waiting.pop(), ()):
            if given not in found:
                found.add(given)
                waiting.append(given)
    return found


def told(counted: Rows, same: Rows, tokens: Rows, removed: Rows) -> Rows:
    """The answer to `diff` from its four tables, each but the second with the corpus first."""
    found: Rows = [("shards", *row) for row in same]
    for name, table, sums in (("counts", counted, 2), ("tokens", tokens, 1), ("removed", removed, 1)):
        sides: dict[tuple[Any, ...], dict[str, tuple[Any, ...]]] = {}
        for ref, *row in table:
            sides.setdefault(tuple(row[:-sums]), {})[ref] = tuple(row[-sums:])
        found += [(name, *key, *by.get(OLD, (0,) * sums), *by.get(NEW, (0,) * sums)) for key, by in sides.items()]
    return found


# -- polars ----------------------------------------------------------------------------------------------------------------


def polars_tokens(files: Files) -> Rows:
    keys = ["language", "crawl", "tokenizer"]
    found = pl.scan_parquet(files.counts).group_by(keys).agg(pl.col("documents", "tokens").sum())
    return rows(found.collect(engine="streaming"), *keys, "documents", "tokens")


def polars_funnel(files: Files) -> Rows:
    flow, keys = pl.scan_parquet(files.corpus / "flow.parquet"), ["step", "stage", "language"]
    entered = flow.filter(outcome="in").group_by(keys).agg(pl.col("documents").sum().alias("entered"))
    removed = flow.filter(outcome="removed").group_by(*keys, "reason").agg(pl.col("documents").sum())
    return rows(removed.join(entered, on=keys).collect(), *keys, "reason", "documents", "entered")


def polars_mixture(files: Files) -> Rows:
    found = pl.scan_parquet(files.peer("mixture_parts")).filter(ref=MIXTURE)
    return rows(found.collect(), "run", "language", "source", "tokens_planned", "tokens_read")


def polars_available(files: Files) -> Rows:
    keys = ["corpus", "language", "source"]
    found = pl.scan_parquet(files.counts[-1]).filter(split="train").group_by(keys).agg(pl.col("tokens").sum())
    return rows(found.collect(), *keys, "tokens")


def polars_diff(files: Files) -> Rows:
    shards = pl.scan_parquet(files.peer("shards"))
    counted = shards.group_by("ref", "language").agg(pl.col("documents", "bytes").sum())
    same = shards.group_by("sha256").agg(
        pl.col("ref").min().alias("a"), pl.col("ref").max().alias("b"), pl.col("documents").max()
    )
    same = same.group_by("a", "b").agg(pl.len(), pl.col("documents").sum())
    tokens = pl.scan_parquet([*files.counts, files.counts_before])
    tokens = tokens.group_by("corpus", "tokenizer", "language").agg(pl.col("tokens").sum())
    removed = [
        pl.scan_parquet(path).filter(outcome="removed").group_by("step", "stage", "reason").agg(pl.col("documents").sum())
        .select(pl.lit(ref).alias("ref"), "step", "stage", "reason", "documents")
        for ref, path in files.flows.items()
    ]  # fmt: skip
    found = [frame.rows() for frame in pl.collect_all([counted, same, tokens, pl.concat(removed)])]
    return told(found[0], found[1], found[2], found[3])


def polars_domain(files: Files) -> Rows:
    found = pl.scan_parquet(files.documents, hive_partitioning=False).filter(domain=files.domain).sort("url", "id").head(TOP)
    return rows(found.collect(), "url", "id", "shard")


def polars_find(files: Files) -> Rows:
    place = pl.scan_parquet(files.ids, hive_partitioning=False).filter(id=files.id).collect().row(0, named=True)
    found = pl.scan_parquet(files.documents, hive_partitioning=False).filter(
        domain=place["domain"], url=place["url"], language=place["language"], id=files.id
    )
    return rows(found.collect(), "id", "url", "shard", "file", "bytes")


def polars_domains(files: Files) -> Rows:
    found = pl.scan_parquet(files.documents, hive_partitioning=False).group_by("language", "domain").len()
    best = found.sort(["len", "domain"], descending=[True, False]).group_by("language", maintain_order=True).head(TOP)
    return rows(best.collect(engine="streaming"), "language", "domain", "len")


def polars_lineage(files: Files) -> Rows:
    edges = pl.read_parquet(files.peer("inputs")).rows()
    if NEW not in ancestors(edges, PROMOTED):
        return []
    found = pl.scan_parquet(files.corpus / "origins.parquet").group_by("crawl").agg(
        pl.col("file").n_unique(), pl.col("documents").sum()
    )  # fmt: skip
    return rows(found.collect(), "crawl", "file", "documents")


def polars_files(files: Files) -> Rows:
    edges = pl.read_parquet(files.peer("inputs")).rows()
    if NEW not in ancestors(edges, PROMOTED):
        return []
    found = pl.scan_parquet(files.corpus / "origins.parquet").select("crawl", "file", "documents").collect()
    return found.rows()


# -- pyarrow ---------------------------------------------------------------------------------------------------------------


def read(path: str | list[str], columns: list[str], condition: Any = None) -> pa.Table:
    """Columns of some files."""
    return ds.dataset(path, format="parquet").to_table(columns=columns, filter=condition)


def summed(table: pa.Table, keys: list[str], *names: str) -> pa.Table:
    """Sums by keys, under the old names."""
    return table.group_by(keys).aggregate([(name, "sum") for name in names]).rename_columns([*keys, *names])


def arrow_tokens(files: Files) -> Rows:
    keys = ["language", "crawl", "tokenizer"]
    found = summed(read(files.counts, [*keys, "documents", "tokens"]), keys, "documents", "tokens")
    return rows(found, *keys, "documents", "tokens")


def arrow_funnel(files: Files) -> Rows:
    keys = ["step", "stage", "language"]
    flow = pq.read_table(files.corpus / "flow.parquet", columns=[*keys, "reason", "outcome", "documents"])
    entered = summed(flow.filter(pc.field("outcome") == "in"), keys, "documents").rename_columns([*keys, "entered"])
    removed = summed(flow.filter(pc.field("outcome") == "removed"), [*keys, "reason"], "documents")
    return rows(removed.join(entered, keys), *keys, "reason", "documents", "entered")


def arrow_mixture(files: Files) -> Rows:
    columns = ["run", "language", "source", "tokens_planned", "tokens_read"]
    return rows(read(files.peer("mixture_parts"), columns, pc.field("ref") == MIXTURE), *columns)


def arrow_available(files: Files) -> Rows:
    keys = ["corpus", "language", "source"]
    found = read(files.counts[-1], [*keys, "tokens"], pc.field("split") == "train")
    return rows(summed(found, keys, "tokens"), *keys, "tokens")


def arrow_diff(files: Files) -> Rows:
    shards = read(files.peer("shards"), ["ref", "language", "documents", "bytes", "sha256"])
    same = shards.group_by("sha256").aggregate([("ref", "min"), ("ref", "max"), ("documents", "max")])
    same = same.group_by(["ref_min", "ref_max"]).aggregate([([], "count_all"), ("documents_max", "sum")])
    tokens = read([*files.counts, files.counts_before], ["corpus", "tokenizer", "language", "tokens"])
    removed: Rows = []
    for ref, path in files.flows.items():
        flow = read(path, ["step", "stage", "reason", "documents"], pc.field("outcome") == "removed")
        keys = ["step", "stage", "reason"]
        removed += [(ref, *row) for row in rows(summed(flow, keys, "documents"), *keys, "documents")]
    counted = summed(shards, ["ref", "language"], "documents", "bytes")
    tokens = summed(tokens, ["corpus", "tokenizer", "language"], "tokens")
    found = [rows(each, *each.column_names) for each in (counted, same, tokens)]
    return told(found[0], found[1], found[2], removed)


def arrow_domain(files: Files) -> Rows:
    columns = ["url", "id", "shard"]
    found = read(files.documents, columns, pc.field("domain") == files.domain)
    return rows(found.sort_by([("url", "ascending"), ("id", "ascending")]).slice(0, TOP), *columns)


def arrow_find(files: Files) -> Rows:
    place = read(files.ids, ["domain", "url", "language"], pc.field("id") == files.id).to_pylist()[0]
    condition = pc.field("id") == files.id
    for name, value in place.items():
        condition &= pc.field(name) == value
    found = read(files.documents, pq.read_schema(files.documents[0]).names, condition)
    return rows(found, "id", "url", "shard", "file", "bytes")


def arrow_domains(files: Files) -> Rows:
    found: Rows = []
    for language, paths in by_language(files.documents).items():
        counted = read(paths, ["domain"]).group_by("domain").aggregate([([], "count_all")])
        best = counted.sort_by([("count_all", "descending"), ("domain", "ascending")]).slice(0, TOP)
        found += [(language, *row) for row in rows(best, "domain", "count_all")]
    return found


def by_language(paths: list[str]) -> dict[str, list[str]]:
    """Language to its files, by their paths."""
    found: dict[str, list[str]] = {}
    for path in paths:
        found.setdefault(path.partition("language=")[2].partition("/")[0], []).append(path)
    return found


def arrow_lineage(files: Files) -> Rows:
    edges = pq.read_table(files.peer("inputs")).to_pydict()
    if NEW not in ancestors(zip(edges["ref"], edges["input_ref"], strict=True), PROMOTED):
        return []
    table = pq.read_table(files.corpus / "origins.parquet", columns=["crawl", "file", "documents"])
    found = table.group_by("crawl").aggregate([("file", "count_distinct"), ("documents", "sum")])
    return rows(found, "crawl", "file_count_distinct", "documents_sum")


def arrow_files(files: Files) -> Rows:
    edges = pq.read_table(files.peer("inputs")).to_pydict()
    if NEW not in ancestors(zip(edges["ref"], edges["input_ref"], strict=True), PROMOTED):
        return []
    table = pq.read_table(files.corpus / "origins.parquet", columns=["crawl", "file", "documents"])
    return rows(table, "crawl", "file", "documents")


ANSWERS: dict[str, dict[str, Callable[[Files], Rows]]] = {
    name: {"polars": globals()[f"polars_{name}"], "pyarrow": globals()[f"arrow_{name}"]}
    for name in (
        "tokens", "funnel", "mixture", "available", "diff", "domain", "find", "domains", "lineage", "files",
    )
}  # fmt: skip
"""Question to engine to the function that answers."""
