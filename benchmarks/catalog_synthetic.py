"""A made-up catalog that the real code opens: a corpus of 10 or 100 million documents in 100,000 shards, and what hangs on it.

    python benchmarks/catalog_synthetic.py FOLDER [--documents 1000000] [--shards 10000] [--workers 2]

In FOLDER/catalog: `corpus/web@2` with its tables, the version before it (shards and counts only), token counts by three
tokenizers, 300 mixtures with a run, scorecard and decision each, 30 merges, a merge of these, and its promotion. The slots of
the corpus are reported, one a shard. In FOLDER/peers: what records hold in their bodies, as Parquet, for other engines. Records
are written by the catalog's own code; shards have no files, as no question reads their texts.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from catalog_rows import CRAWLS, FILES, LANGUAGES, WARC, Counts, divided, write_documents  # type: ignore[import-not-found]
from catalog_slots import write_slots  # type: ignore[import-not-found]  # the folder of a script is on its path

from sea_lion.catalog.bodies import Checkpoint, Corpus, Mixture, MixturePart, Shard, TokenCounts, TokenizerBody
from sea_lion.catalog.files import RECORD, record_text
from sea_lion.catalog.fingerprint import file_digest, plain
from sea_lion.catalog.recipes import recipe_fingerprint
from sea_lion.catalog.records import BODIES, Artifact, ArtifactRef, Body, FileDigest, Input, Provenance
from sea_lion.catalog.verdicts import GateDecision, Outcome, Promotion, Score, Scorecard
from sea_lion.data.ledger import FLOW, STAGES
from sea_lion.data.shards import shard_name
from sea_lion.data.tokens import COUNTS_SCHEMA
from sea_lion.training.meters import LOG_SCHEMA
from sea_lion.training.train import CONSUMED_SCHEMA, PARTS_SCHEMA

NEW, OLD = "corpus/web@2", "corpus/web@1"
TOKENIZERS = {"tokenizer/sea-256k@1": 3.9, "tokenizer/llama-3@1": 3.2, "tokenizer/gemma-2@1": 3.6}
"""Reference to bytes a token."""
RUNS, MERGES = 300, 30
PROMOTED = "checkpoint/sea-lion@1"
FLOW_ROWS = 10
"""Rows of the ledger for each shard: 1 million for 100,000."""
REASONS = 3
"""Of each stage that removes."""


@dataclass(slots=True)
class Catalog:
    """Writes records as the store does, without waiting for the disk."""

    root: Path
    made: dict[str, Artifact] = field(default_factory=dict)

    def folder(self, ref: str) -> Path:
        """Where an artifact is."""
        place = self.root / ref.replace("@", "/")
        place.mkdir(parents=True, exist_ok=True)
        return place

    def add(
        self, ref: str, body: Body, inputs: Mapping[str, str] | None = None, *,
        tables: Mapping[str, pa.Table | str] | None = None, files: Sequence[FileDigest] = (), licence: str = "Apache-2.0",
    ) -> None:  # fmt: skip
        """Write an artifact, its tables in a file each; those given as a pattern are there."""
        given, folder = dict(inputs or {}), self.folder(ref)
        for name, table in (tables or {}).items():
            if isinstance(table, pa.Table):
                pq.write_table(table, folder / f"{name}.parquet", compression="zstd")
        named = {name: table if isinstance(table, str) else f"{name}.parquet" for name, table in (tables or {}).items()}
        there = [FileDigest(path=path.relative_to(folder).as_posix(), bytes=path.stat().st_size, sha256=file_digest(path))
                 for path in sorted(folder.rglob("*.parquet"))]  # fmt: skip
        kind = next(kind for kind, known in BODIES.items() if isinstance(body, known))
        identity = {"kind": kind, "licence": licence} | {role: self.made[other].fingerprint for role, other in given.items()}
        identity |= {"note": ref} if not given else {}
        artifact = Artifact(
            ref=ArtifactRef.parse(ref), kind=kind, fingerprint=recipe_fingerprint(identity),
            recipe={"kind": kind, "licence": licence, "description": "made up"} | given, identity=identity,
            inputs=tuple(Input(role=role, ref=of, fingerprint=self.made[of].fingerprint) for role, of in given.items()),
            licence=licence, files=tuple(sorted([*there, *files], key=lambda file: file.path)), tables=named, body=body,
            provenance=Provenance(
                created=f"2026-11-01T{len(self.made) // 3600:02}:{len(self.made) // 60 % 60:02}:{len(self.made) % 60:02}+00:00",
                seconds=1.0, peak_memory_bytes=1, commit="unknown", python="3.11",
            ),
        )  # fmt: skip
        (folder / RECORD).write_text(record_text(artifact), "utf-8")
        self.made[ref] = artifact


def digest(text: str) -> str:
    """A digest for what has no file."""
    return sha256(text.encode()).hexdigest()


def shard_counts(counts: Sequence[Counts], share: float = 1.0) -> pa.Table:
    """The table `shard_counts` of all languages: one row a shard and crawl."""
    parts = []
    for each in counts:
        shard, crawl = np.nonzero(each.documents)
        names = pa.array(
            [f"shards/{shard_name(each.language, 'web', 'train', i, len(each.documents))}" for i in range(len(each.documents))]
        )
        columns = {
            "shard": names.take(pa.array(shard)), "language": pa.repeat(each.language, len(shard)),
            "source": pa.repeat("web", len(shard)), "split": pa.repeat("train", len(shard)),
            "crawl": pa.array(CRAWLS).take(pa.array(crawl)),
        }  # fmt: skip
        sizes = {name: getattr(each, name)[shard, crawl] for name in ("documents", "characters", "bytes")}
        parts.append(pa.table(columns | {name: pa.array((size * share).astype(np.int64)) for name, size in sizes.items()}))
    return pa.concat_tables(parts)


def origins(counts: Sequence[Counts]) -> pa.Table:
    """The table `origins`: what each WARC file gave."""
    documents = np.sum([each.file_documents for each in counts], axis=0)
    size = np.sum([each.file_bytes for each in counts], axis=0)
    crawl, file = np.nonzero(documents)
    names = pa.array([f"crawl-data/{name}/segments/1713591296587.{i // 1_000:02}/warc/{WARC}{i:05}.warc.gz"
                      for name in CRAWLS for i in range(FILES)])  # fmt: skip
    return pa.table({
        "source": pa.repeat("web", len(crawl)), "crawl": pa.array(CRAWLS).take(pa.array(crawl)),
        "file": names.take(pa.array(crawl * FILES + file)), "documents": documents[crawl, file], "bytes": size[crawl, file],
    })  # fmt: skip


def flow(rows: int) -> pa.Table:
    """A ledger that balances, of about so many rows: each step keeps nine tenths; as many sources as it takes."""
    columns: dict[str, list[Any]] = {name: [] for name in FLOW.names}
    each = len(STAGES) * (2 + REASONS)
    for number in range(max(1, rows // (each * len(LANGUAGES)))):
        for language in LANGUAGES:
            entered = 100_000 + number
            for step, stage in enumerate(STAGES):
                lost = 0 if stage in ("decode", "sample", "mask", "write") else entered // 30
                left = entered - REASONS * lost
                outcomes = [("in", "", entered), ("out", "", left)]
                outcomes += [("removed", f"{stage}_{i}", lost) for i in range(REASONS)] if lost else []
                for outcome, reason, documents in outcomes:
                    row = (step, stage, f"web-{number:04}", language, outcome, reason, documents, 5_000 * documents)
                    for name, value in zip(FLOW.names, row, strict=True):
                        columns[name].append(value)
                entered = left
    return pa.table(columns, schema=FLOW)


def token_counts(corpus: str, counts: pa.Table, digests: pa.Array, tokenizers: Sequence[str]) -> pa.Table:
    """The table `token_counts`: one row a shard, crawl and tokenizer."""
    size, rows = counts["bytes"].to_numpy(), len(counts)
    tables = []
    for name in tokenizers:
        columns = {key: counts[key] for key in ("shard", "language", "source", "split", "crawl", "documents", "bytes")}
        columns |= {"corpus": pa.repeat(corpus, rows), "tokenizer": pa.repeat(name, rows), "words": pa.array(size // 6)}
        columns |= {"tokens": pa.array((size / TOKENIZERS[name]).astype(np.int64)), "shard_sha256": digests}
        columns |= {"tokenizer_sha256": pa.repeat(digest(name), rows)}
        tables.append(pa.table([columns[key] for key in COUNTS_SCHEMA.names], schema=COUNTS_SCHEMA))
    return pa.concat_tables(tables)


def add_corpus(catalog: Catalog, ref: str, counts: pa.Table, marks: Sequence[str], tables: dict[str, Any]) -> pa.Table:
    """Write a corpus whose shards are those that `counts` names, with the digests of `marks`; returns its shards."""
    keys = ["shard", "language", "source", "split"]
    sums = [(name, "sum") for name in ("documents", "characters", "bytes")]
    summed = (
        counts.group_by(keys, use_threads=False)
        .aggregate(sums)
        .rename_columns(["path", *keys[1:], *(name for name, _ in sums)])
    )
    summed = summed.append_column("sha256", pa.array(marks))
    shards = tuple(Shard(**row) for row in summed.to_pylist())
    files = [FileDigest(path=shard.path, bytes=shard.bytes // 3, sha256=shard.sha256) for shard in shards]
    kept = sum(shard.documents for shard in shards)
    catalog.add(
        ref,
        Corpus(shards=shards, documents_in=20 * kept, documents_out=kept),
        tables=tables | {"shard_counts": counts},
        files=files,
    )
    return summed.add_column(0, "ref", pa.repeat(ref, len(summed)))


def add_data(catalog: Catalog, counts: Sequence[Counts], shards: int) -> dict[str, pa.Table]:
    """The two corpora and their token counts; returns what bodies hold, as tables."""
    now = shard_counts(counts)
    paths = now["shard"].unique()
    tables = {"flow": flow(FLOW_ROWS * shards), "origins": origins(counts)}
    tables |= {name: f"{name}/*/*/*.parquet" for name in ("documents", "document_ids")}
    new = add_corpus(catalog, NEW, now, [digest(path) for path in paths.to_pylist()], tables)
    # The version before: every 50th shard was not there, one in ten of the others had less in it.
    number = np.unique(now["shard"].dictionary_encode().combine_chunks().indices.to_numpy(), return_inverse=True)[1]
    before = now.filter(pa.array(number % 50 != 0))
    was_less = number[number % 50 != 0] % 10 == 1
    for name in ("documents", "characters", "bytes"):
        less = np.where(was_less, before[name].to_numpy() * 9 // 10, before[name].to_numpy())
        before = before.set_column(before.column_names.index(name), name, pa.array(less))
    marks = [digest(path + ("-" if i % 10 == 1 else "")) for i, path in enumerate(paths.to_pylist()) if i % 50]
    old = add_corpus(catalog, OLD, before, marks, {"flow": flow(len(LANGUAGES) * 100)})
    for name in TOKENIZERS:
        catalog.add(name, TokenizerBody(algorithm="byte-level-bpe", vocabulary=256_000))
    for corpus, of, table, names in ((NEW, now, new, list(TOKENIZERS)), (OLD, before, old, list(TOKENIZERS)[:1])):
        known = dict(zip(table["path"].to_pylist(), table["sha256"].to_pylist(), strict=True))
        digests = pa.array([known[shard] for shard in of["shard"].to_pylist()])
        for name in names:
            rows = token_counts(corpus, of, digests, [name])
            ref = f"tokens/{corpus.partition('/')[2].replace('@', '-')}-{name.partition('/')[2].replace('@', '-')}@1"
            body = TokenCounts(
                tokenizer=name, documents=sum(of["documents"].to_pylist()), tokens=sum(rows["tokens"].to_pylist())
            )
            catalog.add(ref, body, {"corpora.0": corpus, "tokenizer": name}, tables={"token_counts": rows})
    return {"shards": pa.concat_tables([new, old])}


def add_runs(catalog: Catalog, counts: pa.Table) -> dict[str, pa.Table]:
    """Mixtures, runs on them with their evidence, merges, the promotion; returns what bodies hold, as tables."""
    tokenizer = next(iter(TOKENIZERS))
    available = {row["language"]: int(row["bytes_sum"] / TOKENIZERS[tokenizer])
                 for row in counts.group_by("language").aggregate([("bytes", "sum")]).to_pylist()}  # fmt: skip
    source = f"tokens/web-2-{tokenizer.partition('/')[2].replace('@', '-')}@1"
    catalog.add("checkpoint/base@1", checkpoint("init"), {"tokenizer": tokenizer})
    rows: list[dict[str, Any]] = []
    for run in range(RUNS):
        parts = [
            MixturePart(
                part="sea", corpus=NEW, language=language, source="web", weight=weight / 1000, sequences=weight + run,
                tokens_available=available[language], tokens_planned=8_192 * (weight + run),
                epochs=8_192 * (weight + run) / available[language],
            )
            for language, weight in LANGUAGES.items()
        ]  # fmt: skip
        total = sum(part.sequences for part in parts)
        mixture, model = f"mixture/run-{run}@1", f"checkpoint/run-{run}@1"
        body = Mixture(tokenizer=tokenizer, sequence_length=8_192, sequences=total, tokens=8_192 * total, parts=tuple(parts))
        catalog.add(mixture, body, {"tokens": source})
        catalog.add(
            model,
            checkpoint("cpt", "checkpoint/base@1"),
            {"model": "checkpoint/base@1", "mixture": mixture},
            tables=logs(parts),
        )
        add_evidence(catalog, model, f"run-{run}")
        rows += [plain(part) | {"ref": mixture, "run": model, "tokens_read": part.tokens_planned} for part in parts]
    for merge in range(MERGES):
        parents = [f"checkpoint/run-{i}@1" for i in range(merge, RUNS, MERGES)]
        add_merge(catalog, f"checkpoint/merge-{merge}@1", parents)
        add_evidence(catalog, f"checkpoint/merge-{merge}@1", f"merge-{merge}")
    add_merge(catalog, PROMOTED, [f"checkpoint/merge-{merge}@1" for merge in range(MERGES)])
    decision = add_evidence(catalog, PROMOTED, "sea-lion")
    promotion = Promotion(stage="release", model=PROMOTED, decision=decision, verdict="pass", sequence=1)
    catalog.add("promotion/release@1", promotion, {"decision": decision, "model": PROMOTED})
    return {"mixture_parts": pa.Table.from_pylist(rows)}


def checkpoint(stage: str, *parents: str, method: str = "") -> Checkpoint:
    """A model of eight thousand million parameters."""
    return Checkpoint(stage=stage, architecture="LlamaForCausalLM", parameters=8_030_261_248, parents=parents, method=method)


def add_merge(catalog: Catalog, ref: str, parents: Sequence[str]) -> None:
    """A checkpoint merged from others."""
    roles = {f"parents.{i}.model": parent for i, parent in enumerate(parents)}
    catalog.add(ref, checkpoint("merge", *parents, method="dare_ties"), {"base": "checkpoint/base@1"} | roles)


def logs(parts: Sequence[MixturePart]) -> dict[str, pa.Table]:
    """The tables of a run that kept to its plan."""
    shared = [{"part": part.part, "language": part.language, "source": part.source} for part in parts]
    read = [row | {"sequences": part.sequences, "tokens": part.tokens_planned, "documents": part.sequences * 9}
            for row, part in zip(shared, parts, strict=True)]  # fmt: skip
    consumed = [
        row | {"corpus": part.corpus, "crawl": crawl, "documents": part.sequences, "tokens": part.tokens_planned // len(CRAWLS)}
        for row, part in zip(shared, parts, strict=True)
        for crawl in CRAWLS
    ]
    log = [
        {"step": i, "loss": 2 + 1 / (i + 1), "lr": 1e-5, "grad_norm": 1.0, "tokens": 8_192 * i, "skipped": False}
        for i in range(100)
    ]
    wanted = {
        "training_parts": (read, PARTS_SCHEMA),
        "consumed": (consumed, CONSUMED_SCHEMA),
        "training_log": (log, LOG_SCHEMA),
    }
    return {name: pa.Table.from_pylist(rows, schema=schema) for name, (rows, schema) in wanted.items()}


def add_evidence(catalog: Catalog, model: str, name: str) -> str:
    """Scorecard and decision of a model; returns the decision's reference."""
    scores = tuple(
        Score(task=task, language=language, metric="acc", value=0.5, stderr=0.01, items=1_000, higher_is_better=True)
        for task in ("belebele", "flores", "xcopa") for language in LANGUAGES
    )  # fmt: skip
    card, decision = f"scorecard/{name}@1", f"decision/{name}@1"
    catalog.add(
        card,
        Scorecard(model=model, suite="bhasa", suite_fingerprint="0", harness="lm-eval 0.4", scores=scores),
        {"model": model},
    )
    outcome = Outcome(
        baseline="checkpoint/base@1", level="suite", node="acc", metric="acc", candidate_value=0.5, baseline_value=0.4,
        delta=0.1, lower=0.05, upper=0.15, tolerance=0.01, margin=0.02, p_value=0.5, items=1_000, clusters=9, verdict="pass",
    )  # fmt: skip
    body = GateDecision(
        stage="release", model=model, scorecard=card, baselines=("checkpoint/base@1",), policy="release",
        policy_fingerprint="0", verdict="pass", reason="better", on_refusal="stop", kept="", outcomes=(outcome,),
    )  # fmt: skip
    catalog.add(decision, body, {"scorecard": card, "model": model})
    return decision


def make(folder: Path, documents: int, shards: int, workers: int) -> None:
    """Write everything; what was begun and not finished is made anew."""
    if (folder / "made").is_file():
        return
    shutil.rmtree(folder, ignore_errors=True)
    catalog = Catalog(folder / "catalog")
    corpus = catalog.folder(NEW)
    sizes, numbers = divided(documents), divided(shards)
    with ProcessPoolExecutor(workers) as pool:
        waiting = [pool.submit(write_documents, corpus, language, sizes[language], numbers[language]) for language in LANGUAGES]
        counts = [each.result() for each in waiting]
    held = add_data(catalog, counts, shards)
    held |= add_runs(catalog, shard_counts(counts))
    edges = [(ref, given.ref) for ref, artifact in catalog.made.items() for given in artifact.inputs]
    held["inputs"] = pa.table({"ref": [ref for ref, _ in edges], "input_ref": [given for _, given in edges]})
    peers = folder / "peers"
    peers.mkdir()
    for name, table in held.items():
        pq.write_table(table, peers / f"{name}.parquet", compression="zstd")
    write_slots(catalog.root, NEW, shards)
    (folder / "made").write_text(f"{documents} {shards}\n", "utf-8")


def main() -> None:
    """Make it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--shards", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    make(options.folder, options.documents, options.shards, options.workers)


if __name__ == "__main__":
    main()
